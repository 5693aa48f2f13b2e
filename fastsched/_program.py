"""From a schedule's parts to the flat array of instructions that both backends run (``csrc/program.hpp``)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastsched.curves import CODES

if TYPE_CHECKING:
    from fastsched.schedule import Schedule

FIELDS = ("offset", "start", "end", "steps", "p", "q", "r")
INSTRUCTION = np.dtype(
    [
        ("code", "<i4"),
        ("next", "<i4"),
        *((name, "<f8") for name in FIELDS),
    ]
)
LARGEST_PROGRAM = 1 << 20


class Curve(NamedTuple):
    """The numbers of one curve, as ``curves.py`` and ``curves.hpp`` name them."""

    name: str
    start: float
    end: float = 0.0
    steps: float = math.inf
    p: float = 0.0
    q: float = 0.0
    r: float = 0.0


def compile_program(schedule: Schedule) -> np.ndarray[Any, Any]:
    """The program of a schedule.

    Works through a list of tasks, not by recursion: schedules nest to any depth.
    """
    rows: list[tuple[float, ...]] = []
    follow: list[int] = []

    def emit(code: str, offset: float, numbers: tuple[float, ...] = (0.0,) * 6) -> None:
        rows.append((CODES[code], offset, *numbers))
        follow.append(len(rows))

    # A task is a function of no arguments; those it pushes run before those below it.
    tasks: list[Any] = [(schedule, 0)]
    while tasks:
        task = tasks.pop()
        if callable(task):
            task()
            continue
        node, offset = task
        lowered = node._lower()
        if isinstance(lowered, Curve):
            emit(lowered.name, offset, lowered[1:])
        elif isinstance(lowered, Operation):
            # The deeper operand first: the stack then needs no more than log2 of the number of curves.
            operands = sorted(lowered.operands, key=lambda operand: -operand._depth)
            tasks.append(lambda op=lowered: emit(op.name, 0.0, (op.number, 0.0, 0.0, 0.0, 0.0, 0.0)))
            tasks.extend((operand, offset) for operand in reversed(operands))
        else:
            tasks.append(_Sequence(lowered, offset, tasks, emit, follow))
    program = np.zeros(len(rows), INSTRUCTION)
    table = np.array(rows, np.float64)
    program["code"] = table[:, 0]
    program["next"] = follow
    for i, name in enumerate(FIELDS, 1):
        program[name] = table[:, i]
    return program


class Operation(NamedTuple):
    """Operands on the stack, and what to do with them."""

    name: str
    operands: tuple[Schedule, ...]
    number: float = 0.0


class _Sequence:
    """Pieces one after another, as a balanced tree of branches: found in log2(n) comparisons."""

    def __init__(self, pieces: list[Schedule], offset: int, tasks: list[Any], emit: Any, follow: list[int]) -> None:
        self.pieces, self.tasks, self.emit, self.follow = pieces, tasks, emit, follow
        self.edges = [offset]
        for piece in pieces[:-1]:
            self.edges.append(self.edges[-1] + int(piece.steps))
        self.exits: list[int] = []  # the last instruction of each piece

    def __call__(self) -> None:
        self.tasks.append(self.join)
        self.split(0, len(self.pieces))

    def split(self, low: int, high: int) -> None:
        if high - low == 1:
            self.tasks.append(lambda: self.exits.append(len(self.follow) - 1))
            self.tasks.append((self.pieces[low], self.edges[low]))
            return
        middle = (low + high) // 2
        branch = len(self.follow)
        self.emit("branch", self.edges[middle])

        def right() -> None:
            self.follow[branch] = len(self.follow)
            self.split(middle, high)

        self.tasks.append(right)
        self.tasks.append(lambda: self.split(low, middle))

    def join(self) -> None:
        for last in self.exits:
            self.follow[last] = len(self.follow)
