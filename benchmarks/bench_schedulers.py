"""scheduler.step() of every class beside torch's, on 500 groups and on one; both must have come to the same lrs."""

import pytest
import torch
from beside import beside

import fastsched as fs

GROUPS = (500, 1)
HORIZON = 1_000_000  # of those that refuse to be stepped beyond theirs

# name: arguments
CASES = {
    "StepLR": {"step_size": 30},
    "MultiStepLR": {"milestones": [100, 200]},
    "ConstantLR": {},
    "LinearLR": {"total_iters": HORIZON},
    "ExponentialLR": {"gamma": 0.9999},
    "PolynomialLR": {"total_iters": HORIZON, "power": 0.9},
    "CosineAnnealingLR": {"T_max": HORIZON},
    "CosineAnnealingWarmRestarts": {"T_0": 100, "T_mult": 2},
    "CyclicLR": {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 50},
    "OneCycleLR": {"max_lr": 0.1, "total_steps": HORIZON},
    "LambdaLR": {"lr_lambda": lambda step: 0.9999**step},
    "MultiplicativeLR": {"lr_lambda": lambda step: 0.9999},
}


def build(module, name, groups):
    """A scheduler of a module on groups of different lrs, after its first step."""
    params = [torch.nn.Parameter(torch.zeros(1)) for _ in range(groups)]
    optimizer = torch.optim.SGD(
        [{"params": [p], "lr": 0.1 * 0.99**i} for i, p in enumerate(params)], lr=0.1, momentum=0.9
    )
    scheduler = getattr(module, name)(optimizer, **CASES[name])
    optimizer.step()
    scheduler.step()
    return scheduler


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("name", CASES)
def test_scheduler_step(benchmark, name, groups):
    ours, theirs = build(fs.lr_scheduler, name, groups), build(torch.optim.lr_scheduler, name, groups)
    for _ in range(3):
        ours.step()
        theirs.step()
    assert ours.get_last_lr() == theirs.get_last_lr()
    calls = 20 if groups > 1 else 500
    beside(benchmark, f"{name}.step, {groups} group(s)", ours.step, "torch", theirs.step, calls=calls, rounds=30)
