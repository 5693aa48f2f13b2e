"""The step beside torch.optim.AdamW(fused=True) and LambdaLR.

Run with: pytest benchmarks/bench_step.py --benchmark-json=step.json && python benchmarks/report.py step.json
Every case asserts that both libraries make the same update, then times whole steps in turn (A B A B), so that
noise of the machine meets both alike.
"""

import time
from statistics import median

import pytest
import torch

import fastsched as fs

# name: tensors, elements of each, groups, rounds
CASES = {
    "400 x 256 in 400 groups": (400, 256, 400, 300),
    "400 x 256 in 1 group": (400, 256, 1, 300),
    "384 x 256 in 48 groups": (384, 256, 48, 300),
    "400 x 65,536 in 200 groups": (400, 65_536, 200, 15),
    "1 x 26,000,000 in 1 group": (1, 26_000_000, 1, 15),
}
SCHEDULE = fs.Cosine(steps=10_000).warmup(100, start=0.1)


def build(tensors, elements, groups):
    """Parameter groups with distinct learning rates and with gradients; the same values at every call."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(elements, generator=generator)) for _ in range(tensors)]
    for p in params:
        p.grad = torch.randn(elements, generator=generator)
    size = tensors // groups
    return params, [
        {"params": params[i * size : (i + 1) * size], "lr": 1e-3 * 0.99**i, "weight_decay": 0.05 * (i % 2)}
        for i in range(groups)
    ]


def ours(tensors, elements, groups):
    params, param_groups = build(tensors, elements, groups)
    return params, fs.optim.AdamW(param_groups, schedule=SCHEDULE).step


def torchs(tensors, elements, groups):
    params, param_groups = build(tensors, elements, groups)
    optimizer = torch.optim.AdamW(param_groups, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)

    def step():
        optimizer.step()
        scheduler.step()

    return params, step


def timed(step):
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


@pytest.mark.parametrize("case", CASES)
def test_step(benchmark, case):
    tensors, elements, groups, rounds = CASES[case]
    (mine, step), (theirs, baseline) = ours(tensors, elements, groups), torchs(tensors, elements, groups)
    step()
    baseline()
    # one update of at most 1e-3: float32 rounding of weights of a few units
    torch.testing.assert_close([p.detach() for p in mine], [p.detach() for p in theirs], rtol=2**-22, atol=2**-22)
    torchs_times = []
    benchmark.group = f"step: {case}"
    benchmark.pedantic(step, setup=lambda: torchs_times.append(timed(baseline)), rounds=rounds, warmup_rounds=3)
    benchmark.extra_info |= {"baseline": "torch fused + LambdaLR", "baseline_median": median(torchs_times)}


def test_groups_cost_nothing(benchmark):
    """400 groups against one group of the same 400 tensors; bar: at most 1.3."""
    (_, step), (_, one) = ours(400, 256, 400), ours(400, 256, 1)
    times = []
    benchmark.group = "step: 400 groups against 1"
    benchmark.pedantic(step, setup=lambda: times.append(timed(one)), rounds=500, warmup_rounds=3)
    benchmark.extra_info |= {"baseline": "fastsched, the same tensors in 1 group", "baseline_median": median(times)}
