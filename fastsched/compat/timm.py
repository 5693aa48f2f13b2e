"""timm's schedulers: ``timm.scheduler``.

The group's lr stands where the optimizer stood; ``context={"lr_scale": [1.0, 0.65]}``, one per group as
``param_groups_layer_decay`` writes them, multiplies every value in the end, the absolute ``lr_min`` and
``warmup_lr_init`` too. A step here is what timm's own step is given: an epoch, or with ``t_in_epochs=False`` an
update. Step 0 has what the constructor leaves: ``warmup_lr_init`` or the lr, even where the curve begins elsewhere.

**With** ``warmup_prefix=False``, the default of most, **the curve runs on during the warmup** and the lr jumps where
it ends. Restarts are counted here; timm takes a logarithm, which misplaces some (``t_initial=10, cycle_mul=3``
at 1210). Noise is within timm's limits and the same in every group, and from a generator of its own: not timm's
numbers.

>>> from fastsched import compat
>>> s = compat.timm.CosineLRScheduler(0.5, t_initial=20, warmup_t=10, warmup_prefix=True)
>>> s(0), s(10), s(20), s(30)
(0.0, 0.5, 0.25, 0.0)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fastsched._check import LARGEST_STEP, VALUE, Choice, Number, shown
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import Curve, abutting, delayed, exact, length, tail
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    Geometric,
    InverseSqrt,
    Linear,
    MultiStep,
    OneMinusSqrt,
    Polynomial,
    PowerLaw,
    Samples,
    StepDecay,
    Tanh,
)
from fastsched.schedule import Schedule

__all__ = [
    "CosineLRScheduler",
    "MultiStepLRScheduler",
    "PlateauLRScheduler",
    "PolyLRScheduler",
    "StepLRScheduler",
    "TanhLRScheduler",
    "WSDLRScheduler",
    "create_scheduler_v2",
]

MOST_CYCLES = 1 << 16

# A curve from one value to another over so many steps.
Shape = Callable[[float, float, int], Schedule]


@dataclass(frozen=True)
class Frame:
    """What all have: warmup, noise and the group's scale."""

    group: Group
    warmup_t: Any
    warmup_lr_init: Any
    warmup_prefix: bool
    noise_range_t: Any
    noise_pct: float
    noise_std: float
    noise_seed: int | None

    def around(self, curve: Schedule, target: float | None = None) -> Schedule:
        """A curve from its own step 0 on, with all that; the warmup ends at ``target``, the group's lr if None."""
        group = self.group
        warmup = group.whole("warmup_t", self.warmup_t)
        if warmup:
            start = VALUE(group.who, "warmup_lr_init", self.warmup_lr_init)
            rise = Linear(start, group.base if target is None else target, steps=warmup)
            whole = rise.then(curve if self.warmup_prefix else tail(curve, warmup))
        elif float(curve(0)) != group.base:
            whole = delayed(group.base, 1, tail(curve, 1))
        else:
            whole = curve
        if self.noise_range_t is not None:
            whole = whole * self._noise()
        scale = group.own("lr_scale", group.context.get("lr_scale", 1.0))
        return whole if scale == 1.0 else whole * VALUE(group.who, "lr_scale", scale)

    def _noise(self) -> Schedule:
        """A factor near 1 in the range, from step 1 on: the constructor adds no noise."""
        given = self.noise_range_t
        begin, end = given if isinstance(given, (list, tuple)) else (given, math.inf)
        begin = max(1, math.ceil(begin))
        if end == math.inf:
            steps = None
        elif math.ceil(end) > begin:
            steps = math.ceil(end) - begin
        else:
            return Constant(1.0)
        seed = 42 if self.noise_seed is None else self.noise_seed
        noise = Constant(1.0, steps=steps).noisy(self.noise_pct, seed=seed, std=self.noise_std)
        return delayed(1.0, begin, noise if steps is None else noise.then(Constant(1.0)))


@dataclass(frozen=True)
class Cycles:
    """Curves one after another from ever lower starts, and ``lr_min`` after the last."""

    group: Group
    t_initial: Any
    lr_min: Any
    cycle_mul: float
    cycle_decay: float
    cycle_limit: int

    def of(self, shape: Shape) -> Schedule:
        """Cycles of a shape."""
        group, limit = self.group, self.group.whole("cycle_limit", self.cycle_limit)
        low = VALUE(group.who, "lr_min", self.lr_min)
        if limit == 0:
            return Constant(low)
        first = length(group, "t_initial", self.t_initial)
        many = Number("cycles of one length have cycle_mul=1", above=0.0)(group.who, "cycle_mul", self.cycle_mul)
        decay = Number("peaks of one height have cycle_decay=1", least=0.0)(group.who, "cycle_decay", self.cycle_decay)
        if first.denominator == 1 and (limit == 1 or many == decay == 1):
            once = shape(group.base, low, int(first))
            whole = once if limit == 1 else once.repeat(limit)
            # tanh does not come down to lr_min
            return whole if float(whole(int(whole.steps))) == low else whole.then(Constant(low))
        cycles: list[tuple[Curve, Fraction]] = []
        begin, steps = Fraction(0), first
        while len(cycles) < limit and begin <= LARGEST_STEP:
            if len(cycles) == MOST_CYCLES:
                raise ValueError(
                    f"{group.who}: cycle_limit must be <= 2**16 where cycles differ, got {limit}; pass fewer cycles"
                )
            try:
                start = group.base * decay ** len(cycles)
            except OverflowError:
                raise ValueError(
                    f"{group.who}: cycle_decay ** {len(cycles)} must be finite, got {shown(decay)} ** {len(cycles)}; "
                    "pass a cycle_decay of at most 1"
                ) from None
            cycles.append((lambda ticks, start=start: shape(start, low, ticks), steps))  # type: ignore[misc]
            begin, steps = begin + steps, steps * exact(many)
        return abutting([*cycles, (lambda ticks: Constant(low), Fraction(1))])


@peer
def CosineLRScheduler(
    group: Group,
    t_initial: int,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    k_decay: float = 1.0,
    initialize: bool = True,
) -> Schedule:
    """`Cosine` with ``k=k_decay``, or `CosineRestarts`, to the absolute ``lr_min``, where it stays after all cycles."""
    frame = Frame(group, warmup_t, warmup_lr_init, warmup_prefix, noise_range_t, noise_pct, noise_std, noise_seed)
    cycles = Cycles(group, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    whole = all(isinstance(number, int) or float(number).is_integer() for number in (t_initial, cycle_mul))
    if k_decay == 1 and whole and cycle_limit > 1 and cycle_decay > 0:
        first, many = group.whole("t_initial", t_initial, least=1), group.whole("cycle_mul", cycle_mul, least=1)
        return frame.around(_restarts(group, first, many, cycles))
    return frame.around(cycles.of(lambda start, end, steps: Cosine(start, end, steps=steps, k=k_decay)))


def _restarts(group: Group, first: int, many: int, cycles: Cycles) -> Schedule:
    limit = group.whole("cycle_limit", cycles.cycle_limit)
    total = first * limit if many == 1 else first * many ** min(limit, 54)
    count = limit if total <= LARGEST_STEP else None
    return CosineRestarts(
        group.base, cycles.lr_min, first=first, multiplier=many, decay=cycles.cycle_decay, cycles=count
    )


@peer
def TanhLRScheduler(
    group: Group,
    t_initial: int,
    lb: float = -7.0,
    ub: float = 3.0,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    initialize: bool = True,
) -> Schedule:
    """`Tanh`, and the absolute ``lr_min`` after it. Unlike the others, it warms up to the curve's value at the end."""
    frame = Frame(group, warmup_t, warmup_lr_init, warmup_prefix, noise_range_t, noise_pct, noise_std, noise_seed)
    cycles = Cycles(group, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    curve = cycles.of(lambda start, end, steps: Tanh(start, end, steps=steps, lower=lb, upper=ub))
    target = None if warmup_prefix else float(curve(group.whole("warmup_t", warmup_t)))
    return frame.around(curve, target)


@peer
def PolyLRScheduler(
    group: Group,
    t_initial: int,
    power: float = 0.5,
    lr_min: float = 0.0,
    cycle_mul: float = 1.0,
    cycle_decay: float = 1.0,
    cycle_limit: int = 1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = False,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    k_decay: float = 1.0,
    initialize: bool = True,
) -> Schedule:
    """`Polynomial` with ``k=k_decay`` to the absolute ``lr_min``, where it stays after all cycles."""
    frame = Frame(group, warmup_t, warmup_lr_init, warmup_prefix, noise_range_t, noise_pct, noise_std, noise_seed)
    cycles = Cycles(group, t_initial, lr_min, cycle_mul, cycle_decay, cycle_limit)
    return frame.around(
        cycles.of(lambda start, end, steps: Polynomial(start, end, steps=steps, power=power, k=k_decay))
    )


@peer
def StepLRScheduler(
    group: Group,
    decay_t: float,
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    initialize: bool = True,
) -> Schedule:
    """`StepDecay`; ``decay_t`` need not be whole."""
    frame = Frame(group, warmup_t, warmup_lr_init, warmup_prefix, noise_range_t, noise_pct, noise_std, noise_seed)
    return frame.around(StepDecay(group.base, gamma=decay_rate, every=decay_t))


@peer
def MultiStepLRScheduler(
    group: Group,
    decay_t: Sequence[float],
    decay_rate: float = 1.0,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    warmup_prefix: bool = True,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    initialize: bool = True,
) -> Schedule:
    """`MultiStep`, **one step early**: a milestone of 30 acts at 29."""
    frame = Frame(group, warmup_t, warmup_lr_init, warmup_prefix, noise_range_t, noise_pct, noise_std, noise_seed)
    milestones = [max(0, math.ceil(VALUE(group.who, "decay_t", edge)) - 1) for edge in decay_t]
    return frame.around(MultiStep(group.base, milestones=milestones, gamma=decay_rate))


@peer
def WSDLRScheduler(
    group: Group,
    t_initial: int,
    decay_t: int,
    lr_min: float = 0.0,
    stable_fn: str = "constant",
    stable_timescale: float | None = None,
    stable_power: float = 0.5,
    decay_fn: Any = "1-sqrt",
    decay_power: float = 0.5,
    decay_ratio: float = 0.1,
    warmup_t: int = 0,
    warmup_lr_init: float = 0.0,
    t_in_epochs: bool = True,
    noise_range_t: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int | None = 42,
    initialize: bool = True,
) -> Schedule:
    """A warmup (always before ``t_initial``), a stable part, and a decay of ``decay_t`` to the absolute ``lr_min``.

    ``stable_fn``: `Constant`, `InverseSqrt` or `PowerLaw`, going on in the decay, which multiplies it, and not below
    ``lr_min``. ``decay_fn``: `Linear`, `OneMinusSqrt`, `Cosine`, ``"power"`` `Polynomial` with ``k``, ``"exp"`` a
    `Geometric` moved down to 0, or a function of the decay's progress, which becomes `Samples`.
    """
    frame = Frame(group, warmup_t, warmup_lr_init, True, noise_range_t, noise_pct, noise_std, noise_seed)
    total, decay = group.whole("t_initial", t_initial, least=1), group.whole("decay_t", decay_t, least=1)
    if decay > total:
        raise ValueError(f"{group.who}: decay_t must be <= t_initial, got {decay} and {total}; shorten the decay")
    low = VALUE(group.who, "lr_min", lr_min)
    level = max(group.base, low)
    stable = _stable(group, stable_fn, warmup_t if stable_timescale is None else stable_timescale, stable_power)
    fall = _fall(group, decay_fn, decay_power, decay_ratio)
    if stable is None:
        curve = fall(level, low, decay)
        return frame.around(delayed(level, total - decay, curve))
    weight = delayed(1.0, total - decay, fall(1.0, 0.0, decay))
    if low == 0.0:
        return frame.around(stable * weight)
    return frame.around((stable.clip(low=low) + -low) * weight + low)


def _stable(group: Group, name: Any, timescale: Any, power: float) -> Schedule | None:
    """The stable part from its own step 0 on, without an end; None if it is constant."""
    kind = Choice(("constant", "rsqrt", "power"))(group.who, "stable_fn", name)
    if kind == "constant":
        return None
    scale = Number("pass stable_timescale where there is no warmup", above=0.0)(
        group.who, "stable_timescale", timescale
    )
    if kind == "rsqrt":
        return InverseSqrt(group.base, timescale=scale)
    return PowerLaw(group.base, exponent=power, timescale=scale)


def _fall(group: Group, name: Any, power: float, ratio: float) -> Shape:
    """The decay's shape."""
    if callable(name):
        return lambda start, end, steps: _between(start, end, _sampled(name, steps))
    options = ("linear", "1-sqrt", "cosine", "power", "exp")
    kind = Choice(options)(group.who, "decay_fn", name)
    if kind == "exp":
        rest = Number("the default is 0.1", above=0.0, most=0.999)(group.who, "decay_ratio", ratio)
        scale = 1.0 / (1.0 - rest)
        return lambda start, end, steps: _between(
            start, end, Geometric(1.0, rest, steps=steps) * scale + Constant(-rest * scale, steps=steps)
        )
    plain: dict[str, Shape] = {
        "linear": lambda start, end, steps: Linear(start, end, steps=steps),
        "1-sqrt": lambda start, end, steps: OneMinusSqrt(start, end, steps=steps),
        "cosine": lambda start, end, steps: Cosine(start, end, steps=steps),
        "power": lambda start, end, steps: Polynomial(start, end, steps=steps, k=power),
    }
    return plain[kind]


def _sampled(weight: Callable[[float], float], steps: int) -> Schedule:
    """A function of the progress at every step."""
    return Samples([weight(step / steps) for step in range(steps)]).then(Constant(weight(1.0)))


def _between(start: float, end: float, weight: Schedule) -> Schedule:
    """A weight from 1 to 0, put between two values."""
    scaled = weight if start - end == 1.0 else weight * (start - end)
    return scaled if end == 0.0 else scaled + end


@peer
def PlateauLRScheduler(group: Group, *args: Any, **kwargs: Any) -> Schedule:
    """Raises: its lr follows a metric, so it is no function of the step."""
    raise group.follows_metric()


@peer
def create_scheduler_v2(
    group: Group,
    sched: str = "cosine",
    num_epochs: int = 300,
    decay_epochs: float | None = None,
    decay_milestones: Sequence[int] = (90, 180, 270),
    cooldown_epochs: int = 0,
    patience_epochs: int = 10,
    decay_rate: float = 0.1,
    min_lr: float = 0.0,
    warmup_lr: float = 1e-5,
    warmup_epochs: int = 0,
    warmup_prefix: bool = False,
    noise: Any = None,
    noise_pct: float = 0.67,
    noise_std: float = 1.0,
    noise_seed: int = 42,
    cycle_mul: float = 1.0,
    cycle_decay: float = 0.1,
    cycle_limit: int = 1,
    k_decay: float = 1.0,
    decay_fn: str | None = None,
    stable_timescale: float | None = None,
    plateau_mode: str = "max",
    step_on_epochs: bool = True,
    updates_per_epoch: int = 0,
) -> Schedule:
    """The scheduler of a name, as ``train.py --sched`` makes it: the Schedule alone, without the number of epochs.

    **A cycle's peak is a tenth of the one before** by default, and ``decay_rate`` is the power of ``poly``.
    """
    unit = 1 if step_on_epochs else group.whole("updates_per_epoch", updates_per_epoch, least=1)
    total, warmup = num_epochs * unit, warmup_epochs * unit
    warm: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": warmup_lr}
    places = list(noise) if isinstance(noise, (list, tuple)) else [noise]
    noisy: dict[str, Any] = {"noise_pct": noise_pct, "noise_std": noise_std, "noise_seed": noise_seed}
    if noise is not None:
        places = [place * total for place in places]
        noisy["noise_range_t"] = places[0] if len(places) == 1 else places
    cycles = {"cycle_mul": cycle_mul, "cycle_decay": cycle_decay, "cycle_limit": cycle_limit}
    prefix = {"warmup_prefix": warmup_prefix}
    if sched in ("wsd", "rsqrt"):
        long = total if warmup_prefix else total - warmup
        decay = 0.2 if decay_epochs is None else decay_epochs
        arguments = {
            "t_initial": long,
            "decay_t": round(VALUE(group.who, "decay_epochs", decay * (long if 0 < decay < 1 else unit))),
            "lr_min": min_lr,
            "stable_fn": "rsqrt" if sched == "rsqrt" else "constant",
            "stable_timescale": None if stable_timescale is None else stable_timescale * unit,
            "decay_fn": decay_fn or ("linear" if sched == "rsqrt" else "1-sqrt"),
        }
        return _made(group, WSDLRScheduler, **arguments, **warm, **noisy)
    steps = {"decay_t": (90 if decay_epochs is None else decay_epochs) * unit, "decay_rate": decay_rate}
    curve = {"t_initial": total, "lr_min": min_lr, **cycles}
    choices: dict[str, tuple[Any, dict[str, Any]]] = {
        "cosine": (CosineLRScheduler, {**curve, "k_decay": k_decay}),
        "tanh": (TanhLRScheduler, curve),
        "poly": (PolyLRScheduler, {**curve, "power": decay_rate, "k_decay": k_decay}),
        "step": (StepLRScheduler, steps),
        "constant": (StepLRScheduler, {"decay_t": 1, "decay_rate": 1.0}),
        "multistep": (
            MultiStepLRScheduler,
            {"decay_t": [edge * unit for edge in decay_milestones], "decay_rate": decay_rate},
        ),
        "plateau": (PlateauLRScheduler, {}),
    }
    if sched == "none":
        return Constant(group.base)
    if sched not in choices:
        known = ", ".join([*choices, "wsd", "rsqrt", "none"])
        raise ValueError(f"{group.who}: sched must be a known one, got {shown(sched)}; pass one of {known}")
    function, arguments = choices[sched]
    return _made(group, function, **arguments, **warm, **prefix, **noisy)


def _made(group: Group, function: Any, **arguments: Any) -> Schedule:
    return group.part(lambda lr: function(lr, **arguments), group.base).schedule
