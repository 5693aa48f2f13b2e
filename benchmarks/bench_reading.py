"""What a step costs before its arithmetic: 400 tensors of one element, beside reading 800 addresses only."""

import pytest
import torch
from baselines import reading
from beside import beside
from problems import build, equal

import fastsched as fs

TENSORS = 400


@pytest.mark.parametrize("gradients", ["kept", "new"])
@pytest.mark.parametrize("groups", [1, TENSORS])
def test_reading(benchmark, groups, gradients):
    """Gradients either stay the same tensors, as with zeroing in place, or are new ones at every step."""
    params, param_groups = build(equal(TENSORS, 1), groups)
    step = fs.optim.AdamW(param_groups).step
    before = [p.detach().clone() for p in params]
    step()
    assert all((p != old).all() for p, old in zip(params, before, strict=True))
    read = reading(params)

    def renew():
        for p in params:
            p.grad = torch.ones(1)

    beside(
        benchmark,
        f"step: {TENSORS} x 1 in {groups} group(s), {gradients} gradients",
        step,
        "bare exchange + getattr of all",
        read,
        before=renew if gradients == "new" else None,
        calls=1 if gradients == "new" else 50,
        rounds=200 if gradients == "new" else 60,
    )
