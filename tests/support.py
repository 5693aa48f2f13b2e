"""What several test files need."""

import math
import os
import subprocess
import sys
from fractions import Fraction
from typing import Any

import numpy as np
import oracles

import fastsched as fs


def schedule(case: oracles.Case | str) -> Any:
    """The package's schedule for a case."""
    return eval(case if isinstance(case, str) else case.text, {"Fraction": Fraction, **vars(fs)})


def bits(values: Any) -> np.ndarray:
    """float64 values as integers: equal only if they agree to the bit, also for NaN and signed zero."""
    return np.ascontiguousarray(values, dtype=np.float64).view(np.int64)


def same_bits(a: Any, b: Any) -> bool:
    return np.array_equal(bits(a), bits(b))


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs code in a fresh interpreter that sees the same package (-P: not the working directory's)."""
    root = os.path.dirname(os.path.dirname(os.path.abspath(fs.__file__)))
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-P", "-W", "error", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    done = python(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def window(case: oracles.Case, count: int = 200) -> np.ndarray:
    """Whole steps that cover a case: its beginning, its edges, evenly through it and past its end."""
    horizon = case.steps if math.isfinite(case.steps) else 2000
    edges = [edge + by for edge in case.edges for by in (-1, 0, 1)]
    steps = np.concatenate([np.arange(20), np.linspace(0, 1.2 * horizon, count), edges])
    return np.unique(np.clip(steps, 0, oracles.LONGEST).astype(np.int64))
