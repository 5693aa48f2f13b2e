"""Tables and single values beside numpy and the math module. Each case asserts its result first."""

import math

import numpy as np
from beside import beside

import fastsched as fs

STEPS = 10**6
LONG, GROUPS = 100_000, 500
COSINE = fs.Cosine(steps=STEPS)


def numpy_cosine():
    return 0.5 * (1.0 + np.cos(np.pi * np.arange(STEPS) / STEPS))


def test_cosine_table(benchmark):
    # 1e-15: the numpy expression itself is off by a few ulp of 1
    np.testing.assert_allclose(COSINE.table(STEPS), numpy_cosine(), rtol=0.0, atol=1e-15)
    ours = lambda: COSINE.table(STEPS)  # noqa: E731
    beside(benchmark, "cosine, 1e6 float64 steps", ours, "numpy expression", numpy_cosine, rounds=40)


def test_cosine_table_into_an_array(benchmark):
    out, filled = np.empty(STEPS), np.empty(STEPS)
    assert COSINE.table(STEPS, out=out) is out
    assert np.array_equal(out, COSINE.table(STEPS))
    beside(
        benchmark,
        "cosine, 1e6 float64 steps, out=",
        lambda: COSINE.table(STEPS, out=out),
        "ndarray.fill",
        lambda: filled.fill(1.0),
        rounds=100,
    )


def test_one_value(benchmark):
    assert COSINE(STEPS // 2) == 0.5
    step, angle, cos = 12345, 0.5, math.cos
    beside(benchmark, "s(t)", lambda: COSINE(step), "math.cos(x)", lambda: cos(angle), calls=100_000, rounds=15)


def test_rank_one_table(benchmark):
    schedule, scale = fs.Cosine(steps=LONG), 0.75 ** np.arange(GROUPS)
    out, filled, column = (
        np.empty((LONG, GROUPS), np.float32),
        np.empty((LONG, GROUPS), np.float32),
        schedule.table(LONG),
    )
    fs.lr_table(schedule, LONG, scale=scale, out=out)
    assert np.array_equal(out, np.outer(column, scale).astype(np.float32))
    beside(
        benchmark,
        "100,000 x 500 float32",
        lambda: fs.lr_table(schedule, LONG, scale=scale, out=out),
        "ndarray.fill",
        lambda: filled.fill(1.0),
        rounds=10,
    )
