"""Where two curves differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastsched._check import LARGEST_SAMPLES, Number, shown
from fastsched.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

LONGEST_NAME = 60


@dataclass(frozen=True, repr=False)
class Comparison:
    """Two curves side by side: what `compare` gives. It prints a summary, and is true if they agree.

    ``steps``: how many updates were compared; ``tolerance``: the difference allowed, relative to the largest value;
    ``different``: at how many updates they differ by more; ``first``: at which one first, None if nowhere; ``a`` and
    ``b``: the values. ``largest`` is the largest absolute difference and ``at`` where it is; ``relative``, at
    ``relative_at``, the largest one in units of the larger of the two values there.
    """

    names: tuple[str, str]
    steps: int
    tolerance: float
    different: int
    first: int | None
    largest: float
    at: int
    relative: float
    relative_at: int
    a: Floats = field(compare=False)
    b: Floats = field(compare=False)

    def __bool__(self) -> bool:
        return self.first is None

    def __str__(self) -> str:
        heads = [f"{letter}: {name}" for letter, name in zip("ab", self.names, strict=True)]
        if not self.largest:
            return "\n".join([*heads, f"equal over all {self.steps} updates"])
        if self.first is None:
            verdict = f"equal within {self.tolerance:g} of the largest value over all {self.steps} updates"
        else:
            verdict = f"they differ at {self.different} of {self.steps} updates, first {self._at(self.first)}"
        largest = f"largest difference: {self.largest:.6g} {self._at(self.at)}"
        relative = f"largest relative difference: {self.relative:.3g} {self._at(self.relative_at)}"
        return "\n".join([*heads, verdict, largest, relative])

    __repr__ = __str__

    def _at(self, step: int) -> str:
        return f"at {step}: {self.a[step]:.17g} and {self.b[step]:.17g}"

    def plot(self, *, ax: Sequence[Axes] | None = None, log: bool | None = None) -> Figure:
        """Both curves, and below them their difference ``b - a``: a matplotlib Figure, of ``ax`` if those are given.

        ``ax``: two Axes. ``log``: whether the curves have a logarithmic scale; by default as `Schedule.plot` decides.
        ``figure.savefig("picture.png")`` saves it. Errors: ``ImportError`` if matplotlib is not installed.
        """
        from fastsched._plot import plot_comparison

        names = self.names if self.names[0] != self.names[1] else ("a", "b")
        return plot_comparison(dict(zip(names, (self.a, self.b), strict=True)), self.first, ax, log)


def compare(
    a: Schedule | Sequence[float] | npt.NDArray[Any],
    b: Schedule | Sequence[float] | npt.NDArray[Any],
    steps: int | None = None,
    *,
    tolerance: float = 1e-12,
) -> Comparison:
    """Where two curves first differ over ``steps`` updates, and by how much.

    ``a`` and ``b``: schedules, or values from update 0 on, such as a log or another library's. ``steps``: by default as
    many as both have (of an endless schedule and another one, that one's). Two values differ if they are further apart
    than ``tolerance`` times the largest size of any value, so that roundings near a zero do not count; 0 asks for equal
    values. ``compare(...).plot()`` draws both. Errors: ``ValueError`` if there are fewer values than steps, a value is
    not finite, or nothing says how many steps; ``TypeError`` for anything but curves.

    >>> result = compare(Cosine(steps=100), Linear(1.0, 0.0, steps=100), 101)
    >>> result.first, result.at, f"{result.largest:.4f}"
    (1, 22, '0.1053')
    >>> print(compare(Linear(1.0, 0.0, steps=2), [1.0, 0.5, 0.25]))
    a: Linear(1.0, 0.0, steps=2)
    b: 3 values
    equal over all 2 updates
    """
    who = "compare"
    tolerance = Number("pass a fraction of the largest value, such as 1e-9", least=0.0)(who, "tolerance", tolerance)
    curves = {"a": _curve(who, "a", a), "b": _curve(who, "b", b)}
    lengths = [c.steps if isinstance(c, Schedule) else len(c) for c in curves.values()]
    if steps is None:
        if min(lengths) == math.inf:
            raise ValueError(f"{who}: steps must be given for schedules without an end, got None; pass a number")
        steps = int(min(lengths))
    rule = Number("pass how many updates to compare", least=1, most=LARGEST_SAMPLES * 32, whole=True)
    count = rule(who, "steps", steps)
    tables = [_table(who, name, curve, count) for name, curve in curves.items()]
    x, y = tables
    difference, size = np.abs(x - y), np.maximum(np.abs(x), np.abs(y))
    wrong = difference > tolerance * size.max()
    relative = np.divide(difference, size, out=np.zeros(count), where=size > 0.0)
    at, relative_at = int(difference.argmax()), int(relative.argmax())
    return Comparison(
        names=(_name(a), _name(b)),
        steps=count,
        tolerance=tolerance,
        different=int(wrong.sum()),
        first=int(wrong.argmax()) if wrong.any() else None,
        largest=float(difference[at]),
        at=at,
        relative=float(relative[relative_at]),
        relative_at=relative_at,
        a=x,
        b=y,
    )


def logged(who: str, name: str, values: Any) -> Floats:
    """Values that somebody has logged, as float64."""
    advice = "pass a list or a one-dimensional array of numbers"
    if isinstance(values, (str, bytes)) or not (hasattr(values, "__array__") or isinstance(values, Sequence)):
        raise TypeError(f"{who}: {name} must be values, got {shown(values)}; {advice}")
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"{who}: {name} must be numbers, got dtype {array.dtype}; {advice}")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"{who}: {name} must have one dimension and a value, got shape {array.shape}; {advice}")
    array = array.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise ValueError(f"{who}: {name} must be finite, got others, the first at index {bad[0]}; leave them out")
    return array


def _curve(who: str, name: str, value: Any) -> Schedule | Floats:
    return value if isinstance(value, Schedule) else logged(who, name, value)


def _table(who: str, name: str, curve: Schedule | Floats, steps: int) -> Floats:
    if isinstance(curve, Schedule):
        return curve.table(steps)
    if len(curve) < steps:
        raise ValueError(
            f"{who}: {name} must have a value for each step, got {len(curve)} for {steps}; pass fewer steps"
        )
    return curve[:steps]


def _name(value: Any) -> str:
    text = repr(value) if isinstance(value, Schedule) else f"{len(value)} values"
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 3]}..."
