"""Curves recorded from torch and transformers themselves, written as schedules of ours.

data/curves.json is a selection of the project's recorded curves (../shared/golden/curves.json: torch 2.13.0
and transformers 5.23.0 in float64 on a CPU): those that need no compat layer, cut at `end`
where the peer leaves the schedule (torch's and transformers' cosines rise again). A case has the peer's own
arguments.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import fastsched as fs

CASES = {case["id"]: case for case in json.loads((Path(__file__).parent / "data" / "curves.json").read_text())}


def warmed_up(s, kwargs):
    return s.warmup(kwargs["num_warmup_steps"])


def decay_steps(kwargs):
    return kwargs["num_training_steps"] - kwargs["num_warmup_steps"]


def stable_decay(kwargs, specific):
    decay = specific["num_decay_steps"]
    stable = kwargs["num_training_steps"] - kwargs["num_warmup_steps"] - decay
    floor = specific["min_lr_ratio"]
    curve = {"linear": fs.Linear, "cosine": fs.Cosine}[specific["decay_type"]](1.0, floor, steps=decay)
    shape = specific["warmup_type"]
    return fs.Constant(1.0, steps=stable).then(curve).warmup(kwargs["num_warmup_steps"], start=floor, shape=shape)


# The peer's name -> the schedule of a group with base lr b; s: transformers' scheduler_specific_kwargs.
SCHEDULES = {
    "StepLR": lambda b, k, s: fs.StepDecay(b, gamma=k["gamma"], every=k["step_size"]),
    "MultiStepLR": lambda b, k, s: fs.MultiStep(b, milestones=k["milestones"], gamma=k["gamma"]),
    "ConstantLR": lambda b, k, s: b * fs.Constant(k["factor"], steps=k["total_iters"]).then(fs.Constant(1.0)),
    "LinearLR": lambda b, k, s: b * fs.Linear(k["start_factor"], k["end_factor"], steps=k["total_iters"]),
    "ExponentialLR": lambda b, k, s: fs.Exponential(b, gamma=k["gamma"]),
    "PolynomialLR": lambda b, k, s: fs.Polynomial(b, 0.0, steps=k["total_iters"], power=k["power"]),
    "CosineAnnealingLR": lambda b, k, s: fs.Cosine(b, k.get("eta_min", 0.0), steps=k["T_max"]),
    "SequentialLR": lambda b, k, s: (
        b
        * fs.Linear(
            k["schedulers"][0]["kwargs"]["start_factor"],
            1.0,
            steps=k["schedulers"][0]["kwargs"]["total_iters"],
        )
    ).then(fs.Cosine(b, k["schedulers"][1]["kwargs"]["eta_min"], steps=k["schedulers"][1]["kwargs"]["T_max"])),
    "ChainedScheduler": lambda b, k, s: (
        fs.Constant(k["schedulers"][0]["kwargs"]["factor"], steps=k["schedulers"][0]["kwargs"]["total_iters"]).then(
            fs.Constant(1.0)
        )
        * fs.Exponential(b, gamma=k["schedulers"][1]["kwargs"]["gamma"])
    ),
    "constant": lambda b, k, s: fs.Constant(b),
    "constant_with_warmup": lambda b, k, s: warmed_up(fs.Constant(b), k),
    "linear": lambda b, k, s: warmed_up(fs.Linear(b, 0.0, steps=decay_steps(k)), k),
    "cosine": lambda b, k, s: warmed_up(fs.Cosine(b, 0.0, steps=decay_steps(k), cycles=s["num_cycles"]), k),
    "cosine_with_min_lr": lambda b, k, s: warmed_up(fs.Cosine(b, b * s["min_lr_rate"], steps=decay_steps(k)), k),
    "polynomial": lambda b, k, s: warmed_up(fs.Polynomial(b, s["lr_end"], steps=decay_steps(k), power=s["power"]), k),
    "warmup_stable_decay": lambda b, k, s: b * stable_decay(k, s),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_the_schedule_reproduces_the_recorded_curve(case):
    kwargs = case["kwargs"]
    specific = kwargs.get("scheduler_specific_kwargs", {})
    bases = case["base_lr"] if isinstance(case["base_lr"], list) else [case["base_lr"]]
    curves = case["values"] if isinstance(case["base_lr"], list) else [case["values"]]
    for base, curve in zip(bases, curves, strict=True):
        ours = SCHEDULES[case["name"]](base, kwargs, specific).table(len(curve))
        # The peers add up roundings (torch's recursive forms: within 1e-15 of base_lr): the unit is the base
        np.testing.assert_allclose(ours, curve, rtol=1e-12, atol=1e-12 * base)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_expressible_schedule_has_a_recorded_curve(name):
    assert name in {case["name"] for case in CASES.values()}
