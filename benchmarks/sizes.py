"""Time per step over sizes from 1 to 1e8 elements of one tensor, as a picture and a table.

python benchmarks/sizes.py [FILE.svg or FILE.png, default sizes.svg] [largest size, default 1e8]

Beside fastsched: torch fused, and DeepSpeedCPUAdam where deepspeed is installed (it compiles itself at the first use).
All are timed in turn in one process, after one update that must agree.
"""

import sys
import time
from statistics import median

import torch
from matplotlib import pyplot as plt
from problems import assert_same, build

import fastsched as fs

SIZES = [round(10 ** (k / 2)) for k in range(17)]
OPTIONS = {"lr": 1e-3, "weight_decay": 0.05}


def optimizers():
    """Name and constructor of each; ours is the first."""
    found = {
        "fastsched": lambda params: fs.optim.AdamW(params, **OPTIONS),
        "torch fused": lambda params: torch.optim.AdamW(params, fused=True, **OPTIONS),
    }
    try:
        from deepspeed.ops.adam import DeepSpeedCPUAdam

        DeepSpeedCPUAdam([torch.nn.Parameter(torch.zeros(1))])
    except Exception as error:  # not installed, or it cannot compile: whatever it is, the others are measured
        print(f"DeepSpeedCPUAdam is left out: {type(error).__name__}: {str(error).splitlines()[0]}", file=sys.stderr)
    else:
        found["DeepSpeedCPUAdam"] = lambda params: DeepSpeedCPUAdam(params, adamw_mode=True, **OPTIONS)
    return found


def agreeing(size, constructors):
    """The step of each optimizer, after one update that must agree."""
    steps, first = {}, None
    for name, construct in constructors.items():
        params, _ = build([(size,)], 1)
        steps[name] = construct(params).step
        steps[name]()
        first = first or params
        assert_same(first, params)
    return steps


def timed(steps):
    """Seconds per step of each: medians of blocks of steps, taken in turn."""
    start = time.perf_counter()
    for step in steps.values():
        step()
    each = (time.perf_counter() - start) / len(steps)
    calls = max(1, round(2e-3 / each))
    rounds = 41 if each < 0.02 else 15
    times = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            start = time.perf_counter()
            for _ in range(calls):
                step()
            times[name].append((time.perf_counter() - start) / calls)
    return {name: median(values[2:]) for name, values in times.items()}


def draw(sizes, rows, path):
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(7, 7), height_ratios=[2, 1], layout="constrained")
    own, *others = rows[0]
    for name in rows[0]:
        above.loglog(sizes, [row[name] * 1e6 for row in rows], marker="o", markersize=3, label=name)
    above.set(ylabel="µs per step", title="AdamW, one float32 tensor")
    above.legend()
    below.axhline(1.0, color="C0")
    for color, name in enumerate(others, 1):
        ratio = [row[name] / row[own] for row in rows]
        below.semilogx(sizes, ratio, marker="o", markersize=3, color=f"C{color}", label=name)
    below.set(xlabel="elements", ylabel=f"time over that of {own}", yscale="log")
    below.grid(alpha=0.3)
    figure.savefig(path)


def main(path="sizes.svg", largest="1e8"):
    constructors = optimizers()
    sizes = [size for size in SIZES if size <= float(largest)]
    rows = []
    print(f"| elements | {' | '.join(constructors)} |\n|---|{'---|' * len(constructors)}")
    for size in sizes:
        rows.append(timed(agreeing(size, constructors)))
        print(f"| {size:,} | {' | '.join(f'{value * 1e6:,.3g} µs' for value in rows[-1].values())} |", flush=True)
    draw(sizes, rows, path)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}; picture: {path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
