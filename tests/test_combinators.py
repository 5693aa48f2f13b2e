"""What the kinds with cycles and legs, and the ways of putting schedules together, claim beyond their values."""

import contextlib
import copy
import functools
import json
import math
import pickle
from fractions import Fraction

import numpy as np
import oracles
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support import output, same_bits, schedule

import fastsched as fs
from fastsched._program import compile_program

LONGEST = oracles.LONGEST
EPSILON = 2**-52
every_example = pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)


def cycle_starts(first, multiplier):
    begin, length = 0, first
    while begin <= LONGEST:
        yield begin, length
        begin, length = begin + length, length * multiplier


# Restarts.


@pytest.mark.parametrize(("first", "multiplier", "step"), [(1, 3, 121), (10, 3, 1210), (2, 3, 242)])
def test_a_restart_is_counted_exactly_where_a_logarithm_rounds_down(first, multiplier, step):
    s = fs.CosineRestarts(first=first, multiplier=multiplier)
    assert s(step) == 1.0
    assert s(step - 1) < 0.01


@pytest.mark.parametrize("multiplier", [2, 3, 5, 7, 10, 1000, LONGEST])
@pytest.mark.parametrize("first", [1, 2, 3, 10, 97, 2**31 - 1])
def test_every_cycle_of_growing_length_begins_at_the_peak_up_to_the_longest_step(first, multiplier):
    s = fs.CosineRestarts(0.7, 0.1, first=first, multiplier=multiplier)
    last_length = 1
    for begin, length in cycle_starts(first, multiplier):
        assert s(begin) == 0.7
        if last_length >= 2:
            assert s(begin - 1) <= 0.4  # half way down at the latest
        last_length = length


@given(first=oracles.horizons, data=st.data())
def test_every_cycle_of_one_length_begins_at_the_peak_up_to_the_longest_step(first, data):
    begin = first * data.draw(st.integers(0, LONGEST // first))
    s = fs.CosineRestarts(0.7, 0.1, first=first)
    assert s(begin) == 0.7
    assert first == 1 or begin == 0 or s(begin - 1) < 0.7
    assert same_bits(s(begin), fs.Cosine(0.7, 0.1, steps=first).repeat()(begin))


def test_a_restart_happens_at_its_step_and_not_a_fraction_before():
    s = fs.CosineRestarts(first=10, multiplier=3)
    assert s(math.nextafter(1210.0, 0.0)) < 1e-6
    assert s(1210.0) == 1.0


def test_restarts_at_zero_stay_there_however_often_the_start_is_multiplied():
    s = fs.CosineRestarts(0.0, 1.0, first=2, decay=2.0)
    assert [s(10**6), s(10**6 + 1)] == [0.0, 0.5]


def test_the_decay_multiplies_the_start_of_each_cycle_and_leaves_the_end():
    s = fs.CosineRestarts(1.0, 0.25, first=4, decay=0.5, cycles=5)
    assert [s(4 * i) for i in range(6)] == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.25]
    assert s(10) == 0.25  # the third cycle is flat


def test_restarts_hold_the_end_after_the_last_cycle():
    s = fs.CosineRestarts(1.0, 0.1, first=3, multiplier=2, cycles=3)
    assert s.steps == 3 + 6 + 12
    assert [s(20.999999) > 0.1, s(21), s(22), s(LONGEST)] == [True, 0.1, 0.1, 0.1]


def test_restarts_without_a_number_of_cycles_have_no_end():
    assert fs.CosineRestarts(first=3).steps == math.inf


def test_restarts_may_fill_every_step_there_is():
    s = fs.CosineRestarts(1.0, 0.5, first=1, cycles=LONGEST)
    assert s.steps == LONGEST
    assert [s(0), s(LONGEST - 1), s(LONGEST)] == [1.0, 1.0, 0.5]


# Triangular.


@given(up=st.integers(1, 2**40), down=st.integers(1, 2**40), data=st.data())
def test_a_triangle_has_its_top_and_bottom_at_whole_steps_of_every_cycle(up, down, data):
    begin = (up + down) * data.draw(st.integers(0, (LONGEST - up) // (up + down)))
    s = fs.Triangular(0.1, 0.7, up=up, down=down)
    assert [s(begin), s(begin + up)] == [0.1, 0.7]


def test_down_is_as_long_as_up_by_default():
    assert same_bits(fs.Triangular(0.1, 1.0, up=7).table(50), fs.Triangular(0.1, 1.0, up=7, down=7).table(50))


def test_triangular2_halves_the_height_with_every_cycle():
    s = fs.Triangular(1.0, 2.0, up=3, down=5, mode="triangular2")
    assert [s(3 + 8 * i) for i in range(6)] == [1 + 0.5**i for i in range(6)]
    assert [s(8 * i) for i in range(6)] == [1.0] * 6


def test_exp_range_of_gamma_one_is_the_plain_triangle():
    s = fs.Triangular(0.1, 1.0, up=7, mode="exp_range")
    assert same_bits(s.table(50), fs.Triangular(0.1, 1.0, up=7).table(50))


def test_a_triangle_may_point_down():
    s = fs.Triangular(1.0, 0.5, up=2)
    assert list(s.table(5)) == [1.0, 0.75, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("back", range(1, 14))
@pytest.mark.parametrize("cycle", ["CosineRestarts(first=7)", "Triangular(0.0, 1.0, up=2, down=5)"])
def test_the_last_cycle_that_begins_before_the_longest_step_is_like_the_first(cycle, back):
    s = schedule(cycle)
    assert s(LONGEST - back) == pytest.approx(s((LONGEST - back) % 7), rel=4 * EPSILON)


# One cycle.


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize(("steps", "pct_start"), [(10, 0.3), (100, 0.25), (1000, 0.37), (10, 0.1), (2, 0.5)])
def test_a_one_cycle_reaches_its_peak_at_a_whole_step(steps, pct_start, anneal):
    s = fs.OneCycle(0.7, steps=steps, pct_start=pct_start, anneal=anneal)
    assert s(round(pct_start * steps)) == 0.7
    assert s(0) == 0.7 / 25


@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_a_one_cycle_reaches_its_peak_between_two_steps(anneal):
    s = fs.OneCycle(0.7, steps=7, anneal=anneal)
    peak = float(Fraction(0.3) * 7)
    assert 2 < peak < 3
    assert s(peak) == 0.7
    assert s(2) < 0.7
    assert s(3) < 0.7


@pytest.mark.parametrize("pct_start", [0.0, 0.1, 0.3, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_one_cycle_always_ends_at_its_final_value(steps, three_phase, pct_start):
    if three_phase:
        pct_start /= 2
    s = fs.OneCycle(steps=steps, pct_start=pct_start, div_factor=4.0, final_div_factor=8.0, three_phase=three_phase)
    assert [s(steps), s(steps + 1), s(LONGEST)] == [1 / 32] * 3


def test_a_one_cycle_without_its_first_leg_begins_at_the_peak():
    s = fs.OneCycle(steps=4, pct_start=0.0, div_factor=4.0, final_div_factor=2.0, anneal="linear")
    assert list(s.table(5)) == [1.0, 1 - 7 / 32, 1 - 14 / 32, 1 - 21 / 32, 0.125]


def test_a_one_cycle_without_its_last_leg_rises_until_it_ends():
    s = fs.OneCycle(steps=4, pct_start=1.0, div_factor=5.0, final_div_factor=2.0, anneal="linear")
    assert s.table(5) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.1], rel=4 * EPSILON)


def test_three_phases_come_back_to_the_first_value_before_the_last():
    s = fs.OneCycle(steps=10, div_factor=4.0, final_div_factor=2.0, three_phase=True)
    assert [s(0), s(3), s(6), s(10)] == [0.25, 1.0, 0.25, 0.125]
    assert np.all(np.diff(s.table(11, start=3)) <= 0)


def test_three_phases_of_half_the_steps_leave_out_the_last_leg():
    s = fs.OneCycle(steps=4, pct_start=0.5, div_factor=4.0, final_div_factor=2.0, anneal="linear", three_phase=True)
    assert list(s.table(6)) == [0.25, 0.625, 1.0, 0.625, 0.125, 0.125]


@pytest.mark.parametrize("pct_start", [5e-324, 1e-300, 1e-200, 2**-53, 1 - 2**-53])
@pytest.mark.parametrize("anneal", ["cos", "linear"])
def test_a_leg_may_be_as_short_as_a_number_can_tell(pct_start, anneal):
    s = fs.OneCycle(steps=3, pct_start=pct_start, anneal=anneal)
    for values, low, high in [(s.table(5), 0.04e-4, 1.0), (s.momentum().table(5), 0.85, 0.95)]:
        assert np.all((values >= low) & (values <= high))
    assert [s(0), s.momentum(0.0, 1e157)(0)] == [1 / 25, 1e157]


def test_linear_legs_are_lines():
    s = fs.OneCycle(steps=8, pct_start=0.25, div_factor=2.0, final_div_factor=2.0, anneal="linear")
    assert list(s.table(10)) == [0.5, 0.75, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.25]


@pytest.mark.parametrize("anneal", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_the_momentum_of_a_one_cycle_mirrors_it(anneal, three_phase):
    s = fs.OneCycle(steps=20, pct_start=0.3, anneal=anneal, three_phase=three_phase)
    twin = s.momentum(0.8, 0.9)
    assert twin == fs.OneCycleMomentum(0.8, 0.9, steps=20, pct_start=0.3, anneal=anneal, three_phase=three_phase)
    assert [twin(0), twin(6), twin(20), twin(LONGEST)] == [0.9, 0.8, 0.9, 0.9]
    assert np.argmin(twin.table(21)) == np.argmax(s.table(21)) == 6


def test_the_momentum_of_three_phases_holds_in_the_third():
    twin = fs.OneCycle(steps=20, pct_start=0.25, three_phase=True).momentum(0.8, 0.9)
    assert set(twin.table(20, start=10)) == {0.9}
    assert twin(9) < 0.9


# Warmup, stable, decay; infinite.


def line(start, end, steps):
    return fs.Linear(start, end, steps=steps)


@pytest.mark.parametrize(
    ("warmup", "stable", "decay", "chain"),
    [
        (4, 5, 8, line(0.0, 2.0, 4).then(fs.Constant(2.0, steps=5)).then(line(2.0, 0.5, 8))),
        (0, 5, 8, fs.Constant(2.0, steps=5).then(line(2.0, 0.5, 8))),
        (4, 0, 8, line(0.0, 2.0, 4).then(line(2.0, 0.5, 8))),
        (4, 5, 0, line(0.0, 2.0, 4).then(fs.Constant(2.0, steps=5))),
        (0, 0, 8, line(2.0, 0.5, 8)),
        (0, 5, 0, fs.Constant(2.0, steps=5)),
        (4, 0, 0, line(0.0, 2.0, 4)),
    ],
)
def test_a_part_of_no_steps_is_left_out(warmup, stable, decay, chain):
    s = fs.WarmupStableDecay(2.0, warmup=warmup, stable=stable, decay=decay, end=0.5)
    assert s.steps == chain.steps == warmup + stable + decay
    assert same_bits(s.table(30), chain.table(30))


HALF_WAY = {
    "linear": 0.5,
    "cosine": 0.5,
    "sqrt": 1 - math.sqrt(0.5),
    "square": 0.75,
    "exponential": 2 * math.sqrt(0.5) - 1,
}


@pytest.mark.parametrize("shape", oracles.DECAYS)
@pytest.mark.parametrize(
    "s",
    [
        lambda shape: fs.WarmupStableDecay(2.0, warmup=3, stable=7, decay=8, shape=shape, end=1.0),
        lambda shape: fs.Constant(2.0).cooldown(at=10, steps=8, shape=shape, end=1.0),
    ],
    ids=["WarmupStableDecay", "cooldown"],
)
def test_a_decay_of_every_shape_leads_from_the_peak_to_the_end(s, shape):
    s = s(shape)
    assert [s(9), s(10), s(18), s(19), s(LONGEST)] == [2.0, 2.0, 1.0, 1.0, 1.0]
    assert s(14) == pytest.approx(1 + HALF_WAY[shape], rel=4 * EPSILON)
    assert np.all(np.diff(s.table(9, start=10)) < 0)


def test_an_infinite_schedule_stays_on_its_plateau():
    s = fs.Infinite(warmup=10, cosine=100, plateau=0.3)
    assert s.steps == math.inf
    assert [s(0), s(10), s(110), s(LONGEST)] == [0.0, 1.0, 0.3, 0.3]


def test_an_infinite_schedule_with_a_cooldown_has_an_end():
    s = fs.Infinite(warmup=10, cosine=100, plateau=0.4, constant=20, cooldown=2, end=0.1)
    assert s.steps == 132
    assert [s(110), s(129), s(130), s(132), s(LONGEST)] == [0.4, 0.4, 0.4, 0.1, 0.1]
    assert s(131) == pytest.approx(0.2, rel=4 * EPSILON)


def test_an_infinite_schedule_may_leave_out_warmup_and_plateau():
    s = fs.Infinite(2.0, warmup=0, cosine=4, plateau=0.5, constant=0, cooldown=1, end=0.25)
    assert [s(0), s(4), s(5)] == [2.0, 0.5, 0.25]


def test_runs_of_different_lengths_branch_off_one_infinite_schedule():
    run = fs.Infinite(warmup=10, cosine=100, plateau=0.3)
    for at in (50, 110, 5000):
        branch = run.cooldown(at=at, steps=20, shape="sqrt")
        assert same_bits(branch.table(at + 1), run.table(at + 1))
        assert branch(at + 20) == 0.0


# Head.


@every_example
def test_a_head_is_the_first_steps_and_then_the_value_there(case):
    run = schedule(case)
    for steps in (1, 57, 400, 1300):
        s = run.head(steps)
        assert s.steps == steps
        assert same_bits(s.table(steps + 1), run.table(steps + 1))
        assert same_bits(s([steps + 0.5, steps + 1, 2**53]), [run(steps)] * 3)


@every_example
def test_what_follows_a_head_begins_at_its_end(case):
    run, other = schedule(case), line(7.0, 3.0, 8)
    s = run.head(57).then(other)
    assert same_bits(s.table(57), run.table(57))
    assert same_bits(s.table(20, start=57), other.table(20))


def test_a_head_longer_than_its_schedule_holds_the_last_value():
    s = line(1.0, 0.5, 10).head(100).then(fs.Constant(2.0))
    assert [s(10), s(99), s(100)] == [0.5, 0.5, 2.0]


def test_a_head_keeps_the_noise_of_its_end():
    run = fs.Constant(1.0).noisy(0.5, seed=3)
    assert list(run.head(3).table(5)) == [run(0), run(1), run(2), run(3), run(3)]


def test_a_head_of_a_head_ends_with_the_shorter_one():
    s = line(1.0, 0.0, 8)
    for pair in (s.head(2).head(6), s.head(6).head(2)):
        assert list(pair.table(8)) == [1.0, 0.875, *[0.75] * 6]


def test_a_head_whose_value_at_the_end_is_not_finite_is_refused():
    with pytest.raises(ValueError, match=r"head\b.*finite.*; \w"):
        fs.Exponential(1.0, gamma=2.0).head(2000)


# Cooldown.


@every_example
def test_a_cooldown_leaves_what_is_before_it_and_continues_from_there(case):
    run = schedule(case)
    for at in (0, 1, 57, 400, 1300):
        branch = run.cooldown(at=at, steps=10, end=0.125)
        assert branch.steps == at + 10
        assert same_bits(branch.table(at + 1), run.table(at + 1))
        assert [branch(at + 10), branch(at + 11)] == [0.125, 0.125]
        middle = (run(at) + 0.125) / 2
        assert branch(at + 5) == pytest.approx(middle, rel=0, abs=4 * EPSILON * max(abs(run(at)), 0.125))


def test_a_cooldown_past_the_end_continues_from_the_last_value():
    s = line(1.0, 0.5, 10).cooldown(at=100, steps=5)
    assert [s(10), s(100), s(105)] == [0.5, 0.5, 0.0]


def test_a_cooldown_of_a_noisy_schedule_leaves_the_noise_behind():
    run = fs.Constant(1.0).noisy(0.5, seed=3)
    s = run.cooldown(at=7, steps=4)
    assert list(s.table(5, start=7)) == [run(7), run(7) * 0.75, run(7) * 0.5, run(7) * 0.25, 0.0]


def test_a_cooldown_can_be_cooled_down_again():
    s = fs.Constant(1.0).cooldown(at=4, steps=4).cooldown(at=6, steps=2, end=0.25)
    assert list(s.table(10)) == [1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.375, 0.25, 0.25]


def test_a_cooldown_ends_an_endless_schedule_so_that_another_may_follow():
    s = fs.Constant(1.0).cooldown(at=2, steps=2).then(fs.Constant(0.5))
    assert list(s.table(6)) == [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]


# Repeat.


@given(data=st.data(), times=st.none() | st.integers(1, 1000))
def test_a_repeated_schedule_gives_the_same_bits_in_every_cycle(data, times):
    kind = data.draw(st.sampled_from(["Cosine", "Linear", "Rex", "WarmupStableDecay", "Samples"]))
    case = data.draw(oracles.KINDS[kind].cases(steps=oracles.short_horizons, **dict.fromkeys(
        ["warmup", "stable", "decay"], oracles.short_horizons)))  # fmt: skip
    s, length = schedule(case), int(case.steps)
    turn = data.draw(st.integers(0, (times or LONGEST // length) - 1))
    step = data.draw(st.integers(0, length - 1))
    assert same_bits(s.repeat(times)(turn * length + step), s(step))
    if turn * length < 2**50:
        assert same_bits(s.repeat(times)(turn * length + step + 0.25), s(step + 0.25))


def test_a_repeated_schedule_begins_again_at_every_multiple_of_its_steps():
    s = line(1.0, 0.0, 4).repeat()
    assert s.steps == math.inf
    assert list(s.table(9)) == [1.0, 0.75, 0.5, 0.25, 1.0, 0.75, 0.5, 0.25, 1.0]
    assert s(LONGEST) == 1.0
    assert s(LONGEST - 1) == 0.25


def test_a_schedule_repeated_so_many_times_holds_its_end():
    s = line(1.0, 0.0, 4).repeat(2)
    assert s.steps == 8
    assert [s(7), s(7.5), s(8), s(9), s(LONGEST)] == [0.25, 0.125, 0.0, 0.0, 0.0]


def test_a_schedule_repeated_once_is_itself():
    assert same_bits(fs.Cosine(steps=7).repeat(1).table(20), fs.Cosine(steps=7).table(20))


def test_a_schedule_of_one_step_can_be_repeated():
    s = line(1.0, 0.0, 1).repeat(3)
    assert [s(0), s(0.5), s(1), s(2), s(2.75), s(3)] == [1.0, 0.5, 1.0, 1.0, 0.25, 0.0]


def test_repeating_a_repeated_schedule_multiplies_the_times():
    s = line(1.0, 0.0, 5)
    assert same_bits(s.repeat(2).repeat(3).table(40), s.repeat(6).table(40))
    assert same_bits(s.repeat(2).repeat().table(40), s.repeat().table(40))
    steps = np.arange(0.0, 40.0, 0.125)
    assert same_bits(s.repeat(2).repeat(3)(steps), s.repeat(6)(steps))


def test_cycles_nest_as_deep_as_steps_allow():
    s = functools.reduce(lambda s, _: s.repeat(2), range(52), line(1.0, 0.0, 2))
    assert s.steps == LONGEST
    assert [s(0), s(1), s(2), s(LONGEST - 1), s(LONGEST)] == [1.0, 0.5, 1.0, 0.5, 0.0]


def test_a_composition_is_repeated_as_a_whole():
    inner = (line(0.0, 1.0, 3).then(0.5 * fs.Cosine(steps=5)) * line(1.0, 0.5, 6)).warmup(2) + 0.25
    length = inner.steps
    assert same_bits(inner.repeat(3).table(3 * length), np.tile(inner.table(length), 3))


def test_cycles_in_a_chain_count_from_their_own_beginning():
    cycle = line(1.0, 0.0, 4)
    s = fs.Constant(5.0, steps=3).then(cycle.repeat(2)).then(fs.Constant(7.0, steps=1)).then(cycle.repeat())
    expected = [5.0] * 3 + list(cycle.table(4)) * 2 + [7.0] + list(cycle.table(4)) * 2
    assert list(s.table(20)) == expected


def test_what_follows_cycles_in_a_product_keeps_the_time():
    s = line(1.0, 0.0, 2).repeat() * fs.Samples([1.0, 2.0, 3.0, 4.0])
    assert list(s.table(5)) == [1.0, 1.0, 3.0, 2.0, 4.0]


# Sums and bounds.


def test_a_sum_adds_at_every_step_and_runs_as_long_as_the_longer_one():
    a, b = fs.Cosine(steps=10), line(0.5, 0.25, 7)
    assert (a + b).steps == 10
    assert same_bits((a + b).table(15), a.table(15) + b.table(15))


def test_a_number_is_added_to_the_whole_schedule():
    s = line(1.0, 0.0, 4)
    assert (s + 0.5).steps == (0.5 + s).steps == 4
    assert list((s + 0.5).table(6)) == [1.5, 1.25, 1.0, 0.75, 0.5, 0.5]
    assert same_bits((2 + s).table(6), (s + 2.0).table(6))


def test_a_number_is_added_to_an_endless_schedule():
    assert (fs.Constant(1.0) + 1).steps == math.inf


def test_adding_a_numpy_float_gives_a_schedule_from_both_sides():
    s = fs.Cosine(steps=10)
    assert same_bits((np.float64(0.5) + s).table(12), (s + 0.5).table(12))


def test_the_builtin_sum_adds_schedules():
    parts = [fs.Cosine(steps=10), line(0.5, 0.25, 7), fs.Constant(0.125, steps=3)]
    assert same_bits(sum(parts).table(12), sum(s.table(12) for s in parts))


@every_example
def test_a_clipped_schedule_is_within_its_bounds_and_the_same_between_them(case):
    s = schedule(case)
    values = s.table(1100)
    assert same_bits(s.clip(0.2, 0.6).table(1100), np.clip(values, 0.2, 0.6))
    assert same_bits(s.clip(low=0.2).table(1100), np.maximum(values, 0.2))
    assert same_bits(s.clip(high=0.6).table(1100), np.minimum(values, 0.6))
    assert s.clip(0.2, 0.6).steps == s.steps


def test_clip_takes_its_bounds_by_position_low_first():
    assert fs.Cosine(steps=9).clip(0.2, 0.6) == fs.Cosine(steps=9).clip(high=0.6, low=0.2)


def test_bounds_may_be_equal():
    assert set(fs.Cosine(steps=9).clip(0.5, 0.5).table(12)) == {0.5}


def test_a_ceiling_holds_past_the_range_of_numbers():
    assert fs.Exponential(gamma=2.0).clip(high=3.0)(10**9) == 3.0


def test_a_floor_is_absolute_below_a_scaled_schedule():
    s = (0.1 * line(1.0, 0.0, 10)).clip(low=0.05)
    assert [s(0), s(4), s(6), s(99)] == [0.1, pytest.approx(0.06, rel=9 * EPSILON), 0.05, 0.05]


# Stretch.


def stretchable(case):
    """Logarithmic is no function of progress; a damped triangle's gamma is rounded anew, which t steps multiply.

    A speed rounds the time of every step: another one where all is longer.
    """
    return not any(text in case.text for text in ("Logarithmic", "shape='log'", "exp_range", "noisy", "speed_up"))


@pytest.mark.parametrize(
    "case", [case for case in oracles.EXAMPLES.values() if stretchable(case)], ids=lambda case: case.text[:60]
)
@pytest.mark.parametrize("factor", [2, 3])
def test_a_stretched_schedule_takes_as_many_times_longer(case, factor):
    s = schedule(case).stretch(factor)
    stretched = oracles.stretch(case, factor)
    assert s.steps == stretched.steps
    for t in [*range(0, 1300, 13), *(edge for edge in case.edges if factor * edge <= LONGEST)]:
        assert stretched.error(s(factor * t), factor * t) <= stretched.tolerance()


def test_a_stretched_damped_triangle_keeps_its_envelope():
    s = fs.Triangular(0.01, 1.0, up=5, mode="exp_range", gamma=0.99)
    t = np.arange(300)
    assert s.stretch(3)(3 * t) == pytest.approx(s(t), rel=1000 * EPSILON)  # gamma's rounding, times 900 steps


@every_example
def test_stretching_by_one_changes_nothing(case):
    assert schedule(case).stretch(1) == schedule(case)


@pytest.mark.parametrize(
    ("text", "factor", "stretched"),
    [
        ("Constant(1.0)", 3, "Constant(1.0)"),
        ("Constant(1.0, steps=2)", 3, "Constant(1.0, steps=6)"),
        ("Cosine(steps=10, cycles=1.5)", 3, "Cosine(steps=30, cycles=1.5)"),
        ("Logarithmic(steps=10)", 3, "Logarithmic(steps=30)"),
        ("Exponential(gamma=0.5, every=2)", 3, "Exponential(gamma=0.5, every=6)"),
        ("StepDecay(gamma=0.5, every=3)", 0.5, "StepDecay(gamma=0.5, every=1.5)"),
        ("MultiStep(milestones=[30, 60], gamma=0.1)", 1.5, "MultiStep(milestones=[45, 90], gamma=0.1)"),
        ("Piecewise(boundaries=[0, 4], values=[3, 2, 1])", 0.5, "Piecewise(boundaries=[0, 2], values=[3, 2, 1])"),
        ("InverseSqrt(timescale=10, shift=-4)", 3, "InverseSqrt(timescale=30, shift=-12)"),
        ("InverseTime(rate=0.5, every=2)", 3, "InverseTime(rate=0.5, every=6)"),
        ("PowerLaw(exponent=0.5, timescale=10)", 0.25, "PowerLaw(exponent=0.5, timescale=2.5)"),
        ("Tanh(steps=10)", 3, "Tanh(steps=30)"),
        ("Triangular(0, 1, up=4)", 1.5, "Triangular(0, 1, up=6)"),
        ("Triangular(0, 1, up=4, down=2)", 1.5, "Triangular(0, 1, up=6, down=3)"),
        ("CosineRestarts(first=10, multiplier=2, cycles=3)", 3, "CosineRestarts(first=30, multiplier=2, cycles=3)"),
        ("OneCycle(steps=10)", 3, "OneCycle(steps=30)"),
        ("OneCycleMomentum(steps=10)", 3, "OneCycleMomentum(steps=30)"),
        ("WarmupStableDecay(warmup=0, stable=4, decay=6)", 1.5, "WarmupStableDecay(warmup=0, stable=6, decay=9)"),
        ("Infinite(warmup=2, cosine=4, plateau=0.5)", 1.5, "Infinite(warmup=3, cosine=6, plateau=0.5)"),
        (
            "Infinite(warmup=2, cosine=4, plateau=0.5, constant=0, cooldown=6, end=0.1)",
            1.5,
            "Infinite(warmup=3, cosine=6, plateau=0.5, constant=0, cooldown=9, end=0.1)",
        ),
        ("Samples([1.0, 2.0])", 3, "Samples([1.0, 1.0, 1.0, 2.0, 2.0, 2.0])"),
        ("Cosine(steps=10).warmup(4)", 1.5, "Cosine(steps=15).warmup(6)"),
        ("Cosine(steps=10).repeat(3)", 1.5, "Cosine(steps=15).repeat(3)"),
        ("Polynomial(steps=10, power=2.0, k=3.0)", 1.5, "Polynomial(steps=15, power=2.0, k=3.0)"),
        ("Cosine(steps=10).head(4)", 1.5, "Cosine(steps=15).head(6)"),
        ("Cosine(steps=10).cooldown(at=4, steps=2)", 1.5, "Cosine(steps=15).cooldown(at=6, steps=3)"),
        ("Cosine(steps=10).skip(4)", 1.5, "Cosine(steps=15).skip(6)"),
        ("Cosine(steps=10).speed_up(Fraction(2, 3))", 1.5, "Cosine(steps=15).speed_up(Fraction(2, 3))"),
        ("Cosine(steps=10).clip(0.1, 0.9)", 1.5, "Cosine(steps=15).clip(0.1, 0.9)"),
        ("Cosine(steps=10).noisy(0.1, seed=3)", 1.5, "Cosine(steps=15).noisy(0.1, seed=3)"),
        ("2 * Cosine(steps=10) + Linear(0, 1, steps=4)", 1.5, "2 * Cosine(steps=15) + Linear(0, 1, steps=6)"),
        ("Cosine(steps=10) * Linear(0, 1, steps=4) + 1", 1.5, "Cosine(steps=15) * Linear(0, 1, steps=6) + 1"),
    ],
)
def test_stretch_rewrites_every_horizon_edge_and_timescale(text, factor, stretched):
    assert schedule(text).stretch(factor) == schedule(stretched)


@pytest.mark.parametrize(
    ("steps", "factor", "stretched"),
    [
        (10, 0.1, 1),
        (30, 1.1, 33),
        (1000, 0.7, 700),
        (10, np.float64(0.3), 3),
        (10, np.int64(3), 30),
        (3, Fraction(1, 3), 1),
        (30, Fraction(7, 5), 42),
    ],
)
def test_a_factor_is_the_decimal_or_the_fraction_that_it_is_written_as(steps, factor, stretched):
    assert fs.Cosine(steps=steps).stretch(factor) == fs.Cosine(steps=stretched)


@every_example
def test_stretching_back_gives_the_same_schedule(case):
    if "exp_range" in case.text:
        return  # gamma is rounded twice
    s = schedule(case).stretch(3)
    if "Samples" in case.text:
        with pytest.raises(ValueError, match=r"stretch\b.*Samples.*; \w"):
            s.stretch(Fraction(1, 3))
    else:
        assert s.stretch(Fraction(1, 3)) == schedule(case)


@pytest.mark.parametrize(
    ("text", "factor", "named"),
    [
        ("Constant(1.0, steps=3)", 0.5, "steps"),
        ("Linear(1.0, 0.0, steps=10)", 1.25, "steps"),
        ("Cosine(steps=10)", 0.05, "steps"),
        ("Polynomial(steps=10)", 1.25, "steps"),
        ("Logarithmic(steps=10)", 1.25, "steps"),
        ("Geometric(end=0.1, steps=10)", 1.25, "steps"),
        ("MultiStep(milestones=[4, 5], gamma=0.1)", 1.5, "milestones"),
        ("Piecewise(boundaries=[4, 5], values=[3, 2, 1])", 1.5, "boundaries"),
        ("Tanh(steps=10)", 1.25, "steps"),
        ("Rex(steps=10)", 1.25, "steps"),
        ("OneMinusSqrt(steps=10)", 1.25, "steps"),
        ("Triangular(0, 1, up=3, down=4)", 0.5, "up"),
        ("Triangular(0, 1, up=4, down=3)", 0.5, "down"),
        ("CosineRestarts(first=3)", 0.5, "first"),
        ("OneCycle(steps=3)", 0.5, "steps"),
        ("OneCycleMomentum(steps=3)", 0.5, "steps"),
        ("WarmupStableDecay(warmup=3, stable=4, decay=4)", 0.5, "warmup"),
        ("WarmupStableDecay(warmup=4, stable=3, decay=4)", 0.5, "stable"),
        ("WarmupStableDecay(warmup=4, stable=4, decay=3)", 0.5, "decay"),
        ("Infinite(warmup=3, cosine=4, plateau=0.5)", 0.5, "warmup"),
        ("Infinite(warmup=4, cosine=3, plateau=0.5)", 0.5, "cosine"),
        ("Infinite(warmup=4, cosine=4, plateau=0.5, constant=3, cooldown=4, end=0.1)", 0.5, "constant"),
        ("Infinite(warmup=4, cosine=4, plateau=0.5, constant=4, cooldown=3, end=0.1)", 0.5, "cooldown"),
        ("Samples([1.0, 2.0])", 1.5, "Samples"),
        ("Samples([1.0, 2.0])", 2**21, "values"),
        ("Cosine(steps=10).warmup(3)", 1.5, "steps"),
        ("Cosine(steps=10).head(3)", 1.5, "steps"),
        ("Cosine(steps=10).cooldown(at=3, steps=4)", 1.5, "at"),
        ("Cosine(steps=10).cooldown(at=4, steps=3)", 1.5, "(steps|duration)"),
        ("Cosine(steps=10).skip(3)", 1.5, "skip.*steps"),
        ("Cosine(steps=3).speed_up(2)", 0.5, "steps"),
        ("Cosine(steps=10).then(Linear(1, 0, steps=3))", 1.5, "steps"),
        ("Cosine(steps=10)", 10**400, "steps"),
        ("Cosine(steps=10)", Fraction(10**400, 7), "steps"),
        ("Cosine(steps=10)", Fraction(1, 10**400), "steps"),
        ("Cosine(steps=10)", -(10**400), "factor"),
        ("Cosine(steps=10)", Fraction(-(10**400), 7), "factor"),
        ("StepDecay(gamma=0.5, every=3)", 10**400, "every"),
        ("StepDecay(gamma=0.5, every=3)", Fraction(1, 10**400), "every"),
        ("PowerLaw(exponent=0.5, timescale=10)", 10**400, "timescale"),
        ("PowerLaw(exponent=0.5, timescale=10)", Fraction(1, 10**400), "timescale"),
        ("Cosine(steps=10).repeat(2**40)", 2**20, "steps"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_stretch_refuses_a_result_that_the_kind_does_not_take(text, factor, named):
    s = schedule(text)
    with pytest.raises(ValueError, match=rf"{named}.*; \w"):
        s.stretch(factor)


# Skip and speed up.


@contextlib.contextmanager
def using(backend):
    fs.use_backend(backend)
    try:
        yield
    finally:
        fs.use_backend("native")


on_both = pytest.mark.parametrize("backend", ["native", "numba"])
any_case = st.one_of(*oracles.CASES.values())


def skippable(case, largest=LONGEST):
    """How many steps may be skipped."""
    most = LONGEST - case.skipped if math.isinf(case.steps) else int(case.steps) - 1
    return st.integers(0, min(most, 2000, largest)) | st.integers(0, min(most, largest))


@on_both
@given(data=st.data())
def test_a_schedule_without_its_first_steps_is_what_is_left_of_it_to_the_bit(backend, data):
    case = data.draw(any_case)
    s, k = schedule(case), data.draw(skippable(case))
    left = LONGEST - case.skipped - k
    start = min(data.draw(oracles.whole_steps(case)), max(left - 40, 0))
    count = min(37, left - start + 1)
    with using(backend):
        assert same_bits(s.skip(k).table(count, start=start), s.table(count, start=start + k))
        assert same_bits(s.skip(k)(start), s(start + k))


@on_both
@every_example
def test_what_is_left_of_any_example_has_its_bits_across_all_blocks(backend, case):
    s = schedule(case)
    with using(backend):
        for k in (0, 1, 7, 511, 1000):
            if k < case.steps:
                assert same_bits(s.skip(k).table(1300), s.table(1300, start=k))


@every_example
def test_skipping_takes_its_steps_off_the_length(case):
    s = schedule(case)
    rest = s.skip(3)
    assert rest.steps == s.steps - 3
    assert type(rest.steps) is type(s.steps)


@every_example
def test_what_is_skipped_one_after_another_is_skipped_at_once(case):
    s = schedule(case)
    assert s.skip(1).skip(0).skip(2) == s.skip(3)


def test_all_but_the_last_step_can_be_skipped():
    s = line(1.0, 0.0, 4).skip(3)
    assert s.steps == 1
    assert [s(0), s(0.5), s(1), s(LONGEST)] == [0.25, 0.125, 0.0, 0.0]


def test_a_curve_that_begins_in_its_middle_is_chained_repeated_and_branched():
    rest = line(1.0, 0.0, 4).skip(2)
    assert list(fs.Constant(9.0, steps=2).then(rest).then(fs.Constant(7.0)).table(6)) == [9.0, 9.0, 0.5, 0.25, 7.0, 7.0]
    assert list(rest.repeat(2).table(6)) == [0.5, 0.25, 0.5, 0.25, 0.0, 0.0]
    assert list(rest.cooldown(at=1, steps=1).table(3)) == [0.5, 0.25, 0.0]
    assert list(rest.warmup(2).table(4)) == [0.0, 0.25, 0.5, 0.25]


def test_skipping_goes_into_the_middle_of_a_cycle():
    s = line(1.0, 0.0, 4).repeat(3).skip(6)
    assert s.steps == 6
    assert list(s.table(8)) == [0.5, 0.25, 1.0, 0.75, 0.5, 0.25, 0.0, 0.0]


def test_noise_is_that_of_the_step_that_it_was_before_skipping():
    s = line(1.0, 0.5, 800).noisy(0.3, seed=5)
    assert same_bits(s.skip(100).table(900), s.table(900, start=100))


def test_pieces_that_are_skipped_are_not_compiled():
    s = functools.reduce(lambda s, i: s.then(fs.Constant(float(i), steps=3)), range(1, 1000), fs.Constant(0.0, steps=3))
    rest = s.skip(3 * 997 + 1)
    assert len(compile_program(rest).instructions) == 3 + 2  # and branches between them
    assert list(rest.table(4)) == [997.0, 997.0, 998.0, 998.0]


ENDLESS = [
    "Constant(1.0)",
    "InverseTime(rate=0.001)",
    "InverseSqrt(timescale=3)",
    "Exponential(gamma=1 - 1e-12)",
    "StepDecay(gamma=0.5, every=2.5 * 10**14)",
    "CosineRestarts(first=700)",
    "Triangular(0.0, 1.0, up=7)",
    "Linear(1.0, 0.0, steps=7).repeat()",
    "Linear(1.0, 0.0, steps=7).then(Cosine(steps=9).repeat())",
    "Linear(1.0, 0.0, steps=7).repeat().noisy(0.1)",
    "Cosine(steps=9).repeat().speed_up(1.5)",
    "MultiStep(milestones=[3, 2**53], gamma=0.5)",
]


@on_both
@pytest.mark.parametrize("text", ENDLESS)
@pytest.mark.parametrize("k", [LONGEST, LONGEST - 5, 2**52 + 1])
def test_past_the_longest_step_a_schedule_goes_on_or_stops_but_a_table_equals_the_calls(backend, text, k):
    s = schedule(text).skip(k)
    with using(backend):
        for start in (0, LONGEST - k, LONGEST - 1299):
            values = s.table(1300 if start + 1300 <= LONGEST else LONGEST - start + 1, start=start)
            assert same_bits(values, s(np.arange(start, start + len(values))))
            assert np.all((values >= 0.0) & (values <= 1.2))
        assert same_bits(s(LONGEST - k), schedule(text)(LONGEST))


def test_skips_around_one_another_may_add_up_to_more_than_the_longest_step():
    s = functools.reduce(lambda s, _: (s * 1.0).skip(LONGEST), range(5), fs.InverseTime(rate=1.0))
    assert s(0) == fs.InverseTime(rate=1.0)(LONGEST)


@every_example
@pytest.mark.parametrize("factor", [2, 3])
def test_what_is_left_is_stretched_as_the_whole_is(case, factor):
    s = schedule(case)
    assert s.skip(3).stretch(factor) == s.stretch(factor).skip(3 * factor)


@on_both
@given(data=st.data())
def test_a_schedule_sped_up_has_the_bits_of_the_step_that_it_is_at(backend, data):
    case = data.draw(any_case)
    assume(math.isinf(case.steps) or case.steps <= 2**40)
    factor = data.draw(oracles.paces)
    p, q = oracles.pace(factor).as_integer_ratio()
    s = schedule(case)
    assume(type(s).__name__ != "SpeedUp")  # of two, the product is rounded
    fast = s.speed_up(factor)
    last = min(fast.steps - 1, 2**40)
    whole = np.array(data.draw(st.lists(st.integers(0, last), max_size=9)), np.float64)
    fractions = np.array(data.draw(st.lists(st.floats(0, last), max_size=9)), np.float64)
    with using(backend):
        for steps in (whole, fractions):
            assert same_bits(fast(steps), s(np.minimum(p * steps / q, LONGEST)))


@on_both
@given(data=st.data())
def test_a_table_of_a_schedule_sped_up_equals_the_calls_to_the_bit(backend, data):
    case = data.draw(any_case)
    assume(math.isinf(case.steps) or case.steps <= 2**40)
    s = schedule(case).speed_up(data.draw(oracles.paces))
    s = s.skip(data.draw(st.integers(0, 99))) if s.steps > 99 else s
    start = data.draw(oracles.windows_of(40, case))
    with using(backend):
        assert same_bits(s.table(37, start=start), [s(start + i) for i in range(37)])


@on_both
@every_example
@pytest.mark.parametrize("pace", [3, Fraction(1, 3), 0.7])
def test_a_long_table_of_a_schedule_sped_up_has_the_bits_of_the_step_that_it_is_at(backend, case, pace):
    s = schedule(case)
    if type(s).__name__ == "SpeedUp":
        return  # of two, the product is rounded
    exact = oracles.pace(pace)
    fast = s.speed_up(pace)
    steps = np.arange(min(1300, fast.steps))
    with using(backend):
        assert same_bits(fast.table(len(steps)), s(exact.numerator * steps / exact.denominator))
        assert same_bits(fast.table(1300)[len(steps) :], [s(min(s.steps, LONGEST))] * (1300 - len(steps)))


def test_a_whole_factor_leaves_out_steps():
    s = fs.Cosine(steps=1000).noisy(0.1)
    assert same_bits(s.speed_up(3).table(400), s.table(1200)[::3])


def test_a_factor_below_one_stays_at_every_sample_and_every_noise_for_longer():
    s = fs.Samples([4.0, 2.0, 1.0])
    assert list(s.speed_up(0.5).table(7)) == [4.0, 4.0, 2.0, 2.0, 1.0, 1.0, 1.0]
    assert same_bits(s.noisy(0.1).speed_up(0.25).table(12), np.repeat(s.noisy(0.1).table(3), 4))


def test_a_horizon_may_have_a_fraction():
    s = line(1.0, 0.0, 21).speed_up(2)  # 10.5 steps
    assert s.steps == 11
    assert [s(t) for t in (0, 5, 10, 11)] == [1.0, line(1.0, 0.0, 21)(10), line(1.0, 0.0, 21)(20), 0.0]


@pytest.mark.parametrize(
    ("steps", "factor", "length"),
    [
        (10, 1, 10),
        (10, 3, 4),
        (10, 0.1, 100),
        (9, 0.3, 30),
        (10, 11, 1),
        (10, LONGEST, 1),
        (7, Fraction(2, 3), 11),
        (8, Fraction(2, 3), 12),
        (1, 1e-15, 10**15),
        (LONGEST, 1.5, 6004799503160662),
        (LONGEST, Fraction(1), LONGEST),
        (10, np.float64(0.1), 100),
        (10, np.int64(2), 5),
    ],
)
def test_the_length_is_divided_exactly_and_rounded_up(steps, factor, length):
    s = line(1.0, 0.5, steps).speed_up(factor)
    assert s.steps == length
    assert type(s.steps) is int
    assert [s(0), s(length), s(LONGEST)] == [1.0, 0.5, 0.5]
    assert s(length - 1) > 0.5 or (length - 1) / length > 1 - EPSILON


def test_an_endless_schedule_sped_up_has_no_end_and_stops_at_the_longest_step():
    s = fs.InverseTime(rate=1e-9).speed_up(1000)
    assert s.steps == math.inf
    assert s(LONGEST) == s(LONGEST // 1000 + 1) == fs.InverseTime(rate=1e-9)(LONGEST)


@pytest.mark.parametrize(
    ("factors", "product"),
    [((2, 3), 6), ((2, 0.5), 1), ((0.1, 0.3), 0.03), ((Fraction(2, 3), 1.5, 7), 7), ((1e-9, 1e9), 1)],
)
def test_speeds_of_a_speed_multiply(factors, product):
    s = fs.Cosine(steps=1001)
    assert functools.reduce(lambda s, factor: s.speed_up(factor), factors, s) == s.speed_up(product)


@every_example
def test_the_speed_of_one_changes_no_value(case):
    s = schedule(case)
    assert s.speed_up(1).steps == s.steps
    assert same_bits(s.speed_up(1).table(1300), s.table(1300))


@every_example
def test_a_speed_is_stretched_with_what_it_is_the_speed_of(case):
    s = schedule(case)
    assert s.speed_up(1.5).stretch(3) == s.stretch(3).speed_up(1.5)


@pytest.mark.parametrize(
    ("factor", "text"),
    [
        (2, "2"),
        (2.0, "2"),
        (0.1, "0.1"),
        (Fraction(3, 2), "1.5"),
        (Fraction(2, 3), "Fraction(2, 3)"),
        (1 / 3, "0.3333333333333333"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e-15, "1e-15"),
        (Fraction(10**30 + 1, 3 * 10**30), "0.3333333333333333"),  # rounded to a float
        (2.0**-53, "1.1102230246251565e-16"),
    ],
)
def test_a_speed_is_a_value_whatever_its_factor(factor, text):
    s = fs.Constant(1.0).speed_up(factor)
    assert repr(s) == f"Constant(1.0).speed_up({text})"
    for twin in (schedule(repr(s)), fs.from_json(s.to_json()), pickle.loads(pickle.dumps(s))):
        assert twin == s
        assert hash(twin) == hash(s)


def test_speeds_and_cycles_are_within_one_another_as_often_as_promised():
    s = functools.reduce(lambda s, _: s.repeat(2).speed_up(2), range(32), line(1.0, 0.0, 4))
    assert [s(0), s(1), s(3), s(4)] == [1.0, 1.0, 1.0, 0.0]
    assert same_bits(s.table(6), [s(t) for t in range(6)])
    assert s.cycle_ends() == [1, 2, 3, 4]
    for deeper in (
        lambda: s.repeat(2),
        lambda: (s * 1.0).speed_up(2),
        lambda: fs.Constant(1.0, steps=1).then(s).repeat(),
    ):
        with pytest.raises(ValueError, match=r"64.*repeat and speed_up.*65; \w"):
            deeper()
    assert s.speed_up(2)(1) == s(2)


# Noise.

SEEDS = [0, 1, 2, 2**32, 2**32 + 1, 2**63, 2**64 - 1]
DRAWS = 2**16  # of each statistic; all bounds are five standard errors, the seeds are fixed


def noise(limit, **arguments):
    return fs.Constant(1.0).noisy(limit, **arguments).table(DRAWS) - 1.0


def deviation(limit, distribution, std):
    """Of the noise: uniform, or a normal one cut off at +-limit."""
    if distribution == "uniform":
        return limit / math.sqrt(3)
    edge = limit / std
    density = math.exp(-(edge**2) / 2) / math.sqrt(2 * math.pi)
    return std * math.sqrt(1 - 2 * edge * density / math.erf(edge / math.sqrt(2)))


def share_within(part, limit, distribution, std):
    """How much of the noise is within so much of zero."""
    if distribution == "uniform":
        return part / limit
    return math.erf(part / std / math.sqrt(2)) / math.erf(limit / std / math.sqrt(2))


every_noise = pytest.mark.parametrize(
    ("limit", "distribution", "std"),
    [
        (0.67, "uniform", 1.0),
        (1.0, "uniform", 1.0),
        (0.67, "normal", 1.0),
        (0.01, "normal", 1.0),
        (1.0, "normal", 0.25),
        (0.5, "normal", 0.5),
        (0.3, "normal", 0.1),
        (1.0, "normal", 1e-3),
    ],
)


@every_noise
def test_noise_is_within_its_limit(limit, distribution, std):
    e = noise(limit, seed=11, distribution=distribution, std=std)
    assert np.max(np.abs(e)) <= limit + EPSILON  # the subtraction's rounding


@every_noise
def test_noise_has_the_mean_zero(limit, distribution, std):
    e = noise(limit, seed=12, distribution=distribution, std=std)
    assert abs(np.mean(e)) <= 5 * deviation(limit, distribution, std) / math.sqrt(DRAWS)


@every_noise
def test_noise_has_its_spread(limit, distribution, std):
    e = noise(limit, seed=13, distribution=distribution, std=std)
    variance = deviation(limit, distribution, std) ** 2
    # The fourth moment of either is at most 3 * variance**2, that of the normal one.
    assert abs(np.mean(e**2) - variance) <= 5 * variance * math.sqrt(2 / DRAWS)


@every_noise
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_noise_has_its_distribution(limit, distribution, std, part):
    part *= min(limit, 2 * std) if distribution == "normal" else limit
    e = noise(limit, seed=14, distribution=distribution, std=std)
    share = share_within(part, limit, distribution, std)
    assert abs(np.mean(np.abs(e) <= part) - share) <= 5 * math.sqrt(share * (1 - share) / DRAWS) + 1e-9


@every_noise
def test_noise_is_as_often_above_as_below(limit, distribution, std):
    e = noise(limit, seed=15, distribution=distribution, std=std)
    assert abs(np.mean(e > 0) - 0.5) <= 5 * 0.5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
@pytest.mark.parametrize("lag", [1, 2, 3, 64, 1024])
def test_the_noise_of_a_step_says_nothing_about_a_later_one(distribution, lag):
    e = noise(0.5, seed=16, distribution=distribution)
    assert abs(np.corrcoef(e[:-lag], e[lag:])[0, 1]) <= 5 / math.sqrt(DRAWS - lag)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_the_noise_of_a_seed_says_nothing_about_another(distribution):
    e = np.array([noise(0.5, seed=seed, distribution=distribution) for seed in SEEDS])
    correlations = np.abs(np.corrcoef(e) - np.eye(len(SEEDS)))
    assert np.max(correlations) <= 5 / math.sqrt(DRAWS)
    for later in range(1, 4):  # nor about itself so many steps later
        shifted = np.corrcoef(e[:-1, later:], e[1:, :-later])[: len(SEEDS) - 1, len(SEEDS) - 1 :]
        assert np.max(np.abs(shifted)) <= 5 / math.sqrt(DRAWS - later)


NOISY = "Linear(1.0, 0.5, steps=1000).noisy(0.3, seed=7, distribution={!r}, std=0.2)"
both_distributions = pytest.mark.parametrize("s", [NOISY.format("uniform"), NOISY.format("normal")])


@both_distributions
def test_noise_is_the_same_in_another_process(s):
    there = json.loads(output(f"from fastsched import *; print(({s}).table(1000).tolist())"))
    assert same_bits(there, schedule(s).table(1000))


@both_distributions
def test_noise_does_not_depend_on_the_order_of_the_calls(s):
    s = schedule(s)
    table = s.table(1200)
    order = np.random.default_rng(0).permutation(1200)
    assert same_bits([s(int(t)) for t in order], table[order])
    assert same_bits(s(order), table[order])
    assert same_bits(s.table(700, start=311), table[311 : 311 + 700])


@both_distributions
def test_a_fraction_of_a_step_changes_the_value_but_not_its_noise(s):
    s = schedule(s)
    for t in (0, 1, 2, 500, 998):
        e = s(t) / fs.Linear(1.0, 0.5, steps=1000)(t)
        assert s(t + 0.75) / fs.Linear(1.0, 0.5, steps=1000)(t + 0.75) == pytest.approx(e, rel=20 * EPSILON)


@both_distributions
def test_noise_holds_with_the_value_past_the_end(s):
    s = schedule(s)
    assert s.steps == 1000
    assert len({s(t) for t in (1000, 1000.5, 1001, 10**6, LONGEST)}) == 1
    assert s(1000) != 0.5


def test_the_noise_of_an_endless_schedule_goes_on():
    values = fs.Constant(1.0).noisy(0.1).table(1000, start=LONGEST - 999)
    assert len(set(values)) > 990
    assert np.all(np.abs(values - 1) <= 0.1 + EPSILON)


def test_noise_multiplies():
    s = line(1.0, 0.0, 8)
    e = fs.Constant(1.0, steps=8).noisy(0.3, seed=5)
    assert s.noisy(0.3, seed=5).table(12) == pytest.approx(s.table(12) * e.table(12), rel=2 * EPSILON)
    assert s.noisy(0.3, seed=5)(8) == 0.0


def test_noise_counts_the_steps_of_its_own_schedule():
    s = line(1.0, 0.5, 8).noisy(0.3, seed=5)
    assert same_bits(fs.Constant(1.0, steps=3).then(s).table(20, start=3), s.table(20))
    assert same_bits(s.repeat(3).table(24), np.tile(s.table(8), 3))
    assert not same_bits(line(1.0, 0.5, 8).repeat(2).noisy(0.3, seed=5).table(8, start=8), s.table(8))


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_noise_of_another_seed_is_another_at_every_step(distribution):
    tables = [fs.Constant(1.0).noisy(0.3, seed=seed, distribution=distribution).table(1000) for seed in SEEDS]
    for i, a in enumerate(tables):
        for b in tables[:i]:
            assert not np.any(a == b)


# Samples.


def test_samples_give_their_values_one_by_one_and_hold_the_last():
    s = fs.Samples([3.0, -1.0, 2.0])
    assert s.steps == 3
    assert [s(t) for t in (0, 0.999, 1, 1.5, 2, 2.5, 3, LONGEST)] == [3.0, 3.0, -1.0, -1.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    "values", [[1, 2], (1.0, 2.0), np.array([1, 2]), np.array([1, 2], np.float32), np.array([1.0, 9.0, 2.0])[::2]]
)
def test_samples_come_as_any_sequence_of_numbers(values):
    assert fs.Samples(values) == fs.Samples([1.0, 2.0])


def test_one_sample_is_enough():
    assert list(fs.Samples([0.1]).table(3)) == [0.1, 0.1, 0.1]


def test_changing_the_array_of_samples_afterwards_changes_nothing():
    values = np.ones(3)
    s = fs.Samples(values)
    values[:] = 7
    assert list(s.table(3)) == [1.0, 1.0, 1.0]


def test_as_many_samples_as_promised_are_accepted():
    s = fs.Samples(np.arange(2.0**21))
    assert s.steps == 2**21
    assert [s(0), s(2**21 - 1), s(LONGEST)] == [0.0, 2**21 - 1, 2**21 - 1]


@every_example
def test_a_tabulated_schedule_has_the_same_values_at_whole_steps(case):
    s = schedule(case)
    samples = fs.tabulate(s, 700)
    assert samples.steps == 700
    assert same_bits(samples.table(700), s.table(700))
    assert samples(10**6) == s(699)


def test_tabulate_calls_once_for_every_step_in_order():
    steps = []
    samples = fs.tabulate(lambda t: steps.append(t) or 0.5, 5)
    assert steps == [0, 1, 2, 3, 4]
    assert all(type(step) is int for step in steps)
    assert samples == fs.Samples([0.5] * 5)


@pytest.mark.parametrize("number", [1, np.float32(1.0), np.float64(1.0), np.int64(1)])
def test_tabulate_takes_any_number(number):
    assert fs.tabulate(lambda t: number, 2) == fs.Samples([1.0, 1.0])


# Cycle ends.


@pytest.mark.parametrize(
    ("text", "steps", "ends"),
    [
        ("CosineRestarts(first=10)", 30, [10, 20, 30]),
        ("CosineRestarts(first=10)", 29, [10, 20]),
        ("CosineRestarts(first=10)", 9, []),
        ("CosineRestarts(first=10)", 0, []),
        ("CosineRestarts(first=10, multiplier=2, cycles=3)", None, [10, 30, 70]),
        ("CosineRestarts(first=10, multiplier=2, cycles=3)", 1000, [10, 30, 70]),
        ("CosineRestarts(first=10, multiplier=2, cycles=3)", 30, [10, 30]),
        ("Triangular(0, 1, up=3, down=4)", 21, [7, 14, 21]),
        ("Triangular(0, 1, up=3)", 13, [6, 12]),
        ("Cosine(steps=10)", None, []),
        ("Cosine(steps=10)", 100, []),
        ("Constant(1.0)", None, []),
        ("Infinite(warmup=1, cosine=2, plateau=0.5)", None, []),
        ("Cosine(steps=10).repeat(3)", None, [10, 20, 30]),
        ("Cosine(steps=10).repeat(3)", 100, [10, 20, 30]),
        ("Cosine(steps=10).repeat(1)", None, [10]),
        ("Cosine(steps=10).repeat()", 25, [10, 20]),
        ("Cosine(steps=4).repeat(3).repeat(2)", None, [4, 8, 12, 16, 20, 24]),
        ("CosineRestarts(first=5, cycles=2).repeat(2)", None, [5, 10, 15, 20]),
        ("CosineRestarts(first=5, cycles=2).repeat(2)", 1000, [5, 10, 15, 20]),
        ("CosineRestarts(first=5, cycles=2).repeat()", 33, [5, 10, 15, 20, 25, 30]),
        ("Cosine(steps=3).then(CosineRestarts(first=5, cycles=2)).repeat(2)", None, [8, 13, 21, 26]),
        ("Cosine(steps=7).then(CosineRestarts(first=10, cycles=2))", None, [17, 27]),
        ("CosineRestarts(first=10, cycles=2).then(Cosine(steps=7).repeat(2))", None, [10, 20, 27, 34]),
        ("CosineRestarts(first=10, cycles=2).then(Constant(1.0))", None, [10, 20]),
        ("CosineRestarts(first=10).warmup(5)", 30, [15, 25]),
        ("CosineRestarts(first=4, cycles=3) * Cosine(steps=6).repeat(2)", None, [4, 6, 8, 12]),
        ("CosineRestarts(first=4, cycles=3) + Cosine(steps=6).repeat(2)", None, [4, 6, 8, 12]),
        ("CosineRestarts(first=4, cycles=1) + 1", None, [4]),
        ("0.5 * CosineRestarts(first=4, cycles=2)", None, [4, 8]),
        ("CosineRestarts(first=4, cycles=2).clip(0.1, 0.9)", None, [4, 8]),
        ("CosineRestarts(first=4, cycles=2).noisy(0.1)", None, [4, 8]),
        ("CosineRestarts(first=4).head(10)", None, [4, 8]),
        ("CosineRestarts(first=4).head(8).then(Cosine(steps=3).repeat(2))", None, [4, 8, 11, 14]),
        ("CosineRestarts(first=4).head(9).repeat(2)", None, [4, 8, 9, 13, 17, 18]),
        ("CosineRestarts(first=4).cooldown(at=10, steps=20)", None, [4, 8]),
        ("CosineRestarts(first=4).cooldown(at=10, steps=20).repeat(2)", None, [4, 8, 30, 34, 38, 60]),
        ("CosineRestarts(first=10).skip(3)", 30, [7, 17, 27]),
        ("CosineRestarts(first=10).skip(10)", 30, [10, 20, 30]),
        ("CosineRestarts(first=10).skip(2**53 - 15)", 20, [3, 13]),
        ("CosineRestarts(first=10, multiplier=2, cycles=4).skip(25)", None, [5, 45, 125]),
        ("Triangular(0, 1, up=3).skip(10**15 * 6 + 1)", 13, [5, 11]),
        ("Cosine(steps=10).repeat(3).skip(10)", None, [10, 20]),
        ("Cosine(steps=10).repeat().skip(10**15 + 3)", 20, [7, 17]),
        ("Cosine(steps=4).repeat(3).repeat(2).skip(13)", None, [3, 7, 11]),
        ("Cosine(steps=3).then(CosineRestarts(first=5, cycles=2)).skip(9)", None, [4]),
        ("Cosine(steps=3).then(CosineRestarts(first=5, cycles=2).skip(7))", None, [6]),
        ("CosineRestarts(first=5, cycles=2).skip(7).repeat(2)", None, [3, 6]),
        ("(0.5 * CosineRestarts(first=5, cycles=3).skip(1)).skip(1)", None, [3, 8, 13]),
        ("CosineRestarts(first=4).cooldown(at=10, steps=20).skip(5)", None, [3]),
        ("CosineRestarts(first=10).speed_up(2)", 14, [5, 10]),
        ("CosineRestarts(first=10).speed_up(3)", 14, [4, 7, 10, 14]),
        ("CosineRestarts(first=10).speed_up(0.5)", 60, [20, 40, 60]),
        ("Cosine(steps=10).repeat(3).speed_up(1)", None, [10, 20, 30]),
        ("Cosine(steps=10).repeat(3).speed_up(Fraction(4, 3))", None, [8, 15, 23]),
        ("Cosine(steps=10).repeat(3).speed_up(100)", None, [1]),
        ("Cosine(steps=10).repeat(3).speed_up(4).repeat(2)", None, [3, 5, 8, 11, 13, 16]),
        ("Cosine(steps=10).repeat(3).speed_up(4).skip(4)", None, [1, 4]),
        ("Cosine(steps=10).repeat().skip(5).speed_up(2)", 14, [3, 8, 13]),
        ("Cosine(steps=3).then(CosineRestarts(first=10, cycles=2).speed_up(4))", None, [6, 8]),
    ],
)
def test_cycle_ends_are_the_steps_after_which_a_cycle_is_complete(text, steps, ends):
    found = schedule(text).cycle_ends() if steps is None else schedule(text).cycle_ends(steps)
    assert found == ends
    assert all(type(end) is int for end in found)


@pytest.mark.parametrize(
    "text",
    [
        "CosineRestarts(first=10)",
        "Triangular(0, 1, up=3)",
        "Cosine(steps=10).repeat()",
        "Cosine(steps=10).then(Cosine(steps=10).repeat())",
        "Triangular(0, 1, up=3) * Linear(1, 0, steps=100)",
        "Cosine(steps=10).repeat().skip(3)",
        "CosineRestarts(first=10, multiplier=2).speed_up(3)",
    ],
)
def test_the_cycle_ends_of_an_endless_schedule_need_a_number_of_steps(text):
    with pytest.raises(ValueError, match=r"cycle_ends\b.*\bsteps\b.*; \w"):
        schedule(text).cycle_ends()


# JSON, pickles and text: noise has no oracle, so it is not among the cases that others test.


@every_example
def test_json_has_a_version_and_nothing_but_plain_parts(case):
    document = json.loads(schedule(case).to_json())
    assert list(document) == ["fastsched", "schedule"]
    assert document["fastsched"] == 1
    assert all(isinstance(part["kind"], str) for part in document["schedule"])


def refused(document):
    with pytest.raises(ValueError, match=r"; \w"):
        fs.from_json(json.dumps(document))


UNARY = {
    "Scaled",
    "Clip",
    "Repeat",
    "Noisy",
    "Head",
    "Cooldown",
    "Skip",
    "SpeedUp",
}  # without one of them the rest is still a schedule
ADDED = {"Polynomial": {"k"}}  # fields that JSON may lack


@every_example
def test_json_of_another_version_is_refused(case):
    document = json.loads(schedule(case).to_json())
    for version in (0, 2, "1", None, [1]):
        refused({**document, "fastsched": version})
    refused({"schedule": document["schedule"]})
    refused({"fastsched": 1})
    refused({**document, "more": 1})


@every_example
def test_json_with_a_part_too_few_or_too_many_is_refused(case):
    parts = json.loads(schedule(case).to_json())["schedule"]
    for i in range(len(parts)):
        if parts[i]["kind"] not in UNARY:
            refused({"fastsched": 1, "schedule": parts[:i] + parts[i + 1 :]})
        refused({"fastsched": 1, "schedule": [*parts[:i], parts[0], *parts[i:]]})


@every_example
def test_json_with_an_unknown_kind_or_wrong_fields_is_refused(case):
    parts = json.loads(schedule(case).to_json())["schedule"]
    for i, part in enumerate(parts):

        def changed(new, i=i):
            refused({"fastsched": 1, "schedule": [*parts[:i], new, *parts[i + 1 :]]})

        changed({**part, "kind": "Nonsense"})
        changed({**part, "kind": "_Legs"})
        changed({**part, "kind": "Kind"})
        changed({**part, "kind": ["Cosine"]})
        changed({**part, "nonsense": 1})
        changed([part])
        changed(None)
        for name in part.keys() - ADDED.get(part["kind"], {}):
            changed({other: value for other, value in part.items() if other != name})
            if name != "kind":
                changed({**part, name: {"nonsense": 1}})


def test_json_from_before_a_field_was_added_is_read_and_still_written():
    part = '{"kind": "Polynomial", "start": 1.0, "end": 0.1, "steps": 9, "power": 2.0}'
    text, s = f'{{"fastsched": 1, "schedule": [{part}]}}', fs.Polynomial(1.0, 0.1, steps=9, power=2.0)
    assert fs.from_json(text) == s
    assert s.to_json() == text


@pytest.mark.parametrize(
    "values",
    [
        [],
        [[1.0]],
        [True],
        [None],
        ["1.0"],
        "1.0",
        {"0": 1.0},
        [float("nan")],
        [float("inf")],
        1.0,
        [0.0] * (2**21 + 1),
        [10**400],
    ],
    ids=lambda values: f"{type(values).__name__}-{str(values)[:12]}",
)
def test_json_with_samples_that_are_none_is_refused(values):
    refused({"fastsched": 1, "schedule": [{"kind": "Samples", "values": values}]})


def part(kind, **fields):
    return {"kind": kind, **fields}


_ONE = part("Constant", value=1.0, steps=1)


@pytest.mark.parametrize(
    "parts",
    [
        [_ONE, _ONE, part("Then", count=2**20)],
        [_ONE, _ONE, part("Then", count=2**60)],
        [_ONE, part("Then", count=1)],
        [_ONE, part("Then", count=0)],
        [_ONE, part("Then", count=-1)],
        [_ONE, _ONE, part("Then", count=2.0)],
        [part("Then", count=2)],
        [part("Product")],
        [_ONE, part("Sum")],
        [part("Scaled", factor=2.0)],
        [_ONE, _ONE],
        [],
        [_ONE, part("Repeat", times=LONGEST + 1)],
        [_ONE, *[part("Repeat", times=2**30)] * 2],
        [_ONE, part("Repeat", times=0)],
        [_ONE, part("Repeat", times=None), part("Repeat", times=2)],
        [_ONE, part("Skip", skipped=1)],
        [_ONE, part("Skip", skipped=-1)],
        [part("Skip", skipped=0)],
        [_ONE, part("SpeedUp", numerator=0, denominator=1)],
        [_ONE, part("SpeedUp", numerator=1, denominator=0)],
        [_ONE, part("SpeedUp", numerator=1, denominator=2**107)],
        [_ONE, part("SpeedUp", numerator=2**54, denominator=1)],
        [_ONE, part("SpeedUp", numerator=1.5, denominator=1)],
        [_ONE, *[part("Repeat", times=2), part("SpeedUp", numerator=2, denominator=1)] * 40],
        [part("CosineRestarts", start=1.0, end=0.0, first=1, multiplier=LONGEST, decay=1.0, cycles=LONGEST)],
        [part("Constant", value=1.0, steps=10**4000)],
    ],
    ids=lambda parts: str(parts)[-60:],
)
def test_json_that_asks_for_too_much_or_holds_too_little_is_refused(parts):
    refused({"fastsched": 1, "schedule": parts})


def test_json_of_too_many_parts_is_refused():
    refused({"fastsched": 1, "schedule": [0] * (2**20 + 1)})
    refused({"fastsched": 1, "schedule": [part("Piecewise", boundaries=[0] * 700_000, values=[0.0] * 700_001)]})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 10**6,
        '{"a":' * 10**5,
        '{"fastsched": 1, "schedule": ' + "[" * 10**5 + "]" * 10**5 + "}",
        " " * (2**25 + 1),
        '{"fastsched": 1, "schedule": [{"kind": "Constant", "value": ' + "9" * 10**5 + ', "steps": null}]}',
    ],
    ids=["brackets", "braces", "inner", "spaces", "digits"],
)
def test_json_nested_too_deeply_or_too_long_is_refused(text):
    with pytest.raises(ValueError, match=r"from_json.*; \w"):
        fs.from_json(text)


noisy_ones = pytest.mark.parametrize(
    "text",
    [
        "Cosine(steps=10).noisy(0.1)",
        "Cosine(steps=10).noisy(1.0, seed=2**64 - 1, distribution='uniform', std=0.25)",
        "(0.5 * Cosine(steps=10).noisy(0.1, seed=2**63 + 1).repeat() + 1).noisy(0.2, seed=5)",
    ],
)


@noisy_ones
def test_a_noisy_schedule_is_a_value_like_any_other(text):
    s = schedule(text)
    for twin in (schedule(text), schedule(repr(s)), fs.from_json(s.to_json()), pickle.loads(pickle.dumps(s))):
        assert twin == s
        assert hash(twin) == hash(s)
        assert same_bits(twin.table(50), s.table(50))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Cosine(steps=9).noisy(0.1)", "Cosine(steps=9).noisy(0.2)"),
        ("Cosine(steps=9).noisy(0.1)", "Cosine(steps=9).noisy(0.1, seed=1)"),
        ("Cosine(steps=9).noisy(0.1)", "Cosine(steps=9).noisy(0.1, std=0.5)"),
        ("Cosine(steps=9).noisy(0.1)", "Cosine(steps=9).noisy(0.1, distribution='uniform')"),
        ("Cosine(steps=9).noisy(0.1)", "Cosine(steps=9)"),
        ("Cosine(steps=9).repeat(2)", "Cosine(steps=9).repeat(3)"),
        ("Cosine(steps=9).repeat(2)", "Cosine(steps=9).repeat()"),
        ("Cosine(steps=9).repeat(1)", "Cosine(steps=9)"),
        ("Cosine(steps=9).clip(0.1)", "Cosine(steps=9).clip(0.1, 0.9)"),
        ("Cosine(steps=9).clip(low=0.1)", "Cosine(steps=9).clip(high=0.1)"),
        ("Cosine(steps=9).skip(1)", "Cosine(steps=9).skip(2)"),
        ("Cosine(steps=9).skip(0)", "Cosine(steps=9)"),
        ("Cosine(steps=9).speed_up(2)", "Cosine(steps=9).speed_up(3)"),
        ("Cosine(steps=9).speed_up(2)", "Cosine(steps=9).speed_up(0.5)"),
        ("Cosine(steps=9).speed_up(1)", "Cosine(steps=9)"),
        ("Polynomial(steps=9, power=2.0)", "Polynomial(steps=9, power=2.0, k=2.0)"),
        ("Cosine(steps=9).head(3)", "Cosine(steps=9).head(4)"),
        ("Cosine(steps=9).head(9)", "Cosine(steps=9)"),
        ("Cosine(steps=9).cooldown(3, 2)", "Cosine(steps=9).cooldown(2, 3)"),
        ("Cosine(steps=9).cooldown(3, 2)", "Cosine(steps=9).cooldown(3, 2, end=0.1)"),
        ("Cosine(steps=9).cooldown(3, 2)", "Cosine(steps=9).cooldown(3, 2, 'sqrt')"),
        ("Cosine(steps=9) + Cosine(steps=8)", "Cosine(steps=9) * Cosine(steps=8)"),
        ("Cosine(steps=9) + Cosine(steps=8)", "Cosine(steps=8) + Cosine(steps=9)"),
        ("Samples([1.0, 2.0])", "Samples([1.0, 2.5])"),
        ("Samples([1.0])", "Samples([1.0, 1.0])"),
    ],
)
def test_schedules_that_differ_in_anything_are_unequal(one, other):
    assert schedule(one) != schedule(other)


# Depth: every combinator ten thousand times around itself.

DEPTH = 10_000


def _part_of_all(s, i):
    """Each combinator in turn; none changes a value by much."""
    match i % 9:
        case 0:
            return s * 1.0
        case 1:
            return s.clip(-10.0, 10.0)
        case 2:
            return s + fs.Constant(0.0, steps=1)
        case 3:
            return s * fs.Constant(1.0, steps=1)
        case 4:
            return s.noisy(1e-12, seed=i)
        case 5:
            return s.cooldown(at=10**9, steps=1) if i < 100 else s  # each evaluates all that is inside it
        case 6:
            return s.skip(0)
        case 7:
            return s.speed_up(1)
        case _:
            return s.repeat(1)


DEEP = {
    "scaled": lambda s, i: s * 1.0,
    "clip": lambda s, i: s.clip(-10.0, 10.0),
    "sum": lambda s, i: s + fs.Constant(0.0),
    "sum_on_the_right": lambda s, i: fs.Constant(0.0) + s,
    "sum_with_a_number": lambda s, i: s + 0.0,
    "product": lambda s, i: s * fs.Constant(1.0),
    "product_on_the_right": lambda s, i: fs.Constant(1.0) * s,
    "repeat": lambda s, i: s.repeat(1),
    "skip": lambda s, i: fs.Constant(0.25, steps=3).then(s).skip(3),
    "skip_of_skip": lambda s, i: s.skip(0),
    "speed_up": lambda s, i: (s * 1.0).speed_up(1),
    "speed_up_of_speed_up": lambda s, i: s.speed_up((2, 0.5)[i % 2]),
    "noisy": lambda s, i: s.noisy(1e-12, seed=i),
    "head": lambda s, i: s.head(8),
    "head_then": lambda s, i: s.head(7).then(fs.Constant(0.5, steps=1)),
    "cooldown": lambda s, i: s.cooldown(at=100, steps=20),
    "then": lambda s, i: s.then(fs.Constant(0.5, steps=1)),
    "then_on_the_right": lambda s, i: fs.Constant(1.0, steps=1).then(s),
    "then_of_repeats": lambda s, i: s.then(fs.Constant(0.5, steps=1)).repeat(1),
    "all": _part_of_all,
}


@pytest.fixture(scope="module", params=DEEP)
def deep(request):
    return functools.reduce(DEEP[request.param], range(DEPTH), fs.Linear(1.0, 0.5, steps=8))


def test_a_deep_schedule_has_values(deep):
    assert deep(0) == pytest.approx(1.0, rel=1e-7)  # ten thousand noises of 1e-12
    assert same_bits(deep.table(3), [deep(t) for t in range(3)])


def test_a_deep_schedule_has_a_repr(deep):
    assert "Linear(1.0, 0.5, steps=8)" in repr(deep)


def test_a_deep_schedule_survives_json_and_pickling(deep):
    for twin in (fs.from_json(deep.to_json()), pickle.loads(pickle.dumps(deep)), copy.deepcopy(deep)):
        assert twin == deep
        assert hash(twin) == hash(deep)
        assert same_bits(twin(5), deep(5))


def test_a_deep_schedule_can_be_combined_further(deep):
    s = (0.5 * deep).warmup(10)
    assert s(10) == pytest.approx(0.5, rel=1e-7)
    assert deep.stretch(2)(0) == deep(0)
    assert isinstance(deep.cycle_ends(10), list)
    assert deep.cooldown(at=3, steps=5)(3) == deep(3)


# Numba.


@pytest.mark.parametrize(
    "text", [NOISY.format("uniform"), NOISY.format("normal"), "Cosine(steps=50).noisy(1.0).repeat()"]
)
def test_numba_makes_the_same_noise(text):
    s = schedule(text)
    native = s.table(1200)
    fs.use_backend("numba")
    try:
        assert np.max(np.abs(s.table(1200) - native)) <= 1e-12  # the contract's bound
    finally:
        fs.use_backend("native")
