"""Where no compiler works, the build ends in a pure Python wheel, which serves on Numba and says so once."""

import json
import os
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from pathlib import Path

import numpy as np
import pytest
from support import output, python

import fastsched as fs

ROOT = Path(__file__).parents[1]

# Evaluated here on the native module and there on the pure wheel.
NUMBERS = """{
    "call": s(35.5),
    "steps": s(np.array([0, 10, 60, 110, 2**53])).tolist(),
    "table": s.table(120).tolist(),
    "lr_table": fs.lr_table([s, fs.Constant(0.5)], 120, scale=[1.0, 0.1], dtype=np.float64).tolist(),
    "row": {name: row.tolist() for name, row in plan.at(35).items()},
    "plan": {name: rows.tolist() for name, rows in plan.table(120, dtype=np.float64).items()},
}"""
SETUP = """
import numpy as np
import fastsched as fs
s = fs.Cosine(steps=100).warmup(10)
plan = fs.Plan([{"lr": 0.5, "weight_decay": fs.Linear(0.0, 0.05, steps=100)}, {"lr": 0.25}], s)
"""
# All that is asked of the pure wheel, in one interpreter: Numba compiles once.
ASK = f"""
import json, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.filterwarnings("always", message="fastsched")  # any other warning stays an error
{textwrap.indent(SETUP, "    ")}
    numbers = {NUMBERS}
    try:
        fs.optim
        refusal = "none"
    except ImportError as error:
        refusal = str(error)
print(json.dumps(dict(
    file=fs.__file__,
    backend=fs.backend(),
    warnings=[(w.category.__name__, str(w.message)) for w in caught],
    numbers=numbers,
    refusal=refusal,
)))
"""


def build(sdist: Path, into: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """pip wheel with a compiler that always fails; no network, nothing of this run's own build settings."""
    command = ["wheel", "-v", "--no-build-isolation", "--no-deps", "--no-index", "--no-cache-dir", "--wheel-dir", into]
    return subprocess.run(
        [sys.executable, "-m", "pip", *command, sdist],
        env={**os.environ, "CXX": "/bin/false", "CMAKE_ARGS": "", "FASTSCHED_REQUIRE_NATIVE": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sdist")
    code = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, check=True, timeout=300)
    (archive,) = folder.iterdir()
    return archive


@pytest.fixture(scope="module")
def built(sdist, tmp_path_factory):
    """The wheel, and what the build said."""
    folder = tmp_path_factory.mktemp("wheel")
    done = build(sdist, folder)
    assert done.returncode == 0, done.stdout
    (wheel,) = folder.iterdir()
    return wheel, done.stdout


@pytest.fixture(scope="module")
def unpacked(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def answer(unpacked):
    """What a fresh interpreter says that finds the pure wheel before the installed package."""
    found = json.loads(output(ASK, PYTHONPATH=str(unpacked), FASTSCHED_BACKEND=""))
    assert Path(found["file"]).is_relative_to(unpacked)
    return found


def test_the_sdist_has_every_source_of_the_build(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = [
        path
        for folder in ("csrc", "fastsched")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    needed = {str(path.relative_to(ROOT)) for path in sources if path.suffix not in (".pyc", ".so")}
    assert {"csrc/program.hpp", "fastsched/py.typed"} <= needed
    assert needed | {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"} <= names


def test_a_build_whose_compiler_fails_ends_in_a_pure_python_wheel(built):
    wheel, log = built
    assert "is not able to compile a simple test program" in log  # CMake about the compiler: no other reason
    assert wheel.name == f"fastsched-{fs.__version__}-py3-none-any.whl"


def test_the_pure_wheel_has_no_native_module_and_all_of_the_python(unpacked):
    files = {path.name for path in (unpacked / "fastsched").iterdir()}
    assert not [name for name in files if name.endswith(".so")]
    assert {path.name for path in (ROOT / "fastsched").iterdir() if path.suffix in (".py", ".typed")} <= files


def test_the_build_names_the_consequence_and_the_fix(built):
    notice = built[1].partition("fastsched: the native module could not be built")[2]
    assert "fastsched.optim does not work" in notice
    assert "make a C++17 compiler work" in notice


def test_who_requires_the_native_module_gets_an_error_and_no_wheel(sdist, tmp_path):
    done = build(sdist, tmp_path, FASTSCHED_REQUIRE_NATIVE="1")
    assert done.returncode != 0
    assert "is not able to compile a simple test program" in done.stdout
    assert not list(tmp_path.iterdir())


def test_importing_the_pure_wheel_warns_once_and_names_the_fix(answer):
    ((category, message),) = answer["warnings"]
    assert category == "RuntimeWarning"
    for part in ("Numba", "fastsched.optim does not work", "Reinstall where a C++ compiler works"):
        assert part in message
    assert "FASTSCHED_BACKEND=numba" in message


def test_the_pure_wheel_is_quiet_where_numba_is_asked_for(unpacked):
    code = "import fastsched as fs; print(fs.backend(), fs.__file__)"  # a warning would be an error
    chosen, file = output(code, PYTHONPATH=str(unpacked), FASTSCHED_BACKEND="numba").split(" ", 1)
    assert chosen == "numba"
    assert Path(file).is_relative_to(unpacked)


def test_the_pure_wheel_refuses_the_native_backend_and_names_the_fix(unpacked):
    done = python("import fastsched", PYTHONPATH=str(unpacked), FASTSCHED_BACKEND="native")
    assert "reinstall fastsched where a C++ compiler works" in done.stderr.splitlines()[-1]


def test_the_pure_wheel_serves_on_numba(answer):
    assert answer["backend"] == "numba"


def test_the_pure_wheels_numbers_are_those_of_the_native_module(answer):
    names = {}
    exec(SETUP, names)
    native, ours = eval(NUMBERS, names), answer["numbers"]
    for key in ("call", "steps", "table", "lr_table"):
        np.testing.assert_allclose(ours[key], native[key], rtol=0, atol=1e-12)  # the contract's, of max(|start|, |end|)
    for key in ("row", "plan"):
        assert ours[key].keys() == native[key].keys()
        for name in native[key]:
            np.testing.assert_allclose(ours[key][name], native[key][name], rtol=0, atol=1e-12)


def test_the_pure_wheels_schedule_has_the_values_of_its_definition(answer):
    np.testing.assert_allclose(answer["numbers"]["steps"], [0.0, 1.0, 0.5, 0.0, 0.0], rtol=0, atol=1e-12)


def test_the_pure_wheels_optimizers_name_the_fix(answer):
    assert "fastsched.optim: needs the native module" in answer["refusal"]
    assert "install a C++17 compiler and reinstall" in answer["refusal"]
