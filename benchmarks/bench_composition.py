"""A whole step of ViT shapes, a group per tensor: clip, AdamW, schedule, EMA and zeroing beside torch's five calls."""

import math

import pytest
import torch
from beside import beside
from problems import NARROW, SCHEDULE, VITS, assert_same, build, two_updates, vit

import fastsched as fs

LARGEST_NORM, EMA_DECAY = 1.0, 0.999
TORCH = "clip_grad_norm_ + AdamW(fused) + LambdaLR + _foreach_lerp_ + _foreach_zero_"


class Ours:
    def __init__(self, shapes):
        self.params, groups = build(shapes, len(shapes))
        self.optimizer = fs.optim.AdamW(
            groups, schedule=SCHEDULE, max_grad_norm=LARGEST_NORM, ema_decay=EMA_DECAY, zero_grads=True
        )
        self.step = self.optimizer.step

    def norm(self):
        return self.optimizer.grad_norm

    def ema(self):
        return [self.optimizer.state[p]["ema"] for p in self.params]


class Torchs:
    def __init__(self, shapes):
        self.params, groups = build(shapes, len(shapes))
        self.optimizer = torch.optim.AdamW(groups, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, SCHEDULE)
        self.grads = [p.grad for p in self.params]
        self.average = [p.detach().clone() for p in self.params]

    @torch.no_grad()
    def step(self):
        self.grad_norm = torch.nn.utils.clip_grad_norm_(self.params, LARGEST_NORM)
        self.optimizer.step()
        self.scheduler.step()
        torch._foreach_lerp_(self.average, self.params, 1 - EMA_DECAY)
        torch._foreach_zero_(self.grads)

    def norm(self):
        return self.grad_norm.item()

    def ema(self):
        return self.average


def agreeing(width):
    """Both sides, after two updates that must agree, and the gradients of the first."""
    shapes = vit(width)
    mine, theirs = Ours(shapes), Torchs(shapes)
    grads = two_updates(mine, theirs)
    assert_same(mine.ema(), theirs.ema(), updates=2)
    # torch adds float32 squares: with n of them, some sqrt(n) roundings
    assert math.isclose(mine.norm(), theirs.norm(), rel_tol=1e-4)
    return mine, theirs, grads


@pytest.mark.short
@pytest.mark.parametrize("name", VITS)
def test_composition(benchmark, name):
    """Gradients are those that the step before has zeroed."""
    width, calls, rounds = VITS[name]
    mine, theirs, _ = agreeing(width if benchmark.enabled else NARROW)
    beside(benchmark, f"whole step: {name}", mine.step, TORCH, theirs.step, calls=calls, rounds=rounds)


def test_composition_with_new_gradients(benchmark):
    """As in training: before each step, both sides' gradients are written, and pass through the caches."""
    name = "ViT of width 64, 0.7 M"
    mine, theirs, grads = agreeing(VITS[name][0])

    def write():
        for side in (mine, theirs):
            torch._foreach_copy_([p.grad for p in side.params], grads)

    beside(benchmark, f"whole step, cold caches: {name}", mine.step, TORCH, theirs.step, before=write, rounds=200)


def test_bfloat16_state(benchmark):
    name = "ViT-B, 86.6 M"
    shapes = vit(VITS[name][0] if benchmark.enabled else NARROW)
    half, whole = (build(shapes, len(shapes)) for _ in range(2))
    step = fs.optim.AdamW(half[1], state_dtype=torch.bfloat16).step
    baseline = fs.optim.AdamW(whole[1]).step
    step()
    baseline()
    # bfloat16 keeps 8 bits of moments, and an update is at most 1e-3
    torch.testing.assert_close(
        [p.detach() for p in half[0]], [p.detach() for p in whole[0]], rtol=2**-22, atol=1e-3 * 2**-6
    )
    beside(
        benchmark,
        f"step alone, bfloat16 state: {name}",
        step,
        "fastsched, float32 state",
        baseline,
        rounds=VITS[name][2],
    )
