"""Pictures of schedules. Matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: for all eyes
DASHES = ("-", "--", "-.", ":")  # curves that coincide are all seen
MOST_POINTS = 4096  # of a curve: more than any picture shows


def figure(who: str, rows: int, heights: tuple[float, ...]) -> tuple[Figure, list[Axes]]:
    """An empty figure of panels one below the other that share their steps."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(f"{who}: needs matplotlib, which is not installed; pip install matplotlib") from None
    picture = Figure(figsize=(8.0, 1.0 + 1.5 * sum(heights)), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots(rows, 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
    axes[-1].set_xlabel("update")
    return picture, list(axes)


def draw(axes: Any, curves: Mapping[str, Floats], label: str = "learning rate") -> None:
    """Several curves, given from update 0 on, by name; a single one needs no legend."""
    for i, (name, values) in enumerate(curves.items()):
        steps = np.unique(np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(np.int64))
        style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}
        axes.plot(steps, values[steps], label=name, linewidth=1.8, drawstyle="steps-post", **style)
    axes.set_ylabel(label)
    if len(curves) > 1:
        axes.legend(frameon=False)
