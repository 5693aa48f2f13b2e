"""What the peers' compositions are made of: parts of a schedule, and curves over lengths that are not whole."""

from __future__ import annotations

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial, reduce
from typing import Any, NamedTuple

from fastsched._check import LARGEST_STEP, Number
from fastsched.compat._peer import Group
from fastsched.kinds import Constant, Polynomial
from fastsched.schedule import Schedule, Then

# A curve as a function of how many steps it takes.
Curve = Callable[[int], Schedule]

# Ticks of the finest clock over a curve: positions on it are good to 2**-44, and it can go on 1,000 times as long.
MOST_TICKS = 2**43
# Positions that are not whole need no more.
FINEST = 2**60


def exact(number: float | Fraction) -> Fraction:
    """A number as a fraction; a float stands for the simplest one that rounds to it, as 0.1 and 1/3 do."""
    if isinstance(number, float):
        simple = Fraction(number).limit_denominator(1 << 26)
        return simple if float(simple) == number else Fraction(number)
    return Fraction(number)


def length(group: Group, name: str, value: Any) -> Fraction:
    """A number of steps that may come as a float and need not be whole."""
    rule = Number("pass a number of steps", above=0.0, most=2.0**53)
    rule(group.who, name, value)
    return exact(value.item() if hasattr(value, "item") else value)


def divisor(group: Group, name: str, value: Any) -> float:
    """By what a peak is divided."""
    return float(Number("pass by what the peak is divided", above=0.0)(group.who, name, value))


def head(schedule: Schedule, steps: int) -> Schedule:
    """The first steps of a schedule, as one of that length."""
    if schedule.steps == steps:
        return schedule
    if isinstance(schedule, Constant):
        return Constant(schedule.value, steps=steps)
    return schedule.head(steps)


def tail(schedule: Schedule, steps: int) -> Schedule:
    """What is left after the first steps."""
    if steps == 0 or isinstance(schedule, Constant):
        return schedule
    if schedule.steps <= steps:
        return Constant(float(schedule(steps)))
    return schedule.skip(steps)


def chain(pieces: Sequence[Schedule]) -> Schedule:
    """One after another."""
    return reduce(Then, pieces)


def delayed(value: float, steps: int, schedule: Schedule) -> Schedule:
    """A value for so many steps, then the schedule."""
    return Constant(value, steps=steps).then(schedule) if steps else schedule


def spread(curve: Curve, steps: Fraction, begin: Fraction = Fraction(0)) -> Schedule:
    """A curve over any number of steps, from the step ``begin`` of it on; before its own begin it waits.

    On a clock that ticks so often that all is whole, or as often as float64 can tell apart, and sped up again.
    """
    if begin < 0:
        wait = math.ceil(-begin)
        rest = spread(curve, steps, begin + wait)
        return delayed(float(spread(curve, steps)(0)), wait, rest)
    ticks = math.lcm(steps.denominator, begin.denominator)
    if steps * ticks > MOST_TICKS:
        ticks = 1 << max(0, min(MOST_TICKS, math.floor(MOST_TICKS / steps)).bit_length() - 1)
    schedule = tail(curve(max(1, round(steps * ticks))), round(begin * ticks))
    constant = isinstance(schedule, Constant) and schedule.steps == math.inf
    return schedule if ticks == 1 or constant else schedule.speed_up(ticks)


class Stretch(NamedTuple):
    """A curve over its steps, whole or not, from ``begin`` of the whole on; update ``first`` is its first."""

    curve: Curve
    steps: Fraction
    begin: Fraction
    first: int


def tile(stretches: Sequence[Stretch]) -> Schedule:
    """Stretches one after another, each cut at the next one's first update; the last goes on as it does by itself."""
    pieces = []
    ends = [*(stretch.first for stretch in stretches[1:]), math.inf]
    for (curve, steps, begin, first), end in zip(stretches, ends, strict=True):
        if end > first:
            piece = spread(curve, steps, first - begin)
            pieces.append(piece if end == math.inf else head(piece, int(end) - first))
    return chain(pieces)


def abutting(curves: Sequence[tuple[Curve, Fraction]], firsts: Sequence[int] | None = None) -> Schedule:
    """Curves one after another: an update belongs to the curve in whose steps it lies, their begin included.

    Unless ``firsts`` says with which update each of them begins.
    """
    begins = [Fraction(0)]
    for _, steps in curves[:-1]:
        begins.append(rounded(begins[-1] + steps))
    firsts = firsts or [math.ceil(begin) for begin in begins]
    return tile([Stretch(*curve, begin, first) for curve, begin, first in zip(curves, begins, firsts, strict=True)])


def endless_power(steps: int, power: float) -> Schedule:
    """``(t / steps)**power``, which is at 1 after ``steps`` steps and goes on, as far as numbers go."""
    times = 1 << max(0, math.floor(min(16, (LARGEST_STEP // steps).bit_length() - 1, 900 / power)))
    return Polynomial(0.0, times**power, steps=steps * times, k=power).then(Constant(times**power))


def first_update(holds: Callable[[int], bool], most: int) -> int:
    """The first update for which something holds that then holds for ever; at most ``most``."""
    return bisect.bisect_left(range(most), True, key=holds)


def rounded(position: Fraction) -> Fraction:
    """A position with as many digits as are worth having: sums and powers of fractions grow without end."""
    return position if position.denominator <= FINEST else Fraction(round(position * FINEST), FINEST)


def part(group: Group, value: Any, **context: Any) -> Schedule:
    """A part of a composition whose peers have no base lr: a Schedule, or a function that makes it in this context."""
    inner = replace(group, context={**group.context, **context})
    if isinstance(value, partial):  # such as `build` makes: it brings the conditions that it was given
        value = partial(value, hyperparameter=inner.hyperparameter, context=inner.context)
    return inner.part(value).schedule
