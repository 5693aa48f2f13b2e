"""A log leads back to the schedule that made it."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastsched as fs
from fastsched._fit import Fits

# Every kind, with parameters as a search would draw them: no round numbers.

peaks = st.floats(1e-5, 1.0)
floors = st.one_of(st.just(0.0), st.floats(0.01, 0.5))  # relative to the peak
shares = st.floats(0.01, 0.9)
lengths = st.integers(40, 200)


@st.composite
def falls(draw, kind, **more):
    peak = draw(peaks)
    numbers = {name: draw(strategy) for name, strategy in more.items()}
    return kind(peak, peak * draw(shares), steps=draw(lengths), **numbers)


@st.composite
def exponentials(draw):
    return fs.Exponential(draw(peaks), gamma=draw(st.floats(0.9, 0.999)))


@st.composite
def step_decays(draw):
    return fs.StepDecay(draw(peaks), gamma=draw(shares), every=draw(st.integers(5, 40)))


@st.composite
def milestones(draw):
    edges = [draw(st.integers(10, 30)), draw(st.integers(35, 50)), draw(st.integers(75, 80))]
    return fs.MultiStep(draw(peaks), milestones=edges, gamma=draw(shares))


@st.composite
def plateaus(draw):
    values = [1.0, 0.37, 0.21, 0.5]
    edges = [draw(st.integers(10, 30)), draw(st.integers(35, 50)), draw(st.integers(55, 80))]
    return fs.Piecewise(boundaries=edges, values=[draw(peaks) * value for value in values[:1]] + values[1:])


@st.composite
def one_cycles(draw, anneal):
    return fs.OneCycle(
        draw(peaks),
        steps=draw(lengths),
        pct_start=draw(st.floats(0.15, 0.6)),
        div_factor=draw(st.floats(2.0, 50.0)),
        final_div_factor=draw(st.floats(2.0, 1e4)),
        anneal=anneal,
    )


@st.composite
def restarts(draw):
    peak = draw(peaks)
    end, decay = peak * draw(floors), draw(st.floats(0.6, 0.95))
    multiplier = draw(st.integers(1, 3))
    return fs.CosineRestarts(peak, end, first=draw(st.integers(6, 12)), multiplier=multiplier, decay=decay)


@st.composite
def triangles(draw, mode):
    peak, up, down = draw(peaks), draw(st.integers(4, 20)), draw(st.integers(4, 20))
    gamma = draw(st.floats(0.995, 0.9999)) if mode == "exp_range" else 1.0
    return fs.Triangular(peak * draw(floors), peak, up=up, down=down, mode=mode, gamma=gamma)


@st.composite
def stables(draw, shape):
    peak = draw(peaks)
    parts = {name: draw(st.integers(5, 60)) for name in ("warmup", "stable", "decay")}
    return fs.WarmupStableDecay(peak, **parts, shape=shape, end=peak * draw(floors))


@st.composite
def endless(draw, kind, **more):
    return kind(draw(peaks), **{name: draw(strategy) for name, strategy in more.items()})


LOGS = {
    "Linear": falls(fs.Linear),
    "Cosine": falls(fs.Cosine),
    "OneMinusSqrt": falls(fs.OneMinusSqrt),
    "Rex": falls(fs.Rex),
    "Polynomial": falls(fs.Polynomial, power=st.floats(1.2, 4.0)),
    "Polynomial below 1": falls(fs.Polynomial, power=st.floats(0.3, 0.8)),
    "Tanh": falls(fs.Tanh, lower=st.floats(-7.0, -2.0), upper=st.floats(1.0, 4.0)),
    "Geometric": falls(fs.Geometric),
    "Exponential": exponentials(),
    "StepDecay": step_decays(),
    "MultiStep": milestones(),
    "Piecewise": plateaus(),
    "InverseSqrt": endless(fs.InverseSqrt, timescale=st.floats(5.0, 500.0)),
    "InverseTime": endless(fs.InverseTime, rate=st.floats(1e-3, 0.5)),
    "PowerLaw": endless(fs.PowerLaw, exponent=st.floats(0.6, 0.9), timescale=st.floats(5.0, 100.0)),
    "OneCycle cos": one_cycles("cos"),
    "OneCycle linear": one_cycles("linear"),
    "CosineRestarts": restarts(),
    "Triangular": triangles("triangular"),
    "Triangular 2": triangles("triangular2"),
    "Triangular damped": triangles("exp_range"),
    **{f"WarmupStableDecay {shape}": stables(shape) for shape in ("linear", "cosine", "sqrt", "square", "exponential")},
}
# What may rightly be called otherwise: a log that says no more, or another name for the same curve.
SYNONYMS = {
    "Geometric": {"Exponential"},  # before it ends
    "StepDecay": {"MultiStep"},
    "InverseTime": {"PowerLaw"},  # of exponent 1
    "OneCycle": {"Linear"},  # two lines
    "Triangular": {"OneCycle", "Linear"},
}


def length(s):
    """Updates that show all of it."""
    return int(s.steps) + 5 if s.steps < math.inf else 120


@pytest.mark.parametrize("name", LOGS)
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_a_log_leads_back_to_its_kind_and_values(name, data):
    s = data.draw(LOGS[name])
    log = s.table(length(s))
    best = fs.fit(log)[0]
    np.testing.assert_allclose(best.schedule.table(len(log)), log, rtol=0, atol=1e-9 * np.abs(log).max())
    assert best.kind in {name.split()[0]} | SYNONYMS.get(name.split()[0], set())


WARMED = ["Linear", "Cosine", "OneMinusSqrt", "Rex", "Exponential", "InverseSqrt", "MultiStep", "CosineRestarts"]


@pytest.mark.parametrize("name", WARMED)
@settings(max_examples=2, deadline=None)
@given(data=st.data())
def test_a_linear_warmup_before_it_is_seen(name, data):
    s = data.draw(LOGS[name])
    rise = data.draw(st.integers(2, 30))
    start = data.draw(st.sampled_from([0.0, 0.1])) if name != "Linear" else 0.0  # from above 0 it is a OneCycle, too
    log = s.warmup(rise, start=start).table(rise + length(s))
    best = fs.fit(log)[0]
    np.testing.assert_allclose(best.schedule.table(len(log)), log, rtol=0, atol=1e-9 * np.abs(log).max())
    assert best.kind == name
    assert best.schedule.first.steps == rise


# Round numbers, as people write them, come back as they were written, also from a log in float32.

WRITTEN = [
    fs.Constant(0.1),
    fs.Linear(5e-5, 0.0, steps=900),
    fs.Cosine(3e-4, 3e-5, steps=1000),
    fs.Polynomial(0.1, 1e-3, steps=500, power=0.9),
    fs.Exponential(0.1, gamma=0.99),
    fs.Exponential(0.01, gamma=0.94, every=100.0),
    fs.StepDecay(0.1, gamma=0.5, every=150.0),
    fs.MultiStep(0.1, milestones=[150, 225], gamma=0.1),
    fs.Piecewise(boundaries=[100, 200], values=[0.1, 0.03, 0.02]),
    fs.InverseSqrt(1e-3, timescale=400.0),
    fs.InverseTime(0.1, rate=0.05),
    fs.OneCycle(0.05, steps=1000),
    fs.OneCycle(0.05, steps=1000, pct_start=0.234, div_factor=10.0, anneal="linear"),
    fs.CosineRestarts(0.1, 1e-3, first=100, multiplier=2),
    fs.CosineRestarts(0.1, 0.01, first=60, decay=0.8),
    fs.Triangular(1e-4, 1e-2, up=50),
    fs.WarmupStableDecay(1e-3, warmup=50, stable=700, decay=250),
    fs.WarmupStableDecay(1e-3, warmup=50, stable=700, decay=250, shape="sqrt", end=1e-4),
    fs.Rex(0.1, 1e-3, steps=700),
    fs.Tanh(0.1, 1e-3, steps=700),
    fs.OneMinusSqrt(0.1, 0.0, steps=700),
    fs.CosineRestarts(0.1, 0.0, first=1, multiplier=3),
    fs.Cosine(0.1, 0.0, steps=600, cycles=2.5),
    fs.Exponential(0.1, gamma=0.99).clip(low=0.001),
    fs.Cosine(3e-4, 3e-5, steps=900).warmup(100),
    fs.InverseSqrt(1e-3, timescale=200.0).warmup(200),
]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("s", WRITTEN, ids=str)
def test_numbers_come_back_as_they_were_written(s, dtype):
    best = fs.fit(s.table(min(s.steps, 1000), dtype=dtype))[0]
    assert best.schedule == s
    assert best.residual <= np.finfo(dtype).eps


@pytest.mark.parametrize(
    "s",
    [
        fs.Cosine(3e-4, 3e-5, steps=9500).warmup(500),
        fs.WarmupStableDecay(1e-3, warmup=200, stable=7000, decay=2800, shape="sqrt"),
        fs.OneCycle(0.05, steps=10000),
        fs.InverseSqrt(1e-3, timescale=4000.0).warmup(4000),
        fs.MultiStep(0.1, milestones=[3000, 6000], gamma=0.1).warmup(500),
        fs.StepDecay(0.1, gamma=0.5, every=2000.0),
        fs.CosineRestarts(0.1, 1e-3, first=1000, multiplier=2),
        fs.Triangular(1e-4, 1e-2, up=2000),
    ],
    ids=str,
)
def test_a_log_of_every_fiftieth_update_is_enough(s):
    for steps in (np.arange(0, 10000, 50), np.arange(49, 10000, 50)):
        assert fs.fit(s(steps), steps=steps)[0].schedule == s


@pytest.mark.parametrize(
    "s", [fs.Cosine(3e-4, 3e-5, steps=900).warmup(100), fs.Linear(5e-5, 0.0, steps=900).warmup(100)], ids=str
)
def test_a_log_of_a_training_that_goes_on_shows_where_it_will_end(s):
    assert fs.fit(s.table(500))[0].schedule == s


def test_a_warmup_of_torchs_kind_that_begins_above_zero_is_seen():
    log = [min(1.0, (t + 1) / 10) * 0.1 for t in range(50)]  # LambdaLR's usual warmup
    assert fs.fit(log)[0].schedule == fs.Linear(0.01, 0.1, steps=9)


def test_a_curve_below_zero_is_fitted_too():
    assert fs.fit((-1.0 * fs.Cosine(steps=20)).table(25))[0].schedule == fs.Cosine(-1.0, 0.0, steps=20)


def test_what_nothing_explains_gets_the_nearest_kinds_and_says_how_near():
    log = fs.Cosine(0.1, 0.0, steps=200).table(200) * (1.0 + 0.01 * np.sin(np.arange(200.0) ** 2))
    best = fs.fit(log)[0]
    assert best.kind == "Cosine"
    assert 1e-3 < best.residual < 0.02
    table = best.schedule.table(200)
    assert best.residual == np.abs(table - log).max() / np.abs(log).max()


def test_candidates_are_ranked():
    fits = fs.fit(fs.InverseTime(0.1, rate=0.05).table(100))
    assert isinstance(fits, Fits)
    assert fits[0].kind == "InverseTime"
    assert any(candidate.kind == "PowerLaw" for candidate in fits[1:])  # the same curve, but more numbers
    explained = [candidate.residual <= 1e-11 for candidate in fits]
    assert explained == sorted(explained, reverse=True)


def test_fits_are_a_sequence_that_prints_a_line_for_each():
    fits = fs.fit([0.1, 0.1, 0.1])
    assert len(str(fits).splitlines()) == len(fits)
    assert str(fits[0]) == "0.0e+00  Constant(0.1)"
    assert fits[:1] == (fits[0],)


@pytest.mark.parametrize("log", [[0.1], [0.1, 0.05], [0.1, 0.05, 0.2], [0.0, 0.0], np.zeros(9, np.float32)], ids=str)
def test_short_and_empty_logs_are_explained(log):
    assert fs.fit(log)[0].residual <= 1e-11


def test_a_random_log_has_an_answer():
    assert fs.fit(np.random.default_rng(0).random(50))[0].residual > 0.1


@pytest.mark.parametrize(
    ("values", "steps", "error", "message"),
    [
        ("0.1", None, TypeError, "values must be values, got '0.1'"),
        (0.1, None, TypeError, "values must be values, got 0.1"),
        ([True], None, TypeError, "values must be numbers, got dtype bool"),
        ([], None, ValueError, r"values must have one dimension and a value, got shape \(0,\)"),
        ([[0.1]], None, ValueError, "values must have one dimension"),
        ([0.1, math.nan], None, ValueError, "values must be finite, got others, the first at index 1"),
        ([0.1, 0.2], [0], ValueError, "steps must be one int per value"),
        ([0.1, 0.2], [0.0, 1.0], ValueError, "steps must be one int per value"),
        ([0.1, 0.2], [1, 1], ValueError, "steps must be ascending"),
        ([0.1, 0.2], [-1, 1], ValueError, "steps must be ascending, >= 0"),
    ],
)
def test_what_is_no_log_is_refused(values, steps, error, message):
    with pytest.raises(error, match=f"fit: {message}"):
        fs.fit(values, steps=steps)


# Logs that peers themselves have written: tests/data/curves.json, see tests/test_compat.py.

PEERS = {
    "torch": ["StepLR", "MultiStepLR", "LinearLR", "ExponentialLR", "PolynomialLR", "CosineAnnealingLR", "CyclicLR"],
    "transformers": ["linear", "polynomial", "cosine_with_min_lr", "inverse_sqrt", "constant_with_warmup"],
    "optax": ["exponential_decay", "warmup_cosine_decay_schedule", "cosine_onecycle_schedule"],
    "keras": ["ExponentialDecay", "InverseTimeDecay", "PiecewiseConstantDecay"],
}


def groups(case):
    return len(case["base_lr"]) if isinstance(case["base_lr"], list) else 1


def recorded():
    """One case for each of these names, its first group."""
    cases = json.loads((Path(__file__).parent / "data" / "curves.json").read_text())["cases"]
    first = {(c["system"], c["name"]): c for c in reversed(cases) if c["hyperparameter"] == "lr"}
    chosen = [first[system, name] for system, names in PEERS.items() for name in names if (system, name) in first]
    return [pytest.param(np.stack(c["values"][: c["end"]]).reshape(-1, groups(c))[:, 0], id=c["id"]) for c in chosen]


@pytest.mark.parametrize("log", recorded())
def test_what_a_peer_has_logged_is_explained(log):
    assert fs.fit(log)[0].residual < 1e-9
