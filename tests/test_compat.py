"""fs.compat: every recorded curve of every framework, and what the frameworks' modules have in common.

data/curves.json holds the project's recorded curves (../shared/golden/curves.json; its README explains the fields):
the frameworks themselves made them, in float64 on a CPU.
"""

import doctest
import inspect
import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import support

import fastsched as fs
from fastsched import compat

CASES = json.loads((Path(__file__).parent / "data" / "curves.json").read_text())["cases"]
MODULES = {system: getattr(compat, system) for system in compat.SYSTEMS}
PEERS = [(system, name) for system, module in MODULES.items() for name in module.__all__]


# ---- recorded curves ----


def function(text, variable):
    """A function that the recorded curves hold as text."""
    return eval(f"lambda {variable}: {text}", {"math": math, "min": min, "max": max})  # the project's own text


def arguments(kwargs):
    """A case's arguments, with functions in place of their texts."""
    made = {}
    for key, value in kwargs.items():
        if key in ("lr_lambda", "scale_fn"):
            variable = "epoch" if key == "lr_lambda" else "x"
            texts = value if isinstance(value, list) else [value]
            functions = [function(text, variable) for text in texts]
            made[key] = functions if isinstance(value, list) else functions[0]
        elif key in ("schedulers", "schedules", "scheds"):
            made[key] = [{**part, "kwargs": arguments(part["kwargs"])} for part in value]
        else:
            made[key] = value
    return made


def built(case):
    context = dict(case.get("context") or {})
    if "lr_lambda" in case["kwargs"] or "scale_fn" in case["kwargs"]:
        context["steps"] = case["steps"]
    return compat.build(
        case["system"],
        case["name"],
        arguments(case["kwargs"]),
        base_lr=case["base_lr"],
        hyperparameter=case["hyperparameter"],
        context=context,
    )


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_a_recorded_curve_is_reproduced_to_its_last_value(case):
    schedules = built(case)
    values = np.atleast_2d(np.array(case["values"]))
    assert isinstance(schedules, list) == isinstance(case["values"][0], list)
    ours = np.stack([s.table(case["steps"]) for s in (schedules if isinstance(schedules, list) else [schedules])])
    right = ~np.isin(np.arange(case["steps"]), case.get("misfire_at", []))
    # The frameworks add up roundings of the largest value; fastai keeps its phases' limits in float32
    relative = 1e-12 if case["precision"] == "float64" else 1e-6
    limit = relative * np.abs(values[:, right]).max()
    np.testing.assert_allclose(ours[:, right], values[:, right], rtol=relative, atol=limit)


@pytest.mark.parametrize("case", [case for case in CASES if case.get("misfire_at")], ids=lambda case: case["id"])
def test_a_restart_that_a_framework_misplaces_is_a_peak_here(case):
    s = built(case)
    for step in case["misfire_at"]:
        assert s(step) == pytest.approx(case["base_lr"], rel=1e-12)


def test_a_recorded_curve_survives_json_and_pickle():
    for case in CASES:
        schedules = built(case)
        for s in schedules if isinstance(schedules, list) else [schedules]:
            assert fs.from_json(s.to_json()) == s
            assert pickle.loads(pickle.dumps(s)) == s  # its own pickle


# ---- modules ----


def test_modules_load_when_they_are_used():
    support.output(
        "import sys, fastsched as fs\n"
        "assert not any(name.startswith('fastsched.compat') for name in sys.modules)\n"
        "fs.compat\n"
        "assert not any(name.startswith('fastsched.compat.') for name in sys.modules)\n"
        "fs.compat.timm\n"
        "assert 'fastsched.compat.timm' in sys.modules and 'fastsched.compat.optax' not in sys.modules\n"
    )


def test_no_framework_is_imported():
    packages = "composer deepspeed fastai fvcore jax keras megatron optax timm torch torchtitan transformers"
    support.output(
        "import sys, fastsched as fs\n"
        "for system in fs.compat.SYSTEMS:\n"
        "    getattr(fs.compat, system)\n"
        "fs.compat.torch.OneCycleLR(0.1, max_lr=0.1, total_steps=10)\n"
        f"assert not set('{packages}'.split()) & set(sys.modules)\n"
    )


def test_the_examples_of_compat_and_build_are_right():
    result = doctest.testmod(compat)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("system", compat.SYSTEMS)
def test_the_examples_in_the_docstrings_of_a_system_are_right(system):
    module = MODULES[system]
    runner, finder = doctest.DocTestRunner(), doctest.DocTestFinder(recurse=False)
    for name, documented in [(system, module), *((name, getattr(module, name)) for name in module.__all__)]:
        for test in finder.find(documented, name, module=False, globs=dict(vars(module))):
            runner.run(test)
    result = runner.summarize(verbose=False)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(("system", "name"), PEERS)
def test_every_name_has_a_docstring_and_its_own_signature(system, name):
    peer = getattr(MODULES[system], name)
    assert peer.__doc__
    assert peer.__name__ == name
    parameters = inspect.signature(peer).parameters
    assert {"hyperparameter", "context"} <= set(parameters)
    assert (next(iter(parameters)) in ("base_lr", "lr")) == peer.takes_base or not peer.takes_base


def test_names_that_do_not_exist_are_no_attributes():
    with pytest.raises(AttributeError, match=r"^module 'fastsched.compat' has no attribute 'mxnet'$"):
        _ = compat.mxnet
    assert set(compat.SYSTEMS) <= set(dir(compat))


# ---- groups, hyperparameters and context ----


def test_a_number_gives_a_schedule_and_a_list_gives_a_list():
    one = compat.torch.CosineAnnealingLR(0.1, T_max=10)
    assert compat.torch.CosineAnnealingLR([0.1], T_max=10) == [one]
    assert compat.torch.CosineAnnealingLR((0.1, 0.2), 10) == [one, compat.torch.CosineAnnealingLR(0.2, 10)]


def test_build_is_the_function_itself():
    kwargs = {"T_max": 10, "eta_min": 0.01}
    assert compat.build("torch", "CosineAnnealingLR", kwargs, base_lr=0.1) == compat.torch.CosineAnnealingLR(
        0.1, **kwargs
    )
    kwargs = {"init_value": 0.1, "decay_steps": 100}
    assert compat.build("optax", "cosine_decay_schedule", kwargs) == compat.optax.cosine_decay_schedule(**kwargs)


def test_build_makes_parts_within_parts():
    def linear(factor):
        return {"name": "LinearLR", "kwargs": {"start_factor": factor}}

    inner = {"name": "ChainedScheduler", "kwargs": {"schedulers": [linear(0.5), linear(0.25)]}}
    s = compat.build("torch", "ChainedScheduler", {"schedulers": [inner, {"name": "ConstantLR"}]}, base_lr=1.0)
    assert s(0) == 0.125 / 3


def test_a_schedule_trains_through_a_plan():
    schedules = compat.torch.CosineAnnealingLR([0.1, 0.2], T_max=10)
    plan = fs.Plan([{"lr": s} for s in schedules])
    assert plan.at(5)["lr"].tolist() == [0.05, 0.1]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: compat.build("mxnet", "x", {}),
            ValueError,
            r"^build: system must be a known one, got 'mxnet'; pass com",
        ),
        (
            lambda: compat.build("torch", "x", {}),
            ValueError,
            r"^build: torch must have the name, got 'x'; pass one of SW",
        ),
        (
            lambda: compat.build("torch", "peer", {}),
            ValueError,
            r"^build: torch must have the name, got 'peer'; pass one",
        ),
        (
            lambda: compat.build("torch", ["x"], {}),
            ValueError,
            r"^build: torch must have the name, got a value of type l",
        ),
        (
            lambda: compat.build("torch", "StepLR", [], base_lr=1),
            TypeError,
            r"^build: kwargs must be a dict, got a value",
        ),
        (
            lambda: compat.build("torch", "StepLR", {}, base_lr=1),
            TypeError,
            r"^StepLR: missing a required argument: 'st",
        ),
        (
            lambda: compat.build("torch", "StepLR", {"step_size": 1}),
            TypeError,
            r"^StepLR: base_lr must be a number or a",
        ),
        (
            lambda: compat.torch.StepLR(step_size=1),
            TypeError,
            r"^StepLR: base_lr must be given first, in the optimizer's",
        ),
        (
            lambda: compat.torch.StepLR(True, 1),
            TypeError,
            r"^StepLR: base_lr must be a number or a list .* got True; pass",
        ),
        (
            lambda: compat.torch.StepLR([], 1),
            ValueError,
            r"^StepLR: base_lr must have at least one group, got none; pass",
        ),
        (lambda: compat.torch.StepLR([1, "a"], 1), TypeError, r"^StepLR: base_lr\[1\] must be a number, got 'a'; pass"),
        (lambda: compat.torch.StepLR(math.nan, 1), ValueError, r"^StepLR: base_lr must be finite"),
        (
            lambda: compat.torch.StepLR(1, 1, gamme=2),
            TypeError,
            r"^StepLR: got an unexpected .* its arguments are step_",
        ),
        (
            lambda: compat.torch.StepLR(1, 1, hyperparameter="momentum"),
            ValueError,
            r"^StepLR: hyperparameter must be 'lr', got 'momentum'; the peer changes no other",
        ),
        (
            lambda: compat.torch.OneCycleLR(1, 1, 9, hyperparameter="beta"),
            ValueError,
            r"^OneCycleLR: hyperparameter must be 'lr' or 'momentum', got 'beta'; pass a known one",
        ),
        (
            lambda: compat.torch.StepLR(1, 1, context=3),
            TypeError,
            r"^StepLR: context must be a dict, got 3; pass context",
        ),
        (
            lambda: compat.torch.StepLR(1, 1, context={"step": 3}),
            ValueError,
            r"^StepLR: context must have known keys, got 'step'; pass optimizer, drive",
        ),
        (
            lambda: compat.timm.CosineLRScheduler(1.0, 9, cycle_decay=1e200, cycle_limit=3, k_decay=2.0),
            ValueError,
            r"^CosineLRScheduler: cycle_decay \*\* 2 must be finite, got 1e\+200 \*\* 2; pass",
        ),
        (
            lambda: compat.torch.StepLR(1, 1, context={"optimizer": 3}),
            TypeError,
            r"^StepLR: context's optimizer must be a dict, got 3; pass what matters",
        ),
        (
            lambda: compat.build(
                "torch",
                "CyclicLR",
                {"base_lr": 0.1, "max_lr": 1.0, "cycle_momentum": False},
                base_lr=0.1,
                hyperparameter="momentum",
                context={"optimizer": {"betas": 3}},
            ),
            TypeError,
            r"^CyclicLR: betas must be a pair of numbers, got 3; pass",
        ),
        (lambda: compat.torch.StepLR(1, 1, gamma=-1.0), ValueError, r"^StepLR: StepDecay: gamma must be > 0, got -1.0"),
    ],
)
def test_a_wrong_call_is_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_strings_are_never_evaluated():
    with pytest.raises(TypeError, match=r"^LambdaLR: lr_lambda must be a function, got 'exit\(\)'; strings are not ev"):
        compat.build("torch", "LambdaLR", {"lr_lambda": "exit()"}, base_lr=0.1, context={"steps": 3})
