"""The page's pictures as plotly has them: plain dicts of the values that the engine gave."""

from __future__ import annotations

import base64
import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from plotly.colors import sequential

from fastsched import _outline
from fastsched._compare import Comparison
from fastsched.explore.state import Picture, State

if TYPE_CHECKING:
    from fastsched.explore.training import Run
    from fastsched.finder import Sweep

Figure = dict[str, Any]
Floats = npt.NDArray[np.float64]

# Okabe and Ito's colours, which all eyes can tell apart, and lighter ones for a dark page.
COLOURS = {False: ("#0072b2", "#d55e00", "#00805d", "#a14d80"), True: ("#56b4e9", "#f0a13c", "#3fd0a4", "#e08fbd")}
INK = {False: "#222222", True: "#e6e6e6"}
FAINT = {False: "rgba(0,0,0,0.12)", True: "rgba(255,255,255,0.16)"}
GREY = {False: "#9aa2aa", True: "#6b747d"}
THIN = {"width": 1.5}  # where lines cross each other many times
BY_SLOT = ("solid", "dash", "dot", "dashdot")
OPTIMIZERS = {"sgd": "SGD", "momentum": "momentum", "adamw": "AdamW"}
BY_OPTIMIZER = {"sgd": "solid", "momentum": "dash", "adamw": "dot"}
LEVELS = 16
DEEP = 1e-6  # of the highest: what lies deeper has one colour
SHORTEST = 1e-12  # on a logarithmic axis


def packed(values: npt.NDArray[Any]) -> dict[str, str]:
    """An array as plotly reads it without parsing numbers."""
    array = np.ascontiguousarray(values, np.float32 if values.ndim == 2 else np.float64)
    shape = {"shape": ", ".join(map(str, array.shape))} if array.ndim == 2 else {}
    return {"dtype": f"f{array.itemsize}", "bdata": base64.b64encode(array.tobytes()).decode(), **shape}


def figure(traces: Sequence[Figure], dark: bool, x: str, y: str, **layout: Any) -> Figure:
    """Traces with the page's look; ``layout`` has what differs."""
    axis = {"gridcolor": FAINT[dark], "zerolinecolor": FAINT[dark], "linecolor": INK[dark], "automargin": True}
    own = {name: layout.pop(name, {}) for name in ("xaxis", "yaxis")}
    return {
        "data": list(traces),
        "layout": {
            "autosize": True,
            "margin": {"l": 56, "r": 12, "t": 12, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"color": INK[dark], "size": 13},
            "legend": {"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0.0},
            "hovermode": "closest",
            "showlegend": len([t for t in traces if t.get("showlegend", True)]) > 1,
            "xaxis": {**axis, "title": {"text": x}, **own["xaxis"]},
            "yaxis": {**axis, "title": {"text": y}, "exponentformat": "e", **own["yaxis"]},
            **layout,
        },
    }


def empty(dark: bool, text: str) -> Figure:
    """No picture, and why."""
    note = {"text": text, "showarrow": False, "xref": "paper", "yref": "paper", "x": 0.5, "y": 0.5}
    return figure([], dark, "", "", annotations=[note], xaxis={"visible": False}, yaxis={"visible": False})


def line(x: npt.NDArray[Any], y: Floats, name: str, colour: str, dash: str, **more: Any) -> Figure:
    """A line."""
    style = {"color": colour, "dash": dash, "width": 2, **more.pop("line", {})}
    return {"type": "scatter", "mode": "lines", "x": packed(x), "y": packed(y), "name": name, "line": style, **more}


# ---- schedules ----


def curves(picture: Picture, dark: bool) -> Figure:
    """The schedules over the updates."""
    if not picture.curves:
        return empty(dark, "no schedule to show")
    many = [sum(curve.slot == other.slot for other in picture.curves) for curve in picture.curves]
    seen: dict[int, int] = {}
    traces = []
    for curve, of in zip(picture.curves, many, strict=True):
        rank = seen[curve.slot] = seen.get(curve.slot, -1) + 1
        held = "hv" if len(curve.steps) == picture.updates else "linear"
        traces.append(
            line(
                curve.steps,
                curve.values,
                curve.name,
                COLOURS[dark][curve.slot],
                BY_SLOT[curve.slot],
                line={"shape": held},
                opacity=1.0 - 0.7 * rank / max(1, of - 1) if of > 1 else 1.0,
                showlegend=rank == 0,
                hovertemplate="update %{x:,}<br>lr %{y:.6g}<extra></extra>",
            )
        )
    axis = _scale([curve.values for curve in picture.curves], picture.log)
    return figure(traces, dark, "update", "learning rate", yaxis=axis, **_marks(picture, dark))


def _scale(values: Sequence[Floats], log: bool) -> Figure:
    """An axis that has the values with some room around them, and 0 if it is linear."""
    low, high = _outline.limits(values, log)
    low, high = (float(np.log10(low)), float(np.log10(high))) if log else (min(low, 0.0), max(high, 0.0))
    room = 0.05 * (max(high - low, 0.2) if log else (high - low) or 1.0)
    return {"type": "log" if log else "linear", "range": [low - room, high + room]}


def _marks(picture: Picture, dark: bool) -> Figure:
    """Where phases begin, as lines with their names."""
    shapes = [
        {
            "type": "line",
            "x0": phase.step,
            "x1": phase.step,
            "yref": "paper",
            "y0": 0,
            "y1": 1,
            "line": {"color": FAINT[dark], "width": 2},
        }
        for phase in picture.marks
        if phase.step
    ]
    notes = [
        {
            "text": phase.name,
            "x": phase.step,
            "yref": "paper",
            "y": 1,
            "xanchor": "left",
            "yanchor": "top",
            "showarrow": False,
        }
        for phase in picture.marks
        if phase.name
    ]
    return {"shapes": shapes, "annotations": notes}


def layers(picture: Picture, dark: bool) -> Figure:
    """All layers of the chosen schedule, a row each: an image, which plotly shows ten times as fast as a heat map."""
    heat = picture.heat
    if heat is None:
        return empty(dark, "")
    values, (low, high) = heat.values, _outline.limits([heat.values.ravel()], picture.log)
    bar: Figure = {"thickness": 12, "outlinewidth": 0, "tickformat": ".1e"}
    if picture.log:
        with np.errstate(divide="ignore", invalid="ignore"):
            values, low, high = np.log10(values), float(np.log10(low)), float(np.log10(high))
        decades = range(int(np.ceil(low)), int(np.floor(high)) + 1)
        if len(decades) > 1:
            bar |= {"tickvals": list(decades), "ticktext": [f"1e{decade}" for decade in decades]}
        else:
            bar |= {"tickvals": [low, high], "ticktext": [f"{10**low:.2g}", f"{10**high:.2g}"]}
    scale = {"colorscale": "Viridis", "cmin": low, "cmax": high if high > low else low + 1.0, "colorbar": bar}
    steps, groups = heat.steps.tolist(), heat.groups.tolist()
    image = {
        "source": "data:image/png;base64," + base64.b64encode(painted(values, low, high)).decode(),
        "x": steps[0],
        "y": groups[-1],
        "sizex": steps[-1] - steps[0],
        "sizey": groups[-1],
        "xref": "x",
        "yref": "y",
        "sizing": "stretch",
        "layer": "below",
    }
    # The image has no colour bar: a point that is not seen does.
    point = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "marker": {"color": [low], **scale}}
    axes = {"xaxis": {"range": [steps[0], steps[-1]]}, "yaxis": {"range": [groups[0], groups[-1]]}}
    return figure([point], dark, "update", "layer", images=[image], **axes)


def painted(values: Floats, low: float, high: float) -> bytes:
    """A PNG of 255 shades from the least to the largest value, the first row at the bottom; what is NaN is clear."""
    with np.errstate(invalid="ignore"):
        shades = np.clip((values - low) / ((high - low) or 1.0), 0.0, 1.0) * 254.0
    image = Image.fromarray(np.where(np.isnan(values), 255.0, shades.round())[::-1].astype(np.uint8))
    image.putpalette(_palette())
    file = io.BytesIO()
    image.save(file, "png", transparency=255, compress_level=1)
    return file.getvalue()


@functools.cache
def _palette() -> bytes:
    """255 shades of plotly's Viridis, and one for what is clear."""
    ends = np.array([[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in sequential.Viridis])
    at = np.linspace(0.0, len(ends) - 1.0, 255)
    shades = np.stack([np.interp(at, range(len(ends)), ends[:, channel]) for channel in range(3)], axis=1)
    return shades.round().astype(np.uint8).tobytes() + b"\0\0\0"


# ---- training ----


def _named(run: Run) -> str:
    return f"{run.slot + 1} {OPTIMIZERS[run.optimizer]}"


def _looks(runs: Sequence[Run], dark: bool) -> list[tuple[str, str]]:
    """A colour and a dash for each: colours are schedules, or optimizers where there is one schedule."""
    by_slot = len({run.slot for run in runs}) > 1
    names = list(OPTIMIZERS)
    return [
        (COLOURS[dark][run.slot if by_slot else names.index(run.optimizer)], BY_OPTIMIZER[run.optimizer])
        for run in runs
    ]


def losses(runs: Sequence[Run], dark: bool) -> Figure:
    """The loss over the updates."""
    if not runs:
        return empty(dark, "no schedule, or no optimizer")
    traces = [
        line(
            np.arange(len(run.losses)),
            np.maximum(run.losses, SHORTEST),
            f"{_named(run)}: {run.verdict}",
            *look,
            line=THIN,
        )
        for run, look in zip(runs, _looks(runs, dark), strict=True)
    ]
    return figure(traces, dark, "update", "loss", yaxis={"type": "log"})


MEASURED = {
    "effective": "distance moved / gradient norm",
    "length": "distance moved",
    "spread": "spread of the last 20 points",
}


def measures(runs: Sequence[Run], what: str, dark: bool) -> Figure:
    """Effective steps, lengths or spreads over the updates."""
    if not runs:
        return empty(dark, "no schedule, or no optimizer")
    traces = []
    for run, look in zip(runs, _looks(runs, dark), strict=True):
        values: Floats = getattr(run, what)
        shown = np.where(values > 0.0, values, np.nan)
        traces.append(line(np.arange(len(values)), shown, _named(run), *look, line=THIN))
    return figure(traces, dark, "update", MEASURED[what], yaxis={"type": "log"})


def paths(runs: Sequence[Run], state: State, dark: bool) -> Figure:
    """The ways of the trainings over the surface."""
    from fastsched.explore import training

    surface = training.problem(state).surface
    if surface is None:
        return empty(dark, "a network's weights have no picture: see its spread")
    x, y, heights = training.ground(surface)
    top = float(heights.max())
    trace = {
        "type": "contour",
        "x": packed(x),
        "y": packed(y),
        "z": packed(np.log10(np.maximum(heights, top * DEEP))),
        "ncontours": LEVELS,
        "colorscale": [[0.0, INK[dark]], [1.0, GREY[dark]]],
        "showscale": False,
        "showlegend": False,
        "opacity": 0.8,
        "contours": {"coloring": "lines"},
        "hoverinfo": "skip",
    }
    ways = [
        line(
            run.path[:, 0],
            run.path[:, 1],
            _named(run),
            *look,
            line=THIN,
            customdata=list(range(len(run.path))),
            hovertemplate="update %{customdata}<br>(%{x:.3g}, %{y:.3g})<extra>" + _named(run) + "</extra>",
        )
        for run, look in zip(runs, _looks(runs, dark), strict=True)
        if run.path is not None
    ]
    goal = {
        "type": "scatter",
        "mode": "markers",
        "x": [surface.goal[0]],
        "y": [surface.goal[1]],
        "name": "minimum",
        "marker": {"symbol": "star", "size": 13, "color": INK[dark]},
        "hoverinfo": "name",
    }
    left, right, bottom, upper = surface.window
    axes = {"xaxis": {"range": [left, right]}, "yaxis": {"range": [bottom, upper]}}
    return figure([trace, goal, *ways], dark, "x", "y", **axes)


# ---- range test and frameworks ----


def sweep(found: Sweep, dark: bool) -> Figure:
    """The losses over the learning rates, and the suggestions."""
    raw, smooth = COLOURS[dark][0], COLOURS[dark][1]
    traces = [
        line(found.lrs, found.losses, "loss", raw, "dot", line={"width": 1}),
        line(found.lrs, found.smoothed, "smoothed", smooth, "solid"),
    ]
    for (name, (lr, _)), symbol in zip(
        found.suggestions.items(), ("circle", "square", "diamond", "triangle-up"), strict=True
    ):
        if lr is not None:
            height = float(np.interp(np.log(lr), np.log(found.lrs), found.smoothed))
            mark = {"symbol": symbol, "size": 11, "color": INK[dark]}
            traces.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": [lr],
                    "y": [height],
                    "name": f"{name} {lr:.2g}",
                    "marker": mark,
                }
            )
    low, high = float(found.smoothed.min()), float(found.losses[: found._rise].max())
    room = 0.3 * max(high - low, 1e-12)
    return figure(
        traces,
        dark,
        "learning rate",
        "loss",
        xaxis={"type": "log", "exponentformat": "e"},
        yaxis={"range": [low - room, high + room]},
    )


def comparison(result: Comparison, names: tuple[str, str], dark: bool) -> Figure:
    """Two conventions of one name."""
    steps = np.arange(result.steps)
    traces = [
        line(steps, values, name, COLOURS[dark][i], BY_SLOT[i])
        for i, (values, name) in enumerate(zip((result.a, result.b), names, strict=True))
    ]
    return figure(traces, dark, "update", "learning rate")


def difference(result: Comparison, dark: bool) -> Figure:
    """What the second has more than the first."""
    trace = line(np.arange(result.steps), result.b - result.a, "difference", COLOURS[dark][2], "solid")
    return figure(
        [trace],
        dark,
        "update",
        "second - first",
    )
