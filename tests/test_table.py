"""Tables: shapes, dtypes, the caller's arrays, and the same bits however they are computed."""

import itertools
import os

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import output, same_bits, schedule, window

import fastsched as fs
from fastsched import _core

LONGEST = oracles.LONGEST
COSINE = "Cosine(start=1.0, end=0.1, steps=1000)"
SCALE = [1.0, 0.1, 3e-4, 0.75**12]
every_example = pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)


# s.table


def test_table_is_float64_of_one_dimension():
    table = schedule(COSINE).table(7)
    assert (table.shape, table.dtype) == ((7,), np.float64)


@pytest.mark.parametrize("dtype", [np.float32, "float32", "f4", np.dtype("f4")])
@every_example
def test_float32_table_is_the_float64_table_rounded_once(case, dtype):
    s = schedule(case)
    table = s.table(1300, dtype=dtype)
    assert table.dtype == np.float32
    assert np.array_equal(table, s.table(1300).astype(np.float32))


def test_table_of_no_steps_is_empty():
    assert schedule(COSINE).table(0).shape == (0,)


@pytest.mark.parametrize("start", [0, 999, 2**40, LONGEST - 3, np.int64(5)])
def test_table_starts_at_any_step(start):
    s = schedule(COSINE)
    assert same_bits(s.table(3, start=start), [s(int(start) + k) for k in range(3)])


def test_table_ends_at_the_longest_step():
    assert schedule("Linear(0.0, 1.0, steps=2**53)").table(2, start=LONGEST - 1)[1] == 1.0


# A stair of a tenth of a step: from 2**53/10 on, and of three steps: at the last one, stairs cannot be counted exactly.
@pytest.mark.parametrize(("every", "start"), [(0.1, 2**53 // 10 - 2), (0.1, 2**53 // 8), (3.0, LONGEST - 4), (1e15, 7)])
@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("kind", ["InverseTime(rate=1e-9, ", "Exponential(gamma=1 - 1e-16, "])
def test_every_step_of_a_table_of_stairs_is_written(kind, steps, every, start):
    s = schedule(f"{kind}every={every}, staircase=True)")
    untouched = np.full(steps, -1.0)
    s.table(steps, start=start, out=untouched)
    assert same_bits(untouched, [s(start + k) for k in range(steps)])


@pytest.mark.parametrize(
    "arguments", [(-1, 0), (3, -1), (3, LONGEST), (LONGEST + 1, 0), (1, LONGEST + 1), (1, 10**400)]
)
def test_table_refuses_steps_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"steps|start"):
        schedule(COSINE).table(arguments[0], start=arguments[1])


@pytest.mark.parametrize("bad", [2.5, True, "3", None, 1j, [3]])
@pytest.mark.parametrize("name", ["steps", "start"])
def test_table_refuses_steps_of_the_wrong_type(name, bad):
    with pytest.raises(TypeError, match=name):
        schedule(COSINE).table(**{"steps": 3, name: bad})


@pytest.mark.parametrize("dtype", [np.int64, np.complex128, bool, object, "U3"])
def test_table_refuses_a_dtype_that_is_not_a_float(dtype):
    with pytest.raises((TypeError, ValueError), match="dtype"):
        schedule(COSINE).table(3, dtype=dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_table_fills_and_returns_the_callers_array(dtype):
    s = schedule(COSINE)
    out = np.full(9, -7, dtype=dtype)
    assert s.table(9, dtype=dtype, out=out) is out
    assert np.array_equal(out, s.table(9, dtype=dtype))


# lr_table


def test_lr_table_is_float32_with_a_row_per_step_and_a_column_per_group():
    table = fs.lr_table(schedule(COSINE), 7, scale=SCALE)
    assert (table.shape, table.dtype) == ((7, 4), np.float32)


def test_lr_table_without_scale_has_one_column():
    s = schedule(COSINE)
    table = fs.lr_table(s, 7, dtype=np.float64)
    assert table.shape == (7, 1)
    assert same_bits(table[:, 0], s.table(7))


@every_example
def test_lr_table_is_scale_times_schedule_in_float64(case):
    s = schedule(case)
    assert same_bits(fs.lr_table(s, 1300, scale=SCALE, dtype=np.float64), np.multiply.outer(s.table(1300), SCALE))


@every_example
def test_float32_lr_table_is_the_float64_product_rounded_once(case):
    s = schedule(case)
    product = np.multiply.outer(s.table(1300), SCALE)
    assert np.array_equal(fs.lr_table(s, 1300, scale=SCALE), product.astype(np.float32))


@given(
    scale=st.lists(st.floats(0.0, 1e3, allow_subnormal=False), min_size=1, max_size=40),
    start=st.integers(0, 1200),
    steps=st.integers(0, 60),
    order=st.sampled_from("CF"),
)
def test_lr_table_of_any_size_order_and_start_is_the_outer_product(scale, start, steps, order):
    s = schedule(COSINE)
    table = fs.lr_table(s, steps, scale=scale, start=start, dtype=np.float64, order=order)
    assert same_bits(table, np.multiply.outer(s.table(steps, start=start), scale))


def test_lr_table_of_several_schedules_has_one_column_each():
    several = [schedule(case) for case in oracles.EXAMPLES.values()]
    table = fs.lr_table(several, 1100, start=7, dtype=np.float64)
    assert same_bits(table, np.stack([s.table(1100, start=7) for s in several], axis=1))


def test_lr_table_scales_each_of_several_schedules():
    several = [schedule(case) for case in oracles.EXAMPLES.values()]
    scale = np.linspace(0.1, 2.0, len(several))
    table = fs.lr_table(several, 100, scale=scale, dtype=np.float64)
    assert same_bits(table, np.stack([c * s.table(100) for c, s in zip(scale, several, strict=True)], axis=1))


def test_lr_table_takes_the_same_schedule_many_times():
    s = schedule(COSINE)
    assert same_bits(fs.lr_table([s] * 5, 9, dtype=np.float64), np.repeat(s.table(9)[:, None], 5, axis=1))


@pytest.mark.parametrize("order", ["C", "F"])
def test_lr_table_is_stored_in_the_order_asked_for(order):
    table = fs.lr_table(schedule(COSINE), 7, scale=SCALE, order=order)
    assert table.flags.c_contiguous == (order == "C")
    assert table.flags.f_contiguous == (order == "F")


def test_lr_table_of_no_steps_is_empty():
    assert fs.lr_table(schedule(COSINE), 0, scale=SCALE).shape == (0, 4)


def test_lr_table_ends_at_the_longest_step():
    s = schedule("Linear(0.0, 1.0, steps=2**53)")
    assert fs.lr_table(s, 2, start=LONGEST - 1, dtype=np.float64)[1, 0] == 1.0


@pytest.mark.parametrize("arguments", [(-1, 0), (3, -1), (3, LONGEST), (LONGEST + 1, 0), (1, LONGEST + 1)])
def test_lr_table_refuses_steps_out_of_range(arguments):
    with pytest.raises(ValueError, match=r"steps|start"):
        fs.lr_table(schedule(COSINE), arguments[0], start=arguments[1])


@pytest.mark.parametrize("bad", [2.5, True, "3", None])
@pytest.mark.parametrize("name", ["steps", "start"])
def test_lr_table_refuses_steps_of_the_wrong_type(name, bad):
    with pytest.raises(TypeError, match=name):
        fs.lr_table(schedule(COSINE), **{"steps": 3, name: bad})


@pytest.mark.parametrize("scale", [[1.0, float("nan")], [float("inf")]])
def test_lr_table_refuses_a_scale_out_of_range(scale):
    with pytest.raises(ValueError, match="scale"):
        fs.lr_table(schedule(COSINE), 3, scale=scale)


@pytest.mark.parametrize("scale", [["a"], [[1.0], [2.0]], "1.0", [None], [1j], [True], object()])
def test_lr_table_refuses_a_scale_of_the_wrong_type(scale):
    with pytest.raises(TypeError, match="scale"):
        fs.lr_table(schedule(COSINE), 3, scale=scale)


def test_lr_table_refuses_a_scale_that_does_not_fit_the_schedules():
    with pytest.raises(ValueError, match=r"scale"):
        fs.lr_table([schedule(COSINE)] * 3, 3, scale=[1.0, 2.0])


def test_lr_table_error_prints_no_scale():
    with pytest.raises(ValueError, match=r"scale") as caught:
        fs.lr_table([schedule(COSINE)] * 3, 3, scale=np.array([0.123456789, 2.0]))
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize("schedules", [None, 1.0, "Cosine", [1.0], [None]])
def test_lr_table_refuses_what_is_no_schedule(schedules):
    with pytest.raises(TypeError, match="schedule"):
        fs.lr_table(schedules, 3)


@pytest.mark.parametrize("order", ["K", "", "c", "A"])
def test_lr_table_refuses_an_unknown_order(order):
    with pytest.raises(ValueError, match="order"):
        fs.lr_table(schedule(COSINE), 3, order=order)


@pytest.mark.parametrize("dtype", [np.int64, np.complex128, bool, object])
def test_lr_table_refuses_a_dtype_that_is_not_a_float(dtype):
    with pytest.raises((TypeError, ValueError), match="dtype"):
        fs.lr_table(schedule(COSINE), 3, dtype=dtype)


# The caller's array: it is filled, or refused and left alone; what surrounds it is never touched.


def tabulate_into(out, steps, groups, dtype):
    """Fills `out` by the function for its number of dimensions; returns what it should hold."""
    s = schedule(COSINE)
    if groups is None:
        return lambda: s.table(steps, dtype=dtype, out=out), s.table(steps, dtype=dtype)
    scale = np.linspace(0.1, 1.0, groups)
    arguments = {"scale": scale, "dtype": dtype}
    return lambda: fs.lr_table(s, steps, out=out, **arguments), fs.lr_table(s, steps, **arguments)


def attempt(fill):
    """The message of the refusal or None, and the result."""
    try:
        return None, fill()
    except ValueError as refused:
        return str(refused), None


VIEWS = {
    "contiguous": ((11,), (...,)),
    "inner": ((31,), (slice(10, 21),)),
    "every second": ((22,), (slice(None, None, 2),)),
    "reversed": ((11,), (slice(None, None, -1),)),
    "2d contiguous": ((11, 5), (...,)),
    "2d rows": ((22, 5), (slice(None, None, 2),)),
    "2d columns": ((11, 15), (slice(None), slice(None, None, 3))),
    "2d block": ((20, 9), (slice(4, 15), slice(2, 7))),
    "2d reversed": ((11, 5), (slice(None, None, -1), slice(None, None, -1))),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("shape", "index"), VIEWS.values(), ids=VIEWS)
def test_a_view_is_filled_and_its_surroundings_are_left_alone(shape, index, dtype):
    whole = np.full(shape, -7, dtype=dtype)
    inside = np.zeros(shape, dtype=bool)
    inside[index] = True
    view = whole[index]
    fill, expected = tabulate_into(view, 11, None if view.ndim == 1 else 5, dtype)
    refusal, result = attempt(fill)
    if refusal:
        assert "out" in refusal
        assert np.all(whole == -7)
    else:
        assert result is view
        assert np.array_equal(view, expected)
        assert np.all(whole[~inside] == -7)


def test_a_transposed_array_is_filled_in_fortran_order():
    out = np.full((5, 11), -7, dtype=np.float32).T
    fill, expected = tabulate_into(out, 11, 5, np.float32)
    assert fill() is out
    assert np.array_equal(out, expected)


@pytest.mark.parametrize("shape", [(10,), (12,), (0,), (11, 1), (1, 11), ()])
def test_table_refuses_an_array_of_the_wrong_shape(shape):
    out = np.full(shape, -7.0)
    with pytest.raises(ValueError, match="out"):
        schedule(COSINE).table(11, out=out)
    assert np.all(out == -7)


@pytest.mark.parametrize("shape", [(11, 4), (10, 5), (5, 11), (55,), (11, 5, 1), (0, 5)])
def test_lr_table_refuses_an_array_of_the_wrong_shape(shape):
    out = np.full(shape, -7, dtype=np.float32)
    with pytest.raises(ValueError, match="out"):
        fs.lr_table(schedule(COSINE), 11, scale=[1.0] * 5, out=out)
    assert np.all(out == -7)


@pytest.mark.parametrize("dtype", ["i8", "i4", "c16", "f4", ">f8", "?"])
@pytest.mark.parametrize("groups", [None, 5])
def test_an_array_of_the_wrong_dtype_is_refused(dtype, groups):
    out = np.zeros(11 if groups is None else (11, groups), dtype=dtype)
    fill, _ = tabulate_into(out, 11, groups, np.float64)
    with pytest.raises((ValueError, TypeError), match="out"):
        fill()
    assert not out.any()


@pytest.mark.parametrize("groups", [None, 5])
def test_a_read_only_array_is_refused(groups):
    out = np.zeros(11 if groups is None else (11, groups))
    out.flags.writeable = False
    fill, _ = tabulate_into(out, 11, groups, np.float64)
    with pytest.raises(ValueError, match="out"):
        fill()
    assert not out.any()


@pytest.mark.parametrize("groups", [None, 5])
def test_a_misaligned_array_is_filled_or_refused(groups):
    shape = 11 if groups is None else (11, groups)
    buffer = np.zeros(8 * 11 * (groups or 1) + 16, dtype=np.uint8)
    out = np.ndarray(shape, dtype=np.float64, buffer=buffer, offset=3)
    fill, expected = tabulate_into(out, 11, groups, np.float64)
    refusal, _ = attempt(fill)
    if refusal:
        assert "out" in refusal
        assert not buffer.any()
    else:
        assert np.array_equal(out, expected)
        assert not buffer[:3].any()
        assert not buffer[3 + out.nbytes :].any()


@pytest.mark.parametrize("out", [[0.0] * 11, 1.0, "out", bytearray(88)])
def test_table_refuses_an_out_that_is_no_array(out):
    with pytest.raises(TypeError, match="out"):
        schedule(COSINE).table(11, out=out)


@pytest.mark.parametrize("out", [[[0.0]] * 11, 1.0, "out"])
def test_lr_table_refuses_an_out_that_is_no_array(out):
    with pytest.raises(TypeError, match="out"):
        fs.lr_table(schedule(COSINE), 11, out=out)


# The same bits on every instruction set and with any number of threads.


@pytest.fixture
def use_isa():
    before = _core.isa()
    yield _core.use_isa
    _core.use_isa(before)


def by_instruction_set(use_isa, compute):
    results = []
    for name in _core.isas():
        use_isa(name)
        assert _core.isa() == name
        results.append(compute())
    return results


def test_the_machine_has_the_baseline_instruction_set():
    assert _core.isas()[0] == "baseline"


def test_an_unknown_instruction_set_is_refused(use_isa):
    with pytest.raises(ValueError, match="nonsense"):
        use_isa("nonsense")


@every_example
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_tables_have_the_same_bits_on_every_instruction_set(use_isa, case, dtype):
    s = schedule(case)
    tables = by_instruction_set(use_isa, lambda: s.table(2003, dtype=dtype).tobytes())
    assert len(set(tables)) == 1


@every_example
def test_calls_have_the_same_bits_on_every_instruction_set(use_isa, case):
    s, steps = schedule(case), window(case)
    calls = by_instruction_set(use_isa, lambda: np.array([s(int(step)) for step in steps]).tobytes())
    arrays = by_instruction_set(use_isa, lambda: s(steps).tobytes())
    fractions = by_instruction_set(use_isa, lambda: s(steps * 0.99 + 0.3).tobytes())
    assert len(set(calls + arrays)) == 1
    assert len(set(fractions)) == 1


@pytest.mark.parametrize("kind", oracles.CASES)
@given(data=st.data())
def test_any_schedule_has_the_same_bits_on_every_instruction_set(kind, data):
    case = data.draw(oracles.CASES[kind])
    s = schedule(case)
    start = data.draw(oracles.windows_of(40, case))
    before = _core.isa()
    try:
        tables = by_instruction_set(_core.use_isa, lambda: s.table(37, start=start).tobytes())
    finally:
        _core.use_isa(before)
    assert len(set(tables)) == 1


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_lr_tables_have_the_same_bits_on_every_instruction_set(use_isa, dtype):
    several = [schedule(case) for case in oracles.EXAMPLES.values()]
    scale = np.linspace(0.1, 2.0, len(several))
    tables = by_instruction_set(use_isa, lambda: fs.lr_table(several, 503, scale=scale, dtype=dtype).tobytes())
    assert len(set(tables)) == 1


def test_tables_have_the_same_bits_with_any_number_of_threads():
    code = """
import hashlib, numpy as np, fastsched as fs
digest = hashlib.sha256()
late = fs.Polynomial(steps=3 * 10**5, power=1.5)
for s in [fs.Cosine(1.0, 0.1, steps=10**6), late.warmup(10**4, shape="exponential", start=0.01)]:
    digest.update(s.table(400_003).tobytes())
    digest.update(fs.lr_table(s, 100_003, scale=[0.1, 0.2, 0.7], order="F").tobytes())
    digest.update(fs.lr_table(s, 100_003, scale=[0.1, 0.2, 0.7]).tobytes())
print(digest.hexdigest())
"""
    digests = {output(code, OMP_NUM_THREADS=threads, OMP_DYNAMIC="false") for threads in ["1", "2", "7"]}
    assert len(digests) == 1


def test_tables_computed_at_the_same_time_do_not_disturb_each_other():
    from concurrent.futures import ThreadPoolExecutor

    schedules = [schedule(case) for case in itertools.islice(oracles.EXAMPLES.values(), 8)]
    alone = [s.table(20_000).tobytes() for s in schedules]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda s: s.table(20_000).tobytes(), schedules * 3))
    assert together == alone * 3


def test_a_forked_child_fills_large_tables():
    schedule = fs.Cosine(steps=10)
    schedule.table(1 << 18)  # wakes OpenMP's threads, which a child does not have
    child = os.fork()
    if child == 0:
        os._exit(0 if schedule.table(1 << 18)[-1] == 0.0 else 1)
    assert os.waitpid(child, 0)[1] == 0
