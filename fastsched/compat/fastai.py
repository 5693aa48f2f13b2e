"""fastai's schedules: the functions of the position ``t / n``, and what its ``fit_*`` methods make of them.

They hold absolute values; there is no base lr. The functions (``Sched*``, ``combine*``) need ``context={"n": n}``, the
number of updates, or ``{"n_epoch": e, "n_iter": i}``, whose product it is; past it they go on, as fastai's do. The
methods need ``context={"n_iter": i}``, the updates of one epoch; fastai stops at their last batch, and these hold.

fastai keeps the limits of combined parts in float32: its curves differ from these by about 1e-7 of the maximum, and by
more far past the end. Where that makes it begin a part one update late, these do so too.

Of the methods' arguments those that change no curve (``wd``, ``cbs``, ``reset_opt``, ``start_epoch``) are accepted and
of no effect: steps are absolute here. ``lr`` and ``lr_max`` are one group's; None is a Learner's default.

>>> from fastsched import compat
>>> s = compat.fastai.fit_one_cycle(n_epoch=4, lr_max=1.0, context={"n_iter": 10})
>>> s(0), s(10), round(s(40), 12)
(0.04, 1.0, 1e-05)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from functools import partial
from typing import Any, cast

import numpy as np

from fastsched._check import LARGEST_STEP, VALUE, Number, Several, shown
from fastsched.compat._endless import endless_cosine, endless_line
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import Curve, abutting, divisor, endless_power, exact, first_update, head, part
from fastsched.kinds import Constant, Cosine, Exponential, Geometric, same_sign
from fastsched.schedule import Schedule

__all__ = [
    "LRFinder",
    "ParamScheduler",
    "SchedCos",
    "SchedExp",
    "SchedLin",
    "SchedNo",
    "SchedPoly",
    "combine_scheds",
    "combined_cos",
    "fine_tune",
    "fit_flat_cos",
    "fit_one_cycle",
    "fit_sgdr",
]

COUNT = Number("pass a number of updates or epochs", least=1, most=LARGEST_STEP, whole=True)
LEARNING_RATE = 1e-3  # a Learner's
MOMENTUMS = (0.95, 0.85, 0.95)
BOTH = ("lr", "momentum")


def _updates(group: Group) -> int:
    """The number of updates that positions count in."""
    if "n" not in group.context and "n_epoch" in group.context:
        return int(COUNT(group.who, "n_epoch", group.context["n_epoch"])) * _per_epoch(group)
    return int(COUNT(group.who, "n", group.need("n", "1000")))


def _per_epoch(group: Group) -> int:
    return int(COUNT(group.who, "n_iter", group.need("n_iter", "100")))


@peer(base=False, hyperparameters=BOTH)
def SchedLin(group: Group, start: float, end: float) -> Schedule:
    """`Linear`; past the end the line goes on, below 0 if it leads there.

    >>> s = SchedLin(1.0, 0.0, context={"n": 10})
    >>> s(0), s(5), s(10), s(20)
    (1.0, 0.5, 0.0, -1.0)
    """
    return endless_line(VALUE(group.who, "start", start), VALUE(group.who, "end", end), _updates(group))


@peer(base=False, hyperparameters=BOTH)
def SchedCos(group: Group, start: float, end: float) -> Schedule:
    """`Cosine`; past the end it comes back.

    >>> s = SchedCos(1.0, 0.0, context={"n": 10})
    >>> s(0), s(5), s(10), s(20)
    (1.0, 0.5, 0.0, 1.0)
    """
    return endless_cosine(start, end, _updates(group))


@peer(base=False, hyperparameters=BOTH)
def SchedNo(group: Group, start: float, end: float) -> Schedule:
    """`Constant`: ``start``, whatever ``end`` is. Needs no context.

    >>> SchedNo(1.0, 0.0)
    Constant(1.0)
    """
    return Constant(start)


@peer(base=False, hyperparameters=BOTH)
def SchedExp(group: Group, start: float, end: float) -> Schedule:
    """`Exponential`: a constant ratio, also past the end. ``start`` and ``end`` have one sign.

    >>> SchedExp(1.0, 0.25, context={"n": 10})
    Exponential(1.0, gamma=0.25, every=10.0)
    """
    start, end = VALUE(group.who, "start", start), VALUE(group.who, "end", end)
    if not same_sign(start, end):
        raise ValueError(
            f"{group.who}: start and end must have one sign and not be 0, got {start!r} and {end!r}; "
            "for a descent to 0 use SchedCos"
        )
    return Exponential(start, gamma=end / start, every=_updates(group))


@peer(base=False, hyperparameters=BOTH)
def SchedPoly(group: Group, start: float, end: float, power: float) -> Schedule:
    """`Polynomial` with ``power`` as its ``k``: slow at first where fvcore's or keras' is slow at the end.

    Past the end it goes on.

    >>> s = SchedPoly(1.0, 0.0, power=2, context={"n": 10})
    >>> s(0), s(5), s(10), s(20)
    (1.0, 0.75, 0.0, -3.0)
    """
    start, end = VALUE(group.who, "start", start), VALUE(group.who, "end", end)
    power = Number("a straight line has power=1", above=0.0)(group.who, "power", power)
    return endless_power(_updates(group), power) * (end - start) + start


@peer(base=False, hyperparameters=BOTH)
def combine_scheds(group: Group, pcts: Sequence[float], scheds: Sequence[Any]) -> Schedule:
    """One schedule after another, each over its share of the updates; the last goes on past the end.

    ``pcts`` are the shares, ``scheds`` functions that make a schedule in the context given (such as
    ``lambda: SchedCos(0.1, 1.0)``) or Schedules over all updates, which are sped up to their share. Shares need not
    fall on whole steps.

    >>> s = combine_scheds([0.25, 0.75], [lambda: SchedLin(0.0, 1.0), lambda: SchedCos(1.0, 0.0)], context={"n": 40})
    >>> s(0), s(5), s(10), s(25), s(40)
    (0.0, 0.5, 1.0, 0.5, 0.0)
    """
    shares = Several(Number("pass a share of the whole", least=0.0))(group.who, "pcts", pcts)
    if not isinstance(scheds, (list, tuple)) or len(scheds) != len(shares):
        got = len(scheds) if isinstance(scheds, (list, tuple)) else shown(scheds)
        raise ValueError(f"{group.who}: scheds must be a list as long as pcts, got {got}; pass one for each share")
    updates = _updates(group)
    return _combined(group, shares, [partial(_made, group, sched, updates) for sched in scheds], updates)


def _made(group: Group, sched: Any, updates: int, steps: int) -> Schedule:
    """A part over so many steps."""
    if isinstance(sched, Schedule):
        return sched if steps == updates else sched.speed_up(Fraction(updates, steps))
    return part(group, sched, n=steps)


def _combined(group: Group, shares: Sequence[float], curves: Sequence[Curve], updates: int) -> Schedule:
    if not abs(sum(shares) - 1.0) < 1e-9:  # fastai asks for exactly 1, which rounding may prevent
        raise ValueError(f"{group.who}: pcts must add up to 1, got {shown(sum(shares))}; divide them by that")
    limits = np.cumsum(np.array([0.0, *shares[:-1]], np.float32), dtype=np.float64).astype(np.float32)
    firsts = [first_update(partial(_is_over, limit, updates), updates) for limit in limits]
    lengths = [exact(share) for share in shares[:-1]]
    lengths.append(1 - sum(lengths, Fraction(0)))
    return abutting([(curve, length * updates) for curve, length in zip(curves, lengths, strict=True)], firsts)


def _is_over(limit: np.float32, updates: int, step: int) -> bool:
    """Whether a part is, by torch's comparison of a float with a float32 tensor."""
    return bool(np.float32(step / updates) >= limit)


@peer(base=False, hyperparameters=BOTH)
def combined_cos(group: Group, pct: float, start: float, middle: float, end: float) -> Schedule:
    """`SchedCos` from ``start`` to ``middle`` within the share ``pct`` of the updates, then to ``end``.

    >>> s = combined_cos(0.25, 0.0, 1.0, 0.5, context={"n": 40})
    >>> s(0), s(5), s(10), s(25), s(40)
    (0.0, 0.5, 1.0, 0.75, 0.5)
    """
    share = _share(group, "pct", pct)
    curves = [partial(endless_cosine, start, middle), partial(endless_cosine, middle, end)]
    return _combined(group, (share, 1.0 - share), curves, _updates(group))


def _share(group: Group, name: str, share: Any) -> float:
    return float(Number("pass a share of the whole", least=0.0, most=1.0)(group.who, name, share))


@peer(base=False, hyperparameters=BOTH)
def ParamScheduler(group: Group, scheds: Mapping[str, Any]) -> Schedule:
    """The callback: of ``scheds``, by fastai's names (``lr``, ``mom``), the one for the hyperparameter asked for.

    >>> ParamScheduler({"lr": lambda: SchedExp(1.0, 0.5), "mom": lambda: SchedNo(0.9, 0.9)}, context={"n": 10})
    Exponential(1.0, gamma=0.5, every=10.0)
    """
    name = {"lr": "lr", "momentum": "mom"}[group.hyperparameter]
    if not isinstance(scheds, Mapping) or name not in scheds:
        raise ValueError(f"{group.who}: scheds must be a dict with {name!r}; pass the schedule of each hyperparameter")
    return part(group, scheds[name])


@peer(base=False)
def LRFinder(
    group: Group, start_lr: float = 1e-7, end_lr: float = 10.0, num_it: int = 100, stop_div: bool = True
) -> Schedule:
    """`Geometric` over ``num_it`` updates, at least 6 as in fastai. Needs no context.

    >>> LRFinder(1e-4, 1.0, num_it=100)
    Geometric(0.0001, 1.0, steps=100)
    """
    return Geometric(start_lr, end_lr, steps=max(6, COUNT(group.who, "num_it", num_it)))


@peer(base=False, hyperparameters=BOTH)
def fit_one_cycle(
    group: Group,
    n_epoch: int,
    lr_max: float | None = None,
    div: float = 25.0,
    div_final: float = 1e5,
    pct_start: float = 0.25,
    wd: Any = None,
    moms: Sequence[float] | None = None,
    cbs: Any = None,
    reset_opt: bool = False,
    start_epoch: int = 0,
) -> Schedule:
    """Two `Cosine` pieces that meet at ``pct_start`` of all updates, between two of them if need be.

    From ``lr_max/div`` to ``lr_max`` to ``lr_max/div_final``: the last is relative to the peak, where torch's
    ``final_div_factor`` is relative to the start. The momentum goes through ``moms``.

    >>> s = fit_one_cycle(4, 1.0, hyperparameter="momentum", context={"n_iter": 10})
    >>> s(0), s(10), s(40)
    (0.95, 0.85, 0.95)
    """
    updates = COUNT(group.who, "n_epoch", n_epoch) * _per_epoch(group)
    if group.hyperparameter == "momentum":
        values = Several(VALUE)(group.who, "moms", MOMENTUMS if moms is None else moms)
        if len(values) != 3:
            raise ValueError(f"{group.who}: moms must be 3, got {len(values)}; pass the first, middle and last one")
    else:
        peak = _learning_rate(group, "lr_max", lr_max)
        values = (peak / divisor(group, "div", div), peak, peak / divisor(group, "div_final", div_final))
    return _two_cosines(group, pct_start, values, updates)


def _two_cosines(group: Group, pct_start: float, values: Sequence[float], updates: int) -> Schedule:
    """`combined_cos` that ends where training does."""
    start, middle, end = values
    share = _share(group, "pct_start", pct_start)
    curves = [partial(_cosine, start, middle), partial(_cosine, middle, end)]
    return _combined(group, (share, 1.0 - share), curves, updates)


def _cosine(start: float, end: float, steps: int) -> Schedule:
    return Cosine(start, end, steps=steps)


def _learning_rate(group: Group, name: str, value: float | None) -> float:
    if isinstance(value, slice):
        raise TypeError(
            f"{group.who}: {name} must be a number, got a slice; pass one group's lr: fastai spreads a slice over the "
            "groups by equal ratios, and a slice(lr) is lr for the last group and lr/10 for all others"
        )
    return float(VALUE(group.who, name, LEARNING_RATE if value is None else value))


@peer(base=False)
def fit_flat_cos(
    group: Group,
    n_epoch: int,
    lr: float | None = None,
    div_final: float = 1e5,
    pct_start: float = 0.75,
    wd: Any = None,
    cbs: Any = None,
    reset_opt: bool = False,
    start_epoch: int = 0,
) -> Schedule:
    """`Constant` for the share ``pct_start`` of all updates, then `Cosine` down to ``lr/div_final``.

    >>> fit_flat_cos(4, 1.0, context={"n_iter": 10})
    Constant(1.0, steps=30).then(Cosine(1.0, 1e-05, steps=10))
    """
    peak = _learning_rate(group, "lr", lr)
    updates = COUNT(group.who, "n_epoch", n_epoch) * _per_epoch(group)
    end = peak / divisor(group, "div_final", div_final)
    share = _share(group, "pct_start", pct_start)
    curves: list[Curve] = [lambda _: Constant(peak), partial(_cosine, peak, end)]
    return _combined(group, (share, 1.0 - share), curves, updates)


@peer(base=False)
def fit_sgdr(
    group: Group,
    n_cycles: int,
    cycle_len: int,
    lr_max: float | None = None,
    cycle_mult: int = 2,
    cbs: Any = None,
    reset_opt: bool = False,
    wd: Any = None,
    start_epoch: int = 0,
) -> Schedule:
    """`Cosine` pieces down to 0: the first takes ``cycle_len`` epochs, each next one ``cycle_mult`` times as many.

    ``cycle_mult=1``, by which fastai divides by zero, gives cycles of one length. A restart that float32 misses is one
    update late, as in fastai, and the update in its place uses the cycle's end: 0.

    >>> s = fit_sgdr(n_cycles=3, cycle_len=1, lr_max=1.0, context={"n_iter": 6})
    >>> s(0), s(6), s(12), s(18), round(s(19), 12)
    (1.0, 1.0, 0.5, 0.0, 0.995722430687)
    """
    count = Number("pass how many cycles", least=1, most=2.0**12, whole=True)(group.who, "n_cycles", n_cycles)
    times, each = COUNT(group.who, "cycle_mult", cycle_mult), COUNT(group.who, "cycle_len", cycle_len)
    epochs: list[int] = []
    for _ in range(count):
        epochs.append(each)
        each *= times
        COUNT(group.who, "all updates", sum(epochs) * _per_epoch(group))
    curve = partial(_cosine, _learning_rate(group, "lr_max", lr_max), 0.0)
    total = sum(epochs)
    return _combined(group, [share / total for share in epochs], [curve] * count, total * _per_epoch(group))


@peer(base=False, hyperparameters=BOTH)
def fine_tune(
    group: Group,
    epochs: int,
    base_lr: float = 2e-3,
    freeze_epochs: int = 1,
    lr_mult: float = 100,
    pct_start: float = 0.3,
    div: float = 5.0,
    **kwargs: Any,
) -> Schedule:
    """`fit_one_cycle` of the head alone, then one of everything with half the ``base_lr``; the last group's curve.

    ``kwargs`` go to both. Of ``g`` groups the others are frozen at first, and then run at this curve times a power of
    ``lr_mult``: the first group at ``1/lr_mult``, those between at equal ratios.

    >>> s = fine_tune(4, 1.0, context={"n_iter": 100})
    >>> s(0), s(99), round(s(100), 12), round(s(220), 12)
    (0.04, 1.0, 0.1, 0.5)
    """
    conditions = {"hyperparameter": group.hyperparameter, "context": group.context}
    peak = _learning_rate(group, "base_lr", base_lr)
    frozen = fit_one_cycle(freeze_epochs, peak, pct_start=0.99, **kwargs, **conditions)
    whole = fit_one_cycle(epochs, peak / 2, pct_start=pct_start, div=div, **kwargs, **conditions)
    return head(frozen, freeze_epochs * _per_epoch(group)).then(cast(Schedule, whole))
