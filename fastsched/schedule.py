"""Schedules: pure functions of the step, described by a few numbers and combined freely."""

from __future__ import annotations

import functools
import inspect
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fastsched import _backend, curves
from fastsched._check import (
    LARGEST_STEP,
    VALUE,
    Choice,
    Flag,
    Number,
    Numbers,
    Several,
    as_printed,
    is_number,
    nearest,
    shown,
    step_array,
    step_number,
    window,
)
from fastsched._program import LARGEST_PROGRAM, Clocked, Curve, Operation, Skipped, Table, compile_program

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from fastsched.lint import Report

Rule = Number | Flag | Choice | Several | Numbers
Token = tuple[Any, ...]
Counted = tuple["Schedule", int, int, float]  # whose cycles' ends: see `Schedule._inner_cycles`
Floats = npt.NDArray[np.float64]

JSON_VERSION = 1
LARGEST_JSON = 1 << 26  # characters; a chain of 10,000 pieces takes about 2**20, 2**21 samples about 2**25
MOST_CYCLES = 1 << 24
MOST_CLOCKS = curves.MOST_CYCLES

_kinds: dict[str, type[Kind]] = {}
_combinators: dict[str, type[Combinator]] = {}


class Schedule(_backend.EvaluatorBase):  # type: ignore[misc]
    """A value for every step of training. Immutable, hashable, comparable, picklable.

    ``s(step)`` is the value that update ``step`` uses: a number gives a float, an array a float64 array.
    ``s.steps`` is the length, ``math.inf`` where there is none; past it a schedule holds its last value.
    """

    __slots__ = ("_cache", "_clocks", "_depth", "_size", "steps")

    steps: int | float
    _depth: int  # of the stack that evaluating it needs
    _size: int  # a bound for its instructions
    _clocks: int  # how many times it keeps at once
    _cache: dict[str, Any]

    def _freeze(self, steps: int | float, depth: int = 1, size: int = 1, clocks: int = 0, **values: Any) -> None:
        """Sets every field, once."""
        name = type(self).__name__
        if size > LARGEST_PROGRAM:
            raise ValueError(f"{name}: a schedule must have at most 2**20 parts, got more; tabulate a part of it")
        if steps != math.inf and steps > LARGEST_STEP:
            raise ValueError(f"{name}: steps must be <= 2**53 in all, got {steps}; shorten a part")
        if clocks > MOST_CLOCKS:
            raise ValueError(
                f"{name}: at most {MOST_CLOCKS} of repeat and speed_up may be around one another, got {clocks}; "
                "tabulate a part of it"
            )
        own: dict[str, Any] = {"steps": steps, "_depth": depth, "_size": size, "_clocks": clocks, "_cache": {}}
        for key, value in {**own, **values}.items():
            object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make another one instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")

    # ---- what a kind or combinator defines ----

    def _lower(self) -> Curve | Operation | Clocked | Skipped | Table | list[Schedule]:
        """One curve, an operation on other schedules, or pieces one after another."""
        raise NotImplementedError

    def _pieces(self) -> list[Schedule]:
        """The pieces that this is a chain of."""
        return [self]

    def _token(self) -> Token:
        """What distinguishes it from others with the same operands: see `_tokens`."""
        raise NotImplementedError

    def _operands(self) -> Sequence[Schedule]:
        return ()

    def _parts_of_repr(self) -> list[Any]:
        """Strings, and schedules whose own text goes there."""
        raise NotImplementedError

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        """Its parts, each with the step at which it begins, after which and up to which it counts."""
        return ((operand, begin, after, most) for operand in self._operands())

    def _cycle_ends(self, after: int, most: float) -> Iterable[int]:
        """Its own cycles' ends after a step, up to ``most`` or, if that is infinite and so are they, without end."""
        return ()

    # ---- values ----

    def _program(self, backend: _backend.Backend | None = None) -> Any:
        backend = backend or _backend.current()
        program = self._cache.get(backend.name)
        if program is None:
            program = self._cache[backend.name] = backend.program(compile_program(self))
            if backend.name == "native":
                self._bind(program)
        return program

    def _evaluate(self, step: Any) -> float | Floats:
        """A call that the native base class leaves: the first one, arrays, errors, other backends."""
        if isinstance(step, (list, tuple)):
            step = np.asarray(step)
        if isinstance(step, np.ndarray):
            steps = step_array(step)
            out = np.empty(steps.shape)
            self._program().values(steps.reshape(-1), out.reshape(-1))
            return out
        return float(self._program().value(step_number(step)))

    def table(
        self,
        steps: int,
        *,
        start: int = 0,
        dtype: npt.DTypeLike = np.float64,
        out: npt.NDArray[Any] | None = None,
    ) -> npt.NDArray[Any]:
        """The values at ``start, ..., start + steps - 1``: shape ``(steps,)``, rounded once to ``dtype``.

        ``out``, of that shape and dtype, receives them if given. Errors: ``ValueError`` for a negative or
        too large range.

        >>> Linear(1.0, 0.0, steps=4).table(6)
        array([1.  , 0.75, 0.5 , 0.25, 0.  , 0.  ])
        """
        count, first = window("table", steps, start)
        result = empty_table("table", (count,), dtype, out)
        column, scale = np.zeros(1, np.int32), np.ones(1)
        fill_table(
            _backend.current().row([self._program()], column, scale),
            first,
            result.reshape(-1, 1) if out is None else result[:, None],
        )
        return result

    # ---- combination ----

    def then(self, other: Schedule) -> Schedule:
        """This one for its ``steps``, then ``other`` from its own step 0.

        Errors: ``ValueError`` if this one has no end.

        >>> s = Constant(1.0, steps=2).then(Constant(0.5))
        >>> s(0), s(2), s(9)
        (1.0, 0.5, 0.5)
        """
        return Then(self, _schedule("then", "other", other))

    def warmup(self, steps: int, start: float = 0.0, shape: str = "linear") -> Schedule:
        """A prefix of ``steps`` rising from ``start`` times the first value to the first value ``a``.

        With ``x = t/steps`` and ``s = start``, the shapes are ``linear`` ``a (s + (1-s) x)``, ``cosine`` ``a
        (s + (1-s) (1-cos(pi x))/2)``, ``constant`` ``a s``, ``exponential`` ``a s**(1-x)`` (which needs ``s
        > 0``) and ``log`` ``a (s + (1-s) log(1+t)/log(1+steps))``.
        Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (linear and constant).

        >>> s = Constant(1.0).warmup(4)
        >>> s(0), s(2), s(4), s(9)
        (0.0, 0.5, 1.0, 1.0)
        """
        who = "warmup"
        steps = Number("leave warmup out if there is none", least=1, most=LARGEST_STEP, whole=True)(who, "steps", steps)
        start = Number("pass the fraction of the first value to start from")(who, "start", start)
        shape = Choice(("linear", "cosine", "constant", "exponential", "log"))(who, "shape", shape)
        # Scaled copies of a curve stay scaled copies: a plan evaluates one for all.
        factors, inner = [], self
        while isinstance(inner, Scaled):
            factors.append(inner.factor)
            inner = inner.schedule
        risen: Schedule = inner._risen(steps, start, shape)
        for factor in reversed(factors):
            risen = Scaled(risen, factor)
        return risen

    def _risen(self, steps: int, start: float, shape: str) -> Schedule:
        who = "warmup"
        first = _value_at(self, 0)
        low = VALUE(who, "start times the first value", start * first)
        if shape == "exponential" and not (start > 0.0 and low != 0.0):
            raise ValueError(
                f"{who}: start must be > 0 and the first value not 0 with shape='exponential', "
                f"got {shown(start)}; pass a small fraction such as 0.01"
            )
        if shape == "constant":
            return _kinds["Constant"](low, steps=steps).then(self)
        kind = {"linear": "Linear", "cosine": "Cosine", "exponential": "Geometric", "log": "Logarithmic"}[shape]
        return _kinds[kind](low, first, steps=steps).then(self)

    def repeat(self, times: int | None = None) -> Schedule:
        """This one over and over, ``times`` times or, by default, without an end.

        At every multiple of its ``steps`` it begins again; after the last time it holds its last value.
        Errors: ``ValueError`` if it has no end, ``times < 1`` or the whole is longer than 2**53 steps.

        >>> s = Linear(1.0, 0.0, steps=4).repeat(2)
        >>> s(0), s(3), s(4), s(8), s(99)
        (1.0, 0.25, 1.0, 0.0, 0.0)
        """
        return Repeat(self, times)

    def clip(self, low: float | None = None, high: float | None = None) -> Schedule:
        """Its value, but at least ``low`` and at most ``high``: an absolute floor or ceiling. None is no bound.

        Errors: ``ValueError`` if ``low > high`` or neither is given.

        >>> s = Linear(1.0, 0.0, steps=4).clip(low=0.3)
        >>> s(0), s(2), s(3), s(9)
        (1.0, 0.5, 0.3, 0.3)
        """
        return Clip(self, low, high)

    def noisy(self, limit: float, *, seed: int = 0, distribution: str = "normal", std: float = 1.0) -> Schedule:
        """Its value times ``1 + e``, ``|e| < limit``, where ``e`` depends on ``seed`` and the step alone.

        ``e`` is ``"uniform"``, or ``"normal"`` of standard deviation ``std`` (and at most 6 of them), drawn again until
        it is within the limit. Any step's value is found at once and is the same in every run. Errors: ``ValueError``
        if ``limit`` is not in (0, 1], ``std <= 0`` or ``seed`` is not in 0..2**64-1.
        Source: timm's schedulers (``noise_pct``, ``noise_std``, ``noise_seed``).

        >>> s = Constant(1.0).noisy(0.1, seed=7)
        >>> s(3) == s(3.5), 0.9 < s(3) < 1.1, s(3) == s(4)
        (True, True, False)
        """
        return Noisy(self, limit, seed, distribution, std)

    def head(self, steps: int) -> Schedule:
        """Its first ``steps`` steps, and then the value there: ``s.head(n)(t)`` is ``s(min(t, n))``.

        So a schedule that is longer or endless ends where another may follow, ``s.head(n).then(other)``; a shorter one
        holds its last value for as long. Errors: ``ValueError`` if ``steps < 1``, or if the value there is not finite.

        >>> s = Exponential(1.0, gamma=0.5).head(2)
        >>> s(0), s(1), s(2), s(99), s.then(Constant(8.0))(2)
        (1.0, 0.5, 0.25, 0.25, 8.0)
        """
        return Head(self, steps)

    def cooldown(self, at: int, steps: int, shape: str = "linear", end: float = 0.0) -> Schedule:
        """This one up to step ``at``, then from the value ``v`` there to ``end`` within ``steps`` steps.

        With ``p`` the progress of the cooldown it is ``end + (v - end) * f(p)``; shapes: ``linear`` ``1 - p``,
        ``cosine`` ``(1 + cos(pi p))/2``, ``sqrt`` ``1 - sqrt(p)``, ``square`` ``1 - p**2``, ``exponential``
        ``2 * 0.5**p - 1``. A run on a constant or infinite schedule can so be branched at any step. Errors:
        ``ValueError`` if ``at < 0`` or ``steps < 1``.
        Source: Haegele et al., Scaling Laws and Compute-Optimal Training Beyond Fixed Training Durations, 2024.

        >>> s = Constant(1.0).cooldown(at=100, steps=4)
        >>> s(99), s(100), s(102), s(104), s(999)
        (1.0, 1.0, 0.5, 0.0, 0.0)
        """
        return Cooldown(self, at, steps, shape, end)

    def skip(self, steps: int) -> Schedule:
        """This one without its first ``steps`` steps: ``s.skip(k)(t)`` is ``s(t + k)``, to the bit at whole steps.

        It is so many steps shorter. Where ``t + k`` is past 2**53, a schedule without an end may stand still. Errors:
        ``ValueError`` if ``steps < 0`` or if none would be left.

        >>> s = Linear(1.0, 0.0, steps=4).skip(1)
        >>> s(0), s(1), s(3), s.steps
        (0.75, 0.5, 0.0, 3)
        """
        return Skip(self, steps)

    def speed_up(self, factor: float | Fraction) -> Schedule:
        """This one ``factor`` times as fast, or slower if that is below 1: ``s.speed_up(f)(t)`` is ``s(f * t)``.

        Its length is ``s.steps / f``, rounded up to a whole step, also by `stretch`; from there on it holds the last
        value. Between two steps of ``s`` a kind gives what it gives there: a Cosine is smooth, Samples are not. ``f *
        t`` is ``p * t / q`` for ``f = p/q``, rounded once where ``p * t`` is whole; noise changes with the steps of
        ``s``. A float factor counts as the decimal that it prints as; a fraction with a part above 2**53 is first
        rounded to a float. Errors: ``ValueError`` if ``factor <= 0``, if the whole is then longer than 2**53 steps, or
        if more than 64 of ``speed_up`` and ``repeat`` are around one another.

        >>> s = Linear(1.0, 0.0, steps=8).speed_up(2)
        >>> s(0), s(1), s(4), s.steps, Linear(1.0, 0.0, steps=8).speed_up(1.5).steps
        (1.0, 0.75, 0.0, 4, 6)
        """
        return SpeedUp(self, factor)

    def stretch(self, factor: float | Fraction) -> Schedule:
        """The same shape over ``factor`` times as many steps: ``s.stretch(f)(f * t)`` is ``s(t)``.

        Rewrites every horizon, edge and timescale; noise still changes with every step. A float factor counts as the
        decimal that it prints as. Errors: ``ValueError`` if ``factor <= 0``, or if a horizon or edge is then not a
        whole number that the kind takes.

        >>> MultiStep(milestones=[30, 60], gamma=0.1).stretch(1.5)
        MultiStep(1.0, milestones=(45, 90), gamma=0.1)
        """
        exact = _fraction("stretch", factor, "pass how many times longer, such as 2 or 1.5")
        stretched = []
        for name, *values in self._tokens():
            kind: type[Kind | Combinator] = _kinds[name] if name in _kinds else _combinators[name]
            stretched.append((name, *kind._stretched(dict(zip(kind._rules, values, strict=True)), exact).values()))
        return _from_tokens(stretched)

    def cycle_ends(self, steps: int | None = None) -> list[int]:
        """The steps at which a cycle is complete, ascending and at most ``steps``: where to take snapshots.

        An end of 10 means that update 9 was the cycle's last one. Cycles are those of ``CosineRestarts``,
        ``Triangular`` and ``repeat``. Errors: ``ValueError`` if there is no end to them and ``steps`` is not given, or
        if there are more than 2**24.
        Source: Huang et al., Snapshot Ensembles, 2017.

        >>> CosineRestarts(first=10, multiplier=2, cycles=3).cycle_ends()
        [10, 30, 70]
        """
        rule = Number("pass the last step to look at", least=0, most=LARGEST_STEP, whole=True, optional=True)
        steps = rule("cycle_ends", "steps", steps)
        return self._all_cycle_ends(0, math.inf if steps is None else steps)

    def _all_cycle_ends(self, after: int, most: float) -> list[int]:
        who = "cycle_ends"
        ends: set[int] = set()
        stack: list[Counted] = [(self, 0, after, most)]
        while stack:
            node, begin, after, most = stack.pop()
            for end in node._cycle_ends(after - begin, most - begin):
                if most == math.inf and node.steps == math.inf:
                    raise ValueError(
                        f"{who}: steps must be given where cycles have no end, got None; pass a number of steps"
                    )
                if len(ends) == MOST_CYCLES:
                    raise ValueError(f"{who}: there must be at most 2**24 cycles, got more; pass fewer steps")
                ends.add(begin + end)
            stack.extend(node._inner_cycles(begin, after, most))
        return sorted(ends)

    def lint(self, groups: Iterable[Any] | None = None, steps: int | None = None) -> Report:
        """What is odd about using it for ``steps`` updates (by default its own length): a sequence of findings.

        Each has a ``code``, a ``severity``, a ``message`` and the first ``steps`` concerned: ``negative`` values,
        ``not-finite`` ones, a ``jump`` where two parts meet (not where a kind drops or restarts by itself), an
        ``unused-peak``, a ``floor-above-base``, a ``rise-after-end``, a ``zero-first-update``, and ``robbins-monro``:
        the sums of lr and lr**2 with the verdict. ``groups``: base lrs, or mappings with an ``lr``, a number or a
        Schedule, which multiplies this one. A schedule without an end is looked at for its first 100,000 updates,
        of more than 2**21 updates at 2**16 evenly spaced. Errors: ``TypeError`` and ``ValueError`` name the group.

        >>> findings = Linear(0.0, 1.0, steps=4).then(Linear(0.5, 0.0, steps=4)).lint()
        >>> [(finding.code, finding.steps) for finding in findings][:2]
        [('jump', (4,)), ('unused-peak', (4,))]
        """
        from fastsched.lint import lint  # needs every kind, and those need this module

        return lint(self, groups, steps)

    def plot(
        self,
        steps: int | None = None,
        *,
        start: int = 0,
        ax: Axes | None = None,
        log: bool | None = None,
        label: str | None = None,
        marks: bool = True,
    ) -> Axes:
        """Its curve over ``steps`` updates from ``start`` on (by default its own length): a matplotlib Axes.

        ``ax``: where to draw, by default a new figure that pyplot does not know; ``axes.figure.savefig("lr.png")``
        saves it. Labels, limits, a title and curves that ``ax`` has stay; ``label`` names this one in the legend.
        ``log``: a logarithmic scale or a linear one; by default logarithmic if no value is negative, at most a quarter
        of them is 0, and a quarter of the others is below a thirtieth of the largest. ``marks``: whether to show where
        phases begin, the warmup, and the last updates of cycles (`cycle_ends`), after which snapshots are taken; more
        than 32 of a kind are left out. Long curves are drawn by their extremes: the least and the largest value of each
        of 2048 columns, of all updates or, if they are more than 2**26, of 64 per column and those where phases meet.
        Errors: ``ValueError`` if there is no end and ``steps`` is not given, ``ImportError`` if matplotlib is not
        installed.

        >>> axes = Cosine(steps=90).warmup(10).plot()
        >>> axes.get_xlabel(), axes.get_yscale(), len(axes.lines[0].get_xdata())
        ('update', 'linear', 100)
        """
        from fastsched._plot import plot_schedule  # needs this module

        return plot_schedule(self, steps, start, ax, log, label, marks)

    def _repr_html_(self) -> str:
        """The repr beside a small curve, for notebooks."""
        from fastsched._svg import schedule_html  # needs this module

        return schedule_html(self)

    def __mul__(self, other: Any) -> Schedule:
        if isinstance(other, Schedule):
            return Product(self, other)
        if is_number(other):
            return Scaled(self, VALUE("*", "factor", other))
        return NotImplemented

    def __rmul__(self, other: Any) -> Schedule:
        return self.__mul__(other)

    def __add__(self, other: Any) -> Schedule:
        if isinstance(other, Schedule):
            return Sum(self, other)
        if is_number(other):
            value = VALUE("+", "summand", other)
            return Sum(self, _kinds["Constant"](value, steps=None if self.steps == math.inf else self.steps))
        return NotImplemented

    def __radd__(self, other: Any) -> Schedule:
        return self.__add__(other)

    # numpy would otherwise multiply an array elementwise and keep objects
    __array_ufunc__ = None

    # ---- identity ----

    def _tokens(self) -> tuple[Token, ...]:
        """The schedule in postfix order, each operand before what combines it: flat, whatever its depth."""
        tokens = self._cache.get("tokens")
        if tokens is None:
            reverse: list[Token] = []
            stack: list[Schedule] = [self]
            while stack:
                node = stack.pop()
                reverse.append(node._token())
                stack.extend(node._operands())
            tokens = self._cache["tokens"] = tuple(reversed(reverse))
        return tokens

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return self._tokens() == other._tokens() if isinstance(other, Schedule) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._tokens())

    @property
    def __dict__(self) -> dict[str, Any]:  # type: ignore[override]
        """Nothing: torch's LambdaLR saves and loads this of every function that is an object."""
        return {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_tokens, (self._tokens(),)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    def __repr__(self) -> str:
        texts: list[str] = []
        stack: list[Any] = [self]
        while stack:
            part = stack.pop()
            if isinstance(part, str):
                texts.append(part)
            else:
                stack.extend(reversed(part._parts_of_repr()))
        return "".join(texts)

    def to_json(self) -> str:
        """The schedule as JSON text, which ``from_json`` reads: a version and the parts in postfix order.

        >>> Linear(1.0, 0.0, steps=4).to_json()
        '{"fastsched": 1, "schedule": [{"kind": "Linear", "start": 1.0, "end": 0.0, "steps": 4}]}'
        """
        return json.dumps({"fastsched": JSON_VERSION, "schedule": tokens_to_plain(self._tokens())}, allow_nan=False)


def _schedule(who: str, name: str, value: Any) -> Schedule:
    if not isinstance(value, Schedule):
        raise TypeError(f"{who}: {name} must be a Schedule, got {shown(value)}; wrap a number as Constant(number)")
    return value


SHAPE = Choice(("linear", "cosine", "sqrt", "square", "exponential"))  # of a decay


# ---- tables ----


def empty_table(who: str, shape: tuple[int, ...], dtype: Any, out: Any, order: str = "C") -> npt.NDArray[Any]:
    """The array that a table goes to: ``out`` checked, or a new one."""
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise TypeError(f"{who}: dtype must be a float type, got {dtype}; pass np.float32 or np.float64")
    if out is None:
        return np.empty(shape, dtype, order=order)  # type: ignore[call-overload,no-any-return]
    if not isinstance(out, np.ndarray):
        raise TypeError(f"{who}: out must be a numpy array, got {shown(out)}; pass np.empty({shape}, {dtype.name!r})")
    if out.shape != shape or out.dtype != dtype:
        raise ValueError(
            f"{who}: out must have shape {shape} and dtype {dtype}, got {out.shape} and {out.dtype}; "
            f"pass np.empty({shape}, {dtype.name!r})"
        )
    if not out.flags.writeable or not out.flags.aligned:
        raise ValueError(f"{who}: out must be writable and aligned; pass np.empty({shape}, {dtype.name!r})")
    return out


def fill_table(row: _backend.Row, start: int, out: npt.NDArray[Any]) -> None:
    """Fills ``out`` of shape (steps, groups), through float64 where the backend does not know its dtype."""
    if out.dtype in (np.dtype(np.float64), np.dtype(np.float32)):
        row.table(start, out)
        return
    block = max(1, (1 << 20) // max(1, out.shape[1]))
    for first in range(0, len(out), block):
        rows = out[first : first + block]
        values = np.empty(rows.shape)
        row.table(start + first, values)
        rows[...] = values


# ---- combinators ----


class Combinator(Schedule):
    """A schedule made of others: its operands, and numbers with their rules."""

    __slots__ = ("_numbers", "_parts")
    _parts: tuple[Schedule, ...]
    _numbers: tuple[Any, ...]
    _rules: ClassVar[dict[str, Rule]] = {}
    _arity: ClassVar[int] = 1

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__name__.startswith("_"):
            _combinators[cls.__name__] = cls

    def _set(
        self,
        parts: tuple[Schedule, ...],
        steps: int | float,
        depth: int,
        size: int,
        own_clocks: int = 0,
        **numbers: Any,
    ) -> None:
        clocks = max(part._clocks for part in parts) + own_clocks
        kept = tuple(numbers[name] for name in self._rules)
        self._freeze(steps, depth, size, clocks, _parts=parts, _numbers=kept, **numbers)

    @classmethod
    def _checked(cls, who: str, numbers: Mapping[str, Any]) -> dict[str, Any]:
        return {name: rule(who, name, numbers[name]) for name, rule in cls._rules.items()}

    @classmethod
    def _combine(cls, parts: list[Schedule], numbers: tuple[Any, ...]) -> Schedule:
        """The inverse of `_operands` and `_token`."""
        return cls(*parts, *numbers)

    @classmethod
    def _stretched(cls, numbers: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        return numbers

    @classmethod
    def _needed(cls, numbers: tuple[Any, ...]) -> int:
        """How many operands it takes."""
        return cls._arity

    def _operands(self) -> Sequence[Schedule]:
        return self._parts

    def _token(self) -> Token:
        return (type(self).__name__, *self._numbers)

    def _method_repr(self, name: str, arguments: str) -> list[Any]:
        (operand,) = self._parts
        plain = isinstance(operand, Kind)
        return [*([operand] if plain else ["(", operand, ")"]), f".{name}({arguments})"]


class Then(Combinator):
    """``a.then(b)``."""

    __slots__ = ("first", "second")
    first: Schedule
    second: Schedule
    _rules: ClassVar = {
        "count": Number("pass how many parts it joins", least=2, most=LARGEST_PROGRAM, whole=True),
    }

    def __init__(self, first: Schedule, second: Schedule) -> None:
        if first.steps == math.inf:
            raise ValueError(
                f"then: the schedule before it must end, got one of kind {type(first).__name__} with "
                "infinite steps; give it steps"
            )
        self._freeze(
            first.steps + second.steps,
            max(first._depth, second._depth),
            first._size + second._size + 1,
            max(first._clocks, second._clocks),
            first=first,
            second=second,
        )

    @classmethod
    def _combine(cls, parts: list[Schedule], numbers: tuple[Any, ...]) -> Schedule:
        return functools.reduce(cls, parts)

    @classmethod
    def _needed(cls, numbers: tuple[Any, ...]) -> int:
        count: int = numbers[0]
        return count

    def _pieces(self) -> list[Schedule]:
        pieces: list[Schedule] = []
        stack: list[Schedule] = [self]
        while stack:
            node = stack.pop()
            if isinstance(node, Then):
                stack += (node.second, node.first)
            else:
                pieces.append(node)
        return pieces

    def _lower(self) -> list[Schedule]:
        return [inner for piece in self._pieces() for inner in piece._pieces()]

    def _operands(self) -> Sequence[Schedule]:
        return self._pieces()

    def _token(self) -> Token:
        return ("Then", len(self._pieces()))

    def _parts_of_repr(self) -> list[Any]:
        first, *rest = self._pieces()
        parts: list[Any] = [first]
        for piece in rest:
            parts += (".then(", piece, ")")
        return parts if isinstance(first, Kind) else ["(", first, ")", *parts[1:]]

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        for piece in self._pieces():
            if begin >= most:
                return
            if begin + piece.steps > after:
                yield piece, begin, after, most
            begin += int(piece.steps) if piece.steps != math.inf else 0


class Scaled(Combinator):
    """``a * number``."""

    __slots__ = ("factor", "schedule")
    factor: float
    schedule: Schedule
    _rules: ClassVar = {"factor": VALUE}

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self._set((schedule,), schedule.steps, schedule._depth, schedule._size + 1, factor=float(factor))
        object.__setattr__(self, "schedule", schedule)

    def _lower(self) -> Operation:
        return Operation(Curve("scale", self.factor), self._parts)

    def _parts_of_repr(self) -> list[Any]:
        return ["(", self.schedule, f" * {self.factor!r})"]


class _Pair(Combinator):
    """Two schedules at the same step. Its length is the longer one's."""

    __slots__ = ()
    _arity = 2
    operation: ClassVar[str]
    sign: ClassVar[str]

    def __init__(self, a: Schedule, b: Schedule) -> None:
        depth = a._depth + 1 if a._depth == b._depth else max(a._depth, b._depth)
        self._set((a, b), max(a.steps, b.steps), depth, a._size + b._size + 1)

    def _lower(self) -> Operation:
        return Operation(Curve(self.operation), self._parts)

    def _parts_of_repr(self) -> list[Any]:
        return ["(", self._parts[0], f" {self.sign} ", self._parts[1], ")"]


class Product(_Pair):
    """``a * b``."""

    __slots__ = ()
    operation = "multiply"
    sign = "*"


class Sum(_Pair):
    """``a + b``."""

    __slots__ = ()
    operation = "add"
    sign = "+"


class Repeat(Combinator):
    """``a.repeat(times)``."""

    __slots__ = ("times",)
    times: int | None
    _rules: ClassVar = {
        "times": Number("leave it out to go on forever", least=1, most=LARGEST_STEP, whole=True, optional=True),
    }

    def __init__(self, schedule: Schedule, times: int | None = None) -> None:
        times = self._checked("repeat", {"times": times})["times"]
        if schedule.steps == math.inf:
            raise ValueError(
                f"repeat: the schedule must end, got one of kind {type(schedule).__name__} with infinite steps; "
                "give it steps"
            )
        steps = math.inf if times is None else schedule.steps * times
        self._set((schedule,), steps, schedule._depth, schedule._size + 2, own_clocks=int(times != 1), times=times)

    def _lower(self) -> Clocked | list[Schedule]:
        (schedule,) = self._parts
        if self.times == 1:
            return [schedule]
        return Clocked(Curve("cycle", steps=float(self.steps), p=float(schedule.steps)), schedule)

    def _parts_of_repr(self) -> list[Any]:
        return self._method_repr("repeat", "" if self.times is None else repr(self.times))

    def _cycle_ends(self, after: int, most: float) -> Iterable[int]:
        (schedule,) = self._parts
        length = int(schedule.steps)
        most = min(most, self.steps)
        if self.times == 1:
            return multiples(length, after, most)
        within = sorted({*schedule._all_cycle_ends(0, min(most, length)), length})
        turns = itertools.count(max(after, 0) // length * length, length)
        ends = (turn + end for turn in turns for end in within if turn + end > after)
        return itertools.takewhile(lambda end: end <= most, ends)

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        return ((schedule, begin, after, most) for schedule in self._parts if self.times == 1)


class Clip(Combinator):
    """``a.clip(low, high)``."""

    __slots__ = ("high", "low")
    low: float | None
    high: float | None
    _rules: ClassVar = {
        "low": Number("leave it out for no floor", optional=True),
        "high": Number("leave it out for no ceiling", optional=True),
    }

    def __init__(self, schedule: Schedule, low: float | None = None, high: float | None = None) -> None:
        numbers = self._checked("clip", {"low": low, "high": high})
        if numbers["low"] is None and numbers["high"] is None:
            raise ValueError("clip: low or high must be given, got neither; pass clip(low=number) for a floor")
        if None not in numbers.values() and numbers["low"] > numbers["high"]:
            raise ValueError(f"clip: low must be <= high, got {shown(low)} and {shown(high)}; swap them")
        self._set((schedule,), schedule.steps, schedule._depth, schedule._size + 1, **numbers)

    def _lower(self) -> Operation:
        low = -math.inf if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        return Operation(Curve("clip", low, high), self._parts)

    def _parts_of_repr(self) -> list[Any]:
        return self._method_repr("clip", f"{self.low!r}, {self.high!r}")


class Noisy(Combinator):
    """``a.noisy(limit)``."""

    __slots__ = ("distribution", "limit", "seed", "std")
    limit: float
    seed: int
    distribution: str
    std: float
    _rules: ClassVar = {
        "limit": Number("pass the largest relative change, such as 0.1", above=0.0, most=1.0),
        "seed": Number("pass any fixed number", least=0, most=2**64 - 1, whole=True),
        "distribution": Choice(("normal", "uniform")),
        "std": Number("the standard deviation of timm's noise is 1", above=0.0, least=1e-100),
    }

    def __init__(
        self, schedule: Schedule, limit: float, seed: int = 0, distribution: str = "normal", std: float = 1.0
    ) -> None:
        numbers: dict[str, Any] = {"limit": limit, "seed": seed, "distribution": distribution, "std": std}
        numbers = self._checked("noisy", numbers)
        self._set((schedule,), schedule.steps, schedule._depth, schedule._size + 1, **numbers)

    def _lower(self) -> Operation:
        limit, steepness = self.limit, 0.0
        if self.distribution == "normal":
            limit = min(limit, 6.0 * self.std)
            steepness = 0.7213475204444817 / self.std / self.std  # exp(-e**2 / (2 std**2)) as a power of 2
        high, low = divmod(self.seed, 2**32)
        curve = Curve("noise", limit, steps=float(self.steps), p=float(high), q=float(low), r=steepness)
        return Operation(curve, self._parts)

    def _parts_of_repr(self) -> list[Any]:
        arguments = f"{self.limit!r}, seed={self.seed!r}, distribution={self.distribution!r}, std={self.std!r}"
        return self._method_repr("noisy", arguments)


class _Branch(Combinator):
    """A schedule up to a step, and from there on a tail that begins with its value."""

    __slots__ = ("at", "value")
    at: int
    value: float  # where the tail begins

    def _leave(self, who: str, schedule: Schedule, steps: int, **numbers: Any) -> None:
        self._set((schedule,), steps, schedule._depth, schedule._size + 3, **numbers)
        value = VALUE(who, "the value at the step to leave at", _value_at(schedule, self.at))
        object.__setattr__(self, "value", value)

    def _tail(self) -> Schedule:
        raise NotImplementedError

    def _lower(self) -> list[Schedule]:
        return [Trunk(self._parts[0], self.at), self._tail()] if self.at else [self._tail()]

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        yield self._parts[0], begin, after, min(most, begin + self.at)


class Head(_Branch):
    """``a.head(steps)``."""

    __slots__ = ()
    _rules: ClassVar = {
        "at": Number("pass how many of its steps to keep", least=1, most=LARGEST_STEP, whole=True),
    }

    def __init__(self, schedule: Schedule, steps: int) -> None:
        who = "head"
        numbers: dict[str, Any] = {"at": self._rules["at"](who, "steps", steps)}
        self._leave(who, schedule, numbers["at"], **numbers)

    @classmethod
    def _stretched(cls, numbers: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        return {"at": _whole("head", "steps", numbers["at"] * factor)}

    def _tail(self) -> Schedule:
        return Piece(Curve("constant", self.value), math.inf)

    def _parts_of_repr(self) -> list[Any]:
        return self._method_repr("head", repr(self.at))


class Cooldown(_Branch):
    """``a.cooldown(at, steps)``."""

    __slots__ = ("duration", "end", "shape")
    duration: int
    shape: str
    end: float
    _rules: ClassVar = {
        "at": Number("pass the step to leave at", least=0, most=LARGEST_STEP, whole=True),
        "duration": Number("pass how many steps the cooldown takes", least=1, most=LARGEST_STEP, whole=True),
        "shape": SHAPE,
        "end": Number("pass the value at the last step"),
    }

    def __init__(self, schedule: Schedule, at: int, steps: int, shape: str = "linear", end: float = 0.0) -> None:
        who = "cooldown"
        numbers: dict[str, Any] = {
            "at": self._rules["at"](who, "at", at),
            "duration": self._rules["duration"](who, "steps", steps),
            "shape": SHAPE(who, "shape", shape),
            "end": self._rules["end"](who, "end", end),
        }
        total: int = numbers["at"] + numbers["duration"]
        self._leave(who, schedule, total, **numbers)

    @classmethod
    def _stretched(cls, numbers: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        return numbers | {name: _whole("cooldown", name, numbers[name] * factor) for name in ("at", "duration")}

    def _tail(self) -> Schedule:
        return Piece(decay_curve(self.shape, self.value, self.end, self.duration), self.duration)

    def _parts_of_repr(self) -> list[Any]:
        arguments = f"at={self.at!r}, steps={self.duration!r}, shape={self.shape!r}, end={self.end!r}"
        return self._method_repr("cooldown", arguments)


SKIPPED = Number("pass how many steps to leave out", least=0, most=LARGEST_STEP, whole=True)


class Skip(Combinator):
    """``a.skip(steps)``; of what has been skipped already, it skips more."""

    __slots__ = ("skipped",)
    skipped: int
    _rules: ClassVar = {"skipped": SKIPPED}

    def __init__(self, schedule: Schedule, steps: int) -> None:
        who = "skip"
        skipped: int = SKIPPED(who, "steps", steps)
        if not skipped < schedule.steps:
            raise ValueError(
                f"{who}: steps must be < the schedule's own {schedule.steps}, got {shown(skipped)}; "
                f"from there on it holds its last value: Constant(s({schedule.steps}))"
            )
        if isinstance(schedule, Skip):
            skipped = SKIPPED(who, "steps in all", schedule.skipped + skipped)
            (schedule,) = schedule._parts
        remaining = schedule.steps - skipped
        self._set((schedule,), remaining, schedule._depth, schedule._size + 1, skipped=skipped)

    @classmethod
    def _stretched(cls, numbers: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        return {"skipped": _whole("skip", "steps", numbers["skipped"] * factor)}

    def _lower(self) -> Skipped:
        return Skipped(self.skipped, self._parts[0])

    def _parts_of_repr(self) -> list[Any]:
        return self._method_repr("skip", repr(self.skipped))

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        yield self._parts[0], begin - self.skipped, max(after, begin), most


class SpeedUp(Combinator):
    """``a.speed_up(factor)``; the factor of what has been sped up already is multiplied."""

    __slots__ = ("denominator", "numerator")
    numerator: int
    denominator: int
    _rules: ClassVar = {
        "numerator": Number("pass that of the factor", least=1, most=LARGEST_STEP, whole=True),
        "denominator": Number("pass that of the factor", least=1, most=2**106, whole=True),
    }

    def __init__(self, schedule: Schedule, factor: float | Fraction) -> None:
        exact = _fraction("speed_up", factor, "pass how many times faster, such as 2 or 1.5")
        if isinstance(schedule, SpeedUp):
            exact *= schedule.factor
            (schedule,) = schedule._parts
        if not Fraction(1, 10**16) <= exact <= LARGEST_STEP:
            raise ValueError(
                f"speed_up: factor must be >= 1e-16 and <= 2**53 in all, got {shown(nearest(exact))}; "
                "no schedule has more steps than that"
            )
        exact = _short(exact)
        steps = schedule.steps if schedule.steps == math.inf else math.ceil(int(schedule.steps) / exact)
        numbers = {"numerator": exact.numerator, "denominator": exact.denominator}
        own_clocks = int(exact != 1)
        self._set((schedule,), steps, schedule._depth, schedule._size + 2, own_clocks=own_clocks, **numbers)

    @classmethod
    def _combine(cls, parts: list[Schedule], numbers: tuple[Any, ...]) -> Schedule:
        (schedule,) = parts
        return cls(schedule, Fraction(*numbers))

    @property
    def factor(self) -> Fraction:
        """Steps of the operand for each of its own."""
        return Fraction(self.numerator, self.denominator)

    def _lower(self) -> Clocked | list[Schedule]:
        (schedule,) = self._parts
        if self.factor == 1:
            return [schedule]
        last = 0.0 if schedule.steps == math.inf else float(schedule.steps)
        p, q = float(self.numerator), float(self.denominator)
        return Clocked(Curve("pace", steps=float(self.steps), p=p, q=q, r=last), schedule)

    def _parts_of_repr(self) -> list[Any]:
        exact = self.factor
        decimal = repr(float(exact))
        text = str(exact) if exact.denominator == 1 else decimal if _short(Fraction(decimal)) == exact else repr(exact)
        return self._method_repr("speed_up", text)

    def _cycle_ends(self, after: int, most: float) -> Iterable[int]:
        if self.factor == 1:
            return ()
        inner_after = math.floor(max(after, 0) * self.factor)
        inner_most = most if most == math.inf else math.floor(int(most) * self.factor)
        return (math.ceil(end / self.factor) for end in self._parts[0]._all_cycle_ends(inner_after, inner_most))

    def _inner_cycles(self, begin: int, after: int, most: float) -> Iterable[Counted]:
        return ((schedule, begin, after, most) for schedule in self._parts if self.factor == 1)


# ---- parts that only a program sees ----


class Piece(Schedule):
    """One curve."""

    __slots__ = ("curve",)
    curve: Curve

    def __init__(self, curve: Curve, steps: int | float) -> None:
        self._freeze(steps, curve=curve)

    def _lower(self) -> Curve:
        return self.curve


class Trunk(Schedule):
    """The steps of a schedule before a branch leaves it."""

    __slots__ = ("schedule",)
    schedule: Schedule

    def __init__(self, schedule: Schedule, steps: int) -> None:
        self._freeze(steps, schedule._depth, schedule._size, schedule=schedule)

    def _lower(self) -> list[Schedule]:
        return [self.schedule]


def line_curve(start: float, end: float, steps: int) -> Curve:
    """A straight line."""
    return between("linear", start, end, steps, 1.0 / steps)


def cosine_curve(start: float, end: float, steps: int) -> Curve:
    """Half a period of a cosine."""
    return between("half_cosine", start, end, steps, float(Fraction(1, int(steps) ** 2)))


def decay_curve(shape: str, start: float, end: float, steps: int) -> Curve:
    """One of the shapes of `SHAPE`."""
    if shape == "linear":
        return line_curve(start, end, steps)
    if shape == "cosine":
        return cosine_curve(start, end, steps)
    if shape == "sqrt":
        return between("one_minus_sqrt", start, end, steps, 1.0 / steps)
    if shape == "square":
        return between("power_rise", start, end, steps, 2.0, 1.0 / steps)
    return between("half_decay", start, end, steps, 1.0 / steps)


def between(name: str, start: float, end: float, steps: float, *numbers: float) -> Curve:
    """A curve from `start` to `end`; a constant where these are one."""
    if start == end:
        return Curve("constant", start, end, float(steps))
    return Curve(name, start, end, float(steps), *numbers)


def _value_at(schedule: Schedule, step: int) -> float:
    """``schedule(step)`` by way of the one part that serves the step: long chains need no compiling for it."""
    while True:
        if isinstance(schedule, _Branch):
            if step < schedule.at:
                schedule = schedule._parts[0]
            else:
                schedule, step = schedule._tail(), step - schedule.at
        elif isinstance(schedule, Then):
            pieces = schedule._pieces()
            for piece in pieces[:-1]:
                if step < piece.steps:
                    break
                step -= int(piece.steps)
            else:
                piece = pieces[-1]
            schedule = piece
        elif isinstance(schedule, Skip) and step + schedule.skipped <= LARGEST_STEP:
            (schedule,), step = schedule._parts, step + schedule.skipped
        else:
            return float(schedule(step))


def multiples(period: int, after: int, most: float) -> Iterable[int]:
    """The multiples of ``period`` from 1 on that come after a step, up to ``most`` or without end."""
    first = (max(after, 0) // period + 1) * period
    return itertools.count(first, period) if most == math.inf else range(first, int(most) + 1, period)


def _fraction(who: str, factor: Any, advice: str) -> Fraction:
    """A factor as an exact number: a float is what it prints as."""
    if not is_number(factor) and not isinstance(factor, Fraction):
        raise TypeError(f"{who}: factor must be a number, got {shown(factor)}; {advice}")
    if isinstance(factor, (float, np.floating)) and not math.isfinite(factor):
        raise ValueError(f"{who}: factor must be finite, got {shown(factor)}; {advice}")
    exact = as_printed(factor)
    if not exact > 0:
        raise ValueError(f"{who}: factor must be > 0, got {shown(nearest(exact))}; {advice}")
    return exact


def _short(exact: Fraction) -> Fraction:
    """The fraction, or what the nearest float prints as or else is: so that both its parts are floats, too."""
    for candidate in (exact, Fraction(repr(float(exact)))):
        if max(candidate.numerator, candidate.denominator) <= LARGEST_STEP:
            return candidate
    return Fraction(float(exact))


def _whole(who: str, name: str, exact: Fraction) -> int:
    if exact.denominator != 1:
        raise ValueError(
            f"stretch: {who}'s {name} must become a whole number, got {shown(nearest(exact))}; pass another factor"
        )
    return int(exact)


# ---- kinds ----


@functools.cache
def _parameters(kind: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_kinds[kind]).parameters


class Kind(Schedule):
    """A schedule with named numbers: its fields and their rules, declared."""

    __slots__ = ("_values",)
    _values: tuple[Any, ...]
    _rules: ClassVar[dict[str, Rule]] = {}
    _times: ClassVar[tuple[str, ...]] = ("steps",)  # the fields that count steps
    _added: ClassVar[dict[str, Any]] = {}  # later fields: JSON leaves them out where they change nothing

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__name__.startswith("_"):
            _kinds[cls.__name__] = cls

    def _set(self, **values: Any) -> None:
        """Checks every field by its rule and sets it. A kind without a field ``steps``, or with None, has no end."""
        who = type(self).__name__
        values = {name: rule(who, name, values[name]) for name, rule in self._rules.items()}
        steps = values.pop("steps", None)
        pieces = sum(len(values[name]) for name, rule in self._rules.items() if isinstance(rule, Several))
        kept = tuple(values.get(name, steps) for name in self._rules)
        # A field must not hide the method of its name.
        fields = {f"{name}_steps" if hasattr(Schedule, name) else name: value for name, value in values.items()}
        self._freeze(math.inf if steps is None else steps, size=2 * pieces + 1, **fields, _values=kept)

    def _set_total(self, *lengths: int) -> None:
        """A kind of several parts is as long as they are."""
        total = sum(lengths)
        name = type(self).__name__
        if not 1 <= total <= LARGEST_STEP:
            rule = ">= 1" if total < 1 else "<= 2**53"
            raise ValueError(f"{name}: steps must be {rule} in all, got {total}; change the length of a part")
        object.__setattr__(self, "steps", total)

    def _token(self) -> Token:
        return (type(self).__name__, *self._values)

    def _parts_of_repr(self) -> list[Any]:
        texts = []
        parameters = _parameters(type(self).__name__)
        for name, value in zip(self._rules, self._values, strict=True):
            parameter = parameters[name]
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                texts.append(repr(value))
            elif value != parameter.default:
                texts.append(f"{name}={value!r}")
        return [f"{type(self).__name__}({', '.join(texts)})"]

    @classmethod
    def _stretched(cls, values: dict[str, Any], factor: Fraction) -> dict[str, Any]:
        """The fields of `stretch`, in their order."""

        def longer(name: str, value: Any) -> Any:
            rule = cls._rules[name]
            if value is None:
                return None
            if isinstance(value, tuple):
                return tuple(_whole(cls.__name__, name, item * factor) for item in value)
            exact = Fraction(value) * factor
            whole = isinstance(rule, Number) and rule.whole
            return _whole(cls.__name__, name, exact) if whole else _plain(value, exact)

        return {name: longer(name, value) if name in cls._times else value for name, value in values.items()}


def _plain(like: int | float, exact: Fraction) -> int | float:
    """An int stays one where it can."""
    return int(exact) if isinstance(like, int) and exact.denominator == 1 else nearest(exact)


# ---- JSON ----


def _from_tokens(tokens: Iterable[Token]) -> Schedule:
    """The schedule that `Schedule._tokens` describes."""
    stack: list[Schedule] = []
    for name, *values in tokens:
        if name in _kinds:
            kind = _kinds[name]
            stack.append(kind(**dict(zip(kind._rules, values, strict=True))))
        else:
            combinator = _combinators[name]
            needed = combinator._needed(tuple(values))
            stack[-needed:] = [combinator._combine(stack[-needed:], tuple(values))]
    (schedule,) = stack
    return schedule


def _rules_of(name: str) -> dict[str, Rule]:
    return _kinds[name]._rules if name in _kinds else _combinators[name]._rules


def _added_to(name: str) -> dict[str, Any]:
    return _kinds[name]._added if name in _kinds else {}


def tokens_to_plain(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Tokens as JSON's own types; the text of an older schedule, and so a plan's fingerprint, stays what it was."""
    parts = []
    for name, *values in tokens:
        fields = dict(zip(_rules_of(name), values, strict=True))
        for field, unchanged in _added_to(name).items():
            if fields[field] == unchanged:
                del fields[field]
        parts.append({"kind": name, **fields})
    return parts


def plain_to_schedule(parts: Any) -> Schedule:
    """The schedule of `tokens_to_plain`, everything checked; ``ValueError`` says which part is wrong."""
    advice = "pass the text that to_json() made"
    if not isinstance(parts, list) or not 1 <= len(parts) <= LARGEST_PROGRAM:
        raise ValueError(f"from_json: schedule must be a list of 1 to 2**20 parts, got {shown(parts)}; {advice}")
    tokens: list[Token] = []
    height = 0
    for i, part in enumerate(parts):
        who = f"from_json: part {i}"
        name = part.get("kind") if isinstance(part, dict) else None
        if not isinstance(name, str) or (name not in _kinds and name not in _combinators):
            raise ValueError(f"{who} must have a known kind, got {shown(name)}; {advice}")
        rules = _rules_of(name)
        part = {**_added_to(name), **part}
        if set(part) != {"kind", *rules}:
            raise ValueError(f"{who}: {name} must have the fields {', '.join(rules) or 'of its name only'}; {advice}")
        try:
            values: tuple[Any, ...] = tuple(rule(f"{who}: {name}", field, part[field]) for field, rule in rules.items())
        except TypeError as error:
            raise ValueError(str(error)) from None
        needed = 0 if name in _kinds else _combinators[name]._needed(values)
        if height < needed:
            raise ValueError(f"{who}: {name} must follow {needed} parts to combine, got {height}; {advice}")
        height += 1 - needed
        tokens.append((name, *values))
    if height != 1:
        raise ValueError(f"from_json: the parts must combine to one schedule, got {height}; {advice}")
    try:
        return _from_tokens(tokens)
    except TypeError as error:
        raise ValueError(f"from_json: {error}") from None


def read_json(who: str, text: Any) -> dict[str, Any]:
    """A JSON object of this version."""
    advice = "pass the text that to_json() made"
    if not isinstance(text, str):
        raise TypeError(f"{who}: text must be a string, got {shown(text)}; {advice}")
    if len(text) > LARGEST_JSON:
        raise ValueError(f"{who}: text must be at most 2**26 characters long, got {len(text)}; {advice}")
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError(f"{who}: text is nested too deeply; {advice}") from None
    except ValueError as error:
        raise ValueError(f"{who}: text is not JSON ({str(error)[:80]}); {advice}") from None
    if not isinstance(document, dict) or document.get("fastsched") != JSON_VERSION:
        version = document.get("fastsched") if isinstance(document, dict) else document
        raise ValueError(f"{who}: version must be {JSON_VERSION}, got {shown(version)}; {advice}, or update fastsched")
    return document


def from_json(text: str) -> Schedule:
    """The schedule that ``to_json`` wrote.

    Errors: ``ValueError`` that names the part at fault; the work is bounded.

    >>> from_json(Linear(1.0, 0.0, steps=4).to_json())
    Linear(1.0, 0.0, steps=4)
    """
    document = read_json("from_json", text)
    if set(document) != {"fastsched", "schedule"}:
        raise ValueError(
            "from_json: the object must have the fields fastsched and schedule; pass the text that to_json() made"
        )
    return plain_to_schedule(document["schedule"])
