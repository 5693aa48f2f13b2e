"""fs.compat.composer beside curves that composer's own module produced, and what is peculiar to them."""

import pytest
from recorded import assert_reproduced, recorded

from fastsched.compat import build, composer

CASES = recorded("composer")
RUN = {"max_duration": "40ba"}
EPOCHS = {"max_duration": "4ep", "dataloader_len": 10}
TEXTS = {"batch_size": 4, "sequence_length": 8, "max_duration": "1280tok"}
WARMED = [name for name in composer.__all__ if "WithWarmup" in name]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_schedule_reproduces_the_recorded_curve(case):
    assert_reproduced("composer", case)


def test_every_schedule_has_a_recorded_curve():
    assert {case["name"] for case in CASES.values()} == set(composer.__all__)


# ---- times ----


@pytest.mark.parametrize(
    "context", [RUN, EPOCHS, TEXTS, TEXTS | {"max_duration": "160sp"}, EPOCHS | {"max_duration": 4}]
)
def test_a_run_of_40_updates_is_one_however_it_is_said(context):
    s = composer.LinearScheduler(1.0, context=context)
    assert (s(0), s(20), s(40)) == (1.0, 0.5, 0.0)


@pytest.mark.parametrize(
    ("time", "context"),
    [
        ("20ba", {}),
        ("2ep", EPOCHS),
        ("0.5dur", RUN),
        ("0.5dur", EPOCHS),
        ("80sp", TEXTS),
        ("640tok", TEXTS),
        ("2E1BA", {}),
    ],
)
def test_a_time_of_20_updates_is_one_however_it_is_said(time, context):
    s = composer.LinearScheduler(1.0, t_max=time, context=context)
    assert (s(0), s(10), s(20)) == (1.0, 0.5, 0.0)


def test_composers_own_times_are_taken():
    class Time:
        def to_timestring(self):
            return "20ba"

    assert composer.LinearScheduler(1.0, t_max=Time()) == composer.LinearScheduler(1.0, t_max="20ba")


def test_a_fraction_is_cut_off_as_its_float_product_is():
    """0.29 * 100 is 28.999999999999996."""
    s = composer.ConstantScheduler(1.0, alpha=0.5, t_max="0.29dur", context={"max_duration": "100ba"})
    assert (s(27), s(28)) == (0.5, 1.0)


def test_a_milestone_between_two_updates_acts_at_the_second():
    s = composer.MultiStepScheduler(1.0, ["5sp", "96tok"], gamma=0.5, context=TEXTS)
    assert s.table(5).tolist() == [1.0, 1.0, 0.5, 0.25, 0.25]


def test_the_ratio_scales_times_but_not_fractions_of_the_run():
    half = RUN | {"ssr": 0.5}
    assert composer.CosineAnnealingScheduler(1.0, "20ba", context=half) == composer.CosineAnnealingScheduler(
        1.0, "10ba"
    )
    assert composer.CosineAnnealingScheduler(1.0, context=half) == composer.CosineAnnealingScheduler(1.0, "40ba")


# ---- schedules ----


def test_the_floor_is_a_share_of_each_groups_lr():
    first, second = composer.CosineAnnealingScheduler([1.0, 0.5], alpha_f=0.25, context=RUN)
    assert (first(40), second(40)) == (0.25, 0.125)


def test_cycles_are_cut_off_one_by_one():
    s = composer.CosineAnnealingWarmRestartsScheduler(1.0, "3ba", t_mult=1.5)
    assert [t for t in range(60) if s(t) == 1.0] == [0, 3, 7, 13, 22, 35, 54]


def test_cycles_that_cannot_grow_keep_their_length():
    s = composer.CosineAnnealingWarmRestartsScheduler(1.0, "4ba", t_mult=1.2)
    assert [t for t in range(22) if s(t) == 1.0] == [0, 4, 8, 12, 16, 20]


def test_cycles_that_shrink_to_nothing_leave_the_floor():
    s = composer.CosineAnnealingWarmRestartsScheduler(1.0, "4ba", t_mult=0.5, alpha_f=0.25)
    assert [t for t in range(22) if s(t) == 1.0] == [0, 4, 6]
    assert s(7) == s(1000) == 0.25


def test_cycles_that_grow_by_little_go_on_for_thousands():
    s = composer.CosineAnnealingWarmRestartsScheduler(1.0, "1000ba", t_mult=1.0015)
    assert (s(1000), s(2001), s(3003)) == (1.0, 1.0, 1.0)


def test_a_constant_after_a_warmup_does_not_go_back_to_the_lr():
    plain = composer.ConstantScheduler(1.0, alpha=0.5, t_max="40ba")
    warmed = composer.ConstantWithWarmupScheduler(1.0, "4ba", alpha=0.5, t_max="40ba")
    assert (plain(40), warmed(40)) == (1.0, 0.5)


@pytest.mark.parametrize("name", WARMED)
def test_a_warmup_of_no_length_is_none(name):
    extra = {"milestones": ["10ba"]} if name.startswith("Multi") else {}
    s = build("composer", name, {"t_warmup": "0ba", **extra}, base_lr=1.0, context=RUN)
    assert s(0) == 1.0


def test_a_scaled_warmup_waits_at_its_top_for_the_unscaled_end():
    s = composer.CosineAnnealingWithWarmupScheduler(1.0, "4ba", scale_warmup=True, context=RUN | {"ssr": 0.5})
    assert s.table(5).tolist() == [0.0, 0.5, 1.0, 1.0, 1.0]
    assert s(5) < 1.0


def test_a_warmup_scaled_up_is_cut_at_the_unscaled_end():
    s = composer.CosineAnnealingWithWarmupScheduler(1.0, "4ba", scale_warmup=True, context=RUN | {"ssr": 2.0})
    assert s.table(5).tolist() == [0.0, 0.125, 0.25, 0.375, 1.0]


def test_milestones_within_a_warmup_act_after_it():
    s = composer.MultiStepWithWarmupScheduler(1.0, "4ba", ["2ba", "6ba"], gamma=0.5)
    assert s.table(7).tolist() == [0.0, 0.25, 0.5, 0.75, 0.5, 0.5, 0.25]


# ---- errors ----


@pytest.mark.parametrize(
    ("name", "arguments", "context", "message"),
    [
        ("LinearScheduler", {}, {}, "context must have 'max_duration', got none"),
        ("LinearScheduler", {"t_max": "3ep"}, {}, "context must have 'dataloader_len', got none"),
        ("LinearScheduler", {"t_max": "3sp"}, {}, "context must have 'batch_size', got none"),
        ("LinearScheduler", {"t_max": "3tok"}, {"batch_size": 4}, "context must have 'sequence_length', got none"),
        ("LinearScheduler", {"t_max": "90sec"}, {}, "t_max must be in epochs, .*got '90sec'"),
        ("LinearScheduler", {"t_max": "1h30m"}, {}, "t_max must be in epochs, .*got '1h30m'"),
        ("LinearScheduler", {"t_max": "3iter"}, {}, "t_max must be in epochs, .*got '3iter'"),
        ("LinearScheduler", {"t_max": "1.5ep"}, {}, "t_max must be a whole number of ep, got '1.5ep'"),
        ("LinearScheduler", {"t_max": "0.01dur"}, RUN, "t_max must be at least 1ba, got '0.01dur', .*cuts off to 0"),
        ("LinearScheduler", {}, {"max_duration": "1dur"}, "max_duration must not be a fraction of itself"),
        ("LinearScheduler", {"t_max": "9ba"}, {"ssr": 0.0}, "ssr must be > 0, got 0.0"),
        ("LinearWithWarmupScheduler", {"t_warmup": "4sp"}, RUN | TEXTS | RUN, "t_warmup and t_max must have one unit"),
        (
            "LinearWithWarmupScheduler",
            {"t_warmup": "4ba", "t_max": "30ba"},
            RUN,
            "t_max must be >= max_duration, got 30ba",
        ),
        ("LinearWithWarmupScheduler", {"t_warmup": "4ba", "t_max": "3ep"}, EPOCHS, "t_max must be >= max_duration"),
        ("StepScheduler", {"step_size": "3ba", "gamma": 0.0}, {}, "StepDecay: gamma must be > 0"),
    ],
)
def test_errors_name_the_schedule_and_the_argument(name, arguments, context, message):
    with pytest.raises(ValueError, match=f"^{name}: {message}"):
        build("composer", name, arguments, base_lr=0.1, context=context)


@pytest.mark.parametrize("time", [10, 0.5, None, True, ["3ba"]])
def test_a_time_without_a_unit_is_refused(time):
    with pytest.raises(TypeError, match=r"^LinearScheduler: t_max must be a time string"):
        composer.LinearScheduler(1.0, t_max=time)


def test_milestones_must_be_a_list():
    with pytest.raises(TypeError, match=r"^MultiStepScheduler: milestones must be a list"):
        composer.MultiStepScheduler(1.0, "10ba")
