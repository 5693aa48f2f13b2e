"""The page's layout: its controls and where pictures and words go. What happens when they change is in `answers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dash import dcc, html

from fastsched import spec
from fastsched.explore import figures, knobs
from fastsched.explore import state as states
from fastsched.explore.state import NAMES
from fastsched.explore.state import State as Page

PLAIN: Any = {"displayModeBar": False}  # a drag zooms, a double click goes back
# Attributes whose names are none in Python.
POLITE: dict[str, Any] = {"aria-live": "polite"}
FILES: dict[str, Any] = {"aria-label": "Files"}
VALUES: dict[str, Any] = {"aria-label": "Values", "role": "region"}
# What each tab's answer depends on; the range test has its button.
FOLLOWING = {
    "training": (*NAMES, "lr", "problem", "conditioning", "noise", "optimizers", "updates", "seed", "measure"),
    "frameworks": ("name", "left", "right", "lr", "horizon"),
    "code": (*NAMES, "chosen", "lr", "groups", "decay", "steps"),
}
SWEEP = ("problem", "conditioning", "noise", "optimizers", "updates", "seed", "low", "high", "sweep")

LABELS = {
    "training": "Training",
    "range": "Range test",
    "frameworks": "Frameworks",
    "code": "Code and files",
    "quadratic": "quadratic",
    "rosenbrock": "Rosenbrock",
    "noisy": "noisy quadratic",
    "valleys": "two valleys, noisy",
    "digits": "digits, a small network",
    **figures.OPTIMIZERS,
    "effective": "effective step",
    "length": "distance moved",
    "spread": "exploring or settling",
    "warmup": "warmup before it",
    "replace": "instead of it",
    "then": "after it",
    "times": "multiplied by it",
    "plus": "added to it",
}


def layout(start: Page) -> html.Main:
    """The page, with a state in its controls."""
    return html.Main(
        [
            dcc.Location(id="url", refresh=False),
            *_stores(),
            html.Header([html.H1("fastsched explore"), html.P("Turn a schedule, and see the training it causes.")]),
            html.Div([_schedules(start), _pictures()], className="columns"),
            html.Section(
                [
                    html.H2("What it does", className="hidden"),
                    _radio("tab", "Show", states.TABS, start.tab, "tabs"),
                    _training(start),
                    _range(start),
                    _frameworks(start),
                    _code(),
                ]
            ),
            html.Footer(html.A("Link to this page as it is", id="link", href="/")),
        ]
    )


def _stores() -> list[dcc.Store]:
    """What the page remembers but does not show.

    ``asked``: what the newest request was for, ``busy``: whether it is under way; ``following``: what a tab depends on.
    ``knobbed``: the text that the sliders turn, and where each stands in it.
    """
    names = ["dark", "knobbed", "drawn", "suggested"]
    names += [f"{name}-{part}" for name in ("draw", *FOLLOWING) for part in ("asked", "busy")]
    return [*(dcc.Store(id=name) for name in names), dcc.Store(id="following", data=FOLLOWING)]


def _field(name: str, label: str, value: str, *, width: str = "short", hint: str = " ") -> html.Div:
    """A labelled text field."""
    field = dcc.Input(
        id=name,
        value=value,
        type="text",
        autoComplete="off",
        spellCheck=False,
        placeholder=hint,
        className=width,
        maxLength=states.LONGEST_FIELD,
    )
    return html.Div([html.Label(label, htmlFor=name), field], className="field")


def _radio(name: str, label: str, options: Sequence[str], value: str, look: str = "radios") -> html.Fieldset:
    choices = dcc.RadioItems(
        [{"label": LABELS.get(option, option), "value": option} for option in options], value, id=name, inline=True
    )
    return html.Fieldset([html.Legend(label), choices], className=look)


def _menu(name: str, label: str, options: Sequence[str], value: str) -> html.Div:
    """A labelled menu."""
    choices = [{"label": LABELS.get(option, option), "value": option} for option in options]
    menu = dcc.Dropdown(choices, value, id=name, clearable=False, searchable=len(options) > 8)
    return html.Div([html.Label(label, htmlFor=name, id=f"{name}-label"), menu], className="field menu")


def _alert(name: str) -> html.Pre:
    """Where the engine's words about a bad value go."""
    return html.Pre(id=name, role="alert", className="alert")


def _schedules(start: Page) -> html.Section:
    kinds = [name for name in spec.names() if name != "warmup"]
    slots = [
        html.Div(_field(name, f"Schedule {i + 1}", text, width="long"), className="slot")
        for i, (name, text) in enumerate(zip(NAMES, start.texts, strict=True))
    ]
    chosen = dcc.RadioItems(
        [{"label": str(i + 1), "value": name} for i, name in enumerate(NAMES)], start.chosen, id="chosen", inline=True
    )
    return html.Section(
        [
            html.H2("Schedules"),
            *slots,
            _alert("texts-message"),
            html.Fieldset([html.Legend("Sliders and menus work on schedule"), chosen], className="radios"),
            html.Div(
                [
                    _menu("kind", "Kind or recipe", kinds, "cosine"),
                    _menu("way", "Put it, or apply", list(knobs.WAYS), "replace"),
                    html.Button("Apply", id="apply", n_clicks=0),
                ],
                className="row",
            ),
            html.Div(id="knobs", className="knobs"),
            html.Div(
                [
                    _field("lr", "Base lr", start.lr),
                    _field("groups", "Layers", start.groups),
                    _field("decay", "Decay per layer", start.decay),
                    _field("steps", "Updates shown", start.steps, hint="all"),
                ],
                className="row",
            ),
        ],
        className="controls",
    )


def _graph(name: str, label: str, look: str = "graph") -> html.Div:
    """A picture, which a screen reader calls by its label."""
    image: dict[str, Any] = {"role": "img", "aria-label": label}
    graph = dcc.Graph(id=name, figure=figures.empty(False, ""), config=PLAIN, className=look, responsive=True)
    return html.Div(graph, id=f"{name}-box", **image)


def _pictures() -> html.Section:
    return html.Section(
        [
            html.H2("Learning rate"),
            _radio("axis", "Scale", states.AXES, "auto"),
            _alert("curve-message"),
            _graph("curve", "Learning rate"),
            html.P(id="summary", **POLITE),
            _graph("layers", "Learning rates of all layers", "graph low"),
            html.H3("Lint"),
            html.Ul(id="findings", className="findings", **POLITE),
        ],
        className="pictures",
    )


def _training(start: Page) -> html.Div:
    optimizers = dcc.Checklist(
        [{"label": LABELS[name], "value": name} for name in states.OPTIMIZERS],
        start.optimizers.split(),
        id="optimizers",
        inline=True,
    )
    return html.Div(
        [
            html.P(
                "Every update is a step of fastsched.optim, with the schedules above. A dash is an optimizer; a colour "
                "is a schedule, or an optimizer where there is one schedule."
            ),
            html.Div(
                [
                    _menu("problem", "Problem", states.PROBLEMS, start.problem),
                    _field("conditioning", "Conditioning", start.conditioning),
                    _field("noise", "Noise", start.noise),
                    _field("updates", "Updates", start.updates),
                    _field("seed", "Seed", start.seed),
                ],
                className="row",
            ),
            html.Fieldset([html.Legend("Optimizers"), optimizers], className="radios"),
            _alert("training-message"),
            html.Div(
                [
                    html.Figure([html.H3("Loss"), _graph("losses", "Loss")]),
                    html.Figure([html.H3("Path on the surface"), _graph("paths", "Path on the surface")]),
                ],
                className="pair",
            ),
            _radio("measure", "Then measure", states.MEASURES, start.measure),
            html.Figure([_graph("measures", "Measure")]),
            html.H3("How they end"),
            html.Ul(id="verdicts", **POLITE),
        ],
        id="training-tab",
    )


def _range(start: Page) -> html.Div:
    return html.Div(
        [
            html.P(
                "The learning rate rises until the training fails: fastsched.find_lr on the training tab's problem, "
                "with the first of its optimizers."
            ),
            html.Div(
                [
                    _field("low", "From", start.low),
                    _field("high", "To", start.high),
                    _field("sweep", "Updates", start.sweep),
                    html.Button("Run the range test", id="sweep-run", n_clicks=0),
                    html.Button("Take its suggestion", id="take", n_clicks=0, disabled=True),
                ],
                className="row",
            ),
            _alert("range-message"),
            html.Figure(
                [
                    _graph("sweep-graph", "Loss over learning rate"),
                    html.Figcaption(html.Pre(id="sweep-words", **POLITE)),
                ]
            ),
        ],
        id="range-tab",
    )


def _frameworks(start: Page) -> html.Div:
    known = states.CONVENTIONS.get(start.name, states.CONVENTIONS["cosine"])
    return html.Div(
        [
            html.P("One name, two frameworks: where their values differ, up to a quarter past the end."),
            html.Div(
                [
                    _menu("name", "Name", list(states.CONVENTIONS), start.name),
                    _menu("left", "First", list(known), start.left),
                    _menu("right", "Second", list(known), start.right),
                    _field("horizon", "Length", start.horizon),
                ],
                className="row",
            ),
            _alert("frameworks-message"),
            html.Figure(
                [
                    _graph("comparison", "Both schedules"),
                    _graph("difference", "Their difference", "graph low"),
                    html.Figcaption(html.Pre(id="comparison-words")),
                ]
            ),
        ],
        id="frameworks-tab",
    )


def _code() -> html.Div:
    return html.Div(
        [
            _alert("code-message"),
            html.H3("Python"),
            html.Pre(id="python", className="code", tabIndex=0),
            html.Button("Copy Python", id="copy-python", n_clicks=0),
            html.H3("JSON"),
            html.Pre(id="json", className="code", tabIndex=0),
            html.Button("Copy JSON", id="copy-json", n_clicks=0),
            html.Span(id="copied", role="status"),
            html.H3("Files"),
            html.Nav(id="files", className="row", **FILES),
            html.H3("Values"),
            html.Div(id="rows", className="scroll", tabIndex=0, **VALUES),
        ],
        id="code-tab",
    )


def files(query: str) -> list[html.A]:
    """Links to the files of a state."""
    return [
        html.A(f"Save {form}", id=f"save-{form}", href=f"/export/{form}?{query}", download=f"lr.{form}")
        for form in states.FORMS
    ]
