"""Rules for parameters, declared where a kind declares its fields.

A message says who, which rule, what was received, what to do.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

LARGEST_STEP = 2**53
LARGEST_VALUE = 1e290
LARGEST_SAMPLES = 2**21


def shown(value: object) -> str:
    """A short text for a message: numbers and short strings as they are, of everything else only the type."""
    if isinstance(value, (bool, int, float, np.number)):
        text = repr(value.item() if isinstance(value, np.number) else value)
        return text if len(text) <= 40 else f"{text[:18]}...{text[-8:]}"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    return "None" if value is None else f"a value of type {type(value).__name__}"


def is_number(value: object) -> bool:
    """Whether this is an int or a float, of Python or numpy; bool is not."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def nearest(exact: Fraction) -> float:
    """The nearest float; infinity where there is none."""
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def as_printed(value: Any) -> Fraction:
    """A number as an exact one: a float is the decimal that it prints as."""
    if isinstance(value, (float, np.floating)):
        return Fraction(repr(float(value)))
    return Fraction(int(value.numerator), int(value.denominator))


class Number(NamedTuple):
    """A real number within bounds; ``whole`` for an int."""

    advice: str
    above: float | None = None
    least: float | None = None
    most: float | None = None
    whole: bool = False
    optional: bool = False

    def broken(self, number: float) -> str:
        """The first bound that a number breaks, in words; empty if none."""
        if self.above is not None and not number > self.above:
            return f"> {self.above:g}"
        if self.least is not None and not number >= self.least:
            return f">= {self.least:g}"
        if self.most is not None and not number <= self.most:
            return "<= 2**53" if self.most == LARGEST_STEP else f"<= {self.most:g}"
        return ""

    def __call__(self, who: str, name: str, value: Any) -> Any:
        """The value as a Python number."""
        if value is None and self.optional:
            return None
        if not is_number(value) or (self.whole and isinstance(value, (float, np.floating))):
            kind = "an int" if self.whole else "a number"
            whole = is_number(value) and abs(value) <= LARGEST_STEP and float(value).is_integer()
            advice = f"pass {float(value):.0f}" if whole else f"pass {kind}"
            raise TypeError(f"{who}: {name} must be {kind}, got {shown(value)}; {advice}")
        if self.whole:
            number: int | float = operator.index(value)
        else:
            try:
                number = float(value)
            except OverflowError:
                number = math.inf
            if not math.isfinite(number) or abs(number) > LARGEST_VALUE:
                raise ValueError(
                    f"{who}: {name} must be finite and at most 1e290 in size, got {shown(value)}; {self.advice}"
                )
        if rule := self.broken(number):
            raise ValueError(f"{who}: {name} must be {rule}, got {shown(value)}; {self.advice}")
        return number


class Flag(NamedTuple):
    """True or False."""

    advice: str

    def __call__(self, who: str, name: str, value: Any) -> bool:
        """The value as a bool."""
        if not isinstance(value, (bool, np.bool_)):
            raise TypeError(f"{who}: {name} must be True or False, got {shown(value)}; {self.advice}")
        return bool(value)


class Choice(NamedTuple):
    """One of a few words."""

    options: tuple[str, ...]

    def __call__(self, who: str, name: str, value: Any) -> str:
        """The word."""
        advice = "pass " + ", ".join(repr(option) for option in self.options[:-1]) + f" or {self.options[-1]!r}"
        if not isinstance(value, str):
            raise TypeError(f"{who}: {name} must be a string, got {shown(value)}; {advice}")
        if value not in self.options:
            raise ValueError(f"{who}: {name} must be a known one, got {shown(value)}; {advice}")
        return value


class Several(NamedTuple):
    """A sequence of which each item follows a rule, ascending if so asked; kept as a tuple."""

    item: Number
    ascending: bool = False

    def __call__(self, who: str, name: str, value: Any) -> tuple[Any, ...]:
        """The items."""
        if isinstance(value, np.ndarray) and value.ndim == 1:
            if value.dtype.kind not in ("iu" if self.item.whole else "iuf"):
                kind = "ints" if self.item.whole else "numbers"
                raise TypeError(
                    f"{who}: {name} must be {kind}, got an array of dtype {value.dtype}; {self.item.advice}"
                )
            value = value.tolist()
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError(f"{who}: {name} must be a list, got {shown(value)}; pass a list or a tuple of numbers")
        items = tuple(self.item(who, f"{name}[{i}]", item) for i, item in enumerate(value))
        if self.ascending:
            for i, (before, after) in enumerate(pairwise(items)):
                if after < before:
                    raise ValueError(
                        f"{who}: {name} must be ascending, got {after} after {before} at index {i + 1}; sort them"
                    )
        return items


class Numbers(NamedTuple):
    """Many finite numbers, checked at once; kept as a tuple of floats."""

    advice: str

    def __call__(self, who: str, name: str, value: Any) -> tuple[float, ...]:
        """The numbers."""
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in "iuf":
            value = value.astype(np.float64).tolist()
        if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
            raise TypeError(f"{who}: {name} must be a list, got {shown(value)}; pass a list or an array of numbers")
        if not 1 <= len(value) <= LARGEST_SAMPLES:
            raise ValueError(f"{who}: {name} must be 1 to 2**21 numbers, got {len(value)} of them; {self.advice}")
        if set(map(type, value)) == {float} and np.all(np.abs(np.fromiter(value, np.float64)) <= LARGEST_VALUE):
            return tuple(value)
        return tuple(VALUE(who, f"{name}[{i}]", item) for i, item in enumerate(value))


VALUE = Number("pass a finite number")
STEPS = Number("for a fixed value use Constant(1.0)", least=1, most=LARGEST_STEP, whole=True)
STEP_ADVICE = "count updates from 0"


def step_number(step: Any, who: str = "step") -> float:
    """One step as a float, checked."""
    if not is_number(step):
        raise TypeError(f"{who} must be a number or an array of numbers, got {shown(step)}; {STEP_ADVICE}")
    number = operator.index(step) if isinstance(step, (int, np.integer)) else float(step)
    if not 0 <= number <= LARGEST_STEP:
        raise ValueError(f"{who} must be >= 0 and <= 2**53, got {shown(step)}; {STEP_ADVICE}")
    return float(number)


def step_array(steps: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Steps as a contiguous float64 array, checked."""
    if steps.dtype.kind not in "iuf":
        raise TypeError(f"steps must be ints or floats, got an array of dtype {steps.dtype}; {STEP_ADVICE}")
    if steps.size:
        low, high = steps.min().item(), steps.max().item()
        if not (low >= 0 and high <= LARGEST_STEP):
            rule = "<= 2**53" if low >= 0 else ">= 0 and no NaN"
            raise ValueError(f"steps must be {rule}, got an array of shape {steps.shape} with others; {STEP_ADVICE}")
    return np.asarray(steps, dtype=np.float64, order="C")


def window(who: str, steps: Any, start: Any) -> tuple[int, int]:
    """The number of steps of a table and its first one."""
    count = Number("pass how many steps to tabulate", least=0, most=LARGEST_STEP, whole=True)(who, "steps", steps)
    first = Number("pass the first step", least=0, most=LARGEST_STEP, whole=True)(who, "start", start)
    if first + count - 1 > LARGEST_STEP:
        raise ValueError(f"{who}: start + steps must be <= 2**53, got {first} + {count}; ask for fewer steps")
    return count, first
