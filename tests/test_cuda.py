"""The step on a GPU: beside the CPU's to the bit, beside torch's, in CUDA graphs and on streams, and what it costs.

They skip without a GPU. FASTSCHED_CUDA_TESTS_ON=cpu runs on the CPU those that need neither graphs nor streams, which
tells whether the tests themselves are right. `.ci/cuda` runs all, also under compute-sanitizer.
"""

import contextlib
import copy
import io
import math
import os
import pickle

import pytest
import torch
from optimizers import HALVES, RULES, chosen, everything, give_grads, in_other_strides, params_of, same_bits, weights
from support import python
from torch.testing._internal.common_optimizers import optim_db

import fastsched as fs

pytestmark = pytest.mark.cuda

WHERE = os.environ.get("FASTSCHED_CUDA_TESTS_ON", "cuda")
if WHERE == "cuda" and not torch.cuda.is_available():
    pytest.skip("needs a GPU, and torch.cuda.is_available() is False", allow_module_level=True)

CHUNK = 8192  # elements that one block of a kernel works on
SIZES = [(), (1,), (3,), (0, 4), (2, 3, 4), (1021,), (CHUNK - 1,), (CHUNK,), (CHUNK + 1,), (2 * CHUNK + 5,)]
FEW = [(), (7,), (0, 4), (3, 5), (CHUNK + 1,)]
FLOATS = [torch.float32, torch.float64, *HALVES]
COMPLEX = [torch.complex64, torch.complex128]
COSINE = fs.Cosine(steps=20)
BFLOAT = torch.bfloat16

KINDS = {
    "AdamW": ("AdamW", {"lr": 0.1}),
    "AdamW amsgrad": ("AdamW", {"lr": 0.1, "amsgrad": True, "maximize": True}),
    "Adam": ("Adam", {"lr": 0.1}),
    "SGD": ("SGD", {"lr": 0.1}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.25}),
    "SGD nesterov": ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    "Lion": ("Lion", {"lr": 0.1}),
}
OPTIONS = {
    "plain": {},
    "schedule": {"schedule": COSINE},
    "scheduled weight decay": {"weight_decay": fs.Linear(0.0, 0.3, steps=10)},
    "clip by value": {"max_grad_value": 0.5},
    "average": {"ema_decay": 0.75},
    "scheduled average": {"ema_decay": fs.Linear(0.0, 1.0, steps=4)},
    "zeroing": {"zero_grads": True},
    "amp": {"amp": True},
    "bfloat16 state": {"state_dtype": BFLOAT, "seed": 5},
    **{
        f"{mode} decay": {"weight_decay": 0.1, "weight_decay_mode": mode, "schedule": COSINE}
        for mode in ("l2", "decoupled", "composer", "timm", "cautious")
    },
}
TOGETHER = {"schedule": COSINE, "weight_decay": 0.1, "max_grad_value": 0.5, "ema_decay": 0.75, "zero_grads": True}
NORMS = [1, 2, math.inf]


@pytest.fixture
def device():
    """Where the parameters lie."""
    return torch.device(WHERE)


@pytest.fixture
def gpu(device):
    """The same, for what a CPU does not have."""
    if device.type != "cuda":
        pytest.skip("graphs, streams and launches are those of a GPU")
    return device


@pytest.fixture
def second(gpu):
    """Another GPU than the first."""
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs, and there is one")
    return torch.device("cuda", 1)


def onto(device, params):
    """New parameters with the same values and strides on a device."""
    return [torch.nn.Parameter(p.detach().to(device, copy=True)) for p in params]


def on(device, shapes, **kwargs):
    return onto(device, params_of(shapes, **kwargs))


def give(*models, seed, scale=1.0):
    """The same random gradients to every list of parameters, wherever it lies; new tensors each time."""
    drawn = [torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype)) for p in models[0]]
    give_grads(drawn, seed=seed, scale=scale)
    for params in models:
        for p, q in zip(params, drawn, strict=True):
            p.grad = q.grad.to(p.device, p.dtype, copy=True)


def refill(*models, seed, scale=1.0):
    """As `give`, into the gradients that are there."""
    held = [[p.grad for p in params] for params in models]
    give(*models, seed=seed, scale=scale)
    for params, grads in zip(models, held, strict=True):
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad.copy_(p.grad)


def found(opt):
    """All that an update may change, on the CPU."""
    return [value.cpu() for value in everything(opt)]


def assert_close(ours, theirs, roundings):
    """Equal up to so many roundings of values of size 1 in each tensor's own dtype."""
    for x, y in zip(ours, theirs, strict=True):
        rounding = roundings * torch.finfo(x.dtype).eps
        torch.testing.assert_close(x.cpu(), y.cpu(), rtol=rounding, atol=rounding)


class Twins:
    """The same optimizer on the CPU and on the device, each with parameters of its own."""

    def __init__(self, rule, device, params=None, *, groups=lambda params: params, **options):
        self.here = params_of(SIZES) if params is None else params
        self.there = onto(device, self.here)
        self.cpu = chosen(rule, groups(self.here), **options)
        self.gpu = chosen(rule, groups(self.there), **options)

    def train(self, steps=range(5), **how):
        for t in steps:
            give(self.here, self.there, seed=t, **how)
            self.step()
        return self

    def step(self):
        self.cpu.step()
        self.gpu.step()

    def values(self):
        return [(opt.position, opt.skipped, opt.lrs, opt.state_dict()["param_groups"]) for opt in (self.cpu, self.gpu)]

    def assert_same(self):
        assert same_bits(found(self.cpu), found(self.gpu))
        assert self.values()[0] == self.values()[1]

    def assert_nearly_same(self):
        """For clipping by norm: the device adds in another order, and the factor may be float32's next number."""
        # one update more or less by an ulp, and what five updates make of it
        assert_close(found(self.gpu), found(self.cpu), roundings=8)
        assert self.values()[0] == self.values()[1]
        # float64 sums of 60,000 terms of one sign
        assert self.gpu.grad_norm == pytest.approx(self.cpu.grad_norm, rel=60_000 * 2**-53)


# ---- beside the CPU


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_option_of_every_rule_has_the_bits_of_the_cpu(device, kind, options):
    rule, arguments = KINDS[kind]
    Twins(rule, device, **{**arguments, **OPTIONS[options]}).train().assert_same()


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("kind", KINDS)
def test_every_dtype_has_the_bits_of_the_cpu(device, kind, dtype):
    rule, arguments = KINDS[kind]
    Twins(rule, device, params_of(SIZES, dtype=dtype), **arguments, **TOGETHER).train().assert_same()


@pytest.mark.parametrize("state", [None, BFLOAT], ids=["float32 state", "bfloat16 state"])
@pytest.mark.parametrize("option", ["master_weights", "stochastic_rounding"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", RULES)
def test_masters_and_random_rounding_have_the_bits_of_the_cpu(device, rule, dtype, option, state):
    options = {option: True, "state_dtype": state, "seed": 7, "ema_decay": 0.75}
    Twins(rule, device, params_of(SIZES, dtype=dtype), lr=0.1, **options).train().assert_same()


def test_state_and_averages_lie_where_the_parameters_do(device):
    params = on(device, SIZES, dtype=BFLOAT)
    opt = fs.optim.AdamW(params, master_weights=True, ema_decay=0.75)
    give(params, seed=0)
    opt.step()
    held = [value for p in params for key, value in opt.state[p].items() if key != "step"]
    assert {value.device.type for value in held} == {device.type}
    assert len(held) == 4 * len(params)


@pytest.mark.parametrize("names", [("lr",), ("lr", "weight_decay", "betas")], ids=len)
@pytest.mark.parametrize("rule", ["AdamW", "Adam", "Lion"])
def test_hyperparameters_that_are_schedules_have_the_bits_of_the_cpu(device, rule, names):
    schedules = {
        "lr": fs.OneCycle(0.1, steps=8),
        "weight_decay": fs.Linear(0.0, 0.3, steps=10),
        "betas": (fs.Linear(0.8, 0.95, steps=10), fs.Cosine(0.9, 0.999, steps=6)),
    }
    Twins(rule, device, **{key: schedules[key] for key in names}).train(range(9)).assert_same()


@pytest.mark.parametrize(
    "schedule",
    [
        fs.Cosine(steps=9).warmup(3, start=0.1),
        fs.CosineRestarts(first=3, multiplier=2),
        fs.WarmupStableDecay(warmup=2, stable=3, decay=4, shape="sqrt"),
        fs.Rex(steps=8) * fs.Exponential(gamma=0.9),
        fs.Samples([0.5, 0.25, 1.0]).repeat(),
        fs.Tanh(steps=8).clip(0.1, 0.9),
        fs.Polynomial(steps=8, power=0.3).stretch(2),
        fs.Constant(0.5, steps=3).then(fs.Linear(0.2, 0.0, steps=4)) + fs.InverseSqrt(timescale=3),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_every_kind_of_program_runs_on_the_device_with_the_bits_of_the_cpu(device, schedule):
    Twins("SGD", device, lr=0.1, schedule=schedule).train(range(12)).assert_same()


@pytest.mark.parametrize("max_norm", [0.5, 1e6])
@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_clipping_by_norm_is_that_of_the_cpu(device, kind, norm_type, max_norm):
    rule, arguments = KINDS[kind]
    Twins(rule, device, **arguments, max_grad_norm=max_norm, norm_type=norm_type).train().assert_nearly_same()


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_clipping_by_norm_is_that_of_the_cpu_in_every_dtype(device, dtype):
    twins = Twins("AdamW", device, params_of(SIZES, dtype=dtype), max_grad_norm=1.0, ema_decay=0.75, zero_grads=True)
    twins.train().assert_nearly_same()


def test_the_norm_spans_all_dtypes(device):
    params = [params_of([(33,)], seed=i, dtype=dtype)[0] for i, dtype in enumerate([*FLOATS, *COMPLEX])]
    Twins("AdamW", device, params, max_grad_norm=0.5).train().assert_nearly_same()


@pytest.mark.parametrize("where", ["host", "device"])
@pytest.mark.parametrize("norm", [0.25, 40.0, math.nan])
def test_a_norm_that_is_given_is_the_one_that_clips(device, norm, where):
    twins = Twins("SGD", device, lr=0.1, max_grad_norm=1.0)
    for t in range(3):
        give(twins.here, twins.there, seed=t)
        twins.cpu.step(grad_norm=norm)
        twins.gpu.step(grad_norm=norm if where == "host" else torch.tensor(norm, device=device))
    twins.assert_same()
    assert twins.gpu.position == (0 if math.isnan(norm) else 3)


@pytest.mark.parametrize("dtype", FLOATS)
def test_a_gradient_of_another_dtype_has_the_bits_of_the_cpu(device, dtype):
    twins = Twins("AdamW", device, params_of(FEW, dtype=dtype), lr=0.1)
    for t in range(3):
        for params in (twins.here, twins.there):
            for p in params:
                p.grad_dtype = None
        wider = [torch.nn.Parameter(p.detach().double()) for p in twins.here]
        give(wider, seed=t)
        for params in (twins.here, twins.there):
            for p, q in zip(params, wider, strict=True):
                p.grad = q.grad.to(p.device, torch.float16 if dtype is not torch.float16 else torch.float32)
        twins.step()
    twins.assert_same()


@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf, 1e-42, 3e38])
@pytest.mark.parametrize("kind", KINDS)
def test_special_gradients_leave_what_they_leave_on_the_cpu(device, kind, special):
    rule, arguments = KINDS[kind]
    twins = Twins(rule, device, params_of([(4,)]), **arguments)
    for value in (1.0, special, 1.0):
        for params in (twins.here, twins.there):
            params[0].grad = torch.tensor([value, 1.0, -value, 0.0], device=params[0].device)
        twins.step()
    # to the bit, but that every NaN is as good as another
    torch.testing.assert_close(found(twins.gpu), found(twins.cpu), equal_nan=True, rtol=0, atol=0)


def test_step_counts_beyond_those_of_float32_go_on_as_on_the_cpu(device):
    twins = Twins("AdamW", device, params_of(FEW), betas=(0.9, 1 - 2**-24)).train(range(2))
    for opt in (twins.cpu, twins.gpu):
        for held in opt.state.values():
            held["step"].fill_(2.0**24 - 2)
    twins.train(range(2, 7)).assert_same()


def test_buffers_are_averaged_as_on_the_cpu(device):
    here = [torch.zeros(5), torch.zeros((), dtype=torch.int64), torch.zeros(CHUNK + 1, dtype=BFLOAT)]
    there = [buffer.to(device) for buffer in here]
    params = params_of(FEW)
    on_device = onto(device, params)
    cpu = fs.optim.AdamW(params, ema_decay=0.75, ema_buffers=here)
    gpu = fs.optim.AdamW(on_device, ema_decay=0.75, ema_buffers=there)
    for t in range(4):
        give(params, on_device, seed=t)
        for buffer in (*here, *there):
            buffer.fill_(t * 0.375)
        cpu.step()
        gpu.step()
    assert len(gpu.state_dict()["ema_buffers"]) == 2
    assert same_bits(found(cpu), found(gpu))


def test_inside_the_context_of_averages_parameters_hold_them(device):
    params = on(device, FEW)
    opt = fs.optim.AdamW(params, lr=0.1, ema_decay=0.75)
    for t in range(3):
        give(params, seed=t)
        opt.step()
    before = weights(params)
    with opt.ema():
        assert same_bits(weights(params), [opt.state[p]["ema"] for p in params])
    assert same_bits(weights(params), before)


def test_a_master_that_somebody_overtook_follows_the_parameter(device):
    twins = Twins("AdamW", device, params_of(FEW, dtype=BFLOAT), lr=0.1, master_weights=True).train(range(2))
    with torch.no_grad():
        for params in (twins.here, twins.there):
            for p in params:
                p.view(-1)[:1] = 3.0
    twins.train(range(2, 4)).assert_same()


# ---- shapes and groups


@in_other_strides
@pytest.mark.parametrize("grad_too", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, BFLOAT])
def test_any_strides_give_the_weights_of_the_contiguous_tensor(device, dtype, change, grad_too):
    values = torch.arange(48.0, device=device).reshape(8, 6).to(dtype)
    strided = torch.nn.Parameter(change(values.clone()))
    plain = torch.nn.Parameter(strided.detach().clone(memory_format=torch.contiguous_format))
    options = {"lr": 0.1, "ema_decay": 0.5, "zero_grads": True}
    a, b = fs.optim.AdamW([strided], **options), fs.optim.AdamW([plain], **options)
    for t in range(3):
        give([plain], seed=t)
        strided.grad = change(torch.zeros_like(values)).copy_(plain.grad) if grad_too else plain.grad.clone()
        a.step()
        b.step()
        assert not strided.grad.any()
    assert torch.equal(strided, plain)
    for key in ("exp_avg", "exp_avg_sq", "ema"):
        assert torch.equal(a.state[strided][key], b.state[plain][key])


@pytest.mark.parametrize("offset", [1, 2, 3])
@pytest.mark.parametrize("which", ["parameter", "gradient", "both"])
@pytest.mark.parametrize("dtype", FLOATS)
def test_addresses_that_are_no_multiple_of_16_bytes_change_no_bit(device, dtype, which, offset):
    size = CHUNK + 7

    def apart(tensor):
        return torch.zeros(size + offset, dtype=dtype, device=device)[offset:].copy_(tensor)

    aligned = on(device, [(size,)], dtype=dtype)
    shifted = [torch.nn.Parameter(apart(p.detach()) if which != "gradient" else p.detach().clone()) for p in aligned]
    a, b = (fs.optim.AdamW(params, lr=0.1, max_grad_norm=0.5, zero_grads=True) for params in (aligned, shifted))
    for t in range(3):
        give(aligned, shifted, seed=t)
        if which != "parameter":
            shifted[0].grad = apart(shifted[0].grad)
        a.step()
        b.step()
        assert not shifted[0].grad.any()
    assert same_bits(everything(a), everything(b))


def test_memory_beside_a_parameter_and_its_gradient_is_left_alone(device):
    flat = torch.full((CHUNK + 9,), 7.0, device=device)
    grads = torch.full((CHUNK + 9,), 7.0, device=device)
    param = torch.nn.Parameter(flat[3:-5])
    param.grad = grads[3:-5]
    fs.optim.AdamW([param], lr=0.1, zero_grads=True).step()
    for whole in (flat, grads):
        assert torch.cat([whole[:3], whole[-5:]]).tolist() == [7.0] * 8
        assert not (whole[3:-5] == 7.0).any()


@pytest.mark.parametrize(
    "make",
    [
        lambda device: torch._neg_view(torch.full((5,), -0.5, device=device)),
        lambda device: torch.full((1,), 0.5, device=device).expand(5),
        lambda device: torch.full((10,), 0.5, device=device)[::2],
    ],
    ids=["negated", "expanded", "gaps"],
)
def test_a_gradient_that_is_a_view_counts_as_its_values(device, make):
    a, b = on(device, [(5,)]), on(device, [(5,)])
    a[0].grad = make(device)
    b[0].grad = torch.full((5,), 0.5, device=device)
    for params in (a, b):
        fs.optim.AdamW(params, lr=0.1, max_grad_norm=1.0).step()
    assert same_bits(a, b)


def each_its_own(params):
    """A group for every parameter, no two with the same hyperparameters."""
    line = fs.Linear(0.0, 0.3, steps=10)
    return [
        {
            "params": [p],
            "lr": 0.1 * 0.99**i,
            "weight_decay": line if i % 3 == 0 else 0.01 * (i % 7),
            "betas": (0.9 - 0.001 * (i % 11), 0.999),
            "eps": 1e-8 * (1 + i % 5),
            "maximize": i % 2 == 1,
        }
        for i, p in enumerate(params)
    ]


@pytest.mark.parametrize("options", [{}, {"schedule": COSINE, "ema_decay": 0.75}], ids=["numbers", "scheduled"])
def test_500_groups_have_the_bits_of_the_cpu(device, options):
    params = params_of([(1 + i % 67,) for i in range(500)])
    Twins("AdamW", device, params, groups=each_its_own, **options).train(range(4)).assert_same()


def test_groups_of_several_dtypes_and_kinds_of_state_are_updated_as_on_the_cpu(device):
    dtypes = [*FLOATS, *COMPLEX] * 3
    params = [params_of([(33 + i,)], seed=i, dtype=dtype)[0] for i, dtype in enumerate(dtypes)]

    def groups(params):
        return [{"params": [p], "amsgrad": i >= len(dtypes) // 2} for i, p in enumerate(params)]

    Twins("Adam", device, params, groups=groups, lr=0.1).train().assert_same()


def test_momentum_switched_on_later_starts_as_on_the_cpu(device):
    twins = Twins("SGD", device, params_of(FEW), lr=0.1)
    for t in range(6):
        for opt in (twins.cpu, twins.gpu):
            opt.param_groups[0]["momentum"] = 0.9 if t >= 3 else 0.0
        twins.train([t])
    twins.assert_same()


def test_a_group_that_joins_later_is_updated_as_on_the_cpu(device):
    twins = Twins("AdamW", device, params_of(FEW), lr=0.1, schedule=COSINE).train(range(3))
    more = params_of([(11,), (CHUNK + 3,)], seed=1)
    moved = onto(device, more)
    twins.cpu.add_param_group({"params": more, "lr": 0.5})
    twins.gpu.add_param_group({"params": moved, "lr": 0.5})
    twins.here += more
    twins.there += moved
    twins.train(range(3, 6)).assert_same()


def test_parameters_without_gradient_and_frozen_ones_are_left_out(device):
    params = on(device, [(3,), (3,)])
    frozen = torch.nn.Parameter(torch.ones(2, device=device), requires_grad=False)
    before = weights([*params, frozen])
    opt = fs.optim.AdamW([*params, frozen], max_grad_norm=1.0)
    params[0].grad = torch.ones(3, device=device)
    opt.step()
    assert not torch.equal(params[0], before[0])
    assert same_bits(weights([params[1], frozen]), before[1:])
    assert list(opt.state) == [params[0]]


def test_gradients_that_come_and_go_give_the_bits_of_the_cpu(device):
    twins = Twins("AdamW", device, params_of([(9,)] * 5), lr=0.1, schedule=COSINE)
    for t in range(8):
        give(twins.here, twins.there, seed=t)
        for params in (twins.here, twins.there):
            params[t % 5].grad = params[(2 * t + 1) % 5].grad = None
        twins.step()
    twins.assert_same()


def test_a_step_without_any_gradient_is_no_update(device):
    opt = fs.optim.AdamW(on(device, [(3,)]), schedule=COSINE, max_grad_norm=1.0)
    opt.step()
    assert (opt.position, opt.skipped) == (0, 0)


def test_parameters_that_moved_to_other_memory_are_found_there(device):
    twins = Twins("AdamW", device, params_of(FEW), lr=0.1).train(range(2))
    for p in twins.there:
        p.data = p.data.clone()
    twins.train(range(2, 4)).assert_same()


def test_a_refused_gradient_leaves_everything_as_it_was(device):
    params = on(device, [(4, 2), (3,)])
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE)
    give(params, seed=0)
    opt.step()
    before = found(opt)
    params[0].grad = torch.ones(4, 2, device=device).to_sparse()
    with pytest.raises(RuntimeError, match="AdamW does not support sparse gradients"):
        opt.step()
    assert same_bits(found(opt), before)
    assert opt.position == 1


# ---- beside torch


TORCHS = [
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("AdamW", {"betas": (0.5, 0.99), "eps": 1e-3}),
    ("Adam", {"weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]


def name(case):
    return " ".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


@pytest.mark.parametrize("how", ["fused", "foreach"])
@pytest.mark.parametrize("case", TORCHS, ids=name)
def test_weights_are_those_of_torchs_optimizers(device, case, how):
    rule, options = case
    ours, theirs = on(device, SIZES), on(device, SIZES)
    a, b = chosen(rule, ours, **options), getattr(torch.optim, rule)(theirs, **{how: True}, **options)
    for t in range(20):
        give(ours, theirs, seed=t)
        a.step()
        b.step()
    assert_close(weights(ours), weights(theirs), roundings=16)  # 20 updates, each far below the weights


@pytest.mark.parametrize("dtype", [torch.float64, *COMPLEX])
@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD"])
def test_weights_of_wide_dtypes_are_those_of_torchs_optimizers(device, rule, dtype):
    ours, theirs = on(device, FEW, dtype=dtype), on(device, FEW, dtype=dtype)
    a, b = chosen(rule, ours, lr=0.1), getattr(torch.optim, rule)(theirs, lr=0.1)
    for t in range(10):
        give(ours, theirs, seed=t)
        a.step()
        b.step()
    assert_close(weights(ours), weights(theirs), roundings=64)  # 10 updates of 0.1, a few roundings each


DB = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in ("Adam", "AdamW", "SGD")}
INPUTS = [(rule, x) for rule, info in DB.items() for x in info.optim_inputs_func("cpu")]


@pytest.mark.parametrize(("rule", "given"), INPUTS, ids=[f"{rule} {x.desc}" for rule, x in INPUTS])
def test_torchs_own_inputs_give_torchs_weights(device, rule, given):
    ours, theirs = on(device, FEW), on(device, FEW)
    a, b = chosen(rule, ours, **given.kwargs), getattr(torch.optim, rule)(theirs, **given.kwargs)
    for t in range(5):
        give(ours, theirs, seed=t)
        a.step()
        b.step()
    assert_close(weights(ours), weights(theirs), roundings=16)  # 5 updates, a few roundings each


@pytest.mark.parametrize("norm_type", NORMS)
def test_clipping_is_torchs(device, norm_type):
    shapes = [shape for shape in SIZES if 0 not in shape]  # torch has no largest element of an empty tensor
    ours, theirs = on(device, shapes), on(device, shapes)
    a = fs.optim.SGD(ours, lr=0.1, momentum=0.9, max_grad_norm=0.5, norm_type=norm_type)
    b = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for t in range(5):
        give(ours, theirs, seed=t)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5, norm_type)
        a.step()
        b.step()
        # torch adds tens of thousands of float32 numbers in trees: a few roundings for each level
        assert a.grad_norm == pytest.approx(norm.item(), rel=64 * 2**-24)
    assert_close(weights(ours), weights(theirs), roundings=32)


# ---- time and what is written by hand


def test_after_each_step_every_group_holds_the_lr_of_the_next_update(device):
    params = on(device, [(3,)] * 2)
    opt = fs.optim.AdamW([{"params": [params[0]]}, {"params": [params[1]], "lr": 0.02}], lr=0.1, schedule=COSINE)
    for t in range(25):
        assert [group["lr"] for group in opt.param_groups] == opt.lrs == [0.1 * COSINE(t), 0.02 * COSINE(t)]
        assert opt.position == t
        give(params, seed=t)
        opt.step()


def write(value):
    def act(opt):
        opt.param_groups[0]["lr"] = value

    return act


def move(position):
    def act(opt):
        opt.position = position

    return act


@pytest.mark.parametrize(
    "act",
    [
        write(0.7),
        move(11),
        lambda opt: opt.scale_lr(0.5),
        lambda opt: opt.param_groups[0].update(weight_decay=0.5, betas=(0.5, 0.9), eps=0.1, maximize=True),
        lambda opt: (write(0.7)(opt), opt.scale_lr(2.0)),
        lambda opt: (move(3)(opt), write(0.25)(opt)),
    ],
    ids=["lr", "position", "scale_lr", "others", "lr and scale_lr", "position and lr"],
)
@pytest.mark.parametrize("schedule", [None, COSINE], ids=["constant", "scheduled"])
def test_what_is_done_by_hand_between_steps_has_the_bits_of_the_cpu(device, schedule, act):
    twins = Twins("AdamW", device, params_of(FEW), lr=0.1, schedule=schedule).train(range(3))
    act(twins.cpu)
    act(twins.gpu)
    assert twins.values()[0] == twins.values()[1]
    twins.train(range(3, 7)).assert_same()


def test_an_lr_written_without_reading_anything_before_serves_one_update(device):
    twins = Twins("SGD", device, params_of(FEW), lr=0.1, schedule=COSINE)
    groups = [twins.cpu.param_groups[0], twins.gpu.param_groups[0]]
    for t in range(6):
        if t in (2, 4):
            for group in groups:
                group["lr"] = 0.5
        twins.train([t])
    twins.assert_same()


def test_a_saved_lr_does_not_change_with_later_steps(device):
    params = on(device, [(3,)])
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE)
    give(params, seed=0)
    opt.step()
    saved = opt.state_dict()["param_groups"]
    opt.step()
    assert saved[0]["lr"] == 0.1 * COSINE(1)


def test_a_torch_scheduler_drives_the_step(device):
    ours, theirs = on(device, FEW), on(device, FEW)
    opts = fs.optim.SGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1)
    schedulers = [torch.optim.lr_scheduler.StepLR(opt, 2, gamma=0.5) for opt in opts]
    for t in range(6):
        give(ours, theirs, seed=t)
        for opt, scheduler in zip(opts, schedulers, strict=True):
            opt.step()
            scheduler.step()
    assert opts[0].lrs == [0.1 * 0.5**3]
    assert_close(weights(ours), weights(theirs), roundings=8)


# ---- skipped updates


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("limits", [{"max_grad_norm": 1.0}, {"amp": True}], ids=["clip", "amp"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_that_is_not_finite_skips_the_update(device, kind, limits, bad):
    rule, arguments = KINDS[kind]
    params = on(device, FEW)
    opt = chosen(rule, params, **arguments, **limits, schedule=COSINE, ema_decay=0.75)
    give(params, seed=0)
    opt.step()
    before, values = found(opt), opt.state_dict()["param_groups"]
    params[-1].grad[-1] = bad
    opt.step()
    assert same_bits(found(opt), before)
    assert opt.state_dict()["param_groups"] == values
    assert (opt.position, opt.skipped) == (1, 1)
    assert not math.isfinite(opt.grad_norm)


def test_a_skipped_update_zeroes_its_gradients(device):
    params = on(device, FEW)
    opt = fs.optim.AdamW(params, max_grad_norm=1.0, zero_grads=True)
    give(params, seed=0)
    params[1].grad[0] = math.inf
    opt.step()
    assert not any(p.grad.any() for p in params)
    assert opt.skipped == 1


def test_the_updates_after_a_skipped_one_have_the_bits_of_a_run_without_it(device):
    runs = []
    for skips in (True, False):
        params = on(device, FEW)
        opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE, max_grad_norm=1.0, ema_decay=0.75)
        for t in range(5):
            if skips and t in (0, 3):
                give(params, seed=99)
                params[-1].grad[0] = math.nan
                opt.step()
            give(params, seed=t)
            opt.step()
        runs.append(found(opt))
        assert (opt.position, opt.skipped) == (5, 2 if skips else 0)
    assert same_bits(*runs)


def test_an_lr_by_hand_waits_for_the_update_after_a_skipped_one(device):
    params = on(device, [(3,)])
    opt = fs.optim.SGD(params, lr=0.1, schedule=COSINE, max_grad_norm=1e6)
    opt.param_groups[0]["lr"] = 0.5
    params[0].grad = torch.full((3,), math.nan, device=device)
    opt.step()
    assert opt.lrs == [0.5]
    before = weights(params)[0]
    params[0].grad = torch.ones(3, device=device)
    opt.step()
    assert torch.equal(params[0].detach(), before - 0.5)
    assert opt.lrs == [0.1 * COSINE(1)]


def scaled(device, make, factors, *, init_scale=1024.0, unscale=False):
    """A product under a GradScaler; a factor that is not finite spoils the gradients of its step."""
    params = on(device, [(6,), (5, 3)])
    opt = make(params)
    scaler = torch.amp.GradScaler(device.type, init_scale=init_scale, growth_interval=2)
    for t, factor in enumerate(factors):
        opt.zero_grad()
        generator = torch.Generator().manual_seed(t)
        inputs = [torch.randn(p.shape, generator=generator).to(device) for p in params]
        loss = sum((p * x).square().sum() for p, x in zip(params, inputs, strict=True))
        scaler.scale(loss * factor).backward()
        if unscale:
            scaler.unscale_(opt)
        scaler.step(opt)
        scaler.update()
    return params, opt, scaler


FACTORS = [1.0, 1.0, math.inf, 1.0, math.nan, 1.0, 1.0]


@pytest.mark.parametrize("unscale", [False, True])
@pytest.mark.parametrize("case", [("AdamW", {"eps": 1e-3}), ("SGD", {"lr": 0.01, "momentum": 0.9})], ids=name)
def test_under_a_gradscaler_weights_and_scale_are_those_of_torchs_fused_optimizer(device, case, unscale):
    rule, options = case
    ours, opt, scaler = scaled(device, lambda p: chosen(rule, p, amp=True, **options), FACTORS, unscale=unscale)
    theirs, _, other = scaled(
        device, lambda p: getattr(torch.optim, rule)(p, fused=True, **options), FACTORS, unscale=unscale
    )
    assert_close(weights(ours), weights(theirs), roundings=16)  # 5 updates, a few roundings each
    assert scaler.get_scale() == other.get_scale()
    assert (opt.position, opt.skipped) == (5, 2)


@pytest.mark.parametrize("scale", [2.0**16, 2.0**-10])
def test_a_power_of_two_as_scale_changes_no_bit(device, scale):
    limits = {"lr": 0.01, "max_grad_norm": 0.5}
    with_scale, a, _ = scaled(device, lambda p: fs.optim.SGD(p, amp=True, **limits), [1.0] * 3, init_scale=scale)
    without, b, _ = scaled(device, lambda p: fs.optim.SGD(p, **limits), [1.0] * 3, init_scale=1.0)
    assert same_bits(with_scale, without)
    assert a.grad_norm == b.grad_norm


def test_without_amp_the_scaler_unscales_and_skips_by_itself(device):
    ours, opt, _ = scaled(device, lambda p: fs.optim.AdamW(p, lr=0.1), FACTORS)
    theirs, _, _ = scaled(device, lambda p: fs.optim.AdamW(p, lr=0.1, amp=True), FACTORS)
    assert same_bits(ours, theirs)
    assert opt.position == 5


# ---- checkpoints and copies


def through_a_file(state, device):
    """As a checkpoint travels to another device; weights_only forbids all but tensors, numbers and containers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True, map_location=device)


@pytest.mark.parametrize("direction", ["to the device", "from the device"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_goes_on_with_the_same_bits_on_the_other_device(device, kind, direction):
    rule, arguments = KINDS[kind]
    options = {**arguments, "schedule": COSINE, "ema_decay": 0.75}
    places = [torch.device("cpu"), device] if direction == "to the device" else [device, torch.device("cpu")]
    through = on("cpu", FEW)
    stays = chosen(rule, through, **options)
    first = on(places[0], FEW)
    a = chosen(rule, first, **options)
    for t in range(3):
        give(through, first, seed=t)
        stays.step()
        a.step()
    moved = onto(places[1], first)
    b = chosen(rule, moved, **options)
    b.load_state_dict(through_a_file(a.state_dict(), places[1]))
    assert b.position == 3
    for t in range(3, 6):
        give(through, moved, seed=t)
        stays.step()
        b.step()
    assert same_bits(found(stays), found(b))
    assert stays.lrs == b.lrs


@pytest.mark.parametrize("direction", ["to torch", "from torch"])
@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("case", TORCHS, ids=name)
def test_a_checkpoint_continues_on_the_same_trajectory_in_the_other_library(device, case, fused, direction):
    rule, options = case
    makers = [chosen, lambda rule, params, **kw: getattr(torch.optim, rule)(params, fused=fused, **kw)]
    if direction == "from torch":
        makers.reverse()
    first, stays = on(device, FEW), on(device, FEW)
    a, b = makers[0](rule, first, **options), getattr(torch.optim, rule)(stays, **options)
    for t in range(4):
        give(first, stays, seed=t)
        a.step()
        b.step()
    moved = onto(device, first)
    c = makers[1](rule, moved, **options)
    c.load_state_dict(through_a_file(a.state_dict(), device))
    for t in range(4, 8):
        give(moved, stays, seed=t)
        c.step()
        b.step()
    assert_close(weights(moved), weights(stays), roundings=16)  # 8 updates, a few roundings each


def test_state_that_was_loaded_onto_the_cpu_is_moved_to_the_parameters(device):
    params = on(device, FEW)
    a = fs.optim.AdamW(params, lr=0.1)
    give(params, seed=0)
    a.step()
    b = fs.optim.AdamW(onto(device, params), lr=0.1)
    b.load_state_dict(through_a_file(a.state_dict(), "cpu"))
    moved = b.param_groups[0]["params"]
    give(params, moved, seed=1)
    a.step()
    b.step()
    assert same_bits(found(a), found(b))
    assert b.state[moved[-1]]["exp_avg"].device.type == device.type


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))], ids=["deepcopy", "pickle"])
def test_a_copy_goes_on_by_itself_with_the_same_bits(device, copied):
    params = on(device, FEW)
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE, ema_decay=0.75, max_grad_norm=1.0)
    for t in range(3):
        give(params, seed=t)
        opt.step()
    twin, twins = copied((opt, params))
    for t in range(3, 6):
        give(params, seed=t)
        opt.step()
    assert twin.position == 3
    for t in range(3, 6):
        give(twins, seed=t)
        twin.step()
    assert same_bits(found(opt), found(twin))
    assert (opt.lrs, opt.grad_norm) == (twin.lrs, twin.grad_norm)


def test_state_written_by_hand_counts(device):
    twins = Twins("AdamW", device, params_of(FEW), lr=0.1).train(range(2))
    for opt, params in ((twins.cpu, twins.here), (twins.gpu, twins.there)):
        opt.state[params[1]]["exp_avg"] = torch.full_like(params[1].detach(), 0.5)
        opt.state[params[3]]["step"] = torch.tensor(7.0)
    twins.train(range(2, 4)).assert_same()


# ---- in the backward pass, and across a fork


@pytest.mark.parametrize("rule", RULES)
def test_in_backward_has_the_bits_of_an_optimizer_that_steps(device, rule):
    model = torch.nn.ParameterList(on(device, FEW))
    twin = copy.deepcopy(model)
    options = {"lr": 0.1, "schedule": COSINE, "ema_decay": 0.75}
    opt = fs.optim.in_backward(model, getattr(fs.optim, rule), **options)
    stepping = getattr(fs.optim, rule)(twin.parameters(), **options)
    for t in range(4):
        factor = 0.5 + t
        sum((p.square() * factor).sum() for p in model).backward()
        stepping.zero_grad()
        sum((p.square() * factor).sum() for p in twin).backward()
        stepping.step()
    assert all(p.grad is None for p in model)
    assert same_bits(found(opt), found(stepping))
    assert opt.position == 4


def test_in_a_forked_child_the_step_is_refused_and_does_not_crash(gpu):
    done = python(
        """
import os, torch, fastsched as fs
param = torch.nn.Parameter(torch.ones(3, device="cuda"))
param.grad = torch.ones(3, device="cuda")
opt = fs.optim.AdamW([param], lr=0.1)
opt.step()
child = os.fork()
if child == 0:
    code = 1
    try:
        opt.step()
    except RuntimeError as error:
        code = 0 if "fork" in str(error) else 2
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
opt.step()
assert opt.position == 2
"""
    )
    assert done.returncode == 0, done.stderr


# ---- CUDA graphs


def captured(work, warm=3):
    """A graph of `work`, made as torch's documentation says: after a few runs on a stream of its own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(warm):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph


class Training:
    """A model of products and sums by element, which are the same bits eager and captured, and its optimizer."""

    def __init__(self, device, rule="AdamW", *, keep_grads=False, **options):
        self.params = on(device, [(513,), (64, 33), ()])
        self.inputs = [torch.zeros_like(p.detach()) for p in self.params]
        self.keep_grads = keep_grads
        self.opt = chosen(rule, self.params, **{"lr": 0.1, **options})

    def feed(self, t):
        generator = torch.Generator().manual_seed(t)
        for x in self.inputs:
            x.copy_(torch.randn(x.shape, generator=generator))

    def once(self):
        for p in self.params:
            if not self.keep_grads:
                p.grad = None
        sum((p * x - 1).square().sum() for p, x in zip(self.params, self.inputs, strict=True)).backward()
        self.opt.step()


def replayed(device, count=6, between=lambda opt, t: None, **options):
    """A training whose updates, after three eager ones, are replays of a graph of the whole."""
    run = Training(device, **options)
    run.feed(0)
    run.replay = captured(run.once).replay
    for t in range(count):
        run.feed(1 + t)
        between(run.opt, t)
        run.replay()
    return run


def eager(device, count=6, between=lambda opt, t: None, **options):
    """The same, without a graph."""
    run = Training(device, **options)
    run.feed(0)
    for _ in range(3):
        run.once()
    for t in range(count):
        run.feed(1 + t)
        between(run.opt, t)
        run.once()
    return run


def assert_same_runs(a, b):
    assert same_bits(found(a.opt), found(b.opt))
    assert (a.opt.position, a.opt.skipped, a.opt.grad_norm) == (b.opt.position, b.opt.skipped, b.opt.grad_norm)
    assert a.opt.lrs == b.opt.lrs


GRAPHED = {
    "plain": {},
    "schedule": {"schedule": COSINE},
    "everything scheduled": {"schedule": COSINE, "weight_decay": fs.Linear(0.0, 0.3, steps=10)},
    "clip": {"max_grad_norm": 1.0, "schedule": COSINE},
    "clip by value": {"max_grad_value": 0.5},
    "average": {"ema_decay": fs.Linear(0.5, 1.0, steps=20)},
    "zeroing": {"zero_grads": True, "keep_grads": True},
    "random rounding": {"state_dtype": BFLOAT, "seed": 3},
    "all": {"max_grad_norm": 1.0, "schedule": COSINE, "ema_decay": 0.75, "zero_grads": True, "keep_grads": True},
}


@pytest.mark.parametrize("options", GRAPHED)
@pytest.mark.parametrize("rule", RULES)
def test_replays_of_a_whole_training_step_have_the_bits_of_eager_steps(gpu, rule, options):
    assert_same_runs(replayed(gpu, rule=rule, **GRAPHED[options]), eager(gpu, rule=rule, **GRAPHED[options]))


@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
@pytest.mark.parametrize("capturable", [False, True])
def test_replays_of_the_step_alone_have_the_bits_of_eager_steps(gpu, dtype, capturable):
    runs = []
    for graphed in (True, False):
        params = on(gpu, SIZES, dtype=dtype)
        give(params, seed=0)
        opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE, max_grad_norm=1.0, capturable=capturable)
        if graphed:
            step = captured(opt.step).replay
        else:
            step = opt.step
            for _ in range(3):
                step()
        for t in range(5):
            refill(params, seed=t)
            step()
        runs.append([*found(opt), torch.tensor([opt.position, *opt.lrs])])
    assert same_bits(*runs)


def test_a_capture_alone_is_no_update(gpu):
    run = Training(gpu, schedule=COSINE)
    run.feed(0)
    for _ in range(3):
        run.once()
    before = found(run.opt)
    graph = captured(run.once, warm=0)
    assert same_bits(found(run.opt), before)
    assert run.opt.position == 3
    graph.replay()
    assert run.opt.position == 4
    assert not same_bits(found(run.opt), before)


def test_what_the_device_has_advanced_is_read_after_replays(gpu):
    run = replayed(gpu, count=4, schedule=COSINE, max_grad_norm=1.0)
    assert run.opt.position == 7
    assert run.opt.lrs == [group["lr"] for group in run.opt.param_groups] == [0.1 * COSINE(7)]
    assert run.opt.state_dict()["param_groups"][0]["lr"] == 0.1 * COSINE(7)
    assert {held["step"].item() for held in run.opt.state.values()} == {7.0}
    assert math.isfinite(run.opt.grad_norm)


def test_a_checkpoint_of_replays_goes_on_with_the_same_bits_eagerly(gpu):
    run = replayed(gpu, count=3, schedule=COSINE)
    other = Training(gpu, schedule=COSINE)
    with torch.no_grad():
        for p, q in zip(run.params, other.params, strict=True):
            q.copy_(p)
    other.opt.load_state_dict(copy.deepcopy(run.opt.state_dict()))
    run.feed(9)
    other.feed(9)
    run.once()
    other.once()
    assert same_bits(found(run.opt), found(other.opt))
    assert other.opt.position == 7


def test_eager_steps_and_replays_take_turns(gpu):
    run = Training(gpu, schedule=COSINE, max_grad_norm=1.0)
    run.feed(0)
    graph = captured(run.once)
    held = [p.grad for p in run.params]  # those of the graph
    for t in range(6):
        run.feed(1 + t)
        if t % 2:
            run.once()
        else:
            for p, grad in zip(run.params, held, strict=True):
                p.grad = grad
            graph.replay()
    assert_same_runs(run, eager(gpu, schedule=COSINE, max_grad_norm=1.0))


def test_two_graphs_of_one_optimizer_take_turns(gpu):
    run = Training(gpu, schedule=COSINE)
    run.feed(0)
    graphs = [captured(run.once), captured(run.once, warm=0)]
    for t in range(6):
        run.feed(1 + t)
        graphs[t % 2].replay()
    assert_same_runs(run, eager(gpu, schedule=COSINE))


def at(step, act):
    """`act` on the optimizer before one of the replays."""
    return lambda opt, t: act(opt) if t == step else None


@pytest.mark.parametrize(
    "act",
    [
        move(0),
        move(15),
        lambda opt: opt.scale_lr(0.5),
        lambda opt: (opt.scale_lr(0.5), opt.scale_lr(4.0, group=0)),
        lambda opt: (move(5)(opt), opt.scale_lr(0.5)),
    ],
    ids=["back", "ahead", "scale_lr", "scale_lr twice", "position and scale_lr"],
)
def test_position_and_scale_lr_take_effect_at_the_next_replay(gpu, act):
    runs = [run(gpu, between=at(2, act), schedule=COSINE) for run in (replayed, eager)]
    assert_same_runs(*runs)


def test_scale_lr_without_schedule_takes_effect_at_the_next_replay(gpu):
    runs = [run(gpu, between=at(2, lambda opt: opt.scale_lr(0.5))) for run in (replayed, eager)]
    assert_same_runs(*runs)
    assert runs[0].opt.lrs == [0.05]


def test_a_float_lr_by_hand_waits_through_replays_for_the_next_step_that_the_host_makes(gpu):
    """A replay runs no code of the host; a capturable lr is filled for it instead."""
    run, reference = replayed(gpu, count=2, schedule=COSINE), eager(gpu, count=3, schedule=COSINE)
    run.opt.param_groups[0]["lr"] = 0.5
    run.feed(3)
    run.replay()
    assert run.opt.lrs == [0.5]
    reference.opt.param_groups[0]["lr"] = 0.5
    for each in (run, reference):
        each.feed(9)
        each.once()
    assert_same_runs(run, reference)
    assert run.opt.lrs == [0.1 * COSINE(7)]


@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_with_capturable_the_lr_is_a_float64_scalar_on_the_device(gpu, rule):
    run = Training(gpu, rule, schedule=COSINE, capturable=True)
    run.feed(0)
    run.once()
    lr = run.opt.param_groups[0]["lr"]
    assert (lr.dtype, lr.shape, lr.device.type) == (torch.float64, (), "cuda")
    assert run.opt.param_groups[0]["capturable"] is True
    assert run.opt.lrs == [lr.item()] == [0.1 * COSINE(1)]


@pytest.mark.parametrize("schedule", [None, COSINE], ids=["constant", "scheduled"])
def test_a_fill_of_a_capturable_lr_serves_the_next_replay(gpu, schedule):
    def fill(opt):
        opt.param_groups[0]["lr"].fill_(0.5)

    def write_float(opt):
        opt.param_groups[0]["lr"] = 0.5

    filled = replayed(gpu, between=at(2, fill), schedule=schedule, capturable=True)
    written = eager(gpu, between=at(2, write_float), schedule=schedule)
    assert_same_runs(filled, written)
    assert filled.opt.lrs == [0.5 if schedule is None else 0.1 * COSINE(9)]


def test_a_capturable_lr_holds_after_each_replay_what_the_next_will_use(gpu):
    run = Training(gpu, schedule=COSINE, capturable=True)
    run.feed(0)
    graph = captured(run.once)
    lr = run.opt.param_groups[0]["lr"]
    seen = []
    for _ in range(5):
        graph.replay()
        seen.append(lr.item())
    assert seen == [0.1 * COSINE(t) for t in range(4, 9)]
    assert run.opt.param_groups[0]["lr"] is lr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_tensor_of_the_callers_as_capturable_lr_stays_his(gpu, dtype):
    lr = torch.tensor(0.25, dtype=dtype, device=gpu)
    run = Training(gpu, lr=lr, capturable=True)
    run.feed(0)
    graph = captured(run.once)
    before = weights(run.params)
    lr.fill_(0.0)
    graph.replay()
    assert same_bits(weights(run.params), before)
    assert run.opt.param_groups[0]["lr"] is lr


def test_two_groups_have_lr_tensors_of_their_own(gpu):
    params = on(gpu, [(5,), (6,)])
    give(params, seed=0)
    groups = [{"params": [params[0]]}, {"params": [params[1]], "lr": 0.02}]
    opt = fs.optim.AdamW(groups, lr=0.1, weight_decay=0.0, capturable=True)
    graph = captured(opt.step)
    before = weights(params)
    opt.param_groups[0]["lr"].fill_(0.0)
    graph.replay()
    assert torch.equal(params[0].detach(), before[0])
    assert not torch.equal(params[1].detach(), before[1])


def test_a_capturable_checkpoint_loads_into_one_that_is_not_and_back(gpu):
    run = replayed(gpu, count=2, capturable=True)
    plain, back = Training(gpu), Training(gpu, capturable=True)
    plain.opt.load_state_dict(copy.deepcopy(run.opt.state_dict()))
    back.opt.load_state_dict(copy.deepcopy(plain.opt.state_dict()))
    assert plain.opt.position == back.opt.position == 5
    held = [[value for state in x.opt.state.values() for value in state.values()] for x in (run, plain, back)]
    assert same_bits(held[0], held[1])
    assert same_bits(held[0], held[2])


def test_found_inf_within_a_graph_skips_that_replay_alone(gpu):
    run = Training(gpu, amp=True, schedule=COSINE, ema_decay=0.75)
    run.feed(0)
    run.opt.grad_scale = torch.ones((), device=gpu)
    run.opt.found_inf = torch.zeros((), device=gpu)
    graph = captured(run.once)
    run.opt.found_inf.fill_(1.0)
    before = found(run.opt)
    graph.replay()
    assert same_bits(found(run.opt), before)
    assert (run.opt.position, run.opt.skipped) == (3, 1)
    run.opt.found_inf.fill_(0.0)
    graph.replay()
    assert (run.opt.position, run.opt.skipped) == (4, 1)
    assert run.opt.lrs == [0.1 * COSINE(4)]


def test_a_scale_within_a_graph_is_read_at_each_replay(gpu):
    param = torch.nn.Parameter(torch.zeros(3, device=gpu))
    param.grad = torch.full((3,), 4.0, device=gpu)
    opt = fs.optim.SGD([param], lr=1.0, amp=True)
    opt.grad_scale = torch.full((), 4.0, device=gpu)
    opt.found_inf = torch.zeros((), device=gpu)
    graph = captured(opt.step)
    assert param.tolist() == [-3.0] * 3  # three updates of one
    opt.grad_scale.fill_(2.0)
    graph.replay()
    assert param.tolist() == [-5.0] * 3


def test_a_gradient_that_is_not_finite_skips_that_replay_alone(gpu):
    run = Training(gpu, schedule=COSINE, max_grad_norm=1.0)
    run.feed(0)
    graph = captured(run.once)
    before = found(run.opt)
    run.inputs[0].fill_(math.nan)
    graph.replay()
    assert same_bits(found(run.opt), before)
    assert (run.opt.position, run.opt.skipped) == (3, 1)
    assert math.isnan(run.opt.grad_norm)
    run.feed(1)
    graph.replay()
    assert (run.opt.position, run.opt.skipped) == (4, 1)


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty")
def test_a_first_step_within_a_capture_is_refused_in_words(gpu):
    params = on(gpu, FEW)
    give(params, seed=0)
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE)
    before = weights(params)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), pytest.raises(RuntimeError, match=r"a first step, .* cannot be captured"):
        opt.step()
    assert same_bits(weights(params), before)
    opt.step()
    assert opt.position == 1


def test_a_copy_made_after_replays_knows_what_the_device_has_advanced(gpu):
    run = replayed(gpu, count=3, schedule=COSINE)
    twin, params = copy.deepcopy((run.opt, run.params))
    assert (twin.position, twin.lrs) == (6, [0.1 * COSINE(6)])
    assert same_bits(weights(params), weights(run.params))


def test_later_steps_with_other_gradients_neither_free_nor_overwrite_what_a_graph_reads(gpu):
    run = Training(gpu, schedule=COSINE)
    run.feed(0)
    graph = captured(run.once)
    captured_grads = [p.grad for p in run.params]
    for t in range(3):
        run.feed(1 + t)
        run.once()
    junk = [torch.full((1 << 20,), -1, dtype=torch.int64, device=gpu) for _ in range(8)]
    for p, grad in zip(run.params, captured_grads, strict=True):
        p.grad = grad
    for t in range(3, 6):
        run.feed(1 + t)
        graph.replay()
    assert_same_runs(run, eager(gpu, schedule=COSINE))
    del junk


def test_500_groups_replay_with_the_bits_of_the_cpu(gpu):
    twins = Twins("AdamW", gpu, params_of([(1 + i % 67,) for i in range(500)]), groups=each_its_own, schedule=COSINE)
    give(twins.here, twins.there, seed=0)
    graph = captured(twins.gpu.step)
    for _ in range(3):
        twins.cpu.step()
    for t in range(3):
        refill(twins.here, twins.there, seed=t)
        twins.cpu.step()
        graph.replay()
    twins.assert_same()


# ---- streams, waiting, memory, launches


def settled(device, steps=3, **options):
    """An optimizer whose state and kernels are there, and gradients that stay."""
    params = on(device, FEW)
    give(params, seed=0)
    opt = fs.optim.AdamW(params, lr=0.1, **options)
    for _ in range(steps):
        opt.step()
    torch.cuda.synchronize()
    return params, opt


BUSY = 1_000_000_000  # clock cycles of a kernel that only waits: half a second, far more than a few calls take


@contextlib.contextmanager
def unfinished():
    """The device is busy when the body begins, and has to be still so at its end: nobody has waited for it."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(BUSY)
        yield
        end = torch.cuda.Event()
        end.record()
        assert not end.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()


WAITLESS = {
    "plain": {},
    "schedule": {"schedule": COSINE},
    "clip": {"schedule": COSINE, "max_grad_norm": 1.0},
    "amp": {"amp": True},
    "all": {"schedule": COSINE, "max_grad_norm": 1.0, "ema_decay": 0.75, "zero_grads": True},
    "capturable": {"schedule": COSINE, "max_grad_norm": 1.0, "capturable": True},
}


@pytest.mark.parametrize("options", WAITLESS)
def test_steps_do_not_wait_for_the_device(gpu, options):
    _, opt = settled(gpu, **WAITLESS[options])
    with unfinished():
        for _ in range(5):
            opt.step()
    assert opt.position == 8


@pytest.mark.parametrize("options", WAITLESS)
def test_steps_with_gradients_in_new_memory_do_not_wait_for_the_device(gpu, options):
    params, opt = settled(gpu, **WAITLESS[options])
    grads = [[torch.ones_like(p) for p in params] for _ in range(4)]
    with unfinished():
        for news in grads:
            for p, grad in zip(params, news, strict=True):
                p.grad = grad
            opt.step()
    assert opt.position == 7


@pytest.mark.parametrize("options", WAITLESS)
def test_a_loop_with_zero_grad_does_not_wait_for_the_device(gpu, options):
    params, opt = settled(gpu, **WAITLESS[options])

    def loop(count):
        for _ in range(count):
            opt.zero_grad()
            sum(p.square().sum() for p in params).backward()
            opt.step()

    loop(3)  # after which torch's allocator has the memory that it needs
    with unfinished():
        loop(3)
    assert opt.position == 9


def test_an_lr_that_is_written_does_not_wait_for_the_device(gpu):
    _, opt = settled(gpu, schedule=COSINE, max_grad_norm=1.0)
    group = opt.param_groups[0]
    with unfinished():
        for _ in range(3):
            group["lr"] = 0.5
            opt.step()
    assert opt.position == 6


@pytest.mark.parametrize("options", WAITLESS)
def test_steps_allocate_no_device_memory(gpu, options):
    _, opt = settled(gpu, **WAITLESS[options])
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    for _ in range(5):
        opt.step()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


@pytest.mark.parametrize("options", WAITLESS)
def test_a_captured_step_allocates_no_memory_of_the_graphs(gpu, options):
    _, opt = settled(gpu, **WAITLESS[options])
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        opt.step()
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before


def test_a_step_runs_on_torchs_current_stream(gpu):
    params, opt = settled(gpu)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(BUSY)  # a step on any other stream would come before what follows
        for p in params:
            p.grad.fill_(2.0)
        opt.step()
        for p in params:
            p.grad.fill_(9.0)
    side.synchronize()
    others, other = settled(gpu)
    for p in others:
        p.grad.fill_(2.0)
    other.step()
    assert same_bits(found(opt), found(other))


def test_steps_that_change_streams_are_ordered_by_the_callers_events(gpu):
    run, reference = Training(gpu, schedule=COSINE), Training(gpu, schedule=COSINE)
    streams = [torch.cuda.Stream() for _ in range(3)]
    last = torch.cuda.current_stream()
    for t in range(9):
        stream = streams[t % 3]
        stream.wait_stream(last)
        with torch.cuda.stream(stream):
            run.feed(t)
            run.once()
        last = stream
        reference.feed(t)
        reference.once()
    torch.cuda.synchronize()
    assert_same_runs(run, reference)


def device_work(step):
    """The names of what a call makes the device do: kernels, copies, sets."""
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    for _ in range(2):  # the first use of a profiler in a process may miss what comes early
        with torch.profiler.profile(activities=kinds) as profile:
            torch.full((3,), 2.0, device="cuda").add_(1)
            torch.cuda.synchronize()
            step()
            torch.cuda.synchronize()
    names = [
        event.name
        for event in profile.events()
        if event.device_type == torch.autograd.DeviceType.CUDA and not event.is_user_annotation
    ]
    others = [name for name in names if "at::native" in name]  # the two of torch's line above
    if len(others) < 2:
        pytest.skip("the profiler sees no kernels here; CUPTI may need rights")
    return [name for name in names if name not in others]


@pytest.mark.parametrize("options", WAITLESS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_step_of_one_dtype_is_at_most_four_launches(gpu, dtype, options):
    params = on(gpu, FEW, dtype=dtype)
    give(params, seed=0)
    opt = fs.optim.AdamW(params, lr=0.1, **WAITLESS[options])
    for _ in range(3):
        opt.step()
    assert 2 <= len(device_work(opt.step)) <= 4


def test_the_number_of_launches_does_not_grow_with_groups_and_tensors(gpu):
    work = []
    for count in (1, 500):
        params = on(gpu, [(1 + i % 67,) for i in range(count)])
        give(params, seed=0)
        opt = fs.optim.AdamW(each_its_own(params), schedule=COSINE, max_grad_norm=1.0, ema_decay=0.75, zero_grads=True)
        for _ in range(3):
            opt.step()
        work.append(len(device_work(opt.step)))
    assert work[0] == work[1]


def test_a_second_process_finds_the_compiled_kernels(gpu, tmp_path):
    code = """
import logging, torch, fastsched as fs
logging.basicConfig(level=logging.INFO, format="%(name)s")
param = torch.nn.Parameter(torch.ones(3, device="cuda"))
param.grad = torch.ones(3, device="cuda")
fs.optim.AdamW([param], lr=0.1).step()
print(param.sum().item())
"""
    runs = [python(code, FASTSCHED_CACHE=str(tmp_path)) for _ in range(2)]
    assert [run.returncode for run in runs] == [0, 0], runs[0].stderr + runs[1].stderr
    assert runs[0].stdout == runs[1].stdout
    assert any(tmp_path.iterdir())
    assert "fastsched" in runs[0].stderr.split()  # its log, where it says that it compiles
    assert "fastsched" not in runs[1].stderr.split()


# ---- several devices


def test_parameters_on_two_gpus_are_updated_as_on_the_cpu(second):
    twins = Twins("AdamW", "cuda:0", params_of(FEW), lr=0.1, schedule=COSINE, ema_decay=0.75)
    twins.there = [p if i % 2 else onto(second, [p])[0] for i, p in enumerate(twins.there)]
    twins.gpu = fs.optim.AdamW(twins.there, lr=0.1, schedule=COSINE, ema_decay=0.75)
    twins.train().assert_same()


def test_the_norm_spans_two_gpus(second):
    twins = Twins("AdamW", "cuda:0", params_of(FEW), max_grad_norm=0.5)
    twins.there = [p if i % 2 else onto(second, [p])[0] for i, p in enumerate(twins.there)]
    twins.gpu = fs.optim.AdamW(twins.there, max_grad_norm=0.5)
    twins.train().assert_nearly_same()


def test_parameters_of_a_gpu_that_is_not_the_current_one_are_updated_there(second):
    assert torch.cuda.current_device() == 0
    Twins("AdamW", second, lr=0.1, schedule=COSINE).train().assert_same()
    assert torch.cuda.current_device() == 0


def test_a_step_on_another_gpu_is_captured_there(second):
    with torch.cuda.device(second):
        assert_same_runs(replayed(second, schedule=COSINE), eager(second, schedule=COSINE))


def mixed(device, **options):
    """Twins of which every second parameter of the device's stays on the CPU."""
    twins = Twins("AdamW", device, params_of(FEW), **options)
    twins.there = [onto("cpu", [p])[0] if i % 2 else p for i, p in enumerate(twins.there)]
    twins.gpu = fs.optim.AdamW(twins.there, **options)
    return twins


@pytest.mark.parametrize("options", [{}, {"schedule": COSINE, "ema_decay": 0.75, "zero_grads": True}], ids=len)
def test_parameters_on_cpu_and_device_share_an_optimizer(device, options):
    mixed(device, lr=0.1, **options).train().assert_same()


def test_the_norm_spans_cpu_and_device(device):
    mixed(device, max_grad_norm=0.5).train().assert_nearly_same()


@pytest.mark.parametrize("where", [0, 1], ids=["device", "cpu"])
def test_a_gradient_that_is_not_finite_on_one_of_cpu_and_device_skips_both(device, where):
    twins = mixed(device, lr=0.1, max_grad_norm=1.0, schedule=COSINE).train(range(2))
    before = found(twins.gpu)
    give(twins.there, seed=5)
    twins.there[3 + where].grad.flatten()[0] = math.nan
    twins.gpu.step()
    assert same_bits(found(twins.gpu), before)
    assert (twins.gpu.position, twins.gpu.skipped) == (2, 1)
