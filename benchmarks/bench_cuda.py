"""The step on a GPU beside torch's fused and foreach AdamW: eager, in a CUDA graph, and as a share of the bandwidth.

pytest benchmarks/bench_cuda.py --benchmark-json=cuda.json && python benchmarks/bench_cuda.py cuda.json

Each case asserts first that both sides make the same updates. Besides what is timed as everywhere here, which is the
time until the device has finished, extra_info has the time between two events on the stream (`device`,
`baseline_device`) and the part of the measured bandwidth of a copy on the same device that the step's bytes make of it
(`bandwidth`, `baseline_bandwidth`). FASTSCHED_CUDA_TESTS_ON=cpu runs the assertions without a GPU.
"""

import functools
import itertools
import json
import os
import sys
import time
from statistics import median

import pytest
import torch
from problems import NARROW, SCHEDULE, assert_same, build, equal, two_updates, vit
from report import seconds

import fastsched as fs

WHERE = os.environ.get("FASTSCHED_CUDA_TESTS_ON", "cuda")
if __name__ != "__main__" and WHERE == "cuda" and not torch.cuda.is_available():
    pytest.skip("needs a GPU, and torch.cuda.is_available() is False", allow_module_level=True)

ON_GPU = WHERE == "cuda"
LARGEST_NORM, EMA_DECAY = 1.0, 0.999
COPIED = 1 << 28  # elements of the copy that bandwidth is measured by: 1 GiB, far more than any cache

# name: shapes, numbers of groups, calls in a row, rounds
SIZES = {
    "400 x 256": (equal(400, 256), (1, 10, 100, 400), 50, 20),
    "500 x 256": (equal(500, 256), (500,), 50, 20),
    "400 x 65,536": (equal(400, 65_536), (1, 10, 100, 400), 20, 20),
    "ViT-B, 86.6 M": (vit(768), (1, 10, 100, 152), 20, 20),
    "1 x 100,000,000": (equal(1, 100_000_000), (1,), 20, 20),
}
CASES = [(name, groups) for name, (_, counts, _, _) in SIZES.items() for groups in counts]
BASELINES = {
    "fused": {"fused": True},
    "foreach": {"foreach": True},
    "foreach, capturable": {"foreach": True, "capturable": True},
}
# Bytes that a float32 AdamW cannot avoid: parameter and both averages read and written, the gradient read; then the
# norm reads the gradient once more, the average of the weights is read and written, and zeroing writes the gradient.
STEP_BYTES, WHOLE_BYTES = 28, 28 + 4 + 8 + 4


def named(name, groups):
    return f"{name} in {groups} group{'s' if groups > 1 else ''}"


def shapes_of(benchmark, name):
    """The sizes of a case; where nothing is timed, small ones."""
    shapes = SIZES[name][0]
    if benchmark.enabled:
        return shapes
    return vit(NARROW) if name.startswith("ViT") else [(min(length, 300),) for (length,) in shapes]


class Side:
    """Parameters on the device in so many groups, each with a learning rate and a weight decay of its own."""

    def __init__(self, shapes, count):
        source, _ = build(shapes, 1)
        self.params = []
        for p in source:
            self.params.append(torch.nn.Parameter(p.detach().to(WHERE)))
            self.params[-1].grad = p.grad.to(WHERE)
        ends = [round(len(self.params) * i / count) for i in range(count + 1)]
        self.groups = [
            {"params": self.params[begin:end], "lr": 1e-3 * 0.99**i, "weight_decay": 0.05 * (i % 2)}
            for i, (begin, end) in enumerate(itertools.pairwise(ends))
        ]

    @functools.cached_property
    def elements(self):
        return sum(p.numel() for p in self.params)


class Ours(Side):
    def __init__(self, shapes, count, **options):
        super().__init__(shapes, count)
        self.optimizer = fs.optim.AdamW(self.groups, schedule=SCHEDULE, **options)
        self.step = self.update = self.optimizer.step


class Torchs(Side):
    """`update` is the optimizer's step alone, as a graph can hold it; `step` has the scheduler too."""

    def __init__(self, shapes, count, **options):
        super().__init__(shapes, count)
        if not ON_GPU:
            options.pop("capturable", None)
        if "capturable" in options:
            for group in self.groups:
                group["lr"] = torch.tensor(group["lr"], device=WHERE)
        self.optimizer = torch.optim.AdamW(self.groups, **options)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, SCHEDULE)
        self.update = self.optimizer.step

    def step(self):
        self.update()
        self.scheduler.step()


class TorchsWhole(Torchs):
    """Clipping, the step, an average of the weights, and zeroing."""

    def __init__(self, shapes, count, **options):
        super().__init__(shapes, count, **options)
        self.grads = [p.grad for p in self.params]
        self.average = [p.detach().clone() for p in self.params]
        self.update = self.whole_update

    @torch.no_grad()
    def whole_update(self):
        torch.nn.utils.clip_grad_norm_(self.params, LARGEST_NORM, foreach=True)
        self.optimizer.step()
        torch._foreach_lerp_(self.average, self.params, 1 - EMA_DECAY)
        torch._foreach_zero_(self.grads)


def finish():
    if ON_GPU:
        torch.cuda.synchronize()


def between_events(step, calls):
    """Seconds of the stream's time per call."""
    if not ON_GPU:
        return 0.0
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e-3 / calls


def graph_of(work):
    """A call that replays `work` as a graph; on a CPU, the work itself."""
    if not ON_GPU:
        return work
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@pytest.fixture(scope="module")
def copying():
    """Bytes per second, read and written, of a copy between two tensors of this device."""
    if not ON_GPU:
        return 1.0
    source = torch.ones(COPIED, device=WHERE)
    target = torch.empty_like(source)
    times = [between_events(lambda: target.copy_(source), 5) for _ in range(20)]
    return 2 * source.nbytes / median(times[2:])


def beside(benchmark, group, ours, name, baseline, *, bytes_moved, copying, calls, rounds):
    """As beside.beside, with every block ending when the device has finished; then the stream's own time of both."""
    calls = calls if benchmark.enabled else 1
    times = []

    def block():
        for _ in range(calls):
            ours()
        finish()

    def baseline_block():
        finish()
        start = time.perf_counter()
        for _ in range(calls):
            baseline()
        finish()
        times.append((time.perf_counter() - start) / calls)

    benchmark.group = group
    benchmark.pedantic(block, setup=baseline_block, rounds=rounds, warmup_rounds=2)
    info = {"baseline": name, "baseline_median": median(times[2:] or times), "calls": calls}
    if benchmark.enabled and ON_GPU:
        streams = [(between_events(ours, calls), between_events(baseline, calls)) for _ in range(rounds)]
        for key, column in zip(("", "baseline_"), zip(*streams, strict=True), strict=True):
            info[f"{key}device"] = median(column)
            info[f"{key}bandwidth"] = bytes_moved / (median(column) * copying)
        info["gpu"] = torch.cuda.get_device_name()
        info["copying"] = copying
    benchmark.extra_info |= info


def agreeing(mine, theirs):
    """Both sides, after two updates that must agree."""
    for side in (mine, theirs):
        side.step()
        side.step()
    assert_same(mine.params, theirs.params, updates=2)
    return mine, theirs


@pytest.mark.parametrize("baseline", BASELINES)
@pytest.mark.parametrize(("name", "groups"), CASES, ids=str)
def test_eager_steps(benchmark, copying, name, groups, baseline):
    """Schedule included on both sides."""
    _, _, calls, rounds = SIZES[name]
    shapes = shapes_of(benchmark, name)
    mine, theirs = agreeing(Ours(shapes, groups), Torchs(shapes, groups, **BASELINES[baseline]))
    beside(
        benchmark,
        f"GPU, eager: {named(name, groups)}",
        mine.step,
        f"torch {baseline} + LambdaLR",
        theirs.step,
        bytes_moved=STEP_BYTES * mine.elements,
        copying=copying,
        calls=calls,
        rounds=rounds,
    )


@pytest.mark.parametrize("scheduled", [False, True], ids=["graph alone", "graph and scheduler"])
@pytest.mark.parametrize("baseline", ["fused", "foreach"])
@pytest.mark.parametrize(("name", "groups"), CASES, ids=str)
def test_replayed_steps(benchmark, copying, name, groups, baseline, scheduled):
    """Ours advances its schedule within the graph. Torch's learning rates stand, or are filled between replays."""
    _, _, calls, rounds = SIZES[name]
    shapes = shapes_of(benchmark, name)
    mine, theirs = agreeing(Ours(shapes, groups), Torchs(shapes, groups, **{baseline: True}, capturable=True))
    replay = graph_of(theirs.update)

    def whole():
        replay()
        theirs.scheduler.step()

    beside(
        benchmark,
        f"GPU, replayed: {named(name, groups)}",
        graph_of(mine.update),
        f"torch {baseline}, capturable, replayed" + (" + LambdaLR" if scheduled else ""),
        whole if scheduled else replay,
        bytes_moved=STEP_BYTES * mine.elements,
        copying=copying,
        calls=calls,
        rounds=rounds,
    )


@pytest.mark.parametrize("how", ["eager", "replayed"])
@pytest.mark.parametrize(("name", "groups"), [("ViT-B, 86.6 M", 1), ("ViT-B, 86.6 M", 152), ("400 x 256", 400)])
def test_the_whole_composition(benchmark, copying, name, groups, how):
    """Clip, AdamW, schedule, average and zeroing; a replayed baseline has no schedule."""
    _, _, calls, rounds = SIZES[name]
    shapes = shapes_of(benchmark, name)
    capturable = {"capturable": True} if how == "replayed" else {}
    mine = Ours(shapes, groups, max_grad_norm=LARGEST_NORM, ema_decay=EMA_DECAY, zero_grads=True)
    theirs = TorchsWhole(shapes, groups, fused=True, **capturable)
    two_updates(mine, theirs)
    assert_same([mine.optimizer.state[p]["ema"] for p in mine.params], theirs.average, updates=2)
    eager = how == "eager"
    beside(
        benchmark,
        f"GPU, {how}, whole step: {named(name, groups)}",
        mine.step if eager else graph_of(mine.update),
        "clip_grad_norm_ + AdamW(fused) + _foreach_lerp_ + _foreach_zero_" + (" + LambdaLR" if eager else ", replayed"),
        theirs.step if eager else graph_of(theirs.update),
        bytes_moved=WHOLE_BYTES * mine.elements,
        copying=copying,
        calls=calls,
        rounds=rounds,
    )


def main(path):
    """Print a table of a result file."""
    with open(path, encoding="utf-8") as file:
        data = json.load(file)
    cases = [case for case in data["benchmarks"] if "device" in case["extra_info"]]
    print("| what | fastsched: wall, device, bandwidth | baseline: wall, device, bandwidth | ratio of walls |")
    print("|---|---|---|---|")
    for case in cases:
        info = case["extra_info"]
        own = case["stats"]["median"] / info["calls"]
        print(f"| {case['group']} | {seconds(own)}, {seconds(info['device'])}, {info['bandwidth']:.0%} ", end="")
        print(f"| {info['baseline']}: {seconds(info['baseline_median'])}, {seconds(info['baseline_device'])}, ", end="")
        print(f"{info['baseline_bandwidth']:.0%} | {info['baseline_median'] / own:.3g} |")
    if cases:
        info = cases[0]["extra_info"]
        print(f"\n{info['gpu']}, a copy moves {info['copying'] / 1e12:.3g} TB/s; ", end="")
        print(f"commit {data['commit_info']['id'][:12]}, {data['datetime'][:10]}; medians.")


if __name__ == "__main__":
    main(*sys.argv[1:])
