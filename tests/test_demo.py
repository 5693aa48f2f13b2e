"""The demo, shortened: both optimizers really train, and what the demo reports holds."""

import io
import math
from dataclasses import fields

import pytest
import torch
from matplotlib.image import imread
from rich.console import Console

import fastsched as fs
from fastsched import demo

STEPS = 6


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A short demo's result and what it printed."""
    console = Console(file=io.StringIO(), width=110)
    out = tmp_path_factory.mktemp("demo") / "picture.png"
    result = demo.run(out, seed=3, steps=STEPS, pretrain_steps=4, console=console)
    return result, console.file.getvalue()


def test_both_optimizers_follow_the_same_losses(outcome):
    result, _ = outcome
    assert len(result.torch_losses) == len(result.fastsched_losses) == STEPS
    # Both round in float32 (1.2e-7) but in another order. Where a gradient is nearly zero, an AdamW update
    # is of the size of lr whatever the last bits say: up to 3e-3 in a few weights, 1e-3 of the loss at most.
    assert result.fastsched_losses == pytest.approx(result.torch_losses, rel=1e-3)
    assert result.torch_losses[0] == result.fastsched_losses[0]
    distances = [abs(a - b) for a, b in zip(result.torch_losses, result.fastsched_losses, strict=True)]
    assert result.largest_loss_difference == max(distances)


def test_every_figure_is_finite_and_sensible(outcome):
    result, _ = outcome
    assert result.groups >= 100
    assert result.merged_groups == 2 * (demo.DEPTH + 2)
    for field in fields(result):
        value = getattr(result, field.name)
        if isinstance(value, float):
            assert math.isfinite(value)
            assert value >= 0.0
    for ratio in (result.speedup, result.merged_speedup, result.step_speedup):
        assert math.isfinite(ratio)
        assert ratio > 0.0
    assert 0.0 <= result.fastsched_accuracy <= 1.0


def test_the_table_and_the_picture_are_there(outcome):
    result, printed = outcome
    assert f"{result.groups} parameter groups" in printed
    assert f"{result.fastsched_accuracy:.2%}" in printed
    assert str(result.picture.name) in printed
    assert result.picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert imread(result.picture).std() > 0.01


def test_torchs_lambda_and_the_schedule_are_the_same_curve():
    model = torch.nn.ModuleList([torch.nn.Linear(1, 1, bias=False) for _ in range(3)])
    steps = 40
    run = demo.with_torch(model, steps)
    rates = []
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = run.update.__closure__
    group = next(cell.cell_contents for cell in optimizer if isinstance(cell.cell_contents, torch.optim.AdamW))
    for _ in range(steps + 3):
        rates.append(group.param_groups[-1]["lr"])
        run.update()
    ours = demo.LR * demo.schedule(steps)(torch.arange(steps + 3).numpy())
    assert rates == pytest.approx(ours, rel=1e-14)


def test_the_demo_leaves_random_state_and_threads_alone(tmp_path):
    before = torch.get_rng_state(), torch.get_num_threads()
    demo.run(tmp_path / "a.png", steps=2, pretrain_steps=2, console=Console(file=io.StringIO()))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.get_num_threads() == before[1]


def test_batches_visit_every_picture_once_per_round():
    images = demo.Images(torch.arange(2 * demo.BATCH), torch.zeros(2 * demo.BATCH))
    seen = torch.cat([batch.pixels for batch in demo.batches(images, 2, seed=0)])
    assert sorted(seen.tolist()) == images.pixels.tolist()


def test_groups_spare_tokens_positions_biases_and_norms():
    groups = demo.groups(demo.VisionTransformer(10), per_parameter=True)
    decayed = [group["name"] for group in groups if group["weight_decay"] > 0.0]
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert len(decayed) == 4 * demo.DEPTH + 2
    assert isinstance(groups, fs.groups.LayerGroups)


@pytest.mark.parametrize("name", ["missing/a.png", "a.nonsense"])
def test_a_useless_path_is_refused_and_leaves_nothing(name, tmp_path):
    with pytest.raises((OSError, ValueError)):
        demo.run(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("steps", [1, 0, -3])
def test_too_few_steps_are_refused(steps, tmp_path):
    with pytest.raises(ValueError, match=f"steps must be >= 2, got {steps}"):
        demo.run(tmp_path / "a.png", steps=steps)
