"""What a schedule does to a training: runs on small problems, each update by `fastsched.optim`'s own step."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import skip_init

from fastsched import optim
from fastsched._check import Number
from fastsched.demo import Images, batches, digits, one_thread
from fastsched.explore.state import State, base_lr, number, schedules
from fastsched.finder import Sweep, find_lr
from fastsched.plan import lr_table
from fastsched.schedule import Schedule

Floats = npt.NDArray[np.float64]

HIDDEN = 32  # units of the network
BACK = 20  # points that the spread is of
FAR = 1e3  # times the first loss: no training comes back from there
REACHED = 0.01  # of the first loss is as good as the minimum, on a surface
REACHED_BY_NETWORK = 0.1
GRID = 81  # points of a surface along each axis

_ALONE = threading.Lock()  # several pages train, and the number of threads is the process's

_CONDITIONING = Number("pass the ratio of the steepest to the flattest direction, such as 20", least=1, most=1e6)
_NOISE = Number("pass the deviation of a gradient's noise, such as 0.5", least=0, most=1e6)
_UPDATES = Number("pass how many updates to train", least=2, most=1000, whole=True)
_SEED = Number("pass a seed such as 0", least=0, most=2**31, whole=True)
_RATE = Number("pass a learning rate such as 1e-4", above=0)
_SWEEP = Number("100 are usual", least=2, most=1000, whole=True)

# What each is with its usual settings: SGD without and with momentum, and AdamW without decay of the weights, since
# a surface's minimum need not be at 0.
MAKERS: dict[str, Callable[..., Any]] = {
    "sgd": optim.SGD,
    "momentum": functools.partial(optim.SGD, momentum=0.9),
    "adamw": functools.partial(optim.AdamW, weight_decay=0.0),
}


# ---- problems ----


class Surface(nn.Module):
    """A loss of two numbers. A batch is the gradient's noise, two numbers as well."""

    start = (0.0, 0.0)
    goal = (0.0, 0.0)
    window = (-1.0, 1.0, -1.0, 1.0)  # what a picture shows: left, right, bottom, top

    def __init__(self) -> None:
        super().__init__()
        self.at = nn.Parameter(torch.tensor(self.start, dtype=torch.float64))

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss without noise, elementwise."""
        raise NotImplementedError

    def forward(self, noise: Tensor) -> Tensor:
        """The loss where the training is; its gradient has the noise."""
        return self.height(*self.at) + self.at @ noise - (self.at @ noise).detach()


class Quadratic(Surface):
    """``(x**2 + conditioning * y**2) / 2``: SGD diverges from a learning rate of 2 / conditioning on."""

    start = (-2.0, 1.0)
    window = (-2.4, 2.4, -1.6, 1.6)

    def __init__(self, conditioning: float) -> None:
        super().__init__()
        self.conditioning = conditioning

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return (x * x + self.conditioning * y * y) / 2.0


class Rosenbrock(Surface):
    """``((1 - x)**2 + 100 * (y - x**2)**2) / 100``: a curved valley; the hundredth lets usual learning rates do."""

    start = (-1.2, 1.0)
    goal = (1.0, 1.0)
    window = (-2.0, 2.0, -0.8, 2.4)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return ((1.0 - x) ** 2 + 100.0 * (y - x * x) ** 2) / 100.0


class Valleys(Surface):
    """``(x**2 - 1)**2 - 0.3 * x + y**2 / 2 + 0.3055``: the way from the shallow valley to the deep one is uphill."""

    start = (-1.4, 1.0)
    goal = (1.036, 0.0)
    window = (-2.0, 2.0, -1.6, 1.6)

    def height(self, x: Tensor, y: Tensor) -> Tensor:
        """See the class."""
        return (x * x - 1.0) ** 2 - 0.3 * x + y * y / 2.0 + 0.3055


@dataclass(frozen=True)
class Problem:
    """What to train on: how to make a model, the loss of a batch, and the batches."""

    name: str
    make: Callable[[], nn.Module]
    loss: Callable[[nn.Module, Any], Tensor]
    batches: Sequence[Any]
    reached: float

    @property
    def surface(self) -> Surface | None:
        """The surface, of a problem that has one."""
        model = self.make()
        return model if isinstance(model, Surface) else None


def problem(state: State) -> Problem:
    """The problem that the controls describe, with a batch per update.

    Errors: those of the controls.
    """
    updates, seed = updates_of(state), int(number("seed", state.seed, _SEED))
    if state.problem == "digits":
        return _digits(max(updates, int(number("sweep", state.sweep, _SWEEP))), seed)
    sigma = number("noise", state.noise, _NOISE) if state.problem in ("noisy", "valleys") else 0.0
    conditioning = number("conditioning", state.conditioning, _CONDITIONING)
    makers: dict[str, Callable[[], Surface]] = {"rosenbrock": Rosenbrock, "valleys": Valleys}
    make = makers.get(state.problem, functools.partial(Quadratic, conditioning))
    noise = sigma * torch.randn(updates, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Problem(state.problem, make, _surface_loss, list(noise), REACHED)


def updates_of(state: State) -> int:
    """How many updates a run takes."""
    return int(number("updates", state.updates, _UPDATES))


def _surface_loss(model: nn.Module, noise: Tensor) -> Tensor:
    loss: Tensor = model(noise)
    return loss


def _digits_loss(model: nn.Module, batch: Images) -> Tensor:
    return cross_entropy(model(batch.pixels.flatten(1)), batch.labels)


@functools.cache
def _images() -> Images:
    return digits(0)[0]


@functools.lru_cache(4)
def _batches(count: int, seed: int) -> list[Images]:
    return list(batches(_images(), count, seed))


def _digits(count: int, seed: int) -> Problem:
    """A network with one hidden layer, and scikit-learn's handwritten digits."""
    return Problem(
        "digits",
        functools.partial(_network, seed),
        _digits_loss,
        _batches(count, seed),
        REACHED_BY_NETWORK,
    )


def _network(seed: int) -> nn.Module:
    made: Any = skip_init  # torch's own start would take from the global generator
    first, last = (made(nn.Linear, *size) for size in ((64, HIDDEN), (HIDDEN, 10)))
    generator = torch.Generator().manual_seed(seed)  # of its own: pages train at the same time
    with torch.no_grad():
        for layer in (first, last):
            bound = layer.in_features**-0.5  # torch's own
            for parameter in layer.parameters():
                parameter.uniform_(-bound, bound, generator=generator)
    return nn.Sequential(first, nn.ReLU(), last)


def ground(surface: Surface) -> tuple[Floats, Floats, Floats]:
    """A surface's heights on a grid: x, y and the heights, (y, x)."""
    left, right, bottom, top = surface.window
    x, y = torch.linspace(left, right, GRID), torch.linspace(bottom, top, GRID)
    heights = surface.height(x[None, :], y[:, None]).detach()
    return tuple(each.double().numpy() for each in (x, y, heights))  # type: ignore[return-value]


# ---- runs ----


@dataclass(frozen=True, eq=False)
class Run:
    """A training, and what was measured at its updates.

    ``losses``: before each update, and after the last; ``path``: where the two numbers were then, (updates + 1, 2),
    None for a network; ``length``: how far each update moved the weights; ``effective``: that, divided by the norm
    of the gradient, which for SGD is the learning rate; ``spread``: the mean distance of the last 20 points from their
    middle, large while it explores and small once it settles; ``reached``: the update that brought the loss to a
    hundredth of the first one (a tenth, of a network), None if none; ``verdict``: converges, oscillates, diverges,
    stalls or falls.
    """

    slot: int
    optimizer: str
    lrs: Floats
    losses: Floats
    path: Floats | None
    length: Floats
    effective: Floats
    spread: Floats
    reached: int | None
    verdict: str

    @property
    def says(self) -> str:
        """The verdict in a few words."""
        if self.verdict == "diverges":
            return f"diverges at update {len(self.length):,}"
        at = "" if self.reached is None else f", {self.losses[self.reached]:.3g} reached at update {self.reached:,}"
        return f"{self.verdict}, loss {self.losses[0]:.3g} to {self.losses[-1]:.3g}{at}"


def runs(state: State) -> list[Run]:
    """A run of each schedule with each optimizer, all from one start with the same noise or batches.

    Errors: those of the controls.
    """
    lr, updates = base_lr(state), updates_of(state)
    chosen = [name for name in MAKERS if name in state.optimizers.split()]
    with _ALONE, one_thread():
        task = problem(state)
        return [
            run(task, each.slot, schedule, name, lr, updates) for each, schedule in schedules(state) for name in chosen
        ]


def run(task: Problem, slot: int, schedule: Schedule, name: str, lr: float, updates: int) -> Run:
    """One training, which ends early where it diverges."""
    model = task.make()
    optimizer = MAKERS[name](model.parameters(), lr=lr, schedule=schedule, zero_grads=True)
    points, losses, slopes = [_point(model)], [], []
    for batch in task.batches[:updates]:
        loss = task.loss(model, batch)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.item())
        slopes.append(_norm(model))
        if not math.isfinite(losses[-1]) or losses[-1] > FAR * max(losses[0], 1.0):
            break
        optimizer.step()
        points.append(_point(model))
    else:
        with torch.no_grad():
            losses.append(task.loss(model, task.batches[updates - 1]).item())
    where = np.stack(points)
    length = np.linalg.norm(np.diff(where, axis=0), axis=1)
    gradient = np.array(slopes[: len(length)])
    diverged = len(length) < updates or not np.isfinite(losses).all()
    reached = np.flatnonzero(np.array(losses) <= task.reached * losses[0])
    return Run(
        slot=slot,
        optimizer=name,
        lrs=lr_table(schedule, updates, scale=[lr], dtype=np.float64)[:, 0],
        losses=np.array(losses),
        path=where if where.shape[1] == 2 else None,
        length=length,
        effective=np.divide(length, gradient, out=np.full(len(length), np.nan), where=gradient > 0.0),
        spread=_spread(where),
        reached=int(reached[0]) if len(reached) else None,
        verdict="diverges" if diverged else _verdict(np.array(losses), where, task.reached),
    )


def _point(model: nn.Module) -> Floats:
    return np.concatenate([p.detach().double().numpy().ravel() for p in model.parameters()])


def _norm(model: nn.Module) -> float:
    return math.sqrt(sum(float((p.grad.double() ** 2).sum()) for p in model.parameters() if p.grad is not None))


def _spread(where: Floats) -> Floats:
    """The mean distance of up to 20 points from their middle, ending with each point."""
    windows = (where[max(0, i - BACK + 1) : i + 1] for i in range(len(where)))
    return np.array([np.linalg.norm(points - points.mean(0), axis=1).mean() for points in windows])


def _verdict(losses: Floats, where: Floats, reached: float) -> str:
    """How a run that does not diverge ends, from its last fifth."""
    tail = max(4, len(losses) // 5)
    end, before = losses[-tail:], losses[-2 * tail : -tail]
    moves = np.diff(where[-tail:], axis=0)
    turns = float(((moves[1:] * moves[:-1]).sum(1) < 0.0).mean())
    if end.mean() <= reached * losses[0]:
        return "converges"
    if turns > 0.5 and np.linalg.norm(moves, axis=1).mean() > 1e-3 * np.linalg.norm(where - where[-1], axis=1).max():
        return "oscillates"
    return "falls" if len(before) and end.mean() < 0.9 * before.mean() else "stalls"


# ---- range test ----


def sweep(state: State) -> Sweep:
    """The range test of the chosen problem with the first of the chosen optimizers.

    Errors: those of the controls and of `find_lr`.
    """
    name = (state.optimizers.split() or ["sgd"])[0]
    low, high = (number(each, getattr(state, each), _RATE) for each in ("low", "high"))
    steps = int(number("sweep", state.sweep, _SWEEP))
    with _ALONE, one_thread():
        task = problem(state)
        found: Sweep = find_lr(
            task.make(),
            task.loss,
            task.batches,
            optimizer=MAKERS[name],
            low=low,
            high=high,
            steps=steps,
            progress=False,
        )
    return found
