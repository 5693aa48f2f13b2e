"""The two backends, the environment variables, and what importing the package loads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import output, python, same_bits, schedule, window

import fastsched as fs
from fastsched import _core

every_example = pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)


@pytest.fixture
def numba():
    before = fs.backend()
    fs.use_backend("numba")
    yield
    fs.use_backend(before)


def tolerance(case, steps):
    """The contract's 1e-12 * max(|start|, |end|), at each step that of the piece which is running."""
    return np.array([1e-12 * float(case.size(int(step))) for step in steps])


def test_the_tests_run_on_the_native_backend():
    assert fs.backend() == "native"


def test_use_backend_switches_and_switches_back(numba):
    assert fs.backend() == "numba"
    fs.use_backend("native")
    assert fs.backend() == "native"


@pytest.mark.parametrize("name", ["", "Native", "cuda"])
def test_use_backend_names_the_backends_it_knows(name):
    with pytest.raises(ValueError, match=r"backend.*native.*numba"):
        fs.use_backend(name)
    assert fs.backend() == "native"


@pytest.mark.parametrize("name", [None, 1, True, ["numba"]])
def test_use_backend_refuses_a_name_of_the_wrong_type(name):
    with pytest.raises(TypeError, match="backend"):
        fs.use_backend(name)


@pytest.mark.parametrize("name", ["native", "numba"])
def test_the_environment_chooses_the_backend(name):
    assert output("import fastsched as fs; print(fs.backend())", FASTSCHED_BACKEND=name) == name


def test_an_unknown_backend_in_the_environment_is_a_clear_error():
    done = python("import fastsched as fs; print(fs.backend())", FASTSCHED_BACKEND="nonsense")
    assert done.returncode != 0
    assert "FASTSCHED_BACKEND" in done.stderr
    assert "nonsense" in done.stderr


def test_an_unknown_instruction_set_in_the_environment_is_a_clear_error():
    done = python("import fastsched", FASTSCHED_ISA="nonsense")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "FASTSCHED_ISA" in last
    assert "nonsense" in last
    assert "baseline" in last


def test_an_empty_instruction_set_in_the_environment_is_none():
    assert output("from fastsched import _core; print(_core.isa())", FASTSCHED_ISA="") == _core.isas()[-1]


@pytest.mark.parametrize("name", _core.isas())
def test_the_environment_chooses_the_instruction_set(name):
    assert output("from fastsched import _core; print(_core.isa())", FASTSCHED_ISA=name) == name


@pytest.mark.parametrize("module", ["torch", "numba", "matplotlib", "scipy"])
def test_importing_the_package_does_not_import(module):
    assert output(f"import sys, fastsched; print({module!r} in sys.modules)") == "False"


@pytest.mark.parametrize("module", ["torch", "numba", "matplotlib"])
def test_schedules_tables_and_plans_work_without(module):
    code = f"""
import sys
sys.modules[{module!r}] = None  # an import of it now raises
import fastsched as fs
s = fs.Cosine(steps=10).warmup(2)
print(s(2), fs.lr_table(s, 3).shape, fs.Plan([dict(lr=0.5)], s).at(2)["lr"][0])
"""
    assert output(code) == "1.0 (3, 1) 0.5"


@pytest.mark.parametrize("name", ["optim", "layerwise"])
def test_what_needs_torch_says_so_where_there_is_none(name):
    done = python(f"import sys; sys.modules['torch'] = None; import fastsched; fastsched.{name}")
    assert f"fastsched.{name}: needs torch, which is not installed" in done.stderr.splitlines()[-1]


def test_every_name_that_is_promised_is_there():
    assert output("from fastsched import *; print(Plan.__name__, layerwise.__name__)") == "Plan layerwise"


# Numba against native.


@every_example
def test_numba_tables_agree_with_native(numba, case):
    s = schedule(case)
    steps = np.arange(1400)
    ours = s.table(1400)
    fs.use_backend("native")
    assert np.all(np.abs(ours - s.table(1400)) <= tolerance(case, steps))


@every_example
def test_numba_calls_agree_with_native(numba, case):
    s, steps = schedule(case), window(case, 60)
    ours = [s(int(step)) for step in steps]
    fs.use_backend("native")
    assert np.all(np.abs(ours - s(steps)) <= tolerance(case, steps))


@every_example
def test_numba_calls_with_fractional_steps_agree_with_native(numba, case):
    s, steps = schedule(case), window(case, 60) * 0.99 + 0.3
    ours = s(steps)
    fs.use_backend("native")
    # The size is that of the piece which runs at the floor of the step.
    assert np.all(np.abs(ours - s(steps)) <= tolerance(case, np.floor(steps)))


@every_example
def test_numba_tables_equal_numba_calls_to_the_bit(numba, case):
    s = schedule(case)
    steps = window(case, 60)
    one_by_one = np.array([s(int(step)) for step in steps])
    assert np.array_equal(one_by_one, s(steps))
    assert np.array_equal([s.table(1, start=int(step))[0] for step in steps], one_by_one)


# What the oracle measures a sum's error in is its value, not its operands' ends as the law does.
@pytest.mark.parametrize("kind", [name for name in oracles.CASES if not name.startswith("sum")])
@given(data=st.data())
def test_any_schedule_on_numba_agrees_with_native_and_with_itself(kind, data):
    case = data.draw(oracles.CASES[kind])
    s, start = schedule(case), data.draw(oracles.windows_of(40, case))
    steps = np.arange(start, start + 37)
    fractions = np.array(data.draw(st.lists(oracles.fractional_steps(case), min_size=1, max_size=5)))
    native, native_fractions = s.table(37, start=start), s(fractions)
    fs.use_backend("numba")
    try:
        table, ours = s.table(37, start=start), s(fractions)
        assert same_bits(table, s(steps))
        assert same_bits(ours, [s(step) for step in fractions.tolist()])
    finally:
        fs.use_backend("native")
    values = np.concatenate([table, ours]), np.concatenate([native, native_fractions])
    for step, a, b in zip([*steps.tolist(), *fractions.tolist()], *values, strict=True):
        assert a == b or abs(a - b) <= 1e-12 * float(case.size(step))


@every_example
def test_numba_tables_of_any_window_are_slices_of_the_whole(numba, case):
    s = schedule(case)
    whole = s.table(5000)  # long enough for a list of exponentials
    for start, steps in [(0, 5000), (1, 4999), (511, 2), (513, 700), (1023, 1), (4096, 904)]:
        assert same_bits(s.table(steps, start=start), whole[start : start + steps])


@pytest.mark.parametrize("name", ["Polynomial(1e-5, 1.0, steps=7, power=0.5)", "Rex(1e-5, 1.0, steps=7)"])
def test_numba_begins_at_the_start_and_ends_at_the_end(numba, name):
    s = schedule(name)
    assert (s(0), s(7), s(8)) == (1e-5, 1.0, 1.0)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_numba_draws_the_same_noise(numba, distribution):
    s = fs.Constant(1.0).noisy(0.9, seed=2**63 + 12345, distribution=distribution, std=0.3)
    starts = (0, 2**32 - 50, 2**53 - 5000)
    ours = [s.table(5000, start=start) for start in starts]
    fs.use_backend("native")
    assert same_bits(ours, [s.table(5000, start=start) for start in starts])


def test_numba_exponentials_have_the_bits_of_native(numba):
    """Relative to their start they may grow beyond any bound: only equal bits keep within 1e-12 of it."""
    several = [fs.Exponential(gamma=1.001), fs.Exponential(3e-5, gamma=0.7), fs.StepDecay(gamma=1.1, every=2.4)]
    ours = [s.table(20_000) for s in several]
    fs.use_backend("native")
    assert same_bits(ours, [s.table(20_000) for s in several])


def test_numba_lr_tables_agree_with_native(numba):
    cases = list(oracles.EXAMPLES.values())
    several, scale = [schedule(case) for case in cases], np.linspace(0.1, 2.0, len(cases))
    ours = fs.lr_table(several, 300, scale=scale, dtype=np.float64)
    fs.use_backend("native")
    bound = np.stack([c * tolerance(case, np.arange(300)) for c, case in zip(scale, cases, strict=True)], axis=1)
    assert np.all(np.abs(ours - fs.lr_table(several, 300, scale=scale, dtype=np.float64)) <= bound)


def test_numba_plans_agree_with_native(numba):
    plan = fs.Plan([{"lr": 0.1, "weight_decay": fs.Linear(0.0, 0.05, steps=100)}, {"lr": 0.02}], fs.Cosine(steps=100))
    ours = plan.table(120, dtype=np.float64)
    fs.use_backend("native")
    theirs = plan.table(120, dtype=np.float64)
    for name in ours:
        np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-12 * 0.1)


@pytest.mark.parametrize("step", [-1, float("nan"), 2**53 + 1])
def test_numba_refuses_a_step_out_of_range_as_native_does(numba, step):
    with pytest.raises(ValueError, match="step"):
        fs.Cosine(steps=10)(step)


@pytest.mark.parametrize("step", [True, "3", None, 1j])
def test_numba_refuses_a_step_of_the_wrong_type_as_native_does(numba, step):
    with pytest.raises(TypeError, match="step"):
        fs.Cosine(steps=10)(step)


def test_a_schedule_made_on_one_backend_serves_on_the_other():
    s = fs.Cosine(steps=10)
    native = s(3)
    fs.use_backend("numba")
    try:
        assert abs(s(3) - native) <= 1e-12
    finally:
        fs.use_backend("native")
    assert s(3) == native


# Tables on Numba: orders, dtypes, threads, processes.


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("groups", [1, 3])
def test_numba_lr_tables_are_the_same_in_every_layout(numba, dtype, groups):
    s, scale = schedule("Cosine(steps=1000)"), np.linspace(0.1, 1.0, groups)
    expected = np.multiply.outer(s.table(700, start=5), scale).astype(dtype)
    strided = np.zeros((1400, 2 * groups), dtype)[::2, ::2]
    outs = [np.zeros((700, groups), dtype), np.zeros((groups, 700), dtype).T, strided, strided[::-1]]
    for out in outs:
        assert fs.lr_table(s, 700, start=5, scale=scale, dtype=dtype, out=out) is out
        assert np.array_equal(out, expected)


def test_numba_lr_tables_of_several_schedules_have_one_column_each(numba):
    several = [schedule(case) for case in oracles.EXAMPLES.values()]
    for order in "CF":
        table = fs.lr_table([*several, fs.Constant(0.3)], 1100, start=7, dtype=np.float64, order=order)
        assert same_bits(table[:, :-1], np.stack([s.table(1100, start=7) for s in several], axis=1))
        assert np.all(table[:, -1] == 0.3)


def test_numba_tables_have_the_same_bits_with_any_number_of_threads():
    code = """
import hashlib, fastsched as fs
digest = hashlib.sha256()
late = fs.Polynomial(steps=3 * 10**5, power=1.5)
for s in [fs.Cosine(1.0, 0.1, steps=10**6), late.warmup(10**4, shape="exponential", start=0.01)]:
    digest.update(s.table(400_003).tobytes())
    digest.update(fs.lr_table(s, 100_003, scale=[0.1, 0.2, 0.7], order="F").tobytes())
    digest.update(fs.lr_table(s, 100_003, scale=[0.1, 0.2, 0.7]).tobytes())
print(digest.hexdigest())
"""
    digests = {output(code, FASTSCHED_BACKEND="numba", NUMBA_NUM_THREADS=threads) for threads in ["1", "2", "7"]}
    assert len(digests) == 1


def test_numba_tables_computed_at_the_same_time_do_not_disturb_each_other(numba):
    schedules = [schedule(case) for case in oracles.EXAMPLES.values()]
    alone = [s.table(20_000).tobytes() for s in schedules]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda s: s.table(20_000).tobytes(), schedules * 2))
    assert together == alone * 2


def test_a_forked_child_fills_large_numba_tables():
    code = """
import os, fastsched as fs
s = fs.Cosine(steps=10)
s.table(1 << 18)  # starts the threads, which a child does not have
child = os.fork()
if child == 0:
    os._exit(0 if s.table(1 << 18)[-1] == 0.0 else 1)
print(os.waitpid(child, 0)[1])
"""
    assert output(code, FASTSCHED_BACKEND="numba", NUMBA_NUM_THREADS="2") == "0"


def test_a_second_process_finds_the_compiled_code(tmp_path):
    code = """
import fastsched as fs
fs.Cosine(steps=10).table(20)
stats = fs._backend.current().module.fill.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""
    environment = {"FASTSCHED_BACKEND": "numba", "NUMBA_CACHE_DIR": str(tmp_path)}
    assert [output(code, **environment) for _ in range(2)] == ["0 1", "1 0"]


def test_numba_works_where_no_cache_can_be_written():
    code = """
import numba.core.caching as caching, fastsched as fs
caching.CacheImpl._locator_classes = caching.FunctionCache._impl_class._locator_classes = []
fs.use_backend("numba")
print(fs._backend.current().module.fill.stats.cache_path)
"""
    assert output(code) == "None"


# Plans on Numba.


def test_numba_plan_at_is_the_row_of_its_table(numba):
    plan = fs.Plan([{"lr": 0.1, "weight_decay": fs.Linear(0.0, 0.05, steps=100)}, {"lr": 0.02}], fs.Cosine(steps=100))
    table = plan.table(120, dtype=np.float64)
    out = plan.at(0)
    for step in (0, 7, 50.0, 119):
        assert plan.at(step, out=out) is out
        for name, values in out.items():
            assert same_bits(values, table[name][int(step)])


@pytest.mark.parametrize(
    ("step", "out"),
    [
        (-1, {"lr": np.ones(2)}),
        (float("nan"), {"lr": np.ones(2)}),
        (2**53 + 1, {"lr": np.ones(2)}),
        (True, {"lr": np.ones(2)}),
        ("3", {"lr": np.ones(2)}),
        (3, {}),
        (3, {"momentum": np.ones(2)}),
        (3, {"lr": np.ones(2), "momentum": np.ones(2)}),
        (3, {"lr": np.ones(3)}),
        (3, {"lr": np.ones((2, 1))}),
        (3, {"lr": np.ones(2, np.float32)}),
        (3, {"lr": np.ones(4)[::2]}),
        (3, {"lr": [1.0, 1.0]}),
        (3, [1.0]),
    ],
)
def test_a_numba_grid_leaves_alone_what_it_cannot_fill(numba, step, out):
    plan = fs.Plan([{"lr": 0.1}, {"lr": 0.02}], fs.Cosine(steps=100))
    assert plan._grid().at(step, out) is False
    assert isinstance(out, list) or all(np.all(np.asarray(array) == 1.0) for array in out.values())


def test_a_numba_grid_leaves_a_read_only_array_alone(numba):
    plan, array = fs.Plan([{"lr": 0.1}]), np.ones(1)
    array.flags.writeable = False
    assert plan._grid().at(0, {"lr": array}) is False
