"""The numbers and words of a schedule's text, each with what it means: what sliders and menus turn.

The text stays the only truth: a knob is a place in it, and turning one writes another value there.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastsched import spec
from fastsched._check import LARGEST_VALUE, Choice
from fastsched.compat import SYSTEMS
from fastsched.kinds import ANNEAL
from fastsched.schedule import SHAPE, Schedule

MOST_KNOBS = 40  # more are no help: the text is there
POSITIONS = 200  # of a slider

_CALL = re.compile(r"[\w.]+\([^()]*\)")  # needs no parentheses around it
_FLAGS = ("False", "True")
_RISES = ("linear", "cosine", "constant", "exponential", "log")
# The words that an argument may be, by the call's name and its own; a name alone counts for all other calls.
_WORDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("warmup", "shape"): _RISES,
    ("", "shape"): SHAPE.options,
    ("", "anneal"): ANNEAL.options,
    ("", "mode"): ("triangular", "triangular2", "exp_range"),
    ("", "distribution"): ("normal", "uniform"),
}

# What a template has where a signature has no number. All make a schedule of about a thousand updates.
_USUAL: Mapping[str, Any] = {
    "steps": 1000,
    "low": 0.1,
    "high": 1.0,
    "up": 250,
    "start": 1.0,
    "end": 0.1,
    "gamma": 0.5,
    "every": 200,
    "milestones": [300, 600, 900],
    "boundaries": [300, 600, 900],
    "values": [1.0, 0.3, 0.1, 0.03],
    "timescale": 100,
    "rate": 0.01,
    "exponent": 0.5,
    "first": 250,
    "warmup": 100,
    "stable": 600,
    "decay": 300,
    "cosine": 500,
    "plateau": 0.3,
    "steps_per_epoch": 10,
}
_INSTEAD: Mapping[str, Mapping[str, Any]] = {
    "linear": {"start": 0.1, "end": 1.0},
    "exponential": {"gamma": 0.995},
    "cosine_restarts": {"cycles": 4},
    "sgdr": {"first": 60, "cycles": 4},
    "infinite": {"constant": 200, "cooldown": 200, "end": 0.05},
    "vit": {"warmup": 100},
    "bert": {"warmup": 100},
    "gpt": {"warmup": 100},
    "noam": {"warmup": 100},
    "wsd": {"warmup": 10, "decay": 200},
    "warmup": {"steps": 100},
}
# What a method makes of a text, which `{}` stands for.
METHODS: Mapping[str, str] = {
    "repeat": "{}.repeat(2)",
    "clip": "{}.clip(0.2, 0.8)",
    "noisy": "{}.noisy(0.1, seed=0, distribution=normal, std=1.0)",
    "head": "{}.head(500)",
    "cooldown": "{}.cooldown(700, 300, shape=sqrt, end=0.0)",
    "skip": "{}.skip(100)",
    "speed_up": "{}.speed_up(2)",
    "stretch": "{}.stretch(2)",
}
WAYS: Mapping[str, str] = {
    "replace": "{new}",
    "then": "{text} > {new}",
    "times": "{part} * {new}",
    "plus": "{part} + {new}",
    "warmup": "warmup(100, start=0.0, shape=linear) > {text}",
    **{name: way.replace("{}", "{part}") for name, way in METHODS.items()},
}


@dataclass(frozen=True)
class Knob:
    """A number or a word at ``start`` to ``end`` of a text. ``who``: the call that it is an argument of."""

    who: str
    name: str
    text: str
    start: int
    end: int
    words: tuple[str, ...] = ()  # what else may stand there; empty for a number
    whole: bool = False

    @property
    def role(self) -> str:
        """What it turns, in a word or two."""
        return f"{self.who} {self.name}".strip()

    @property
    def value(self) -> float | str:
        """What stands there now."""
        if self.words:
            return self.text
        number = float(self.text)
        return int(self.text) if self.whole and self.text.lstrip("-").isdecimal() else number

    def range(self) -> tuple[float, float, float]:
        """Where a slider begins and ends, and its step: around the present value, bad ones within reach."""
        value = float(self.text)
        if self.whole:
            high = _round_up(max(10.0, 2.0 * abs(value)))
            return (0.0 if value >= 0 else -high), high, float(max(1, round(_round_up(high / POSITIONS / 5) / 2)))
        if 0.9 < value < 1.0:  # a factor per step or a beta
            return 0.9, 1.0, 0.1 / POSITIONS
        if 0.05 <= abs(value) <= 1.0 or value == 0.0:
            high = 1.0 if abs(value) < 1.0 else 2.0
        else:
            high = _round_up(4.0 * abs(value))
        return (0.0 if value >= 0 else -high), high, high / POSITIONS


def _round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, ... above a positive number."""
    decade = 10.0 ** math.floor(math.log10(value))
    return next(factor * decade for factor in (1.0, 2.0, 5.0, 10.0) if factor * decade >= value * (1.0 - 1e-12))


@dataclass
class _Open:
    """A parenthesis or bracket that is open: of a call, a list or a part."""

    who: str = ""
    order: Sequence[str] = ()
    types: Mapping[str, str] = field(default_factory=dict)
    is_call: bool = False
    index: int = 0
    keyword: str = ""

    @property
    def argument(self) -> str:
        """The name of the argument that is being read."""
        return self.keyword or (self.order[self.index] if self.index < len(self.order) else "")


def knobs(text: str) -> list[Knob]:
    """The knobs of a text from left to right, also of one that makes no schedule; none if they are too many.

    >>> [(knob.role, knob.value) for knob in knobs("warmup(500) > cosine(9500, end=0.1)")]
    [('warmup steps', 500), ('cosine steps', 9500), ('cosine end', 0.1)]
    """
    found = list(itertools.islice(_read(text), MOST_KNOBS + 1))
    return found if len(found) <= MOST_KNOBS else []


def composed(way: str, text: str, name: str) -> str:
    """A text with a kind or recipe put to it in one of `WAYS`, or a method called on it.

    >>> composed("then", "linear(0.1, 1, 50)", "rex")
    'linear(0.1, 1, 50) > rex(1000, start=1.0, end=0.0)'
    """
    if not text.strip():
        way = "replace"
    text = text.strip()
    part = text if _CALL.fullmatch(text) else f"({text})"
    return WAYS[Choice(tuple(WAYS))("composed", "way", way)].format(text=text, part=part, new=template(name))


def template(name: str) -> str:
    """A kind or recipe with its arguments written out, so that there is a knob for each.

    >>> template("cosine")
    'cosine(1000, start=1.0, end=0.0, cycles=0.5, exponent=1.0, k=1.0)'
    """
    known = Choice(spec.names())("template", "name", name)
    meaning = spec._ours()[known]
    parameters = inspect.signature(meaning.function).parameters
    instead = _INSTEAD.get(known, {})
    needed = [each for each in meaning.order if each in meaning.required]
    written = [_word(instead.get(each, _USUAL.get(each))) for each in needed]
    others = {each: instead.get(each, parameters[each].default) for each in meaning.known if each not in needed}
    written += [f"{each}={_word(value)}" for each, value in others.items() if value is not None]
    return f"{known}({', '.join(written)})"


def _word(value: Any) -> str:
    """A value as a text has it."""
    return str(list(value)) if isinstance(value, (list, tuple)) else str(value)


def _read(text: str) -> Iterator[Knob]:
    """The knobs of a text, token by token; those before what is no token."""
    stack = [_Open()]
    tokens = list(_tokens(text))
    for i, (kind, word, start) in enumerate(tokens):
        before = tokens[i - 1][1] if i else ""
        after = tokens[i + 1][1] if i + 1 < len(tokens) else ""
        top = stack[-1]
        if kind == "sign":
            _move(stack, word, tokens[:i])
        elif kind == "name" and after == "=":
            top.keyword = word
        elif kind == "number" or (kind in ("name", "string") and after not in ("(", ".", "=") and before != "."):
            knob = _knob(stack, kind, word, start)
            if knob:
                yield knob


def _tokens(text: str) -> Iterator[tuple[str, str, int]]:
    after = 0
    while match := spec._TOKEN.match(text, after):
        kind = match.lastgroup
        assert kind is not None
        yield kind, match[kind], match.start(kind)
        after = match.end()


def _move(stack: list[_Open], sign: str, before: Sequence[tuple[str, str, int]]) -> None:
    """What a sign opens, closes or separates."""
    if sign == "(":
        stack.append(_call(before))
    elif sign == "[":
        stack.append(_Open())
    elif sign in ")]" and len(stack) > 1:
        stack.pop()
    elif sign == ",":
        stack[-1].index += 1
        stack[-1].keyword = ""


def _call(before: Sequence[tuple[str, str, int]]) -> _Open:
    """What a parenthesis opens: a call if a name is before it."""
    if not before or before[-1][0] != "name":
        return _Open()
    name = before[-1][1]
    meaning = None
    if len(before) >= 3 and before[-2][1] == ".":
        owner = before[-3][1]
        if owner in SYSTEMS:
            function = getattr(importlib.import_module(f"fastsched.compat.{owner}"), name, None)
            meaning = spec._callable(name, function) if callable(function) else None
        elif name in spec.METHODS and hasattr(Schedule, name):
            meaning = spec._callable(name, getattr(Schedule, name))
    else:
        meaning = spec._ours().get(name)
    if meaning is None:
        return _Open(name, is_call=True)
    types = {p.name: str(p.annotation) for p in inspect.signature(meaning.function).parameters.values()}
    return _Open(name, meaning.order, types, is_call=True)


def _knob(stack: Sequence[_Open], kind: str, word: str, start: int) -> Knob | None:
    """What a number or a word is the value of; None for a word that is not one of a few."""
    top = stack[-1]
    name, who = top.argument, top.who
    kinds_of = top.types.get(name, "")
    if not top.is_call and len(stack) > 1 and stack[-2].is_call:  # an item of a list
        call = stack[-2]
        name, who, kinds_of = f"{call.argument} {top.index + 1}".strip(), call.who, call.types.get(call.argument, "")
    if kind == "number":
        if len(word) > spec.LONGEST_NUMBER or "_" in word or not abs(float(word)) <= LARGEST_VALUE:
            return None
        whole = "int" in kinds_of or (not kinds_of and word.lstrip("-").isdecimal() and abs(int(word)) > 1)
        return Knob(who, name or "number", word, start, start + len(word), whole=whole and float(word).is_integer())
    if word in _FLAGS:
        return Knob(who, name, word, start, start + len(word), words=_FLAGS)
    options = _WORDS.get((who, name)) or _WORDS.get(("", name), ())
    plain = word.strip("'\"")
    return Knob(who, name, plain, start, start + len(word), words=options) if plain in options else None
