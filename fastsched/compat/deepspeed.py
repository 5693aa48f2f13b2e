"""DeepSpeed's schedules by their names and ``params`` of its config.

DeepSpeed's own counter is at -1 when the first update is made, and at t-1 for update t: the warmups spend two updates
at their minimum, and what begins after W steps begins at update W + 1. ``last_batch_iteration`` is accepted and
ignored: a schedule is a function of the absolute update.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

from fastsched._check import VALUE, Choice, Flag, Number
from fastsched.compat._endless import endless_line
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import chain, tail
from fastsched.kinds import Constant, Cosine, InverseTime, Linear, Logarithmic
from fastsched.schedule import Schedule

__all__ = ["LRRangeTest", "OneCycle", "WarmupCosineLR", "WarmupDecayLR", "WarmupLR"]

_STAIRS = Number("a smooth leg is 0", least=0, most=2**16, whole=True)


def _warmup(group: Group, low: float, high: float, steps: Any, shape: Any) -> tuple[Schedule, int]:
    """The updates up to the one that DeepSpeed counts as its step ``steps``, and how many steps that are."""
    steps = max(2, group.whole("warmup_num_steps", steps, 1))
    rise: Schedule = Linear(low, high, steps=steps)
    if Choice(("log", "linear"))(group.who, "warmup_type", shape) == "log":
        rise = Logarithmic(low, high, steps=steps - 1).then(Constant(high, steps=1))
    return rise, steps


def _bounds(group: Group, low: Any, high: Any) -> tuple[float, float]:
    """This group's lowest and highest lr; None is the group's own."""
    low, high = group.own("warmup_min_lr", low), group.own("warmup_max_lr", high)
    high = group.base if high is None else high
    return VALUE(group.who, "warmup_min_lr", low), VALUE(group.who, "warmup_max_lr", high)


@peer
def WarmupLR(
    group: Group,
    warmup_min_lr: Any = 0.0,
    warmup_max_lr: Any = None,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
) -> Schedule:
    """From ``warmup_min_lr`` to ``warmup_max_lr`` (None: the group's lr), then constant.

    Updates 0 and 1 both run at the minimum. With ``"log"``, the default, step n is at ``log(n+1)/log(W)`` of the way,
    W = max(2, warmup_num_steps): most of the rise is in the first few updates, and the top is there one update earlier
    than with ``"linear"``. Another ``warmup_type``, for which DeepSpeed takes ``"log"``, is an error here. Both lrs may
    be lists with one per group.

    Composition: one step of `Constant`, `Logarithmic` or `Linear`, `Constant`.

    >>> s = WarmupLR(1.0, warmup_num_steps=10, warmup_type="linear")
    >>> s(0), s(1), s(6), s(11)
    (0.0, 0.0, 0.5, 1.0)
    """
    low, high = _bounds(group, warmup_min_lr, warmup_max_lr)
    rise, _ = _warmup(group, low, high, warmup_num_steps, warmup_type)
    return chain([Constant(low, steps=1), rise, Constant(high)])


@peer
def WarmupDecayLR(
    group: Group,
    total_num_steps: int,
    warmup_min_lr: Any = 0.0,
    warmup_max_lr: Any = 0.001,
    warmup_num_steps: int = 1000,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
) -> Schedule:
    """`WarmupLR`, then a line down to ``warmup_min_lr`` at update ``total_num_steps + 1``.

    ``warmup_max_lr`` is 0.001 by default, whatever the group's lr (that is taken for None). Where the warmup takes all
    of ``total_num_steps``, the minimum follows it.

    Composition: one step of `Constant`, `Logarithmic` or `Linear`, `Linear`.

    >>> s = WarmupDecayLR(0.1, total_num_steps=50, warmup_num_steps=10, warmup_type="linear")
    >>> s(11), s(31), s(51)
    (0.001, 0.0005, 0.0)
    """
    low, high = _bounds(group, warmup_min_lr, warmup_max_lr)
    rise, steps = _warmup(group, low, high, warmup_num_steps, warmup_type)
    decay = group.whole("total_num_steps", total_num_steps, 1) - steps
    fall = Linear(high, low, steps=decay) if decay > 0 else Constant(low)
    return chain([Constant(low, steps=1), rise, fall])


@peer
def WarmupCosineLR(
    group: Group,
    total_num_steps: int,
    warmup_min_ratio: float = 0.0,
    warmup_num_steps: int = 1000,
    cos_min_ratio: float = 0.0001,
    warmup_type: str = "log",
    last_batch_iteration: int = -1,
) -> Schedule:
    """Warmup from ``warmup_min_ratio`` of the group's lr to all of it, then half a cosine to ``cos_min_ratio``.

    Update 0 has lr 0 whatever ``warmup_min_ratio`` says; update 1 starts there. The cosine's top lies one update before
    its first: after a linear warmup no update uses the group's lr. It holds past the end, and never below 0.

    Composition: `Constant`, `Logarithmic` or `Linear`, `Cosine` without its first step, times the base lr.

    >>> s = WarmupCosineLR(1.0, 50, warmup_min_ratio=0.25, warmup_num_steps=10, cos_min_ratio=0.5)
    >>> s(0), s(1), s(10), s(30), s(50)
    (0.0, 0.25, 1.0, 0.75, 0.5)
    """
    who = group.who
    low = VALUE(who, "warmup_min_ratio", warmup_min_ratio)
    end = VALUE(who, "cos_min_ratio", cos_min_ratio)
    rise, steps = _warmup(group, low, 1.0, warmup_num_steps, warmup_type)
    decay = group.whole("total_num_steps", total_num_steps, 1) - steps
    fall = tail(Cosine(1.0, end, steps=max(1, decay)), 1)
    schedule = chain([Constant(0.0, steps=1), rise, fall.clip(low=0.0) if end < 0.0 else fall])
    return schedule * float(group.base)


@peer
def LRRangeTest(
    group: Group,
    lr_range_test_min_lr: Any = 1e-3,
    lr_range_test_step_size: int = 2000,
    lr_range_test_step_rate: float = 1.0,
    lr_range_test_staircase: bool = False,
    last_batch_iteration: int = -1,
) -> Schedule:
    """``lr_range_test_min_lr * (1 + rate * t/step_size)``, without an end; with ``staircase``, ``floor(t/step_size)``.

    The group's lr has no part in it. It grows for 65,536 times ``step_size`` updates, then holds. A stair's
    values may differ in their last bit.

    Composition: `Linear`; for stairs, less a saw's teeth (`Linear` repeated).

    >>> s = LRRangeTest(0.1, lr_range_test_min_lr=0.5, lr_range_test_step_size=4)
    >>> s(0), s(2), s(4), s(12)
    (0.5, 0.75, 1.0, 2.0)
    """
    who = group.who
    low = VALUE(who, "lr_range_test_min_lr", group.own("lr_range_test_min_lr", lr_range_test_min_lr))
    size = group.whole("lr_range_test_step_size", lr_range_test_step_size, 1)
    rise = low * VALUE(who, "lr_range_test_step_rate", lr_range_test_step_rate)
    line = endless_line(low, low + rise, size)
    if Flag("a smooth rise is False")(who, "lr_range_test_staircase", lr_range_test_staircase):
        return line + Linear(0.0, -rise, steps=size).repeat()
    return line


def _leg(start: float, end: float, steps: int, edges: list[int]) -> Schedule:
    """A line, or as many stairs of one height as there are edges, each of which begins a new one."""
    if not edges:
        return Linear(start, end, steps=steps)
    levels = [start + (end - start) * i / len(edges) for i in range(len(edges) + 1)]
    bounds = [0, *edges, steps]
    stairs = [
        Constant(level, steps=after - before)
        for level, (before, after) in zip(levels, pairwise(bounds), strict=True)
        if after > before
    ]
    return chain(stairs)


def _cycle(bottom: float, top: float, first: int, second: int, stairs: tuple[int, int]) -> Schedule:
    """Up within ``first`` steps and down within ``second``, both by a number of stairs; 0 is a line."""
    up = [math.ceil(i * first / stairs[0]) for i in range(1, stairs[0] + 1)]
    cycle = _leg(bottom, top, first, up)
    if second:
        # The way down is the way up seen from the end: a stair ends after the step that reaches its level.
        down = [i * second // stairs[1] + 1 for i in range(stairs[1])]
        cycle = cycle.then(_leg(top, bottom, second, down))
    return cycle


@peer(hyperparameters=("lr", "momentum"))
def OneCycle(
    group: Group,
    cycle_min_lr: Any,
    cycle_max_lr: Any,
    decay_lr_rate: float = 0.0,
    cycle_first_step_size: int = 2000,
    cycle_second_step_size: int | None = None,
    cycle_first_stair_count: int = 0,
    cycle_second_stair_count: int | None = None,
    decay_step_size: float = 0,
    cycle_momentum: bool = True,
    cycle_min_mom: Any = 0.8,
    cycle_max_mom: Any = 0.9,
    decay_mom_rate: float = 0.0,
    last_batch_iteration: int = -1,
) -> Schedule:
    """One triangle from ``cycle_min_lr`` up to ``cycle_max_lr`` and back, then ``min/(1 + rate * n/decay_step_size)``.

    Both are absolute; the group's lr has no part in it. The second leg's length and stairs are the first one's by
    default. ``decay_step_size=0`` or ``decay_lr_rate=0`` means no decay. ``hyperparameter="momentum"`` is Adam's beta1,
    between ``cycle_max_mom`` and, at the peak of the lr, ``cycle_min_mom``; but update 0 has ``cycle_min_mom``, and a
    decay rate makes it *grow*, ``max * (1 + rate * n/decay_step_size)``, past 1 in the end (here for 65,536 times
    ``decay_step_size``). DeepSpeed also sets beta2 to 0.99 in every group, whatever the optimizer had.
    ``context={"optimizer": {...}}`` without betas: DeepSpeed cycles no momentum, an error here.

    Composition: `Linear` or `Constant` stairs, `InverseTime`; momentum: the cycle without its first step, `Linear`.

    >>> s = OneCycle(0.1, 0.25, 1.0, 1.0, cycle_first_step_size=2, cycle_second_step_size=3, decay_step_size=4)
    >>> s(0), s(2), s(5), s(9)
    (0.25, 1.0, 0.25, 0.125)
    """
    who = group.who
    first = group.whole("cycle_first_step_size", cycle_first_step_size, 1)
    second = first if cycle_second_step_size is None else cycle_second_step_size
    second = group.whole("cycle_second_step_size", second)
    up = _STAIRS(who, "cycle_first_stair_count", cycle_first_stair_count)
    down = up if cycle_second_stair_count is None else cycle_second_stair_count
    stairs = up, _STAIRS(who, "cycle_second_stair_count", down)
    size = Number("no decay is 0", least=0.0)(who, "decay_step_size", decay_step_size)
    if group.hyperparameter == "lr":
        low = VALUE(who, "cycle_min_lr", group.own("cycle_min_lr", cycle_min_lr))
        high = VALUE(who, "cycle_max_lr", group.own("cycle_max_lr", cycle_max_lr))
        rate = Number("no decay is 0", least=0.0)(who, "decay_lr_rate", decay_lr_rate)
        after = InverseTime(low, rate=rate, every=size) if size and rate else Constant(low)
        return _cycle(low, high, first, second, stairs).then(after)
    _check_momentum(group, cycle_momentum)
    low = VALUE(who, "cycle_min_mom", group.own("cycle_min_mom", cycle_min_mom))
    high = VALUE(who, "cycle_max_mom", group.own("cycle_max_mom", cycle_max_mom))
    rate = VALUE(who, "decay_mom_rate", decay_mom_rate) if size else 0.0
    whole = math.ceil(size)
    growth = endless_line(high, high * (1.0 + rate * whole / size), whole) if rate else Constant(high)
    cycle = _cycle(high, low, first, second, stairs).then(growth)
    return Constant(low, steps=1).then(tail(cycle, 1))


def _check_momentum(group: Group, cycled: Any) -> None:
    """Whether the peer cycles it."""
    if not Flag("pass what DeepSpeed's config has")(group.who, "cycle_momentum", cycled):
        raise ValueError(
            f"{group.who}: cycle_momentum must be True for hyperparameter='momentum', got False; the peer changes none"
        )
    optimizer = group.context.get("optimizer")
    if optimizer is not None and "betas" not in optimizer:
        raise ValueError(
            f"{group.who}: the optimizer must have betas for hyperparameter='momentum', got one without; "
            "the peer changes no other momentum"
        )
