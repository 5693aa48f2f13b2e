"""Every curve in plain Python: the oracle for the native formulas, and what Numba compiles.

The twin of ``csrc/curves.hpp``, ``csrc/program.hpp`` and ``csrc/noise.hpp``: same names, same fields. A curve takes the
steps ``t`` since its start, ``0 <= t < steps``, and its numbers ``start, end, steps, p, q, r, s, u, v``; it returns its
value. Accurate to 1e-12 of the larger end, where the native one is accurate to a few ulp of the value itself. Noise has
the same bits as there. A table takes the same formulas as a call: compiled loops over a block of steps, written so that
the compiler can vectorise them (no branches, no libm).
"""

import math
from typing import Any

# Names by code: the order of FASTSCHED_CURVES and FASTSCHED_OPERATIONS.
CURVES = (
    "constant",
    "cosine",
    "shaped_cosine",
    "logarithmic",
    "inverse_time",
    "inverse_sqrt",
    "power_law",
    "tanh",
    "rex",
    "one_minus_sqrt",
    "half_decay",
    "damped",
    "polynomial",
    "power_rise",
    "exponential",
    "linear",
    "half_cosine",
    "one_cycle",
    "restarts",
    "triangle",
    "staircase",
    "inverse_staircase",
    "warped_cosine",
    "cosine_power",
    "warped_polynomial",
)
OPERATIONS = ("sample", "branch", "multiply", "add", "scale", "clip", "noise", "cycle", "pace", "resume")
CODES = {name: code for code, name in enumerate(CURVES + OPERATIONS)}
CONSTANT, COSINE, SHAPED_COSINE, LOGARITHMIC, INVERSE_TIME, INVERSE_SQRT, POWER_LAW, TANH, REX = range(9)
ONE_MINUS_SQRT, HALF_DECAY, DAMPED, POLYNOMIAL, POWER_RISE, EXPONENTIAL, LINEAR, HALF_COSINE = range(9, 17)
ONE_CYCLE, RESTARTS, TRIANGLE, STAIRCASE, INVERSE_STAIRCASE, WARPED_COSINE = range(17, 23)
COSINE_POWER, WARPED_POLYNOMIAL = range(23, 25)
SAMPLE, BRANCH, MULTIPLY, ADD, SCALE, CLIP, NOISE, CYCLE, PACE, RESUME = range(25, 35)

STACK_SIZE = 32
MOST_CYCLES = 64

# A thread's scratch: the times that cycles and paces keep; whether there is room for a list of ratios, and its p, q and
# r; a ramp 0, 1, 2, ... (loads vectorise better than conversions of integers); the list; blocks of steps, the first of
# them for the levels of stairs, the others for a stack whose bottom is the caller's.
HEIGHT = 512  # steps in a block: a few operands of 4 KiB each stay in the first-level cache
LONGEST_LIST = 1024
ROOM = 2 * MOST_CYCLES
LIST_OF = ROOM + 1
RAMP = LIST_OF + 3
LIST = RAMP + LONGEST_LIST
BLOCKS = LIST + LONGEST_LIST
SCRATCH_SIZE = BLOCKS + STACK_SIZE * HEIGHT
INTEGER_MAGIC = 6755399441055744.0  # 1.5 * 2**52: adding it rounds to an integer
TWO_52 = 4503599627370496.0
LARGEST_STEP = 9007199254740992.0  # time stops there
LARGEST = 8.98846567431158e307  # half the largest number: where peaks grow beyond all bounds
MASK = 0xFFFFFFFF

# Minimax polynomials, the highest power first: those of csrc/scalar.hpp.
EXP2 = (
    4.445527956326519e-10,
    7.072561968898366e-09,
    1.017812136359015e-07,
    1.3215442722797013e-06,
    1.5252733701055642e-05,
    0.00015403530441483287,
    0.0013333558146531798,
    0.009618129107607063,
    0.055504108664821236,
    0.24022650695910097,
    0.6931471805599453,
)
LOG2 = (
    0.16913313526912185,
    0.16888493915551187,
    0.19238058026613866,
    0.2219527882996627,
    0.2623081914710896,
    0.3205988979671403,
    0.4121985831111439,
    0.5770780163555853,
    0.9617966939259756,
    2.8853900817779268,
)
HAVERSINE = (
    -2.082771213304813e-06,
    5.229105566797557e-05,
    -0.0009647811964324626,
    0.012903444990709048,
    -0.1176653151341228,
    0.6676313844258581,
    -2.0293560632083665,
    2.4674011002723395,
)
LN2 = (0.6931471805599453, 2.3190468138462996e-17)
INVERSE_LN2 = (1.4426950408889634, 2.0355273740931033e-17)

Pair = tuple[float, float]  # an unevaluated sum, about 106 bits
# start, end, begin, finish, inverse, whether it is a line, and the step from which its times count: next to the largest
# step only small times are exact.
Leg = tuple[float, float, float, float, float, bool, float]


# ---- Arithmetic. The first three are machine instructions: _numba.py replaces them. ----


def fused(a: float, b: float, c: float) -> float:
    """``a * b + c``, rounded once."""
    if not math.isfinite(a * b + c):
        return a * b + c
    (m, i), (n, j), (o, k) = a.as_integer_ratio(), b.as_integer_ratio(), c.as_integer_ratio()
    return (m * n * k + o * i * j) / (i * j * k)


def power_of_two(whole: float) -> float:
    """``2 ** whole``, for -1022 <= whole <= 1024; the last is infinity."""
    return math.ldexp(1.0, int(whole)) if whole < 1024.0 else math.inf


def nearest_exponent(x: float) -> float:
    """The ``e`` for which ``x / 2**e`` is from ``sqrt(1/2)`` up to ``sqrt(2)``, for a positive normal number."""
    significand, e = math.frexp(x)
    return float(e if significand >= math.sqrt(0.5) else e - 1)


def nearest_integer(a: float) -> float:
    """``a`` rounded, for ``|a| < 2**51``."""
    return (a + INTEGER_MAGIC) - INTEGER_MAGIC


def floor_positive(a: float) -> float:
    """``a`` rounded down, for ``0 <= a <= 2**53``."""
    nearest = (a + TWO_52) - TWO_52
    below = nearest - (1.0 if nearest > a else 0.0)
    return below if a < TWO_52 else a


def whole_turns(t: float, r: float) -> float:
    """``floor(t / r)``, exactly."""
    about = floor_positive(t / r)
    rest = fused(-about, r, t)
    return about + ((1.0 if rest >= r else 0.0) - (1.0 if rest < 0.0 else 0.0))


def polynomial_of(x: float, coefficients: Any) -> float:
    """Horner's rule."""
    value: float = coefficients[0]
    for coefficient in coefficients[1:]:
        value = fused(value, x, coefficient)
    return value


def exp2_fraction(f: float) -> float:
    """``2**f - 1`` for ``|f| <= 1/2``: by pairs of terms as in csrc/scalar.hpp, for the same bits."""
    c10, c9, c8, c7, c6, c5, c4, c3, c2, c1, c0 = EXP2
    f2 = f * f
    f4 = f2 * f2
    low = fused(fused(f, c3, c2), f2, fused(f, c1, c0))
    middle = fused(fused(f, c7, c6), f2, fused(f, c5, c4))
    high = fused(f2, c10, fused(f, c9, c8))
    return f * fused(fused(high, f4, middle), f4, low)


def exp2(high: float, low: float) -> float:
    """``2 ** (high + low)``: to zero where it underflows, to infinity where it overflows."""
    y = min(max(high, -1022.0), 1023.5)
    whole = nearest_integer(y)
    fraction = (y - whole) + low
    scale = power_of_two(whole)
    value = fused(scale, exp2_fraction(fraction), scale)
    return 0.0 if high < -1022.0 else math.inf if high >= 1023.5 else value


def log2_ratio(a: float, b: float, difference: float) -> float:
    """``log2(a / b)`` for positive normal numbers; ``difference`` is ``a - b``, also where ``a`` was rounded."""
    e = nearest_exponent(a / b)
    scaled = a * power_of_two(-e)
    s = (difference if e == 0.0 else scaled - b) / (scaled + b)
    return fused(s, polynomial_of(s * s, LOG2), e)


def log2_of_progress(t: float, steps: float) -> float:
    """``log2(t / steps)``, for ``t > 0``: tiny ones are taken ``2**120`` times, as normal numbers."""
    tiny = t < 1e-280
    return log2_ratio(t * 2.0**120 if tiny else t, steps, t - steps) - (120.0 if tiny else 0.0)


def haversine(z: float) -> float:
    """``sin(pi/2 * sqrt(z))**2`` for ``0 <= z <= 1/4``."""
    return z * polynomial_of(z, HAVERSINE)


def grown(start: float, high: float, low: float, t: float) -> float:
    """``start * 2**((high + low) * t)``; only the result over- or underflows."""
    e = nearest_exponent(abs(start))
    significand = start * power_of_two(-e)
    below = 1.0 if abs(significand) < 1.0 else 0.0
    y = high * t
    total, rest = pair_sum(e - below, y)
    return (1.0 + below) * significand * exp2(total, rest + (fused(high, t, -y) + low * t))


# ---- Pairs: where powers amplify what rounding takes. ----


def pair_sum(a: float, b: float) -> Pair:
    """``a + b``, exactly."""
    s = a + b
    t = s - a
    return s, (a - (s - t)) + (b - t)


def pair_add(a: Pair, b: Pair) -> Pair:
    """``a + b``."""
    high, low = pair_sum(a[0], b[0])
    return pair_sum(high, low + (a[1] + b[1]))


def pair_multiply(a: Pair, b: Pair) -> Pair:
    """``a * b``."""
    high = a[0] * b[0]
    return pair_sum(high, fused(a[0], b[0], -high) + (a[0] * b[1] + a[1] * b[0]))


def pair_divide(a: Pair, n: float) -> Pair:
    """``a / n``."""
    high = a[0] / n
    return pair_sum(high, (fused(-high, n, a[0]) + a[1]) / n)


def pair_exp2(y: Pair) -> Pair:
    """``2 ** y``, to zero where it underflows."""
    if y[0] < -1022.0:
        return 0.0, 0.0
    whole = nearest_integer(y[0])
    x = pair_multiply(pair_sum(y[0] - whole, y[1]), (LN2[0] / 64.0, LN2[1] / 64.0))
    result = (1.0, 0.0)
    for n in range(12, 0, -1):
        result = pair_add((1.0, 0.0), pair_divide(pair_multiply(x, result), float(n)))
    for _ in range(6):
        result = pair_multiply(result, result)
    return result[0] * power_of_two(whole), result[1] * power_of_two(whole)


def pair_log2(x: Pair) -> Pair:
    """``log2(x)``: one Newton step."""
    guess = log2_ratio(x[0], 1.0, x[0] - 1.0)
    rest = pair_add(pair_multiply(x, pair_exp2((-guess, 0.0))), (-1.0, 0.0))
    rest = pair_add(rest, (-0.5 * rest[0] * rest[0], 0.0))
    return pair_add((guess, 0.0), pair_multiply(INVERSE_LN2, rest))


# ---- Ends and the weights between them. ----


def mix(start: float, end: float, to: float) -> float:
    """From ``start`` to ``end``, by the weight of the latter; exact at both."""
    return mix_nearer(start, end, min(to, 1.0 - to), to < 0.5)


def mix_nearer(start: float, end: float, smaller: float, near_start: bool) -> float:
    """The same from the weight of the farther end."""
    near, far = (start, end) if near_start else (end, start)
    return fused(far - near, smaller, near)


# ---- Legs: from one value to another between two times. ----


def line(t: float, start: float, end: float, begin: float, finish: float, inverse: float) -> float:
    """A straight line; ``inverse`` is that of its length."""
    past, rest = t - begin, finish - t
    return mix_nearer(start, end, min(past, rest) * inverse, past < rest)


def arc(t: float, start: float, end: float, begin: float, finish: float, inverse: float) -> float:
    """Half a period of a cosine; ``inverse`` is that of its length's square."""
    past, rest = t - begin, finish - t
    nearer = min(past, rest)
    return mix_nearer(start, end, haversine(nearer * nearer * inverse), past < rest)


def leg_between(start: float, end: float, begin: float, finish: float, is_line: bool, origin: float) -> Leg:
    """A leg; it may be shorter than any number of steps that its square could measure."""
    length = max(finish - begin, 2.0**-500)
    return start, end, begin, finish, 1.0 / length if is_line else 1.0 / (length * length), is_line, origin


def leg_value(t: float, leg: Leg) -> float:
    """The value on a leg."""
    start, end, begin, finish, inverse, is_line, origin = leg
    formula = line if is_line else arc
    return formula(t - origin, start, end, begin, finish, inverse)


# ---- Curves. ----


def constant(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``start``."""
    return start


def cosine(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``q`` periods of a cosine; the phase is reduced to half a period without error."""
    turned = q * t
    whole = nearest_integer(turned * r)
    phase = abs(fused(-whole, steps, turned) + fused(q, t, -turned))  # times steps
    nearer = min(phase, 0.5 * steps - phase)
    return mix_nearer(start, end, haversine(4.0 * nearer * nearer * p), phase < 0.25 * steps)


def shaped_cosine(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``p`` periods of a cosine over ``(t / steps) ** r``, ``(1 + cos) / 2`` to the power ``q``."""
    if t < 1e-280:
        return start
    progress = pair_divide((t, 0.0), steps)
    if r != 1.0:
        progress = pair_exp2(pair_multiply((r, 0.0), pair_log2(progress)))
    turned = pair_multiply((p, 0.0), progress)
    phase = pair_add(turned, (-nearest_integer(turned[0]), 0.0))
    if phase[0] < 0.0:
        phase = (-phase[0], -phase[1])
    near_start = phase[0] < 0.25
    nearer = phase[0] if near_start else pair_add((0.5, 0.0), (-phase[0], -phase[1]))[0]
    smaller = haversine(4.0 * nearer * nearer)
    if q == 1.0 or smaller < 1e-300:
        return mix_nearer(start, end, smaller, near_start)
    from_start = 1.0 - smaller if near_start else smaller
    return mix(end, start, exp2(q * log2_ratio(from_start, 1.0, -smaller if near_start else smaller - 1.0), 0.0))


def warped_cosine(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Half a period of a cosine over ``(t / steps) ** p``."""
    x = exp2(p * log2_of_progress(t, steps), 0.0) if t > 0.0 else 0.0
    nearer = min(x, 1.0 - x)
    return mix_nearer(start, end, haversine(nearer * nearer), x < 0.5)


def cosine_power(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Half a period of a cosine, ``(1 + cos) / 2`` to the power ``p``."""
    near_start = t < steps - t
    x = min(t, steps - t) * q
    smaller = haversine(x * x)
    from_start = 1.0 - smaller if near_start else max(smaller, 1e-300)
    return mix(end, start, exp2(p * log2_ratio(from_start, 1.0, -smaller if near_start else from_start - 1.0), 0.0))


def polynomial(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(1 - t / steps) ** p``."""
    if is_small(p):
        return small_polynomial(t, start, end, steps, p, q)
    return mix(end, start, power(steps - t, steps, -t, p))


def power_rise(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(t / steps) ** p``."""
    if is_small(p):
        return small_power_rise(t, start, end, p, q)
    return mix(start, end, exp2(p * log2_of_progress(t, steps), 0.0) if t > 0.0 else 0.0)


def warped_polynomial(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(1 - (t / steps) ** p) ** r``."""
    y = p * log2_of_progress(t, steps)
    gone = exp2(y, 0.0)
    rest = -exp2_fraction(y) if y > -0.5 else 1.0 - gone  # to its own last bits
    return mix(end, start, power(rest, 1.0, -gone, r)) if t > 0.0 else start


def power(a: float, b: float, difference: float, p: float) -> float:
    """``(a / b) ** p``; ``difference`` is ``a - b``."""
    return exp2(p * log2_ratio(a, b, difference), 0.0)


def is_small(p: float) -> bool:
    """Whether a few multiplications do."""
    return p <= 8.0 and p == nearest_integer(p)


def small_polynomial(t: float, start: float, end: float, steps: float, p: float, q: float) -> float:
    """``(1 - t / steps) ** p``."""
    return mix(end, start, small_power((steps - t) * q, int(p)))


def small_power_rise(t: float, start: float, end: float, p: float, q: float) -> float:
    """``(t / steps) ** p``."""
    return mix(start, end, small_power(t * q, int(p)))


def small_power(x: float, p: int) -> float:
    """``x ** p``, for ``1 <= p <= 8``."""
    square = x * x
    fourth = square * square
    low = (x if p & 1 else 1.0) * (square if p & 2 else 1.0)
    return low * ((fourth if p & 4 else 1.0) * (fourth * fourth if p & 8 else 1.0))


def logarithmic(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``log(1 + t) / log(1 + steps)``."""
    return mix(start, end, log2_ratio(1.0 + t, 1.0, t) * p)


def inverse_time(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``1 / (1 + p * t)``."""
    return start / fused(p, t, 1.0)


def inverse_staircase(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``1 / (1 + p * floor(t / r))``."""
    return start / fused(p, whole_turns(t, r), 1.0)


def inverse_sqrt(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``sqrt(p / (t + q + r))``."""
    high, low = pair_sum(t, q)
    return start * math.sqrt(p / (high + (low + r)))


def power_law(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(1 + t / q) ** p``."""
    y = p * log2_ratio(t + q, q, t)
    e = nearest_exponent(abs(start)) if start != 0.0 else 0.0
    return start * power_of_two(-e) * exp2(y + e, 0.0)


def tanh(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(1 - tanh z) / 2 = 1 / (1 + 2**y)``, ``y = (p + q + r) + (s + u + v) * t``."""
    return mix(end, start, 1.0 / (1.0 + exp2(fused(s, t, p), q + u * t)))


def rex(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``(1 - x) / (1 - x/2)``, ``x = t / steps``."""
    return mix(start, end, t / (steps + (steps - t)))


def one_minus_sqrt(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``1 - sqrt(t / steps)``."""
    return mix(start, end, math.sqrt(t * p))


def half_decay(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``2 * 0.5**x - 1``, ``x = t / steps``."""
    return mix(start, end, 2.0 - 2.0 * exp2(-t * p, 0.0))


def damped(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Up over ``p`` steps and down over ``q``, the height falling as ``2 ** ((s + u) * t)``."""
    height = triangle(t, 0.0, 1.0, steps, p, q, 0.0, s, u, v)
    return mix(start, end, height * exponential(t, 1.0, 1.0, steps, s, u, v, s, u, v))


def exponential(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``2 ** ((p + q) * t)``, split at the last multiple of ``r``."""
    anchor = r * floor_positive(t / r)
    return ratio(t - anchor, grown(start, p, q, anchor), p, q)


def ratio(t: float, factor: float, p: float, q: float) -> float:
    """``factor * 2 ** ((p + q) * t)``."""
    y = p * t
    return factor * exp2(y, fused(q, t, fused(p, t, -y)))


def staircase(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``2 ** ((p + q) * floor(t / r))``."""
    return exponential(whole_turns(t, r), start, end, steps, p, q, s, s, u, v)


def linear(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """A straight line."""
    return leg_value(t, leg_of_linear(t, start, end, steps, p, q, r, s, u, v))


def leg_of_linear(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> Leg:
    """The only one."""
    return start, end, 0.0, steps, p, True, 0.0


def half_cosine(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Half a period of a cosine, from its top to its bottom."""
    return leg_value(t, leg_of_half_cosine(t, start, end, steps, p, q, r, s, u, v))


def leg_of_half_cosine(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> Leg:
    """The only one."""
    return start, end, 0.0, steps, p, False, 0.0


def one_cycle(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """``start`` to ``p`` at time ``q``, to ``end`` at the end; by way of ``start`` at ``2 * q`` if ``s`` is 1."""
    return leg_value(t, leg_of_one_cycle(t, start, end, steps, p, q, r, s, u, v))


def leg_of_one_cycle(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> Leg:
    """Two or three; lines if ``r`` is 1."""
    is_line = r != 0.0
    if t < q:
        return leg_between(start, p, 0.0, q, is_line, 0.0)
    if s == 0.0:
        return leg_between(p, end, q, steps, is_line, 0.0)
    if t < 2.0 * q:
        return leg_between(p, start, q, 2.0 * q, is_line, 0.0)
    return leg_between(start, end, 2.0 * q, steps, is_line, 0.0)


def restarts(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Half cosines: the ``i``-th takes ``p * q**i`` steps and starts from ``start * 2**((s + u) * i)``."""
    return leg_value(t, leg_of_restarts(t, start, end, steps, p, q, r, s, u, v))


def leg_of_restarts(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> Leg:
    """At most 53 where they grow: lengths at least double."""
    cycle, begin, length = 0.0, 0.0, p
    if q == 1.0:
        cycle = whole_turns(t, length)
        begin = cycle * length
    else:
        while t - begin >= length:
            begin += length
            length *= q
            cycle += 1.0
    top = start if s == 0.0 or start == 0.0 else min(max(grown(start, s, u, cycle), -LARGEST), LARGEST)
    return leg_between(top, end, 0.0, length, False, begin)


def triangle(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> float:
    """Up over ``p`` steps and down over ``q``; half as high with every cycle if ``r`` is 1."""
    return leg_value(t, leg_of_triangle(t, start, end, steps, p, q, r, s, u, v))


def leg_of_triangle(
    t: float, start: float, end: float, steps: float, p: float, q: float, r: float, s: float, u: float, v: float
) -> Leg:
    """One up and one down in each cycle."""
    cycle = whole_turns(t, p + q)
    begin = cycle * (p + q)
    peak = end if r == 0.0 else mix(start, end, exp2(-cycle, 0.0))
    if t - begin < p:
        return leg_between(start, peak, 0.0, p, True, begin)
    return leg_between(peak, start, p, p + q, True, begin)


# ---- Operations. ----


def clipped(value: float, low: float, high: float) -> float:
    """At least ``low`` and at most ``high``."""
    floored = low if value < low else value
    return high if floored > high else floored


def cycled(t: float, steps: float, p: float) -> float:
    """Time within a cycle of ``p`` steps; at ``steps`` it stops."""
    return fused(-whole_turns(t, p), p, t) if t < steps else p


def paced(t: float, steps: float, p: float, q: float, r: float) -> float:
    """Time at the pace ``p / q``; from ``steps`` on ``r``."""
    return min(p * t / q, LARGEST_STEP) if t < steps else r


def hash_words(seed_high: int, seed_low: int, step: int, draw: int) -> int:
    """32 bits that depend on all words: MurmurHash3. 64-bit integers may wrap around: the low 32 bits stay right."""
    h = 0
    for word in (seed_low, seed_high, step & MASK, step >> 32, draw):
        k = word * 0xCC9E2D51 & MASK
        k = (k << 15 | k >> 17) & MASK
        h ^= k * 0x1B873593 & MASK
        h = (h << 13 | h >> 19) & MASK
        h = (h * 5 + 0xE6546B64) & MASK
    h ^= 20  # their length in bytes
    h = (h ^ h >> 16) * 0x85EBCA6B & MASK
    h = (h ^ h >> 13) * 0xC2B2AE35 & MASK
    return h ^ h >> 16


def uniform(seed_high: int, seed_low: int, step: int, draw: int) -> float:
    """Inside (0, 1)."""
    return (hash_words(seed_high, seed_low, step, draw) + 0.5) * 2.0**-32


def noise(seed_high: int, seed_low: int, step: int, limit: float, steepness: float) -> float:
    """In (-limit, limit): uniform where steepness is 0, else with density ``2**(-steepness * e**2)``, by rejection."""
    e = 0.0
    for draw in range(0, 512, 2):
        e = limit * (2.0 * uniform(seed_high, seed_low, step, draw) - 1.0)
        if steepness == 0.0 or uniform(seed_high, seed_low, step, draw + 1) < exp2(-steepness * (e * e), 0.0):
            break
    return e


def noisy(value: float, t: float, limit: float, steps: float, p: float, q: float, steepness: float) -> float:
    """``value`` with the noise of step ``t``."""
    step = int(floor_positive(t) if t < steps else steps)
    return value * (1.0 + noise(int(p), int(q), step, limit, steepness))


# ---- Blocks of steps. ----


def sweep(formula: Any, first: float, out: Any, scratch: Any, numbers: Any) -> None:
    """``out[k] = formula(first + k, *numbers)``."""
    ramp = scratch[RAMP : RAMP + len(out)]
    for k in range(len(out)):
        out[k] = formula(first + ramp[k], *numbers)


def steps_before(edge: float, first: float, most: int) -> int:
    """How many of the steps from ``first`` on come before an edge; at least 1 and at most ``most``."""
    ahead = edge - first
    return max(1, math.ceil(ahead)) if ahead < most else most


def legs(leg_of: Any, first: float, out: Any, scratch: Any, c: Any) -> None:
    """A curve of legs, one after another."""
    done = 0
    while done < len(out):
        t = first + done
        start, end, begin, finish, inverse, is_line, origin = leg_of(t, *c)
        stop = done + steps_before(finish, t - origin, len(out) - done)
        if is_line:
            sweep(line, t - origin, out[done:stop], scratch, (start, end, begin, finish, inverse))
        else:
            sweep(arc, t - origin, out[done:stop], scratch, (start, end, begin, finish, inverse))
        done = stop


def is_listed(scratch: Any, p: float, q: float, r: float) -> bool:
    """Whether the list has this exponential's ratios for ``0 <= t < r``; fills it if there is room."""
    if scratch[ROOM] == 1.0:
        sweep(ratio, 0.0, scratch[LIST : LIST + int(r)], scratch, (1.0, p, q))
        scratch[ROOM], scratch[LIST_OF], scratch[LIST_OF + 1], scratch[LIST_OF + 2] = 0.0, p, q, r
    return bool(scratch[LIST_OF] == p and scratch[LIST_OF + 1] == q and scratch[LIST_OF + 2] == r)


def exponentials(first: float, out: Any, scratch: Any, start: float, p: float, q: float, r: float) -> None:
    """An exponential, from one multiple of ``r`` to the next."""
    if r < 8.0:
        sweep(exponential, first, out, scratch, (start, start, math.inf, p, q, r, r, 0.0, 0.0))
        return
    listed = len(out) > 1 and is_listed(scratch, p, q, r)
    done = 0
    while done < len(out):
        t = first + done
        anchor = r * floor_positive(t / r)
        factor = grown(start, p, q, anchor)
        stop = done + steps_before(anchor + r, t, len(out) - done)
        if listed:
            target, ratios = out[done:stop], scratch[LIST + int(t - anchor) :]
            for k in range(len(target)):
                target[k] = factor * ratios[k]
        else:
            sweep(ratio, t - anchor, out[done:stop], scratch, (factor, p, q))
        done = stop


def stairs(code: int, first: float, out: Any, scratch: Any, c: Any) -> None:
    """The levels of all stairs first, then each for as long as it lasts."""
    start, p, q, r, s = c[0], c[3], c[4], c[5], c[6]
    last = first + (len(out) - 1)
    stair = whole_turns(first, r)
    count = whole_turns(last, r) - stair + 1.0
    if count > 0.25 * len(out) + 1.0 or stair + count > LARGEST_STEP:  # or there are too many to count one by one
        if code == STAIRCASE:
            sweep(staircase, first, out, scratch, c)
        else:
            sweep(inverse_staircase, first, out, scratch, c)
        return
    levels = scratch[BLOCKS : BLOCKS + int(count)]
    if code == STAIRCASE:
        exponentials(stair, levels, scratch, start, p, q, s)
    else:
        sweep(inverse_time, stair, levels, scratch, c)
    done = 0
    for i in range(int(count)):
        after = stair + i + 1.0
        stop = max(done, math.ceil(min(after * r - first, float(len(out)))))  # the next stair, but for rounding
        while stop > done and whole_turns(first + (stop - 1), r) >= after:
            stop -= 1
        while stop < len(out) and whole_turns(first + stop, r) < after:
            stop += 1
        out[done:stop] = levels[i]
        done = stop
    out[done:] = levels[int(count) - 1]  # an edge past 2**53 was rounded


def block(code: int, first: float, out: Any, scratch: Any, c: Any) -> None:
    """The curve with this code from ``first`` on, up to its end."""
    start, end, steps, p, q, r, s, u, v = c
    if code == CONSTANT:
        out[:] = start
    elif code == LINEAR:
        legs(leg_of_linear, first, out, scratch, c)
    elif code == HALF_COSINE:
        legs(leg_of_half_cosine, first, out, scratch, c)
    elif code == ONE_CYCLE:
        legs(leg_of_one_cycle, first, out, scratch, c)
    elif code == RESTARTS:
        legs(leg_of_restarts, first, out, scratch, c)
    elif code == TRIANGLE:
        legs(leg_of_triangle, first, out, scratch, c)
    elif code == EXPONENTIAL:
        exponentials(first, out, scratch, start, p, q, r)
    elif code in (STAIRCASE, INVERSE_STAIRCASE):
        stairs(code, first, out, scratch, c)
    elif code == COSINE:
        sweep(cosine, first, out, scratch, c)
    elif code == SHAPED_COSINE:
        sweep(shaped_cosine, first, out, scratch, c)
    elif code == WARPED_COSINE:
        sweep(warped_cosine, first, out, scratch, c)
    elif code == COSINE_POWER:
        sweep(cosine_power, first, out, scratch, c)
    elif code == WARPED_POLYNOMIAL:
        sweep(warped_polynomial, first, out, scratch, c)
    elif code == POLYNOMIAL and is_small(p):
        sweep(small_polynomial, first, out, scratch, (start, end, steps, p, q))
    elif code == POWER_RISE and is_small(p):
        sweep(small_power_rise, first, out, scratch, (start, end, p, q))
    elif code == POLYNOMIAL:
        sweep(polynomial, first, out, scratch, c)
    elif code == POWER_RISE:
        sweep(power_rise, first, out, scratch, c)
    elif code == LOGARITHMIC:
        sweep(logarithmic, first, out, scratch, c)
    elif code == INVERSE_TIME:
        sweep(inverse_time, first, out, scratch, c)
    elif code == INVERSE_SQRT:
        sweep(inverse_sqrt, first, out, scratch, c)
    elif code == POWER_LAW:
        sweep(power_law, first, out, scratch, c)
    elif code == TANH:
        sweep(tanh, first, out, scratch, c)
    elif code == REX:
        sweep(rex, first, out, scratch, c)
    elif code == ONE_MINUS_SQRT:
        sweep(one_minus_sqrt, first, out, scratch, c)
    elif code == HALF_DECAY:
        sweep(half_decay, first, out, scratch, c)
    else:
        decay = scratch[BLOCKS : BLOCKS + len(out)]
        exponentials(first, decay, scratch, 1.0, s, u, v)
        legs(leg_of_triangle, first, out, scratch, (0.0, 1.0, steps, p, q, 0.0, s, u, v))
        for k in range(len(out)):
            out[k] = mix(start, end, out[k] * decay[k])


# ---- Programs: rows of code, next, offset and a curve's nine numbers. ----


def steps_to_edge(code: Any, begin: int, finish: int, kept: Any, step: float, most: int) -> int:
    """How many steps from this whole one on take the same branches, end no curve and begin no cycle.

    At another pace, where time has fractions, it is one.
    """
    cycles = 0
    time = step
    i = begin
    while i < finish:
        operation, following, edge = int(code[i, 0]), int(code[i, 1]), code[i, 2]
        if operation == BRANCH:
            following = i + 1 if time < edge else following
        elif operation == PACE:
            return 1
        elif operation == CYCLE:
            kept[cycles] = time
            cycles += 1
            most = before(edge + LARGEST_STEP, time, most)
            time = cycled(min(time - edge, LARGEST_STEP), code[i, 5], code[i, 6])
            edge = code[i, 6]
        elif operation == RESUME:
            cycles -= 1
            time = kept[cycles]
        else:
            edge += min(code[i, 5], LARGEST_STEP) if operation < SAMPLE else math.inf
        most = before(edge, time, most)
        i = following
    return most


def before(edge: float, time: float, most: int) -> int:
    """How many of the whole steps from ``time`` on, at most ``most``, an edge that is still ahead leaves."""
    return int(edge - time) if time < edge and edge - time < most else most


def run(code: Any, begin: int, finish: int, samples: Any, first: float, scratch: Any, out: Any) -> None:
    """Instructions over a block of steps without an edge between them, or one step with a fraction.

    Where the last cycle has ended, or at the largest step, time stands still: one value serves the block.
    """
    size = len(out)
    depth, cycles = 0, 0
    time, still = first, False
    i = begin
    while i < finish:
        operation, following, t = int(code[i, 0]), int(code[i, 1]), min(time - code[i, 2], LARGEST_STEP)
        start, end, steps, p, q, r = code[i, 3], code[i, 4], code[i, 5], code[i, 6], code[i, 7], code[i, 8]
        top = level(scratch, out, depth - 1)
        if operation == BRANCH:
            following = i + 1 if t < 0.0 else following
        elif operation in (CYCLE, PACE):
            scratch[2 * cycles] = time
            scratch[2 * cycles + 1] = 1.0 if still else 0.0
            cycles += 1
            time = cycled(t, steps, p) if operation == CYCLE else paced(t, steps, p, q, r)
            still = still or t >= min(steps, LARGEST_STEP)
        elif operation == RESUME:
            cycles -= 1
            time, still = scratch[2 * cycles], scratch[2 * cycles + 1] == 1.0
        elif operation in (MULTIPLY, ADD):
            depth -= 1
            below = level(scratch, out, depth - 1)
            if operation == MULTIPLY:
                for k in range(size):
                    below[k] *= top[k]
            else:
                for k in range(size):
                    below[k] += top[k]
        elif operation == SCALE:
            for k in range(size):
                top[k] *= start
        elif operation == CLIP:
            for k in range(size):
                top[k] = clipped(top[k], start, end)
        elif operation == NOISE:
            for k in range(size):
                top[k] = noisy(top[k], t if still else min(t + k, LARGEST_STEP), start, steps, p, q, r)
        else:
            top = level(scratch, out, depth)
            depth += 1
            ended = t >= steps
            moving = 1 if still or ended or t == LARGEST_STEP else size
            if operation == SAMPLE:
                place = int(p + floor_positive(min(t, steps - 1.0)))
                moving = min(moving, int(p + steps) - place)
                top[:moving] = samples[place : place + moving]
            elif ended and operation not in (COSINE, SHAPED_COSINE, TANH):
                top[0] = end
            else:  # a cosine may end anywhere in its cycle, and a tanh never quite arrives
                c = (start, end, steps, p, q, r, code[i, 9], code[i, 10], code[i, 11])
                block(operation, min(t, steps), top[:moving], scratch, c)
            top[moving:] = top[moving - 1]
        i = following


def level(scratch: Any, out: Any, depth: int) -> Any:
    """A place on the stack."""
    begin = BLOCKS + max(depth, 1) * HEIGHT
    return out if depth <= 0 else scratch[begin : begin + len(out)]


def window(code: Any, begin: int, finish: int, samples: Any, first: float, scratch: Any, out: Any) -> None:
    """``out[k]``: the program's value at step ``first + k``; ``first`` may have a fraction if there is one."""
    done, ahead = 0, 1
    while done < len(out):
        if len(out) > 1:
            ahead = steps_to_edge(code, begin, finish, scratch, first + done, len(out) - done)
        for at in range(done, done + ahead, HEIGHT):
            run(code, begin, finish, samples, first + at, scratch, out[at : min(at + HEIGHT, done + ahead)])
        done += ahead


def fill(code: Any, begins: Any, samples: Any, first: float, steps: Any, scratch: Any, out: Any) -> None:
    """``out[i, k]``: the value of the ``i``-th program at ``steps[k]``; without ``steps`` at ``first + k``."""
    for i in range(len(begins) - 1):
        if len(steps) == 0:
            window(code, begins[i], begins[i + 1], samples, first, scratch, out[i])
        for k in range(len(steps)):
            window(code, begins[i], begins[i + 1], samples, steps[k], scratch, out[i, k : k + 1])


def spread_rows(columns: Any, column: Any, scale: Any, out: Any) -> None:
    """``out[k, g] = scale[g] * columns[column[g], k]``."""
    shared = len(columns) == 1 or (len(column) > 0 and column.min() == column.max())
    for k in range(len(out)):
        row = out[k]
        if shared:
            factor = columns[column[0], k]
            for g in range(len(row)):
                row[g] = scale[g] * factor
        else:
            for g in range(len(row)):
                row[g] = scale[g] * columns[column[g], k]


def spread_columns(columns: Any, column: Any, scale: Any, first: int, size: int, out: Any) -> None:
    """``out[g, first + k] = scale[g] * columns[column[g], k]`` for ``k < size``."""
    for g in range(len(out)):
        row, source, factor = out[g, first : first + size], columns[column[g]], scale[g]
        for k in range(size):
            row[k] = factor * source[k]


# What Numba compiles as a function of its own; everything else becomes a part of the loops that use it.
ENTRIES = ("fill", "spread_rows", "spread_columns")  # what Python calls
CALLED = (
    *("grown", "pair_exp2", "pair_log2", "shaped_cosine", "hash_words", "noise"),
    *("exponentials", "stairs", "block", "steps_to_edge", "run", "window"),
)
