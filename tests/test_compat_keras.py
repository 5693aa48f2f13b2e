"""fs.compat.keras: beside curves recorded from keras (data/compat_keras.json), and each of its traps."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import assert_reproduced, recorded

import fastsched as fs
from fastsched.compat import keras

CASES = recorded("keras")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_keras_gave(case):
    assert_reproduced("keras", case)


def test_every_name_has_a_recorded_curve():
    assert {case["name"] for case in CASES.values()} == set(keras.__all__)


# ---- traps ----


def test_at_a_boundary_the_value_before_it_still_counts():
    s = keras.PiecewiseConstantDecay([10, 10, 25], [1.0, 9.0, 0.5, 0.1])
    assert (s(10), s(11), s(25), s(26)) == (1.0, 0.5, 0.5, 0.1)


def test_a_boundary_before_step_0_has_passed():
    assert keras.PiecewiseConstantDecay([-1], [1.0, 0.5])(0) == 0.5


def test_the_warmup_comes_before_the_decay_steps():
    s = keras.CosineDecay(0.0, decay_steps=100, warmup_target=1.0, warmup_steps=10)
    assert s.steps == 110


def test_without_a_target_there_is_no_warmup():
    assert keras.CosineDecay(0.5, decay_steps=100, warmup_steps=10) == fs.Cosine(0.5, 0.0, steps=100)


def test_a_warmup_of_no_steps_begins_at_the_target():
    assert keras.CosineDecay(0.0, decay_steps=100, warmup_target=1.0) == fs.Cosine(1.0, 0.0, steps=100)


def test_alpha_is_a_ratio_of_the_target():
    assert keras.CosineDecay(0.1, decay_steps=10, alpha=0.5, warmup_target=0.4, warmup_steps=2)(12) == 0.2


def test_m_mul_lowers_only_what_is_above_the_floor():
    s = keras.CosineDecayRestarts(1.0, first_decay_steps=10, t_mul=1.0, m_mul=0.5, alpha=0.2)
    assert (s(10), s(20)) == (pytest.approx(0.6, rel=1e-15), pytest.approx(0.4, rel=1e-15))


@pytest.mark.parametrize("restart", [1, 8, 57, 400, 2801])
def test_no_restart_is_missed(restart):  # keras misses 57, 400 and 2801 in float32, by a logarithm that it rounds down
    s = keras.CosineDecayRestarts(1.0, first_decay_steps=1, t_mul=7.0)
    assert s(restart) == 1.0


@given(st.integers(1, 50), st.integers(11, 40), st.floats(0.1, 1.2))
def test_cycles_of_any_growth_begin_where_they_should(first, tenths, lower):
    s = keras.CosineDecayRestarts(1.0, first, t_mul=tenths / 10, m_mul=lower)
    begin, length, height = Fraction(0), Fraction(first), 1.0
    while begin + length < 1000:
        inside = math.ceil(begin)
        if inside < begin + length:
            cosine = (1 + math.cos(math.pi * float((inside - begin) / length))) / 2
            # positions between steps are good to 2**-44 of the cycle, its height to an ulp per cycle
            assert s(inside) == pytest.approx(height * cosine, abs=1e-12 * max(1.0, height))
        begin, length, height = begin + length, length * tenths / 10, height * lower


def test_restarts_that_m_mul_kills_are_over_after_the_first():
    s = keras.CosineDecayRestarts(1.0, first_decay_steps=10, m_mul=0.0, alpha=0.1)
    assert (s(0), s(10), s(11)) == (1.0, 0.1, 0.1)


def test_lengths_may_be_floats_whole_or_not():
    assert keras.CosineDecay(1.0, decay_steps=1e3) == fs.Cosine(1.0, 0.0, steps=1000)
    assert keras.CosineDecay(1.0, decay_steps=2.5)(1) == pytest.approx((1 + math.cos(math.pi / 2.5)) / 2, rel=1e-15)


# ---- PolynomialDecay's cycle ----


@given(st.integers(1, 60), st.sampled_from([0.3, 0.5, 1.0, 1.7, 2.0, 3.0, 4.0, 5.0]), st.integers(0, 10_000))
def test_a_cycles_horizon_is_the_next_multiple_of_decay_steps(steps, power, t):
    s = keras.PolynomialDecay(0.9, steps, end_learning_rate=0.2, power=power, cycle=True)
    horizon = steps * max(1, math.ceil(t / steps))
    expected = 0.2 + 0.7 * (1 - t / horizon) ** power
    if t / steps <= 4096 or power in (1, 2, 3, 4):
        # 1 - t/horizon cancels: its error of an ulp of 1 is amplified by the root
        assert s(t) == pytest.approx(expected, abs=1e-12)


def test_every_multiple_of_decay_steps_is_at_the_end():
    s = keras.PolynomialDecay(1.0, 10, end_learning_rate=0.25, cycle=True)
    assert s(np.arange(10, 200, 10)).tolist() == [0.25] * 19


def test_whole_powers_cycle_for_ever():
    s = keras.PolynomialDecay(1.0, 2, end_learning_rate=0.0, cycle=True)
    assert s(2 * 10**9 + 1) == pytest.approx(0.5 / (10**9 + 1), rel=1e-14)


def test_cycles_of_other_powers_stay_alike_after_4096():
    s = keras.PolynomialDecay(1.0, 2, end_learning_rate=0.0, power=0.5, cycle=True)
    assert s(2 * 4095 + 1) == s(2 * 10**6 + 1) == pytest.approx(math.sqrt(0.5 / 4096), rel=1e-14)


def test_without_cycle_it_holds_its_end():
    assert keras.PolynomialDecay(1.0, 10, 0.1, power=0.5)(99) == 0.1


# ---- messages ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.ExponentialDecay(1.0, 0, 0.5), "ExponentialDecay: .*every must be > 0, got 0"),
        (lambda: keras.CosineDecay(1.0, -1), "CosineDecay: decay_steps must be > 0, got -1; pass a number of steps"),
        (lambda: keras.CosineDecayRestarts(1.0, 0), "first_decay_steps must be > 0, got 0; pass a number of steps"),
        (lambda: keras.CosineDecayRestarts(1.0, 5, t_mul=0.5), "t_mul must be >= 1, got 0.5; cycles of one length"),
        (lambda: keras.CosineDecayRestarts(1.0, 5, m_mul=-0.5), "m_mul must be >= 0, got -0.5; peaks of one height"),
        (
            lambda: keras.PolynomialDecay(1.0, 2.5, cycle=True),
            "PolynomialDecay: decay_steps must be whole with cycle, got 2.5; round it",
        ),
        (
            lambda: keras.PiecewiseConstantDecay([25, 10], [1.0, 0.5, 0.1]),
            "boundaries must be ascending, got 10.* after 25.* at index 1; sort them",
        ),
        (lambda: keras.PiecewiseConstantDecay([10], [1.0]), "values must be one more than boundaries"),
    ],
)
def test_a_wrong_value_is_refused_with_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: keras.CosineDecay("1.0", 5),
            "initial_learning_rate must be a number, got '1.0'; pass a number",
        ),
        (lambda: keras.PolynomialDecay(1.0, 5, cycle=1), "cycle must be True or False, got 1; one descent is False"),
        (lambda: keras.CosineDecay(1.0, "5"), "decay_steps must be a number, got '5'; pass a number"),
    ],
)
def test_a_wrong_type_is_refused_with_the_rule(make, message):
    with pytest.raises(TypeError, match=message):
        make()
