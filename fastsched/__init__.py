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
    from fastsched import compat, explore, optim, recipes, spec
    from fastsched._compare import compare
    from fastsched._fit import fit
    from fastsched._plot import plot
    from fastsched.finder import find_lr
    from fastsched.groups import layerwise
    from fastsched.lint import convergence_bound
    from fastsched.units import Units, batch_scaled_lr

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
    "Units",
    "WarmupStableDecay",
    "backend",
    "batch_scaled_lr",
    "compare",
    "compat",
    "compile",
    "convergence_bound",
    "explore",
    "find_lr",
    "fit",
    "from_json",
    "layerwise",
    "lr_scheduler",
    "lr_table",
    "optim",
    "plot",
    "recipes",
    "spec",
    "tabulate",
    "use_backend",
]

# What needs torch, or is seldom needed, is imported when asked for: module, and the name in it (None for the module).
_LAZY = {
    "Units": ("fastsched.units", "Units"),
    "batch_scaled_lr": ("fastsched.units", "batch_scaled_lr"),
    "optim": ("fastsched.optim", None),
    "lr_scheduler": ("fastsched.lr_scheduler", None),
    "compat": ("fastsched.compat", None),
    "compare": ("fastsched._compare", "compare"),
    "compile": ("fastsched._compile", "compile"),
    "convergence_bound": ("fastsched.lint", "convergence_bound"),
    "explore": ("fastsched.explore", None),
    "find_lr": ("fastsched.finder", "find_lr"),
    "fit": ("fastsched._fit", "fit"),
    "layerwise": ("fastsched.groups", "layerwise"),
    "plot": ("fastsched._plot", "plot"),
    "recipes": ("fastsched.recipes", None),
    "spec": ("fastsched.spec", None),
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
