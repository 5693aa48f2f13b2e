"""fs.compat.transformers beside transformers itself."""

import random
import warnings

import numpy as np
import pytest
import torch
import transformers.optimization as theirs
from transformers import SchedulerType

import fastsched as fs
from fastsched import compat

METRIC = ("reduce_lr_on_plateau", "greedy")
NAMES = [name.value for name in SchedulerType if name.value not in METRIC]
FUNCTIONS = {
    name: function.__name__ for name, function in theirs.TYPE_TO_SCHEDULER_FUNCTION.items() if name not in METRIC
}


def run(make, bases, default, steps):
    """What transformers' scheduler writes into the groups, from the constructor on."""
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": base} for base in bases]
    optimizer = torch.optim.SGD(groups, lr=default)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # both num_training_steps and num_stable_steps
        scheduler = make(optimizer)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    return np.array(rows).T


def assert_same(schedules, values, restarts=()):
    ours = np.stack([schedule.table(values.shape[1]) for schedule in schedules])
    # The unit is the base: transformers rounds a cosine near its zero to 1e-17 of it
    good = ~np.isin(np.arange(values.shape[1]), restarts)
    np.testing.assert_allclose(ours[:, good], values[:, good], rtol=1e-12, atol=1e-12 * np.abs(values).max())


def steps_of(rng):
    warmup = rng.choice([0, 1, 2, rng.randint(3, 30)])
    return warmup, warmup + rng.choice([1, 2, rng.randint(3, 60), rng.randint(3, 60)])


def specific(rng, name):
    """The arguments of a schedule beside its steps."""
    cycles = rng.choice([0.5, 1.0, 1.5, 2, 3, 0.7, 0, rng.uniform(0.1, 4)])
    floor = {"min_lr_rate": rng.choice([0.1, 0.0, rng.random()])} if rng.random() < 0.5 else {"min_lr": 1e-3}
    return {
        "cosine": {"num_cycles": cycles},
        "cosine_with_restarts": {"num_cycles": rng.randint(1, 5)},
        "polynomial": {"lr_end": rng.choice([1e-7, 1e-3]), "power": rng.choice([1.0, 2.0, rng.uniform(0.2, 3)])},
        "inverse_sqrt": {"timescale": rng.choice([None, 17, 1000])},
        "cosine_with_min_lr": {"num_cycles": cycles, **floor},
        "cosine_warmup_with_min_lr": {**floor, "warmup_lr_rate": rng.choice([None, 0.2]), "num_cycles": cycles},
        "warmup_stable_decay": {
            "num_decay_steps": rng.choice([0, 1, rng.randint(2, 40)]),
            "warmup_type": rng.choice(["linear", "cosine", "1-sqrt"]),
            "decay_type": rng.choice(["linear", "cosine", "1-sqrt"]),
            "min_lr_ratio": rng.choice([0, 0.1, rng.random()]),
            "num_cycles": cycles,
            **({"num_stable_steps": rng.randint(0, 20)} if rng.random() < 0.5 else {}),
        },
    }.get(name, {})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_has_transformers_values_with_any_arguments(name):
    rng = random.Random(name)
    for _ in range(20):
        warmup, total = steps_of(rng)
        kwargs = {"num_warmup_steps": warmup, "num_training_steps": total}
        kwargs["scheduler_specific_kwargs"] = specific(rng, name)
        bases, default = [rng.uniform(0.01, 1) for _ in range(2)], rng.uniform(0.01, 1)
        values = run(lambda o, kw=kwargs: theirs.get_scheduler(name, o, **kw), bases, default, total + 30)
        context = {"optimizer": {"default_lr": default}}
        built = compat.build("transformers", name, kwargs, base_lr=bases, context=context)
        cycles = kwargs["scheduler_specific_kwargs"].get("num_cycles", 1)
        # A restart is where transformers' float progress rounds to, one update early or late
        span = total - warmup
        due = [t for t in range(warmup, total) if (t - warmup) * cycles % span == 0]
        assert_same(built, values, due if name == "cosine_with_restarts" else ())


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_its_function(name):
    rng = random.Random(name)
    kwargs = {} if name == "constant" else {"num_warmup_steps": 5}
    if name not in ("constant", "constant_with_warmup", "inverse_sqrt"):
        kwargs["num_training_steps"] = 40
    extra = specific(rng, name)
    function = getattr(compat.transformers, FUNCTIONS[name])
    by_name = compat.transformers.get_scheduler(0.5, name, **kwargs, scheduler_specific_kwargs=extra)
    assert by_name == function(0.5, **kwargs, **extra)
    assert by_name == compat.transformers.get_scheduler(
        0.5, SchedulerType(name), **kwargs, scheduler_specific_kwargs=extra
    )


def test_the_decay_of_a_stable_schedule_that_is_too_long_is_entered_on_its_way():
    for total in (12, 5, 4, 1):
        kwargs = {"num_warmup_steps": 4, "num_decay_steps": 20, "num_training_steps": total, "min_lr_ratio": 0.1}
        values = run(lambda o, kw=kwargs: theirs.get_wsd_schedule(o, **kw), [0.5], 0.5, 40)
        assert_same([compat.transformers.get_wsd_schedule(0.5, **kwargs)], values)


def test_a_training_shorter_than_its_warmup_ends_at_once():
    for name in ("get_linear_schedule_with_warmup", "get_cosine_with_hard_restarts_schedule_with_warmup"):
        values = run(lambda o, name=name: getattr(theirs, name)(o, 10, 6), [0.5], 0.5, 20)
        assert_same([getattr(compat.transformers, name)(0.5, 10, 6)], values)


# ---- traps ----


def test_the_first_update_has_lr_0_but_in_two_schedules():
    arguments = {"num_warmup_steps": 10, "num_training_steps": 40}
    extra = {"cosine_with_min_lr": {"min_lr_rate": 0.1}, "polynomial": {"lr_end": 1e-5}}
    for name in ("linear", "cosine", "cosine_with_restarts", "constant_with_warmup", "inverse_sqrt", *extra):
        own = extra.get(name)
        assert compat.transformers.get_scheduler(0.5, name, **arguments, scheduler_specific_kwargs=own)(0) == 0.0
    later = compat.transformers.cosine_warmup_with_min_lr(
        0.5, **arguments, scheduler_specific_kwargs={"min_lr_rate": 0.1}
    )
    assert later(0) == 0.05
    stable = compat.transformers.warmup_stable_decay(
        0.5, **arguments, scheduler_specific_kwargs={"num_decay_steps": 10, "min_lr_ratio": 0.1}
    )
    assert stable(0) == 0.05


def test_cosines_rise_again_and_others_hold():
    s = compat.transformers.get_cosine_schedule_with_warmup(0.5, 10, 30)
    assert (s(30), s(50)) == (0.0, 0.5)
    s = compat.transformers.get_cosine_with_min_lr_schedule_with_warmup(0.5, 10, 30, min_lr_rate=0.5)
    assert (s(30), s(50)) == (0.25, 0.5)
    s = compat.transformers.get_cosine_with_hard_restarts_schedule_with_warmup(0.5, 10, 30, 2)
    assert (s(20), s(30), s(31)) == (0.5, 0.0, 0.0)
    assert compat.transformers.get_linear_schedule_with_warmup(0.5, 10, 30)(99) == 0.0


def test_cycles_that_do_not_fit_the_steps_restart_at_the_first_update_after():
    s = compat.transformers.get_cosine_with_hard_restarts_schedule_with_warmup(1.0, 0, 10, 3)
    assert s(3) < 0.03
    assert s(4) == pytest.approx(0.9045, abs=1e-4)  # a fifth of a cycle after the restart at 10/3


def test_an_absolute_end_is_a_share_of_the_default_lr():
    context = {"optimizer": {"default_lr": 0.1}}
    for make in (
        lambda lr, **kw: compat.transformers.get_polynomial_decay_schedule_with_warmup(lr, 0, 10, lr_end=0.01, **kw),
        lambda lr, **kw: compat.transformers.get_cosine_with_min_lr_schedule_with_warmup(lr, 0, 10, min_lr=0.01, **kw),
    ):
        first, second = make([0.1, 0.05], context=context)
        assert (first(10), second(10)) == (0.01, 0.005)
        (lower,) = make([0.05])
        assert lower(10) == 0.01


def test_a_polynomial_without_steps_is_at_its_end_where_transformers_divides_by_zero():
    values = run(lambda o: theirs.get_polynomial_decay_schedule_with_warmup(o, 6, 6, 1e-6), [0.5], 0.5, 5)
    s = compat.transformers.get_polynomial_decay_schedule_with_warmup(0.5, 6, 6, lr_end=1e-6)
    assert_same([s], values)
    assert s(6) == s(99) == 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: m.get_scheduler(0.1, "linaer", 1, 2),
            r"^get_scheduler: name must be a known one, got 'linaer'; pass",
        ),
        (lambda m: m.get_scheduler(0.1, "linear", 1), r"^get_scheduler: linear must have num_training_steps, got None"),
        (lambda m: m.linear(0.1), r"^linear: linear must have num_warmup_steps, got None; pass a number of steps"),
        (lambda m: m.linear(0.1, 1, 2, {"power": 2}), r"^linear: get_linear_schedule_with_warmup: .*'power'"),
        (lambda m: m.linear(0.1, 1, 2, 3), r"^linear: scheduler_specific_kwargs must be a dict, got 3; pass"),
        (lambda m: m.cosine_with_min_lr(0.1, 1, 2), r"one of min_lr and min_lr_rate must be given, got neither; pass"),
        (lambda m: m.polynomial(0.1, 1, 2, {"lr_end": 1}), r"lr_end must be < the optimizer's default lr, got 1.0 and"),
        (
            lambda m: m.warmup_stable_decay(0.1, 1, None, {"num_decay_steps": 1}),
            r"must be given, got neither; pass one",
        ),
        (lambda m: m.greedy(0.1), r"^greedy: .*a schedule must be a function of the step, got one of a metric"),
        (lambda m: m.reduce_lr_on_plateau(0.1), r"a schedule must be a function of the step, got one of a metric"),
        (lambda m: m.get_adafactor_schedule(0.1), r"^get_adafactor_schedule: .*leave it out: Adafactor needs none"),
        (
            lambda m: m.get_linear_schedule_with_warmup(0.1, -1, 2),
            r"num_warmup_steps must be a whole number >= 0, got -1",
        ),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call(compat.transformers)


def test_every_schedule_of_transformers_is_here():
    names = {name for name in dir(theirs) if name.startswith("get_")} | {name.value for name in SchedulerType}
    assert set(compat.transformers.__all__) == names


def test_a_schedule_survives_json():
    s = compat.transformers.get_cosine_with_hard_restarts_schedule_with_warmup(0.5, 10, 33, 3)
    assert fs.from_json(s.to_json()) == s
