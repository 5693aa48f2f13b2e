"""What is odd about a schedule, before it costs a training run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from fastsched._check import LARGEST_STEP, VALUE, Number, is_number, shown
from fastsched._tails import tail
from fastsched.kinds import Cosine, CosineRestarts, OneMinusSqrt, Polynomial, Rex, Samples, Tanh
from fastsched.plan import _Curves
from fastsched.schedule import Clip, Head, Repeat, Scaled, Schedule, Skip, SpeedUp, Then, _value_at

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

DEFAULT_LOOK = 100_000  # updates of a schedule without an end
LARGEST_LOOK = 1 << 21  # updates that are looked at one by one
SAMPLE = 1 << 16  # of more than that, so many evenly spaced
GROUP_LOOK = 1 << 10  # points of each of the groups' own curves
MOST_JOINS = 1 << 12
MOST_STEPS = 8  # in one finding
VISIBLE = 1e-3  # of the peak: what differs by less is not worth a word
EQUAL = 1e-9
SEVERITIES = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One oddity.

    ``code``: a stable name; ``severity``: ``"error"`` (no training can want this), ``"warning"`` (rarely meant) or
    ``"info"`` (a fact); ``message``: what, where and what to do; ``steps``: the first of the steps concerned.
    """

    code: str
    severity: str
    message: str
    steps: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"{self.severity}: {self.message} [{self.code}]"


class Report(Sequence[Finding]):
    """Findings, the gravest first: a sequence that prints one a line."""

    __slots__ = ("_findings",)

    def __init__(self, findings: Iterable[Finding]) -> None:
        self._findings = tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __eq__(self, other: object) -> bool:
        return self._findings == other._findings if isinstance(other, Report) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._findings)

    def __str__(self) -> str:
        return "\n".join(map(str, self._findings))

    __repr__ = __str__

    @property
    def codes(self) -> tuple[str, ...]:
        """The findings' codes, in their order."""
        return tuple(finding.code for finding in self._findings)


def lint(schedule: Schedule, groups: Iterable[Any] | None = None, steps: int | None = None) -> Report:
    """What is odd about a schedule used for ``steps`` updates, by default its own length: see `Schedule.lint`."""
    who = "lint"
    rule = Number("pass how many updates the training takes", least=1, most=LARGEST_STEP, whole=True, optional=True)
    look = _Look(schedule, rule(who, "steps", steps))
    findings = [finding for check in _CHECKS for finding in check(look)]
    if groups is not None:
        findings += _Groups(who, groups, look).findings()
    return Report(findings)


# ---- Robbins and Monro ----


@dataclass(frozen=True)
class RobbinsMonro:
    """What a schedule's sums over all steps, without end, come to.

    ``diverges``: whether the sum of its values' sizes is infinite; ``squares_converge``: whether that of their
    squares is finite; ``negative``: whether values below zero come again and again.
    """

    diverges: bool
    squares_converge: bool
    negative: bool

    @property
    def holds(self) -> bool:
        """Whether the conditions hold: both, and in the end no value is negative."""
        return self.diverges and self.squares_converge and not self.negative

    def __str__(self) -> str:
        first = "infinite" if self.diverges else "finite"
        second = "finite" if self.squares_converge else "infinite"
        verdict = "hold" if self.holds else "do not hold"
        values = "; values below zero come again and again" if self.negative else ""
        return f"sum of lr is {first}, sum of lr**2 is {second}{values}: the Robbins-Monro conditions {verdict}"


def robbins_monro(schedule: Schedule) -> RobbinsMonro:
    """Whether the conditions of Robbins and Monro hold: ``sum s(t)`` infinite, ``sum s(t)**2`` finite.

    Both sums are over all steps without end (a schedule that ends holds its last value) and are decided in closed form,
    from how each part grows or falls, never from numbers. Under the conditions stochastic gradient descent brings the
    gradient of a smooth function that is bounded below as near to 0 as one likes, though gradients keep their variance.
    Source: Robbins and Monro, A Stochastic Approximation Method, 1951.

    >>> print(robbins_monro(InverseTime(rate=1.0)))
    sum of lr is infinite, sum of lr**2 is finite: the Robbins-Monro conditions hold
    >>> print(robbins_monro(InverseSqrt(timescale=1.0)))
    sum of lr is infinite, sum of lr**2 is infinite: the Robbins-Monro conditions do not hold
    """
    end = tail(schedule)
    return RobbinsMonro(end.sum_is_infinite(1), not end.sum_is_infinite(2), end.is_negative_at_times())


def convergence_bound(schedule: Schedule, steps: int, *, gap: float, smoothness: float, gradient_bound: float) -> float:
    """How small the smallest gradient must have become: a bound of ``min over t < steps of |grad f(x_t)|**2``.

    ``(gap + smoothness * gradient_bound**2 / 2 * sum s(t)**2) / sum s(t)``, where ``gap`` is at least ``f(x_0)``
    minus the infimum of ``f``. Assumptions: the gradient of ``f`` is Lipschitz with constant ``smoothness``; updates
    are ``x - s(t) * g`` with ``g`` the gradient, of norm at most ``gradient_bound`` (stochastic gradients: unbiased,
    their squared norm at most ``gradient_bound**2`` in expectation, and what is bounded is the smallest expected
    squared norm); ``s(t) >= 0``. Convexity is not needed. It says nothing about Adam, and a bound is no forecast.
    Proof: by smoothness ``f(x_{t+1}) <= f(x_t) - s(t) |grad|**2 + smoothness/2 * s(t)**2 * gradient_bound**2``; add up
    over the steps, and bound the least squared norm by the average with weights ``s(t)``. It falls to 0 with ``steps``
    if the conditions of `robbins_monro` hold.
    Errors: ``ValueError`` if a number is out of range, a value is negative or all are 0.
    Source: Bottou, Curtis and Nocedal, Optimization Methods for Large-Scale Machine Learning, 2018, section 4.

    A cosine from 0.1 to 0.001, halfway through, is at the mean of both:

    >>> halfway = Cosine(0.1, 0.001, steps=100)(50)
    >>> f"{halfway:.4f}"
    '0.0505'

    The step sizes ``1/t`` satisfy the conditions, but their sum grows like the logarithm, too slowly for practice;
    that of ``1/sqrt(t)``, which do not, like twice the root: 9.79 beside 198.54 at 10000 steps, and a lower bound.

    >>> quick, slow = InverseTime(rate=1.0), InverseSqrt(timescale=1.0)
    >>> f"{quick.table(10000).sum():.2f} {slow.table(10000).sum():.2f}"
    '9.79 198.54'
    >>> problem = {"gap": 1.0, "smoothness": 1.0, "gradient_bound": 1.0}
    >>> f"{convergence_bound(quick, 10000, **problem):.3f} {convergence_bound(slow, 10000, **problem):.3f}"
    '0.186 0.030'
    """
    who = "convergence_bound"
    if not isinstance(schedule, Schedule):
        raise TypeError(f"{who}: schedule must be a Schedule, got {shown(schedule)}; wrap a number as Constant(number)")
    count = Number("pass how many updates the training takes", least=1, most=2**32, whole=True)(who, "steps", steps)
    gap = Number("pass f(x_0) minus the least f", least=0.0)(who, "gap", gap)
    smoothness = Number("pass the gradient's Lipschitz constant", least=0.0)(who, "smoothness", smoothness)
    norm = Number("pass a bound of the gradient's norm", least=0.0)(who, "gradient_bound", gradient_bound)
    total, squares, least = _sums(schedule, count)
    if least < 0.0:
        raise ValueError(f"{who}: values must be >= 0, got {least!r}; clip(low=0) the schedule")
    if total == 0.0:
        raise ValueError(f"{who}: some value must be > 0, got only 0; pass more steps or another schedule")
    return float((gap + smoothness * norm * norm / 2.0 * squares) / total)


def _sums(schedule: Schedule, steps: int) -> tuple[float, float, float]:
    """The sums of the values and of their squares, and the least value."""
    totals, squares, least = [], [], math.inf
    for start in range(0, steps, LARGEST_LOOK):
        values = schedule.table(min(LARGEST_LOOK, steps - start), start=start)
        totals.append(float(values.sum()))
        squares.append(float(values @ values))
        least = min(least, float(values.min()))
    return math.fsum(totals), math.fsum(squares), least


# ---- what the checks look at ----


class _Look:
    """The values that the updates use, and those after them."""

    def __init__(self, schedule: Schedule, steps: int | None) -> None:
        self.schedule = schedule
        endless = schedule.steps == math.inf
        self.updates = steps if steps is not None else DEFAULT_LOOK if endless else int(schedule.steps)
        self.whole = self.updates <= LARGEST_LOOK
        self.steps = _spread(0, self.updates - 1, LARGEST_LOOK, SAMPLE)
        self.values = schedule.table(self.updates) if self.whole else _values(schedule, self.steps)
        self.size = float(np.abs(self.values).max())
        # Nobody knows where the training on a schedule without an end stops.
        self.ends = steps is not None or not endless
        last = schedule.steps if not endless else 2 * self.updates
        self.steps_after = _spread(
            self.updates, max(self.updates, min(int(last), LARGEST_STEP)), LARGEST_LOOK // 4, SAMPLE
        )
        self.values_after = _values(schedule, self.steps_after) if self.ends else np.zeros(0)


def _spread(first: int, last: int, all_of: int, of_more: int) -> Steps:
    """Steps from the first to the last: all, or if they are more than ``all_of`` so many."""
    if last - first < all_of:
        return np.arange(first, last + 1)
    return np.linspace(first, last, of_more).round().astype(np.int64)


def _values(schedule: Schedule, steps: npt.NDArray[Any]) -> Floats:
    values = schedule(steps)
    assert isinstance(values, np.ndarray)
    return values


def _some(steps: Iterable[Any]) -> tuple[int, ...]:
    return tuple(int(step) for step, _ in zip(steps, range(MOST_STEPS), strict=False))


def _where(steps: Sequence[Any] | Steps) -> str:
    """A few steps in words."""
    if len(steps) == 1:
        return f"at step {steps[0]}"
    return f"at {len(steps)} steps, the first of them {steps[0]}"


# ---- checks ----


def _check_finite(look: _Look) -> Iterator[Finding]:
    bad = look.steps[~np.isfinite(look.values)]
    if len(bad):
        message = f"the value is not finite {_where(bad)}; clip it, or make it grow more slowly"
        yield Finding("not-finite", "error", message, _some(bad))


def _check_sign(look: _Look) -> Iterator[Finding]:
    bad = look.steps[look.values < 0.0]
    if len(bad):
        message = f"the value is negative {_where(bad)}: such an update climbs; clip(low=0) it"
        yield Finding("negative", "error", message, _some(bad))
        return
    if look.ends:
        bad = look.steps_after[look.values_after < 0.0]
        if len(bad):
            message = f"the value is negative after the {look.updates} updates, {_where(bad)}; clip(low=0) it"
            yield Finding("negative", "warning", message, _some(bad))


def _check_first(look: _Look) -> Iterator[Finding]:
    if look.values[0] == 0.0 < look.size:
        message = "the first update has lr 0 and changes no weight; start the warmup above 0, or one step later"
        yield Finding("zero-first-update", "info", message, (0,))


def _check_jumps(look: _Look) -> Iterator[Finding]:
    joins = np.array(sorted(_joins(look.schedule, look.updates)), np.int64)
    if not len(joins):
        return
    around = np.maximum(joins[:, None] + np.arange(-2, 2), 0)
    changes = np.diff(_values(look.schedule, around), axis=1)
    neighbours = np.maximum(np.abs(changes[:, 0]), np.abs(changes[:, 2]))
    # From what going on as before would have given: a turn is no jump.
    jumps = np.abs(changes[:, 1] - changes[:, 0]) > 1.5 * neighbours + 10 * VISIBLE * look.size
    plateaus = neighbours == 0.0
    for chosen, severity, what in (
        (jumps & ~plateaus, "warning", "it jumps where two parts meet"),
        (jumps & plateaus, "info", "it steps from one plateau to another"),
    ):
        if chosen.any():
            first = int(joins[chosen][0])
            before, after = look.schedule(first - 1), look.schedule(first)
            message = f"{what}, {_where(joins[chosen])}, from {before:.6g} to {after:.6g}"
            if severity == "warning":
                message += "; let the second part begin where the first one ends"
            yield Finding("jump", severity, message, _some(joins[chosen]))


def _check_peak(look: _Look) -> Iterator[Finding]:
    used = float(look.values.max())
    best = int(look.steps[look.values.argmax()])
    between = _values(look.schedule, look.steps + 0.5)
    highest = int(look.steps[between.argmax()])
    peak, step = max(
        _highest(look.schedule, max(0, best - 1), min(best + 1, look.updates - 1)),
        _highest(look.schedule, highest, highest + 1),
    )
    if abs(step - round(step)) < VISIBLE:
        where = f"just before step {round(step)}, where it jumps"
    else:
        where = f"near step {step:.6g}, between two updates; make the peak's step a whole number"
    if look.ends and look.values_after.max() >= peak:
        after = int(look.values_after.argmax())
        peak, step = float(look.values_after[after]), int(look.steps_after[after])
        where = f"at step {step}, after the last of {look.updates} updates; shorten what comes before it"
    if peak > used + VISIBLE * abs(peak):
        message = f"no update uses the peak {peak:.6g}: the largest value used is {used:.6g}, and it lies {where}"
        yield Finding("unused-peak", "warning", message, (round(step),))


def _highest(schedule: Schedule, low: float, high: float) -> tuple[float, float]:
    """The largest value between two steps, and where it is."""
    for _ in range(4):
        grid = np.linspace(low, high, 65)
        values = _values(schedule, grid)
        k = int(values.argmax())
        low, high = grid[max(k - 1, 0)], grid[min(k + 1, 64)]
    return float(values[k]), float(grid[k])


def _check_end(look: _Look) -> Iterator[Finding]:
    if not look.ends or look.schedule.steps <= look.updates:
        return
    last = float(look.values[-1])
    higher = look.values_after > last + VISIBLE * look.size
    if higher.any():
        step, top = int(look.steps_after[higher.argmax()]), float(look.values_after.max())
        message = (
            f"it rises after the end: {last:.6g} at the last update, {top:.6g} later, higher from step {step} on; "
            "hold the end, or train no longer"
        )
        yield Finding("rise-after-end", "warning", message, (step,))


def _check_floor(look: _Look) -> Iterator[Finding]:
    message = _floor_above(look.schedule, look.updates)
    if message:
        yield Finding("floor-above-base", "warning", f"{message}; lower the floor, or make it a ratio", ())


def _check_sums(look: _Look) -> Iterator[Finding]:
    message = str(robbins_monro(look.schedule))
    if look.whole and look.size < math.inf:
        with np.errstate(over="ignore"):
            total, squares = float(look.values.sum()), float(look.values @ look.values)
        message += f"; over {look.updates} updates they are {total:.6g} and {squares:.6g}"
    yield Finding("robbins-monro", "info", message)


_CHECKS: tuple[Callable[[_Look], Iterable[Finding]], ...] = (
    _check_finite,
    _check_sign,
    _check_first,
    _check_jumps,
    _check_peak,
    _check_end,
    _check_floor,
    _check_sums,
)


# ---- the parts of a schedule ----


class _Part:
    """A part of a schedule: its step ``t`` is the whole's ``begin + t / speed``."""

    def __init__(self, node: Schedule, begin: Fraction, speed: Fraction) -> None:
        self.node, self.begin, self.speed = node, begin, speed

    def at(self, step: float) -> int:
        """The whole's first step at or after one of this part."""
        return math.ceil(self.begin + Fraction(step) / self.speed)

    def within(self, node: Schedule, begin: int = 0, speed: Fraction = Fraction(1)) -> _Part:
        """An operand of this part, which begins at its step ``begin`` and runs so many times as fast."""
        return _Part(node, self.begin + begin / self.speed, self.speed * speed)

    def inner(self) -> Iterator[_Part]:
        """Its operands; of what is repeated, the first time."""
        node = self.node
        if isinstance(node, Then):
            begin = 0
            for piece in node._pieces():
                yield self.within(piece, begin)
                begin += int(piece.steps) if piece.steps != math.inf else 0
        elif isinstance(node, Skip):
            yield self.within(node._parts[0], -node.skipped)
        elif isinstance(node, SpeedUp):
            yield self.within(node._parts[0], 0, Fraction(node.numerator, node.denominator))
        else:
            yield from (self.within(operand) for operand in node._operands())


def _parts(schedule: Schedule) -> Iterator[_Part]:
    """The schedule and its parts, in order."""
    stack = [_Part(schedule, Fraction(0), Fraction(1))]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(reversed(list(part.inner())))


def _joins(schedule: Schedule, updates: int) -> set[int]:
    """Steps at which a part begins elsewhere than the one before it ends: where nobody has asked for a jump.

    The drops of `StepDecay` and its like and the restarts of cycles are asked for.
    """
    joins: set[int] = set()
    for part in _parts(schedule):
        steps: Iterable[float] = ()
        if isinstance(part.node, Then):
            steps = _broken(part.node)
        elif isinstance(part.node, Samples):
            steps = _outliers(np.array(part.node.values))
        joins.update(at for at in map(part.at, steps) if 1 <= at < updates)
        if len(joins) > MOST_JOINS:
            break
    return joins


def _broken(chain: Then) -> Iterator[int]:
    """Where the pieces of a chain do not meet, unless that is a restart."""
    begin = 0
    for piece, following in pairwise(chain._pieces()):
        begin += int(piece.steps)
        end, start = _value_at(piece, int(piece.steps)), _value_at(following, 0)
        kind = type(_bare(piece))
        restart = issubclass(kind, _ANNEALING) and kind is type(_bare(following)) and start > end
        if not restart and abs(end - start) > EQUAL * max(abs(end), abs(start)):
            yield begin


def _bare(schedule: Schedule) -> Schedule:
    """What is scaled, clipped, cut or repeated."""
    while isinstance(schedule, (Repeat, Clip, Scaled, Skip, SpeedUp, Head)):
        (schedule,) = schedule._parts
    return schedule


def _outliers(values: Floats) -> list[int]:
    """Where a change is far larger than those beside it."""
    changes = np.abs(np.diff(values))
    beside = np.maximum(np.append(changes[1:], 0.0), np.append(0.0, changes[:-1]))
    return (np.flatnonzero(changes > 4.0 * beside + 0.05 * np.abs(values).max()) + 1).tolist()


_ANNEALING = (Cosine, Polynomial, Tanh, Rex, OneMinusSqrt, CosineRestarts)


def _floor_above(schedule: Schedule, updates: int) -> str:
    """How a floor lies above all that it should be the floor of; empty if none does."""
    for part in _parts(schedule):
        node = part.node
        if isinstance(node, Clip) and node.low is not None:
            (inner,) = node._parts
            if node.low > _top(inner, updates):
                return f"the floor {node.low:.6g} lies above every value of what it clips"
    *before, last = _bare(schedule)._pieces()
    kind = _bare(last)
    if isinstance(kind, _ANNEALING) and 0.0 < kind.start < kind.end:
        top = _top(last, updates)
        if all(_top(piece, updates) < (1.0 - VISIBLE) * top for piece in before):  # a momentum comes back to its height
            return f"it rises from {kind.start:.6g} to its end {kind.end:.6g}"
    return ""


def _top(schedule: Schedule, updates: int) -> float:
    """About the largest value."""
    return float(_values(schedule, _spread(0, int(min(schedule.steps, updates)), GROUP_LOOK, GROUP_LOOK)).max())


# ---- groups ----


class _Groups:
    """The groups' base lrs, and the schedules of those that have their own."""

    def __init__(self, who: str, groups: Any, look: _Look) -> None:
        advice = "pass base lrs, or mappings with an lr, one per group"
        if isinstance(groups, (str, bytes, Mapping, Schedule)) or not isinstance(groups, Iterable):
            raise TypeError(f"{who}: groups must be a list, got {shown(groups)}; {advice}")
        self.look = look
        self.bases: dict[int, float] = {}
        self.curves: dict[int, Schedule] = {}
        for g, group in enumerate(groups):
            lr = group
            if isinstance(group, Mapping):
                if "lr" not in group:
                    raise ValueError(f"{who}: groups[{g}] must have an lr, got a mapping without; {advice}")
                lr = group["lr"] if isinstance(group["lr"], Schedule) else group.get("initial_lr", group["lr"])
                if not is_number(lr) and hasattr(lr, "__float__"):
                    lr = float(lr)  # a tensor or array of one element
            if isinstance(lr, Schedule):
                self.curves[g] = lr
            elif is_number(lr):
                self.bases[g] = VALUE(who, f"the lr of groups[{g}]", lr)
            else:
                raise TypeError(
                    f"{who}: groups[{g}] must be a number, a Schedule or a mapping, got {shown(lr)}; {advice}"
                )

    def findings(self) -> Iterator[Finding]:
        """What is odd about the groups, not about the schedule alone."""
        negative = [g for g, base in self.bases.items() if base < 0.0]
        if negative:
            message = f"the base lr is negative in {_groups(negative)}: such an update climbs; pass one >= 0"
            yield Finding("negative", "error", message)
        yield from self._floors_of_bases()
        yield from self._floors_of_curves()

    def _floors_of_bases(self) -> Iterator[Finding]:
        """A schedule that holds lrs, not ratios, has the peak of a group whose base it was made of."""
        look = self.look
        top = int(look.values.argmax())
        peak = max(float(look.values[top]), float(look.values_after.max(initial=-math.inf)))
        absolute = any(math.isclose(peak, base, rel_tol=1e-6) for base in self.bases.values())
        if not absolute or math.isclose(peak, 1.0, rel_tol=1e-6):
            return
        bottom = top + int(look.values[top:].argmin())
        floor = float(look.values[bottom])
        if look.schedule.steps <= look.updates:
            floor = min(floor, float(look.values_after[0]))
        above = [g for g, base in self.bases.items() if 0.0 <= base < floor]
        if above:
            message = (
                f"the floor {floor:.6g} lies above the base lr of {_groups(above)}: with it as an absolute floor they "
                "rise where others fall; make the floor a ratio of each group's base"
            )
            yield Finding("floor-above-base", "warning", message, (int(look.steps[bottom]),))

    def _floors_of_curves(self) -> Iterator[Finding]:
        """Groups with schedules of their own: some end at their peak while others fall."""
        curves = _Curves()
        places = {g: curves.place(curve) for g, curve in self.curves.items()}
        steps = _spread(0, self.look.updates - 1, GROUP_LOOK, GROUP_LOOK)
        factor = _values(self.look.schedule, steps)
        rises, falls, messages = [], [], []
        for curve in curves.curves:
            values = _values(curve, steps) * factor
            end, peak, middle = float(values[-1]), float(values.max()), float(values[len(values) // 2])
            rises.append(end > (1.0 + VISIBLE) * middle and end >= (1.0 - VISIBLE) * peak)
            falls.append(end < (1.0 - VISIBLE) * peak)
            messages.append(_floor_above(curve, self.look.updates))
        above = [g for g, (place, _) in places.items() if place >= 0 and (messages[place] or rises[place])]
        if above and (any(falls) or any(messages)):
            message = (
                f"{_groups(above)} end at their highest lr, or never leave it, while others fall: an absolute floor "
                "lies above their base; make the floor a ratio of each group's base"
            )
            yield Finding("floor-above-base", "warning", message, (int(steps[-1]),))


def _groups(indices: Sequence[int]) -> str:
    """A few groups in words."""
    return f"group {indices[0]}" if len(indices) == 1 else f"{len(indices)} groups, the first of them {indices[0]}"
