"""The fused step on a CUDA device, emulated from end to end: its bits, its launches, and that nobody waits for it."""

import contextlib
import copy
import gc
import math
import pickle
from unittest import mock

import emulated
import pytest
import torch
from optimizers import SHAPES, chosen, everything, params_of, same_bits, weights

import fastsched as fs

SHAPE = fs.Cosine(steps=10).warmup(3)
CLIPPED = {"schedule": SHAPE, "max_grad_norm": 1.0}
BUSY = {"schedule": SHAPE, "max_grad_norm": 1.0, "ema_decay": 0.9, "zero_grads": True, "amp": True}


@pytest.fixture(autouse=True)
def cuda():
    """Every tensor lies on cuda:0, but where a test says otherwise."""
    yield from emulated.everywhere()


@contextlib.contextmanager
def on_cpu(cuda):
    """Tensors lie where they are, in CPU memory."""
    cuda.tensors(0, 0)
    try:
        yield
    finally:
        cuda.tensors(1, 0)


def exact_grads(*models, seed, spoilt=False):
    """The same gradients for all: eighths, whose squares add up without rounding, in whatever order."""
    generator = torch.Generator().manual_seed(seed)
    for same in zip(*models, strict=True):
        shape = (*same[0].shape, 2) if same[0].is_complex() else same[0].shape
        grad = torch.randint(-16, 17, shape, generator=generator) / 8
        if spoilt and grad.numel():
            grad.view(-1)[-1] = math.inf
        for p in same:
            p.grad = (torch.view_as_complex(grad) if p.is_complex() else grad).to(p.dtype, copy=True)


def two_groups(rule, params, **options):
    groups = [{"params": params[::2]}, {"params": params[1::2], "lr": 0.02}]
    return chosen(rule, groups, **{"lr": 0.1, **options})


class Pair:
    """Equal parameters with equal gradients: `device` updates those on the device, `cpu` those of the CPU's step."""

    def __init__(self, cuda, rule="AdamW", *, params=None, make=two_groups, there=None, **options):
        self.cuda = cuda
        self.params = params_of(SHAPES) if params is None else params
        self.twins = copy.deepcopy(self.params)
        with self.twins_place():
            self.cpu = make(rule, self.twins, **options)
        self.device = make(rule, self.params, **options, **(there or {}))

    def twins_place(self):
        return on_cpu(self.cuda)

    def both(self, change):
        """The same to both optimizers."""
        change(self.device)
        with self.twins_place():
            change(self.cpu)

    def step(self, t, *, device=True, spoilt=False, **arguments):
        exact_grads(self.params, self.twins, seed=t, spoilt=spoilt)
        with self.twins_place():
            self.cpu.step(**arguments)
        if device:
            self.device.step(**arguments)

    def run(self, steps):
        for t in steps:
            self.step(t)
        return self

    def capture(self, stream):
        self.graph = Graph(self.cuda, stream, self.device.step)

    def replay(self, t, *, spoilt=False, graph=None):
        """A step, where that of the device is a replay: its gradients are written in place."""
        grads = [p.grad for p in self.params]
        exact_grads(self.params, self.twins, seed=t, spoilt=spoilt)
        for p, grad in zip(self.params, grads, strict=True):
            p.grad = grad.copy_(p.grad)
        with self.twins_place():
            self.cpu.step()
        (graph or self.graph).replay()

    def assert_same(self):
        assert different(everything(self.device), everything(self.cpu)) == []
        for name in ("position", "skipped", "lrs", "grad_norm"):
            assert getattr(self.device, name) == getattr(self.cpu, name), name
        assert numbers(self.device) == numbers(self.cpu)
        grads = [[p.grad for p in params if p.grad is not None] for params in (self.params, self.twins)]
        assert different(*grads) == []


def different(ones, others):
    """Indices: tensors themselves would fill the screen."""
    return [i for i, (one, other) in enumerate(zip(ones, others, strict=True)) if not same_bits([one], [other])]


def numbers(opt):
    """The hyperparameters that stand in the groups."""
    return [
        {key: number(value) for key, value in group.items() if key not in ("params", "capturable")}
        for group in opt.param_groups
    ]


def number(value):
    return value.item() if isinstance(value, torch.Tensor) else value


def pickled(made):
    return pickle.loads(pickle.dumps(made))


def write_lr(value):
    """Into the first group, as one does: a number, or into the tensor."""

    def write(opt):
        group = opt.param_groups[0]
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(value)
        else:
            group["lr"] = value

    return write


# ---- the CPU's bits

OPTIONS = {
    "plain": ("AdamW", {}),
    "scheduled": ("AdamW", {"schedule": SHAPE, "weight_decay": 0.1}),
    "every hyperparameter scheduled": (
        "AdamW",
        {
            "lr": fs.Linear(0.1, 0.0, steps=9),
            "betas": (fs.Linear(0.5, 0.9, steps=4), fs.Constant(0.99)),
            "weight_decay": SHAPE * 0.1,
        },
    ),
    "amsgrad, maximize": ("Adam", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    "Adam, decoupled": ("Adam", {"decoupled_weight_decay": True, "weight_decay": 0.1, "schedule": SHAPE}),
    "SGD": ("SGD", {"weight_decay": 0.1}),
    "nesterov": ("SGD", {"momentum": 0.5, "nesterov": True}),
    "momentum scheduled from 0": ("SGD", {"momentum": fs.Linear(0.0, 0.9, steps=3), "dampening": 0.25}),
    "Lion": ("Lion", {"weight_decay": 0.1, "schedule": SHAPE}),
    "clipped": ("AdamW", {"max_grad_norm": 1.0, "schedule": SHAPE}),
    "clipped, norm 1": ("SGD", {"max_grad_norm": 1.0, "norm_type": 1}),
    "clipped, largest": ("SGD", {"max_grad_norm": 1.0, "norm_type": math.inf}),
    "clipped by value": ("AdamW", {"max_grad_value": 0.5}),
    "averaged and zeroed": ("AdamW", {"ema_decay": 0.75, "zero_grads": True}),
    "decay of the average scheduled": ("SGD", {"ema_decay": fs.Linear(0.0, 1.0, steps=4)}),
    "composer": ("AdamW", {"weight_decay_mode": "composer", "weight_decay": 0.01, "schedule": SHAPE}),
    "timm": ("AdamW", {"weight_decay_mode": "timm", "weight_decay": 0.1, "schedule": SHAPE}),
    "cautious": ("Lion", {"weight_decay_mode": "cautious", "weight_decay": 0.1}),
    "state in bfloat16": ("AdamW", {"state_dtype": torch.bfloat16, "seed": 5}),
    "amp": ("AdamW", {"amp": True}),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_updates_have_the_bits_of_the_cpus(cuda, case):
    rule, options = OPTIONS[case]
    Pair(cuda, rule, **options).run(range(6)).assert_same()


HALF = torch.bfloat16
DTYPES = {
    "float64": (torch.float64, {"schedule": SHAPE}),
    "float16": (torch.float16, {}),
    "bfloat16": (HALF, {}),
    "bfloat16 with masters": (HALF, {"master_weights": True, "ema_decay": 0.5}),
    "bfloat16 at random": (HALF, {"stochastic_rounding": True, "seed": 7}),
    "complex": (torch.complex64, {"max_grad_norm": 1.0}),
}


@pytest.mark.parametrize("case", DTYPES)
def test_updates_of_any_dtype_have_the_bits_of_the_cpus(cuda, case):
    dtype, options = DTYPES[case]
    Pair(cuda, params=params_of(SHAPES, dtype=dtype), **options).run(range(4)).assert_same()


def test_tensors_of_several_blocks_have_the_bits_of_the_cpus(cuda):
    params = params_of([(8191,), (8192,), (8193,), (3, 7000)])  # a block works on 8192
    Pair(cuda, params=params, **BUSY).run(range(3)).assert_same()


def test_300_groups_with_curves_of_their_own_have_the_bits_of_the_cpus(cuda):
    def make(rule, params, **options):
        curves = [fs.Linear(0.1, 1.0 / (1 + i), steps=3 + i % 7) for i in range(len(params))]
        return chosen(rule, [{"params": [p], "lr": curve} for p, curve in zip(params, curves, strict=True)], **options)

    # more than the threads of the one block that evaluates them
    Pair(cuda, params=params_of([(2,)] * 300), make=make).run(range(3)).assert_same()


def test_strided_parameters_and_gradients_have_the_bits_of_the_cpus(cuda):
    base = [torch.nn.Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)).t()[::2])]
    pair = Pair(cuda, params=base, make=chosen, max_grad_norm=1.0, zero_grads=True)
    for t in range(3):
        pair.step(t)
    pair.assert_same()


def test_averaged_buffers_have_the_bits_of_the_cpus(cuda):
    def make(rule, params, **options):
        buffer = torch.arange(9.0)
        buffers.append(buffer)
        return chosen(rule, params, ema_buffers=[buffer], **options)

    buffers = []
    pair = Pair(cuda, make=make, ema_decay=0.75)
    for t in range(4):
        for buffer in buffers:
            buffer.add_(0.5)
        pair.step(t)
    pair.assert_same()


def test_a_norm_that_is_given_has_the_bits_of_the_cpus(cuda):
    pair = Pair(cuda, max_grad_norm=1.0)
    for t, norm in enumerate((3.0, torch.tensor(2.5), torch.tensor(0.75, dtype=torch.float64))):
        pair.step(t, grad_norm=norm)
    pair.assert_same()


def test_a_gradient_that_two_parameters_share_is_zeroed_once_both_have_used_it(cuda):
    pair = Pair(cuda, params=params_of([(7,), (7,)]), zero_grads=True)
    for params in (pair.params, pair.twins):
        params[0].grad = params[1].grad = torch.full((7,), 0.5)
    pair.both(lambda opt: opt.step())
    assert not pair.params[0].grad.any()
    pair.assert_same()


# ---- launches and copies


def begin(cuda):
    """Counts and logs are of what follows."""
    assert cuda.violations() == ""
    cuda.reset()


def calls(cuda):
    """What the driver was asked for since the reset, but for launches."""
    return {line for line in cuda.log().splitlines() if line.startswith("cu")}


def names(cuda):
    return [name.removeprefix("fastsched::cuda::").split("<")[0] for name, _, _ in cuda.launches()]


def after(cuda, opt, params, steps=2):
    """Counts begin where the same gradients have been seen before."""
    exact_grads(params, seed=0)
    for _ in range(steps):
        opt.step()
    begin(cuda)
    return opt


# Beside launches: whose context it is, and whether the stream is being captured.
FREE = {"cuLaunchKernel", "cuCtxPushCurrent", "cuCtxPopCurrent", "cuStreamIsCapturing"}


@pytest.mark.parametrize("count", [1, 100])
def test_the_number_of_groups_changes_no_number_of_launches(cuda, count):
    params = params_of([(5,)] * count)
    opt = after(cuda, fs.optim.AdamW([{"params": [p], "lr": 0.1 + i} for i, p in enumerate(params)]), params)
    opt.step()
    assert names(cuda) == ["control", "update"]


def test_each_format_has_a_launch_of_its_own(cuda):
    params = params_of([(5,), (3,)]) + params_of([(4,), (2,)], dtype=HALF)
    opt = after(cuda, fs.optim.AdamW(params), params)
    opt.step()
    assert names(cuda) == ["control", "update", "update"]


@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, {"amp": True}], ids=["clipped", "amp"])
def test_a_norm_is_one_launch_more(cuda, options):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params, **options), params)
    opt.step()
    assert names(cuda) == ["norm", "control", "update"]


@pytest.mark.parametrize("options", [{}, BUSY], ids=["plain", "busy"])
def test_a_step_of_what_was_seen_before_copies_allocates_and_waits_for_nothing(cuda, options):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params, **options), params)
    opt.step()
    assert calls(cuda) <= FREE


def test_gradients_elsewhere_are_one_copy(cuda):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params, schedule=SHAPE), params)
    held = [p.grad for p in params]
    exact_grads(params, seed=1)
    opt.step()
    assert cuda.count("cuMemcpyHtoDAsync") == 1
    del held


def test_a_number_that_was_written_is_one_copy_and_no_launch_more(cuda):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params), params)
    opt.param_groups[0]["lr"] = 0.5
    opt.step()
    assert cuda.count("cuMemcpyHtoDAsync") == 1
    assert names(cuda) == ["control", "update"]


def test_numbers_that_are_written_at_every_step_take_no_new_memory(cuda):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params), params)
    for t in range(4):
        opt.param_groups[0]["lr"] = 0.5 + t
        opt.step()
    assert cuda.count("cuMemAlloc") <= 1  # room for edits, once
    assert cuda.count("cuStreamSynchronize") == 0


# ---- nobody waits


@pytest.fixture
def stream(cuda):
    """Torch's current stream, one of its own."""
    made = cuda.stream()
    cuda.set_current_stream(made)
    return made


@contextlib.contextmanager
def held(cuda, stream):
    """What is launched meanwhile does not happen, unless somebody waits."""
    cuda.hold(stream, 1)
    try:
        yield
    finally:
        cuda.hold(stream, 0)


class Held(Pair):
    """Gradients that stay in memory while their steps wait."""

    def step(self, t, **arguments):
        self.kept = [*getattr(self, "kept", []), *(p.grad for p in self.params)]
        super().step(t, **arguments)


READINGS = {
    "position": lambda opt: opt.position,
    "skipped": lambda opt: opt.skipped,
    "grad_norm": lambda opt: opt.grad_norm,
    "lrs": lambda opt: opt.lrs,
    "groups": numbers,
    "state_dict": lambda opt: opt.state_dict()["param_groups"],
}


@pytest.mark.parametrize("options", [{}, CLIPPED, {"amp": True}, BUSY], ids=["plain", "clipped", "amp", "busy"])
def test_steps_return_before_anything_has_run(cuda, stream, options):
    pair = Held(cuda, **options).run(range(2))
    with held(cuda, stream):
        begin(cuda)
        for t in range(2, 5):
            pair.step(t)
        assert cuda.launches() == []
        assert not calls(cuda) & {"cuStreamSynchronize", "cuEventSynchronize", "cuStreamQuery"}
    pair.assert_same()


@pytest.mark.parametrize("reading", READINGS)
def test_what_is_read_after_steps_that_nobody_waited_for_is_right(cuda, stream, reading):
    pair = Held(cuda, **CLIPPED).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        pair.step(3, spoilt=True)
        pair.step(4)
        assert READINGS[reading](pair.device) == READINGS[reading](pair.cpu)
    pair.assert_same()


def test_reading_polls_what_the_last_step_left_and_waits_for_nothing_else(cuda, stream):
    pair = Held(cuda, max_grad_norm=1.0).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        begin(cuda)
        assert pair.device.grad_norm == pair.cpu.grad_norm
        assert cuda.count("cuStreamSynchronize") == 0
        assert names(cuda) == ["norm", "control"]  # the update has still to happen


def test_zero_grad_waits_for_nothing(cuda, stream):
    pair = Held(cuda, **CLIPPED).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        kept = [p.grad for p in pair.params]
        begin(cuda)
        pair.device.zero_grad()
        assert calls(cuda) == set()
    del kept


def test_groups_in_which_nothing_is_scheduled_are_read_without_a_wait(cuda, stream):
    pair = Held(cuda, max_grad_norm=1.0).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        begin(cuda)
        assert [group["lr"] for group in pair.device.param_groups] == [0.1, 0.02]
        assert calls(cuda) == set()


def test_without_a_norm_nothing_is_read_back(cuda, stream):
    pair = Held(cuda, schedule=SHAPE).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        begin(cuda)
        for reading in READINGS.values():
            assert reading(pair.device) == reading(pair.cpu)
        assert calls(cuda) == set()


# ---- skips

SKIPS = [False, True, False, True, True, False]


def spoil(opt, found):
    """As torch.amp.GradScaler does before step()."""
    opt.grad_scale, opt.found_inf = torch.tensor(8.0), torch.tensor(float(found))


@pytest.mark.parametrize("options", [{"amp": True}, BUSY], ids=["amp", "busy"])
def test_updates_are_skipped_where_the_scaler_found_infinities(cuda, stream, options):
    pair = Held(cuda, **options).run(range(1))
    with held(cuda, stream):
        kept = []
        for t, found in enumerate(SKIPS):
            for opt in (pair.cpu, pair.device):
                spoil(opt, found)
                kept.append((opt.grad_scale, opt.found_inf))
            pair.step(1 + t)
        assert pair.device.skipped == sum(SKIPS)
    pair.assert_same()


@pytest.mark.parametrize("options", [{"max_grad_norm": 1.0}, BUSY], ids=["clipped", "busy"])
def test_updates_are_skipped_where_the_norm_is_not_finite(cuda, stream, options):
    pair = Held(cuda, **options)
    with held(cuda, stream):
        for t, spoilt in enumerate(SKIPS):
            pair.step(t, spoilt=spoilt)
        assert (pair.device.position, pair.device.skipped) == (SKIPS.count(False), SKIPS.count(True))
    pair.assert_same()


def test_a_norm_given_on_the_device_that_is_not_finite_skips_the_update(cuda):
    pair = Pair(cuda, max_grad_norm=1.0, schedule=SHAPE)
    for t, norm in enumerate((3.0, math.nan, 2.0, math.inf)):
        pair.step(t, grad_norm=torch.tensor(norm))
    assert pair.device.skipped == 2
    pair.assert_same()


def test_a_first_update_may_be_skipped(cuda):
    pair = Pair(cuda, **BUSY)
    pair.step(0, spoilt=True)
    pair.step(1)
    pair.assert_same()


def test_a_written_lr_serves_the_next_update_that_is_made(cuda):
    pair = Pair(cuda, **CLIPPED).run(range(2))
    pair.both(write_lr(0.5))
    pair.step(2, spoilt=True)
    assert pair.device.lrs == pair.cpu.lrs  # 0.5 still
    pair.step(3)
    pair.assert_same()


def test_a_written_lr_outlives_a_skip_that_nobody_has_read(cuda):
    pair = Pair(cuda, **CLIPPED).run(range(2))
    pair.both(write_lr(0.5))
    pair.step(2, spoilt=True)
    pair.step(3)
    pair.assert_same()


def test_a_new_group_after_a_skip_that_nobody_has_read_starts_at_the_true_position(cuda):
    pair = Pair(cuda, **CLIPPED).run(range(2))
    pair.step(2, spoilt=True)
    for opt, params in ((pair.cpu, pair.twins), (pair.device, pair.params)):
        with on_cpu(cuda) if opt is pair.cpu else contextlib.nullcontext():
            params += params_of([(9,)], seed=3)
            opt.add_param_group({"params": params[-1:], "lr": 0.3})
    pair.run(range(3, 5)).assert_same()


def test_scale_lr_after_a_skip_that_nobody_has_read_counts(cuda):
    pair = Pair(cuda, **CLIPPED).run(range(2))
    pair.step(2, spoilt=True)
    pair.both(lambda opt: opt.scale_lr(0.5))
    pair.run(range(3, 5)).assert_same()


def test_a_step_without_gradients_is_no_update_and_launches_nothing(cuda):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params, **CLIPPED), params)
    opt.zero_grad()
    opt.step()
    assert cuda.launches() == []
    assert (opt.position, opt.skipped) == (2, 0)


# ---- CUDA graphs


class Graph:
    """What `call` launches on the current stream, to be replayed."""

    def __init__(self, cuda, stream, call):
        self.cuda = cuda
        begin(cuda)
        cuda.begin_capture(stream)
        try:
            call()
        finally:
            self.handle = cuda.end_capture(stream)
        assert cuda.violations() == ""
        assert self.handle is not None

    def replay(self):
        self.cuda.replay(self.handle)


def captured(cuda, stream, *args, **options):
    """A pair whose next step on the device is captured, after two that were made."""
    pair = Pair(cuda, *args, **options).run(range(2))
    pair.capture(stream)
    return pair


REPLAYED = {
    "plain": ("AdamW", {}),
    "busy": ("AdamW", BUSY),
    "momentum": ("SGD", {"momentum": fs.Linear(0.0, 0.9, steps=3), "schedule": SHAPE}),
    "state at random": ("AdamW", {"state_dtype": torch.bfloat16, "seed": 5}),
}


@pytest.mark.parametrize("case", REPLAYED)
def test_replays_have_the_bits_of_steps(cuda, stream, case):
    rule, options = REPLAYED[case]
    pair = captured(cuda, stream, rule, **options)
    for t in range(2, 6):
        pair.replay(t)
    pair.assert_same()


def test_a_capture_itself_changes_nothing(cuda, stream):
    pair = captured(cuda, stream, **BUSY)
    pair.assert_same()


def test_capturing_puts_launches_alone_into_the_graph(cuda, stream):
    pair = captured(cuda, stream, **CLIPPED)
    assert cuda.nodes(pair.graph.handle) == 3  # norm, control, update
    assert cuda.launches() == []
    begin(cuda)
    pair.replay(2)
    assert names(cuda) == ["norm", "control", "update"]
    assert calls(cuda) == set()


@pytest.mark.parametrize("reading", READINGS)
def test_what_is_read_after_replays_is_right(cuda, stream, reading):
    pair = captured(cuda, stream, **CLIPPED)
    for t in range(2, 5):
        pair.replay(t)
        assert READINGS[reading](pair.device) == READINGS[reading](pair.cpu)


def test_replays_may_be_skipped(cuda, stream):
    pair = captured(cuda, stream, **BUSY)
    for t, spoilt in enumerate(SKIPS):
        pair.replay(2 + t, spoilt=spoilt)
    assert pair.device.skipped == sum(SKIPS)
    pair.assert_same()


def test_a_replay_reads_found_inf_anew(cuda, stream):
    pair = Pair(cuda, amp=True, schedule=SHAPE)
    for opt in (pair.cpu, pair.device):
        spoil(opt, False)
    pair.run(range(2))
    pair.capture(stream)
    for t, found in enumerate(SKIPS):
        for opt in (pair.cpu, pair.device):
            opt.found_inf.fill_(found)
        pair.replay(2 + t)
    pair.assert_same()


def test_a_position_set_between_replays_counts_from_the_next_on(cuda, stream):
    pair = captured(cuda, stream, schedule=SHAPE)
    pair.replay(2)
    for opt in (pair.cpu, pair.device):
        opt.position = 7
    pair.replay(3)
    pair.replay(4)
    pair.assert_same()


def test_scale_lr_between_replays_counts_from_the_next_on(cuda, stream):
    pair = captured(cuda, stream, schedule=SHAPE)
    pair.replay(2)
    for opt in (pair.cpu, pair.device):
        opt.scale_lr(0.5, group=1)
    pair.replay(3)
    pair.replay(4)
    pair.assert_same()


def test_steps_and_replays_may_alternate(cuda, stream):
    pair = captured(cuda, stream, **CLIPPED)
    grads = [p.grad for p in pair.params]
    for t in range(2, 8):
        if t % 2:
            pair.step(t)  # with gradients elsewhere
            continue
        for p, grad in zip(pair.params, grads, strict=True):
            p.grad = grad
        pair.replay(t)
    pair.assert_same()


def test_two_captures_replay_each_its_own_gradients(cuda, stream):
    pair = captured(cuda, stream, **CLIPPED)
    first, grads = pair.graph, [p.grad for p in pair.params]
    pair.step(2)
    pair.capture(stream)
    others = [p.grad for p in pair.params]
    for t, (graph, held_grads) in enumerate([(first, grads), (pair.graph, others), (first, grads)]):
        for p, grad in zip(pair.params, held_grads, strict=True):
            p.grad = grad
        pair.replay(3 + t, graph=graph)
    pair.assert_same()


def test_two_steps_in_one_graph_are_two_updates(cuda, stream):
    pair = Pair(cuda, schedule=SHAPE).run(range(2))
    exact_grads(pair.params, pair.twins, seed=2)
    graph = Graph(cuda, stream, lambda: [pair.device.step(), pair.device.step()])
    for _ in range(2):
        graph.replay()
        with on_cpu(cuda):
            pair.cpu.step()
            pair.cpu.step()
    pair.assert_same()


def test_an_optimizer_that_is_deleted_leaves_its_memory_to_its_graph(cuda, stream):
    pair = captured(cuda, stream, schedule=SHAPE)
    pair.replay(2)
    state = [value for values in pair.device.state.values() for value in values.values()]  # torch's memory
    gc.collect()
    before = cuda.allocations()
    del pair.device
    gc.collect()
    assert cuda.allocations() == before - 1  # the tables of steps that are not captured
    pair.replay(3)
    assert same_bits(pair.params, pair.twins)
    del state


def test_a_first_step_cannot_be_captured_and_changes_nothing(cuda, stream):
    pair = Pair(cuda, schedule=SHAPE)
    exact_grads(pair.params, pair.twins, seed=0)
    with pytest.raises(RuntimeError, match="make one step before the capture"):
        Graph(cuda, stream, pair.device.step)
    pair.run(range(2)).assert_same()


def test_a_first_step_of_one_parameter_cannot_be_captured(cuda, stream):
    pair = Pair(cuda, schedule=SHAPE)
    exact_grads(pair.params, pair.twins, seed=0)
    late = pair.params[0].grad, pair.twins[0].grad
    pair.params[0].grad = pair.twins[0].grad = None
    pair.device.step()
    with on_cpu(cuda):
        pair.cpu.step()
    pair.params[0].grad, pair.twins[0].grad = late
    with pytest.raises(RuntimeError, match="make one step before the capture"):
        Graph(cuda, stream, pair.device.step)
    pair.run(range(2)).assert_same()


def test_an_lr_written_before_a_capture_serves_one_replay(cuda, stream):
    pair = Pair(cuda, schedule=SHAPE).run(range(2))
    pair.both(write_lr(0.5))
    exact_grads(pair.params, seed=2)
    pair.capture(stream)
    pair.replay(2)
    pair.replay(3)
    pair.assert_same()


def test_a_group_may_be_added_after_replays(cuda, stream):
    pair = captured(cuda, stream, **CLIPPED)
    pair.replay(2)
    pair.params += params_of([(9,)], seed=3)
    pair.twins += params_of([(9,)], seed=3)
    pair.device.add_param_group({"params": pair.params[-1:], "lr": 0.3})
    with on_cpu(cuda):
        pair.cpu.add_param_group({"params": pair.twins[-1:], "lr": 0.3})
    pair.run(range(3, 5)).assert_same()
    pair.capture(stream)
    pair.replay(5)
    pair.assert_same()


def test_a_checkpoint_may_be_loaded_between_replays(cuda, stream):
    saved = Pair(cuda, schedule=SHAPE).run(range(5)).cpu.state_dict()
    pair = captured(cuda, stream, schedule=SHAPE)
    pair.replay(2)
    pair.both(lambda opt: opt.load_state_dict(copy.deepcopy(saved)))
    pair.run(range(5, 7)).assert_same()
    pair.capture(stream)
    pair.replay(7)
    pair.assert_same()


# ---- lr in a tensor

IN_TENSORS = {"capturable": True}


def tensors_of(opt):
    return [group["lr"] for group in opt.param_groups]


def test_capturable_keeps_every_lr_in_a_float64_tensor_of_its_own(cuda):
    opt = two_groups("AdamW", params_of(SHAPES), capturable=True, schedule=SHAPE)
    first, second = tensors_of(opt)
    assert (first.dtype, first.shape, first is second) == (torch.float64, (), False)
    exact_grads([p for group in opt.param_groups for p in group["params"]], seed=0)
    opt.step()
    assert tensors_of(opt)[0] is first
    assert first.item() == 0.1 * SHAPE(1)


@pytest.mark.parametrize("options", [{}, BUSY], ids=["plain", "busy"])
def test_capturable_steps_have_the_bits_of_the_cpus(cuda, options):
    pair = Pair(cuda, there=IN_TENSORS, **options)
    pair.run(range(3))
    pair.step(3, spoilt="max_grad_norm" in options)
    pair.run(range(4, 6)).assert_same()


@pytest.mark.parametrize("options", [{}, BUSY], ids=["plain", "busy"])
def test_capturable_replays_have_the_bits_of_steps(cuda, stream, options):
    pair = captured(cuda, stream, there=IN_TENSORS, **options)
    for t in range(2, 5):
        pair.replay(t)
    pair.assert_same()


def test_a_filled_lr_serves_the_next_replay_and_the_schedule_resumes(cuda, stream):
    pair = captured(cuda, stream, there=IN_TENSORS, schedule=SHAPE)
    pair.replay(2)
    pair.both(write_lr(0.5))
    pair.replay(3)
    pair.assert_same()
    pair.replay(4)
    pair.assert_same()


def test_a_filled_lr_waits_for_the_next_replay_that_is_made(cuda, stream):
    pair = captured(cuda, stream, there=IN_TENSORS, **CLIPPED)
    pair.both(write_lr(0.5))
    pair.replay(2, spoilt=True)
    assert pair.device.lrs == pair.cpu.lrs
    pair.replay(3)
    pair.assert_same()


def test_a_filled_lr_stands_where_nothing_is_scheduled(cuda, stream):
    pair = captured(cuda, stream, there=IN_TENSORS)
    pair.both(write_lr(0.5))
    pair.replay(2)
    pair.replay(3)
    pair.step(4)
    pair.assert_same()
    assert pair.device.lrs == [0.5, 0.02]


@pytest.mark.parametrize("schedule", [None, SHAPE], ids=["constant", "scheduled"])
def test_scale_lr_reaches_captured_tensors(cuda, stream, schedule):
    pair = captured(cuda, stream, there=IN_TENSORS, schedule=schedule)
    pair.both(lambda opt: opt.scale_lr(0.5))
    pair.replay(2)
    pair.replay(3)
    pair.assert_same()


def test_a_position_set_between_replays_reaches_captured_tensors(cuda, stream):
    pair = captured(cuda, stream, there=IN_TENSORS, schedule=SHAPE)

    def move(opt):
        opt.position = 8

    pair.both(move)
    pair.replay(2)
    pair.assert_same()


def test_state_dict_holds_numbers_in_the_place_of_tensors(cuda):
    pair = Pair(cuda, there=IN_TENSORS, schedule=SHAPE).run(range(2))
    saved = [group["lr"] for group in pair.device.state_dict()["param_groups"]]
    assert [type(lr) for lr in saved] == [float, float]
    assert saved == pair.cpu.lrs
    assert all(isinstance(lr, torch.Tensor) for lr in tensors_of(pair.device))


def test_loading_writes_into_the_tensors_that_graphs_read(cuda, stream):
    saved = Pair(cuda).run(range(3))
    pair = captured(cuda, stream, there=IN_TENSORS)
    saved.cpu.param_groups[0]["lr"] = 0.25
    before = tensors_of(pair.device)
    pair.both(lambda opt: opt.load_state_dict(saved.cpu.state_dict()))
    after_loading = tensors_of(pair.device)
    assert all(a is b for a, b in zip(before, after_loading, strict=True))
    assert pair.device.lrs == [0.25, 0.02]


def test_groups_that_were_given_one_tensor_get_one_each(cuda):
    shared = torch.tensor(0.1, dtype=torch.float64)
    first, second = params_of([(3,), (5,)])
    opt = fs.optim.AdamW([{"params": [first]}, {"params": [second]}], lr=shared, capturable=True)
    opt.param_groups[1]["lr"].fill_(0.5)
    assert opt.lrs == [0.1, 0.5]


def test_a_tensor_that_the_user_made_is_kept(cuda):
    mine = torch.tensor(0.1, dtype=torch.float32)
    opt = fs.optim.AdamW(params_of([(3,)]), lr=mine, capturable=True)
    assert opt.param_groups[0]["lr"] is mine


def test_capturable_is_refused_for_parameters_in_cpu_memory(cuda):
    with (
        on_cpu(cuda),
        pytest.raises(ValueError, match=r"AdamW: capturable must be False .* CPU memory, got True; move"),
    ):
        fs.optim.AdamW(params_of([(3,)]), capturable=True)


@pytest.mark.parametrize("travel", [copy.deepcopy, pickled], ids=["copy", "pickle"])
def test_a_copy_of_a_capturable_optimizer_has_tensors_of_its_own(cuda, travel):
    pair = Pair(cuda, there=IN_TENSORS, schedule=SHAPE).run(range(2))
    before = pair.device.lrs
    travelled = travel(pair.device)
    tensors_of(travelled)[0].fill_(0.5)
    assert pair.device.lrs == before
    assert travelled.lrs == [0.5, before[1]]


# ---- several devices, and CPU memory beside them


class Places:
    """Puts tensors on devices; the others are in CPU memory. Whatever was put stays alive with it."""

    def __init__(self, cuda):
        self.cuda, self.kept = cuda, []

    def put(self, tensor, device):
        if device >= 0 and tensor.numel():
            storage = tensor.untyped_storage()
            self.kept.append(storage)
            self.cuda.register(storage.data_ptr(), storage.nbytes(), device)
        return tensor

    def room(self, device, size, *, numbers=False):
        return self.put(torch.zeros(size, dtype=torch.float64 if numbers else torch.uint8), device)

    def end(self):
        for storage in self.kept:
            self.cuda.unregister(storage.data_ptr())


@pytest.fixture
def places(cuda):
    """Two devices, and nothing on them yet."""
    cuda.machine(2, 90, 13000)
    cuda.tensors(0, 0)
    made = Places(cuda)
    with mock.patch.object(fs.optim._Fused, "_room", staticmethod(made.room)):
        yield made
    made.end()


CPU = -1


class Scattered(Pair):
    """`params` lie on the devices of `where`."""

    def __init__(self, places, where, *args, **options):
        self.places, self.where = places, list(where)
        params = params_of([(7,), (3, 5), (1000,), (2, 3)])
        for p, device in zip(params, where, strict=True):
            places.put(p, device)
        super().__init__(places.cuda, *args, params=params, **options)

    def twins_place(self):
        return contextlib.nullcontext()

    def give(self, t, *, spoilt=False):
        exact_grads(self.params, self.twins, seed=t, spoilt=spoilt)
        for p, device in zip(self.params, self.where, strict=True):
            self.places.put(p.grad, device)

    def step(self, t, *, spoilt=False):
        self.give(t, spoilt=spoilt)
        self.cpu.step()
        self.device.step()

    def move(self, index, device):
        """A parameter's memory to another device, or to the CPU."""
        p = self.params[index]
        p.data = self.places.put(p.data.clone(), device)
        self.where[index] = device


EVERYWHERE = {"two devices": [0, 1, 0, 1], "a device and the CPU": [0, CPU, 0, CPU], "all": [1, CPU, 0, 1]}


@pytest.mark.parametrize(
    "options", [{}, {"schedule": SHAPE, "max_grad_norm": 1.0}, BUSY], ids=["plain", "clip", "busy"]
)
@pytest.mark.parametrize("where", EVERYWHERE)
def test_parameters_on_several_devices_have_the_bits_of_the_cpus(places, where, options):
    Scattered(places, EVERYWHERE[where], **options).run(range(4)).assert_same()


@pytest.mark.parametrize("where", EVERYWHERE)
def test_several_devices_skip_the_same_updates(places, where):
    pair = Scattered(places, EVERYWHERE[where], **BUSY)
    for t, spoilt in enumerate(SKIPS):
        pair.step(t, spoilt=spoilt)
    assert (pair.device.position, pair.device.skipped) == (SKIPS.count(False), SKIPS.count(True))
    pair.assert_same()


@pytest.mark.parametrize("where", EVERYWHERE)
def test_several_devices_read_what_the_scaler_left(places, where):
    pair = Scattered(places, EVERYWHERE[where], amp=True, schedule=SHAPE)
    for t, found in enumerate(SKIPS):
        for opt in (pair.cpu, pair.device):
            spoil(opt, found)
        pair.step(t)
    pair.assert_same()


@pytest.mark.parametrize("buffers_on", [CPU, 0, 1])
def test_averaged_buffers_may_lie_elsewhere(places, buffers_on):
    def make(rule, params, **options):
        buffers.append(torch.arange(9.0))
        return chosen(rule, params, ema_buffers=buffers[-1:], **options)

    buffers = []
    pair = Scattered(places, [0, 0, 0, 0], make=make, ema_decay=0.75, schedule=SHAPE)
    for tensor in pair.device._options["ema_buffers"][0]:
        places.put(tensor, buffers_on)
    for t in range(4):
        for buffer in buffers:
            buffer.add_(0.5)
        pair.step(t)
    pair.assert_same()


MOVES = {"to a device": (CPU, 0), "to the CPU": (0, CPU), "to another device": (0, 1)}


@pytest.mark.parametrize("options", [{"schedule": SHAPE}, BUSY], ids=["scheduled", "busy"])
@pytest.mark.parametrize("move", MOVES)
def test_a_parameter_that_moves_takes_its_state_along(places, move, options):
    before, then = MOVES[move]
    pair = Scattered(places, [before, before, 0, before], **options).run(range(3))
    for index in (0, 1, 3):
        pair.move(index, then)
    pair.run(range(3, 6)).assert_same()


def test_a_gradient_on_another_device_is_refused_and_nothing_changes(places):
    pair = Scattered(places, [0, 1, 0, 1], schedule=SHAPE).run(range(2))
    before = everything(pair.device)
    pair.give(2)
    right, pair.params[1].grad = pair.params[1].grad, places.put(torch.ones(3, 5), 0)
    with pytest.raises(ValueError, match=r"group 1, parameter 0: gradient lies on .*; set p.grad to None"):
        pair.device.step()
    assert same_bits(everything(pair.device), before)
    pair.params[1].grad = right
    pair.device.step()
    pair.cpu.step()
    pair.assert_same()


def test_steps_of_several_devices_cannot_be_captured_and_nothing_changes(places, stream):
    pair = Scattered(places, [0, 1, 0, 1], schedule=SHAPE).run(range(2))
    pair.give(2)
    with pytest.raises(RuntimeError, match=r"several devices cannot be captured .*; make one optimizer per device"):
        Graph(places.cuda, stream, pair.device.step)
    pair.run(range(2, 4)).assert_same()


def test_capturable_is_refused_where_one_parameter_of_many_lies_in_cpu_memory(places):
    with pytest.raises(ValueError, match="capturable must be False where a parameter lies in CPU memory"):
        Scattered(places, [0, 0, CPU, 0], there=IN_TENSORS)


def test_a_group_with_its_lr_in_a_tensor_may_lie_on_two_devices(places):
    pair = Scattered(places, [0, 1, 0, 1], make=chosen, there=IN_TENSORS, lr=0.1)
    for group in pair.device.param_groups:
        places.put(group["lr"], 0)
    pair.run(range(2)).assert_same()


# ---- torch's ways


def test_launches_go_to_torchs_current_stream(cuda, stream):
    params = params_of(SHAPES)
    opt = after(cuda, fs.optim.AdamW(params), params)
    other = cuda.stream()
    with held(cuda, other):
        opt.step()
        assert names(cuda) == ["control", "update"]
        cuda.set_current_stream(other)
        opt.step()
        assert names(cuda) == ["control", "update"]  # nothing more yet
    assert names(cuda) == ["control", "update"] * 2


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def loss_of(model, t):
    return model(torch.randn(5, 6, generator=torch.Generator().manual_seed(t))).square().mean()


@pytest.mark.parametrize(
    ("rule", "options"), [("AdamW", {"schedule": SHAPE, "ema_decay": 0.5}), ("SGD", {"momentum": 0.9})]
)
def test_updates_in_the_backward_pass_have_the_bits_of_the_cpus(cuda, rule, options):
    model, twin = network(), network()
    opt = fs.optim.in_backward(model, getattr(fs.optim, rule), lr=0.1, **options)
    with on_cpu(cuda):
        cpu = fs.optim.in_backward(twin, getattr(fs.optim, rule), lr=0.1, **options)
    for t in range(4):
        loss_of(model, t).backward()
        with on_cpu(cuda):
            loss_of(twin, t).backward()
    assert same_bits(everything(opt), everything(cpu))
    assert (opt.position, opt.lrs) == (4, cpu.lrs)


def test_a_group_may_be_added_later(cuda):
    pair = Pair(cuda, schedule=SHAPE).run(range(2))
    pair.params += params_of([(9,)], seed=3)
    pair.twins += params_of([(9,)], seed=3)
    pair.device.add_param_group({"params": pair.params[-1:], "lr": 0.3})
    with on_cpu(cuda):
        pair.cpu.add_param_group({"params": pair.twins[-1:], "lr": 0.3})
    pair.run(range(2, 5)).assert_same()


def test_parameters_may_come_and_go(cuda):
    pair = Pair(cuda, **CLIPPED)
    for t, without in enumerate([{0, 5}, {2}, set(), {0, 1, 2, 3, 4, 5, 6}, {5}]):
        exact_grads(pair.params, pair.twins, seed=t)
        for index in without:
            pair.params[index].grad = pair.twins[index].grad = None
        pair.device.step()
        with on_cpu(cuda):
            pair.cpu.step()
    pair.assert_same()


@pytest.mark.parametrize("direction", ["to the CPU", "from the CPU"])
def test_checkpoints_go_between_device_and_cpu(cuda, direction):
    pair = Pair(cuda, **BUSY).run(range(3))
    source, target = (pair.device, pair.cpu) if direction == "to the CPU" else (pair.cpu, pair.device)
    with on_cpu(cuda) if target is pair.cpu else contextlib.nullcontext():
        target.load_state_dict(copy.deepcopy(source.state_dict()))
    pair.run(range(3, 5))
    assert same_bits(everything(pair.device), everything(pair.cpu))
    assert pair.device.position == pair.cpu.position == 5


def test_a_checkpoint_of_torchs_goes_on_as_on_the_cpu(cuda):
    params = params_of(SHAPES)
    torchs = torch.optim.AdamW(params, lr=0.1)
    for t in range(3):
        exact_grads(params, seed=t)
        torchs.step()
    pair = Pair(cuda, make=chosen, params=params, schedule=SHAPE, lr=0.1)
    pair.both(lambda opt: opt.load_state_dict(torchs.state_dict()))
    assert pair.device.position == 3
    pair.run(range(3, 5)).assert_same()


def test_torch_goes_on_from_a_devices_checkpoint(cuda):
    pair = Pair(cuda, make=chosen, lr=0.1).run(range(3))
    theirs = torch.optim.AdamW(pair.params, lr=0.1)
    theirs.load_state_dict(pair.device.state_dict())
    assert [state["step"].item() for state in theirs.state.values()] == [3] * len(SHAPES)
    exact_grads(pair.params, seed=3)
    theirs.step()


@pytest.mark.parametrize("travel", [copy.deepcopy, pickled], ids=["copy", "pickle"])
def test_a_copy_goes_on_as_the_original(cuda, travel):
    pair = Pair(cuda, **BUSY).run(range(2))
    pair.step(2, spoilt=True)
    params, opt = travel((pair.params, pair.device))
    for t in range(3, 5):
        pair.step(t)
        exact_grads(params, seed=t)
        opt.step()
    assert same_bits(everything(opt), everything(pair.device))
    assert opt.position == pair.device.position == 4


def test_a_grad_scaler_does_as_with_the_cpus_step(cuda):
    model, twin = network(), network()
    with on_cpu(cuda):
        cpu = fs.optim.AdamW(twin.parameters(), lr=0.1, schedule=SHAPE, amp=True, max_grad_norm=100.0)
    opt = fs.optim.AdamW(model.parameters(), lr=0.1, schedule=SHAPE, amp=True, max_grad_norm=100.0)
    scalers = [torch.amp.GradScaler("cpu", init_scale=2.0**k, growth_interval=2) for k in (8, 8)]
    for t in range(5):
        for scaler, one, stepped in zip(scalers, (model, twin), (opt, cpu), strict=True):
            with on_cpu(cuda) if one is twin else contextlib.nullcontext():
                stepped.zero_grad()
                scaler.scale(loss_of(one, t) * (math.inf if t == 2 else 1.0)).backward()
                scaler.step(stepped)
                scaler.update()
    assert (opt.position, opt.skipped, opt.lrs) == (4, 1, cpu.lrs)
    assert scalers[0].get_scale() == scalers[1].get_scale()
    assert different(everything(opt), everything(cpu)) == []


def test_a_step_number_that_somebody_writes_counts(cuda):
    pair = Pair(cuda).run(range(2))

    def write(opt):
        for state in opt.state.values():
            state["step"].fill_(40)

    pair.both(write)
    pair.run(range(2, 4))
    assert same_bits(pair.params, pair.twins)


@pytest.mark.parametrize("options", [{"schedule": SHAPE}, {"ema_decay": 0.5}], ids=["scheduled", "averaged"])
def test_the_probe_of_distributed_checkpoint_changes_neither_weights_nor_position(cuda, options):
    params = params_of(SHAPES)
    before = weights(params)
    opt = fs.optim.AdamW(params, lr=0.1, **options)
    lrs = [group["lr"] for group in opt.param_groups]
    for p in params:
        p.grad = torch.zeros_like(p)
    for group in opt.param_groups:
        group["lr"] = 0.0
    opt.step()
    for group, lr in zip(opt.param_groups, lrs, strict=True):
        group["lr"] = lr
    assert same_bits(params, before)
    assert opt.position == 0
    assert [state["step"].item() for state in opt.state.values()] == [0] * len(params)
    assert all(torch.equal(state.get("ema", p), p) for p, state in opt.state.items())


# ---- what may fail

OUT_OF_MEMORY = 2  # as the driver numbers it


def fails_once(cuda, call, later, step):
    """Whether the call after `later` others failed, and with it the step."""
    begin(cuda)
    cuda.fail(call, OUT_OF_MEMORY, later)
    message = ""
    try:
        step()
    except RuntimeError as error:
        message = str(error)
    begin(cuda)
    assert message == "" or "CUDA_ERROR_OUT_OF_MEMORY" in message
    return message != ""


def test_a_device_without_a_compiler_is_refused_when_the_optimizer_is_made(cuda):
    def missing(capability):
        raise RuntimeError("no NVRTC here; install it")

    with mock.patch.object(emulated.Compiler, "target", lambda _, capability: missing(capability)):
        fs._kernels.use(emulated.Compiler())
        with pytest.raises(RuntimeError, match="no NVRTC here; install it"):
            fs.optim.AdamW(params_of(SHAPES))
        with on_cpu(cuda):
            fs.optim.AdamW(params_of(SHAPES))


# ---- ranks


@pytest.fixture
def mesh():
    """Of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.init_device_mesh("cpu", (1,))
    distributed.destroy_process_group()


def sharded(mesh, params):
    from torch.distributed.tensor import Shard, distribute_tensor

    return [torch.nn.Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in params]


# ---- streams, moves and failures that a step once got wrong


@pytest.mark.parametrize("reading", READINGS)
def test_what_is_read_on_another_stream_than_that_of_the_step_is_right(cuda, stream, reading):
    pair = Held(cuda, **CLIPPED).run(range(2))
    with held(cuda, stream):
        pair.step(2)
        pair.step(3, spoilt=True)
        cuda.set_current_stream(None)
        found = READINGS[reading](pair.device)
    assert found == READINGS[reading](pair.cpu)


@pytest.mark.parametrize("move", MOVES)
def test_all_parameters_may_move(places, move):
    before, then = MOVES[move]
    pair = Scattered(places, [before] * 4, **CLIPPED).run(range(3))
    pair.step(3, spoilt=True)
    for index in range(4):
        pair.move(index, then)
    pair.run(range(4, 6)).assert_same()


def test_when_all_parameters_have_moved_the_new_device_decides_alone(places):
    pair = Scattered(places, [0] * 4, **CLIPPED).run(range(3))
    for index in range(4):
        pair.move(index, 1)
    pair.run(range(3, 5))
    places.cuda.reset()
    pair.step(5)
    assert places.cuda.count("cuStreamSynchronize") == 0
    pair.assert_same()


def test_a_parameter_that_left_the_device_of_its_lr_tensor_is_updated_with_it(places):
    pair = Scattered(places, [0] * 4, weight_decay=0.0)
    opt = fs.optim.AdamW(pair.params[:2], lr=0.5, capturable=True)
    twin = fs.optim.AdamW(pair.twins[:2], lr=0.5)
    places.put(opt.param_groups[0]["lr"], 0)
    for t in range(4):
        if t == 2:
            pair.move(1, CPU)
        pair.give(t)
        opt.step()
        twin.step()
    assert same_bits(pair.params[:2], pair.twins[:2])


def test_ranks_join_their_norms_without_a_wait(cuda, mesh):
    params = sharded(mesh, params_of([(7,), (3, 5)]))
    with on_cpu(cuda):
        twins = sharded(mesh, params_of([(7,), (3, 5)]))
        cpu = fs.optim.AdamW(twins, lr=0.1, **CLIPPED)
    opt = fs.optim.AdamW(params, lr=0.1, **CLIPPED)
    for t, spoilt in enumerate(SKIPS):
        for same in (params, twins):
            whole = params_of([(7,), (3, 5)])
            exact_grads(whole, seed=t, spoilt=spoilt)
            for p, grad in zip(same, sharded(mesh, [w.grad for w in whole]), strict=True):
                p.grad = grad.detach()
        if t == 2:
            begin(cuda)
        opt.step()
        with on_cpu(cuda):
            cpu.step()
    assert not calls(cuda) & {"cuStreamSynchronize", "cuEventSynchronize", "cuStreamQuery", "cuMemcpyDtoHAsync"}
    assert (opt.position, opt.skipped, opt.lrs, opt.grad_norm) == (cpu.position, cpu.skipped, cpu.lrs, cpu.grad_norm)
    assert same_bits(*[[p.to_local() for p in same] for same in (params, twins)])


@pytest.mark.parametrize("schedule", [None, SHAPE], ids=["constant", "scheduled"])
@pytest.mark.parametrize("later", [0, 1], ids=["norm", "control"])
def test_a_launch_that_fails_before_the_update_is_decided_can_be_made_again(cuda, later, schedule):
    pair = Pair(cuda, schedule=schedule, max_grad_norm=1.0).run(range(2))
    exact_grads(pair.params, seed=2)
    pair.both(write_lr(0.5))
    assert fails_once(cuda, "cuLaunchKernel", later, pair.device.step)
    pair.run(range(2, 4)).assert_same()


def test_a_first_launch_that_fails_can_be_made_again(cuda):
    pair = Pair(cuda, schedule=SHAPE)
    exact_grads(pair.params, seed=0)
    assert fails_once(cuda, "cuLaunchKernel", 0, pair.device.step)
    pair.run(range(3)).assert_same()


@pytest.mark.parametrize("call", ["cuMemAlloc", "cuMemHostAlloc", "cuMemcpyHtoDAsync", "cuStreamCreate"])
def test_a_first_step_that_fails_for_want_of_memory_can_be_made_again(cuda, call):
    failures = 0
    while True:
        pair = Pair(cuda, **CLIPPED)
        exact_grads(pair.params, seed=0)
        if not fails_once(cuda, call, failures, pair.device.step):
            break
        failures += 1
        pair.run(range(3)).assert_same()
    assert failures > 0
