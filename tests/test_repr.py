"""What a notebook shows of a schedule and a plan."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import output, schedule

import fastsched as fs
from fastsched import _outline, _svg

SVG = "{http://www.w3.org/2000/svg}"


def svg(shown):
    """The picture within the HTML, parsed."""
    (text,) = re.findall(r"<svg.*</svg>", shown._repr_html_())
    return ElementTree.fromstring(text)


def points(shown, i=0):
    """The points of a curve in pixels; the first path is the axis."""
    path = svg(shown).findall(f".//{SVG}path")[i + 1].get("d")
    return np.array([[float(number) for number in pair.split()] for pair in re.findall(r"[ML]([^HML]+)", path)])


def label(shown):
    return svg(shown).get("aria-label")


@pytest.mark.parametrize("name", oracles.EXAMPLES)
def test_every_schedule_has_a_small_picture(name):
    shown = schedule(oracles.EXAMPLES[name])
    assert np.isfinite(points(shown)).all()
    assert len(shown._repr_html_()) < 12_000


@settings(max_examples=5)
@given(st.data())
@pytest.mark.parametrize("name", oracles.COMBINATIONS)
def test_a_repr_never_fails(name, data):
    shown = schedule(data.draw(oracles.COMBINATIONS[name]))
    assert svg(shown).get("role") == "img"


def test_the_picture_is_the_engines_curve():
    shown = fs.Linear(1.0, 0.0, steps=100)
    x, y = points(shown).T
    np.testing.assert_allclose(x, _svg.MARGIN + _svg.WIDTH * np.arange(100) / 100, rtol=1e-3)  # four digits
    values = shown.table(100)
    share = (values - values.min()) / (values.max() - values.min())
    np.testing.assert_allclose(y, _svg.MARGIN + _svg.HEIGHT * (1.0 - share), rtol=1e-3)


def test_no_peak_is_lost():
    shown = fs.Constant(0.5, steps=123_456).then(fs.Constant(1.0, steps=1)).then(fs.Constant(0.5, steps=800_000))
    assert points(shown)[:, 1].min() == _svg.MARGIN


def test_everything_is_within_the_picture():
    for shown in (fs.Cosine(1.0, -1.0, steps=50), fs.Geometric(1.0, 1e-9, steps=500), fs.Rex(steps=1)):
        x, y = points(shown).T
        assert _svg.MARGIN <= x.min() <= x.max() <= _svg.MARGIN + _svg.WIDTH
        assert _svg.MARGIN <= y.min() <= y.max() <= _svg.MARGIN + _svg.HEIGHT


def test_the_picture_is_described_in_words():
    picture = svg(fs.Linear(1.0, 0.5, steps=1000))
    assert picture.get("role") == "img"
    assert picture.get("aria-label") == "the value from 0.5 to 1 over 1,000 updates"
    assert picture.find(f"{SVG}title").text == picture.get("aria-label")


def test_a_logarithmic_scale_is_said():
    assert label(fs.Exponential(gamma=0.9).head(100)).count("on a logarithmic scale") == 1


@pytest.mark.parametrize(
    ("shown", "updates"),
    [
        (fs.Constant(1.0), 100),
        (fs.CosineRestarts(first=1000), 3000),
        (fs.InverseSqrt(timescale=10_000).warmup(500), 100_000),
        (fs.Exponential(gamma=0.99999), 100_000),
        (fs.Linear(0.0, 1.0, steps=7).repeat(), 100),
        (fs.Linear(0.0, 1.0, steps=70).repeat(), 210),
        (fs.Cosine(steps=2**53), 2**53),
        (fs.Constant(1.0).skip(2**52), 100),
    ],
    ids=repr,
)
def test_an_endless_schedule_is_shown_as_far_as_it_changes(shown, updates):
    assert _outline.first_look(shown) == updates


def test_values_that_are_not_finite_leave_a_gap():
    shown = fs.Exponential(1e290, gamma=1e10)
    assert np.isfinite(points(shown)).all()
    assert "inf" not in label(shown)


def test_names_are_escaped():
    plan = fs.Plan([{"<b>&\"'": 1.0}])
    text = plan._repr_html_()
    assert "<b>" not in text
    assert svg(plan).get("aria-label").startswith("<b>&\"' from 1 to 1")


def test_a_long_schedule_is_shortened():
    shown = fs.Samples(np.arange(100_000.0))
    assert len(shown._repr_html_()) < 12_000


def test_a_text_takes_the_pages_colour():
    picture = svg(fs.Cosine(steps=9))
    assert {text.tag for text in picture.findall(".//*[@fill='currentColor']")} == {f"{SVG}g"}
    assert not [text for text in picture.findall(f".//{SVG}text") if text.get("fill")]


def test_a_plan_shows_the_learning_rates_of_its_groups():
    plan = fs.Plan([{"lr": 0.1, "weight_decay": 0.5}, {"lr": 0.2}, {"lr": 0.1}], fs.Cosine(steps=50))
    assert len(svg(plan).findall(f".//{SVG}path")) == 3  # the axis and two different curves
    assert label(plan).startswith("lr from ")
    assert "&lt;Plan of 3 groups" in plan._repr_html_()


def test_of_many_groups_a_dozen_are_shown():
    plan = fs.Plan([{"lr": 0.99**i} for i in range(500)], fs.Cosine(steps=100_000))
    assert len(svg(plan).findall(f".//{SVG}path")) == 13
    assert label(plan).startswith("lr: 12 of 500 different ones from ")
    assert len(plan._repr_html_()) < 40_000


@pytest.mark.parametrize("groups", [[], [{}], [{"name": "a"}]])
def test_a_plan_of_nothing_shows_its_repr(groups):
    assert "&lt;Plan of" in fs.Plan(groups)._repr_html_()
    assert "<svg" not in fs.Plan(groups)._repr_html_()


def test_a_plan_of_constants_is_shown():
    assert label(fs.Plan([{"lr": 0.1}, {"lr": 0.3}])) == "lr from 0.1 to 0.3 over 1 update"


def test_a_repr_needs_no_matplotlib():
    code = (
        "import sys, fastsched as fs\n"
        "fs.Cosine(steps=9)._repr_html_()\n"
        "fs.Plan([{'lr': fs.Cosine(steps=9)}])._repr_html_()\n"
        "print('matplotlib' in sys.modules)"
    )
    assert output(code) == "False"
