"""The experiment that shows why Adam is warmed up, shortened: what it prints is what its runs have measured."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from fastsched import _warmup_experiment as experiment
from fastsched import cli

LR, WARMUP, STEPS = 0.01, 4, 6


@pytest.fixture(scope="module")
def runs():
    return experiment.run(LR, WARMUP, STEPS, 3, lambda: None)


def test_both_runs_begin_with_the_same_weights_and_batch(runs):
    without, warmed = runs
    assert without.losses[0] == warmed.losses[0]
    assert without.losses[1] != warmed.losses[1]


def test_the_warmup_scales_the_first_effective_steps_and_nothing_else_does(runs):
    """In the first update v is the same gradient's square in both runs: the ratio is that of the lrs, a quarter."""
    without, warmed = runs
    # quantiles of float32 values, 6e-8 each; their interpolation adds no more
    np.testing.assert_allclose(warmed.steps[0], without.steps[0] / WARMUP, rtol=1e-6)


def test_the_effective_step_is_lr_over_the_root_of_v():
    parameter = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], betas=experiment.BETAS, eps=experiment.EPS)
    parameter.grad = torch.tensor([0.5, 2.0], dtype=torch.float64)
    optimizer.step()
    # v is the squared gradient; eps is 1e-8, and 1 - 0.999 has a rounding of 1e-13
    assert experiment.effective_steps(optimizer, 1.0) == pytest.approx([2.0, 0.5], rel=1e-7)


def test_the_table_has_the_first_and_the_last_update(runs):
    rows = experiment.rows(runs)
    assert [row[0] for row in rows] == ["1", "2", "5", "6"]
    assert rows[0][1] == f"{runs[0].steps[0, 1]:.3g}"
    assert rows[-1][4] == f"{runs[1].steps[-1, 3]:.3g}"


def test_the_command_prints_and_draws(tmp_path):
    path = tmp_path / "warmup.png"
    options = ["--steps", "3", "--warmup", "2", "-o", str(path)]
    result = CliRunner().invoke(cli.command, ["warmup", *options])
    assert result.exit_code == 0, result.output
    assert "In the first update v is one squared gradient" in result.stdout
    assert path.read_bytes().startswith(b"\x89PNG")
    data = json.loads(CliRunner().invoke(cli.command, ["warmup", *options, "--json"]).stdout)
    assert [len(run["effective_steps"]) for run in data["runs"]] == [3, 3]


@pytest.mark.parametrize(
    ("name", "status", "message"),
    [
        ("missing/warmup.png", 1, "no folder, or one that is not yours to write"),
        ("warmup.xyz", 2, "must end in one of"),
    ],
)
def test_a_picture_that_cannot_be_written_stops_it_before_training(name, status, message, tmp_path):
    result = CliRunner().invoke(cli.command, ["warmup", "-o", str(tmp_path / name)])
    assert result.exit_code == status
    assert message in result.stderr
    assert result.stdout == ""
