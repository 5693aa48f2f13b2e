"""transformers' schedules: ``get_scheduler``, its names (``cosine_with_min_lr``), and the functions behind them.

A name takes ``get_scheduler``'s arguments, a function its own; the group's lr stands where the optimizer stood. The lr
is 0 at update 0, for the warmup is ``t / W``; only ``cosine_warmup_with_min_lr`` has ``(t + 1) / W``, and
``warmup_stable_decay`` begins at ``min_lr_ratio``. ``polynomial`` and ``min_lr`` turn their absolute end into a share
of the optimizer's default lr: ``context={"optimizer": {"default_lr": 0.001}}``, without which it is the first group's.
``last_epoch`` is accepted and ignored.

>>> from fastsched import compat
>>> s = compat.transformers.get_scheduler(0.5, "cosine", num_warmup_steps=10, num_training_steps=30)
>>> s(0), s(10), s(20), s(30)
(0.0, 0.5, 0.25, 0.0)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastsched._check import VALUE, Choice, Number, shown
from fastsched.compat._endless import endless_cosine
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import delayed, exact, head, spread, tail
from fastsched.kinds import Constant, Cosine, CosineRestarts, InverseSqrt, Linear, OneMinusSqrt, Polynomial
from fastsched.schedule import Schedule

FAR = 1 << 16  # trainings in which a cosine goes on past its end
WSD_SHAPE = Choice(("linear", "cosine", "1-sqrt"))


# ---- what they are made of ----


def _warmed(group: Group, name: str, steps: Any, after: Schedule, start: float = 0.0) -> Schedule:
    """A line up to the group's lr, then the rest."""
    count = group.whole(name, steps)
    return Linear(start, group.base, steps=count).then(after) if count else after


def _decay_steps(group: Group, num_warmup_steps: Any, num_training_steps: Any) -> int:
    """The updates after the warmup; 0 where there are none."""
    total = group.whole("num_training_steps", num_training_steps)
    return max(0, total - group.whole("num_warmup_steps", num_warmup_steps))


def _wave(group: Group, floor: float, num_cycles: Any, steps: int) -> Schedule:
    """A cosine of so many cycles in so many steps, which goes on without an end."""
    cycles = abs(VALUE(group.who, "num_cycles", num_cycles))
    if cycles == 0 or floor == group.base:
        return Constant(group.base)
    half = max(1, steps) / (2 * exact(cycles))
    if half.denominator == 1:
        return endless_cosine(group.base, floor, int(half))
    # No whole number of steps repeats it.
    return Cosine(group.base, floor, steps=max(1, steps) * FAR, cycles=cycles * FAR)


def _default_lr(group: Group) -> float:
    """``optimizer.defaults["lr"]``."""
    lr = (group.context.get("optimizer") or {}).get("default_lr", group.bases[0])
    return float(Number("pass the optimizer's lr", above=0.0)(group.who, "default_lr", lr))


def _floor(group: Group, min_lr: Any, min_lr_rate: Any) -> float:
    """The lowest lr of a group: a share of its own."""
    if (min_lr is None) == (min_lr_rate is None):
        given = "neither" if min_lr is None else "both"
        raise ValueError(f"{group.who}: one of min_lr and min_lr_rate must be given, got {given}; pass min_lr_rate=0.1")
    if min_lr_rate is not None:
        return float(group.base * VALUE(group.who, "min_lr_rate", min_lr_rate))
    return float(group.base * (VALUE(group.who, "min_lr", min_lr) / _default_lr(group)))


def _not_below_zero(schedule: Schedule, floor: float) -> Schedule:
    return schedule.clip(low=0.0) if floor < 0.0 else schedule


# ---- functions ----


@peer
def get_constant_schedule(group: Group, last_epoch: int = -1) -> Schedule:
    """The lr, unchanged: `Constant`."""
    return Constant(group.base)


@peer
def get_constant_schedule_with_warmup(group: Group, num_warmup_steps: int, last_epoch: int = -1) -> Schedule:
    """`Linear` from 0, then `Constant`."""
    return _warmed(group, "num_warmup_steps", num_warmup_steps, Constant(group.base))


@peer
def get_linear_schedule_with_warmup(
    group: Group, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> Schedule:
    """`Linear` from 0 to the lr, then `Linear` to 0, where it stays."""
    steps = _decay_steps(group, num_warmup_steps, num_training_steps)
    after = Linear(group.base, 0.0, steps=steps) if steps else Constant(0.0)
    return _warmed(group, "num_warmup_steps", num_warmup_steps, after)


@peer
def get_cosine_schedule_with_warmup(
    group: Group, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, last_epoch: int = -1
) -> Schedule:
    """`Linear` from 0, then `Cosine` to 0; **it rises again** after ``num_training_steps``, and so on."""
    steps = _decay_steps(group, num_warmup_steps, num_training_steps)
    return _warmed(group, "num_warmup_steps", num_warmup_steps, _wave(group, 0.0, num_cycles, steps))


@peer
def get_cosine_with_hard_restarts_schedule_with_warmup(
    group: Group, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 1, last_epoch: int = -1
) -> Schedule:
    """`Linear` from 0, then `CosineRestarts`, cycles of one length; 0 from ``num_training_steps`` on.

    Where a restart is due, transformers' float progress may round to the end of the cycle before; here it is the peak.
    """
    steps = max(1, _decay_steps(group, num_warmup_steps, num_training_steps))
    cycles = Number("one descent is num_cycles=1", above=0.0)(group.who, "num_cycles", num_cycles)
    cosines = spread(lambda ticks: CosineRestarts(group.base, 0.0, first=ticks), steps / exact(cycles))
    return _warmed(group, "num_warmup_steps", num_warmup_steps, head(cosines, steps).then(Constant(0.0)))


@peer
def get_polynomial_decay_schedule_with_warmup(
    group: Group,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> Schedule:
    """`Linear` from 0, then `Polynomial` to ``lr_end``, where it stays.

    ``lr_end`` is that of a group with the optimizer's default lr; in others it is in proportion to their lr. Without
    steps to decay in, transformers divides by zero; this is at the end at once.
    """
    default = _default_lr(group)
    end = VALUE(group.who, "lr_end", lr_end)
    if not default > end:
        raise ValueError(
            f"{group.who}: lr_end must be < the optimizer's default lr, got {shown(end)} and {shown(default)}; "
            "pass a smaller lr_end"
        )
    steps = _decay_steps(group, num_warmup_steps, num_training_steps)
    low = group.base * (end / default)
    after = Polynomial(group.base, low, steps=steps, power=power) if steps else Constant(low)
    return _warmed(group, "num_warmup_steps", num_warmup_steps, after)


@peer
def get_inverse_sqrt_schedule(
    group: Group, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> Schedule:
    """`Linear` from 0, then `InverseSqrt`; ``timescale`` is ``num_warmup_steps`` by default, 10,000 without warmup."""
    timescale = (num_warmup_steps or 10_000) if timescale is None else timescale
    return _warmed(group, "num_warmup_steps", num_warmup_steps, InverseSqrt(group.base, timescale=timescale))


@peer
def get_cosine_with_min_lr_schedule_with_warmup(
    group: Group,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> Schedule:
    """`Linear` from 0, then `Cosine` to ``min_lr_rate * lr``; **it rises again** after ``num_training_steps``.

    ``min_lr`` is that of a group with the optimizer's default lr; in others it is in proportion to their lr.
    """
    floor = _floor(group, min_lr, min_lr_rate)
    steps = _decay_steps(group, num_warmup_steps, num_training_steps)
    after = _not_below_zero(_wave(group, floor, num_cycles, steps), floor)
    return _warmed(group, "num_warmup_steps", num_warmup_steps, after)


@peer
def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    group: Group,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> Schedule:
    """`Linear` from ``lr / W``, or ``warmup_lr_rate * lr``, to the lr at update ``W - 1``; then `Cosine` as above.

    The peak is the warmup's last update, and the cosine is one step on at update W.
    """
    floor = _floor(group, min_lr, min_lr_rate)
    warmup = group.whole("num_warmup_steps", num_warmup_steps)
    wave = _wave(group, floor, num_cycles, _decay_steps(group, num_warmup_steps, num_training_steps))
    after = _not_below_zero(wave, floor)
    if warmup == 0:
        return tail(after, 1)
    rate = 1.0 / warmup if warmup_lr_rate is None else VALUE(group.who, "warmup_lr_rate", warmup_lr_rate)
    if warmup == 1:
        return delayed(group.base * rate, 1, tail(after, 1))
    return Linear(group.base * rate, group.base, steps=warmup - 1).then(after)


@peer
def get_wsd_schedule(
    group: Group,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> Schedule:
    """A rise **from** ``min_lr_ratio * lr``, `Constant`, a decay to ``min_lr_ratio * lr``, where it stays.

    Shapes: `Linear`, `Cosine`, and ``"1-sqrt"``: `OneMinusSqrt`, for the rise `Polynomial` of power 0.5. Where warmup
    and decay are longer than the training, the decay is entered on its way. ``num_stable_steps`` goes before
    ``num_training_steps``.
    """
    warmup, decay = group.whole("num_warmup_steps", num_warmup_steps), group.whole("num_decay_steps", num_decay_steps)
    if num_stable_steps is not None:
        stable = group.whole("num_stable_steps", num_stable_steps)
    elif num_training_steps is not None:
        stable = group.whole("num_training_steps", num_training_steps) - warmup - decay
    else:
        raise ValueError(f"{group.who}: num_training_steps or num_stable_steps must be given, got neither; pass one")
    high, low = group.base, group.base * VALUE(group.who, "min_lr_ratio", min_lr_ratio)
    whole: Schedule = Constant(low)
    if decay + min(stable, 0) > 0:
        fall = _shape(WSD_SHAPE(group.who, "decay_type", decay_type), high, low, decay, num_cycles)
        whole = tail(fall, max(0, -stable)).then(whole)
    if stable > 0:
        whole = delayed(high, stable, whole)
    if warmup:
        shape = WSD_SHAPE(group.who, "warmup_type", warmup_type)
        up = Polynomial(low, high, steps=warmup, power=0.5)  # "1-sqrt" from its end to its begin
        whole = (up if shape == "1-sqrt" else _shape(shape, low, high, warmup)).then(whole)
    return _not_below_zero(whole, low)


def _shape(name: str, start: float, end: float, steps: int, cycles: float = 0.5) -> Schedule:
    if name == "linear":
        return Linear(start, end, steps=steps)
    if name == "1-sqrt":
        return OneMinusSqrt(start, end, steps=steps)
    return Cosine(start, end, steps=steps, cycles=abs(cycles)) if cycles else Constant(start, steps=steps)


@peer
def get_reduce_on_plateau_schedule(group: Group, **kwargs: Any) -> Schedule:
    """Raises: its lr follows a metric, so it is no function of the step."""
    raise group.follows_metric()


@peer
def get_greedy_schedule(group: Group, **kwargs: Any) -> Schedule:
    """Raises: its lr follows a metric, so it is no function of the step."""
    raise group.follows_metric("use fs.lr_scheduler.get_scheduler('greedy', ...) with the optimizer")


@peer
def get_adafactor_schedule(group: Group, initial_lr: float = 0.0) -> Schedule:
    """Raises: it only shows the lr that Adafactor computes."""
    raise group.follows_metric("leave it out: Adafactor needs none")


# ---- names ----

# get_scheduler's name -> the function, and which of get_scheduler's arguments it must have.
NAMES: Mapping[str, tuple[Any, tuple[str, ...]]] = {
    "linear": (get_linear_schedule_with_warmup, ("num_warmup_steps", "num_training_steps")),
    "cosine": (get_cosine_schedule_with_warmup, ("num_warmup_steps", "num_training_steps")),
    "cosine_with_restarts": (
        get_cosine_with_hard_restarts_schedule_with_warmup,
        ("num_warmup_steps", "num_training_steps"),
    ),
    "polynomial": (get_polynomial_decay_schedule_with_warmup, ("num_warmup_steps", "num_training_steps")),
    "constant": (get_constant_schedule, ()),
    "constant_with_warmup": (get_constant_schedule_with_warmup, ("num_warmup_steps",)),
    "inverse_sqrt": (get_inverse_sqrt_schedule, ("num_warmup_steps",)),
    "reduce_lr_on_plateau": (get_reduce_on_plateau_schedule, ()),
    "cosine_with_min_lr": (
        get_cosine_with_min_lr_schedule_with_warmup,
        ("num_warmup_steps", "num_training_steps"),
    ),
    "cosine_warmup_with_min_lr": (
        get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
        ("num_warmup_steps", "num_training_steps"),
    ),
    "warmup_stable_decay": (get_wsd_schedule, ("num_warmup_steps",)),
    "greedy": (get_greedy_schedule, ()),
}


def _by_name(
    group: Group, name: Any, num_warmup_steps: Any, num_training_steps: Any, scheduler_specific_kwargs: Any
) -> Schedule:
    name = getattr(name, "value", name)  # a SchedulerType counts
    if not isinstance(name, str) or name not in NAMES:
        raise ValueError(f"{group.who}: name must be a known one, got {shown(name)}; pass one of {', '.join(NAMES)}")
    function, needed = NAMES[name]
    arguments = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    for key in needed:
        if arguments[key] is None:
            raise ValueError(f"{group.who}: {name} must have {key}, got None; pass a number of steps")
    specific = scheduler_specific_kwargs or {}
    if not isinstance(specific, Mapping):
        raise TypeError(
            f"{group.who}: scheduler_specific_kwargs must be a dict, got {shown(specific)}; "
            "pass what the schedule's own function takes"
        )
    takes_training = name == "warmup_stable_decay"
    given = {key: value for key, value in arguments.items() if key in needed or takes_training}
    ignored = name in ("constant", "constant_with_warmup")
    return group.part(lambda lr: function(lr, **given, **({} if ignored else specific)), group.base).schedule


@peer
def get_scheduler(
    group: Group,
    name: Any,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> Schedule:
    """The schedule of a name, such as ``TrainingArguments.lr_scheduler_type``."""
    return _by_name(group, name, num_warmup_steps, num_training_steps, scheduler_specific_kwargs)


def _name(name: str) -> Any:
    """The peer of one of `get_scheduler`'s names."""

    def schedule(
        group: Group,
        num_warmup_steps: int | None = None,
        num_training_steps: int | None = None,
        scheduler_specific_kwargs: Mapping[str, Any] | None = None,
    ) -> Schedule:
        return _by_name(group, name, num_warmup_steps, num_training_steps, scheduler_specific_kwargs)

    schedule.__name__ = schedule.__qualname__ = name
    schedule.__doc__ = f"``get_scheduler({name!r}, ...)``: `{NAMES[name][0].__name__}`."
    return peer(schedule)


linear = _name("linear")
cosine = _name("cosine")
cosine_with_restarts = _name("cosine_with_restarts")
polynomial = _name("polynomial")
constant = _name("constant")
constant_with_warmup = _name("constant_with_warmup")
inverse_sqrt = _name("inverse_sqrt")
reduce_lr_on_plateau = _name("reduce_lr_on_plateau")
cosine_with_min_lr = _name("cosine_with_min_lr")
cosine_warmup_with_min_lr = _name("cosine_warmup_with_min_lr")
warmup_stable_decay = _name("warmup_stable_decay")
greedy = _name("greedy")

__all__ = [
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_warmup_with_min_lr",
    "cosine_with_min_lr",
    "cosine_with_restarts",
    "get_adafactor_schedule",
    "get_constant_schedule",
    "get_constant_schedule_with_warmup",
    "get_cosine_schedule_with_warmup",
    "get_cosine_with_hard_restarts_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup",
    "get_cosine_with_min_lr_schedule_with_warmup_lr_rate",
    "get_greedy_schedule",
    "get_inverse_sqrt_schedule",
    "get_linear_schedule_with_warmup",
    "get_polynomial_decay_schedule_with_warmup",
    "get_reduce_on_plateau_schedule",
    "get_scheduler",
    "get_wsd_schedule",
    "greedy",
    "inverse_sqrt",
    "linear",
    "polynomial",
    "reduce_lr_on_plateau",
    "warmup_stable_decay",
]
