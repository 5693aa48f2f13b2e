"""The Numba backend: the functions of ``curves.py``, compiled. Importing this imports Numba."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
import types
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numba
import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from fastsched import curves
from fastsched._check import LARGEST_STEP
from fastsched._program import FIELDS

if TYPE_CHECKING:
    from fastsched._program import Code

Array = np.ndarray[Any, Any]

WORTH_A_THREAD = 1 << 16  # elements


DOUBLE, INTEGER = numba.types.float64, numba.types.int64


@intrinsic
def _fused(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """The machine's fused multiply-add, or libm's where it has none."""
    return DOUBLE(DOUBLE, DOUBLE, DOUBLE), lambda context, builder, signature, values: builder.fma(*values)


@intrinsic
def _bits_of(typing: Any, a: Any) -> Any:
    """A double's bits."""
    return INTEGER(DOUBLE), lambda context, builder, signature, values: builder.bitcast(values[0], ir.IntType(64))


@intrinsic
def _from_bits(typing: Any, a: Any) -> Any:
    """The double that has them."""
    return DOUBLE(INTEGER), lambda context, builder, signature, values: builder.bitcast(values[0], ir.DoubleType())


# mypy takes what `intrinsic` makes for the function above, with its first argument.
fused: Any = _fused
bits_of: Any = _bits_of
from_bits: Any = _from_bits


def power_of_two(whole: float) -> Any:
    """The exponent written into the bits: adding the magic number leaves the integer in the lowest ones."""
    return from_bits((bits_of(whole + curves.INTEGER_MAGIC) + 1023) << 52)


def nearest_exponent(x: float) -> Any:
    """The exponent read from the bits, moved so that it changes at ``sqrt(1/2)``; then made a number by the bits."""
    exponent = (bits_of(x) + (0x3FF0000000000000 - 0x3FE6A09E667F3BCD)) >> 52
    return from_bits(exponent | 0x4330000000000000) - (curves.TWO_52 + 1023.0)


def _compiled(function: Any, cache: bool, inline: bool) -> Any:
    """The compiled function; not cached where no directory can be written, which Numba takes for an error."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "forceinline": inline}
    try:
        return numba.njit(cache=cache, **options)(function)
    except RuntimeError:
        return numba.njit(**options)(function)


def _compiled_curves() -> Any:
    """A second copy of the module, each of its functions replaced by its compiled self.

    The functions find one another as globals of that copy, so Numba sees compiled callees. The machine code
    is cached on disk beside ``curves.py``, or in Numba's own cache directory where that is not writable.
    """
    spec = importlib.util.spec_from_file_location("fastsched._compiled_curves", curves.__file__)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where the cache on disk looks for the callees of what it holds
    spec.loader.exec_module(module)
    replaced: dict[str, Any] = {"fused": fused}
    for name, function in {**vars(module), "power_of_two": power_of_two, "nearest_exponent": nearest_exponent}.items():
        if isinstance(function, types.FunctionType) and name not in replaced:
            replaced[name] = _compiled(function, name in module.ENTRIES, name not in module.ENTRIES + module.CALLED)
    vars(module).update(replaced)
    return module


class _Scratch(threading.local):
    """What a thread needs to evaluate programs."""

    def __init__(self) -> None:
        self.array = np.zeros(curves.SCRATCH_SIZE)
        self.array[curves.RAMP : curves.LIST] = np.arange(curves.LONGEST_LIST)


_scratch = _Scratch()
NO_STEPS = np.empty(0)


class _Threads:
    """A few threads that share the steps of long tables; a forked child has none of them and works alone."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.count = min(int(vars(numba.config)["NUMBA_NUM_THREADS"]), 8)
        self.pool: ThreadPoolExecutor | None = None

    def share(self, work: Callable[[int, int], None], steps: int, elements: int) -> None:
        """``work(begin, end)`` for all steps."""
        shares = min(elements // WORTH_A_THREAD, self.count, steps)
        if shares < 2 or os.getpid() != self.process:
            work(0, steps)
            return
        if self.pool is None:
            self.pool = ThreadPoolExecutor(self.count - 1, "fastsched")
        edges = [steps * i // shares for i in range(shares + 1)]
        others = [self.pool.submit(work, begin, end) for begin, end in pairwise(edges[1:])]
        work(0, edges[1])
        for other in others:
            other.result()


class Programs:
    """Programs in one array, run by the compiled interpreter."""

    def __init__(self, module: Any, programs: Sequence[tuple[Array, Array]]) -> None:
        """``programs``: rows of code, next, offset and a curve's numbers; and the samples."""
        self.module = module
        self.begins = np.cumsum([0, *(len(code) for code, _ in programs)])
        every = [samples for _, samples in programs if len(samples)]
        self.samples = every[0] if len(every) == 1 else np.concatenate([NO_STEPS, *every])  # copied only if needed
        self.code = np.concatenate([np.zeros((0, 2 + len(FIELDS))), *(code for code, _ in programs)])
        place = 0
        for begin, (code, samples) in zip(self.begins.tolist(), programs, strict=False):
            rows = self.code[begin : begin + len(code)]
            rows[:, 1] += begin
            rows[rows[:, 0] == curves.SAMPLE, 2 + FIELDS.index("p")] += place
            place += len(samples)

    def fill(self, first: float, steps: Array, out: Array) -> None:
        """``out[i, k]``: the ``i``-th program at ``steps[k]``, or, without steps, at ``first + k``."""
        self.module.fill(self.code, self.begins, self.samples, first, steps, _scratch.array, out)


class CompiledProgram(Programs):
    """One program."""

    def __init__(self, module: Any, code: Code) -> None:
        instructions = code.instructions
        columns = [instructions["code"], instructions["next"], *(instructions[name] for name in FIELDS)]
        self.source = np.column_stack(columns).astype(np.float64), code.samples
        super().__init__(module, [self.source])

    def __len__(self) -> int:
        return len(self.code)

    def value(self, step: float) -> float:
        """The value at a step."""
        out = np.empty((1, 1))
        self.fill(step, NO_STEPS, out)
        return float(out[0, 0])

    def values(self, steps: Array, out: Array) -> None:
        """The values at an array of steps."""
        if len(steps):
            self.fill(0.0, steps, out.reshape(1, -1))


class CompiledRow(Programs):
    """One hyperparameter of all groups."""

    def __init__(self, module: Any, programs: list[CompiledProgram], column: Array, scale: Array) -> None:
        super().__init__(module, [program.source for program in programs])
        self.column, self.scale = column + 1, scale  # the column before the first one is 1.0
        self.count = len(programs)

    def __len__(self) -> int:
        return len(self.scale)

    def at(self, step: float, out: Array) -> None:
        """The value of every group at a step."""
        if not self.count:
            out[:] = self.scale
            return
        columns = np.ones((1 + self.count, 1))
        self.fill(step, NO_STEPS, columns[1:])
        self.module.spread_columns(columns, self.column, self.scale, 0, 1, out.reshape(-1, 1))

    def table(self, start: int, out: Array) -> None:
        """The values of every group from a step on."""
        plain = len(self) == self.count == 1 and self.scale[0] == 1.0 and self.column[0] == 1
        in_place = plain and out.dtype == np.float64 and out.flags.c_contiguous

        def share(begin: int, end: int) -> None:
            _scratch.array[curves.ROOM] = float(end - begin >= 4096)  # what makes a list of exponentials worth while
            if in_place:
                self.fill(float(start + begin), NO_STEPS, out[begin:end].reshape(1, -1))
            else:
                self._blocks(start, begin, end, out)

        _threads.share(share, len(out), out.size)

    def _blocks(self, start: int, begin: int, end: int, out: Array) -> None:
        """As many steps at a time as keep all columns of a block in the second-level cache."""
        height = min(1 << 14, max(64, (1 << 16) // max(1, self.count)))
        columns = np.ones((1 + self.count, height))
        for first in range(begin, end, height):
            size = min(height, end - first)
            if size < height:
                columns = np.ones((1 + self.count, size))
            self.fill(float(start + first), NO_STEPS, columns[1:])
            if out.T.flags.c_contiguous:
                self.module.spread_columns(columns, self.column, self.scale, first, size, out.T)
                continue
            rows = out[first : first + size]
            values = rows if rows.flags.c_contiguous else np.empty(rows.shape, rows.dtype)
            self.module.spread_rows(columns, self.column, self.scale, values)
            if values is not rows:
                rows[...] = values


class CompiledGrid:
    """All hyperparameters of a plan."""

    def __init__(self, rows: dict[str, CompiledRow]) -> None:
        self.rows = rows

    def at(self, step: Any, out: Any) -> bool:
        """Fills a dict of arrays with the values at one step; false, and nothing changed, if it cannot."""
        if type(step) not in (int, float) or not 0 <= step <= LARGEST_STEP:
            return False
        if type(out) is not dict or len(out) != len(self.rows):
            return False
        for name, row in self.rows.items():
            array = out.get(name)
            if not (isinstance(array, np.ndarray) and array.shape == (len(row),) and array.dtype == np.float64):
                return False
            if not (array.flags.carray):
                return False
        for name, row in self.rows.items():
            row.at(float(step), out[name])
        return True


class Compiled:
    """Makes programs, rows and grids for the compiled interpreter."""

    name = "numba"

    def __init__(self) -> None:
        self.module = _compiled_curves()

    def program(self, code: Code) -> CompiledProgram:
        """A program from its instructions."""
        return CompiledProgram(self.module, code)

    def row(self, programs: list[Any], column: Array, scale: Array) -> CompiledRow:
        """A row from programs, and a column and a scale per group."""
        return CompiledRow(self.module, programs, column, scale)

    def grid(self, rows: dict[str, Any]) -> CompiledGrid:
        """A grid from rows by name."""
        return CompiledGrid(rows)


_threads = _Threads()
