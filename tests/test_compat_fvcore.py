"""fs.compat.fvcore: beside curves recorded from fvcore (data/compat_fvcore.json), and each of its traps."""

import functools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import assert_reproduced, recorded

import fastsched as fs
from fastsched.compat import fvcore

CASES = recorded("fvcore")
EPSILON = 1e-6  # fvcore's


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_fvcore_gave(case):
    assert_reproduced("fvcore", case)


def test_every_name_of_absolute_values_has_a_recorded_curve():
    assert {case["name"] for case in CASES.values()} == set(fvcore.__all__) - {"LRMultiplier"}


# ---- edges ----

UPDATES = st.one_of(st.integers(1, 200), st.integers(10**5, 10**8))


def near_edges(updates, parts):
    """Updates about the edges of so many equal parts."""
    edges = {round((edge / parts - by) * updates) for edge in range(parts + 1) for by in (0, EPSILON)}
    return sorted({min(max(0, edge + by), updates - 1) for edge in edges for by in (-2, -1, 0, 1)})


@given(UPDATES, st.integers(1, 8))
def test_steps_change_where_fvcores_floats_do(updates, parts):
    values = [1.0 / (i + 1) for i in range(parts)]
    s = fvcore.StepParamScheduler(100, values, context={"max_iter": updates})
    for t in near_edges(updates, parts):
        index = int((t / updates + EPSILON) * parts)
        assert s(t) == values[min(index, parts - 1)]  # fvcore raises IndexError for the last ones


@given(UPDATES, st.integers(2, 90_000), st.data())
def test_multi_steps_change_where_fvcores_floats_do(updates, total, data):
    milestones = sorted(data.draw(st.sets(st.integers(1, total - 1), max_size=4)))
    values = [1.0 / (i + 1) for i in range(len(milestones) + 1)]
    if total < len(values):
        return
    s = fvcore.MultiStepParamScheduler(values, total, milestones, context={"max_iter": updates})
    for milestone in milestones:
        edge = math.ceil((milestone / total - EPSILON) * updates)
        for t in range(max(0, edge - 2), min(updates, edge + 2)):
            reached = int((t / updates + EPSILON) * total)
            assert s(t) == values[sum(m <= reached for m in milestones)]


def test_an_edge_comes_up_to_a_millionth_early():
    s = fvcore.StepParamScheduler(1, [1.0, 0.5], context={"max_iter": 10_000_000})
    assert (s(4_999_989), s(4_999_991)) == (1.0, 0.5)


def test_num_updates_of_a_step_has_no_effect():
    made = [fvcore.StepParamScheduler(n, [1.0, 0.5], context={"max_iter": 10}) for n in (1, 1000)]
    assert made[0] == made[1]


def test_milestones_scale_to_the_updates():
    s = fvcore.MultiStepParamScheduler([1.0, 0.1, 0.01], milestones=[3, 6, 9], context={"max_iter": 900})
    assert (s(299), s(300), s(599), s(600)) == (1.0, 0.1, 0.1, 0.01)


# ---- past the end ----


def test_a_cosine_rises_again():
    s = fvcore.CosineParamScheduler(1.0, 0.5, context={"max_iter": 10})
    assert (s(10), s(20), s(30), s(1000)) == (0.5, 1.0, 0.5, 1.0)


def test_a_line_goes_on_below_0():
    assert fvcore.LinearParamScheduler(1.0, 0.0, context={"max_iter": 10})(40) == -3.0


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_polynomial_of_a_whole_power_goes_on(power):
    s = fvcore.PolynomialDecayParamScheduler(0.5, power, context={"max_iter": 10})
    assert s(15) == pytest.approx(0.5 * (-0.5) ** power, rel=1e-14)


def test_where_fvcore_raises_it_holds():
    context = {"max_iter": 10}
    ends = [
        fvcore.ConstantParamScheduler(0.3),
        fvcore.StepParamScheduler(10, [1.0, 0.3], context=context),
        fvcore.MultiStepParamScheduler([1.0, 0.3], num_updates=10, context=context),
    ]
    assert [s(1000) for s in ends] == [0.3] * 3
    assert fvcore.PolynomialDecayParamScheduler(0.3, 0.9, context=context)(1000) == 0.0  # a complex number there


# ---- compositions ----


def test_a_rescaled_part_has_its_own_begin_and_end_and_a_fixed_one_that_of_the_whole():
    parts = [lambda: fvcore.LinearParamScheduler(0.0, 1.0), lambda: fvcore.LinearParamScheduler(0.0, 1.0)]
    for scaling, value in (("rescaled", 0.0), ("fixed", 0.25)):
        s = fvcore.CompositeParamScheduler(parts, [0.25, 0.75], [scaling, scaling], context={"max_iter": 40})
        assert s(10) == value
        assert s(40) == 1.0


def test_parts_may_be_schedules_over_all_updates():
    made = [
        fvcore.CompositeParamScheduler(
            parts, [0.25, 0.25, 0.5], ["rescaled", "fixed", "rescaled"], context={"max_iter": 40}
        )
        for parts in (
            [fs.Cosine(0.1, 1.0, steps=40), fs.Linear(1.0, 0.0, steps=40), fs.Cosine(0.5, 0.2, steps=40)],
            [
                functools.partial(fvcore.CosineParamScheduler, 0.1, 1.0),
                functools.partial(fvcore.LinearParamScheduler, 1.0, 0.0),
                lambda: fvcore.CosineParamScheduler(0.5, 0.2),
            ],
        )
    ]
    # The one way runs a curve of 40 steps faster, the other makes one of 10 or 20: an ulp or two apart
    np.testing.assert_allclose(made[0].table(41), made[1].table(41), rtol=1e-14)


def test_a_part_of_no_length_is_left_out():
    parts = [lambda: fvcore.ConstantParamScheduler(9.0), lambda: fvcore.LinearParamScheduler(1.0, 0.0)]
    s = fvcore.CompositeParamScheduler(parts, [0.0, 1.0], ["rescaled"] * 2, context={"max_iter": 40})
    assert (s(0), s(20)) == (1.0, 0.5)


def test_the_last_part_takes_what_is_left():
    parts = [lambda: fvcore.ConstantParamScheduler(9.0), lambda: fvcore.LinearParamScheduler(1.0, 0.0)]
    s = fvcore.CompositeParamScheduler(parts, [0.25, 0.7504], ["rescaled"] * 2, context={"max_iter": 40})
    assert s(25) == 0.5


def test_a_rescaled_part_that_begins_early_waits_at_its_first_value():
    parts = [lambda: fvcore.ConstantParamScheduler(9.0), lambda: fvcore.LinearParamScheduler(1.0, 0.0)]
    s = fvcore.CompositeParamScheduler(parts, [0.5, 0.5], ["rescaled"] * 2, context={"max_iter": 10_000_000})
    assert (s(4_999_989), s(4_999_991), s(4_999_999), s(7_500_000)) == (9.0, 1.0, 1.0, 0.5)


def test_a_warmup_rises_to_where_the_scheduler_is_when_it_ends():
    s = fvcore.WarmupParamScheduler(lambda: fvcore.CosineParamScheduler(1.0, 0.0), 0.1, 0.5, context={"max_iter": 100})
    assert (s(0), s(50)) == (0.1, 0.5)


def test_a_rescaled_warmup_rises_to_the_schedulers_first_value():
    s = fvcore.WarmupParamScheduler(
        lambda: fvcore.CosineParamScheduler(1.0, 0.0), 0.1, 0.5, rescale_interval=True, context={"max_iter": 100}
    )
    assert (s(0), s(50), s(75)) == (0.1, 1.0, 0.5)


def test_a_multiplier_multiplies_each_groups_base_lr():
    one, two = fvcore.LRMultiplier([0.5, 2.0], lambda: fvcore.LinearParamScheduler(1.0, 0.0), max_iter=100)
    assert (one(50), two(50)) == (0.25, 1.0)


# ---- messages ----

CONTEXT = {"max_iter": 10}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: fvcore.LinearParamScheduler(1.0, 0.0),
            r"LinearParamScheduler: context must have 'max_iter', got none; pass context=\{'max_iter': 1000\}",
        ),
        (lambda: fvcore.CosineParamScheduler(1.0, 0.0, context={"max_iter": 0}), "max_iter must be >= 1, got 0; pass"),
        (lambda: fvcore.StepParamScheduler(1, [], context=CONTEXT), "values must be at least one, got none; pass"),
        (lambda: fvcore.StepParamScheduler(0, [1.0], context=CONTEXT), "num_updates must be > 0, got 0; pass"),
        (
            lambda: fvcore.StepWithFixedGammaParamScheduler(-1.0, 2, 0.5, 10, context=CONTEXT),
            "base_value must be > 0, got -1.0; pass a positive number",
        ),
        (
            lambda: fvcore.MultiStepParamScheduler([1.0, 0.5], context=CONTEXT),
            "num_updates or milestones must be given, got neither; pass one of them",
        ),
        (
            lambda: fvcore.MultiStepParamScheduler([1.0, 0.5], 10, [3, 6], context=CONTEXT),
            "values must be one more than milestones .* got 2 for 2 edges; pass",
        ),
        (
            lambda: fvcore.MultiStepParamScheduler([1.0, 0.5, 0.1], 5, [3, 6], context=CONTEXT),
            "milestones must ascend from above 0 to below num_updates, got others with 5; sort",
        ),
        (
            lambda: fvcore.CompositeParamScheduler([fs.Constant(1.0)], [0.5], ["fixed"], context=CONTEXT),
            "lengths must add up to 1, got 0.5; divide them by that",
        ),
        (
            lambda: fvcore.CompositeParamScheduler([fs.Constant(1.0)], [0.5, 0.5], ["fixed"], context=CONTEXT),
            "must be equally many and at least 1, got 1, 2 and 1; pass",
        ),
        (
            lambda: fvcore.CompositeParamScheduler([fs.Constant(1.0)], [1.0], ["scaled"], context=CONTEXT),
            "interval_scaling must be a known one, got 'scaled'; pass 'rescaled' or 'fixed'",
        ),
        (
            lambda: fvcore.WarmupParamScheduler(fs.Constant(1.0), 0.1, 0.1, "cosine", context=CONTEXT),
            "warmup_method must be a known one, got 'cosine'; pass 'linear' or 'constant'",
        ),
    ],
)
def test_a_wrong_value_is_refused_with_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fvcore.LinearParamScheduler("1", 0.0, context=CONTEXT), "start_value must be a number, got '1'; pass"),
        (lambda: fvcore.StepParamScheduler(1, 0.5, context=CONTEXT), "values must be a list, got 0.5; pass"),
        (
            lambda: fvcore.CompositeParamScheduler(fs.Constant(1.0), [1.0], ["fixed"], context=CONTEXT),
            "schedulers must be a list, got a value of type Constant; pass one for each part",
        ),
        (lambda: fvcore.CompositeParamScheduler([0.5], [1.0], ["fixed"], context=CONTEXT), "a part must be"),
    ],
)
def test_a_wrong_type_is_refused_with_the_rule(make, message):
    with pytest.raises(TypeError, match=message):
        make()
