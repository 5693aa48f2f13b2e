"""What the compositions of fs.compat are made of: cuts, curves over any length, and curves that go on."""

import math
from fractions import Fraction

import numpy as np
import pytest
import support
from hypothesis import given
from hypothesis import strategies as st

import fastsched as fs
from fastsched.compat import _pieces as pieces

SCHEDULES = st.sampled_from(
    [
        fs.Constant(0.4),
        fs.Constant(0.4, steps=3),
        fs.Linear(0.0, 1.0, steps=9),
        fs.Cosine(1.0, 0.2, steps=30, cycles=1.5),
        fs.Exponential(1.0, gamma=0.9),
        fs.MultiStep(1.0, milestones=[4, 9], gamma=0.5),
        fs.CosineRestarts(1.0, 0.1, first=7, multiplier=2),
        fs.Triangular(0.1, 0.9, up=3),
        fs.Samples([0.1, 0.9, 0.4]),
        fs.Linear(0.0, 1.0, steps=3).then(fs.Exponential(1.0, gamma=0.9)),
        fs.Cosine(steps=5).repeat() * fs.Exponential(1.0, gamma=0.9),
        fs.Constant(1.0).noisy(0.1, seed=3),
    ]
)
FRACTIONS = st.fractions(Fraction(1, 3), 40, max_denominator=1000)


@given(SCHEDULES, st.integers(1, 50))
def test_a_head_is_the_first_steps_and_as_long_as_they_are(s, steps):
    head = pieces.head(s, steps)
    assert head.steps == steps
    assert support.same_bits(head.table(steps), s.table(steps))


@given(SCHEDULES, st.integers(0, 50))
def test_a_tail_is_the_rest_even_past_the_end(s, steps):
    assert support.same_bits(pieces.tail(s, steps).table(40), s.table(40, start=steps))


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_a_float_stands_for_the_simplest_fraction_that_rounds_to_it(a, b):
    assert pieces.exact(a / b) == Fraction(a, b)


@given(st.floats(1e-6, 1e6))
def test_a_float_never_stands_for_another_number(x):
    assert float(pieces.exact(x)) == x


@given(FRACTIONS, FRACTIONS)
def test_a_curve_is_spread_over_any_length_from_any_step_of_it(steps, begin):
    s = pieces.spread(lambda n: fs.Cosine(1.0, 0.0, steps=n), steps, begin)
    for t in range(60):
        x = min(1.0, float((t + begin) / steps))
        assert s(t) == pytest.approx((1 + math.cos(math.pi * x)) / 2, abs=1e-15 * 4)


@given(st.floats(0.1, 1e9), st.floats(0.0, 1.0))
def test_a_length_that_no_clock_serves_exactly_is_served_to_1e_12(steps, share):
    length = Fraction(steps)
    s = pieces.spread(lambda n: fs.Linear(1.0, 0.0, steps=n), length, length * Fraction(share) / 2)
    for t in {0, 1, int(length / 3)}:
        x = float((t + length * Fraction(share) / 2) / length)
        assert s(t) == pytest.approx(max(0.0, 1.0 - x), abs=1e-12)


def test_before_its_begin_a_curve_waits():
    s = pieces.spread(lambda n: fs.Linear(1.0, 0.0, steps=n), Fraction(4), Fraction(-5, 2))
    assert s.table(8).tolist() == [1.0, 1.0, 1.0, 0.875, 0.625, 0.375, 0.125, 0.0]


def test_whole_lengths_need_no_other_clock():
    assert pieces.spread(lambda n: fs.Linear(1.0, 0.0, steps=n), Fraction(4)) == fs.Linear(1.0, 0.0, steps=4)


@given(st.lists(FRACTIONS, min_size=1, max_size=5))
def test_an_update_belongs_to_the_curve_in_whose_steps_it_lies(lengths):
    curves = [(lambda n, i=i: fs.Linear(i, i + 1, steps=n), length) for i, length in enumerate(lengths)]
    s = pieces.abutting(curves)
    begin = Fraction(0)
    for i, length in enumerate(lengths):
        for t in range(math.ceil(begin), math.ceil(begin + length)):
            assert s(t) == pytest.approx(i + float((t - begin) / length), abs=1e-12)
        begin += length
    if math.ceil(begin - lengths[-1]) < math.ceil(begin):  # else the last has no update, and only holds
        assert s.steps == math.ceil(begin)


@pytest.mark.parametrize("power", [0.5, 1, 1.7, 2, 3.0, 20])
def test_a_power_goes_on(power):
    t = np.arange(100)
    np.testing.assert_allclose(pieces.endless_power(10, power)(t), (t / 10) ** power, rtol=1e-14)


def test_a_power_too_large_to_go_on_holds():
    s = pieces.endless_power(10, 1000.0)
    assert s(10) == s(99) == 1.0


@given(st.integers(0, 1000), st.integers(1, 1000))
def test_the_first_update_for_which_something_holds_is_found(first, most):
    assert pieces.first_update(lambda t: t >= first, most) == min(first, most)


def test_positions_that_are_not_whole_stay_short_and_those_that_are_stay_exact():
    position = Fraction(11, 10) ** 400
    assert pieces.rounded(position).denominator <= pieces.FINEST
    assert pieces.rounded(Fraction(7)) == 7
