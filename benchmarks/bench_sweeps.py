"""The step while one number varies: groups from 1 to 1,000, and elements of one tensor from 1 to 1e8.

report.py draws these. Beside fastsched: torch's three implementations of AdamW, and DeepSpeedCPUAdam where deepspeed is
installed (it compiles itself at the first use).
"""

import functools
import warnings

import pytest
import torch
from beside import beside
from problems import (
    ADAMW_BYTES,
    DISTINCT,
    EACH,
    ELEMENTS,
    GROUP_COUNTS,
    SCHEDULE,
    SIZES,
    TENSORS,
    assert_same,
    build,
    equal,
)

import fastsched as fs

TORCH = {"fused": {"fused": True}, "foreach": {"foreach": True}, "loop": {"foreach": False, "fused": False}}
SHORT_GROUPS, SHORT_SIZES = (1, 10, 100, 1000), SIZES[::4]
FEW, LEAST = 20, 1000  # tensors and elements where nothing is timed


@functools.cache
def deepspeed():
    """DeepSpeedCPUAdam, or None and why not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from deepspeed.ops.adam import DeepSpeedCPUAdam

            DeepSpeedCPUAdam([torch.nn.Parameter(torch.zeros(1))])
    except Exception as error:  # not installed, or it cannot compile: whatever it is, the others are measured
        return None, f"DeepSpeedCPUAdam: {type(error).__name__}"
    return DeepSpeedCPUAdam, ""


def rival(name, groups):
    """The optimizer of a name over these groups, without a scheduler."""
    if name in TORCH:
        return torch.optim.AdamW(groups, **TORCH[name])
    constructor, why_not = deepspeed()
    if constructor is None:
        pytest.skip(why_not)
    return constructor(groups, adamw_mode=True)


def label(name):
    return f"torch {name}" if name in TORCH else name


def scheduled(optimizer):
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)

    def step():
        optimizer.step()
        scheduler.step()

    return step


def agreeing(mine, step, theirs, baseline):
    step()
    baseline()
    assert_same(mine, theirs)
    return step, baseline


def cases(numbers, short):
    """Numbers by torch's implementations; those of the fused one, at some of the numbers, are of the short set."""
    return [
        pytest.param(number, name, marks=[pytest.mark.short] if name == "fused" and number in short else [])
        for name in (*TORCH, "DeepSpeedCPUAdam")
        for number in numbers
    ]


@pytest.mark.parametrize(("count", "name"), cases(GROUP_COUNTS, SHORT_GROUPS))
def test_groups(benchmark, count, name):
    """Tensors are the same at every number of groups; schedule included on both sides."""
    tensors = TENSORS if benchmark.enabled else FEW
    mine, groups = build(equal(tensors, ELEMENTS), min(count, tensors))
    step = fs.optim.AdamW(groups, schedule=SCHEDULE).step
    theirs, groups = build(equal(tensors, ELEMENTS), min(count, tensors))
    step, baseline = agreeing(mine, step, theirs, scheduled(rival(name, groups)))
    beside(
        benchmark,
        f"step: {TENSORS:,} x {ELEMENTS}, groups: {count:,}",
        step,
        f"{label(name)} + LambdaLR",
        baseline,
        calls=5 if name == "fused" else 2,
        rounds=20,
        point=("groups", count),
    )


@pytest.mark.parametrize(("size", "name"), cases(SIZES, SHORT_SIZES))
def test_sizes(benchmark, size, name):
    """One tensor, no schedule."""
    shapes = equal(1, size if benchmark.enabled else min(size, LEAST))
    mine, groups = build(shapes, 1)
    step = fs.optim.AdamW(groups).step
    theirs, groups = build(shapes, 1)
    step, baseline = agreeing(mine, step, theirs, rival(name, groups).step)
    beside(
        benchmark,
        f"step alone, elements: {size:,}",
        step,
        label(name),
        baseline,
        calls=max(1, round(200_000 / (size + 2000))),
        rounds=30 if size < 10**7 else 12,
        moved=ADAMW_BYTES * size,
        point=("elements", size),
    )


@pytest.mark.parametrize(
    ("count", "theirs"),
    [
        pytest.param(DISTINCT, DISTINCT, id="both merged", marks=pytest.mark.short),
        pytest.param(DISTINCT * EACH, DISTINCT, id="torch merged", marks=pytest.mark.short),
        pytest.param(DISTINCT * EACH, DISTINCT * EACH, id="neither merged"),
    ],
)
def test_merged_groups(benchmark, count, theirs):
    """What torch's users can do against many groups: put tensors of equal numbers into one. We need not."""
    sides = []
    for merged in (count, theirs):
        params, groups = build(equal(DISTINCT * EACH, ELEMENTS), DISTINCT)
        if merged > DISTINCT:
            groups = [{**group, "params": [p]} for group in groups for p in group["params"]]
        assert len(groups) == merged
        sides.append((params, groups))
    (mine, own), (others, groups) = sides
    step = fs.optim.AdamW(own, schedule=SCHEDULE).step
    step, baseline = agreeing(mine, step, others, scheduled(rival("fused", groups)))
    group = f"step: {DISTINCT * EACH} x {ELEMENTS}, groups: {count}, torch's: {theirs}"
    beside(benchmark, group, step, "torch fused + LambdaLR", baseline, calls=20, rounds=30)
