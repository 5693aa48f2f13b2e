"""Megatron-LM's schedule by its arguments. All values are absolute: there is no base lr.

``context={"increment": n}`` is what each update adds to Megatron's counter: its batch size, where lengths are in
samples (1 if absent). ``context={"group_overrides": [{...}, ...]}`` has one dict per group, for which a list is
returned, with any of ``max_lr``, ``min_lr``, ``start_wd``, ``end_wd``, ``wd_mult`` and (older versions) ``lr_mult``.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

from fastsched._check import VALUE, Choice, Number, shown
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import Curve, chain, delayed, exact, head, spread, tail
from fastsched.kinds import Constant, Cosine, InverseSqrt, Linear, WarmupStableDecay
from fastsched.schedule import Schedule

__all__ = ["OptimizerParamScheduler"]

_VALUE = Number("Megatron has none below 0", least=0.0)
_STYLES = Choice(("constant", "linear", "cosine", "inverse-square-root", "WSD"))
_WSD_STYLES = Choice(("linear", "cosine", "exponential", "minus_sqrt"))
_WD_STYLES = Choice(("constant", "linear", "cosine"))


@peer(base=False, hyperparameters=("lr", "weight_decay"))
def OptimizerParamScheduler(
    group: Group,
    init_lr: float,
    max_lr: float,
    min_lr: float,
    lr_warmup_steps: int,
    lr_decay_steps: int,
    lr_decay_style: str,
    start_wd: float,
    end_wd: float,
    wd_incr_steps: int,
    wd_incr_style: str,
    use_checkpoint_opt_param_scheduler: bool = True,
    override_opt_param_scheduler: bool = False,
    wsd_decay_steps: int | None = None,
    lr_wsd_decay_style: str | None = None,
) -> Schedule:
    """A line from ``init_lr`` to ``max_lr``, then a decay to ``min_lr`` at ``lr_decay_steps``, warmup included.

    Both bounds are inclusive: the warmup up to n = ``lr_warmup_steps``, the decay up to n = ``lr_decay_steps``, after
    which the lr is ``min_lr`` (with ``"constant"`` still ``max_lr``). So ``"inverse-square-root"``, which is ``max_lr *
    sqrt(W/n)`` and nowhere below ``min_lr``, falls to ``min_lr`` in one step, and a ``"WSD"`` decay longer than what
    the warmup leaves begins in its middle, right after the peak. A warmup need not be whole, as where Megatron gets it
    from ``--lr-warmup-fraction``. A group's ``min_lr`` and ``max_lr`` are its own, but all warm up from ``init_lr``.
    ``hyperparameter="weight_decay"``: from ``start_wd`` to ``end_wd`` within ``wd_incr_steps`` steps, times the group's
    ``wd_mult``; ``"constant"`` needs both to be one. The two arguments about checkpoints are ignored.

    Composition: `Linear`, then `Linear`, `Cosine`, `InverseSqrt` with a floor, or `WarmupStableDecay`; sped up by the
    increment.

    >>> s = OptimizerParamScheduler(0.0, 1.0, 0.25, 4, 12, "linear", 0.1, 0.1, 12, "constant")
    >>> s(0), s(4), s(8), s(12), s(13)
    (0.0, 1.0, 0.625, 0.25, 0.25)
    """
    if group.hyperparameter == "lr":
        _ascending(group, "init_lr", VALUE(group.who, "init_lr", init_lr), "max_lr", max_lr)
        _ascending(group, "min_lr", _VALUE(group.who, "min_lr", min_lr), "max_lr", max_lr)
        warmup, steps = _lengths(group, lr_warmup_steps, lr_decay_steps)
        low, high = _own(group, "min_lr", min_lr), _own(group, "max_lr", max_lr)
        rise = _Rise(lambda n: Linear(init_lr, high, steps=n), warmup)
        style = _STYLES(group.who, "lr_decay_style", lr_decay_style)
        if style == "WSD":
            decay = group.whole("wsd_decay_steps", wsd_decay_steps)
            shape = _WSD_STYLES(group.who, "lr_wsd_decay_style", lr_wsd_decay_style)
            schedule = _stable_decay(rise, high, low, steps, decay, shape)
        elif style == "inverse-square-root":
            schedule = _inverse_sqrt(rise, high, low, steps)
        else:
            schedule = rise.then(_plain_curve(style, high, low), steps)
        factor = _own(group, "lr_mult", 1.0)
    else:
        _ascending(group, "start_wd", _VALUE(group.who, "start_wd", start_wd), "end_wd", end_wd)
        start, end = _own(group, "start_wd", start_wd), _own(group, "end_wd", end_wd)
        schedule = _weight_decay(group, start, end, wd_incr_steps, wd_incr_style)
        factor = _own(group, "wd_mult", 1.0)
    increment = group.whole("increment", group.context.get("increment", 1), 1)
    schedule = schedule if factor == 1.0 else schedule * factor
    return schedule if increment == 1 else schedule.speed_up(increment)


def _own(group: Group, name: str, value: Any) -> float:
    """A value, or what the group has in its place."""
    overrides = group.context.get("group_overrides")
    own = overrides[group.index] if overrides else {}
    return float(_VALUE(group.who, name, own.get(name, value)))


def _ascending(group: Group, lower: str, low: Any, upper: str, high: Any) -> None:
    """What the peer asserts of the arguments, but not of the groups."""
    if low > _VALUE(group.who, upper, high):
        raise ValueError(f"{group.who}: {lower} must be <= {upper}, got {shown(low)} and {shown(high)}; raise {upper}")


def _lengths(group: Group, warmup: Any, steps: Any) -> tuple[Fraction, int]:
    warmup = exact(Number("leave it out with 0", least=0.0)(group.who, "lr_warmup_steps", warmup))
    steps = group.whole("lr_decay_steps", steps, 1)
    if not warmup < steps:
        raise ValueError(
            f"{group.who}: lr_warmup_steps must be < lr_decay_steps, got {shown(float(warmup))} and {steps}; "
            "lr_decay_steps counts the warmup too"
        )
    return warmup, steps


class _Rise(NamedTuple):
    """The warmup: a curve, and its steps, which need not be whole where they are a fraction of the run."""

    curve: Curve
    steps: Fraction

    @property
    def inclusive(self) -> int:
        """The first step after it, its last one included."""
        return math.floor(self.steps) + 1 if self.steps else 0

    def until(self, first: int) -> list[Schedule]:
        """Its steps before ``first``."""
        return [head(spread(self.curve, self.steps), first)] if first else []

    def then(self, curve: Curve, end: int) -> Schedule:
        """Followed by a curve from its top, up to the step ``end``."""
        first = math.ceil(self.steps)
        return chain([*self.until(first), spread(curve, end - self.steps, first - self.steps)])


def _plain_curve(style: str, high: float, low: float) -> Curve:
    if style == "constant":
        return lambda n: Constant(high)
    return lambda n: (Linear if style == "linear" else Cosine)(high, low, steps=n)


def _inverse_sqrt(rise: _Rise, high: float, low: float, steps: int) -> Schedule:
    """Up to the last step; then the minimum."""
    if rise.steps:
        first, timescale = rise.inclusive, rise.steps
        before = rise.until(first)
    else:
        first, timescale = 1, Fraction(1)  # Megatron takes step 0 for 1
        before = [Constant(max(high, low), steps=1)]
    root = InverseSqrt(high, timescale=float(timescale), shift=float(first - timescale)).clip(low=low)
    last = [head(root, steps - first + 1)] if steps >= first else []
    return chain([*before, *last, Constant(low)])


def _stable_decay(rise: _Rise, high: float, low: float, steps: int, decay: int, style: str) -> Schedule:
    """A decay over the last steps. The warmup goes before it where both claim a step."""
    begin = steps - decay
    first = math.ceil(rise.steps) if begin >= rise.steps else rise.inclusive
    if decay:
        shape = "sqrt" if style == "minus_sqrt" else style
        fall: Schedule = WarmupStableDecay(high, warmup=0, stable=0, decay=decay, shape=shape, end=low)
    else:
        fall = Constant(low)
        begin += 1  # the last step still has the peak
    after = delayed(high, begin - first, fall) if begin > first else tail(fall, first - begin)
    return chain([*rise.until(first), after])


def _weight_decay(group: Group, start: float, end: float, steps: Any, style: Any) -> Schedule:
    style = _WD_STYLES(group.who, "wd_incr_style", style)
    if style != "constant":
        steps = group.whole("wd_incr_steps", steps, 1)
        return Linear(start, end, steps=steps) if style == "linear" else Cosine(start, end, steps=steps)
    if start != end:
        raise ValueError(
            f"{group.who}: start_wd and end_wd must be equal with wd_incr_style='constant', got {shown(start)} and "
            f"{shown(end)}; pass wd_incr_style='linear'"
        )
    return Constant(end)
