"""Tables of many groups, and plans: every hyperparameter of every group as a function of the step."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import numpy.typing as npt

from fastsched import _backend
from fastsched._check import LARGEST_VALUE, VALUE, Choice, is_number, shown, step_number, window
from fastsched.kinds import Constant
from fastsched.schedule import (
    JSON_VERSION,
    Product,
    Scaled,
    Schedule,
    empty_table,
    fill_table,
    plain_to_schedule,
    read_json,
    tokens_to_plain,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]


class _Curves:
    """The distinct curves of a table or a plan.

    A scaled copy is its curve and a number; a constant only a number.
    """

    def __init__(self) -> None:
        self.curves: list[Schedule] = []
        self._index: dict[Schedule, int] = {}
        # Most groups share one object: comparing identities first saves hashing its parts.
        self._known: dict[int, tuple[Schedule, int]] = {}

    def place(self, schedule: Schedule, scale: float = 1.0) -> tuple[int, float]:
        """Where the curve of ``scale * schedule`` is, and its scale."""
        if isinstance(schedule, Scaled) and scale == 1.0:  # two factors would be one rounding more
            schedule, scale = schedule.schedule, schedule.factor
        if isinstance(schedule, Constant):
            return -1, scale * schedule.value
        known = self._known.get(id(schedule))
        if known is None:
            column = self._index.setdefault(schedule, len(self.curves))
            if column == len(self.curves):
                self.curves.append(schedule)
            known = self._known[id(schedule)] = (schedule, column)
        return known[1], scale


def _row(curves: Sequence[Schedule], column: npt.NDArray[np.int32], scale: Floats) -> _backend.Row:
    """A row that keeps only the curves that it uses."""
    used, inverse = np.unique(column, return_inverse=True)
    programs = [curves[c]._program() for c in used if c >= 0]
    if len(programs) < len(used):  # the first of them is -1, and stays so
        inverse = inverse - 1
    return _backend.current().row(programs, inverse.reshape(-1).astype(np.int32), scale)


def lr_table(
    schedules: Schedule | Iterable[Schedule],
    steps: int,
    *,
    scale: Iterable[float] | None = None,
    start: int = 0,
    dtype: npt.DTypeLike = np.float32,
    out: npt.NDArray[Any] | None = None,
    order: str = "C",
) -> npt.NDArray[Any]:
    """The values of many groups: ``[i, g] = scale[g] * schedules[g](start + i)``, shape ``(steps, groups)``.

    ``schedules``: one for all groups, or one per group. ``scale``: a number per group, such as layer-wise
    decay; None for 1. The product is made in float64 and rounded once to ``dtype``. ``order="F"`` stores
    each group's column contiguously. Errors: ``ValueError`` where lengths differ or a scale is not finite.

    >>> from fastsched import Cosine
    >>> lr_table(Cosine(steps=2), 4, scale=[1.0, 0.5])
    array([[1.  , 0.5 ],
           [0.5 , 0.25],
           [0.  , 0.  ],
           [0.  , 0.  ]], dtype=float32)
    """
    who = "lr_table"
    scales = None if scale is None else _scales(who, scale)
    if isinstance(schedules, Schedule):
        each = [schedules] * (1 if scales is None else len(scales))
    elif isinstance(schedules, Iterable) and not isinstance(schedules, (str, bytes)):
        each = list(schedules)
    else:
        raise TypeError(
            f"{who}: schedules must be a Schedule or a list of them, got {shown(schedules)}; "
            "wrap a number as Constant(number)"
        )
    for i, schedule in enumerate(each):
        if not isinstance(schedule, Schedule):
            raise TypeError(
                f"{who}: schedules[{i}] must be a Schedule, got {shown(schedule)}; wrap a number as Constant(number)"
            )
    if scales is None:
        scales = np.ones(len(each))
    if len(each) != len(scales):
        raise ValueError(
            f"{who}: scale must have one number per schedule, got {len(scales)} for {len(each)}; "
            "pass one Schedule to share it"
        )
    order = Choice(("C", "F"))(who, "order", order)
    count, first = window(who, steps, start)
    result = empty_table(who, (count, len(each)), dtype, out, order)
    curves = _Curves()
    places = [curves.place(schedule, factor) for schedule, factor in zip(each, scales.tolist(), strict=True)]
    column = np.array([place[0] for place in places], np.int32)
    row = _row(curves.curves, column, np.array([place[1] for place in places], np.float64))
    fill_table(row, first, result)
    return result


def _scales(who: str, scale: Any) -> Floats:
    if isinstance(scale, (str, bytes)) or not isinstance(scale, Iterable):
        raise TypeError(f"{who}: scale must be a list of numbers, got {shown(scale)}; pass one number per group")
    if isinstance(scale, np.ndarray) and scale.ndim == 1 and scale.dtype.kind in "iuf":
        scale = scale.tolist()
    return np.array([VALUE(who, f"scale[{i}]", value) for i, value in enumerate(scale)], np.float64)


class Plan:
    """Every hyperparameter of every group, as a function of the step.

    ``groups``: one mapping per group, hyperparameter name to number or Schedule; ``betas`` become ``beta1``
    and ``beta2``; other values are ignored. ``schedule`` multiplies every ``lr``. The value is ``base *
    schedule(t)``, one rounding more. Storage is a number and a curve's index per group and hyperparameter,
    whatever the number of steps. Errors: ``TypeError`` and ``ValueError`` name the group.

    >>> from fastsched import Linear
    >>> plan = Plan([{"lr": 0.1}, {"lr": 0.2, "weight_decay": 0.5}], Linear(1.0, 0.0, steps=2))
    >>> plan.at(1)
    {'lr': array([0.05, 0.1 ]), 'weight_decay': array([nan, 0.5])}
    """

    __slots__ = ("_cache", "_columns", "_curves", "_groups", "_scales")

    def __init__(self, groups: Iterable[Mapping[str, Any]], schedule: Schedule | None = None) -> None:
        if schedule is not None and not isinstance(schedule, Schedule):
            raise TypeError(
                f"Plan: schedule must be a Schedule, got {shown(schedule)}; wrap a number as Constant(number)"
            )
        if isinstance(groups, (Mapping, str, bytes)) or not isinstance(groups, Iterable):
            raise TypeError(f"Plan: groups must be a list of mappings, got {shown(groups)}; pass one mapping per group")
        groups = list(groups)
        curves = _Curves()
        products: dict[int, tuple[Schedule, Schedule]] = {}
        columns: dict[str, list[int]] = {}
        scales: dict[str, list[float]] = {}
        for g, group in enumerate(groups):
            if not isinstance(group, Mapping):
                raise TypeError(f"Plan: group {g} must be a mapping, got {shown(group)}; pass names and numbers")
            for name, value in _hyperparameters(group):
                if name not in columns:
                    columns[name] = [-1] * len(groups)
                    scales[name] = [math.nan] * len(groups)
                if isinstance(value, Schedule):
                    if name == "lr" and schedule is not None:
                        place = _times(value, schedule, curves, products)
                    else:
                        place = curves.place(value)
                else:
                    # the usual case first: thousands of groups have four of these each
                    plain = type(value) is float and abs(value) <= LARGEST_VALUE
                    base = value if plain else VALUE(f"Plan: group {g}", name, value)
                    place = curves.place(schedule, base) if name == "lr" and schedule is not None else (-1, base)
                columns[name][g], scales[name][g] = place
        self._fill(
            len(groups),
            curves.curves,
            {name: np.array(column, np.int32) for name, column in columns.items()},
            {name: np.array(scale, np.float64) for name, scale in scales.items()},
        )

    def _fill(
        self,
        groups: int,
        curves: list[Schedule],
        columns: dict[str, npt.NDArray[np.int32]],
        scales: dict[str, Floats],
    ) -> None:
        self._groups = groups
        self._curves = curves
        self._columns = columns
        self._scales = scales
        self._cache: dict[Any, Any] = {}

    def __len__(self) -> int:
        return self._groups

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters that any group has."""
        return tuple(self._columns)

    @property
    def columns(self) -> int:
        """How many distinct curves are evaluated."""
        return len(self._curves)

    def _row(self, name: str) -> _backend.Row:
        """The native row of one hyperparameter: what an optimizer step reads."""
        key = (_backend.current().name, name)
        if key not in self._cache:
            self._cache[key] = _row(self._curves, self._columns[name], self._scales[name])
        return self._cache[key]  # type: ignore[no-any-return]

    def _grid(self) -> _backend.Grid:
        """All rows at once."""
        key = (_backend.current().name, None)
        if key not in self._cache:
            self._cache[key] = _backend.current().grid({name: self._row(name) for name in self._columns})
        return self._cache[key]  # type: ignore[no-any-return]

    def at(self, step: float, *, out: dict[str, Floats] | None = None) -> dict[str, Floats]:
        """The values at one step: a float64 array ``(groups,)`` per name, NaN where a group lacks it.

        ``out``, the result of an earlier call, is filled in place if given. Errors: ``ValueError`` if it is
        not such a result.
        """
        if out is None:
            out = {name: np.empty(self._groups) for name in self._columns}
        if self._grid().at(step, out):
            return out
        t = step_number(step)
        if not isinstance(out, dict) or out.keys() != self._columns.keys():
            raise ValueError(f"Plan.at: out must have the keys {', '.join(self._columns)}; pass an earlier result")
        for array in out.values():
            empty_table("Plan.at", (self._groups,), np.float64, array)
            if not array.flags.c_contiguous:
                raise ValueError("Plan.at: out must be contiguous; pass an earlier result")
        for name in self._columns:
            self._row(name).at(t, out[name])
        return out

    def table(self, steps: int, *, start: int = 0, dtype: npt.DTypeLike = np.float32) -> dict[str, npt.NDArray[Any]]:
        """The values from ``start`` on: per hyperparameter an array of shape ``(steps, groups)``."""
        count, first = window("Plan.table", steps, start)
        tables = {}
        for name in self._columns:
            tables[name] = empty_table("Plan.table", (count, self._groups), dtype, None)
            fill_table(self._row(name), first, tables[name])
        return tables

    def __eq__(self, other: object) -> bool:
        return self.to_json() == other.to_json() if isinstance(other, Plan) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return Plan.from_json, (self.to_json(),)

    def __repr__(self) -> str:
        return f"<Plan of {self._groups} groups, {self.columns} columns: {', '.join(self._columns)}>"

    @overload
    def plot(
        self,
        steps: int | None = None,
        name: None = None,
        *,
        start: int = 0,
        ax: Sequence[Axes] | None = None,
        log: bool | None = None,
        marks: bool = True,
    ) -> Figure: ...
    @overload
    def plot(
        self,
        steps: int | None = None,
        *,
        name: str,
        start: int = 0,
        ax: Axes | None = None,
        log: bool | None = None,
        marks: bool = True,
    ) -> Axes: ...
    def plot(
        self,
        steps: int | None = None,
        name: str | None = None,
        *,
        start: int = 0,
        ax: Axes | Sequence[Axes] | None = None,
        log: bool | None = None,
        marks: bool = True,
    ) -> Axes | Figure:
        """Its hyperparameters over ``steps`` updates from ``start`` on, as a matplotlib picture.

        With a ``name``, that hyperparameter: an Axes, ``ax`` if given. Without, a panel for each of `names`: the Figure
        of them, whose ``axes`` they are, or of ``ax``, an Axes for each. ``steps``: by default those of the longest
        curve that ends. Groups with the same values share a line; more than 12 different lines become a heat map, each
        of whose cells shows the value largest in size of its updates (and, of more than 256 groups, of neighbouring
        groups); grey is a group without the name. Scale, marks and thinning are those of `Schedule.plot`; colours, too,
        are logarithmic where that reads better. Errors: ``ValueError`` if the name is unknown or nothing says how many
        steps, ``ImportError`` if matplotlib is not installed.

        >>> from fastsched import Linear
        >>> plan = Plan([{"lr": 0.1}, {"lr": 0.2}], Linear(1.0, 0.0, steps=100))
        >>> [text.get_text() for text in plan.plot(name="lr").get_legend().get_texts()]
        ['group 0', 'group 1']
        """
        from fastsched._plot import plot_plan  # needs this module

        picture: Axes | Figure = plot_plan(self, steps, name, start, ax, log, marks)
        return picture

    def _repr_html_(self) -> str:
        """The repr beside a small picture of the learning rates, for notebooks."""
        from fastsched._svg import plan_html  # needs this module

        return plan_html(self)

    def to_json(self) -> str:
        """The plan as JSON text, which ``Plan.from_json`` reads. The text is the same wherever it is made."""
        values = {
            name: {
                "column": column.tolist(),
                "scale": [None if math.isnan(s) else s for s in self._scales[name].tolist()],
            }
            for name, column in sorted(self._columns.items())
        }
        plan = {
            "groups": self._groups,
            "curves": [tokens_to_plain(curve._tokens()) for curve in self._curves],
            "values": values,
        }
        return json.dumps({"fastsched": JSON_VERSION, "plan": plan}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The plan that ``to_json`` wrote.

        Errors: ``ValueError`` that says what is wrong; the work is bounded.
        """
        who, advice = "Plan.from_json", "pass the text that to_json() made"
        plan = read_json(who, text).get("plan")
        if not isinstance(plan, dict) or set(plan) != {"groups", "curves", "values"}:
            raise ValueError(f"{who}: plan must have the fields groups, curves and values; {advice}")
        groups, curves, values = plan["groups"], plan["curves"], plan["values"]
        if not is_number(groups) or not isinstance(groups, int) or groups < 0:
            raise ValueError(f"{who}: groups must be an int >= 0, got {shown(groups)}; {advice}")
        if not isinstance(curves, list) or not isinstance(values, dict):
            raise ValueError(f"{who}: curves must be a list and values an object; {advice}")
        schedules = [plain_to_schedule(curve) for curve in curves]
        columns: dict[str, npt.NDArray[np.int32]] = {}
        scales: dict[str, Floats] = {}
        for name, entry in values.items():
            if not isinstance(entry, dict) or set(entry) != {"column", "scale"}:
                raise ValueError(f"{who}: {shown(name)} must have the fields column and scale; {advice}")
            column, scale = entry["column"], entry["scale"]
            if not (
                isinstance(column, list)
                and isinstance(scale, list)
                and len(column) == len(scale) == groups
                and all(type(c) is int and -1 <= c < len(schedules) for c in column)
                and all(s is None or (type(s) in (int, float) and abs(s) <= LARGEST_VALUE) for s in scale)
            ):
                raise ValueError(f"{who}: {shown(name)} must have a column and a scale for each group; {advice}")
            columns[name] = np.array(column, np.int32).reshape(groups)
            scales[name] = np.array([math.nan if s is None else s for s in scale], np.float64).reshape(groups)
        self = cls.__new__(cls)
        self._fill(groups, schedules, columns, scales)
        return self

    @property
    def fingerprint(self) -> str:
        """A short text that is equal for equal plans, on every machine and in every version."""
        if "fingerprint" not in self._cache:
            import hashlib  # takes longer to import than the rest of this module

            self._cache["fingerprint"] = hashlib.sha256(self.to_json().encode()).hexdigest()[:32]
        return self._cache["fingerprint"]  # type: ignore[no-any-return]


# What is never a flag, a name or a tensor to be trained: a value of another type there is a mistake.
_NUMBERS = frozenset({"lr", "weight_decay", "momentum", "dampening", "eps", "alpha", "rho", "beta1", "beta2"})


def _hyperparameters(group: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for name, value in group.items():
        if name == "betas" and isinstance(value, (tuple, list)) and len(value) == 2:
            yield "beta1", value[0]
            yield "beta2", value[1]
        elif type(value) is float or isinstance(value, Schedule) or is_number(value):
            yield str(name), value
        elif name in _NUMBERS and value is not None:
            if isinstance(value, (str, bool)) or not hasattr(value, "__float__"):
                raise TypeError(f"Plan: {name} must be a number or a Schedule, got {shown(value)}; convert it first")
            yield str(name), float(value)  # a tensor or array of one element


def _times(
    value: Schedule, schedule: Schedule, curves: _Curves, products: dict[int, tuple[Schedule, Schedule]]
) -> tuple[int, float]:
    """Where ``value * schedule`` is, and its scale; groups with one value share the product."""
    factor = 1.0
    if isinstance(value, Scaled):
        factor, value = value.factor, value.schedule
    if isinstance(value, Constant):
        return curves.place(schedule, factor * value.value)
    if id(value) not in products:
        products[id(value)] = (value, Product(value, schedule))
    return curves.place(products[id(value)][1], factor)
