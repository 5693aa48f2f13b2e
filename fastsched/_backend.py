"""Which code computes: the native module, or the same formulas compiled by Numba.

Chosen once, switchable at run time.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from fastsched.curves import CODES

if TYPE_CHECKING:
    from fastsched._program import Code

    Array = np.ndarray[Any, Any]

try:
    import fastsched._core as _core  # `from fastsched import _core` would blame a circular import

    IMPORT_ERROR: ImportError | None = None
    if _core.codes != tuple(CODES):
        raise ImportError("fastsched._core was built from other sources than curves.py; reinstall fastsched")
    EvaluatorBase: Any = _core.Evaluator
except ImportError as error:
    IMPORT_ERROR = error

    class _PlainEvaluator:
        """Stands in for the native base class: every call goes to Python."""

        __slots__ = ()

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self._evaluate(*args, **kwargs)  # type: ignore[attr-defined]

    EvaluatorBase = _PlainEvaluator


class Program(Protocol):
    """One compiled schedule."""

    def value(self, step: float) -> float:
        """The value at a step."""

    def values(self, steps: Array, out: Array) -> None:
        """The values at an array of steps."""


class Row(Protocol):
    """One hyperparameter of all groups."""

    def at(self, step: float, out: Array) -> None:
        """The value of every group at a step."""

    def table(self, start: int, out: Array) -> None:
        """The values of every group from a step on."""


class Grid(Protocol):
    """All hyperparameters of a plan."""

    def at(self, step: Any, out: Any) -> bool:
        """Fills a dict of arrays with the values at one step; false, and nothing changed, if it cannot."""


class Backend(Protocol):
    """Makes programs and rows from compiled arrays."""

    name: str

    def program(self, code: Code) -> Program:
        """A program from its instructions."""

    def grid(self, rows: dict[str, Any]) -> Grid:
        """A grid from rows by name."""

    def row(self, programs: list[Any], column: Array, scale: Array) -> Row:
        """A row from programs, and a column and a scale per group."""


class Native:
    """The compiled module."""

    name = "native"

    def __init__(self) -> None:
        if IMPORT_ERROR is not None:
            raise RuntimeError(
                f"fastsched: the native module cannot be imported ({IMPORT_ERROR}); "
                "reinstall fastsched where a C++ compiler works, or use_backend('numba')"
            ) from IMPORT_ERROR

    def program(self, code: Code) -> Program:
        """A program from its instructions."""
        return _core.Program(code.instructions, code.samples)

    def grid(self, rows: dict[str, Any]) -> Grid:
        """A grid from rows by name."""
        return _core.Grid(rows)

    def row(self, programs: list[Any], column: Array, scale: Array) -> Row:
        """A row from programs, and a column and a scale per group."""
        return _core.Row(programs, column, scale)


NAMES = ("native", "numba")
_loaded: dict[str, Backend] = {}
_current: Backend | None = None


def _load(name: object, who: str) -> Backend:
    if not isinstance(name, str):
        raise TypeError(f"{who}: pass 'native' or 'numba', got a value of type {type(name).__name__}")
    if name not in NAMES:
        raise ValueError(f"{who}: no backend is called {name[:40]!r}; pass 'native' or 'numba'")
    if name not in _loaded:
        if name == "native":
            _loaded[name] = Native()
        else:
            from fastsched._numba import Compiled

            _loaded[name] = Compiled()
    return _loaded[name]


def use_backend(name: str) -> None:
    """Compute with ``"native"`` or ``"numba"`` from now on, in this process.

    Errors: ``ValueError`` for another name, ``RuntimeError`` if the backend does not work here.

    >>> use_backend("native")
    >>> backend()
    'native'
    """
    global _current
    _current = _load(name, "use_backend")
    if IMPORT_ERROR is None:
        _core.serve(name == "native")


def backend() -> str:
    """The name of the backend in use, ``"native"`` or ``"numba"``."""
    return current().name


def current() -> Backend:
    """The backend in use; decided at the first need."""
    global _current
    if _current is None:
        _current = _first_choice()
    return _current


def _first_choice() -> Backend:
    wanted = os.environ.get("FASTSCHED_BACKEND", "")
    if wanted:
        return _load(wanted, "FASTSCHED_BACKEND")
    if IMPORT_ERROR is None:
        return _load("native", "fastsched")
    warnings.warn(
        f"fastsched: the native module cannot be imported ({IMPORT_ERROR}); the Numba backend serves "
        "schedules, tables and plans, fastsched.optim does not work. Reinstall where a C++ compiler works, "
        "or set FASTSCHED_BACKEND=numba to say that this is intended.",
        RuntimeWarning,
        stacklevel=2,
    )
    return _load("numba", "fastsched")


def choose_at_import() -> None:
    """Decides now: a wrong FASTSCHED_BACKEND or a missing native module must not surprise in mid-training."""
    wanted = os.environ.get("FASTSCHED_BACKEND", "")
    if wanted and wanted not in NAMES:
        _load(wanted, "FASTSCHED_BACKEND")
    if IMPORT_ERROR is None:
        _core.serve(wanted != "numba")
    elif wanted == "native":
        _load(wanted, "FASTSCHED_BACKEND")
    elif not wanted:
        current()
