"""optax's schedules: ``optax.schedules``.

optax's schedules hold absolute values and count steps from 0, as ours do; there is no base lr. All of them hold their
last value. optax computes in float32 unless jax is told otherwise, so it agrees with these to about 1e-6 by default.

>>> from fastsched import compat
>>> s = compat.optax.warmup_cosine_decay_schedule(0.0, 0.1, warmup_steps=10, decay_steps=50, end_value=0.01)
>>> s(0), s(10), s(30), s(50)
(0.0, 0.1, 0.055, 0.01)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, pairwise
from operator import mul
from typing import Any, cast

from fastsched._check import VALUE, Number, is_number, shown
from fastsched.compat._peer import Group, peer
from fastsched.compat._pieces import chain, delayed, divisor, head, length, part, spread, tail
from fastsched.kinds import Constant, Cosine, Exponential, Linear, Piecewise, Polynomial
from fastsched.schedule import Schedule

__all__ = [
    "constant_schedule",
    "cosine_decay_schedule",
    "cosine_onecycle_schedule",
    "exponential_decay",
    "join_schedules",
    "linear_onecycle_schedule",
    "linear_schedule",
    "piecewise_constant_schedule",
    "piecewise_interpolate_schedule",
    "polynomial_schedule",
    "sgdr_schedule",
    "warmup_constant_schedule",
    "warmup_cosine_decay_schedule",
    "warmup_exponential_decay_schedule",
]

STEP = Number("pass a step", least=-(2.0**53), most=2.0**53, whole=True)


@peer(base=False)
def constant_schedule(group: Group, value: float) -> Schedule:
    """One value: `Constant`.

    >>> constant_schedule(0.5)
    Constant(0.5)
    """
    return Constant(value)


@peer(base=False)
def polynomial_schedule(
    group: Group, init_value: float, end_value: float, power: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """``init_value`` for ``transition_begin`` steps, then `Polynomial`.

    ``transition_steps <= 0`` is a constant ``init_value``, and a negative begin counts as 0, as in optax.

    >>> polynomial_schedule(1.0, 0.1, power=2, transition_steps=30, transition_begin=5)
    Constant(1.0, steps=5).then(Polynomial(1.0, 0.1, steps=30, power=2.0))
    """
    if _is_none(group, "transition_steps", transition_steps):
        return Constant(init_value)
    steps = length(group, "transition_steps", transition_steps)
    if VALUE(group.who, "power", power) == 1:
        curve = spread(lambda n: Linear(init_value, end_value, steps=n), steps)
    else:
        curve = spread(lambda n: Polynomial(init_value, end_value, steps=n, power=power), steps)
    return _from(group, transition_begin, init_value, curve)


@peer(base=False)
def linear_schedule(
    group: Group, init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> Schedule:
    """`polynomial_schedule` of power 1.

    >>> linear_schedule(0.0, 1.0, transition_steps=10)
    Linear(0.0, 1.0, steps=10)
    """
    return cast(Schedule, polynomial_schedule(init_value, end_value, 1, transition_steps, transition_begin))


def _is_none(group: Group, name: str, steps: Any) -> bool:
    """Whether a length stands for no change at all."""
    if not is_number(steps):
        raise TypeError(f"{group.who}: {name} must be a number, got {shown(steps)}; pass how many steps it takes")
    return not steps > 0


def _from(group: Group, begin: Any, value: float, schedule: Schedule) -> Schedule:
    """A schedule that begins late."""
    return delayed(value, max(0, STEP(group.who, "transition_begin", begin)), schedule)


@peer(base=False)
def piecewise_constant_schedule(
    group: Group, init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """`Piecewise`: every boundary multiplies the value, from the boundary's own step on.

    Keys of ``boundaries_and_scales`` are steps; those before step 0 count as 0.

    >>> piecewise_constant_schedule(1.0, {10: 0.5, 25: 0.1})
    Piecewise(boundaries=(10, 25), values=(1.0, 0.5, 0.05))
    """
    edges, values = _levels(group, init_value, boundaries_and_scales)
    if not edges:
        return Constant(init_value)
    return Piecewise(boundaries=[max(0, edge) for edge in edges], values=values)


def _levels(group: Group, start: float, scales: Any) -> tuple[list[int], list[float]]:
    """The boundaries in order, and the value before, between and after them."""
    if scales is not None and not isinstance(scales, Mapping):
        raise TypeError(f"{group.who}: boundaries_and_scales must be a dict, got {shown(scales)}; pass {{step: scale}}")
    items = sorted((_edge(group, edge), _scale(group, scale)) for edge, scale in (scales or {}).items())
    factors = [VALUE(group.who, "init_value", start), *(scale for _, scale in items)]
    return [edge for edge, _ in items], list(accumulate(factors, mul))


def _edge(group: Group, edge: Any) -> int:
    """A key, which JSON makes a string."""
    plain = int(edge) if isinstance(edge, str) and edge.lstrip("-").isdigit() else edge
    return int(STEP(group.who, "a key of boundaries_and_scales", plain))


def _scale(group: Group, scale: Any) -> float:
    rule = Number("pass the factor at the boundary", least=0.0)
    return float(rule(group.who, "a value of boundaries_and_scales", scale))


@peer(base=False)
def exponential_decay(
    group: Group,
    init_value: float,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """``init_value`` for ``transition_begin`` steps, then `Exponential`, all clipped by ``end_value``.

    ``end_value`` is a floor if ``decay_rate < 1`` and else a ceiling; ``init_value`` is clipped too. The schedule is a
    constant ``init_value``, not clipped, if ``transition_steps <= 0`` or ``decay_rate == 0``. All as in optax.

    >>> exponential_decay(1.0, 10, 0.5, end_value=0.1)
    Exponential(1.0, gamma=0.5, every=10.0).clip(0.1, None)
    """
    rate = VALUE(group.who, "decay_rate", decay_rate)
    if _is_none(group, "transition_steps", transition_steps) or rate == 0:
        return Constant(init_value)
    decay = Exponential(init_value, gamma=decay_rate, every=transition_steps, staircase=staircase)
    curve = _from(group, transition_begin, init_value, decay)
    if end_value is None:
        return curve
    return curve.clip(low=end_value) if rate < 1.0 else curve.clip(high=end_value)


@peer(base=False)
def cosine_decay_schedule(
    group: Group, init_value: float, decay_steps: int, alpha: float = 0.0, exponent: float = 1.0
) -> Schedule:
    """`Cosine` down to ``alpha * init_value``: the floor is a ratio.

    >>> cosine_decay_schedule(0.5, decay_steps=100, alpha=0.1)
    Cosine(0.5, 0.05, steps=100)
    """
    floor = VALUE(group.who, "init_value", init_value) * VALUE(group.who, "alpha", alpha)
    steps = length(group, "decay_steps", decay_steps)
    return spread(lambda n: Cosine(init_value, floor, steps=n, exponent=exponent), steps)


@peer(base=False)
def piecewise_interpolate_schedule(
    group: Group, interpolate_type: str, init_value: float, boundaries_and_scales: Mapping[int, float] | None = None
) -> Schedule:
    """`Linear` or `Cosine` pieces between the values that `piecewise_constant_schedule` has at its boundaries.

    ``interpolate_type`` is ``"linear"`` or ``"cosine"``; the scales multiply up, they are no values.

    >>> piecewise_interpolate_schedule("linear", 1.0, {4: 0.5, 8: 0.5})
    Linear(1.0, 0.5, steps=4).then(Linear(0.5, 0.25, steps=4))
    """
    return _interpolated(group, interpolate_type, init_value, boundaries_and_scales)


def _interpolated(group: Group, interpolate_type: Any, start: float, scales: Any) -> Schedule:
    kinds: dict[Any, type[Linear | Cosine]] = {"linear": Linear, "cosine": Cosine}
    if not isinstance(interpolate_type, str) or interpolate_type not in kinds:
        raise ValueError(
            f"{group.who}: interpolate_type must be a known one, got {shown(interpolate_type)}; "
            "pass 'linear' or 'cosine'"
        )
    edges, values = _levels(group, start, scales)
    if edges and edges[0] < 0:
        raise ValueError(f"{group.who}: boundaries must be >= 0, got {edges[0]}; count updates from 0")
    kind = kinds[interpolate_type]
    steps = [after - before for before, after in pairwise([0, *edges])]
    pieces = [kind(a, b, steps=n) for (a, b), n in zip(pairwise(values), steps, strict=True) if n]
    return chain(pieces) if pieces else Constant(values[-1])


@peer(base=False)
def linear_onecycle_schedule(
    group: Group,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    pct_final: float = 0.85,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Three `Linear` pieces: from ``peak_value/div_factor`` up, back, and down to that over ``final_div_factor``.

    They meet at ``int(pct_start * transition_steps)`` and ``int(pct_final * transition_steps)``. Where two meetings
    fall on one step, optax forgets the earlier one's scale; so does this.

    >>> s = linear_onecycle_schedule(100, 1.0)
    >>> s(0), s(30), s(85), round(s(100), 12)
    (0.04, 1.0, 0.04, 4e-06)
    """
    meetings = VALUE(group.who, "pct_start", pct_start), VALUE(group.who, "pct_final", pct_final)
    scales = div_factor, 1.0 / divisor(group, "div_factor", div_factor)
    last = 1.0 / divisor(group, "final_div_factor", final_div_factor)
    shares = dict(zip(meetings, scales, strict=True))
    return _one_cycle(group, "linear", transition_steps, peak_value, div_factor, shares, last)


@peer(base=False)
def cosine_onecycle_schedule(
    group: Group,
    transition_steps: int,
    peak_value: float,
    pct_start: float = 0.3,
    div_factor: float = 25.0,
    final_div_factor: float = 1e4,
) -> Schedule:
    """Two `Cosine` pieces: from ``peak_value/div_factor`` up, and down to that over ``final_div_factor``.

    They meet at ``int(pct_start * transition_steps)``: optax rounds down, where torch's legs meet between two steps.

    >>> s = cosine_onecycle_schedule(100, 1.0)
    >>> s(0), s(30), round(s(100), 12)
    (0.04, 1.0, 4e-06)
    """
    whole = divisor(group, "div_factor", div_factor) * divisor(group, "final_div_factor", final_div_factor)
    scales = {VALUE(group.who, "pct_start", pct_start): div_factor}
    return _one_cycle(group, "cosine", transition_steps, peak_value, div_factor, scales, 1.0 / whole)


def _one_cycle(
    group: Group, kind: str, steps: Any, peak: float, div_factor: float, shares: Mapping[float, float], last: float
) -> Schedule:
    total = int(Number("pass how many steps it takes", least=1, most=2.0**53, whole=True)(group.who, "steps", steps))
    scales = {int(share * total): scale for share, scale in shares.items()}
    start = VALUE(group.who, "peak_value", peak) / divisor(group, "div_factor", div_factor)
    return _interpolated(group, kind, start, scales | {total: last})


@peer(base=False)
def warmup_constant_schedule(group: Group, init_value: float, peak_value: float, warmup_steps: int) -> Schedule:
    """`Linear` up to ``peak_value``, which it holds. Without warmup it holds ``init_value``, as in optax.

    >>> warmup_constant_schedule(0.0, 1.0, warmup_steps=10)
    Linear(0.0, 1.0, steps=10)
    """
    return cast(Schedule, linear_schedule(init_value, peak_value, warmup_steps))


@peer(base=False)
def warmup_cosine_decay_schedule(
    group: Group,
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    decay_steps: int,
    end_value: float = 0.0,
    exponent: float = 1.0,
) -> Schedule:
    """`Linear` then `Cosine`. ``decay_steps`` is the whole length: the warmup is a part of it.

    >>> warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=50)
    Linear(0.0, 1.0, steps=10).then(Cosine(1.0, 0.0, steps=40))
    """
    warmup = _warmup_steps(group, warmup_steps)
    total = length(group, "decay_steps", decay_steps)
    if not total > warmup:
        raise ValueError(
            f"{group.who}: decay_steps must be > warmup_steps, got {shown(decay_steps)} and {warmup}; "
            "it is the whole length, the warmup included"
        )
    # optax's floor is a ratio of the peak, and 0 where there is none
    end = end_value if VALUE(group.who, "peak_value", peak_value) else 0.0
    decay = spread(lambda n: Cosine(peak_value, end, steps=n, exponent=exponent), total - warmup)
    return _warmed_up(init_value, peak_value, warmup, decay)


def _warmup_steps(group: Group, steps: Any) -> int:
    return int(Number("leave it out with 0", least=0, most=2.0**53, whole=True)(group.who, "warmup_steps", steps))


def _warmed_up(start: float, peak: float, steps: int, schedule: Schedule) -> Schedule:
    return Linear(start, peak, steps=steps).then(schedule) if steps else schedule


@peer(base=False)
def warmup_exponential_decay_schedule(
    group: Group,
    init_value: float,
    peak_value: float,
    warmup_steps: int,
    transition_steps: int,
    decay_rate: float,
    transition_begin: int = 0,
    staircase: bool = False,
    end_value: float | None = None,
) -> Schedule:
    """`Linear`, then `exponential_decay` from ``peak_value``; only the decay is clipped by ``end_value``.

    >>> warmup_exponential_decay_schedule(0.0, 1.0, warmup_steps=10, transition_steps=20, decay_rate=0.5)
    Linear(0.0, 1.0, steps=10).then(Exponential(1.0, gamma=0.5, every=20.0))
    """
    decay = exponential_decay(peak_value, transition_steps, decay_rate, transition_begin, staircase, end_value)
    return _warmed_up(init_value, peak_value, _warmup_steps(group, warmup_steps), decay)


@peer(base=False)
def sgdr_schedule(group: Group, cosine_kwargs: Iterable[Mapping[str, Any]]) -> Schedule:
    """One `warmup_cosine_decay_schedule` after another, each given by its arguments; no more is repeated than listed.

    >>> cycle = {"init_value": 0.0, "warmup_steps": 2, "decay_steps": 10}
    >>> s = sgdr_schedule([cycle | {"peak_value": 1.0}, cycle | {"peak_value": 0.5}])
    >>> s(0), s(2), s(10), s(12), s(20)
    (0.0, 1.0, 0.0, 0.5, 0.0)
    """
    if isinstance(cosine_kwargs, (str, bytes, Mapping)) or not isinstance(cosine_kwargs, Iterable):
        raise TypeError(f"{group.who}: cosine_kwargs must be a list, got {shown(cosine_kwargs)}; pass a list of dicts")
    cycles = [warmup_cosine_decay_schedule(**_arguments(group, i, kwargs)) for i, kwargs in enumerate(cosine_kwargs)]
    if not cycles:
        raise ValueError(f"{group.who}: cosine_kwargs must have at least one cycle, got none; pass a list of dicts")
    return chain(cycles)


def _arguments(group: Group, i: int, kwargs: Any) -> Mapping[str, Any]:
    if not isinstance(kwargs, Mapping):
        raise TypeError(
            f"{group.who}: cosine_kwargs[{i}] must be a dict, got {shown(kwargs)}; pass a cycle's arguments"
        )
    return kwargs


@peer(base=False)
def join_schedules(group: Group, schedules: Sequence[Schedule], boundaries: Sequence[int]) -> Schedule:
    """One schedule after another: ``schedules[i]`` counts from ``boundaries[i-1]`` on.

    Each is cut, or holds its last value, up to its boundary. ``schedules`` are Schedules, or functions
    without arguments that make them; ``boundaries`` are one less.
    A schedule whose turn comes no earlier than the next one's is never used.

    >>> join_schedules([linear_schedule(0.0, 1.0, 8), constant_schedule(1.0), cosine_decay_schedule(1.0, 20)], [8, 25])
    Linear(0.0, 1.0, steps=8).then(Constant(1.0, steps=17)).then(Cosine(1.0, 0.0, steps=20))
    """
    for name, values in (("schedules", schedules), ("boundaries", boundaries)):
        if not isinstance(values, (list, tuple)):
            raise TypeError(f"{group.who}: {name} must be a list, got {shown(values)}; pass a list")
    if len(boundaries) != len(schedules) - 1:
        raise ValueError(
            f"{group.who}: boundaries must be one less than schedules, got {len(boundaries)} and {len(schedules)}; "
            "pass the step at which each but the first begins"
        )
    parts = [part(group, schedule) for schedule in schedules]
    begins = [0, *(int(STEP(group.who, f"boundaries[{i}]", boundary)) for i, boundary in enumerate(boundaries))]
    pieces: list[Schedule] = []
    end: float = math.inf
    for schedule, begin in zip(reversed(parts), reversed(begins), strict=True):
        first = max(0, begin)
        if first < end:  # else the next one is on before it
            piece = tail(schedule, first - begin)
            pieces.append(piece if end == math.inf else head(piece, int(end) - first))
            end = first
    return chain(pieces[::-1])
