"""How every benchmark is timed: in turn with its baseline, so that whatever else the machine does meets both alike."""

import time
from statistics import median


def beside(benchmark, group, ours, name, baseline, *, rounds, calls=1, before=None):
    """Time blocks of `calls` calls of ours and of the baseline, A B A B, after asserting whatever the caller asserts.

    `before` runs ahead of every single call, untimed, so `calls` must be 1 then. benchmarks/report.py reads the result.
    """
    times = []

    def block():
        for _ in range(calls):
            ours()

    def baseline_block():
        if before:
            before()
        start = time.perf_counter()
        for _ in range(calls):
            baseline()
        times.append((time.perf_counter() - start) / calls)
        if before:
            before()

    benchmark.group = group
    benchmark.pedantic(block, setup=baseline_block, rounds=rounds, warmup_rounds=2)
    benchmark.extra_info |= {"baseline": name, "baseline_median": median(times[2:] or times), "calls": calls}
