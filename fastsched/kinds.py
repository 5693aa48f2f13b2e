"""Every kind of schedule: its fields, their rules, and the curve that it compiles to."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastsched._check import (
    LARGEST_SAMPLES,
    LARGEST_STEP,
    LARGEST_VALUE,
    STEPS,
    VALUE,
    Choice,
    Flag,
    Number,
    Numbers,
    Several,
    is_number,
    nearest,
    shown,
)
from fastsched._program import Curve, Table
from fastsched.schedule import (
    SHAPE,
    Kind,
    Piece,
    Schedule,
    between,
    cosine_curve,
    decay_curve,
    line_curve,
    multiples,
)

# ---- exact numbers ----

# 60 digits: correctly rounded, the same on every machine, and far more than the 48 that three doubles hold. The
# exponent's range is Decimal's widest: nothing under- or overflows on the way to float().
EXACT = Context(prec=60, Emax=999999999, Emin=-999999999)
LN2 = EXACT.ln(Decimal(2))


@functools.lru_cache(maxsize=4096)
def log2(value: float) -> Decimal:
    """The logarithm of a positive number to base 2."""
    return EXACT.divide(EXACT.ln(Decimal(value)), LN2)


def split(exact: Decimal, parts: int = 2) -> tuple[float, ...]:
    """The nearest sum of so many doubles, the largest first."""
    doubles = []
    for _ in range(parts):
        doubles.append(float(exact))
        exact = EXACT.subtract(exact, Decimal(doubles[-1]))
    return tuple(doubles)


def stride(logarithm: Decimal) -> float:
    """Where an exponential's exponent is split: a power of two over which it changes by less than 512."""
    steps = 1024
    while steps > 1 and abs(logarithm) * steps >= 512:
        steps //= 2
    return float(steps)


def geometric_curve(start: float, end: float, steps: int) -> Curve:
    """A constant ratio between neighbours."""
    logarithm = EXACT.divide(EXACT.subtract(log2(abs(end)), log2(abs(start))), Decimal(steps))
    return between("exponential", start, end, steps, *split(logarithm), stride(logarithm))


def exponential_curve(start: float, logarithm: Decimal, every: float, staircase: bool) -> Curve:
    """A factor of 2 to the power of ``logarithm`` for every ``every`` steps."""
    if start == 0.0 or logarithm == 0:
        return Curve("constant", start)
    if staircase:
        high, low = split(logarithm)
        return Curve("staircase", start, p=high, q=low, r=float(every), s=stride(logarithm))
    logarithm = EXACT.divide(logarithm, Decimal(every))
    high, low = split(logarithm)
    return Curve("exponential", start, p=high, q=low, r=stride(logarithm))


def _ratio(*factors: float) -> float:
    """The first number divided by all others, rounded once."""
    first, *others = map(Fraction, factors)
    return float(first / math.prod(others))


# ---- rules ----

START = Number("pass the value at step 0")
END = Number("pass the value at the last step")
GAMMA = Number("a constant value is gamma=1", above=0.0)


SHORTEST = 1e-290  # 2**53 steps are then a number of such lengths that is finite
EVERY = Number("a factor for every step is every=1", above=0.0, least=SHORTEST, most=LARGEST_STEP)
LENGTH = Number("leave a part out with 0", least=0, most=LARGEST_STEP, whole=True)
CYCLE = Number("pass how many steps it takes", least=1, most=LARGEST_STEP, whole=True)
TIMESCALE = Number("pass a number of steps", above=0.0, least=1e-200, most=1e200)
EDGES = Several(Number("pass a step to change at", least=0, most=LARGEST_STEP, whole=True), ascending=True)
ANNEAL = Choice(("cos", "linear"))


def same_sign(a: float, b: float) -> bool:
    """Whether neither is zero and both are positive or both negative."""
    return (a > 0.0 and b > 0.0) or (a < 0.0 and b < 0.0)


def _plateaus(edges: Iterable[int], levels: Sequence[float]) -> list[Schedule]:
    """One constant after another; the last has no end."""
    pieces: list[Schedule] = []
    last = 0
    for edge, level in zip(edges, levels, strict=False):
        if edge > last:
            pieces.append(Constant(level, steps=edge - last))
            last = edge
    return [*pieces, Constant(levels[-1])]


# ---- kinds ----


class Constant(Kind):
    """One value: ``s(t) = value``, for ``steps`` steps or, by default, without an end.

    Source: every framework has it. Units: those of ``value``. Errors: ``ValueError`` if ``value`` is not finite or
    ``steps < 1``.

    >>> s = Constant(0.5, steps=10)
    >>> s(0), s(10), s(100)
    (0.5, 0.5, 0.5)
    """

    __slots__ = ("value",)
    value: float
    _rules: ClassVar = {
        "value": VALUE,
        "steps": Number("leave it out for no end", least=1, most=LARGEST_STEP, whole=True, optional=True),
    }

    def __init__(self, value: float = 1.0, *, steps: int | None = None) -> None:
        self._set(value=value, steps=steps)

    def _lower(self) -> Curve:
        return Curve("constant", self.value)


class Linear(Kind):
    """A straight line: ``s(t) = start + (end - start) * t/steps``.

    Units: those of ``start`` and ``end``; ``steps`` counts updates. Errors: ``ValueError`` if ``steps < 1``.
    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (as warmup).

    >>> s = Linear(1.0, 0.0, steps=10)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float, end: float, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        return line_curve(self.start, self.end, int(self.steps))


class Cosine(Kind):
    """A cosine: ``s(t) = end + (start - end) * w**exponent``, ``w = (1 + cos(2 pi cycles x**k)) / 2``.

    ``x = t/steps``. ``cycles=0.5`` is one descent; ``exponent`` as in optax, ``k`` as in timm's k-decay.
    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1`` or ``cycles``,
    ``exponent`` or ``k`` is not positive. After ``steps`` it holds the value at ``steps``.
    Source: Loshchilov and Hutter, SGDR, 2017; Zhang and Li, k-decay, 2020.

    >>> s = Cosine(1.0, 0.0, steps=10)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    """

    __slots__ = ("cycles", "end", "exponent", "k", "start")
    start: float
    end: float
    cycles: float
    exponent: float
    k: float
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "steps": STEPS,
        "cycles": Number("one descent is cycles=0.5", above=0.0, most=2.0**40),
        "exponent": Number("the plain cosine has exponent=1", above=0.0),
        "k": Number("the plain cosine has k=1", above=0.0),
    }

    def __init__(
        self,
        start: float = 1.0,
        end: float = 0.0,
        *,
        steps: int,
        cycles: float = 0.5,
        exponent: float = 1.0,
        k: float = 1.0,
    ) -> None:
        self._set(start=start, end=end, steps=steps, cycles=cycles, exponent=exponent, k=k)

    def _lower(self) -> Curve:
        start, end, steps = self.start, self.end, int(self.steps)
        if self.cycles == 0.5 and self.exponent == 1.0 != self.k:
            return between("warped_cosine", start, end, steps, self.k, 1.0 / steps)
        if self.cycles == 0.5 and self.k == 1.0 != self.exponent <= 2.0:  # a larger one amplifies too much
            return between("cosine_power", start, end, steps, self.exponent, 1.0 / steps)
        if self.exponent != 1.0 or self.k != 1.0:
            return between("shaped_cosine", start, end, steps, self.cycles, self.exponent, self.k)
        if self.cycles != 0.5:
            return between("cosine", start, end, steps, float(Fraction(1, steps**2)), self.cycles, 1.0 / steps)
        return cosine_curve(start, end, steps)


class Polynomial(Kind):
    """A power of the remaining fraction: ``s(t) = end + (start - end) * (1 - x**k)**power``, ``x = t/steps``.

    ``k`` is that of timm's k-decay: a larger one keeps the value high for longer. Units: those of ``start`` and
    ``end``. Errors: ``ValueError`` if ``steps < 1`` or ``power`` or ``k`` is not positive.
    Source: Chen et al., DeepLab, 2016 (power 0.9); Zhang and Li, k-decay: A New Method for Learning Rate
    Schedule, 2020 (k).

    >>> s = Polynomial(1.0, 0.0, steps=10, power=2.0)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    >>> Polynomial(1.0, 0.0, steps=10, power=2.0, k=2.0)(5) == (1 - 0.5**2) ** 2
    True
    """

    __slots__ = ("end", "k", "power", "start")
    start: float
    end: float
    power: float
    k: float
    _added: ClassVar = {"k": 1.0}
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "steps": STEPS,
        "power": Number("a straight line has power=1", above=0.0),
        "k": Number("a plain power has k=1", above=0.0, least=1e-200),
    }

    def __init__(self, start: float = 1.0, end: float = 0.0, *, steps: int, power: float = 1.0, k: float = 1.0) -> None:
        self._set(start=start, end=end, steps=steps, power=power, k=k)

    def _lower(self) -> Curve:
        start, end, steps = self.start, self.end, int(self.steps)
        if self.power == 1.0 == self.k:
            return line_curve(start, end, steps)
        if self.k == 1.0:
            return between("polynomial", start, end, steps, self.power, 1.0 / steps)
        if self.power == 1.0:
            return between("power_rise", start, end, steps, self.k, 1.0 / steps)
        return between("warped_polynomial", start, end, steps, self.k, 1.0 / steps, self.power)


class Logarithmic(Kind):
    """Fast at first: ``s(t) = start + (end - start) * log(1 + t) / log(1 + steps)``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``.
    Source: DeepSpeed's WarmupLR with ``warmup_type="log"``.

    >>> s = Logarithmic(0.0, 1.0, steps=10)
    >>> s(0), s(10), s(100)
    (0.0, 1.0, 1.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 0.0, end: float = 1.0, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        inverse = float(1 / log2(1 + int(self.steps)))
        return between("logarithmic", self.start, self.end, self.steps, inverse)


class Geometric(Kind):
    """A constant ratio between neighbours: ``s(t) = start * (end/start)**(t/steps)``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``, or if ``start`` and
    ``end`` are not both positive or both negative.
    Source: Smith, Cyclical Learning Rates, 2017 (the range test).

    >>> s = Geometric(1.0, 0.25, steps=2)
    >>> s(0), s(1), s(2), s(100)
    (1.0, 0.5, 0.25, 0.25)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 1.0, end: float = 0.01, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)
        if not same_sign(self.start, self.end):
            raise ValueError(
                f"Geometric: start and end must have one sign and not be 0, got {self.start!r} and "
                f"{self.end!r}; for a descent to 0 use Linear or Cosine"
            )

    def _lower(self) -> Curve:
        return geometric_curve(self.start, self.end, int(self.steps))


class Exponential(Kind):
    """Decay by a constant factor: ``s(t) = start * gamma**(t/every)``, or ``start * exp(-rate * t/every)``.

    Pass exactly one of ``gamma`` and ``rate``; with ``staircase`` the exponent is ``floor(t/every)``. Units:
    ``every`` counts updates. It has no end. Errors: ``ValueError`` if ``gamma`` or ``every`` is not
    positive.
    Source: TensorFlow's and optax's exponential_decay.

    >>> s = Exponential(1.0, gamma=0.5, every=10)
    >>> s(0), s(10), s(20)
    (1.0, 0.5, 0.25)
    """

    __slots__ = ("every", "gamma", "rate", "staircase", "start")
    start: float
    gamma: float | None
    rate: float | None
    every: float
    staircase: bool
    _times: ClassVar = ("every",)
    _rules: ClassVar = {
        "start": START,
        "gamma": Number("a constant value is gamma=1", above=0.0, optional=True),
        "rate": Number("a constant value is rate=0", optional=True),
        "every": EVERY,
        "staircase": Flag("a smooth curve is False"),
    }

    def __init__(
        self,
        start: float = 1.0,
        *,
        gamma: float | None = None,
        rate: float | None = None,
        every: float = 1,
        staircase: bool = False,
    ) -> None:
        if (gamma is None) == (rate is None):
            given = "neither" if gamma is None else "both"
            raise ValueError(
                f"Exponential: exactly one of gamma and rate must be given, got {given}; gamma is exp(-rate)"
            )
        self._set(start=start, gamma=gamma, rate=rate, every=every, staircase=staircase)

    def _lower(self) -> Curve:
        if self.gamma is not None:
            logarithm = log2(self.gamma)
        else:
            assert self.rate is not None
            logarithm = EXACT.divide(Decimal(-self.rate), LN2)
        return exponential_curve(self.start, logarithm, self.every, self.staircase)


class StepDecay(Kind):
    """A factor every so many steps: ``s(t) = start * gamma**floor(t/every)``.

    Units: ``every`` counts updates. It has no end. Errors: ``ValueError`` if ``gamma`` or ``every`` is not
    positive.
    Source: Krizhevsky et al., ImageNet classification, 2012; torch's StepLR.

    >>> s = StepDecay(1.0, gamma=0.5, every=10)
    >>> s(0), s(9), s(10), s(20)
    (1.0, 1.0, 0.5, 0.25)
    """

    __slots__ = ("every", "gamma", "start")
    start: float
    gamma: float
    every: float
    _times: ClassVar = ("every",)
    _rules: ClassVar = {
        "start": START,
        "gamma": GAMMA,
        "every": Number("pass the number of steps between two drops", above=0.0, least=SHORTEST, most=LARGEST_STEP),
    }

    def __init__(self, start: float = 1.0, *, gamma: float, every: float) -> None:
        self._set(start=start, gamma=gamma, every=every)

    def _lower(self) -> Curve:
        return exponential_curve(self.start, log2(self.gamma), self.every, True)


class MultiStep(Kind):
    """A factor at each milestone: ``s(t) = start * gamma**(how many milestones are <= t)``.

    ``milestones`` are ascending steps >= 0; a repeated one counts twice. It has no end. Units: milestones
    count updates. Errors: ``ValueError`` if the milestones are not ascending or a value exceeds 1e290.
    Source: He et al., Deep Residual Learning, 2015; torch's MultiStepLR.

    >>> s = MultiStep(1.0, milestones=[10, 20], gamma=0.5)
    >>> s(0), s(9), s(10), s(20), s(100)
    (1.0, 1.0, 0.5, 0.25, 0.25)
    """

    __slots__ = ("gamma", "milestones", "start")
    start: float
    milestones: tuple[int, ...]
    gamma: float
    _times: ClassVar = ("milestones",)
    _rules: ClassVar = {
        "start": START,
        "milestones": EDGES,
        "gamma": GAMMA,
    }

    def __init__(self, start: float = 1.0, *, milestones: Iterable[int], gamma: float) -> None:
        self._set(start=start, milestones=milestones, gamma=gamma)
        self._levels()  # raises where a value leaves the range

    def _levels(self) -> list[float]:
        """``start * gamma**i``, each rounded once."""
        factor = Decimal(self.gamma)
        level = Decimal(self.start)
        levels = [self.start]
        for i in range(len(self.milestones)):
            level = EXACT.multiply(level, factor)
            if abs(level) > LARGEST_VALUE:
                raise ValueError(
                    f"MultiStep: start * gamma**{i + 1} must be at most 1e290 in size, got {float(level):g}; "
                    "pass a smaller gamma"
                )
            levels.append(float(level))
        return levels

    def _pieces(self) -> list[Schedule]:
        return _plateaus(self.milestones, self._levels())

    def _lower(self) -> list[Schedule]:
        return self._pieces()


class Piecewise(Kind):
    """Plateaus: ``s(t) = values[i]``, where ``i`` is how many of ``boundaries`` are <= t.

    ``boundaries`` are ascending steps >= 0, ``values`` one more than they are. It has no end. Units: those of
    ``values``; boundaries count updates. Errors: ``ValueError`` if the boundaries are not ascending or the lengths
    do not fit.
    Source: TensorFlow's and optax's piecewise constant schedules.

    >>> s = Piecewise(boundaries=[10, 20], values=[1.0, 0.5, 0.1])
    >>> s(0), s(9), s(10), s(20), s(100)
    (1.0, 1.0, 0.5, 0.1, 0.1)
    """

    __slots__ = ("boundaries", "values")
    boundaries: tuple[int, ...]
    values: tuple[float, ...]
    _times: ClassVar = ("boundaries",)
    _rules: ClassVar = {"boundaries": EDGES, "values": Several(VALUE)}

    def __init__(self, *, boundaries: Iterable[int], values: Iterable[float]) -> None:
        self._set(boundaries=boundaries, values=values)
        if not self.boundaries or len(self.values) != len(self.boundaries) + 1:
            raise ValueError(
                f"Piecewise: values must be one more than boundaries, and those at least 1, got {len(self.values)} and "
                f"{len(self.boundaries)}; pass the value before the first boundary too"
            )

    def _pieces(self) -> list[Schedule]:
        return _plateaus(self.boundaries, self.values)

    def _lower(self) -> list[Schedule]:
        return self._pieces()


class InverseSqrt(Kind):
    """Falls as a root: ``s(t) = start / sqrt(1 + (t + shift)/timescale)``.

    It has no end. Units: ``timescale`` and ``shift`` count updates. Errors: ``ValueError`` if ``timescale`` is not
    positive or ``shift`` not above ``-timescale``.
    Source: Vaswani et al., Attention Is All You Need, 2017; this form: Zhai et al., Scaling Vision Transformers, 2022.

    >>> s = InverseSqrt(1.0, timescale=100)
    >>> s(0), s(300), s(9900)
    (1.0, 0.5, 0.1)
    """

    __slots__ = ("shift", "start", "timescale")
    start: float
    timescale: float
    shift: float
    _times: ClassVar = ("timescale", "shift")
    _rules: ClassVar = {
        "start": START,
        "timescale": TIMESCALE,
        "shift": Number("pass a number of steps above -timescale", least=-1e200, most=1e200),
    }

    def __init__(self, start: float = 1.0, *, timescale: float, shift: float = 0) -> None:
        self._set(start=start, timescale=timescale, shift=shift)
        if not self.shift > -self.timescale:
            raise ValueError(
                f"InverseSqrt: shift must be > -timescale, got {shown(self.shift)} and {shown(self.timescale)}; "
                "shift=0 begins at start"
            )
        VALUE("InverseSqrt", "the value at step 0 (start, timescale and shift)", self._first())

    def _first(self) -> float:
        return abs(self.start) * math.sqrt(nearest(Fraction(self.timescale) / self._origin()))

    def _origin(self) -> Fraction:
        return Fraction(self.timescale) + Fraction(self.shift)

    def _lower(self) -> Curve:
        origin = self._origin()
        high = float(origin)
        return Curve("inverse_sqrt", self.start, p=float(self.timescale), q=high, r=float(origin - Fraction(high)))


class InverseTime(Kind):
    """Falls as a hyperbola: ``s(t) = start / (1 + rate * t/every)``; with ``staircase``, ``floor(t/every)``.

    It has no end. Units: ``every`` counts updates. Errors: ``ValueError`` if ``rate`` is negative or ``every`` not
    positive.
    Source: Robbins and Monro, A Stochastic Approximation Method, 1951; TensorFlow's inverse_time_decay.

    >>> s = InverseTime(1.0, rate=0.5, every=10)
    >>> s(0), s(20), s(180)
    (1.0, 0.5, 0.1)
    """

    __slots__ = ("every", "rate", "staircase", "start")
    start: float
    rate: float
    every: float
    staircase: bool
    _times: ClassVar = ("every",)
    _rules: ClassVar = {
        "start": START,
        "rate": Number("a constant value is rate=0", least=0.0),
        "every": EVERY,
        "staircase": Flag("a smooth curve is False"),
    }

    def __init__(self, start: float = 1.0, *, rate: float, every: float = 1, staircase: bool = False) -> None:
        self._set(start=start, rate=rate, every=every, staircase=staircase)
        if Fraction(self.rate) > Fraction(LARGEST_VALUE) * Fraction(self.every):
            raise ValueError(
                f"InverseTime: rate / every must be at most 1e290, got {shown(rate)} and {shown(every)}; "
                "pass a larger every"
            )

    def _lower(self) -> Curve:
        if self.staircase:
            return Curve("inverse_staircase", self.start, p=float(self.rate), r=float(self.every))
        return Curve("inverse_time", self.start, p=_ratio(self.rate, self.every))


class PowerLaw(Kind):
    """Falls as a power: ``s(t) = start * (1 + t/timescale)**(-exponent)``.

    It has no end. Units: ``timescale`` counts updates. Errors: ``ValueError`` if ``exponent`` or ``timescale`` is not
    positive.
    Source: Bottou, Large-Scale Machine Learning with Stochastic Gradient Descent, 2010.

    >>> s = PowerLaw(1.0, exponent=2.0, timescale=10)
    >>> s(0), s(10), s(30)
    (1.0, 0.25, 0.0625)
    """

    __slots__ = ("exponent", "start", "timescale")
    start: float
    exponent: float
    timescale: float
    _times: ClassVar = ("timescale",)
    _rules: ClassVar = {
        "start": START,
        "exponent": Number("for a fixed value use Constant(start)", above=0.0),
        "timescale": TIMESCALE,
    }

    def __init__(self, start: float = 1.0, *, exponent: float, timescale: float) -> None:
        self._set(start=start, exponent=exponent, timescale=timescale)

    def _lower(self) -> Curve:
        timescale = float(self.timescale)
        return Curve("power_law", self.start, p=-self.exponent, q=timescale, r=1.0 / timescale)


class Tanh(Kind):
    """A hyperbolic tangent: ``s(t) = end + (start - end) * (1 - tanh(lower*(1-x) + upper*x)) / 2``, ``x = t/steps``.

    It comes near ``start`` and ``end`` but does not reach them: after ``steps`` it holds the value at ``x = 1``. Units:
    those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``, ``lower >= upper`` or either exceeds 300
    in size.
    Source: Hsueh et al., Stochastic Gradient Descent with Hyperbolic-Tangent Decay, 2019; timm.

    >>> s = Tanh(1.0, 0.0, steps=10)
    >>> f"{s(0):.6f} {s(7):.6f} {s(10):.6f}", s(100) == s(10)
    ('0.999999 0.500000 0.002473', True)
    """

    __slots__ = ("end", "lower", "start", "upper")
    start: float
    end: float
    lower: float
    upper: float
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "steps": STEPS,
        "lower": Number("the paper has lower=-7", least=-300.0, most=300.0),
        "upper": Number("the paper has upper=3", least=-300.0, most=300.0),
    }

    def __init__(
        self, start: float = 1.0, end: float = 0.0, *, steps: int, lower: float = -7.0, upper: float = 3.0
    ) -> None:
        self._set(start=start, end=end, steps=steps, lower=lower, upper=upper)
        if not self.lower < self.upper:
            raise ValueError(
                f"Tanh: lower must be < upper, got {shown(lower)} and {shown(upper)}; swap start and end for a rise"
            )

    def _lower(self) -> Curve:
        lower, upper = Decimal(self.lower), Decimal(self.upper)
        origin = EXACT.divide(2 * lower, LN2)
        slope = EXACT.divide(EXACT.divide(2 * EXACT.subtract(upper, lower), LN2), Decimal(int(self.steps)))
        return between("tanh", self.start, self.end, self.steps, *split(origin, 3), *split(slope, 3))


class Rex(Kind):
    """Slow at first, steep at the end: ``s(t) = end + (start - end) * (1-x) / (1 - x/2)``, ``x = t/steps``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``.
    Source: Chen et al., REX: Revisiting Budgeted Training with an Improved Schedule, 2022.

    >>> s = Rex(1.0, 0.0, steps=3)
    >>> s(0), s(2), s(3), s(100)
    (1.0, 0.5, 0.0, 0.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 1.0, end: float = 0.0, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        return between("rex", self.start, self.end, self.steps)


class OneMinusSqrt(Kind):
    """Steep at first: ``s(t) = end + (start - end) * (1 - sqrt(x))``, ``x = t/steps``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``.
    Source: Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024 (cooldown).

    >>> s = OneMinusSqrt(1.0, 0.0, steps=16)
    >>> s(0), s(4), s(16), s(100)
    (1.0, 0.5, 0.0, 0.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 1.0, end: float = 0.0, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        return decay_curve("sqrt", self.start, self.end, int(self.steps))


class Triangular(Kind):
    """Up and down in cycles: ``s(t) = low + (high - low) * w * f``.

    ``w`` rises from 0 to 1 over ``up`` steps and falls to 0 over ``down`` (None: as many as ``up``). ``mode``:
    ``triangular`` ``f = 1``; ``triangular2`` halves ``f`` with every cycle; ``exp_range`` ``f = gamma**t``. It has no
    end. Units: those of ``low`` and ``high``; ``up`` and ``down`` count updates. Errors: ``ValueError`` if ``up`` or
    ``down < 1``, or ``gamma`` is not in (0, 1] or is given for another mode.
    Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2017.

    >>> s = Triangular(0.0, 1.0, up=2, mode="triangular2")
    >>> s(0), s(1), s(2), s(4), s(6), s(10)
    (0.0, 0.5, 1.0, 0.0, 0.5, 0.25)
    """

    __slots__ = ("down", "gamma", "high", "low", "mode", "up")
    low: float
    high: float
    up: int
    down: int | None
    mode: str
    gamma: float
    _times: ClassVar = ("up", "down")
    _rules: ClassVar = {
        "low": Number("pass the value at step 0"),
        "high": Number("pass the value at the peak"),
        "up": CYCLE,
        "down": CYCLE._replace(advice="leave it out for as many as up", optional=True),
        "mode": Choice(("triangular", "triangular2", "exp_range")),
        "gamma": Number("peaks of one height have gamma=1", above=0.0, most=1.0),
    }

    def __init__(
        self,
        low: float,
        high: float,
        *,
        up: int,
        down: int | None = None,
        mode: str = "triangular",
        gamma: float = 1.0,
    ) -> None:
        self._set(low=low, high=high, up=up, down=down, mode=mode, gamma=gamma)
        if self.gamma != 1.0 and self.mode != "exp_range":
            raise ValueError(
                f"Triangular: gamma must be 1 with mode={self.mode!r}, got {shown(gamma)}; pass mode='exp_range'"
            )
        if self._period() > LARGEST_STEP:
            raise ValueError(f"Triangular: up + down must be <= 2**53, got {self._period()}; shorten one")

    def _period(self) -> int:
        return self.up + (self.up if self.down is None else self.down)

    @classmethod
    def _stretched(cls, values: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        logarithm = EXACT.multiply(EXACT.ln(Decimal(values["gamma"])), Decimal(factor.denominator))
        gamma = float(EXACT.exp(EXACT.divide(logarithm, Decimal(factor.numerator))))
        return super()._stretched(values, factor) | {"gamma": gamma}

    def _lower(self) -> Curve:
        up, down = float(self.up), float(self._period() - self.up)
        if self.low == self.high:
            return Curve("constant", self.low)
        if self.gamma != 1.0:
            s, u = split(log2(self.gamma))
            return Curve("damped", self.low, self.high, p=up, q=down, s=s, u=u, v=stride(log2(self.gamma)))
        return Curve("triangle", self.low, self.high, p=up, q=down, r=float(self.mode == "triangular2"))

    def _cycle_ends(self, after: int, most: float) -> Iterable[int]:
        return multiples(self._period(), after, most)


class CosineRestarts(Kind):
    """Half cosines with warm restarts.

    Cycle ``i`` falls from ``start * decay**i`` to ``end`` within ``first * multiplier**i`` steps: with ``x`` its
    progress the value is ``end + (start * decay**i - end) * (1 + cos(pi x))/2``. After ``cycles`` cycles it holds
    ``end``; None is without an end. Units: those of ``start`` and ``end``; ``first`` counts updates. Errors:
    ``ValueError`` if ``first``, ``multiplier`` or ``cycles < 1``, ``decay <= 0``, or all cycles take more than 2**53
    steps.
    Source: Loshchilov and Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, 2017.

    >>> s = CosineRestarts(1.0, 0.0, first=10, multiplier=2, cycles=2)
    >>> s(0), s(5), s(10), s(20), s(30), s(100)
    (1.0, 0.5, 1.0, 0.5, 0.0, 0.0)
    """

    __slots__ = ("cycles", "decay", "end", "first", "multiplier", "start")
    start: float
    end: float
    first: int
    multiplier: int
    decay: float
    cycles: int | None
    _times: ClassVar = ("first",)
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "first": CYCLE,
        "multiplier": Number("cycles of one length have multiplier=1", least=1, most=LARGEST_STEP, whole=True),
        "decay": Number("peaks of one height have decay=1", above=0.0),
        "cycles": Number("leave it out to go on forever", least=1, most=LARGEST_STEP, whole=True, optional=True),
    }

    def __init__(
        self,
        start: float = 1.0,
        end: float = 0.0,
        *,
        first: int,
        multiplier: int = 1,
        decay: float = 1.0,
        cycles: int | None = None,
    ) -> None:
        self._set(start=start, end=end, first=first, multiplier=multiplier, decay=decay, cycles=cycles)
        if self.cycles is not None:
            object.__setattr__(self, "steps", self._total())

    def _total(self) -> int:
        """The steps of all cycles."""
        assert self.cycles is not None
        if self.multiplier == 1:
            total = self.first * self.cycles
        else:
            most = min(self.cycles, 54)  # more take too many steps
            total = self.first * (self.multiplier**most - 1) // (self.multiplier - 1)
        if total > LARGEST_STEP:
            raise ValueError(
                f"CosineRestarts: cycles must take at most 2**53 steps in all, got {self.cycles} cycles that take "
                f"{shown(total)}; pass fewer cycles"
            )
        return total

    def _lower(self) -> Curve:
        if self.start == self.end == 0.0 or (self.start == self.end and self.decay == 1.0):
            return Curve("constant", self.start, self.end, float(self.steps))
        s, u = split(log2(self.decay))
        p, q = float(self.first), float(self.multiplier)
        return Curve("restarts", self.start, self.end, float(self.steps), p, q, s=s, u=u)

    def _cycle_ends(self, after: int, most: float) -> Iterable[int]:
        most = min(most, self.steps)
        if self.multiplier == 1:
            return multiples(self.first, after, most)
        ends = itertools.accumulate(self.first * self.multiplier**i for i in itertools.count())
        later = itertools.dropwhile(lambda end: end <= after, ends)
        return itertools.takewhile(lambda end: end <= most, later)


class _Legs(Kind):
    """What `OneCycle` and its momentum share: legs that meet at ``pct_start * steps``, not rounded to a step."""

    __slots__ = ("anneal", "pct_start", "three_phase")
    pct_start: float
    anneal: str
    three_phase: bool

    def _check_pct(self) -> None:
        if self.three_phase and self.pct_start > 0.5:
            raise ValueError(
                f"{type(self).__name__}: pct_start must be <= 0.5 with three_phase, got {shown(self.pct_start)}; "
                "the second leg takes as long as the first"
            )

    def _legs(self, first: float, middle: float, last: float) -> Curve:
        if first == middle == last:
            return Curve("constant", first, last, float(self.steps))
        top = float(Fraction(self.pct_start) * int(self.steps))
        line = float(self.anneal == "linear")
        return Curve("one_cycle", first, last, float(self.steps), middle, top, line, float(self.three_phase))


PCT_START = Number("the share of steps until the peak", least=0.0, most=1.0)
THREE_PHASE = Flag("two legs are False")


class OneCycle(_Legs):
    """Super-convergence: up to ``peak`` at ``pct_start * steps``, then down to far below where it began.

    From ``peak/div_factor`` to ``peak``, then to ``peak/div_factor/final_div_factor`` at ``steps``; with
    ``three_phase`` first back to ``peak/div_factor`` at ``2 * pct_start * steps``. Each leg is half a cosine
    (``anneal="cos"``) or a line (``"linear"``) between its two values. Units: those of ``peak``. Errors: ``ValueError``
    if ``steps < 1``, ``pct_start`` is not in [0, 1] (three phases: [0, 0.5]) or a factor is not positive.
    Source: Smith and Topin, Super-Convergence, 2018; torch's OneCycleLR, whose legs end one step earlier.

    >>> s = OneCycle(1.0, steps=10, div_factor=4.0, final_div_factor=2.0)
    >>> s(0), s(3), s(10), s(100)
    (0.25, 1.0, 0.125, 0.125)
    """

    __slots__ = ("div_factor", "final_div_factor", "peak")
    peak: float
    div_factor: float
    final_div_factor: float
    _rules: ClassVar = {
        "peak": Number("pass the value at the peak"),
        "steps": STEPS,
        "pct_start": PCT_START,
        "div_factor": Number("a start of peak/25 has div_factor=25", above=0.0),
        "final_div_factor": Number("torch has final_div_factor=1e4", above=0.0),
        "anneal": ANNEAL,
        "three_phase": THREE_PHASE,
    }

    def __init__(
        self,
        peak: float = 1.0,
        *,
        steps: int,
        pct_start: float = 0.3,
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        anneal: str = "cos",
        three_phase: bool = False,
    ) -> None:
        self._set(
            peak=peak,
            steps=steps,
            pct_start=pct_start,
            div_factor=div_factor,
            final_div_factor=final_div_factor,
            anneal=anneal,
            three_phase=three_phase,
        )
        self._check_pct()
        for name, divisors in (
            ("peak / div_factor", (self.div_factor,)),
            ("peak / div_factor / final_div_factor", (self.div_factor, self.final_div_factor)),
        ):
            exact = Fraction(self.peak) / math.prod(map(Fraction, divisors))
            VALUE("OneCycle", name, nearest(exact))

    def momentum(self, low: float = 0.85, high: float = 0.95) -> OneCycleMomentum:
        """The momentum (or beta1) that goes with it: ``low`` where the learning rate has its peak.

        >>> OneCycle(steps=10).momentum(0.8, 0.9)(3)
        0.8
        """
        return OneCycleMomentum(
            low,
            high,
            steps=int(self.steps),
            pct_start=self.pct_start,
            anneal=self.anneal,
            three_phase=self.three_phase,
        )

    def _lower(self) -> Curve:
        low = _ratio(self.peak, self.div_factor)
        return self._legs(low, self.peak, _ratio(self.peak, self.div_factor, self.final_div_factor))


class OneCycleMomentum(_Legs):
    """The momentum of `OneCycle`: from ``high`` to ``low`` at ``pct_start * steps``, and back to ``high``.

    Back at ``steps``, or with ``three_phase`` at ``2 * pct_start * steps``. Each leg is half a cosine
    (``anneal="cos"``) or a line (``"linear"``) between its two values. Units: those of ``low`` and ``high``. Errors:
    ``ValueError`` if ``steps < 1`` or ``pct_start`` is not in [0, 1] (three phases: [0, 0.5]).
    Source: Smith, A Disciplined Approach to Neural Network Hyper-Parameters, 2018; torch's OneCycleLR.

    >>> s = OneCycleMomentum(0.8, 0.9, steps=10)
    >>> s(0), s(3), s(10), s(100)
    (0.9, 0.8, 0.9, 0.9)
    """

    __slots__ = ("high", "low")
    low: float
    high: float
    _rules: ClassVar = {
        "low": Number("pass the value at the peak of the learning rate"),
        "high": Number("pass the value at step 0"),
        "steps": STEPS,
        "pct_start": PCT_START,
        "anneal": ANNEAL,
        "three_phase": THREE_PHASE,
    }

    def __init__(
        self,
        low: float = 0.85,
        high: float = 0.95,
        *,
        steps: int,
        pct_start: float = 0.3,
        anneal: str = "cos",
        three_phase: bool = False,
    ) -> None:
        self._set(low=low, high=high, steps=steps, pct_start=pct_start, anneal=anneal, three_phase=three_phase)
        self._check_pct()

    def _lower(self) -> Curve:
        return self._legs(self.high, self.low, self.high)


class WarmupStableDecay(Kind):
    """A line up to ``peak`` over ``warmup`` steps, ``stable`` steps there, then down to ``end`` over ``decay`` steps.

    With ``p`` the progress of the decay it is ``end + (peak - end) * f(p)``; shapes: ``linear`` ``1 - p``, ``cosine``
    ``(1 + cos(pi p))/2``, ``sqrt`` ``1 - sqrt(p)``, ``square`` ``1 - p**2``, ``exponential`` ``2 * 0.5**p - 1``. A part
    of 0 steps is left out. Units: those of ``peak`` and ``end``. Errors: ``ValueError`` if a length is negative or all
    are 0.
    Source: Hu et al., MiniCPM, 2024; shapes of Haegele et al., 2024, and Megatron-LM.

    >>> s = WarmupStableDecay(1.0, warmup=4, stable=10, decay=4)
    >>> s(0), s(4), s(14), s(16), s(18), s(100)
    (0.0, 1.0, 1.0, 0.5, 0.0, 0.0)
    """

    __slots__ = ("decay", "end", "peak", "shape", "stable", "warmup_steps")
    peak: float
    warmup_steps: int
    stable: int
    decay: int
    shape: str
    end: float
    _times: ClassVar = ("warmup", "stable", "decay")
    _rules: ClassVar = {
        "peak": Number("pass the value at the peak"),
        "warmup": LENGTH,
        "stable": LENGTH,
        "decay": LENGTH,
        "shape": SHAPE,
        "end": END,
    }

    def __init__(
        self, peak: float = 1.0, *, warmup: int, stable: int, decay: int, shape: str = "linear", end: float = 0.0
    ) -> None:
        self._set(peak=peak, warmup=warmup, stable=stable, decay=decay, shape=shape, end=end)
        self._set_total(self.warmup_steps, self.stable, self.decay)

    def _lower(self) -> list[Schedule]:
        pieces: list[Schedule] = []
        if self.warmup_steps:
            pieces.append(Piece(line_curve(0.0, self.peak, self.warmup_steps), self.warmup_steps))
        if self.stable:
            pieces.append(Constant(self.peak, steps=self.stable))
        if self.decay:
            pieces.append(Piece(decay_curve(self.shape, self.peak, self.end, self.decay), self.decay))
        return pieces


class Infinite(Kind):
    """The infinite schedule: a line up to ``peak``, half a cosine down to ``plateau``, a stay there, and a cooldown.

    ``warmup``, ``cosine``, ``constant`` and ``cooldown`` are how many steps each takes; the cooldown is geometric, from
    ``plateau`` to ``end``. With ``constant=None`` the plateau has no end: train on for as long as there is data, and
    branch a cooldown off with `Schedule.cooldown` wherever a model is wanted. Units: those of ``peak``. Errors:
    ``ValueError`` if a length is out of range, if only some of ``constant``, ``cooldown`` and ``end`` are given, or if
    ``plateau`` and ``end`` do not have one sign.
    Source: Singh et al., Beyond Cosine Decay: On the Effectiveness of Infinite Learning Rate Schedule for Continual
    Pre-training, 2025.

    >>> s = Infinite(1.0, warmup=4, cosine=10, plateau=0.25, constant=6, cooldown=2, end=0.0625)
    >>> s(0), s(4), s(14), s(20), s(21), s(22), s(100)
    (0.0, 1.0, 0.25, 0.25, 0.125, 0.0625, 0.0625)
    """

    __slots__ = ("constant", "cooldown_steps", "cosine", "end", "peak", "plateau", "warmup_steps")
    peak: float
    warmup_steps: int
    cosine: int
    plateau: float
    constant: int | None
    cooldown_steps: int | None
    end: float | None
    _times: ClassVar = ("warmup", "cosine", "constant", "cooldown")
    _rules: ClassVar = {
        "peak": Number("pass the value at the peak"),
        "warmup": LENGTH,
        "cosine": CYCLE,
        "plateau": Number("pass the value to stay at"),
        "constant": LENGTH._replace(advice="leave it out for no end", optional=True),
        "cooldown": CYCLE._replace(advice="leave it out for no end", optional=True),
        "end": Number("pass the value after the cooldown", optional=True),
    }

    def __init__(
        self,
        peak: float = 1.0,
        *,
        warmup: int,
        cosine: int,
        plateau: float,
        constant: int | None = None,
        cooldown: int | None = None,
        end: float | None = None,
    ) -> None:
        self._set(
            peak=peak, warmup=warmup, cosine=cosine, plateau=plateau, constant=constant, cooldown=cooldown, end=end
        )
        given = [value is not None for value in (constant, cooldown, end)]
        if any(given) and not all(given):
            raise ValueError(
                f"Infinite: constant, cooldown and end must be given together or not at all, got {sum(given)} of them; "
                "leave all out for no end"
            )
        if self.end is not None and not same_sign(self.plateau, self.end):
            raise ValueError(
                f"Infinite: plateau and end must have one sign and not be 0, got {self.plateau!r} and {self.end!r}; "
                "the cooldown is geometric"
            )
        if self.constant is not None and self.cooldown_steps is not None:
            self._set_total(self.warmup_steps, self.cosine, self.constant, self.cooldown_steps)

    def _lower(self) -> list[Schedule]:
        pieces: list[Schedule] = []
        if self.warmup_steps:
            pieces.append(Piece(line_curve(0.0, self.peak, self.warmup_steps), self.warmup_steps))
        pieces.append(Piece(cosine_curve(self.peak, self.plateau, self.cosine), self.cosine))
        if self.end is None or self.constant is None or self.cooldown_steps is None:
            return [*pieces, Constant(self.plateau)]
        if self.constant:
            pieces.append(Constant(self.plateau, steps=self.constant))
        curve = geometric_curve(self.plateau, self.end, self.cooldown_steps)
        return [*pieces, Piece(curve, self.cooldown_steps)]


class Samples(Kind):
    """Values one by one: ``s(t) = values[floor(t)]``, and the last one from ``steps = len(values)`` on.

    ``values``: a list or one-dimensional array of 1 to 2**21 finite numbers. Units: those of ``values``. Errors:
    ``ValueError`` if there are none, too many, or one is not finite.
    Source: any log or table; `tabulate` makes them from a function.

    >>> s = Samples([1.0, 0.5, 0.25])
    >>> s(0), s(1.9), s(2), s(3), s(100)
    (1.0, 0.5, 0.25, 0.25, 0.25)
    """

    __slots__ = ("values",)
    values: tuple[float, ...]
    _times: ClassVar = ()
    _rules: ClassVar = {"values": Numbers("pass the value of every step")}

    def __init__(self, values: Sequence[float] | npt.NDArray[Any]) -> None:
        self._set(values=values)
        object.__setattr__(self, "steps", len(self.values))

    @classmethod
    def _stretched(cls, values: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        if factor.denominator != 1:
            raise ValueError(
                f"stretch: Samples must be stretched by a whole number, got {shown(nearest(factor))}; tabulate it anew"
            )
        if len(values["values"]) * factor > LARGEST_SAMPLES:
            raise ValueError(
                f"stretch: Samples: values must be 1 to 2**21 numbers, got {len(values['values'])} times "
                f"{shown(int(factor))}; stretch a kind that has a formula"
            )
        return {"values": np.repeat(values["values"], int(factor))}

    def _lower(self) -> Table:
        if "samples" not in self._cache:  # one array, so that a program holds it once however often it is used
            self._cache["samples"] = np.array(self.values, np.float64)
        return Table(self._cache["samples"])


def tabulate(fn: Callable[[int], float], steps: int) -> Samples:
    """What any callable gives for the steps ``0, ..., steps - 1``, as `Samples`.

    It is called once for each, in order. Errors: ``TypeError`` or ``ValueError`` name the step at which it returns
    something that is no finite number; ``ValueError`` if ``steps`` is not in 1..2**21.

    >>> tabulate(lambda t: 0.5**t, 3)
    Samples((1.0, 0.5, 0.25))
    """
    who = "tabulate"
    if not callable(fn):
        raise TypeError(f"{who}: fn must be callable, got {shown(fn)}; pass a function of the step")
    advice = "a schedule without an end needs no table of more"
    count = Number(advice, least=1, most=LARGEST_SAMPLES, whole=True)(who, "steps", steps)
    values = []
    for step in range(count):
        value = fn(step)
        if isinstance(value, (bool, str, np.bool_)) or getattr(value, "shape", ()) not in ((), (1,)):
            raise TypeError(f"{who}: fn({step}) must be a number, got {shown(value)}; return a float")
        if not is_number(value) and hasattr(value, "__float__"):
            value = float(value)  # a tensor or array of one element
        values.append(VALUE(who, f"fn({step})", value))
    return Samples(values)
