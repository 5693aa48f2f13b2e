"""The two backends, the environment variables, and what importing the package loads."""

import numpy as np
import oracles
import pytest
from support import output, python, schedule, window

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
