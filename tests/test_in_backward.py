"""fs.optim.in_backward: every parameter is updated as soon as its gradient is there, and the gradient is freed."""

import copy

import pytest
import torch
from optimizers import RULES, everything, same_bits

import fastsched as fs

OPTIONS = {
    "AdamW": {"lr": 0.1, "weight_decay": 0.1},
    "Adam": {"lr": 0.1, "amsgrad": True},
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Lion": {"lr": 0.1, "weight_decay": 0.1},
}
COSINE = fs.Cosine(steps=9)


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Linear(8, 2))


def loss_of(model, t):
    return model(torch.randn(5, 6, generator=torch.Generator().manual_seed(t))).square().mean()


def pair(rule="AdamW", model=None, **options):
    """A model updated in backward, and its twin whose optimizer steps."""
    model = model or network()
    twin = copy.deepcopy(model)
    options = {**OPTIONS[rule], **options}
    kind = getattr(fs.optim, rule)
    return model, fs.optim.in_backward(model, kind, **options), twin, kind(twin.parameters(), **options)


def train(model, twin, stepping, steps=5, loss=loss_of):
    for t in range(steps):
        loss(model, t).backward()
        stepping.zero_grad()
        loss(twin, t).backward()
        stepping.step()


@pytest.mark.parametrize("schedule", [None, COSINE], ids=["constant", "scheduled"])
@pytest.mark.parametrize("rule", list(RULES))
def test_weights_and_state_have_the_bits_of_an_optimizer_that_steps(rule, schedule):
    model, opt, twin, stepping = pair(rule, schedule=schedule)
    train(model, twin, stepping)
    assert same_bits(everything(opt), everything(stepping))


@pytest.mark.parametrize(
    "options",
    [
        {"ema_decay": 0.75},
        {"ema_decay": fs.Linear(0.0, 1.0, steps=4)},
        {"max_grad_value": 2.0**-6},
        {"state_dtype": torch.bfloat16, "seed": 5},
        {"weight_decay": fs.Linear(0.0, 0.5, steps=4), "betas": (fs.Linear(0.5, 0.9, steps=4), 0.99)},
        {"weight_decay_mode": "cautious"},
    ],
    ids=str,
)
def test_options_work_as_in_an_optimizer_that_steps(options):
    model, opt, twin, stepping = pair(**options)
    train(model, twin, stepping)
    assert same_bits(everything(opt), everything(stepping))


@pytest.mark.parametrize("options", [{"master_weights": True}, {"stochastic_rounding": True}], ids=str)
def test_half_models_have_the_bits_of_an_optimizer_that_steps(options):
    def loss(model, t):
        return model(torch.randn(5, 6, generator=torch.Generator().manual_seed(t)).bfloat16()).square().mean()

    model, opt, twin, stepping = pair(model=network().bfloat16(), **options)
    train(model, twin, stepping, loss=loss)
    assert same_bits(everything(opt), everything(stepping))


def test_gradients_are_freed():
    model, _, _, _ = pair()
    loss_of(model, 0).backward()
    assert all(p.grad is None for p in model.parameters())


def test_a_gradient_is_freed_before_the_next_one_is_complete():
    model, _, _, _ = pair()
    alive = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(
            lambda _: alive.append(sum(q.grad is not None for q in model.parameters()))
        )
    loss_of(model, 0).backward()
    assert len(alive) == len(list(model.parameters()))
    assert max(alive) <= 1


def test_the_result_is_the_optimizer_that_was_asked_for():
    model = network()
    opt = fs.optim.in_backward(model, fs.optim.SGD, lr=0.25, momentum=0.5)
    assert type(opt) is fs.optim.SGD
    assert (opt.param_groups[0]["lr"], opt.param_groups[0]["momentum"]) == (0.25, 0.5)
    assert opt.param_groups[0]["params"] == list(model.parameters())


def test_adamw_is_the_default():
    assert type(fs.optim.in_backward(network())) is fs.optim.AdamW


def test_the_position_advances_by_one_at_every_backward():
    model, opt, _, _ = pair(schedule=COSINE)
    for t in range(3):
        assert (opt.position, opt.lrs) == (t, [0.1 * COSINE(t)])
        loss_of(model, t).backward()
    assert opt.position == 3


def test_every_parameter_of_one_backward_uses_the_same_position():
    model = network()
    opt = fs.optim.in_backward(model, fs.optim.SGD, lr=1.0, schedule=fs.Linear(1.0, 0.0, steps=4))
    for t in range(4):
        before, grads = (
            [p.detach().clone() for p in model.parameters()],
            torch.autograd.grad(loss_of(model, t), list(model.parameters())),
        )
        loss_of(model, t).backward()
        expected = [b - (1 - t / 4) * g for b, g in zip(before, grads, strict=True)]
        # one multiplication and one subtraction of values below 1
        torch.testing.assert_close([p.detach() for p in model.parameters()], expected, rtol=2**-23, atol=2**-24)
    assert opt.position == 4


def test_autograd_grad_updates_nothing():
    model, opt, _, _ = pair()
    before = everything(opt)
    torch.autograd.grad(loss_of(model, 0), list(model.parameters()))
    assert same_bits(everything(opt), before)
    assert opt.position == 0


def test_a_step_without_gradients_changes_nothing():
    model, opt, _, _ = pair(schedule=COSINE)
    loss_of(model, 0).backward()
    before = everything(opt)
    opt.step()
    assert same_bits(everything(opt), before)
    assert opt.position == 1


def test_a_value_written_into_the_group_serves_exactly_the_next_backward():
    model, opt, twin, stepping = pair(schedule=COSINE)
    for t in range(4):
        if t == 1:
            opt.param_groups[0]["lr"] = stepping.param_groups[0]["lr"] = 0.75
        loss_of(model, t).backward()
        stepping.zero_grad()
        loss_of(twin, t).backward()
        stepping.step()
    assert same_bits(everything(opt), everything(stepping))
    assert opt.lrs == [0.1 * COSINE(4)]


def test_a_parameter_that_a_backward_does_not_reach_is_left_alone():
    model, opt, _, _ = pair()
    last = list(model[3].parameters())
    before = [p.detach().clone() for p in last]
    model[2](model[1](model[0](torch.ones(1, 6)))).sum().backward()
    assert same_bits(last, before)
    assert not any(opt.state.get(p) for p in last)
    assert opt.position == 1


def test_frozen_parameters_are_left_alone():
    model = network()
    model[0].requires_grad_(False)
    before = model[0].weight.detach().clone()
    opt = fs.optim.in_backward(model)
    loss_of(model, 0).backward()
    assert torch.equal(model[0].weight, before)
    assert opt.position == 1


def test_a_weight_that_is_used_twice_is_updated_once_with_the_whole_gradient():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(6, 6)

        def forward(self, x):
            return self.layer(torch.tanh(self.layer(x)))

    torch.manual_seed(0)
    model, opt, twin, stepping = pair(model=Tied())
    train(model, twin, stepping)
    assert same_bits(everything(opt), everything(stepping))


def test_groups_are_taken_as_they_are():
    model = network()
    twin = copy.deepcopy(model)

    def groups(m):
        return [
            {"params": m[0].parameters(), "lr": 0.5},
            {"params": m[3].parameters(), "lr": COSINE, "weight_decay": 0.25},
        ]

    opt = fs.optim.in_backward(model, fs.optim.AdamW, params=groups(model))
    stepping = fs.optim.AdamW(groups(twin))
    train(model, twin, stepping)
    assert same_bits(everything(opt), everything(stepping))


def test_parameters_outside_the_groups_keep_their_gradients():
    model = network()
    fs.optim.in_backward(model, params=[{"params": model[0].parameters()}])
    loss_of(model, 0).backward()
    assert model[0].weight.grad is None
    assert model[3].weight.grad is not None


def test_the_context_of_averages_works():
    model, opt, _, _ = pair(ema_decay=0.5)
    loss_of(model, 0).backward()
    before = [p.detach().clone() for p in model.parameters()]
    with opt.ema():
        assert torch.equal(model[0].weight, opt.state[model[0].weight]["ema"])
    assert same_bits(model.parameters(), before)


def test_a_resumed_run_goes_on_with_the_same_bits():
    model, opt, _, _ = pair(schedule=COSINE, ema_decay=0.5)
    for t in range(3):
        loss_of(model, t).backward()
    resumed = network()
    resumed.load_state_dict(copy.deepcopy(model.state_dict()))
    new = fs.optim.in_backward(resumed, schedule=COSINE, ema_decay=0.5, **OPTIONS["AdamW"])
    new.load_state_dict(copy.deepcopy(opt.state_dict()))
    assert new.position == 3
    for t in range(3, 5):
        loss_of(model, t).backward()
        loss_of(resumed, t).backward()
    assert same_bits(everything(opt), everything(new))


def test_two_optimizers_share_a_model():
    model = network()
    twin = copy.deepcopy(model)
    first = fs.optim.in_backward(model, fs.optim.SGD, params=model[0].parameters(), lr=0.1, schedule=COSINE)
    second = fs.optim.in_backward(model, fs.optim.AdamW, params=[*model[2].parameters(), *model[3].parameters()])
    steps = [
        fs.optim.SGD(twin[0].parameters(), lr=0.1, schedule=COSINE),
        fs.optim.AdamW([*twin[2].parameters(), *twin[3].parameters()]),
    ]
    for t in range(3):
        loss_of(model, t).backward()
        twin.zero_grad()
        loss_of(twin, t).backward()
        for opt in steps:
            opt.step()
    assert same_bits(everything(first) + everything(second), everything(steps[0]) + everything(steps[1]))
    assert (first.position, second.position) == (3, 3)


def test_after_a_backward_that_failed_half_way_the_next_one_works():
    model, opt, _, _ = pair(schedule=COSINE)
    loss = loss_of(model, 0)
    hidden = model[0].weight.register_hook(lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loss.backward()
    hidden.remove()
    model.zero_grad()
    before = opt.position
    first = model[0].weight.detach().clone()
    loss_of(model, 1).backward()
    assert opt.position == before + 1
    assert not torch.equal(model[0].weight, first)


def test_two_losses_in_one_backward_are_one_update():
    model, opt, twin, stepping = pair()
    torch.autograd.backward([loss_of(model, 0), loss_of(model, 1)])
    torch.autograd.backward([loss_of(twin, 0), loss_of(twin, 1)])
    stepping.step()
    assert opt.position == 1
    assert same_bits(everything(opt), everything(stepping))


def test_a_second_backward_is_a_second_update():
    model, opt, _, _ = pair()
    loss = loss_of(model, 0)
    loss.backward()
    loss_of(model, 1).backward()
    assert opt.position == 2
    assert opt.state[model[0].weight]["step"].item() == 2


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"max_grad_norm": 1.0}, "max_grad_norm"),
        ({"amp": True}, "amp"),
        ({"ema_decay": 0.5, "ema_buffers": [torch.ones(2)]}, "ema_buffers"),
        ({"zero_grads": True}, "zero_grads"),
    ],
    ids=str,
)
def test_what_needs_all_gradients_at_once_is_refused_and_leaves_no_hooks(options, match):
    model = network()
    with pytest.raises(ValueError, match=f"in_backward: .*{match}"):
        fs.optim.in_backward(model, fs.optim.AdamW, **options)
    loss_of(model, 0).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, "AdamW", None, fs.optim])
def test_an_optimizer_that_is_none_of_ours_is_refused(optimizer):
    with pytest.raises(TypeError, match="in_backward: optimizer must be"):
        fs.optim.in_backward(network(), optimizer)


def test_an_instance_instead_of_a_class_is_refused():
    model = network()
    with pytest.raises(TypeError, match="in_backward: optimizer must be"):
        fs.optim.in_backward(model, fs.optim.AdamW(model.parameters()))


def test_an_argument_that_the_optimizer_refuses_is_refused_with_its_words():
    with pytest.raises(ValueError, match=r"Invalid learning rate|lr must be"):
        fs.optim.in_backward(network(), fs.optim.AdamW, lr=-1.0)
