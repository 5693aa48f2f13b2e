"""fastsched: a compiled learning-rate schedule engine. See the README and each name's own docstring."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastsched._backend import backend, choose_at_import, use_backend
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Geometric,
    Infinite,
    InverseSqrt,
    InverseTime,
    Linear,
    Logarithmic,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    OneMinusSqrt,
    Piecewise,
    Polynomial,
    PowerLaw,
    Rex,
    Samples,
    StepDecay,
    Tanh,
    Triangular,
    WarmupStableDecay,
    tabulate,
)
from fastsched.plan import Plan, lr_table
from fastsched.schedule import Schedule, from_json

if TYPE_CHECKING:
    from fastsched import optim
    from fastsched.groups import layerwise

__version__ = "0.1.0"
__all__ = [
    "Constant",
    "Cosine",
    "CosineRestarts",
    "Exponential",
    "Geometric",
    "Infinite",
    "InverseSqrt",
    "InverseTime",
    "Linear",
    "Logarithmic",
    "MultiStep",
    "OneCycle",
    "OneCycleMomentum",
    "OneMinusSqrt",
    "Piecewise",
    "Plan",
    "Polynomial",
    "PowerLaw",
    "Rex",
    "Samples",
    "Schedule",
    "StepDecay",
    "Tanh",
    "Triangular",
    "WarmupStableDecay",
    "backend",
    "compile",
    "from_json",
    "layerwise",
    "lr_scheduler",
    "lr_table",
    "optim",
    "tabulate",
    "use_backend",
]

# What needs torch is imported when it is asked for: module, and the name in it (None for the module itself).
_LAZY = {
    "optim": ("fastsched.optim", None),
    "lr_scheduler": ("fastsched.lr_scheduler", None),
    "compile": ("fastsched._compile", "compile"),
    "layerwise": ("fastsched.groups", "layerwise"),
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'fastsched' has no attribute {name!r}")
    path, member = _LAZY[name]
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise ImportError(
            f"fastsched.{name}: needs torch, which is not installed; pip install 'fastsched[torch]'"
        ) from None
    value = module if member is None else getattr(module, member)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})


choose_at_import()
