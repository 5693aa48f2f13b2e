"""Every curve in plain Python: the oracle for the native formulas, and what Numba compiles.

The twin of ``csrc/curves.hpp`` and ``csrc/program.hpp``: same names, same fields, obvious formulas. A curve
takes the steps ``t`` since its start, ``0 <= t < steps``, and its numbers ``start, end, steps, p, q, r``; it
returns its value. Accurate to 1e-12 of the larger end, where the native one is accurate to a few ulp of the
value itself.
"""

import math
from typing import Any

# Names by code: the order of FASTSCHED_CURVES and FASTSCHED_OPERATIONS.
CURVES = (
    "constant",
    "linear",
    "half_cosine",
    "cosine",
    "shaped_cosine",
    "polynomial",
    "exponential",
    "staircase",
    "logarithmic",
)
OPERATIONS = ("branch", "multiply", "add", "scale")
CODES = {name: code for code, name in enumerate(CURVES + OPERATIONS)}

BRANCH = len(CURVES)
MULTIPLY = BRANCH + 1
ADD = BRANCH + 2
SCALE = BRANCH + 3
STACK_SIZE = 32


def constant(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``start``."""
    return start


def linear(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """A straight line."""
    return start * ((steps - t) / steps) + end * (t / steps)


def half_cosine(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """Half a period of a cosine, from its top to its bottom."""
    return mix(math.cos(0.5 * math.pi * t / steps) ** 2, start, end)


def cosine(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``q`` periods of a cosine."""
    return mix(math.cos(math.pi * turns(q, t, steps)) ** 2, start, end)


def shaped_cosine(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``p`` periods of a cosine to the power ``q``, over ``(t / steps) ** r``."""
    phase = turns(p, t, steps) if r == 1.0 else turns(p, (t / steps) ** r, 1.0)
    return mix((math.cos(math.pi * phase) ** 2) ** q, start, end)


def polynomial(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``(1 - t / steps) ** p``."""
    return mix(((steps - t) / steps) ** p, start, end)


def exponential(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``2 ** ((p + q) * t)``."""
    power, low = product(p, t)
    whole = math.floor(power)
    if whole < -1080.0:
        return 0.0
    if whole > 1020.0:
        return start * math.inf
    value: float = start * 2.0 ** (power - whole + (low + q * t)) * 2.0**whole
    return value


def staircase(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``2 ** ((p + q) * floor(t / r))``."""
    stairs = math.floor((t - t % r) / r + 0.5)
    return exponential(float(stairs), start, end, steps, p, q, r)


def logarithmic(t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """``log(1 + t) / log(1 + steps)``."""
    return mix(1.0 - math.log1p(t) / math.log1p(steps), start, end)


def mix(weight: float, start: float, end: float) -> float:
    """``start`` and ``end`` weighted with ``weight`` and its rest."""
    return start * weight + end * (1.0 - weight)


def product(a: float, b: float) -> tuple[float, float]:
    """``a * b`` and its rounding error (Dekker), without fma."""
    split_a = a * 134217729.0  # 2**27 + 1 halves the significand
    high_a = split_a - (split_a - a)
    split_b = b * 134217729.0
    high_b = split_b - (split_b - b)
    low_a = a - high_a
    low_b = b - high_b
    value = a * b
    return value, ((high_a * high_b - value) + high_a * low_b + low_a * high_b) + low_a * low_b


def turns(cycles: float, t: float, steps: float) -> float:
    """``cycles * t / steps`` less its whole part: the phase keeps its digits however many have passed."""
    turned, low = product(cycles, t)
    return (turned % steps + low) / steps


def curve(code: int, t: float, start: float, end: float, steps: float, p: float, q: float, r: float) -> float:
    """The value of the curve with this code."""
    if t >= steps:
        if code != 3 and code != 4:
            return end
        t = steps  # a cosine may end anywhere in its cycle
    if code == 0:
        return constant(t, start, end, steps, p, q, r)
    if code == 1:
        return linear(t, start, end, steps, p, q, r)
    if code == 2:
        return half_cosine(t, start, end, steps, p, q, r)
    if code == 3:
        return cosine(t, start, end, steps, p, q, r)
    if code == 4:
        return shaped_cosine(t, start, end, steps, p, q, r)
    if code == 5:
        return polynomial(t, start, end, steps, p, q, r)
    if code == 6:
        return exponential(t, start, end, steps, p, q, r)
    if code == 7:
        return staircase(t, start, end, steps, p, q, r)
    return logarithmic(t, start, end, steps, p, q, r)


def value(codes: Any, follow: Any, numbers: Any, stack: Any, step: float) -> float:
    """The value of a program at a step: see ``program.hpp``. ``stack`` is scratch of STACK_SIZE floats."""
    depth = 0
    i = 0
    while i < len(codes):
        code = codes[i]
        offset = numbers[i, 0]
        if code == BRANCH:
            i = i + 1 if step < offset else follow[i]
            continue
        if code == MULTIPLY:
            depth -= 1
            stack[depth - 1] *= stack[depth]
        elif code == ADD:
            depth -= 1
            stack[depth - 1] += stack[depth]
        elif code == SCALE:
            stack[depth - 1] *= numbers[i, 1]
        else:
            stack[depth] = curve(
                code,
                step - offset,
                numbers[i, 1],
                numbers[i, 2],
                numbers[i, 3],
                numbers[i, 4],
                numbers[i, 5],
                numbers[i, 6],
            )
            depth += 1
        i = follow[i]
    result: float = stack[0]
    return result


def values(codes: Any, follow: Any, numbers: Any, stack: Any, steps: Any, out: Any) -> None:
    """``out[i] = value(steps[i])``."""
    for i in range(len(steps)):
        out[i] = value(codes, follow, numbers, stack, steps[i])


def window(codes: Any, follow: Any, numbers: Any, stack: Any, start: int, out: Any) -> None:
    """``out[i] = value(start + i)``."""
    for i in range(len(out)):
        out[i] = value(codes, follow, numbers, stack, float(start + i))


def spread(columns: Any, column: Any, scale: Any, out: Any) -> None:
    """``out[i, g] = scale[g] * columns[column[g], i]``, or ``scale[g]`` where the column is -1."""
    for i in range(out.shape[0]):
        for g in range(out.shape[1]):
            factor = columns[column[g], i] if column[g] >= 0 else 1.0
            out[i, g] = scale[g] * factor


# What Numba compiles, callees first.
COMPILED = (
    *CURVES,
    "mix",
    "product",
    "turns",
    "curve",
    "value",
    "values",
    "window",
    "spread",
)
