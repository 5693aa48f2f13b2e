"""`fastsched.find_lr`: the learning-rate range test, after which everything is as it was.

A sweep is a schedule from a low to a high learning rate, run over real batches; the loss beside it tells which learning
rates train, and from which on training fails. Source: Smith, Cyclical Learning Rates for Training Neural Networks, 2015
(arXiv 1506.01186), section 3.3.
"""

from __future__ import annotations

import copy
import json
import math
import random
import signal
import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fastsched import optim
from fastsched._agreement import groups_of_ranks
from fastsched._check import Choice, Flag, Number, shown
from fastsched.kinds import Constant, Geometric, Linear
from fastsched.plan import lr_table
from fastsched.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Suggestion", "Sweep", "Sweeps", "find_lr"]

Floats = npt.NDArray[np.float64]

WHO = "find_lr"
FEWEST_POINTS = 10  # of which something can be said
NOISE = 2.0  # a fall that counts, in standard deviations of one loss; noise alone, smoothed, moves by about one
MEDIAN_STEP = 0.954  # between neighbours of normal noise, in its standard deviations: sqrt(2) * 0.6745
SMALLEST_FALL = 0.01  # a fall that counts, as a share of the loss
PRICE = 0.9  # of the lr at which the loss is back where it began
MOST_INSIDE, DEEPEST = 64, 6  # where the data's random generators are looked for

_LOW = Number("pass a learning rate that changes nothing, such as 1e-7", above=0)
_HIGH = Number("pass a learning rate at which training fails, such as 10.0", above=0)
_STEPS = Number("100 are usual", least=2, most=2**20, whole=True)
_SWEEP = Choice(("exponential", "linear"))
_SMOOTH = Number("pass the share that an average keeps, such as 0.8; 0 smooths nothing", least=0, most=0.999)
_DIVERGE = Number("pass how many times the best loss ends the sweep, such as 4.0, or None", above=1, optional=True)
_ACCUMULATE = Number("pass how many batches make an update", least=1, most=2**20, whole=True)
_NORM = Number("pass a limit such as 1.0, or None", above=0, optional=True)
_PROGRESS = Flag("False shows none")

# ---- results


class Suggestion(NamedTuple):
    """A learning rate and why; None, and why not."""

    lr: float | None
    reason: str


@dataclass(frozen=True, repr=False, eq=False)
class Sweep:
    """What a range test has measured: what `find_lr` gives. It prints a summary.

    Attributes:
        lrs: the learning rate of each update; of groups that sweep together, the largest.
        losses: beside each, the loss of the batches that this update used: what the updates before it have led to.
        smoothed: the losses, smoothed: the mean of a bias-corrected exponential average that runs up the sweep and one
            that runs down, so that the curve isn't late. The sweep's end is decided by the one that runs up.
        ended: how it ended: "finished", "diverged", "not finite" or "out of batches".
        suggestions: by name, learning rates with reasons:
            "steep": where the smoothed loss falls fastest;
            "valley": the middle of the longest descent, the longest subsequence of losses each below the one before it,
            as in fastai;
            "minimum": a tenth of the lr with the smallest smoothed loss, as fastai's older rule;
            "edge": ten percent below the lr at which the smoothed loss is back where it began.
        notes: what a reader should know about this sweep.
        group: which group was swept alone, its name or else its index; None for all together.

    """

    lrs: Floats
    losses: Floats
    smoothed: Floats
    ended: str
    suggestions: Mapping[str, Suggestion]
    notes: tuple[str, ...] = ()
    group: str | int | None = None
    _silence: str = field(default="", kw_only=True)

    @property
    def suggestion(self) -> float | None:
        """The middle one of "steep", "valley" and "minimum"; None where the curve says nothing, see `reason`.

        Noise may mislead one of them, but seldom two in the same direction. "edge" is no candidate: it is an upper
        bound, for schedules that only touch their peak.
        """
        return self._chosen[1].lr if self._chosen else None

    @property
    def reason(self) -> str:
        """Why `suggestion` is what it is."""
        if not self._chosen:
            return self._silence
        name, chosen = self._chosen
        return f"{name}: {chosen.reason}"

    @property
    def _chosen(self) -> tuple[str, Suggestion] | None:
        candidates = [(s.lr, name) for name in _CANDIDATES if (s := self.suggestions[name]).lr is not None]
        if not candidates:
            return None
        name = sorted(candidates)[(len(candidates) - 1) // 2][1]
        return name, self.suggestions[name]

    def __repr__(self) -> str:
        what = "none" if self.suggestion is None else f"{self.suggestion:.2e}"
        of = "" if self.group is None else f" of group {self.group}"
        span = f"{len(self.lrs)} points, {self.lrs[0]:.1e} to {self.lrs[-1]:.1e}"
        return f"<Sweep{of}: {span}, {self.ended}; suggestion {what}>"

    def __str__(self) -> str:
        lines = [repr(self)[1:-1]]
        if self._silence:
            lines.append(f"  {self._silence}")
        else:
            for name, (lr, reason) in self.suggestions.items():
                lines.append(f"  {name:8}  {'-' if lr is None else f'{lr:.2e}':>8}  {reason}")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def to_json(self) -> str:
        """The sweep as a JSON object, without anything that JSON cannot hold."""
        return json.dumps(
            {
                "group": self.group,
                "lrs": self.lrs.tolist(),
                "losses": self.losses.tolist(),
                "smoothed": self.smoothed.tolist(),
                "ended": self.ended,
                "suggestion": self.suggestion,
                "reason": self.reason,
                "suggestions": {name: s._asdict() for name, s in self.suggestions.items()},
                "notes": self.notes,
            },
            allow_nan=False,
        )

    def plot(self, ax: Axes | None = None) -> Axes:
        """The losses, smoothed and as they are, over the learning rate on a log scale; the suggestions marked.

        Args:
            ax: matplotlib axes to draw into; None makes a figure of its own.

        Returns:
            The axes; `sweep.plot().figure.savefig("sweep.png")` saves the picture.

        Raises:
            ImportError: matplotlib is not installed.

        """
        ax = _axes() if ax is None else ax
        self._draw(ax, "", "#0072b2")
        self._mark(ax)
        ax.legend(frameon=False, fontsize="small", loc="best")
        return ax

    def _draw(self, ax: Axes, label: str, color: str) -> None:
        ax.plot(self.lrs, self.losses, color=color, alpha=0.3, linewidth=0.9, label="" if label else "loss")
        ax.plot(self.lrs, self.smoothed, color=color, linewidth=1.8, label=label or "smoothed")
        ax.set_xscale("log")
        ax.set_xlabel("learning rate" + ("" if self.group is None or label else f" of group {self.group}"))
        ax.set_ylabel("loss")
        low, high = min(self.losses.min(), self.smoothed.min()), self.losses[: self._rise].max()
        if not low < high:
            return
        margin = 0.15 * (high - low)  # what explodes at the end must not flatten what matters
        before = ax.get_ylim() if label and len(ax.lines) > 2 else (math.inf, -math.inf)
        ax.set_ylim(min(before[0], low - margin), max(before[1], high + 2 * margin))

    @property
    def _rise(self) -> int:
        """How many points there are up to the lowest, at least a tenth of all."""
        return max(int(self.smoothed.argmin()) + 1, len(self.lrs) // 10, 1)

    def _mark(self, ax: Axes) -> None:
        chosen = self._chosen[0] if self._chosen else None
        for (name, (lr, _)), (color, marker) in zip(self.suggestions.items(), _MARKS, strict=True):
            if lr is None:
                continue
            height = float(np.interp(math.log(lr), np.log(self.lrs), self.smoothed))
            text = f"{name}: {lr:.2g}" + (" (suggestion)" if name == chosen else "")
            ax.plot([lr], [height], marker, color=color, markersize=8, markeredgecolor="white", label=text, zorder=3)
            if name == chosen:
                ax.axvline(lr, color=color, linewidth=1.0, linestyle=":", zorder=1)


_CANDIDATES = ("steep", "valley", "minimum")
_MARKS = (("#d55e00", "o"), ("#009e73", "s"), ("#cc79a7", "D"), ("#e69f00", "^"))  # Okabe and Ito: for all eyes


class Sweeps(Mapping[str | int, Sweep]):
    """Sweeps of single groups, by the group's name, or its index where it has none."""

    __slots__ = ("_sweeps",)

    def __init__(self, sweeps: Iterable[Sweep]) -> None:
        self._sweeps = {cast(str | int, sweep.group): sweep for sweep in sweeps}

    def __getitem__(self, group: str | int) -> Sweep:
        return self._sweeps[group]

    def __iter__(self) -> Iterator[str | int]:
        return iter(self._sweeps)

    def __len__(self) -> int:
        return len(self._sweeps)

    @property
    def suggestion(self) -> dict[str | int, float | None]:
        """Every group's suggestion."""
        return {group: sweep.suggestion for group, sweep in self.items()}

    def __repr__(self) -> str:
        return "\n".join(map(repr, self.values()))

    def plot(self, ax: Axes | None = None) -> Axes:
        """The smoothed losses of all groups in one picture; see `Sweep.plot`."""
        from matplotlib import colormaps

        ax = _axes() if ax is None else ax
        colors = colormaps["viridis"](np.linspace(0.0, 0.9, len(self)))
        for (group, sweep), color in zip(self.items(), colors, strict=True):
            sweep._draw(ax, str(group) if isinstance(group, str) else f"group {group}", color)
        ax.legend(frameon=False, fontsize="small", loc="best")
        return ax


def _axes() -> Axes:
    from fastsched._plot import figure

    picture, axes = figure(WHO, 1, (2.4,))
    del picture  # the axes keep it
    return axes[0]


# ---- what a curve suggests


def _smoothed(losses: Floats, keep: float) -> Floats:
    """The mean of the exponential averages from both ends.

    A loss past the lowest counts as no more than the largest before it, so that what explodes at the end doesn't reach
    back over the descent.
    """
    upward = _averages(losses, keep)
    lowest = int(upward.argmin())
    tamed = np.minimum(losses, losses[: lowest + 1].max())
    return (_averages(tamed, keep) + _averages(tamed[::-1], keep)[::-1]) / 2.0


def _averages(losses: Floats, keep: float) -> Floats:
    average = _Average(keep)
    return np.array([average.with_one_more(loss) for loss in losses.tolist()])


class _Average:
    """An exponential average of the losses so far: sum of keep**age * loss over the sum of keep**age."""

    def __init__(self, keep: float) -> None:
        self.keep, self.sum, self.weight = keep, 0.0, 0.0

    def with_one_more(self, loss: float) -> float:
        self.sum = self.keep * self.sum + loss
        self.weight = self.keep * self.weight + 1.0
        return self.sum / self.weight


def _suggestions(lrs: Floats, losses: Floats, smoothed: Floats, ended: str) -> tuple[dict[str, Suggestion], str]:
    """Every suggestion by name, and why there is none, if there is none."""
    silence = _silence(losses, smoothed, ended)
    if silence:
        return dict.fromkeys((*_CANDIDATES, "edge"), Suggestion(None, silence)), silence
    lowest = int(smoothed.argmin())
    slope = np.gradient(smoothed)
    steepest = int(slope[: lowest + 1].argmin())
    descent = _longest_descent(smoothed[: lowest + 1])
    middle = descent[(len(descent) - 1) // 2]
    return {
        "steep": Suggestion(float(lrs[steepest]), f"the loss falls fastest, by {-slope[steepest]:.3g} an update"),
        "valley": Suggestion(
            float(lrs[middle]),
            f"the middle of the longest descent, {lrs[descent[0]]:.2g} to {lrs[descent[-1]]:.2g}",
        ),
        "minimum": Suggestion(float(lrs[lowest]) / 10.0, f"a tenth of {lrs[lowest]:.2g}, where the loss is smallest"),
        "edge": _edge(lrs, smoothed, lowest, ended),
    }, ""


def _silence(losses: Floats, smoothed: Floats, ended: str) -> str:
    """Why a curve says nothing; empty where it does."""
    count, lowest = len(losses), int(smoothed.argmin())
    if count < FEWEST_POINTS:
        got = f"{count} points are too few, {FEWEST_POINTS} are needed"
        if ended in ("diverged", "not finite"):
            return (
                f"the loss {'diverged' if ended == 'diverged' else 'became infinite or NaN'}: {got}; pass a smaller low"
            )
        return f"{got}; pass more steps" + (" and batches" if ended == "out of batches" else "")
    start = float(smoothed[: max(1, count // 10)].mean())
    fall = start - float(smoothed[lowest])
    if lowest == 0 or fall <= 0.0:
        return "the loss never fell; pass a smaller low, or check the model and the loss"
    steps = np.abs(np.diff(losses[: max(lowest + 1, FEWEST_POINTS)]))
    noise = float(np.median(steps)) / MEDIAN_STEP
    if fall < NOISE * noise:
        return (
            f"the loss fell by {fall:.3g}, no more than it varies from batch to batch ({noise:.3g}); "
            "pass a larger high, larger batches or a larger accumulate"
        )
    if fall < SMALLEST_FALL * abs(start):
        return f"the loss is flat: it fell by {fall / abs(start):.1%}; pass a larger high"
    return ""


def _longest_descent(values: Floats) -> list[int]:
    """Indices of the longest subsequence of which each value is below the one before."""
    lowest_ends: list[float] = []  # of the descents of each length, negated: ascending, for bisect
    last_of: list[int] = []
    before: list[int | None] = []
    for index, value in enumerate((-values).tolist()):
        length = bisect_left(lowest_ends, value)
        before.append(last_of[length - 1] if length else None)
        lowest_ends[length : length + 1] = [value]
        last_of[length : length + 1] = [index]
    descent: list[int] = []
    at: int | None = last_of[-1]
    while at is not None:
        descent.append(at)
        at = before[at]
    return descent[::-1]


def _edge(lrs: Floats, smoothed: Floats, lowest: int, ended: str) -> Suggestion:
    start = float(smoothed[: max(1, len(lrs) // 10)].mean())
    back = np.flatnonzero(smoothed[lowest:] >= start)
    if len(back):
        lr = float(lrs[lowest + back[0]])
        return Suggestion(PRICE * lr, f"ten percent below {lr:.2g}, where the loss is back where it began")
    if ended in ("diverged", "not finite"):
        lr = float(lrs[-1])
        where = "where it had diverged" if ended == "diverged" else "the last before it became infinite or NaN"
        return Suggestion(PRICE * lr, f"ten percent below {lr:.2g}, {where}")
    return Suggestion(None, "the loss did not come back to where it began; pass a larger high")


# ---- everything as it was


class _Kept:
    """What a sweep changes, as it was: the bytes of tensors, what containers held, the state of random generators."""

    def __init__(self, modules: Iterable[nn.Module], batches: Any) -> None:
        random_states = list(_global_generators())
        self._memory: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._seen: dict[int, object] = {}
        self._undo: list[Callable[[], object]] = []
        self._fused: list[optim._Fused] = []
        for module in modules:
            self._module(module)
        self._undo += _position_of(batches)
        self._last = [*random_states, *_generators_in(batches)]  # whatever else is set back may draw

    def restore(self) -> None:
        """Set everything back; a second Ctrl-C waits until it is done."""
        with _uninterrupted():
            for storage, saved in self._memory.values():
                if storage.nbytes() != saved.nbytes():
                    storage.resize_(saved.nbytes())
                storage.copy_(saved)
            for undo in chain(self._undo, self._last):
                undo()

    def optimizer(self, optimizer: Any) -> list[optim._Fused]:
        """Keep an optimizer, and those that it wraps: state, groups, and whatever else. The fused ones among them."""
        self._value(optimizer)
        for group in optimizer.param_groups:
            for param in group["params"]:
                self._gradient(param)
        return self._fused

    def _module(self, module: nn.Module) -> None:
        for part in module.modules():
            self._value(vars(part).get("_parameters"))
            self._value(vars(part).get("_buffers"))
            self._undo.append(partial(setattr, part, "training", part.training))
        for tensor in chain(module.parameters(), module.buffers()):
            self._value(tensor)
        for param in module.parameters():
            self._gradient(param)

    def _gradient(self, param: Tensor) -> None:
        self._value(param.grad)
        self._undo.append(partial(setattr, param, "grad", param.grad))

    def _value(self, value: Any) -> None:
        """Keep a tensor or a container and what is in it; of anything else only the reference is kept."""
        if id(value) in self._seen:
            return
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, dict):
            self._seen[id(value)] = value
            self._undo.append(partial(_refill, value, dict(value), value.update))
            for inner in list(value.values()):
                self._value(inner)
        elif isinstance(value, (list, deque)):
            self._seen[id(value)] = value
            self._undo.append(partial(_refill, value, list(value), value.extend))
            for inner in list(value):
                self._value(inner)
        elif isinstance(value, tuple):
            for inner in value:
                self._value(inner)
        elif isinstance(value, torch.optim.Optimizer) or hasattr(value, "param_groups"):
            self._seen[id(value)] = value
            if isinstance(value, optim._Fused):
                self._fused.append(value)
            self._value(vars(value))

    def _tensor(self, tensor: Tensor) -> None:
        self._seen[id(tensor)] = tensor
        local = getattr(tensor, "_local_tensor", tensor)  # of a DTensor
        if local.layout is torch.strided and not local.is_meta:
            storage = local.untyped_storage()
            if storage.nbytes():
                self._memory.setdefault(storage.data_ptr(), (storage, storage.clone()))
            if type(tensor) in (Tensor, nn.Parameter):
                self._undo.append(partial(_point_back, tensor, tensor.data))
        if tensor.is_leaf:
            self._undo.append(partial(setattr, tensor, "requires_grad", tensor.requires_grad))


def _refill(container: Any, held: Any, fill: Callable[[Any], object]) -> None:
    container.clear()
    fill(held)


def _point_back(tensor: Tensor, held: Tensor) -> None:
    """Undo `tensor.data = other`."""
    if tensor.data_ptr() != held.data_ptr() or tensor.shape != held.shape or tensor.dtype != held.dtype:
        tensor.data = held


def _global_generators() -> Iterator[Callable[[], object]]:
    """What sets back the generators that everybody draws from."""
    yield partial(random.setstate, random.getstate())
    yield partial(np.random.set_state, np.random.get_state())
    yield partial(torch.set_rng_state, torch.get_rng_state())
    for device in (torch.cuda, torch.xpu):
        if device.is_initialized():
            yield partial(device.set_rng_state_all, device.get_rng_state_all())
    if torch.backends.mps.is_available():
        yield partial(torch.mps.set_rng_state, torch.mps.get_rng_state())


def _generators_in(value: Any) -> list[Callable[[], object]]:
    """What sets back the generators that a loader, its samplers, its dataset and its transforms hold."""
    seen: dict[int, Any] = {}
    found: list[Callable[[], object]] = []

    def look(value: Any, depth: int) -> None:
        if id(value) in seen or depth > DEEPEST or isinstance(value, (Tensor, np.ndarray, nn.Module, type)):
            return
        seen[id(value)] = value
        if isinstance(value, torch.Generator):
            found.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, np.random.Generator):
            found.append(partial(setattr, value.bit_generator, "state", value.bit_generator.state))
        elif isinstance(value, np.random.RandomState):
            found.append(partial(value.set_state, value.get_state()))
        elif isinstance(value, random.Random):
            if not isinstance(value, random.SystemRandom):
                found.append(partial(value.setstate, value.getstate()))
        elif isinstance(value, (list, tuple, dict)):
            if len(value) <= MOST_INSIDE:
                for inner in value.values() if isinstance(value, dict) else value:
                    look(inner, depth + 1)
        elif hasattr(value, "__dict__"):
            for inner in vars(value).values():
                look(inner, depth + 1)

    look(value, 0)
    return found


def _position_of(batches: Any) -> list[Callable[[], object]]:
    """What sets back a loader that can say where it stands, such as torchdata's StatefulDataLoader."""
    if not (callable(getattr(batches, "state_dict", None)) and callable(getattr(batches, "load_state_dict", None))):
        return []
    try:
        return [partial(batches.load_state_dict, copy.deepcopy(batches.state_dict()))]
    except AttributeError:  # Accelerate's loaders have the method, and mostly nothing behind it
        return []


@contextmanager
def _own_workers(batches: Any) -> Iterator[None]:
    """Let a DataLoader with persistent workers start others, and keep those it has where they are."""
    if getattr(type(batches), "__iter__", None) is not DataLoader.__iter__ or not batches.persistent_workers:
        yield
        return
    workers, batches._iterator = batches._iterator, None
    try:
        yield
    finally:
        ours, batches._iterator = batches._iterator, workers
        if ours is not None:
            ours._shutdown_workers()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Keep Ctrl-C until the end of the block; only the main thread gets it."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    pressed: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if pressed:
            signal.raise_signal(signal.SIGINT)


# ---- batches and losses

_END = object()


def _endless(batches: Iterable[Any]) -> Generator[Any, None, None]:
    """Batches, from the beginning again and again; those of an iterator once."""
    while True:
        empty = True
        for batch in batches:
            empty = False
            yield batch
        if empty or isinstance(batches, Iterator):
            return


def _moved(value: Any, device: torch.device) -> Any:
    """A batch on another device; what a batch is made of is never changed."""
    if isinstance(value, Tensor):
        return value.to(device)
    if callable(getattr(value, "to", None)):  # such as transformers' BatchEncoding, whose own tensors it would move
        return copy.copy(value).to(device)
    if isinstance(value, dict):
        moved = copy.copy(value)
        moved.update((key, _moved(inner, device)) for key, inner in value.items())
        return moved
    if isinstance(value, tuple) and hasattr(value, "_make"):
        return value._make(_moved(inner, device) for inner in value)
    if type(value) in (list, tuple):
        return type(value)(_moved(inner, device) for inner in value)
    return value


def _is_criterion(loss_fn: Any) -> bool:
    """Whether this is a loss of outputs and targets: a module, or a function of torch.nn.functional."""
    while isinstance(loss_fn, partial):
        loss_fn = loss_fn.func
    name = getattr(loss_fn, "__name__", "")
    return isinstance(loss_fn, nn.Module) or (bool(name) and getattr(nn.functional, name, None) is loss_fn)


def _loss(model: Any, loss_fn: Any, batch: Any) -> Tensor:
    """One batch's loss, a tensor of one element that has a gradient."""
    if loss_fn is None:
        out = model(**batch) if isinstance(batch, Mapping) else model(*batch)
        loss = out["loss"] if isinstance(out, Mapping) else getattr(out, "loss", None)
        advice = "the model must return an object with a loss: do batches hold the labels? Or pass a loss_fn"
    elif _is_criterion(loss_fn):
        if not isinstance(batch, (tuple, list)) or len(batch) < 2:
            raise TypeError(
                f"{WHO}: a criterion needs batches (inputs, targets), got {shown(batch)}; "
                "pass a loss_fn(model, batch) instead"
            )
        *inputs, targets = batch
        loss = loss_fn(model(*inputs), targets)
        advice = "a criterion must reduce it to its mean"
    else:
        loss = loss_fn(model, batch)
        advice = "return the mean over the batch"
    if not isinstance(loss, Tensor):
        raise TypeError(f"{WHO}: the loss must be a tensor, got {shown(loss)}; {advice}")
    if loss.numel() != 1 or loss.is_complex():
        got = f"shape {tuple(loss.shape)} of {loss.dtype}"
        raise ValueError(f"{WHO}: the loss must be one real number, got {got}; {advice}")
    if not loss.requires_grad:
        raise ValueError(
            f"{WHO}: the loss must have a gradient, got one without; "
            "is everything frozen, or was it computed under no_grad or detached?"
        )
    return loss.reshape(())


# ---- the sweep


@dataclass(frozen=True)
class _Run:
    """All that a sweep needs, checked."""

    model: Any
    loss_fn: Any
    batches: Any
    steps: int
    schedule: Schedule
    smooth: float
    diverge: float | None
    accumulate: int
    max_grad_norm: float | None
    autocast: Any
    scaler: Any
    device: torch.device | None
    progress: bool

    def sweep(self, optimizer: Any, bases: list[float], index: int | None) -> Sweep:
        """Sweep all groups together, each lr in its ratio to the largest, or one group while the others stay."""
        if index is None:
            table = lr_table(self.schedule, self.steps, scale=[b / max(bases) for b in bases], dtype=np.float64)
            lrs = table[:, bases.index(max(bases))]
        else:
            rows = [self.schedule if i == index else Constant(base) for i, base in enumerate(bases)]
            table = lr_table(rows, self.steps, dtype=np.float64)
            lrs = table[:, index]
        name = None if index is None else optimizer.param_groups[index].get("name", index)
        losses, ended, skipped = self._losses(optimizer, table, lrs, name)
        lrs, values = lrs[: len(losses)].copy(), np.array(losses)
        if not len(losses):
            if ended == "out of batches":
                advice = "pass a loader, or a list"
                raise ValueError(f"{WHO}: batches must make at least one update, got too few of them; {advice}")
            raise ValueError(f"{WHO}: the first loss must be finite, got another; check the model and the data")
        smoothed = _smoothed(values, self.smooth)
        suggestions, silence = _suggestions(lrs, values, smoothed, ended)
        notes = tuple(self._notes(lrs, smoothed, ended, skipped))
        return Sweep(lrs, values, smoothed, ended, suggestions, notes, name, _silence=silence)

    def _losses(self, optimizer: Any, table: Floats, lrs: Floats, name: Any) -> tuple[list[float], str, int]:
        """The loss at each update, how the sweep ended, and how many updates the scaler skipped."""
        scaler = copy.deepcopy(self.scaler)
        params = _params(self.model, optimizer)
        ranks = groups_of_ranks(optimizer.param_groups)
        average, best, losses, skipped = _Average(self.smooth), math.inf, list[float](), 0
        bar = _bar(self.steps, name) if self.progress else nullcontext(lambda _: None)
        with closing(_endless(self.batches)) as feed, bar as advance, torch.enable_grad():
            for row, lr in zip(table.tolist(), lrs.tolist(), strict=True):
                for param in params:
                    param.grad = None
                _write(optimizer, row)
                loss = self._accumulated(feed, scaler, first=not losses)
                if loss is None:
                    return losses, "out of batches", skipped
                loss = _over_ranks(loss, ranks)
                if not math.isfinite(loss):
                    return losses, "not finite", skipped
                losses.append(loss)
                smoothed = average.with_one_more(loss)
                best = min(best, smoothed)
                # for a positive best this is smoothed > diverge * best
                if self.diverge is not None and smoothed - best > (self.diverge - 1.0) * abs(best):
                    return losses, "diverged", skipped
                skipped += not self._updated(optimizer, scaler, params)
                advance(f"lr {lr:.1e}  loss {smoothed:.4g}")
        return losses, "finished", skipped

    def _accumulated(self, feed: Iterator[Any], scaler: Any, *, first: bool) -> float | None:
        """Add up the gradients of an update's batches; their mean loss, or None where there are too few batches."""
        losses = []
        for _ in range(self.accumulate):
            batch = next(feed, _END)
            if batch is _END:
                return None
            if self.device is not None:
                batch = _moved(batch, self.device)
            try:
                with self._autocast():
                    loss = _loss(self.model, self.loss_fn, batch)
            except Exception as error:
                if first and self.loss_fn is not None and not _is_criterion(self.loss_fn):
                    error.add_note(f"{WHO} calls loss_fn(model, batch), with each batch as it comes out of batches")
                raise
            part = loss / self.accumulate
            (part if scaler is None else scaler.scale(part)).backward()
            losses.append(loss.detach())
        return float(torch.stack(losses).double().mean())

    def _autocast(self) -> Any:
        if self.autocast is None:
            return nullcontext()
        device = next(self.model.parameters()).device
        return torch.autocast(device.type, dtype=self.autocast)

    def _updated(self, optimizer: Any, scaler: Any, params: list[Tensor]) -> bool:
        """Step; whether the scaler let it."""
        if self.max_grad_norm is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_([p for p in params if p.grad is not None], self.max_grad_norm)
        if scaler is None:
            optimizer.step()
            return True
        scaler.step(optimizer)
        before = scaler.get_scale()
        scaler.update()
        return bool(scaler.get_scale() >= before)

    def _notes(self, lrs: Floats, smoothed: Floats, ended: str, skipped: int) -> Iterator[str]:
        if ended == "out of batches":
            yield f"batches ended after {len(lrs)} of {self.steps} updates; pass a loader, or a list, to go on"
        if ended == "finished" and len(lrs) >= FEWEST_POINTS and int(smoothed.argmin()) >= len(lrs) - 2:
            yield "the loss was still falling at the end; pass a larger high"
        if not self.model.training:
            yield "the model was in eval mode, and stayed in it; call model.train() before, to sweep as it will train"
        if skipped:
            yield f"the scaler skipped {skipped} updates: their gradients were infinite"


def find_lr(
    model: nn.Module,
    loss_fn: Callable[..., Tensor] | nn.Module | None,
    batches: Iterable[Any],
    *,
    optimizer: Any = None,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    sweep: str = "exponential",
    smooth: float = 0.8,
    diverge: float | None = 4.0,
    accumulate: int = 1,
    groups: str | int = "together",
    max_grad_norm: float | None = None,
    autocast: torch.dtype | None = None,
    scaler: torch.amp.GradScaler | None = None,
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Any:
    """LR range test: the loss while the learning rate rises over real batches, and what it suggests.

    Update t of `steps` uses the learning rate `low * (high/low)**(t/(steps-1))`, or one on the line from low to high;
    losses are smoothed by a bias-corrected exponential average, and the sweep ends early where that average exceeds
    `diverge` times its best, or the loss is not finite. It takes the memory of one more model with its optimizer.

    Afterwards everything is as it was, to the bit, also when anything raises, or Ctrl-C ends it: parameters, buffers,
    gradients, requires_grad, training modes; the optimizer with state, groups and position; the scaler; the random
    generators of Python, numpy, torch and its devices, those in a loader, its samplers, dataset and transforms, and a
    loader's own position where it has `state_dict()`. A list or a loader starts over as often as the sweep needs.
    An iterator is used up as far as the sweep gets, and cannot be set back; neither can what modules and datasets keep
    in attributes of other kinds, or what workers do elsewhere. Modes are kept: call `model.train()` first.

    Args:
        model: on its device, already initialised.
        loss_fn: `loss_fn(model, batch)` returns the mean loss; or a criterion, a module or a function of
            torch.nn.functional, which gets `loss_fn(model(*inputs), targets)` for batches (*inputs, targets); None
            takes the loss that a model like transformers' returns for `model(**batch)`.
        batches: a DataLoader, a list, or an iterator of whatever loss_fn takes.
        optimizer: the one to train with, which may have state and groups; or what makes one of a list of parameters,
            such as a class or a partial. None: `fastsched.optim.AdamW`, or torch's where that can't update a parameter.
        low: the first learning rate, > 0.
        high: the last one, > low.
        steps: updates, >= 2; fewer than 10 suggest nothing.
        sweep: "exponential", or "linear" as in Smith's paper, for a range that is roughly known.
        smooth: the share that the average keeps at each loss, in [0, 0.999].
        diverge: > 1, or None to sweep to the end. (Below a loss of 0: where it is `diverge - 1` times the size of the
            best one above it.)
        accumulate: batches to an update; their losses are averaged.
        groups: "together": all rise, each lr in the ratio that it has to the largest (of `initial_lr` or a schedule's
            base where there is one); an index or a name: that group alone, the others at their own lr; "each": every
            group alone, one sweep after the other.
        max_grad_norm: clip gradients, as torch.nn.utils.clip_grad_norm_ does.
        autocast: torch.bfloat16 or torch.float16, for the model and the loss.
        scaler: a GradScaler; a copy of it is used.
        device: where batches go; None: where the model's first parameter is.
        progress: a bar on a terminal, if rich is installed.

    Returns:
        A `Sweep` with lrs, losses, suggestion and plot(); for groups="each" a mapping of them, `Sweeps`. Where ranks
        train together (DDP, DTensors), all of them must call it, and losses are averaged over them.

    Raises:
        ValueError: an argument is out of range, no batch comes, or the first loss is not finite.
        TypeError: one is of a wrong type, or the loss is no tensor.

    Source: Smith 2015 (arXiv 1506.01186); the smoothing and "valley" after fastai.

    Example:
        >>> import torch, fastsched as fs
        >>> _ = torch.manual_seed(0)
        >>> model = torch.nn.Linear(4, 1)
        >>> x = torch.randn(64, 4)
        >>> result = fs.find_lr(model, torch.nn.functional.mse_loss, [(x, x.sum(1, keepdim=True))], progress=False)
        >>> result.lrs[0].item(), result.lrs[-1].item(), 1e-3 < result.suggestion < 1.0
        (1e-07, 10.0, True)

    """
    run = _checked(
        _Run(
            model=model,
            loss_fn=loss_fn,
            batches=batches,
            steps=_STEPS(WHO, "steps", steps),
            schedule=_schedule(low, high, steps, sweep),
            smooth=_SMOOTH(WHO, "smooth", smooth),
            diverge=_DIVERGE(WHO, "diverge", diverge),
            accumulate=_ACCUMULATE(WHO, "accumulate", accumulate),
            max_grad_norm=_NORM(WHO, "max_grad_norm", max_grad_norm),
            autocast=autocast,
            scaler=scaler,
            device=_device(device, model),
            progress=_PROGRESS(WHO, "progress", progress),
        )
    )
    modules = [part for part in (model, loss_fn) if isinstance(part, nn.Module)]
    kept = _Kept(modules, batches)
    try:
        with _own_workers(batches):
            if isinstance(optimizer, type) or not hasattr(optimizer, "param_groups"):
                optimizer = _made(optimizer, model)
            fused = kept.optimizer(optimizer)
            bases = _bases(model, optimizer, fused)
            sweeps = []
            for index in _chosen_groups(groups, optimizer.param_groups):
                for each in fused:
                    _start_afresh(each)
                sweeps.append(run.sweep(optimizer, bases, index))
                kept.restore()
    finally:
        kept.restore()
    return Sweeps(sweeps) if groups == "each" else sweeps[0]


# ---- arguments


def _schedule(low: Any, high: Any, steps: Any, sweep: Any) -> Schedule:
    low, high = _LOW(WHO, "low", low), _HIGH(WHO, "high", high)
    if not low < high:
        raise ValueError(f"{WHO}: low must be below high, got {low!r} and {high!r}; swap them")
    kind = Geometric if _SWEEP(WHO, "sweep", sweep) == "exponential" else Linear
    return kind(low, high, steps=steps - 1)


def _checked(run: _Run) -> _Run:
    if not isinstance(run.model, nn.Module):
        raise TypeError(f"{WHO}: model must be a torch.nn.Module, got {shown(run.model)}; pass the model itself")
    for name, param in run.model.named_parameters():
        if nn.parameter.is_lazy(param):
            raise ValueError(f"{WHO}: {name} has no shape yet; run the model on one batch first")
    if run.loss_fn is not None and not callable(run.loss_fn):
        raise TypeError(f"{WHO}: loss_fn must be callable, got {shown(run.loss_fn)}; pass loss_fn(model, batch)")
    if isinstance(run.batches, (Tensor, Mapping, str, bytes)) or not isinstance(run.batches, Iterable):
        raise TypeError(
            f"{WHO}: batches must be a loader, a list or an iterator, got {shown(run.batches)}; "
            "put a single batch into a list"
        )
    if run.autocast is not None and not isinstance(run.autocast, torch.dtype):
        advice = "pass torch.bfloat16 or torch.float16"
        raise TypeError(f"{WHO}: autocast must be a torch.dtype or None, got {shown(run.autocast)}; {advice}")
    if run.scaler is not None and not isinstance(run.scaler, torch.amp.GradScaler):
        advice = "pass torch.amp.GradScaler()"
        raise TypeError(f"{WHO}: scaler must be a GradScaler or None, got {shown(run.scaler)}; {advice}")
    return run


def _device(device: Any, model: Any) -> torch.device | None:
    if device is not None:
        return torch.device(device)
    first = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return None if first is None else first.device


def _made(optimizer: Any, model: nn.Module) -> Any:
    """An optimizer for all parameters that train."""
    params = [param for param in model.parameters() if param.requires_grad]
    if not params:
        raise ValueError(f"{WHO}: the model must have a parameter that trains, got none; set requires_grad on some")
    if optimizer is None:
        served = not any(optim._unusable(param) for param in params)
        return (optim.AdamW if served else torch.optim.AdamW)(params)
    if not callable(optimizer):
        raise TypeError(
            f"{WHO}: optimizer must be one, or what makes one of a list of parameters, got {shown(optimizer)}; "
            "for example fastsched.optim.SGD"
        )
    made = optimizer(params)
    if not hasattr(made, "param_groups"):
        raise TypeError(f"{WHO}: optimizer must make an optimizer, got {shown(made)}; for example fastsched.optim.SGD")
    return made


def _params(model: nn.Module, optimizer: Any) -> list[Tensor]:
    """Every parameter of the model or the optimizer, once."""
    held = (param for group in optimizer.param_groups for param in group["params"])
    return list(dict.fromkeys(chain(model.parameters(), held)))


def _bases(model: nn.Module, optimizer: Any, fused: list[optim._Fused]) -> list[float]:
    """The lr of each group before schedules and schedulers multiply it."""
    groups = optimizer.param_groups
    if set(model.parameters()).isdisjoint(param for group in groups for param in group["params"]):
        raise ValueError(
            f"{WHO}: optimizer must hold parameters of the model, got one of others; was the model copied after it?"
        )
    own = next((inner for inner in fused if inner.param_groups is groups), None)
    bases = [_base(group, own, index) for index, group in enumerate(groups)]
    if not max(bases) > 0.0:
        raise ValueError(f"{WHO}: a group's lr must be > 0, got 0 in all of them; the ratios are taken from them")
    return bases


def _base(group: dict[str, Any], fused: optim._Fused | None, index: int) -> float:
    if fused is not None:
        base = fused._bases[index]["lr"]
        if isinstance(base, Schedule):
            return _peak(base)
        if fused._options["schedule"] is not None:
            return base
    return float(group.get("initial_lr", group["lr"])) * float(group.get("lr_scale", 1.0))  # timm's


def _peak(schedule: Schedule) -> float:
    return float(schedule.table(int(min(schedule.steps, 2**16)) + 1).max())


def _chosen_groups(groups: Any, param_groups: list[dict[str, Any]]) -> list[int | None]:
    """The groups to sweep, one after the other; None for all together."""
    if groups == "together":
        return [None]
    names = [group.get("name", index) for index, group in enumerate(param_groups)]
    if groups == "each":
        if len(set(names)) < len(names):
            raise ValueError(f"{WHO}: groups must have different names, got one twice; pass an index instead")
        return list(range(len(param_groups)))
    if isinstance(groups, str):
        if groups in names:
            return [names.index(groups)]
        raise ValueError(
            f"{WHO}: groups must be 'together', 'each', an index or a group's name, got {shown(groups)}; "
            f"the {len(names)} groups are {', '.join(map(repr, names[:8]))}{', ...' if len(names) > 8 else ''}"
        )
    last = len(param_groups) - 1
    rule = Number("pass the index of a group, its name, 'together' or 'each'", least=0, most=last, whole=True)
    return [rule(WHO, "groups", groups)]


# ---- at each step


def _start_afresh(optimizer: optim._Fused) -> None:
    """Give a fused optimizer another engine for the same state; its own comes back unused."""
    position = optimizer.position
    optimizer._make_engine()
    optimizer._adopt_state()
    optimizer.position = position


def _write(optimizer: Any, lrs: list[float]) -> None:
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


def _over_ranks(loss: float, process_groups: list[Any]) -> float:
    """The mean over all ranks that train together, so that they end together."""
    for group in process_groups:
        device = "cuda" if dist.get_backend(group) == "nccl" else "cpu"
        everywhere = torch.tensor([loss], dtype=torch.float64, device=device)
        dist.all_reduce(everywhere, group=group)
        loss = everywhere.item() / dist.get_world_size(group)
    return loss


@contextmanager
def _bar(steps: int, name: str | int | None) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal where rich is installed, else nothing."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    except ImportError:
        yield lambda _: None
        return
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[at]}"))
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        task = progress.add_task(WHO if name is None else f"{WHO}, group {name}", total=steps, at="")
        yield lambda at: progress.update(task, advance=1, at=at)
