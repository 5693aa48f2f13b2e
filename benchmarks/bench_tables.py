"""Tables and calls beside their baselines. Each benchmark asserts its result before it is timed.

One thread unless a name says otherwise: OMP_NUM_THREADS governs ours.
"""

import math

import numpy as np
import pytest

import fastsched as fs

STEPS = 10**6
LONG, GROUPS = 100_000, 500
COSINE = fs.Cosine(steps=STEPS)


def numpy_cosine() -> np.ndarray:
    return 0.5 * (1.0 + np.cos(np.pi * np.arange(STEPS) / STEPS))


@pytest.mark.benchmark(group="cosine-1e6-float64")
class TestCosine:
    def test_fastsched(self, benchmark):
        # 1e-15: the numpy expression itself is off by a few ulp of 1
        np.testing.assert_allclose(COSINE.table(STEPS), numpy_cosine(), rtol=0.0, atol=1e-15)
        benchmark(COSINE.table, STEPS)

    def test_fastsched_out(self, benchmark):
        out = np.empty(STEPS)
        assert COSINE.table(STEPS, out=out) is out
        benchmark(COSINE.table, STEPS, out=out)

    def test_numpy_expression(self, benchmark):
        benchmark(numpy_cosine)

    def test_ndarray_fill(self, benchmark):
        benchmark(np.empty(STEPS).fill, 1.0)


def call_often(function, step) -> None:
    for _ in range(1000):
        function(step)


@pytest.mark.benchmark(group="1000-calls-one-step")
class TestCall:
    def test_fastsched(self, benchmark):
        assert COSINE(STEPS // 2) == 0.5
        benchmark(call_often, COSINE, 12345)

    def test_math_cos(self, benchmark):
        benchmark(call_often, math.cos, 12345.0)


@pytest.mark.benchmark(group="table-100000x500-float32")
class TestRankOne:
    scale = 0.75 ** np.arange(GROUPS)
    schedule = fs.Cosine(steps=LONG)

    def test_fastsched(self, benchmark):
        out = np.empty((LONG, GROUPS), np.float32)
        fs.lr_table(self.schedule, LONG, scale=self.scale, out=out)
        assert np.array_equal(out, np.outer(self.schedule.table(LONG), self.scale).astype(np.float32))
        benchmark.pedantic(
            fs.lr_table, (self.schedule, LONG), {"scale": self.scale, "out": out}, rounds=9, warmup_rounds=1
        )

    def test_numpy_outer(self, benchmark):
        column = self.schedule.table(LONG)
        benchmark.pedantic(lambda: np.outer(column, self.scale).astype(np.float32), rounds=5, warmup_rounds=1)

    def test_ndarray_fill(self, benchmark):
        out = np.empty((LONG, GROUPS), np.float32)
        benchmark.pedantic(out.fill, (1.0,), rounds=9, warmup_rounds=1)
