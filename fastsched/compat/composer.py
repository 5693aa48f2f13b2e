"""Composer's schedulers by their names and arguments; all are factors of the group's lr.

Times are strings such as ``"3ep"``, ``"100ba"``, ``"5e4sp"``, ``"1e9tok"`` or ``"0.1dur"``, or composer's own ``Time``.
The context says what they refer to: ``max_duration`` (an int counts epochs), ``dataloader_len``, ``batch_size`` and
``sequence_length`` (samples of one update over all processes, tokens of one sample; for ``sp`` and ``tok`` only), and
``ssr``, the scale schedule ratio. As in composer, a scaled ``max_duration`` is the one after scaling, ``dur`` is not
scaled again, and every time is cut off to a whole number: 0.29 of 100 batches is 28, since the float product is.

Update t is at batch t here, as composer's documentation means it. Its Trainer however steps the scheduler before it
counts the batch: there update t >= 1 uses what is ``s(t - 1)``, ``Constant(s(0), steps=1).then(s)``, and the last value
is never used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastsched._check import LARGEST_STEP, VALUE, Flag, Number, shown
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import chain, head
from fastsched.kinds import Constant, Cosine, CosineRestarts, Exponential, Linear, MultiStep, Polynomial, StepDecay
from fastsched.schedule import Schedule
from fastsched.units import parse_time

__all__ = [
    "ConstantScheduler",
    "ConstantWithWarmupScheduler",
    "CosineAnnealingScheduler",
    "CosineAnnealingWarmRestartsScheduler",
    "CosineAnnealingWithWarmupScheduler",
    "ExponentialScheduler",
    "LinearScheduler",
    "LinearWithWarmupScheduler",
    "MultiStepScheduler",
    "MultiStepWithWarmupScheduler",
    "PolynomialScheduler",
    "PolynomialWithWarmupScheduler",
    "StepScheduler",
]

MOST_CYCLES = 4096  # of different lengths


class _Time(NamedTuple):
    """A point in training: ``ba``, ``sp`` or ``tok``; a run may also be ``ep`` long."""

    value: int
    unit: str


# ---- times ----


def _parsed(group: Group, name: str, time: Any) -> tuple[float, str]:
    """The number as composer has it: a float for a duration, else an int."""
    if hasattr(time, "to_timestring"):
        time = time.to_timestring()
    exact, unit = parse_time(group.who, name, time)
    if unit == "dur":
        return float(exact), unit
    if exact.denominator != 1:
        raise ValueError(
            f"{group.who}: {name} must be a whole number of {unit}, got {shown(time)}; pass a fraction as dur"
        )
    return int(exact), unit


def _of_context(group: Group, name: str, what: str) -> int:
    return group.whole(name, group.need(name, what), 1)


def _duration(group: Group) -> _Time:
    """How long the run is."""
    name = "max_duration"
    given = group.need(name, "'10ep'")
    if not isinstance(given, str) and not hasattr(given, "to_timestring"):
        return _Time(_of_context(group, name, "'10ep'"), "ep")
    value, unit = _parsed(group, name, given)
    if unit == "dur":
        raise ValueError(f"{group.who}: {name} must not be a fraction of itself, got {shown(given)}; pass '10ep'")
    return _Time(int(value), unit)


def _time(group: Group, name: str, time: Any, *, scaled: bool = True) -> _Time:
    """A time in batches, samples or tokens, cut off as composer does it."""
    value, unit = _parsed(group, name, time)
    if unit == "dur":
        total, unit = _duration(group)
        if unit == "ep":
            return _Time(int(value * _of_context(group, "dataloader_len", "1000") * total), "ba")
        return _Time(int(value * total), unit)
    if unit == "ep":
        value, unit = value * _of_context(group, "dataloader_len", "1000"), "ba"
    return _Time(int(value * _ratio(group)) if scaled else int(value), unit)


def _ratio(group: Group) -> float:
    rule = Number("an unscaled schedule has 1", above=0.0)
    return rule(group.who, "ssr", group.context.get("ssr", 1.0))  # type: ignore[no-any-return]


def _length(group: Group, name: str, time: Any, *, scaled: bool = True) -> _Time:
    """A time that is not 0."""
    length = _time(group, name, time, scaled=scaled)
    if length.value < 1:
        raise ValueError(
            f"{group.who}: {name} must be at least 1{length.unit}, got {shown(time)}, which composer cuts off to "
            f"{length.value}; pass a longer time"
        )
    return length


def _rate(group: Group, unit: str) -> int:
    """How many units an update is."""
    if unit == "ba":
        return 1
    samples = _of_context(group, "batch_size", "256")
    return samples if unit == "sp" else samples * _of_context(group, "sequence_length", "2048")


def _update(group: Group, time: _Time) -> int:
    """The first update at or after a time."""
    return -(-time.value // _rate(group, time.unit))


def _clocked(group: Group, unit: str, schedule: Schedule) -> Schedule:
    """A schedule over units as one over updates."""
    rate = _rate(group, unit)
    return schedule if rate == 1 else schedule.speed_up(rate)


def _scaled(group: Group, unit: str, schedule: Schedule) -> Schedule:
    """The group's lr times a schedule over units."""
    return _clocked(group, unit, schedule) * float(group.base)


# ---- schedulers ----


@peer
def StepScheduler(group: Group, step_size: Any, gamma: float = 0.1) -> Schedule:
    """A factor of ``gamma`` every ``step_size``.

    Composition: `StepDecay`.

    >>> s = StepScheduler(1.0, "10ba", gamma=0.5)
    >>> s(9), s(10)
    (1.0, 0.5)
    """
    size = _length(group, "step_size", step_size)
    return _scaled(group, size.unit, StepDecay(gamma=gamma, every=size.value))


@peer
def MultiStepScheduler(group: Group, milestones: Sequence[Any], gamma: float = 0.1) -> Schedule:
    """A factor of ``gamma`` from each milestone on; they may come in any order and unit.

    Composition: `MultiStep`.

    >>> s = MultiStepScheduler(1.0, ["0.5dur", "30ba"], gamma=0.5, context={"max_duration": "40ba"})
    >>> s(19), s(20), s(30)
    (1.0, 0.5, 0.25)
    """
    return _milestones(group, milestones, gamma, 0) * float(group.base)


def _milestones(group: Group, milestones: Any, gamma: Any, begin: int) -> Schedule:
    """From the update ``begin`` on."""
    if not isinstance(milestones, (list, tuple)):
        raise TypeError(f"{group.who}: milestones must be a list, got {shown(milestones)}; pass a list of times")
    edges = [_update(group, _time(group, f"milestones[{i}]", time)) for i, time in enumerate(milestones)]
    return MultiStep(milestones=sorted(max(0, edge - begin) for edge in edges), gamma=gamma)


@peer
def ConstantScheduler(group: Group, alpha: float = 1.0, t_max: Any = "1dur") -> Schedule:
    """``alpha`` times the lr before ``t_max``; from there on the lr itself.

    Composition: two `Constant`.

    >>> s = ConstantScheduler(1.0, alpha=0.25, t_max="10ba")
    >>> s(9), s(10)
    (0.25, 1.0)
    """
    end = _time(group, "t_max", t_max)
    after: Schedule = Constant(1.0)
    if end.value:
        after = Constant(alpha, steps=end.value).then(after)
    return _scaled(group, end.unit, after)


@peer
def LinearScheduler(group: Group, alpha_i: float = 1.0, alpha_f: float = 0.0, t_max: Any = "1dur") -> Schedule:
    """A line from ``alpha_i`` to ``alpha_f`` at ``t_max``. By default it falls to 0, where torch's LinearLR rises.

    Composition: `Linear`.

    >>> s = LinearScheduler(1.0, t_max="10ba")
    >>> s(0), s(5), s(10), s(99)
    (1.0, 0.5, 0.0, 0.0)
    """
    end = _length(group, "t_max", t_max)
    return _scaled(group, end.unit, Linear(alpha_i, alpha_f, steps=end.value))


@peer
def ExponentialScheduler(group: Group, gamma: float, decay_period: Any = "1ep") -> Schedule:
    """``gamma ** (t / decay_period)``, a little at every update.

    Composition: `Exponential`.

    >>> s = ExponentialScheduler(1.0, gamma=0.25, context={"dataloader_len": 10})
    >>> s(0), s(5), s(10)
    (1.0, 0.5, 0.25)
    """
    period = _length(group, "decay_period", decay_period)
    return _scaled(group, period.unit, Exponential(gamma=gamma, every=period.value))


@peer
def CosineAnnealingScheduler(group: Group, t_max: Any = "1dur", alpha_f: float = 0.0) -> Schedule:
    """Half a cosine from the lr to ``alpha_f`` times the lr at ``t_max``; torch's CosineAnnealingLR rises after it.

    Composition: `Cosine`.

    >>> s = CosineAnnealingScheduler(1.0, alpha_f=0.5, context={"max_duration": "10ba"})
    >>> s(0), s(5), s(10), s(99)
    (1.0, 0.75, 0.5, 0.5)
    """
    end = _length(group, "t_max", t_max)
    return _scaled(group, end.unit, Cosine(1.0, alpha_f, steps=end.value))


@peer
def CosineAnnealingWarmRestartsScheduler(group: Group, t_0: Any, t_mult: float = 1.0, alpha_f: float = 0.0) -> Schedule:
    """Half cosines from the lr to ``alpha_f`` times the lr, each ``t_mult`` times as long as the one before, cut off.

    So with 1.5 and 3ba cycles are of 3, 4, 6, 9, ... batches, and with 1.2 and 4ba all are of 4. Where ``t_mult < 1``
    shortens a cycle to nothing, composer fails and ours holds; it also holds after 4,096 cycles of different lengths.

    Composition: `CosineRestarts`; with a ``t_mult`` that is not whole, `Cosine` after `Cosine`.

    >>> s = CosineAnnealingWarmRestartsScheduler(1.0, "3ba", t_mult=1.5)
    >>> s(0), s(3), s(5), s(7), s(10), s(13)
    (1.0, 1.0, 0.5, 1.0, 0.5, 1.0)
    """
    first = _length(group, "t_0", t_0)
    multiplier = Number("cycles of one length have t_mult=1", above=0.0)(group.who, "t_mult", t_mult)
    if multiplier.is_integer():
        schedule: Schedule = CosineRestarts(1.0, alpha_f, first=first.value, multiplier=int(multiplier))
    else:
        schedule = chain(_cycles(first.value, multiplier, alpha_f))
    return _scaled(group, first.unit, schedule)


def _cycles(length: int, multiplier: float, end: float) -> list[Schedule]:
    """Cycle after cycle."""
    cycles: list[Schedule] = []
    room = LARGEST_STEP - length
    while length and room >= 0 and len(cycles) < MOST_CYCLES:
        cycle = Cosine(1.0, end, steps=length)
        following = int(multiplier * length)
        if following == length:
            return [*cycles, cycle.repeat()]
        cycles.append(cycle)
        length, room = following, room - following
    return cycles


@peer
def PolynomialScheduler(group: Group, power: float, t_max: Any = "1dur", alpha_f: float = 0.0) -> Schedule:
    """``alpha_f + (1 - alpha_f) * (1 - t/t_max)**power`` times the lr.

    Composition: `Polynomial`.

    >>> s = PolynomialScheduler(1.0, 2, t_max="10ba")
    >>> s(0), s(5), s(10), s(99)
    (1.0, 0.25, 0.0, 0.0)
    """
    end = _length(group, "t_max", t_max)
    return _scaled(group, end.unit, Polynomial(1.0, alpha_f, steps=end.value, power=power))


# ---- with warmup ----


def _rise(group: Group, t_warmup: Any, scale_warmup: Any, top: float) -> tuple[list[Schedule], _Time]:
    """The warmup over units, if there is one, and its end.

    A scaled one rises within the scaled time but ends at the unscaled one: it waits for it or is cut.
    """
    scaled = Flag("the warmup keeps its length with False")(group.who, "scale_warmup", scale_warmup)
    end = _time(group, "t_warmup", t_warmup, scaled=False)
    if not end.value:
        return [], end
    length = _length(group, "t_warmup", t_warmup, scaled=scaled).value
    if length > end.value:
        return [Linear(0.0, top * end.value / length, steps=end.value)], end
    return [head(Linear(0.0, top, steps=length), end.value)], end


def _warmed(
    group: Group, t_warmup: Any, t_max: Any, scale_warmup: Any, top: Any, curve: Callable[[int], Schedule]
) -> Schedule:
    """A warmup to ``top``, then a curve over what it leaves of ``t_max``."""
    top = VALUE(group.who, "alpha", top)
    rise, begin = _rise(group, t_warmup, scale_warmup, top)
    end = _time(group, "t_max", t_max)
    if begin.unit != end.unit:
        raise ValueError(
            f"{group.who}: t_warmup and t_max must have one unit, got {begin.unit} and {end.unit}; "
            "dur has the unit of max_duration"
        )
    _check_covered(group, end)
    left = end.value - begin.value
    return _scaled(group, end.unit, chain([*rise, curve(left) if left > 0 else Constant(top)]))


def _check_covered(group: Group, end: _Time) -> None:
    """Whether the schedule is as long as the run, where that can be said."""
    if group.context.get("max_duration") is None:
        return
    total, unit = _duration(group)
    if unit == "ep" and end.unit == "ba" and group.context.get("dataloader_len") is not None:
        total, unit = total * _of_context(group, "dataloader_len", "1000"), "ba"
    if unit == end.unit and end.value < total:
        raise ValueError(
            f"{group.who}: t_max must be >= max_duration, got {end.value}{unit} and {total}{unit}; pass t_max='1dur'"
        )


@peer
def MultiStepWithWarmupScheduler(
    group: Group, t_warmup: Any, milestones: Sequence[Any], gamma: float = 0.1, scale_warmup: bool = False
) -> Schedule:
    """A line from 0 to the lr at ``t_warmup``, then `MultiStepScheduler`; milestones count from the run's begin.

    ``ssr`` scales milestones but, without ``scale_warmup``, not the warmup. With it the warmup reaches its top at the
    scaled time, but the decay begins at the unscaled one.

    Composition: `Linear`, `MultiStep`.

    >>> s = MultiStepWithWarmupScheduler(1.0, "4ba", ["10ba"], gamma=0.5)
    >>> s(0), s(2), s(4), s(10)
    (0.0, 0.5, 1.0, 0.5)
    """
    rise, end = _rise(group, t_warmup, scale_warmup, 1.0)
    pieces = [_clocked(group, end.unit, piece) for piece in rise]
    return chain([*pieces, _milestones(group, milestones, gamma, _update(group, end))]) * float(group.base)


@peer
def ConstantWithWarmupScheduler(
    group: Group, t_warmup: Any, alpha: float = 1.0, t_max: Any = "1dur", scale_warmup: bool = False
) -> Schedule:
    """A line from 0 to ``alpha`` times the lr, which stays there.

    Composer's documentation says that it goes back to the lr at ``t_max``, as `ConstantScheduler` does; it does not.

    Composition: `Linear`, `Constant`.

    >>> s = ConstantWithWarmupScheduler(1.0, "4ba", alpha=0.5, context={"max_duration": "10ba"})
    >>> s(0), s(2), s(4), s(99)
    (0.0, 0.25, 0.5, 0.5)
    """
    return _warmed(group, t_warmup, t_max, scale_warmup, alpha, lambda _: Constant(alpha))


@peer
def LinearWithWarmupScheduler(
    group: Group,
    t_warmup: Any,
    alpha_i: float = 1.0,
    alpha_f: float = 0.0,
    t_max: Any = "1dur",
    scale_warmup: bool = False,
) -> Schedule:
    """A line from 0 to ``alpha_i``, then one to ``alpha_f`` at ``t_max``, times the lr.

    The second line takes what the warmup leaves of ``t_max``, which must not be shorter than the run. With ``ssr`` see
    `MultiStepWithWarmupScheduler`.

    Composition: `Linear`, `Linear`.

    >>> s = LinearWithWarmupScheduler(1.0, "4ba", context={"max_duration": "12ba"})
    >>> s(0), s(2), s(4), s(8), s(12)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """
    return _warmed(group, t_warmup, t_max, scale_warmup, alpha_i, lambda steps: Linear(alpha_i, alpha_f, steps=steps))


@peer
def CosineAnnealingWithWarmupScheduler(
    group: Group, t_warmup: Any, t_max: Any = "1dur", alpha_f: float = 0.0, scale_warmup: bool = False
) -> Schedule:
    """A line from 0 to the lr, then half a cosine to ``alpha_f`` times the lr at ``t_max``.

    The cosine takes what the warmup leaves of ``t_max``, which must not be shorter than the run. With ``ssr`` see
    `MultiStepWithWarmupScheduler`.

    Composition: `Linear`, `Cosine`.

    >>> s = CosineAnnealingWithWarmupScheduler(1.0, "0.25dur", context={"max_duration": "2ep", "dataloader_len": 8})
    >>> s(0), s(2), s(4), s(10), s(16)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """
    return _warmed(group, t_warmup, t_max, scale_warmup, 1.0, lambda steps: Cosine(1.0, alpha_f, steps=steps))


@peer
def PolynomialWithWarmupScheduler(
    group: Group,
    t_warmup: Any,
    power: float = 2.0,
    t_max: Any = "1dur",
    alpha_f: float = 0.0,
    scale_warmup: bool = False,
) -> Schedule:
    """A line from 0 to the lr, then `PolynomialScheduler` over what the warmup leaves of ``t_max``.

    ``t_max`` must not be shorter than the run. With ``ssr`` see `MultiStepWithWarmupScheduler`.

    Composition: `Linear`, `Polynomial`.

    >>> s = PolynomialWithWarmupScheduler(1.0, "4ba", context={"max_duration": "12ba"})
    >>> s(0), s(2), s(4), s(8), s(12)
    (0.0, 0.5, 1.0, 0.25, 0.0)
    """
    return _warmed(
        group,
        t_warmup,
        t_max,
        scale_warmup,
        1.0,
        lambda steps: Polynomial(1.0, alpha_f, steps=steps, power=power),
    )
