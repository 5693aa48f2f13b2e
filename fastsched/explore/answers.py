"""What happens when a control of the page changes. All values come from `state` and `training`.

One request at a time draws the page: what changes while it is under way is asked for as soon as it has been answered,
so the picture follows a slider as fast as the machine can. The open tab follows the picture in the same way. Texts are
written by what is not typing alone (a link, a button, a slider), so that no answer can undo what was typed since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, dcc, html, no_update
from dash.exceptions import PreventUpdate
from flask import Response, request

from fastsched._check import shown
from fastsched.explore import figures, knobs, page
from fastsched.explore import state as states
from fastsched.explore.state import NAMES
from fastsched.explore.state import State as Page

REFUSED = (ValueError, TypeError, ArithmeticError, MemoryError)
FIELDS = tuple(field.name for field in fields(Page))
TYPES = {"png": "image/png", "csv": "text/csv", "json": "application/json", "py": "text/x-python"}
Work = Callable[[Page, bool], dict[str, Any]]  # of a state, and whether the page is dark
LARGEST_REQUEST = 1 << 20  # bytes
HTML = """<!DOCTYPE html>
<html lang="en">
<head>{%metas%}<title>{%title%}</title>{%favicon%}{%css%}</head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body>
</html>"""


def build(start: Page) -> Dash:
    """The application, whose page shows ``start`` where its address says nothing else."""
    app = Dash(
        __name__,
        assets_folder="assets",
        title="fastsched explore",
        update_title="",
        index_string=HTML,
        serve_locally=True,
        enable_mcp=False,
        add_log_handler=False,
    )
    app.layout = partial(page.layout, start)
    app.server.config["MAX_CONTENT_LENGTH"] = LARGEST_REQUEST
    _connect_controls(app, start)
    _connect_browser(app)
    _connect_picture(app)
    _connect_range(app)
    _follow(app, "training", TRAINING, _training)
    _follow(app, "frameworks", FRAMEWORKS, _frameworks)
    _follow(app, "code", CODE, _code)
    app.server.add_url_rule("/export/<form>", "export", _export)
    return app


def _told(work: Work, outputs: Iterable[str], values: dict[str, Any]) -> dict[str, Any]:
    """What is made of a state, or the words that refuse it, and everything else as it is."""
    try:
        return {**work(Page.of(values), values["dark"]), "message": ""}
    except REFUSED as error:
        return {**_kept(*outputs), "message": str(error)}


def _kept(*names: str) -> dict[str, Any]:
    """Outputs that stay as they are."""
    return dict.fromkeys(names, no_update)


def _paced(name: str) -> dict[str, Any]:
    """Of a callback of what is asked for in the name of ``name``: one request at a time."""
    return {"running": [(Output(f"{name}-busy", "data"), True, False)], "prevent_initial_call": True}


def _follow(app: Dash, name: str, outputs: dict[str, Output], work: Work) -> None:
    """Has a tab follow the picture."""

    @app.callback(
        {**outputs, "message": Output(f"{name}-message", "children")}, Input(f"{name}-asked", "data"), **_paced(name)
    )
    def follow(asked: dict[str, Any]) -> dict[str, Any]:
        return _told(work, outputs, asked)


# ---- controls ----


def _texts() -> dict[str, Output]:
    return {name: Output(name, "value", allow_duplicate=True) for name in NAMES}


def _connect_controls(app: Dash, start: Page) -> None:
    @app.callback({name: Output(name, "value") for name in FIELDS}, Input("url", "search"))
    def restore(search: str | None) -> dict[str, Any]:
        state = Page.from_query(search) if search else start
        return {name: getattr(state, name) for name in FIELDS} | {"optimizers": state.optimizers.split()}

    @app.callback(
        _texts(),
        {
            "clicks": Input("apply", "n_clicks"),
            "values": {name: State(name, "value") for name in (*NAMES, "chosen")},
            "kind": State("kind", "value"),
            "way": State("way", "value"),
        },
        prevent_initial_call=True,
    )
    def apply(clicks: int, values: dict[str, Any], kind: str, way: str) -> dict[str, Any]:
        state = Page.of(values)
        return _kept(*NAMES) | {NAMES[state.slot]: knobs.composed(way, state.text, kind)}

    @app.callback(
        Output("lr", "value", allow_duplicate=True),
        Input("take", "n_clicks"),
        State("suggested", "data"),
        prevent_initial_call=True,
    )
    def take(clicks: int, suggested: float | None) -> Any:
        return no_update if suggested is None else f"{suggested:.3g}"

    sides = ("left", "right")

    @app.callback(
        {side: Output(side, "options") for side in sides},
        {side: Output(side, "value", allow_duplicate=True) for side in sides},
        {name: State(name, "value") for name in sides} | {"name": Input("name", "value")},
        prevent_initial_call="initial_duplicate",
    )
    def offer(left: str, right: str, name: str) -> Any:
        known = list(states.CONVENTIONS.get(name, ()))
        if not known:
            raise PreventUpdate
        first = left if left in known else known[0]
        second = right if right in known and right != first else next(each for each in known if each != first)
        return dict.fromkeys(sides, known), {"left": first, "right": second}


def _connect_browser(app: Dash) -> None:
    """What the browser does by itself: see explore.js."""
    connect: Any = app.clientside_callback
    values = [Input(name, "value") for name in FIELDS]
    texts = [Output(name, "value", allow_duplicate=True) for name in NAMES]
    connect(ClientsideFunction("explore", "dark"), Output("dark", "data"), Input("url", "search"))
    connect(
        ClientsideFunction("explore", "turn"),
        [*texts, Output("knobbed", "data", allow_duplicate=True)],
        Input({"type": "knob", "at": ALL}, "value"),
        State("knobbed", "data"),
        State("chosen", "value"),
        *[State(name, "value") for name in NAMES],
        prevent_initial_call=True,
    )
    connect(
        ClientsideFunction("explore", "ask"),
        Output("draw-asked", "data"),
        Input("draw-busy", "data"),
        Input("dark", "data"),
        *values,
        State("draw-asked", "data"),
        State("knobbed", "data"),
    )
    connect(
        ClientsideFunction("explore", "follow"),
        [Output(f"{name}-asked", "data") for name in page.FOLLOWING],
        Input("drawn", "data"),
        *[Input(f"{name}-busy", "data") for name in page.FOLLOWING],
        *[State(f"{name}-asked", "data") for name in page.FOLLOWING],
        State("following", "data"),
        prevent_initial_call=True,
    )
    connect(
        ClientsideFunction("explore", "copy"),
        Output("copied", "children"),
        Input("copy-python", "n_clicks"),
        Input("copy-json", "n_clicks"),
        State("python", "children"),
        State("json", "children"),
        prevent_initial_call=True,
    )
    connect(ClientsideFunction("explore", "remember"), Output("link", "title"), Input("link", "href"))


# ---- the picture ----

PICTURE = {
    "curve": Output("curve", "figure"),
    "layers": Output("layers", "figure"),
    "box": Output("layers-box", "hidden"),
    "summary": Output("summary", "children"),
}


def _connect_picture(app: Dash) -> None:
    outputs = {
        **PICTURE,
        "message": Output("curve-message", "children"),
        "refused": Output("texts-message", "children"),
        "findings": Output("findings", "children"),
        "knobs": Output("knobs", "children"),
        "knobbed": Output("knobbed", "data"),
        "link": Output("link", "href"),
        "files": Output("files", "children"),
        "drawn": Output("drawn", "data"),
    }

    @app.callback(outputs, Input("draw-asked", "data"), **_paced("draw"))
    def draw(asked: dict[str, Any]) -> dict[str, Any]:
        state = Page.of(asked["values"])
        refused = [f"Schedule {each.slot + 1}: {each.message}" for each in states.read(state) if each.message]
        query = state.to_query()
        return {
            **_told(_picture, PICTURE, asked["values"]),
            "refused": "\n".join(refused),
            "findings": _findings(state),
            **(_knobs(state.text) if asked["turning"] != state.text else _kept("knobs", "knobbed")),
            "link": f"/?{query}" if query else "/",
            "files": page.files(query),
            "drawn": asked["values"],
        }


def _picture(state: Page, dark: bool) -> dict[str, Any]:
    picture = states.picture(state)
    heat = picture.heat is not None
    return {
        "curve": figures.curves(picture, dark),
        "layers": figures.layers(picture, dark) if heat else no_update,
        "box": not heat,
        "summary": picture.summary,
    }


def _findings(state: Page) -> Any:
    try:
        report = states.findings(state)
    except REFUSED:
        return html.Li("nothing to say: see the message above", className="info")
    return [
        html.Li([html.Strong(finding.severity), f": {finding.message} [{finding.code}]"], className=finding.severity)
        for finding in report
    ]


def _knobs(text: str) -> dict[str, Any]:
    """A slider or a menu for everything that can be turned in a text, and where it stands there."""
    found = knobs.knobs(text)
    places = [{"start": each.start, "end": each.end, "whole": each.whole, "value": each.value} for each in found]
    return {
        "knobs": [_knob(knob, i) for i, knob in enumerate(found)],
        "knobbed": {"text": text, "places": places},
    }


def _knob(knob: knobs.Knob, i: int) -> html.Div:
    control: Any
    identity = {"type": "knob", "at": i}
    if knob.words:
        control = dcc.Dropdown(list(knob.words), knob.value, id=identity, clearable=False, searchable=False)
    else:
        low, high, step = knob.range()
        control = dcc.Slider(
            low,
            high,
            step,
            value=float(knob.value),
            id=identity,
            marks=None,
            updatemode="drag",
            allow_direct_input=True,
        )
    return html.Div([html.Span(knob.role, className="knob-name", id=f"knob-{i}-label"), control], className="knob")


# ---- the tabs ----

TRAINING = {
    "losses": Output("losses", "figure"),
    "paths": Output("paths", "figure"),
    "measures": Output("measures", "figure"),
    "verdicts": Output("verdicts", "children"),
}
SWEEP = {
    "figure": Output("sweep-graph", "figure"),
    "words": Output("sweep-words", "children"),
    "suggested": Output("suggested", "data"),
    "disabled": Output("take", "disabled"),
}
FRAMEWORKS = {
    "comparison": Output("comparison", "figure"),
    "difference": Output("difference", "figure"),
    "words": Output("comparison-words", "children"),
}
CODE = {
    "python": Output("python", "children"),
    "json": Output("json", "children"),
    "rows": Output("rows", "children"),
}


def _training(state: Page, dark: bool) -> dict[str, Any]:
    from fastsched.explore import training

    runs = training.runs(state)
    return {
        "losses": figures.losses(runs, dark),
        "paths": figures.paths(runs, state, dark),
        "measures": figures.measures(runs, state.measure, dark),
        "verdicts": [html.Li(f"{run.slot + 1} {figures.OPTIMIZERS[run.optimizer]} {run.says}") for run in runs],
    }


def _connect_range(app: Dash) -> None:
    @app.callback(
        {**SWEEP, "message": Output("range-message", "children")},
        {
            "clicks": Input("sweep-run", "n_clicks"),
            "values": {name: State(name, "value") for name in page.SWEEP} | {"dark": State("dark", "data")},
        },
        running=[(Output("sweep-run", "disabled"), True, False)],
        prevent_initial_call=True,
    )
    def sweep(clicks: int, values: dict[str, Any]) -> dict[str, Any]:
        return _told(_sweep, SWEEP, values)


def _sweep(state: Page, dark: bool) -> dict[str, Any]:
    from fastsched.explore import training

    found = training.sweep(state)
    return {
        "figure": figures.sweep(found, dark),
        "words": str(found),
        "suggested": found.suggestion,
        "disabled": found.suggestion is None,
    }


def _frameworks(state: Page, dark: bool) -> dict[str, Any]:
    result = states.differences(state)
    verdict = str(result).split("\n")[2:]
    return {
        "comparison": figures.comparison(result, (state.left, state.right), dark),
        "difference": figures.difference(result, dark),
        "words": "\n".join([*states.conventions(state), *verdict]),
    }


def _code(state: Page, dark: bool) -> dict[str, Any]:
    head, cells = states.rows(state)
    table = html.Table(
        [
            html.Thead(html.Tr([html.Th(name, scope="col") for name in head])),
            html.Tbody([html.Tr([html.Td(cell) for cell in row]) for row in cells]),
        ]
    )
    return {"python": states.code(state), "json": states.as_json(state), "rows": table}


def _export(form: str) -> Response:
    """A file of the state in the address."""
    if form not in TYPES:
        return Response(
            f"explore: form must be one of {', '.join(TYPES)}, got {shown(form)}\n", 404, mimetype="text/plain"
        )
    try:
        data = states.export(Page.from_query(request.query_string.decode("ascii", "replace")), form)
    except REFUSED as error:
        return Response(f"{error}\n", 400, mimetype="text/plain")
    return Response(data, mimetype=TYPES[form], headers={"Content-Disposition": f'attachment; filename="lr.{form}"'})
