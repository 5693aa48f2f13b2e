"""`fastsched demo`: one fine-tuning, run by torch's own optimizer and by fastsched, side by side.

A small vision transformer learns the handwritten digits 0 to 4, gets a new head, and is fine-tuned on
all ten with layer-wise learning rates, warmup and cosine. Both optimizers get the same weights, groups,
batches and schedule, and take turns step by step, so that whatever else the machine does hits both alike.

Read it from top to bottom: data, model, training, measurement, picture.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

import fastsched as fs
from fastsched.groups import LayerGroups

LR = 3e-3  # of the head; each layer below has DECAY times that of the layer above
DECAY = 0.85
FLOOR = 0.01  # warmup starts and cosine ends at this share of a group's learning rate
BATCH = 64
DEPTH, WIDTH, HEADS = 8, 48, 2


# ---------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Images:
    """Pictures (n, 1, 8, 8) and their labels (n,)."""

    pixels: Tensor
    labels: Tensor

    def keep(self, chosen: Tensor) -> Images:
        """Return the pictures that a mask or an index chooses."""
        return Images(self.pixels[chosen], self.labels[chosen])


def digits(seed: int) -> tuple[Images, Images]:
    """Return the 1797 digits that scikit-learn ships, as (training, test) in the ratio 3 to 1."""
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=0.25, stratify=labels, random_state=seed)
    train_x, test_x, train_y, test_y = (torch.from_numpy(part) for part in parts)
    shape = (-1, 1, 8, 8)
    return (
        Images(train_x.float().reshape(shape) / 8.0 - 1.0, train_y),
        Images(test_x.float().reshape(shape) / 8.0 - 1.0, test_y),
    )


def batches(images: Images, count: int, seed: int) -> Iterator[Images]:
    """Yield `count` batches: the whole set in a new order, again and again."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(count):
        if len(order) < BATCH:
            order = torch.randperm(len(images.labels), generator=generator)
        chosen, order = order[:BATCH], order[BATCH:]
        yield images.keep(chosen)


# --------------------------------------------------------------------------------------------- model


class Block(nn.Module):
    """Attention and a two-layer perceptron, each behind a norm and beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.fc1 = nn.Linear(WIDTH, 2 * WIDTH)
        self.fc2 = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (batch, tokens, width) to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        change: Tensor = self.fc2(nn.functional.gelu(self.fc1(self.norm2(x))))
        return x + change


class VisionTransformer(nn.Module):
    """8x8 pixels, cut into sixteen patches of 2x2, each a token; a class token gathers the answer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(1, WIDTH, kernel_size=2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.pos_embed = nn.Parameter(torch.randn(1, 17, WIDTH) * 0.5)  # as large as the tokens
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels (batch, 1, 8, 8) to logits (batch, classes)."""
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x[:, 0]))
        return logits


def accuracy(model: nn.Module, images: Images) -> float:
    """Return the share of pictures that the model names rightly."""
    with torch.no_grad():
        right = model(images.pixels).argmax(1) == images.labels
    return float(right.float().mean())


# ------------------------------------------------------------------------------------------ training


@dataclass
class Run:
    """One model in training, what advances it by a step, and what was measured on the way."""

    name: str
    model: nn.Module
    update: Callable[[], object]  # optimizer and scheduler, from gradients to new weights
    losses: list[float] = field(default_factory=list)
    update_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)

    def step(self, batch: Images) -> None:
        """Do a whole training step: forward, backward, update."""
        begun = time.perf_counter()
        self.model.zero_grad()
        loss = cross_entropy(self.model(batch.pixels), batch.labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.timed_update()
        self.step_seconds.append(time.perf_counter() - begun)
        self.losses.append(loss.item())

    def timed_update(self) -> None:
        """Do the part of a step that an optimizer and its scheduler have."""
        begun = time.perf_counter()
        self.update()
        self.update_seconds.append(time.perf_counter() - begun)


def schedule(steps: int) -> fs.Schedule:
    """Return the curve that multiplies each learning rate: linear warmup, then half a cosine."""
    warmup = warmup_steps(steps)
    return fs.Cosine(1.0, FLOOR, steps=steps - warmup).warmup(warmup, start=FLOOR)


def warmup_steps(steps: int) -> int:
    """Return a tenth of the steps, at least one."""
    return max(1, steps // 10)


def groups(model: nn.Module, *, per_parameter: bool) -> LayerGroups:
    """Layer-wise learning rates; no weight decay for biases, norms, the class token and the positions."""
    spared = ["cls_token", "pos_embed"]
    made: LayerGroups = fs.layerwise(model, LR, decay=DECAY, no_weight_decay=spared, per_parameter=per_parameter)
    return made


def with_fastsched(model: nn.Module, steps: int) -> Run:
    """Prepare fastsched: schedule and update are one native call."""
    optimizer = fs.optim.AdamW(groups(model, per_parameter=True), schedule=schedule(steps))
    return Run("fastsched", model, optimizer.step)


def with_torch(model: nn.Module, steps: int, *, per_parameter: bool = True) -> Run:
    """Prepare the same in torch: its fastest CPU optimizer, and the schedule as a lambda."""
    warmup = warmup_steps(steps)

    def factor(step: int) -> float:
        if step < warmup:
            return FLOOR + (1.0 - FLOOR) * step / warmup
        progress = min(1.0, (step - warmup) / (steps - warmup))
        return FLOOR + (1.0 - FLOOR) * 0.5 * (1.0 + math.cos(math.pi * progress))

    optimizer = torch.optim.AdamW(groups(model, per_parameter=per_parameter), fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)

    def update() -> None:
        optimizer.step()
        scheduler.step()

    return Run(f"torch AdamW(fused) + LambdaLR, {len(optimizer.param_groups)} groups", model, update)


def pretrained(train: Images, steps: int, seed: int, advance: Callable[[], None]) -> VisionTransformer:
    """Return a model that knows the digits 0 to 4, with a new head for all ten."""
    model = VisionTransformer(classes=5)
    optimizer = fs.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.05, schedule=schedule(steps))
    run = Run("first training", model, optimizer.step)
    for batch in batches(train.keep(train.labels < 5), steps, seed):
        run.step(batch)
        advance()
    model.head = nn.Linear(WIDTH, 10)
    return model


def fine_tune(
    model: nn.Module, train: Images, steps: int, seed: int, advance: Callable[[], None]
) -> tuple[Run, Run, Run]:
    """Train two copies in turn, one with torch and one with fastsched.

    The third run returned is torch with equal groups merged, the fair rival where nobody needs a group
    per tensor. It only updates: it gets the torch run's gradients, and so arrives at its weights.
    """
    torch_run = with_torch(copy.deepcopy(model), steps)
    merged_run = with_torch(copy.deepcopy(model), steps, per_parameter=False)
    fast_run = with_fastsched(copy.deepcopy(model), steps)
    for number, batch in enumerate(batches(train, steps, seed)):
        first, second = (torch_run, fast_run) if number % 2 == 0 else (fast_run, torch_run)
        first.step(batch)
        second.step(batch)
        for mine, theirs in zip(merged_run.model.parameters(), torch_run.model.parameters(), strict=True):
            mine.grad = theirs.grad
        merged_run.timed_update()
        advance()
    return torch_run, merged_run, fast_run


# --------------------------------------------------------------------------------------- measurement


@dataclass(frozen=True)
class Result:
    """What one demo measured; times are medians over the fine-tuning's steps, in seconds."""

    groups: int
    merged_groups: int
    torch_accuracy: float
    fastsched_accuracy: float
    largest_loss_difference: float
    torch_update_seconds: float
    merged_update_seconds: float
    fastsched_update_seconds: float
    torch_step_seconds: float
    fastsched_step_seconds: float
    torch_losses: list[float]
    fastsched_losses: list[float]
    picture: Path

    @property
    def speedup(self) -> float:
        """How many times less time optimizer and scheduler take."""
        return self.torch_update_seconds / self.fastsched_update_seconds

    @property
    def merged_speedup(self) -> float:
        """The same, against torch with equal groups merged."""
        return self.merged_update_seconds / self.fastsched_update_seconds

    @property
    def step_speedup(self) -> float:
        """How many times less time a whole training step takes."""
        return self.torch_step_seconds / self.fastsched_step_seconds


def run(
    out: str | Path = "fastsched-demo.png",
    *,
    seed: int = 0,
    steps: int = 250,
    pretrain_steps: int = 150,
    console: Console | None = None,
) -> Result:
    """Run the demo, print what it measures, save its picture at `out`, and return all of it.

    Raises:
        ValueError: fewer than two steps, or a file ending that matplotlib can't write.
        OSError: a path that can't be written, before any training.
    """
    for name, value in (("steps", steps), ("pretrain_steps", pretrain_steps)):
        if value < 2:
            raise ValueError(f"demo: {name} must be >= 2, got {value}; 250 are enough to learn the digits")
    picture = writable(Path(out))
    console = console or Console()

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with one_thread(), torch.random.fork_rng(devices=()), Progress(*columns, console=console) as progress:
        torch.manual_seed(seed)
        train, test = digits(seed)
        first = progress.add_task("learn the digits 0-4", total=pretrain_steps)
        second = progress.add_task("fine-tune on all ten, twice", total=steps, start=False)
        model = pretrained(train, pretrain_steps, seed, lambda: progress.advance(first))
        progress.start_task(second)
        runs = fine_tune(model, train, steps, seed + 1, lambda: progress.advance(second))

    torch_run, merged_run, fast_run = runs
    pairs = zip(torch_run.losses, fast_run.losses, strict=True)
    result = Result(
        groups=len(groups(model, per_parameter=True)),
        merged_groups=len(groups(model, per_parameter=False)),
        torch_accuracy=accuracy(torch_run.model, test),
        fastsched_accuracy=accuracy(fast_run.model, test),
        largest_loss_difference=max(abs(a - b) for a, b in pairs),
        torch_update_seconds=statistics.median(torch_run.update_seconds),
        merged_update_seconds=statistics.median(merged_run.update_seconds),
        fastsched_update_seconds=statistics.median(fast_run.update_seconds),
        torch_step_seconds=statistics.median(torch_run.step_seconds),
        fastsched_step_seconds=statistics.median(fast_run.step_seconds),
        torch_losses=torch_run.losses,
        fastsched_losses=fast_run.losses,
        picture=picture,
    )
    report(result, console)
    draw(result, groups(model, per_parameter=True))
    console.print(f"Picture: {picture}", soft_wrap=True)
    return result


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch, and fastsched with it, use one thread: work this small gains nothing from more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def report(result: Result, console: Console) -> None:
    """Print the figures as a table."""
    table = Table(title=f"{result.groups} parameter groups: test accuracy, median times per step, one thread")
    table.add_column("")
    for heading in ("accuracy", "optimizer + scheduler", "whole step"):
        table.add_column(heading, justify="right")

    def row(name: str, score: float | None, update: float, step: float | None) -> None:
        shown = ("-" if score is None else f"{score:.2%}", "-" if step is None else f"{step * 1e3:.2f} ms")
        table.add_row(name, shown[0], f"{update * 1e6:,.0f} us", shown[1])

    row(
        "torch fused + LambdaLR",
        result.torch_accuracy,
        result.torch_update_seconds,
        result.torch_step_seconds,
    )
    row(f"  merged into {result.merged_groups} groups", None, result.merged_update_seconds, None)
    row(
        "fastsched",
        result.fastsched_accuracy,
        result.fastsched_update_seconds,
        result.fastsched_step_seconds,
    )
    console.print(table)
    console.print(
        f"Optimizer + scheduler: [bold]{result.speedup:.1f} times[/] faster, "
        f"{result.merged_speedup:.1f} times where torch's equal groups are merged.\n"
        f"Whole training step: {result.step_speedup:.2f} times faster.\n"
        f"Largest difference between the loss curves: {result.largest_loss_difference:.1e}."
    )


# ------------------------------------------------------------------------------------------- picture


def writable(path: Path) -> Path:
    """Return the path, if a picture can be written there; a wrong one must not cost a training."""
    endings = Figure().canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in endings:
        known = ", ".join(sorted(endings))
        raise ValueError(f"demo: the picture's name must end in one of {known}, got {path.name!r}")
    existed = path.exists()
    path.open("ab").close()
    if not existed:
        path.unlink()
    return path


def draw(result: Result, groups: LayerGroups) -> None:
    """Save the picture: every group's learning rate over time, and both loss curves with their distance."""
    steps = len(result.torch_losses)
    figure = Figure(figsize=(13, 5.2), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.08, 1), height_ratios=(3, 1))
    draw_rates(figure, grid[:, 0], groups, steps)
    draw_losses(figure, grid[0, 1], grid[1, 1], result)
    figure.savefig(result.picture)


def draw_rates(figure: Figure, place: SubplotSpec, groups: LayerGroups, steps: int) -> None:
    """One line per group, coloured by its layer."""
    axes = figure.add_subplot(place)
    rates = fs.lr_table(schedule(steps), steps, scale=[group["lr"] for group in groups])
    _, layers = np.unique([group["lr"] for group in groups], return_inverse=True)
    names = ["embeddings", *(f"block {number}" for number in range(1, DEPTH + 1)), "head"]

    colours = ListedColormap(colormaps["viridis"](np.linspace(0.0, 0.93, len(names))))
    norm = BoundaryNorm(np.arange(len(names) + 1) - 0.5, colours.N)
    time_axis = np.arange(steps)
    lines = [np.column_stack((time_axis, column)) for column in rates.T]
    axes.add_collection(LineCollection(lines, array=layers, cmap=colours, norm=norm, linewidths=1.4))
    axes.autoscale_view()
    bar = figure.colorbar(ScalarMappable(norm, colours), ax=axes, pad=0.015, aspect=30)
    bar.set_ticks(range(len(names)), labels=names)
    bar.minorticks_off()
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)

    warmup = warmup_steps(steps)
    axes.axvline(warmup, color="0.55", linewidth=0.8, linestyle=":")
    axes.annotate(" warmup ends", (warmup, 0.01), xycoords=axes.get_xaxis_transform(), color="0.4", va="bottom")
    axes.set(
        yscale="log",
        xlim=(0, steps - 1),
        xlabel="step (optimizer updates)",
        ylabel="learning rate (per update)",
    )
    axes.set_title(f"The learning rate of all {len(groups)} parameter groups", loc="left")
    tidy(axes)


def draw_losses(figure: Figure, above: SubplotSpec, below: SubplotSpec, result: Result) -> None:
    """Both training losses, one on the other, and under them how far apart they are."""
    losses = figure.add_subplot(above)
    losses.plot(result.torch_losses, color="#f2a65a", linewidth=4.5, label="torch AdamW(fused) + LambdaLR")
    losses.plot(result.fastsched_losses, color="#1f3a5f", linewidth=1.1, label="fastsched AdamW")
    losses.set(yscale="log", ylabel="training loss (nats)")
    losses.set_title("Both training losses, and their distance", loc="left")
    losses.legend(frameon=False, loc="upper right")
    losses.tick_params(labelbottom=False)

    distance = figure.add_subplot(below, sharex=losses)
    apart = np.abs(np.subtract(result.torch_losses, result.fastsched_losses))
    distance.plot(np.where(apart > 0.0, apart, np.nan), color="#8c2f39", linewidth=1.1)
    distance.set(yscale="log", xlabel="step (optimizer updates)", ylabel="|difference|")
    losses.set_xlim(0, len(result.torch_losses) - 1)
    for axes in (losses, distance):
        tidy(axes)


def tidy(axes: Axes) -> None:
    """Draw a light grid, and no frame but the two axes."""
    axes.grid(color="0.92", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
