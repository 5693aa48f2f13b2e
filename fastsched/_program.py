"""From a schedule's parts to the flat array of instructions that both backends run (``csrc/program.hpp``)."""

from __future__ import annotations

import bisect
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastsched._check import LARGEST_STEP
from fastsched.curves import CODES

if TYPE_CHECKING:
    from fastsched.schedule import Schedule

FIELDS = ("offset", "start", "end", "steps", "p", "q", "r", "s", "u", "v")
INSTRUCTION = np.dtype([("code", "<i4"), ("next", "<i4"), *((name, "<f8") for name in FIELDS)])
LARGEST_PROGRAM = 1 << 20


class Curve(NamedTuple):
    """The numbers of one instruction, as ``curves.py`` and ``curves.hpp`` name them."""

    name: str
    start: float = 0.0
    end: float = 0.0
    steps: float = math.inf
    p: float = 0.0
    q: float = 0.0
    r: float = 0.0
    s: float = 0.0
    u: float = 0.0
    v: float = 0.0


class Operation(NamedTuple):
    """Operands on the stack, and what to do with them."""

    curve: Curve
    operands: tuple[Schedule, ...]


class Clocked(NamedTuple):
    """One operand with a time of its own: a cycle's or another pace's."""

    curve: Curve
    operand: Schedule


class Skipped(NamedTuple):
    """One operand without its first steps."""

    steps: int
    operand: Schedule


class Table(NamedTuple):
    """Values given one by one."""

    values: npt.NDArray[np.float64]


class Code(NamedTuple):
    """A program: its instructions, and the samples that they read."""

    instructions: np.ndarray[Any, Any]
    samples: npt.NDArray[np.float64]


def compile_program(schedule: Schedule) -> Code:
    """The program of a schedule."""
    compiler = _Compiler()
    compiler.run(schedule)
    return compiler.code()


class _Compiler:
    """Works through a list of tasks, not by recursion: schedules nest to any depth."""

    def __init__(self) -> None:
        self.rows: list[tuple[float, ...]] = []
        self.follow: list[int] = []
        self.pending: list[int] = []  # the instructions that go on to the next one emitted
        self.samples: list[npt.NDArray[np.float64]] = []
        self.places: dict[int, float] = {}
        # A task is a schedule with its beginning, or a function; those it pushes run before those below it.
        self.tasks: list[Any] = []

    def run(self, schedule: Schedule) -> None:
        self.tasks.append((schedule, 0))
        while self.tasks:
            task = self.tasks.pop()
            if callable(task):
                task()
            else:
                self.compile(*task)
        self.go_on()

    def compile(self, node: Schedule, offset: int) -> None:
        lowered = node._lower()
        if isinstance(lowered, Curve):
            self.emit(lowered, offset)
        elif isinstance(lowered, Table):
            self.emit(Curve("sample", steps=float(len(lowered.values)), p=self.place(lowered.values)), offset)
        elif isinstance(lowered, Operation):
            self.tasks.append(lambda: self.emit(lowered.curve, offset))
            # The deeper operand first: the stack then needs no more than log2 of the number of curves.
            operands = sorted(lowered.operands, key=lambda operand: operand._depth)
            self.tasks.extend((operand, offset) for operand in operands)
        elif isinstance(lowered, Skipped):
            # Further back makes no difference: there time has stopped at the largest step.
            self.tasks.append((lowered.operand, max(offset - lowered.steps, -LARGEST_STEP)))
        elif isinstance(lowered, Clocked):
            self.emit(lowered.curve, offset)
            self.tasks.append(lambda: self.emit(Curve("resume"), 0))
            self.tasks.append((lowered.operand, 0))
        else:
            sequence = _Sequence(self, lowered, offset)
            sequence.split(0, len(sequence.pieces))

    def emit(self, curve: Curve, offset: int) -> None:
        self.go_on()
        self.pending = [len(self.rows)]
        self.rows.append((CODES[curve.name], offset, *curve[1:]))
        self.follow.append(len(self.rows))

    def go_on(self) -> None:
        """What is pending continues here."""
        for last in self.pending:
            self.follow[last] = len(self.rows)
        self.pending = []

    def place(self, values: npt.NDArray[np.float64]) -> float:
        """Where these samples are: one copy for all instructions that read them."""
        if id(values) not in self.places:
            self.places[id(values)] = float(sum(map(len, self.samples)))
            self.samples.append(values)
        return self.places[id(values)]

    def code(self) -> Code:
        program = np.zeros(len(self.rows), INSTRUCTION)
        table = np.array(self.rows, np.float64)
        program["code"] = table[:, 0]
        program["next"] = self.follow
        for i, name in enumerate(FIELDS, 1):
            program[name] = table[:, i]
        return Code(program, np.concatenate(self.samples) if self.samples else np.zeros(0))


class _Sequence:
    """Pieces one after another, as a balanced tree of branches: found in log2(n) comparisons."""

    def __init__(self, compiler: _Compiler, pieces: list[Schedule], offset: int) -> None:
        edges = list(itertools.accumulate((int(piece.steps) for piece in pieces[:-1]), initial=offset))
        # Time goes from 0 to 2**53: no step asks for a piece that is over before or begins after it.
        asked_for = slice(max(bisect.bisect_right(edges, 0) - 1, 0), bisect.bisect_right(edges, LARGEST_STEP))
        self.compiler, self.pieces, self.edges = compiler, pieces[asked_for], edges[asked_for]
        self.exits: list[int] = []  # of the pieces so far
        compiler.tasks.append(self.join)

    def split(self, low: int, high: int) -> None:
        tasks = self.compiler.tasks
        if high - low == 1:
            tasks += (self.collect, (self.pieces[low], self.edges[low]))
            return
        middle = (low + high) // 2
        branch = len(self.compiler.rows)
        self.compiler.emit(Curve("branch"), self.edges[middle])

        def right() -> None:
            self.compiler.follow[branch] = len(self.compiler.rows)
            self.split(middle, high)

        tasks += (right, lambda: self.split(low, middle))

    def collect(self) -> None:
        """A piece is done: it goes on where all of them do."""
        longer, shorter = self.exits, self.compiler.pending
        if len(longer) < len(shorter):  # so that each exit is moved log2(n) times however deep sequences nest
            longer, shorter = shorter, longer
        longer.extend(shorter)
        self.exits, self.compiler.pending = longer, []

    def join(self) -> None:
        self.compiler.pending = self.exits
