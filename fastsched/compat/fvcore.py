"""fvcore's schedulers (and detectron2's two on top of them): functions of the progress ``where = t / max_iter``.

They hold absolute values; there is no base lr. All but `ConstantParamScheduler` need ``context={"max_iter": n}``, the
number of updates. Where fvcore goes on past the end, so do these; where it raises an error there, these hold.

>>> from fastsched import compat
>>> s = compat.fvcore.CosineParamScheduler(1.0, 0.0, context={"max_iter": 100})
>>> s(0), s(50), s(100)
(1.0, 0.5, 0.0)
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate
from typing import Any, cast

from fastsched._check import LARGEST_STEP, VALUE, Choice, Flag, Number, Several, shown
from fastsched.compat._endless import endless_cosine, endless_line
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import Stretch, endless_power, exact, first_update, part, spread, tile
from fastsched.kinds import Constant, Exponential, Piecewise, Polynomial
from fastsched.schedule import Schedule

__all__ = [
    "CompositeParamScheduler",
    "ConstantParamScheduler",
    "CosineParamScheduler",
    "ExponentialParamScheduler",
    "LRMultiplier",
    "LinearParamScheduler",
    "MultiStepParamScheduler",
    "PolynomialDecayParamScheduler",
    "StepParamScheduler",
    "StepWithFixedGammaParamScheduler",
    "WarmupParamScheduler",
]

EPSILON = 1e-6  # fvcore's: an edge counts as reached so much before it
COUNT = Number("pass a number of updates", least=1, most=LARGEST_STEP, whole=True)


def _updates(group: Group) -> int:
    return int(COUNT(group.who, "max_iter", group.need("max_iter", "1000")))


@peer(base=False)
def ConstantParamScheduler(group: Group, value: float) -> Schedule:
    """`Constant`. Needs no context.

    >>> ConstantParamScheduler(0.5)
    Constant(0.5)
    """
    return Constant(value)


@peer(base=False)
def CosineParamScheduler(group: Group, start_value: float, end_value: float) -> Schedule:
    """`Cosine`; past the end it rises again, to ``start_value`` at ``2 * max_iter``, and so on.

    >>> s = CosineParamScheduler(1.0, 0.0, context={"max_iter": 10})
    >>> s(0), s(5), s(10), s(20)
    (1.0, 0.5, 0.0, 1.0)
    """
    return endless_cosine(start_value, end_value, _updates(group))


@peer(base=False)
def ExponentialParamScheduler(group: Group, start_value: float, decay: float) -> Schedule:
    """`Exponential`: at the end ``decay * start_value``, and further down past it.

    >>> ExponentialParamScheduler(1.0, decay=0.5, context={"max_iter": 10})
    Exponential(1.0, gamma=0.5, every=10.0)
    """
    return Exponential(start_value, gamma=decay, every=_updates(group))


@peer(base=False)
def LinearParamScheduler(group: Group, start_value: float, end_value: float) -> Schedule:
    """`Linear`; past the end the line goes on, below 0 if it leads there.

    >>> s = LinearParamScheduler(1.0, 0.0, context={"max_iter": 10})
    >>> s(0), s(5), s(10), s(20)
    (1.0, 0.5, 0.0, -1.0)
    """
    start, end = VALUE(group.who, "start_value", start_value), VALUE(group.who, "end_value", end_value)
    return endless_line(start, end, _updates(group))


@peer(base=False)
def PolynomialDecayParamScheduler(group: Group, base_value: float, power: float) -> Schedule:
    """`Polynomial` down to 0; past the end it goes on for a whole power, and for any other holds.

    fvcore's value is a complex number there, if the power is not whole.

    >>> PolynomialDecayParamScheduler(1.0, power=0.9, context={"max_iter": 10})
    Polynomial(1.0, 0.0, steps=10, power=0.9)
    >>> s = PolynomialDecayParamScheduler(1.0, power=2, context={"max_iter": 10})
    >>> s(0), s(5), s(10), s(15)
    (1.0, 0.25, 0.0, 0.25)
    """
    fall = Polynomial(base_value, 0.0, steps=_updates(group), power=power)
    if not fall.power.is_integer():
        return fall
    return fall.then(endless_power(int(fall.steps), power) * (fall.start * (-1) ** int(power)))


@peer(base=False)
def StepParamScheduler(group: Group, num_updates: float, values: Sequence[float]) -> Schedule:
    """`Piecewise` of equally long parts of all updates; an edge comes up to a millionth of them early.

    ``num_updates`` has no effect, in fvcore as here. fvcore raises IndexError from a millionth before the end on.

    >>> StepParamScheduler(num_updates=40, values=[1.0, 0.5, 0.1, 0.01], context={"max_iter": 40})
    Piecewise(boundaries=(10, 20, 30), values=(1.0, 0.5, 0.1, 0.01))
    """
    Number("pass the number of updates", above=0.0)(group.who, "num_updates", num_updates)
    levels = Several(VALUE)(group.who, "values", values)
    if not levels:
        raise ValueError(f"{group.who}: values must be at least one, got none; pass the value of each part")
    return _steps(group, len(levels), range(1, len(levels)), levels)


def _steps(group: Group, parts: float, milestones: Sequence[int], values: Sequence[float]) -> Schedule:
    """The values one after another: a milestone is reached where ``int((where + EPSILON) * parts)`` is."""
    if len(values) == 1:
        return Constant(values[0])
    updates = _updates(group)
    edges = [first_update(partial(_is_reached, milestone, updates, parts), updates) for milestone in milestones]
    return Piecewise(boundaries=edges, values=values)


# The peer's own comparisons, in floats as there


def _is_reached(milestone: int, updates: int, parts: float, step: int) -> bool:
    return int((step / updates + EPSILON) * parts) >= milestone


def _is_over(total: float, updates: int, step: int) -> bool:
    return step / updates + EPSILON > total


@peer(base=False)
def StepWithFixedGammaParamScheduler(
    group: Group, base_value: float, num_decays: int, gamma: float, num_updates: int
) -> Schedule:
    """`StepParamScheduler` of ``num_decays + 1`` values, each ``gamma`` times the one before.

    >>> StepWithFixedGammaParamScheduler(1.0, num_decays=2, gamma=0.5, num_updates=30, context={"max_iter": 30})
    Piecewise(boundaries=(10, 20), values=(1.0, 0.5, 0.25))
    """
    positive = Number("pass a positive number", above=0.0)
    count = Number("pass a positive int", least=1, most=2.0**16, whole=True)(group.who, "num_decays", num_decays)
    COUNT(group.who, "num_updates", num_updates)
    start, factor = positive(group.who, "base_value", base_value), positive(group.who, "gamma", gamma)
    levels = list(accumulate([factor] * count, lambda level, by: level * by, initial=start))
    return _steps(group, len(levels), range(1, len(levels)), levels)


@peer(base=False)
def MultiStepParamScheduler(
    group: Group, values: Sequence[float], num_updates: int | None = None, milestones: Sequence[int] | None = None
) -> Schedule:
    """`Piecewise`: ``milestones`` are out of ``num_updates``, and scaled to the updates that there are.

    Without ``num_updates`` the last milestone stands for it; without ``milestones`` all parts are
    ``ceil(num_updates / len(values))`` long. An edge comes up to a millionth of the updates early.

    >>> MultiStepParamScheduler([1.0, 0.5, 0.1], num_updates=9, milestones=[3, 6], context={"max_iter": 90})
    Piecewise(boundaries=(30, 60), values=(1.0, 0.5, 0.1))
    """
    levels = Several(VALUE)(group.who, "values", values)
    count = COUNT._replace(optional=True)(group.who, "num_updates", num_updates)
    if milestones is None:
        if count is None:
            raise ValueError(f"{group.who}: num_updates or milestones must be given, got neither; pass one of them")
        width = -(-count // max(1, len(levels)))
        edges = tuple(range(width, width * len(levels), width))
    else:
        edges = Several(COUNT)(group.who, "milestones", milestones)
        if count is None and edges:
            edges, count = edges[:-1], edges[-1]
    _check_milestones(group, levels, edges, count)
    return _steps(group, count, edges, levels)


def _check_milestones(group: Group, values: Sequence[float], edges: Sequence[int], total: Any) -> None:
    if len(edges) != len(values) - 1:
        raise ValueError(
            f"{group.who}: values must be one more than milestones (as many without num_updates), got {len(values)} "
            f"for {len(edges)} edges; pass the value before the first milestone too"
        )
    if any(after <= before for before, after in zip([0, *edges], [*edges, total], strict=True)):
        raise ValueError(
            f"{group.who}: milestones must ascend from above 0 to below num_updates, got others with {total}; sort "
            "them, or pass more updates"
        )


@peer(base=False)
def CompositeParamScheduler(
    group: Group, schedulers: Sequence[Any], lengths: Sequence[float], interval_scaling: Sequence[str]
) -> Schedule:
    """One scheduler after another, each for its share of all updates.

    A ``"rescaled"`` part runs from its own begin to its own end; a ``"fixed"`` one is where it would be if it ran
    alone from the first update on. ``schedulers`` are functions that make them in the context given (such as
    ``lambda: LinearParamScheduler(0.1, 1.0)``) or Schedules over ``max_iter`` updates. A part begins up to a millionth
    of all updates early, as in fvcore; a rescaled one then waits at its first value, where fvcore's comes from before.

    >>> s = CompositeParamScheduler(
    ...     [lambda: LinearParamScheduler(0.0, 1.0), lambda: CosineParamScheduler(1.0, 0.0)],
    ...     lengths=[0.25, 0.75],
    ...     interval_scaling=["rescaled", "fixed"],
    ...     context={"max_iter": 40},
    ... )
    >>> s(0), s(5), s(20), s(40)
    (0.0, 0.5, 0.5, 0.0)
    """
    shares = _shares(group, schedulers, lengths, interval_scaling)
    updates = _updates(group)
    stretches: list[Stretch] = []
    begin, total = Fraction(0), 0.0
    for scheduler, share, scaling in zip(schedulers, shares, interval_scaling, strict=True):
        curve = partial(_made, group, scheduler, updates)
        first = first_update(partial(_is_over, total, updates), updates) if stretches else 0
        if scaling == "fixed":
            stretches.append(Stretch(curve, Fraction(updates), Fraction(0), first))
        else:
            stretches.append(Stretch(curve, share * updates, begin * updates, first))
        begin, total = begin + share, total + float(share)
    return tile(stretches)


def _shares(group: Group, schedulers: Any, lengths: Any, scalings: Any) -> list[Fraction]:
    """The parts' shares; the last one takes what the others leave, as in fvcore."""
    shares = Several(Number("pass a share of the whole", least=0.0))(group.who, "lengths", lengths)
    for name, values in (("schedulers", schedulers), ("interval_scaling", scalings)):
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"{group.who}: {name} must be a list, got {shown(values)}; pass one for each part")
    if not shares or not len(shares) == len(schedulers) == len(scalings):
        raise ValueError(
            f"{group.who}: schedulers, lengths and interval_scaling must be equally many and at least 1, got "
            f"{len(schedulers)}, {len(shares)} and {len(scalings)}; pass one of each for each part"
        )
    for scaling in scalings:
        Choice(("rescaled", "fixed"))(group.who, "interval_scaling", scaling)
    if not abs(sum(shares) - 1.0) < 1e-3:
        raise ValueError(f"{group.who}: lengths must add up to 1, got {shown(sum(shares))}; divide them by that")
    fractions = [exact(share) for share in shares[:-1]]
    return [*fractions, 1 - sum(fractions, Fraction(0))]


def _made(group: Group, scheduler: Any, updates: int, steps: int) -> Schedule:
    """A part over so many steps."""
    if isinstance(scheduler, Schedule):
        return scheduler if steps == updates else scheduler.speed_up(Fraction(updates, steps))
    return part(group, scheduler, max_iter=steps)


@peer(base=False)
def WarmupParamScheduler(
    group: Group,
    scheduler: Any,
    warmup_factor: float,
    warmup_length: float,
    warmup_method: str = "linear",
    rescale_interval: bool = False,
) -> Schedule:
    """detectron2's: a `CompositeParamScheduler` of a warmup and ``scheduler``.

    The warmup takes the share ``warmup_length`` of all updates. It is ``"linear"`` from ``warmup_factor`` times the
    scheduler's first value to the value that the scheduler has there, or ``"constant"`` at where that begins. With
    ``rescale_interval`` the whole scheduler follows the warmup, else what is left of it.

    >>> s = WarmupParamScheduler(lambda: LinearParamScheduler(1.0, 0.0), 0.1, 0.2, context={"max_iter": 100})
    >>> s(0), round(s(10), 12), s(20), s(50)
    (0.1, 0.45, 0.8, 0.5)
    """
    share = Number("pass a share of the whole", least=0.0, most=1.0)(group.who, "warmup_length", warmup_length)
    method = Choice(("linear", "constant"))(group.who, "warmup_method", warmup_method)
    rescale = Flag("what is left of the scheduler follows with False")(group.who, "rescale_interval", rescale_interval)
    updates = _updates(group)
    curve = partial(_made, group, scheduler, updates)
    begin = curve(updates)(0)
    start = VALUE(group.who, "warmup_factor", warmup_factor) * begin
    end = begin if rescale else spread(curve, Fraction(updates), exact(share) * updates)(0)
    warmup = partial(LinearParamScheduler, start, start if method == "constant" else end)
    scaling = ["rescaled", "rescaled" if rescale else "fixed"]
    return cast(
        Schedule, CompositeParamScheduler([warmup, scheduler], [share, 1.0 - share], scaling, context=group.context)
    )


@peer
def LRMultiplier(group: Group, multiplier: Any, max_iter: int, last_iter: int = -1) -> Schedule:
    """detectron2's: each group's base lr times ``multiplier``, which is made with ``max_iter`` in its context.

    ``multiplier`` is a Schedule or a function that makes one; ``last_iter`` has no effect: steps are absolute here.

    >>> LRMultiplier([0.1, 0.2], lambda: ExponentialParamScheduler(1.0, decay=0.5), max_iter=10)
    [(Exponential(1.0, gamma=0.5, every=10.0) * 0.1), (Exponential(1.0, gamma=0.5, every=10.0) * 0.2)]
    """
    return part(group, multiplier, max_iter=COUNT(group.who, "max_iter", max_iter)) * float(group.base)
