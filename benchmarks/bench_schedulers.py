"""scheduler.step() of every class beside torch's, on 1 to 1,000 groups; both must have come to the same lrs."""

import pytest
import torch
from beside import beside
from problems import FEW

import fastsched as fs

GROUPS = (1, 10, 100, 500, 1000)
HORIZON = 1_000_000  # of those that refuse to be stepped beyond theirs

SHORT = [(name, groups) for name in ("CosineAnnealingLR", "OneCycleLR", "LambdaLR") for groups in (1, 500)]

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


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        pytest.param(name, groups, marks=[pytest.mark.short] if (name, groups) in SHORT else [])
        for name in CASES
        for groups in GROUPS
    ],
)
def test_scheduler_step(benchmark, name, groups):
    built = groups if benchmark.enabled else min(groups, FEW)
    ours, theirs = build(fs.lr_scheduler, name, built), build(torch.optim.lr_scheduler, name, built)
    for _ in range(3):
        ours.step()
        theirs.step()
    assert ours.get_last_lr() == theirs.get_last_lr()
    calls = max(5, 500 // groups)
    beside(benchmark, f"{name}.step, {groups} group(s)", ours.step, "torch", theirs.step, calls=calls, rounds=20)
