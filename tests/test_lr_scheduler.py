"""fastsched.lr_scheduler beside torch's own schedulers, the oracle: the same numbers to the bit, the same texts.

The invariants are those of torch's test/optim/test_lrscheduler.py, and what its users do besides.
"""

import contextlib
import copy
import dataclasses
import gc
import inspect
import io
import math
import pickle
import random
import types
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from support import python
from torch.optim import lr_scheduler as torch_schedulers
from torch.optim import swa_utils

import fastsched as fs

OURS = fs.lr_scheduler
TORCH = types.SimpleNamespace(
    **{name: getattr(torch_schedulers, name) for name in torch_schedulers.__all__}, SWALR=swa_utils.SWALR
)
COLUMN = fs._core.Column

# Learning rates of the groups. What is no float is stepped by torch's code, and must be the same there.
LRS = {
    "one": lambda: [0.1],
    "several": lambda: [0.05, 0.5, 1e-3, 7.0],
    "tensors": lambda: [torch.tensor(0.05), torch.tensor(0.5)],
    "mixed": lambda: [0.05, torch.tensor(0.5), 0.3],
    "float64 tensor": lambda: [torch.tensor(0.1, dtype=torch.float64), 0.2],
    "ints": lambda: [1, 2],
    "int and float": lambda: [1, 0.5],
    "numpy": lambda: [np.float64(0.1), 0.3],
    "odd": lambda: [0.0, 1e-310, math.inf, 1e300],
}


def repr_of(value):
    return f"{type(value).__name__} {float(value):.3}" if abs(value) < 1e9 else "huge"


def decay(epoch):
    return 0.95**epoch


def factor(epoch):
    return 0.9 if epoch % 3 else 1.1


def half(epoch):
    return epoch / 2


class Power:
    """A function with a state, as LambdaLR saves it."""

    def __init__(self, base):
        self.base = base

    def __call__(self, epoch):
        return self.base**epoch


# One scheduler each: as both modules build it. An argument `last_epoch` goes through.
CASES = {
    "LambdaLR": lambda m, o, **k: m.LambdaLR(o, decay, **k),
    "LambdaLR int": lambda m, o, **k: m.LambdaLR(o, lambda epoch: epoch // 3, **k),
    "LambdaLR each": lambda m, o, **k: m.LambdaLR(o, [Power(0.9 + 0.01 * i) for i in range(len(o.param_groups))], **k),
    "LambdaLR numpy": lambda m, o, **k: m.LambdaLR(o, lambda epoch: np.float64(0.9) ** epoch, **k),
    "LambdaLR bool": lambda m, o, **k: m.LambdaLR(o, lambda epoch: epoch > 4, **k),
    "LambdaLR object": lambda m, o, **k: m.LambdaLR(o, Power(0.7), **k),
    "MultiplicativeLR": lambda m, o, **k: m.MultiplicativeLR(o, factor, **k),
    "MultiplicativeLR each": lambda m, o, **k: m.MultiplicativeLR(o, [Power(0.999) for _ in o.param_groups], **k),
    "StepLR": lambda m, o, **k: m.StepLR(o, 3, **k),
    "StepLR 1": lambda m, o, **k: m.StepLR(o, step_size=1, gamma=0.97, **k),
    "StepLR int gamma": lambda m, o, **k: m.StepLR(o, 4, gamma=2, **k),
    "StepLR negative gamma": lambda m, o, **k: m.StepLR(o, 2, gamma=-0.5, **k),
    "StepLR float size": lambda m, o, **k: m.StepLR(o, 2.5, gamma=0.5, **k),
    "MultiStepLR": lambda m, o, **k: m.MultiStepLR(o, [2, 5, 9, 30], **k),
    "MultiStepLR repeated": lambda m, o, **k: m.MultiStepLR(o, [2, 2, 7, 7, 7], gamma=0.3, **k),
    "MultiStepLR none": lambda m, o, **k: m.MultiStepLR(o, [], **k),
    "MultiStepLR zero": lambda m, o, **k: m.MultiStepLR(o, [0, 1], gamma=0.5, **k),
    "MultiStepLR floats": lambda m, o, **k: m.MultiStepLR(o, (3.0, 4.5), gamma=0.5, **k),
    "ConstantLR": lambda m, o, **k: m.ConstantLR(o, **k),
    "ConstantLR 1": lambda m, o, **k: m.ConstantLR(o, factor=0.7, total_iters=1, **k),
    "ConstantLR 0 iters": lambda m, o, **k: m.ConstantLR(o, factor=0.5, total_iters=0, **k),
    "ConstantLR int": lambda m, o, **k: m.ConstantLR(o, factor=1, total_iters=4, **k),
    "LinearLR": lambda m, o, **k: m.LinearLR(o, **k),
    "LinearLR down": lambda m, o, **k: m.LinearLR(o, start_factor=0.9, end_factor=0.1, total_iters=11, **k),
    "LinearLR to 0": lambda m, o, **k: m.LinearLR(o, start_factor=1, end_factor=0, total_iters=7, **k),
    "LinearLR 1": lambda m, o, **k: m.LinearLR(o, start_factor=0.1, total_iters=1, **k),
    "LinearLR 0 iters": lambda m, o, **k: m.LinearLR(o, start_factor=0.1, total_iters=0, **k),
    "ExponentialLR": lambda m, o, **k: m.ExponentialLR(o, 0.9, **k),
    "ExponentialLR int": lambda m, o, **k: m.ExponentialLR(o, gamma=1, **k),
    "ExponentialLR up": lambda m, o, **k: m.ExponentialLR(o, gamma=1.5, **k),
    "PolynomialLR": lambda m, o, **k: m.PolynomialLR(o, **k),
    "PolynomialLR power": lambda m, o, **k: m.PolynomialLR(o, total_iters=13, power=0.9, **k),
    "PolynomialLR 3": lambda m, o, **k: m.PolynomialLR(o, total_iters=20, power=3, **k),
    "PolynomialLR 1 iter": lambda m, o, **k: m.PolynomialLR(o, total_iters=1, power=2.0, **k),
    "CosineAnnealingLR": lambda m, o, **k: m.CosineAnnealingLR(o, 10, **k),
    "CosineAnnealingLR min": lambda m, o, **k: m.CosineAnnealingLR(o, T_max=7, eta_min=1e-3, **k),
    "CosineAnnealingLR 1": lambda m, o, **k: m.CosineAnnealingLR(o, T_max=1, eta_min=0.01, **k),
    "CosineAnnealingLR float": lambda m, o, **k: m.CosineAnnealingLR(o, T_max=5.5, eta_min=1, **k),
    "CosineAnnealingLR long": lambda m, o, **k: m.CosineAnnealingLR(o, T_max=1000, eta_min=1e-10, **k),
    "CosineAnnealingWarmRestarts": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 10, **k),
    "CosineAnnealingWarmRestarts 2": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 4, T_mult=2, eta_min=1e-5, **k),
    "CosineAnnealingWarmRestarts 1": lambda m, o, **k: m.CosineAnnealingWarmRestarts(o, 1, 3, eta_min=1, **k),
    "CyclicLR": lambda m, o, **k: m.CyclicLR(o, 0.01, 0.1, step_size_up=5, **k),
    "CyclicLR uneven": lambda m, o, **k: m.CyclicLR(o, 0.01, 0.1, step_size_up=3, step_size_down=7, **k),
    "CyclicLR 2": lambda m, o, **k: m.CyclicLR(o, 1, 5, step_size_up=4, mode="triangular2", base_momentum=1, **k),
    "CyclicLR exp": lambda m, o, **k: m.CyclicLR(o, 0.1, 0.7, step_size_up=4, mode="exp_range", gamma=0.99, **k),
    "CyclicLR lists": lambda m, o, **k: m.CyclicLR(
        o,
        [0.1 + 0.1 * i for i in range(len(o.param_groups))],
        tuple(1 + i for i in range(len(o.param_groups))),
        step_size_up=6,
        base_momentum=[0.5 + 0.01 * i for i in range(len(o.param_groups))],
        max_momentum=[0.9 + 0.01 * i for i in range(len(o.param_groups))],
        **k,
    ),
    "CyclicLR function": lambda m, o, **k: m.CyclicLR(o, 0.1, 1.0, 4, scale_fn=lambda x: 0.5**x, **k),
    "CyclicLR iterations": lambda m, o, **k: m.CyclicLR(
        o, 0.1, 1.0, 4, scale_fn=Power(0.98), scale_mode="iterations", **k
    ),
    "CyclicLR no momentum": lambda m, o, **k: m.CyclicLR(o, 0.1, 1.0, 4, cycle_momentum=False, **k),
    "CyclicLR tensor": lambda m, o, **k: m.CyclicLR(o, torch.tensor(0.1), torch.tensor(1.0), 4, **k),
    "OneCycleLR": lambda m, o, **k: m.OneCycleLR(o, 0.1, total_steps=40, **k),
    "OneCycleLR linear": lambda m, o, **k: m.OneCycleLR(o, 25, total_steps=40, anneal_strategy="linear", **k),
    "OneCycleLR three": lambda m, o, **k: m.OneCycleLR(o, 25, total_steps=40, three_phase=True, pct_start=0.4, **k),
    "OneCycleLR three linear": lambda m, o, **k: m.OneCycleLR(
        o, 2.5, total_steps=40, three_phase=True, anneal_strategy="linear", div_factor=3, final_div_factor=4, **k
    ),
    "OneCycleLR epochs": lambda m, o, **k: m.OneCycleLR(o, 1.0, epochs=5, steps_per_epoch=8, pct_start=0.1, **k),
    "OneCycleLR no rise": lambda m, o, **k: m.OneCycleLR(o, 1.0, total_steps=40, pct_start=0.0, **k),
    "OneCycleLR only rise": lambda m, o, **k: m.OneCycleLR(o, 1.0, total_steps=40, pct_start=1.0, **k),
    "OneCycleLR lists": lambda m, o, **k: m.OneCycleLR(
        o,
        [0.1 * (i + 1) for i in range(len(o.param_groups))],
        total_steps=40,
        base_momentum=[0.5 + 0.01 * i for i in range(len(o.param_groups))],
        max_momentum=tuple(0.9 + 0.01 * i for i in range(len(o.param_groups))),
        **k,
    ),
    "OneCycleLR no momentum": lambda m, o, **k: m.OneCycleLR(o, 1.0, total_steps=40, cycle_momentum=False, **k),
    "OneCycleLR tensor": lambda m, o, **k: m.OneCycleLR(o, torch.tensor(1.0), total_steps=40, **k),
    "SWALR": lambda m, o, **k: m.SWALR(o, swa_lr=0.01, **k),
    "SWALR linear": lambda m, o, **k: m.SWALR(o, swa_lr=0.5, anneal_epochs=4, anneal_strategy="linear", **k),
    "SWALR at once": lambda m, o, **k: m.SWALR(o, swa_lr=0.5, anneal_epochs=0, **k),
    "SWALR lists": lambda m, o, **k: m.SWALR(o, swa_lr=[0.1 * (i + 1) for i in range(len(o.param_groups))], **k),
}
# One of every class, for what needs no variety of parameters.
CLASSES = [
    "LambdaLR",
    "MultiplicativeLR",
    "StepLR",
    "MultiStepLR",
    "ConstantLR",
    "LinearLR",
    "ExponentialLR",
    "PolynomialLR",
    "CosineAnnealingLR",
    "CosineAnnealingWarmRestarts 2",
    "CyclicLR",
    "OneCycleLR",
    "SWALR",
]
CHAINABLE = CLASSES[:9]
MOMENTUM = [name for name in CASES if name.split()[0] in ("CyclicLR", "OneCycleLR") and "no momentum" not in name]
WHO = {"ours": OURS, "torch": TORCH}

# Several schedulers in one.
COMPOSED = {
    "SequentialLR": lambda m, parts, o: m.SequentialLR(
        o,
        [parts[0].LinearLR(o, 0.1, total_iters=4), parts[1].CosineAnnealingLR(o, 12), parts[2].StepLR(o, 2)],
        milestones=[4, 11],
    ),
    "SequentialLR at 0": lambda m, parts, o: m.SequentialLR(
        o, [parts[0].ConstantLR(o, 0.1), parts[1].ExponentialLR(o, 0.9)], milestones=[0]
    ),
    "SequentialLR of one": lambda m, parts, o: m.SequentialLR(o, [parts[0].PolynomialLR(o, 9)], milestones=[]),
    "SequentialLR restarts": lambda m, parts, o: m.SequentialLR(
        o, [parts[0].CosineAnnealingWarmRestarts(o, 3, 2), parts[1].MultiStepLR(o, [2, 4])], milestones=[10]
    ),
    "SequentialLR into restarts": lambda m, parts, o: m.SequentialLR(
        o, [parts[0].LinearLR(o), parts[1].CosineAnnealingWarmRestarts(o, 3, 2)], milestones=[5]
    ),
    "SequentialLR of functions": lambda m, parts, o: m.SequentialLR(
        o, [parts[0].LambdaLR(o, half), parts[1].MultiplicativeLR(o, factor)], milestones=[6]
    ),
    "SequentialLR into a cycle": lambda m, parts, o: m.SequentialLR(
        o, [parts[0].LinearLR(o), parts[1].CyclicLR(o, 0.1, 0.9, 3)], milestones=[5]
    ),
    "ChainedScheduler": lambda m, parts, o: m.ChainedScheduler(
        [parts[0].LinearLR(o, 0.3, total_iters=4), parts[1].MultiStepLR(o, [3, 7, 12]), parts[2].ExponentialLR(o, 0.9)]
    ),
    "ChainedScheduler of one": lambda m, parts, o: m.ChainedScheduler([parts[0].StepLR(o, 3)], optimizer=o),
    "ChainedScheduler in SequentialLR": lambda m, parts, o: m.SequentialLR(
        o,
        [
            m.ChainedScheduler([parts[0].LinearLR(o, 0.1), parts[1].ConstantLR(o, 0.1)]),
            parts[2].ConstantLR(o, 0.5, total_iters=5),
        ],
        milestones=[50],
    ),
    "SequentialLR in ChainedScheduler": lambda m, parts, o: m.ChainedScheduler(
        [
            m.SequentialLR(o, [parts[0].LinearLR(o), parts[1].StepLR(o, 2)], milestones=[5]),
            parts[2].ExponentialLR(o, 0.9),
        ]
    ),
    "SequentialLR in SequentialLR": lambda m, parts, o: m.SequentialLR(
        o,
        [
            m.SequentialLR(o, [parts[0].LinearLR(o), parts[1].StepLR(o, 2)], milestones=[5]),
            parts[2].ExponentialLR(o, 0.9),
        ],
        milestones=[9],
    ),
}
PARTS = {
    "ours of ours": ("ours", "ours", "ours", "ours"),
    "ours of torch's": ("ours", "torch", "torch", "torch"),
    "torch's of ours": ("torch", "ours", "ours", "ours"),
    "ours of both": ("ours", "ours", "torch", "ours"),
    "torch's of both": ("torch", "torch", "ours", "torch"),
}

PLATEAU = {
    "min": {"patience": 2},
    "max": {"mode": "max", "patience": 1, "factor": 0.5},
    "abs": {"threshold_mode": "abs", "threshold": 0.1, "patience": 2},
    "max abs": {"mode": "max", "threshold_mode": "abs", "threshold": 0.1, "patience": 2},
    "cooldown": {"patience": 1, "cooldown": 3},
    "min_lr": {"patience": 0, "min_lr": 0.02},
    "min_lrs": {"patience": 0, "min_lr": [0.4, 0.01, 0.001, 0.1]},
    "eps": {"patience": 0, "eps": 1e-2},
}
METRICS = [4 - 0.013 * i for i in range(12)] + [1.2 * 1.004**i for i in range(12)] + [-0.6, -0.1, 2.5, math.nan, 2.0]


def optimizer(lrs="several", cls=torch.optim.SGD, **options):
    """One parameter per group; a step that counts as made, so that no scheduler warns."""
    lrs = LRS[lrs]() if isinstance(lrs, str) else lrs
    return cls([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": lr} for lr in lrs], lr=0.1, **options)


def made(who, case, opt, **options):
    """The scheduler of a case; warnings about the order of steps are a matter of tests of their own."""
    scheduler = CASES[case](WHO[who], opt, **options)
    opt._opt_called = True
    return scheduler


def composed(case, parts, opt):
    whole, *each = PARTS.get(parts, (parts,) * 4)
    opt._opt_called = True  # torch's SequentialLR steps schedulers that compose others when it is made
    return COMPOSED[case](WHO[whole], [WHO[part] for part in each], opt)


def exact(value):
    """A value with its type and every bit, comparable by ==; functions by name."""
    if isinstance(value, torch.Tensor):
        return ("tensor", str(value.dtype), exact(value.tolist()))
    if isinstance(value, dict):
        return {key: exact(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return (type(value).__name__, *map(exact, value))
    if isinstance(value, float):
        return (type(value).__name__, float(value).hex())
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    return value


def groups(opt):
    """Everything in the groups but the parameters."""
    return [exact({key: value for key, value in group.items() if key != "params"}) for group in opt.param_groups]


def shown(scheduler):
    """What a step leaves: groups, the last lrs and the position (a ChainedScheduler has none)."""
    return groups(scheduler.optimizer), exact(scheduler.get_last_lr()), getattr(scheduler, "last_epoch", None)


def attributes(scheduler):
    """All attributes by name; torch's SWALR, CyclicLR and LambdaLR hold functions there."""
    skipped = ("optimizer", "_schedulers")
    return {name: exact(getattr(scheduler, name)) for name in vars(scheduler) if name not in skipped}


def trajectory(scheduler, steps):
    rows = [shown(scheduler)]
    for _ in range(steps):
        scheduler.step()
        rows.append(shown(scheduler))
    return rows


@contextlib.contextmanager
def quiet():
    """For the deprecated step(epoch)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def outcome(action):
    """What an action returns, or the type and text of its error."""
    try:
        return action()
    except Exception as error:
        return type(error), str(error)


def told(action):
    """The warnings of an action: category, text and the file that they point to."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        action()
    return [(warning.category, str(warning.message), warning.filename) for warning in caught]


def saved(state):
    """Through a file, as weights_only=True reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


# Names and classes


def test_every_name_of_torch_is_here():
    assert {*torch_schedulers.__all__, "SWALR"} <= set(OURS.__all__)


def test_every_public_name_exists():
    assert all(hasattr(OURS, name) for name in OURS.__all__)


@pytest.mark.parametrize("name", sorted(vars(TORCH)))
def test_a_class_is_a_subclass_of_torchs(name):
    assert issubclass(getattr(OURS, name), getattr(TORCH, name))


@pytest.mark.parametrize("name", sorted({*OURS.__all__} - {"get_scheduler"}))
def test_a_class_is_a_subclass_of_torchs_base_class(name):
    assert issubclass(getattr(OURS, name), torch_schedulers.LRScheduler)


@pytest.mark.parametrize("name", sorted({*OURS.__all__} - {"get_scheduler"}))
def test_a_class_is_a_subclass_of_our_base_class(name):
    assert issubclass(getattr(OURS, name), OURS.LRScheduler)


@pytest.mark.parametrize("name", sorted(vars(TORCH)))
def test_a_class_takes_torchs_arguments(name):
    assert inspect.signature(getattr(OURS, name)) == inspect.signature(getattr(TORCH, name))


@pytest.mark.parametrize("name", sorted(vars(TORCH)))
def test_a_class_has_torchs_name(name):
    assert getattr(OURS, name).__name__ == name


@pytest.mark.parametrize("name", sorted(vars(TORCH)))
@pytest.mark.parametrize("method", ["step", "get_lr", "get_last_lr", "state_dict", "load_state_dict"])
def test_a_method_takes_torchs_arguments(name, method):
    ours, theirs = (list(inspect.signature(getattr(getattr(m, name), method)).parameters) for m in (OURS, TORCH))
    assert ours == theirs


# The numbers


@pytest.mark.parametrize("lrs", LRS)
@pytest.mark.parametrize("case", CASES)
def test_every_step_leaves_torchs_bits(case, lrs):
    def run(who):
        return trajectory(made(who, case, optimizer(lrs, momentum=0.9)), 40)

    with np.errstate(all="ignore"):  # numpy's lrs warn about the infinities of "odd" sums; the bits are compared
        ours = outcome(lambda: run("ours"))
        assert ours == outcome(lambda: run("torch"))


@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("OneCycleLR")])
def test_a_thousand_steps_leave_torchs_bits(case):
    ours, theirs = (made(who, case, optimizer(momentum=0.9)) for who in WHO)
    for _ in range(1000):
        ours.step()
        theirs.step()
        assert [g["lr"] for g in ours.optimizer.param_groups] == [g["lr"] for g in theirs.optimizer.param_groups]


@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 250])
def test_a_one_cycle_of_any_shape_leaves_torchs_bits(steps, share, three, strategy):
    def run(m):
        opt = optimizer(momentum=0.9)
        scheduler = m.OneCycleLR(
            opt, [1, 0.1, 0.25, 3.0], steps, pct_start=share, three_phase=three, anneal_strategy=strategy
        )
        opt._opt_called = True
        return [outcome(lambda: (scheduler.step(), shown(scheduler))[1]) for _ in range(steps + 2)]

    assert outcome(lambda: run(OURS)) == outcome(lambda: run(TORCH))


@pytest.mark.parametrize("cls", ["SGD", "Adam", "AdamW", "NAdam", "RMSprop"])
@pytest.mark.parametrize("case", MOMENTUM)
def test_momentum_or_beta1_cycles_with_torchs_bits(case, cls):
    def run(who):
        return trajectory(made(who, case, optimizer("several", getattr(torch.optim, cls))), 38)

    assert run("ours") == run("torch")


@pytest.mark.parametrize("case", MOMENTUM)
def test_tensor_momenta_cycle_as_torchs(case):
    name = case.split()[0]

    def run(m):
        opt = optimizer()
        momenta = {"base_momentum": torch.tensor(0.8), "max_momentum": torch.tensor(0.9)}
        scheduler = (
            m.CyclicLR(opt, 0.1, 1.0, 4, **momenta) if name == "CyclicLR" else m.OneCycleLR(opt, 1.0, 20, **momenta)
        )
        opt._opt_called = True
        return trajectory(scheduler, 15)

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("count", [0, 1, 100])
@pytest.mark.parametrize("case", CLASSES)
def test_any_number_of_groups_is_stepped(case, count):
    def run(who):
        opt = optimizer([0.001 * (i + 1) for i in range(max(count, 1))], momentum=0.9)
        if count == 0:
            opt.param_groups.clear()
        return trajectory(made(who, case, opt), 12)

    assert outcome(lambda: run("ours")) == outcome(lambda: run("torch"))


@pytest.mark.parametrize("pick", ["first", "last"])
@pytest.mark.parametrize("case", CHAINABLE)
def test_a_group_that_becomes_a_tensor_and_a_float_again_is_stepped_as_torchs(case, pick):
    def run(who):
        opt = optimizer()
        scheduler = made(who, case, opt)
        rows = trajectory(scheduler, 3)
        group = opt.param_groups[0 if pick == "first" else -1]
        group["lr"] = torch.tensor(0.25)
        rows += trajectory(scheduler, 3)
        group["lr"] = 0.125
        return rows + trajectory(scheduler, 3)

    assert run("ours") == run("torch")


def test_two_groups_that_are_one_dict_are_stepped_as_torchs():
    def run(m):
        opt = optimizer([0.5])
        opt.param_groups.append(opt.param_groups[0])
        scheduler = m.ExponentialLR(opt, 0.5)
        opt._opt_called = True
        return trajectory(scheduler, 4)

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("cls", [torch.optim.SGD, torch.optim.AdamW, fs.optim.AdamW])
@pytest.mark.parametrize("case", [case for case in CLASSES if case != "SWALR"])
def test_a_step_of_plain_floats_does_not_run_torchs_code(case, cls, monkeypatch):
    scheduler = made("ours", case, optimizer(cls=cls))
    monkeypatch.setattr(getattr(TORCH, case.split()[0]), "get_lr", lambda self: pytest.fail("torch's get_lr"))
    for _ in range(5):
        scheduler.step()


# The deprecated step(epoch)


@pytest.mark.parametrize("lrs", ["several", "mixed", "ints"])
@pytest.mark.parametrize("case", CASES)
def test_the_closed_form_is_torchs(case, lrs):
    def run(who):
        scheduler = made(who, case, optimizer(lrs, momentum=0.9))
        rows = []
        with quiet():
            for epoch in [0, 1, 2, 3, 5, 4, 12, 1, 0, 30, 30]:
                scheduler.step(epoch)
                rows.append(shown(scheduler))
        return rows

    if not case.startswith("SWALR") or lrs != "ints":
        assert outcome(lambda: run("ours")) == outcome(lambda: run("torch"))


@pytest.mark.parametrize("case", CASES)
def test_steps_with_and_without_an_epoch_mix_as_torchs(case):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        rows = []
        with quiet():
            for epoch in [None, 7, None, None, 3, 0, None, 25, None]:
                scheduler.step() if epoch is None else scheduler.step(epoch)
                rows.append(shown(scheduler))
        return rows

    assert outcome(lambda: run("ours")) == outcome(lambda: run("torch"))


@pytest.mark.parametrize("case", ["StepLR", "ExponentialLR", "ConstantLR", "LinearLR", "PolynomialLR"])
def test_an_epoch_given_twice_gives_the_same_lr_twice(case):
    scheduler = made("ours", case, optimizer("mixed"))
    with quiet():
        scheduler.step(2)
        first = groups(scheduler.optimizer)
        scheduler.step(2)
    assert groups(scheduler.optimizer) == first


@pytest.mark.parametrize(
    "case", ["StepLR", "MultiStepLR", "ExponentialLR", "ConstantLR", "LinearLR", "PolynomialLR power"]
)
def test_the_recursion_follows_the_closed_form(case):
    chained, closed = made("ours", case, optimizer()), made("ours", case, optimizer())
    for epoch in range(1, 30):
        chained.step()
        with quiet():
            closed.step(epoch)
        # 30 roundings, and the last step of a polynomial ends at exactly 0
        np.testing.assert_allclose(chained.get_last_lr(), closed.get_last_lr(), rtol=1e-13, atol=0)


# Several schedulers on one optimizer


@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("second", CHAINABLE)
@pytest.mark.parametrize("first", CHAINABLE)
def test_two_schedulers_on_one_optimizer_leave_torchs_bits(first, second, lrs):
    def run(who, other):
        opt = optimizer(lrs)
        both = [made(who, first, opt), made(other, second, opt)]
        rows = []
        for _ in range(14):
            for scheduler in both:
                scheduler.step()
            rows.append([shown(scheduler) for scheduler in both])
        return rows

    expected = run("torch", "torch")
    assert [run(*pair) == expected for pair in (("ours", "ours"), ("ours", "torch"), ("torch", "ours"))] == [True] * 3


def test_schedulers_step_in_turn_as_torchs():
    def run(m):
        opt = optimizer()
        cosine, cyclic = m.CosineAnnealingLR(opt, 13, eta_min=0.2), m.CyclicLR(opt, 0.2, 0.7, 2, 5)
        opt._opt_called = True
        return [trajectory(cosine if i <= 13 else cyclic, 1) for i in range(30)]

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("lrs", ["several", "tensors", "mixed"])
@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("case", COMPOSED)
def test_a_composition_leaves_torchs_bits(case, parts, lrs):
    def run(parts):
        return trajectory(composed(case, parts, optimizer(lrs)), 20)

    assert run(parts) == run("torch")


@pytest.mark.parametrize("case", COMPOSED)
def test_a_composition_gives_the_last_lr_of_what_it_stepped(case):
    scheduler = composed(case, "ours", optimizer())
    for _ in range(15):
        scheduler.step()
        assert scheduler.get_last_lr() == [group["lr"] for group in scheduler.optimizer.param_groups]


@pytest.mark.parametrize("case", COMPOSED)
def test_a_composition_warns_as_torchs(case):
    def run(m):
        opt = optimizer()
        made = []
        before = told(lambda: made.append(COMPOSED[case](m, [m] * 3, opt)))
        opt.step()
        return [text for _, text, _ in before + told(lambda: [made[0].step() for _ in range(12)])]

    assert run(OURS) == run(TORCH)


def test_a_sequence_steps_without_a_warning():
    opt = optimizer()
    scheduler = COMPOSED["SequentialLR"](OURS, [OURS] * 3, opt)
    opt.step()
    assert told(lambda: [scheduler.step() for _ in range(12)]) == []


def test_a_composition_does_not_tie_lr_to_initial_lr():
    opt = optimizer("tensors")
    OURS.SequentialLR(opt, [OURS.LinearLR(opt, 0.1), OURS.LinearLR(opt, 0.8)], milestones=[4])
    assert opt.param_groups[0]["lr"] is not opt.param_groups[0]["initial_lr"]


def test_schedulers_that_wait_in_a_composition_do_not_move_the_first_lr():
    opt = optimizer()
    OURS.SequentialLR(opt, [OURS.ConstantLR(opt, factor=1), OURS.ConstantLR(opt, factor=0.1)], milestones=[10])
    assert [group["lr"] for group in opt.param_groups] == LRS["several"]()


@pytest.mark.parametrize("case", COMPOSED)
@pytest.mark.parametrize("parts", PARTS)
def test_a_composition_has_torchs_state_dict(case, parts):
    ours, theirs = composed(case, parts, optimizer()), composed(case, "torch", optimizer())
    trajectory(ours, 8), trajectory(theirs, 8)
    assert exact(ours.state_dict()) == exact(theirs.state_dict())


@pytest.mark.parametrize("source", WHO)
@pytest.mark.parametrize("case", COMPOSED)
def test_a_composition_goes_on_from_a_saved_state(case, source):
    opt = optimizer()
    first = composed(case, source, opt)
    trajectory(first, 7)
    resumed = composed(case, "ours", optimizer())
    resumed.optimizer.load_state_dict(copy.deepcopy(opt.state_dict()))
    resumed.load_state_dict(saved(first.state_dict()))
    expected = composed(case, "torch", optimizer())
    trajectory(expected, 7)
    assert trajectory(resumed, 12) == trajectory(expected, 12)


# ReduceLROnPlateau


@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("case", PLATEAU)
def test_a_plateau_leaves_torchs_bits(case, lrs):
    def run(m):
        options = dict(PLATEAU[case])
        if lrs == "mixed" and "min_lr" in options and isinstance(options["min_lr"], list):
            options["min_lr"] = options["min_lr"][:3]
        scheduler = m.ReduceLROnPlateau(optimizer(lrs), **options)
        rows = [shown(scheduler)]
        for metric in METRICS:
            scheduler.step(metric)
            rows.append((shown(scheduler), attributes(scheduler)))
        return rows

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("who", [("ours", "ours"), ("ours", "torch"), ("torch", "ours")])
@pytest.mark.parametrize("other", CHAINABLE)
@pytest.mark.parametrize("case", ["min", "max", "cooldown"])
def test_a_plateau_beside_another_scheduler_leaves_torchs_bits(case, other, who):
    def run(who, others):
        opt = optimizer()
        plateau, scheduler = WHO[who].ReduceLROnPlateau(opt, **PLATEAU[case]), made(others, other, opt)
        rows = []
        for metric in METRICS:
            plateau.step(metric)
            scheduler.step()
            rows.append((shown(plateau), shown(scheduler)))
        return rows

    assert run(*who) == run("torch", "torch")


def test_a_plateau_takes_a_tensor_as_its_metric():
    scheduler = OURS.ReduceLROnPlateau(optimizer([1.0]), patience=0)
    scheduler.step(torch.tensor(1.0))
    scheduler.step(torch.tensor(2.0))
    assert scheduler.get_last_lr() == [0.1]


def test_a_plateau_shows_the_lr_before_its_first_step():
    assert OURS.ReduceLROnPlateau(optimizer()).get_last_lr() == LRS["several"]()


def test_a_plateau_keeps_the_type_of_an_lr():
    scheduler = OURS.ReduceLROnPlateau(optimizer("mixed"), patience=0)
    before = [type(group["lr"]) for group in scheduler.optimizer.param_groups]
    scheduler.step(1.0)
    scheduler.step(2.0)
    assert [type(group["lr"]) for group in scheduler.optimizer.param_groups] == before


@pytest.mark.parametrize("min_lr", [0, [0.1, 0.2, 0.0, 0.0]])
@pytest.mark.parametrize("mend", [False, True])
def test_a_plateau_meets_a_group_that_is_added_as_torchs(min_lr, mend):
    def run(m):
        opt = optimizer()
        scheduler = m.ReduceLROnPlateau(opt, patience=0, min_lr=min_lr)
        scheduler.step(1.0)
        opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": 0.3})
        if mend:
            scheduler.min_lrs.append(1e-6)
        return [(outcome(partial(scheduler.step, metric)), shown(scheduler)) for metric in (2.0, 3.0, 0.5)]

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("source", WHO)
def test_a_plateau_goes_on_from_a_saved_state(source):
    first = WHO[source].ReduceLROnPlateau(optimizer(), patience=2, cooldown=1)
    expected = TORCH.ReduceLROnPlateau(optimizer(), patience=2, cooldown=1)
    for metric in METRICS[:9]:
        first.step(metric)
        expected.step(metric)
    resumed = OURS.ReduceLROnPlateau(optimizer(), mode="max", factor=0.5)
    resumed.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    resumed.load_state_dict(saved(first.state_dict()))
    for metric in METRICS[9:]:
        resumed.step(metric)
        expected.step(metric)
    assert (shown(resumed), attributes(resumed)) == (shown(expected), attributes(expected))


def test_a_plateau_warns_of_an_epoch_as_torchs():
    ours, theirs = (told(lambda m=m: m.ReduceLROnPlateau(optimizer()).step(1.0, 3)) for m in (OURS, TORCH))
    assert ours == theirs != []


# Warm restarts: torch finds the cycle of an epoch by a logarithm, which misses some


def cycle_of(epoch, first, times):
    start, period = 0, first
    while epoch >= start + period:
        start, period = start + period, period * times
    return epoch - start, period


def test_an_epoch_that_begins_a_cycle_has_the_peak_where_torchs_has_the_floor():
    scheduler = OURS.CosineAnnealingWarmRestarts(optimizer([0.1]), T_0=1, T_mult=3)
    scheduler.step(121)
    assert (scheduler.get_last_lr(), scheduler.T_cur, scheduler.T_i) == ([0.1], 0, 243)


def test_torch_still_misplaces_epoch_121():
    scheduler = TORCH.CosineAnnealingWarmRestarts(optimizer([0.1]), T_0=1, T_mult=3)
    scheduler.step(121)
    assert scheduler.get_last_lr() == [0.0]  # if this fails, torch is right now, and ours can be simpler


@pytest.mark.parametrize("lrs", ["one", "mixed"])
@pytest.mark.parametrize("times", [1, 2, 3, 5, 10])
@pytest.mark.parametrize("first", [1, 2, 7, 10])
def test_a_given_epoch_is_placed_by_counting_cycles(first, times, lrs):
    scheduler = OURS.CosineAnnealingWarmRestarts(optimizer(lrs), T_0=first, T_mult=times, eta_min=0.01)
    edges = [first * (times**n - 1) // (times - 1) if times > 1 else n * first for n in range(1, 9)]
    for epoch in [e + d for e in edges for d in (-1, -0.5, 0, 0.25, 1)]:
        scheduler.step(epoch)
        current, period = cycle_of(epoch, first, times)
        lr = 0.01 + (scheduler.base_lrs[0] - 0.01) * (1 + math.cos(math.pi * current / period)) / 2
        assert (scheduler.get_last_lr()[0], scheduler.T_cur, scheduler.T_i) == (lr, current, period)


@pytest.mark.parametrize("times", [1, 2, 4])
@pytest.mark.parametrize("lrs", ["several", "tensors"])
def test_fractional_epochs_leave_torchs_bits(times, lrs):
    def run(m):
        scheduler = m.CosineAnnealingWarmRestarts(optimizer(lrs), T_0=10, T_mult=times, eta_min=1e-10)
        rows = []
        for i in range(300):
            scheduler.step(i / 10)
            rows.append((shown(scheduler), float(scheduler.T_cur), scheduler.T_i))
        return rows

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_epochs_to_and_fro_leave_torchs_bits(times):
    def run(m):
        scheduler = m.CosineAnnealingWarmRestarts(optimizer(), T_0=10, T_mult=times)
        rows = []
        for epoch in [0, 2, 6, 0.7, 11, 26, 4, None, None, 14, 24.5, None, 77, 4, 51, None, 16.5]:
            scheduler.step(epoch)
            rows.append((shown(scheduler), float(scheduler.T_cur), scheduler.T_i))
        return rows

    assert run(OURS) == run(TORCH)


def test_steps_go_on_from_an_epoch_that_torch_misplaces():
    given, counted = (OURS.CosineAnnealingWarmRestarts(optimizer(), T_0=1, T_mult=3) for _ in range(2))
    given.step(121)
    trajectory(counted, 121)
    assert trajectory(given, 5) == trajectory(counted, 5)


def test_a_cycle_position_that_was_set_by_hand_wraps_as_torchs():
    def run(m):
        scheduler = m.CosineAnnealingWarmRestarts(optimizer(), T_0=3)
        rows = []
        for current in [5, 11, 2, 3]:
            scheduler.T_cur = current
            scheduler.step()
            rows.append((shown(scheduler), scheduler.T_cur))
        return rows

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("epoch", [-1, -0.5, math.nan, math.inf])
def test_an_impossible_epoch_is_refused_as_torchs(epoch):
    def run(m):
        return m.CosineAnnealingWarmRestarts(optimizer(), T_0=4, T_mult=2).step(epoch)

    assert outcome(lambda: run(OURS)) == outcome(lambda: run(TORCH))


def test_warm_restarts_take_a_step_without_a_warning_as_torchs():
    scheduler = OURS.CosineAnnealingWarmRestarts(optimizer(), T_0=4)
    assert told(lambda: (scheduler.step(), scheduler.step(3))) == []


# Resume by last_epoch


@pytest.mark.parametrize("taken", [0, 1, 6, 10])
@pytest.mark.parametrize("case", CASES)
def test_a_scheduler_resumes_at_last_epoch_as_torchs(case, taken):
    def run(who):
        first = made(who, case, optimizer(momentum=0.9))
        trajectory(first, taken)
        opt = optimizer(momentum=0.9)
        opt.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
        return trajectory(made(who, case, opt, last_epoch=taken), 12)

    assert run("ours") == run("torch")


@pytest.mark.parametrize("case", CASES)
def test_a_scheduler_on_a_used_optimizer_starts_from_initial_lr_as_torchs(case):
    def run(who):
        opt = optimizer(momentum=0.9)
        trajectory(made(who, "ExponentialLR", opt), 3)
        return trajectory(made(who, case, opt), 8)

    assert run("ours") == run("torch")


def test_a_cosine_resumes_where_it_was():
    opt = optimizer()
    first = OURS.CosineAnnealingLR(opt, T_max=5, eta_min=0.1)
    opt.step()
    first.step()
    second = OURS.CosineAnnealingLR(opt, T_max=5, eta_min=0.1, last_epoch=0)
    np.testing.assert_allclose(second.get_last_lr(), first.get_last_lr(), rtol=1e-15)


@pytest.mark.parametrize("case", CLASSES)
def test_resuming_without_initial_lr_is_refused_as_torchs(case):
    ours, theirs = (outcome(lambda who=who: made(who, case, optimizer(momentum=0.9), last_epoch=1)) for who in WHO)
    assert (type(ours), ours) == (tuple, theirs)


@pytest.mark.parametrize("cls", [torch.optim.AdamW, fs.optim.AdamW])
@pytest.mark.parametrize("case", CLASSES)
def test_an_optimizer_from_a_checkpoint_keeps_its_lr_when_the_scheduler_is_made(case, cls):
    first = made("ours", case, optimizer([0.1], cls))
    first.step()
    opt = optimizer([0.5], cls)
    opt.load_state_dict(first.optimizer.state_dict())
    second = made("ours", case, opt, last_epoch=0)
    assert second.get_last_lr() == pytest.approx(first.get_last_lr(), rel=1e-15)


# Warnings


def first_steps(who, case, prepare):
    opt = optimizer(momentum=0.9)
    scheduler = CASES[case](WHO[who], opt)
    prepare(opt)
    return told(lambda: [scheduler.step() for _ in range(4)])


def replace_step(opt):
    step = opt.step
    opt.step = types.MethodType(lambda self, *args: step(*args), opt)


PREPARED = {
    "no step": lambda opt: None,
    "a step": lambda opt: opt.step(),
    "a step that was replaced": replace_step,
    "a step that was replaced and made": lambda opt: (replace_step(opt), opt.step()),
}


@pytest.mark.parametrize("prepared", PREPARED)
@pytest.mark.parametrize("case", CLASSES)
def test_the_first_steps_warn_as_torchs(case, prepared):
    ours, theirs = (first_steps(who, case, PREPARED[prepared]) for who in WHO)
    assert ours == theirs


@pytest.mark.parametrize("case", CLASSES)
def test_making_a_scheduler_warns_of_nothing(case):
    assert told(lambda: CASES[case](OURS, optimizer(momentum=0.9))) == []


def test_a_scheduler_step_before_the_optimizers_warns():
    scheduler = OURS.StepLR(optimizer(), 3)
    with pytest.warns(UserWarning, match=r"`lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


@pytest.mark.parametrize("resumed", [False, True])
def test_the_order_of_steps_is_warned_of_as_torchs_after_resuming(resumed):
    def run(m):
        opt = optimizer()
        for group in opt.param_groups:
            group["initial_lr"] = 0.01
        scheduler = m.StepLR(opt, 3, last_epoch=10 if resumed else -1)
        return told(lambda: [scheduler.step() for _ in range(3)])

    assert run(OURS) == run(TORCH) != []


@pytest.mark.parametrize("case", CLASSES)
def test_an_epoch_is_warned_of_as_torchs(case):
    ours, theirs = (told(lambda who=who: made(who, case, optimizer(momentum=0.9)).step(2)) for who in WHO)
    assert ours == theirs


@pytest.mark.parametrize("case", CLASSES)
def test_get_lr_outside_a_step_warns_and_answers_as_torchs(case):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        trajectory(scheduler, 3)
        answers = []
        warned = told(lambda: answers.append(exact(scheduler.get_lr())))
        return answers, [(category, text) for category, text, _ in warned]

    assert run("ours") == run("torch")


def test_another_scheduler_on_an_optimizer_with_a_schedule_warns_once():
    weight = torch.nn.Parameter(torch.ones(2))
    opt = fs.optim.SGD([weight], lr=0.1, schedule=fs.Linear(1.0, 0.0, steps=9))
    OURS.StepLR(opt, 3)
    weight.grad = torch.ones(2)
    with pytest.warns(UserWarning, match="sched") as caught:
        opt.step()
    assert [len(caught), told(opt.step)] == [1, []]


# Errors of the constructors

REFUSED = {
    f"{name}: no optimizer": (lambda m, o, name=name: CASES[name](m, "no optimizer"))
    for name in CLASSES
    if name not in ("LambdaLR", "MultiplicativeLR", "SWALR")
} | {
    "LRScheduler: no optimizer": lambda m, o: m.LRScheduler(7),
    "LRScheduler: abstract": lambda m, o: m.LRScheduler(o),
    "LambdaLR: no optimizer": lambda m, o: m.LambdaLR("no", decay),
    "LambdaLR: too many": lambda m, o: m.LambdaLR(o, [decay] * 9),
    "LambdaLR: too few": lambda m, o: m.LambdaLR(o, (decay,)),
    "LambdaLR: a number": lambda m, o: m.LambdaLR(o, 0.5),
    "LambdaLR: text": lambda m, o: m.LambdaLR(o, lambda epoch: "text"),
    "LambdaLR: None": lambda m, o: m.LambdaLR(o, lambda epoch: None),
    "MultiplicativeLR: too many": lambda m, o: m.MultiplicativeLR(o, [decay] * 9),
    "MultiplicativeLR: a number": lambda m, o: m.MultiplicativeLR(o, 0.95),
    "MultiplicativeLR: numbers": lambda m, o: m.MultiplicativeLR(o, [0.95] * 4),
    "StepLR: no size": lambda m, o: m.StepLR(o),
    "StepLR: unknown": lambda m, o: m.StepLR(o, 3, verbose=True),
    "MultiStepLR: a number": lambda m, o: m.MultiStepLR(o, 3),
    "ConstantLR: above 1": lambda m, o: m.ConstantLR(o, factor=1.1),
    "ConstantLR: below 0": lambda m, o: m.ConstantLR(o, factor=-0.1),
    "LinearLR: start 0": lambda m, o: m.LinearLR(o, start_factor=0.0),
    "LinearLR: start above 1": lambda m, o: m.LinearLR(o, start_factor=1.1),
    "LinearLR: end above 1": lambda m, o: m.LinearLR(o, end_factor=1.1),
    "LinearLR: end below 0": lambda m, o: m.LinearLR(o, end_factor=-0.1),
    "ExponentialLR: no gamma": lambda m, o: m.ExponentialLR(o),
    "SequentialLR: none": lambda m, o: m.SequentialLR(o, [], []),
    "SequentialLR: milestones": lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1)], [3]),
    "SequentialLR: another's": lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1), m.StepLR(optimizer(), 1)], [3]),
    "SequentialLR: plateau": lambda m, o: m.SequentialLR(o, [m.StepLR(o, 1), m.ReduceLROnPlateau(o)], [3]),
    "SequentialLR: no scheduler": lambda m, o: m.SequentialLR(o, [7], []),
    "ChainedScheduler: none": lambda m, o: m.ChainedScheduler([]),
    "ChainedScheduler: another's": lambda m, o: m.ChainedScheduler([m.StepLR(o, 1), m.StepLR(optimizer(), 1)]),
    "ChainedScheduler: plateau": lambda m, o: m.ChainedScheduler([m.StepLR(o, 1), m.ReduceLROnPlateau(o)]),
    "ChainedScheduler: no scheduler": lambda m, o: m.ChainedScheduler([m.StepLR(o, 1), 7]),
    "ChainedScheduler: another optimizer": lambda m, o: m.ChainedScheduler([m.StepLR(o, 1)], optimizer()),
    "CosineAnnealingLR: no T_max": lambda m, o: m.CosineAnnealingLR(o),
    "CosineAnnealingWarmRestarts: T_0": lambda m, o: m.CosineAnnealingWarmRestarts(o, 0),
    "CosineAnnealingWarmRestarts: float T_0": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1.5),
    "CosineAnnealingWarmRestarts: T_mult": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, T_mult=0),
    "CosineAnnealingWarmRestarts: float T_mult": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, T_mult=1.5),
    "CosineAnnealingWarmRestarts: eta_min": lambda m, o: m.CosineAnnealingWarmRestarts(o, 1, eta_min="0"),
    "CyclicLR: mode": lambda m, o: m.CyclicLR(o, 0, 0, mode="sawtooth"),
    "CyclicLR: base_lr": lambda m, o: m.CyclicLR(o, [0.1], 1.0),
    "CyclicLR: max_lr": lambda m, o: m.CyclicLR(o, 0.1, (1.0, 2.0)),
    "CyclicLR: base_momentum": lambda m, o: m.CyclicLR(o, 0.1, 1.0, base_momentum=[0.5]),
    "CyclicLR: max_momentum": lambda m, o: m.CyclicLR(o, 0.1, 1.0, max_momentum=[0.5]),
    "CyclicLR: no momentum": lambda m, o: m.CyclicLR(optimizer(cls=torch.optim.Adagrad), 0.1, 1.0),
    "OneCycleLR: no length": lambda m, o: m.OneCycleLR(o, 1.0),
    "OneCycleLR: only epochs": lambda m, o: m.OneCycleLR(o, 1.0, epochs=3),
    "OneCycleLR: total_steps": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=0),
    "OneCycleLR: float total_steps": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=1.5),
    "OneCycleLR: epochs": lambda m, o: m.OneCycleLR(o, 1.0, epochs=-1, steps_per_epoch=3),
    "OneCycleLR: steps_per_epoch": lambda m, o: m.OneCycleLR(o, 1.0, epochs=1, steps_per_epoch=0),
    "OneCycleLR: pct_start": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=9, pct_start=1.1),
    "OneCycleLR: int pct_start": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=9, pct_start=1),
    "OneCycleLR: strategy": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=9, anneal_strategy="sawtooth"),
    "OneCycleLR: max_lr": lambda m, o: m.OneCycleLR(o, [1.0], total_steps=9),
    "OneCycleLR: momenta": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=9, base_momentum=[0.1, 0.2]),
    "OneCycleLR: no momentum": lambda m, o: m.OneCycleLR(optimizer(cls=torch.optim.Adagrad), 1.0, total_steps=9),
    "ReduceLROnPlateau: no optimizer": lambda m, o: m.ReduceLROnPlateau("no"),
    "ReduceLROnPlateau: factor": lambda m, o: m.ReduceLROnPlateau(o, factor=1.0),
    "ReduceLROnPlateau: mode": lambda m, o: m.ReduceLROnPlateau(o, mode="sawtooth"),
    "ReduceLROnPlateau: threshold_mode": lambda m, o: m.ReduceLROnPlateau(o, threshold_mode="sawtooth"),
    "ReduceLROnPlateau: min_lr": lambda m, o: m.ReduceLROnPlateau(o, min_lr=[0.1]),
    "SWALR: strategy": lambda m, o: m.SWALR(o, swa_lr=1.0, anneal_strategy="sawtooth"),
    "SWALR: anneal_epochs": lambda m, o: m.SWALR(o, swa_lr=1.0, anneal_epochs=-1),
    "SWALR: float anneal_epochs": lambda m, o: m.SWALR(o, swa_lr=1.0, anneal_epochs=2.5),
    "SWALR: swa_lr": lambda m, o: m.SWALR(o, swa_lr=[0.3, 0.2]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_argument_is_refused_with_torchs_words(case):
    ours, theirs = (outcome(lambda m=m: REFUSED[case](m, optimizer())) for m in (OURS, TORCH))
    assert (type(ours), ours) == (tuple, theirs)


# Errors of a step. torch has counted the step by then.


def failing(who, make, steps):
    opt = optimizer()
    scheduler = make(WHO[who], opt)
    opt._opt_called = True
    return [(outcome(scheduler.step), shown(scheduler)) for _ in range(steps)]


class Stumbles:
    def __init__(self):
        self.calls = 0

    def __call__(self, epoch):
        self.calls += 1
        if self.calls == 4:
            raise RuntimeError("stumbled")
        return 0.5


STUMBLING = {
    "OneCycleLR past its end": lambda m, o: m.OneCycleLR(o, 1.0, total_steps=3),
    "StepLR of size 0": lambda m, o: m.StepLR(o, 0),
    "CosineAnnealingLR of length 0": lambda m, o: m.CosineAnnealingLR(o, 0),
    "ConstantLR of factor 0": lambda m, o: m.ConstantLR(o, factor=0, total_iters=2),
    "LambdaLR": lambda m, o: m.LambdaLR(o, [Stumbles() for _ in o.param_groups]),
    "LambdaLR text": lambda m, o: m.LambdaLR(o, lambda epoch: "text" if epoch == 2 else 1.0),
    "LambdaLR None": lambda m, o: m.LambdaLR(o, lambda epoch: None if epoch == 2 else 1.0),
    "LambdaLR huge": lambda m, o: m.LambdaLR(o, lambda epoch: 10**400 if epoch == 2 else 1.0),
    "MultiplicativeLR": lambda m, o: m.MultiplicativeLR(o, [Stumbles() for _ in o.param_groups]),
    "ExponentialLR of text": lambda m, o: m.ExponentialLR(o, "text"),
    "ExponentialLR of None": lambda m, o: m.ExponentialLR(o, None),
    "CyclicLR": lambda m, o: m.CyclicLR(
        o, 0.1, 1.0, 4, scale_fn=lambda x: 1 / (x - 5), scale_mode="iterations", cycle_momentum=False
    ),
}


@pytest.mark.parametrize("case", STUMBLING)
def test_a_step_that_fails_leaves_what_torchs_leaves(case):
    assert failing("ours", STUMBLING[case], 6) == failing("torch", STUMBLING[case], 6)


def test_no_error_of_a_step_prints_a_tensor():
    scheduler = made("ours", "ExponentialLR", optimizer())
    scheduler.gamma = "text"
    assert "arameter" not in outcome(scheduler.step)[1]


# Functions


@pytest.mark.parametrize("lrs", ["several", "mixed", "tensors", "ints"])
@pytest.mark.parametrize(
    "result", [0.5, 2, torch.tensor(0.5), np.float32(0.5)], ids=["float", "int", "tensor", "numpy"]
)
@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_functions_are_called_once_a_step_and_in_torchs_order(name, lrs, result):
    def run(m):
        calls = []
        opt = optimizer(lrs)

        def noting(i):
            return lambda epoch: (calls.append((i, epoch)), result)[1]

        scheduler = getattr(m, name)(opt, [noting(i) for i in range(len(opt.param_groups))])
        opt._opt_called = True
        trajectory(scheduler, 4)
        return calls

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("lrs", ["several", "mixed"])
def test_a_function_is_called_no_oftener_than_torchs(lrs):
    def run(m):
        calls = []
        opt = optimizer(lrs)
        scheduler = m.LambdaLR(opt, lambda epoch: calls.append(epoch) or 0.5)
        opt._opt_called = True
        trajectory(scheduler, 4)
        return len(calls)

    assert run(OURS) <= run(TORCH)


@pytest.mark.parametrize("mode", ["cycle", "iterations"])
@pytest.mark.parametrize("momentum", [0.9, torch.tensor(0.9)], ids=["float", "tensor"])
@pytest.mark.parametrize("lrs", ["one", "several", "mixed"])
def test_a_scale_function_is_called_no_oftener_than_torchs(lrs, momentum, mode):
    def run(m):
        calls = []
        opt = optimizer(lrs)
        scheduler = m.CyclicLR(
            opt, 0.1, 1.0, 3, scale_fn=lambda x: calls.append(x) or 0.5, scale_mode=mode, max_momentum=momentum
        )
        opt._opt_called = True
        trajectory(scheduler, 4)
        return len(calls)

    assert run(OURS) <= run(TORCH)


def test_a_function_sees_the_epoch_that_is_being_made():
    def run(m):
        seen = []
        opt = optimizer([0.1])
        holder = []
        scheduler = m.LambdaLR(opt, lambda epoch: seen.append((epoch, [s.last_epoch for s in holder])) or 1.0)
        holder.append(scheduler)
        opt._opt_called = True
        trajectory(scheduler, 3)
        return seen

    assert run(OURS) == run(TORCH)


def test_a_scale_function_sees_the_epoch_that_is_being_made():
    def run(m):
        seen = []
        opt = optimizer([0.1])
        holder = []
        scheduler = m.CyclicLR(
            opt, 0.1, 1.0, scale_fn=lambda x: seen.append([s.last_epoch for s in holder]) or 1.0, cycle_momentum=False
        )
        holder.append(scheduler)
        opt._opt_called = True
        trajectory(scheduler, 3)
        return seen

    assert run(OURS) == run(TORCH)


@dataclasses.dataclass
class Named:
    name: str
    base: float = dataclasses.field(compare=False)

    def __call__(self, epoch):
        return self.base**epoch


def test_functions_that_are_equal_but_not_the_same_are_each_called():
    def run(m):
        opt = optimizer([0.1, 0.1])
        scheduler = m.LambdaLR(opt, [Named("decay", 0.5), Named("decay", 0.25)])
        opt._opt_called = True
        return trajectory(scheduler, 3)

    assert run(OURS) == run(TORCH)


class Comparing:
    """Comparisons of arrays are arrays."""

    __hash__ = None

    def __eq__(self, other):
        return np.array([True, False])

    def __call__(self, epoch):
        return 0.5**epoch


def test_functions_need_not_be_comparable():
    opt = optimizer([1.0, 1.0])
    scheduler = OURS.LambdaLR(opt, [Comparing(), Comparing()])
    opt._opt_called = True
    scheduler.step()
    assert scheduler.get_last_lr() == [0.5, 0.5]


def test_a_function_that_writes_lrs_is_obeyed_as_torchs():
    def run(m):
        opt = optimizer([0.1, 0.2])

        def writes(epoch):
            opt.param_groups[1]["lr"] = 0.5 + epoch
            return 0.5

        scheduler = m.MultiplicativeLR(opt, [writes, lambda epoch: 0.25])
        opt._opt_called = True
        return trajectory(scheduler, 4)

    assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("result", [torch.tensor(0.5), np.float32(0.1), np.int64(2), 3, True, math.nan, -0.0])
def test_a_function_may_return_any_number(result):
    def run(m):
        opt = optimizer()
        scheduler = m.LambdaLR(opt, lambda epoch: result if epoch else 1.0)
        opt._opt_called = True
        trajectory(scheduler, 3)
        return [float(lr) for lr in scheduler.get_last_lr()]

    np.testing.assert_array_equal(run(OURS), run(TORCH))


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_the_state_of_a_function_object_is_saved(name):
    scheduler = getattr(OURS, name)(optimizer(), Power(0.7))
    other = getattr(OURS, name)(optimizer(), Power(0.2))
    other.load_state_dict(scheduler.state_dict())
    assert other.lr_lambdas[0].base == 0.7


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_a_plain_function_is_not_saved(name):
    assert getattr(OURS, name)(optimizer(), decay).state_dict()["lr_lambdas"] == [None] * 4


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_loading_leaves_the_state_dict_whole(name):
    state = getattr(OURS, name)(optimizer(), decay).state_dict()
    before = exact(state)
    getattr(OURS, name)(optimizer(), decay).load_state_dict(state)
    assert exact(state) == before


def test_the_state_of_a_scale_function_object_is_saved():
    scheduler = OURS.CyclicLR(optimizer(), 0.1, 1.0, scale_fn=Power(0.7))
    other = OURS.CyclicLR(optimizer(), 0.1, 1.0, scale_fn=Power(0.2))
    other.load_state_dict(scheduler.state_dict())
    assert other._scale_fn_custom.base == 0.7


@pytest.mark.parametrize("mode", ["triangular", "triangular2", "exp_range"])
def test_a_cycle_that_was_loaded_scales_by_the_loaded_mode(mode):
    scheduler = OURS.CyclicLR(optimizer(), 0.1, 1.0, 3, mode=mode, gamma=0.9)
    other = OURS.CyclicLR(optimizer(), 0.5, 2.0, 5, mode="triangular")
    other.load_state_dict(scheduler.state_dict())
    for each in (scheduler, other):
        each.optimizer._opt_called = True
    assert [row[1] for row in trajectory(other, 9)] == [row[1] for row in trajectory(scheduler, 9)]


# Attributes and state dicts


@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_attributes_are_torchs(case, lrs):
    ours, theirs = (made(who, case, optimizer(lrs, momentum=0.9)) for who in WHO)
    trajectory(ours, 7), trajectory(theirs, 7)
    assert attributes(ours) == attributes(theirs)


@pytest.mark.parametrize("steps", [0, 1, 7])
@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_the_state_dict_is_torchs(case, lrs, steps):
    ours, theirs = (made(who, case, optimizer(lrs, momentum=0.9)) for who in WHO)
    for _ in range(steps):
        ours.step()
        theirs.step()
    assert exact(ours.state_dict()) == exact(theirs.state_dict())


@pytest.mark.parametrize(
    ("case", "name", "value"),
    [
        ("StepLR", "gamma", 0.5),
        ("StepLR", "step_size", 2),
        ("MultiStepLR", "milestones", {3: 1, 4: 2}),
        ("ConstantLR", "total_iters", 2),
        ("LinearLR", "end_factor", 0.8),
        ("LinearLR", "total_iters", 9),
        ("ExponentialLR", "gamma", 0.5),
        ("PolynomialLR", "power", 2.0),
        ("CosineAnnealingLR", "T_max", 6),
        ("CosineAnnealingLR", "eta_min", 0.01),
        ("CosineAnnealingWarmRestarts 2", "T_i", 9),
        ("CosineAnnealingWarmRestarts 2", "base_lrs", [1.0, 2.0, 3.0, 4.0]),
        ("CosineAnnealingWarmRestarts 2", "base_lrs", (1.0, 2.0, 3.0, 4.0)),
        ("LambdaLR", "base_lrs", [1, 2.0, 3, 4.0]),
        ("LambdaLR", "base_lrs", (1.0, 2.0, 3.0, 4.0)),
        ("LambdaLR", "base_lrs", np.array([1.0, 2.0, 3.0, 4.0])),
        ("LambdaLR", "base_lrs", [1.0]),
        ("LambdaLR", "lr_lambdas", [half] * 4),
        ("LambdaLR", "lr_lambdas", (half, decay, decay, half)),
        ("LambdaLR", "lr_lambdas", [half]),
        ("MultiplicativeLR", "lr_lambdas", [half]),
        ("CyclicLR", "max_lrs", (1.0, 2.0, 3.0, 4.0)),
        ("CyclicLR", "base_momentums", (0.1, 0.2, 0.3, 0.4)),
        ("CyclicLR", "total_size", 5.0),
        ("CyclicLR", "cycle_momentum", False),
        ("OneCycleLR", "total_steps", 4),
        ("OneCycleLR", "cycle_momentum", False),
        ("SWALR", "anneal_epochs", 3),
        ("StepLR", "last_epoch", 8),
        ("StepLR", "last_epoch", -1),
        ("LinearLR", "last_epoch", -1),
        ("ConstantLR", "last_epoch", -1),
        ("PolynomialLR", "last_epoch", -1),
        ("ExponentialLR", "last_epoch", -1),
        ("MultiStepLR", "last_epoch", -1),
        ("CosineAnnealingLR", "last_epoch", -1),
        ("CosineAnnealingWarmRestarts 2", "last_epoch", -1),
    ],
)
def test_an_attribute_that_is_set_in_mid_run_is_obeyed_as_torchs(case, name, value):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        trajectory(scheduler, 3)
        setattr(scheduler, name, copy.copy(value))
        return [(outcome(scheduler.step), shown(scheduler)) for _ in range(7)]

    assert run("ours") == run("torch")


@pytest.mark.parametrize("gamma", [np.float64(0.9), np.float32(0.9), torch.tensor(0.9), 2, True, 10**400], ids=repr_of)
def test_gamma_may_be_any_number(gamma):
    def run(m):
        opt = optimizer([0.1, 0.3])
        scheduler = m.ExponentialLR(opt, gamma)
        opt._opt_called = True
        return [(outcome(scheduler.step), shown(scheduler)) for _ in range(3)]

    assert run(OURS) == run(TORCH)


def test_attributes_of_ones_own_are_saved():
    scheduler = made("ours", "StepLR", optimizer())
    scheduler.note = "mine"
    assert scheduler.state_dict()["note"] == "mine"


@pytest.mark.parametrize("step", [0, 1, 9])
@pytest.mark.parametrize("pair", [("ours", "torch"), ("torch", "ours"), ("ours", "ours")])
@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_from_a_state_dict_of_either(case, pair, step):
    def run(source, target):
        first = made(source, case, optimizer(momentum=0.9))
        trajectory(first, step)
        opt = optimizer([1.0, 2.0, 3.0, 4.0], momentum=0.9)
        resumed = made(target, case, opt)
        opt.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
        resumed.load_state_dict(copy.deepcopy(first.state_dict()))
        return trajectory(resumed, 12)

    assert run(*pair) == run("torch", "torch")


@pytest.mark.parametrize("case", [case for case in CASES if "tensor" not in case])
def test_a_resumed_run_is_the_run_that_was_not_interrupted(case):
    first, whole = (made("ours", case, optimizer(momentum=0.9)) for _ in range(2))
    trajectory(first, 7), trajectory(whole, 7)
    resumed = made("ours", case, optimizer([1.0, 2.0, 3.0, 4.0], momentum=0.9))
    resumed.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    resumed.load_state_dict(copy.deepcopy(first.state_dict()))
    assert trajectory(resumed, 12) == trajectory(whole, 12)


@pytest.mark.parametrize("case", CASES)
def test_a_used_scheduler_goes_back_to_a_state_dict_as_torchs(case):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        trajectory(scheduler, 3)
        state, held = copy.deepcopy(scheduler.state_dict()), copy.deepcopy(scheduler.optimizer.state_dict())
        for _ in range(4):
            scheduler.step()
        scheduler.load_state_dict(state)
        scheduler.optimizer.load_state_dict(held)
        return trajectory(scheduler, 6)

    assert run("ours") == run("torch")


# torch demands the key of the functions from the others
@pytest.mark.parametrize("case", [case for case in CLASSES if case not in ("LambdaLR", "MultiplicativeLR", "CyclicLR")])
def test_a_state_dict_with_some_keys_changes_only_these_as_torchs(case):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        for _ in range(3):
            scheduler.step()
        scheduler.load_state_dict({"last_epoch": 1})
        return trajectory(scheduler, 4)

    assert run("ours") == run("torch")


@pytest.mark.parametrize(
    ("case", "other"),
    [
        ("StepLR", "StepLR 1"),
        ("MultiStepLR", "MultiStepLR repeated"),
        ("ExponentialLR", "ExponentialLR up"),
        ("CosineAnnealingLR", "CosineAnnealingLR min"),
        ("CosineAnnealingWarmRestarts 2", "CosineAnnealingWarmRestarts"),
        ("SWALR", "SWALR linear"),
        ("OneCycleLR", "OneCycleLR three linear"),
        ("CyclicLR", "CyclicLR exp"),
        ("LinearLR", "LinearLR down"),
        ("PolynomialLR", "PolynomialLR power"),
    ],
)
def test_loading_makes_a_scheduler_with_other_parameters_equal(case, other):
    first, second = made("ours", case, optimizer(momentum=0.9)), made("ours", other, optimizer(momentum=0.9))
    trajectory(first, 10)
    second.load_state_dict(first.state_dict())
    assert attributes(second) == attributes(first)


@pytest.mark.parametrize("lrs", ["several", "tensors"])
@pytest.mark.parametrize("case", [case for case in CASES if "numpy" not in case])
def test_a_state_dict_is_read_with_weights_only(case, lrs):
    scheduler = made("ours", case, optimizer(lrs, momentum=0.9))
    for _ in range(3):
        scheduler.step()
    state = scheduler.state_dict()
    assert exact(saved(state)) == exact(state)


def test_a_one_cycle_of_an_old_checkpoint_goes_on_as_torchs():
    def run(m):
        opt = optimizer()
        scheduler = m.OneCycleLR(opt, max_lr=25, total_steps=10)
        del scheduler._anneal_func_type
        state = scheduler.state_dict()
        state["anneal_func"] = torch_schedulers.OneCycleLR._annealing_cos
        scheduler.load_state_dict(state)
        opt._opt_called = True
        return trajectory(scheduler, 9)

    assert run(OURS) == run(TORCH)


# Copies


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_deep_copy_goes_on_by_itself(case, fresh):
    scheduler = made("ours", case, optimizer(momentum=0.9))
    if not fresh:
        for _ in range(5):
            scheduler.step()
    twin = copy.deepcopy(scheduler)
    twin.optimizer._opt_called = True
    before = shown(scheduler)
    rows = trajectory(twin, 8) if not fresh else []
    assert shown(scheduler) == before
    assert rows == ([] if fresh else trajectory(scheduler, 8))


@pytest.mark.parametrize(
    "case", [case for case in CASES if case not in ("LambdaLR int", "LambdaLR numpy", "LambdaLR bool")]
)
def test_a_pickled_scheduler_goes_on_by_itself(case):
    scheduler = made("ours", case, optimizer(momentum=0.9))
    for _ in range(5):
        scheduler.step()
    if case == "CyclicLR function":
        return
    twin = pickle.loads(pickle.dumps(scheduler))
    assert trajectory(twin, 8) == trajectory(scheduler, 8)


@pytest.mark.parametrize("case", COMPOSED)
def test_a_composition_is_copied_with_its_optimizer(case):
    scheduler = composed(case, "ours", optimizer())
    for _ in range(5):
        scheduler.step()
    twin = copy.deepcopy(scheduler)
    with quiet():  # of torch, that the copy's optimizer.step() is another
        assert trajectory(twin, 8) == trajectory(scheduler, 8)


def test_a_copy_shares_the_optimizer():
    scheduler = made("ours", "StepLR 1", optimizer([1.0]))
    scheduler.step()
    twin = copy.copy(scheduler)
    assert (twin.optimizer is scheduler.optimizer, twin.get_last_lr()) == (True, [0.97])


# get_last_lr is a snapshot


@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("case", CASES)
def test_a_list_of_last_lrs_stays_as_it_is(case, lrs):
    scheduler = made("ours", case, optimizer(lrs, momentum=0.9))
    held, before = [scheduler.get_last_lr()], [exact(scheduler.get_last_lr())]
    for _ in range(6):
        scheduler.step()
        held.append(scheduler.get_last_lr())
        before.append(exact(held[-1]))
    assert [exact(each) for each in held] == before


@pytest.mark.parametrize("read", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_written_lr_does_not_change_the_last_lr(case, read):
    scheduler = made("ours", case, optimizer(momentum=0.9))
    twin = made("torch", case, optimizer(momentum=0.9))
    for each in (scheduler, twin):
        for _ in range(3):
            each.step()
        if read:
            each.get_last_lr()
        for group in each.optimizer.param_groups:
            group["lr"] = 123.0
    assert exact(scheduler.get_last_lr()) == exact(twin.get_last_lr())


def test_a_step_of_another_scheduler_does_not_change_the_last_lr():
    opt = optimizer([1.0])
    first, second = made("ours", "StepLR 1", opt), made("ours", "ExponentialLR", opt)
    first.step()
    second.step()
    assert first.get_last_lr() == [0.97]


def test_writing_into_a_last_lr_does_not_change_a_tensor_lr():
    scheduler = made("ours", "StepLR 1", optimizer("tensors"))
    scheduler.step()
    before = groups(scheduler.optimizer)
    scheduler.get_last_lr()[0].fill_(9.0)
    assert groups(scheduler.optimizer) == before


def test_a_tensor_lr_that_is_filled_does_not_change_the_last_lr():
    scheduler = made("ours", "StepLR 1", optimizer("tensors"))
    scheduler.step()
    before = exact(scheduler.get_last_lr())
    scheduler.optimizer.param_groups[0]["lr"].fill_(9.0)
    assert exact(scheduler.get_last_lr()) == before


@pytest.mark.parametrize("case", ["LambdaLR", "MultiplicativeLR each", "CosineAnnealingWarmRestarts 2", "CyclicLR"])
@pytest.mark.parametrize("read", [False, True])
def test_a_step_that_fails_for_a_new_group_leaves_torchs_last_lr(case, read):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        scheduler.step()
        if read:
            scheduler.get_last_lr()
        scheduler.optimizer.param_groups[0]["lr"] = 5.0
        scheduler.optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
        return outcome(scheduler.step), exact(scheduler.get_last_lr())

    assert run("ours") == run("torch")


def test_a_scheduler_that_never_stepped_has_no_last_lr_as_torchs():
    def run(m):
        class Silent(m.LRScheduler):
            def step(self):
                pass

        return outcome(Silent(optimizer()).get_last_lr)[0]

    assert run(OURS) is run(TORCH)


def test_a_missing_last_lr_is_missing_as_an_attribute():
    class Silent(OURS.LRScheduler):
        def step(self):
            pass

    assert not hasattr(Silent(optimizer()), "_last_lr")


# The optimizer is changed between steps

WRITES = {
    "float": lambda opt: opt.param_groups[0].update(lr=0.7),
    "all": lambda opt: [group.update(lr=0.25 + i) for i, group in enumerate(opt.param_groups)],
    "int": lambda opt: opt.param_groups[1].update(lr=1),
    "tensor": lambda opt: opt.param_groups[0].update(lr=torch.tensor(0.3)),
    "numpy": lambda opt: opt.param_groups[2].update(lr=np.float64(0.3)),
    "in place": lambda opt: opt.param_groups[0].__setitem__("lr", opt.param_groups[0]["lr"] * 0.5),
    "nan": lambda opt: opt.param_groups[0].update(lr=math.nan),
    "another key": lambda opt: opt.param_groups[0].update(name="first"),
    "initial_lr": lambda opt: opt.param_groups[0].update(initial_lr=3.0),
    "momentum": lambda opt: opt.param_groups[0].update(momentum=0.1),
    "int momentum": lambda opt: opt.param_groups[0].update(momentum=0),
    "max_lr": lambda opt: opt.param_groups[0].update(max_lr=9.0, min_lr=1e-9, max_momentum=0.5),
    "popped": lambda opt: opt.param_groups[0].__setitem__("lr", opt.param_groups[0].pop("lr")),
    "missing": lambda opt: opt.param_groups[0].pop("lr"),
    "replaced dict": lambda opt: opt.param_groups.__setitem__(0, dict(opt.param_groups[0], lr=0.11)),
    "replaced list": lambda opt: setattr(opt, "param_groups", [dict(group) for group in opt.param_groups]),
    "reversed": lambda opt: opt.param_groups.reverse(),
    "fewer": lambda opt: opt.param_groups.pop(),
    "loaded": lambda opt: opt.load_state_dict(copy.deepcopy(opt.state_dict())),
    "more": lambda opt: opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]}),
    "more with lr": lambda opt: opt.add_param_group(
        {
            "params": [torch.nn.Parameter(torch.ones(1))],
            "lr": 0.3,
            "initial_lr": 0.3,
            "max_lr": 1.0,
            "min_lr": 1e-5,
            "swa_lr": 0.1,
            "max_momentum": 0.9,
            "base_momentum": 0.8,
        }
    ),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("case", [*CLASSES, "LambdaLR each", "MultiplicativeLR each", "OneCycleLR no momentum"])
def test_a_change_between_steps_is_taken_up_as_torchs(case, write):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        for _ in range(3):
            scheduler.step()
        WRITES[write](scheduler.optimizer)
        return [
            (outcome(scheduler.step), groups(scheduler.optimizer), exact(scheduler.get_last_lr())) for _ in range(4)
        ]

    assert run("ours") == run("torch")


@pytest.mark.parametrize("case", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize(
    "betas", [(0.5, 0.9), [0.5, 0.9], (torch.tensor(0.5), 0.9), (0.5, 0.9, 0.99), (1, 0), (0.5,), [], None]
)
def test_betas_that_are_written_between_steps_are_taken_up_as_torchs(case, betas):
    def run(who):
        scheduler = made(who, case, optimizer(cls=torch.optim.Adam))
        for _ in range(3):
            scheduler.step()
        scheduler.optimizer.param_groups[1]["betas"] = copy.copy(betas)
        return [(outcome(scheduler.step), groups(scheduler.optimizer)) for _ in range(4)]

    assert run("ours") == run("torch")


def test_the_optimizer_of_a_scheduler_may_be_replaced():
    def run(m):
        scheduler = m.ExponentialLR(optimizer(), 0.5)
        scheduler.optimizer._opt_called = True
        scheduler.step()
        scheduler.optimizer = optimizer([2.0, 3.0])
        return trajectory(scheduler, 3)

    with quiet():
        assert run(OURS) == run(TORCH)


@pytest.mark.parametrize("case", CLASSES)
def test_an_optimizer_that_is_loaded_in_mid_run_is_stepped_as_torchs(case):
    def run(who):
        scheduler = made(who, case, optimizer(momentum=0.9))
        state = copy.deepcopy(scheduler.optimizer.state_dict())
        rows = trajectory(scheduler, 4)
        scheduler.optimizer.load_state_dict(state)
        return rows + trajectory(scheduler, 4)

    assert run("ours") == run("torch")


@pytest.mark.parametrize("case", CLASSES)
def test_the_tensors_that_were_given_are_not_tied_to_the_scheduler(case):
    lr = torch.tensor(0.1)
    scheduler = made("ours", case, optimizer([lr], momentum=0.9))
    before = exact((scheduler.base_lrs, scheduler.optimizer.param_groups[0]["initial_lr"]))
    lr.mul_(0.5)
    scheduler.step()
    assert exact((scheduler.base_lrs, scheduler.optimizer.param_groups[0]["initial_lr"])) == before


@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR", "SWALR"])
def test_the_tensor_bounds_that_were_given_are_not_tied_to_the_scheduler(name):
    def run(m):
        given = [torch.tensor(value) for value in (0.1, 0.2, 0.8, 0.9)]
        momenta = {"base_momentum": given[2], "max_momentum": given[3]}
        opt = optimizer([torch.tensor(0.1)])
        if name == "CyclicLR":
            scheduler = m.CyclicLR(opt, given[0], given[1], **momenta)
        elif name == "OneCycleLR":
            scheduler = m.OneCycleLR(opt, given[1], total_steps=10, **momenta)
        else:
            scheduler = m.SWALR(opt, swa_lr=given[0])
        opt._opt_called = True
        for value in given:
            value.mul_(0.5)
        return trajectory(scheduler, 4)

    assert run(OURS) == run(TORCH)


def random_run(m, seed):
    """A random scheduler and random things done to it; both modules get the same ones."""
    choose = random.Random(seed)
    # an int lr times an int is an int in torch and a float here, which is the same number
    case = choose.choice([case for case in CASES if case.split()[-1] not in ("tensor", "numpy", "int", "bool")])
    opt = optimizer(choose.choice(["several", "several", "mixed", "int and float"]), momentum=0.9)
    scheduler = CASES[case](m, opt)
    opt._opt_called = True
    rows, held = [case], []
    for _ in range(30):
        action = choose.choice(
            ["step"] * 8 + ["epoch", "write", "tensor", "load", "state", "copy", "last", "hold", "add", "set"]
        )
        number, which = choose.random(), choose.randrange(len(opt.param_groups))
        group = opt.param_groups[which]

        def do(action=action, number=number, group=group):
            nonlocal scheduler, opt
            if action == "step":
                scheduler.step()
            elif action == "epoch":
                with quiet():
                    scheduler.step(int(30 * number))
            elif action == "write":
                group["lr"] = number
            elif action == "tensor":
                group["lr"] = torch.tensor(number) if number < 0.3 else number
            elif action == "load":
                opt.load_state_dict(copy.deepcopy(opt.state_dict()))
            elif action == "state":
                scheduler.load_state_dict(copy.deepcopy(scheduler.state_dict()))
            elif action == "copy":
                scheduler = copy.deepcopy(scheduler)
                opt = scheduler.optimizer
            elif action == "last":
                rows.append(exact(scheduler.get_last_lr()))
            elif action == "hold":
                held.append((group["lr"], exact(group["lr"]), group["momentum"], exact(group["momentum"])))
            elif action == "add" and number < 0.2:
                opt.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))], "lr": number})
            elif action == "set":
                group["momentum"] = number

        rows.append((action, outcome(do), groups(opt), scheduler.last_epoch))
    rows.append(exact(scheduler.get_last_lr()))
    floats = [(lr, before) for lr, before, *_ in held if isinstance(lr, float)]
    floats += [(value, before) for *_, value, before in held if isinstance(value, float)]
    return rows, [(exact(value), before) for value, before in floats]


@pytest.mark.parametrize("seed", range(150))
def test_whatever_is_done_leaves_torchs_bits(seed):
    assert random_run(OURS, seed)[0] == random_run(TORCH, seed)[0]


@pytest.mark.parametrize("seed", range(40))
def test_whatever_is_done_a_float_that_is_held_stays(seed):
    assert all(now == before for now, before in random_run(OURS, seed)[1])


# A float that somebody holds


@pytest.mark.parametrize("case", [case for case in CASES if "tensor" not in case])
def test_a_float_that_was_read_never_changes(case):
    opt = optimizer(cls=torch.optim.Adam)
    scheduler = made("ours", case, opt)
    held = []
    for step in range(30):
        scheduler.step()
        if step % 4 != 1:  # not always: what nobody reads is overwritten
            held += [(group["lr"], exact(group["lr"])) for group in opt.param_groups]
            held += [(group["betas"], exact(group["betas"])) for group in opt.param_groups]
            held += [(group["betas"][0], exact(group["betas"][0])) for group in opt.param_groups]
    assert all(exact(value) == before for value, before in held)


@pytest.mark.parametrize("case", MOMENTUM)
def test_a_momentum_that_was_read_never_changes(case):
    opt = optimizer(momentum=0.9)
    scheduler = made("ours", case, opt)
    held = []
    for step in range(30):
        scheduler.step()
        if step % 4 != 1:
            held += [(group["momentum"], exact(group["momentum"])) for group in opt.param_groups]
    assert all(exact(value) == before for value, before in held)


HOLDERS = {
    "a copy of the group": lambda opt: [dict(group) for group in opt.param_groups],
    "a shallow copy of the groups": lambda opt: [copy.copy(group) for group in opt.param_groups],
    "a state dict": lambda opt: opt.state_dict()["param_groups"],
    "the values": lambda opt: [{"all": list(group.values())[1:]} for group in opt.param_groups],
    "the items": lambda opt: [{"items": list(group.items())[1:]} for group in opt.param_groups],
    "a set": lambda opt: [{"set": sorted({group["lr"]})} for group in opt.param_groups],
}


@pytest.mark.parametrize("holder", HOLDERS)
@pytest.mark.parametrize("case", CLASSES)
def test_what_was_copied_out_of_the_groups_never_changes(case, holder):
    opt = optimizer(cls=torch.optim.Adam)
    scheduler = made("ours", case, opt)
    scheduler.step()
    scheduler.step()
    held = HOLDERS[holder](opt)
    before = [exact({key: value for key, value in each.items() if key != "params"}) for each in held]
    for _ in range(3):
        scheduler.step()
    assert [exact({key: value for key, value in each.items() if key != "params"}) for each in held] == before


def test_a_float_that_is_held_by_the_first_of_two_schedulers_readers_never_changes():
    opt = optimizer([1.0, 2.0])
    both = [made("ours", "StepLR 1", opt), made("ours", "ExponentialLR", opt)]
    held = []
    for _ in range(10):
        for scheduler in both:
            scheduler.step()
            held.append((opt.param_groups[0]["lr"], exact(opt.param_groups[0]["lr"])))
    assert all(exact(value) == before for value, before in held)


def test_a_float_that_was_written_by_hand_never_changes():
    opt = optimizer([1.0])
    scheduler = made("ours", "StepLR 1", opt)
    scheduler.step()
    mine = float("0.625")
    opt.param_groups[0]["lr"] = mine
    for _ in range(3):
        scheduler.step()
    assert mine == 0.625


def test_an_lr_that_serves_as_another_value_too_does_not_take_it_along():
    opt = optimizer([1.0])
    scheduler = made("ours", "StepLR 1", opt)
    for _ in range(3):
        scheduler.step()
    opt.param_groups[0]["weight_decay"] = opt.param_groups[0]["lr"]
    before = exact(opt.param_groups[0]["weight_decay"])
    for _ in range(3):
        scheduler.step()
    assert exact(opt.param_groups[0]["weight_decay"]) == before


# Memory


@pytest.mark.parametrize("cls", [torch.optim.SGD, fs.optim.SGD])
@pytest.mark.parametrize("case", [case for case in CLASSES if case not in ("SWALR", "CyclicLR")])
def test_optimizer_and_scheduler_go_without_the_garbage_collector(case, cls):
    gc.disable()
    try:
        opt = optimizer(cls=cls, momentum=0.9)
        scheduler = made("ours", case, opt)
        opt.step()
        scheduler.step()
        scheduler.step()
        alive = [weakref.ref(opt), weakref.ref(scheduler), weakref.ref(opt.param_groups[0]["params"][0])]
        del opt, scheduler
        assert [each() for each in alive] == [None] * 3
    finally:
        gc.enable()


@pytest.mark.parametrize("case", CLASSES)
def test_a_scheduler_that_is_dropped_leaves_nothing_on_the_optimizer(case):
    gc.disable()
    try:
        opt = optimizer(momentum=0.9)
        made("ours", case, opt).step()
        alive = weakref.ref(opt)
        if case in ("SWALR", "CyclicLR"):
            gc.collect()  # torch's hold bound methods of their own
        del opt
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("where", ["group", "hook"])
@pytest.mark.parametrize("m", WHO)
def test_a_group_that_holds_its_scheduler_is_collected(m, where):
    opt = optimizer(momentum=0.9)
    scheduler = made(m, "OneCycleLR", opt)
    scheduler.step()
    scheduler.step()
    if where == "group":
        opt.param_groups[0]["scheduler"] = scheduler
    else:
        opt.param_groups[0]["params"][0].register_hook(lambda grad, scheduler=scheduler: grad)
    alive = weakref.ref(scheduler)
    del opt, scheduler
    gc.collect()
    assert alive() is None


def test_groups_that_were_replaced_go_after_the_next_step():
    class Group(dict):
        __slots__ = ("__weakref__",)

    opt = optimizer([0.1])
    opt.param_groups[0] = Group(opt.param_groups[0])
    scheduler = made("ours", "StepLR 1", opt)
    scheduler.step()
    alive = weakref.ref(opt.param_groups[0])
    opt.param_groups[0] = dict(opt.param_groups[0])
    scheduler.step()
    assert alive() is None


# Classes of users


def noam(m):
    class Noam(m.LRScheduler):
        def __init__(self, optimizer, warmup, last_epoch=-1):
            self.warmup = warmup
            super().__init__(optimizer, last_epoch)

        def get_lr(self):
            t = self.last_epoch + 1
            return [base * min(t**-0.5, t * self.warmup**-1.5) for base in self.base_lrs]

    return lambda opt: Noam(opt, 4)


def own_get_lr(m):
    class Own(m.StepLR):
        def get_lr(self):
            return [7.0 + self.last_epoch for _ in self.optimizer.param_groups]

    return lambda opt: Own(opt, 3)


def more_get_lr(m):
    class Floor(m.CosineAnnealingLR):
        def get_lr(self):
            return [max(lr, 0.01) for lr in super().get_lr()]

    return lambda opt: Floor(opt, 6)


def grandchild(m):
    class Own(m.ExponentialLR):
        def get_lr(self):
            return [2 * lr for lr in super().get_lr()]

    class Grandchild(Own):
        pass

    return lambda opt: Grandchild(opt, 0.9)


def mixed_in(m):
    class Flat:
        def get_lr(self):
            return [7.0 for _ in self.optimizer.param_groups]

    class Mixed(Flat, m.StepLR):
        pass

    return lambda opt: Mixed(opt, 1)


def on_the_instance(m):
    def make(opt):
        scheduler = m.StepLR(opt, 1)
        scheduler.get_lr = lambda: [3.0 for _ in opt.param_groups]
        return scheduler

    return make


def own_step(m):
    class Twice(m.StepLR):
        def step(self, epoch=None):
            super().step(epoch)
            super().step(epoch)

    return lambda opt: Twice(opt, 3)


def own_restart_step(m):
    class Counting(m.CosineAnnealingWarmRestarts):
        def step(self, epoch=None):
            self.steps = getattr(self, "steps", 0) + 1
            super().step(epoch)

    return lambda opt: Counting(opt, 3, 2)


def own_restart_get_lr(m):
    class Half(m.CosineAnnealingWarmRestarts):
        def get_lr(self):
            return [0.5 * lr for lr in super().get_lr()]

    return lambda opt: Half(opt, 3, 2)


def own_curve(m):
    class Square(m.OneCycleLR):
        @staticmethod
        def _annealing_cos(start, end, pct):
            return start + (end - start) * pct * pct

    return lambda opt: Square(opt, 1.0, total_steps=40)


def own_line(m):
    class Square(m.OneCycleLR):
        @staticmethod
        def _annealing_linear(start, end, pct):
            return start + (end - start) * pct * pct

    return lambda opt: Square(opt, 1.0, total_steps=40, anneal_strategy="linear")


def own_anneal(m):
    class Square(m.OneCycleLR):
        def _anneal_func(self, start, end, pct):
            return start + (end - start) * pct * pct

    return lambda opt: Square(opt, 1.0, total_steps=40)


def own_scale(m):
    class Scaled(m.CyclicLR):
        def scale_fn(self, x):
            return 0.25 * x

    return lambda opt: Scaled(opt, 0.1, 1.0, 4)


def own_update(m):
    class Noting(m.StepLR):
        def _update_lr(self, epoch=None):
            super()._update_lr(epoch)
            self.updates = getattr(self, "updates", 0) + 1

    return lambda opt: Noting(opt, 2)


def own_property(m):
    class Falling(m.ExponentialLR):
        @property
        def gamma(self):
            return 1 / (2 + self.last_epoch)

        @gamma.setter
        def gamma(self, value):
            pass

    return lambda opt: Falling(opt, 0.9)


def with_slots(m):
    class Slotted(m.StepLR):
        __slots__ = ("extra",)

    return lambda opt: Slotted(opt, 2)


OWN = [
    noam,
    own_get_lr,
    more_get_lr,
    grandchild,
    mixed_in,
    on_the_instance,
    own_step,
    own_restart_step,
    own_restart_get_lr,
    own_curve,
    own_line,
    own_anneal,
    own_scale,
    own_update,
    own_property,
    with_slots,
]


@pytest.mark.parametrize("lrs", ["several", "mixed"])
@pytest.mark.parametrize("own", OWN, ids=lambda own: own.__name__)
def test_a_class_of_ones_own_behaves_as_over_torchs(own, lrs):
    def run(m):
        opt = optimizer(lrs, momentum=0.9)
        opt._opt_called = True
        scheduler = own(m)(opt)
        return trajectory(scheduler, 12), attributes(scheduler)

    assert run(OURS) == run(TORCH)


def test_a_class_whose_get_lr_wants_arguments_is_refused_as_torchs():
    def run(m):
        class Wrong(m.LRScheduler):
            def get_lr(self, step):
                return [1.0]

        return outcome(lambda: Wrong(optimizer()))[0]

    assert run(OURS) is run(TORCH) is TypeError


def test_a_load_state_dict_of_ones_own_brings_the_lrs():
    def run(m):
        class Own(m.StepLR):
            def load_state_dict(self, state_dict):
                self.__dict__.update(state_dict)

        opt = optimizer()
        scheduler = Own(opt, 1)
        opt._opt_called = True
        state = copy.deepcopy(scheduler.state_dict())
        scheduler.step()
        scheduler.load_state_dict(state)
        return exact(scheduler.get_last_lr())

    assert run(OURS) == run(TORCH)


def test_a_class_of_ones_own_over_torchs_base_class_composes_with_ours():
    class Own(torch_schedulers.LRScheduler):
        def get_lr(self):
            return [base / (1 + self.last_epoch) for base in self.base_lrs]

    opt = optimizer([1.0])
    scheduler = OURS.SequentialLR(opt, [Own(opt), OURS.StepLR(opt, 1)], milestones=[2])
    opt._opt_called = True
    assert [scheduler.step() or scheduler.get_last_lr()[0] for _ in range(4)] == pytest.approx([0.5, 1.0, 0.1, 0.01])


def test_timed_hooks_on_the_optimizer_still_run():
    opt = optimizer([1.0])
    calls = []
    opt.register_step_post_hook(lambda *args: calls.append(1))
    scheduler = OURS.StepLR(opt, 1)
    opt.step()
    scheduler.step()
    opt.step()
    assert calls == [1, 1]


# The optimizers of this package read group["lr"] natively


def trained(opt_class, who, case, lrs="several", steps=12, **options):
    """The weights after every step; fixed gradients."""
    opt = optimizer(lrs, opt_class, **options)
    scheduler = CASES[case](WHO[who], opt)
    rows = []
    for step in range(steps):
        for index, group in enumerate(opt.param_groups):
            for p in group["params"]:
                p.grad = torch.full_like(p, 0.5 + index + 0.125 * step)
        opt.step()
        scheduler.step()
        rows.append([p.detach().tolist() for group in opt.param_groups for p in group["params"]])
    return rows, groups(opt)


@pytest.mark.parametrize("name", ["SGD", "AdamW", "Adam", "Lion"])
@pytest.mark.parametrize("case", CLASSES)
def test_our_optimizers_use_every_value_that_is_written(case, name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    cls = getattr(fs.optim, name)
    assert trained(cls, "ours", case, **options) == trained(cls, "torch", case, **options)


@pytest.mark.parametrize("case", CLASSES)
def test_torchs_optimizers_use_every_value_that_is_written(case):
    assert trained(torch.optim.AdamW, "ours", case) == trained(torch.optim.AdamW, "torch", case)


@pytest.mark.parametrize("case", CLASSES)
def test_our_optimizer_with_our_scheduler_trains_as_torchs_with_torchs(case):
    ours, theirs = trained(fs.optim.AdamW, "ours", case), trained(torch.optim.AdamW, "torch", case)
    # float32 updates in another order of operations, 12 steps
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_lr_that_was_overwritten_in_place_serves_the_very_next_step(name):
    opt = optimizer([1.0], getattr(fs.optim, name), weight_decay=0.0)
    p = opt.param_groups[0]["params"][0]
    scheduler = made("ours", "StepLR 1", opt)
    scheduler.gamma = 0.5
    moved = []
    for _ in range(8):
        before = p.detach().clone()
        p.grad = torch.ones_like(p)
        opt.step()
        moved.append((before - p.detach())[0].item())
        scheduler.step()
    # AdamW moves by lr for a constant gradient, up to eps and the float32 of its weight
    np.testing.assert_allclose(moved, [0.5**i for i in range(8)], rtol=1e-3)


def test_two_optimizers_of_one_model_are_scheduled_apart():
    first, second = optimizer([1.0], fs.optim.SGD), optimizer([1.0], fs.optim.SGD)
    schedulers = [made("ours", "StepLR 1", first), made("ours", "ExponentialLR", second)]
    for scheduler in schedulers:
        scheduler.step()
    assert [opt.param_groups[0]["lr"] for opt in (first, second)] == [0.97, 0.9]


# ScheduleLR

SCHEDULES = {
    "Linear": fs.Linear(1.0, 0.0, steps=10),
    "Cosine": fs.Cosine(steps=9),
    "warmup": fs.Cosine(steps=20).warmup(5),
    "product": fs.Cosine(steps=20) * fs.Linear(1.0, 0.5, steps=7),
    "scaled": 0.3 * fs.Linear(0.0, 1.0, steps=4),
    "Constant": fs.Constant(0.25),
}


@pytest.mark.parametrize("lrs", ["one", "several", "ints", "int and float", "numpy"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_multiplies_every_initial_lr(name, lrs):
    opt = optimizer(lrs)
    scheduler = OURS.ScheduleLR(opt, SCHEDULES[name])
    opt._opt_called = True
    for step in range(25):
        expected = [float(base) * SCHEDULES[name](step) for base in LRS[lrs]()]
        assert ([float(group["lr"]) for group in opt.param_groups], step) == (expected, scheduler.last_epoch)
        scheduler.step()


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_leaves_the_bits_of_a_lambda_lr(name):
    ours, theirs = optimizer(), optimizer()
    first, second = OURS.ScheduleLR(ours, SCHEDULES[name]), TORCH.LambdaLR(theirs, SCHEDULES[name])
    ours._opt_called = theirs._opt_called = True
    assert trajectory(first, 25) == trajectory(second, 25)


@pytest.mark.parametrize("lrs", ["tensors", "mixed", "float64 tensor"])
def test_a_schedule_fills_tensor_lrs(lrs):
    opt = optimizer(lrs)
    tensors = [group["lr"] for group in opt.param_groups if isinstance(group["lr"], torch.Tensor)]
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    opt._opt_called = True
    for _ in range(3):
        scheduler.step()
    still = [group["lr"] for group in opt.param_groups if isinstance(group["lr"], torch.Tensor)]
    assert [id(t) for t in still] == [id(t) for t in tensors]
    expected = [float(base) * SCHEDULES["Linear"](3) for base in LRS[lrs]()]
    # one rounding of a float32 tensor
    np.testing.assert_allclose([float(group["lr"]) for group in opt.param_groups], expected, rtol=2**-23)


def planned(lrs=(0.1, 0.2)):
    return fs.Plan(
        [
            {
                "lr": fs.Cosine(lrs[0], 0.0, steps=12),
                "weight_decay": fs.Linear(0.0, 0.3, steps=10),
                "betas": (fs.Linear(0.8, 0.95, steps=10), 0.99),
            },
            {"lr": lrs[1], "weight_decay": 0.5, "betas": (0.9, fs.Linear(0.9, 0.999, steps=8))},
        ]
    )


@pytest.mark.parametrize("cls", [torch.optim.AdamW, torch.optim.Adam, fs.optim.AdamW])
def test_a_plan_gives_every_value_of_every_group(cls):
    opt = optimizer([0.5, 0.5], cls)
    plan = planned()
    scheduler = OURS.ScheduleLR(opt, plan)
    opt._opt_called = True
    for step in range(15):
        at = plan.at(step)
        for i, group in enumerate(opt.param_groups):
            assert group["lr"] == at["lr"][i]
            assert group["weight_decay"] == at["weight_decay"][i]
            assert group["betas"] == (at["beta1"][i], at["beta2"][i])
        scheduler.step()


def test_a_plan_gives_momentum():
    opt = optimizer([0.5, 0.5], momentum=0.9)
    plan = fs.Plan([{"lr": 0.1, "momentum": fs.Linear(0.5, 0.9, steps=4)}, {"lr": 0.2, "momentum": 0.7}])
    scheduler = OURS.ScheduleLR(opt, plan)
    opt._opt_called = True
    seen = [scheduler.step() or [group["momentum"] for group in opt.param_groups] for _ in range(6)]
    assert seen == [plan.at(step)["momentum"].tolist() for step in range(1, 7)]


def test_a_plan_gives_any_other_number_of_the_groups():
    opt = torch.optim.RMSprop([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    plan = fs.Plan([{"alpha": fs.Linear(0.5, 0.9, steps=4), "eps": 1e-3}])
    scheduler = OURS.ScheduleLR(opt, plan)
    opt._opt_called = True
    scheduler.step()
    assert (opt.param_groups[0]["alpha"], opt.param_groups[0]["eps"]) == (plan.at(1)["alpha"][0], 1e-3)


def test_a_plan_without_lr_leaves_the_lr():
    opt = optimizer([0.5, 0.25], momentum=0.9)
    scheduler = OURS.ScheduleLR(opt, fs.Plan([{"momentum": fs.Linear(0.5, 0.9, steps=4)}, {"momentum": 0.1}]))
    opt._opt_called = True
    opt.param_groups[1]["lr"] = 0.75
    scheduler.step()
    assert ([group["lr"] for group in opt.param_groups], scheduler.get_last_lr()) == ([0.5, 0.75], [0.5, 0.75])


def test_a_group_that_a_plan_leaves_out_keeps_its_value():
    opt = optimizer([0.5, 0.25], momentum=0.9)
    scheduler = OURS.ScheduleLR(opt, fs.Plan([{"lr": fs.Linear(0.1, 0.0, steps=4)}, {"momentum": 0.7}]))
    opt._opt_called = True
    for _ in range(2):
        scheduler.step()
    kept = [(group["lr"], group["momentum"]) for group in opt.param_groups]
    assert kept == [(0.05, 0.9), (0.25, 0.7)]


def test_a_plan_of_the_optimizers_own_groups_moves_only_the_lr():
    opt = optimizer([0.5, 0.25], momentum=0.9, weight_decay=0.1)
    before = [{key: value for key, value in group.items() if key not in ("params", "lr")} for group in opt.param_groups]
    scheduler = OURS.ScheduleLR(opt, fs.Plan(opt.param_groups, fs.Linear(1.0, 0.0, steps=4)))
    opt._opt_called = True
    scheduler.step()
    after = [{key: value for key, value in group.items() if key in before[0]} for group in opt.param_groups]
    assert (after, [group["lr"] for group in opt.param_groups]) == (before, [0.375, 0.1875])


def test_values_that_are_ints_in_the_groups_are_scheduled():
    opt = optimizer([0.5])  # weight_decay and momentum are the int 0
    plan = fs.Plan([{"weight_decay": fs.Linear(0.0, 1.0, steps=4), "momentum": fs.Linear(0.5, 0.9, steps=4)}])
    scheduler = OURS.ScheduleLR(opt, plan)
    opt._opt_called = True
    scheduler.step()
    group = opt.param_groups[0]
    assert (group["weight_decay"], group["momentum"]) == (0.25, plan.at(1)["momentum"][0])


def test_tensor_hyperparameters_are_filled():
    opt = optimizer([0.5])
    decay = opt.param_groups[0]["weight_decay"] = torch.tensor(0.0)
    scheduler = OURS.ScheduleLR(opt, fs.Plan([{"weight_decay": fs.Linear(0.0, 1.0, steps=4)}]))
    opt._opt_called = True
    scheduler.step()
    assert (opt.param_groups[0]["weight_decay"] is decay, decay.item()) == (True, 0.25)


@pytest.mark.parametrize("betas", [[0.5, 0.6], (torch.tensor(0.5), torch.tensor(0.6)), (1, 0)])
def test_betas_of_any_kind_are_scheduled(betas):
    opt = optimizer([0.5], torch.optim.Adam)
    opt.param_groups[0]["betas"] = betas
    scheduler = OURS.ScheduleLR(opt, fs.Plan([{"betas": (fs.Linear(0.5, 0.9, steps=4), 0.75)}]))
    opt._opt_called = True
    scheduler.step()
    assert [float(beta) for beta in opt.param_groups[0]["betas"]] == [0.6, 0.75]


def test_values_that_are_held_stay_when_a_plan_moves_them():
    opt = optimizer([0.5, 0.5], torch.optim.AdamW)
    scheduler = OURS.ScheduleLR(opt, planned())
    opt._opt_called = True
    held = []
    for step in range(12):
        scheduler.step()
        if step % 3:
            held += [(g[key], exact(g[key])) for g in opt.param_groups for key in ("lr", "weight_decay", "betas")]
            held += [(g["betas"][1], exact(g["betas"][1])) for g in opt.param_groups]
    assert all(exact(value) == before for value, before in held)


def test_our_optimizer_uses_every_value_of_a_plan():
    def run(attach):
        opt = optimizer([0.5, 0.5], fs.optim.AdamW)
        step = attach(opt)
        rows = []
        for t in range(12):
            for group in opt.param_groups:
                group["params"][0].grad = torch.full((2,), 0.5 + 0.125 * t)
            opt.step()
            step(t + 1)
            rows.append([group["params"][0].detach().tolist() for group in opt.param_groups])
        return rows

    def scheduled(opt):
        scheduler = OURS.ScheduleLR(opt, planned())
        return lambda t: scheduler.step()

    def by_hand(opt):
        def write(t):
            at = planned().at(t)
            for i, group in enumerate(opt.param_groups):
                group["lr"], group["weight_decay"] = at["lr"][i].item(), at["weight_decay"][i].item()
                group["betas"] = (at["beta1"][i].item(), at["beta2"][i].item())

        write(0)
        return write

    assert run(scheduled) == run(by_hand)


@pytest.mark.parametrize("what", ["schedule", "plan"])
@pytest.mark.parametrize("taken", [0, 1, 7])
def test_a_schedule_resumes_at_last_epoch(what, taken):
    def make(opt, **options):
        scheduler = OURS.ScheduleLR(opt, SCHEDULES["warmup"] if what == "schedule" else planned(), **options)
        opt._opt_called = True
        return scheduler

    first = make(optimizer([0.5, 0.25], torch.optim.AdamW))
    trajectory(first, taken + 1)
    opt = optimizer([1.0, 1.0], torch.optim.AdamW)
    opt.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    assert trajectory(make(opt, last_epoch=taken), 6) == trajectory(first, 6)


@pytest.mark.parametrize("what", ["schedule", "plan"])
def test_a_schedule_resumes_from_a_state_dict(what):
    def make():
        opt = optimizer([0.5, 0.25], torch.optim.AdamW)
        scheduler = OURS.ScheduleLR(opt, SCHEDULES["warmup"] if what == "schedule" else planned())
        opt._opt_called = True
        return scheduler

    first, second = make(), make()
    trajectory(first, 7)
    second.optimizer.load_state_dict(copy.deepcopy(first.optimizer.state_dict()))
    second.load_state_dict(saved(first.state_dict()))
    assert trajectory(second, 6) == trajectory(first, 6)


def test_a_schedule_takes_base_lrs_from_the_state_dict():
    first, second = optimizer([0.5]), optimizer([1.0])
    schedulers = [OURS.ScheduleLR(opt, SCHEDULES["Linear"]) for opt in (first, second)]
    first._opt_called = second._opt_called = True
    schedulers[1].load_state_dict(schedulers[0].state_dict())
    schedulers[1].step()
    assert second.param_groups[0]["lr"] == 0.5 * SCHEDULES["Linear"](1)


def test_a_state_dict_with_only_the_position_moves_a_schedule():
    scheduler = OURS.ScheduleLR(optimizer([1.0]), SCHEDULES["Linear"])
    scheduler.optimizer._opt_called = True
    scheduler.step()
    before = [SCHEDULES["Linear"](1)]
    scheduler.load_state_dict({"last_epoch": 3})
    assert scheduler.get_last_lr() == before
    scheduler.step()
    assert scheduler.get_last_lr() == [SCHEDULES["Linear"](4)]


def test_the_state_of_a_schedule_has_torchs_keys():
    ours = OURS.ScheduleLR(optimizer(), SCHEDULES["Linear"]).state_dict()
    assert ours.keys() == TORCH.ExponentialLR(optimizer(), 0.9).state_dict().keys() - {"gamma"}


@pytest.mark.parametrize("what", ["schedule", "plan"])
@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_a_schedule_is_copied(what, how):
    opt = optimizer([0.5, 0.25], torch.optim.AdamW)
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["warmup"] if what == "schedule" else planned())
    opt._opt_called = True
    trajectory(scheduler, 3)
    scheduler.step()
    twin = pickle.loads(pickle.dumps(scheduler)) if how == "pickle" else copy.deepcopy(scheduler)
    assert trajectory(twin, 6) == trajectory(scheduler, 6)


def test_a_schedule_takes_the_deprecated_epoch():
    scheduler = OURS.ScheduleLR(optimizer([1.0]), SCHEDULES["Linear"])
    scheduler.optimizer._opt_called = True
    with pytest.warns(UserWarning, match="epoch parameter"):
        scheduler.step(7)
    assert scheduler.get_last_lr() == [SCHEDULES["Linear"](7)]


def test_a_plan_takes_the_deprecated_epoch():
    opt = optimizer([0.5, 0.25], torch.optim.AdamW)
    scheduler = OURS.ScheduleLR(opt, planned())
    opt._opt_called = True
    with quiet():
        scheduler.step(7)
    assert opt.param_groups[0]["weight_decay"] == planned().at(7)["weight_decay"][0]


def test_a_schedule_is_one_of_several_in_a_sequence():
    def run(second):
        opt = optimizer()
        scheduler = OURS.SequentialLR(opt, [OURS.LinearLR(opt, total_iters=4), second(opt)], milestones=[4])
        opt._opt_called = True
        return trajectory(scheduler, 10)

    curve = SCHEDULES["Cosine"]
    assert run(lambda opt: OURS.ScheduleLR(opt, curve)) == run(lambda opt: TORCH.LambdaLR(opt, curve))


@pytest.mark.parametrize("case", ["min", "cooldown"])
def test_a_plateau_beside_a_schedule_is_overwritten_as_beside_a_lambda_lr(case):
    def run(m, make):
        opt = optimizer()
        plateau, scheduler = m.ReduceLROnPlateau(opt, **PLATEAU[case]), make(opt)
        opt._opt_called = True
        rows = []
        for metric in METRICS:
            plateau.step(metric)
            scheduler.step()
            rows.append((shown(plateau), shown(scheduler)))
        return rows

    curve = SCHEDULES["Cosine"]
    ours = run(OURS, lambda opt: OURS.ScheduleLR(opt, curve))
    assert ours == run(TORCH, lambda opt: TORCH.LambdaLR(opt, curve))


def test_a_schedule_warns_of_the_order_of_steps():
    scheduler = OURS.ScheduleLR(optimizer(), SCHEDULES["Linear"])
    with pytest.warns(UserWarning, match=r"before `optimizer.step\(\)`"):
        scheduler.step()


def test_a_schedule_warns_of_get_lr_outside_a_step():
    scheduler = OURS.ScheduleLR(optimizer([0.5]), SCHEDULES["Linear"])
    with pytest.warns(UserWarning, match="get_last_lr"):
        assert scheduler.get_lr() == [0.5]


@pytest.mark.parametrize("write", ["float", "int", "tensor", "numpy", "another key", "replaced dict", "loaded"])
def test_a_schedule_overrules_what_was_written(write):
    opt = optimizer()
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    opt._opt_called = True
    scheduler.step()
    WRITES[write](opt)
    scheduler.step()
    expected = [base * SCHEDULES["Linear"](2) for base in LRS["several"]()]
    # a float32 tensor was written
    np.testing.assert_allclose([float(group["lr"]) for group in opt.param_groups], expected, rtol=2**-23)


@pytest.mark.parametrize("write", ["more", "fewer"])
@pytest.mark.parametrize("what", ["schedule", "plan"])
def test_a_schedule_refuses_another_number_of_groups(what, write):
    opt = optimizer()
    plan = fs.Plan([{"lr": 0.1, "weight_decay": 0.5}] * 4)
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"] if what == "schedule" else plan)
    opt._opt_called = True
    WRITES[write](opt)
    with pytest.raises(ValueError, match=r"\w"):
        scheduler.step()


@pytest.mark.parametrize("what", [0.5, None, "cosine", decay, [fs.Cosine(steps=3)]])
def test_a_schedule_must_be_one(what):
    with pytest.raises(TypeError, match=r"ScheduleLR: schedule must be .*; \w"):
        OURS.ScheduleLR(optimizer(), what)


def test_no_error_prints_a_tensor_that_was_given_as_a_schedule():
    with pytest.raises(TypeError) as caught:
        OURS.ScheduleLR(optimizer(), torch.full((100,), 7.0))
    assert "7." not in str(caught.value)


@pytest.mark.parametrize("what", [7, None, "SGD", [torch.nn.Parameter(torch.ones(1))]])
@pytest.mark.parametrize("schedule", [SCHEDULES["Linear"], planned()])
def test_an_optimizer_must_be_one(what, schedule):
    with pytest.raises(TypeError, match="is not an Optimizer"):
        OURS.ScheduleLR(what, schedule)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_plan_must_have_a_group_for_each(count):
    with pytest.raises(ValueError, match=rf"ScheduleLR: the plan .*got {count} for 2; \w"):
        OURS.ScheduleLR(optimizer([0.1, 0.2]), fs.Plan([{"lr": 0.1}] * count))


@pytest.mark.parametrize("name", ["momentum_of_light", "beta1", "beta2"])
def test_a_plan_must_not_move_what_a_group_lacks(name):
    with pytest.raises(ValueError, match=rf"ScheduleLR: group 0 has no '{name}'.*; \w"):
        OURS.ScheduleLR(optimizer([0.1]), fs.Plan([{name: 0.1}]))


@pytest.mark.parametrize("betas", [None, 0.9, "ab", [0.9]])
def test_a_plan_must_not_move_betas_that_are_no_pair(betas):
    opt = optimizer([0.1], torch.optim.Adam)
    opt.param_groups[0]["betas"] = betas
    with pytest.raises((ValueError, TypeError), match=r"ScheduleLR: group 0.*; \w"):
        OURS.ScheduleLR(opt, fs.Plan([{"betas": (0.9, 0.99)}]))


def test_a_schedule_that_was_refused_leaves_the_optimizer_as_it_was():
    opt = optimizer([0.1])
    before = groups(opt)
    with pytest.raises(ValueError, match="ScheduleLR"):
        OURS.ScheduleLR(opt, fs.Plan([{"lr": 0.5}, {"lr": 0.5}]))
    assert (groups(opt), "step" in vars(opt)) == (before, False)


def test_a_schedule_without_initial_lr_cannot_resume():
    with pytest.raises(KeyError, match="initial_lr"):
        OURS.ScheduleLR(optimizer(), SCHEDULES["Linear"], last_epoch=3)


def test_a_schedule_runs_on_the_numba_backend_too():
    opt = optimizer()
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    opt._opt_called = True
    held = fs.backend()
    fs.use_backend("numba")
    try:
        scheduler.step()
    finally:
        fs.use_backend(held)
    assert scheduler.get_last_lr() == [base * SCHEDULES["Linear"](1) for base in LRS["several"]()]


# Follow


def followed(lr=0.5, cls=fs.optim.SGD):
    weight = torch.nn.Parameter(torch.ones(2))
    return cls([weight], lr=lr, schedule=fs.Linear(1.0, 0.0, steps=10)), weight


def test_follow_is_a_scheduler_of_torch():
    assert isinstance(OURS.Follow(followed()[0]), torch_schedulers.LRScheduler)


def test_follow_shows_position_and_lr_of_the_optimizer():
    opt, weight = followed()
    scheduler = OURS.Follow(opt)
    for step in range(4):
        assert (scheduler.last_epoch, scheduler.get_last_lr()) == (step, [0.5 * fs.Linear(1.0, 0.0, steps=10)(step)])
        weight.grad = torch.ones(2)
        opt.step()
        scheduler.step()


def test_follow_changes_nothing():
    opt, _ = followed()
    scheduler = OURS.Follow(opt)
    before = groups(opt), opt.position
    for _ in range(5):
        scheduler.step()
    assert (groups(opt), opt.position) == before


def test_follow_attaches_nothing_to_the_optimizer():
    opt, _ = followed()
    OURS.Follow(opt)
    assert "step" not in vars(opt)


def test_follow_adds_no_key_to_the_groups():
    opt, _ = followed()
    before = [set(group) for group in opt.param_groups]
    OURS.Follow(opt)
    assert [set(group) for group in opt.param_groups] == before


def test_follow_warns_of_nothing():
    opt, weight = followed()
    weight.grad = torch.ones(2)
    scheduler = OURS.Follow(opt)
    assert told(lambda: (scheduler.step(), opt.step(), scheduler.step(), scheduler.get_lr())) == []


def test_follow_counts_its_steps_where_the_optimizer_counts_none():
    scheduler = OURS.Follow(optimizer())
    scheduler.step()
    scheduler.step()
    assert scheduler.last_epoch == 2


def test_follow_shows_base_lrs():
    assert OURS.Follow(followed(0.5)[0]).base_lrs == [0.5]


@pytest.mark.parametrize("what", [None, 7, "SGD", []])
def test_follow_refuses_what_is_no_optimizer(what):
    with pytest.raises(TypeError, match="is not an Optimizer"):
        OURS.Follow(what)


def test_follow_saves_and_loads_with_weights_only():
    scheduler, other = OURS.Follow(optimizer()), OURS.Follow(optimizer())
    scheduler.step()
    other.load_state_dict(saved(scheduler.state_dict()))
    assert other.last_epoch == scheduler.last_epoch


@pytest.mark.parametrize("case", CLASSES)
def test_follow_loads_the_state_dict_of_any_scheduler(case):
    scheduler = OURS.Follow(followed()[0])
    scheduler.load_state_dict(made("torch", case, optimizer(momentum=0.9)).state_dict())
    assert scheduler.get_last_lr() == [0.5]


def test_the_state_of_follow_does_not_move_the_optimizer():
    opt, weight = followed()
    scheduler = OURS.Follow(opt)
    state = scheduler.state_dict()
    weight.grad = torch.ones(2)
    opt.step()
    scheduler.step()
    scheduler.load_state_dict(state)
    assert (opt.position, scheduler.last_epoch) == (1, 1)


@pytest.mark.parametrize("how", ["pickle", "deepcopy"])
def test_follow_is_copied_with_its_optimizer(how):
    scheduler = OURS.Follow(optimizer())
    scheduler.step()
    twin = pickle.loads(pickle.dumps(scheduler)) if how == "pickle" else copy.deepcopy(scheduler)
    assert (twin.last_epoch, twin.get_last_lr()) == (scheduler.last_epoch, scheduler.get_last_lr())


def test_follow_gives_a_list_that_stays():
    opt, weight = followed()
    held = OURS.Follow(opt).get_last_lr()
    before = exact(held)
    for _ in range(3):
        weight.grad = torch.ones(2)
        opt.step()
    assert exact(held) == before


def test_follow_and_its_optimizer_go_without_the_garbage_collector():
    gc.disable()
    try:
        opt, _ = followed()
        scheduler = OURS.Follow(opt)
        scheduler.step()
        alive = weakref.ref(opt)
        del opt, scheduler, _
        assert alive() is None
    finally:
        gc.enable()


# The native column, by hand: no input may crash the interpreter

CALLS = {
    "scale": lambda groups: ("scale", groups, 0.5),
    "shrink": lambda groups: ("shrink", groups, 0.5, 0.1),
    "product": lambda groups: ("product", groups, [1.0] * 3, 0.5),
    "product each": lambda groups: ("product", groups, [1.0] * 3, [0.5] * 3),
    "anneal": lambda groups: ("anneal", groups, [1.0] * 3, 0.1, 0.5),
    "span": lambda groups: ("span", groups, [1.0] * 3, [2.0] * 3, 0.5, 0.5, False),
    "between": lambda groups: ("between", groups, "low", "high", 0.5, True),
    "follow": lambda groups: (
        "follow",
        groups,
        fs.Plan([{"lr": 1.0}] * 3, fs.Linear(1.0, 0.0, steps=4))._row("lr"),
        2.0,
    ),
}


def call(column, name, groups):
    method, *arguments = CALLS[name](groups)
    return getattr(column, method)(*arguments)


def plain(**values):
    return [{"lr": 1.0, "low": 0.0, "high": 2.0, "betas": (0.5, 0.25), **values} for _ in range(3)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("scale", 0.5),
        ("shrink", 0.55),
        ("product", 0.5),
        ("product each", 0.5),
        ("anneal", 0.325),
        ("span", 1.25),
        ("between", 1.0),
        ("follow", 0.5),
    ],
)
def test_a_call_writes_every_group(name, value):
    given = plain()
    assert call(COLUMN("lr"), name, given)
    assert [group["lr"] for group in given] == pytest.approx([value] * 3, rel=1e-15)


@pytest.mark.parametrize("name", CALLS)
def test_the_last_values_are_those_that_were_written(name):
    given, column = plain(), COLUMN("lr")
    call(column, name, given)
    assert column.last() == [group["lr"] for group in given]


@pytest.mark.parametrize("wrong", [1, True, None, "1.0", torch.tensor(1.0), np.float64(1.0), [1.0], {}, 1j])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_groups_alone_where_one_holds_no_float(name, wrong):
    given = plain()
    given[2]["lr"] = wrong
    assert not call(COLUMN("lr"), name, given)
    assert [given[0]["lr"], given[1]["lr"], given[2]["lr"] is wrong] == [1.0, 1.0, True]


@pytest.mark.parametrize("wrong", [None, 7, "text", [], (), 1.0, object()])
@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_groups_alone_where_one_is_no_dict(name, wrong):
    given = plain()
    given[1] = wrong
    assert not call(COLUMN("lr"), name, given)
    assert (given[0]["lr"], given[2]["lr"]) == (1.0, 1.0)


@pytest.mark.parametrize("wrong", [None, 0.9, [0.5, 0.9], (), (1,), ("a", "b"), (torch.tensor(0.5), 0.9)])
def test_a_call_leaves_a_tuple_alone_that_holds_no_float(wrong):
    given = plain()
    given[1]["betas"] = wrong
    assert not COLUMN("betas", 0).scale(given, 0.5)
    assert given[0]["betas"] == (0.5, 0.25)


@pytest.mark.parametrize("place", [2, 3, 2**31 - 1])
def test_a_place_past_the_tuple_changes_nothing(place):
    given = plain()
    assert not COLUMN("betas", place).scale(given, 0.5)


@pytest.mark.parametrize("name", ["scale", "shrink", "product", "anneal", "span", "between", "follow"])
def test_a_call_refuses_groups_of_the_wrong_type(name):
    with pytest.raises(TypeError):
        call(COLUMN("lr"), name, 7)


@pytest.mark.parametrize("key", [None, 7, b"lr", [], object()])
def test_a_column_refuses_a_key_that_is_no_text(key):
    with pytest.raises(TypeError):
        COLUMN(key)


@pytest.mark.parametrize("place", [None, "0", 0.5, 2**40])
def test_a_column_refuses_a_place_that_is_no_int(place):
    with pytest.raises(TypeError):
        COLUMN("betas", place)


@pytest.mark.parametrize("wrong", [None, "text", [1.0], object()])
def test_a_factor_must_be_a_number(wrong):
    with pytest.raises(TypeError):
        COLUMN("lr").scale(plain(), wrong)


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0] * 4, ["a"] * 3, [None] * 3, [torch.tensor(1.0)] * 3])
def test_a_list_that_does_not_fit_changes_nothing(wrong):
    given = plain()
    column = COLUMN("lr")
    assert not column.product(given, wrong, 0.5)
    assert not column.product(given, [1.0] * 3, wrong)
    assert not column.anneal(given, wrong, 0.1, 0.5)
    assert not column.span(given, wrong, [1.0] * 3, 0.5, 0.5, True)
    assert not column.span(given, [1.0] * 3, wrong, 0.5, 0.5, True)
    assert given == plain()


@pytest.mark.parametrize("wrong", [None, "text", 7, (0.5, 0.5, 0.5), np.ones(3)])
def test_factors_that_are_neither_float_nor_list_change_nothing(wrong):
    given = plain()
    assert not COLUMN("lr").product(given, [1.0] * 3, wrong)
    assert given == plain()


def test_a_number_too_large_for_a_float_is_an_error():
    given = plain()
    with pytest.raises(OverflowError):
        COLUMN("lr").product(given, [10**400] * 3, 0.5)
    assert given == plain()


@pytest.mark.parametrize(("low", "high"), [("absent", "high"), ("low", "absent"), ("betas", "high"), ("", "")])
def test_keys_that_a_group_lacks_change_nothing(low, high):
    given = plain()
    assert not COLUMN("lr").between(given, low, high, 0.5, True)
    assert given == plain()


def test_bounds_are_read_again_after_a_group_changed():
    given, column = plain(), COLUMN("lr")
    column.between(given, "low", "high", 0.5, True)
    given[1]["high"] = 8.0
    column.between(given, "low", "high", 0.5, True)
    assert [group["lr"] for group in given] == [1.0, 4.0, 1.0]


def test_many_pairs_of_bounds_keep_their_values():
    given, column = plain(**{f"bound {i}": float(i) for i in range(40)}), COLUMN("lr")
    for _ in range(2):
        for i in range(39):
            column.between(given, f"bound {i}", f"bound {i + 1}", 0.5, True)
    column.between(given, "bound 1", "bound 39", 0.5, True)
    assert column.last() == [20.0] * 3


def test_a_row_of_another_number_of_groups_changes_nothing():
    given = plain()
    assert not COLUMN("lr").follow(given, fs.Plan([{"lr": 0.5}])._row("lr"), 0.0)
    assert given == plain()


@pytest.mark.parametrize("wrong", [None, 7, [1.0] * 3, "row"])
def test_a_row_must_be_one(wrong):
    with pytest.raises(TypeError):
        COLUMN("lr").follow(plain(), wrong, 0.0)


@pytest.mark.parametrize("step", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_a_step_that_no_schedule_has_changes_nothing(step):
    given = plain()
    row = fs.Plan([{"lr": 0.5}] * 3)._row("lr")
    assert not COLUMN("lr").follow(given, row, step)
    assert given == plain()


def test_a_column_that_was_never_initialised_changes_nothing():
    given = plain()
    column = COLUMN.__new__(COLUMN)
    assert not any(call(column, name, given) for name in CALLS)
    assert (given, column.last()) == (plain(), [])


def test_a_row_that_was_never_initialised_changes_nothing():
    given = plain()
    assert not COLUMN("lr").follow(given, fs._core.Row.__new__(fs._core.Row), 0.0)
    assert given == plain()


@pytest.mark.parametrize("name", CALLS)
def test_groups_that_come_and_go_between_calls_are_read_anew(name):
    column = COLUMN("lr")
    for count in (3, 0, 5, 3, 1, 3):
        given = plain()[:1] * min(count, 1) + [dict(plain()[0]) for _ in range(count - 1)]
        call(column, name, given)
    assert len(column.last()) == 3


def test_a_dict_that_dies_between_calls_is_not_touched():
    column = COLUMN("lr")
    for _ in range(50):
        given = plain()
        column.scale(given, 0.5)
        column.scale(given, 0.5)
        for group in given:
            group.clear()
        assert not column.scale(given, 0.5)
        del given


def test_a_dict_of_ones_own_class_is_written():
    class Group(dict):
        pass

    given = [Group(lr=1.0)]
    assert COLUMN("lr").scale(given, 0.5)
    assert given == [{"lr": 0.5}]


def test_no_float_of_another_dict_is_overwritten():
    given, column = plain(), COLUMN("lr")
    for _ in range(3):
        column.scale(given, 0.5)
    twins = [dict(group) for group in given]
    for _ in range(3):
        column.scale(given, 0.5)
    assert [group["lr"] for group in twins] == [0.125] * 3


def test_a_float_that_only_another_key_holds_is_not_overwritten():
    given, column = plain(), COLUMN("lr")
    column.scale(given, 0.5)
    column.scale(given, 0.5)
    given[0]["other"] = given[0].pop("lr")
    given[0]["lr"] = 1.0
    column.scale(given, 0.5)
    column.scale(given, 0.5)
    assert given[0]["other"] == 0.25


def test_a_tuple_that_somebody_holds_is_not_overwritten():
    given, column = plain(), COLUMN("betas", 0)
    column.scale(given, 0.5)
    column.scale(given, 0.5)
    held = given[0]["betas"]
    column.scale(given, 0.5)
    assert (held, given[0]["betas"]) == ((0.125, 0.25), (0.0625, 0.25))


def test_both_betas_move_in_two_columns():
    given, columns = plain(), [COLUMN("betas", 0), COLUMN("betas", 1)]
    for _ in range(4):
        for column in columns:
            column.scale(given, 0.5)
    assert [group["betas"] for group in given] == [(0.03125, 0.015625)] * 3


# What a look-up may run: a key of the same hash whose comparison does anything to the groups. Each in an interpreter
# of its own, which must end by itself.

HOSTILE = """
import fastsched as fs
Column = fs._core.Column
groups = []
class Evil:
    def __init__(self, act):
        self.act = act
    def __hash__(self):
        return hash(KEY)
    def __eq__(self, other):
        self.act()
        return False
def evil(act):
    return {Evil(act): 0, KEY: 1.0}
"""


@pytest.mark.parametrize(
    "code",
    [
        pytest.param(
            "KEY = 'lr'\n"
            "groups[:] = [evil(groups.clear)] + [{'lr': 1.0} for _ in range(1000)]\n"
            "Column('lr').scale(groups, 0.5)",
            id="groups that shrink",
        ),
        pytest.param(
            "KEY = 'lr'\n"
            "groups[:] = [evil(lambda: groups.append({'lr': 1.0}))] + [{'lr': 1.0} for _ in range(10)]\n"
            "Column('lr').scale(groups, 0.5)",
            id="groups that grow",
        ),
        pytest.param(
            "KEY = 'lr'\n"
            "column, calls = Column('lr'), []\n"
            "other = [{'lr': 1.0} for _ in range(100000)]\n"
            "def act():\n"
            "    calls.append(1)\n"
            "    if len(calls) in (1, 2, 3):\n"
            "        column.scale(other, 0.5)\n"
            "groups[:] = [{'lr': 1.0}, evil(act)] + [{'lr': 1.0} for _ in range(5)]\n"
            "column.scale(groups, 0.5)",
            id="the same column again while it reads",
        ),
        pytest.param(
            "KEY = 'lr'\n"
            "column, calls = Column('lr'), []\n"
            "other = [{'lr': 1.0} for _ in range(100000)]\n"
            "def act():\n"
            "    calls.append(1)\n"
            "    if len(calls) == 2:\n"
            "        column.scale(other, 0.5)\n"
            "groups[:] = [evil(act)] + [{'lr': 1.0} for _ in range(5)]\n"
            "column.scale(groups, 0.5)",
            id="the same column again while it writes",
        ),
        pytest.param(
            "KEY = 'low'\n"
            "column = Column('lr')\n"
            "for _ in range(3):\n"
            "    again = evil(lambda: column.scale([{'lr': 1.0}], 0.5))\n"
            "    groups[:] = [dict(again, lr=1.0, high=2.0) for _ in range(500)]\n"
            "    column.between(groups, 'low', 'high', 0.5, True)",
            id="the same column again while it reads bounds",
        ),
        pytest.param(
            "KEY = 'lr'\n"
            "groups[:] = [{'lr': 1.0} for _ in range(3)]\n"
            "groups.append(evil(lambda: [group.clear() for group in groups[:3]]))\n"
            "column = Column('lr')\n"
            "for _ in range(3):\n"
            "    column.scale(groups, 0.5)",
            id="dicts that are emptied",
        ),
        pytest.param(
            "class Text(str):\n"
            "    def __hash__(self):\n"
            "        return hash('lr')\n"
            "    def __eq__(self, other):\n"
            "        groups.clear()\n"
            "        return True\n"
            "groups[:] = [{'lr': 1.0} for _ in range(1000)]\n"
            "try:\n"
            "    Column(Text('other')).scale(groups, 0.5)\n"
            "except TypeError:\n"
            "    pass",
            id="a key of ones own class",
        ),
        pytest.param(
            "class Last:\n"
            "    def __del__(self):\n"
            "        column.scale([{'betas': (1.0, 2.0)} for _ in range(100000)], 0.5)\n"
            "column = Column('betas', 0)\n"
            "groups[:] = [{'betas': (0.5, Last())} for _ in range(10)]\n"
            "for _ in range(3):\n"
            "    column.scale(groups, 0.5)\n"
            "    for group in groups:\n"
            "        group['betas'] = (0.5, Last())\n"
            "column.scale(groups, 0.5)\n"
            "groups.clear()",
            id="a value whose end calls the column",
        ),
        pytest.param(
            "try:\n"
            "    Column('lr').between([{'lr': 1.0, '\\udc80': 1.0}], '\\udc80', '\\udc80', 0.5, True)\n"
            "except UnicodeEncodeError:\n"
            "    pass",
            id="a key that is no text of UTF-8",
        ),
    ],
)
def test_nothing_that_a_look_up_runs_crashes(code):
    done = python(HOSTILE + code)
    assert done.returncode in (0, 1), done.returncode  # an error is an answer; a signal is not


def test_reduce_on_plateau_multiplies_the_schedule_of_an_optimizer_that_has_one():
    opt, weight = followed()
    plateau = OURS.ReduceLROnPlateau(opt, factor=0.5, patience=0)
    plateau.step(1.0)
    line = fs.Linear(1.0, 0.0, steps=10)
    for step in range(4):
        assert opt.lrs == [pytest.approx(0.5 * line(step) * 0.5**step, rel=4 * 2**-53)]
        weight.grad = torch.ones(2)
        opt.step()
        plateau.step(1.0)  # no better: halved again


def test_reduce_on_plateau_keeps_min_lr_on_an_optimizer_that_has_a_schedule():
    opt, _ = followed()
    plateau = OURS.ReduceLROnPlateau(opt, factor=0.5, patience=0, min_lr=0.4)
    for _ in range(3):
        plateau.step(1.0)
    assert opt.lrs == [0.4]


# ScheduleLR in timm's manner


def in_timms_manner(epochs=3, count=4, **options):
    """The lr of every update of a loop like timm's train.py."""
    opt = optimizer([0.5])
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"], **options)
    opt._opt_called = True
    lrs = []
    for epoch in range(epochs):
        for index in range(count):
            lrs.append(opt.param_groups[0]["lr"])
            scheduler.step_update(num_updates=epoch * count + index + 1, metric=0.5)
        scheduler.step(epoch + 1, 0.25)
    return lrs


@pytest.mark.parametrize("t_in_epochs", [None, False])
def test_a_schedule_of_updates_follows_step_update_and_ignores_epochs(t_in_epochs):
    assert in_timms_manner(t_in_epochs=t_in_epochs) == [0.5 * SCHEDULES["Linear"](t) for t in range(12)]


def test_a_schedule_of_epochs_ignores_step_update():
    expected = [0.5 * SCHEDULES["Linear"](epoch) for epoch in range(3) for _ in range(4)]
    assert in_timms_manner(t_in_epochs=True) == expected


def test_step_update_resumes_anywhere():
    opt = optimizer([0.5])
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    scheduler.step_update(7)
    assert (opt.param_groups[0]["lr"], scheduler.last_epoch) == (0.5 * SCHEDULES["Linear"](7), 7)
    scheduler.step_update(0)
    assert (opt.param_groups[0]["lr"], scheduler.last_epoch) == (0.5, 0)


def test_step_update_moves_every_hyperparameter_of_a_plan():
    opt = optimizer([0.5, 0.25], torch.optim.AdamW)
    OURS.ScheduleLR(opt, planned()).step_update(3)
    assert opt.param_groups[0]["weight_decay"] == planned().at(3)["weight_decay"][0]


def test_a_copied_schedule_knows_that_it_counts_epochs():
    opt = optimizer([0.5])
    scheduler = copy.deepcopy(OURS.ScheduleLR(opt, SCHEDULES["Linear"], t_in_epochs=True))
    scheduler.step_update(3)
    assert scheduler.last_epoch == 0


@pytest.mark.parametrize("step", [-1, 1.5, True, "1", None])
def test_step_update_refuses_what_is_no_step(step):
    opt = optimizer([0.5])
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    with pytest.raises((ValueError, TypeError), match=r"ScheduleLR: step must be .*; \w"):
        scheduler.step_update(step)
    assert (opt.param_groups[0]["lr"], scheduler.last_epoch) == (0.5, 0)


def test_t_in_epochs_is_checked():
    with pytest.raises(TypeError, match="ScheduleLR: t_in_epochs must be True or False"):
        OURS.ScheduleLR(optimizer(), SCHEDULES["Linear"], t_in_epochs=1)


def test_lr_scale_of_timms_layer_decay_multiplies():
    opt = optimizer([0.5, 0.5])
    opt.param_groups[1]["lr_scale"] = 0.25
    scheduler = OURS.ScheduleLR(opt, SCHEDULES["Linear"])
    scheduler.step_update(3)
    value = SCHEDULES["Linear"](3)
    assert [group["lr"] for group in opt.param_groups] == [0.5 * value, 0.125 * value]


# ScheduleLR on the other optimizers of torch

OTHERS = ["ASGD", "Adadelta", "Adafactor", "Adagrad", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop", "Rprop"]


@pytest.mark.parametrize("name", OTHERS)
def test_a_schedule_trains_any_of_torchs_optimizers_as_a_lambda_does(name):
    def run(drive):
        weight = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3) / 7)
        opt = getattr(torch.optim, name)([weight], lr=0.05)
        scheduler = drive(opt)
        path = []
        for t in range(5):
            weight.grad = torch.sin(weight.detach() + t)
            opt.step()
            scheduler.step()
            path.append((opt.param_groups[0]["lr"], weight.detach().clone()))
        return path

    ours = run(lambda opt: OURS.ScheduleLR(opt, SCHEDULES["warmup"]))
    theirs = run(lambda opt: TORCH.LambdaLR(opt, SCHEDULES["warmup"]))
    assert [lr for lr, _ in ours] == [lr for lr, _ in theirs]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


def test_a_plan_moves_the_hyperparameters_that_an_optimizer_has():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    opt = torch.optim.Muon([weight], lr=0.05, momentum=0.9, weight_decay=0.1)
    curves = {"lr": fs.Linear(0.05, 0.0, steps=4), "momentum": fs.Linear(0.9, 0.5, steps=4), "weight_decay": 0.2}
    scheduler = OURS.ScheduleLR(opt, fs.Plan([curves]))
    weight.grad = torch.ones(2, 3)
    opt.step()
    scheduler.step()
    group = opt.param_groups[0]
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (curves["lr"](1), curves["momentum"](1), 0.2)
