"""The laws that every kind of schedule and every composition obeys."""

import copy
import functools
import math
import pickle

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import bits, same_bits, schedule, window

import fastsched as fs
from fastsched.schedule import Kind

LONGEST = oracles.LONGEST
few = settings(max_examples=20)  # for laws about the schedule as a thing: the values have their own tests
every_case = pytest.mark.parametrize("kind", oracles.CASES)
every_example = pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)


def check_exact(case, step):
    exact = case.value(step)
    if not oracles.representable(exact):
        return  # past the largest float
    actual = schedule(case)(step)
    assert type(actual) is float
    off = case.error(actual, step)
    assert off <= case.tolerance(), f"{case} at {step!r}: {actual!r} is {off:.3g} ulp from {float(exact)!r}"


def test_every_kind_is_public_and_has_an_oracle():
    kinds, bases = set(), [Kind]
    while bases:
        for kind in bases.pop().__subclasses__():
            bases.append(kind)
            if not kind.__name__.startswith("_"):  # what some kinds share
                kinds.add(kind.__name__)
    assert kinds == set(oracles.KINDS)
    assert kinds <= set(fs.__all__)


# Exactness.


@every_case
@given(data=st.data())
def test_value_is_exact_at_whole_steps(kind, data):
    case = data.draw(oracles.CASES[kind])
    check_exact(case, data.draw(oracles.whole_steps(case)))


@pytest.mark.parametrize("kind", [k for k in oracles.CASES if k not in oracles.KINDS or oracles.KINDS[k].interpolates])
@given(data=st.data())
def test_value_is_exact_at_fractional_steps(kind, data):
    case = data.draw(oracles.CASES[kind])
    check_exact(case, data.draw(oracles.fractional_steps(case)))


@pytest.mark.parametrize("kind", [name for name, row in oracles.KINDS.items() if not row.interpolates])
@given(data=st.data())
def test_a_kind_that_does_not_interpolate_takes_the_floor_of_a_fractional_step(kind, data):
    case = data.draw(oracles.CASES[kind])
    step = data.draw(oracles.fractional_steps(case))
    s = schedule(case)
    assert s(step) == s(math.floor(step))


ENDS = ["Linear", "Cosine", "Polynomial", "Logarithmic", "Tanh", "Rex", "OneMinusSqrt"]  # any start and end


@pytest.mark.parametrize(
    "kind", [*ENDS, "Triangular", "CosineRestarts", "OneCycleMomentum", "WarmupStableDecay", "Infinite"]
)
@given(data=st.data())
def test_value_is_exact_where_the_ends_have_opposite_signs(kind, data):
    value = st.one_of(st.sampled_from([1.0, 0.1, 1e-3]), st.floats(1e-6, 1e6))
    sign = data.draw(st.sampled_from([-1.0, 1.0]))
    start, end = value.map(lambda v: sign * v), value.map(lambda v: -sign * v)
    if kind == "Infinite":  # its end has the sign of the plateau
        case = data.draw(oracles.KINDS[kind].cases(peak=start, plateau=end))
    else:
        case = data.draw(oracles.KINDS[kind].cases(start=start, low=start, peak=start, end=end, high=end))
    check_exact(case, data.draw(oracles.whole_steps(case)))


@pytest.mark.parametrize("kind", [*ENDS, "Geometric", "OneCycle", "OneCycleMomentum", "WarmupStableDecay"])
@given(data=st.data())
def test_value_is_exact_next_to_both_ends_of_any_horizon(kind, data):
    case = data.draw(oracles.KINDS[kind].cases())
    near_start = st.integers(0, 3)
    near_end = st.integers(-3, 3).map(lambda by: max(0, min(LONGEST, int(case.steps) + by)))
    check_exact(case, data.draw(near_start | near_end))


@pytest.mark.parametrize("kind", [*ENDS, "Geometric"])
@given(data=st.data())
def test_value_is_the_end_itself_from_the_horizon_on(kind, data):
    if kind == "Tanh":
        return  # never quite arrives
    half_turn = {"cycles": st.just(0.5)} if kind == "Cosine" else {}
    case = data.draw(oracles.KINDS[kind].cases(**half_turn))
    s = schedule(case)
    assert s(int(case.steps)) == case.arguments["end"]
    assert s(LONGEST) == case.arguments["end"]


@pytest.mark.parametrize(
    "kind",
    ["Linear", "Cosine", "Polynomial", "Geometric", "Exponential", "StepDecay", "InverseTime", "PowerLaw", "Rex",
     "OneMinusSqrt", "CosineRestarts"],
)  # fmt: skip
@given(data=st.data())
def test_value_at_step_zero_is_the_start_itself(kind, data):
    case = data.draw(oracles.KINDS[kind].cases())
    assert schedule(case)(0) == case.arguments["start"]


@pytest.mark.parametrize("kind", ENDS)
@pytest.mark.parametrize(
    ("start", "end"), [(1e290, -1e290), (-1e290, 1e290), (5e-324, 0.0), (0.0, 1e-310), (1e290, 5e-324)]
)
def test_value_stays_between_the_ends_at_the_limits_of_the_range(kind, start, end):
    s = getattr(fs, kind)(start, end, steps=97)
    values = s.table(120)
    assert np.all(values <= max(start, end))
    assert np.all(values >= min(start, end))


@pytest.mark.parametrize("steps", [1, 2, 3, 1000, 2**31, LONGEST])
def test_cosine_of_peak_one_is_one_half_in_the_middle(steps):
    assert fs.Cosine(steps=steps)(steps / 2) == 0.5


@pytest.mark.parametrize(
    ("shorthand", "full"),
    [
        ("Constant()", "Constant(value=1.0, steps=None)"),
        ("Linear(0.1, 1.0, steps=7)", "Linear(start=0.1, end=1.0, steps=7)"),
        ("Cosine(steps=7)", "Cosine(start=1.0, end=0.0, steps=7, cycles=0.5, exponent=1.0, k=1.0)"),
        ("Polynomial(steps=7)", "Polynomial(start=1.0, end=0.0, steps=7, power=1.0, k=1.0)"),
        ("Geometric(end=0.1, steps=7)", "Geometric(start=1.0, end=0.1, steps=7)"),
        ("Exponential(gamma=0.9)", "Exponential(start=1.0, gamma=0.9, every=1, staircase=False)"),
        ("Exponential(rate=0.1)", "Exponential(start=1.0, rate=0.1, every=1, staircase=False)"),
        ("StepDecay(gamma=0.5, every=3)", "StepDecay(start=1.0, gamma=0.5, every=3)"),
        ("MultiStep(milestones=[3, 5], gamma=0.5)", "MultiStep(start=1.0, milestones=(3, 5), gamma=0.5)"),
        ("InverseSqrt(timescale=7)", "InverseSqrt(start=1.0, timescale=7, shift=0)"),
        ("InverseTime(rate=0.1)", "InverseTime(start=1.0, rate=0.1, every=1, staircase=False)"),
        ("PowerLaw(exponent=0.5, timescale=7)", "PowerLaw(start=1.0, exponent=0.5, timescale=7)"),
        ("Tanh(steps=7)", "Tanh(start=1.0, end=0.0, steps=7, lower=-7.0, upper=3.0)"),
        ("Rex(steps=7)", "Rex(start=1.0, end=0.0, steps=7)"),
        ("OneMinusSqrt(steps=7)", "OneMinusSqrt(start=1.0, end=0.0, steps=7)"),
        ("Triangular(0.1, 1.0, up=7)", "Triangular(0.1, 1.0, up=7, down=None, mode='triangular', gamma=1.0)"),
        (
            "CosineRestarts(first=7)",
            "CosineRestarts(start=1.0, end=0.0, first=7, multiplier=1, decay=1.0, cycles=None)",
        ),
        (
            "OneCycle(steps=7)",
            "OneCycle(peak=1.0, steps=7, pct_start=0.3, div_factor=25.0, final_div_factor=1e4, anneal='cos', "
            "three_phase=False)",
        ),
        (
            "OneCycleMomentum(steps=7)",
            "OneCycleMomentum(low=0.85, high=0.95, steps=7, pct_start=0.3, anneal='cos', three_phase=False)",
        ),
        ("OneCycle(steps=7).momentum()", "OneCycleMomentum(steps=7)"),
        (
            "WarmupStableDecay(warmup=1, stable=2, decay=3)",
            "WarmupStableDecay(peak=1.0, warmup=1, stable=2, decay=3, shape='linear', end=0.0)",
        ),
        (
            "Infinite(warmup=1, cosine=2, plateau=0.1)",
            "Infinite(peak=1.0, warmup=1, cosine=2, plateau=0.1, constant=None, cooldown=None, end=None)",
        ),
        ("Cosine(steps=7).warmup(3)", "Cosine(steps=7).warmup(3, start=0.0, shape='linear')"),
        ("Cosine(steps=7).repeat()", "Cosine(steps=7).repeat(times=None)"),
        ("Cosine(steps=7).cooldown(3, 2)", "Cosine(steps=7).cooldown(at=3, steps=2, shape='linear', end=0.0)"),
        ("Cosine(steps=7).noisy(0.1)", "Cosine(steps=7).noisy(0.1, seed=0, distribution='normal', std=1.0)"),
    ],
)
def test_defaults_are_those_of_the_contract(shorthand, full):
    assert schedule(shorthand) == schedule(full)


def test_numpy_integers_and_floats_are_accepted_as_parameters():
    assert fs.Cosine(np.float64(0.5), np.float32(0.25), steps=np.int64(10)) == fs.Cosine(0.5, 0.25, steps=10)


def test_an_integer_is_accepted_as_a_value():
    assert fs.Linear(1, 0, steps=4)(1) == 0.75


def test_repeated_milestone_counts_twice():
    s = fs.MultiStep(1.0, milestones=[4, 4], gamma=0.5)
    assert [s(3), s(4)] == [1.0, 0.25]


# Horizons.


@every_case
@given(data=st.data())
def test_the_last_value_holds_past_the_end(kind, data):
    case = data.draw(oracles.CASES[kind])
    s = schedule(case)
    if kind == "MultiStep":
        last = max(case.edges)
    elif math.isinf(case.steps) or case.steps > LONGEST:
        return
    else:
        last = int(case.steps)
    beyond = data.draw(st.integers(last, LONGEST))
    assert same_bits(s(beyond), s(last))


@every_example
def test_steps_is_the_horizon(case):
    if "MultiStep" in case.text:
        return  # its own test below
    steps = schedule(case).steps
    assert steps == case.steps
    assert type(steps) is (float if math.isinf(case.steps) else int)


def test_a_sum_of_horizons_above_the_longest_is_refused():
    with pytest.raises(ValueError, match=r"(?s)steps.*2\*\*53|9007199254740992"):
        fs.Cosine(steps=LONGEST).then(fs.Constant(1.0, steps=1))


# Tables.


@every_case
@given(data=st.data())
def test_table_equals_the_calls_to_the_bit(kind, data):
    case = data.draw(oracles.CASES[kind])
    s = schedule(case)
    start = data.draw(st.just(0) | oracles.windows_of(40, case))
    count = data.draw(st.integers(0, 40))
    assert same_bits(s.table(count, start=start), [s(start + k) for k in range(count)])


@every_example
def test_a_window_equals_the_slice_of_the_whole(case):
    s = schedule(case)
    whole = s.table(1400)
    for start, count in [(0, 1), (1, 1), (3, 700), (997, 9), (999, 401), (1399, 1)]:
        assert same_bits(s.table(count, start=start), whole[start : start + count])


@every_example
def test_a_call_with_an_array_equals_the_calls_one_by_one(case):
    s = schedule(case)
    steps = window(case)
    assert same_bits(s(steps), [s(int(step)) for step in steps])


@every_example
def test_a_call_with_fractional_steps_equals_the_calls_one_by_one(case):
    s = schedule(case)
    steps = window(case) * 0.999 + 0.25
    assert same_bits(s(steps), [s(float(step)) for step in steps])


# Steps: what comes in and what comes out.

COSINE = "Cosine(start=1.0, end=0.1, steps=1000)"


@pytest.mark.parametrize(
    "step",
    [7, 7.0, np.int64(7), np.uint8(7), np.int8(7), np.float32(7), np.float64(7), np.float16(7), np.uint64(7)],
)
def test_a_number_of_any_type_gives_the_same_float(step):
    s = schedule(COSINE)
    value = s(step)
    assert type(value) is float
    assert value == s(7)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "i4", "i8", "u4", "u8", "f2", "f4", "f8", ">i4", ">f8"])
def test_an_array_of_any_real_dtype_gives_float64(dtype):
    s = schedule(COSINE)
    values = s(np.arange(12).astype(dtype))
    assert values.dtype == np.float64
    assert same_bits(values, s.table(12))


@pytest.mark.parametrize("shape", [(1,), (5,), (3, 4), (2, 3, 4), (0,), (0, 3), (3, 0)])
def test_an_array_gives_an_array_of_its_shape(shape):
    steps = np.arange(math.prod(shape)).reshape(shape)
    values = schedule(COSINE)(steps)
    assert type(values) is np.ndarray
    assert values.shape == shape


@pytest.mark.parametrize(
    "view", ["steps[::2]", "steps[::-1]", "steps.reshape(10, 6).T", "steps.reshape(10, 6)[:, ::3]"]
)
@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.int16])
def test_a_strided_array_gives_what_its_copy_gives(view, dtype):
    strided = eval(view, {"steps": np.arange(60, dtype=dtype)})
    s = schedule(COSINE)
    assert same_bits(s(strided), s(np.array(strided, order="C", copy=True)))


def test_the_array_of_steps_is_left_as_it_was():
    steps = np.arange(10.0)
    schedule(COSINE)(steps)
    assert np.array_equal(steps, np.arange(10.0))


def test_a_read_only_array_of_steps_is_accepted():
    steps = np.arange(10)
    steps.flags.writeable = False
    assert same_bits(schedule(COSINE)(steps), schedule(COSINE).table(10))


def test_the_longest_step_is_accepted():
    assert schedule(COSINE)(LONGEST) == 0.1


def test_negative_zero_is_step_zero():
    assert schedule(COSINE)(-0.0) == 1.0


@every_example
@pytest.mark.parametrize(
    "step", [-1, -0.5, -5e-324, math.nan, math.inf, -math.inf, LONGEST + 1, 1e16, 1e300, 10**400, -(10**400)]
)
def test_a_step_out_of_range_is_a_value_error(case, step):
    with pytest.raises(ValueError, match="step"):
        schedule(case)(step)


@every_example
@pytest.mark.parametrize("step", [True, False, np.True_, "3", b"3", None, 1j, np.complex128(1), {}, object()])
def test_a_step_of_the_wrong_type_is_a_type_error(case, step):
    with pytest.raises(TypeError, match="step"):
        schedule(case)(step)


@pytest.mark.parametrize("bad", [-1.0, math.nan, math.inf, 2.0**53 + 2])
@pytest.mark.parametrize("position", [0, 7, 999])
def test_an_array_with_a_step_out_of_range_is_a_value_error(bad, position):
    steps = np.arange(1000.0)
    steps[position] = bad
    with pytest.raises(ValueError, match="step"):
        schedule(COSINE)(steps)


@pytest.mark.parametrize("dtype", [np.int8, np.int32, np.int64])
def test_an_integer_array_with_a_negative_step_is_a_value_error(dtype):
    with pytest.raises(ValueError, match="step"):
        schedule(COSINE)(np.array([3, -1], dtype=dtype))


@pytest.mark.parametrize(
    "too_large", [np.array([LONGEST + 1]), np.array([2**64 - 1], dtype=np.uint64), np.array([2**63 - 1])]
)
def test_an_integer_array_with_a_step_above_the_longest_is_a_value_error(too_large):
    with pytest.raises(ValueError, match="step"):
        schedule(COSINE)(too_large)


@pytest.mark.parametrize("dtype", ["?", "c16", "O", "U2", "S2", "M8[s]", "m8[s]"])
def test_an_array_of_the_wrong_dtype_is_a_type_error(dtype):
    with pytest.raises(TypeError, match="step"):
        schedule(COSINE)(np.zeros(3, dtype=dtype))


def test_no_message_prints_an_arrays_contents():
    steps = np.array([3.0, 123456789.25, -1.0])
    with pytest.raises(ValueError, match="step") as caught:
        schedule(COSINE)(steps)
    assert "123456789" not in str(caught.value)


@pytest.mark.parametrize("arguments", ["", "1, 2"])
def test_a_call_takes_exactly_one_step(arguments):
    with pytest.raises(TypeError):
        eval(f"s({arguments})", {"s": schedule(COSINE)})


# Combinators.


@given(data=st.data())
def test_then_is_the_first_schedule_before_its_horizon_and_the_second_from_there_on(data):
    a = data.draw(oracles.KINDS["Cosine"].cases(steps=st.integers(1, 10**6)))
    b = data.draw(oracles.KINDS["Polynomial"].cases(steps=st.integers(1, 10**6)))
    first, second = schedule(a), schedule(b)
    both = first.then(second)
    at_the_edge = st.sampled_from([int(a.steps) + by for by in (-1, 0, 1)])
    step = data.draw(st.integers(0, 2 * 10**6 + 1) | at_the_edge)
    expected = first(step) if step < first.steps else second(step - first.steps)
    assert same_bits(both(step), expected)


def test_then_adds_the_horizons():
    assert fs.Cosine(steps=10).then(fs.Linear(0.0, 1.0, steps=7)).steps == 17


def test_then_of_an_endless_schedule_has_no_end():
    assert fs.Cosine(steps=10).then(fs.Constant(0.5)).steps == math.inf


def test_then_after_an_endless_schedule_is_refused():
    with pytest.raises(ValueError, match="then"):
        fs.Constant(1.0).then(fs.Cosine(steps=10))


def test_then_takes_the_second_schedules_value_at_the_edge():
    s = fs.Linear(0.0, 1.0, steps=4).then(fs.Linear(5.0, 6.0, steps=4))
    assert [s(3), s(4), s(5)] == [0.75, 5.0, 5.25]


def test_then_interpolates_up_to_the_edge():
    s = fs.Linear(0.0, 1.0, steps=4).then(fs.Linear(5.0, 6.0, steps=4))
    assert s(3.5) == 0.875


def test_then_is_associative():
    a, b, c = fs.Cosine(steps=5), fs.Linear(0.1, 0.2, steps=3), fs.Constant(0.5)
    assert same_bits(a.then(b).then(c).table(20), a.then(b.then(c)).table(20))


@pytest.mark.parametrize("other", [1.0, None, "Cosine", [fs.Constant(1.0)]])
def test_then_of_something_else_is_a_type_error(other):
    with pytest.raises(TypeError, match="then"):
        fs.Cosine(steps=5).then(other)


@pytest.mark.parametrize("shape", oracles.WARMUPS)
@given(data=st.data())
def test_warmup_starts_at_its_ratio_of_the_first_value(shape, data):
    a = data.draw(oracles.KINDS["Cosine"].cases(start=st.floats(1e-3, 1e3), steps=st.integers(1, 10**6)))
    start = data.draw(st.floats(1e-3, 1.0))
    s = schedule(oracles.warmup(a, data.draw(st.integers(1, 10**6)), start, shape))
    assert s(0) == pytest.approx(start * schedule(a)(0), rel=9 * 2**-52)  # two factors: 9 ulp


@pytest.mark.parametrize("shape", oracles.WARMUPS)
@given(data=st.data())
def test_after_warmup_the_schedule_runs_from_its_beginning(shape, data):
    a = data.draw(oracles.KINDS["Cosine"].cases(start=st.floats(1e-3, 1e3), steps=st.integers(1, 10**6)))
    steps = data.draw(st.integers(1, 10**6))
    inner = schedule(a)
    s = inner.warmup(steps, start=0.25, shape=shape)
    step = data.draw(st.integers(0, 10**6 + 1))
    assert same_bits(s(steps + step), inner(step))


@pytest.mark.parametrize("shape", [shape for shape in oracles.WARMUPS if shape != "constant"])
def test_warmup_rises_at_every_step_to_the_first_value(shape):
    s = fs.Cosine(2.0, steps=100).warmup(50, start=0.01, shape=shape)
    assert np.all(np.diff(s.table(51)) > 0)
    assert s(50) == 2.0


def test_constant_warmup_holds_until_the_last_step():
    s = fs.Cosine(2.0, steps=100).warmup(50, start=0.25, shape="constant")
    assert set(s.table(50)) == {0.5}


def test_linear_warmup_from_zero_is_the_steps_share_of_the_peak():
    s = fs.Constant(1.0).warmup(8)
    assert list(s.table(10)) == [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.0]


def test_warmup_adds_to_the_horizon():
    assert fs.Cosine(steps=10).warmup(7).steps == 17


def test_warmup_of_an_endless_schedule_has_no_end():
    assert fs.Constant(1.0).warmup(7).steps == math.inf


def test_warmup_of_a_schedule_that_begins_at_zero_is_zero():
    assert set(fs.Linear(0.0, 1.0, steps=5).warmup(4).table(5)) == {0.0}


@given(data=st.data())
def test_scaling_multiplies_every_value(data):
    case = data.draw(oracles.KINDS["Cosine"].cases(start=st.floats(1e-3, 1e3), end=st.just(1e-3)))
    factor = data.draw(st.one_of(st.integers(-5, 5).filter(bool), st.floats(1e-3, 1e3)))
    s = schedule(case)
    step = data.draw(oracles.whole_steps(case))
    assert (s * factor)(step) == pytest.approx(factor * s(step), rel=9 * 2**-52)  # two factors: 9 ulp
    assert same_bits((factor * s)(step), (s * factor)(step))


def test_scaling_keeps_the_horizon():
    assert (0.1 * fs.Cosine(steps=10)).steps == 10


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_scaling_by_something_not_finite_is_a_value_error(factor):
    with pytest.raises(ValueError, match="finite"):
        fs.Cosine(steps=10) * factor


@pytest.mark.parametrize("factor", [True, "2", None, 1j, [2.0]])
def test_scaling_by_something_else_is_a_type_error(factor):
    with pytest.raises(TypeError):
        fs.Cosine(steps=10) * factor
    with pytest.raises(TypeError):
        factor * fs.Cosine(steps=10)


def test_scaling_by_a_numpy_float_gives_a_schedule_from_both_sides():
    s = fs.Cosine(steps=10)
    assert np.float64(0.5) * s == s * np.float64(0.5) == 0.5 * s


def test_a_product_runs_as_long_as_the_longer_factor():
    s = fs.Linear(1.0, 0.5, steps=4) * fs.Linear(1.0, 0.5, steps=8)
    assert s.steps == 8
    assert s(8) == 0.25


# Values, not objects.


@every_case
@few
@given(data=st.data())
def test_repr_evaluates_to_an_equal_schedule(kind, data):
    s = schedule(data.draw(oracles.CASES[kind]))
    assert schedule(repr(s)) == s


@every_case
@few
@given(data=st.data())
def test_json_gives_an_equal_schedule(kind, data):
    s = schedule(data.draw(oracles.CASES[kind]))
    text = s.to_json()
    assert type(text) is str
    assert fs.from_json(text) == s


@every_case
@few
@given(data=st.data())
def test_a_schedule_from_json_gives_the_same_bits(kind, data):
    case = data.draw(oracles.CASES[kind])
    s = schedule(case)
    step = data.draw(oracles.whole_steps(case))
    assert same_bits(fs.from_json(s.to_json())(step), s(step))


@every_case
@few
@given(data=st.data())
def test_equal_schedules_have_equal_hashes_and_the_same_json(kind, data):
    case = data.draw(oracles.CASES[kind])
    a, b = schedule(case), schedule(case)
    assert a == b
    assert (a != b) is False
    assert hash(a) == hash(b)
    assert a.to_json() == b.to_json()


@every_example
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_gives_an_equal_schedule(case, protocol):
    s = schedule(case)
    twin = pickle.loads(pickle.dumps(s, protocol))
    assert type(twin) is type(s)
    assert twin == s
    assert same_bits(twin.table(50), s.table(50))


@every_example
@pytest.mark.parametrize("make_copy", [copy.copy, copy.deepcopy])
def test_a_copy_is_equal(case, make_copy):
    s = schedule(case)
    assert make_copy(s) == s


def test_different_schedules_are_unequal():
    texts = {case.text for case in oracles.EXAMPLES.values()}
    assert len({schedule(text) for text in texts}) == len(texts)


@pytest.mark.parametrize(
    "other",
    [
        "Cosine(0.9, 0.1, steps=10)",
        "Cosine(1.0, 0.2, steps=10)",
        "Cosine(1.0, 0.1, steps=11)",
        "Cosine(1.0, 0.1, steps=10, cycles=1.5)",
        "Cosine(1.0, 0.1, steps=10, exponent=2.0)",
        "Cosine(1.0, 0.1, steps=10, k=2.0)",
        "Linear(1.0, 0.1, steps=10)",
        "2 * Cosine(1.0, 0.1, steps=10)",
        "Cosine(1.0, 0.1, steps=10).warmup(1)",
    ],
)
def test_a_schedule_differs_from_one_with_another_parameter(other):
    assert schedule("Cosine(1.0, 0.1, steps=10)") != schedule(other)


@pytest.mark.parametrize("other", [None, 1.0, "Cosine(steps=10)", (), object()])
def test_a_schedule_differs_from_everything_else(other):
    assert fs.Cosine(steps=10) != other


def test_schedules_have_no_order():
    with pytest.raises(TypeError):
        _ = fs.Cosine(steps=10) < fs.Cosine(steps=11)


@every_example
@pytest.mark.parametrize("name", ["steps", "start", "value", "anything"])
def test_a_schedule_cannot_be_changed(case, name):
    s = schedule(case)
    with pytest.raises(AttributeError):
        setattr(s, name, 3)


def test_writing_into_a_table_changes_no_later_value():
    s = fs.Cosine(steps=10)
    before = s.table(10)
    s.table(10)[:] = 7
    assert same_bits(s.table(10), before)


def test_changing_the_list_of_milestones_afterwards_changes_nothing():
    milestones = [3, 6]
    s = fs.MultiStep(milestones=milestones, gamma=0.5)
    milestones[0] = 1
    assert s(2) == 1.0


def test_combinators_leave_their_operands_alone():
    s = fs.Cosine(steps=10)
    before = repr(s), s.table(20)
    s.warmup(3).then(s) * 0.5
    assert repr(s) == before[0]
    assert same_bits(s.table(20), before[1])


def test_calls_out_of_order_give_the_same_values():
    s = schedule(oracles.EXAMPLES["composition"])
    forwards = [s(t) for t in range(100)]
    assert [s(t) for t in reversed(range(100))][::-1] == forwards


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "1", '"Cosine"', "{}", '{"kind": "Cosine"}', '{"kind": "Nonsense"}', "[1, 2"],
)
def test_json_of_something_else_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"(?i)json"):
        fs.from_json(text)


@pytest.mark.parametrize("text", [None, 1, {}, [], True])
def test_json_of_the_wrong_type_is_a_type_error(text):
    with pytest.raises(TypeError, match="from_json"):
        fs.from_json(text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("1000", "0"),
        ("1000", "true"),
        ("1000", '"a"'),
        ("1000", "NaN"),
        ("1000", str(2**60)),
        ("0.25", "1e999"),
        ("0.25", "null"),
    ],
)
def test_json_with_a_bad_parameter_is_refused_as_at_construction(old, new):
    text = fs.Cosine(1.0, 0.25, steps=1000).to_json()
    assert old in text
    with pytest.raises((ValueError, TypeError)):
        fs.from_json(text.replace(old, new))


# Depth: a schedule is a flat program, so ten thousand parts are nothing special.

DEPTH = 10_000


def _part(i):
    return fs.Linear(1.0, i / DEPTH, steps=2)


def _chain_to_the_left():
    return functools.reduce(lambda s, i: s.then(_part(i)), range(1, DEPTH), _part(0))


def _chain_to_the_right():
    return functools.reduce(lambda s, i: _part(i).then(s), range(DEPTH - 2, -1, -1), _part(DEPTH - 1))


@pytest.fixture(scope="module", params=[_chain_to_the_left, _chain_to_the_right], ids=["left", "right"])
def chain(request):
    """Ten thousand pieces of two steps each; piece i falls from 1 to i/DEPTH."""
    return request.param()


def test_a_long_chain_has_the_right_value_everywhere(chain):
    steps = np.arange(2 * DEPTH)
    ends = steps // 2 / DEPTH
    expected = np.where(steps % 2 == 0, 1.0, (1.0 + ends) / 2)
    assert np.allclose(chain.table(2 * DEPTH), expected, rtol=4 * 2**-52, atol=0)  # 4 ulp


def test_a_long_chain_can_be_called(chain):
    assert chain(2 * DEPTH - 2) == 1.0


def test_a_long_chain_has_a_horizon(chain):
    assert chain.steps == 2 * DEPTH


def test_a_long_chain_has_a_repr(chain):
    assert "Linear" in repr(chain)


def test_a_long_chain_survives_json(chain):
    twin = fs.from_json(chain.to_json())
    assert twin == chain
    assert hash(twin) == hash(chain)


def test_a_long_chain_survives_pickling(chain):
    assert pickle.loads(pickle.dumps(chain)) == chain


def test_a_long_chain_survives_deepcopy(chain):
    assert copy.deepcopy(chain) == chain


def test_a_long_chain_can_be_scaled_and_warmed_up(chain):
    s = (0.5 * chain).warmup(10)
    assert s(10) == 0.5


def test_ten_thousand_scalings_are_their_product():
    s = functools.reduce(lambda s, _: s * 0.999, range(DEPTH), fs.Cosine(steps=10))
    assert s(0) == pytest.approx(0.999**DEPTH, rel=(4 + 5 * DEPTH) * 2**-52)
    assert fs.from_json(s.to_json()) == s


def test_a_thousand_warmups_run_one_after_the_other():
    s = functools.reduce(lambda s, _: s.warmup(2, start=1.0), range(1000), fs.Cosine(steps=10))
    assert s.steps == 2010
    assert same_bits(s.table(12, start=2000), fs.Cosine(steps=10).table(12))


def test_bits_tell_signed_zeros_apart():
    assert not np.array_equal(bits([0.0]), bits([-0.0]))


@pytest.mark.parametrize(
    ("schedule", "step", "exact"),
    [
        (fs.Exponential(gamma=2.0), 1024, math.inf),
        (fs.Exponential(gamma=2.0), 10**9, math.inf),
        (fs.Exponential(gamma=2**3.998046875), 256, math.inf),  # an exponent of 1023.5
        (fs.Exponential(-1.0, rate=-1.0), 800, -math.inf),
        (fs.StepDecay(gamma=2.0, every=1), 5000, math.inf),
        (fs.Exponential(gamma=0.5, every=1e-290), 3, 0.0),
        (fs.StepDecay(gamma=0.5, every=1e-290), 1, 0.0),
        (fs.StepDecay(gamma=0.5, every=1e-290), 2**53, 0.0),
        (fs.StepDecay(gamma=0.5, every=1), 2**53, 0.0),
    ],
    ids=str,
)
def test_beyond_the_range_of_numbers_there_is_zero_or_infinity_and_no_nan(schedule, step, exact):
    assert schedule(step) == exact
    assert schedule.table(2, start=step - 1)[1] == exact


def test_a_0d_array_of_steps_gives_a_0d_array():
    assert fs.Linear(1.0, 0.0, steps=10)(np.array(3)).shape == ()
