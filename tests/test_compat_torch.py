"""fs.compat.torch beside torch itself."""

import contextlib
import functools
import math
import random
import warnings

import numpy as np
import pytest
import torch
from torch.optim import swa_utils

import fastsched as fs
from fastsched import compat

STEPS = 70


def torchs(name):
    return swa_utils.SWALR if name == "SWALR" else getattr(torch.optim.lr_scheduler, name)


def constructed(name, kwargs, optimizer):
    """torch's scheduler, its parts first."""
    kwargs = dict(kwargs)
    if "schedulers" in kwargs:
        kwargs["schedulers"] = [constructed(part["name"], part["kwargs"], optimizer) for part in kwargs["schedulers"]]
        if name == "ChainedScheduler":
            return torchs(name)(**kwargs)
    return torchs(name)(optimizer, **kwargs)


def optimizer_of(bases, adam=False):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": base} for base in bases]
    if adam:
        return torch.optim.Adam(groups, lr=bases[0])
    return torch.optim.SGD(groups, lr=bases[0], momentum=0.9)


class TorchCannotError(Exception):
    """It divides by zero (LinearLR of 0 iterations), is stepped too often, or begins a composition at a milestone."""


def run(name, kwargs, bases, steps=STEPS, key="lr", adam=False, drive=None):
    """What torch's own scheduler writes into the groups, from the constructor on."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # step(epoch) is deprecated; compositions step before the optimizer
        try:
            return _run(name, kwargs, optimizer_of(bases, adam), steps, key, drive)
        except (ZeroDivisionError, NotImplementedError) as error:
            raise TorchCannotError from error
        except ValueError as error:
            if "Tried to step" not in str(error):
                raise
            raise TorchCannotError from error


def _run(name, kwargs, optimizer, steps, key, drive):
    def values():
        for group in optimizer.param_groups:
            yield group["lr"] if key == "lr" else group["betas"][0] if "betas" in group else group["momentum"]

    scheduler = constructed(name, kwargs, optimizer)
    rows = [list(values())]
    for step in range(1, steps):
        optimizer.step()
        scheduler.step(step) if drive else scheduler.step()
        rows.append(list(values()))
    return np.array(rows).T


def ours(name, kwargs, bases, steps=STEPS, key="lr", context=None):
    schedules = compat.build(
        "torch", name, kwargs, base_lr=list(bases), hyperparameter=key, context={"steps": steps, **(context or {})}
    )
    return np.stack([schedule.table(steps) for schedule in schedules])


def assert_same(name, kwargs, bases, **how):
    theirs = run(name, kwargs, bases, **how)
    how.pop("adam", None)
    # torch's recursions add up roundings of the largest value: some 1e-16 per step, more near a cosine's zero
    limit = 1e-12 * np.abs(theirs).max()
    np.testing.assert_allclose(ours(name, kwargs, bases, **how), theirs, rtol=1e-12, atol=limit, err_msg=str(kwargs))


# ---- random arguments ----


def maybe_each(rng, count, draw):
    """One value for all groups, or a list with one per group."""
    return [draw() for _ in range(count)] if rng.random() < 0.5 else draw()


def hyperbola(rate, epoch):
    return 1 / (1 + rate * epoch)


def stumbling(factor, epoch):
    return factor if epoch % 3 else factor**2


def arguments(rng, name, count):
    """Arguments that torch takes, whole horizons and steep ones among them."""
    iterations = rng.choice([0, 1, 5, rng.randint(1, 40)])
    return {
        "LambdaLR": lambda: {"lr_lambda": maybe_each(rng, count, lambda: functools.partial(hyperbola, rng.random()))},
        "MultiplicativeLR": lambda: {"lr_lambda": functools.partial(stumbling, rng.uniform(0.9, 1))},
        "StepLR": lambda: {"step_size": rng.randint(1, 20), "gamma": rng.choice([0.1, 1.0, 1.1, rng.random()])},
        "MultiStepLR": lambda: {
            "milestones": [rng.randint(0, 40) for _ in range(rng.randint(0, 4))],
            "gamma": rng.choice([0.1, 1.1, rng.random()]),
        },
        "ConstantLR": lambda: {"factor": rng.uniform(0.01, 1), "total_iters": iterations},
        "LinearLR": lambda: {
            "start_factor": rng.uniform(0.01, 1),
            "end_factor": rng.choice([1.0, 0.0, rng.random()]),
            "total_iters": iterations,
        },
        "ExponentialLR": lambda: {"gamma": rng.uniform(0.8, 1.02)},
        "PolynomialLR": lambda: {"total_iters": iterations, "power": rng.choice([1, 2, 0.5, rng.uniform(0.1, 3)])},
        "CosineAnnealingLR": lambda: {
            "T_max": rng.choice([1, 2, rng.randint(1, 60)]),
            "eta_min": rng.choice([0, 1e-3, rng.uniform(0, 0.2)]),
        },
        "CosineAnnealingWarmRestarts": lambda: {
            "T_0": rng.randint(1, 20),
            "T_mult": rng.randint(1, 3),
            "eta_min": rng.choice([0, 1e-3]),
        },
        "CyclicLR": lambda: {
            "base_lr": maybe_each(rng, count, lambda: rng.uniform(0, 0.01)),
            "max_lr": maybe_each(rng, count, lambda: rng.uniform(0.01, 0.1)),
            "step_size_up": rng.randint(1, 20),
            "step_size_down": rng.choice([None, rng.randint(1, 20)]),
            "mode": rng.choice(["triangular", "triangular2", "exp_range"]),
            "gamma": rng.choice([1.0, 0.9, 1.01]),
            "base_momentum": maybe_each(rng, count, rng.random),
            "max_momentum": maybe_each(rng, count, rng.random),
        },
        "OneCycleLR": lambda: {
            "max_lr": maybe_each(rng, count, lambda: rng.uniform(0.01, 1)),
            "total_steps": STEPS - 1,  # torch raises beyond
            "pct_start": rng.choice([0.3, 0.1, 0.01, 0.0, rng.random()]),
            "anneal_strategy": rng.choice(["cos", "linear"]),
            "three_phase": rng.random() < 0.5,
            "div_factor": rng.uniform(1, 30),
            "final_div_factor": rng.uniform(1, 1e4),
            "base_momentum": maybe_each(rng, count, rng.random),
            "max_momentum": maybe_each(rng, count, rng.random),
        },
        "SWALR": lambda: {
            "swa_lr": maybe_each(rng, count, lambda: rng.uniform(0.001, 0.2)),
            "anneal_epochs": rng.choice([0, 1, rng.randint(1, 30)]),
            "anneal_strategy": rng.choice(["cos", "linear"]),
        },
    }[name]()


SINGLE = [
    name for name in compat.torch.__all__ if name not in ("SequentialLR", "ChainedScheduler", "ReduceLROnPlateau")
]
COMPOSED = ("SequentialLR", "ChainedScheduler")


def composition(rng, depth, count):
    """A scheduler, a sequence or a chain, as build takes it."""
    kind = rng.random()
    if depth == 0 or kind < 0.2:
        name = rng.choice(SINGLE)
        return {"name": name, "kwargs": arguments(rng, name, count)}
    parts = rng.randint(1, 3)
    if kind < 0.65:  # only its first part may be composed: at others torch raises
        schedulers = [composition(rng, depth - 1 if i == 0 else 0, count) for i in range(parts)]
        milestones = sorted(rng.randint(0, 40) for _ in range(parts - 1))
        return {"name": "SequentialLR", "kwargs": {"schedulers": schedulers, "milestones": milestones}}
    schedulers = [composition(rng, depth - 1, count) for _ in range(parts)]
    return {"name": "ChainedScheduler", "kwargs": {"schedulers": schedulers}}


def bases_of(rng):
    return [rng.uniform(0.01, 1) for _ in range(rng.choice([1, 1, 2]))]


@pytest.mark.parametrize("name", SINGLE)
def test_a_scheduler_has_torchs_values_with_any_arguments(name):
    rng = random.Random(name)
    for _ in range(12):
        bases = bases_of(rng)
        assert_same(name, arguments(rng, name, len(bases)), bases)


@pytest.mark.parametrize("seed", range(60))
def test_a_composition_has_torchs_values_whatever_its_parts(seed):
    rng = random.Random(seed)
    for _ in range(3):
        bases = bases_of(rng)
        whole = composition(rng, 2, len(bases))
        with contextlib.suppress(TorchCannotError):
            assert_same(whole["name"], whole["kwargs"], bases)


@pytest.mark.parametrize("adam", [False, True], ids=["SGD", "Adam"])
@pytest.mark.parametrize("name", ["CyclicLR", "OneCycleLR"])
def test_momentum_or_beta1_has_torchs_values(name, adam):
    rng = random.Random(name)
    for _ in range(8):
        bases = bases_of(rng)
        assert_same(name, arguments(rng, name, len(bases)), bases, key="momentum", adam=adam)
    optimizer = {"betas": [0.9, 0.999]} if adam else {"momentum": 0.9}
    kwargs = {**arguments(rng, name, 1), "cycle_momentum": False}
    kwargs = {key: value[0] if isinstance(value, list) else value for key, value in kwargs.items()}
    still = ours(name, kwargs, [0.1], key="momentum", context={"optimizer": optimizer})
    np.testing.assert_array_equal(still, run(name, kwargs, [0.1], key="momentum", adam=adam))


@pytest.mark.parametrize("cycle", ["CyclicLR", "OneCycleLR"])
@pytest.mark.parametrize("seed", range(15))
def test_momentum_in_a_composition_moves_with_the_parts_that_move_it(seed, cycle):
    rng = random.Random(seed)
    for _ in range(3):
        bases = bases_of(rng)
        whole = composition(rng, 2, len(bases))
        names = str(whole)
        other = {"CyclicLR": "OneCycleLR", "OneCycleLR": "CyclicLR"}[cycle]
        if cycle not in names or other in names:  # they overwrite each other's limits
            continue
        with contextlib.suppress(TorchCannotError):
            assert_same(whole["name"], whole["kwargs"], bases, key="momentum")


def test_momentum_that_no_part_moves_is_the_optimizers():
    kwargs = {"schedulers": [{"name": "LinearLR", "kwargs": {}}, {"name": "StepLR", "kwargs": {"step_size": 3}}]}
    context = {"optimizer": {"momentum": 0.9}}
    for name, rest in (("ChainedScheduler", {}), ("SequentialLR", {"milestones": [3]})):
        (s,) = compat.build("torch", name, kwargs | rest, base_lr=[0.1], hyperparameter="momentum", context=context)
        assert set(s.table(9)) == {0.9}
        with pytest.raises(ValueError, match=rf"^{name}: context must have 'optimizer', got none; pass context="):
            compat.build("torch", name, kwargs | rest, base_lr=[0.1], hyperparameter="momentum")


def test_step_epoch_undoes_a_constant_of_0_iterations():
    kwargs = {"factor": 0.5, "total_iters": 0}
    for drive in (None, True):
        context = {"drive": "step(epoch)"} if drive else {}
        theirs = run("ConstantLR", kwargs, [0.1], drive=drive)
        np.testing.assert_array_equal(ours("ConstantLR", kwargs, [0.1], context=context), theirs)


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 11])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
@pytest.mark.parametrize("three_phase", [False, True])
def test_short_cycles_have_torchs_values_as_far_as_torch_goes(steps, strategy, three_phase):
    for share in (0.0, 0.05, 0.25, 0.3, 0.45, 0.7, 0.99):
        kwargs = {"max_lr": 0.3, "total_steps": steps, "pct_start": share}
        kwargs |= {"anneal_strategy": strategy, "three_phase": three_phase}
        with contextlib.suppress(TorchCannotError):
            assert_same("OneCycleLR", kwargs, [0.1], steps=steps + 1)


@pytest.mark.parametrize("mode", ["cycle", "iterations"])
def test_a_scale_function_of_cycles_or_steps_becomes_samples(mode):
    kwargs = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 7, "step_size_down": 4, "scale_fn": lambda x: 0.9**x}
    kwargs |= {"scale_mode": mode, "cycle_momentum": False}
    assert_same("CyclicLR", kwargs, [0.1])


def test_cycles_need_not_be_whole():
    for mode in ("triangular", "triangular2", "exp_range"):
        kwargs = {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 2.5, "step_size_down": 4.25, "mode": mode}
        assert_same("CyclicLR", {**kwargs, "gamma": 0.97}, [0.1])


def test_t_max_need_not_be_whole():
    assert_same("CosineAnnealingLR", {"T_max": 12.5, "eta_min": 0.01}, [0.1])
    chain = [{"name": "LinearLR", "kwargs": {}}, {"name": "CosineAnnealingLR", "kwargs": {"T_max": 12.5}}]
    assert_same("ChainedScheduler", {"schedulers": chain}, [0.1])


# ---- traps ----


def test_the_cosine_rises_again_after_t_max():
    s = compat.torch.CosineAnnealingLR(0.5, T_max=10, eta_min=0.1)
    assert s(10) == 0.1
    assert s(20) == 0.5
    assert s(30 * 10**6) == 0.5
    assert s.steps == math.inf


def test_an_absolute_eta_min_lets_a_small_group_rise():
    high, low = compat.torch.CosineAnnealingLR([0.5, 0.01], T_max=10, eta_min=0.1)
    assert (high(0), high(10)) == (0.5, 0.1)
    assert (low(0), low(10)) == (0.01, 0.1)


def test_a_restart_that_torch_misplaces_is_at_its_place():
    theirs = run("CosineAnnealingWarmRestarts", {"T_0": 1, "T_mult": 3}, [0.1], steps=130, drive=True)[0]
    (s,) = compat.torch.CosineAnnealingWarmRestarts([0.1], T_0=1, T_mult=3, context={"drive": "step(epoch)"})
    assert theirs[121] < 1e-9
    assert s(121) == 0.1
    right = np.arange(130) != 121
    np.testing.assert_allclose(s.table(130)[right], theirs[right], rtol=1e-12, atol=1e-13)


def test_the_first_update_is_the_peak_where_torch_divides_by_zero():
    for steps, share in ((10, 0.1), (2, 0.5)):
        kwargs = {"max_lr": 0.5, "total_steps": steps, "pct_start": share}
        with pytest.raises(TorchCannotError):
            run("OneCycleLR", kwargs, [0.5], steps=2)
        s = compat.torch.OneCycleLR(0.5, **kwargs)
        assert s(0) == 0.5
        np.testing.assert_allclose(s(steps - 1), 0.5 / 25 / 1e4, rtol=1e-14)


def test_no_update_may_be_at_the_peak():
    s = compat.torch.OneCycleLR(1.0, max_lr=1.0, total_steps=7)
    assert s.table(8).max() == pytest.approx(0.9806, abs=1e-4)


def test_one_update_too_many_of_a_linear_cycle_is_negative_and_held():
    s = compat.torch.OneCycleLR(1.0, max_lr=1.0, total_steps=100, anneal_strategy="linear")
    assert s.steps == 100
    assert s(100) == pytest.approx(-0.0143, abs=1e-4)
    assert s(1000) == s(100)


def test_epochs_times_steps_per_epoch_are_total_steps():
    by_epochs = compat.torch.OneCycleLR(0.1, max_lr=0.1, epochs=6, steps_per_epoch=11)
    assert by_epochs == compat.torch.OneCycleLR(0.1, max_lr=0.1, total_steps=66)


def test_a_warmup_before_one_cycle_climbs_to_one_cycles_start():
    parts = [{"name": "LinearLR", "kwargs": {"start_factor": 0.1, "total_iters": 10}}]
    parts += [{"name": "OneCycleLR", "kwargs": {"max_lr": 1.0, "total_steps": 80}}]
    kwargs = {"schedulers": parts, "milestones": [10]}
    (s,) = compat.build("torch", "SequentialLR", kwargs, base_lr=[0.5])
    assert s(9) == pytest.approx(0.04 * 0.91)
    assert_same("SequentialLR", kwargs, [0.5])


def test_a_chain_with_a_floor_is_not_the_product():
    parts = [{"name": "LinearLR", "kwargs": {"start_factor": 0.1, "total_iters": 8}}]
    parts += [{"name": "CosineAnnealingLR", "kwargs": {"T_max": 40, "eta_min": 0.1}}]
    s = compat.build("torch", "ChainedScheduler", {"schedulers": parts}, base_lr=1.0)
    product = compat.torch.LinearLR(1.0, 0.1, 1.0, 8) * compat.torch.CosineAnnealingLR(1.0, 40, 0.1)
    assert abs(s(20) - product(20)) > 1e-3
    assert_same("ChainedScheduler", {"schedulers": parts}, [1.0], steps=200)


def test_a_chain_of_factors_is_the_product():
    s = compat.torch.ChainedScheduler(
        0.5, [lambda lr: compat.torch.ExponentialLR(lr, 0.5), lambda lr: compat.torch.StepLR(lr, 2, 0.5)]
    )
    assert s == fs.Exponential(0.5, gamma=0.5) * fs.StepDecay(1.0, gamma=0.5, every=2)


def test_a_chain_settles_into_closed_form():
    parts = [
        lambda lr: compat.torch.LinearLR(lr, 0.5, 1.0, 4),
        lambda lr: compat.torch.CosineAnnealingLR(lr, 10**6, 0.1),
    ]
    s = compat.torch.ChainedScheduler(1.0, parts)
    assert len(s.to_json()) < 2000
    assert s(2 * 10**6) == 1.0


def test_a_chain_that_never_settles_needs_a_horizon():
    parts = [lambda lr: compat.torch.CosineAnnealingLR(lr, 10), lambda lr: compat.torch.StepLR(lr, 3)]
    with pytest.raises(ValueError, match=r"^ChainedScheduler: context must have 'steps' where .* pass context="):
        compat.torch.ChainedScheduler(1.0, parts)
    assert compat.torch.ChainedScheduler(1.0, parts, context={"steps": 30}).steps == 31


# ---- parts ----


def test_lists_with_one_value_per_group_work_inside_of_parts():
    def cyclic(lr):
        return compat.torch.CyclicLR(lr, base_lr=[0.1, 0.2], max_lr=[1.0, 2.0], step_size_up=2)

    first, second = compat.torch.SequentialLR([0.1, 0.2], [compat.torch.ConstantLR, cyclic], [5])
    assert (first(7), second(7)) == (1.0, 2.0)


def test_parts_find_the_context_of_the_composition():
    parts = [lambda lr: compat.torch.LambdaLR(lr, lambda t: 0.5**t)]
    s = compat.torch.ChainedScheduler(1.0, parts, context={"steps": 4})
    assert s(3) == 0.125


def test_a_part_may_be_any_schedule():
    s = compat.torch.SequentialLR(0.5, [lambda lr: fs.Constant(lr) * 2.0, fs.Linear(0.5, 0.0, steps=4)], [3])
    assert s.table(8).tolist() == [1.0, 1.0, 1.0, 0.5, 0.375, 0.25, 0.125, 0.0]


def test_a_schedule_as_function_needs_no_horizon():
    assert compat.torch.LambdaLR(0.5, fs.Cosine(steps=10)) == fs.Cosine(steps=10) * 0.5


@pytest.mark.parametrize("name", COMPOSED)
def test_what_is_no_function_of_the_base_lr_is_refused(name):
    function = getattr(compat.torch, name)
    rest = ([3],) if name == "SequentialLR" else ()
    with pytest.raises(TypeError, match=rf"^{name}: a part must be a function of the base lr, got 3; pass lambda"):
        function(0.1, [3, 3], *rest)
    with pytest.raises(TypeError, match=rf"^{name}: a part must return a Schedule, got 0.1; call a peer"):
        function(0.1, [lambda lr: lr, lambda lr: lr], *rest)
    with pytest.raises(
        TypeError, match=rf"^{name}: schedulers must be a list of functions of the base lr, got 'StepLR'"
    ):
        function(0.1, "StepLR", *rest)


def test_milestones_fit_the_parts():
    parts = [compat.torch.ConstantLR] * 3
    for milestones in ([1], [3, 2], [1, 2, 3]):
        with pytest.raises(ValueError, match=r"^SequentialLR: milestones must ascend and be one fewer than schedulers"):
            compat.torch.SequentialLR(0.1, parts, milestones)


def test_a_composition_at_a_milestone_is_refused_as_torch_does():
    inner = {"name": "ChainedScheduler", "kwargs": {"schedulers": [{"name": "ConstantLR", "kwargs": {}}]}}
    kwargs = {"schedulers": [{"name": "ConstantLR", "kwargs": {}}, inner], "milestones": [3]}
    with pytest.raises(TorchCannotError):
        run("SequentialLR", kwargs, [0.1])
    with pytest.raises(ValueError, match=r"^SequentialLR: a later part of SequentialLR must be no composition"):
        compat.build("torch", "SequentialLR", kwargs, base_lr=0.1)


def test_a_schedule_of_a_metric_is_refused():
    with pytest.raises(
        ValueError, match=r"^ReduceLROnPlateau: a schedule must be a function of the step, got one of a"
    ):
        compat.torch.ReduceLROnPlateau(0.1, patience=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: t.LambdaLR(0.1, "0.9 ** epoch"), "^LambdaLR: lr_lambda must be a function, got '0.9 .* evaluated"),
        (lambda t: t.LambdaLR(0.1, lambda e: 1.0), "^LambdaLR: context must have 'steps', got none; pass context="),
        (lambda t: t.StepLR(0.1, 2.5), r"^StepLR: step_size must be a whole number >= 1, got 2.5; round it"),
        (lambda t: t.StepLR(0.1, True), r"^StepLR: step_size must be an int, got True"),
        (lambda t: t.OneCycleLR(0.1, 0.1), "^OneCycleLR: total_steps, or epochs and steps_per_epoch, must be given"),
        (
            lambda t: t.OneCycleLR([0.1, 0.2], [0.1], 9),
            "^OneCycleLR: max_lr must have one value per group, got 1 for 2",
        ),
        (
            lambda t: t.OneCycleLR(0.1, 0.1, 9, anneal_strategy="exp"),
            "^OneCycleLR: anneal_strategy must be a known one",
        ),
        (lambda t: t.CyclicLR(0.1, 0.1, 0.2, mode="saw"), "^CyclicLR: mode must be a known one, got 'saw'; pass"),
        (
            lambda t: t.CosineAnnealingLR(0.1),
            "^CosineAnnealingLR: missing a required argument: 'T_max'; its arguments are",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(compat.torch)


def test_every_scheduler_of_torch_is_here():
    names = {name for name in torch.optim.lr_scheduler.__all__ if name != "LRScheduler"} | {"SWALR"}
    assert set(compat.torch.__all__) == names
