"""Which schedule has made a logged curve."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from fastsched._check import LARGEST_STEP, shown
from fastsched._compare import logged
from fastsched.kinds import (
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    Geometric,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    OneCycle,
    OneCycleMomentum,
    OneMinusSqrt,
    Piecewise,
    Polynomial,
    PowerLaw,
    Rex,
    StepDecay,
    Tanh,
    Triangular,
    WarmupStableDecay,
)
from fastsched.schedule import Clip, Kind, Schedule, Then, _from_tokens, _kinds, _parameters

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

SAMPLE = 256  # about so many points serve to seek parameters; residuals are of all
MOST_PLATEAUS = 64
MOST_TURNS = 16  # of a cosine
POLISHED = 8  # candidates whose numbers are rounded
SINGLE, DOUBLE = 3e-7, 1e-11  # residuals that the rounding of a log in float32 or float64 explains
ALMOST = 0.03  # of the largest value: how straight a warmup must be to be tried as one
QUICK, REFINED, SEARCHED = range(3)  # stages: what is solved for at once, then what is refined, then open horizons


@dataclass(frozen=True)
class Fit:
    """A schedule that explains a log: ``kind`` names its main part.

    ``residual`` is the largest difference from the log, relative to the log's largest value.
    """

    kind: str
    schedule: Schedule
    residual: float

    def __str__(self) -> str:
        return f"{self.residual:.1e}  {self.schedule!r}"


class Fits(Sequence[Fit]):
    """Candidates, the best first: a sequence that prints one a line, residual and schedule."""

    __slots__ = ("_fits",)

    def __init__(self, fits: Iterable[Fit]) -> None:
        self._fits = tuple(fits)

    @overload
    def __getitem__(self, index: int) -> Fit: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Fit, ...]: ...
    def __getitem__(self, index: int | slice) -> Fit | tuple[Fit, ...]:
        return self._fits[index]

    def __len__(self) -> int:
        return len(self._fits)

    def __str__(self) -> str:
        return "\n".join(map(str, self._fits))

    __repr__ = __str__


def fit(values: Sequence[float] | npt.NDArray[Any], *, steps: Sequence[int] | npt.NDArray[Any] | None = None) -> Fits:
    """The kinds and parameters that explain a logged curve, the best first.

    ``values``: the learning rate of each update, or of those in ``steps`` (ascending). Every kind with a name that
    people use is tried, alone and after a linear warmup: where it rises, bends and ends is read off the log, what
    enters linearly is solved for by least squares, the rest refined from there. Numbers are rounded as far as the
    log's own rounding (float32 or float64) allows. Of candidates that explain the log that far the one with the
    shortest text is first; after them, those that do not, by their residual. A log that stops before the schedule
    ends may leave the horizon open. Errors: ``ValueError`` if a value is not finite or ``steps`` do not ascend.

    >>> log = (0.1 * Cosine(steps=90).warmup(10)).table(100, dtype="float32")
    >>> best = fit(log)[0]
    >>> best.kind, best.residual < 1e-7
    ('Cosine', True)
    >>> best.schedule
    Linear(0.0, 0.1, steps=10).then(Cosine(0.1, 0.0, steps=90))
    """
    log = _Log.of("fit", values, steps)
    with np.errstate(all="ignore"):  # candidates far off may overflow
        best = log.ranked(_candidates(log))[:POLISHED]
        best = log.ranked((kind, _polished(schedule, log)) for kind, schedule in best)
        return Fits(Fit(kind, schedule, log.residual(schedule)) for kind, schedule in best)


_Candidate = tuple[str, Schedule]  # with the name of its main part


# ---- the log ----


class _Log:
    """Steps and values, and what they look like."""

    def __init__(self, steps: Steps, values: Floats, tolerance: float) -> None:
        self.steps, self.values = steps, values
        self.scale = float(np.abs(values).max()) or 1.0
        self.tolerance = tolerance
        self.last = int(steps[-1])
        self._distances: dict[Schedule, float] = {}
        near = np.geomspace(1, len(steps), SAMPLE // 4).astype(np.int64) - 1  # an end may be all that tells
        even = np.linspace(0, len(steps) - 1, SAMPLE).round().astype(np.int64)
        chosen = np.unique(np.concatenate([even, near, len(steps) - 1 - near]))
        self.t, self.v = steps[chosen].astype(np.float64), values[chosen]

    @classmethod
    def of(cls, who: str, values: Any, steps: Any) -> _Log:
        """What the user has passed, checked."""
        array = logged(who, "values", values)
        if steps is None:
            steps = np.arange(len(array))
        steps = np.asarray(steps)
        if steps.dtype.kind not in "iu" or steps.shape != array.shape:
            raise ValueError(
                f"{who}: steps must be one int per value, got {shown(steps)} of dtype {steps.dtype} and shape "
                f"{steps.shape} for {len(array)} values; pass the update that each value was logged at"
            )
        if (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > LARGEST_STEP:
            raise ValueError(f"{who}: steps must be ascending, >= 0 and <= 2**53, got others; sort the log")
        single = bool((array.astype(np.float32) == array).all())
        return cls(steps.astype(np.int64), array, SINGLE if single else DOUBLE)

    def after(self, step: int) -> _Log:
        """The log from a step on, its steps counted from there."""
        kept = self.steps >= step
        return _Log(self.steps[kept] - step, self.values[kept], self.tolerance)

    def residual(self, schedule: Schedule) -> float:
        """The largest difference, relative to the largest value."""
        return float(np.abs(np.asarray(schedule(self.steps)) - self.values).max()) / self.scale

    def distance(self, schedule: Schedule) -> float:
        """The same at a sample of the log; at all of it if the sample may be explained."""
        if schedule not in self._distances:
            distance = float(np.abs(np.asarray(schedule(self.t)) - self.v).max()) / self.scale
            if distance <= self.tolerance and len(self.t) < len(self.steps):
                distance = self.residual(schedule)
            self._distances[schedule] = distance if math.isfinite(distance) else math.inf
        return self._distances[schedule]

    def explains(self, schedule: Schedule) -> bool:
        """Whether the log's rounding is all that differs."""
        return self.distance(schedule) <= self.tolerance

    def rank(self, schedule: Schedule) -> tuple[bool, float, float]:
        """What candidates are sorted by."""
        distance, length = self.distance(schedule), _length(schedule)
        if distance <= self.tolerance:
            return False, length, distance
        return True, math.log(distance) + 0.01 * length, distance

    def ranked(self, candidates: Iterable[_Candidate]) -> list[_Candidate]:
        """The candidates, each once, the best first."""
        unequal = {schedule: kind for kind, schedule in candidates}
        return [(unequal[schedule], schedule) for schedule in sorted(unequal, key=self.rank)]

    def beginning(self) -> int:
        """The last index of the run of equal values that it begins with."""
        different = np.abs(self.values - self.values[0]) > self.tolerance / 4 * self.scale
        return int(different.argmax()) - 1 if different.any() else len(self.values) - 1

    def ending(self) -> int:
        """The first index of the run of equal values that it ends with."""
        different = np.abs(self.values - self.values[-1])[::-1] > self.tolerance / 4 * self.scale
        return len(self.values) - int(different.argmax()) if different.any() else 0

    def between(self, index: int) -> list[int]:
        """The step of an index and, if others are missing before it, the roundest of them."""
        high = int(self.steps[index])
        low = int(self.steps[index - 1]) if index else high - 1
        return list(dict.fromkeys([_roundest(low, high), high]))

    def horizons(self) -> list[int]:
        """Where a piece that fills the log may end."""
        found = [*self.between(self.ending()), self.last, self.last + 1]
        if len(self.steps) < self.last + 1:  # perhaps the last ones are missing
            found.append(_roundest(self.last - 1, self.last + int(self.steps[-1] - self.steps[-2:][0])))
        return [horizon for horizon in dict.fromkeys(found) if horizon >= 1]


def _roundest(low: float, high: float) -> int:
    """The number in (low, high] with the most zeros at its end, of these the largest."""
    for power in itertools.count(len(str(int(high))) if high >= 1 else 1, -1):
        number = math.floor(high / 10**power) * 10**power
        if number > low or power == 0:
            return int(number)
    raise AssertionError


def _length(schedule: Schedule) -> float:
    """How much text its numbers are, those that a kind has by default left out."""
    length = 0.0
    for name, *values in schedule._tokens():
        length += 0.01 * len(values)  # of two names for one curve the simpler one
        if name in _kinds:
            for field, value in zip(_kinds[name]._rules, values, strict=True):
                if value != _parameters(name)[field].default:
                    length += sum(map(_weight, value if isinstance(value, tuple) else (value,)))
    return length


def _weight(value: object) -> float:
    """A value's price: its significant digits, and that it is there."""
    mantissa = repr(value).partition("e")[0] if isinstance(value, (int, float)) else "1"
    return 1.5 + len(mantissa.replace(".", "").replace("-", "").strip("0"))


# ---- least squares ----


def _solve(columns: Sequence[Floats], values: Floats) -> Floats:
    """The coefficients of the least squares."""
    matrix = np.stack(columns, axis=1)
    coefficients = np.linalg.lstsq(matrix, values, rcond=None)[0]
    again = np.linalg.lstsq(matrix, values - matrix @ coefficients, rcond=None)[0]  # what rounding has left
    return np.asarray(coefficients + again)


def _line(t: Floats, values: Floats) -> tuple[float, float]:
    """The slope of a straight line, and where it begins."""
    middle, level = t.mean(), values.mean()
    slope = float((t - middle) @ (values - level) / ((t - middle) @ (t - middle)))
    return slope, float(level - slope * middle)


def _coefficients(columns: Callable[[Any], Sequence[Floats]], x: Sequence[float], log: _Log) -> list[float] | None:
    """Those of a kind with the parameters ``x``, if there is such a one."""
    try:
        found = _solve(columns(x), log.v)
    except _NONE:
        return None
    return found.tolist() if np.isfinite(found).all() else None


_NONE = (ValueError, OverflowError, np.linalg.LinAlgError)  # numbers that no kind takes


def _left(columns: Sequence[Floats], values: Floats) -> Floats:
    return np.asarray(values - np.stack(columns, axis=1) @ _solve(columns, values))


def _refined(
    columns: Callable[[Floats], Sequence[Floats]], values: Floats, first: Sequence[float], rounds: int = 40
) -> Floats:
    """Parameters that enter in another way than linearly: Levenberg and Marquardt, the linear ones solved for."""

    def left(x: Floats) -> Floats:
        try:
            return _left(columns(x), values)
        except _NONE:
            return np.full(len(values), np.inf)

    x = np.array(first, np.float64)
    best, damping = left(x), 1e-3
    if not np.isfinite(best).all():
        return x
    for _ in range(rounds):
        width = 1e-6 * np.maximum(np.abs(x), 1e-2)
        jacobian = np.stack(
            [(left(x + width * one) - best) / width.max(where=one > 0, initial=0.0) for one in np.eye(len(x))], 1
        )
        if not np.isfinite(jacobian).all():
            break
        size = np.linalg.norm(jacobian, axis=0) + 1e-300
        improved = False
        while damping < 1e6 and not improved:
            matrix = np.concatenate([jacobian / size, damping * np.eye(len(x))])
            change = np.linalg.lstsq(matrix, np.concatenate([-best, np.zeros(len(x))]), rcond=None)[0] / size
            trial = left(x + change)
            improved = bool(np.linalg.norm(trial) < np.linalg.norm(best))
            damping = damping / 10 if improved else damping * 10
        if not improved:
            break
        done = np.linalg.norm(trial) > 0.999 * np.linalg.norm(best)
        x, best = x + change, trial
        if done or np.linalg.norm(best) <= 1e-15 * np.linalg.norm(values):
            break
    return x


# ---- candidates ----


def _candidates(log: _Log) -> Iterator[_Candidate]:
    """Every explanation worth a look. What takes longer is tried only if nothing else explains the log."""
    explained = False
    bodies = [*((rise, log.after(rise)) for rise in _rises(log)), (0, log)]
    for stage in (QUICK, REFINED, SEARCHED):
        for rise, body in bodies:
            for schedule in _of_body(body, stage):
                for whole in _tried(_risen, schedule, rise, log):
                    explained = explained or log.explains(whole)
                    yield _main_part(schedule), whole
            if explained and stage == SEARCHED:
                return
        if explained:
            return


def _rises(log: _Log) -> list[int]:
    """Where a linear warmup may end: at the top, or where the line breaks."""
    found = []
    top = int(log.values.argmax())
    slopes = np.diff(log.values) / np.diff(log.steps)
    bends = np.flatnonzero(np.abs(np.diff(slopes)) > 1e-6 * np.abs(slopes[:1]).max(initial=0.0))
    for index in {top, *(bends[:1] + 1).tolist()}:
        if index < (1 if index == top else 2):  # a bend needs two equal slopes before it
            continue
        t, v = log.steps[:index].astype(np.float64), log.values[:index]
        slope, start = _line(t, v) if index > 1 else (float(log.values[1] - v[0]), float(v[0]))
        if slope <= 0.0 or np.abs(start + slope * t - v).max() > ALMOST * log.scale:
            continue
        found += log.between(index)
        if index + 1 < len(log.steps):
            found += log.between(index + 1)
            meeting = int(np.rint((log.values[index] - start) / slope))
            if log.steps[index - 1] < meeting <= log.steps[index + 1]:
                found.append(meeting)
    return [rise for rise in dict.fromkeys(found) if 1 <= rise <= log.last]


def _risen(body: Schedule, rise: int, log: _Log) -> Schedule:
    """A body and the warmup before it."""
    if not rise:
        return body
    before = log.steps < rise
    x = log.steps[before] / rise
    top = body(0)
    start = float(((log.values[before] - top * x) @ (1.0 - x)) / ((1.0 - x) @ (1.0 - x)))
    if abs(start) <= log.tolerance * log.scale:
        start = 0.0
    if start == 0.0 and isinstance(body, WarmupStableDecay):
        return _with(body, warmup=rise)
    return Linear(start, top, steps=rise).then(body) if start != top else body


def _with(kind: Any, start: float | None = None, **changed: Any) -> Kind:
    """The same kind with other numbers."""
    if start is not None:
        changed["start"] = start
    made: Kind = type(kind)(**(dict(zip(kind._rules, kind._values, strict=True)) | changed))
    return made


def _of_body(log: _Log, stage: int) -> Iterator[Schedule]:
    """What may have made a log without a warmup."""
    families = [_two_levels, _after_plateau]
    if stage == QUICK:
        families += [_constant, _plateaus, _geometric]
    if stage == SEARCHED:
        families += [_one_cycles]
    else:
        families += [_endless, _restarts, _triangles, _one_cycles]
    for family in families:
        yield from family(log, stage)


def _main_part(schedule: Schedule) -> str:
    if isinstance(schedule, Then):
        schedule = schedule.second
    return type(schedule._parts[0] if isinstance(schedule, Clip) else schedule).__name__


def _constant(log: _Log, stage: int) -> Iterator[Schedule]:
    yield Constant(float(log.values[0] if log.ending() == 0 else log.v.mean()))


def _tried(make: Callable[..., Schedule], *arguments: Any) -> Iterator[Schedule]:
    """A schedule, unless its numbers are out of range."""
    try:
        yield make(*arguments)
    except _NONE:
        return


class _Family(NamedTuple):
    """A kind that goes from a start to an end: how it is made, and where its other parameters are sought."""

    make: Callable[..., Schedule]
    first: tuple[tuple[float, ...], ...] = ((),)


def _decay(shape: str) -> Callable[..., Schedule]:
    return lambda start, end, steps: WarmupStableDecay(start, warmup=0, stable=0, decay=steps, shape=shape, end=end)


_FAMILIES = (
    _Family(lambda start, end, steps: Linear(start, end, steps=steps)),
    _Family(lambda start, end, steps: Cosine(start, end, steps=steps)),
    _Family(lambda start, end, steps: OneMinusSqrt(start, end, steps=steps)),
    _Family(lambda start, end, steps: Rex(start, end, steps=steps)),
    _Family(_decay("square")),
    _Family(_decay("exponential")),
    _Family(
        lambda start, end, steps, power: Polynomial(start, end, steps=steps, power=math.exp(power)),
        ((math.log(2.0),), (math.log(0.5),)),
    ),
    _Family(
        lambda start, end, steps, lower, width: Tanh(
            start, end, steps=steps, lower=lower, upper=lower + math.exp(width)
        ),
        ((-7.0, math.log(10.0)), (-3.0, math.log(6.0))),
    ),
)


def _two_levels(log: _Log, stage: int) -> Iterator[Schedule]:
    """From a start to an end within a horizon."""
    for family in (*_FAMILIES, *_waves(log)):
        if stage != SEARCHED and (stage == REFINED) != bool(family.first[0]):
            continue
        for first in family.first:

            def columns(x: Any, horizon: int, family: _Family = family) -> list[Floats]:
                weight = np.asarray(family.make(1.0, 0.0, horizon, *x)(log.t))
                return [weight, 1.0 - weight]

            for horizon, x in _horizons(log, stage, columns, first):
                levels = _coefficients(functools.partial(columns, horizon=horizon), x, log)
                if levels:
                    yield from _tried(family.make, *levels, horizon, *x)
                    if family is _FAMILIES[0]:
                        yield from _down_to_zero(log, levels, horizon)


def _waves(log: _Log) -> Iterator[_Family]:
    """Cosines that turn as often as the log does."""
    turns = int(np.count_nonzero(np.diff(np.sign(np.diff(log.v)))))
    if turns <= MOST_TURNS:
        for cycles in range(2, turns + 3):
            yield _Family(functools.partial(_wave, cycles / 2))


def _wave(cycles: float, start: float, end: float, steps: int) -> Cosine:
    return Cosine(start, end, steps=steps, cycles=cycles)


def _down_to_zero(log: _Log, levels: Sequence[float], horizon: int) -> Iterator[Schedule]:
    """A line that was cut off may have been on its way to 0."""
    start, end = levels
    zero = horizon * start / (start - end) if start != end else 0.0
    if log.last < round(zero) < 1000 * log.last and abs(zero - round(zero)) < 1e-4:
        yield Linear(start, 0.0, steps=round(zero))


def _horizons(
    log: _Log, stage: int, columns: Callable[[Any, int], Sequence[Floats]], first: Sequence[float]
) -> Iterator[tuple[int, list[float]]]:
    """Where a piece may end, each with its other parameters: where it looks so, or where the squares are least."""

    def refined(horizon: int, rounds: int = 40) -> list[float]:
        if not first or stage == QUICK:
            return list(first)
        x: list[float] = _refined(lambda x: columns(x, horizon), log.v, first, rounds).tolist()
        return x

    def left(horizon: int) -> float:
        try:
            return float(np.linalg.norm(_left(columns(refined(horizon, rounds=5), horizon), log.v)))
        except _NONE:
            return math.inf

    found = log.horizons()
    if stage == SEARCHED:
        low = max(1, int(log.steps[max(log.ending() - 1, 0)]))
        found = [_least(left, low, 20 * (log.last + 1))]
    for horizon in found:
        yield horizon, refined(horizon)


def _least(function: Callable[[int], float], low: int, high: int) -> int:
    """Where a function is least: over a grid at first, then between the neighbours of its best one."""
    grid = sorted({round(number) for number in np.geomspace(low, high, 32)})
    best = min(range(len(grid)), key=lambda i: function(grid[i]))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    while high - low > 4:
        third = (high - low) // 3
        if function(low + third) <= function(high - third):
            high -= third
        else:
            low += third
    return min(range(low, high + 1), key=function)


def _after_plateau(log: _Log, stage: int) -> Iterator[Schedule]:
    """A stay at the top, and then down."""
    last = log.beginning()
    if 1 <= last < len(log.steps) - 2:
        for stay in {int(log.steps[last]), log.between(last + 1)[0]}:
            if 1 <= stay <= log.last - 2:
                after = log.after(stay)
                for family in (_two_levels, _geometric):
                    for fall in family(after, stage):
                        yield from _tried(_stayed, stay, fall)


_SHAPES: dict[type[Schedule], str] = {Linear: "linear", Cosine: "cosine", OneMinusSqrt: "sqrt"}


def _stayed(stay: int, fall: Schedule) -> Schedule:
    if type(fall) in _SHAPES:
        assert isinstance(fall, (Linear, Cosine, OneMinusSqrt))
        shape, steps = _SHAPES[type(fall)], int(fall.steps)
        return WarmupStableDecay(fall.start, warmup=0, stable=stay, decay=steps, shape=shape, end=fall.end)
    if isinstance(fall, WarmupStableDecay):
        return _with(fall, stable=stay)
    return Constant(fall(0), steps=stay).then(fall)


def _geometric(log: _Log, stage: int) -> Iterator[Schedule]:
    """A straight line of the logarithms that ends."""
    end = log.ending()
    if stage != QUICK or end < 2 or not (log.values > 0.0).all():
        return
    slope, start = _line(log.steps[: end + 1].astype(np.float64), np.log(log.values[: end + 1]))
    for horizon in log.between(end):
        end_value = math.exp(start + slope * horizon)
        yield from _tried(functools.partial(Geometric, math.exp(start), end_value, steps=horizon))
    slope, start = _line(log.steps[:end].astype(np.float64), np.log(log.values[:end]))
    floor = float(log.values[-1])
    yield from _tried(lambda: Exponential(math.exp(start), gamma=math.exp(slope)).clip(low=floor))


def _endless(log: _Log, stage: int) -> Iterator[Schedule]:
    """A falling curve without an end: what is a straight line of the logarithm, or of a negative power."""
    if not (log.values > 0.0).all() or len(log.v) < 3:
        return
    slope, _ = _line(log.t, np.log(log.v / log.scale))
    if slope != 0.0:
        for every in (1, 10, 100, 1000, 10000):
            if every == 1 or every <= log.last:
                yield from _scaled(log, stage, [slope * every], functools.partial(_exponential, every))
    if log.v.min() < 1e-9 * log.scale:  # no power falls so far within a log
        return
    for exponent in (0.5, 1.0, 2.0, 0.7, 0.3):
        rise, origin = _line(log.t, (log.v / log.scale) ** (-1.0 / exponent))
        if rise <= 0.0 or origin <= 0.0:
            continue
        timescale = math.log(origin / rise)
        if exponent == 0.5:
            yield from _scaled(log, stage, [timescale], lambda x: InverseSqrt(timescale=math.exp(x[0])))
        elif exponent == 1.0:
            yield from _scaled(log, stage, [-timescale], lambda x: InverseTime(rate=math.exp(x[0])))
        yield from _scaled(
            log, stage, [timescale, exponent], lambda x: PowerLaw(timescale=math.exp(x[0]), exponent=x[1])
        )


def _exponential(every: int, x: Sequence[float]) -> Exponential:
    return Exponential(gamma=math.exp(x[0]), every=every)


def _scaled(log: _Log, stage: int, first: Sequence[float], make: Callable[[Any], Kind]) -> Iterator[Schedule]:
    """A kind times its start."""
    x = list(first)
    if stage == REFINED:
        x = _refined(lambda x: [np.asarray(make(x.tolist())(log.t))], log.v, first).tolist()
    for unit in _tried(make, x):
        (start,) = _solve([np.asarray(unit(log.t))], log.v).tolist()
        yield from _tried(functools.partial(_with, unit), start)


def _plateaus(log: _Log, stage: int) -> Iterator[Schedule]:
    """Values that change seldom."""
    changes = np.abs(np.diff(log.values)) > log.tolerance / 4 * log.scale
    begins = np.flatnonzero(changes) + 1
    if not 1 <= len(begins) <= min(MOST_PLATEAUS, len(log.values) / 2) or (np.diff(begins) < 2).any():
        return
    levels = log.values[[0, *begins]].tolist()
    edges = [log.between(begin) for begin in begins.tolist()]
    gamma = (levels[-1] / levels[0]) ** (1.0 / len(begins)) if levels[0] * levels[-1] > 0.0 else 0.0
    for choice in (0, -1):
        boundaries = [edge[choice] for edge in edges]
        yield from _tried(functools.partial(Piecewise, boundaries=boundaries, values=levels))
        yield from _tried(functools.partial(MultiStep, levels[0], milestones=boundaries, gamma=gamma))
    low = max(log.steps[begin - 1] / i for i, begin in enumerate(begins, 1))
    high = min(log.steps[begin] / i for i, begin in enumerate(begins, 1))
    if math.floor(high) > low:
        yield from _tried(functools.partial(StepDecay, levels[0], gamma=gamma, every=_roundest(low, high)))


def _restarts(log: _Log, stage: int) -> Iterator[Schedule]:
    """Half cosines one after another."""
    ups = (np.flatnonzero(np.diff(log.values) > ALMOST * log.scale) + 1).tolist()
    if not ups or not log.steps[ups[0]]:
        return
    decay = log.values[ups[0]] / log.values[0] if log.values[0] else 0.0
    for (first, multiplier), cycles in itertools.product(_cycles(log, ups), (None, len(ups) + 1)):

        def make(start: float, end: float, decay: float, shape: Any = (first, multiplier, cycles)) -> Schedule:
            first, multiplier, cycles = shape
            return CosineRestarts(start, end, first=first, multiplier=multiplier, decay=decay, cycles=cycles)

        def columns(x: Any, make: Callable[..., Schedule] = make) -> list[Floats]:
            return [np.asarray(make(1.0, 0.0, math.exp(x[0]))(log.t)), 1.0 - np.asarray(make(1.0, 0.0, 1.0)(log.t))]

        tries = [0.0]
        if decay > 0.0 and stage == QUICK:
            tries.append(math.log(decay))
        elif decay > 0.0:
            tries = [float(_refined(columns, log.v, [math.log(decay)])[0])]
        for logarithm in tries:
            levels = _coefficients(columns, [logarithm], log)
            if levels:
                yield from _tried(make, *levels, math.exp(logarithm))


def _cycles(log: _Log, ups: Sequence[int]) -> set[tuple[int, int]]:
    """The first cycle's length and what multiplies it, from where the log jumps up."""
    found = set(itertools.product(log.between(ups[0]), (1, 2, 3)))
    if len(ups) > 1:
        begin, following = log.steps[list(ups[:2])].tolist()
        found.add((begin, max(1, round((following - begin) / begin))))
    if len(ups) > 2:  # cycles of one step do not show: count back
        begin, *ends = log.steps[list(ups[:3])].tolist()
        length, multiplier = ends[0] - begin, round((ends[1] - ends[0]) / (ends[0] - begin))
        while multiplier > 1 and begin > 0 and length % multiplier == 0:
            length //= multiplier
            begin -= length
        if begin == 0:
            found.add((length, multiplier))
    return found


def _triangles(log: _Log, stage: int) -> Iterator[Schedule]:
    """Up and down in lines."""
    turns = np.flatnonzero(np.diff(np.sign(np.diff(log.values)))) + 1
    if len(turns) < 2 or turns[1] + 1 >= len(log.values) or log.values[1] <= log.values[0]:
        return
    top, bottom = turns[:2].tolist()
    ups, periods = ({*log.between(turn), *log.between(turn + 1)} for turn in (top, bottom))
    for up, period in itertools.product(ups, periods):
        if not 1 <= up < period:
            continue
        down = None if period == 2 * up else period - up
        for mode in ("triangular", "triangular2") if stage == QUICK else ("exp_range",):

            def make(low: float, high: float, x: Any, legs: Any = (up, down), mode: str = mode) -> Schedule:
                gamma = math.exp(min(x[0], 0.0)) if mode == "exp_range" else 1.0
                return Triangular(low, high, up=legs[0], down=legs[1], mode=mode, gamma=gamma)

            def columns(x: Any, make: Callable[..., Schedule] = make) -> list[Floats]:
                return [np.asarray(make(0.0, 1.0, x)(log.t)), np.ones(len(log.t))]

            x = _refined(columns, log.v, [-0.1 / period]).tolist() if mode == "exp_range" else [0.0]
            levels = _coefficients(columns, x, log)
            if levels:
                height, low = levels
                yield from _tried(make, low, low + height, x)


def _one_cycles(log: _Log, stage: int) -> Iterator[Schedule]:
    """Up to a peak that may lie between two steps, and down."""
    top = int(log.values.argmax())
    if not 0 < top < len(log.values) - 1:
        return
    low, high = float(log.steps[top - 1]), float(log.steps[top + 1])
    for anneal in ("cos", "linear"):

        def columns(x: Any, horizon: int, anneal: str = anneal) -> list[Floats]:
            share = min(float(x[0]) / horizon, 1.0)
            peak = np.asarray(OneCycleMomentum(1.0, 0.0, steps=horizon, pct_start=share, anneal=anneal)(log.t))
            rising = log.t < x[0]
            return [(1.0 - peak) * rising, peak, (1.0 - peak) * ~rising]

        middle = _meeting(log, top) if anneal == "linear" else (low + high) / 2
        for horizon, (refined,) in _horizons(log, stage, columns, [middle]):
            shares = [i / 100 for i in range(1, 100) if low < i / 100 * horizon < high][:5]
            for share in (*shares, middle / horizon, refined / horizon):
                levels = _coefficients(functools.partial(columns, horizon=horizon), [share * horizon], log)
                if levels and min(levels) > 0.0 and 0.0 < share < 1.0:
                    yield from _tried(_one_cycle, *levels, horizon, share, anneal)


def _one_cycle(first: float, peak: float, last: float, steps: int, pct: float, anneal: str) -> OneCycle:
    return OneCycle(
        peak, steps=steps, pct_start=pct, div_factor=peak / first, final_div_factor=first / last, anneal=anneal
    )


def _meeting(log: _Log, top: int) -> float:
    """Where the lines before and after the top meet."""
    if top < 2 or top > len(log.values) - 4:
        return float(log.steps[top])
    (rise, low), (fall, high) = (
        _line(log.steps[part].astype(np.float64), log.values[part]) for part in (slice(0, top), slice(top + 1, top + 3))
    )
    return (high - low) / (rise - fall) if rise != fall else 0.0


# ---- numbers that people write ----


def _polished(schedule: Schedule, log: _Log) -> Schedule:
    """The same with each number as short as the log's rounding allows."""
    limit = max(log.tolerance, 1.05 * log.distance(schedule))
    tokens = list(schedule._tokens())
    for i, token in enumerate(tokens):
        for j in range(1, len(token)):
            for shorter in _shorter(token[j]):
                tried = [*tokens]
                tried[i] = (*tokens[i][:j], shorter, *tokens[i][j + 1 :])
                if any(log.distance(s) <= limit for s in _tried(_from_tokens, tried)):
                    tokens = tried
                    break
    return _from_tokens(tokens)


def _shorter(value: Any) -> Iterator[Any]:
    """A number with ever more digits; nothing if it has none to spare."""
    if isinstance(value, float):
        yield 0.0
        yield from (float(f"{value:.{digits}e}") for digits in range(15))
    elif isinstance(value, tuple) and value and isinstance(value[0], float):
        for digits in range(15):
            yield tuple(float(f"{number:.{digits}e}") for number in value)
