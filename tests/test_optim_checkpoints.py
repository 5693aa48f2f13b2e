"""Checkpoints: from torch and to torch in the middle of a run, and resumed to the bit by ourselves."""

import copy
import io
import pickle

import pytest
import torch
from optimizers import HALVES, RULES, SHAPES, chosen, copies, everything, give_grads, params_of, same_bits, weights

import fastsched as fs

COSINE = fs.Cosine(steps=20)
# As torch's namesake takes it.
SHARED = [
    ("AdamW", {"lr": 0.05}),
    ("AdamW", {"lr": 0.05, "amsgrad": True, "maximize": True}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("SGD", {"lr": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.5}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
]
KEYS = {
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "SGD": {"step", "momentum_buffer"},
    "Lion": {"step", "exp_avg"},
}
OPTIONS = {rule: {"lr": 0.05, "weight_decay": 0.1, **({"momentum": 0.9} if rule == "SGD" else {})} for rule in RULES}


def name(case):
    return " ".join([case[0], *(f"{key}={value}" for key, value in case[1].items())])


def torchs(rule, params, **options):
    return getattr(torch.optim, rule)(params, **options)


def through_a_file(state):
    """As a checkpoint travels; weights_only forbids anything but tensors, numbers and plain containers."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(opt, params, steps):
    for t in steps:
        give_grads(params, seed=t)
        opt.step()


# ---- with torch


@pytest.mark.parametrize("fused", [False, True], ids=["plain", "fused"])
@pytest.mark.parametrize("direction", ["to torch", "from torch"])
@pytest.mark.parametrize("case", SHARED, ids=name)
def test_a_checkpoint_continues_on_the_same_trajectory_in_the_other_library(case, direction, fused):
    rule, options = case
    makers = [chosen, lambda *args, **kwargs: torchs(*args, fused=fused, **kwargs)]
    if direction == "from torch":
        makers.reverse()
    first, stays = params_of(SHAPES), params_of(SHAPES)
    a, b = makers[0](rule, first, **options), torchs(rule, stays, **options)
    run(a, first, range(5))
    run(b, stays, range(5))
    moved = copies(first)
    c = makers[1](rule, moved, **options)
    c.load_state_dict(through_a_file(a.state_dict()))
    run(c, moved, range(5, 10))
    run(b, stays, range(5, 10))
    # 10 updates of 0.05: a few ulp of weights near 1
    torch.testing.assert_close(weights(moved), weights(stays), rtol=16 * 2**-23, atol=16 * 2**-23)


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_a_checkpoint_that_went_to_torch_and_came_back_is_the_same(case):
    rule, options = case
    params = params_of(SHAPES)
    a = chosen(rule, params, **options)
    run(a, params, range(3))
    between = torchs(rule, copies(params), **options)
    between.load_state_dict(copy.deepcopy(a.state_dict()))
    back = chosen(rule, copies(params), **options)
    back.load_state_dict(copy.deepcopy(between.state_dict()))
    assert same_bits(everything(back), everything(a))
    assert back.position == 3


@pytest.mark.parametrize("rule", ["AdamW", "Adam"])
def test_the_position_of_a_run_of_torchs_is_recovered(rule):
    params = params_of(SHAPES)
    theirs = torchs(rule, params)
    run(theirs, params, range(4))
    ours = chosen(rule, copies(params), lr=0.5, schedule=COSINE)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    assert ours.position == 4
    assert ours.lrs == [0.5 * COSINE(4)]


def test_sgd_has_a_step_count_from_which_the_position_is_recovered():
    params = params_of(SHAPES)
    old = fs.optim.SGD(params, lr=0.5, schedule=COSINE)
    run(old, params, range(4))
    new = fs.optim.SGD(copies(params), lr=0.5, schedule=COSINE)
    new.load_state_dict(through_a_file(old.state_dict()))
    assert new.position == 4


def test_a_momentum_buffer_of_torchs_goes_on_without_a_step_count():
    params = params_of(SHAPES)
    theirs = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    run(theirs, params, range(3))
    saved = theirs.state_dict()
    assert "step" not in saved["state"][0]
    moved = copies(params)
    ours = fs.optim.SGD(moved, lr=0.1, momentum=0.9)
    ours.load_state_dict(copy.deepcopy(saved))
    held = {key: value["momentum_buffer"] for key, value in ours.state_dict()["state"].items()}
    assert same_bits(held.values(), [value["momentum_buffer"] for value in saved["state"].values()])


def test_momentum_switched_on_after_a_checkpoint_without_it_starts_as_in_torch():
    stepped = []
    for maker in (fs.optim.SGD, torch.optim.SGD):
        params = params_of(SHAPES)
        old = maker(params, lr=0.1)
        run(old, params, range(3))
        moved = copies(params)
        new = maker(moved, lr=0.1)
        new.load_state_dict(copy.deepcopy(old.state_dict()))
        new.param_groups[0].update(momentum=0.9, dampening=0.5)
        run(new, moved, range(3, 6))
        stepped.append(moved)
    torch.testing.assert_close(*map(weights, stepped), rtol=16 * 2**-24, atol=16 * 2**-24)


@pytest.mark.parametrize("case", SHARED, ids=name)
def test_group_keys_and_values_are_torchs(case):
    rule, options = case
    ours, theirs = chosen(rule, params_of(SHAPES), **options), torchs(rule, params_of(SHAPES), **options)
    assert ours.state_dict()["param_groups"] == theirs.state_dict()["param_groups"]


@pytest.mark.parametrize("rule", list(RULES))
def test_no_option_of_ours_adds_a_group_key(rule):
    params = params_of(SHAPES)
    more = {
        "schedule": COSINE, "max_grad_norm": 1.0, "ema_decay": 0.5, "zero_grads": True, "amp": True,
        "weight_decay_mode": "cautious", "master_weights": True, "stochastic_rounding": True, "seed": 3,
        "state_dtype": torch.bfloat16,
    }  # fmt: skip
    opt = chosen(rule, params, **OPTIONS[rule], **more)
    run(opt, params, range(2))
    plain = chosen(rule, params_of(SHAPES), **OPTIONS[rule])
    assert set(opt.state_dict()["param_groups"][0]) == set(plain.state_dict()["param_groups"][0])


@pytest.mark.parametrize("rule", list(RULES))
def test_state_keys_are_torchs(rule):
    params = params_of(SHAPES)
    opt = chosen(rule, params, **OPTIONS[rule])
    run(opt, params, range(2))
    assert [set(held) for held in opt.state_dict()["state"].values()] == [KEYS[rule]] * len(SHAPES)


def test_sgd_without_momentum_keeps_a_step_count_alone():
    params = params_of(SHAPES)
    opt = fs.optim.SGD(params)
    run(opt, params, range(2))
    assert all(set(held) == {"step"} for held in opt.state_dict()["state"].values())


# ---- dtypes


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", list(RULES))
def test_the_float32_state_of_half_parameters_survives_loading(rule, dtype):
    """torch casts state to the dtype of the parameter."""
    params = params_of(SHAPES, dtype=dtype)
    a = chosen(rule, params, ema_decay=0.75, master_weights=True, **OPTIONS[rule])
    run(a, params, range(3))
    b = chosen(rule, copies(params), ema_decay=0.75, master_weights=True, **OPTIONS[rule])
    b.load_state_dict(through_a_file(a.state_dict()))
    assert same_bits(everything(b), everything(a))
    assert all(value.dtype is torch.float32 for held in b.state.values() for value in held.values())


def test_bfloat16_state_loads_into_float32_state_and_back():
    params = params_of(SHAPES)
    narrow = fs.optim.AdamW(params, state_dtype=torch.bfloat16)
    run(narrow, params, range(3))
    wide = fs.optim.AdamW(copies(params))
    wide.load_state_dict(copy.deepcopy(narrow.state_dict()))
    back = fs.optim.AdamW(copies(params), state_dtype=torch.bfloat16)
    back.load_state_dict(copy.deepcopy(wide.state_dict()))
    moments = [[opt.state[p]["exp_avg"] for p in opt.param_groups[0]["params"]] for opt in (narrow, wide, back)]
    assert {m.dtype for m in moments[1]} == {torch.float32}
    assert same_bits(moments[0], moments[2])
    assert same_bits([m.float() for m in moments[0]], moments[1])


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES, torch.complex64])
def test_a_checkpoint_of_torchs_of_another_dtype_is_taken(dtype):
    params = params_of(SHAPES, dtype=dtype)
    theirs = torch.optim.AdamW(params)
    run(theirs, params, range(3))
    moved = copies(params)
    ours = fs.optim.AdamW(moved)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for p, q in zip(moved, params, strict=True):
        wide = ours.state[p]["exp_avg"].dtype
        assert torch.equal(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"].to(wide))


@pytest.mark.parametrize("dtype", HALVES)
def test_a_checkpoint_without_masters_starts_them_from_the_weights(dtype):
    params = params_of(SHAPES, dtype=dtype)
    old = fs.optim.AdamW(params)
    run(old, params, range(3))
    moved = copies(params)
    new = fs.optim.AdamW(moved, lr=0.0, master_weights=True)
    new.load_state_dict(copy.deepcopy(old.state_dict()))
    before = weights(moved)
    new.param_groups[0]["lr"] = 0.0
    run(new, moved, [3])
    assert same_bits([new.state[p]["master_param"] for p in moved], [p.float() for p in before])


# ---- resumed to the bit


EXTRAS = [
    (torch.float32, {}),
    (torch.float32, {"state_dtype": torch.bfloat16, "seed": 7}),
    (torch.float64, {}),
    (torch.bfloat16, {"stochastic_rounding": True}),
    (torch.bfloat16, {"stochastic_rounding": True, "state_dtype": torch.bfloat16, "seed": 2**40}),
    (torch.bfloat16, {"master_weights": True}),
    (torch.float16, {"master_weights": True, "state_dtype": torch.bfloat16}),
    (torch.complex64, {}),
]


def extra_name(extra):
    return f"{extra[0]} {extra[1]}"


def resumable(rule, params, extra):
    options = {"schedule": COSINE, "ema_decay": fs.Linear(0.5, 1.0, steps=8), "max_grad_norm": 1.0}
    return chosen(rule, params, **OPTIONS[rule], **options, **extra)


@pytest.mark.parametrize("extra", EXTRAS, ids=extra_name)
@pytest.mark.parametrize("rule", list(RULES))
def test_a_resumed_run_goes_on_with_the_same_bits(rule, extra):
    dtype, options = extra
    through, split = params_of(SHAPES, dtype=dtype), params_of(SHAPES, dtype=dtype)
    a, b = resumable(rule, through, options), resumable(rule, split, options)
    run(a, through, range(8))
    run(b, split, range(4))
    saved = through_a_file({"weights": weights(split), "opt": b.state_dict()})
    resumed = [torch.nn.Parameter(w) for w in saved["weights"]]
    c = resumable(rule, resumed, options)
    c.load_state_dict(saved["opt"])
    run(c, resumed, range(4, 8))
    assert same_bits(everything(a), everything(c))
    assert c.lrs == a.lrs


@pytest.mark.parametrize("extra", EXTRAS, ids=extra_name)
@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda opt: pickle.loads(pickle.dumps(opt))], ids=["deepcopy", "pickle"]
)
def test_a_copy_goes_on_with_the_same_bits(copied, extra):
    dtype, options = extra
    params = params_of(SHAPES, dtype=dtype)
    opt = resumable("AdamW", params, options)
    run(opt, params, range(3))
    twin = copied(opt)
    twins = twin.param_groups[0]["params"]
    assert twin.position == 3
    run(opt, params, range(3, 6))
    run(twin, twins, range(3, 6))
    assert same_bits(everything(opt), everything(twin))


@pytest.mark.parametrize("rule", list(RULES))
def test_a_copy_of_a_fresh_optimizer_steps_like_it(rule):
    params = params_of(SHAPES)
    opt = resumable(rule, params, {})
    twin = copy.deepcopy(opt)
    twins = twin.param_groups[0]["params"]
    run(opt, params, range(2))
    run(twin, twins, range(2))
    assert same_bits(everything(opt), everything(twin))


@pytest.mark.parametrize("rule", list(RULES))
def test_a_checkpoint_of_a_fresh_optimizer_starts_at_0(rule):
    opt = resumable(rule, params_of(SHAPES), {})
    new = resumable(rule, params_of(SHAPES), {})
    run(new, new.param_groups[0]["params"], range(2))
    new.load_state_dict(through_a_file(opt.state_dict()))
    assert new.position == 0


@pytest.mark.parametrize("rule", list(RULES))
def test_loading_copies_the_tensors(rule):
    params = params_of(SHAPES)
    old = chosen(rule, params, ema_decay=0.5, **OPTIONS[rule])
    run(old, params, range(2))
    saved = old.state_dict()
    before = copy.deepcopy(saved)
    new = chosen(rule, copies(params), ema_decay=0.5, **OPTIONS[rule])
    new.load_state_dict(saved)
    run(new, new.param_groups[0]["params"], range(2, 4))
    torch.testing.assert_close(saved["state"], before["state"], rtol=0, atol=0)


@pytest.mark.parametrize("key", ["ema", "master_param", "momentum_buffer"])
def test_a_checkpoint_of_another_shape_leaves_everything_as_it_was(key):
    params = params_of([(3,), (4,)], dtype=torch.bfloat16)
    options = {"momentum": 0.9, "ema_decay": 0.5, "master_weights": True}
    opt = fs.optim.SGD(params, **options)
    run(opt, params, range(2))
    saved = copy.deepcopy(opt.state_dict())
    saved["state"][1][key] = torch.ones(9)
    before = everything(opt)
    with pytest.raises(ValueError, match=rf"state '{key}' has shape \(9,\)"):
        opt.load_state_dict(saved)
    assert same_bits(everything(opt), before)
    assert opt.position == 2


@pytest.mark.parametrize("rule", list(RULES))
def test_the_probe_of_distributed_checkpoint_changes_neither_weights_nor_position(rule):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(3, 2)
    before = weights(model.parameters())
    opt = chosen(rule, model.parameters(), schedule=fs.Linear(0.0, 1.0, steps=5), ema_decay=0.5, **OPTIONS[rule])
    state = get_optimizer_state_dict(model, opt)
    assert set(state["state"]["weight"]) == KEYS[rule] | {"ema"}
    assert opt.position == 0
    assert same_bits(model.parameters(), before)


@pytest.mark.parametrize("option", ["master_weights", "stochastic_rounding"])
def test_the_probe_of_distributed_checkpoint_leaves_half_weights(option):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(3, 2).bfloat16()
    before = weights(model.parameters())
    opt = fs.optim.AdamW(model.parameters(), state_dtype=torch.bfloat16, **{option: True})
    get_optimizer_state_dict(model, opt)
    assert same_bits(model.parameters(), before)


@pytest.mark.parametrize("rule", list(RULES))
def test_distributed_checkpoints_functions_move_a_run_into_a_fresh_model(rule):
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

    def made(seed):
        torch.manual_seed(seed)
        model = torch.nn.Linear(3, 2)
        return model, chosen(rule, model.parameters(), schedule=COSINE, ema_decay=0.5, **OPTIONS[rule])

    model, opt = made(0)
    run(opt, list(model.parameters()), range(3))
    weights_saved, saved = copy.deepcopy(get_state_dict(model, opt))
    other, fresh = made(1)
    set_state_dict(other, fresh, model_state_dict=weights_saved, optim_state_dict=saved)
    assert fresh.position == 3
    run(opt, list(model.parameters()), range(3, 5))
    run(fresh, list(other.parameters()), range(3, 5))
    assert same_bits(everything(opt), everything(fresh))


# ---- groups that join later


@pytest.mark.parametrize("rule", list(RULES))
def test_a_group_that_joins_later_is_updated_as_one_that_starts_then(rule):
    params, extra, alone = params_of([(5,)]), params_of([(6,)], seed=1), params_of([(6,)], seed=1)
    opt = chosen(rule, params, **OPTIONS[rule])
    run(opt, params, range(3))
    opt.add_param_group({"params": extra})
    fresh = chosen(rule, alone, **OPTIONS[rule])
    for t in range(3, 6):
        give_grads(params, seed=t)
        give_grads(extra, alone, seed=t)
        opt.step()
        fresh.step()
    assert same_bits(extra, alone)


def test_a_group_that_joins_later_has_average_and_masters_of_its_own():
    params, extra = params_of([(5,)], dtype=torch.bfloat16), params_of([(6,)], seed=1, dtype=torch.bfloat16)
    opt = fs.optim.AdamW(params, ema_decay=0.5, master_weights=True)
    run(opt, params, range(3))
    opt.add_param_group({"params": extra})
    run(opt, params + extra, range(3, 5))
    assert {"ema", "master_param"} <= set(opt.state[extra[0]])
    assert opt.state[extra[0]]["step"].item() == 2


def test_a_run_with_a_group_that_joined_later_is_resumed_with_the_same_bits():
    def both(params, extra):
        return fs.optim.AdamW([{"params": params}, {"params": extra, "lr": 0.01}], schedule=COSINE)

    params, extra = params_of([(5,)]), params_of([(6,)], seed=1)
    opt = fs.optim.AdamW(params, schedule=COSINE)
    run(opt, params, range(3))
    opt.add_param_group({"params": extra, "lr": 0.01})
    run(opt, params + extra, range(3, 5))
    moved, moved_extra = copies(params), copies(extra)
    new = both(moved, moved_extra)
    new.load_state_dict(through_a_file(opt.state_dict()))
    assert new.position == 5
    run(opt, params + extra, range(5, 7))
    run(new, moved + moved_extra, range(5, 7))
    assert same_bits(everything(opt), everything(new))
