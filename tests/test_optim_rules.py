"""Every update rule with every option: against plain torch in float64, against torch's fused optimizers, and itself."""

import functools
import math

import pytest
import torch
from optimizers import RULES, SHAPES, Plain, chosen, everything, give_grads, machine, params_of, rms, same_bits, weights
from torch.testing._internal.common_optimizers import optim_db

import fastsched as fs

# Options that torch's namesake has too.
SHARED = [
    ("AdamW", {}),
    ("AdamW", {"weight_decay": 0.0}),
    ("AdamW", {"weight_decay": 0.3, "lr": 0.05}),
    ("AdamW", {"betas": (0.0, 0.0)}),
    ("AdamW", {"betas": (0.0, 0.999)}),
    ("AdamW", {"betas": (0.9, 0.0), "eps": 0.1}),
    ("AdamW", {"betas": (0.9999, 0.99999)}),
    ("AdamW", {"eps": 1e-3}),
    ("AdamW", {"amsgrad": True}),
    ("AdamW", {"maximize": True}),
    ("AdamW", {"amsgrad": True, "maximize": True, "weight_decay": 0.1}),
    ("Adam", {}),
    ("Adam", {"weight_decay": 0.1}),
    ("Adam", {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("Adam", {"weight_decay": 0.1, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-2}),
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.01, "momentum": 0.9}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("SGD", {"lr": 0.01, "momentum": 1.5, "dampening": 1.0}),
]
LION = [
    ("Lion", {}),
    ("Lion", {"weight_decay": 0.1, "lr": 0.01}),
    ("Lion", {"maximize": True, "weight_decay": 0.1}),
    ("Lion", {"betas": (0.0, 0.5)}),
    ("Lion", {"betas": (0.5, 0.0)}),
]
KINDS = [
    ("AdamW", {}),
    ("AdamW", {"amsgrad": True, "maximize": True}),
    ("Adam", {}),
    ("SGD", {"lr": 0.01}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "dampening": 0.1}),
    ("SGD", {"lr": 0.01, "momentum": 0.9, "nesterov": True}),
    ("Lion", {"lr": 0.001}),
]
MODES = ["l2", "decoupled", "composer", "timm", "cautious"]
DECAYING = [
    (rule, {**options, "weight_decay": 0.1, "weight_decay_mode": mode}) for rule, options in KINDS for mode in MODES
]


def name(case):
    return " ".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def torchs(rule, params, **options):
    return getattr(torch.optim, rule)(params, **options)


def growing(options):
    """Momentum above 1 is allowed and grows without bounds; fewer steps of it."""
    return options.get("momentum", 0) > 1


# ---- values


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_the_references_of_these_tests_are_torchs_optimizers_in_float64(case):
    rule, options = case
    plain, theirs = params_of(SHAPES, dtype=torch.float64), params_of(SHAPES, dtype=torch.float64)
    a, b = Plain(rule, plain, **options), torchs(rule, theirs, **options)
    for t in range(10):
        give_grads(plain, theirs, seed=t)
        a.step()
        b.step()
    # 10 updates, each a dozen roundings of values of size 1
    torch.testing.assert_close(weights(plain), weights(theirs), rtol=128 * 2**-52, atol=128 * 2**-52)


@pytest.mark.parametrize("case", SHARED + LION + DECAYING, ids=name)
def test_float64_weights_are_those_of_the_formula(case):
    rule, options = case
    ours, plain = params_of(SHAPES, dtype=torch.float64), params_of(SHAPES, dtype=torch.float64)
    a, b = chosen(rule, ours, **options), Plain(rule, plain, **options)
    for t in range(50):
        give_grads(ours, plain, seed=t)
        a.step()
        b.step()
        if growing(options) and t == 10:
            break
    # 50 updates, each a dozen roundings of values of size 1
    torch.testing.assert_close(weights(ours), weights(plain), rtol=256 * 2**-52, atol=256 * 2**-52)


@pytest.mark.parametrize("case", [case for case in SHARED if not growing(case[1])], ids=name)
def test_after_1000_steps_weights_are_at_least_as_near_to_a_float64_run_as_torchs(case):
    rule, options = case
    shapes = [(63, 61), (37,)]
    ours, theirs, exact = params_of(shapes), params_of(shapes), params_of(shapes, dtype=torch.float64)
    optimizers = [
        chosen(rule, ours, **options),
        torchs(rule, theirs, fused=True, **options),
        Plain(rule, exact, **options),
    ]
    with machine(threads=1):  # two threads that wait for each other would take the time of this test
        for t in range(1000):
            give_grads(ours, theirs, exact, seed=t)
            for opt in optimizers:
                opt.step()
    # 1.1 is the project's bar. The floor, half an ulp of weights of size 1: where both are all but exact.
    assert rms(ours, exact) <= max(1.1 * rms(theirs, exact), 2**-25)


@pytest.mark.parametrize(
    "case",
    [
        *LION,
        # without an equal in torch; little decay, because one element whose cautious mask falls on the other side
        # must not outweigh the roundings of all others
        *[(rule, {**options, "weight_decay": 0.01, "weight_decay_mode": mode})
          for rule, options in [("AdamW", {}), ("SGD", {"lr": 0.01, "momentum": 0.9})]
          for mode in ("composer", "timm", "cautious")],
    ],
    ids=name,
)  # fmt: skip
def test_after_1000_steps_weights_are_at_least_as_near_to_a_float64_run_as_a_plain_float32_loop(case):
    rule, options = case
    shapes = [(63, 61), (37,)]
    ours, loop, exact = params_of(shapes), params_of(shapes), params_of(shapes, dtype=torch.float64)
    reference = Plain(rule, exact, **options)
    optimizers = [chosen(rule, ours, **options), Plain(rule, loop, **options), reference]
    with machine(threads=1):
        for t in range(1000):
            give_grads(ours, loop, exact, seed=t)
            if rule == "Lion":
                decide(reference, ours, loop, exact)
            for opt in optimizers:
                opt.step()
    assert rms(ours, exact) <= max(1.1 * rms(loop, exact), 2**-25)


def decide(reference, *models):
    """Move the gradients for which Lion's sign hangs on a rounding, where a whole step would depend on chance."""
    beta1, _ = reference.options["betas"]
    for held, same in zip(reference.held, zip(*models, strict=True), strict=True):
        grad = same[-1].grad
        sign_of = beta1 * held.get("m", 0.0) + (1 - beta1) * grad
        close = sign_of.abs() < 2**-16
        for p in same:
            p.grad[close] += 1.0


@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD", "Lion"])
def test_the_default_mode_of_weight_decay_is_torchs(rule):
    usual = {"AdamW": "decoupled", "Adam": "l2", "SGD": "l2", "Lion": "decoupled"}[rule]
    a, b = params_of(SHAPES), params_of(SHAPES)
    for params, mode in ((a, None), (b, usual)):
        opt = chosen(rule, params, weight_decay=0.1, weight_decay_mode=mode)
        for t in range(3):
            give_grads(params, seed=t)
            opt.step()
    assert same_bits(a, b)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rule", list(RULES))
def test_each_mode_of_weight_decay_follows_a_scheduled_lr(rule, mode):
    """composer by lr over the group's base, timm by lr over the optimizer's default lr: only a schedule tells."""
    schedule, lrs, options = fs.Linear(1.0, 0.1, steps=10), (0.01, 0.002), {"weight_decay": 0.1}
    ours, plain = params_of([(30,), (20,)], dtype=torch.float64), params_of([(30,), (20,)], dtype=torch.float64)
    groups = [{"params": [ours[0]]}, {"params": [ours[1]], "lr": lrs[1]}]
    opt = chosen(rule, groups, lr=lrs[0], schedule=schedule, weight_decay_mode=mode, **options)
    loops = [Plain(rule, [p], lr=lr, weight_decay_mode=mode, **options) for p, lr in zip(plain, lrs, strict=True)]
    loops[1].max_lr = lrs[0]
    for t in range(12):
        give_grads(ours, plain, seed=t)
        for loop, lr in zip(loops, lrs, strict=True):
            loop.options["lr"] = lr * schedule(t)
            loop.step()
        opt.step()
    torch.testing.assert_close(weights(ours), weights(plain), rtol=64 * 2**-52, atol=64 * 2**-52)


def test_cautious_decay_spares_exactly_the_elements_that_move_away_from_zero():
    p = torch.nn.Parameter(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0]))
    p.grad = torch.tensor([1.0, 1.0, -1.0, -1.0, 0.0])
    fs.optim.SGD([p], lr=0.5, weight_decay=0.5, weight_decay_mode="cautious").step()
    assert p.tolist() == [1 - 0.5 - 0.25, -1 - 0.5, 1 + 0.5, -1 + 0.5 + 0.25, 1 - 0.25]


@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_eps_0_divides_0_by_0_as_torch_does(rule):
    ours, theirs = params_of([(4,)]), params_of([(4,)])
    for params in (ours, theirs):
        params[0].grad = torch.tensor([1.0, 0.0, -1.0, 2.0])
    chosen(rule, ours, eps=0.0).step()
    torchs(rule, theirs, eps=0.0).step()
    torch.testing.assert_close(weights(ours), weights(theirs), equal_nan=True, rtol=4 * 2**-23, atol=0)


def test_the_first_momentum_is_the_undampened_gradient():
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    opt = fs.optim.SGD([p], lr=1.0, momentum=0.5, dampening=0.75)
    opt.step()
    assert opt.state[p]["momentum_buffer"].tolist() == [1.0] * 3
    opt.step()
    assert opt.state[p]["momentum_buffer"].tolist() == [0.5 + 0.25] * 3


def test_momentum_switched_on_later_starts_from_the_gradient_of_then():
    ours, theirs = params_of([(9,)]), params_of([(9,)])
    a, b = fs.optim.SGD(ours, lr=0.1), torch.optim.SGD(theirs, lr=0.1)
    for t in range(6):
        give_grads(ours, theirs, seed=t)
        for opt in (a, b):
            opt.param_groups[0]["momentum"] = 0.9 if t >= 3 else 0.0
            opt.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=16 * 2**-24, atol=16 * 2**-24)


def test_lion_moves_every_element_by_lr_whatever_the_size_of_its_gradient():
    p = torch.nn.Parameter(torch.zeros(4))
    p.grad = torch.tensor([1e-30, -1e30, 0.0, 3.0])
    fs.optim.Lion([p], lr=0.5).step()
    assert p.tolist() == [-0.5, 0.5, 0.0, -0.5]


# Lion's average after an infinite gradient is infinity or NaN, as the formula is written: neither is of use.
SPECIALS = [
    (rule, special)
    for rule in RULES
    for special in (math.nan, math.inf, -math.inf, 1e-42, 3e38)
    if not (rule == "Lion" and math.isinf(special))
]


@pytest.mark.parametrize(("rule", "special"), SPECIALS)
def test_special_gradients_leave_what_the_formula_leaves(rule, special):
    ours, plain = params_of([(4,)]), params_of([(4,)])
    options = {"momentum": 0.9} if rule == "SGD" else {}
    a, b = chosen(rule, ours, **options), Plain(rule, plain, **options)
    for value in (1.0, special, 1.0):
        ours[0].grad = torch.tensor([value, 1.0, -value, 0.0])
        plain[0].grad = ours[0].grad.clone()
        a.step()
        b.step()
    torch.testing.assert_close(weights(ours), weights(plain), equal_nan=True, rtol=4 * 2**-23, atol=0)


# ---- the arguments


def test_the_arguments_of_torchs_namesakes_stand_in_the_same_places():
    a, b = params_of([(5,)]), params_of([(5,)])
    for rule, given in [
        ("AdamW", (0.1, (0.5, 0.9), 1e-3, 0.2, True)),
        ("Adam", (0.1, (0.5, 0.9), 1e-3, 0.2, True)),
        ("SGD", (0.1, 0.9, 0.0, 0.2, True)),
    ]:
        ours, theirs = getattr(fs.optim, rule)(a, *given), getattr(torch.optim, rule)(b, *given)
        assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


def test_lions_arguments_are_those_of_its_paper():
    opt = fs.optim.Lion(params_of([(5,)]), 0.1, (0.5, 0.9), 0.2)
    group = opt.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.1, (0.5, 0.9), 0.2)
    assert fs.optim.Lion(params_of([(5,)])).defaults.items() >= {"lr": 1e-4, "betas": (0.9, 0.99)}.items()


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"lr": -1.0}, "Invalid learning rate"),
        ({"betas": (1.0, 0.9)}, "Invalid beta parameter at index 0"),
        ({"betas": (0.9, -0.1)}, "Invalid beta parameter at index 1"),
        ({"betas": (math.nan, 0.9)}, "Invalid beta parameter at index 0"),
        ({"weight_decay": -0.1}, "Invalid weight_decay value"),
        ({"differentiable": True}, "differentiable must be False"),
    ],
    ids=str,
)
def test_lion_refuses_what_is_out_of_range_in_torchs_words(wrong, match):
    with pytest.raises(ValueError, match=match):
        fs.optim.Lion(params_of([(5,)]), **wrong)


def test_nesterov_without_momentum_is_refused_as_in_torch():
    with pytest.raises(ValueError, match="Nesterov momentum requires a momentum and zero dampening"):
        fs.optim.SGD(params_of([(5,)]), nesterov=True)


@pytest.mark.parametrize("rule", ["AdamW", "Adam", "SGD", "Lion"])
def test_a_mode_of_weight_decay_that_is_none_is_refused(rule):
    with pytest.raises(ValueError, match=f"{rule}: weight_decay_mode must be"):
        chosen(rule, params_of([(5,)]), weight_decay_mode="coupled")


@pytest.mark.parametrize("mode", ["composer", "timm"])
@pytest.mark.parametrize("where", ["default", "group"])
def test_modes_that_compare_lr_with_its_base_refuse_an_lr_that_is_a_schedule(mode, where):
    line = fs.Linear(0.1, 0.0, steps=5)
    group, default = {"params": params_of([(5,)])}, {}
    (default if where == "default" else group)["lr"] = line
    with pytest.raises(ValueError, match=r"SGD: .*schedule="):
        fs.optim.SGD([group], **default, weight_decay_mode=mode)


@pytest.mark.parametrize("rule", ["Adam", "SGD", "AdamW", "Lion"])
def test_foreach_and_fused_are_taken_and_change_nothing(rule):
    a, b = params_of(SHAPES), params_of(SHAPES)
    for params, flags in ((a, {}), (b, {"foreach": True})):
        give_grads(params, seed=0)
        chosen(rule, params, **flags).step()
    c = params_of(SHAPES)
    give_grads(c, seed=0)
    chosen(rule, c, fused=True).step()
    assert same_bits(a, b)
    assert same_bits(a, c)


DB = {info.optim_cls.__name__: info for info in optim_db if info.optim_cls.__name__ in ("Adam", "AdamW", "SGD")}
ERRORS = [(rule, x) for rule, info in DB.items() for x in info.optim_error_inputs_func("cpu", torch.float32)]
INPUTS = [(rule, x) for rule, info in DB.items() for x in info.optim_inputs_func("cpu")]


@pytest.mark.parametrize(
    ("rule", "error_input"), ERRORS, ids=[f"{r} {x.optimizer_error_input.desc}" for r, x in ERRORS]
)
def test_torchs_own_error_inputs_give_torchs_errors(rule, error_input):
    given = error_input.optimizer_error_input
    params = params_of([(5,)]) if given.params is None else given.params
    with pytest.raises(error_input.error_type, match=error_input.error_regex):
        chosen(rule, params, **given.kwargs)


@pytest.mark.parametrize(("rule", "optim_input"), INPUTS, ids=[f"{r} {x.desc}" for r, x in INPUTS])
def test_torchs_own_inputs_give_torchs_weights(rule, optim_input):
    ours, theirs = params_of(SHAPES), params_of(SHAPES)
    a, b = chosen(rule, ours, **optim_input.kwargs), torchs(rule, theirs, **optim_input.kwargs)
    for t in range(5):
        give_grads(ours, theirs, seed=t)
        a.step()
        b.step()
    # 5 updates, a few roundings each, of weights of size 1
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=16 * 2**-23, atol=16 * 2**-24)


# ---- the same bits

LARGE = [(1000,), (3,), (150_001,), (64, 64), (0,), ()]
EVERYTHING = [
    (rule, {**options, "weight_decay": 0.1, "weight_decay_mode": mode})
    for (rule, options), mode in zip(
        KINDS, ["cautious", "l2", "decoupled", "cautious", "l2", "timm", "composer"], strict=True
    )
]


@functools.cache
def ran(index, isa=None, threads=1, groups=1, clip="norm"):
    rule, options = EVERYTHING[index]
    params = params_of(LARGE)
    size = -(-len(params) // groups)
    parts = [{"params": params[i : i + size]} for i in range(0, len(params), size)]
    clips = {"norm": {"max_grad_norm": 1.0}, "value": {"max_grad_value": 0.5}}[clip]
    with machine(isa, threads):
        opt = chosen(rule, parts, schedule=fs.Cosine(steps=20), ema_decay=0.9, **clips, **options)
        for t in range(3):
            give_grads(params, seed=t)
            opt.step()
    return everything(opt)


CASES = range(len(EVERYTHING))


def case_name(index):
    return name(EVERYTHING[index])


@pytest.mark.parametrize("isa", [isa for isa in fs._core.isas() if isa != "baseline"])
@pytest.mark.parametrize("index", CASES, ids=case_name)
def test_every_instruction_set_gives_the_same_bits(index, isa):
    assert same_bits(ran(index, isa), ran(index, "baseline"))


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("index", CASES, ids=case_name)
def test_any_number_of_threads_gives_the_same_bits(index, threads):
    assert same_bits(ran(index, threads=threads), ran(index))


@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("index", CASES, ids=case_name)
def test_any_grouping_gives_the_same_bits(index, groups):
    assert same_bits(ran(index, groups=groups), ran(index))


@pytest.mark.parametrize("isa", [isa for isa in fs._core.isas() if isa != "baseline"])
def test_every_instruction_set_clamps_to_the_same_bits(isa):
    assert same_bits(ran(0, isa, clip="value"), ran(0, "baseline", clip="value"))
