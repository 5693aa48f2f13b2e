"""Where two curves differ, and their picture."""

import math

import numpy as np
import pytest
from support import output

import fastsched as fs

LINE = fs.Linear(1.0, 0.0, steps=4)


def test_equal_schedules_agree():
    result = fs.compare(fs.Polynomial(steps=100), fs.Linear(1.0, 0.0, steps=100), 150)
    assert result
    assert (result.first, result.different, result.largest, result.relative) == (None, 0, 0.0, 0.0)


def test_the_first_difference_and_the_largest_are_found():
    result = fs.compare([1.0, 0.75, 0.5, 0.25], [1.0, 0.7, 0.8, 0.1])
    assert not result
    assert (result.first, result.different) == (1, 3)
    assert (result.at, result.largest) == (2, pytest.approx(0.3, rel=1e-15))
    assert (result.relative_at, result.relative) == (3, pytest.approx(0.6, rel=1e-15))


def test_two_conventions_of_one_name_are_told_apart():
    # torch's OneCycleLR ends its legs one step early: at pct*T - 1 and T - 1
    ours = fs.OneCycle(0.1, steps=100)
    torchs = fs.OneCycle(0.1, steps=99, pct_start=29 / 99)
    result = fs.compare(ours, torchs, 100)
    assert result.first == 1
    assert result.b[29] == 0.1


def test_the_tolerance_is_relative_to_the_largest_value():
    a, b = [1.0, 1e-9], [1.0, 2e-9]
    assert fs.compare(a, b, tolerance=1e-9)
    assert not fs.compare(a, b, tolerance=0.5e-9)
    assert fs.compare([1.0, 0.0], [1.0, 6e-17])  # the rounding of a cosine at its zero
    assert not fs.compare([1.0, 0.0], [1.0, 6e-17], tolerance=0.0)


def test_a_difference_within_the_tolerance_is_still_shown():
    result = fs.compare([1.0, 0.5], [1.0, 0.5 + 1e-15])
    assert result
    assert 0.0 < result.largest < 2e-15
    assert "equal within 1e-12 of the largest value over all 2 updates" in str(result)


@pytest.mark.parametrize("values", [[1.0, 0.75], (1.0, 0.75), np.array([1.0, 0.75], np.float32)], ids=lambda v: type(v))
def test_values_may_be_a_list_a_tuple_or_an_array(values):
    assert fs.compare(LINE, values)
    assert fs.compare(values, LINE)


@pytest.mark.parametrize(
    ("a", "b", "steps"),
    [
        (LINE, fs.Constant(1.0), 4),
        (LINE, [1.0] * 3, 3),
        (LINE, fs.Linear(1.0, 0.0, steps=9), 4),
        ([1.0] * 5, fs.Constant(1.0), 5),
    ],
)
def test_without_steps_as_many_as_both_have_are_compared(a, b, steps):
    assert fs.compare(a, b).steps == steps


def test_the_summary_says_where_and_by_how_much():
    text = str(fs.compare(LINE, [1.0, 0.75, 0.5, 0.0]))
    assert text == repr(fs.compare(LINE, [1.0, 0.75, 0.5, 0.0]))
    assert text.splitlines() == [
        "a: Linear(1.0, 0.0, steps=4)",
        "b: 4 values",
        "they differ at 1 of 4 updates, first at 3: 0.25 and 0",
        "largest difference: 0.25 at 3: 0.25 and 0",
        "largest relative difference: 1 at 3: 0.25 and 0",
    ]


def test_the_picture_has_both_curves_and_their_difference(tmp_path):
    picture = fs.compare(fs.Cosine(steps=50).warmup(5), fs.Linear(1.0, 0.0, steps=50), 60).plot()
    above, below = picture.axes
    (a, b), (difference,) = above.lines[:2], below.lines[:1]
    np.testing.assert_array_equal(difference.get_ydata(), b.get_ydata() - a.get_ydata())
    assert len(above.get_legend().get_texts()) == 2
    picture.savefig(tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 10_000


def test_the_picture_of_two_curves_of_one_name_names_both():
    (above, _) = fs.compare([1.0, 0.5], [1.0, 0.4]).plot().axes
    assert [text.get_text() for text in above.get_legend().get_texts()] == ["a", "b"]


def test_a_long_curve_is_thinned_for_the_picture():
    (above, _) = fs.compare(fs.Cosine(steps=10**5), fs.Constant(1.0), 10**5).plot().axes
    assert len(above.lines[0].get_xdata()) == 4096
    assert above.lines[0].get_xdata()[-1] == 10**5 - 1


def test_matplotlib_is_imported_for_a_picture_only_and_its_absence_says_what_to_do():
    assert (
        output(
            "import sys, fastsched as fs\n"
            "result = fs.compare(fs.Cosine(steps=9), fs.Constant(1.0))\n"
            "assert 'matplotlib' not in sys.modules\n"
            "sys.modules['matplotlib'] = None\n"
            "try:\n    result.plot()\nexcept ImportError as error:\n    print(error)"
        )
        == "compare: needs matplotlib, which is not installed; pip install matplotlib"
    )


@pytest.mark.parametrize(
    ("a", "b", "arguments", "error", "message"),
    [
        (0.1, LINE, {}, TypeError, "a must be values, got 0.1; pass a list"),
        (LINE, "0.1", {}, TypeError, "b must be values, got '0.1'"),
        (LINE, [True], {}, TypeError, "b must be numbers, got dtype bool"),
        (LINE, [[1.0]], {}, ValueError, "b must have one dimension"),
        (LINE, [1.0, math.inf], {}, ValueError, "b must be finite, got others, the first at index 1"),
        (LINE, [1.0], {"steps": 2}, ValueError, "b must have a value for each step, got 1 for 2"),
        (fs.Constant(1.0), fs.Constant(1.0), {}, ValueError, "steps must be given for schedules without an end"),
        (LINE, LINE, {"steps": 0}, ValueError, "steps must be >= 1, got 0"),
        (LINE, LINE, {"steps": 1.0}, TypeError, "steps must be an int"),
        (LINE, LINE, {"tolerance": -1.0}, ValueError, "tolerance must be >= 0"),
    ],
)
def test_what_cannot_be_compared_is_refused(a, b, arguments, error, message):
    with pytest.raises(error, match=f"compare: {message}"):
        fs.compare(a, b, **arguments)
