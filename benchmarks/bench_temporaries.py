"""How much memory a step takes for itself, and what an optimizer keeps beside torch's.

Every allocation of the process is counted, Python's objects included.

python benchmarks/bench_temporaries.py prints the figures; under pytest they are asserted. A library loaded ahead of the
C library (allocations.cpp) does the counting, so this file runs itself once more with LD_PRELOAD set.
"""

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import report
import torch
from baselines import compiled
from problems import DECAY, MANY, SCHEDULE, build, equal, vit

import fastsched as fs

MOST = 2**20  # bytes
EVERYTHING = {"schedule": SCHEDULE, "max_grad_norm": 1.0, "ema_decay": 0.999, "zero_grads": True}
VIT, ONE = vit(192), [(2000, 1500)]  # 5.7 M in 152 tensors, 3 M in one


def halves(params):
    for p in params:
        grad, p.grad = p.grad, None
        p.data = p.data.bfloat16()
        p.grad = grad.bfloat16()


def transposed(params):
    """Gradients of other strides than the parameters."""
    for p in params:
        p.grad = p.grad.t().contiguous().t()


# name: optimizer, its arguments, shapes, what is done to the parameters first
CASES = {
    "AdamW": ("AdamW", {}, VIT, None),
    "AdamW, everything": ("AdamW", EVERYTHING, VIT, None),
    "AdamW, everything, one tensor": ("AdamW", EVERYTHING, ONE, None),
    "AdamW, everything, 10,000 groups": ("AdamW", EVERYTHING | {"weight_decay": DECAY}, equal(MANY, 256), None),
    "AdamW, everything, other strides": ("AdamW", EVERYTHING, ONE, transposed),
    "AdamW, bfloat16 and master weights": ("AdamW", EVERYTHING | {"master_weights": True}, VIT, halves),
    "AdamW, all bfloat16": (
        "AdamW",
        EVERYTHING | {"state_dtype": torch.bfloat16, "stochastic_rounding": True},
        VIT,
        halves,
    ),
    "Adam, amsgrad, clip by value": ("Adam", {"amsgrad": True, "max_grad_value": 0.1}, VIT, None),
    "SGD, everything": ("SGD", EVERYTHING | {"lr": 0.1, "momentum": 0.9, "nesterov": True}, VIT, None),
    "Lion, everything": ("Lion", EVERYTHING, VIT, None),
    "torch.optim.AdamW, foreach": ("torch merged", {"foreach": True}, VIT, None),
    **{
        f"AdamW, 1,000 groups{by}": (kind, {}, equal(1000, 256), None)
        for by, kind in (("", "AdamW"), (" of torch", "torch"))
    },
}
FIELDS = ("allocations", "largest", "peak", "stayed")


def counted(call):
    """What a call allocates: how often, the largest block, the peak beyond what stays, and what stays; in bytes."""
    counter = ctypes.CDLL(None)
    result = (ctypes.c_int64 * len(FIELDS))()
    counter.start_counting()
    kept = call()
    counter.stop_counting(result)
    return kept, dict(zip(FIELDS, result, strict=True))


def measured(name):
    """Of a third step; `kept` is what construction and first step leave behind: the state, and the optimizer itself."""
    kind, arguments, shapes, prepare = CASES[name]
    params, groups = build(shapes, len(shapes))
    if prepare is not None:
        prepare(params)
    if "weight_decay" in arguments:  # the groups have their own
        for group in groups:
            del group["weight_decay"]

    def first():
        if kind.startswith("torch"):
            optimizer = torch.optim.AdamW(params if kind == "torch merged" else groups, **arguments)
        else:
            optimizer = getattr(fs.optim, kind)(groups, **arguments)
        optimizer.step()
        return optimizer

    optimizer, made = counted(first)
    optimizer.step()
    _, step = counted(optimizer.step)
    return step | {"kept": made["stayed"]}


def all_measured():
    """Every case, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        counter = compiled("allocations.cpp", folder, "-O2", "-fno-builtin")
        # With the plain allocator Python's objects are counted too. Nothing is timed: threads need not spin.
        counting = {"LD_PRELOAD": str(counter), "PYTHONMALLOC": "malloc", "OMP_WAIT_POLICY": "passive"}
        command = [sys.executable, str(Path(__file__)), "counted"]
        return json.loads(
            subprocess.run(command, env=os.environ | counting, stdout=subprocess.PIPE, text=True, check=True).stdout
        )


@pytest.fixture(scope="module")
def figures(noted):
    """Of every case; they go into the result file too."""
    noted["memory"] = all_measured()
    return noted["memory"]


@pytest.mark.parametrize("name", [name for name in CASES if "torch" not in name])
def test_a_step_has_no_temporary_above_1_mb(figures, name):
    assert figures[name]["peak"] <= MOST


def test_the_counter_sees_a_temporary(figures):
    """Torch's foreach makes copies of all parameters."""
    assert figures["torch.optim.AdamW, foreach"]["peak"] > MOST


def test_a_group_takes_at_most_2_kb_more_than_in_torchs_optimizer(figures):
    mine, theirs = (figures[f"AdamW, 1,000 groups{by}"]["kept"] for by in ("", " of torch"))
    assert mine - theirs <= 1000 * 2048


def main():
    print("\n".join(report.memory(all_measured())))


if __name__ == "__main__":
    if sys.argv[1:] == ["counted"]:
        print(json.dumps({name: measured(name) for name in CASES}))
    else:
        main()
