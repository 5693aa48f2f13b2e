"""fs.compat.optax: beside curves recorded from optax (data/compat_optax.json), and each of its traps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import assert_reproduced, recorded

import fastsched as fs
from fastsched.compat import optax

CASES = recorded("optax")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_optax_gave(case):
    assert_reproduced("optax", case)


def test_every_name_has_a_recorded_curve():
    assert {case["name"] for case in CASES.values()} == set(optax.__all__)


# ---- traps ----


def test_decay_steps_of_the_warmup_cosine_include_the_warmup():
    s = optax.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=10, decay_steps=50)
    assert s.steps == 50
    assert s(30) == 0.5


def test_the_floor_of_a_cosine_is_a_ratio_of_where_it_begins():
    assert optax.cosine_decay_schedule(0.5, decay_steps=10, alpha=0.1)(10) == 0.05


def test_the_warmup_cosine_of_peak_0_ends_at_0_whatever_its_end_value():
    s = optax.warmup_cosine_decay_schedule(1.0, 0.0, warmup_steps=2, decay_steps=4, end_value=0.3)
    assert s(2) == s(4) == 0.0


def test_a_boundary_has_its_own_new_value():
    s = optax.piecewise_constant_schedule(1.0, {10: 0.5})
    assert (s(9), s(10)) == (1.0, 0.5)


def test_scales_multiply_up():
    s = optax.piecewise_constant_schedule(1.0, {10: 0.5, 20: 0.5})
    assert s(20) == 0.25


def test_boundaries_may_be_strings_as_json_has_them():
    assert optax.piecewise_constant_schedule(1.0, {"10": 0.5, "9": 2.0}) == optax.piecewise_constant_schedule(
        1.0, {9: 2.0, 10: 0.5}
    )


@pytest.mark.parametrize("scales", [None, {}])
def test_without_boundaries_it_is_constant(scales):
    assert optax.piecewise_constant_schedule(0.3, scales) == fs.Constant(0.3)
    assert optax.piecewise_interpolate_schedule("linear", 0.3, scales) == fs.Constant(0.3)


@pytest.mark.parametrize("steps", [0, -3])
def test_a_transition_of_no_steps_never_happens(steps):
    assert optax.linear_schedule(0.7, 0.1, steps) == fs.Constant(0.7)
    assert optax.warmup_constant_schedule(0.7, 0.1, steps) == fs.Constant(0.7)
    assert optax.exponential_decay(0.7, steps, 0.5, end_value=0.9) == fs.Constant(0.7)


def test_a_negative_transition_begin_counts_as_0():
    assert optax.linear_schedule(0.0, 1.0, 10, transition_begin=-4) == optax.linear_schedule(0.0, 1.0, 10)


def test_a_decay_rate_of_0_is_a_constant_that_is_not_clipped():
    assert optax.exponential_decay(0.1, 10, 0.0, end_value=0.5) == fs.Constant(0.1)


def test_end_value_is_a_floor_of_what_falls_and_a_ceiling_of_what_rises():
    falls = optax.exponential_decay(1.0, 1, 0.5, end_value=0.3)
    rises = optax.exponential_decay(1.0, 1, 2.0, end_value=3.0)
    assert (falls(1), falls(9), rises(1), rises(9)) == (0.5, 0.3, 2.0, 3.0)


def test_end_value_clips_the_initial_value_too():
    assert optax.exponential_decay(0.1, 10, 0.5, transition_begin=5, end_value=0.2)(0) == 0.2


def test_only_the_decay_after_a_warmup_is_clipped():
    s = optax.warmup_exponential_decay_schedule(0.0, 1.0, 10, 10, 0.5, end_value=0.5)
    assert (s(0), s(99)) == (0.0, 0.5)


def test_one_cycles_meet_at_steps_that_are_rounded_down():
    s = optax.cosine_onecycle_schedule(7, 1.0, pct_start=0.3)
    assert s(2) == 1.0


def test_one_cycles_end_is_relative_to_their_start():
    for schedule in (optax.linear_onecycle_schedule, optax.cosine_onecycle_schedule):
        # one division where the package divides twice
        assert schedule(100, 1.0, div_factor=10.0, final_div_factor=4.0)(100) == pytest.approx(1 / 40, rel=1e-15)


def test_of_meetings_at_one_step_the_last_counts():
    s = optax.linear_onecycle_schedule(10, 1.0, pct_start=0.3, pct_final=0.35, div_factor=10.0)
    assert s(3) == pytest.approx(0.01, rel=1e-15)  # not the peak: its scale was replaced by 1/div_factor


def test_sgdr_repeats_no_more_than_what_is_listed():
    s = optax.sgdr_schedule([{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 2, "decay_steps": 6}] * 2)
    assert s.steps == 12
    assert (s(6), s(8), s(12), s(99)) == (0.0, 1.0, 0.0, 0.0)


# ---- join_schedules ----

PARTS = st.sampled_from(
    [
        fs.Constant(0.4),
        fs.Constant(0.4, steps=3),
        fs.Linear(0.0, 1.0, steps=9),
        fs.Cosine(1.0, 0.2, steps=30),
        fs.Exponential(1.0, gamma=0.9),
        fs.MultiStep(1.0, milestones=[4, 9], gamma=0.5),
        fs.CosineRestarts(1.0, 0.1, first=7),
        fs.Triangular(0.1, 0.9, up=3),
        fs.Samples([0.1, 0.9, 0.4]),
    ]
)


@given(st.data(), st.lists(PARTS, min_size=1, max_size=5))
def test_the_latest_schedule_whose_boundary_has_come_counts_from_there(data, parts):
    more = len(parts) - 1
    boundaries = data.draw(st.lists(st.integers(-5, 40), min_size=more, max_size=more))
    joined = optax.join_schedules(parts, boundaries)
    for t in range(60):
        expected = parts[0](t)
        for part, boundary in zip(parts[1:], boundaries, strict=True):
            expected = part(t - boundary) if t >= boundary else expected
        assert joined(t) == expected


def test_a_schedule_without_an_end_is_cut_at_its_boundary():
    s = optax.join_schedules([optax.exponential_decay(1.0, 10, 0.5), optax.linear_schedule(1.0, 0.0, 10)], [20])
    assert (s(10), s(20), s(25), s.steps) == (0.5, 1.0, 0.5, 30)


def test_parts_may_be_functions_that_make_them():
    parts = [lambda: optax.linear_schedule(0.0, 1.0, 4), lambda: optax.constant_schedule(1.0)]
    assert optax.join_schedules(parts, [4]) == fs.Linear(0.0, 1.0, steps=4).then(fs.Constant(1.0))


# ---- messages ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optax.cosine_decay_schedule(0.1, 0), "cosine_decay_schedule: decay_steps must be > 0, got 0; pass"),
        (
            lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 10),
            "decay_steps must be > warmup_steps, got 10 and 10; it is the whole length",
        ),
        (
            lambda: optax.piecewise_interpolate_schedule("cubic", 1.0, {1: 0.5}),
            "interpolate_type must be a known one, got 'cubic'; pass 'linear' or 'cosine'",
        ),
        (
            lambda: optax.piecewise_interpolate_schedule("linear", 1.0, {-1: 0.5}),
            "boundaries must be >= 0, got -1; count updates from 0",
        ),
        (
            lambda: optax.piecewise_constant_schedule(1.0, {1: -0.5}),
            "a value of boundaries_and_scales must be >= 0, got -0.5; pass",
        ),
        (
            lambda: optax.join_schedules([fs.Constant(1.0)], [3]),
            "boundaries must be one less than schedules, got 1 and 1; pass",
        ),
        (lambda: optax.sgdr_schedule([]), "cosine_kwargs must have at least one cycle, got none; pass"),
        (lambda: optax.linear_onecycle_schedule(0, 1.0), "steps must be >= 1, got 0; pass"),
    ],
)
def test_a_wrong_value_is_refused_with_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: optax.linear_schedule(0.0, 1.0, "10"), "transition_steps must be a number, got '10'; pass"),
        (lambda: optax.piecewise_constant_schedule(1.0, [(1, 0.5)]), "boundaries_and_scales must be a dict, got a"),
        (lambda: optax.piecewise_constant_schedule(1.0, {1.5: 0.5}), "a key of boundaries_and_scales must be an int"),
        (lambda: optax.join_schedules(fs.Constant(1.0), []), "schedules must be a list, got a value of type Constant"),
        (lambda: optax.join_schedules([0.1, 0.2], [1]), "join_schedules: a part must be"),
        (lambda: optax.sgdr_schedule([3]), r"cosine_kwargs\[0\] must be a dict, got 3; pass"),
        (lambda: optax.sgdr_schedule([{"peak": 3}]), "its arguments are init_value, peak_value, warmup_steps"),
        (lambda: optax.sgdr_schedule("cosine"), "cosine_kwargs must be a list, got 'cosine'; pass a list of dicts"),
        (lambda: optax.cosine_decay_schedule(0.1, True), "decay_steps must be a number, got True"),
        (lambda: optax.warmup_cosine_decay_schedule(0.0, 0.1, 1, "9"), "decay_steps must be a number, got '9'"),
    ],
)
def test_a_wrong_type_is_refused_with_the_rule(make, message):
    with pytest.raises(TypeError, match=message):
        make()
