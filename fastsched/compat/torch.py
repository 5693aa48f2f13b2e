"""torch's schedulers: ``torch.optim.lr_scheduler`` and ``torch.optim.swa_utils.SWALR``.

The group's lr stands where the optimizer stood. A schedule is a function of the step, so ``last_epoch`` is accepted and
ignored: resume by asking for later steps. Functions (``lr_lambda``, ``scale_fn``) need ``context={"steps": n}`` and
become `Samples`, unless they are Schedules. In compositions, parts are functions of the base lr. ``context={"drive":
"step(epoch)"}``, torch's old way to step, changes ``ConstantLR(total_iters=0)`` alone; the restarts that torch then
misplaces (``CosineAnnealingWarmRestarts(T_0=1, T_mult=3)`` gives 0 at 121) are put right.

>>> from fastsched import compat
>>> warm = lambda lr: compat.torch.LinearLR(lr, start_factor=0.5, total_iters=10)
>>> cosine = lambda lr: compat.torch.CosineAnnealingLR(lr, T_max=20)
>>> s = compat.torch.SequentialLR(0.1, schedulers=[warm, cosine], milestones=[10])
>>> s(0), s(10), s(20), s(30)
(0.05, 0.1, 0.05, 0.0)
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, reduce
from itertools import accumulate, pairwise
from operator import mul
from typing import Any

import numpy as np
import numpy.typing as npt

from fastsched._check import VALUE, Choice, Number, shown
from fastsched.compat._endless import endless_cosine
from fastsched.compat._peer import Group, Part, Unchanged, peer
from fastsched.compat._pieces import MOST_TICKS, chain, delayed, exact, head, length, spread, tail
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Linear,
    MultiStep,
    Polynomial,
    Samples,
    StepDecay,
    Triangular,
)
from fastsched.schedule import Schedule

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "SequentialLR",
    "StepLR",
]

Moves = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

UNIT = Constant(1.0)
MOMENTUM = ("lr", "momentum")
STRATEGY = Choice(("cos", "linear"))
FINEST = 1 << 20  # the largest denominator of a cycle's length


# ---- what a scheduler does to the lr that it finds ----


@dataclass(frozen=True)
class Absolute(Part):
    """Sets the lr, whatever it was; of the others, each says what differs.

    torch's schedulers change the lr that they find in the group, which matters in compositions alone.
    """

    initial_lr: float | None = None  # what it leaves for those that are constructed after it

    def first(self, lr: float) -> Schedule:
        """The values from its construction on, if it finds this lr."""
        return self.schedule

    def entered(self, lr: float) -> Schedule:
        """The values of `SequentialLR`'s first part."""
        return self.first(lr)

    def again(self, lr: float) -> Schedule:
        """The values if update 0 is reached by a step, as in a composition within a composition."""
        return self.schedule

    def resumed(self, lr: float) -> Schedule:
        """The values from a milestone on, where the lr of the update before was this."""
        return self.schedule

    def moves(self, count: int) -> Moves:
        """What each of the steps ``1, ..., count`` makes of the lr: a factor and a summand."""
        return np.zeros(count), self.schedule.table(count, start=1)

    @property
    def settled(self) -> float:
        """The last step that changes the lr, if there is one."""
        return math.inf

    def begun(self) -> Absolute:
        """What `moves` belongs to after `first`."""
        return self

    def stepped(self) -> Absolute:
        """What `moves` belongs to after `again`."""
        return self

    def leaves(self) -> list[Absolute]:
        """The schedulers that it is made of."""
        return [self]

    def sharing(self, latest: Mapping[type, Absolute]) -> Absolute:
        """Itself, with what the latest of its kind has written into the group over its own."""
        return self


@dataclass(frozen=True)
class Factor(Absolute):
    """Multiplies the lr: by the ratio of its curve's neighbours."""

    curve: Callable[[float], Schedule] = Constant  # of the lr that it finds
    last: float = math.inf  # see `settled`
    extra: float = 1.0  # the factor of a step to update 0
    restart: Schedule | None = None  # from a milestone on, where that is not `schedule`

    @cached_property
    def unit(self) -> Schedule:
        """The factor itself."""
        return self.curve(1.0)

    def first(self, lr: float) -> Schedule:
        return self.curve(lr)

    def again(self, lr: float) -> Schedule:
        return self.curve(lr * self.extra)

    def resumed(self, lr: float) -> Schedule:
        return self.restart or self.schedule

    def moves(self, count: int) -> Moves:
        return _ratios(self.unit.table(count + 1), 1.0), np.zeros(count)

    @property
    def settled(self) -> float:
        return self.last


@dataclass(frozen=True)
class Running(Factor):
    """`MultiplicativeLR`, which at a milestone goes on from where the lr is."""

    function: Callable[[int], float] = float

    def again(self, lr: float) -> Schedule:
        return self.curve(lr * self.function(0))

    def resumed(self, lr: float) -> Schedule:
        return self.again(lr)


@dataclass(frozen=True)
class Approach(Absolute):
    """Multiplies the lr's distance from ``target``: by the ratio of its unit curve's neighbours."""

    unit: Schedule = UNIT
    target: float = 0.0
    ahead: int = 0  # SWALR counts its own steps, those of constructors of compositions too

    def moves(self, count: int) -> Moves:
        factors = _ratios(self.unit.table(count + 1, start=self.ahead), 0.0)
        return factors, self.target * (1.0 - factors)


@dataclass(frozen=True)
class Annealing(Approach):
    """`CosineAnnealingLR`: at the bottom it takes up speed from its own base lr."""

    base: float = 0.0
    half: Fraction = Fraction(1)  # T_max

    def first(self, lr: float) -> Schedule:
        return self.schedule if lr == self.base else self.onward(0, lr)

    def again(self, lr: float) -> Schedule:
        """With torch's division by the cosine of the step before 0."""
        if self.half == 1:
            return self.first(lr + (self.base - self.target))
        return self.first(self.target + (lr - self.target) / float(self.unit(1)))

    def resumed(self, lr: float) -> Schedule:
        return self.schedule

    def moves(self, count: int) -> Moves:
        factors, summands = super().moves(count)
        if self.half.denominator == 1:
            rising = slice(int(self.half), None, 2 * int(self.half))  # the steps after the bottom
            factors[rising] = 1.0
            summands[rising] = (self.base - self.target) * self.unit.table(count, start=1)[rising]
        return factors, summands

    def onward(self, step: int, lr: float) -> Schedule:
        """The values from a step on, not at the bottom, where the lr is this."""
        top = self.target + (lr - self.target) / float(self.unit(step))
        own = tail(_wave(top, self.target, self.half), step)
        if self.half.denominator != 1:  # no update is at the bottom
            return own
        bottom = self.half * (2 * math.ceil((step - self.half) / (2 * self.half)) + 1)
        return head(own, int(bottom) - step).then(_wave(self.target, self.base, self.half))


@dataclass(frozen=True)
class Averaging(Approach):
    """`SWALR`."""

    steps: int = 0
    strategy: str = "cos"

    def first(self, lr: float) -> Schedule:
        if self.steps == 0:
            return Constant(self.target)
        return _leg(self.strategy)(lr, self.target, self.steps)

    def again(self, lr: float) -> Schedule:
        left = float(self.unit(self.ahead))
        start = self.target + (lr - self.target) / left if left else self.target
        return tail(self.first(start), self.ahead + 1)

    def resumed(self, lr: float) -> Schedule:
        return self.first(lr)

    def sharing(self, latest: Mapping[type, Absolute]) -> Absolute:
        latest_own = latest[Averaging]
        return replace(self, target=latest_own.target) if isinstance(latest_own, Averaging) else self

    def stepped(self) -> Absolute:
        return replace(self, ahead=self.ahead + 1)

    @property
    def settled(self) -> float:
        return self.steps


def _ratios(values: npt.NDArray[np.float64], otherwise: float) -> npt.NDArray[np.float64]:
    """Each value divided by the one before; where that is 0, ``otherwise``."""
    before, after = values[:-1], values[1:]
    ratios = np.full(len(after), otherwise)
    np.divide(after, before, out=ratios, where=before != 0.0)
    return ratios


def _wave(start: float, end: float, half: Fraction) -> Schedule:
    """Half a cosine down, half a cosine up, without an end."""
    if start == end:
        return Constant(start)
    return spread(lambda ticks: endless_cosine(start, end, ticks), half)


def _leg(strategy: str) -> Callable[[float, float, int], Schedule]:
    kind = Linear if strategy == "linear" else Cosine
    return lambda start, end, steps: kind(start, end, steps=steps)


def _factor(group: Group, curve: Callable[[float], Schedule], **how: Any) -> Factor:
    return Factor(curve(group.base), curve=curve, **how)


def _vanishing(steps: int) -> Callable[[float], Schedule]:
    """A factor of 0 at a step."""
    return lambda lr: delayed(lr, steps, Constant(0.0))


# ---- schedulers of one curve ----


@peer
def LambdaLR(group: Group, lr_lambda: Any, last_epoch: int = -1) -> Absolute:
    """``lr * lr_lambda(t)``: `Samples`, or the Schedule that it is. One function, or a list with one per group.

    >>> LambdaLR(0.5, lambda t: 0.5**t, context={"steps": 3})(2)
    0.125
    """
    return Absolute(group.base * group.function("lr_lambda", group.own("lr_lambda", lr_lambda)))


@peer
def MultiplicativeLR(group: Group, lr_lambda: Any, last_epoch: int = -1) -> Factor:
    """The lr times ``lr_lambda(t)`` at each update t >= 1: `Samples` of the running product.

    >>> MultiplicativeLR(0.5, lambda t: 0.5, context={"steps": 3})(2)
    0.125
    """
    function = group.own("lr_lambda", lr_lambda)
    count = group.need("steps", "1000")
    # torch never asks for update 0's
    factors = group.function("lr_lambda", lambda step: function(step) if step else 1.0).table(count)
    products: Schedule = Samples(np.cumprod(factors))
    return Running(products * group.base, curve=lambda lr: products * lr, function=function)


@peer
def StepLR(group: Group, step_size: int, gamma: float = 0.1, last_epoch: int = -1) -> Factor:
    """``lr * gamma**floor(t / step_size)``: `StepDecay`."""
    every = group.whole("step_size", step_size, least=1)
    if gamma == 0:
        return _factor(group, _vanishing(every), last=every)
    return _factor(group, lambda lr: StepDecay(lr, gamma=gamma, every=every))


@peer
def MultiStepLR(group: Group, milestones: Iterable[int], gamma: float = 0.1, last_epoch: int = -1) -> Factor:
    """`MultiStep`: from ``t >= m`` on; milestones in any order, and one that stands twice counts twice."""
    edges = sorted(group.whole("milestones", edge) for edge in milestones)
    if not edges:
        return _factor(group, Constant, last=0)
    if gamma == 0:
        return _factor(group, _vanishing(edges[0]), last=edges[0])
    return _factor(group, lambda lr: MultiStep(lr, milestones=edges, gamma=gamma), last=edges[-1])


@peer
def ConstantLR(group: Group, factor: float = 1.0 / 3, total_iters: int = 5, last_epoch: int = -1) -> Factor:
    """`Constant` at ``factor * lr`` for ``total_iters`` updates, then at lr. With 0 of them torch never undoes it."""
    steps = group.whole("total_iters", total_iters)
    low = VALUE(group.who, "factor", factor)
    if steps == 0 and group.context.get("drive") == "step(epoch)":
        return _factor(group, lambda lr: delayed(low * lr, 1, Constant(lr)), last=1)
    if steps == 0:
        return _factor(group, lambda lr: Constant(low * lr), last=0, restart=Constant(group.base))
    return _factor(group, lambda lr: Constant(low * lr, steps=steps).then(Constant(lr)), last=steps)


@peer
def LinearLR(
    group: Group, start_factor: float = 1.0 / 3, end_factor: float = 1.0, total_iters: int = 5, last_epoch: int = -1
) -> Factor:
    """`Linear` from ``start_factor * lr`` to ``end_factor * lr``. With ``total_iters=0`` it stays at the start."""
    steps = group.whole("total_iters", total_iters)
    start = VALUE(group.who, "start_factor", start_factor)
    end = VALUE(group.who, "end_factor", end_factor)
    if steps == 0:
        return _factor(group, lambda lr: Constant(lr * start), last=0)
    return _factor(group, lambda lr: Linear(lr * start, lr * end, steps=steps), last=steps)


@peer
def ExponentialLR(group: Group, gamma: float, last_epoch: int = -1) -> Factor:
    """``lr * gamma**t``: `Exponential`."""
    if gamma == 0:
        return _factor(group, _vanishing(1), last=1, extra=0.0)
    return _factor(group, lambda lr: Exponential(lr, gamma=gamma), extra=gamma)


@peer
def PolynomialLR(group: Group, total_iters: int = 5, power: float = 1.0, last_epoch: int = -1) -> Factor:
    """``lr * (1 - t/total_iters)**power``: `Polynomial` to 0, where it stays."""
    steps = group.whole("total_iters", total_iters)
    if steps == 0 or power == 0:
        return _factor(group, Constant, last=0)
    # The ratio of a step to update 0: one step before, the curve is above its start.
    extra = float(Polynomial(steps=steps + 1, power=power)(1))
    return _factor(group, lambda lr: Polynomial(lr, 0.0, steps=steps, power=power), last=steps, extra=extra)


@peer
def CosineAnnealingLR(group: Group, T_max: float, eta_min: float = 0.0, last_epoch: int = -1) -> Annealing:
    """`Cosine` from lr to ``eta_min``, absolute for every group; **it rises again** after ``T_max``, and so on.

    >>> s = CosineAnnealingLR(0.5, T_max=10)
    >>> s(0), s(5), s(10), s(20)
    (0.5, 0.25, 0.0, 0.5)
    """
    half = length(group, "T_max", T_max)
    target = VALUE(group.who, "eta_min", eta_min)
    whole = _wave(group.base, target, half)
    return Annealing(whole, unit=_wave(1.0, 0.0, half), target=target, base=group.base, half=half)


@peer
def CosineAnnealingWarmRestarts(
    group: Group, T_0: int, T_mult: int = 1, eta_min: float = 0.0, last_epoch: int = -1
) -> Absolute:
    """`CosineRestarts`. torch's own ``step(epoch)`` misplaces some restarts; here they are all at their place."""
    first = group.whole("T_0", T_0, least=1)
    return Absolute(CosineRestarts(group.base, eta_min, first=first, multiplier=group.whole("T_mult", T_mult, least=1)))


@peer
def SWALR(
    group: Group, swa_lr: Any, anneal_epochs: int = 10, anneal_strategy: str = "cos", last_epoch: int = -1
) -> Averaging:
    """`Cosine` or `Linear` from the lr that it finds to ``swa_lr`` (one, or one per group), where it stays."""
    steps = group.whole("anneal_epochs", anneal_epochs)
    target = VALUE(group.who, "swa_lr", group.own("swa_lr", swa_lr))
    strategy = STRATEGY(group.who, "anneal_strategy", anneal_strategy)
    unit = _leg(strategy)(1.0, 0.0, steps) if steps else Constant(0.0)
    part = Averaging(Constant(target), unit=unit, target=target, steps=steps, strategy=strategy)
    return replace(part, schedule=part.first(group.base))


@peer
def ReduceLROnPlateau(group: Group, *args: Any, **kwargs: Any) -> Schedule:
    """Raises: its lr follows a metric, so it is no function of the step."""
    raise group.follows_metric()


# ---- cycles ----


@dataclass(frozen=True)
class Cycle(Absolute):
    """`CyclicLR`, whose ``base_lr`` is every part's if it is constructed first; if not, its own update 0 has theirs."""

    seed: float = 0.0
    found: float | None = None  # the initial lr of a group in which others were before it

    def first(self, lr: float) -> Schedule:
        return self.schedule if self.found is None else delayed(self.found, 1, tail(self.schedule, 1))

    def entered(self, lr: float) -> Schedule:
        return self.schedule


@peer(hyperparameters=MOMENTUM)
def CyclicLR(
    group: Group,
    base_lr: Any,
    max_lr: Any,
    step_size_up: float = 2000,
    step_size_down: float | None = None,
    mode: str = "triangular",
    gamma: float = 1.0,
    scale_fn: Callable[[float], float] | None = None,
    scale_mode: str = "cycle",
    cycle_momentum: bool = True,
    base_momentum: Any = 0.8,
    max_momentum: Any = 0.9,
    last_epoch: int = -1,
) -> Cycle:
    """`Triangular` between ``base_lr`` and ``max_lr`` (the group's lr plays no part); momentum the other way.

    With ``scale_fn``, the height times its `Samples`: of the cycle, counted from 1, or with
    ``scale_mode="iterations"`` of the step.
    """
    low, high = group.own("base_lr", base_lr), group.own("max_lr", max_lr)
    seed = VALUE(group.who, "base_lr", low)
    found = group.base if group.later and group.hyperparameter == "lr" else None
    if group.hyperparameter == "momentum":
        if not cycle_momentum:
            return Cycle(Constant(_momentum(group)))
        low, high = group.own("max_momentum", max_momentum), group.own("base_momentum", base_momentum)
    low, high = VALUE(group.who, "base_lr", low), VALUE(group.who, "max_lr", high)
    up = length(group, "step_size_up", step_size_up).limit_denominator(FINEST)
    down = up if step_size_down is None else length(group, "step_size_down", step_size_down).limit_denominator(FINEST)
    ticks = math.lcm(up.denominator, down.denominator)

    def triangle(low: float, high: float, **how: Any) -> Schedule:
        cycle = Triangular(low, high, up=int(up * ticks), down=int(down * ticks), **how)
        return cycle if ticks == 1 else cycle.speed_up(ticks)

    if scale_fn is not None:
        by_cycle = Choice(("cycle", "iterations"))(group.who, "scale_mode", scale_mode) == "cycle"
        heights = group.function(
            "scale_fn", (lambda step: scale_fn(math.floor(1 + step / (up + down)))) if by_cycle else scale_fn
        )
        return Cycle(low + triangle(0.0, high - low) * heights, seed=seed, found=found)
    mode = Choice(("triangular", "triangular2", "exp_range"))(group.who, "mode", mode)
    if mode == "exp_range" and (ticks > 1 or gamma > 1):  # for one step of torch's, not one tick
        return Cycle(low + triangle(0.0, high - low) * Exponential(gamma=gamma), seed=seed, found=found)
    return Cycle(triangle(low, high, mode=mode, gamma=gamma if mode == "exp_range" else 1.0), seed=seed, found=found)


def _momentum(group: Group) -> float:
    """What the optimizer has: momentum, or the first of betas."""
    optimizer = group.need("optimizer", "{'momentum': 0.9}")
    betas = optimizer.get("betas", (optimizer.get("momentum"),))
    if not isinstance(betas, (list, tuple)) or not betas:
        raise TypeError(f"{group.who}: betas must be a pair of numbers, got {shown(betas)}; pass (0.9, 0.999)")
    value = betas[0]
    if value is None:
        raise ValueError(f"{group.who}: the optimizer must have momentum or betas, got neither; add one to the context")
    return float(VALUE(group.who, "momentum", value))


@dataclass(frozen=True)
class Super(Absolute):
    """`OneCycleLR`, which keeps its lrs in the group, where the next one overwrites them."""

    make: Callable[[Sequence[float]], Schedule] = lambda lrs: Constant(*lrs)
    lrs: tuple[float, ...] = ()

    def sharing(self, latest: Mapping[type, Absolute]) -> Absolute:
        latest_own = latest[Super]
        return replace(self, schedule=self.make(latest_own.lrs)) if isinstance(latest_own, Super) else self


@peer(hyperparameters=MOMENTUM)
def OneCycleLR(
    group: Group,
    max_lr: Any,
    total_steps: int | None = None,
    epochs: int | None = None,
    steps_per_epoch: int | None = None,
    pct_start: float = 0.3,
    anneal_strategy: str = "cos",
    cycle_momentum: bool = True,
    base_momentum: Any = 0.85,
    max_momentum: Any = 0.95,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
    three_phase: bool = False,
    last_epoch: int = -1,
) -> Super:
    """`Cosine` or `Linear` legs up to ``max_lr``, at ``pct_start*T - 1``, and down; the group's lr plays no part.

    The last leg ends at update ``T - 1``, the last one of a training of ``T = total_steps``. torch allows one more,
    where the leg goes on beyond its end (a linear one to a **negative lr**); then torch raises, and this holds. A
    peak between two updates is used by none. Where ``pct_start*T`` is 1 torch divides by zero; here update 0
    is the peak.

    >>> s = OneCycleLR(0.5, max_lr=0.5, total_steps=100)
    >>> s(0), s(29), s(99) == 0.5 / 25 / 1e4
    (0.02, 0.5, True)
    """
    if total_steps is None and (epochs is None or steps_per_epoch is None):
        raise ValueError(
            f"{group.who}: total_steps, or epochs and steps_per_epoch, must be given, got neither; pass total_steps"
        )
    if total_steps is not None:
        steps = group.whole("total_steps", total_steps, least=1)
    else:
        steps = group.whole("epochs", epochs, least=1) * group.whole("steps_per_epoch", steps_per_epoch, least=1)
    share = exact(Number("the share of steps until the peak", least=0.0, most=1.0)(group.who, "pct_start", pct_start))
    strategy = STRATEGY(group.who, "anneal_strategy", anneal_strategy)
    rising = share.limit_denominator(max(1, MOST_TICKS // steps)) * steps - 1

    def make(lrs: Sequence[float]) -> Schedule:
        initial, peak, least = lrs
        levels = [initial, peak, initial, least] if three_phase else [initial, peak, least]
        ends = [rising, 2 * rising] if three_phase else [rising]
        return _legs(levels, [Fraction(0), *ends, Fraction(steps - 1)], strategy, steps)

    peak = VALUE(group.who, "max_lr", group.own("max_lr", max_lr))
    initial = peak / Number("torch has div_factor=25", above=0.0)(group.who, "div_factor", div_factor)
    least = initial / Number("torch has final_div_factor=1e4", above=0.0)(
        group.who, "final_div_factor", final_div_factor
    )
    if group.hyperparameter == "momentum":
        if not cycle_momentum:
            return Super(Constant(_momentum(group)))
        high = VALUE(group.who, "max_momentum", group.own("max_momentum", max_momentum))
        low = VALUE(group.who, "base_momentum", group.own("base_momentum", base_momentum))
        return Super(make((high, low, high)), make=make, lrs=(high, low, high))
    lrs = (initial, peak, least)
    return Super(make(lrs), initial_lr=initial, make=make, lrs=lrs)


def _legs(levels: Sequence[float], ends: Sequence[Fraction], strategy: str, steps: int) -> Schedule:
    """Legs between levels that meet at ``ends``, from update 0 on, and one update more than ``steps``."""
    ticks = math.lcm(*(end.denominator for end in ends))
    legs = [(*level, *end) for level, end in zip(pairwise(levels), pairwise(ends), strict=True)]
    run = [leg for leg in legs if leg[3] > leg[2] and leg[3] >= 0]
    if not run:  # one update, at the peak
        return Constant(levels[1], steps=1)
    make = _leg(strategy)
    whole = chain([make(start, end, int((until - since) * ticks)) for start, end, since, until in run])
    whole = tail(whole, int(max(Fraction(0), -run[0][2]) * ticks))
    last = (steps - 1) * ticks
    level = float(whole(last))
    more = Linear(level, _beyond(legs, steps, strategy, level), steps=ticks)
    whole = head(whole, last).then(more) if last else more
    return whole if ticks == 1 else whole.speed_up(ticks)


def _beyond(legs: Sequence[tuple[float, float, Fraction, Fraction]], step: int, strategy: str, level: float) -> float:
    """The value at a step past the last leg, which goes on."""
    start, end, since, until = next((leg for leg in legs if step <= leg[3]), legs[-1])
    if since == until:
        return level
    progress = (step - since) / (until - since)
    if strategy == "linear":
        return start + (end - start) * float(progress)
    return float(_wave(start, end, Fraction(progress.denominator))(abs(progress.numerator)))


# ---- compositions ----


# What leaves the momentum alone.
STILL = Running(UNIT, curve=Constant, last=0, function=lambda step: 1.0)


def _members(group: Group, functions: Any) -> tuple[list[Absolute], float | None]:
    """The parts, each constructed with the base lr that it finds, and the one that they leave if it is another."""
    if not isinstance(functions, (list, tuple)) or not functions:
        raise TypeError(
            f"{group.who}: schedulers must be a list of functions of the base lr, got {shown(functions)}; "
            "pass [lambda lr: fs.compat.torch.LinearLR(lr), ...]"
        )
    lr = group.base
    parts: list[Absolute] = []
    for function in functions:
        made = group.part(function, lr, later=group.later or bool(parts), some=group.hyperparameter == "momentum")
        part = STILL if isinstance(made, Unchanged) else made if isinstance(made, Absolute) else Absolute(made.schedule)
        if part.initial_lr is not None:
            lr = part.initial_lr
        elif isinstance(part, Cycle) and part.found is None:
            lr = part.seed
        parts.append(part)
    latest = {type(leaf): leaf for part in parts for leaf in part.leaves()}
    if group.hyperparameter == "momentum":
        cycles = [leaf for part in parts for leaf in part.leaves() if isinstance(leaf, (Cycle, Super))]
        lr = float(cycles[-1].schedule(0)) if cycles else lr if group.inner else _momentum(group)
    return [part.sharing(latest) for part in parts], None if lr == group.base else lr


@dataclass(frozen=True)
class Several(Absolute):
    """A composition."""

    parts: tuple[Absolute, ...] = ()

    def entered(self, lr: float) -> Schedule:
        return self.again(lr)

    def resumed(self, lr: float) -> Schedule:
        raise ValueError(
            "a later part of SequentialLR must be no composition, got one, at whose milestone torch raises "
            "NotImplementedError; list its parts in the outer one"
        )

    def leaves(self) -> list[Absolute]:
        return [leaf for part in self.parts for leaf in part.leaves()]

    def sharing(self, latest: Mapping[type, Absolute]) -> Absolute:
        return replace(self, parts=tuple(part.sharing(latest) for part in self.parts))


@dataclass(frozen=True)
class Sequential(Several):
    """`SequentialLR`."""

    milestones: tuple[int, ...] = ()
    start: float = 0.0

    def first(self, lr: float) -> Schedule:
        index = bisect_right(self.milestones, 0)
        return self._from(index, self.parts[index].entered(self.start), self.milestones)

    def again(self, lr: float) -> Schedule:
        early = self.stepped()
        index = bisect_right(early.milestones, 0)
        part = self.parts[index]
        begins = index > 0 and early.milestones[index - 1] == 0
        return early._from(index, part.resumed(lr) if begins else part.again(lr), early.milestones)

    def begun(self) -> Sequential:
        first = bisect_right(self.milestones, 0)
        inner = isinstance(self.parts[first], Several)
        parts = [part.stepped() if inner and i == first else part for i, part in enumerate(self.parts)]
        return replace(self, parts=tuple(parts))

    def stepped(self) -> Sequential:
        """With torch's count of one step too many: every milestone comes an update early."""
        early = tuple(milestone - 1 for milestone in self.milestones)
        parts = [part.stepped() if i == bisect_right(early, 0) else part for i, part in enumerate(self.parts)]
        return replace(self, milestones=early, parts=tuple(parts))

    def moves(self, count: int) -> Moves:
        factors, summands = np.ones(count + 1), np.zeros(count + 1)
        begins = [0, *(max(0, milestone) for milestone in self.milestones)]
        for part, begin, end in zip(self.parts, begins, [*begins[1:], count + 1], strict=True):
            if begin < min(end, count + 1):
                # It is affine in the lr before.
                low, high = (float(part.resumed(lr)(0)) for lr in (0.0, 1.0)) if begin else (0.0, 1.0)
                factors[begin], summands[begin] = high - low, low
                here = slice(begin + 1, min(end, count + 1))
                factors[here], summands[here] = part.moves(here.stop - here.start)
        return factors[1:], summands[1:]

    @property
    def settled(self) -> float:
        return max((0, *self.milestones)) + self.parts[-1].settled

    def _from(self, index: int, values: Schedule, milestones: Sequence[int]) -> Schedule:
        pieces: list[Schedule] = []
        begin, lr = 0, 0.0
        for milestone, part in zip(milestones[index:], self.parts[index + 1 :], strict=True):
            if milestone > begin:
                pieces.append(head(values, milestone - begin))
                lr = float(values(milestone - begin - 1))
            values, begin = part.resumed(lr), milestone
        return chain([*pieces, values])


@dataclass(frozen=True)
class Chain(Several):
    """`ChainedScheduler`."""

    who: str = ""
    horizon: int | None = None

    def first(self, lr: float) -> Schedule:
        return self._all(lr, lambda part: part.first, self.begun())

    def again(self, lr: float) -> Schedule:
        return self._all(lr, lambda part: part.again, self.stepped())

    def begun(self) -> Chain:
        return replace(self, parts=tuple(part.begun() for part in self.parts))

    def stepped(self) -> Chain:
        return replace(self, parts=tuple(part.stepped() for part in self.parts))

    def moves(self, count: int) -> Moves:
        factors, summands = np.ones(count), np.zeros(count)
        for part in self.parts:
            own, plus = part.moves(count)
            factors, summands = own * factors, own * summands + plus
        return factors, summands

    @property
    def settled(self) -> float:
        return max(part.settled for part in self.parts)

    def _all(self, lr: float, begin: Callable[[Absolute], Callable[[float], Schedule]], then: Chain) -> Schedule:
        first, *others = (begin(part) for part in self.parts)
        if all(isinstance(part, Factor) for part in self.parts):
            return reduce(mul, (values(1.0) for values in others), first(lr))
        last = self.parts[-1]
        if not isinstance(last, (Factor, Approach, Sequential)):
            return begin(last)(lr)
        value = reduce(lambda value, part: float(begin(part)(value)(0)), self.parts, lr)
        return then._recursion(value)

    def _recursion(self, value: float) -> Schedule:
        """Step by step until only one part acts, which goes on by itself."""
        acting = [part for part in self.parts if part.settled == math.inf]
        held = any(isinstance(leaf, Averaging) for leaf in self.leaves())  # SWALR never lets go of its target
        alone = acting[0] if len(acting) == 1 and not held else None
        if acting and not isinstance(alone, Annealing):
            if self.horizon is None:
                raise ValueError(
                    f"{self.who}: context must have 'steps' where the values depend on all before, got none; "
                    "pass context={'steps': 1000}"
                )
            count = self.horizon
        else:
            count = 2 + int(max((part.settled for part in self.parts if part is not alone), default=0))
            if isinstance(alone, Annealing) and (count - alone.half) % (2 * alone.half) == 0:
                count += 1
        moves = zip(*(array.tolist() for array in self.moves(count)), strict=True)
        values = list(accumulate(moves, lambda lr, move: move[0] * lr + move[1], initial=value))
        if not isinstance(alone, Annealing):
            return Samples(values)
        return Samples(values[:-1]).then(alone.onward(count, values[-1]))


@peer(hyperparameters=MOMENTUM)
def SequentialLR(group: Group, schedulers: Any, milestones: Sequence[int], last_epoch: int = -1) -> Sequential:
    """One part after another, each from its own update 0: ``then``. Parts are functions of the base lr.

    As in torch, a part finds what those before it left: ``OneCycleLR`` overwrites the initial lr, so that **a warmup
    before it climbs to** ``max_lr / div_factor``; ``SWALR`` and ``MultiplicativeLR`` go on from the lr that they find;
    an inner composition counts one update too many.
    """
    parts, initial = _members(group, schedulers)
    edges = tuple(group.whole("milestones", edge) for edge in milestones)
    if len(edges) != len(parts) - 1 or list(edges) != sorted(edges):
        raise ValueError(
            f"{group.who}: milestones must ascend and be one fewer than schedulers, got {len(edges)} and {len(parts)}; "
            "pass the update at which each later part begins"
        )
    start = group.base if initial is None else initial
    begun = tuple(part.begun() for part in parts)
    made = Sequential(UNIT, initial_lr=initial, parts=begun, milestones=edges, start=start)
    return replace(made, schedule=made.first(start))


@peer(hyperparameters=MOMENTUM)
def ChainedScheduler(group: Group, schedulers: Any, optimizer: Any = None) -> Chain:
    """All parts at every step, one after another: the product, where all only multiply.

    Parts that move towards a value (``CosineAnnealingLR``, ``SWALR``) make the lr **depend on all before**, which no
    product does: `Samples` of torch's recursion until the other parts have settled, then what is left, in closed
    form; where others never settle, ``context={"steps": n}`` says how many.
    """
    parts, initial = _members(group, schedulers)
    parts = [inner for part in parts for inner in (part.parts if isinstance(part, Chain) else [part])]
    parts = [part for part in parts if part is not STILL] or [STILL]
    horizon = group.context.get("steps")
    if horizon is not None:
        horizon = group.whole("context['steps']", horizon, least=1)
    made = Chain(UNIT, initial_lr=initial, parts=tuple(parts), who=group.who, horizon=horizon)
    return replace(
        made, schedule=made.first(group.base if group.hyperparameter == "lr" or initial is None else initial)
    )
