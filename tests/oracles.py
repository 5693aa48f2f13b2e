"""The exact value of every kind of schedule, from the definitions in the contract, with mpmath.

Nothing here shares code with the package. A `Case` is a schedule as Python text together with its exact value
at any step; `KINDS` has one row per kind and `COMBINATIONS` one per way of putting schedules together.
A new kind is one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import mpmath
from hypothesis import assume
from hypothesis import strategies as st
from mpmath import mpf

LONGEST = 2**53
TINY = 1e-290  # below it the law is absolute
# Bits: the smallest progress**k is 2**(-53*8), a weight may be its square, ends differ by a factor of 1e200.
_PREC = 1600
_ZERO = mpf(2) ** -1400  # a weight this small is an exact zero seen through rounding


@contextmanager
def ample() -> Iterator[None]:
    with mpmath.workprec(_PREC):
        yield


def mp(value: Any) -> mpf:
    """The exact value of an int, float or Fraction (a Fraction to the working precision)."""
    if isinstance(value, Fraction):
        return mpf(value.numerator) / mpf(value.denominator)
    return mpf(value)


# A case: a schedule and what it must give.


@dataclass(repr=False)
class Case:
    text: str  # evaluates to the schedule in the package's namespace
    exact: Callable[[Any], mpf]  # the value at a step
    steps: float  # the horizon; inf where the kind has none
    size: Callable[[Any], mpf]  # max(|start|, |end|) of the piece at a step: the unit of the absolute law
    crossed: Callable[[Any], bool]  # the piece has reached or passed zero by this step
    edges: list[int] = field(default_factory=list)  # steps at which something happens
    factors: int = 1
    arguments: dict[str, Any] = field(default_factory=dict)  # of a single kind
    skipped: int = 0  # steps, of whatever skips the most of them

    def __repr__(self) -> str:
        return self.text

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(self.text)  # what Hypothesis shows

    def value(self, step: Any) -> mpf:
        with ample():
            return +self.exact(step)

    def tolerance(self) -> int:
        """In ulp: 4 for one factor, 5 more for each further one."""
        return 4 + 5 * (self.factors - 1)

    def error(self, actual: float, step: Any) -> float:
        """How far `actual` is from the exact value at `step`, in units of the contract's law."""
        with ample():
            exact = self.exact(step)
            return ulps(actual, exact, size=self.size(step), absolute=self.crossed(step))


def ulps(actual: float, exact: mpf, *, size: mpf, absolute: bool = False) -> float:
    """Distance in ulp of the exact value; past a zero crossing, or below 1e-290, in ulp of `size`."""
    with ample():
        unit = size if absolute or abs(exact) < TINY else abs(exact)
        if not math.isfinite(actual):
            return math.inf
        return float(abs(mpf(actual) - exact) / mpf(math.ulp(float(unit))))


def representable(exact: mpf) -> bool:
    return abs(exact) < mpf(2) ** 1023


# Curves, each from progress (a Fraction in [0, 1]) or a step to a weight.


def _power(x: Fraction | mpf, exponent: float) -> Fraction | mpf:
    if float(exponent).is_integer() and 0 <= exponent <= 8:
        return x ** int(exponent)
    return mp(x) ** mp(exponent) if x else mpf(0)


def _half_cosine(phase: Fraction | mpf) -> mpf:
    """(1 + cos(pi * phase)) / 2, exactly zero where the phase is an odd integer."""
    if isinstance(phase, Fraction):
        phase %= 2
    weight = mpmath.cospi(mp(phase) / 2) ** 2
    return mpf(0) if weight < _ZERO else weight


def _log_ratio(step: Fraction, steps: int) -> mpf:
    return mpmath.log1p(mp(step)) / mpmath.log1p(mpf(steps))


WARMUPS = {
    "linear": lambda t, n, start: mp(start) + (1 - mp(start)) * mp(t / n),
    "cosine": lambda t, n, start: mp(start) + (1 - mp(start)) * (1 - mpmath.cospi(mp(t / n))) / 2,
    "constant": lambda t, n, start: mp(start),
    "exponential": lambda t, n, start: mp(start) ** mp(1 - t / n),
    "log": lambda t, n, start: mp(start) + (1 - mp(start)) * _log_ratio(t, n),
}


# Strategies for arguments.

_nice = st.sampled_from([0.0, 1.0, 0.5, 0.1, 1e-3, 3e-4, 1e-5, 2.0, 10.0])
_wide = st.floats(1e-200, 1e200, allow_subnormal=False)
positive = st.one_of(_nice.filter(bool), st.floats(1e-6, 1e3), _wide)
ends = st.one_of(_nice, st.floats(TINY, 10.0), _wide)
signed = st.one_of(ends, ends.map(lambda v: -v))
horizons = st.one_of(
    st.integers(1, 20),
    st.integers(1, 10**6),
    st.integers(1, LONGEST),
    st.sampled_from([1, 2, 3, 2**31 - 1, 2**31, 2**32 + 1, LONGEST - 1, LONGEST]),
)
short_horizons = st.one_of(st.integers(1, 20), st.integers(1, 10**6), st.integers(1, 2**40))
exponents = st.one_of(st.sampled_from([0.5, 1.0, 1.5, 2.0, 3.0]), st.floats(0.1, 8.0))
steep = st.one_of(exponents, st.sampled_from([1e-3, 20.0, 300.0]))
horizons_or_none = st.none() | horizons
lengths = st.one_of(st.just(0), horizons)
intervals = st.one_of(st.integers(1, 100), st.integers(1, LONGEST))
intervals_real = st.one_of(st.integers(1, 1000), st.sampled_from([2.4, 0.7, 0.1, 1e6 / 3]))
_milestone = st.one_of(st.integers(1, 50), st.integers(1, LONGEST))
milestones = st.lists(_milestone, min_size=1, max_size=6).map(sorted)
several = st.lists(signed, min_size=1, max_size=40)
# Tiny shares are steps far below any that is reached; a tiny slope is below what two doubles can tell from none.
shares = st.one_of(st.sampled_from([0.0, 0.25, 0.3, 0.5, 1.0]), st.floats(1e-100, 1.0))
slopes = st.floats(-30.0, 30.0).map(lambda v: v if abs(v) > 1e-6 else 0.0)
divisors_tame = st.one_of(st.sampled_from([25.0, 1e4]), st.floats(1e-3, 1e6))
divisors = st.one_of(divisors_tame, st.floats(1e-30, 1e30))


@dataclass(frozen=True)
class Kind:
    """One row: how to draw the arguments, the exact value, and what the laws need to know."""

    name: str
    arguments: dict[str, st.SearchStrategy[Any]]
    exact: Callable[..., mpf]  # (t: Fraction, **arguments), t not past the horizon
    examples: list[dict[str, Any]]  # fixed ones, for tests that compare without an oracle
    ends: Callable[..., tuple[Any, Any]]  # (t, **arguments) -> start, end of the piece that runs at t
    horizon: Callable[..., float] = lambda steps=None, **_: math.inf if steps is None else steps
    interpolates: bool = True
    periods: Callable[..., float] = lambda **_: 1.0  # half-turns of the curve; past the first it may touch zero
    farthest: Callable[..., Any] = lambda t, **_: t  # the step up to t at which the piece is farthest from its start
    edges: Callable[..., list[int]] = lambda **_: []
    fit: Callable[..., dict[str, Any]] = lambda **arguments: arguments  # makes what is drawn fit together

    def case(self, **arguments: Any) -> Case:
        horizon = self.horizon(**arguments)

        def at(step: Any) -> Fraction:
            exact_step = Fraction(step)
            return exact_step if math.isinf(horizon) else min(exact_step, Fraction(horizon))

        def exact(step: Any) -> mpf:
            return mp(self.exact(at(step), **arguments))

        def ends_at(step: Any) -> tuple[mpf, mpf]:
            start, end = self.ends(t=at(step), **arguments)
            return mp(start), mp(end)

        def size(step: Any) -> mpf:
            return max(abs(end) for end in ends_at(step))

        def crossed(step: Any) -> bool:
            start, end = ends_at(step)
            if start == 0:
                return self.turned(at(step), horizon, **arguments)
            if exact(self.farthest(t=at(step), **arguments)) * start <= 0:
                return True
            return end * start <= 0 and self.turned(at(step), horizon, **arguments)

        text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
        edges = [0] + ([] if math.isinf(horizon) else [horizon]) + self.edges(**arguments)
        return Case(f"{self.name}({text})", exact, horizon, size, crossed, edges, arguments=arguments)

    def turned(self, t: Fraction, horizon: float, **arguments: Any) -> bool:
        """Whether an oscillating curve has passed its first extreme."""
        half_turns = self.periods(**arguments)
        if half_turns <= 1 or math.isinf(horizon):
            return False
        return mp(half_turns) * mp(_power(t / int(horizon), arguments.get("k", 1.0))) >= 1

    def cases(self, **fixed: st.SearchStrategy[Any]) -> st.SearchStrategy[Case]:
        drawn = {**self.arguments, **{k: v for k, v in fixed.items() if k in self.arguments}}
        return st.fixed_dictionaries(drawn).map(lambda kw: self.case(**self.fit(**kw)))


def _between(start: float, end: float, weight: Fraction | mpf) -> mpf:
    return mp(start) * mp(weight) + mp(end) * (1 - mp(weight))


def _both(start: float, end: float, **_: Any) -> tuple[float, float]:
    return start, end


def _only_start(start: float = 1.0, **_: Any) -> tuple[float, float]:
    return start, start


def _exponential(
    t: Fraction,
    start: float,
    gamma: float | None = None,
    rate: float | None = None,
    every: int = 1,
    staircase: bool = False,
) -> mpf:
    turns = t / every
    if staircase:
        turns = Fraction(math.floor(turns))
    if gamma is not None:
        return mp(start) * mp(gamma) ** mp(turns)
    return mp(start) * mpmath.exp(-mp(rate) * mp(turns))


# A kind of several pieces is a function of the step that gives the piece there: start, end, value.

Piece = tuple[Any, Any, Any]


def _value_of(piece: Callable[..., Piece]) -> Callable[..., mpf]:
    return lambda t, **arguments: piece(t, **arguments)[2]


def _ends_of(piece: Callable[..., Piece]) -> Callable[..., tuple[Any, Any]]:
    return lambda t, **arguments: piece(t, **arguments)[:2]


def _held(value: Any) -> Piece:
    return value, value, mp(value)


def _line(start: Any, end: Any, x: Fraction) -> Piece:
    return start, end, _between(start, end, 1 - x)


def _cosine(start: Any, end: Any, x: Fraction) -> Piece:
    return start, end, _between(start, end, _half_cosine(x))


DECAYS = {  # WSD's: progress -> what is left
    "linear": lambda p: 1 - p,
    "cosine": _half_cosine,
    "sqrt": lambda p: 1 - mpmath.sqrt(mp(p)),
    "square": lambda p: 1 - p**2,
    "exponential": lambda p: 2 * mpf(0.5) ** mp(p) - 1,
}


def _stable_decay(t: Fraction, peak: float, warmup: int, stable: int, decay: int, shape: str, end: float) -> Piece:
    if t < warmup:
        return _line(0.0, peak, t / warmup)
    if t < warmup + stable or decay == 0:
        return _held(peak)
    return peak, end, _between(peak, end, DECAYS[shape]((t - warmup - stable) / decay))


def _fit_stable_decay(warmup: int, stable: int, decay: int, **others: Any) -> dict[str, Any]:
    while warmup + stable + decay > LONGEST:
        warmup, stable, decay = warmup // 2, stable // 2, decay // 2
    decay = decay if warmup + stable + decay else 1
    return {**others, "warmup": warmup, "stable": stable, "decay": decay}


def _infinite(
    t: Fraction,
    peak: float,
    warmup: int,
    cosine: int,
    plateau: float,
    constant: int | None,
    cooldown: int | None,
    end: float | None,
) -> Piece:
    if t < warmup:
        return _line(0.0, peak, t / warmup)
    if t < warmup + cosine:
        return _cosine(peak, plateau, (t - warmup) / cosine)
    if constant is None or cooldown is None or t < warmup + cosine + constant:
        return _held(plateau)
    p = mp((t - warmup - cosine - constant) / cooldown)
    return plateau, end, mp(plateau) * (mp(end) / mp(plateau)) ** p


def _fit_infinite(
    warmup: int,
    cosine: int,
    plateau: float,
    constant: int | None,
    cooldown: int,
    end: float,
    **others: Any,
) -> dict[str, Any]:
    rest: dict[str, Any] = {"constant": None, "cooldown": None, "end": None}
    while warmup + cosine + (constant or 0) + cooldown > LONGEST:
        warmup, cosine, cooldown = warmup // 2, max(1, cosine // 2), max(1, cooldown // 2)
        constant = None if constant is None else constant // 2
    if constant is not None:
        plateau, end = plateau or 0.5, math.copysign(end or 0.5, plateau or 0.5)
        rest = {"constant": constant, "cooldown": cooldown, "end": end}
    return {**others, "warmup": warmup, "cosine": cosine, "plateau": plateau, **rest}


def _leg(t: Fraction, points: list[tuple[Any, Any]], anneal: str) -> Piece:
    """Between the last point at or before t and the next one; a leg of no length is never run."""
    if t >= points[-1][0]:
        return _held(points[-1][1])
    here = max(i for i, (edge, _) in enumerate(points) if edge <= t)
    (begin, start), (finish, end) = points[here], points[here + 1]
    x = (t - begin) / (finish - begin)
    return _cosine(start, end, x) if anneal == "cos" else _line(start, end, x)


def _peak_at(pct_start: float, steps: int) -> Fraction:
    """The step of the peak, which need not be a whole one: rounded to a double."""
    return Fraction(float(Fraction(pct_start) * steps))


def _one_cycle(
    t: Fraction,
    peak: float,
    steps: int,
    pct_start: float,
    div_factor: float,
    final_div_factor: float,
    anneal: str,
    three_phase: bool,
) -> Piece:
    first = Fraction(peak) / Fraction(div_factor)
    last = first / Fraction(final_div_factor)
    at_peak = _peak_at(pct_start, steps)
    back = [(2 * at_peak, first)] if three_phase else []
    return _leg(t, [(0, first), (at_peak, peak), *back, (steps, last)], anneal)


def _one_cycle_ends(peak: float, div_factor: float, final_div_factor: float, **_: Any) -> tuple[Any, Any]:
    """The largest and the smallest value: it has one sign throughout."""
    first = Fraction(peak) / Fraction(div_factor)
    values = sorted([Fraction(peak), first, first / Fraction(final_div_factor)], key=abs)
    return values[-1], values[0]


def _one_cycle_momentum(
    t: Fraction, low: float, high: float, steps: int, pct_start: float, anneal: str, three_phase: bool
) -> Piece:
    at_peak = _peak_at(pct_start, steps)
    back = [(2 * at_peak, high)] if three_phase else []
    return _leg(t, [(0, high), (at_peak, low), *back, (steps, high)], anneal)


def _fit_one_cycle(pct_start: float, three_phase: bool, **others: Any) -> dict[str, Any]:
    return {**others, "pct_start": pct_start / 2 if three_phase else pct_start, "three_phase": three_phase}


def _peak_edges(steps: int, pct_start: float, three_phase: bool, **_: Any) -> list[int]:
    return [math.floor(turns * _peak_at(pct_start, steps)) for turns in ([1, 2] if three_phase else [1])]


def _restarts(
    t: Fraction, start: float, end: float, first: int, multiplier: int, decay: float, cycles: int | None
) -> Piece:
    index, begin, length = 0, 0, first
    if multiplier == 1:
        index = t // first if cycles is None else min(t // first, cycles - 1)
        begin = index * first
    while multiplier > 1 and t >= begin + length and index + 1 != cycles:
        index, begin, length = index + 1, begin + length, length * multiplier
    return _cosine(mp(start) * mp(decay) ** index, end, (t - begin) / length)


def _restarts_horizon(first: int, multiplier: int, cycles: int | None, **_: Any) -> float:
    if cycles is None:
        return math.inf
    return first * cycles if multiplier == 1 else first * (multiplier**cycles - 1) // (multiplier - 1)


def _fit_restarts(first: int, multiplier: int, cycles: int | None, **others: Any) -> dict[str, Any]:
    if cycles is not None:
        cycles = min(cycles, LONGEST // first if multiplier == 1 else 53)
        while _restarts_horizon(first, multiplier, cycles) > LONGEST:
            cycles -= 1
    return {**others, "first": first, "multiplier": multiplier, "cycles": cycles}


def _restart_edges(first: int, multiplier: int, cycles: int | None, **_: Any) -> list[int]:
    if multiplier == 1:
        return [edge for edge in (first, 2 * first, 7 * first, LONGEST // first * first) if edge <= LONGEST]
    begins = (_restarts_horizon(first, multiplier, i) for i in range(1, 55 if cycles is None else cycles + 1))
    return [int(edge) for edge in begins if edge <= LONGEST]


def _triangular(t: Fraction, low: float, high: float, up: int, down: int | None, mode: str, gamma: float) -> mpf:
    down = up if down is None else down
    cycle = t // (up + down)
    r = t - cycle * (up + down)
    weight = mp(r / up) if r <= up else mp((up + down - r) / down)
    if mode == "triangular2":
        weight = mpmath.ldexp(weight, -cycle)
    if mode == "exp_range":
        weight *= mp(gamma) ** mp(t)
    return mp(low) + (mp(high) - mp(low)) * weight


def _fit_triangular(up: int, down: int | None, mode: str, gamma: float, **others: Any) -> dict[str, Any]:
    while up + (up if down is None else down) > LONGEST:
        up, down = max(1, up // 2), down and max(1, down // 2)
    return {**others, "up": up, "down": down, "mode": mode, "gamma": gamma if mode == "exp_range" else 1.0}


def _triangular_farthest(t: Fraction, up: int, down: int | None, mode: str, gamma: float, **_: Any) -> Fraction:
    """Within the cycle: the top, or, where r * gamma**r turns before it, there."""
    period = up + (up if down is None else down)
    begin = t // period * period
    top = Fraction(up)
    if mode == "exp_range" and gamma < 1:
        top = min(top, Fraction(-1 / math.log(gamma)))
    return min(t, begin + top)


def _tanh(t: Fraction, start: float, end: float, steps: int, lower: float, upper: float) -> mpf:
    x = t / steps
    z = mp(Fraction(lower) * (1 - x) + Fraction(upper) * x)
    return mp(start) / (1 + mpmath.exp(2 * z)) + mp(end) / (1 + mpmath.exp(-2 * z))


def _inverse_time(t: Fraction, start: float, rate: float, every: float, staircase: bool) -> mpf:
    turns = t / Fraction(every)
    return mp(start) / mp(1 + Fraction(rate) * (math.floor(turns) if staircase else turns))


def _inverse_sqrt(t: Fraction, start: float, timescale: float, shift: float) -> mpf:
    return mp(start) / mpmath.sqrt(mp(1 + (t + Fraction(shift)) / Fraction(timescale)))


def _piecewise(t: Fraction, boundaries: list[int], values: list[float]) -> Piece:
    return _held(values[sum(edge <= t for edge in boundaries)])


def _samples(t: Fraction, values: list[float]) -> Piece:
    return _held(values[min(math.floor(t), len(values) - 1)])


gammas = st.one_of(st.sampled_from([0.1, 0.5, 0.9, 0.97, 0.99999, 1.0]), st.floats(0.01, 1.05))

_ROWS = [
    Kind(
        "Constant",
        {"value": signed, "steps": horizons_or_none},
        lambda t, value, steps: mp(value),
        [{"value": 0.3, "steps": None}, {"value": -2.5, "steps": 17}],
        lambda value, **_: (value, value),
    ),
    Kind(
        "Linear",
        {"start": signed, "end": signed, "steps": horizons},
        lambda t, start, end, steps: _between(start, end, 1 - t / steps),
        [{"start": 0.0, "end": 0.1, "steps": 1000}, {"start": 1.0, "end": -0.3, "steps": 777}],
        _both,
    ),
    Kind(
        "Cosine",
        {
            "start": signed,
            "end": signed,
            "steps": horizons,
            "cycles": st.just(0.5) | st.sampled_from([0.25, 1.0, 1.5, 3.0, 10.5]) | st.floats(0.01, 20.0),
            "exponent": st.one_of(st.just(1.0), exponents),
            "k": st.one_of(st.just(1.0), exponents),
        },
        lambda t, start, end, steps, cycles, exponent, k: _between(
            start, end, _power_of_weight(_half_cosine(_phase(t / steps, cycles, k)), exponent)
        ),
        [
            {"start": 1.0, "end": 0.0, "steps": 1000, "cycles": 0.5, "exponent": 1.0, "k": 1.0},
            {"start": 0.1, "end": 0.001, "steps": 997, "cycles": 2.5, "exponent": 1.0, "k": 1.0},
            {"start": 1.0, "end": 0.1, "steps": 1000, "cycles": 0.5, "exponent": 2.5, "k": 1.5},
        ],
        _both,
        periods=lambda cycles, **_: 2 * cycles,
    ),
    Kind(
        "Polynomial",
        {
            "start": signed,
            "end": signed,
            "steps": horizons,
            "power": st.one_of(exponents, st.sampled_from([8.0, 20.0])),
            "k": st.one_of(st.just(1.0), exponents, st.sampled_from([1e-3, 50.0])),
        },
        lambda t, start, end, steps, power, k: _between(start, end, _power(1 - _power(t / steps, k), power)),
        [
            {"start": 1.0, "end": 0.0, "steps": 1000, "power": 1.0, "k": 1.0},
            {"start": 0.1, "end": 1e-4, "steps": 999, "power": 2.0, "k": 1.0},
            {"start": 0.01, "end": 1.0, "steps": 512, "power": 0.7, "k": 1.0},
            {"start": 1.0, "end": 0.1, "steps": 997, "power": 1.0, "k": 1.5},
            {"start": 1.0, "end": 0.0, "steps": 1000, "power": 0.9, "k": 1.5},
            {"start": 0.5, "end": -0.1, "steps": 777, "power": 2.0, "k": 3.0},
        ],
        _both,
    ),
    Kind(
        "Logarithmic",
        {"start": signed, "end": signed, "steps": horizons},
        lambda t, start, end, steps: _between(start, end, 1 - _log_ratio(t, steps)),
        [{"start": 0.0, "end": 1.0, "steps": 1000}, {"start": 0.1, "end": 1e-3, "steps": 777}],
        _both,
    ),
    Kind(
        "Geometric",
        {"start": positive, "end": positive, "steps": horizons},
        lambda t, start, end, steps: mp(start) ** mp(1 - t / steps) * mp(end) ** mp(t / steps),
        [{"start": 1.0, "end": 0.01, "steps": 1000}, {"start": 1e-6, "end": 3.0, "steps": 321}],
        _both,
    ),
    Kind(
        "Exponential",
        {
            "start": signed,
            "gamma": gammas,
            "every": st.integers(1, 1000),
            "staircase": st.booleans(),
        },
        _exponential,
        [
            {"start": 1.0, "gamma": 0.99, "every": 1, "staircase": False},
            {"start": 0.1, "gamma": 0.7, "every": 30, "staircase": True},
            {"start": 1.0, "rate": 0.01, "every": 3, "staircase": False},
        ],
        _only_start,
        edges=lambda every, **_: [every, 7 * every],
    ),
    Kind(
        "StepDecay",
        {"start": signed, "gamma": gammas, "every": intervals},
        lambda t, start, gamma, every: mp(start) * mp(gamma) ** mpf(t // every),
        [{"start": 1.0, "gamma": 0.5, "every": 30}, {"start": 0.1, "gamma": 0.97, "every": 7}],
        _only_start,
        interpolates=False,
        edges=lambda every, **_: [every, 3 * every] if 3 * every <= LONGEST else [every],
    ),
    Kind(
        "MultiStep",
        {"start": signed, "milestones": milestones, "gamma": gammas},
        lambda t, start, milestones, gamma: mp(start) * mp(gamma) ** sum(edge <= t for edge in milestones),
        [{"start": 1.0, "milestones": [100, 250, 250, 700], "gamma": 0.1}],
        _only_start,
        interpolates=False,
        edges=lambda milestones, **_: list(milestones),
    ),
    Kind(
        "Piecewise",
        {"boundaries": milestones, "values": st.lists(signed, min_size=7, max_size=7)},
        _value_of(_piecewise),
        [{"boundaries": [100, 250, 250, 700], "values": [0.0, 1.0, 7.0, -0.5, 0.01]}],
        _ends_of(_piecewise),
        interpolates=False,
        edges=lambda boundaries, **_: list(boundaries),
        fit=lambda boundaries, values: {"boundaries": boundaries, "values": values[: len(boundaries) + 1]},
    ),
    Kind(
        "InverseSqrt",
        {
            "start": signed,
            "timescale": positive,
            "shift": st.one_of(st.just(0), st.integers(-1000, 1000), st.floats(-1e6, 1e6)),
        },
        _inverse_sqrt,
        [{"start": 1.0, "timescale": 100, "shift": 0}, {"start": 0.1, "timescale": 37.5, "shift": -30.25}],
        _only_start,
        fit=lambda timescale, shift, **others: {
            **others,
            "timescale": timescale,
            "shift": shift if Fraction(shift) > -Fraction(timescale) else -shift,
        },
    ),
    Kind(
        "InverseTime",
        {
            "start": signed,
            "rate": st.just(0.0) | positive,
            "every": intervals_real,
            "staircase": st.booleans(),
        },
        _inverse_time,
        [
            {"start": 1.0, "rate": 0.01, "every": 1, "staircase": False},
            {"start": 0.1, "rate": 0.5, "every": 30, "staircase": True},
        ],
        _only_start,
        edges=lambda every, **_: [math.ceil(every), math.ceil(7 * every)],
    ),
    Kind(
        "PowerLaw",
        {
            "start": signed,
            "exponent": steep,
            "timescale": positive,
        },
        lambda t, start, exponent, timescale: mp(start) * mp(1 + t / Fraction(timescale)) ** -mp(exponent),
        [{"start": 1.0, "exponent": 0.5, "timescale": 100}, {"start": 0.1, "exponent": 1.7, "timescale": 12.5}],
        _only_start,
    ),
    Kind(
        "Tanh",
        {
            "start": signed,
            "end": signed,
            "steps": horizons,
            "lower": st.one_of(st.just(-7.0), st.sampled_from([-300.0, -1.0, 0.0]), slopes),
            "upper": st.one_of(st.just(3.0), st.sampled_from([1.0, 300.0]), slopes),
        },
        _tanh,
        [
            {"start": 1.0, "end": 0.0, "steps": 1000, "lower": -7.0, "upper": 3.0},
            {"start": 0.1, "end": 0.01, "steps": 777, "lower": -2.5, "upper": 12.0},
        ],
        _both,
        fit=lambda lower, upper, **others: {
            **others,
            "lower": min(lower, upper),
            "upper": upper + 1 if lower == upper else max(lower, upper),
        },
    ),
    Kind(
        "Rex",
        {"start": signed, "end": signed, "steps": horizons},
        lambda t, start, end, steps: _between(start, end, (1 - t / steps) / (1 - t / steps / 2)),
        [{"start": 1.0, "end": 0.0, "steps": 1000}, {"start": 0.1, "end": 0.01, "steps": 777}],
        _both,
    ),
    Kind(
        "OneMinusSqrt",
        {"start": signed, "end": signed, "steps": horizons},
        lambda t, start, end, steps: _between(start, end, 1 - mpmath.sqrt(mp(t / steps))),
        [{"start": 1.0, "end": 0.0, "steps": 1000}, {"start": 0.1, "end": 0.01, "steps": 777}],
        _both,
    ),
    Kind(
        "Triangular",
        {
            "low": signed,
            "high": signed,
            "up": horizons,
            "down": horizons_or_none,
            "mode": st.sampled_from(["triangular", "triangular2", "exp_range"]),
            "gamma": st.one_of(st.sampled_from([1.0, 0.99, 0.99999, 1 - 2**-53]), st.floats(0.01, 1.0)),
        },
        _triangular,
        [
            {"low": 0.1, "high": 1.0, "up": 100, "down": None, "mode": "triangular", "gamma": 1.0},
            {"low": 0.0, "high": 1.0, "up": 37, "down": 90, "mode": "triangular2", "gamma": 1.0},
            {"low": 0.001, "high": 0.3, "up": 50, "down": 10, "mode": "exp_range", "gamma": 0.999},
        ],
        lambda low, high, **_: (low, high),
        farthest=_triangular_farthest,
        edges=lambda up, down, **_: [
            edge
            for cycle in (0, 1, 5, 1000)
            for edge in (up + cycle * (up + (down or up)), (cycle + 1) * (up + (down or up)))
            if edge <= LONGEST
        ],
        fit=_fit_triangular,
    ),
    Kind(
        "CosineRestarts",
        {
            "start": signed,
            "end": signed,
            "first": horizons,
            "multiplier": st.one_of(st.just(1), st.integers(1, 4), horizons),
            "decay": st.one_of(st.just(1.0), gammas),
            "cycles": st.one_of(st.none(), st.integers(1, 12), horizons),
        },
        _value_of(_restarts),
        [
            {"start": 1.0, "end": 0.0, "first": 10, "multiplier": 2, "decay": 1.0, "cycles": None},
            {"start": 0.1, "end": 0.001, "first": 100, "multiplier": 1, "decay": 0.7, "cycles": 8},
            {"start": 1.0, "end": 0.01, "first": 3, "multiplier": 3, "decay": 0.9, "cycles": 5},
        ],
        _ends_of(_restarts),
        horizon=_restarts_horizon,
        edges=_restart_edges,
        fit=_fit_restarts,
    ),
    Kind(
        "OneCycle",
        {
            "peak": signed,
            "steps": horizons,
            "pct_start": shares,
            "div_factor": divisors,
            "final_div_factor": divisors,
            "anneal": st.sampled_from(["cos", "linear"]),
            "three_phase": st.booleans(),
        },
        _value_of(_one_cycle),
        [
            {
                "peak": 1.0,
                "steps": 1000,
                "pct_start": 0.3,
                "div_factor": 25.0,
                "final_div_factor": 1e4,
                "anneal": "cos",
                "three_phase": False,
            },
            {
                "peak": 0.1,
                "steps": 777,
                "pct_start": 0.37,
                "div_factor": 10.0,
                "final_div_factor": 100.0,
                "anneal": "linear",
                "three_phase": True,
            },
        ],
        _one_cycle_ends,
        edges=_peak_edges,
        fit=_fit_one_cycle,
    ),
    Kind(
        "OneCycleMomentum",
        {
            "low": signed,
            "high": signed,
            "steps": horizons,
            "pct_start": shares,
            "anneal": st.sampled_from(["cos", "linear"]),
            "three_phase": st.booleans(),
        },
        _value_of(_one_cycle_momentum),
        [
            {
                "low": 0.85,
                "high": 0.95,
                "steps": 1000,
                "pct_start": 0.3,
                "anneal": "cos",
                "three_phase": False,
            },
            {"low": 0.5, "high": 0.9, "steps": 777, "pct_start": 0.37, "anneal": "linear", "three_phase": True},
        ],
        _ends_of(_one_cycle_momentum),
        edges=_peak_edges,
        fit=_fit_one_cycle,
    ),
    Kind(
        "WarmupStableDecay",
        {
            "peak": signed,
            "warmup": lengths,
            "stable": lengths,
            "decay": lengths,
            "shape": st.sampled_from(sorted(DECAYS)),
            "end": signed,
        },
        _value_of(_stable_decay),
        [
            {"peak": 1.0, "warmup": 100, "stable": 500, "decay": 400, "shape": shape, "end": end}
            for shape, end in zip(DECAYS, [0.0, 0.1, 0.0, 0.01, 0.05], strict=True)
        ],
        _ends_of(_stable_decay),
        horizon=lambda warmup, stable, decay, **_: warmup + stable + decay,
        edges=lambda warmup, stable, **_: [warmup, warmup + stable],
        fit=_fit_stable_decay,
    ),
    Kind(
        "Infinite",
        {
            "peak": signed,
            "warmup": lengths,
            "cosine": horizons,
            "plateau": signed,
            "constant": st.none() | lengths,
            "cooldown": horizons,
            "end": signed,
        },
        _value_of(_infinite),
        [
            {
                "peak": 1.0,
                "warmup": 50,
                "cosine": 400,
                "plateau": 0.3,
                "constant": 250,
                "cooldown": 300,
                "end": 0.001,
            },
            {
                "peak": 0.1,
                "warmup": 0,
                "cosine": 777,
                "plateau": 0.02,
                "constant": None,
                "cooldown": None,
                "end": None,
            },
        ],
        _ends_of(_infinite),
        horizon=lambda warmup, cosine, constant, cooldown, **_: (
            math.inf if constant is None else warmup + cosine + constant + cooldown
        ),
        edges=lambda warmup, cosine, constant, **_: [warmup, warmup + cosine, warmup + cosine + (constant or 0)],
        fit=_fit_infinite,
    ),
    Kind(
        "Samples",
        {"values": several},
        _value_of(_samples),
        [{"values": [0.1, 0.7, -0.25, 1.0, 1e-3]}],
        _ends_of(_samples),
        horizon=lambda values: len(values),
        interpolates=False,
    ),
]


def _phase(x: Fraction, cycles: float, k: float) -> Fraction | mpf:
    turned = _power(x, k)
    return 2 * Fraction(cycles) * turned if isinstance(turned, Fraction) else 2 * mp(cycles) * turned


def _power_of_weight(weight: mpf, exponent: float) -> mpf:
    return weight ** mp(exponent) if weight else mpf(0)


KINDS: dict[str, Kind] = {row.name: row for row in _ROWS}

# Exponential by rate instead of gamma has arguments of its own; the rest of its row is the same.
BY_RATE = Kind(
    "Exponential",
    {
        "start": signed,
        "rate": st.one_of(st.sampled_from([0.001, 0.1, 1.0]), st.floats(0.0, 2.0)),
        "every": st.integers(1, 1000),
        "staircase": st.booleans(),
    },
    _exponential,
    [],
    _only_start,
    edges=lambda every, **_: [every, 7 * every],
)


# Compositions.


def then(a: Case, b: Case) -> Case:
    shift = int(a.steps)

    def pick(step: Any) -> tuple[Case, Any]:
        return (a, step) if step < shift else (b, Fraction(step) - shift)

    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: (lambda part, local: getattr(part, name)(local))(*pick(step))

    return Case(
        f"{a.text}.then({b.text})",
        of("exact"),
        a.steps + b.steps,
        of("size"),
        of("crossed"),
        a.edges + [shift + edge for edge in b.edges],
        max(a.factors, b.factors),
        skipped=max(a.skipped, b.skipped),
    )


def warmup(a: Case, steps: int, start: float, shape: str) -> Case:
    first = a.value(0)

    def exact(step: Any) -> mpf:
        t = Fraction(step)
        return first * WARMUPS[shape](t, steps, start) if t < steps else a.exact(t - steps)

    return Case(
        f"{a.text}.warmup({steps!r}, start={start!r}, shape={shape!r})",
        exact,
        a.steps + steps,
        lambda step: abs(first) * max(1, mp(start)) if step < steps else a.size(Fraction(step) - steps),
        lambda step: step >= steps and a.crossed(Fraction(step) - steps),
        [0, *(steps + edge for edge in a.edges)],
        a.factors + 1,
    )


def scaled(a: Case, factor: float, *, left: bool) -> Case:
    return Case(
        f"({factor!r} * {a.text})" if left else f"({a.text} * {factor!r})",
        lambda step: mp(factor) * a.exact(step),
        a.steps,
        lambda step: abs(mp(factor)) * a.size(step),
        a.crossed,
        a.edges,
        a.factors + 1,
    )


def product(a: Case, b: Case) -> Case:
    return Case(
        f"({a.text} * {b.text})",
        lambda step: a.exact(step) * b.exact(step),
        max(a.steps, b.steps),
        lambda step: a.size(step) * b.size(step),
        lambda step: a.crossed(step) or b.crossed(step),
        a.edges + b.edges,
        a.factors + b.factors,
    )


def repeat(a: Case, times: int | None) -> Case:
    length = int(a.steps)

    def local(step: Any) -> Fraction:
        t = Fraction(step)
        turns = t // length
        return t - turns * length if times is None or turns < times else Fraction(length)

    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: getattr(a, name)(local(step))

    starts = [turn * length for turn in (1, 2, 3, 1000, (times or 2) - 1, times or 4)]
    edges = [start + edge for start in [0, *starts] for edge in a.edges]
    return Case(
        f"{a.text}.repeat({'' if times is None else times})",
        of("exact"),
        math.inf if times is None else times * length,
        of("size"),
        of("crossed"),
        [edge for edge in edges if edge <= LONGEST],
        a.factors,
        skipped=a.skipped,
    )


def skip(a: Case, steps: int) -> Case:
    """At times that are exact: `whole_steps` and `fractional_steps` see to it."""

    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: getattr(a, name)(Fraction(step) + steps)

    return Case(
        f"{a.text}.skip({steps})",
        of("exact"),
        a.steps - steps,
        of("size"),
        of("crossed"),
        [edge - steps for edge in a.edges if edge >= steps],
        a.factors,
        skipped=a.skipped + steps,
    )


def pace(factor: float | Fraction) -> Fraction:
    """A float is what it prints as, or itself where that takes numbers above 2**53."""
    exact = Fraction(repr(factor)) if isinstance(factor, float) else Fraction(factor)
    return exact if max(exact.as_integer_ratio()) <= LONGEST else Fraction(factor)


def speed_up(a: Case, factor: float | Fraction) -> Case:
    """At the time that its contract says, ``p * t / q`` in float64: near an end no other is close enough."""
    exact = pace(factor)
    steps = math.inf if math.isinf(a.steps) else math.ceil(int(a.steps) / exact)

    def local(step: Any) -> Fraction:
        if step >= steps:
            return Fraction(int(a.steps))
        return min(Fraction(exact.numerator * float(step) / exact.denominator), Fraction(LONGEST))

    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: getattr(a, name)(local(step))

    return Case(
        f"{a.text}.speed_up({factor!r})",
        of("exact"),
        steps,
        of("size"),
        of("crossed"),
        [edge for edge in (math.ceil(edge / exact) for edge in a.edges) if edge <= LONGEST],
        a.factors,
    )


def _unit(a: Case, step: Any) -> mpf:
    """What the law measures an error in."""
    exact = abs(a.exact(step))
    return max(exact, a.size(step)) if a.crossed(step) or exact < TINY else exact


def total(a: Case, b: Case | float) -> Case:
    """A sum. Its operands may cancel: the unit is the sum of their absolute values."""
    if not isinstance(b, Case):
        text, b = f"({a.text} + {b!r})", replace(KINDS["Constant"].case(value=b, steps=None), steps=0.0)
    else:
        text = f"({a.text} + {b.text})"

    def exact(step: Any) -> mpf:
        both = a.exact(step), b.exact(step)
        # Of two that leave the range of numbers the sum may be NaN
        return sum(both) if any(map(representable, both)) else mpmath.inf

    return Case(
        text,
        exact,
        max(a.steps, b.steps),
        lambda step: _unit(a, step) + _unit(b, step),
        lambda step: True,
        a.edges + b.edges,
        a.factors + b.factors,
    )


def clip(a: Case, low: float | None, high: float | None) -> Case:
    def exact(step: Any) -> mpf:
        value = a.exact(step)
        value = value if low is None else max(value, mp(low))
        return value if high is None else min(value, mp(high))

    return replace(a, text=f"{a.text}.clip({low!r}, {high!r})", exact=exact)


def head(a: Case, steps: int) -> Case:
    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: getattr(a, name)(min(Fraction(step), Fraction(steps)))

    edges = [*(edge for edge in a.edges if edge < steps), steps]
    return replace(
        a,
        text=f"{a.text}.head({steps})",
        exact=of("exact"),
        steps=steps,
        size=of("size"),
        crossed=of("crossed"),
        edges=edges,
        arguments={},
    )


def cooldown(a: Case, at: int, steps: int, shape: str, end: float) -> Case:
    with ample():
        v = a.exact(at)
        # The value at `at` is itself only as good as the law asks: nothing relative to it, or past it, is better
        absolute = a.crossed(at) or abs(v) < TINY or v * mp(end) < 0
        largest = max(_unit(a, at), abs(mp(end)))

    def exact(step: Any) -> mpf:
        t = Fraction(step)
        return a.exact(t) if t < at else _between(v, end, DECAYS[shape](min((t - at) / steps, Fraction(1))))

    return Case(
        f"{a.text}.cooldown(at={at}, steps={steps}, shape={shape!r}, end={end!r})",
        exact,
        at + steps,
        lambda step: a.size(step) if step < at else largest,
        lambda step: a.crossed(step) if step < at else absolute,
        [*(edge for edge in a.edges if edge < at), at, at + steps],
        a.factors + 1,
        skipped=a.skipped,
    )


def stretch(a: Case, factor: int) -> Case:
    """Geometrically; a timescale times the factor is rounded once, which counts as a factor."""

    def of(name: str) -> Callable[[Any], Any]:
        return lambda step: getattr(a, name)(Fraction(step) / factor)

    return Case(
        f"{a.text}.stretch({factor})",
        of("exact"),
        a.steps * factor,
        of("size"),
        of("crossed"),
        [edge * factor for edge in a.edges if edge * factor <= LONGEST],
        a.factors + 1,
    )


def noisy(a: Case, arguments: str, limit: float) -> Case:
    """Noise is whatever the package makes of its seed: there is no exact value, but the rest of a case there is."""

    def exact(step: Any) -> mpf:
        raise NotImplementedError("noise has no exact value")

    return replace(
        a,
        text=f"{a.text}.noisy({limit!r}, {arguments})",
        exact=exact,
        size=lambda step: (1 + mp(limit)) * a.size(step),
        crossed=lambda step: True,
        factors=a.factors + 1,
    )


_moderate = st.one_of(_nice, st.floats(1e-6, 1e3))
_moderate_signed = st.one_of(_moderate, _moderate.map(lambda v: -v))
# What compositions are made of: values whose products stay in range, horizons whose sums and multiples do.
_TAME: dict[Any, st.SearchStrategy[Any]] = {
    signed: _moderate_signed,
    positive: _moderate.filter(bool),
    horizons: short_horizons,
    horizons_or_none: st.none() | short_horizons,
    lengths: st.just(0) | short_horizons,
    intervals: st.integers(1, 1000),
    intervals_real: st.integers(1, 1000),
    milestones: st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(sorted),
    several: st.lists(_moderate_signed, min_size=1, max_size=40),
    divisors: divisors_tame,
    steep: exponents,  # which multiplies the rounding of a timescale
}
_BASES = {
    name: row.cases(**{argument: _TAME.get(drawn, drawn) for argument, drawn in row.arguments.items()}).filter(
        lambda case: math.isinf(case.steps) or case.steps <= 2**40
    )
    for name, row in KINDS.items()
}
_any_base = st.one_of(*_BASES.values())
_finite_base = _any_base.filter(lambda case: math.isfinite(case.steps))


@st.composite
def warmups(draw: st.DrawFn, base: st.SearchStrategy[Case] = _any_base) -> Case:
    a = draw(base.filter(lambda case: case.value(0) != 0))
    shape = draw(st.sampled_from(sorted(WARMUPS)))
    lowest = 1e-4 if shape == "exponential" else 0.0
    start = draw(
        st.one_of(st.just(max(lowest, 0.0)), st.sampled_from([0.01, 0.1, 0.5]), st.floats(max(lowest, 1e-6), 1.0))
    )
    return warmup(a, draw(short_horizons), start, shape)


_factors = st.one_of(_moderate_signed.filter(bool), st.integers(-4, 4).filter(bool))

_times = st.one_of(st.none(), st.integers(1, 5), st.integers(1, 1000))
_some_times = st.integers(1, 5)
# Logarithmic is no function of progress; exp_range's gamma and the step of a one-cycle's peak are rounded anew.
_stretchable = st.one_of(
    *(cases for name, cases in _BASES.items() if name not in ("Logarithmic", "OneCycle", "OneCycleMomentum"))
)
_stretchable = _stretchable.filter(lambda case: case.arguments.get("mode") != "exp_range")


@st.composite
def clips(draw: st.DrawFn) -> Case:
    low, high = sorted([draw(_moderate_signed), draw(_moderate_signed)])
    which = draw(st.sampled_from(["low", "high", "both"]))
    return clip(draw(_any_base), None if which == "high" else low, None if which == "low" else high)


@st.composite
def cooldowns(draw: st.DrawFn, base: st.SearchStrategy[Case] = _any_base) -> Case:
    a = draw(base)
    at = min(draw(whole_steps(a)), LONGEST - 2**40)
    assume(abs(a.value(at)) < 1e280)
    shape = draw(st.sampled_from(sorted(DECAYS)))
    return cooldown(a, at, draw(short_horizons), shape, draw(st.just(0.0) | _moderate_signed))


@st.composite
def heads(draw: st.DrawFn, base: st.SearchStrategy[Case] = _any_base) -> Case:
    a = draw(base)
    steps = min(max(1, draw(whole_steps(a))), LONGEST - 2**41)
    assume(abs(a.value(steps)) < 1e280)
    return head(a, steps)


@st.composite
def skips(draw: st.DrawFn, base: st.SearchStrategy[Case] = _any_base) -> Case:
    a = draw(base)
    last = LONGEST if math.isinf(a.steps) else int(a.steps) - 1
    near = sorted({step for edge in a.edges for step in (edge - 1, edge, edge + 1) if 0 <= step <= last})
    anywhere = st.integers(0, min(last, 2000)) | st.integers(0, last)
    return skip(a, draw(st.sampled_from(near) | anywhere if near else anywhere))


_chains = st.builds(then, _finite_base, _any_base)
_finite_chains = st.builds(then, _finite_base, _finite_base)
paces = st.one_of(
    st.sampled_from([2, 3, 10, 1000, 0.1, 1.5, Fraction(1, 2), Fraction(2, 3), Fraction(3, 2), Fraction(10, 7)]),
    st.fractions(Fraction(1, 1000), 1000, max_denominator=1000).filter(bool),
    st.floats(1e-3, 1e3),
)


def faster(base: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    """Not so slow that what is made of it is too long."""
    return st.builds(speed_up, base, paces).filter(lambda case: math.isinf(case.steps) or case.steps <= 2**40)


COMBINATIONS: dict[str, st.SearchStrategy[Case]] = {
    "by_rate": BY_RATE.cases(),
    "then": st.builds(then, _finite_base, _any_base),
    "then_then": st.builds(lambda a, b, c: then(then(a, b), c), _finite_base, _finite_base, _any_base),
    "warmup": warmups(),
    "warmup_then": st.builds(then, warmups(_finite_base), _any_base),
    "scaled": st.builds(lambda a, c, left: scaled(a, c, left=left), _any_base, _factors, st.booleans()),
    "scaled_warmup": st.builds(lambda a, c: scaled(a, c, left=False), warmups(), _factors),
    "warmup_of_scaled": warmups(st.builds(lambda a, c: scaled(a, c, left=False), _any_base, _factors)),
    "product": st.builds(product, _any_base, _any_base),
    "restarts_product": st.builds(product, _BASES["CosineRestarts"], _any_base),
    "repeat": st.builds(repeat, _finite_base, _times),
    "repeat_repeat": st.builds(
        lambda a, inner, times: repeat(repeat(a, inner), times), _finite_base, _some_times, _times
    ),
    "repeat_chain": st.builds(lambda a, b, times: repeat(then(a, b), times), _finite_base, _finite_base, _times),
    "repeat_then": st.builds(lambda a, times, b: then(repeat(a, times), b), _finite_base, _some_times, _any_base),
    "then_repeat": st.builds(lambda a, b, times: then(a, repeat(b, times)), _finite_base, _finite_base, _times),
    "repeat_product": st.builds(lambda a, times, b: product(repeat(a, times), b), _finite_base, _times, _any_base),
    "sum": st.builds(total, _any_base, _any_base),
    "sum_with_a_number": st.builds(total, _any_base, _moderate_signed),
    "sum_of_products": st.builds(lambda a, b, c: total(product(a, b), c), _any_base, _any_base, _any_base),
    "clip": clips(),
    "clip_then": st.builds(then, clips().filter(lambda case: math.isfinite(case.steps)), _any_base),
    "head": heads(),
    "head_then": st.builds(then, heads(), _any_base),
    "head_of_repeat": heads(st.builds(repeat, _finite_base, _times)),
    "head_repeat": st.builds(repeat, heads().filter(lambda case: case.steps <= 2**40), _times),
    "cooldown": cooldowns(),
    "cooldown_of_chain": cooldowns(st.builds(then, warmups(_finite_base), _any_base)),
    "cooldown_of_repeat": cooldowns(st.builds(repeat, _finite_base, _times)),
    "skip": skips(),
    "skip_of_chain": skips(_chains),
    "skip_of_repeat": skips(st.builds(repeat, _finite_chains, _times)),
    "skip_then": st.builds(then, skips(_finite_base), skips()),
    "skip_repeat": st.builds(repeat, skips(_finite_chains), _times),
    "speed_up": faster(_any_base),
    "speed_up_of_chain": faster(_chains),
    "speed_up_of_repeat": faster(st.builds(repeat, _finite_base, _times)),
    "speed_up_then": st.builds(then, faster(_finite_base), faster(_any_base)),
    "speed_up_repeat": st.builds(repeat, faster(_finite_chains), _times),
    "speed_up_product": st.builds(product, faster(_any_base), _any_base),
    "speed_up_of_repeated_speed_up": faster(st.builds(repeat, faster(_finite_base), _some_times)),
    "skip_of_speed_up": skips(faster(_any_base)),
    "cooldown_of_skip": cooldowns(skips()),
    "cooldown_of_speed_up": cooldowns(faster(_any_base)),
    "stretch": st.builds(stretch, _stretchable, st.integers(1, 1000)),
    "stretch_chain": st.builds(
        lambda a, b, factor: stretch(then(a, b), factor),
        _stretchable.filter(lambda case: math.isfinite(case.steps)),
        _stretchable,
        st.integers(1, 500),
    ),
}

CASES: dict[str, st.SearchStrategy[Case]] = {name: row.cases() for name, row in KINDS.items()} | COMBINATIONS

# Fixed schedules: every kind's examples and one of each composition, for tests across backends and processes.
_c, _l, _w = (
    KINDS["Cosine"].case(**KINDS["Cosine"].examples[0]),
    KINDS["Linear"].case(start=0.2, end=1.0, steps=50),
    KINDS["Rex"].case(start=0.5, end=0.1, steps=120),
)
EXAMPLES: dict[str, Case] = {
    **{
        (name if index == 0 else f"{name}-{index}"): row.case(**arguments)
        for name, row in KINDS.items()
        for index, arguments in enumerate(row.examples)
    },
    "then": then(_l, _c),
    "scaled": scaled(_c, 0.3, left=True),
    "product": product(_c, KINDS["Exponential"].case(start=1.0, gamma=0.999, every=1, staircase=False)),
    **{f"warmup-{shape}": warmup(_c, 100, 0.05, shape) for shape in WARMUPS},
    "composition": scaled(warmup(then(_l, _c), 30, 0.0, "linear"), 1e-3, left=True),
    "repeat": repeat(_l, 7),
    "repeat-forever": repeat(_l, None),
    "repeat-composition": repeat(then(repeat(_l, 2), warmup(_w, 30, 0.1, "cosine")), 3),
    "sum": total(_l, _c),
    "sum-with-a-number": total(_l, 0.125),
    "clip": clip(_c, 0.1, 0.8),
    "head": head(_c, 300),
    "head-then": then(head(repeat(_l, None), 120), head(_w, 200)),
    **{f"cooldown-{shape}": cooldown(_c, 400, 250, shape, 0.01) for shape in DECAYS},
    "stretch": stretch(_l, 3),
    "skip": skip(_c, 333),
    "skip-of-chain": skip(then(then(_l, repeat(_w, 3)), _c), 100),
    "skip-of-endless": skip(KINDS["Exponential"].case(start=1.0, gamma=0.999, every=1, staircase=False), 700),
    "skip-repeat": repeat(skip(then(_l, _w), 30), None),
    "speed_up": speed_up(_c, 8),
    "speed_up-slower": speed_up(_w, 0.3),
    "speed_up-of-chain": speed_up(then(_l, _c), Fraction(5, 3)),
    "speed_up-of-repeat": then(speed_up(repeat(_l, 7), 2.5), repeat(speed_up(_w, Fraction(4, 3)), 2)),
    "noisy": noisy(_c, "seed=7, distribution='normal', std=0.1", 0.25),
    "noisy-uniform": noisy(then(_l, _w), "seed=2**64 - 1, distribution='uniform'", 1.0),
    "noisy-repeated": repeat(noisy(_l, "seed=3", 0.1), 5),
}


def whole_steps(case: Case) -> st.SearchStrategy[int]:
    """Steps where something may go wrong: around the edges, before and after the end, anywhere."""
    near = [edge + by for edge in case.edges for by in (-2, -1, 0, 1, 2)]
    longest = LONGEST - case.skipped
    near = sorted({step for step in [0, 1, 2, *near] if 0 <= step <= longest}) or [0]
    last = int(1.25 * case.steps + 10) if math.isfinite(case.steps) else 5000
    return st.one_of(st.sampled_from(near), st.integers(0, min(last, longest)), st.integers(0, longest))


def windows_of(count: int, case: Case) -> st.SearchStrategy[int]:
    """Where windows of so many steps begin: so that edges fall inside them, none past the longest step."""
    return whole_steps(case).map(lambda step: max(0, min(step - 5, LONGEST - count)))


def fractional_steps(case: Case) -> st.SearchStrategy[float]:
    """Of normal size: what a subnormal step loses before it arrives is not the curve's.

    Nor is what a step loses when so many are added: it has the fraction that is left of it then.
    """
    last = 1.25 * case.steps + 10.0 if math.isfinite(case.steps) else 5000.0
    last = min(last, float(LONGEST - case.skipped))
    steps = st.one_of(
        st.floats(0.0, last, allow_subnormal=False),
        whole_steps(case).map(float),
        st.floats(0.0, min(3.0, last), allow_subnormal=False),
    )
    return steps.map(lambda step: (step + case.skipped) - case.skipped)
