"""Schedules: pure functions of the step, described by a few numbers and combined freely."""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal
from fractions import Fraction
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from fastsched import _backend
from fastsched._check import (
    LARGEST_STEP,
    LARGEST_VALUE,
    STEPS,
    VALUE,
    Choice,
    Flag,
    Number,
    Several,
    is_number,
    shown,
    step_array,
    step_number,
    window,
)
from fastsched._program import LARGEST_PROGRAM, Curve, Operation, compile_program

Rule = Number | Flag | Choice | Several
Token = tuple[Any, ...]
Floats = npt.NDArray[np.float64]

JSON_VERSION = 1
LARGEST_JSON = 1 << 25  # characters; a chain of 10,000 pieces takes about 2**20

_kinds: dict[str, type[Kind]] = {}


class Schedule(_backend.EvaluatorBase):  # type: ignore[misc]
    """A value for every step of training. Immutable, hashable, comparable, picklable.

    ``s(step)`` is the value that update ``step`` uses: a number gives a float, an array a float64 array.
    ``s.steps`` is the length, ``math.inf`` where there is none; past it a schedule holds its last value.
    """

    __slots__ = ("_cache", "_depth", "_size", "steps")

    steps: int | float
    _depth: int  # of the stack that evaluating it needs
    _size: int  # a bound for its instructions
    _cache: dict[str, Any]

    def _freeze(self, steps: int | float, depth: int = 1, size: int = 1, **values: Any) -> None:
        """Sets every field, once."""
        name = type(self).__name__
        if size > LARGEST_PROGRAM:
            raise ValueError(f"{name}: a schedule must have at most 2**20 parts, got more; tabulate a part of it")
        if steps != math.inf and steps > LARGEST_STEP:
            raise ValueError(f"{name}: steps must be <= 2**53 in all, got {steps}; shorten a part")
        for key, value in {"steps": steps, "_depth": depth, "_size": size, "_cache": {}, **values}.items():
            object.__setattr__(self, key, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: make another one instead of setting {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: {name} cannot be deleted")

    # ---- what a kind or combinator defines ----

    def _lower(self) -> Curve | Operation | list[Schedule]:
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
        first = self._pieces()[0](0)  # a chain's first value, without compiling the chain
        low = VALUE(who, "start times the first value", start * first)
        if shape == "exponential" and not (start > 0.0 and low != 0.0):
            raise ValueError(
                f"{who}: start must be > 0 and the first value not 0 with shape='exponential', "
                f"got {shown(start)}; pass a small fraction such as 0.01"
            )
        rise: Schedule
        if shape == "constant":
            rise = Constant(low, steps=steps)
        else:
            kind = {"linear": Linear, "cosine": Cosine, "exponential": Geometric, "log": Logarithmic}[shape]
            rise = kind(low, first, steps=steps)
        return rise.then(self)

    def __mul__(self, other: Any) -> Schedule:
        if isinstance(other, Schedule):
            return Product(self, other)
        if is_number(other):
            return Scaled(self, VALUE("*", "factor", other))
        return NotImplemented

    def __rmul__(self, other: Any) -> Schedule:
        return self.__mul__(other)

    def __add__(self, other: Any) -> Schedule:
        return Sum(self, other) if isinstance(other, Schedule) else NotImplemented

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


class Then(Schedule):
    """``a.then(b)``."""

    __slots__ = ("first", "second")
    first: Schedule
    second: Schedule

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
            first=first,
            second=second,
        )

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


class Scaled(Schedule):
    """``a * number``."""

    __slots__ = ("factor", "schedule")
    factor: float
    schedule: Schedule

    def __init__(self, schedule: Schedule, factor: float) -> None:
        self._freeze(schedule.steps, schedule._depth, schedule._size + 1, schedule=schedule, factor=float(factor))

    def _lower(self) -> Operation:
        return Operation("scale", (self.schedule,), self.factor)

    def _operands(self) -> Sequence[Schedule]:
        return (self.schedule,)

    def _token(self) -> Token:
        return ("Scaled", self.factor)

    def _parts_of_repr(self) -> list[Any]:
        return ["(", self.schedule, f" * {self.factor!r})"]


class _Pair(Schedule):
    """Two schedules at the same step. Its length is the longer one's."""

    __slots__ = ("a", "b")
    a: Schedule
    b: Schedule
    operation: ClassVar[str]
    sign: ClassVar[str]

    def __init__(self, a: Schedule, b: Schedule) -> None:
        depth = a._depth + 1 if a._depth == b._depth else max(a._depth, b._depth)
        self._freeze(max(a.steps, b.steps), depth, a._size + b._size + 1, a=a, b=b)

    def _lower(self) -> Operation:
        return Operation(self.operation, (self.a, self.b))

    def _operands(self) -> Sequence[Schedule]:
        return (self.a, self.b)

    def _token(self) -> Token:
        return (type(self).__name__,)

    def _parts_of_repr(self) -> list[Any]:
        return ["(", self.a, f" {self.sign} ", self.b, ")"]


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


# ---- kinds ----


@functools.cache
def _parameters(kind: str) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(_kinds[kind]).parameters


class Kind(Schedule):
    """A schedule with named numbers: its fields and their rules, declared."""

    __slots__ = ("_values",)
    _values: tuple[Any, ...]
    _rules: ClassVar[dict[str, Rule]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _kinds[cls.__name__] = cls

    def _set(self, **values: Any) -> None:
        """Checks every field by its rule and sets it. A kind without a field ``steps``, or with None, has no end."""
        who = type(self).__name__
        values = {name: rule(who, name, values[name]) for name, rule in self._rules.items()}
        steps = values.pop("steps", None)
        size = sum(2 * len(value) for value in values.values() if isinstance(value, tuple)) + 1
        self._freeze(math.inf if steps is None else steps, size=size, **values)
        object.__setattr__(self, "_values", tuple(values.get(name, steps) for name in self._rules))

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

    def _between(self, name: str, p: float = 0.0, q: float = 0.0, r: float = 0.0) -> Curve:
        """A curve from `start` to `end`; a constant where these are one."""
        start, end = self.start, self.end
        if start == end:
            return Curve("constant", start)
        return Curve(name, start, end, float(self.steps), p, q, r)


START = Number("pass the value at step 0")
END = Number("pass the value at the last step")
GAMMA = Number("a constant value is gamma=1", above=0.0)


class Constant(Kind):
    """One value: ``s(t) = value``, for ``steps`` steps or, by default, without an end.

    Source: every framework has it. Units: those of ``value``. Errors: ``ValueError`` if ``value`` is not finite or
    ``steps < 1``.

    >>> s = Constant(0.5, steps=10)
    >>> s(0), s(10), s(100)
    (0.5, 0.5, 0.5)
    """

    __slots__ = ("value",)
    value: float
    _rules: ClassVar = {
        "value": VALUE,
        "steps": Number("leave it out for no end", least=1, most=LARGEST_STEP, whole=True, optional=True),
    }

    def __init__(self, value: float = 1.0, *, steps: int | None = None) -> None:
        self._set(value=value, steps=steps)

    def _lower(self) -> Curve:
        return Curve("constant", self.value)


class Linear(Kind):
    """A straight line: ``s(t) = start + (end - start) * t/steps``.

    Units: those of ``start`` and ``end``; ``steps`` counts updates. Errors: ``ValueError`` if ``steps < 1``.
    Source: Goyal et al., Accurate, Large Minibatch SGD, 2017 (as warmup).

    >>> s = Linear(1.0, 0.0, steps=10)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float, end: float, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        return self._between("linear", p=1.0 / self.steps)


class Cosine(Kind):
    """A cosine: ``s(t) = end + (start - end) * w**exponent``, ``w = (1 + cos(2 pi cycles x**k)) / 2``.

    ``x = t/steps``. ``cycles=0.5`` is one descent; ``exponent`` as in optax, ``k`` as in timm's k-decay.
    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1`` or ``cycles``,
    ``exponent`` or ``k`` is not positive. After ``steps`` it holds the value at ``steps``.
    Source: Loshchilov and Hutter, SGDR, 2017; Zhang and Li, k-decay, 2020.

    >>> s = Cosine(1.0, 0.0, steps=10)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    """

    __slots__ = ("cycles", "end", "exponent", "k", "start")
    start: float
    end: float
    cycles: float
    exponent: float
    k: float
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "steps": STEPS,
        "cycles": Number("one descent is cycles=0.5", above=0.0, most=2.0**40),
        "exponent": Number("the plain cosine has exponent=1", above=0.0),
        "k": Number("the plain cosine has k=1", above=0.0),
    }

    def __init__(
        self,
        start: float = 1.0,
        end: float = 0.0,
        *,
        steps: int,
        cycles: float = 0.5,
        exponent: float = 1.0,
        k: float = 1.0,
    ) -> None:
        self._set(start=start, end=end, steps=steps, cycles=cycles, exponent=exponent, k=k)

    def _lower(self) -> Curve:
        inverse_square = float(Fraction(1, int(self.steps) ** 2))
        if self.exponent != 1.0 or self.k != 1.0:
            return self._between("shaped_cosine", self.cycles, self.exponent, self.k)
        if self.cycles != 0.5:
            return self._between("cosine", inverse_square, self.cycles, 1.0 / self.steps)
        return self._between("half_cosine", inverse_square)


class Polynomial(Kind):
    """A power of the remaining fraction: ``s(t) = end + (start - end) * (1 - t/steps)**power``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1`` or ``power`` is not
    positive.
    Source: Chen et al., DeepLab, 2016 (power 0.9).

    >>> s = Polynomial(1.0, 0.0, steps=10, power=2.0)
    >>> s(0), s(10), s(100)
    (1.0, 0.0, 0.0)
    """

    __slots__ = ("end", "power", "start")
    start: float
    end: float
    power: float
    _rules: ClassVar = {
        "start": START,
        "end": END,
        "steps": STEPS,
        "power": Number("a straight line has power=1", above=0.0),
    }

    def __init__(self, start: float = 1.0, end: float = 0.0, *, steps: int, power: float = 1.0) -> None:
        self._set(start=start, end=end, steps=steps, power=power)

    def _lower(self) -> Curve:
        if self.power == 1.0:
            return self._between("linear", 1.0 / self.steps)
        return self._between("polynomial", self.power, 1.0 / self.steps)


class Logarithmic(Kind):
    """Fast at first: ``s(t) = start + (end - start) * log(1 + t) / log(1 + steps)``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``.
    Source: DeepSpeed's WarmupLR with ``warmup_type="log"``.

    >>> s = Logarithmic(0.0, 1.0, steps=10)
    >>> s(0), s(10), s(100)
    (0.0, 1.0, 1.0)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 0.0, end: float = 1.0, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)

    def _lower(self) -> Curve:
        return self._between("logarithmic", float(1 / _log2(1 + int(self.steps))))


class Geometric(Kind):
    """A constant ratio between neighbours: ``s(t) = start * (end/start)**(t/steps)``.

    Units: those of ``start`` and ``end``. Errors: ``ValueError`` if ``steps < 1``, or if ``start`` and
    ``end`` are not both positive or both negative.
    Source: Smith, Cyclical Learning Rates, 2017 (the range test).

    >>> s = Geometric(1.0, 0.25, steps=2)
    >>> s(0), s(1), s(2), s(100)
    (1.0, 0.5, 0.25, 0.25)
    """

    __slots__ = ("end", "start")
    start: float
    end: float
    _rules: ClassVar = {"start": START, "end": END, "steps": STEPS}

    def __init__(self, start: float = 1.0, end: float = 0.01, *, steps: int) -> None:
        self._set(start=start, end=end, steps=steps)
        if not (self.start > 0.0 and self.end > 0.0) and not (self.start < 0.0 and self.end < 0.0):
            raise ValueError(
                f"Geometric: start and end must have one sign and not be 0, got {self.start!r} and "
                f"{self.end!r}; for a descent to 0 use Linear or Cosine"
            )

    def _lower(self) -> Curve:
        logarithm = _EXACT.divide(
            _EXACT.subtract(_log2(abs(self.end)), _log2(abs(self.start))), Decimal(int(self.steps))
        )
        return self._between("exponential", *_split(logarithm))


class Exponential(Kind):
    """Decay by a constant factor: ``s(t) = start * gamma**(t/every)``, or ``start * exp(-rate * t/every)``.

    Pass exactly one of ``gamma`` and ``rate``; with ``staircase`` the exponent is ``floor(t/every)``. Units:
    ``every`` counts updates. It has no end. Errors: ``ValueError`` if ``gamma`` or ``every`` is not
    positive.
    Source: TensorFlow's and optax's exponential_decay.

    >>> s = Exponential(1.0, gamma=0.5, every=10)
    >>> s(0), s(10), s(20)
    (1.0, 0.5, 0.25)
    """

    __slots__ = ("every", "gamma", "rate", "staircase", "start")
    start: float
    gamma: float | None
    rate: float | None
    every: float
    staircase: bool
    _rules: ClassVar = {
        "start": START,
        "gamma": Number("a constant value is gamma=1", above=0.0, optional=True),
        "rate": Number("a constant value is rate=0", optional=True),
        "every": Number("a factor for every step is every=1", above=0.0, most=LARGEST_STEP),
        "staircase": Flag("a smooth curve is False"),
    }

    def __init__(
        self,
        start: float = 1.0,
        *,
        gamma: float | None = None,
        rate: float | None = None,
        every: float = 1,
        staircase: bool = False,
    ) -> None:
        if (gamma is None) == (rate is None):
            given = "neither" if gamma is None else "both"
            raise ValueError(
                f"Exponential: exactly one of gamma and rate must be given, got {given}; gamma is exp(-rate)"
            )
        self._set(start=start, gamma=gamma, rate=rate, every=every, staircase=staircase)

    def _lower(self) -> Curve:
        if self.gamma is not None:
            logarithm = _log2(self.gamma)
        else:
            assert self.rate is not None
            logarithm = _EXACT.divide(Decimal(-self.rate), _EXACT.ln(Decimal(2)))
        return _decay(self.start, logarithm, self.every, self.staircase)


class StepDecay(Kind):
    """A factor every so many steps: ``s(t) = start * gamma**floor(t/every)``.

    Units: ``every`` counts updates. It has no end. Errors: ``ValueError`` if ``gamma`` or ``every`` is not
    positive.
    Source: Krizhevsky et al., ImageNet classification, 2012; torch's StepLR.

    >>> s = StepDecay(1.0, gamma=0.5, every=10)
    >>> s(0), s(9), s(10), s(20)
    (1.0, 1.0, 0.5, 0.25)
    """

    __slots__ = ("every", "gamma", "start")
    start: float
    gamma: float
    every: float
    _rules: ClassVar = {
        "start": START,
        "gamma": GAMMA,
        "every": Number("pass the number of steps between two drops", above=0.0, most=LARGEST_STEP),
    }

    def __init__(self, start: float = 1.0, *, gamma: float, every: float) -> None:
        self._set(start=start, gamma=gamma, every=every)

    def _lower(self) -> Curve:
        return _decay(self.start, _log2(self.gamma), self.every, True)


class MultiStep(Kind):
    """A factor at each milestone: ``s(t) = start * gamma**(how many milestones are <= t)``.

    ``milestones`` are ascending steps >= 0; a repeated one counts twice. It has no end. Units: milestones
    count updates. Errors: ``ValueError`` if the milestones are not ascending or a value exceeds 1e290.
    Source: He et al., Deep Residual Learning, 2015; torch's MultiStepLR.

    >>> s = MultiStep(1.0, milestones=[10, 20], gamma=0.5)
    >>> s(0), s(9), s(10), s(20), s(100)
    (1.0, 1.0, 0.5, 0.25, 0.25)
    """

    __slots__ = ("gamma", "milestones", "start")
    start: float
    milestones: tuple[int, ...]
    gamma: float
    _rules: ClassVar = {
        "start": START,
        "milestones": Several(Number("pass a step to drop at", least=0, most=LARGEST_STEP, whole=True), ascending=True),
        "gamma": GAMMA,
    }

    def __init__(self, start: float = 1.0, *, milestones: Iterable[int], gamma: float) -> None:
        self._set(start=start, milestones=milestones, gamma=gamma)
        self._levels()  # raises where a value leaves the range

    def _levels(self) -> list[float]:
        """``start * gamma**i``, each rounded once."""
        factor = Decimal(self.gamma)
        level = Decimal(self.start)
        levels = [self.start]
        for i in range(len(self.milestones)):
            level = _EXACT.multiply(level, factor)
            if abs(level) > LARGEST_VALUE:
                raise ValueError(
                    f"MultiStep: start * gamma**{i + 1} must be at most 1e290 in size, got {float(level):g}; "
                    "pass a smaller gamma"
                )
            levels.append(float(level))
        return levels

    def _pieces(self) -> list[Schedule]:
        levels = self._levels()
        pieces: list[Schedule] = []
        last = 0
        for edge, level in zip(self.milestones, levels, strict=False):
            if edge > last:
                pieces.append(Constant(level, steps=edge - last))
                last = edge
        return [*pieces, Constant(levels[-1])]

    def _lower(self) -> list[Schedule]:
        return self._pieces()


# ---- exact numbers ----

# 60 digits: correctly rounded, the same on every machine, and far more than the 32 that a pair of doubles
# holds. The exponent's range is Decimal's widest: nothing under- or overflows on the way to float().
_EXACT = Context(prec=60, Emax=999999999, Emin=-999999999)


@functools.lru_cache(maxsize=4096)
def _log2(value: float) -> Decimal:
    return _EXACT.divide(_EXACT.ln(Decimal(value)), _EXACT.ln(Decimal(2)))


def _split(exact: Decimal) -> tuple[float, float]:
    """The nearest pair of doubles."""
    high = float(exact)
    return high, float(_EXACT.subtract(exact, Decimal(high)))


def _decay(start: float, logarithm: Decimal, every: float, staircase: bool) -> Curve:
    if start == 0.0 or logarithm == 0:
        return Curve("constant", start)
    if staircase:
        high, low = _split(logarithm)
        return Curve("staircase", start, p=high, q=low, r=float(every))
    high, low = _split(_EXACT.divide(logarithm, Decimal(every)))
    return Curve("exponential", start, p=high, q=low)


# ---- JSON ----


def _from_tokens(tokens: Iterable[Token]) -> Schedule:
    """The schedule that `Schedule._tokens` describes."""
    stack: list[Schedule] = []
    for name, *values in tokens:
        if name in _kinds:
            kind = _kinds[name]
            stack.append(kind(**dict(zip(kind._rules, values, strict=True))))
        elif name == "Then":
            count = values[0]
            chain = stack[-count]
            for piece in stack[len(stack) - count + 1 :]:
                chain = Then(chain, piece)
            stack[-count:] = [chain]
        elif name == "Scaled":
            stack[-1] = Scaled(stack[-1], values[0])
        else:
            right = stack.pop()
            stack[-1] = (Product if name == "Product" else Sum)(stack[-1], right)
    (schedule,) = stack
    return schedule


_COMBINATORS: dict[str, dict[str, Rule]] = {
    "Then": {"count": Number("pass how many parts it joins", least=2, most=LARGEST_PROGRAM, whole=True)},
    "Scaled": {"factor": VALUE},
    "Product": {},
    "Sum": {},
}


def tokens_to_plain(tokens: Iterable[Token]) -> list[dict[str, Any]]:
    """Tokens as JSON's own types."""
    return [
        {
            "kind": name,
            **dict(zip(_kinds[name]._rules if name in _kinds else _COMBINATORS[name], values, strict=True)),
        }
        for name, *values in tokens
    ]


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
        if not isinstance(name, str) or (name not in _kinds and name not in _COMBINATORS):
            raise ValueError(f"{who} must have a known kind, got {shown(name)}; {advice}")
        rules = _kinds[name]._rules if name in _kinds else _COMBINATORS[name]
        if set(part) != {"kind", *rules}:
            raise ValueError(f"{who}: {name} must have the fields {', '.join(rules) or 'of its name only'}; {advice}")
        try:
            values: tuple[Any, ...] = tuple(rule(f"{who}: {name}", field, part[field]) for field, rule in rules.items())
        except TypeError as error:
            raise ValueError(str(error)) from None
        needed = 0 if name in _kinds else values[0] if name == "Then" else 1 if name == "Scaled" else 2
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
        raise ValueError(f"{who}: text must be at most 2**25 characters long, got {len(text)}; {advice}")
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
