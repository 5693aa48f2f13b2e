"""fs.compat.timm beside curves that timm itself made (data/compat_timm.json; its note says which version)."""

import json
from pathlib import Path

import numpy as np
import pytest

import fastsched as fs
from fastsched import compat

CASES = json.loads((Path(__file__).parent / "data" / "compat_timm.json").read_text())["cases"]


@pytest.mark.parametrize("case", CASES, ids=[f"{case['name']}-{i}" for i, case in enumerate(CASES)])
def test_a_scheduler_has_timms_values_with_any_arguments(case):
    values = np.array(case["values"])
    context = {"lr_scale": case["lr_scale"]} if case["lr_scale"] else None
    built = compat.build("timm", case["name"], case["kwargs"], base_lr=case["base_lr"], context=context)
    ours = np.stack([schedule.table(values.shape[1]) for schedule in built])
    # timm's cosine near its zero is good to 1e-16 of its peak
    np.testing.assert_allclose(ours, values, rtol=1e-12, atol=1e-12 * values.max())


# ---- traps ----


def test_without_prefix_the_curve_runs_on_during_the_warmup_and_jumps():
    s = compat.timm.CosineLRScheduler(0.5, t_initial=20, warmup_t=10)
    assert s(9) == 0.45
    assert s(10) == 0.25


def test_tanh_warms_up_to_the_curves_value_instead():
    s = compat.timm.TanhLRScheduler(0.5, t_initial=20, warmup_t=12)
    free = compat.timm.TanhLRScheduler(0.5, t_initial=20)
    assert s(12) == free(12) < 0.45
    assert s(6) == pytest.approx(free(12) / 2, rel=1e-14)


def test_the_constructor_leaves_the_lr_where_the_curve_begins_below():
    s = compat.timm.TanhLRScheduler(1.0, t_initial=20, lb=-1.0)
    assert s(0) == 1.0
    assert s(1) < 0.9


def test_steps_and_milestones_wait_for_the_warmup_by_default():
    s = compat.timm.StepLRScheduler(0.5, decay_t=10, decay_rate=0.5, warmup_t=5)
    assert (s(14), s(15)) == (0.5, 0.25)
    s = compat.timm.StepLRScheduler(0.5, decay_t=10, decay_rate=0.5, warmup_t=5, warmup_prefix=False)
    assert (s(9), s(10)) == (0.5, 0.25)


def test_a_milestone_acts_one_step_early():
    s = compat.timm.MultiStepLRScheduler(0.5, decay_t=[30], decay_rate=0.5)
    assert (s(28), s(29)) == (0.5, 0.25)


def test_a_restart_that_timm_misplaces_is_at_its_place():
    s = compat.timm.CosineLRScheduler(0.5, t_initial=10, cycle_mul=3.0, cycle_limit=9)
    assert s(1210) == 0.5
    assert s(1209) < 1e-5


def test_the_minimum_is_absolute_but_scaled_with_the_group():
    first, second = compat.timm.CosineLRScheduler(
        [0.5, 0.25], t_initial=20, lr_min=0.1, context={"lr_scale": [1.0, 0.5]}
    )
    assert (first(0), first(20)) == (0.5, 0.1)
    assert (second(0), second(20)) == (0.125, 0.05)


def test_after_the_last_cycle_it_is_at_the_minimum():
    s = compat.timm.TanhLRScheduler(0.5, t_initial=10, cycle_decay=0.5, cycle_limit=2, lr_min=0.125)
    assert s(19) > s(20) == s(999) == 0.125


def test_cycles_of_one_shape_are_one_repeated_curve_however_many():
    s = compat.timm.PolyLRScheduler(0.5, t_initial=10, cycle_limit=10**9)
    assert s(10**9) == 0.5
    assert len(s.to_json()) < 500


def test_many_different_cycles_are_refused_not_built():
    with pytest.raises(ValueError, match=r"^PolyLRScheduler: cycle_limit must be <= 2\*\*16 where cycles differ, got"):
        compat.timm.PolyLRScheduler(0.5, t_initial=10, cycle_limit=10**9, cycle_decay=0.9)


def test_a_function_of_the_decays_progress_becomes_samples():
    s = compat.timm.WSDLRScheduler(1.0, t_initial=10, decay_t=4, decay_fn=lambda x: 1 - x**3)
    np.testing.assert_allclose(s.table(12)[5:], [1, 1, 1 - 1 / 64, 1 - 1 / 8, 1 - 27 / 64, 0, 0], rtol=1e-15)


# ---- noise ----


def noisy(**how):
    return compat.timm.StepLRScheduler(0.5, decay_t=1, decay_rate=1.0, **how)


def test_noise_is_in_its_range_of_steps_only():
    table = noisy(noise_range_t=[5, 9]).table(20)
    changed = table != 0.5
    assert changed.tolist() == [5 <= t < 9 for t in range(20)]
    endless = noisy(noise_range_t=0).table(2000) != 0.5
    assert endless.tolist() == [False, *[True] * 1999]  # step 0 has what the constructor leaves


def test_noise_is_within_its_limit_and_as_wide_as_asked():
    table = noisy(noise_range_t=1, noise_pct=0.3).table(5000)[1:] / 0.5 - 1
    assert 0.29 < np.abs(table).max() < 0.3
    narrow = noisy(noise_range_t=1, noise_std=0.05).table(5000)[1:] / 0.5 - 1
    assert narrow.std() == pytest.approx(0.05, rel=0.05)  # 5,000 draws: 1% off is one standard error


def test_noise_is_one_for_all_groups_and_another_for_another_seed():
    first, second = compat.timm.StepLRScheduler([0.5, 0.25], 1, noise_range_t=1)
    np.testing.assert_allclose(first.table(50), 2 * second.table(50), rtol=1e-15)
    assert noisy(noise_range_t=1, noise_seed=None) == noisy(noise_range_t=1)
    assert noisy(noise_range_t=1, noise_seed=1)(7) != noisy(noise_range_t=1)(7)


# ---- errors ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.PlateauLRScheduler(0.1),
            r"^PlateauLRScheduler: a schedule must be a function of the step, got one",
        ),
        (lambda m: m.CosineLRScheduler(0.1, 0), r"^CosineLRScheduler: t_initial must be > 0, got 0; pass a number of"),
        (lambda m: m.CosineLRScheduler(0.1, 9, warmup_t=-1), r"warmup_t must be a whole number >= 0, got -1; round it"),
        (lambda m: m.CosineLRScheduler(0.1), r"^CosineLRScheduler: missing a required argument: 't_initial'; its arg"),
        (lambda m: m.WSDLRScheduler(0.1, 5, 6), r"^WSDLRScheduler: decay_t must be <= t_initial, got 6 and 5; shorten"),
        (
            lambda m: m.WSDLRScheduler(0.1, 9, 6, decay_fn="x"),
            r"^WSDLRScheduler: decay_fn must be a known one, got 'x'",
        ),
        (
            lambda m: m.WSDLRScheduler(0.1, 9, 6, stable_fn="rsqrt"),
            r"stable_timescale must be > 0, got 0; pass stable_t",
        ),
        (
            lambda m: m.create_scheduler_v2(0.1, "saw"),
            r"^create_scheduler_v2: sched must be a known one, got 'saw'; pass",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(compat.timm)


def test_a_scale_for_each_group_is_asked_for():
    with pytest.raises(
        ValueError, match=r"^StepLRScheduler: lr_scale must have one value per group, got 1 for 2; pass"
    ):
        compat.timm.StepLRScheduler([0.1, 0.2], 5, context={"lr_scale": [1.0]})


def test_a_schedule_survives_json():
    for case in CASES:
        for s in compat.build("timm", case["name"], case["kwargs"], base_lr=case["base_lr"]):
            assert fs.from_json(s.to_json()) == s
