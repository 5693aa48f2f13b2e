"""How much memory a step takes for itself: every allocation of the process is counted, Python's objects included.

python benchmarks/bench_temporaries.py prints the figures; under pytest they are asserted. A library loaded ahead of the
C library (allocations.cpp) does the counting, so this file runs itself once more with LD_PRELOAD set.
"""

import ctypes
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
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
    "torch.optim.AdamW, foreach": (None, {"foreach": True}, VIT, None),
}


def measured(name):
    """Allocations, the largest of them and the peak of all, in bytes, of a third step."""
    kind, arguments, shapes, prepare = CASES[name]
    params, groups = build(shapes, len(shapes))
    if prepare is not None:
        prepare(params)
    if "weight_decay" in arguments:  # the groups have their own
        for group in groups:
            del group["weight_decay"]
    optimizer = getattr(fs.optim, kind)(groups, **arguments) if kind else torch.optim.AdamW(params, **arguments)
    optimizer.step()
    optimizer.step()
    counter = ctypes.CDLL(None)
    result = (ctypes.c_int64 * 3)()
    counter.start_counting()
    optimizer.step()
    counter.stop_counting(result)
    return dict(zip(("allocations", "largest", "peak"), result, strict=True))


@functools.cache
def all_measured():
    """Every case, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        counter = compiled("allocations.cpp", folder, "-O2", "-fno-builtin")
        # with the plain allocator Python's objects are counted too
        environment = {**os.environ, "LD_PRELOAD": str(counter), "PYTHONMALLOC": "malloc"}
        command = [sys.executable, str(Path(__file__)), "counted"]
        return json.loads(
            subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
        )


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][0]])
def test_a_step_has_no_temporary_above_1_mb(name):
    assert all_measured()[name]["peak"] <= MOST


def test_the_counter_sees_a_temporary():
    """Torch's foreach makes copies of all parameters."""
    assert all_measured()["torch.optim.AdamW, foreach"]["peak"] > MOST


def main():
    print("| one step | allocations | the largest | all at once |\n|---|---|---|---|")
    for name, row in all_measured().items():
        print(f"| {name} | {row['allocations']:,} | {row['largest']:,} B | {row['peak']:,} B |")


if __name__ == "__main__":
    if sys.argv[1:] == ["counted"]:
        print(json.dumps({name: measured(name) for name in CASES}))
    else:
        main()
