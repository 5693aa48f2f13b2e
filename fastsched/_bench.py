"""`fastsched bench`: the engine beside torch's own schedulers and optimizer, here and now.

Both sides of a row come to the same values, which is asserted first; then they run in turn, so that whatever else the
machine does hits both alike, and the row has the medians and their spread. Ceilings say what memory can do here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

import fastsched as fs

LR = 1e-3
ELEMENTS = 256  # of each group's tensor: small, so that what a group costs is seen
HORIZON = 1_000_000  # updates: no scheduler comes to its end
STEPPED = 50  # updates of torch's scheduler for one measurement of a table
TABLE = 10_000  # rows of ours
FILLED = 8_000_000  # float64 values, 64 MB: more than most caches hold


@dataclass(frozen=True)
class Row:
    """One comparison: seconds for the same work, and how many times less fastsched takes."""

    work: str
    torch: str
    torch_seconds: float
    fastsched_seconds: float
    torch_spread: float  # half of the interquartile range over the median
    fastsched_spread: float

    @property
    def ratio(self) -> float:
        """How many times less time."""
        return self.torch_seconds / self.fastsched_seconds


def run(groups: int = 100, rounds: int = 15) -> Iterator[Row]:
    """The rows, one after the other, each on one thread: work this small gains nothing from more.

    Errors: ``ImportError`` without the native module.
    """
    for row in (_table, _scheduler, _update):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield row(groups, rounds)
        finally:
            torch.set_num_threads(threads)


def ceilings(rounds: int = 15) -> dict[str, float]:
    """Bytes per second that one thread fills and copies, by numpy: medians, in turn. A copy reads and writes."""
    source, target = np.ones(FILLED), np.empty(FILLED)
    (fill, _), (copy, _) = _medians(rounds, lambda: target.fill(1.0), lambda: np.copyto(target, source))
    return {"fill": target.nbytes / fill, "copy": 2 * target.nbytes / copy}


def _medians(rounds: int, *sides: Callable[[], object]) -> list[tuple[float, float]]:
    """Median seconds and their spread, of each side, run in turn; the first round only warms up."""
    seconds: list[list[float]] = [[] for _ in sides]
    for number in range(rounds + 1):
        for side, kept in zip(sides, seconds, strict=True):
            begun = time.perf_counter()
            side()
            if number:
                kept.append(time.perf_counter() - begun)
    return [(statistics.median(kept), _spread(kept)) for kept in seconds]


def _spread(values: list[float]) -> float:
    """Half of the interquartile range over the median; of a single value 0."""
    if len(values) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2 / middle


def _row(work: str, torch: str, theirs: tuple[float, float], ours: tuple[float, float], times: float = 1.0) -> Row:
    """A row of both sides' medians and spreads; torch did one part in `times` of the work."""
    return Row(work, torch, theirs[0] * times, ours[0], theirs[1], ours[1])


def _groups(count: int) -> list[dict[str, object]]:
    generator = torch.Generator().manual_seed(0)
    made: list[dict[str, object]] = []
    for i in range(count):
        parameter = torch.nn.Parameter(torch.randn(ELEMENTS, generator=generator))
        parameter.grad = torch.randn(ELEMENTS, generator=generator)
        made.append({"params": [parameter], "lr": LR * 0.99**i})
    return made


def _check(what: str, ours: object, theirs: object, tolerance: float) -> None:
    if not np.allclose(np.asarray(ours), np.asarray(theirs), rtol=tolerance, atol=0.0):
        raise AssertionError(f"bench: both must come to the same {what}, got others; report it")


def _table(groups: int, rounds: int) -> Row:
    """All lrs of a run in advance: by stepping torch's scheduler, and as one table."""
    optimizer = torch.optim.SGD(_groups(groups), lr=LR)
    schedule = fs.Cosine(steps=HORIZON)
    scale = [group["lr"] for group in optimizer.param_groups]
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, HORIZON)
    optimizer.step()
    rows = [scheduler.get_last_lr()]

    def stepped() -> None:
        for _ in range(STEPPED):
            scheduler.step()
            rows.append(scheduler.get_last_lr())

    stepped()
    # torch goes from one lr to the next: 1e-9 allows for what 50 such roundings come to
    _check("lrs", fs.lr_table(schedule, len(rows), scale=scale, dtype=np.float64), rows, 1e-9)
    theirs, ours = _medians(rounds, stepped, lambda: fs.lr_table(schedule, TABLE, scale=scale, dtype=np.float64))
    baseline = f"CosineAnnealingLR, {STEPPED} steps x {TABLE // STEPPED}"
    return _row(f"{TABLE:,} rows of lrs", baseline, theirs, ours, TABLE / STEPPED)


def _scheduler(groups: int, rounds: int) -> Row:
    """A scheduler's step on an optimizer of torch."""
    schedulers = []
    for module in (torch.optim.lr_scheduler, fs.lr_scheduler):
        optimizer = torch.optim.SGD(_groups(groups), lr=LR)
        schedulers.append(module.CosineAnnealingLR(optimizer, HORIZON))
        optimizer.step()  # torch warns where a scheduler is the first to step
        schedulers[-1].step()
    _check("lrs", schedulers[1].get_last_lr(), schedulers[0].get_last_lr(), 0.0)
    theirs, ours = _medians(rounds, *(scheduler.step for scheduler in schedulers))
    return _row("scheduler.step()", "CosineAnnealingLR", theirs, ours)


def _update(groups: int, rounds: int) -> Row:
    """An update with its lrs: torch's fused optimizer and scheduler, and one call of ours."""
    theirs = torch.optim.AdamW(_groups(groups), lr=LR, fused=True)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(theirs, HORIZON)
    ours = fs.optim.AdamW(_groups(groups), lr=LR, schedule=fs.Cosine(steps=HORIZON))

    def both() -> None:
        theirs.step()
        scheduler.step()

    both()
    ours.step()
    for a, b in zip(theirs.param_groups, ours.param_groups, strict=True):
        # float32 weights of about 1 after one update of at most LR: a rounding or two, 1.2e-7 each
        _check("weights", b["params"][0].detach(), a["params"][0].detach(), 1e-4)
    before, after = _medians(rounds, both, ours.step)
    return _row("optimizer and scheduler", "AdamW(fused=True) + CosineAnnealingLR", before, after)
