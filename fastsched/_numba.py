"""The Numba backend: the functions of ``curves.py``, compiled. Importing this imports Numba."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numba
import numpy as np

from fastsched import curves
from fastsched._program import FIELDS

Array = np.ndarray[Any, Any]


def _compiled_curves() -> ModuleType:
    """A second copy of the module, each of its functions replaced by its compiled self.

    The functions find one another as globals of that copy, so Numba sees compiled callees. The machine code
    is cached on disk beside ``curves.py``, or in Numba's own cache directory where that is not writable.
    """
    spec = importlib.util.spec_from_file_location("fastsched._compiled_curves", curves.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the cache on disk looks for the callees of what it holds
    spec.loader.exec_module(module)
    for name in module.COMPILED:
        setattr(module, name, numba.njit(cache=True)(getattr(module, name)))
    return module


class CompiledProgram:
    """A program as plain arrays, run by the compiled interpreter."""

    def __init__(self, module: ModuleType, code: Array) -> None:
        self.module = module
        self.arrays = (
            code["code"].astype(np.int64),
            code["next"].astype(np.int64),
            np.column_stack([code[name] for name in FIELDS]),
        )

    def __len__(self) -> int:
        return len(self.arrays[0])

    def value(self, step: float) -> float:
        """The value at a step."""
        stack = np.empty(curves.STACK_SIZE)
        return float(self.module.value(*self.arrays, stack, step))

    def values(self, steps: Array, out: Array) -> None:
        """The values at an array of steps."""
        self.module.values(*self.arrays, np.empty(curves.STACK_SIZE), steps, out)

    def window(self, start: int, out: Array) -> None:
        """The values from a step on."""
        self.module.window(*self.arrays, np.empty(curves.STACK_SIZE), start, out)


class CompiledRow:
    """One hyperparameter of all groups."""

    def __init__(self, module: ModuleType, programs: list[CompiledProgram], column: Array, scale: Array) -> None:
        self.module, self.programs, self.column, self.scale = module, programs, column, scale

    def __len__(self) -> int:
        return len(self.scale)

    def at(self, step: float, out: Array) -> None:
        """The value of every group at a step."""
        columns = np.array([[program.value(step)] for program in self.programs]).reshape(-1, 1)
        self.module.spread(columns, self.column, self.scale, out.reshape(1, -1))

    def table(self, start: int, out: Array) -> None:
        """The values of every group from a step on, by blocks that bound the memory for many columns."""
        height = max(1, min(len(out), 1 << 20) // max(1, len(self.programs)))
        columns = np.empty((len(self.programs), height))
        for first in range(0, len(out), height):
            rows = out[first : first + height]
            for program, column in zip(self.programs, columns, strict=True):
                program.window(start + first, column[: len(rows)])
            self.module.spread(columns, self.column, self.scale, rows)


class Compiled:
    """Makes programs and rows for the compiled interpreter."""

    name = "numba"

    def __init__(self) -> None:
        self.module = _compiled_curves()

    def program(self, code: Array) -> CompiledProgram:
        """A program from its instructions."""
        return CompiledProgram(self.module, code)

    def row(self, programs: list[Any], column: Array, scale: Array) -> CompiledRow:
        """A row from programs, and a column and a scale per group."""
        return CompiledRow(self.module, programs, column, scale)
