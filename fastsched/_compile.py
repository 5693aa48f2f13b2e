"""`fastsched.compile`: a running torch optimizer, and its scheduler, become their compiled twins."""

from __future__ import annotations

import weakref
from functools import update_wrapper
from typing import Any, NoReturn, Unpack, cast

import torch
from torch.optim import Optimizer
from torch.optim import lr_scheduler as torchs

from fastsched import lr_scheduler, optim
from fastsched._check import shown

_TWINS: dict[type[Optimizer], type[optim._Fused]] = {
    torch.optim.AdamW: optim.AdamW,
    torch.optim.Adam: optim.Adam,
    torch.optim.SGD: optim.SGD,
}


def compile(  # the name that PyTorch's users look for
    optimizer: Optimizer, scheduler: torchs.LRScheduler | None = None, **options: Unpack[optim.Options]
) -> tuple[Any, Any]:
    """Take over a running pair of torch optimizer and scheduler; the training loop stays as it is.

    The twin optimizer has the same parameters, groups, hyperparameters and hooks, and shares the tensors of the state.
    The twin scheduler stands where the old one stood, and goes on with the same values: those of
    torch.optim.lr_scheduler step natively, others by their own code. Stepping one of the old pair afterwards raises.

    Args:
        optimizer: a torch.optim.AdamW, Adam or SGD.
        scheduler: any torch scheduler on it, composed ones too, or what steps like one (transformers' GreedyLR); or
            None.
        **options: for the twin, such as max_grad_norm; see `fastsched.optim.Options`.

    Returns:
        The optimizer and the scheduler (None where none was given) to go on with.

    Raises:
        TypeError: the optimizer has no twin, or the scheduler is none.
        ValueError: an option of the optimizer or a parameter cannot be taken over; the message names it. Nothing was
            changed.

    Example:
        >>> import torch, fastsched as fs
        >>> weight = torch.nn.Parameter(torch.ones(1))
        >>> opt = torch.optim.SGD([weight], lr=0.5)
        >>> scheduler = torch.optim.lr_scheduler.StepLR(opt, step_size=1, gamma=0.5)
        >>> opt, scheduler = fs.compile(opt, scheduler)
        >>> weight.sum().backward()
        >>> opt.step()
        >>> scheduler.step()
        >>> weight.item(), scheduler.get_last_lr()
        (0.5, [0.25])

    """
    twin_class = _TWINS.get(type(optimizer))
    if twin_class is None:
        wrapped = hasattr(optimizer, "optimizer") or isinstance(optimizer, tuple(_TWINS))
        advice = (
            "compile it before a framework wraps it" if wrapped else "fastsched.lr_scheduler.ScheduleLR drives others"
        )
        raise TypeError(
            f"compile: optimizer must be a torch.optim.AdamW, Adam or SGD, got {shown(optimizer)}; {advice}"
        )
    if scheduler is not None and not (hasattr(scheduler, "optimizer") and callable(getattr(scheduler, "step", None))):
        raise TypeError(
            f"compile: scheduler must be a torch LRScheduler or None, got {shown(scheduler)}; wrap it in one"
        )
    _refuse_foreign(scheduler, optimizer)
    for index, group in enumerate(optimizer.param_groups):
        if group.get("differentiable"):
            raise ValueError(f"compile: group {index} has differentiable=True, which has no twin; make it False")
    twin = _twin_of(optimizer, twin_class, options)
    twin_scheduler = None if scheduler is None else lr_scheduler._native_twin(scheduler, twin)
    if twin_scheduler is not None:
        twin._opt_called = getattr(optimizer, "_opt_called", False)  # type: ignore[attr-defined]
        twin.step = _Tracked(twin, twin_scheduler)  # type: ignore[method-assign]
    _retire(optimizer)
    if scheduler is not None:
        _retire(scheduler)
    return twin, twin_scheduler


def _twin_of(optimizer: Optimizer, twin_class: type[optim._Fused], options: optim.Options) -> optim._Fused:
    defaults = {
        key: value
        for key, value in optimizer.defaults.items()
        if key not in ("differentiable", "foreach", "fused") and (key, twin_class) != _IMPLIED
    }
    twin = cast(Any, twin_class)([dict(group) for group in optimizer.param_groups], **defaults, **options)
    for hooks in ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"):
        getattr(twin, hooks).update(getattr(optimizer, hooks))
    twin.state = optimizer.state  # one dict for both: whoever still holds the old optimizer sees what the twin does
    twin._adopt_state()
    return cast(optim._Fused, twin)


# AdamW's own, no argument of it.
_IMPLIED = ("decoupled_weight_decay", optim.AdamW)


def _refuse_foreign(scheduler: Any, optimizer: Optimizer) -> None:
    """Raise where a scheduler, or a part of a composed one, drives another optimizer."""
    if scheduler is None:
        return
    if getattr(scheduler, "optimizer", None) is not optimizer:
        raise ValueError(f"compile: the {type(scheduler).__name__} drives another optimizer; pass that one's")
    for part in getattr(scheduler, "_schedulers", ()):
        _refuse_foreign(part, optimizer)


class _Tracked:
    """What stands in the place of `step` on a twin, so that a torch scheduler sees that it was stepped first.

    A single scheduler asks once, at its first step; then this takes itself away.
    """

    def __init__(self, twin: Optimizer, scheduler: Any) -> None:
        self.method, self.twin, self.scheduler = type(twin).step, weakref.ref(twin), scheduler
        update_wrapper(self, self.method)
        self._wrapped_by_lr_sched = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        twin = cast(Any, self.twin())
        twin._opt_called = True
        # Not where somebody has wrapped it, or keeps it and calls it again.
        if getattr(self.scheduler, "_step_count", 1) > 1 and vars(twin).get("step") is self:
            del twin.step
        return self.method(twin, *args, **kwargs)


class _Retired:
    """What stands in the place of `step` on one of an old pair."""

    _wrapped_by_lr_sched = True  # torch's schedulers ask

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any, **__: Any) -> NoReturn:
        raise RuntimeError(
            f"{self.name}: step: fastsched.compile has taken it over; step what fastsched.compile returned"
        )


def _retire(old: Any) -> None:
    old.step = _Retired(type(old).__name__)
