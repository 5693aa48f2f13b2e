"""Small pictures for notebooks: inline SVG, made without matplotlib."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastsched import _outline
from fastsched._outline import Line, shortened
from fastsched.schedule import Schedule

if TYPE_CHECKING:
    from fastsched.plan import Plan

Floats = npt.NDArray[np.float64]

WIDTH, HEIGHT = 160, 48  # of the curves, in pixels
MARGIN = 4
COLUMNS = WIDTH
MOST_LOOKED_AT = 1 << 16  # updates of a curve: a repr must be quick
MOST_LINES = 12
LONGEST_TEXT = 400
BLUE = "#2a87d0"  # contrast 3.8 to 1 with white, and 4.3 to 1 with the #1e1e1e of dark themes


def schedule_html(schedule: Schedule) -> str:
    """A schedule's repr beside its curve."""
    count = _outline.first_look(schedule)
    text = shortened(repr(schedule), LONGEST_TEXT)
    return _beside(text, _picture([Line(schedule, 1.0, np.zeros(1, np.int64))], count, "the value"))


def plan_html(plan: Plan) -> str:
    """A plan's repr beside the learning rates of some of its groups."""
    if not plan.names:
        return _beside(repr(plan), "")
    name = "lr" if "lr" in plan.names else plan.names[0]
    every = _outline.lines(plan, name)
    chosen = np.unique(np.linspace(0, len(every) - 1, min(len(every), MOST_LINES)).round().astype(int))
    some = [every[i] for i in chosen]
    counts = [_outline.first_look(line.curve) for line in some if line.curve is not None]
    what = name if len(some) == len(every) else f"{name}: {len(some)} of {len(every)} different ones"
    return _beside(repr(plan), _picture(some, max(counts, default=1), what))


def _beside(text: str, picture: str) -> str:
    """Text and picture in one row; a narrow page breaks it."""
    return (
        '<div style="display:flex;flex-wrap:wrap;align-items:center;gap:12px">'
        f'{picture}<code style="overflow-wrap:anywhere;max-width:60em">{html.escape(text)}</code></div>'
    )


def _picture(made: Sequence[Line], count: int, what: str) -> str:
    """Lines over updates 0 to ``count - 1``; the text takes the page's own colour, light or dark."""
    columns = COLUMNS if len(made) == 1 else COLUMNS // 2
    curves = [line.points(0, count, columns=columns, most=MOST_LOOKED_AT) for line in made]
    values = [heights for _, heights in curves]
    log = _outline.logarithmic(values)
    low, high = _outline.limits(values, log)
    scale = " on a logarithmic scale" if log else ""
    says = f"{what} from {low:.3g} to {high:.3g}{scale} over {count:,} update{'s' if count > 1 else ''}"
    ys = [_heights(each, low, high, log) for each in values]
    lines = "".join(
        f'<path d="{_path(steps, y, count)}" stroke-opacity="{_opacity(i, len(curves))}"/>'
        for i, ((steps, _), y) in enumerate(zip(curves, ys, strict=True))
    )
    bottom, right = MARGIN + HEIGHT, MARGIN + WIDTH
    texts = [(MARGIN, bottom + 13, "start", "0 (log)" if log else "0"), (right, bottom + 13, "end", f"{count:,}")]
    if low == high:
        texts.append((right + 4, MARGIN + HEIGHT // 2 + 4, "start", f"{high:.3g}"))
    else:
        texts += (right + 4, MARGIN + 8, "start", f"{high:.3g}"), (right + 4, bottom, "start", f"{low:.3g}")
    words = "".join(f'<text x="{x}" y="{y}" text-anchor="{side}">{text}</text>' for x, y, side, text in texts)
    width, height = WIDTH + MARGIN + 70, HEIGHT + MARGIN + 18
    return (
        f'<svg role="img" aria-label="{html.escape(says)}" xmlns="http://www.w3.org/2000/svg" '
        f'width="{width}" height="{height}" viewBox="0 0 {width} {height}" style="flex:none">'
        f"<title>{html.escape(says)}</title>"
        f'<path d="M{MARGIN} {bottom + 1}h{WIDTH}" stroke="currentColor" stroke-opacity="0.4" fill="none"/>'
        f'<g fill="none" stroke="{BLUE}" stroke-width="1.5" stroke-linejoin="round">{lines}</g>'
        f'<g fill="currentColor" font-family="sans-serif" font-size="10">{words}</g></svg>'
    )


def _heights(values: Floats, low: float, high: float, log: bool) -> Floats:
    """Where values are in the picture, in pixels from its top; a steady value is in the middle."""
    if low == high:
        return np.where(np.isfinite(values), MARGIN + HEIGHT / 2.0, np.nan)
    share: Floats = values / (high - low) - low / (high - low)
    if log:
        share = (np.log(np.clip(values, low, high)) - np.log(low)) / (np.log(high) - np.log(low))
    return MARGIN + HEIGHT * (1.0 - share)


def _path(steps: npt.NDArray[np.int64], heights: Floats, count: int) -> str:
    """A step's value holds until the next one, unless steps are left out; one that is not finite leaves a gap."""
    held = len(steps) == count or len(steps) == 2
    xs = MARGIN + WIDTH * np.append(steps, count) / count
    parts, pen = [], "M"
    for x, end, y in zip(xs[:-1].tolist(), xs[1:].tolist(), heights.tolist(), strict=True):
        if not np.isfinite(y):
            pen = "M"
            continue
        parts.append(f"{pen}{x:.4g} {y:.4g}" + (f"H{end:.4g}" if held else ""))
        pen = "L"
    return "".join(parts)


def _opacity(i: int, many: int) -> str:
    return f"{1.0 if many == 1 else 0.55 + 0.45 * i / (many - 1):.2g}"
