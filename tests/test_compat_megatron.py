"""fs.compat.megatron beside curves that Megatron's own module produced, and what is peculiar to them."""

import math

import pytest
from recorded import assert_reproduced, recorded

from fastsched.compat import build
from fastsched.compat.megatron import OptimizerParamScheduler

CASES = recorded("megatron")
PLAIN = {
    "init_lr": 0.0,
    "max_lr": 1.0,
    "min_lr": 0.125,
    "lr_warmup_steps": 4,
    "lr_decay_steps": 20,
    "lr_decay_style": "cosine",
    "start_wd": 0.25,
    "end_wd": 0.5,
    "wd_incr_steps": 16,
    "wd_incr_style": "linear",
}
STYLES = ["constant", "linear", "cosine", "inverse-square-root", "WSD"]
WSD = {"lr_decay_style": "WSD", "wsd_decay_steps": 8, "lr_wsd_decay_style": "linear"}


def scheduler(context=None, hyperparameter="lr", **changed):
    return OptimizerParamScheduler(**PLAIN | changed, context=context, hyperparameter=hyperparameter)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_schedule_reproduces_the_recorded_curve(case):
    assert_reproduced("megatron", case)


def test_every_style_has_a_recorded_curve():
    kwargs = [case["kwargs"] for case in CASES.values()]
    assert {k["lr_decay_style"] for k in kwargs} == set(STYLES)
    assert {k["wd_incr_style"] for k in kwargs} == {"constant", "linear", "cosine"}
    assert {k.get("lr_wsd_decay_style") for k in kwargs} >= {"linear", "cosine", "exponential", "minus_sqrt"}


# ---- inclusive bounds ----


@pytest.mark.parametrize("style", STYLES)
def test_the_warmup_begins_at_the_first_lr_and_includes_the_peak(style):
    s = scheduler(**WSD | {"lr_decay_style": style})
    assert (s(0), s(2), s(4)) == (0.0, 0.5, 1.0)


def test_an_inverse_root_falls_to_the_minimum_only_after_the_last_step():
    s = scheduler(lr_decay_style="inverse-square-root")
    assert s(16) == 0.5
    assert s(20) == pytest.approx(math.sqrt(4 / 20), rel=1e-15)
    assert (s(21), s(1000)) == (0.125, 0.125)


def test_an_inverse_root_is_nowhere_below_the_minimum():
    assert scheduler(lr_decay_style="inverse-square-root", min_lr=0.75).table(40)[4:].min() == 0.75


def test_a_constant_never_falls_to_the_minimum():
    assert scheduler(lr_decay_style="constant")(1000) == 1.0


def test_a_decay_of_no_steps_keeps_the_peak_to_the_last_step():
    s = scheduler(**WSD | {"wsd_decay_steps": 0})
    assert (s(20), s(21)) == (1.0, 0.125)


def test_a_decay_that_reaches_into_the_warmup_begins_in_its_middle():
    """Steps 0 to 20 fall from 1 to 0.125; the warmup covers them up to and with step 4."""
    s = scheduler(**WSD | {"wsd_decay_steps": 20})
    assert s(4) == 1.0
    assert s(5) == pytest.approx(1.0 - 0.875 * 5 / 20, rel=1e-15)
    assert s(20) == 0.125


@pytest.mark.parametrize("style", STYLES)
def test_a_warmup_need_not_be_whole(style):
    s = scheduler(**WSD | {"lr_decay_style": style}, lr_warmup_steps=2.5)
    assert s(2) == pytest.approx(2 / 2.5, rel=1e-15)
    expected = {
        "linear": 0.125 + 0.875 * (1 - 0.5 / 17.5),
        "cosine": 0.125 + 0.875 * (1 + math.cos(math.pi * 0.5 / 17.5)) / 2,
        "inverse-square-root": math.sqrt(2.5 / 3),
    }
    assert s(3) == pytest.approx(expected.get(style, 1.0), rel=1e-14)


# ---- weight decay ----


@pytest.mark.parametrize("style", ["linear", "cosine"])
def test_weight_decay_goes_from_start_to_end(style):
    s = scheduler(hyperparameter="weight_decay", wd_incr_style=style)
    assert (s(0), s(8), s(16), s(99)) == (0.25, 0.375, 0.5, 0.5)


def test_weight_decay_that_does_not_change_needs_one_value():
    assert scheduler(hyperparameter="weight_decay", wd_incr_style="constant", start_wd=0.5)(7) == 0.5
    with pytest.raises(ValueError, match="start_wd and end_wd must be equal"):
        scheduler(hyperparameter="weight_decay", wd_incr_style="constant")


# ---- context ----


def test_lengths_in_samples_go_by_the_increment():
    by_samples = scheduler({"increment": 4}, lr_warmup_steps=16, lr_decay_steps=80)
    assert by_samples.table(30) == pytest.approx(scheduler().table(30), rel=1e-14)


def test_a_bound_between_two_updates_acts_at_the_second():
    s = scheduler({"increment": 8}, lr_decay_style="inverse-square-root")
    assert s(2) == 0.5  # step 16
    assert s(3) == 0.125  # step 24, past 20


def test_groups_have_their_own_bounds_and_one_warmup_start():
    plain, own = scheduler({"group_overrides": [{}, {"max_lr": 2.0, "min_lr": 0.5}]}, init_lr=0.25)
    assert (plain(0), plain(4), plain(20)) == (0.25, 1.0, 0.125)
    assert (own(0), own(4), own(20)) == (0.25, 2.0, 0.5)


def test_groups_have_their_own_factors():
    groups = {"group_overrides": [{"wd_mult": 0.0, "lr_mult": 0.5}, {"start_wd": 1.0, "end_wd": 2.0}]}
    first, second = scheduler(groups, "weight_decay")
    assert (first(8), second(8)) == (0.0, 1.5)
    assert scheduler(groups)[0](4) == 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"lr_warmup_steps": 20}, r"lr_warmup_steps must be < lr_decay_steps, got 20(\.0)? and 20"),
        ({"min_lr": 2.0}, "min_lr must be <= max_lr, got 2.0 and 1.0"),
        ({"init_lr": 2.0}, "init_lr must be <= max_lr, got 2.0 and 1.0"),
        ({"min_lr": -1.0}, "min_lr must be >= 0, got -1.0"),
        ({"lr_decay_style": "exponential"}, "lr_decay_style must be a known one, got 'exponential'"),
        (WSD | {"lr_wsd_decay_style": "sqrt"}, "lr_wsd_decay_style must be a known one, got 'sqrt'"),
    ],
)
def test_errors_name_the_schedule_and_the_argument(changed, message):
    with pytest.raises(ValueError, match=f"^OptimizerParamScheduler: {message}"):
        build("megatron", "OptimizerParamScheduler", PLAIN | changed)


@pytest.mark.parametrize("name", ["wsd_decay_steps", "lr_wsd_decay_style"])
def test_a_stable_decay_needs_both_its_arguments(name):
    with pytest.raises(TypeError, match=f"^OptimizerParamScheduler: {name} must be"):
        scheduler(**WSD | {name: None})


def test_weight_decay_that_falls_is_refused():
    with pytest.raises(ValueError, match="start_wd must be <= end_wd"):
        scheduler(hyperparameter="weight_decay", end_wd=0.125)
