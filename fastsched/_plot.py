"""Pictures of schedules. Matplotlib is imported when one is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fastsched import _outline
from fastsched._check import Choice, Flag, shown, window
from fastsched._outline import Curve, Line, shortened
from fastsched.schedule import Schedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from fastsched.plan import Plan

Floats = npt.NDArray[np.float64]

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")  # Okabe and Ito: for all eyes
DASHES = ("-", "--", "-.", ":")  # curves that coincide are all seen
GREY = "0.4"
LONGEST_TITLE = 80
LONGEST_LABEL = 60
LONGEST_INSIDE = 32  # characters of a label: a legend with longer ones would hide the curves
MOST_INSIDE = 6
FEW = 32  # points that are marked one by one
MOST_NAMED = 8  # phases
DARKEST, BRIGHTEST = 0.0, 0.82  # of viridis: its yellow cannot be seen as a line on white
CURVE = "fastsched-curve"  # marks the lines that are curves: their number chooses the next one's colour
TITLE = "fastsched-title"  # marks a title that may give way to a legend

_WORDS = {
    "lr": "learning rate",
    "weight_decay": "weight decay",
}
_LOG = Flag("leave it out to let the values decide")


# ---- figures and axes ----


def figure(who: str, rows: int, heights: tuple[float, ...]) -> tuple[Figure, list[Axes]]:
    """An empty figure of panels one below the other that share their steps."""
    _matplotlib(who)
    from fastsched._axes import Panel, Picture

    picture = Picture(8.0, 1.0 + 1.5 * sum(heights))
    grid = picture.subplots(
        rows, 1, sharex=True, squeeze=False, height_ratios=heights, subplot_kw={"axes_class": Panel}
    )
    axes = list(grid[:, 0])
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25)
        panel.set_axisbelow(True)
    axes[-1].set_xlabel("update")
    return picture, axes


def _matplotlib(who: str) -> None:
    try:
        import matplotlib.axes  # noqa: F401
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise ImportError(f"{who}: needs matplotlib, which is not installed; pip install matplotlib") from None


def given_axes(who: str, ax: Any) -> Axes:
    """The user's own axes, checked."""
    _matplotlib(who)
    from matplotlib.axes import Axes

    if not isinstance(ax, Axes):
        raise TypeError(f"{who}: ax must be a matplotlib Axes, got {shown(ax)}; pass one that figure.subplots() made")
    return ax


def _one_panel(who: str, ax: Any, height: float = 2.2) -> Axes:
    """The axes to draw in: the user's, or those of a new figure."""
    if ax is not None:
        return given_axes(who, ax)
    _, (axes,) = figure(who, 1, (height,))
    return axes


def panels(who: str, ax: Any, heights: tuple[float, ...]) -> list[Axes]:
    """Several axes to draw in: the user's, one for each height, or those of a new figure."""
    if ax is None:
        return figure(who, len(heights), heights)[1]
    if isinstance(ax, np.ndarray):
        ax = ax.ravel().tolist()
    if not isinstance(ax, Sequence) or isinstance(ax, (str, bytes)):
        raise TypeError(f"{who}: ax must be a list of {len(heights)} Axes, got {shown(ax)}; pass one for each panel")
    if len(ax) != len(heights):
        raise ValueError(f"{who}: ax must be {len(heights)} Axes, got {len(ax)}; pass one for each panel")
    return [given_axes(who, axes) for axes in ax]


# ---- schedules ----


def plot(
    schedules: Schedule | Mapping[str, Any] | Iterable[Schedule],
    steps: int | None = None,
    *,
    start: int = 0,
    ax: Axes | None = None,
    log: bool | None = None,
    marks: bool = True,
) -> Axes:
    """Several schedules in one picture: a matplotlib Axes, ``ax`` itself if that is given.

    ``schedules``: a mapping of names to schedules or to logged values from update 0 on, a list of schedules, or one.
    ``steps``: how many updates to draw from ``start`` on; by default those of the longest curve that ends. Scale,
    points and marks are those of `Schedule.plot`; phases are marked if one schedule is drawn. Errors: ``TypeError`` for
    anything but curves, ``ValueError`` if nothing says how many steps, ``ImportError`` without matplotlib.

    >>> axes = plot({"cosine": Cosine(steps=100), "line": Linear(1.0, 0.0, steps=100)})
    >>> [text.get_text() for text in axes.get_legend().get_texts()]
    ['cosine', 'line']
    """
    who = "plot"
    curves = _named(who, schedules)
    count, start = window(who, _outline.updates(who, curves.values(), steps), start)
    for name, curve in curves.items():
        if not isinstance(curve, Schedule) and len(curve) <= start:
            raise ValueError(f"{who}: {name} must have a value at start, got {len(curve)} for {start}; start earlier")
    check_options(who, log, marks)
    axes = _one_panel(who, ax)
    return draw_curves(axes, curves, start, count, log=log, marks=marks)


def _named(who: str, schedules: Any) -> dict[str, Curve]:
    """Curves by name."""
    from fastsched._compare import logged

    advice = "pass a Schedule, a list of them, or a mapping of names to curves"
    if isinstance(schedules, Schedule):
        return {shortened(repr(schedules), LONGEST_TITLE): schedules}
    if isinstance(schedules, (str, bytes, np.ndarray)) or not isinstance(schedules, Iterable):
        raise TypeError(f"{who}: schedules must be schedules, got {shown(schedules)}; {advice}")
    if isinstance(schedules, Mapping):
        curves = {
            str(name): curve if isinstance(curve, Schedule) else logged(who, str(name), curve)
            for name, curve in schedules.items()
        }
    else:
        curves = {}
        for i, schedule in enumerate(schedules):
            if not isinstance(schedule, Schedule):
                raise TypeError(f"{who}: schedules[{i}] must be a Schedule, got {shown(schedule)}; {advice}")
            name = shortened(repr(schedule), LONGEST_LABEL)
            curves[name if name not in curves else f"{i}: {name}"] = schedule
    if not curves:
        raise ValueError(f"{who}: schedules must be one at least, got none; {advice}")
    return curves


def plot_schedule(
    schedule: Schedule, steps: int | None, start: int, ax: Any, log: bool | None, label: str | None, marks: bool
) -> Axes:
    """The picture of one schedule: see `Schedule.plot`."""
    who = "plot"
    if label is not None and not isinstance(label, str):
        raise TypeError(f"{who}: label must be a string, got {shown(label)}; pass a name for the legend")
    count, start = window(who, _outline.updates(who, [schedule], steps), start)
    check_options(who, log, marks)
    axes = _one_panel(who, ax)
    name = shortened(repr(schedule), LONGEST_TITLE) if label is None else label
    return draw_curves(axes, {name: schedule}, start, count, log=log, marks=marks)


def check_options(who: str, log: Any, marks: Any) -> None:
    """The options that every picture has."""
    if log is not None:
        _LOG(who, "log", log)
    Flag("False draws the curves alone")(who, "marks", marks)


def draw_curves(
    axes: Axes, curves: Mapping[str, Curve], start: int, count: int, *, log: bool | None, marks: bool
) -> Axes:
    """Curves by name, with their marks, scale, labels, and a legend or a title."""
    drawn = _curves_in(axes)
    alone = len(curves) == 1 and not drawn
    values = []
    for i, (name, curve) in enumerate(curves.items(), len(drawn)):
        steps, heights = _outline.points(curve, start, count)
        style = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}
        _line(axes, steps, heights, label=shortened(name, LONGEST_TITLE), **style)
        values.append(heights)
        if marks and isinstance(curve, Schedule):
            _mark_snapshots(axes, curve, start, count, COLORS[i % len(COLORS)])
    if marks and alone:
        (curve,) = curves.values()
        if isinstance(curve, Schedule):
            _mark_phases(axes, [curve], start, count)
    _scale(axes, [*values, *(np.asarray(line.get_ydata(), np.float64) for line in drawn)], log)
    _label(axes, "value")
    if alone:
        _title(axes, next(iter(curves)), gid=TITLE)
    else:
        _cleared(axes)
    _legend(axes)
    return axes


def draw(axes: Any, curves: Mapping[str, Floats], label: str = "learning rate") -> None:
    """Several curves, given from update 0 on, by name; a single one needs no legend."""
    for i, (name, values) in enumerate(curves.items()):
        style: dict[str, Any] = {"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]}
        _line(axes, *_outline.points(values, 0, len(values)), label=name, **style)
    _label(axes, label)
    if len(curves) > 1:
        _legend(axes)


def _line(axes: Axes, steps: Any, values: Floats, **style: Any) -> None:
    few: dict[str, Any] = {"marker": "o", "markersize": 4.0} if steps[-1] - steps[0] < FEW else {}
    axes.plot(steps, values, linewidth=1.8, drawstyle="steps-post", gid=CURVE, **few, **style)
    if axes.dataLim.width == 0.0 and axes.get_autoscalex_on():  # one update
        axes.set_xlim(steps[0] - 1.0, steps[0] + 1.0, auto=True)


def _curves_in(axes: Axes) -> list[Any]:
    return [line for line in axes.get_lines() if line.get_gid() == CURVE]


def plot_comparison(curves: Mapping[str, Floats], first: int | None, ax: Any, log: bool | None) -> Figure:
    """Two curves, their difference below, and a line at the first one: see `Comparison.plot`."""
    who = "compare"
    check_options(who, log, True)
    above, below = panels(who, ax, (2.0, 1.0))
    a, b = curves.values()
    draw_curves(above, curves, 0, len(a), log=log, marks=False)
    draw(below, {"b - a": b - a}, label="b - a")
    below.margins(y=0.25)  # for the words at the top
    if first is not None:
        for axes in (above, below):
            axes.axvline(first, color="0.5", linewidth=0.8, zorder=0)
        _name(below, first, f"first difference: update {first:,}")
    parent = above.get_figure()
    assert parent is not None
    return parent  # type: ignore[return-value]


# ---- scale, labels, legend ----


def _scale(axes: Axes, values: Sequence[Floats], log: bool | None) -> None:
    """A scale on which the values can be told apart, and limits that suit it; the user's own stay."""
    if log is None:
        log = axes.get_yscale() == "log" or _outline.logarithmic(values)
    free = axes.get_autoscaley_on()
    axes.set_autoscaley_on(False)  # matplotlib's own limits would overflow for the widest curves there are
    if log:
        axes.set_yscale("log", nonpositive="clip")
    elif axes.get_yscale() != "linear":
        axes.set_yscale("linear")
    if free:
        axes.set_ylim(_limits(values, log))
        axes.set_autoscaley_on(True)


def _limits(values: Sequence[Floats], log: bool) -> tuple[float, float]:
    """The limits of an axis, with room at the top, where the names of phases are written."""
    low, high = _outline.limits(values, log)
    if log:
        bottom, top = math.log10(low), math.log10(high)
        room = 0.06 * (top - bottom) or 0.3
        return float(10.0 ** (bottom - room)), float(10.0 ** (top + 1.7 * room))
    if 0.0 <= low < 0.5 * high or low == high > 0.0:
        low = 0.0
    elif low == high < 0.0:
        high = 0.0
    room = 0.06 * (high - low) or 1.0
    return low - room, high + 1.7 * room


def _label(axes: Axes, text: str) -> None:
    """Labels and ticks; what the user has set stays."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    if not axes.get_xlabel() and not _shares_below(axes):
        axes.set_xlabel("update")
    if not axes.get_ylabel():
        axes.set_ylabel(text)
    if axes.xaxis.isDefault_majloc and axes.xaxis.isDefault_majfmt:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(count_in_words))


def count_in_words(step: float, position: int | None = None) -> str:
    """A number of updates: 2,500 and 20k and 1.5M, but 1,000,050, which no short text gives exactly."""
    if step >= 10_000 and float(f"{step:.4g}") == step:
        for unit, sign in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
            if unit <= step < 1e4 * unit:
                return f"{step / unit:g}{sign}"
        return f"{step:g}"
    return f"{step:,.0f}"


def _shares_below(axes: Axes) -> bool:
    """Whether the steps are written under another panel."""
    place = axes.get_subplotspec()
    return place is not None and not place.is_last_row() and axes.get_shared_x_axes().get_siblings(axes) != [axes]


def _title(axes: Axes, text: str, gid: str | None = None) -> None:
    if not any(axes.get_title(loc=place) for place in ("left", "center", "right")):
        title = axes.set_title("", loc="left", fontsize="medium")
        # Both in inches; a character is about half as wide as high.
        width, character = axes.get_window_extent().width / axes.figure.dpi, 0.55 * float(title.get_fontsize()) / 72.0
        title.set_text(shortened(text, min(LONGEST_TITLE, max(12, int(width / character)))))
        title.set_gid(gid)


def _legend(axes: Axes) -> None:
    """A legend where curves or marks need names: inside if it is small, else above or beside the curves."""
    curves = _curves_in(axes)
    handles, names = axes.get_legend_handles_labels()
    entries = {
        name: handle
        for name, handle in reversed(list(zip(names, handles, strict=True)))
        if len(curves) > 1 or handle not in curves
    }
    if not entries:
        return
    shown_at: dict[str, Any] = {"framealpha": 0.7, "edgecolor": "none"}
    if len(entries) > MOST_INSIDE or max(map(len, entries)) > LONGEST_INSIDE:
        above = len(entries) <= MOST_INSIDE and _cleared(axes)
        place = ("lower left", (0.0, 1.0)) if above else ("upper left", (1.0, 1.0))
        shown_at = {"frameon": False, "loc": place[0], "bbox_to_anchor": place[1]}
    names = list(reversed(entries))
    axes.legend([entries[name] for name in names], names, fontsize="small", **shown_at)


def _cleared(axes: Axes) -> bool:
    """Removes a title of ours; whether there is none now."""
    if axes.title.get_text() or axes._right_title.get_text():  # type: ignore[attr-defined]
        return False
    left = axes._left_title  # type: ignore[attr-defined]
    if left.get_text() and left.get_gid() != TITLE:
        return False
    left.set_text("")
    return True


# ---- marks ----


def _mark_phases(axes: Axes, curves: Iterable[Schedule], start: int, count: int, *, shade: bool = True) -> None:
    """Where phases begin: a shade for a warmup, a line for each other one, and the names that fit."""
    found = {phase.step: phase for curve in curves for phase in _outline.phases(curve, start, count)}
    steps = sorted(found)
    if len(steps) > _outline.MOST_MARKS:
        return
    named, free = 0, 0.0
    for i, step in enumerate(steps):
        name, begin = found[step].name, max(step, start)
        if name != "warmup":
            axes.axvline(step, color=GREY, linewidth=0.8, linestyle=":", zorder=0 if shade else 2)
        elif shade:
            end = steps[i + 1] if i + 1 < len(steps) else start + count
            axes.axvspan(begin, end, color="0.5", alpha=0.12, linewidth=0.0, zorder=0)
        share = (begin - start) / count
        if name and named < MOST_NAMED and share >= free:
            _name(axes, begin, name)
            named, free = named + 1, share + 0.014 * len(name)


def _name(axes: Axes, step: float, text: str) -> None:
    """A word at the top of the axes, to the right of a step."""
    axes.annotate(
        text,
        (step, 1.0),
        xycoords=axes.get_xaxis_transform(),
        xytext=(3, -3),
        textcoords="offset points",
        va="top",
        fontsize="x-small",
        color="0.3",
        bbox={"facecolor": "white", "alpha": 0.7, "edgecolor": "none", "pad": 1.0},
    )


def _mark_snapshots(axes: Axes, schedule: Schedule, start: int, count: int, color: Any) -> None:
    """The last update of each cycle: after it a snapshot is taken."""
    last = _outline.snapshots(schedule, start, count) - 1
    if len(last):
        values = schedule(last)
        axes.plot(
            last,
            values,
            linestyle="none",
            marker="D",
            markersize=5.0,
            markerfacecolor="white",
            markeredgecolor=color,
            zorder=3,
            clip_on=False,
            label="a cycle ends: snapshot",
        )


# ---- plans ----


def plot_plan(
    plan: Plan, steps: int | None, name: str | None, start: int, ax: Any, log: bool | None, marks: bool
) -> Any:
    """The picture of a plan: see `Plan.plot`."""
    who = "Plan.plot"
    if not plan.names:
        raise ValueError(f"{who}: some group must have a number or a schedule, got none; draw another plan")
    names = plan.names if name is None else (Choice(plan.names)(who, "name", name),)
    curves = plan._curves
    if steps is None and not curves:
        raise ValueError(f"{who}: steps must be given where nothing changes, got None; pass how many to draw")
    count, start = window(who, _outline.updates(who, curves, steps), start)
    check_options(who, log, marks)
    made = {each: _outline.lines(plan, each) for each in names}
    if name is not None:
        axes = _one_panel(who, ax, 3.0 if _is_heat(made[name]) else 2.2)
        _draw_lines(axes, plan, name, made[name], start, count, log, marks)
        return axes
    heights = tuple(1.8 if _is_heat(each) else 1.2 if len(each) > 1 or each[0].curve else 0.7 for each in made.values())
    every = panels(who, ax, heights)
    for axes, each in zip(every, names, strict=True):
        _draw_lines(axes, plan, each, made[each], start, count, log, marks)
    return every[0].get_figure()


def _is_heat(made: Sequence[Line]) -> bool:
    return len(made) > _outline.MOST_LINES


def _draw_lines(
    axes: Axes, plan: Plan, name: str, made: Sequence[Line], start: int, count: int, log: bool | None, marks: bool
) -> None:
    """One hyperparameter of all groups: as lines, or as a heat map if they are many."""
    curves = list({id(line.curve): line.curve for line in made if line.curve is not None}.values())
    _title(axes, _about(plan, name, made, len(curves)))
    if _is_heat(made):
        _draw_heat(axes, plan, name, made, start, count, log)
    else:
        _draw_few(axes, name, made, start, count, log)
    if marks and len(curves) <= _outline.MOST_LINES:
        _mark_phases(axes, curves, start, count, shade=not _is_heat(made))


def _about(plan: Plan, name: str, made: Sequence[Line], curves: int) -> str:
    """A plan's title: what is drawn, and from how many curves."""
    groups = f"{len(plan)} groups" if len(plan) != 1 else "1 group"
    what = f"{curves} curves" if curves > 1 else "1 curve" if curves else "constant"
    lacking = "; grey: groups without it" if _is_heat(made) and np.isnan(plan._scales[name]).any() else ""
    return f"{name} of {groups}, {what}{lacking}"


def _draw_few(axes: Axes, name: str, made: Sequence[Line], start: int, count: int, log: bool | None) -> None:
    values = []
    for line, style in zip(made, _styles(made), strict=True):
        steps, heights = line.points(start, count)
        _line(axes, steps, heights, label=_outline.groups_in_words(line.groups), **style)
        values.append(heights)
    _scale(axes, values, log)
    _label(axes, _WORDS.get(name, name))
    _legend(axes)


def _styles(made: Sequence[Line]) -> list[dict[str, Any]]:
    """Scaled copies of one curve go from dark to bright, in the order of the groups; others differ in hue."""
    if len({id(line.curve) for line in made}) == 1 < len(made):
        from matplotlib import colormaps

        return [{"color": tuple(shade)} for shade in colormaps["viridis"](np.linspace(DARKEST, BRIGHTEST, len(made)))]
    return [{"color": COLORS[i % len(COLORS)], "linestyle": DASHES[i % len(DASHES)]} for i in range(len(made))]


def _draw_heat(
    axes: Axes, plan: Plan, name: str, made: Sequence[Line], start: int, count: int, log: bool | None
) -> None:
    from matplotlib import colormaps
    from matplotlib.colors import LogNorm, Normalize
    from matplotlib.ticker import MaxNLocator

    columns, groups, cells = _outline.heat(plan, made, start, count)
    log = _outline.logarithmic([cells.ravel()]) if log is None else log
    low, high = _outline.limits([cells.ravel()], log)
    if log:
        cells = np.maximum(cells, low)  # a zero is as dark as can be; NaN stays
    norm = (LogNorm if log else Normalize)(low, high if high > low else low + 1.0)
    colours = colormaps["viridis"].with_extremes(bad="0.85")
    # A group's middle is at its index.
    image = axes.pcolorfast(columns, groups - 0.5, np.ma.masked_invalid(cells), cmap=colours, norm=norm)
    axes.grid(visible=False)
    axes.set(xlim=(start, start + count), ylim=(-0.5, len(plan) - 0.5))
    axes.yaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    _label(axes, "group")
    parent = axes.get_figure()
    assert parent is not None
    bar = parent.colorbar(image, ax=axes, pad=0.015, label=_WORDS.get(name, name))
    bar.outline.set_visible(False)
