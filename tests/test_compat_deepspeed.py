"""fs.compat.deepspeed beside curves that DeepSpeed's own module produced, and what is peculiar to them."""

import math

import pytest
from recorded import assert_reproduced, recorded

from fastsched.compat import build, deepspeed

CASES = recorded("deepspeed")
WARMUPS = {
    "WarmupLR": {"warmup_min_lr": 0.25},
    "WarmupDecayLR": {"warmup_min_lr": 0.25, "warmup_max_lr": None, "total_num_steps": 40},
    "WarmupCosineLR": {"warmup_min_ratio": 0.25, "total_num_steps": 40},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_schedule_reproduces_the_recorded_curve(case):
    assert_reproduced("deepspeed", case)


def test_every_schedule_has_a_recorded_curve():
    assert {case["name"] for case in CASES.values()} == set(deepspeed.__all__)


# ---- the counter begins at -1 ----


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR"])
@pytest.mark.parametrize("shape", ["log", "linear"])
def test_the_first_two_updates_of_a_warmup_run_at_the_minimum(name, shape):
    s = getattr(deepspeed, name)(1.0, **WARMUPS[name], warmup_num_steps=10, warmup_type=shape)
    assert (s(0), s(1)) == (0.25, 0.25)
    assert s(2) > 0.25


def test_the_first_update_of_the_cosine_has_lr_0_whatever_the_minimum():
    s = deepspeed.WarmupCosineLR(1.0, **WARMUPS["WarmupCosineLR"], warmup_num_steps=10)
    assert (s(0), s(1)) == (0.0, 0.25)


@pytest.mark.parametrize("name", WARMUPS)
def test_a_logarithmic_warmup_is_at_its_top_one_update_before_a_linear_one(name):
    log, linear = (
        getattr(deepspeed, name)(1.0, **WARMUPS[name], warmup_num_steps=10, warmup_type=shape)
        for shape in ("log", "linear")
    )
    assert log(10) == 1.0
    assert linear(10) == pytest.approx(0.25 + 0.75 * 0.9, rel=1e-15)


@pytest.mark.parametrize("name", WARMUPS)
def test_a_warmup_of_one_step_takes_two(name):
    one, two = (getattr(deepspeed, name)(1.0, **WARMUPS[name], warmup_num_steps=steps) for steps in (1, 2))
    assert one == two


def test_after_a_linear_warmup_no_update_of_the_cosine_uses_the_groups_lr():
    s = deepspeed.WarmupCosineLR(1.0, 40, warmup_num_steps=10, warmup_type="linear", cos_min_ratio=0.0)
    assert s.table(60).max() < 1.0
    assert s(11) == pytest.approx((1 + math.cos(math.pi / 30)) / 2, rel=1e-15)


# ---- defaults ----


def test_a_warmups_top_is_each_groups_lr_by_default():
    first, second = deepspeed.WarmupLR([0.1, 0.01])
    assert (first(2000), second(2000)) == (0.1, 0.01)


def test_a_warmups_top_before_a_decay_is_a_thousandth_by_default():
    s = deepspeed.WarmupDecayLR(0.1, total_num_steps=100, warmup_num_steps=10)
    assert s(11) == 0.001


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR"])
def test_bounds_may_come_one_per_group(name):
    extra = {"total_num_steps": 40} if name == "WarmupDecayLR" else {}
    s = getattr(deepspeed, name)(
        [9.0, 9.0], warmup_min_lr=[0.5, 0.25], warmup_max_lr=[1.0, 2.0], warmup_num_steps=4, **extra
    )
    assert [one(0) for one in s] == [0.5, 0.25]
    assert [one(5) for one in s] == [1.0, 2.0]


def test_the_cosine_stays_at_its_floor_and_never_goes_below_0():
    s = deepspeed.WarmupCosineLR(1.0, 20, warmup_num_steps=2, cos_min_ratio=-0.5)
    assert s.table(50).min() == 0.0
    assert s(1000) == 0.0


# ---- the range test ----


def test_the_range_tests_stairs_are_level_up_to_rounding():
    s = deepspeed.LRRangeTest(9.0, lr_range_test_min_lr=0.1, lr_range_test_step_size=3, lr_range_test_staircase=True)
    for stair in range(200):
        assert s.table(3, start=3 * stair) == pytest.approx(0.1 * (1 + stair), rel=1e-15)


def test_the_range_test_has_no_end():
    s = deepspeed.LRRangeTest(9.0, lr_range_test_min_lr=1.0, lr_range_test_step_size=4)
    assert s(4 * 65_000) == 65_001.0
    assert s.steps == math.inf


# ---- one cycle ----

CYCLE = {
    "cycle_min_lr": 0.5,
    "cycle_max_lr": 1.0,
    "cycle_first_step_size": 10,
    "cycle_min_mom": 0.8,
    "cycle_max_mom": 0.9,
}


def test_the_momentum_of_the_first_update_is_the_lowest_though_the_cycle_begins_at_the_highest():
    s = deepspeed.OneCycle(0.1, **CYCLE, hyperparameter="momentum")
    assert s(0) == 0.8
    assert s(1) == pytest.approx(0.89, rel=1e-15)
    assert (s(10), s(20), s(99)) == (0.8, 0.9, 0.9)


def test_the_momentum_grows_past_1_where_it_decays():
    s = deepspeed.OneCycle(0.1, **CYCLE, decay_mom_rate=0.5, decay_step_size=10, hyperparameter="momentum")
    assert s(30) == pytest.approx(0.9 * 1.5, rel=1e-15)


def test_stairs_begin_at_the_step_that_reaches_their_level():
    s = deepspeed.OneCycle(0.1, **CYCLE, cycle_first_stair_count=2)
    assert s.table(21).tolist() == [0.5] * 5 + [0.75] * 5 + [1.0] + [0.75] * 5 + [0.5] * 5


def test_more_stairs_than_steps_are_the_line_at_whole_steps():
    stairs = deepspeed.OneCycle(0.1, **CYCLE, cycle_first_stair_count=40)
    line = deepspeed.OneCycle(0.1, **CYCLE)
    assert stairs.table(25) == pytest.approx(line.table(25), rel=1e-15)


def test_no_second_leg_jumps_down():
    s = deepspeed.OneCycle(0.1, **CYCLE | {"cycle_second_step_size": 0})
    assert (s(9), s(10)) == (pytest.approx(0.95, rel=1e-15), 0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cycle_momentum": False}, "cycle_momentum must be True"),
        ({"context": {"optimizer": {"name": "SGD", "momentum": 0.9}}}, "the optimizer must have betas"),
    ],
)
def test_momentum_that_deepspeed_does_not_cycle_is_refused(arguments, message):
    with pytest.raises(ValueError, match=f"^OneCycle: {message}"):
        deepspeed.OneCycle(0.1, **CYCLE, hyperparameter="momentum", **arguments)


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("WarmupLR", {"warmup_type": "cosine"}, "warmup_type must be a known one, got 'cosine'"),
        ("WarmupLR", {"warmup_num_steps": 0}, "warmup_num_steps must be a whole number >= 1, got 0"),
        ("WarmupLR", {"warmup_min_lr": [0.1, 0.2]}, "warmup_min_lr must have one value per group, got 2 for 1"),
        ("OneCycle", CYCLE | {"decay_step_size": -1}, "decay_step_size must be >= 0, got -1"),
        ("OneCycle", CYCLE | {"cycle_first_step_size": 0}, "cycle_first_step_size must be a whole number >= 1, got 0"),
        ("LRRangeTest", {"lr_range_test_step_size": 2.5}, "lr_range_test_step_size must be a whole number"),
    ],
)
def test_errors_name_the_schedule_and_the_argument(name, arguments, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        build("deepspeed", name, arguments, base_lr=0.1)
