"""`fastsched warmup`: why Adam is warmed up, as numbers of a run that the reader makes.

Adam divides the learning rate by the root of v, an average of squared gradients. After the first update v is a single
squared gradient: where that happened to be small, the effective step lr / (sqrt(v) + eps) is huge. A small transformer
with its norms after the shortcuts, as in Vaswani et al. 2017, learns digits twice, from the same weights, with the same
batches: at once with the full learning rate, and after a warmup.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastsched as fs
from fastsched.demo import Images, accuracy, batches, digits, one_thread, tidy

WIDTH, HEADS, DEPTH = 32, 4, 6
BETAS, EPS = (0.9, 0.999), 1e-8
SHARES = (0.1, 0.5, 0.9, 0.99)  # of the elements: the quantiles that are kept
LAST = 20  # losses that the final one is the mean of

Floats = npt.NDArray[np.float64]


class Block(nn.Module):
    """Attention and a perceptron; the norm comes after each shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.perceptron = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.norm2 = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, width) to the same shape."""
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        result: Tensor = self.norm2(x + self.perceptron(x))
        return result


class Transformer(nn.Module):
    """The eight rows of a digit are its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(8, WIDTH)
        self.positions = nn.Parameter(torch.randn(8, WIDTH) / 2.0)
        self.blocks = nn.Sequential(*(Block() for _ in range(DEPTH)))
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (batch, 1, 8, 8) to logits (batch, 10)."""
        logits: Tensor = self.head(self.blocks(self.rows(pixels.squeeze(1)) + self.positions).mean(1))
        return logits


@dataclass(frozen=True)
class Run:
    """One training: its losses, and the effective steps' quantiles `SHARES` at every update, (updates, 4)."""

    name: str
    losses: Floats
    steps: Floats
    accuracy: float

    @property
    def loss(self) -> float:
        """The mean of the last losses."""
        return float(self.losses[-LAST:].mean())

    def spread(self, update: int) -> float:
        """How many times the middle element's effective step that of one in a hundred is, at least."""
        return float(self.steps[update, 3] / self.steps[update, 1])


def run(lr: float, warmup: int, steps: int, seed: int, advance: Callable[[], None]) -> tuple[Run, Run]:
    """Both trainings, without a warmup and with one."""
    constant = fs.Constant()
    schedules = {
        "no warmup": constant,
        f"{warmup} updates of warmup": constant.warmup(warmup, start=1.0 / warmup),  # the first update counts too
    }
    with one_thread(), torch.random.fork_rng(devices=()):
        images = digits(seed)
        without, warmed = (train(*item, images, lr, steps, seed, advance) for item in schedules.items())
    return without, warmed


def train(
    name: str,
    schedule: fs.Schedule,
    images: tuple[Images, Images],
    lr: float,
    steps: int,
    seed: int,
    advance: Callable[[], None],
) -> Run:
    """One training; seed, data and model are the same for all."""
    torch.manual_seed(seed)
    model = Transformer()
    optimizer = fs.optim.AdamW(
        model.parameters(), lr=lr, betas=BETAS, eps=EPS, weight_decay=0.0, schedule=schedule, zero_grads=True
    )
    losses, quantiles = [], []
    for number, batch in enumerate(batches(images[0], steps, seed)):
        loss = cross_entropy(model(batch.pixels), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        quantiles.append(np.quantile(effective_steps(optimizer, lr * schedule.table(1, start=number)[0]), SHARES))
        advance()
    return Run(name, np.array(losses), np.array(quantiles), accuracy(model, images[1]))


def effective_steps(optimizer: torch.optim.Optimizer, lr: float) -> npt.NDArray[np.float32]:
    """``lr / (sqrt(v) + eps)`` of every element, v corrected for its start at 0, as the last update has used it."""
    kept = []
    for state in optimizer.state.values():
        average = state["exp_avg_sq"] / (1.0 - BETAS[1] ** float(state["step"]))
        kept.append((lr / (average.sqrt() + EPS)).flatten())
    result: npt.NDArray[np.float32] = torch.cat(kept).numpy()
    return result


def rows(runs: tuple[Run, Run]) -> list[list[str]]:
    """The effective steps at some updates: the middle element's and the largest hundredth's, of each run."""
    count = len(runs[0].losses)
    updates = [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000) if n < count] + [count]
    cells = []
    for update in updates:
        pairs = [(each.steps[update - 1, 1], each.steps[update - 1, 3]) for each in runs]
        cells.append([str(update), *(f"{value:.3g}" for pair in pairs for value in pair)])
    return cells


def summary(runs: tuple[Run, Run]) -> str:
    """What the numbers say, in words."""
    without, warmed = runs
    first, last = without.spread(0), without.spread(-1)
    ends = [f"{each.name}: loss {each.loss:.3f}, test accuracy {each.accuracy:.1%}" for each in runs]
    return "\n".join(
        [
            "In the first update v is one squared gradient: every element moves by lr, however small its gradient is.",
            f"One effective step in a hundred is then at least {first:.0f} times the middle one, in the last update "
            f"{last:.0f} times:",
            "v has become an average of many. A warmup keeps lr small until then.",
            f"The middle one, first update: {without.steps[0, 1]:.3g} without, {warmed.steps[0, 1]:.3g} with a warmup.",
            *ends,
        ]
    )


def draw(runs: tuple[Run, Run]) -> Figure:
    """The effective steps of both runs, and their losses."""
    figure = Figure(figsize=(9, 6.5), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for run, colour in zip(runs, ("#d55e00", "#0072b2"), strict=True):
        updates = np.arange(1, len(run.losses) + 1)
        low, middle, high, highest = run.steps.T
        above.fill_between(updates, low, high, color=colour, alpha=0.15, linewidth=0.0)
        above.plot(updates, middle, color=colour, linewidth=1.8, label=f"{run.name}: the middle element, 10 to 90 %")
        above.plot(updates, highest, color=colour, linewidth=1.0, linestyle=":", label="one in a hundred is above")
        below.plot(updates, run.losses, color=colour, linewidth=1.2, label=f"{run.name}: accuracy {run.accuracy:.1%}")
    above.set(yscale="log", ylabel="lr / (sqrt(v) + eps)", xlim=(1, len(runs[0].losses)), xscale="log")
    above.set_title("The effective step of Adam's elements, with and without warmup", loc="left")
    below.set(xlabel="update", ylabel="training loss (nats)")
    for axes in (above, below):
        axes.legend(frameon=False, fontsize="small")
        tidy(axes)
    return figure


def save(runs: tuple[Run, Run], out: Path) -> None:
    """Save the picture."""
    from fastsched._writing import replacing

    with replacing(out) as file:
        draw(runs).savefig(file, format=out.suffix[1:].lower())
