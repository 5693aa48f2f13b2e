"""keras' schedules: ``keras.optimizers.schedules``.

keras' schedules hold absolute values and count steps from 0; there is no base lr. ``name`` is accepted and of no
effect. keras computes in the dtype of ``initial_learning_rate``, float32 by default, so it agrees with these to about
1e-6; an int there makes keras compute in ints.

>>> from fastsched import compat
>>> s = compat.keras.CosineDecay(0.0, decay_steps=100, alpha=0.5, warmup_target=1.0, warmup_steps=10)
>>> s(0), s(10), s(60), s(110)
(0.0, 1.0, 0.75, 0.5)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import partial, reduce
from operator import mul

from fastsched._check import LARGEST_STEP, LARGEST_VALUE, VALUE, Flag, Number, Several
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import Curve, abutting, delayed, exact, length, rounded, spread, tail
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseTime,
    Linear,
    Piecewise,
    Polynomial,
    PowerLaw,
    Samples,
)
from fastsched.schedule import Schedule

__all__ = [
    "CosineDecay",
    "CosineDecayRestarts",
    "ExponentialDecay",
    "InverseTimeDecay",
    "PiecewiseConstantDecay",
    "PolynomialDecay",
]

MOST_CYCLES = 4096


@peer(base=False)
def ExponentialDecay(
    group: Group,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
    name: str = "ExponentialDecay",
) -> Schedule:
    """`Exponential`: a factor ``decay_rate`` for every ``decay_steps``.

    >>> ExponentialDecay(1.0, decay_steps=10, decay_rate=0.5, staircase=True)
    Exponential(1.0, gamma=0.5, every=10.0, staircase=True)
    """
    return Exponential(initial_learning_rate, gamma=decay_rate, every=decay_steps, staircase=staircase)


@peer(base=False)
def InverseTimeDecay(
    group: Group,
    initial_learning_rate: float,
    decay_steps: int,
    decay_rate: float,
    staircase: bool = False,
    name: str = "InverseTimeDecay",
) -> Schedule:
    """`InverseTime`: ``initial_learning_rate / (1 + decay_rate * t/decay_steps)``.

    >>> InverseTimeDecay(1.0, decay_steps=10, decay_rate=0.5)
    InverseTime(1.0, rate=0.5, every=10.0)
    """
    return InverseTime(initial_learning_rate, rate=decay_rate, every=decay_steps, staircase=staircase)


@peer(base=False)
def PiecewiseConstantDecay(
    group: Group, boundaries: Sequence[int], values: Sequence[float], name: str = "PiecewiseConstant"
) -> Schedule:
    """`Piecewise`, one step late: at a boundary itself the value before it still counts, unlike everywhere else.

    >>> PiecewiseConstantDecay([10, 25], [1.0, 0.5, 0.1])
    Piecewise(boundaries=(11, 26), values=(1.0, 0.5, 0.1))
    """
    rule = Several(Number("pass a step", least=-(2.0**53), most=2.0**53 - 1), ascending=True)
    edges = [max(0, math.floor(boundary) + 1) for boundary in rule(group.who, "boundaries", boundaries)]
    return Piecewise(boundaries=edges, values=values)


@peer(base=False)
def PolynomialDecay(
    group: Group,
    initial_learning_rate: float,
    decay_steps: int,
    end_learning_rate: float = 0.0001,
    power: float = 1.0,
    cycle: bool = False,
    name: str = "PolynomialDecay",
) -> Schedule:
    """`Polynomial`; with ``cycle`` again and again, each time over ``decay_steps`` more.

    With ``cycle`` the horizon is ``decay_steps * ceil(t / decay_steps)``: every multiple of ``decay_steps`` but 0 is at
    ``end_learning_rate``, and cycle ``i`` (from 1) is ``i**power`` times nearer to it than the first, so this is a
    repeated `Polynomial` times a staircase. The stairs have no end for a power of 1, 2, 3 or 4 (`InverseTime`); for any
    other, all cycles from the 4096th on are alike.

    >>> PolynomialDecay(1.0, decay_steps=100, end_learning_rate=0.1, power=0.5)
    Polynomial(1.0, 0.1, steps=100, power=0.5)
    >>> s = PolynomialDecay(1.0, decay_steps=100, end_learning_rate=0.0, cycle=True)
    >>> s(0), s(75), s(100), s(125), s(200)
    (1.0, 0.25, 0.0, 0.375, 0.0)
    """
    steps = length(group, "decay_steps", decay_steps)
    if not Flag("one descent is False")(group.who, "cycle", cycle):
        start, end = initial_learning_rate, end_learning_rate
        return spread(lambda n: Polynomial(start, end, steps=n, power=power), steps)
    if steps.denominator != 1:
        raise ValueError(f"{group.who}: decay_steps must be whole with cycle, got {float(steps):g}; round it")
    height = VALUE(group.who, "initial_learning_rate", initial_learning_rate) - VALUE(
        group.who, "end_learning_rate", end_learning_rate
    )
    return delayed(initial_learning_rate, 1, _cycles(int(steps), power) * height + end_learning_rate)


def _cycles(steps: int, power: float) -> Schedule:
    """Falls from 1 to 0, then from 1/2**power, 1/3**power and so on, from the update after the first one on."""
    fall = Polynomial(1.0, 0.0, steps=steps, power=power)
    if steps == 1:
        return Constant(0.0)
    repeated = tail(fall, 1).then(Constant(0.0, steps=1)).repeat()
    if power in (1, 2, 3, 4):
        stair = InverseTime(1.0, rate=1.0, every=steps, staircase=True)
        return reduce(mul, [stair] * int(power), repeated)
    heights = PowerLaw(1.0, exponent=power, timescale=1).table(MOST_CYCLES)
    stairs = Samples(heights).speed_up(Fraction(1, steps))  # samples do not interpolate
    return repeated * stairs


@peer(base=False)
def CosineDecay(
    group: Group,
    initial_learning_rate: float,
    decay_steps: int,
    alpha: float = 0.0,
    name: str = "CosineDecay",
    warmup_target: float | None = None,
    warmup_steps: int = 0,
) -> Schedule:
    """`Cosine` down to ``alpha`` times where it begins, after a `Linear` warmup if ``warmup_target`` is given.

    The warmup rises from ``initial_learning_rate`` to ``warmup_target`` and comes before the ``decay_steps``; without
    a target ``warmup_steps`` has no effect. All as in keras.

    >>> CosineDecay(0.0, decay_steps=100, warmup_target=1.0, warmup_steps=10)
    Linear(0.0, 1.0, steps=10).then(Cosine(1.0, 0.0, steps=100))
    """
    start = VALUE(group.who, "initial_learning_rate", initial_learning_rate)
    peak = start if warmup_target is None else VALUE(group.who, "warmup_target", warmup_target)
    floor = peak * VALUE(group.who, "alpha", alpha)
    steps = length(group, "decay_steps", decay_steps)
    curves: list[tuple[Curve, Fraction]] = [(lambda n: Cosine(peak, floor, steps=n), steps)]
    if warmup_target is not None and warmup_steps != 0:
        curves.insert(0, (lambda n: Linear(start, peak, steps=n), length(group, "warmup_steps", warmup_steps)))
    return abutting(curves)


@peer(base=False)
def CosineDecayRestarts(
    group: Group,
    initial_learning_rate: float,
    first_decay_steps: int,
    t_mul: float = 2.0,
    m_mul: float = 1.0,
    alpha: float = 0.0,
    name: str = "SGDRDecay",
) -> Schedule:
    """`CosineRestarts` above a floor: ``m_mul`` lowers only what is above ``alpha * initial_learning_rate``.

    keras finds the cycle by ``floor(log(...))``, which misfires at some restarts (there its value is the cycle's last
    one instead of the peak); cycles are counted here. With a ``t_mul`` that is not whole, cycles begin between updates,
    and after 4096 of them it holds its last value.

    >>> CosineDecayRestarts(1.0, first_decay_steps=10, m_mul=0.5, alpha=0.1)
    (CosineRestarts(0.9, 0.0, first=10, multiplier=2, decay=0.5) + Constant(0.1))
    """
    base = VALUE(group.who, "initial_learning_rate", initial_learning_rate)
    share = VALUE(group.who, "alpha", alpha)
    steps = length(group, "first_decay_steps", first_decay_steps)
    longer = exact(Number("cycles of one length have t_mul=1", least=1.0, most=2.0**53)(group.who, "t_mul", t_mul))
    lower = Number("peaks of one height have m_mul=1", least=0.0)(group.who, "m_mul", m_mul)
    above = base * (1 - share)
    if lower == 0.0:
        restarts = spread(lambda n: Cosine(above, 0.0, steps=n), steps)
    elif steps.denominator == longer.denominator == 1:
        restarts = CosineRestarts(above, 0.0, first=int(steps), multiplier=int(longer), decay=lower)
    else:
        restarts = _restarts(above, steps, longer, lower)
    return restarts + base * share if share else restarts


def _restarts(peak: float, first: Fraction, longer: Fraction, lower: float) -> Schedule:
    """One cosine after another, each ``longer`` times as long and ``lower`` times as high as the one before."""
    curves: list[tuple[Curve, Fraction]] = []
    end, steps, height = Fraction(0), first, peak
    while end + steps <= LARGEST_STEP and abs(height) <= LARGEST_VALUE and len(curves) < MOST_CYCLES:
        curves.append((partial(_fall, height), steps))
        end, steps, height = end + steps, rounded(steps * longer), height * lower
    return abutting(curves)


def _fall(height: float, steps: int) -> Schedule:
    return Cosine(height, 0.0, steps=steps)
