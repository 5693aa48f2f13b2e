"""Ten thousand groups: construction, the first step, state_dict()."""

import functools
import time

import pytest
import torch
from beside import beside, summary
from problems import FEW, MANY, SCHEDULE, assert_same, build, equal

import fastsched as fs

NAME = f"{MANY:,} x 256 in {MANY:,} groups"


@functools.cache
def torchs(count):
    """Torch's optimizer, its parameters, and the seconds that one construction took: too many to repeat it."""
    params, groups = build(equal(count, 256), count)
    start = time.perf_counter()
    optimizer = torch.optim.AdamW(groups, fused=True)
    seconds = time.perf_counter() - start
    torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULE)  # only the factor of the first update
    return params, optimizer, seconds


@pytest.fixture
def count(benchmark):
    return MANY if benchmark.enabled else FEW


class Constructed:
    """Our optimizer over the same parameters, as often as it is asked for."""

    def __init__(self, count):
        self.params, self.groups = build(equal(count, 256), count)
        self.renew()
        self.construct()

    def renew(self):
        self.given = [dict(group) for group in self.groups]  # the dicts become the optimizer's own
        self.optimizer = None

    def construct(self):
        self.optimizer = fs.optim.AdamW(self.given, schedule=SCHEDULE)

    def step(self):
        self.optimizer.step()


def test_construction(benchmark, count):
    mine, (_, other, seconds) = Constructed(count), torchs(count)
    for key in ("lr", "weight_decay", "betas", "eps"):
        assert [g[key] for g in mine.optimizer.param_groups] == [g[key] for g in other.param_groups]
    benchmark.group = f"construction: {NAME}"
    benchmark.pedantic(mine.construct, setup=mine.renew, rounds=15, warmup_rounds=2)
    own = benchmark.stats.stats.data if benchmark.enabled else [seconds]
    benchmark.extra_info |= {
        "baseline": "torch fused, once",
        "calls": 1,
        **summary("own", own),
        **summary("baseline", [seconds]),
        **summary("ratio", [seconds / one for one in own]),
    }


def test_the_first_step(benchmark, count):
    first, later = Constructed(count), Constructed(count)
    first.step()
    later.step()
    later.step()

    def renew():
        first.renew()
        first.construct()

    assert len(first.optimizer.state) == count
    beside(
        benchmark,
        f"first step: {NAME}",
        first.step,
        "fastsched, a later step",
        later.step,
        before=renew,
        rounds=15,
    )


def test_state_dict(benchmark, count):
    mine, (params, other, _) = Constructed(count), torchs(count)
    mine.step()
    other.step()
    assert_same(mine.params, params)
    own, theirs = mine.optimizer.state_dict(), other.state_dict()
    assert own["state"].keys() == theirs["state"].keys()
    assert own["param_groups"][-1].keys() <= theirs["param_groups"][-1].keys() | {"initial_lr"}
    beside(benchmark, f"state_dict(): {NAME}", mine.optimizer.state_dict, "torch fused", other.state_dict, rounds=15)
