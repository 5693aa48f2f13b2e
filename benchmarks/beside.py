"""How every benchmark is timed: in turn with its baseline, so that whatever else the machine does meets both alike."""

import time
from statistics import median, quantiles


def beside(benchmark, group, ours, name, baseline, *, rounds, warmup=2, calls=1, before=None, moved=None, point=None):
    """Time blocks of `calls` calls of ours and of the baseline, A B A B, after asserting whatever the caller asserts.

    `warmup` more rounds run first and are not kept.
    `before` runs ahead of every single call, untimed, so `calls` must be 1 then. `moved` is the bytes that our call
    cannot avoid to read and write. `point` is (picture, x), where report.py draws it. Untimed, each is called once.
    """
    calls = calls if benchmark.enabled else 1
    sides = [], []

    def timed(call, times):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        times.append((time.perf_counter() - start) / calls)

    def baseline_block():
        if before:
            before()
        timed(baseline, sides[1])
        if before:
            before()

    benchmark.group = group
    benchmark.pedantic(timed, args=(ours, sides[0]), setup=baseline_block, rounds=rounds, warmup_rounds=warmup)
    own, others = (times[warmup:] or times for times in sides)
    benchmark.extra_info |= {
        "baseline": name,
        "calls": calls,
        **summary("own", own),
        **summary("baseline", others),
        **summary("ratio", [theirs / mine for mine, theirs in zip(own, others, strict=True)]),  # of neighbours in time
    }
    if moved:
        benchmark.extra_info["moved"] = moved
    if point:
        benchmark.extra_info["point"] = point


def summary(name, values):
    """Median and quartiles, under names that begin with `name`."""
    low, _, high = quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {f"{name}_median": median(values), f"{name}_q1": low, f"{name}_q3": high}
