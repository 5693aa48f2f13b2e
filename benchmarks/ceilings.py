"""What this machine's memory can do, in bytes per second: python benchmarks/ceilings.py.

conftest.py measures it before and after every run of the benchmarks, so that shares refer to the machine as it was.
"""

import time
from contextlib import suppress
from statistics import median

import pytest
import torch
from baselines import streaming
from problems import LARGE, equal
from report import LOOP

ROUNDS = 9


def measured():
    """Fill, copy and the loop of an AdamW step's bytes (where there is a compiler), with the threads of torch."""
    source, target = torch.ones(LARGE), torch.empty(LARGE)
    calls = {"fill": (lambda: target.fill_(1.0), 4), "copy": (lambda: target.copy_(source), 8)}
    with suppress(pytest.skip.Exception):
        calls[LOOP] = streaming(equal(1, LARGE)), 28
    times = {name: [] for name in calls}
    for _ in range(ROUNDS + 1):
        for name, (call, _) in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    assert torch.equal(source, target)
    return {name: LARGE * bytes_each / median(times[name][1:]) for name, (_, bytes_each) in calls.items()}


if __name__ == "__main__":
    for what, speed in measured().items():
        print(f"{what}: {speed / 1e9:.1f} GB/s")
