"""Other frameworks' schedules by their own names and arguments, as schedules of ours.

``fs.compat.<framework>.<name>(base_lr, ...)`` takes what the framework's class or function takes, with the group's
base lr where the optimizer stood (a list of them gives a list), and returns the Schedule whose ``s(t)`` is the value
that the framework uses for update ``t``. None of the frameworks is imported.

>>> from fastsched import compat
>>> s = compat.torch.CosineAnnealingLR(0.1, T_max=100, eta_min=0.001)
>>> s(0), s(50), s(100)
(0.1, 0.0505, 0.001)
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from fastsched._check import shown

SYSTEMS = (
    "composer",
    "deepspeed",
    "fastai",
    "fvcore",
    "keras",
    "megatron",
    "optax",
    "timm",
    "torch",
    "torchtitan",
    "transformers",
)
__all__ = [*SYSTEMS, "build"]


def __getattr__(name: str) -> Any:
    if name not in SYSTEMS:
        raise AttributeError(f"module 'fastsched.compat' has no attribute {name!r}")
    return importlib.import_module(f"fastsched.compat.{name}")


def __dir__() -> list[str]:
    return sorted({*globals(), *SYSTEMS})


def build(
    system: str,
    name: str,
    kwargs: Mapping[str, Any],
    *,
    base_lr: float | Sequence[float] | None = None,
    hyperparameter: str = "lr",
    context: Mapping[str, Any] | None = None,
) -> Any:
    """A framework's schedule from plain data, as a config file has it.

    ``system`` is one of `SYSTEMS`, ``name`` the framework's own, ``kwargs`` its arguments without the optimizer;
    parts of a composition are ``{"name": ..., "kwargs": {...}}``. ``base_lr``: the groups' lr, a number or a list (then
    a list is returned); None where ``kwargs`` hold absolute values. ``hyperparameter``: ``"lr"``, ``"momentum"`` (of
    Adam: beta1) or ``"weight_decay"``. ``context``: conditions that are no arguments, such as ``{"max_iter": 1000}``;
    each peer's docstring names what it needs. Strings are never evaluated: functions come as callables, and those
    without a horizon need ``context={"steps": n}``.

    Errors: ``ValueError`` for a name that the system does not have, ``TypeError`` for arguments that it does not take.

    >>> s = build("torch", "StepLR", {"step_size": 30, "gamma": 0.1}, base_lr=0.5)
    >>> s(29), s(30)
    (0.5, 0.05)
    """
    if system not in SYSTEMS:
        raise ValueError(f"build: system must be a known one, got {shown(system)}; pass " + ", ".join(SYSTEMS))
    module = importlib.import_module(f"fastsched.compat.{system}")
    if not isinstance(name, str) or name not in module.__all__:
        known = ", ".join(module.__all__)
        raise ValueError(f"build: {system} must have the name, got {shown(name)}; pass one of {known}")
    if not isinstance(kwargs, Mapping):
        raise TypeError(f"build: kwargs must be a dict, got {shown(kwargs)}; pass the arguments by name")
    function = getattr(module, name)
    conditions = {"hyperparameter": hyperparameter, "context": context}
    arguments = {key: _parts(system, value, conditions) for key, value in kwargs.items()}
    bases = (base_lr,) if function.takes_base else ()
    return function(*bases, **arguments, **conditions)


def _parts(system: str, value: Any, conditions: Mapping[str, Any]) -> Any:
    """An argument with each part of a composition as the function that makes it of a base lr."""
    if isinstance(value, (list, tuple)):
        return type(value)(_parts(system, item, conditions) for item in value)
    if isinstance(value, Mapping) and "name" in value and set(value) <= {"name", "kwargs"}:
        return functools.partial(_part, system, value["name"], value.get("kwargs", {}), conditions)
    return value


def _part(
    system: str, name: Any, kwargs: Any, conditions: Mapping[str, Any], base_lr: Any = None, **changed: Any
) -> Any:
    """A part of a composition, for one group."""
    return build(system, name, kwargs, base_lr=base_lr, **{**conditions, **changed})
