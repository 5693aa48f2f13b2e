"""What a picture shows of a curve: its extremes, its phases, its cycles' ends. Needs no matplotlib."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastsched._check import LARGEST_STEP, Number
from fastsched.kinds import Infinite, OneCycle, OneCycleMomentum, WarmupStableDecay
from fastsched.lint import _Part, _parts
from fastsched.schedule import Cooldown, Schedule

if TYPE_CHECKING:
    from fastsched.plan import Plan

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]
Curve = Schedule | Floats

COLUMNS = 2048  # of a curve: as fine as any picture that is printed or shown
HEAT_COLUMNS = 512  # each at least a pixel wide, so that none is lost
HEAT_ROWS = 256
MOST_THREADS = 8
BLOCK = 1 << 16  # values at a time: they stay in the cache
MOST_LOOKED_AT = 1 << 26  # updates of a curve that are looked at one by one
SAMPLE = 64  # of each column's updates, where they are more
MOST_MARKS = 32
MOST_LINES = 12  # of a plan: more are a heat map
LARGEST_MARKED = 1 << 12  # parts of a schedule whose phases are marked
LOW = 30.0  # what is so many times smaller than the peak looks like 0 on a linear scale
SHARE_LOW = 0.25
DECADE = 10.0  # how far a logarithmic scale goes below the twentieth of the values that is smallest
LARGEST_SHOWN = 1e150  # on a logarithmic scale, whose ticks beyond the limits must be numbers, too


# ---- extremes ----


def updates(who: str, curves: Iterable[Curve], steps: int | None) -> int:
    """How many updates to draw: by default those of the longest curve that ends."""
    if steps is None:
        lengths = [curve.steps if isinstance(curve, Schedule) else len(curve) for curve in curves]
        ends = [length for length in lengths if length != math.inf]
        if not ends:
            raise ValueError(f"{who}: steps must be given where no schedule ends, got None; pass how many to draw")
        return int(max(ends))
    rule = Number("pass how many updates to draw", least=1, most=LARGEST_STEP, whole=True)
    count: int = rule(who, "steps", steps)
    return count


def points(
    curve: Curve, start: int, count: int, *, columns: int = COLUMNS, most: int = MOST_LOOKED_AT
) -> tuple[Steps, Floats]:
    """Steps of a curve and their values: all, or if they are more than two per column each column's extremes."""
    if not isinstance(curve, Schedule):
        count = min(count, len(curve) - start)
    if count <= 2 * columns:
        steps = np.arange(start, start + count)
    else:
        chosen = [np.array([start, start + count - 1])]
        for begins, offsets, block in _blocks(curve, start, count, columns, most):
            chosen += begins + offsets[block.argmin(1)], begins + offsets[block.argmax(1)]
        if isinstance(curve, Schedule) and count > most:
            edges = [phase.step for phase in phases(curve, start, count) if phase.step > start]
            chosen.append(np.array([step + by for step in edges for by in (-1, 0)], np.int64))
        steps = np.unique(np.concatenate(chosen))
    return steps, _at(curve, steps)


def crests(
    curve: Schedule, start: int, count: int, *, columns: int = HEAT_COLUMNS, most: int = MOST_LOOKED_AT
) -> tuple[Steps, Floats]:
    """The edges of up to ``columns`` columns of steps, and of each column the value that is largest in size."""
    columns = min(columns, count)
    begin, tops = [], []
    for begins, _, block in _blocks(curve, start, count, columns, most):
        low, high = block.min(1), block.max(1)
        begin.append(begins)
        tops.append(np.where(-low > high, low, high))
    return np.append(np.concatenate(begin), start + count), np.concatenate(tops)


def _blocks(
    curve: Curve, start: int, count: int, columns: int, most: int
) -> Iterator[tuple[Steps, Steps, npt.NDArray[Any]]]:
    """Some columns at a time: at which steps they begin, the steps looked at from there on, and the values."""
    width, wider = divmod(count, columns)
    for begin, size, many in ((start, width + 1, wider), (start + wider * (width + 1), width, columns - wider)):
        whole = count <= most
        offsets = np.arange(size) if whole else np.linspace(0, size - 1, SAMPLE).round().astype(np.int64)
        at_once = max(1, BLOCK // len(offsets))
        buffer = np.empty(min(at_once, many) * len(offsets))
        for first in range(0, many, at_once):
            begins = begin + np.arange(first, min(first + at_once, many)) * size
            values = buffer[: len(begins) * len(offsets)]
            if not isinstance(curve, Schedule):
                values = curve[begins[0] : begins[0] + len(values)] if whole else curve[begins[:, None] + offsets]
            elif whole:
                curve.table(len(values), start=int(begins[0]), out=values)
            else:
                values = _at(curve, (begins[:, None] + offsets).ravel())
            yield begins, offsets, values.reshape(len(begins), len(offsets))


def _at(curve: Curve, steps: Steps) -> Floats:
    values: Floats = np.asarray(curve(steps) if isinstance(curve, Schedule) else curve[steps], np.float64)
    return values


# ---- scales ----


def logarithmic(values: Sequence[Floats]) -> bool:
    """Whether a logarithmic scale reads better: see `Schedule.plot`."""
    pool = _finite(values)
    above = pool[pool > 0.0]
    if not len(above) or pool.min() < 0.0 or len(above) < (1.0 - SHARE_LOW) * len(pool):
        return False
    return bool(np.quantile(above, SHARE_LOW) < above.max() / LOW)


def limits(values: Sequence[Floats], log: bool) -> tuple[float, float]:
    """The least and the largest value to show: on a logarithmic scale not the last steps before a zero."""
    pool = _finite(values)
    pool = pool[pool > 0.0] if log else pool
    if not len(pool):
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(pool.min()), float(pool.max())
    if log:
        low = max(low, float(np.quantile(pool, 0.05)) / DECADE)
        return min(max(low, 1.0 / LARGEST_SHOWN), LARGEST_SHOWN), min(max(high, 1.0 / LARGEST_SHOWN), LARGEST_SHOWN)
    return low, high


def _finite(values: Sequence[Floats]) -> Floats:
    pool = np.concatenate([np.zeros(0), *values])
    finite: Floats = pool[np.isfinite(pool)]
    return finite


# ---- phases and cycles ----


class Phase(NamedTuple):
    """Where a phase begins, and its name if it has one."""

    step: int
    name: str


def phases(schedule: Schedule, start: int, count: int) -> list[Phase]:
    """The phases that begin within a window of steps; none if they are too many to tell apart.

    A warmup is a first phase over which the value rises; it is the one that begins at 0.
    """
    if schedule._size > LARGEST_MARKED:
        return []
    names: dict[int, str] = {}
    for part in _parts(schedule):
        for edge, name in _edges(part.node):
            step = part.at(edge)
            names[step] = names.get(step) or name
    edges = sorted(step for step in names if step > 0)
    seen = [Phase(edge, names[edge]) for edge in edges if start < edge < start + count]
    if len(seen) > MOST_MARKS:
        return []
    warm = bool(edges) and start < edges[0] and _rises(schedule, edges[0])
    return [Phase(0, "warmup"), *seen] if warm else seen


def _edges(node: Schedule) -> Iterator[tuple[Any, str]]:
    """A part's steps at which something new begins."""
    if isinstance(node, WarmupStableDecay):
        yield node.warmup_steps, "stable" if node.stable else "decay"
        yield node.warmup_steps + node.stable, "decay" if node.decay else ""
    elif isinstance(node, Infinite):
        yield node.warmup_steps, "cosine"
        yield node.warmup_steps + node.cosine, "plateau"
        if node.constant is not None:
            yield node.warmup_steps + node.cosine + node.constant, "cooldown"
    elif isinstance(node, Cooldown):
        yield node.at, "cooldown"
    elif isinstance(node, (OneCycle, OneCycleMomentum)):
        top = Fraction(node.pct_start) * int(node.steps)
        yield top, ""
        if node.three_phase:
            yield 2 * top, ""
    else:
        lowered = node._lower()
        if isinstance(lowered, list):
            ends = itertools.accumulate(piece.steps for piece in lowered[:-1])
            yield from ((int(end), "") for end in ends)


def _rises(schedule: Schedule, end: int) -> bool:
    """Whether the values up to a step never fall and do not wait for it to rise."""
    values = _at(schedule, np.unique(np.linspace(0, end, SAMPLE).round().astype(np.int64)))
    return bool(values[0] < values[(len(values) + 1) // 2] and (np.diff(values) >= 0.0).all())


def snapshots(schedule: Schedule, start: int, count: int) -> Steps:
    """The cycles' ends after ``start`` and up to ``start + count``; none if they are too many to tell apart."""
    if schedule._size > LARGEST_MARKED:
        return np.zeros(0, np.int64)
    ends: list[int] = []
    look = min(count, MOST_MARKS)
    while len(ends) <= MOST_MARKS:  # a short look first: short cycles show at once that they are too many
        ends = schedule._all_cycle_ends(start, start + look)
        if look == count:
            break
        look = min(2 * look, count)
    return np.array(ends if len(ends) <= MOST_MARKS else [], np.int64)


# ---- plans ----


class Line(NamedTuple):
    """One value over time that some groups of a plan share: a number, or that many times a curve."""

    curve: Schedule | None
    scale: float
    groups: Steps

    def points(self, start: int, count: int, **size: int) -> tuple[Steps, Floats]:
        """As `points` of a curve."""
        if self.curve is None:
            return np.array([start, start + count - 1]), np.full(2, self.scale)
        steps, values = points(self.curve, start, count, **size)
        return steps, self.scale * values


def lines(plan: Plan, name: str) -> list[Line]:
    """What the groups have of one hyperparameter, each once, in the order of the first groups that have it."""
    curve, scale = plan._columns[name], plan._scales[name]
    has = np.flatnonzero(~np.isnan(scale))
    pairs = np.stack([curve[has].astype(np.float64), scale[has]], axis=1)
    distinct, which = np.unique(pairs, axis=0, return_inverse=True)
    order = np.argsort(which.ravel(), kind="stable")
    shares = np.split(has[order], np.cumsum(np.bincount(which.ravel(), minlength=len(distinct)))[:-1])
    made = [
        Line(plan._curves[int(column)] if column >= 0.0 else None, float(factor), groups)
        for (column, factor), groups in zip(distinct, shares, strict=True)
    ]
    return sorted(made, key=lambda line: int(line.groups[0]))


def heat(plan: Plan, made: Sequence[Line], start: int, count: int) -> tuple[Steps, Steps, Floats]:
    """The edges of columns of steps and of rows of groups, and of each cell the value largest in size; NaN: none."""
    curves = {id(line.curve): line.curve for line in made if line.curve is not None}
    for curve in curves.values():
        curve._program()  # compiled here: no two threads compile one part
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as pool:
        tops = dict(zip(curves, pool.map(lambda curve: crests(curve, start, count), curves.values()), strict=True))
    columns = next((edges for edges, _ in tops.values()), np.array([start, start + count]))
    groups = np.linspace(0, len(plan), min(len(plan), HEAT_ROWS) + 1).round().astype(np.int64)
    row_of = np.repeat(np.arange(len(groups) - 1), np.diff(groups))
    cells = np.full((len(groups) - 1, len(columns) - 1), np.nan)
    for line in made:
        values = line.scale * (tops[id(line.curve)][1] if line.curve is not None else np.ones(1))
        for row in np.unique(row_of[line.groups]):
            larger = ~(np.abs(cells[row]) >= np.abs(values))
            cells[row] = np.where(larger, values, cells[row])
    return columns, groups, cells


def groups_in_words(groups: Steps) -> str:
    """Group indices as a few ranges."""
    runs = np.split(groups, np.flatnonzero(np.diff(groups) > 1) + 1)
    texts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs[:3]]
    text = ", ".join(texts) + (", ..." if len(runs) > len(texts) else "")
    return f"group {text}" if len(groups) == 1 else f"groups {text}"


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def first_look(schedule: Schedule) -> int:
    """How many updates show what a schedule is like: all, or of one without an end a few cycles or a halving."""
    if schedule.steps != math.inf:
        return int(schedule.steps)
    edges = [] if schedule._size > LARGEST_MARKED else [part.at(_end(part)) for part in _parts(schedule)]
    least = 2 * max([50, *edges])
    for cycles in itertools.takewhile(lambda look: look <= 1 << 20, (4**k for k in itertools.count(2))):
        ends = schedule._all_cycle_ends(0, cycles)
        if len(ends) >= 3:
            return min(max(least, ends[2]), LARGEST_STEP)
    return _halving(schedule, min(least, LARGEST_STEP))


def _end(part: _Part) -> int:
    """A part's last step if it has one."""
    return 0 if part.node.steps == math.inf else int(part.node.steps)


def _halving(schedule: Schedule, least: int) -> int:
    """The first of some numbers of updates by which the value has halved or doubled; the least if none does."""
    first = schedule(least // 2)
    for k in range(7):
        look = min(least * int(10**k), LARGEST_STEP)
        ratio = schedule(look) / first if first else 1.0
        if not 0.5 < ratio < 2.0:
            return look
    return least
