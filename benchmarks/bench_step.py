"""The step beside torch.optim.AdamW(fused=True) and LambdaLR. Each case asserts first that both make the same update.

pytest benchmarks --benchmark-json=results.json && python benchmarks/report.py results.json
"""

import numpy as np
import pytest
import torch
from beside import beside

import fastsched as fs

# name: tensors, elements of each, groups, calls in a row, rounds
CASES = {
    "400 x 256 in 400 groups": (400, 256, 400, 20, 30),
    "384 x 256 in 48 groups": (384, 256, 48, 20, 30),
    "400 x 256 in 1 group": (400, 256, 1, 20, 30),
    "400 x 65,536 in 200 groups": (400, 65_536, 200, 1, 15),
    "1 x 26,000,000 in 1 group": (1, 26_000_000, 1, 1, 25),
}
TORCH = "torch fused + LambdaLR"
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


def pair(*case):
    """Both steps, after one update that must agree."""
    (mine, step), (theirs, baseline) = ours(*case), torchs(*case)
    step()
    baseline()
    # one update of at most 1e-3: float32 rounding of weights of a few units
    torch.testing.assert_close([p.detach() for p in mine], [p.detach() for p in theirs], rtol=2**-22, atol=2**-22)
    return step, baseline


@pytest.mark.parametrize("name", CASES)
def test_step(benchmark, name):
    *case, calls, rounds = CASES[name]
    step, baseline = pair(*case)
    beside(benchmark, f"step: {name}", step, TORCH, baseline, calls=calls, rounds=rounds)


@pytest.mark.parametrize("name", ["400 x 256 in 400 groups", "384 x 256 in 48 groups"])
def test_step_after_other_work(benchmark, name):
    """As in training: between two steps, 32 MB of other data pass through the caches."""
    step, baseline = pair(*CASES[name][:3])
    other = np.zeros(1 << 22)
    beside(
        benchmark,
        f"step, cold caches: {name}",
        step,
        TORCH,
        baseline,
        before=lambda: np.add(other, 1, other),
        rounds=200,
    )


def test_groups_cost_nothing(benchmark):
    (mine, step), (theirs, one) = ours(400, 256, 400), ours(400, 256, 1)
    step()
    one()
    torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=0)  # the first group's lr and decay are the one group's
    beside(benchmark, "step: 400 groups", step, "fastsched, the same in 1 group", one, calls=100, rounds=20)
