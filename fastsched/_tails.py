"""What becomes of a schedule as the step grows without bound, in closed form.

A tail is a sum of terms ``c(t) * exp(rate * t) * t**power``, each coefficient ``c`` bounded: a number for every phase
of a common period, or an interval within which it keeps wandering. That is closed under everything that combines
schedules, and whether the sums of the values and of their squares are finite can be read off the terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastsched.kinds import (
    EXACT,
    Constant,
    CosineRestarts,
    Exponential,
    Infinite,
    InverseSqrt,
    InverseTime,
    MultiStep,
    Piecewise,
    PowerLaw,
    StepDecay,
    Triangular,
)
from fastsched.schedule import Clip, Noisy, Product, Repeat, Scaled, Schedule, Skip, SpeedUp, Sum, Then

Floats = npt.NDArray[np.float64]

LONGEST_PERIOD = 1 << 14  # of a coefficient given phase by phase; that of a longer one is an interval
MOST_TERMS = 8
# Coefficients matter by their sign, and where two of one order meet: this keeps products of many from overflowing.
LARGEST_COEFFICIENT = 1e150
ROUNDING = 1e-12  # a sum of coefficients, or of rates, that is smaller relative to its parts is zero


class Order(NamedTuple):
    """How fast ``exp(rate * t) * t**power`` grows; tuples compare as the functions do."""

    rate: float
    power: Fraction

    def times(self, other: Order) -> Order:
        """The order of a product."""
        rate = self.rate + other.rate
        if abs(rate) <= ROUNDING * max(abs(self.rate), abs(other.rate)):
            rate = 0.0
        return Order(rate, self.power + other.power)

    def same_as(self, other: Order) -> bool:
        """Whether the ratio of the two functions is 1."""
        return self.power == other.power and math.isclose(self.rate, other.rate, rel_tol=ROUNDING)

    def sum_is_infinite(self, exponent: int = 1) -> bool:
        """Whether the sum over all steps of this, to the power of ``exponent``, is infinite."""
        return self.rate > 0.0 or (self.rate == 0.0 and exponent * self.power >= -1)


STEADY = Order(0.0, Fraction(0))


class Term(NamedTuple):
    """An order and its coefficient: per phase, the interval that it keeps to."""

    order: Order
    low: Floats
    high: Floats


class Tail:
    """Terms of falling order, all of one period."""

    def __init__(self, terms: Iterable[Term]) -> None:
        merged: list[Term] = []
        for term in sorted(_of_one_period(list(terms)), key=lambda term: term.order, reverse=True):
            if merged and merged[-1].order.same_as(term.order):
                merged[-1] = _added(merged[-1], term)
            else:
                merged.append(term)
        self.terms = [term for term in merged if term.low.any() or term.high.any()][:MOST_TERMS]

    # ---- what one wants to know ----

    def sum_is_infinite(self, exponent: int = 1) -> bool:
        """Whether the sum of the values' sizes, each to the power of ``exponent``, is infinite."""
        return any(term.order.sum_is_infinite(exponent) for term in self.terms)

    def is_negative_at_times(self) -> bool:
        """Whether values below zero come again and again."""
        low, _ = self._leading()
        return bool((low < 0.0).any())

    def _leading(self) -> tuple[Floats, Floats]:
        """The coefficients that decide the sign in each phase."""
        if not self.terms:
            return np.zeros(1), np.zeros(1)
        low, high = self.terms[0].low.copy(), self.terms[0].high.copy()
        for term in self.terms[1:]:
            undecided = (low == 0.0) & (high == 0.0)
            low[undecided], high[undecided] = term.low[undecided], term.high[undecided]
        return low, high

    # ---- combination ----

    def plus(self, other: Tail) -> Tail:
        """The sum of two schedules."""
        return Tail([*self.terms, *other.terms])

    def times(self, other: Tail) -> Tail:
        """Their product."""
        products = []
        for a in self.terms:
            for b in other.terms:
                a_, b_ = _of_one_period([a, b])
                corners = [x * y for x in (a_.low, a_.high) for y in (b_.low, b_.high)]
                low, high = np.minimum.reduce(corners), np.maximum.reduce(corners)
                products.append(Term(a.order.times(b.order), _tamed(low), _tamed(high)))
        return Tail(products)

    def later(self, steps: int) -> Tail:
        """The same so many steps later; earlier if that is negative."""
        terms = []
        for order, low, high in self.terms:
            factor = _exp(-order.rate * steps)
            shifted = [np.roll(_tamed(bound * factor), steps % len(bound)) for bound in (low, high)]
            terms += _with_remainder(Term(order, *shifted))
        return Tail(terms)

    def faster(self, factor: Fraction) -> Tail:
        """The same, ``factor`` times as fast."""
        terms = []
        for order, low, high in self.terms:
            scale = float(factor) ** float(order.power)
            bounds: list[Floats] = [_tamed(bound * scale) for bound in (low, high)]
            if factor.denominator == 1:
                phases = [int(factor) * phase % len(low) for phase in range(len(low))]
                bounds = [bound[phases] for bound in bounds]
            else:
                bounds = [np.array([bounds[0].min()]), np.array([bounds[1].max()])]
            terms.append(Term(Order(order.rate * float(factor), order.power), *bounds))
        return Tail(terms)

    def at_least(self, bound: float) -> Tail:
        """The values, or ``bound`` where they are smaller."""
        difference = self.plus(steady(-bound))
        low, high = difference._leading()
        above, crossing = (mask.astype(np.float64) for mask in (low >= 0.0, (low < 0.0) & (high > 0.0)))
        kept = self.times(steady(*above))
        bounded = steady(bound).times(steady(*(1.0 - above)))
        # Where the sign changes the bound is exceeded at times, by up to the difference.
        excess = difference.times(Tail([Term(STEADY, np.zeros(len(low)), crossing)]))
        positive = [Term(t.order, np.maximum(t.low, 0.0), np.maximum(t.high, 0.0)) for t in excess.terms[:1]]
        return kept.plus(bounded).plus(Tail(positive))

    def at_most(self, bound: float) -> Tail:
        """The values, or ``bound`` where they are larger."""
        return self.times(steady(-1.0)).at_least(-bound).times(steady(-1.0))


def steady(*values: float) -> Tail:
    """Values over and over."""
    each = np.array(values)
    return Tail([Term(STEADY, each, each)])


def _of_one_period(terms: Sequence[Term]) -> list[Term]:
    period = math.lcm(*(len(term.low) for term in terms)) if terms else 1
    if period <= LONGEST_PERIOD:
        return [Term(t.order, *(np.tile(b, period // len(b)) for b in (t.low, t.high))) for t in terms]
    return [Term(t.order, t.low.min(keepdims=True), t.high.max(keepdims=True)) for t in terms]


def _added(a: Term, b: Term) -> Term:
    bounds = []
    for x, y in ((a.low, b.low), (a.high, b.high)):
        total = x + y
        if a.order != STEADY:  # those coefficients are not exact
            total[np.abs(total) <= ROUNDING * np.maximum(np.abs(x), np.abs(y))] = 0.0
        bounds.append(total)
    return Term(a.order, *bounds)


def _with_remainder(term: Term) -> list[Term]:
    """A power of the step is only the leading term of its expansion."""
    if term.order.power == 0:
        return [term]
    size = np.maximum(np.abs(term.low), np.abs(term.high))
    return [term, Term(term.order._replace(power=term.order.power - 1), -size, size)]


def _tamed(coefficient: Floats) -> Floats:
    size = np.clip(np.abs(coefficient), 1.0 / LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
    return np.where(coefficient == 0.0, 0.0, np.copysign(size, coefficient))


def _exp(exponent: float) -> float:
    return math.exp(min(max(exponent, -345.0), 345.0))


# ---- kinds without an end ----


def _pattern(schedule: Schedule, period: int) -> Tail:
    """A schedule that repeats itself."""
    if period <= LONGEST_PERIOD:
        return steady(*schedule.table(period))
    values = schedule(np.linspace(0, period - 1, LONGEST_PERIOD).round())
    assert isinstance(values, np.ndarray)
    return _between(float(values.min()), float(values.max()))


def _between(a: float, b: float, order: Order = STEADY) -> Tail:
    """A coefficient that keeps wandering from one value to the other."""
    return Tail([Term(order, np.array([min(a, b)]), np.array([max(a, b)]))])


def _growth(rate: float) -> Tail:
    """``exp(rate * t)``."""
    return Tail([Term(Order(rate, Fraction(0)), np.ones(1), np.ones(1))])


def _power(start: float, timescale: float, exponent: Fraction) -> Tail:
    """``start * (t/timescale)**(-exponent)`` and smaller terms."""
    scale = _exp(math.log(timescale) * float(exponent))
    coefficient = _tamed(np.array([start * min(scale, LARGEST_COEFFICIENT)]))
    return Tail(_with_remainder(Term(Order(0.0, -exponent), coefficient, coefficient)))


def _last_piece(schedule: Infinite | MultiStep | Piecewise) -> Tail:
    pieces = schedule._pieces() if not isinstance(schedule, Infinite) else [Constant(schedule.plateau)]
    return steady(pieces[-1](0))


def _exponential(schedule: Exponential) -> Tail:
    logarithm = -schedule.rate if schedule.rate is not None else math.log(schedule.gamma or 1.0)
    return _decay(schedule.start, logarithm, schedule.every, schedule.staircase)


def _decay(start: float, logarithm: float, every: float, staircase: bool) -> Tail:
    """``start * exp(logarithm * t/every)``; with steps it wanders above and below by up to one of them."""
    growth = _growth(logarithm / every)
    return growth.times(_between(start, start * _exp(-logarithm)) if staircase else steady(start))


def _inverse_time(schedule: InverseTime) -> Tail:
    if schedule.rate == 0.0:
        return steady(schedule.start)
    return _power(schedule.start, schedule.every / schedule.rate, Fraction(1))


def _triangular(schedule: Triangular) -> Tail:
    period = schedule._period()
    if schedule.mode == "triangular":
        return _pattern(schedule, period)
    down = period - schedule.up
    wave = _pattern(Triangular(0.0, 1.0, up=schedule.up, down=down), period).times(
        steady(schedule.high).plus(steady(-schedule.low))
    )
    if schedule.mode == "exp_range":
        damping = _growth(math.log(schedule.gamma))
    else:
        damping = _decay(1.0, -math.log(2.0), period, staircase=True)
    return steady(schedule.low).plus(wave.times(damping))


def _restarts(schedule: CosineRestarts) -> Tail:
    start, end = schedule.start, schedule.end
    if schedule.multiplier == 1:
        first = schedule.first
        weight = _pattern(CosineRestarts(first=first), first)
        decay = _decay(start, math.log(schedule.decay), first, staircase=schedule.decay != 1.0)
    else:
        # Cycle i lies at steps of the order of multiplier**i: its peak is a power of the step.
        weight = _between(0.0, 1.0)
        power = _logarithm_to_base(schedule.decay, schedule.multiplier)
        decay = Tail([Term(Order(0.0, power), np.array([start]), np.array([start]))])
    if schedule.decay == 1.0:  # otherwise its two ends would count as unrelated
        return _pattern(schedule, first) if schedule.multiplier == 1 else _between(start, end)
    rest = steady(end).times(steady(1.0).plus(weight.times(steady(-1.0))))
    return rest.plus(weight.times(decay))


def _logarithm_to_base(value: float, base: int) -> Fraction:
    """Exact where it is a simple fraction: 1/3 stands for a third, though no float is one."""
    exact = EXACT.divide(EXACT.ln(Decimal(value)), EXACT.ln(Decimal(base)))
    simple = Fraction(exact).limit_denominator(64)
    rounding = 2.0**-52 / math.log(base)
    return simple if abs(Fraction(exact) - simple) <= rounding else Fraction(exact)


_KINDS: dict[type[Schedule], Callable[[Any], Tail]] = {
    Constant: lambda s: steady(s.value),
    MultiStep: _last_piece,
    Piecewise: _last_piece,
    Infinite: _last_piece,
    Exponential: _exponential,
    StepDecay: lambda s: _decay(s.start, math.log(s.gamma), s.every, staircase=True),
    InverseSqrt: lambda s: _power(s.start, s.timescale, Fraction(1, 2)),
    InverseTime: _inverse_time,
    PowerLaw: lambda s: _power(s.start, s.timescale, Fraction(s.exponent)),
    Triangular: _triangular,
    CosineRestarts: _restarts,
    Repeat: lambda s: _pattern(s._parts[0], int(s._parts[0].steps)),
}


# ---- combinators ----


def _clip(schedule: Clip, inner: Tail) -> Tail:
    if schedule.low is not None:
        inner = inner.at_least(schedule.low)
    return inner if schedule.high is None else inner.at_most(schedule.high)


def _then(schedule: Then, last: Tail) -> Tail:
    return last.later(sum(int(piece.steps) for piece in schedule._pieces()[:-1]))


_COMBINATORS: dict[type[Schedule], Callable[..., Tail]] = {
    Then: _then,
    Scaled: lambda s, inner: inner.times(steady(s.factor)),
    Product: lambda s, a, b: a.times(b),
    Sum: lambda s, a, b: a.plus(b),
    Clip: _clip,
    Skip: lambda s, inner: inner.later(-s.skipped),
    SpeedUp: lambda s, inner: inner.faster(Fraction(s.numerator, s.denominator)),
    Noisy: lambda s, inner: inner.times(_between(1.0 - s.limit, 1.0 + s.limit)),
}


def tail(schedule: Schedule) -> Tail:
    """The tail of any schedule: one that ends holds its last value."""
    results: dict[int, Tail] = {}
    stack = [schedule]
    while stack:  # not by recursion: schedules nest to any depth
        node = stack[-1]
        if id(node) in results:
            stack.pop()
            continue
        parts = _parts(node)
        missing = [part for part in parts if id(part) not in results]
        if missing:
            stack += missing
            continue
        if node.steps != math.inf:
            results[id(node)] = steady(float(node(node.steps)))
        elif type(node) in _KINDS:
            results[id(node)] = _KINDS[type(node)](node)
        else:
            results[id(node)] = _COMBINATORS[type(node)](node, *(results[id(part)] for part in parts))
        stack.pop()
    return results[id(schedule)]


def _parts(node: Schedule) -> Sequence[Schedule]:
    """The operands that its tail is made of."""
    if node.steps != math.inf or type(node) in _KINDS:
        return ()
    return node._pieces()[-1:] if isinstance(node, Then) else node._operands()
