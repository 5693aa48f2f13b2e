"""The exact value of every kind of schedule, from the definitions in the contract, with mpmath.

Nothing here shares code with the package. A `Case` is a schedule as Python text together with its exact value
at any step; `KINDS` has one row per kind and `COMBINATIONS` one per way of putting schedules together.
A new kind is one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import mpmath
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


def _power(x: Fraction, exponent: float) -> Fraction | mpf:
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


@dataclass(frozen=True)
class Kind:
    """One row: how to draw the arguments, the exact value, and what the laws need to know."""

    name: str
    arguments: dict[str, st.SearchStrategy[Any]]
    exact: Callable[..., mpf]  # (t: Fraction, **arguments), t not past the horizon
    examples: list[dict[str, Any]]  # fixed ones, for tests that compare without an oracle
    ends: Callable[..., tuple[Any, Any]]  # (**arguments) -> start, end
    endless: bool = False
    interpolates: bool = True
    periods: Callable[..., float] = lambda **_: 1.0  # half-turns of the curve; past the first it may touch zero
    edges: Callable[..., list[int]] = lambda **_: []

    def case(self, **arguments: Any) -> Case:
        horizon = arguments.get("steps")
        horizon = math.inf if self.endless or horizon is None else horizon

        def at(step: Any) -> Fraction:
            exact_step = Fraction(step)
            return exact_step if math.isinf(horizon) else min(exact_step, Fraction(horizon))

        def exact(step: Any) -> mpf:
            return mp(self.exact(at(step), **arguments))

        def size(step: Any) -> mpf:
            return max(abs(mp(end)) for end in self.ends(**arguments))

        def crossed(step: Any) -> bool:
            start, end = self.ends(**arguments)
            if start == 0:
                return self.turned(at(step), horizon, **arguments)
            if exact(step) * start <= 0:
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
        return st.fixed_dictionaries(drawn).map(lambda kw: self.case(**kw))


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


gammas = st.one_of(st.sampled_from([0.1, 0.5, 0.9, 0.97, 0.99999, 1.0]), st.floats(0.01, 1.05))
_milestone = st.one_of(st.integers(1, 50), st.integers(1, LONGEST))
milestones = st.lists(_milestone, min_size=1, max_size=6).map(sorted)

_ROWS = [
    Kind(
        "Constant",
        {"value": signed, "steps": st.none() | horizons},
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
        {"start": signed, "end": signed, "steps": horizons, "power": exponents},
        lambda t, start, end, steps, power: _between(start, end, _power(1 - t / steps, power)),
        [
            {"start": 1.0, "end": 0.0, "steps": 1000, "power": 1.0},
            {"start": 0.1, "end": 1e-4, "steps": 999, "power": 2.0},
            {"start": 0.01, "end": 1.0, "steps": 512, "power": 0.7},
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
        endless=True,
        edges=lambda every, **_: [every, 7 * every],
    ),
    Kind(
        "StepDecay",
        {"start": signed, "gamma": gammas, "every": st.one_of(st.integers(1, 100), st.integers(1, LONGEST))},
        lambda t, start, gamma, every: mp(start) * mp(gamma) ** mpf(t // every),
        [{"start": 1.0, "gamma": 0.5, "every": 30}, {"start": 0.1, "gamma": 0.97, "every": 7}],
        _only_start,
        endless=True,
        interpolates=False,
        edges=lambda every, **_: [every, 3 * every] if 3 * every <= LONGEST else [every],
    ),
    Kind(
        "MultiStep",
        {"start": signed, "milestones": milestones, "gamma": gammas},
        lambda t, start, milestones, gamma: mp(start) * mp(gamma) ** sum(edge <= t for edge in milestones),
        [{"start": 1.0, "milestones": [100, 250, 250, 700], "gamma": 0.1}],
        _only_start,
        endless=True,
        interpolates=False,
        edges=lambda milestones, **_: list(milestones),
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
    endless=True,
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


_moderate = st.one_of(_nice, st.floats(1e-6, 1e3))
_moderate_signed = st.one_of(_moderate, _moderate.map(lambda v: -v))
_any_base = st.one_of(
    *(
        row.cases(
            start=_moderate.filter(bool) if row.name == "Geometric" else _moderate_signed,
            end=_moderate.filter(bool) if row.name == "Geometric" else _moderate_signed,
            value=_moderate_signed,
            steps=short_horizons,
            every=st.integers(1, 1000),
            milestones=st.lists(st.integers(1, 10**6), min_size=1, max_size=6).map(sorted),
        )
        for row in KINDS.values()
    )
)
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
}

CASES: dict[str, st.SearchStrategy[Case]] = {name: row.cases() for name, row in KINDS.items()} | COMBINATIONS

# Fixed schedules: every kind's examples and one of each composition, for tests across backends and processes.
_c, _l = (
    KINDS["Cosine"].case(**KINDS["Cosine"].examples[0]),
    KINDS["Linear"].case(start=0.2, end=1.0, steps=50),
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
}


def whole_steps(case: Case) -> st.SearchStrategy[int]:
    """Steps where something may go wrong: around the edges, before and after the end, anywhere."""
    near = [edge + by for edge in case.edges for by in (-2, -1, 0, 1, 2)]
    near = sorted({step for step in [0, 1, 2, *near] if 0 <= step <= LONGEST})
    last = int(min(LONGEST, 1.25 * case.steps + 10)) if math.isfinite(case.steps) else 5000
    return st.one_of(st.sampled_from(near), st.integers(0, last), st.integers(0, LONGEST))


def windows_of(count: int, case: Case) -> st.SearchStrategy[int]:
    """Where windows of so many steps begin: so that edges fall inside them, none past the longest step."""
    return whole_steps(case).map(lambda step: max(0, min(step - 5, LONGEST - count)))


def fractional_steps(case: Case) -> st.SearchStrategy[float]:
    last = min(float(LONGEST), 1.25 * case.steps + 10.0) if math.isfinite(case.steps) else 5000.0
    return st.one_of(st.floats(0.0, last), whole_steps(case).map(float), st.floats(0.0, min(3.0, last)))
