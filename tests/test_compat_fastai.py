"""fs.compat.fastai: beside curves recorded from fastai (data/compat_fastai.json), and each of its traps."""

import functools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recorded import assert_reproduced, recorded

import fastsched as fs
from fastsched import compat
from fastsched.compat import fastai

CASES = recorded("fastai")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_gives_what_fastai_gave(case):
    if case.get("precision") != "mixed32":
        assert_reproduced("fastai", case)
        return
    values = np.array(case["values"])
    made = compat.build(
        "fastai", case["name"], case["kwargs"], hyperparameter=case["hyperparameter"], context=case["context"]
    )
    # fastai's limits of combined parts are float32, whose epsilon is 1.2e-7
    np.testing.assert_allclose(made.table(len(values)), values, rtol=0, atol=1e-6 * np.abs(values).max())
    assert fs.from_json(made.to_json()) == made


def test_every_name_that_gives_a_curve_has_a_recorded_one():
    assert {case["name"] for case in CASES.values()} == set(fastai.__all__) - {"LRFinder", "ParamScheduler"}


# ---- traps ----

TEN = {"n": 10}


def test_the_number_of_updates_may_be_given_as_epochs_times_batches():
    assert fastai.SchedCos(1.0, 0.0, context={"n_epoch": 2, "n_iter": 5}) == fastai.SchedCos(1.0, 0.0, context=TEN)


def test_a_polynomial_is_slow_at_first():
    s = fastai.SchedPoly(1.0, 0.0, 2, context=TEN)
    assert s(1) == pytest.approx(0.99, rel=1e-15)


@pytest.mark.parametrize("power", [0.5, 1.7, 3, 9])
def test_any_power_goes_on_past_the_end(power):
    s = fastai.SchedPoly(1.0, 0.5, power, context=TEN)
    expected = [1.0 - 0.5 * (t / 10) ** power for t in range(20)]
    np.testing.assert_allclose(s.table(20), expected, atol=1e-13 * max(map(abs, expected)))


def test_the_last_part_goes_on_past_the_end():
    parts = [lambda: fastai.SchedNo(1.0, 0.0), lambda: fastai.SchedLin(1.0, 0.0)]
    s = fastai.combine_scheds([0.5, 0.5], parts, context=TEN)
    assert (s(10), s(15)) == (0.0, -1.0)


def test_one_cycles_end_is_relative_to_the_peak():
    s = fastai.fit_one_cycle(4, 0.5, div=10.0, div_final=100.0, context={"n_iter": 10})
    assert (s(0), s(10), s(40)) == (0.05, 0.5, 0.005)


def test_one_cycle_peaks_between_updates():
    s = fastai.fit_one_cycle(1, 1.0, context={"n_iter": 10})  # at 2.5
    rise = (1 - math.cos(math.pi * 2 / 2.5)) / 2
    assert s(2) == pytest.approx(0.04 + 0.96 * rise, rel=1e-14)
    assert s(3) < 1.0


def test_one_cycle_takes_the_learners_defaults():
    assert fastai.fit_one_cycle(4, context={"n_iter": 10}) == fastai.fit_one_cycle(4, 1e-3, context={"n_iter": 10})
    momentum = fastai.fit_one_cycle(4, hyperparameter="momentum", context={"n_iter": 10})
    assert (momentum(0), momentum(10), momentum(40)) == (0.95, 0.85, 0.95)


def test_a_restart_that_float32_misses_is_one_update_late():
    s = fastai.fit_sgdr(3, 1, 1.0, context={"n_iter": 6})  # 1/7 + 2/7 is above 3/7 in float32
    assert (s(6), s(18)) == (1.0, 0.0)
    assert s(19) == pytest.approx((1 + math.cos(math.pi / 24)) / 2, rel=1e-14)


def test_cycles_of_one_length_do_not_divide_by_zero():
    s = fastai.fit_sgdr(2, 1, 1.0, cycle_mult=1, context={"n_iter": 10})
    assert (s(0), s(5), s(10), s(15), s(20)) == (1.0, 0.5, 1.0, 0.5, 0.0)


@given(st.integers(1, 300), st.lists(st.integers(1, 30), min_size=1, max_size=5))
def test_parts_begin_where_torchs_float32_says(n, weights):
    pcts = [weight / sum(weights) for weight in weights]
    s = fastai.combine_scheds(pcts, [fs.Constant(float(i)) for i in range(len(pcts))], context={"n": n})
    limits = torch.cumsum(torch.tensor([0.0, *pcts]), 0)
    for t in range(n):
        index = min(int((t / n >= limits).nonzero().max()), len(pcts) - 1)
        assert s(t) == index


def test_parts_may_be_schedules_over_all_updates():
    curves = [fs.Linear(0.0, 1.0, steps=40), fs.Cosine(1.0, 0.5, steps=40)]
    functions = [functools.partial(fastai.SchedLin, 0.0, 1.0), lambda: fastai.SchedCos(1.0, 0.5)]
    made = [fastai.combine_scheds([0.3, 0.7], scheds, context={"n": 40}).table(40) for scheds in (curves, functions)]
    # The one way runs a curve of 40 steps faster, the other makes one of 12 or 28: an ulp or two apart
    np.testing.assert_allclose(*made, rtol=1e-14)


def test_a_share_of_all_or_nothing_leaves_one_part():
    for pct, first, last in ((0.0, 2.0, 3.0), (1.0, 1.0, 2.0)):
        s = fastai.combined_cos(pct, 1.0, 2.0, 3.0, context=TEN)
        assert (s(0), s(9)) == (first, pytest.approx(last, abs=0.05))


def test_the_callback_knows_the_momentum_as_mom():
    scheds = {"lr": lambda: fastai.SchedNo(0.1, 0.0), "mom": lambda: fastai.SchedNo(0.9, 0.0)}
    assert fastai.ParamScheduler(scheds) == fs.Constant(0.1)
    assert fastai.ParamScheduler(scheds, hyperparameter="momentum") == fs.Constant(0.9)


def test_fine_tune_is_two_one_cycles_the_second_at_half_the_lr():
    s = fastai.fine_tune(4, 1.0, freeze_epochs=2, context={"n_iter": 10})
    second = fastai.fit_one_cycle(4, 0.5, div=5.0, pct_start=0.3, context={"n_iter": 10})
    assert s.steps == 60
    assert s.table(40, start=20).tolist() == second.table(40).tolist()


def test_the_finder_takes_at_least_6_updates():
    assert fastai.LRFinder(1e-3, 1.0, num_it=2) == fs.Geometric(1e-3, 1.0, steps=6)


# ---- messages ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fastai.SchedLin(1.0, 0.0), r"context must have 'n', got none; pass context=\{'n': 1000\}"),
        (lambda: fastai.fit_one_cycle(4, 1.0), "context must have 'n_iter', got none; pass"),
        (lambda: fastai.fit_one_cycle(0, 1.0, context={"n_iter": 5}), "n_epoch must be >= 1, got 0; pass"),
        (lambda: fastai.fit_one_cycle(1, 1.0, div=0, context={"n_iter": 5}), "div must be > 0, got 0; pass"),
        (
            lambda: fastai.fit_one_cycle(1, 1.0, moms=(0.9, 0.8), hyperparameter="momentum", context={"n_iter": 5}),
            "moms must be 3, got 2; pass the first, middle and last one",
        ),
        (lambda: fastai.SchedExp(1.0, 0.0, context=TEN), "start and end must have one sign and not be 0, got 1.0"),
        (lambda: fastai.SchedPoly(1.0, 0.0, 0, context=TEN), "power must be > 0, got 0; a straight line has power=1"),
        (
            lambda: fastai.combine_scheds([0.5, 0.6], [fs.Constant(1.0)] * 2, context=TEN),
            "pcts must add up to 1, got 1.1; divide them by that",
        ),
        (
            lambda: fastai.combine_scheds([1.0], [], context=TEN),
            "scheds must be a list as long as pcts, got 0; pass one for each share",
        ),
        (lambda: fastai.combined_cos(1.5, 1.0, 0.0, 0.0, context=TEN), "pct must be <= 1, got 1.5; pass a share"),
        (lambda: fastai.ParamScheduler({"mom": fs.Constant(0.9)}), "scheds must be a dict with 'lr'; pass"),
        (lambda: fastai.fit_sgdr(2, 1, 1.0, hyperparameter="momentum"), "hyperparameter must be 'lr', got 'momentum'"),
    ],
)
def test_a_wrong_value_is_refused_with_the_rule(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fastai.fit_one_cycle(4, slice(1e-3), context={"n_iter": 5}), "lr_max must be a number, got a slice"),
        (lambda: fastai.combine_scheds([1.0], [0.1], context=TEN), "combine_scheds: a part must be"),
        (
            lambda: fastai.fit_sgdr(2, 1, 1.0, cycle_mult=1.5, context={"n_iter": 5}),
            "cycle_mult must be an int, got 1.5",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_the_rule(make, message):
    with pytest.raises(TypeError, match=message):
        make()
