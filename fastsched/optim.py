"""Optimizers whose whole step is one native call: schedule and update of every tensor of every group.

They subclass the torch optimizers of the same name, so that arguments, validation, `param_groups`, `state_dict()` and
hooks are torch's own; only `step` is replaced.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from fastsched._backend import backend
from fastsched._check import LARGEST_STEP, Number
from fastsched.plan import Plan
from fastsched.schedule import Schedule

try:
    from fastsched import _core
except ImportError as error:  # a wheel without the native module: schedules still work on Numba
    raise ImportError(
        "fastsched.optim: needs the native module, and this installation has none; "
        "install a C++17 compiler and reinstall with pip's --force-reinstall --no-cache-dir"
    ) from error

__all__ = ["AdamW"]


_LR = Number("pass a learning rate such as 1e-3, or a Schedule", least=0)
_POSITION = Number("count updates from 0", least=0, most=LARGEST_STEP, whole=True)
_FACTOR = Number("pass a factor such as 0.1", least=0)


class _Fused(torch.optim.Optimizer):
    """What the fused optimizers share: time, base learning rates, and the way into the native step."""

    _engine: _core.Engine
    _schedule: Schedule | None
    # Per group what `schedule` multiplies: from the code, never from a checkpoint.
    _bases: list[float | Schedule]
    _default_base: float | Tensor | Schedule
    _unwarned = True  # no torch scheduler was noticed yet
    _ready = True  # False while torch constructs

    # ---- construction

    def _before_torch(self, lr: float | Tensor | Schedule, schedule: Schedule | None) -> float | Tensor:
        """Store what `add_param_group` needs while torch constructs; returns the lr that torch may validate."""
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(
                f"{type(self).__name__}: schedule must be a fastsched Schedule or None, "
                f"got {type(schedule).__name__}; for example schedule=fastsched.Cosine(steps=1000)"
            )
        self._engine = _core.Engine()
        self._ready = False
        self._schedule = schedule
        self._bases = []
        self._default_base = lr
        return lr(0) if isinstance(lr, Schedule) else lr

    def _after_torch(self) -> None:
        self._ready = True
        self._retime(0)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; its `lr` may be a number or a Schedule.

        Raises:
            ValueError: a parameter is no float32 tensor in CPU memory, or its elements overlap.

        """
        base: float | Schedule = 0.0
        if isinstance(param_group, dict):
            base = self._base_of(param_group.get("lr", self._default_base))
            if isinstance(base, Schedule):
                param_group = {**param_group, "lr": base(self._engine.position)}
        super().add_param_group(param_group)
        self._bases.append(base)
        try:
            for index, param in enumerate(self.param_groups[-1]["params"]):
                reason = _unusable(param)
                if reason:
                    raise ValueError(f"{type(self).__name__}: {self._place(param, index)}: {reason}")
            if self._ready:
                self._retime(self._engine.position, keep_written=True)
        except BaseException:
            self.param_groups.pop()
            self._bases.pop()
            raise

    def _base_of(self, lr: float | Tensor | Schedule) -> float | Schedule:
        if isinstance(lr, Schedule):
            return lr
        number: float = _LR(type(self).__name__, "lr", lr.item() if isinstance(lr, Tensor) else lr)
        return number

    # ---- time

    def _row(self, bases: list[float | Schedule]) -> _core.Row | None:
        """What the engine reads every group's lr from; None where nothing is scheduled."""
        if backend() != "native":
            raise RuntimeError(
                f"{type(self).__name__}: the fused step needs the native backend, got {backend()!r}; "
                "call fastsched.use_backend('native'), or unset FASTSCHED_BACKEND"
            )
        groups: list[dict[str, Any]] = [{"lr": base} if self._scheduled(base) else {} for base in bases]
        return cast(_core.Row, Plan(groups, self._schedule)._row("lr")) if any(groups) else None

    def _scheduled(self, base: float | Schedule) -> bool:
        return self._schedule is not None or isinstance(base, Schedule)

    def _retime(self, position: int, *, keep_written: bool = False) -> None:
        """Hand the schedules to the engine, which writes every scheduled group's lr for update `position`."""
        row = self._row(self._bases)
        self._engine.move_to(self, position, row, keep_written)

    @property
    def position(self) -> int:
        """The 0-based index of the update about to be made: the number of updates made so far.

        Setting it moves the schedule, and `group["lr"]` with it. The moments keep their own step counts, and a
        checkpoint holds only those: set the position again after loading one.
        """
        return self._engine.position

    @position.setter
    def position(self, step: int) -> None:
        step = _POSITION(type(self).__name__, "position", step)
        self._retime(step)

    @property
    def lrs(self) -> list[float]:
        """The learning rate of every group for the update about to be made, in group order."""
        return [float(group["lr"]) for group in self.param_groups]

    def scale_lr(self, factor: float, group: int | None = None) -> None:
        """Multiply the base lr of one group, or of all, for good.

        Args:
            factor: finite and >= 0.
            group: index into `param_groups`; None means all.

        Raises:
            ValueError: factor is negative or not finite.
            IndexError: no such group.

        """
        name = f"{type(self).__name__}: scale_lr"
        factor = _FACTOR(name, "factor", factor)
        count = len(self._bases)
        if group is not None and (isinstance(group, bool) or not isinstance(group, int)):
            raise TypeError(f"{name}: group must be an int or None, got {type(group).__name__}; pass its index")
        if group is not None and not -count <= group < count:
            raise IndexError(f"{name}: group must be an index into the {count} groups, got {group}")
        indices = range(count) if group is None else [group]
        bases = list(self._bases)
        for index in indices:
            bases[index] = bases[index] * factor
        row = self._row(bases)  # raises before anything is changed
        for index in indices:
            if not self._scheduled(bases[index]):
                self.param_groups[index]["lr"] = self.param_groups[index]["lr"] * factor
        self._bases = bases
        self._engine.move_to(self, self._engine.position, row, True)

    # ---- the step

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            What `closure` returned, or None.

        Raises:
            RuntimeError, ValueError, TypeError: a gradient, parameter or state tensor cannot be used; nothing was
                changed.

        """
        if (
            closure is None
            and not self._optimizer_step_pre_hooks
            and not self._optimizer_step_post_hooks
            and not torch_optimizer._global_optimizer_pre_hooks
            and not torch_optimizer._global_optimizer_post_hooks
            and not profiler._is_profiler_enabled
            and not (self._unwarned and "step" in self.__dict__)
        ):
            self._engine.step(self)
            return None
        self._notice_scheduler()
        return self._observed_step() if closure is None else self._observed_step(closure)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it in five Python calls

    def _plain_step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._engine.step(self)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_plain_step)

    def _notice_scheduler(self) -> None:
        """Warn once where a torch scheduler (it replaces `step` on the instance) drives a self-advancing optimizer."""
        if self._unwarned and "step" in self.__dict__:
            self._unwarned = False
            if not any(map(self._scheduled, self._bases)):
                return
            warnings.warn(
                f"{type(self).__name__}: a learning-rate scheduler is attached to an optimizer that advances its own "
                "schedule: what the scheduler writes into group['lr'] wins at every step; remove one of the two",
                UserWarning,
                stacklevel=3,
            )

    # ---- state

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_schedule": self._schedule,
            "_bases": self._bases,
            "_default_base": self._default_base,
            "_position": self._engine.position,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        position = state.pop("_position", None)
        super().__setstate__(state)
        self._engine = _core.Engine()
        recovered = self._engine.bind(self)
        self._retime(recovered if position is None else position)

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of its torch namesake.

        The position is recovered from the steps in `state`; base lrs and schedules stay those of the code. The tensors
        are copied. A checkpoint that does not fit leaves everything as it was.

        Raises:
            ValueError: groups or shapes don't match.

        """
        before = self._engine, self.state, self.param_groups
        try:
            super().load_state_dict(cast(dict[str, Any], state_dict))
        except BaseException:
            self._engine, self.state, self.param_groups = before
            raise

    # ---- called by the engine

    @torch.no_grad()
    def _fill_state(self, param: Tensor, loaded: dict[str, Any], own: dict[str, Tensor]) -> None:
        """Copy what state[param] holds into the engine's tensors and put those in its place."""
        values = {}
        for key, tensor in own.items():
            if key == "max_exp_avg_sq" and key not in loaded:
                values[key] = tensor  # amsgrad switched on later: torch has no answer, zeros are a fresh start
                continue
            if key not in loaded:
                raise ValueError(f"{type(self).__name__}: {self._place(param)}: its state has no {key!r}")
            value = loaded[key]
            value = value if isinstance(value, Tensor) else torch.tensor(float(value))
            if key == "step" and value.numel() == 1:
                value = value.reshape(())
                if not value.item() >= 0:
                    raise ValueError(
                        f"{type(self).__name__}: {self._place(param)}: step must be >= 0, got {value.item()}"
                    )
            if value.shape != tensor.shape:
                raise ValueError(
                    f"{type(self).__name__}: {self._place(param)}: state {key!r} has shape {tuple(value.shape)}, the "
                    f"parameter needs {tuple(tensor.shape)}; load a checkpoint of this model, or delete state[param]"
                )
            values[key] = value
        for key, tensor in own.items():
            tensor.copy_(values[key])
        loaded.update(own)

    def _refuse(self, param: Tensor, grad: Tensor | None) -> None:
        """Raise the error that says why a step cannot use this parameter or gradient."""
        name = type(self).__name__
        if grad is not None and grad.layout is not torch.strided:
            raise RuntimeError(
                f"{name} does not support sparse gradients ({self._place(param)}); "
                "use torch.optim.SparseAdam, or embeddings with sparse=False"
            )
        for what, tensor in (("", param), ("gradient: ", grad)):
            reason = _unusable(tensor) if tensor is not None else ""
            if reason and not (tensor is grad and "overlap" in reason):
                raise ValueError(f"{name}: {self._place(param)}: {what}{reason}")
        if grad is not None and grad.shape != param.shape:
            raise ValueError(
                f"{name}: {self._place(param)}: gradient has shape {tuple(grad.shape)}, the parameter "
                f"{tuple(param.shape)}; set p.grad to None after replacing p.data"
            )
        held = self.state.get(param, {}).get("exp_avg")
        if held is not None and held.shape != param.shape:
            raise ValueError(
                f"{name}: {self._place(param)}: the parameter has shape {tuple(param.shape)} now, its state "
                f"{tuple(held.shape)}; after resizing it, delete state[param]"
            )
        raise ValueError(
            f"{name}: {self._place(param)}: the memory of a {type(param).__name__} with a gradient of type "
            f"{type(grad).__name__} cannot be read"
        )

    def _place(self, param: Tensor, index: int | None = None) -> str:
        """Where a parameter stands, for messages."""
        for number, group in enumerate(self.param_groups):
            for at, other in enumerate(group["params"]):
                if other is param:
                    names = group.get("param_names")
                    label = f" ({names[at]})" if names else f" ({group['name']})" if "name" in group else ""
                    return f"group {number}, parameter {at}{label}"
        return f"parameter {index}"


class AdamW(_Fused, torch.optim.AdamW):
    r"""AdamW: Adam with decoupled weight decay, all groups in one native call.

    With g the gradient and t the number of updates including this one::

        m = m + (1 - beta1) * (g - m)
        v = v + (1 - beta2) * (g*g - v)
        p = p - lr * (weight_decay * p + m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps))

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019 (arXiv 1711.05101); the formula is that
    of torch.optim.AdamW. Parameters are float32 tensors in CPU memory, of any shape and strides; as many threads run
    as torch uses, and the result is the same to the bit whatever their number.

    Args:
        params: tensors, named tensors, or groups, as for torch.optim.AdamW. A group's `lr` may be a Schedule.
        lr: the base learning rate, a number, a 1-element tensor or a Schedule.
        betas: decay of the two averages, each in [0, 1).
        eps: added to the denominator, >= 0.
        weight_decay: decoupled, times lr, >= 0.
        amsgrad: divide by the largest second moment so far.
        maximize: ascend.
        foreach: without effect here, kept for torch's signature; so is `fused`.
        capturable: must be False.
        differentiable: must be False.
        fused: see foreach.
        schedule: a Schedule; update t uses base lr * schedule(t), and after `step()` every `group["lr"]` is what the
            next update will use. A value that somebody writes there serves exactly one update. None: `group["lr"]`
            stands.

    Raises:
        ValueError: a hyperparameter is out of range (torch's own messages), or a parameter is no float32 CPU tensor.
        TypeError: `schedule` is no Schedule.

    Example:
        >>> import torch, fastsched as fs
        >>> model = torch.nn.Linear(4, 2)
        >>> opt = fs.optim.AdamW(model.parameters(), lr=0.5, schedule=fs.Linear(1.0, 0.0, steps=2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
        >>> opt.lrs, opt.position
        ([0.25], 1)

    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor | Schedule = 1e-3,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        schedule: Schedule | None = None,
    ) -> None:
        for name, given in (("betas", betas), ("eps", eps), ("weight_decay", weight_decay)):
            if any(isinstance(value, Schedule) for value in (given if isinstance(given, tuple) else (given,))):
                raise TypeError(f"AdamW: {name} must be a number, got a Schedule; only lr takes one so far")
        for flag, value in (("capturable", capturable), ("differentiable", differentiable)):
            if value:
                raise ValueError(f"AdamW: {flag} must be False, got {value}; use torch.optim.AdamW where you need it")
        torch.optim.AdamW.__init__(
            self,
            params,
            self._before_torch(lr, schedule),
            betas,
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            # fused=True would tell GradScaler that step() unscales gradients.
            fused=None,
        )
        self._after_torch()


def _unusable(tensor: Tensor) -> str:
    """Why the fused step cannot use a tensor; empty where it can."""
    if tensor.layout is not torch.strided:
        return f"must be dense, got layout {tensor.layout}"
    if tensor.dtype is not torch.float32:
        return f"must be float32, got {tensor.dtype}; convert the model with model.float()"
    if tensor.device.type != "cpu":
        return f"must be in CPU memory, got device {tensor.device}"
    return _core.unreadable(tensor)
