"""`fastsched doctor`: what it says, and its exit status, in each situation."""

import doctest
import json
import sys
import types

import emulated
import numpy as np
import pytest
from support import output, python

import fastsched as fs
from fastsched import _backend, _kernels, _nvrtc, cli, doctor

cuda = pytest.fixture(emulated.running)

NOWHERE = "/nowhere/libcuda.so.1"
COMMAND = "import sys; from fastsched.cli import main; sys.exit(main({arguments}))"


def found(lines=None):
    """State and text of every finding by its name."""
    return {line.what: (line.state, line.found) for line in lines or doctor.examine()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTSCHED_CACHE", str(tmp_path / "kernels"))


@pytest.fixture
def no_driver(monkeypatch):
    def fail():
        raise RuntimeError("CUDA: no driver was found (libcuda.so.1); install the NVIDIA driver")

    monkeypatch.setattr(_backend._core, "cuda_driver_version", fail)


def test_without_a_gpu_everything_else_works_and_the_status_is_0():
    done = python(COMMAND.format(arguments='["doctor"]'), FASTSCHED_LIBCUDA=NOWHERE)
    assert done.returncode == 0, done.stdout + done.stderr
    states = {line.split()[1]: line.split()[0] for line in done.stdout.splitlines()}
    assert states.pop("driver") == "missing"
    states.pop("NVRTC")  # as this environment has it
    expected = ("fastsched", "native", "backend", "torch", "kernels", "cache", "curves", "step")
    assert states == dict.fromkeys(expected, "ok")


def test_json_holds_the_same_findings():
    answer = json.loads(output(COMMAND.format(arguments='["doctor", "--json"]'), FASTSCHED_LIBCUDA=NOWHERE))
    assert answer["ok"] is True
    assert answer["python"] == sys.version
    assert answer["findings"]["fastsched"]["found"].startswith(fs.__version__)
    assert answer["findings"]["driver"]["state"] == "missing"
    assert NOWHERE in answer["findings"]["driver"]["found"]


def test_a_failure_is_shown_and_makes_the_status_1(monkeypatch, capsys):
    lines = [doctor.Line("one", "ok", "fine"), doctor.Line("other", "failed", "broken; mend it\nby hand")]
    monkeypatch.setattr(doctor, "examine", lambda: lines)
    assert cli.main(["doctor"]) == 1
    assert capsys.readouterr().out == "ok       one    fine\nfailed   other  broken; mend it ...\n"
    assert cli.main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"]["other"]["found"] == "broken; mend it\nby hand"


def test_what_is_missing_is_no_failure(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Line("torch", "missing", "install it")])
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().out == "missing  torch  install it\n"


def test_the_example_in_the_docstring_is_right(no_driver):
    result = doctest.testmod(doctor)
    assert (result.attempted, result.failed) == (1, 0)


# ---- parts that are not there


def test_without_torch_the_rest_is_examined(no_driver, monkeypatch):
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    lines = found()
    assert lines["torch"] == (
        "missing",
        "torch is not installed, and fastsched.optim needs it; pip install 'fastsched[torch]'",
    )
    assert lines["step"] == ("missing", "needs torch")
    assert lines["curves"][0] == "ok"


def test_an_old_torch_is_named_with_the_version_that_is_needed(no_driver, monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "2.9.1+cu128")
    assert found()["torch"] == (
        "missing",
        "2.9.1+cu128; fastsched.optim needs 2.10 or newer: pip install 'fastsched[torch]'",
    )


@pytest.mark.parametrize(
    ("error", "state", "text"),
    [
        (ModuleNotFoundError("No module named 'fastsched._core'"), "missing", "where a C++17 compiler works"),
        (ImportError("undefined symbol: omp"), "failed", "undefined symbol: omp; reinstall fastsched"),
    ],
)
def test_the_native_module_is_missing_if_it_was_not_built_and_broken_otherwise(monkeypatch, error, state, text):
    monkeypatch.setattr(_backend, "IMPORT_ERROR", error)
    line = found()["native"]
    assert line[0] == state
    assert text in line[1]


def test_a_driver_that_is_too_old_has_failed(monkeypatch):
    def fail():
        raise RuntimeError("CUDA: a driver for CUDA 12.0 or newer is needed, found one for CUDA 11.8; upgrade")

    monkeypatch.setattr(_backend._core, "cuda_driver_version", fail)
    lines = doctor.examine()
    assert found(lines)["driver"][0] == "failed"
    assert not doctor.works(lines)


def test_an_unusable_cache_is_missing_and_names_the_variable(no_driver, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FASTSCHED_CACHE", str(tmp_path / "file"))
    state, text = found()["cache"]
    assert state == "missing"
    assert text.endswith("set FASTSCHED_CACHE to one of your own")


def no_nvrtc():
    raise RuntimeError("CUDA kernels: NVRTC was not found; pip install nvidia-cuda-nvrtc")


def test_without_a_gpu_nobody_needs_nvrtc(no_driver, monkeypatch):
    monkeypatch.setattr(_nvrtc, "find", no_nvrtc)
    lines = doctor.examine()
    assert found(lines)["NVRTC"] == ("missing", "CUDA kernels: NVRTC was not found; pip install nvidia-cuda-nvrtc")
    assert doctor.works(lines)


def test_sources_that_are_not_there_are_a_broken_installation(no_driver, tmp_path):
    _kernels.use(folder=tmp_path)
    try:
        state, text = found()["kernels"]
    finally:
        _kernels.use()
    assert state == "failed"
    assert text.endswith("reinstall fastsched")


def test_the_examination_leaves_numba_alone():
    code = "import sys; from fastsched import doctor; doctor.examine(); print('numba' in sys.modules)"
    assert output(code, FASTSCHED_LIBCUDA=NOWHERE) == "False"


# ---- results that are wrong


def test_curves_that_disagree_have_failed(no_driver, monkeypatch):
    monkeypatch.setattr(doctor, "_plain_values", lambda schedule: np.asarray(schedule(doctor._STEPS)) + 1e-11)
    state, text = found()["curves"]
    assert state == "failed"
    assert "from plain Python; reinstall fastsched" in text


def test_an_update_that_disagrees_with_torchs_has_failed(no_driver, monkeypatch):
    made = iter([{"param": 1.0}, {"param": 1.0 + 2e-6}])
    monkeypatch.setattr(doctor, "_one_update", lambda optimizer: next(made))
    assert found()["step"] == ("failed", "RuntimeError: AdamW: param is 1.0, torch's 1.000002; please report this")


# ---- with a GPU


def test_with_a_gpu_a_kernel_is_compiled_and_run(cuda):
    held = cuda.allocations()  # what graphs of other tests keep
    lines = doctor.examine()
    assert found(lines)["GPUs"] == ("ok", "Emulated GPU 0, compute capability 9.0")
    assert found(lines)["cuda:0"] == ("ok", "a kernel was compiled and run, and agrees with the host to the bit")
    assert cuda.launches() == [("fastsched::cuda::probe<true>", 1, doctor._PROBE_THREADS)]
    assert cuda.allocations() == held


def test_a_kernel_that_computes_something_else_has_failed(cuda, monkeypatch):
    run = doctor._core().cuda_run
    core = types.SimpleNamespace(**vars(doctor._core()))
    core.cuda_run = lambda *arguments: run(*arguments)[:-1] + b"\1"
    monkeypatch.setattr(doctor, "_core", lambda: core)
    state, text = found()["cuda:0"]
    assert state == "failed"
    assert "is not the host's to the bit; please report this" in text


def test_a_driver_that_fails_is_a_failure_with_its_message(cuda):
    cuda.fail("cuLaunchKernel", 700, 0)
    state, text = found()["cuda:0"]
    assert state == "failed"
    assert text.startswith("RuntimeError: CUDA: cuLaunchKernel: CUDA_ERROR_ILLEGAL_ADDRESS")


def test_with_a_gpu_a_missing_nvrtc_is_a_failure(cuda, monkeypatch):
    monkeypatch.setattr(_nvrtc, "find", no_nvrtc)
    lines = doctor.examine()
    assert found(lines)["NVRTC"] == ("failed", "CUDA kernels: NVRTC was not found; pip install nvidia-cuda-nvrtc")
    assert not doctor.works(lines)


def test_a_driver_without_devices_is_no_failure(cuda):
    cuda.machine(0, 90, 13000)
    lines = doctor.examine()
    assert found(lines)["GPUs"][0] == "missing"
    assert doctor.works(lines)
