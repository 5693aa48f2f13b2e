"""fs.compat.torchtitan beside curves that torchtitan's own module produced, and what is peculiar to them."""

import math

import pytest
from recorded import assert_reproduced, recorded

from fastsched.compat import build
from fastsched.compat.torchtitan import LRSchedulersContainer

CASES = recorded("torchtitan")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_schedule_reproduces_the_recorded_curve(case):
    assert_reproduced("torchtitan", case)


def test_the_first_update_is_not_at_0_and_the_last_warmup_update_is_at_the_peak():
    s = LRSchedulersContainer(1.0, warmup_steps=10, total_steps=100)
    assert (s(0), s(9)) == (0.1, 1.0)


def test_the_decay_begins_late_and_ends_after_the_last_update():
    """W=10, D=20, T=100: still 1 at t=80, 1/D at t=99."""
    s = LRSchedulersContainer(1.0, warmup_steps=10, total_steps=100, decay_ratio=0.2)
    assert (s(80), s(81)) == (1.0, 0.95)
    assert s(99) == pytest.approx(1 / 20, rel=1e-14)
    assert s(100) == 0.0


def test_a_line_goes_on_below_its_floor_past_the_end():
    s = LRSchedulersContainer(1.0, warmup_steps=0, total_steps=10, min_lr_factor=0.5)
    assert (s(10), s(20)) == (0.5, 0.0)
    assert s(30) == pytest.approx(-0.5, rel=1e-14)


def test_a_root_goes_on_below_0_past_the_end():
    s = LRSchedulersContainer(1.0, warmup_steps=0, total_steps=10, decay_type="sqrt")
    assert s(40) == pytest.approx(-1.0, rel=1e-14)


def test_a_cosine_rises_again_past_the_end():
    s = LRSchedulersContainer(1.0, warmup_steps=0, total_steps=10, decay_type="cosine")
    assert (s(10), s(20), s(30)) == (0.0, 1.0, 0.0)


def test_warmup_and_decay_that_exceed_the_run_are_cut():
    s = LRSchedulersContainer(1.0, warmup_steps=10, total_steps=30, decay_ratio=0.9)
    assert s == LRSchedulersContainer(1.0, warmup_steps=10, total_steps=30)
    longest = LRSchedulersContainer(1.0, warmup_steps=99, total_steps=30)
    assert (longest(28), longest(29), longest(99)) == (pytest.approx(29 / 30, rel=1e-15), 1.0, 1.0)


def test_the_decay_is_rounded_to_even():
    """round(2.5) is 2."""
    s = LRSchedulersContainer(1.0, warmup_steps=0, total_steps=10, decay_ratio=0.25)
    assert (s(8), s(9), s(10)) == (1.0, 0.5, 0.0)


def test_total_steps_go_before_the_runs_own():
    run = {"training_steps": 100}
    assert LRSchedulersContainer(1.0, context=run) == LRSchedulersContainer(1.0, total_steps=100)
    assert LRSchedulersContainer(1.0, total_steps=50, context=run) == LRSchedulersContainer(1.0, total_steps=50)


def test_each_group_keeps_its_own_lr():
    first, second = LRSchedulersContainer([1.0, 0.5], warmup_steps=4, total_steps=9)
    assert first.table(12).tolist() == (second.table(12) * 2).tolist()


@pytest.mark.parametrize("decay_type", ["linear", "sqrt", "cosine"])
def test_the_schedule_has_no_end(decay_type):
    assert LRSchedulersContainer(1.0, total_steps=900, decay_type=decay_type).steps == math.inf


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "context must have 'training_steps', got none"),
        ({"total_steps": 10, "decay_type": "square"}, "decay_type must be a known one, got 'square'"),
        ({"total_steps": 10, "decay_ratio": -0.1}, "decay_ratio must be >= 0, got -0.1"),
        ({"total_steps": 0}, "total_steps must be a whole number >= 1, got 0"),
        ({"total_steps": 10, "warmup_steps": -1}, "warmup_steps must be a whole number >= 0, got -1"),
    ],
)
def test_errors_name_the_schedule_and_the_argument(arguments, message):
    with pytest.raises(ValueError, match=f"^LRSchedulersContainer: {message}"):
        build("torchtitan", "LRSchedulersContainer", arguments, base_lr=0.1)
