"""Any hyperparameter as a schedule: the values used, the values shown, overrides, position, save and resume."""

import copy
import io
import sys

import numpy as np
import pytest
import torch
from optimizers import SHAPES, chosen, copies, equal, everything, give_grads, params_of, same_bits, weights

import fastsched as fs

LR = fs.Cosine(0.1, 0.01, steps=12)
DECAY = fs.Linear(0.0, 0.3, steps=10)
BETA1 = fs.Linear(0.8, 0.95, steps=10)
BETA2 = fs.Linear(0.9, 0.999, steps=8)
MOMENTUM = fs.Linear(0.5, 0.95, steps=10)

# What is scheduled, per rule: as the class takes it.
SCHEDULED = {
    "AdamW lr": ("AdamW", {"lr": LR}),
    "AdamW weight_decay": ("AdamW", {"weight_decay": DECAY}),
    "AdamW beta1": ("AdamW", {"betas": (BETA1, 0.999)}),
    "AdamW beta2": ("AdamW", {"betas": (0.9, BETA2)}),
    "AdamW all": ("AdamW", {"lr": LR, "betas": (BETA1, BETA2), "weight_decay": DECAY}),
    "Adam all": ("Adam", {"lr": LR, "betas": (BETA1, BETA2), "weight_decay": DECAY}),
    "SGD momentum": ("SGD", {"lr": 0.1, "momentum": MOMENTUM}),
    "SGD all": ("SGD", {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}),
    "Lion all": ("Lion", {"lr": LR, "betas": (BETA1, BETA2), "weight_decay": DECAY}),
}
BY_TORCH = [key for key in SCHEDULED if not key.startswith("Lion")]


def at(value, t):
    """The number a hyperparameter stands for at update t."""
    if isinstance(value, tuple):
        return tuple(at(each, t) for each in value)
    return value(t) if isinstance(value, fs.Schedule) else value


def shown(group, names):
    return {key: group[key] for key in names}


def built(key, params, where, cls=None, t=None):
    """The optimizer of SCHEDULED: values as defaults, or in the second of two groups; as numbers of update t."""
    rule, options = SCHEDULED[key]
    options = options if t is None else {key: at(value, t) for key, value in options.items()}
    make = getattr(cls or fs.optim, rule)
    if where == "default":
        return make([{"params": params[:2]}, {"params": params[2:]}], **options)
    # nesterov and the like stay at their defaults; a momentum of 0 in the first group takes another path there
    return make([{"params": params[:2]}, {"params": params[2:], **options}])


@pytest.mark.parametrize("where", ["default", "group"])
@pytest.mark.parametrize("key", BY_TORCH)
def test_weights_are_those_of_a_torch_optimizer_whose_groups_are_written_by_hand(key, where):
    ours, theirs = params_of(SHAPES), params_of(SHAPES)
    a, b = built(key, ours, where), built(key, theirs, where, torch.optim, t=0)
    options = SCHEDULED[key][1]
    for t in range(15):
        give_grads(ours, theirs, seed=t)
        for group in b.param_groups[0 if where == "default" else 1 :]:
            group.update({key: at(value, t) for key, value in options.items()})
        a.step()
        b.step()
    # 15 updates, each a few roundings of weights of size 1 that move by 0.1
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=64 * 2**-24, atol=64 * 2**-24)


@pytest.mark.parametrize("where", ["default", "group"])
@pytest.mark.parametrize("key", SCHEDULED)
def test_weights_have_the_bits_of_the_same_optimizer_with_numbers_written_by_hand(key, where):
    scheduled, by_hand = params_of(SHAPES), params_of(SHAPES)
    a, b = built(key, scheduled, where), built(key, by_hand, where, t=0)
    for t in range(15):
        give_grads(scheduled, by_hand, seed=t)
        for group in b.param_groups[0 if where == "default" else 1 :]:
            group.update({key: at(value, t) for key, value in SCHEDULED[key][1].items()})
        a.step()
        b.step()
    assert same_bits(everything(a), everything(b))


@pytest.mark.parametrize("where", ["default", "group"])
@pytest.mark.parametrize("key", SCHEDULED)
def test_after_each_step_the_groups_hold_the_floats_of_the_next_update(key, where):
    params, options = params_of(SHAPES), SCHEDULED[key][1]
    give_grads(params, seed=0)
    opt = built(key, params, where)
    for t in range(14):
        for group in opt.param_groups[0 if where == "default" else 1 :]:
            assert shown(group, options) == {key: at(value, t) for key, value in options.items()}
            flat = [
                x for value in shown(group, options).values() for x in (value if isinstance(value, tuple) else [value])
            ]
            assert all(type(x) is float for x in flat)
        opt.step()


def test_every_group_follows_its_own_schedules():
    params = params_of([(3,)] * 3)
    give_grads(params, seed=0)
    values = [DECAY, 0.25, fs.Linear(0.5, 0.0, steps=4)]
    opt = fs.optim.AdamW([{"params": [p], "weight_decay": v} for p, v in zip(params, values, strict=True)])
    for t in range(6):
        assert [group["weight_decay"] for group in opt.param_groups] == [at(value, t) for value in values]
        opt.step()


def test_a_group_without_its_own_value_takes_the_defaults_schedule():
    params = params_of([(3,)] * 2)
    give_grads(params, seed=0)
    groups = [{"params": params[:1], "weight_decay": 0.25}, {"params": params[1:]}]
    opt = fs.optim.AdamW(groups, weight_decay=DECAY)
    opt.step()
    assert [group["weight_decay"] for group in opt.param_groups] == [0.25, DECAY(1)]


def test_only_lr_is_multiplied_by_the_optimizers_schedule():
    params = params_of([(3,)])
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, lr=LR, weight_decay=DECAY, betas=(BETA1, 0.99), schedule=fs.Linear(1.0, 0.0, steps=4))
    opt.step()
    group = opt.param_groups[0]
    np.testing.assert_allclose(group["lr"], LR(1) * 0.75, rtol=4 * 2**-52)  # a product: a few ulp
    assert (group["weight_decay"], group["betas"]) == (DECAY(1), (BETA1(1), 0.99))


@pytest.mark.parametrize(
    ("rule", "tensors", "numbers"),
    [
        ("AdamW", {"lr": torch.tensor(0.05)}, {"lr": 0.05}),
        ("AdamW", {"lr": torch.tensor([0.05])}, {"lr": 0.05}),
        ("AdamW", {"betas": (torch.tensor(0.5), torch.tensor([[0.75]]))}, {"betas": (0.5, 0.75)}),
        ("AdamW", {"weight_decay": torch.tensor(0.25, dtype=torch.float64)}, {"weight_decay": 0.25}),
        ("SGD", {"lr": torch.tensor(0.5), "momentum": torch.tensor(0.75)}, {"lr": 0.5, "momentum": 0.75}),
        ("SGD", {"weight_decay": torch.tensor([0.25])}, {"weight_decay": 0.25}),
        (
            "Lion",
            {"lr": torch.tensor(0.5), "betas": (torch.tensor(0.5), torch.tensor(0.25))},
            {"lr": 0.5, "betas": (0.5, 0.25)},
        ),
    ],
    ids=str,
)
@pytest.mark.parametrize("where", ["default", "group"])
def test_tensors_of_one_element_count_as_the_numbers_they_hold(rule, tensors, numbers, where):
    a, b = params_of(SHAPES), params_of(SHAPES)
    # the float32 nearest to 0.05 is what the tensor holds
    numbers = {key: tensors[key].item() if key == "lr" else value for key, value in numbers.items()}
    for params, options in ((a, tensors), (b, numbers)):
        opt = chosen(rule, params, **options) if where == "default" else chosen(rule, [{"params": params, **options}])
        for t in range(3):
            give_grads(params, seed=t)
            opt.step()
    assert same_bits(a, b)


def test_a_tensor_beside_schedules_is_read_at_each_step():
    a, b = params_of([(5,)]), params_of([(5,)])
    give_grads(a, b, seed=0)
    decay = torch.tensor(0.5)
    changed, fixed = fs.optim.SGD(a, lr=LR, weight_decay=decay), fs.optim.SGD(b, lr=LR, weight_decay=0.5)
    changed.step()
    fixed.step()
    decay.fill_(0.25)
    fixed.param_groups[0]["weight_decay"] = 0.25
    changed.step()
    fixed.step()
    assert same_bits(a, b)


def test_a_momentum_that_starts_at_0_and_comes_back_to_it_is_as_in_torch():
    """torch keeps the buffer through updates without momentum, and starts it at the first update with it."""
    momentum = fs.Samples([0.0, 0.9, 0.5, 0.0, 0.0, 0.9, 0.5])
    ours, theirs = params_of(SHAPES), params_of(SHAPES)
    a = fs.optim.SGD(ours, lr=0.1, momentum=momentum, dampening=0.25)
    b = torch.optim.SGD(theirs, lr=0.1, dampening=0.25)
    for t in range(8):
        give_grads(ours, theirs, seed=t)
        b.param_groups[0]["momentum"] = momentum(t)
        a.step()
        b.step()
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=16 * 2**-24, atol=16 * 2**-24)


# ---- overrides and position


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("AdamW all", "lr", 0.7), ("AdamW all", "weight_decay", 0.9), ("AdamW all", "betas", (0.25, 0.5)),
        ("SGD all", "momentum", 0.125), ("SGD all", "weight_decay", 0.0), ("Lion all", "betas", (0.25, 0.5)),
    ],
)  # fmt: skip
def test_a_value_written_into_the_group_serves_exactly_the_next_update(key, name, value):
    scheduled, by_hand = params_of(SHAPES), params_of(SHAPES)
    options = SCHEDULED[key][1]
    a, b = built(key, scheduled, "default"), built(key, by_hand, "default", t=0)
    for t in range(6):
        give_grads(scheduled, by_hand, seed=t)
        for group in b.param_groups:
            group.update({key: at(value, t) for key, value in options.items()})
        if t == 3:
            for opt in (a, b):
                opt.param_groups[1][name] = value
        a.step()
        b.step()
    assert equal(scheduled, by_hand)
    assert a.param_groups[1][name] == at(options[name], 6)


def test_a_value_that_is_not_scheduled_lasts_when_it_is_written_into_the_group():
    params = params_of([(3,)])
    give_grads(params, seed=0)
    opt = fs.optim.AdamW(params, lr=LR, weight_decay=0.1)
    opt.param_groups[0]["weight_decay"] = 0.5
    opt.step()
    opt.step()
    assert opt.param_groups[0]["weight_decay"] == 0.5


@pytest.mark.parametrize("key", SCHEDULED)
def test_setting_the_position_moves_every_schedule(key):
    options = SCHEDULED[key][1]
    opt = built(key, params_of(SHAPES), "default")
    opt.position = 7
    for group in opt.param_groups:
        assert shown(group, options) == {key: at(value, 7) for key, value in options.items()}


def test_an_update_after_a_move_uses_the_values_of_the_new_position():
    moved, by_hand = params_of(SHAPES), params_of(SHAPES)
    give_grads(moved, by_hand, seed=0)
    a, b = built("SGD all", moved, "default"), built("SGD all", by_hand, "default", t=5)
    a.position = 5
    a.step()
    b.step()
    assert same_bits(moved, by_hand)


def test_scale_lr_scales_the_lr_schedule_and_leaves_the_others():
    params = params_of(SHAPES)
    give_grads(params, seed=0)
    opt = built("AdamW all", params, "default")
    opt.step()
    opt.scale_lr(0.5)
    opt.step()
    group = opt.param_groups[0]
    np.testing.assert_allclose(group["lr"], 0.5 * LR(2), rtol=2 * 2**-52)  # one product more
    assert (group["weight_decay"], group["betas"]) == (DECAY(2), (BETA1(2), BETA2(2)))


def test_a_value_written_by_hand_survives_scale_lr():
    opt = built("AdamW all", params_of(SHAPES), "default")
    opt.param_groups[0]["weight_decay"] = 0.75
    opt.scale_lr(0.5)
    assert opt.param_groups[0]["weight_decay"] == 0.75


def test_one_cycle_and_its_momentum_run_together():
    cycle = fs.OneCycle(0.5, steps=10)
    momentum = cycle.momentum(0.85, 0.95)
    ours, theirs = params_of(SHAPES), params_of(SHAPES)
    a = fs.optim.SGD(ours, lr=cycle, momentum=momentum, nesterov=True)
    b = torch.optim.SGD(theirs, lr=0.0, momentum=0.9, nesterov=True)
    for t in range(12):
        give_grads(ours, theirs, seed=t)
        b.param_groups[0].update(lr=cycle(t), momentum=momentum(t))
        a.step()
        b.step()
    # 12 updates; with momentum 0.95 and lr 0.5 the weights come to 10, whose half ulp is 2**-21
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=16 * 2**-24, atol=16 * 2**-21)


def test_one_cycle_serves_beta1_too():
    cycle = fs.OneCycle(0.5, steps=10)
    opt = fs.optim.Adam(params_of([(3,)]), lr=cycle, betas=(cycle.momentum(), 0.99))
    opt.position = 3
    assert opt.param_groups[0]["lr"] == 0.5
    assert opt.param_groups[0]["betas"] == (0.85, 0.99)


# ---- save and resume


@pytest.mark.parametrize("where", ["default", "group"])
@pytest.mark.parametrize("key", SCHEDULED)
def test_a_resumed_run_goes_on_with_the_same_bits_and_values(key, where):
    through, split = params_of(SHAPES), params_of(SHAPES)
    a, b = built(key, through, where), built(key, split, where)
    for t in range(4):
        give_grads(through, split, seed=t)
        a.step()
        b.step()
    file = io.BytesIO()
    torch.save(b.state_dict(), file)
    file.seek(0)
    resumed = copies(split)
    c = built(key, resumed, where)
    c.load_state_dict(torch.load(file, weights_only=True))
    assert c.position == 4
    for t in range(4, 8):
        give_grads(through, resumed, seed=t)
        a.step()
        c.step()
    assert same_bits(everything(a), everything(c))
    assert [shown(group, SCHEDULED[key][1]) for group in c.param_groups] == [
        shown(group, SCHEDULED[key][1]) for group in a.param_groups
    ]


@pytest.mark.parametrize("key", SCHEDULED)
def test_a_saved_group_holds_numbers_only(key):
    opt = built(key, params_of(SHAPES), "group")
    values = [
        x
        for group in opt.state_dict()["param_groups"]
        for v in group.values()
        for x in (v if isinstance(v, tuple) else [v])
    ]
    assert not any(isinstance(x, fs.Schedule) for x in values)


def test_schedules_come_from_the_code_and_not_from_the_checkpoint():
    old = built("SGD all", params_of(SHAPES), "default")
    give_grads(old.param_groups[0]["params"], old.param_groups[0]["params"], seed=0)
    for _ in range(3):
        old.step()
    other = fs.Linear(0.25, 0.75, steps=6)
    new = fs.optim.SGD([{"params": params_of(SHAPES[:2])}, {"params": params_of(SHAPES[2:])}], momentum=other)
    new.load_state_dict(old.state_dict())
    assert new.position == 3
    assert new.param_groups[0]["momentum"] == 0.5


def test_a_deep_copy_goes_on_by_itself():
    params = params_of(SHAPES)
    opt = built("AdamW all", params, "default")
    give_grads(params, seed=0)
    opt.step()
    twin = copy.deepcopy(opt)
    twins = [p for group in twin.param_groups for p in group["params"]]
    for t in range(1, 4):
        give_grads(params, twins, seed=t)
        opt.step()
        twin.step()
    assert same_bits(everything(opt), everything(twin))


def test_an_added_group_joins_with_schedules_of_its_own():
    params, extra = params_of([(3,)]), params_of([(4,)])
    give_grads(params + extra, seed=0)
    opt = fs.optim.AdamW(params, lr=LR)
    opt.step()
    opt.add_param_group({"params": extra, "weight_decay": DECAY, "betas": (BETA1, 0.5)})
    opt.step()
    group = opt.param_groups[1]
    assert (group["lr"], group["weight_decay"], group["betas"]) == (LR(2), DECAY(2), (BETA1(2), 0.5))


# ---- one call


def call_events(opt):
    events = []
    sys.setprofile(lambda frame, event, argument: events.append(event))
    opt.step()
    sys.setprofile(None)
    return len([event for event in events if event in ("call", "c_call")]) - 1  # the last is sys.setprofile(None)


@pytest.mark.parametrize("key", SCHEDULED)
def test_a_step_makes_at_most_two_python_call_events_with_everything_on(key):
    rule, options = SCHEDULED[key]
    params = params_of([(3,)] * 20)
    groups = [{"params": [p], **options} for p in params]
    more = {"max_grad_norm": 1.0, "ema_decay": fs.Linear(0.5, 0.99, steps=5), "zero_grads": True, "amp": True}
    opt = chosen(rule, groups, schedule=fs.Cosine(steps=9), ema_buffers=[torch.ones(3)], **more)
    for t in range(2):
        give_grads(params, seed=t)
        opt.step()
    give_grads(params, seed=2)
    assert call_events(opt) <= 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.complex64])
def test_a_step_of_another_dtype_makes_at_most_two_python_call_events(dtype):
    params = params_of([(3,)] * 20, dtype=dtype)
    opt = fs.optim.AdamW(params, lr=LR, master_weights=True)
    for t in range(2):
        give_grads(params, seed=t)
        opt.step()
    assert call_events(opt) <= 2


# ---- errors


@pytest.mark.parametrize("name", ["momentum", "weight_decay", "betas", "lr"])
def test_a_schedule_that_is_out_of_range_at_the_first_update_is_refused_at_construction(name):
    wrong = fs.Linear(-0.5, 0.5, steps=10)
    rule = "SGD" if name == "momentum" else "AdamW"
    with pytest.raises(ValueError, match="learning rate" if name == "lr" else name.rstrip("s")):  # torch's words
        chosen(rule, params_of([(3,)]), **{name: (wrong, 0.9) if name == "betas" else wrong})


def test_a_beta_that_reaches_1_later_is_refused_then_and_nothing_changes():
    params = params_of(SHAPES)
    opt = fs.optim.AdamW(params, betas=(fs.Samples([0.5, 1.0, 0.5]), 0.9))
    give_grads(params, seed=0)
    opt.step()
    before = everything(opt)
    with pytest.raises(ValueError, match="betas must be >= 0 and < 1"):
        opt.step()
    assert same_bits(everything(opt), before)
    assert opt.position == 1


@pytest.mark.parametrize("name", ["eps", "dampening"])
def test_a_schedule_where_only_numbers_are_served_is_refused(name):
    rule = "SGD" if name == "dampening" else "AdamW"
    with pytest.raises(TypeError, match=f"{rule}: {name} must be a number, got a Schedule"):
        chosen(rule, params_of([(3,)]), **{name: DECAY})


def timms_groups():
    return [{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5, "lr_scale": scale} for scale in (1.0, 0.25)]


def test_lr_scale_of_timms_layer_decay_multiplies_a_schedule():
    opt = fs.optim.AdamW(timms_groups(), schedule=fs.Linear(1.0, 0.0, steps=4))
    assert opt.lrs == [0.5, 0.125]
    opt.position = 2
    assert opt.lrs == [0.25, 0.0625]


def test_without_a_schedule_lr_scale_is_left_to_timms_scheduler():
    assert fs.optim.AdamW(timms_groups()).lrs == [0.5, 0.5]


def test_lr_scale_that_is_no_number_is_refused():
    groups = [{**group, "lr_scale": "half"} for group in timms_groups()]
    with pytest.raises(TypeError, match="AdamW: lr_scale must be a number, got 'half'"):
        fs.optim.AdamW(groups, schedule=fs.Linear(1.0, 0.0, steps=4))
