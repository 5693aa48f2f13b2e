"""Import and install: `import fastsched` beside numpy's, its optimizers beside torch's, and pip beside a wheel's.

Fresh interpreters are timed, start and end included; the memory they take (the most resident) is in extra_info.
"""

import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest
from beside import beside

ROOT = Path(__file__).resolve().parent.parent
# The most resident memory, in kB. Not getrusage's, in which the memory of the process that forked stays.
PEAK = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"

# ours, what it must not import, the baseline
CASES = {
    "import fastsched": ("import fastsched", ("torch", "numba", "matplotlib"), "import numpy"),
    "import fastsched.optim": ("import fastsched.optim", ("numba", "matplotlib"), "import torch"),
}


def fresh(code):
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.short) for name in CASES])
def test_import(benchmark, name):
    ours, absent, baseline = CASES[name]
    loaded = fresh(f"{ours}; import sys; print(*sys.modules)").split()
    assert "fastsched" in loaded
    assert not set(absent) & set(loaded)
    peaks = {ours: [], baseline: []}

    def imported(code):
        peaks[code].append(int(fresh(f"{code}; {PEAK}")) * 1024)

    beside(benchmark, name, lambda: imported(ours), baseline, lambda: imported(baseline), rounds=5, warmup=1)
    benchmark.extra_info |= {"own_memory": median(peaks[ours]), "baseline_memory": median(peaks[baseline])}


def test_install(benchmark, untimed, tmp_path):
    """From source, compiled, beside the wheel that this makes. Builds in the environment's own tools: no download."""
    if untimed:
        pytest.skip("a build takes minutes, and tests/test_build.py asserts what it makes")
    pytest.importorskip("scikit_build_core")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    bare = ["--no-deps", "--no-index", "--no-build-isolation"]
    environment = os.environ | {"FASTSCHED_REQUIRE_NATIVE": "1"}
    made = 0

    def folder():
        nonlocal made
        made += 1
        return str(tmp_path / str(made))

    def run(*arguments):
        subprocess.run([*pip, *arguments], env=environment, check=True, stdout=subprocess.DEVNULL)

    def build(command, *options):
        run(command, str(ROOT), *bare, *options, "-C", f"build-dir={folder()}")

    wheels = tmp_path / "wheels"
    build("wheel", "--wheel-dir", str(wheels))
    (wheel,) = wheels.glob("fastsched-*.whl")
    target = folder()
    run("install", str(wheel), *bare, "--target", target)
    assert list(Path(target, "fastsched").glob("_core.*.so"))
    beside(
        benchmark,
        "pip install .",
        lambda: build("install", "--target", folder()),
        "pip install of the wheel",
        lambda: run("install", str(wheel), *bare, "--target", folder()),
        rounds=1,
        warmup=0,
    )
