"""The interactive page without a browser: its knobs, its state, its trainings, its server."""

import base64
import http.client
import io
import json
import sys
from dataclasses import fields, replace
from fractions import Fraction
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import output

import fastsched as fs
from fastsched import cli, explore, spec
from fastsched.explore import figures, knobs, server, state, training
from fastsched.explore.state import State

PICKED = [name for name in spec.names() if name != "warmup"]
PLAIN = State(first="cosine(1000, end=0.1)", lr="0.1")


# ---- knobs ----


@pytest.mark.parametrize("name", PICKED)
def test_a_template_is_a_schedule_with_a_knob_for_every_number(name):
    text = knobs.template(name)
    assert isinstance(spec.parse(text), fs.Schedule)
    numbers = [token for kind, token, _ in knobs._tokens(text) if kind == "number"]
    assert [knob.text for knob in knobs.knobs(text) if not knob.words] == numbers != []


def test_a_slider_holds_the_present_value_between_its_ends():
    for name in PICKED:
        for knob in knobs.knobs(knobs.template(name)):
            if not knob.words:
                low, high, step = knob.range()
                assert low <= float(knob.text) <= high
                assert 0.0 < step <= (high - low) / 10


@pytest.mark.parametrize("way", knobs.WAYS)
@pytest.mark.parametrize("text", ["rex(700)", "rex(50) > cosine(900)", "0.5 * rex(800)"])
def test_every_way_of_composing_makes_a_text_of_the_grammar(way, text):
    assert isinstance(spec.parse(knobs.composed(way, text, "cosine")), fs.Schedule)


def test_a_composition_with_nothing_is_the_kind_alone():
    assert knobs.composed("times", " ", "rex") == knobs.template("rex")


def test_knobs_know_frameworks_methods_and_items_of_lists():
    text = "0.5 * torch.StepLR(0.1, 30) + multi_step([30, 60], 0.1).repeat(2)"
    assert [knob.role for knob in knobs.knobs(text)] == [
        "number",
        "StepLR base_lr",
        "StepLR step_size",
        "multi_step milestones 1",
        "multi_step milestones 2",
        "multi_step gamma",
        "repeat times",
    ]


@given(st.text(alphabet="cosine(1,=.0)[]>+*e-'\" x_", max_size=60))
def test_knobs_of_any_text_stand_where_they_say(text):
    for knob in knobs.knobs(text):
        assert knob.text.strip("'\"") == text[knob.start : knob.end].strip("'\"")


def test_a_text_with_too_many_numbers_has_no_knobs():
    assert knobs.knobs(f"samples({list(range(knobs.MOST_KNOBS))})")
    assert knobs.knobs(f"samples({list(range(knobs.MOST_KNOBS + 1))})") == []


# ---- links ----


def states():
    """Whatever the controls can hold."""
    texts = {field.name: st.text(max_size=20) for field in fields(State)}
    menus = {name: st.sampled_from(options) for name, options in state._CHOICES.items()}
    optimizers = st.lists(st.sampled_from(state.OPTIMIZERS), unique=True).map(" ".join)
    return st.builds(State, **{**texts, **menus, "optimizers": optimizers})


@given(states())
def test_a_link_restores_the_whole_state(held):
    # A lone surrogate is no character that a control could hold.
    assert State.from_query(f"?{held.to_query()}") == held


@pytest.mark.parametrize(
    "query",
    [
        "nobody=1",
        "tab=nowhere",
        "chosen=fifth",
        "first=" + "1" * 20_001,
        "optimizers=lbfgs",
        "&".join("a" * 200),
        "%ff=%",
    ],
)
def test_what_no_control_can_hold_is_left_out_of_a_link(query):
    assert State.from_query(query) == State()


# ---- curves ----


def test_a_curves_values_are_the_engines():
    curve = state.picture(PLAIN).curves[0]
    expected = fs.Plan([{"lr": 0.1}], spec.parse(PLAIN.first)).table(1000, dtype=np.float64)["lr"][:, 0]
    assert np.array_equal(curve.values, expected)
    assert np.array_equal(curve.steps, np.arange(1000))


def test_schedules_side_by_side_have_a_curve_each():
    picture = state.picture(replace(PLAIN, third="rex(500)", fourth="nonsense("))
    assert [curve.slot for curve in picture.curves] == [0, 2]
    assert picture.updates == 1000


def test_few_layers_are_lines_and_many_a_heat_map():
    few, many = (state.picture(replace(PLAIN, groups=groups, decay="0.9")) for groups in ("5", "200"))
    assert len(few.curves) == 5
    assert few.heat is None
    assert len(many.curves) == 1
    assert many.heat is not None
    assert many.heat.values.shape == (200, 512)


def test_the_heat_map_has_the_layers_rates():
    heat = state.picture(replace(PLAIN, groups="200", decay="0.9", steps="100")).heat
    table = fs.Plan([{"lr": 0.1 * 0.9 ** (199 - i)} for i in range(200)], spec.parse(PLAIN.first)).table(
        100, dtype=np.float64
    )
    assert np.array_equal(heat.values, table["lr"].T)


@pytest.mark.parametrize("steps", ["100000", "1000000000", str(2**53)])
def test_a_long_horizon_has_no_more_points_than_a_screen_needs(steps):
    curve = state.picture(replace(PLAIN, steps=steps)).curves[0]
    assert len(curve.steps) <= 3 * state.COLUMNS
    assert curve.steps[-1] == int(steps) - 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr": "much"}, "explore: lr must be a number, got 'much'; pass a base learning rate such as 0.1"),
        ({"lr": "inf"}, "lr must be finite"),
        ({"groups": "2.5"}, "groups must be an int, got 2.5"),
        ({"groups": "0"}, "groups must be >= 1, got 0"),
        ({"groups": "99999"}, "groups must be <= 2000, got 99999"),
        ({"decay": "1.5"}, "decay must be <= 1, got 1.5"),
        ({"steps": "0"}, "steps must be >= 1, got 0"),
        ({"steps": "9" * 40}, "steps must be <= 2**53"),
    ],
)
def test_a_bad_value_is_refused_in_the_engines_words(changed, message):
    with pytest.raises((ValueError, TypeError)) as caught:
        state.picture(replace(PLAIN, **changed))
    assert message in str(caught.value)


def test_a_bad_text_is_refused_with_a_caret_and_the_other_schedules_stay():
    read = state.read(replace(PLAIN, second="cosine(-1)"))
    assert read[0].schedule is not None
    assert "Cosine: steps must be >= 1, got -1" in read[1].message
    assert read[1].message.splitlines()[-1].strip() == "^"


def test_the_findings_are_lints():
    page = replace(PLAIN, first="linear(0, 1, 4) > linear(0.5, 0, 4)", lr="1")
    assert state.findings(page) == spec.parse(page.first).lint([1.0])
    assert "jump" in state.findings(page).codes


def test_the_table_of_values_ends_with_the_last_update():
    head, rows = state.rows(PLAIN)
    assert head[0] == "update"
    assert rows[0] == ["0", "0.1"]
    assert rows[-1] == ["999", f"{0.1 * spec.parse(PLAIN.first)(999):.6g}"]


# ---- what is taken away ----


@pytest.mark.parametrize("name", PICKED)
def test_the_code_makes_the_schedule(name):
    page = replace(PLAIN, first=knobs.composed("speed_up", knobs.template(name), name))
    scope = {}
    exec(state.code(page), scope)
    assert scope["schedule"] == spec.parse(page.first)


def test_the_json_is_the_schedules():
    assert fs.from_json(state.as_json(PLAIN)) == spec.parse(PLAIN.first)


def test_the_csv_has_every_layers_rates():
    lines = state.export(replace(PLAIN, groups="3", decay="0.5", steps="4"), "csv").decode().split()
    assert lines[0] == "step,layer0,layer1,layer2"
    expected = fs.lr_table(spec.parse(PLAIN.first), 4, scale=[0.025, 0.05, 0.1], dtype=np.float64)
    assert [[float(cell) for cell in line.split(",")[1:]] for line in lines[1:]] == expected.tolist()


@pytest.mark.parametrize("changed", [{}, {"second": "rex(10)"}, {"groups": "40"}])
def test_the_png_is_a_picture(changed):
    assert state.export(replace(PLAIN, **changed), "png").startswith(b"\x89PNG")


def test_a_table_too_large_for_a_page_is_refused():
    with pytest.raises(ValueError, match="write it with fastsched table"):
        state.export(replace(PLAIN, steps=str(10**12)), "csv")


# ---- frameworks ----


@pytest.mark.parametrize("name", state.CONVENTIONS)
def test_every_two_frameworks_of_a_name_can_be_compared(name):
    known = list(state.CONVENTIONS[name])
    for left, right in pairwise(known):
        result = state.differences(replace(PLAIN, name=name, left=left, right=right))
        assert result.steps == 1250


def test_torchs_cosine_rises_after_its_end_and_optaxs_does_not():
    result = state.differences(replace(PLAIN, name="cosine", left="torch", right="optax"))
    assert result.first == 1001


def test_a_framework_without_the_name_is_refused():
    with pytest.raises(ValueError, match="framework must be a known one, got 'torch'"):
        state.differences(replace(PLAIN, name="cosine with warmup", left="torch"))


# ---- training ----


def trained(**changed):
    return training.runs(replace(PLAIN, first="1", optimizers="sgd", **changed))


def test_sgds_effective_step_is_the_learning_rate():
    run = training.runs(replace(PLAIN, first="cosine(60)", optimizers="sgd", conditioning="5", updates="20"))[0]
    # Points of size 2 are known to 2e-16, and steps are at least 1e-3: what is left is below 1e-12.
    np.testing.assert_allclose(run.effective, run.lrs, rtol=1e-12)


@pytest.mark.parametrize(("lr", "verdict"), [("0.09", "converges"), ("0.11", "diverges")])
def test_sgd_diverges_from_two_over_the_curvature_on(lr, verdict):
    assert trained(lr=lr, conditioning="20", updates="400")[0].verdict == verdict


def test_sgd_oscillates_just_below_that():
    assert trained(lr="0.0998", conditioning="20")[0].verdict == "oscillates"


def test_a_schedule_that_falls_settles_where_a_constant_one_keeps_exploring():
    page = replace(PLAIN, first="1", second="cosine(200)", problem="noisy", lr="0.05", optimizers="sgd")
    constant, falling = training.runs(page)
    assert falling.spread[-1] < 0.2 * constant.spread[-1]
    assert falling.spread[60] > 0.2 * constant.spread[60]


def test_runs_start_at_one_point_with_one_noise():
    runs = training.runs(replace(PLAIN, second=PLAIN.first, problem="noisy", optimizers="adamw", updates="30"))
    assert np.array_equal(runs[0].losses, runs[1].losses)


def test_a_run_that_diverges_ends_there():
    run = trained(lr="1", conditioning="100")[0]
    assert run.verdict == "diverges"
    assert len(run.length) < 20
    assert len(run.losses) == len(run.length) + 1 == len(run.path)


@pytest.mark.parametrize("surface", [training.Quadratic(7.0), training.Rosenbrock(), training.Valleys()])
def test_the_star_is_at_a_minimum(surface):
    at = torch.tensor(surface.goal, dtype=torch.float64, requires_grad=True)
    height = surface.height(*at)
    height.backward()
    # The goal of the valleys is rounded to three digits, and the curvature there is 9.
    assert at.grad.abs().max() < 0.01
    assert 0.0 <= height.item() < 1e-3


def test_the_network_learns_the_digits_with_a_fair_rate_and_not_with_a_tiny_one():
    page = replace(PLAIN, first="1", problem="digits", optimizers="adamw", updates="60")
    fair, tiny = (training.runs(replace(page, lr=lr))[0] for lr in ("0.01", "1e-6"))
    assert fair.losses[-1] < 0.5 < 2.0 < tiny.losses[-1]
    assert fair.path is None


def test_training_leaves_the_random_generator_alone():
    before = torch.get_rng_state()
    training.runs(replace(PLAIN, problem="digits", updates="2"))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("optimizer", state.OPTIMIZERS)
def test_the_range_test_suggests_a_rate_at_which_the_training_converges(optimizer):
    page = replace(PLAIN, first="1", optimizers=optimizer, conditioning="5")
    found = training.sweep(page)
    assert training.runs(replace(page, lr=repr(found.suggestion), updates="1000"))[0].verdict == "converges"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"updates": "1"}, "updates must be >= 2"),
        ({"updates": "5000"}, "updates must be <= 1000"),
        ({"conditioning": "0.5"}, "conditioning must be >= 1"),
        ({"noise": "-1", "problem": "noisy"}, "noise must be >= 0"),
        ({"seed": "x"}, "seed must be a number"),
        ({"low": "2", "high": "1"}, "low must be below high, got 2.0 and 1.0"),
    ],
)
def test_a_bad_training_is_refused_in_the_engines_words(changed, message):
    page = replace(PLAIN, **changed)
    with pytest.raises((ValueError, TypeError)) as caught:
        training.sweep(page) if "low" in changed else training.runs(page)
    assert message in str(caught.value)


# ---- pictures ----


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("changed", [{}, {"groups": "5"}, {"groups": "40", "axis": "log"}, {"first": ""}])
def test_the_pictures_of_schedules_are_json(changed, dark):
    picture = state.picture(replace(PLAIN, **changed))
    json.dumps([figures.curves(picture, dark), figures.layers(picture, dark)], allow_nan=False)


@pytest.mark.parametrize("problem", state.PROBLEMS)
def test_the_pictures_of_a_training_are_json_also_when_it_diverges(problem):
    page = replace(PLAIN, first="1", lr="1e6", problem=problem, updates="10", optimizers="sgd")
    runs = training.runs(page)
    pictures = [figures.losses(runs, False), figures.paths(runs, page, False)]
    pictures += [figures.measures(runs, measure, False) for measure in state.MEASURES]
    json.dumps(pictures, allow_nan=False)


def test_the_image_of_the_layers_has_a_pixel_for_each_cell_and_viridis_ends():
    values = np.array([[0.0, 0.5, 1.0], [np.nan, 2.0, -1.0]])
    pixels = plt.imread(io.BytesIO(figures.painted(values, 0.0, 1.0)))  # the last row is on top
    dark, bright = ([int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)] for shade in ("#440154", "#fde725"))
    assert pixels.shape == (2, 3, 4)
    assert pixels[0, 0, 3] == 0.0
    for at, shade in (((1, 0), dark), ((1, 2), bright), ((0, 1), bright), ((0, 2), dark)):
        np.testing.assert_allclose(pixels[at], [*shade, 1.0], atol=1e-6)  # float32 of eight bits


def test_a_packed_array_is_what_it_was():
    values = np.array([0.1, np.nan, 2.0**53])
    packed = figures.packed(values)
    assert packed["dtype"] == "f8"
    assert np.array_equal(np.frombuffer(base64.b64decode(packed["bdata"])), values, equal_nan=True)


# ---- server ----


@pytest.fixture(scope="module")
def serving():
    served = explore.show("rex(100)")
    yield served
    served.stop()


def asked(serving, path="/", **headers):
    """The status and the body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=30)
    try:
        given = {
            "Host": f"127.0.0.1:{serving.port}",
            **{name.replace("_", "-"): text for name, text in headers.items()},
        }
        connection.request("GET", path, headers=given)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace"), answer.headers
    finally:
        connection.close()


WEBSOCKET = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec_WebSocket_Version": "13",
    "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def test_the_page_is_on_the_loopback_only(serving):
    assert serving._server.socket.getsockname()[0] == "127.0.0.1"


def test_the_machines_own_browser_is_served(serving):
    for host in ("127.0.0.1", "localhost"):
        status, body, _ = asked(serving, Host=f"{host}:{serving.port}", Origin=f"http://{host}:{serving.port}")
        assert status == 200
        assert "fastsched explore" in body


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1", "127.0.0.1:1", "", "localhost.evil:80"]
)
@pytest.mark.parametrize("path", ["/", "/_dash-layout", "/export/json"])
def test_a_foreign_host_is_refused(serving, host, path):
    assert asked(serving, path, Host=host)[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", ""])
@pytest.mark.parametrize("more", [{}, WEBSOCKET], ids=["request", "websocket"])
def test_a_foreign_origin_is_refused(serving, origin, more):
    assert asked(serving, Origin=origin, **more)[0] == 403


def test_a_websocket_of_a_foreign_host_is_refused(serving):
    assert asked(serving, Host="evil.example", **WEBSOCKET)[0] == 403


def test_there_is_no_websocket_to_be_had(serving):
    assert asked(serving, Origin=serving.url.rstrip("/"), **WEBSOCKET)[0] == 400


def test_the_page_names_no_other_machine(serving):
    _, body, headers = asked(serving)
    assert "//" not in body.replace("<!--", "").replace(f"127.0.0.1:{serving.port}", "").replace("//# source", "")
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy


def test_a_file_is_of_the_state_in_its_address(serving):
    status, body, headers = asked(serving, "/export/json?first=rex%2810%29")
    assert (status, fs.from_json(body)) == (200, fs.Rex(steps=10))
    assert headers["Content-Disposition"] == 'attachment; filename="lr.json"'


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/export/json?first=rex%28-10%29", 400, "Rex: steps must be >= 1, got -10"),
        ("/export/csv?lr=x", 400, "lr must be a number, got 'x'"),
        ("/export/exe", 404, "form must be one of png, csv, json, py, got 'exe'"),
    ],
)
def test_a_file_that_cannot_be_made_says_why(serving, path, status, message):
    answer = asked(serving, path)
    assert answer[0] == status
    assert message in answer[1]


def test_a_notebook_shows_the_page_in_a_frame(serving):
    assert f'<iframe src="{serving.url}"' in serving._repr_html_()


def test_a_page_that_is_stopped_is_gone():
    served = explore.show()
    assert asked(served)[0] == 200
    served.stop()
    with pytest.raises(ConnectionRefusedError):
        asked(served)


def test_a_page_of_given_schedules_begins_with_them():
    served = explore.show(fs.Rex(steps=10), "bert(20)", lr=0.5)
    layout = json.loads(asked(served, "/_dash-layout")[1])
    served.stop()
    values = {name: control(layout, name)["value"] for name in ("first", "second", "lr")}
    assert spec.parse(values["first"]) == fs.Rex(steps=10)
    assert (values["second"], values["lr"]) == ("bert(20)", "0.5")


def control(part, name):
    """The control of a layout that has the name."""
    if isinstance(part, list):
        return next(filter(None, (control(each, name) for each in part)), None)
    if not isinstance(part, dict):
        return None
    props = part.get("props", {})
    return props if props.get("id") == name else control(props.get("children"), name)


def test_a_port_that_is_taken_is_refused(serving):
    with pytest.raises(OSError, match="in use"):
        server.Server(port=serving.port)


def test_more_than_four_schedules_are_refused():
    with pytest.raises(ValueError, match="at most 4 schedules, got 5"):
        explore.show(*["1"] * 5)


def test_a_schedules_repr_is_a_text_that_makes_it():
    made = fs.Cosine(1.0, 0.1, steps=50).warmup(5).speed_up(Fraction(3, 2))
    assert spec.parse(repr(made)) == made


# ---- command line ----


def test_the_command_serves_the_schedules_until_it_is_ended(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(server.Server, "run", lambda self: seen.append(self))
    assert cli.main(["explore", "rex(10)", "--lr", "0.5", "--no-browser"]) == 0
    assert capsys.readouterr().out == f"{seen[0].url}  (Ctrl-C ends it)\n"
    seen[0]._server.server_close()


def test_the_command_names_the_extra_where_dash_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "dash", None)
    for name in [name for name in sys.modules if name.startswith("fastsched.explore.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(explore, "server")
    assert cli.main(["explore", "--no-browser"]) == 1
    assert "pip install 'fastsched[explore]'" in capsys.readouterr().err


def test_the_command_refuses_a_taken_port(serving, capsys):
    assert cli.main(["explore", "--no-browser", "--port", str(serving.port)]) == 1
    assert "in use" in capsys.readouterr().err


def test_without_its_extra_it_names_the_fix():
    code = """
import contextlib, io, sys
sys.modules["dash"] = sys.modules["werkzeug"] = None  # Python's own sign for "cannot be imported"
import fastsched as fs
from fastsched import cli
with contextlib.redirect_stderr(io.StringIO()) as told:
    status = cli.main(["explore", "--no-browser"])
print(status, told.getvalue())
try:
    fs.explore.show()
except ImportError as error:
    print(error)
"""
    said = output(code)
    assert "1 Error: the page needs dash, which is not installed; pip install 'fastsched[explore]'" in said
    assert "explore: needs werkzeug, which is not installed; pip install 'fastsched[explore]'" in said
