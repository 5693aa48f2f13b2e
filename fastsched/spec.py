"""Short texts for schedules, as a command line or a config file has them: ``warmup(500) > cosine(9500, end=0.1)``.

The grammar::

    chain    = sum { ">" sum }                 one after the other: `Schedule.then`
    sum      = product { "+" product }
    product  = part { "*" part }
    part     = ( number | call | list | word | "(" chain ")" ) { "." method }
    call     = [ framework "." ] name "(" [ argument { "," argument } ] ")"        a method likewise
    argument = [ name "=" ] chain

- A kind goes by its name in small letters, with its numbers in the order of need: first those that must be given, in
  the order of its signature, then the others. ``cosine(9500, end=0.1)`` is ``Cosine(end=0.1, steps=9500)``. By its
  own name, ``Cosine(1.0, 0.1, steps=9500)``, it takes what it takes in Python: a schedule's repr is such a text.
- ``warmup(500, start=0.1, shape=cosine)`` before ``>`` is the warmup of what comes after it.
- A recipe goes by its name: ``bert(steps=1000)``; another framework's schedule by both names, with the base lr first:
  ``torch.CosineAnnealingLR(0.1, T_max=100)``.
- Methods are those of `Schedule` that make schedules: ``cosine(100).repeat(3)``, and ``momentum`` of a one-cycle.
- A number alone is a constant. Numbers are written as in Python; ``1e4`` is a whole number; ``-`` is only a sign. Words
  need no quotes; lists have brackets or parentheses: ``multi_step([30, 60], 0.1)``.

Nothing is evaluated but by these rules. Texts have at most 2**20 characters and 64 levels of nesting.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from fastsched import kinds, recipes
from fastsched._check import LARGEST_STEP, LARGEST_VALUE, Number, is_number, shown
from fastsched.compat import SYSTEMS
from fastsched.kinds import Constant
from fastsched.schedule import LARGEST_JSON, Kind, Schedule, from_json

LARGEST_TEXT = 1 << 20  # characters of an expression
LARGEST_FILE = 1 << 27  # bytes: JSON of 2**26 characters, most of them ASCII
DEEPEST = 64
LONGEST_NUMBER = 40

METHODS = ("then", "warmup", "repeat", "clip", "noisy", "head", "cooldown", "skip", "speed_up", "stretch", "momentum")
WORDS: Mapping[str, bool | None] = {"True": True, "False": False, "None": None, "true": True, "false": False}

_TOKEN = re.compile(
    r"""\s*(?: (?P<number> -? (?: \d+(?:_\d+)*\.?\d* | \.\d+ ) (?: [eE][+-]?\d+ )? (?![\w.]) )
             | (?P<name> [A-Za-z_]\w* )
             | (?P<string> '[^'\\]*' | "[^"\\]*" )
             | (?P<sign> [>+*.,=()\[\]] ) )""",
    re.VERBOSE | re.ASCII,
)


class SpecError(ValueError):
    """A text that is no schedule. ``column``: where, from 0; None where the text as a whole is meant."""

    def __init__(self, message: str, text: str, column: int | None) -> None:
        self.column = column
        super().__init__(message if column is None else f"{message}\n{_pointed(text, column)}")


def _pointed(text: str, column: int, width: int = 72) -> str:
    """The text around a column on one line, and below it a caret."""
    first = max(0, min(column - width // 2, len(text) - width))
    line = "".join(c if c.isprintable() else " " for c in text[first : first + width])
    before, after = "..." if first else "", "..." if first + width < len(text) else ""
    return f"  {before}{line}{after}\n  {' ' * (len(before) + column - first)}^"


def parse(text: str) -> Schedule:
    """The schedule that a short text describes: an expression of the module's grammar, or JSON of ``to_json``.

    Errors: `SpecError`, a ``ValueError`` with a caret below the column at fault and the closest names.

    >>> parse("warmup(500) > cosine(9500, end=0.1)")
    Linear(0.0, 1.0, steps=500).then(Cosine(1.0, 0.1, steps=9500))
    >>> parse("0.5 * linear(1, 0, 10) + 0.1")
    ((Linear(1.0, 0.0, steps=10) * 0.5) + Constant(0.1, steps=10))
    >>> parse("torch.StepLR(0.5, step_size=30)")(30)
    0.05
    """
    who = "spec"
    if not isinstance(text, str):
        raise TypeError(f"{who}: text must be a string, got {shown(text)}; pass an expression or JSON")
    if text.lstrip().startswith("{"):
        try:
            return from_json(text)
        except ValueError as error:
            raise SpecError(f"{who}: {error}", text, None) from None
    if len(text) > LARGEST_TEXT:
        raise SpecError(f"{who}: text must have at most 2**20 characters, got {len(text)}; pass JSON", text, None)
    return _Parser(text).schedule()


def load(argument: str) -> Schedule:
    """As `parse`, and the content of a file whose name is given, or of the standard input for ``-``.

    Errors: `SpecError`; ``OSError`` for a file that cannot be read.
    """
    if argument == "-":
        return parse(sys.stdin.read(LARGEST_FILE))
    path = Path(argument)
    if _is_file(path):
        return parse(_content(path))
    if path.suffix in (".json", ".txt", ".spec") or ("/" in argument and "(" not in argument):
        raise SpecError(
            f"spec: there must be such a file, got {shown(argument)}; pass an expression or a file", "", None
        )
    return parse(argument)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def _content(path: Path) -> str:
    if path.stat().st_size > LARGEST_FILE:
        raise SpecError(f"spec: a file must have at most 2**27 bytes, got {path.stat().st_size}; sample it", "", None)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise SpecError(
            f"spec: {path.name} must be text in UTF-8, got other bytes; pass JSON of to_json()", "", None
        ) from None
    if len(text) > LARGEST_JSON:
        raise SpecError(f"spec: a file must have at most 2**26 characters, got {len(text)}; sample it", "", None)
    return text.strip()


def names() -> tuple[str, ...]:
    """The kinds and recipes that an expression may name.

    >>> "cosine" in names(), "bert" in names(), "Cosine" in names()
    (True, True, False)
    """
    return (*_kinds(), *recipes.names(), "warmup")


@functools.cache
def _kinds() -> dict[str, type[Kind]]:
    """Every kind by its name in small letters."""
    found = (value for value in vars(kinds).values() if isinstance(value, type) and issubclass(value, Kind))
    public = [kind for kind in found if kind is not Kind and not kind.__name__.startswith("_")]
    return {re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower(): kind for kind in public}


class _Token(NamedTuple):
    kind: str  # number, name, string, sign or end
    text: str
    column: int


class _Argument(NamedTuple):
    name: str  # empty if it has none
    value: Any
    column: int


class _Warmup(NamedTuple):
    """``warmup(...)`` that waits for what it is the warmup of."""

    named: Mapping[str, Any]
    column: int


class _Callable(NamedTuple):
    """What a name means: a function, and how its arguments may be given."""

    who: str
    function: Callable[..., Any]
    order: Sequence[str]  # of arguments without a name
    known: Sequence[str]
    required: Sequence[str]
    others: bool  # whether it takes names that are not known
    by_need: bool  # whether the order is another one than the function's own


def _callable(who: str, function: Callable[..., Any], *, by_need: bool = False) -> _Callable:
    """A function with the order of its signature, or with what must be given first."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    order = [p.name for p in named if p.kind is not p.KEYWORD_ONLY]
    if by_need:
        order = [p.name for p in sorted(named, key=lambda p: p.default is not p.empty)]
    required = [p.name for p in named if p.default is p.empty]
    known = [p.name for p in named]
    return _Callable(who, function, order, known, required, len(named) < len(parameters), by_need)


def _fraction(numerator: int, denominator: int = 1) -> Fraction:
    """What the repr of `Schedule.speed_up` may hold."""
    whole = Number("pass a whole number", most=LARGEST_STEP, whole=True)
    below = whole._replace(least=1, most=2**106)
    return Fraction(whole("Fraction", "numerator", numerator), below("Fraction", "denominator", denominator))


@functools.cache
def _ours() -> dict[str, _Callable]:
    """Whatever goes by a name of ours."""
    return {
        **{name: _callable(name, kind, by_need=True) for name, kind in _kinds().items()},
        **{kind.__name__: _callable(kind.__name__, kind) for kind in _kinds().values()},
        **{name: _callable(name, getattr(recipes, name)) for name in recipes.names()},
        "warmup": _callable("warmup", Schedule.warmup),
        "Fraction": _callable("Fraction", _fraction),
    }


class _Parser:
    """A text, read from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.token = _Token("end", "", 0)
        self.after = 0
        self.depth = 0
        self._next()

    def schedule(self) -> Schedule:
        """The whole text as one schedule."""
        if self.token.kind == "end":
            raise self._error("text must be an expression, got nothing; pass one such as cosine(9500)")
        made = self._chain()
        if self.token.kind != "end":
            raise self._error(f"an operator must follow, got {shown(self.token.text)}; join parts with >, + or *")
        return self._made(0, _as_schedule, made)  # type: ignore[no-any-return]

    # ---- tokens ----

    def _next(self) -> _Token:
        """Moves on, and returns the token left behind."""
        last = self.token
        match = _TOKEN.match(self.text, self.after)
        if match:
            assert match.lastgroup is not None
            self.token = _Token(match.lastgroup, match[match.lastgroup], match.start(match.lastgroup))
            self.after = match.end()
            return last
        column = len(self.text) - len(self.text[self.after :].lstrip())
        self.token = _Token("end", "", column)
        if column < len(self.text):
            raise self._illegible(self.text[column])
        self.after = column
        return last

    def _illegible(self, character: str) -> SpecError:
        if character == "-":
            return self._error("- must be the sign of a number, got it alone; to subtract, add -1 * what to subtract")
        if character.isdigit():
            return self._error("a number must be written as in Python, got other signs in it; write 0.1 or 1e-3")
        if character in "'\"":
            return self._error("a string must have an end and no backslash, got one without; close it")
        return self._error(f"there must be no {character!r}; see the grammar: help(fastsched.spec)")

    def _is(self, sign: str) -> bool:
        return self.token.kind == "sign" and self.token.text == sign

    def _take(self, sign: str) -> bool:
        """Whether the token is this sign; if so, moves on."""
        return self._is(sign) and bool(self._next())

    def _need(self, sign: str, why: str) -> None:
        if not self._take(sign):
            raise self._error(f"{sign} must {why}, got {self._got()}; add it")

    def _got(self) -> str:
        return shown(self.token.text) if self.token.text else "the end"

    # ---- errors ----

    def _error(self, message: str, column: int | None = None) -> SpecError:
        return SpecError(f"spec: {message}", self.text, self.token.column if column is None else column)

    def _unknown(self, rule: str, name: str, column: int, known: Iterable[str]) -> SpecError:
        """A name that is none, with the closest ones."""
        known = list(known)
        close = difflib.get_close_matches(name, known, 3, 0.5)
        if close:
            advice = f"did you mean {' or '.join(close)}?"
        else:
            advice = f"pass one of {', '.join(known)}" if len(known) <= 12 else "fastsched.spec.names() lists them"
        return self._error(f"{rule}, got {shown(name)}; {advice}", column)

    def _alone(self, made: Any) -> Any:
        """What an operation works on."""
        if isinstance(made, _Warmup):
            message = "warmup(...) must stand before >, got it elsewhere; write part.warmup(...) within an expression"
            raise self._error(message, made.column)
        return made

    def _made(self, column: int, function: Callable[..., Any], *arguments: Any) -> Any:
        """What an operation gives; its refusal points at the column."""
        try:
            return function(*arguments)
        except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
            raise self._error(str(error), column) from None

    # ---- the grammar ----

    def _chain(self) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._error(f"there must be at most {DEEPEST} levels, got more; flatten them")
        made = self._warmed()
        while self._is(">"):
            column = self._next().column
            made = self._made(column, _then, made, self._warmed())
        self.depth -= 1
        return made

    def _warmed(self) -> Any:
        """A sum, or one with its warmup before it."""
        made = self._sum()
        warmups = []
        while isinstance(made, _Warmup):
            warmups.append(made)
            self._need(">", "follow warmup(...), then what it is the warmup of")
            made = self._sum()
        for warmup in reversed(warmups):
            made = self._made(warmup.column, _warm, made, warmup.named)
        return made

    def _sum(self) -> Any:
        made = self._product()
        while self._is("+"):
            column = self._next().column
            made = self._made(column, _add, self._alone(made), self._alone(self._product()))
        return made

    def _product(self) -> Any:
        made = self._part()
        while self._is("*"):
            column = self._next().column
            made = self._made(column, _multiply, self._alone(made), self._alone(self._part()))
        return made

    def _part(self) -> Any:
        made: Any
        if self.token.kind == "number":
            made = self._number()
        elif self.token.kind == "string":
            made = self._next().text[1:-1]
        elif self.token.kind == "name":
            made = self._name()
        elif self._take("["):
            made = tuple(self._items("]", []))
        elif self._take("("):
            made = self._parenthesis()
        else:
            raise self._error(f"a number, a name or a parenthesis must follow, got {self._got()}; add one")
        while self._take("."):
            made = self._method(self._alone(made))
        return made

    def _number(self) -> int | float:
        text, column = self._next()[1:]
        if len(text) > LONGEST_NUMBER:
            raise self._error(f"a number must have at most {LONGEST_NUMBER} signs, got {len(text)}; round it", column)
        number = float(text)
        if abs(number) > LARGEST_VALUE:
            raise self._error(f"a number must be at most 1e290 in size, got {shown(text)}; pass a smaller one", column)
        if re.fullmatch(r"-?[\d_]+", text):
            return int(text)
        return int(number) if "." not in text and number.is_integer() and abs(number) <= LARGEST_STEP else number

    def _parenthesis(self) -> Any:
        """What is in it, or a tuple if commas are in it."""
        made = self._chain()
        if self._take(","):
            return tuple(self._items(")", [made]))
        self._need(")", "close the parenthesis")
        return made

    def _items(self, end: str, items: list[Any]) -> list[Any]:
        while not self._take(end):
            items.append(self._chain())
            if not self._is(end):
                self._need(",", "stand between items")
        return items

    def _name(self) -> Any:
        _, name, column = self._next()
        if self._is("."):
            if name not in SYSTEMS:
                known = (*SYSTEMS, *names())
                raise self._unknown("a name before a dot must be a framework, or be called", name, column, known)
            self._next()
            return self._peer(name)
        if not self._take("("):
            return WORDS.get(name, name)
        if name == "warmup":
            return _Warmup(self._arguments(_ours()[name], column, {})[0], column)
        return self._call(self._meaning(name, column), column)

    def _meaning(self, name: str, column: int) -> _Callable:
        """What a name of ours stands for."""
        known = _ours()
        if name not in known:
            alike = [other for other in known if other[0].isupper() == name[0].isupper()]
            raise self._unknown("a name must be a kind, a recipe or warmup", name, column, alike)
        return known[name]

    def _peer(self, system: str) -> Any:
        """A framework's schedule."""
        module = importlib.import_module(f"fastsched.compat.{system}")
        _, name, column = self.token
        if name not in module.__all__:
            raise self._unknown(f"{system} must have the name", name, column, module.__all__)
        self._next()
        self._need("(", "follow a name")
        return self._call(_callable(f"{system}.{name}", getattr(module, name)), column)

    def _method(self, made: Any) -> Any:
        _, name, column = self.token
        if not isinstance(made, Schedule):
            raise self._error(f"before a dot there must be a schedule, got {shown(made)}; call a kind: cosine(9500)")
        known = [method for method in METHODS if hasattr(made, method)]
        if name not in known:
            raise self._unknown("a method must be one that makes a schedule", name, column, known)
        self._next()
        self._need("(", "follow a method")
        return self._call(_callable(name, getattr(made, name)), column)

    def _call(self, meaning: _Callable, column: int) -> Any:
        """What a call gives; a refusal points at the argument that it names."""
        columns: dict[str, int] = {}
        named, unnamed = self._arguments(meaning, column, columns)
        try:
            if meaning.by_need:
                return meaning.function(**named)
            ordered = [named.pop(name) for name in meaning.order[:unnamed]]
            return meaning.function(*ordered, **named)
        except (TypeError, ValueError, ArithmeticError, MemoryError) as error:
            message = str(error)
            places = [place for name, place in columns.items() if re.search(rf": {name}(\[\d+\])? must ", message)]
            raise self._error(message, places[0] if places else column) from None

    def _arguments(self, meaning: _Callable, column: int, columns: dict[str, int]) -> tuple[dict[str, Any], int]:
        """The arguments up to the closing parenthesis, by name, and how many of them came without one."""
        named: dict[str, Any] = {}
        unnamed = 0
        while not self._take(")"):
            name, value, place = self._argument()
            if not name:
                name = self._name_in_turn(meaning, unnamed, len(named), place)
                unnamed += 1
            elif name not in meaning.known and not meaning.others:
                raise self._unknown(f"{meaning.who} must have the parameter", name, place, meaning.known)
            if name in named:
                raise self._error(f"{meaning.who}: {name} must be given once, got it twice; leave one out", place)
            named[name], columns[name] = value, place
            if not self._is(")"):
                self._need(",", "stand between arguments")
        missing = [name for name in meaning.required if name not in named]
        if missing:
            raise self._error(f"{meaning.who}: {missing[0]} must be given, got nothing; add {missing[0]}=...", column)
        return named, unnamed

    def _name_in_turn(self, meaning: _Callable, unnamed: int, given: int, column: int) -> str:
        """The name of an argument that has come without one."""
        if given > unnamed:
            raise self._error(f"{meaning.who}: values without a name must come first, got one later; name it", column)
        if unnamed == len(meaning.order):
            rest = ", ".join(meaning.known[unnamed:])
            advice = f"name it: {rest}" if rest else "leave it out"
            raise self._error(
                f"{meaning.who} must get at most {unnamed} values without a name, got more; {advice}", column
            )
        return meaning.order[unnamed]

    def _argument(self) -> _Argument:
        column = self.token.column
        value = self._chain()
        if isinstance(value, str) and self._take("="):
            return _Argument(value, self._chain(), column)
        return _Argument("", value, column)


def _as_schedule(made: Any) -> Schedule:
    if isinstance(made, Schedule):
        return made
    if is_number(made):
        return Constant(made)
    advice = f"write {made}(...)" if isinstance(made, str) and made.isidentifier() else "pass such as cosine(9500)"
    raise TypeError(f"a part must be a schedule or a number, got {shown(made)}; {advice}")


def _warm(made: Any, named: Mapping[str, Any]) -> Schedule:
    return _as_schedule(made).warmup(**named)


def _then(a: Any, b: Any) -> Schedule:
    return _as_schedule(a).then(_as_schedule(b))


def _add(a: Any, b: Any) -> Any:
    if is_number(a) and is_number(b):
        return _bounded(a + b)
    return a + _as_schedule(b) if is_number(a) else _as_schedule(a) + (b if is_number(b) else _as_schedule(b))


def _multiply(a: Any, b: Any) -> Any:
    if is_number(a) and is_number(b):
        return _bounded(a * b)
    return a * _as_schedule(b) if is_number(a) else _as_schedule(a) * (b if is_number(b) else _as_schedule(b))


def _bounded(number: float) -> float:
    if abs(number) > LARGEST_VALUE:
        raise ValueError("a number must be at most 1e290 in size, got more; pass smaller ones")
    return number
