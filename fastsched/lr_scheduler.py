"""torch's learning-rate schedulers with one native call per step, and schedulers that take a fastsched Schedule.

Every class of torch.optim.lr_scheduler stands here under its name. Arguments, attributes, messages, warnings and state
dicts are torch's own, for these classes subclass torch's; what differs is that a step changes all groups in one native
call, with torch's arithmetic in torch's order. Where a group holds something else than a float (a tensor lr), torch's
own code does the step.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch.optim import Optimizer, swa_utils
from torch.optim import lr_scheduler as torchs

from fastsched import _core
from fastsched._agreement import ON_MISMATCH, of_group, settled
from fastsched._check import LARGEST_STEP, Flag, Number, shown
from fastsched.plan import Plan
from fastsched.schedule import Schedule, from_json

__all__ = [
    "SWALR",
    "ChainedScheduler",
    "ConstantLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts",
    "CyclicLR",
    "ExponentialLR",
    "Follow",
    "LRScheduler",
    "LambdaLR",
    "LinearLR",
    "MultiStepLR",
    "MultiplicativeLR",
    "OneCycleLR",
    "PolynomialLR",
    "ReduceLROnPlateau",
    "ScheduleLR",
    "SequentialLR",
    "StepLR",
    "get_scheduler",
]


class LRScheduler(torchs.LRScheduler):
    """torch's base class, and of every class here: what subclasses it here may make a step natively.

    A subclass that replaces a method which torch computes with, such as `get_lr`, is stepped by torch's code.
    """

    __slots__ = ("_column", "_pending")  # no part of state_dict(), which is __dict__

    _column: _core.Column
    _pending: bool  # the latest step was native, and nobody has asked for its values
    _computes: tuple[str, ...] = ("get_lr",)  # what the native step stands for
    _native = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = next(base for base in cls.__mro__ if base.__module__ == __name__)
        cls._native = all(getattr(cls, name) is getattr(own, name) for name in cls._computes)

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool | list[Any]:
        """Bring all groups to `epoch`; False, and nothing is changed, where torch's code must do it.

        Or the value of each group, where no plain number came out.
        """
        return False

    def _update_lr(self, epoch: int | None = None) -> None:
        if epoch is None and self._native and not self._is_initial and "get_lr" not in self.__dict__:
            self.last_epoch += 1
            done = self._native_step(self.optimizer.param_groups, self.last_epoch)
            if done is True:
                self.__dict__.pop("_last_lr", None)
                self._pending = True
                return
            if done is not False:
                for group, value in zip(self.optimizer.param_groups, done, strict=True):
                    torchs._update_param_group_val(group, "lr", value)
                self._last_lr = torchs._param_groups_val_list(self.optimizer, "lr")
                return
            self.last_epoch -= 1  # torch's code counts by itself
        super()._update_lr(epoch)

    def _lr(self) -> _core.Column:
        try:
            return self._column
        except AttributeError:
            self._column = _core.Column("lr")
            return self._column

    def _settle(self) -> None:
        """Make `_last_lr` the attribute that it is in torch."""
        if getattr(self, "_pending", False) and "_last_lr" not in self.__dict__:  # loading may have put it there
            self._last_lr = self._column.last()

    @property
    def _last_lr(self) -> list[Any]:
        self._settle()
        try:
            return cast(list[Any], self.__dict__["_last_lr"])
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute '_last_lr'") from None

    @_last_lr.setter
    def _last_lr(self, values: list[Any]) -> None:
        self._pending = False
        self.__dict__["_last_lr"] = values

    def state_dict(self) -> dict[str, Any]:
        """As torch's: every attribute but the optimizer."""
        self._settle()
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's."""
        self._settle()
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return dict(self.__dict__)


class _Scaled(LRScheduler):
    """A scheduler whose step multiplies every lr by one factor."""

    def _factor(self, epoch: int) -> float:
        raise NotImplementedError

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool:
        if epoch <= 0:  # only torch's code has a case for it
            return False
        factor = self._factor(epoch)
        return type(factor) in (float, int) and self._lr().scale(groups, float(factor))


class StepLR(_Scaled, torchs.StepLR):
    """torch's StepLR: every lr times gamma at each multiple of step_size."""

    def _factor(self, epoch: int) -> float:
        return 1.0 if epoch % self.step_size else self.gamma


class MultiStepLR(_Scaled, torchs.MultiStepLR):
    """torch's MultiStepLR: every lr times gamma at each milestone; one that stands twice counts twice."""

    def _factor(self, epoch: int) -> float:
        return self.gamma ** self.milestones[epoch] if epoch in self.milestones else 1.0


class ConstantLR(_Scaled, torchs.ConstantLR):
    """torch's ConstantLR: every lr times factor until total_iters."""

    def _factor(self, epoch: int) -> float:
        return 1.0 / self.factor if epoch == self.total_iters else 1.0


class LinearLR(_Scaled, torchs.LinearLR):
    """torch's LinearLR: every lr times a line from start_factor to end_factor over total_iters."""

    def _factor(self, epoch: int) -> float:
        if epoch > self.total_iters:
            return 1.0
        rise = self.end_factor - self.start_factor
        return 1.0 + rise / (self.total_iters * self.start_factor + (epoch - 1) * rise)


class ExponentialLR(_Scaled, torchs.ExponentialLR):
    """torch's ExponentialLR: every lr times gamma at each step."""

    def _factor(self, epoch: int) -> float:
        return self.gamma


class PolynomialLR(_Scaled, torchs.PolynomialLR):
    """torch's PolynomialLR: every lr times (1 - t / total_iters)**power."""

    def _factor(self, epoch: int) -> float:
        if epoch > self.total_iters:
            return 1.0
        left = (1.0 - epoch / self.total_iters) / (1.0 - (epoch - 1) / self.total_iters)
        return cast(float, left**self.power)


class CosineAnnealingLR(LRScheduler, torchs.CosineAnnealingLR):
    """torch's CosineAnnealingLR: eta_min + (base - eta_min) (1 + cos(pi t / T_max)) / 2; it rises again past T_max."""

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool:
        # torch leaves the recursion where its denominator is 0
        if self._step_count == 1 or (epoch - 1 - self.T_max) % (2 * self.T_max) == 0:
            return False
        now = 1 + math.cos(math.pi * epoch / self.T_max)
        before = 1 + math.cos(math.pi * (epoch - 1) / self.T_max)
        return self._lr().shrink(groups, now / before, self.eta_min)


class _Lambdas(LRScheduler):
    """A scheduler of one function per group; a function that several groups share is called once a step."""

    lr_lambdas: list[Callable[[int], float]]

    def _factors(self, epoch: int) -> Any:
        """A float for all groups, or a list."""
        functions = self.lr_lambdas
        if functions and all(function is functions[0] for function in functions):
            return _plain(functions[0](epoch))
        values: dict[int, Any] = {}
        for function in functions:
            if id(function) not in values:
                values[id(function)] = _plain(function(epoch))
        return [values[id(function)] for function in functions]

    def _each(self, factors: Any) -> list[Any]:
        """One factor per group."""
        return factors if isinstance(factors, list) else [factors] * len(self.lr_lambdas)


class LambdaLR(_Lambdas, torchs.LambdaLR):
    """torch's LambdaLR: base times lr_lambda(t). A function of several groups is called once per step."""

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool | list[Any]:
        # asked first, so that no function is called twice
        if not len(self.lr_lambdas) == len(self.base_lrs) == len(groups) or not self._lr().reads(groups):
            return False
        factors = self._factors(epoch)
        if self._lr().product(groups, self.base_lrs, factors):
            return True
        return [base * factor for base, factor in zip(self.base_lrs, self._each(factors), strict=True)]


class MultiplicativeLR(_Lambdas, torchs.MultiplicativeLR):
    """torch's MultiplicativeLR: every lr times lr_lambda(t) at each step.

    A function of several groups is called once per step.
    """

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool | list[Any]:
        if len(self.lr_lambdas) != len(groups) or not self._lr().reads(groups):
            return False
        factors = self._factors(epoch)
        if isinstance(factors, float):
            return self._lr().scale(groups, factors)
        lrs = [group["lr"] for group in groups]
        if self._lr().product(groups, lrs, factors):
            return True
        return [lr * factor for lr, factor in zip(lrs, self._each(factors), strict=True)]


class _Momentum(LRScheduler):
    """A scheduler that moves momentum, or beta1, against the lr."""

    __slots__ = ("_momentum",)
    _momentum: _core.Column
    use_beta1: bool

    def _momenta(self) -> _core.Column:
        try:
            return self._momentum
        except AttributeError:
            self._momentum = _core.Column("betas", 0) if self.use_beta1 else _core.Column("momentum")
            return self._momentum


class OneCycleLR(_Momentum, torchs.OneCycleLR):
    """torch's OneCycleLR: from max_lr / div_factor up to max_lr and down to nearly 0; momentum the other way."""

    _computes = ("get_lr", "_anneal_func", "_annealing_cos", "_annealing_linear")

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool:
        strategy = self.__dict__.get("_anneal_func_type")
        if epoch > self.total_steps or strategy is None:  # None: a state dict of an older torch was loaded
            return False
        start = 0.0
        for phase in self._schedule_phases:
            end = phase["end_step"]
            if epoch <= end or phase is self._schedule_phases[-1]:
                break
            start = end
        x = (epoch - start) / (end - start)
        line = strategy == "linear"
        weight = x if line else math.cos(math.pi * x) + 1
        if self.cycle_momentum and not self._momenta().between(
            groups, phase["start_momentum"], phase["end_momentum"], weight, line
        ):
            return False
        return self._lr().between(groups, phase["start_lr"], phase["end_lr"], weight, line)


class CyclicLR(_Momentum, torchs.CyclicLR):
    """torch's CyclicLR: between base_lr and max_lr, up and down; momentum the other way."""

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool:
        # asked first, so that no function is called twice
        if not self._lr().reads(groups) or (self.cycle_momentum and not self._momenta().reads(groups)):
            return False
        cycle = math.floor(1 + epoch / self.total_size)
        x = 1.0 + epoch / self.total_size - cycle
        height = x / self.step_ratio if x <= self.step_ratio else (x - 1) / (self.step_ratio - 1)
        factor = self.scale_fn(cycle if self.scale_mode == "cycle" else epoch)
        if self.cycle_momentum and not self._momenta().span(
            groups, self.base_momentums, self.max_momentums, height, factor, True
        ):
            return False
        return self._lr().span(groups, self.base_lrs, self.max_lrs, height, factor, False)


class CosineAnnealingWarmRestarts(LRScheduler, torchs.CosineAnnealingWarmRestarts):
    """torch's CosineAnnealingWarmRestarts: half cosines of T_0, T_0 T_mult, ... steps, from the base lr to eta_min.

    Where torch is wrong: `step(epoch)` finds its cycle by counting, not by a logarithm that misplaces some epochs (with
    T_0=1 and T_mult=3, torch's step(121) gives eta_min instead of the base lr).
    """

    def step(self, epoch: float | None = None) -> None:
        """As torch's: go on by one, or to `epoch`, which may be a fraction."""
        if epoch is None and self.last_epoch >= 0 and self._native and "get_lr" not in self.__dict__:
            current, period = self.T_cur + 1, self.T_i
            if current >= period:
                current, period = current % period, period * self.T_mult
            height = 1 + math.cos(math.pi * current / period)
            if self._lr().anneal(self.optimizer.param_groups, self.base_lrs, self.eta_min, height):
                self.T_cur, self.T_i = current, period
                self.last_epoch += 1
                self.__dict__.pop("_last_lr", None)
                self._pending = True
                return
        super().step(epoch)
        if epoch is not None and epoch >= self.T_0 and self.T_mult > 1:
            start, period = 0, self.T_0
            while epoch >= start + period:
                start, period = start + period, period * self.T_mult
            if (self.T_cur, self.T_i) != (epoch - start, period):
                self.T_cur, self.T_i = cast(int, epoch - start), period
                with torchs._enable_get_lr_call(self):
                    values = self.get_lr()
                for group, lr in zip(self.optimizer.param_groups, values, strict=True):
                    torchs._update_param_group_val(group, "lr", lr)
                self._last_lr = torchs._param_groups_val_list(self.optimizer, "lr")


class SequentialLR(LRScheduler, torchs.SequentialLR):
    """torch's SequentialLR: one scheduler after the other; they may be of torch or from here."""


class ChainedScheduler(LRScheduler, torchs.ChainedScheduler):
    """torch's ChainedScheduler: several schedulers at each step; they may be of torch or from here."""


class ReduceLROnPlateau(LRScheduler, torchs.ReduceLROnPlateau):
    """torch's ReduceLROnPlateau: every lr times factor where a metric stops improving.

    On an optimizer of `fastsched.optim` with a schedule of its own, what is multiplied is the base lr, and so the whole
    rest of the schedule.
    """

    def _reduce_lr(self, epoch: int) -> None:
        scale = getattr(self.optimizer, "scale_lr", None)
        if scale is None or len(self.optimizer.param_groups) != len(self.min_lrs):
            super()._reduce_lr(epoch)
            return
        for index, group in enumerate(self.optimizer.param_groups):
            old = float(group["lr"])
            new = max(old * self.factor, self.min_lrs[index])
            if old - new > self.eps:
                scale(new / old, index)


class SWALR(LRScheduler, swa_utils.SWALR):
    """torch.optim.swa_utils.SWALR: from the present lr to swa_lr over anneal_epochs, then constant."""


class ScheduleLR(LRScheduler):
    """Drives any torch optimizer by a fastsched Schedule or Plan, all groups in one native call.

    A Schedule multiplies every group's `initial_lr`: after k calls of `step()`, `group["lr"]` is initial_lr *
    schedule(k), times `lr_scale` where timm's layer decay has left one. A Plan gives the values themselves, of every
    hyperparameter that it has: lr, weight_decay, momentum, beta1, beta2, or any other number in the groups.

    A loop in timm's manner may call `step_update(num_updates)` after each update and `step(epoch, metric)` after each
    epoch, in place of `step()`.

    Args:
        optimizer: any torch optimizer.
        schedule: a Schedule, or a Plan of as many groups as the optimizer has.
        last_epoch: the index of the last update made; -1 to begin.
        t_in_epochs: as timm has it: True where the schedule counts epochs, and `step_update` does nothing; False where
            it counts updates, and `step(epoch)` does nothing. None: False from the first `step_update` on.
        on_mismatch: keep the schedule in `state_dict()` too, and where a checkpoint's differs from the code's: "error",
            or go on with that of the "checkpoint" or of the "code", and warn with the fields that differ. None: a
            checkpoint holds no schedule, and the code's is used.

    Raises:
        TypeError: `optimizer` or `schedule` is something else.
        ValueError: the Plan has another number of groups, or a hyperparameter that a group lacks.
        KeyError: `last_epoch` is not -1 and a group has no `initial_lr`.

    Example:
        >>> import torch, fastsched as fs
        >>> opt = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.5)
        >>> scheduler = fs.lr_scheduler.ScheduleLR(opt, fs.Linear(1.0, 0.0, steps=2))
        >>> opt.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr()
        [0.25]

    """

    __slots__ = ("_columns", "_on_mismatch", "_plan", "_schedule", "_t_in_epochs")
    _schedule: Schedule | Plan
    _plan: Plan
    _t_in_epochs: bool | None
    _on_mismatch: str | None
    _columns: list[tuple[str, _core.Column]]

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | Plan,
        last_epoch: int = -1,
        *,
        t_in_epochs: bool | None = None,
        on_mismatch: str | None = None,
    ) -> None:
        if not isinstance(schedule, Schedule | Plan):
            raise TypeError(
                f"ScheduleLR: schedule must be a fastsched Schedule or Plan, got {shown(schedule)}; "
                "for example fastsched.Cosine(steps=1000)"
            )
        if t_in_epochs is not None:
            Flag("None leaves it to the loop")("ScheduleLR", "t_in_epochs", t_in_epochs)
        if on_mismatch is not None:
            ON_MISMATCH("ScheduleLR", "on_mismatch", on_mismatch)
        if isinstance(optimizer, Optimizer):
            self._check_fit(optimizer.param_groups, schedule)
        self._schedule, self._t_in_epochs, self._on_mismatch = schedule, t_in_epochs, on_mismatch
        super().__init__(optimizer, last_epoch)

    @staticmethod
    def _check_fit(groups: list[dict[str, Any]], schedule: Schedule | Plan) -> None:
        if isinstance(schedule, Schedule):
            return
        if len(schedule) != len(groups):
            raise ValueError(
                f"ScheduleLR: the plan must have one group for each of the optimizer's, got {len(schedule)} for "
                f"{len(groups)}; make it from optimizer.param_groups"
            )
        for name in schedule.names:
            for index, group in enumerate(groups):
                key, place = _where(name)
                pair = group.get(key)
                if key not in group or not (place is None or (isinstance(pair, tuple | list) and len(pair) == 2)):
                    raise ValueError(f"ScheduleLR: group {index} has no {name!r}, which the plan moves; leave it out")

    def _make(self) -> None:
        """The plan and its columns; base_lrs are known by now."""
        if isinstance(self._schedule, Plan):
            self._plan = self._schedule
        else:
            scales = [group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
            bases = [float(base) * scale for base, scale in zip(self.base_lrs, scales, strict=True)]
            self._plan = Plan([{"lr": base} for base in bases], self._schedule)
        columns = [(name, *_where(name)) for name in self._plan.names]
        self._columns = [
            (name, _core.Column(key) if place is None else _core.Column(key, place)) for name, key, place in columns
        ]
        for name, column in self._columns:
            if name == "lr":
                self._column = column

    def _initial_step(self) -> None:
        self._make()
        super()._initial_step()

    def get_lr(self) -> list[float | torch.Tensor]:
        """The values of `last_epoch`; for torch's own code."""
        torchs._warn_get_lr_called_within_step(self)
        values = self._plan.at(max(self.last_epoch, 0))
        if "lr" not in values:
            return torchs._param_groups_val_list(self.optimizer, "lr")
        return [
            group["lr"] if math.isnan(value) else value
            for group, value in zip(self.optimizer.param_groups, values["lr"].tolist(), strict=True)
        ]

    def _update_lr(self, epoch: int | None = None) -> None:
        super()._update_lr(epoch)
        if len(self._columns) > ("lr" in self._plan.names):
            self._write_others()

    def _native_step(self, groups: list[dict[str, Any]], epoch: int) -> bool:
        return "lr" in self._plan.names and self._follow(self._column, groups, "lr", float(epoch))

    def _follow(self, column: _core.Column, groups: list[dict[str, Any]], name: str, step: float) -> bool:
        """Write what the plan says about one hyperparameter; False where Python must, as on the Numba backend."""
        row = self._plan._row(name)
        return isinstance(row, _core.Row) and column.follow(groups, row, step)

    def _write_others(self) -> None:
        """Everything but lr."""
        groups, step = self.optimizer.param_groups, float(self.last_epoch)
        for name, column in self._columns:
            if name == "lr" or self._follow(column, groups, name, step):
                continue
            key, place = _where(name)
            for group, value in zip(groups, self._plan.at(step)[name].tolist(), strict=True):
                if math.isnan(value):
                    continue
                if place is None:
                    torchs._update_param_group_val(group, key, value)
                else:
                    pair = list(group[key])
                    pair[place] = value
                    group[key] = tuple(pair)

    def step(self, epoch: int | None = None, metric: Any = None) -> None:
        """Go on by one update; with an epoch, as timm's loops do it once per epoch: see `t_in_epochs`.

        Args:
            epoch: the epoch to stand at.
            metric: timm's, ignored.

        """
        if epoch is None:
            super().step()
        elif self._t_in_epochs:
            self._stand_at(epoch)
        elif self._t_in_epochs is None:
            super().step(epoch)

    def step_update(self, num_updates: int, metric: Any = None) -> None:
        """Stand where the next update is update `num_updates`, as timm; nothing where the schedule counts epochs.

        Args:
            num_updates: the number of updates made, an int >= 0.
            metric: timm's, ignored.

        """
        if self._t_in_epochs:
            return
        self._t_in_epochs = False
        self._stand_at(num_updates)

    def _stand_at(self, step: int) -> None:
        step = Number("count from 0", least=0, most=LARGEST_STEP, whole=True)("ScheduleLR", "step", step)
        self._step_count += 1
        self.last_epoch = step - 1
        self._update_lr()

    def state_dict(self) -> dict[str, Any]:
        """As torch's: every attribute but the optimizer; beside them `schedule` with on_mismatch."""
        state = super().state_dict()
        return state if self._on_mismatch is None else {**state, "schedule": self._schedule.to_json()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict()` returned; the schedule stays that of the code, but see `on_mismatch`.

        Raises:
            ValueError: the schedules differ, with on_mismatch="error".

        """
        state = dict(state_dict)
        text = state.pop("schedule", None)
        if text is not None and self._on_mismatch is not None:
            saved = Plan.from_json(text) if isinstance(self._schedule, Plan) else from_json(text)
            self._check_fit(self.optimizer.param_groups, saved)
            if settled("ScheduleLR", _described(saved), _described(self._schedule), self._on_mismatch, depth=1):
                self._schedule = saved
        super().load_state_dict(state)
        self._make()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self._own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        for name in self._own:
            setattr(self, name, state.pop(name))
        self.__dict__.update(state)
        self._make()

    _own = ("_schedule", "_t_in_epochs", "_on_mismatch")


def _described(schedule: Schedule | Plan) -> dict[str, Any]:
    """A schedule, or the values of each group of a plan, by name."""
    if isinstance(schedule, Schedule):
        return {"schedule": schedule}
    return {
        of_group(index, name): float(scale) if column < 0 else schedule._curves[column] * float(scale)
        for name in schedule.names
        for index, (column, scale) in enumerate(zip(schedule._columns[name], schedule._scales[name], strict=True))
        if not math.isnan(scale)
    }


class Follow(LRScheduler):
    """Changes nothing: a scheduler for a framework that demands one, beside an optimizer with a schedule of its own.

    `last_epoch` is the optimizer's position and `get_last_lr()` its learning rates, both as of the latest `step()`, as
    with torch's schedulers. It attaches nothing to the optimizer, whose step stays one native call.

    Args:
        optimizer: any torch optimizer; usually one of `fastsched.optim` with `schedule=`.

    Raises:
        TypeError: it is no optimizer.

    Example:
        >>> import torch, fastsched as fs
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> opt = fs.optim.SGD([weight], lr=0.5, schedule=fs.Linear(1.0, 0.0, steps=2))
        >>> scheduler = fs.lr_scheduler.Follow(opt)
        >>> weight.sum().backward()
        >>> opt.step()
        >>> scheduler.step()
        >>> scheduler.get_last_lr(), scheduler.last_epoch
        ([0.25], 1)

    """

    def __init__(self, optimizer: Optimizer) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"{type(optimizer).__name__} is not an Optimizer")
        self.optimizer = optimizer
        self._step_count = 1
        self.last_epoch = self._position()

    def _position(self) -> int:
        return int(getattr(self.optimizer, "position", self._step_count - 1))

    @property
    def base_lrs(self) -> list[Any]:  # type: ignore[override]
        """What every group begins with."""
        return [group.get("initial_lr", group["lr"]) for group in self.optimizer.param_groups]

    @property  # type: ignore[misc]
    def _last_lr(self) -> list[Any]:  # type: ignore[override]
        lrs_at = getattr(self.optimizer, "_lrs_at", None)
        if lrs_at is None:
            return torchs._param_groups_val_list(self.optimizer, "lr")
        return cast(list[Any], lrs_at(self.last_epoch))

    def get_last_lr(self) -> list[Any]:
        """The learning rate of every group as of the latest `step()`."""
        return self._last_lr

    def get_lr(self) -> list[Any]:
        """As `get_last_lr()`."""
        return self._last_lr

    def step(self, epoch: int | None = None, metric: Any = None) -> None:
        """Look where the optimizer is; nothing is changed. `epoch` and `metric` are what loops of others pass."""
        self._step_count += 1
        self.last_epoch = self._position()

    def step_update(self, num_updates: int, metric: Any = None) -> None:
        """As `step()`: the name that timm has for it."""
        self.step()

    def state_dict(self) -> dict[str, Any]:
        """What a torch scheduler has too, so that one of those can go on from here."""
        return {"_step_count": self._step_count, "last_epoch": self.last_epoch, "_last_lr": self._last_lr}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads what `state_dict()` of this or of another scheduler returned; the position is the optimizer's."""
        self._step_count = int(state_dict.get("_step_count", self._step_count))
        self.last_epoch = self._position()

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__)


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> Any:
    """transformers.get_scheduler, with native steps.

    Args:
        name: one of transformers' names: "linear", "cosine", "cosine_with_restarts", "polynomial", "constant",
            "constant_with_warmup", "inverse_sqrt", "cosine_with_min_lr", "warmup_stable_decay", ...
        optimizer: any torch optimizer.
        num_warmup_steps: updates of the warmup.
        num_training_steps: updates in all.
        scheduler_specific_kwargs: as transformers has them for each name.

    Returns:
        The scheduler that transformers makes, of the class here.

    Raises:
        ImportError: transformers is not installed.
        ValueError: transformers' own, for what it misses.

    """
    try:
        from transformers import get_scheduler as original
    except ImportError as error:
        raise ImportError(
            "get_scheduler: needs transformers, whose schedules it makes; pip install transformers, or use ScheduleLR"
        ) from error
    made = original(
        name,
        optimizer,
        num_warmup_steps=num_warmup_steps,
        num_training_steps=num_training_steps,
        scheduler_specific_kwargs=scheduler_specific_kwargs,
    )
    return _native_twin(made, optimizer)


def _native_twin(scheduler: torchs.LRScheduler, optimizer: Optimizer) -> torchs.LRScheduler:
    """The same scheduler on an optimizer, of the class here that has its name; one that has none here as it is."""
    own: Any = globals().get(type(scheduler).__name__)
    known = isinstance(own, type) and type(scheduler) in own.__mro__
    twin: Any = own.__new__(own) if known else copy.copy(scheduler)
    getattr(scheduler, "_last_lr", None)  # of one from here, it stands in __dict__ only once it was read
    twin.__dict__.update(scheduler.__dict__)
    twin.optimizer = optimizer
    if "_schedulers" in twin.__dict__:
        twin._schedulers = [_native_twin(part, optimizer) for part in twin._schedulers]
    return cast(torchs.LRScheduler, twin)


def _plain(value: Any) -> Any:
    """A number as a float; of anything else torch's code makes what it can."""
    return float(value) if isinstance(value, (int, float)) else value


def _where(name: str) -> tuple[str, int | None]:
    """Under which key of a group a hyperparameter stands, and where in it."""
    return ("betas", name == "beta2") if name in ("beta1", "beta2") else (name, None)
