"""Optimizers whose whole step is one native call: schedule, clipping, update, averages of all tensors of all groups.

They subclass the torch optimizers of the same name, so that arguments, validation, `param_groups`, `state_dict()` and
hooks are torch's own; only `step` is replaced.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypedDict, TypeVar, Unpack, cast

import numpy as np
import torch
from torch import Tensor
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from fastsched._agreement import (
    ON_MISMATCH,
    groups_of_ranks,
    is_process_group,
    of_group,
    require_agreement,
    settled,
    word,
)
from fastsched._backend import backend
from fastsched._check import LARGEST_STEP, Choice, Flag, Number, is_number, shown
from fastsched.plan import Plan
from fastsched.schedule import Schedule, from_json

try:
    from fastsched import _core
except ImportError as error:  # a wheel without the native module: schedules still work on Numba
    raise ImportError(
        "fastsched.optim: needs the native module, and this installation has none; "
        "install a C++17 compiler and reinstall with pip's --force-reinstall --no-cache-dir"
    ) from error

__all__ = ["SGD", "Adam", "AdamW", "Lion", "Options", "in_backward"]

Hyperparameter = float | Tensor | Schedule


class Options(TypedDict, total=False):
    """What every optimizer here takes by keyword beside the arguments of its torch namesake.

    Attributes:
        schedule: a Schedule. Update t uses base lr * schedule(t), and after `step()` every `group["lr"]` is what the
            next update will use. A value that somebody writes there serves exactly one update. A group's `lr_scale`,
            which timm's layer decay leaves, multiplies its base lr. None: `group["lr"]` stands.
        max_grad_norm: clip all gradients together to this norm, > 0: they are multiplied by
            min(1, max_grad_norm / (norm + 1e-6)), as by torch.nn.utils.clip_grad_norm_. A norm that is not finite skips
            the update.
        norm_type: of that norm: 1, 2 or inf.
        max_grad_value: clip every element of a gradient to [-max_grad_value, max_grad_value], > 0.
        ema_decay: d in [0, 1], or a Schedule of it, for an average of the weights in state[p]["ema"]: it starts at p,
            and after each update it is d * ema + (1 - d) * p. `ema()` puts it in the weights' place.
        ema_buffers: tensors, such as model.buffers(), whose averages move with the weights'; only floating ones count.
        zero_grads: zero every gradient in place once it is used.
        amp: let torch.amp.GradScaler leave unscaling, the check for infinities and the skip to `step()`. Lightning
            refuses `gradient_clip_val` then, and Accelerate doesn't see skips.
        weight_decay_mode: what the decay is, for weight_decay w, learning rate lr and base learning rate lr0:
            "l2" adds w * p to the gradient; "decoupled" subtracts lr * w * p; "composer" lr / lr0 * w * p, with the
            group's own lr0; "timm" lr**2 / lr0 * w * p, with the optimizer's lr0; "cautious" subtracts lr * w * p only
            from elements where that does not work against the update (arXiv 2510.12402). None: torch's, which is "l2"
            for Adam and SGD, and "decoupled" for AdamW and Lion.
        state_dtype: torch.float32 or torch.bfloat16, of the gradients' averages. bfloat16 is rounded stochastically:
            rounded to nearest, an average with beta 0.999 would stand still. None: float32, and float64 for float64
            parameters.
        master_weights: keep float32 weights of float16 and bfloat16 parameters in state[p]["master_param"]; the
            parameter is their rounding. An element of a parameter that somebody has written since counts.
        stochastic_rounding: round bfloat16 parameters without master stochastically: up with the probability that
            makes the mean exact.
        seed: of the stochastic rounding. Its bits depend on the seed, the update, the parameter's place among all, and
            the element alone.
        agree: where the parameters are DTensors or DDP's, compare with the other ranks, at the first step and after
            loading, in one small collective: the plan's fingerprint, the position, and the groups with their
            parameters. A mismatch is an error that names rank and field. A process group: compare within it, whatever
            the parameters are. False: never, where ranks mean to differ. `in_backward` compares after loading only.
        on_mismatch: keep the schedules in `state_dict()` too, and where a checkpoint's differ from the code's: "error",
            or go on with those of the "checkpoint" or of the "code", and warn with the fields that differ. None: a
            checkpoint holds no schedules, and the code's are used.

    """

    schedule: Schedule | None
    max_grad_norm: float | None
    norm_type: float
    max_grad_value: float | None
    ema_decay: float | Schedule | None
    ema_buffers: Iterable[Tensor] | None
    zero_grads: bool
    amp: bool
    weight_decay_mode: str | None
    state_dtype: torch.dtype | None
    master_weights: bool
    stochastic_rounding: bool
    seed: int
    agree: bool | torch.distributed.ProcessGroup
    on_mismatch: str | None


_LR = Number("pass a learning rate such as 1e-3, or a Schedule", least=0)
_HYPERPARAMETERS = {
    "lr": _LR,
    "weight_decay": Number("pass a number such as 0.01, or a Schedule", least=0),
    "momentum": Number("pass a number such as 0.9, or a Schedule", least=0),
    "beta1": Number("pass a number such as 0.9, or a Schedule", least=0, most=math.nextafter(1, 0)),
    "beta2": Number("pass a number such as 0.999, or a Schedule", least=0, most=math.nextafter(1, 0)),
}
_POSITION = Number("count updates from 0", least=0, most=LARGEST_STEP, whole=True)
_FACTOR = Number("pass a factor such as 0.1", least=0)
_LIMIT = Number("pass a limit such as 1.0, or None", above=0, optional=True)
_DECAY = Number("pass a number such as 0.999, or a Schedule", least=0, most=1)
_ON = Flag("pass True to switch it on")
_AGREE = Flag("or pass the process group whose ranks must agree")
_MODE = Choice(("l2", "decoupled", "composer", "timm", "cautious"))
_SEED = Number("pass an int such as 0", least=0, most=2**53, whole=True)
_DTYPES = {torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.complex64, torch.complex128}
_ON_CPU = -1  # what _core.device_of says
_STATE_DTYPES = {None: "", torch.float32: "float32", torch.bfloat16: "bfloat16"}
# What has to be the same on all ranks, beside the schedules.
_SHARED_OPTIONS = (
    *("max_grad_norm", "norm_type", "max_grad_value", "ema_decay", "weight_decay_mode", "amp"),
    *("state_dtype", "master_weights", "stochastic_rounding", "seed"),
)
_DEFAULTS: dict[str, Any] = {
    "schedule": None,
    "max_grad_norm": None,
    "norm_type": 2.0,
    "max_grad_value": None,
    "ema_decay": None,
    "ema_buffers": None,
    "zero_grads": False,
    "amp": False,
    "weight_decay_mode": None,
    "state_dtype": None,
    "master_weights": False,
    "stochastic_rounding": False,
    "seed": 0,
    "agree": True,
    "on_mismatch": None,
}

_Init = TypeVar("_Init", bound=Callable[..., None])


def _spelled_out(init: _Init) -> _Init:
    """Show every option in the signature that help() and editors read."""
    signature = inspect.signature(init)
    named = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    types = Options.__annotations__
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
        for name, default in _DEFAULTS.items()
    ]
    init.__signature__ = signature.replace(parameters=[*named, *added])  # type: ignore[attr-defined]
    return init


class _Fused(torch.optim.Optimizer):
    """What the fused optimizers share: options, time, bases of what is scheduled, the way into the native step."""

    _rule: str
    _hypers: tuple[str, ...]  # what may be scheduled

    _engine: _core.Engine
    _options: dict[str, Any]  # see Options; ema_buffers as pairs of tensor and average
    # Per group, from the code and never from a checkpoint: lr, which `schedule` multiplies, and every other
    # hyperparameter that is a Schedule.
    _bases: list[dict[str, float | Schedule]]
    _default_bases: dict[str, Hyperparameter]
    _unwarned = True  # no torch scheduler was noticed yet
    _ready = True  # False while torch constructs
    _asks = True  # reading `param_groups` asks the device
    _members: set[Tensor]  # all parameters, while torch constructs
    _loading: Mapping[Any, Any] | None = None  # the state that load_state_dict keeps from torch's hands
    _task = -1  # the backward pass that in_backward's hooks saw last

    # ---- construction

    def _before_torch(self, options: Options, fixed: Mapping[str, float], **values: Any) -> dict[str, Any]:
        """Check the options; returns the hyperparameters as numbers, which torch may validate."""
        for name, value in fixed.items():
            if isinstance(value, Schedule):
                who, which = type(self).__name__, ", ".join(self._hypers)
                raise TypeError(f"{who}: {name} must be a number, got a Schedule; those may be one: {which}")
        self._options = self._checked(options)
        self._default_bases = {"lr": values["lr"]}
        for name, value in values.items():
            for key, part in _parts(name, value):
                if isinstance(part, Schedule):
                    self._default_bases[key] = part
        self._ready = False
        self._bases = []
        self._members = set()
        self._make_engine()
        return {name: _first(value) for name, value in values.items()}

    def _after_torch(self) -> None:
        del self._members
        self._ready = True
        self._retime(0)

    def _checked(self, options: Options) -> dict[str, Any]:
        name = type(self).__name__
        for unknown in options.keys() - _DEFAULTS.keys():
            raise TypeError(f"{name}: got an unexpected argument {unknown!r}; see fastsched.optim.Options")
        given = {**_DEFAULTS, **options}
        if not isinstance(given["schedule"], Schedule | None):
            raise TypeError(
                f"{name}: schedule must be a fastsched Schedule or None, got {shown(given['schedule'])}; "
                "for example schedule=fastsched.Cosine(steps=1000)"
            )
        for limit in ("max_grad_norm", "max_grad_value"):
            given[limit] = _LIMIT(name, limit, given[limit])
        if given["max_grad_norm"] and given["max_grad_value"]:
            raise ValueError(f"{name}: max_grad_norm and max_grad_value cannot clip together; pass one of them")
        if not is_number(given["norm_type"]) or given["norm_type"] not in (1, 2, math.inf):
            raise ValueError(f"{name}: norm_type must be 1, 2 or inf, got {shown(given['norm_type'])}; 2 is usual")
        if not isinstance(given["ema_decay"], Schedule | None):
            given["ema_decay"] = _DECAY(name, "ema_decay", given["ema_decay"])
        for flag in ("zero_grads", "amp", "master_weights", "stochastic_rounding"):
            given[flag] = _ON(name, flag, given[flag])
        if not is_process_group(given["agree"]):
            given["agree"] = _AGREE(name, "agree", given["agree"])
        for choice, rule in (("weight_decay_mode", _MODE), ("on_mismatch", ON_MISMATCH)):
            if given[choice] is not None:
                rule(name, choice, given[choice])
        if not isinstance(given["state_dtype"], torch.dtype | None):
            raise TypeError(
                f"{name}: state_dtype must be a torch.dtype or None, got {shown(given['state_dtype'])}; "
                "for example torch.bfloat16"
            )
        if given["state_dtype"] not in _STATE_DTYPES:
            raise ValueError(
                f"{name}: state_dtype must be torch.float32 or torch.bfloat16, got {given['state_dtype']}; "
                "None takes float32, and float64 for float64 parameters"
            )
        given["seed"] = _SEED(name, "seed", given["seed"])
        given["ema_buffers"] = self._with_averages(given)
        return given

    def _with_averages(self, given: dict[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """The floating tensors among `ema_buffers`, each with its average."""
        if given["ema_buffers"] is None:
            return []
        name = type(self).__name__
        if given["ema_decay"] is None:
            raise ValueError(f"{name}: ema_buffers needs ema_decay; pass ema_decay=0.999 too")
        pairs = []
        for index, buffer in enumerate(given["ema_buffers"]):
            if not isinstance(buffer, Tensor):
                raise TypeError(
                    f"{name}: ema_buffers must be tensors, got {shown(buffer)} at {index}; pass model.buffers()"
                )
            if not (buffer.is_floating_point() or buffer.is_complex()):
                continue
            if reason := _unusable(buffer):
                raise ValueError(f"{name}: ema_buffers: tensor {index}: {reason}")
            half = buffer.dtype in (torch.float16, torch.bfloat16)
            average = buffer.detach().to(torch.float32 if half else buffer.dtype, copy=True)
            pairs.append((buffer, average))
        return pairs

    def _make_engine(self) -> None:
        options = self._options
        self._engine = _core.Engine(
            rule=self._rule,
            weight_decay_mode=options["weight_decay_mode"] or "",
            norm_type=float(options["norm_type"]),
            max_grad_norm=options["max_grad_norm"] or 0.0,
            max_grad_value=options["max_grad_value"] or 0.0,
            zero_grads=options["zero_grads"],
            amp=options["amp"],
            ema=options["ema_decay"] is not None,
            master_weights=options["master_weights"],
            stochastic_rounding=options["stochastic_rounding"],
            state=_STATE_DTYPES[options["state_dtype"]],
            seed=options["seed"],
        )
        self._engine.average(options["ema_buffers"], fresh=not getattr(self, "state", None))
        if options["amp"]:
            self._step_supports_amp_scaling = True  # torch.amp.GradScaler looks for it

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch does; `lr`, `weight_decay`, `momentum` and each of `betas` may be a Schedule.

        Raises:
            ValueError: a parameter is no floating or complex tensor on CPU or CUDA device, or its elements overlap.
            RuntimeError: it lies on a CUDA device, and the driver or NVRTC, which compiles the kernels, is missing.

        """
        bases: dict[str, float | Schedule] = {}
        if isinstance(param_group, dict):
            bases = self._bases_of(param_group)
            if numbers := self._numbers_of(param_group, bases):
                param_group = {**param_group, **numbers}
        # torch compares a new group with every other: a minute for 10,000 of them. It is given the first, whose
        # names it looks for, and the rest is compared here.
        groups = self.param_groups
        self.param_groups = groups[:1]
        try:
            super().add_param_group(param_group)
            added = self.param_groups[-1]
        finally:
            self.param_groups = groups
        members = {p for group in groups for p in group["params"]} if self._ready else self._members
        if not members.isdisjoint(added["params"]):
            raise ValueError("some parameters appear in more than one parameter group")
        for index, param in enumerate(added["params"]):
            if reason := _unusable(param):
                label = f" ({added['name']})" if "name" in added else ""
                raise ValueError(f"{type(self).__name__}: group {len(groups)}, parameter {index}{label}: {reason}")
        for device in {_core.device_of(param) for param in added["params"]} - {_ON_CPU}:
            _core.require_device(device)
        if added.get("capturable"):
            self._use_lr_tensor(added, [group["lr"] for group in groups])
        groups.append(added)
        self._bases.append(bases)
        if not self._ready:
            return self._members.update(added["params"])
        try:
            self._retime(self._engine.position, keep_written=True)
        except BaseException:
            groups.pop()
            self._bases.pop()
            raise

    def _use_lr_tensor(self, group: dict[str, Any], taken: Sequence[Any]) -> None:
        """Make a group's lr a tensor beside its parameters, which a captured step reads and writes.

        A tensor that the user made stays it, but where another group has it too.
        """
        for param in group["params"]:
            if _core.device_of(param) == _ON_CPU:
                raise ValueError(
                    f"{type(self).__name__}: capturable must be False where a parameter lies in CPU memory, got True; "
                    "move the model to a CUDA device first"
                )
        lr = group["lr"]
        own = isinstance(lr, Tensor) and lr.is_floating_point() and _core.device_of(lr) != _ON_CPU
        if group["params"] and not (own and all(lr is not other for other in taken)):
            group["lr"] = torch.full((), float(lr), dtype=torch.float64, device=group["params"][0].device)

    def _bases_of(self, group: Mapping[str, Any]) -> dict[str, float | Schedule]:
        """What the code says about a group: the base lr, and whatever is scheduled."""
        name = type(self).__name__
        bases: dict[str, float | Schedule] = {}
        given = {key: part for label, value in group.items() for key, part in _parts(label, value)}
        for key in self._hypers:
            value = given.get(key, self._default_bases.get(key))
            if isinstance(value, Schedule):
                for step in (0, value.steps):
                    if math.isfinite(step):
                        _HYPERPARAMETERS[key](name, f"{key} at update {step}", value(step))
                bases[key] = value
            elif key == "lr":
                bases[key] = _LR(name, key, value.item() if isinstance(value, Tensor) else value)
        if "lr_scale" in group and self._scheduled(bases["lr"]):
            bases["lr"] = bases["lr"] * _FACTOR(name, "lr_scale", group["lr_scale"])
        mode = self._options["weight_decay_mode"]
        if mode in ("composer", "timm") and isinstance(bases["lr"], Schedule):
            raise ValueError(
                f"{name}: weight_decay_mode={mode!r} measures lr against a base, and lr is a Schedule; "
                "pass a number as lr and the shape as schedule="
            )
        return bases

    def _numbers_of(self, group: Mapping[str, Any], bases: Mapping[str, float | Schedule]) -> dict[str, Any]:
        """What stands in a new group for everything scheduled."""
        numbers: dict[str, Any] = {}
        for key, base in bases.items():
            if not isinstance(base, Schedule):
                continue
            number = base(self._engine.position)
            if key in ("beta1", "beta2"):
                pair = list(numbers.get("betas", group.get("betas", self.defaults["betas"])))
                pair[key == "beta2"] = number
                numbers["betas"] = tuple(pair)
            else:
                numbers[key] = number
        return numbers

    # ---- time

    def _rows(self, bases: list[dict[str, float | Schedule]]) -> dict[str, _core.Row]:
        """What the engine reads every scheduled hyperparameter from."""
        if backend() != "native":
            raise RuntimeError(
                f"{type(self).__name__}: the fused step needs the native backend, got {backend()!r}; "
                "call fastsched.use_backend('native'), or unset FASTSCHED_BACKEND"
            )
        scheduled = [{key: base for key, base in group.items() if self._scheduled(base)} for group in bases]
        plan = Plan(scheduled, self._options["schedule"])
        rows = {name: cast(_core.Row, plan._row(name)) for name in plan.names}
        if self._options["ema_decay"] is not None:
            rows["ema_decay"] = cast(_core.Row, Plan([{"ema_decay": self._options["ema_decay"]}])._row("ema_decay"))
        return rows

    def _scheduled(self, base: float | Schedule) -> bool:
        return isinstance(base, Schedule) or self._options["schedule"] is not None

    def _measures(self, bases: list[dict[str, float | Schedule]]) -> list[float]:
        """Per group the lr that weight decay is measured against; empty where it is not."""
        mode = self._options["weight_decay_mode"]
        if mode == "composer":
            return [cast(float, base["lr"]) for base in bases]
        return [float(self.defaults["lr"])] * len(bases) if mode == "timm" else []

    def _retime(self, position: int, *, keep_written: bool = False) -> None:
        """Hand the schedules to the engine, which writes what is scheduled into every group, for update `position`."""
        rows = self._rows(self._bases)
        self._engine.move_to(self, position, rows, self._measures(self._bases), keep_written)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Torch's groups, up to date: a CUDA device is asked for what it alone knows (see `skipped`)."""
        held = self.__dict__
        if self._asks and "_engine" in held:
            held["_engine"].reconcile_groups()
        if "param_groups" not in held:  # as an attribute that is not there yet
            raise AttributeError(f"{type(self).__name__}: no param_groups before torch has made them")
        return cast(list[dict[str, Any]], held["param_groups"])

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self.__dict__["param_groups"] = groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop, or zero, all gradients, as torch does."""
        self._asks = False  # torch reads the groups, but nothing that a device would have to be asked for
        try:
            super().zero_grad(set_to_none)
        finally:
            del self._asks

    @property
    def position(self) -> int:
        """The 0-based index of the update about to be made: the number of updates made so far.

        Setting it moves the schedules, and what they write into the groups. The averages keep their own step counts,
        and a checkpoint holds only those: set the position again after loading one.
        """
        return self._engine.position

    @position.setter
    def position(self, step: int) -> None:
        step = _POSITION(type(self).__name__, "position", step)
        self._retime(step)

    def _lrs_at(self, position: int) -> list[float]:
        """What the schedules say for an update; where there is none, what stands in the group."""
        lrs = self.lrs
        row = self._rows(self._bases).get("lr")
        if row is None or position == self.position:
            return lrs
        values = np.empty(len(lrs))
        row.at(float(position), values)
        return [lr if math.isnan(value) else value for lr, value in zip(lrs, values.tolist(), strict=True)]

    @property
    def lrs(self) -> list[float]:
        """The learning rate of every group for the update about to be made, in group order."""
        return [float(group["lr"]) for group in self.param_groups]

    @property
    def skipped(self) -> int:
        """How many updates were skipped for gradients that were not finite, since it was made, copied or loaded.

        On a CUDA device the step itself finds out, and nobody waits for it. Reading this, `position`, `grad_norm`,
        `lrs`, `param_groups` or `state_dict()` does, where an update may have been skipped or a graph replayed.
        """
        return self._engine.skipped

    @property
    def grad_norm(self) -> float | None:
        """The norm of all gradients at the latest step, unscaled and before clipping; None where none was taken.

        It is taken with `max_grad_norm` or `amp`.
        """
        return self._engine.grad_norm

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
            bases[index] = {**bases[index], "lr": bases[index]["lr"] * factor}
        rows = self._rows(bases)  # raises before anything is changed
        for index in indices:
            if not self._scheduled(bases[index]["lr"]):
                scaled = self.param_groups[index]
                if scaled.get("capturable") and isinstance(scaled["lr"], Tensor):  # graphs read this very tensor
                    scaled["lr"].mul_(factor)
                else:
                    scaled["lr"] = scaled["lr"] * factor
        self._bases[:] = bases  # in place: Lightning calls this with a wrapper as self
        self._engine.move_to(self, self._engine.position, rows, self._measures(bases), True)

    # ---- the step

    def step(self, closure: Callable[[], Any] | None = None, *, grad_norm: float | Tensor | None = None) -> Any:
        """Make one update of every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.
            grad_norm: the norm, after unscaling, that `max_grad_norm` compares with, in place of this optimizer's own
                gradients': one clip for several optimizers. See torch.nn.utils.get_total_norm.

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
            self._engine.step(self, grad_norm)
            return None
        self._notice_scheduler()
        arguments: dict[str, Any] = {} if closure is None else {"closure": closure}
        if grad_norm is not None:
            arguments["grad_norm"] = grad_norm
        return self._observed_step(**arguments)

    step.hooked = True  # type: ignore[attr-defined]  # torch would wrap it in five Python calls

    def _plain_step(self, closure: Callable[[], Any] | None = None, *, grad_norm: float | Tensor | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._engine.step(self, grad_norm)
        return loss

    _observed_step = torch.optim.Optimizer.profile_hook_step(_plain_step)

    def _notice_scheduler(self) -> None:
        """Warn once where a torch scheduler (it replaces `step` on the instance) drives a self-advancing optimizer."""
        if self._unwarned and getattr(self.__dict__.get("step"), "_wrapped_by_lr_sched", False):
            self._warn_of_scheduler()

    def _warn_of_scheduler(self) -> None:
        """Also called by the engine, where `initial_lr`, which every scheduler leaves, has come into a group."""
        if not self._unwarned:
            return
        self._unwarned = False
        if not any(self._scheduled(base["lr"]) for base in self._bases):
            return
        warnings.warn(
            f"{type(self).__name__}: a learning-rate scheduler is attached to an optimizer that advances its own "
            "schedule: what the scheduler writes into group['lr'] wins at every step; remove one of the two",
            UserWarning,
            stacklevel=4,
        )

    # ---- averages of the weights

    @contextmanager
    def ema(self) -> Iterator[None]:
        """Put the averages of the weights (and of `ema_buffers`) in their place, and the weights back at the end.

        Parameters that have had no update have no average, and stay. What the body writes into parameters is lost;
        `model.state_dict()` inside saves the averages.

        Raises:
            RuntimeError: there are no averages (no `ema_decay`), or they stand in place already.
            ValueError: a parameter has lost its memory.

        Example:
            >>> import torch, fastsched as fs
            >>> weight = torch.nn.Parameter(torch.ones(1))
            >>> opt = fs.optim.SGD([weight], lr=1.0, ema_decay=0.5)
            >>> weight.sum().backward()
            >>> opt.step()
            >>> with opt.ema():
            ...     weight.item()
            0.5
            >>> weight.item()
            0.0

        """
        name = type(self).__name__
        if self._options["ema_decay"] is None:
            raise RuntimeError(f"{name}: ema: there are no averages; make the optimizer with ema_decay=0.999")
        if self._engine.lent:
            raise RuntimeError(f"{name}: ema: the averages stand in the weights' place already; leave that one first")
        pairs = [(p, state["ema"]) for p, state in self.state.items() if isinstance(p, Tensor) and "ema" in state]
        pairs += self._options["ema_buffers"]
        for tensor, _ in pairs:
            if reason := _unusable(tensor):
                raise ValueError(f"{name}: ema: {self._place(tensor)}: {reason}")
        weights = [tensor.detach().clone() for tensor, _ in pairs]
        self._engine.lent = True
        try:
            with torch.no_grad():
                for tensor, average in pairs:
                    tensor.copy_(average)
            yield
        finally:
            with torch.no_grad():
                for (tensor, _), weight in zip(pairs, weights, strict=True):
                    tensor.copy_(weight)
            self._engine.lent = False

    # ---- state

    def __getstate__(self) -> dict[str, Any]:
        return {
            **super().__getstate__(),
            "_options": {**self._options, "agree": self._options["agree"] is not False},  # no process group is copied
            "_bases": self._bases,
            "_default_bases": self._default_bases,
            "_position": self._engine.position,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        position = state.pop("_position", None)
        if self._loading is not None:
            state["state"] = self._loading
        super().__setstate__(state)
        self._make_engine()
        recovered = self._engine.bind(self)
        if position is None:
            self._retime(recovered)
            return
        held = [dict(group) for group in self.param_groups]  # also what was written by hand for the next update
        self._retime(position)
        for group, before in zip(self.param_groups, held, strict=True):
            written = {key: value for key, value in before.items() if value is not group[key] and value != group[key]}
            group.update(written)

    # ---- what ranks and checkpoints must agree on

    def _agree(self) -> None:
        """Compare with the other ranks; called by the engine at the first step, and after loading."""
        agree = self._options["agree"]
        process_groups = [] if agree is False else groups_of_ranks(self.param_groups) if agree is True else [agree]
        if not process_groups:
            return
        numbers = [
            {**group, **{key: base for key, base in bases.items() if self._scheduled(base)}}
            for group, bases in zip(self.param_groups, self._bases, strict=True)
        ]
        shapes = [
            (group.get("param_names"), [tuple(param.shape) for param in group["params"]]) for group in self.param_groups
        ]
        words = {
            "schedule": word(Plan(numbers, self._options["schedule"]).fingerprint),
            "options": word(repr([(name, self._options[name]) for name in _SHARED_OPTIONS])),
            "position": self.position,
            "groups": len(self.param_groups),
            "parameters": word(repr(shapes)),
        }
        for process_group in process_groups:
            require_agreement(type(self).__name__, words, self._description, self, process_group)

    def _description(self) -> dict[str, Any]:
        """Every field that ranks compare."""
        described = {"position": self.position, "groups": len(self.param_groups), **self._schedules()}
        described |= {name: self._options[name] for name in _SHARED_OPTIONS}
        for index, (group, bases) in enumerate(zip(self.param_groups, self._bases, strict=True)):
            for label, value in group.items():
                for key, part in _parts(label, value):
                    if is_number(part) and not (key in bases and self._scheduled(bases[key])):
                        described[of_group(index, key)] = part
            described[of_group(index, "parameters")] = tuple(tuple(param.shape) for param in group["params"])
        return described

    def _schedules(self) -> dict[str, Any]:
        """What the code says that no group and no state holds."""
        named = {
            of_group(index, key): base
            for index, bases in enumerate(self._bases)
            for key, base in bases.items()
            if self._scheduled(base)
        }
        return {"schedule": self._options["schedule"], **named}

    def _settle_schedules(self, saved: Any) -> None:
        """Where a checkpoint's schedules differ from the code's, do what `on_mismatch` says."""
        name, on_mismatch = type(self).__name__, self._options["on_mismatch"]
        if on_mismatch is None or saved is None:
            return
        if not isinstance(saved, Mapping):
            raise ValueError(f"{name}: the checkpoint's schedules must be a dict, got {shown(saved)}; save it again")
        read = {key: from_json(value) if isinstance(value, str) else value for key, value in saved.items()}
        if not settled(name, read, self._schedules(), on_mismatch, depth=2):
            return
        schedule = read.get("schedule")
        if not isinstance(schedule, Schedule | None):
            raise ValueError(f"{name}: the checkpoint's schedule must be one, got {shown(schedule)}; save it again")
        merged = []
        for index, bases in enumerate(self._bases):
            theirs = {key: read[label] for key in self._hypers if (label := of_group(index, key)) in read}
            for key, value in theirs.items():
                if not isinstance(value, Schedule):
                    _HYPERPARAMETERS[key](f"{name}: the checkpoint", of_group(index, key), value)
            merged.append({"lr": bases["lr"], **theirs})
        self._options["schedule"] = schedule  # both in place: wrappers hold the same
        self._bases[:] = merged

    def _adopt_state(self) -> None:
        """Use the tensors that `state` holds, instead of copies of them, where they serve as they are."""
        self._retime(self._engine.bind(self, adopt=True))

    def state_dict(self) -> dict[str, Any]:
        """Like torch's, which loads it; also `ema_buffers` where those are averaged, `schedules` with on_mismatch."""
        state = super().state_dict()
        for group in state["param_groups"]:
            group["lr"] = float(group["lr"])
        if averages := [average for _, average in self._options["ema_buffers"]]:
            state["ema_buffers"] = averages
        if self._options["on_mismatch"] is not None:
            state["schedules"] = {
                name: value.to_json() if isinstance(value, Schedule) else value
                for name, value in self._schedules().items()
            }
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a checkpoint of this optimizer or of its torch namesake.

        The position is recovered from the steps in `state`, and stays as it is where they are those held already; base
        lrs and schedules stay those of the code, but see `on_mismatch`. The tensors are copied. A checkpoint that does
        not fit leaves everything as it was.

        Raises:
            ValueError: groups, shapes or, with on_mismatch="error", schedules don't match.
            RuntimeError: ranks have loaded what does not agree.

        """
        if self._engine.lent:
            raise RuntimeError(
                f"{type(self).__name__}: load_state_dict: inside ema() it would be half undone; leave it"
            )
        averages = [average for _, average in self._options["ema_buffers"]]
        saved = state_dict.get("ema_buffers", averages) if averages else []
        if [tensor.shape for tensor in saved] != [tensor.shape for tensor in averages]:
            raise ValueError(
                f"{type(self).__name__}: the checkpoint averages {len(saved)} buffers, this optimizer {len(averages)}, "
                "or their shapes differ; pass the ema_buffers that it was saved with"
            )
        before = self._engine, self.state, self.param_groups
        bases, schedule = list(self._bases), self._options["schedule"]
        position, updates = self.position, self._engine.updates

        # torch would cast every average to its parameter's dtype. This hook, the last, keeps the state from it.
        def take_state(_: torch.optim.Optimizer, checkpoint: dict[str, Any]) -> dict[str, Any]:
            places = [place for group in checkpoint["param_groups"] for place in group["params"]]
            params = [param for group in self.param_groups for param in group["params"]]
            param_of = dict(zip(places, params, strict=False))  # torch checks the lengths
            state: dict[Any, Any] = defaultdict(dict)
            for key, value in checkpoint["state"].items():
                state[param_of.get(key, key)] = dict(value) if key in param_of else value
            self._loading = state
            return {**checkpoint, "state": {}}

        hook = self.register_load_state_dict_pre_hook(take_state)
        try:
            self._settle_schedules(state_dict.get("schedules"))
            super().load_state_dict(cast(dict[str, Any], state_dict))
            self._keep_lr_tensors(before[2])
            if self.position == updates:  # as Accelerate's prepare() loads what it has just saved
                self._retime(position)
            self._agree()
        except BaseException:
            self._engine, self.state, self.param_groups = before
            self._bases[:], self._options["schedule"] = bases, schedule
            raise
        finally:
            hook.remove()
            self._loading = None
        for own, average in zip(averages, saved, strict=True):
            own.copy_(average)
        self._engine.average(self._options["ema_buffers"], fresh=saved is averages)

    def _keep_lr_tensors(self, before: list[dict[str, Any]]) -> None:
        """What is capturable is the code's business: put loaded lrs into the tensors that were there."""
        for group, held in zip(self.param_groups, before, strict=True):
            if "capturable" in held:
                group["capturable"] = held["capturable"]
            if isinstance(held["lr"], Tensor) and _core.device_of(held["lr"]) != _ON_CPU:
                held["lr"].fill_(float(group["lr"]))
                group["lr"] = held["lr"]
            elif isinstance(group["lr"], Tensor) and not isinstance(held["lr"], Tensor):
                group["lr"] = float(group["lr"])

    # ---- called by the engine

    @staticmethod
    def _room(device: int, size: int, *, numbers: bool = False) -> Tensor:
        """Zeroed memory on a CUDA device, from torch's allocator: bytes, or float64 numbers."""
        return torch.zeros(size, dtype=torch.float64 if numbers else torch.uint8, device=f"cuda:{device}")

    def _join_over_ranks(self, joined: Tensor, spoilt: Any, largest: bool) -> None:
        """Sum, or take the largest of, what all ranks hold in `joined`, on its device: nobody waits.

        `joined` is what NormKind says of this rank's gradients, and whether there are any; `spoilt` a GradScaler's
        found_inf, or None.
        """
        group, _ = self._ranks()
        if spoilt is not None:
            bad = torch.as_tensor(spoilt, device=joined.device) != 0
            joined[:1].masked_fill_(bad, math.inf)
        operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
        joined[:1].nan_to_num_(nan=math.inf, posinf=math.inf)  # a MAX may lose a NaN
        torch.distributed.all_reduce(joined, operation, group)

    @torch.no_grad()
    def _fill_state(self, param: Tensor, loaded: dict[str, Any], own: dict[str, Tensor]) -> None:
        """Copy what state[param] holds into the engine's tensors and put those in its place."""
        values = {}
        for key, tensor in own.items():
            value = loaded.get(key)
            if value is None:
                values[key] = self._start_of(key, param, tensor)
                continue
            value = value if isinstance(value, Tensor) else torch.tensor(float(value))
            if type(value) is Tensor and value.numel() and not value.untyped_storage().data_ptr():
                raise ValueError(  # reading it would crash torch
                    f"{type(self).__name__}: {self._place(param)}: the memory of state {key!r} was freed; "
                    "assign a tensor, or delete state[param]"
                )
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
            if hasattr(tensor, "device_mesh") and not hasattr(value, "device_mesh"):
                from torch.distributed.tensor import distribute_tensor

                sharded = cast(Any, tensor)
                value = distribute_tensor(value.to(tensor.device), sharded.device_mesh, sharded.placements)
            values[key] = value
        for key, tensor in own.items():
            tensor.copy_(values[key])
        loaded.update(own)

    def _start_of(self, key: str, param: Tensor, zeros: Tensor) -> Tensor:
        """What a state starts from where a checkpoint lacks it."""
        if key in ("ema", "master_param"):
            return param
        # amsgrad or momentum switched on later are a fresh start; torch's SGD counts no steps.
        if key in ("max_exp_avg_sq", "momentum_buffer") or (key == "step" and self._rule != "adam"):
            return zeros
        raise ValueError(f"{type(self).__name__}: {self._place(param)}: its state has no {key!r}")

    @staticmethod
    def _as_shard(param: Any, local: Tensor) -> Tensor:
        """The engine's tensor as a DTensor like `param`."""
        from torch.distributed.tensor import DTensor

        return DTensor.from_local(
            local, param.device_mesh, param.placements, run_check=False, shape=param.shape, stride=param.stride()
        )

    def _share_of(self, param: Any) -> float:
        """What each rank counts of a parameter's gradient in a sum over ranks: the whole where it holds a shard."""
        if not hasattr(param, "device_mesh"):
            return 1 / self._ranks()[1]
        copies = 1
        for placement, size in zip(param.placements, param.device_mesh.shape, strict=True):
            copies *= size if placement.is_replicate() else 1
        return 1 / copies

    def _ranks(self) -> tuple[Any, int]:
        """The process group that all sharded parameters live on, and its size."""
        groups = self.__dict__["param_groups"]  # not asking the device
        meshes = {p.device_mesh for group in groups for p in group["params"] if hasattr(p, "device_mesh")}
        if len(meshes) != 1:
            raise ValueError(
                f"{type(self).__name__}: the parameters lie on {len(meshes)} device meshes, over which no norm can be "
                "taken together; use one mesh, or pass grad_norm= to step()"
            )
        mesh = meshes.pop()
        group = mesh.get_group() if mesh.ndim == 1 else torch.distributed.group.WORLD
        size = torch.distributed.get_world_size(group)
        if size != mesh.size():
            raise ValueError(
                f"{type(self).__name__}: the device mesh has {mesh.size()} of {size} ranks; pass grad_norm= to step()"
            )
        return group, size

    def _over_ranks(self, value: float, made: bool, largest: bool) -> tuple[float, bool]:
        """The sum, or the largest, of the values that all ranks pass, and whether any passes True."""
        group, _ = self._ranks()
        # gloo's MAX loses a NaN
        everywhere = torch.tensor([value if math.isfinite(value) else math.inf, made], dtype=torch.float64)
        operation = torch.distributed.ReduceOp.MAX if largest else torch.distributed.ReduceOp.SUM
        torch.distributed.all_reduce(everywhere, operation, group)
        total, ranks = everywhere.tolist()
        return total, ranks > 0

    def _refuse(self, param: Tensor, grad: Tensor | None) -> None:
        """Raise the error that says why a step cannot use this parameter or gradient."""
        name = type(self).__name__
        if hasattr(grad, "device_mesh") and getattr(param, "device_mesh", None) != cast(Any, grad).device_mesh:
            raise ValueError(
                f"{name}: {self._place(param)}: gradient lies on the device mesh {cast(Any, grad).device_mesh}, the "
                f"parameter on {getattr(param, 'device_mesh', 'none')}; make both DTensors of one mesh"
            )
        if grad is not None and grad.layout is not torch.strided:
            raise RuntimeError(
                f"{name} does not support sparse gradients ({self._place(param)}); "
                "use torch.optim.SparseAdam, or embeddings with sparse=False"
            )
        for what, tensor in (("", param), ("gradient: ", grad)):
            reason = _unusable(tensor) if tensor is not None else ""
            if reason and not (tensor is grad and ("overlap" in reason or "view" in reason)):
                raise ValueError(f"{name}: {self._place(param)}: {what}{reason}")
        if grad is not None and _core.device_of(grad) != _core.device_of(param):
            raise ValueError(
                f"{name}: {self._place(param)}: gradient lies on {grad.device}, the parameter on {param.device}; "
                "set p.grad to None after moving the parameter"
            )
        if grad is not None and grad.shape != param.shape:
            raise ValueError(
                f"{name}: {self._place(param)}: gradient has shape {tuple(grad.shape)}, the parameter "
                f"{tuple(param.shape)}; set p.grad to None after replacing p.data"
            )
        if grad is not None and grad.is_complex() != param.is_complex():
            raise ValueError(
                f"{name}: {self._place(param)}: gradient is {grad.dtype}, the parameter {param.dtype}; "
                "set p.grad to None after replacing p.data"
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

    def _place(self, param: Tensor) -> str:
        """Where a parameter stands, for messages."""
        for number, group in enumerate(self.param_groups):
            for at, other in enumerate(group["params"]):
                if other is param:
                    names = group.get("param_names")
                    label = f" ({names[at]})" if names else f" ({group['name']})" if "name" in group else ""
                    return f"group {number}, parameter {at}{label}"
        return "a parameter"

    # ---- in the backward pass

    def _step_in_backward(self, param: Tensor, index: int) -> None:
        """Update one parameter and free its gradient; the end of the backward pass ends the update."""
        updated = self._engine.step_one(self, param, index)
        param.grad = None
        task = torch._C._current_graph_task_id()
        if updated and task != self._task:
            self._task = task
            torch.autograd.Variable._execution_engine.queue_callback(lambda: self._engine.finish(self))


class AdamW(_Fused, torch.optim.AdamW):
    r"""AdamW: Adam with decoupled weight decay, all groups in one native call.

    With g the gradient and t the number of updates including this one::

        m = m + (1 - beta1) * (g - m)
        v = v + (1 - beta2) * (g*g - v)
        p = p - lr * (weight_decay * p + m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps))

    Source: Loshchilov & Hutter, Decoupled Weight Decay Regularization, 2019 (arXiv 1711.05101); the formula is that
    of torch.optim.AdamW. Parameters are floating or complex tensors of any shape and strides; float32 and smaller are
    computed in float32. In CPU memory as many threads run as torch uses, and the result is the same to the bit whatever
    their number. On a CUDA device the step is a few launches on torch's current stream, which nobody waits for, and
    which a CUDA graph may capture after a first step; the kernels are compiled at first use.

    Args:
        params: tensors, named tensors, or groups, as for torch.optim.AdamW. A group's `lr`, `weight_decay` and each of
            its `betas` may be a Schedule.
        lr: the base learning rate, a number, a 1-element tensor or a Schedule.
        betas: decay of the two averages, each in [0, 1), or a Schedule.
        eps: added to the denominator, >= 0.
        weight_decay: times lr, >= 0, or a Schedule.
        amsgrad: divide by the largest second moment so far (Reddi et al. 2018).
        maximize: ascend.
        foreach: without effect here, kept for torch's signature; so is `fused`.
        capturable: keep each group's lr in a tensor beside its parameters, which must lie on a CUDA device: a step in a
            CUDA graph reads it at every replay, and leaves there what the next update will use. Steps can be captured
            without it too; then `group["lr"]` is a number that is brought up to date when it is read.
        differentiable: must be False.
        fused: see foreach.
        **options: schedule, clipping, averages of the weights and more, see `fastsched.optim.Options`.

    Raises:
        ValueError: a hyperparameter or an option is out of range, or a parameter cannot be updated.
        TypeError: one is of a wrong type.

    Example:
        >>> import torch, fastsched as fs
        >>> model = torch.nn.Linear(4, 2)
        >>> opt = fs.optim.AdamW(model.parameters(), lr=0.5, schedule=fs.Linear(1.0, 0.0, steps=2))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.step()
        >>> opt.lrs, opt.position
        ([0.25], 1)

    """

    _rule = "adam"
    _hypers = ("lr", "weight_decay", "beta1", "beta2")

    @_spelled_out
    def __init__(
        self,
        params: Iterable[Any],
        lr: Hyperparameter = 1e-3,
        betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Hyperparameter = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        _unserved("AdamW", differentiable=differentiable)
        numbers = self._before_torch(options, {"eps": eps}, lr=lr, betas=betas, weight_decay=weight_decay)
        # fused=True would tell GradScaler that step() unscales gradients.
        torch.optim.AdamW.__init__(
            self,
            params,
            eps=eps,
            amsgrad=amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            fused=None,
            **numbers,
        )
        self._after_torch()


class Adam(_Fused, torch.optim.Adam):
    r"""Adam, all groups in one native call.

    With g the gradient and t the number of updates including this one::

        g = g + weight_decay * p
        m = m + (1 - beta1) * (g - m)
        v = v + (1 - beta2) * (g*g - v)
        p = p - lr * m / (1 - beta1**t) / (sqrt(v / (1 - beta2**t)) + eps)

    Source: Kingma & Ba, Adam: A Method for Stochastic Optimization, 2015 (arXiv 1412.6980); the formula is that of
    torch.optim.Adam.

    Args:
        params: see AdamW.
        lr: see AdamW.
        betas: see AdamW.
        eps: see AdamW.
        weight_decay: joins the gradient, >= 0, or a Schedule.
        amsgrad: see AdamW.
        foreach: see AdamW.
        maximize: see AdamW.
        capturable: see AdamW.
        differentiable: see AdamW.
        fused: see AdamW.
        decoupled_weight_decay: decay as AdamW does.
        **options: see `fastsched.optim.Options`.

    Raises:
        ValueError, TypeError: as AdamW.

    Example:
        >>> import torch, fastsched as fs
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> opt = fs.optim.Adam([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> opt.step()
        >>> weight.tolist()
        [0.5, 0.5]

    """

    _rule = "adam"
    _hypers = ("lr", "weight_decay", "beta1", "beta2")

    @_spelled_out
    def __init__(
        self,
        params: Iterable[Any],
        lr: Hyperparameter = 1e-3,
        betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: Hyperparameter = 0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        **options: Unpack[Options],
    ) -> None:
        _unserved("Adam", differentiable=differentiable)
        numbers = self._before_torch(options, {"eps": eps}, lr=lr, betas=betas, weight_decay=weight_decay)
        torch.optim.Adam.__init__(
            self,
            params,
            eps=eps,
            amsgrad=amsgrad,
            foreach=foreach,
            maximize=maximize,
            capturable=capturable,
            fused=None,
            decoupled_weight_decay=decoupled_weight_decay,
            **numbers,
        )
        self._after_torch()


class SGD(_Fused, torch.optim.SGD):
    r"""Stochastic gradient descent with momentum, all groups in one native call.

    With g the gradient::

        g = g + weight_decay * p
        b = momentum * b + (1 - dampening) * g     (b = g at the first update)
        p = p - lr * b                             (nesterov: p - lr * (g + momentum * b))

    Source: Sutskever et al., On the importance of initialization and momentum in deep learning, 2013, in the form of
    torch.optim.SGD. `state[p]` has a `step` beside torch's `momentum_buffer`, from which the position is recovered.

    Args:
        params: see AdamW; a group's `momentum` may be a Schedule too.
        lr: see AdamW.
        momentum: >= 0, or a Schedule; 0 for none.
        dampening: of the gradient in the momentum.
        weight_decay: joins the gradient, >= 0, or a Schedule.
        nesterov: Nesterov's momentum.
        maximize: see AdamW.
        foreach: see AdamW.
        differentiable: see AdamW.
        fused: see AdamW.
        **options: see `fastsched.optim.Options`.

    Raises:
        ValueError, TypeError: as AdamW.

    Example:
        >>> import torch, fastsched as fs
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> one_cycle = fs.OneCycle(steps=100)
        >>> opt = fs.optim.SGD([weight], lr=0.5, momentum=one_cycle.momentum(0.85, 0.95), schedule=one_cycle)
        >>> opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"]
        (0.02, 0.95)

    """

    _rule = "sgd"
    _hypers = ("lr", "weight_decay", "momentum")

    @_spelled_out
    def __init__(
        self,
        params: Iterable[Any],
        lr: Hyperparameter = 1e-3,
        momentum: Hyperparameter = 0,
        dampening: float = 0,
        weight_decay: Hyperparameter = 0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        _unserved("SGD", differentiable=differentiable)
        numbers = self._before_torch(
            options, {"dampening": dampening}, lr=lr, momentum=momentum, weight_decay=weight_decay
        )
        torch.optim.SGD.__init__(
            self,
            params,
            dampening=dampening,
            nesterov=nesterov,
            maximize=maximize,
            foreach=foreach,
            fused=None,
            **numbers,
        )
        self._after_torch()


class Lion(_Fused):
    r"""Lion: the sign of an average as the update, all groups in one native call.

    With g the gradient::

        c = m + (1 - beta1) * (g - m)
        p = p - lr * (sign(c) + weight_decay * p)
        m = m + (1 - beta2) * (g - m)

    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023 (arXiv 2302.06675).

    Args:
        params: see AdamW.
        lr: see AdamW; a third to a tenth of AdamW's serves.
        betas: decay of the update's average and of the kept one, each in [0, 1), or a Schedule.
        weight_decay: times lr, >= 0, or a Schedule.
        maximize: see AdamW.
        foreach: see AdamW.
        differentiable: see AdamW.
        fused: see AdamW.
        **options: see `fastsched.optim.Options`.

    Raises:
        ValueError, TypeError: as AdamW.

    Example:
        >>> import torch, fastsched as fs
        >>> weight = torch.nn.Parameter(torch.ones(2))
        >>> opt = fs.optim.Lion([weight], lr=0.5)
        >>> weight.sum().backward()
        >>> opt.step()
        >>> weight.tolist()
        [0.5, 0.5]

    """

    _rule = "lion"
    _hypers = ("lr", "weight_decay", "beta1", "beta2")

    @_spelled_out
    def __init__(
        self,
        params: Iterable[Any],
        lr: Hyperparameter = 1e-4,
        betas: tuple[Hyperparameter, Hyperparameter] = (0.9, 0.99),
        weight_decay: Hyperparameter = 0.0,
        *,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        **options: Unpack[Options],
    ) -> None:
        _unserved("Lion", differentiable=differentiable)
        numbers = self._before_torch(options, {}, lr=lr, betas=betas, weight_decay=weight_decay)
        # torch's Adam has these rules and their messages.
        torch.optim.Adam([torch.zeros(0)], **numbers)
        numbers["betas"] = tuple(map(float, numbers["betas"]))
        defaults = {**numbers, "maximize": maximize, "foreach": foreach, "differentiable": False, "fused": None}
        torch.optim.Optimizer.__init__(self, params, defaults)
        self._after_torch()


def in_backward(
    model: torch.nn.Module,
    optimizer: type[_Fused] = AdamW,
    *,
    params: Iterable[Any] | None = None,
    **kwargs: Any,
) -> Any:
    """Make an optimizer that updates each parameter within `backward()`, as soon as its gradient is complete.

    The gradient is freed at once, so that only one is in memory at a time. There is no `step()` to call (one finds no
    gradients and does nothing). The end of each backward pass ends an update: one backward per update, no accumulation
    over several; checkpointing must be the non-reentrant one.

    Args:
        model: whose parameters are updated.
        optimizer: a class of this module.
        params: parameter groups; None takes `model.parameters()`.
        **kwargs: for the optimizer.

    Returns:
        The optimizer. Its hooks live as long as the parameters.

    Raises:
        ValueError: an option needs all gradients at once.
        TypeError: `optimizer` is no class of this module.

    Source: the tutorial "How to save memory by fusing the optimizer step into the backward pass" of PyTorch.

    Example:
        >>> import torch, fastsched as fs
        >>> model = torch.nn.Linear(4, 2)
        >>> opt = fs.optim.in_backward(model, lr=0.1, schedule=fs.Linear(1.0, 0.0, steps=10))
        >>> model(torch.ones(1, 4)).sum().backward()
        >>> opt.position, model.weight.grad
        (1, None)

    """
    if not (isinstance(optimizer, type) and issubclass(optimizer, _Fused)):
        raise TypeError(
            f"in_backward: optimizer must be a class of fastsched.optim, got {shown(optimizer)}; for example AdamW"
        )
    for name, reason in (
        ("max_grad_norm", "the norm of all gradients is known only when the last of them is, and the first is gone"),
        ("amp", "whether a gradient is infinite is known only when others have been applied"),
        ("ema_buffers", "buffers have no gradient that would tell when"),
        ("zero_grads", "gradients are freed anyway"),
    ):
        if kwargs.get(name):
            raise ValueError(f"in_backward: {name} cannot be served: {reason}; leave it out, or call step() instead")
    result = optimizer(model.parameters() if params is None else params, **kwargs)
    everything = [param for group in result.param_groups for param in group["params"]]
    for index, param in enumerate(everything):
        if param.requires_grad:
            param.register_post_accumulate_grad_hook(partial(_update_in_backward, result, index))
    return result


def _update_in_backward(optimizer: _Fused, index: int, param: Tensor) -> None:
    optimizer._step_in_backward(param, index)


def _unserved(name: str, **flags: bool) -> None:
    for flag, value in flags.items():
        if value:
            raise ValueError(f"{name}: {flag} must be False, got {value}; use torch.optim.{name} where you need it")


def _parts(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A hyperparameter by itself; the two betas apart."""
    if name == "betas" and isinstance(value, (tuple, list)) and len(value) == 2:
        yield from zip(("beta1", "beta2"), value, strict=True)
    else:
        yield name, value


def _first(value: Any) -> Any:
    """A hyperparameter as torch may check it: a schedule's first value in the schedule's place."""
    if isinstance(value, Schedule):
        return value(0)
    if isinstance(value, tuple) and any(isinstance(part, Schedule) for part in value):
        return tuple(float(_first(part)) for part in value)  # torch wants both of one type
    return value


def _unusable(tensor: Tensor) -> str:
    """Why the fused step cannot use a tensor; empty where it can."""
    reason = _core.unreadable(tensor)
    tensor = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
    if not reason:
        twisted = tensor.is_neg() or tensor.is_conj()
        return "must not be a negated or conjugated view; call resolve_neg().resolve_conj()" if twisted else ""
    if tensor.layout is not torch.strided:
        return f"must be dense, got layout {tensor.layout}"
    if tensor.dtype not in _DTYPES:
        return f"must be float32, float64, bfloat16, float16 or complex, got {tensor.dtype}; convert it first"
    if tensor.device.type not in ("cpu", "cuda"):
        return f"must be in CPU memory or on a CUDA device, got device {tensor.device}"
    return reason
