"""The step beside torch's fused AdamW. Each case asserts first that both make the same update.

pytest benchmarks --benchmark-json=results.json && python benchmarks/report.py results.json
"""

import numpy as np
import pytest
import torch
from baselines import streaming
from beside import beside
from problems import ADAMW_BYTES, ALONE, DECAY, EQUAL, MANY_GROUPS, SCHEDULE, assert_same, build, equal

import fastsched as fs

TORCH = "torch fused + LambdaLR"


def sized(benchmark, tensors, elements, *groups):
    """A case's sizes, with small tensors where nothing is timed."""
    return tensors, elements if benchmark.enabled else min(elements, 1000), *groups


def ours(tensors, elements, groups):
    params, param_groups = build(equal(tensors, elements), groups)
    return params, fs.optim.AdamW(param_groups, schedule=SCHEDULE).step


def torchs(tensors, elements, groups):
    params, param_groups = build(equal(tensors, elements), groups)
    optimizer = torch.optim.AdamW(param_groups, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)

    def step():
        optimizer.step()
        scheduler.step()

    return params, step


def agreeing(mine, theirs, updates=1):
    """Both steps, after updates that must agree."""
    (params, step), (others, baseline) = mine, theirs
    for _ in range(updates):
        step()
        baseline()
    assert_same(params, others, updates)
    return step, baseline


@pytest.mark.short
@pytest.mark.parametrize("name", EQUAL)
def test_step(benchmark, name):
    *case, calls, rounds = EQUAL[name]
    case = sized(benchmark, *case)
    step, baseline = agreeing(ours(*case), torchs(*case))
    beside(benchmark, f"step: {name}", step, TORCH, baseline, calls=calls, rounds=rounds)


@pytest.mark.parametrize("name", MANY_GROUPS)
def test_step_after_other_work(benchmark, name):
    """As in training: between two steps, 32 MB of other data pass through the caches."""
    step, baseline = agreeing(ours(*EQUAL[name][:3]), torchs(*EQUAL[name][:3]))
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


@pytest.mark.short
@pytest.mark.parametrize("name", MANY_GROUPS)
def test_step_with_scheduled_weight_decay(benchmark, name):
    """Torch has no scheduler of weight decay: it is written into every group by hand."""
    tensors, elements, groups, calls, rounds = EQUAL[name]
    params, param_groups = build(equal(tensors, elements), groups)
    for group in param_groups:
        group["weight_decay"] = DECAY * group["weight_decay"]
    mine = params, fs.optim.AdamW(param_groups, schedule=SCHEDULE).step

    others, param_groups = build(equal(tensors, elements), groups)
    optimizer = torch.optim.AdamW(param_groups, fused=True)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)
    decays = [group["weight_decay"] for group in optimizer.param_groups]

    def baseline():
        factor = DECAY(scheduler.last_epoch)
        for group, decay in zip(optimizer.param_groups, decays, strict=True):
            group["weight_decay"] = decay * factor
        optimizer.step()
        scheduler.step()

    step, baseline = agreeing(mine, (others, baseline), updates=3)
    beside(
        benchmark,
        f"step, lr and weight decay scheduled: {name}",
        step,
        TORCH + " + weight decay by hand",
        baseline,
        calls=calls,
        rounds=rounds,
    )


@pytest.mark.parametrize("baseline", ["loop", pytest.param("torch", marks=pytest.mark.short)])
@pytest.mark.parametrize("name", ALONE)
def test_the_step_alone(benchmark, name, baseline):
    """One group, no schedule: only memory is left to wait for."""
    shapes = equal(*sized(benchmark, *ALONE[name]))
    params, groups = build(shapes, 1)
    step = fs.optim.AdamW(groups).step
    if baseline == "loop":
        step()
        label, call = "4-read-3-write loop of the same bytes", streaming(shapes)
    else:
        others, groups = build(shapes, 1)
        step, call = agreeing((params, step), (others, torch.optim.AdamW(groups, fused=True).step))
        label = "torch fused"
    moved = ADAMW_BYTES * sum(p.numel() for p in params)
    beside(benchmark, f"step alone: {name}", step, label, call, rounds=40, moved=moved)


def test_groups_cost_nothing(benchmark):
    (mine, step), (theirs, one) = ours(400, 256, 400), ours(400, 256, 1)
    step()
    one()
    torch.testing.assert_close(mine[0], theirs[0], rtol=0, atol=0)  # the first group's lr and decay are the one group's
    beside(benchmark, "step: 400 groups", step, "fastsched, the same in 1 group", one, calls=100, rounds=20)
