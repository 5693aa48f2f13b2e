"""fastsched.compile: a running torch pair goes on as its twin, and the old pair is out of use."""

import copy
import functools
import gc
import warnings
import weakref

import pytest
import torch
from optimizers import give_grads

import fastsched as fs

torchs = torch.optim.lr_scheduler
SHAPES = [(4, 3), (5,), ()]


def pair(cls=torch.optim.AdamW, scheduler=None, **kwargs):
    """Parameters, a group each, and torch's optimizer and scheduler on them."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]
    optimizer = cls([{"params": [p], "lr": 0.1 * 0.5**i} for i, p in enumerate(params)], lr=0.1, **kwargs)
    return params, optimizer, scheduler(optimizer) if scheduler else None


def run(params, optimizer, scheduler, steps):
    for t in steps:
        give_grads(params, seed=t)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()


OPTIMIZERS = {
    "AdamW": (torch.optim.AdamW, {}),
    "AdamW fused": (torch.optim.AdamW, {"fused": True}),
    "Adam amsgrad": (torch.optim.Adam, {"amsgrad": True, "weight_decay": 0.1}),
    "Adam decoupled": (torch.optim.Adam, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "SGD": (torch.optim.SGD, {}),
    "SGD nesterov": (torch.optim.SGD, {"momentum": 0.9, "nesterov": True, "maximize": True}),
}
SCHEDULERS = {
    "none": None,
    "StepLR": lambda o: torchs.StepLR(o, 3),
    "MultiStepLR": lambda o: torchs.MultiStepLR(o, [2, 5]),
    "ExponentialLR": lambda o: torchs.ExponentialLR(o, 0.9),
    "PolynomialLR": lambda o: torchs.PolynomialLR(o, 10, 0.9),
    "CosineAnnealingLR": lambda o: torchs.CosineAnnealingLR(o, 8, 1e-3),
    "CosineAnnealingWarmRestarts": lambda o: torchs.CosineAnnealingWarmRestarts(o, 3, 2),
    "OneCycleLR": lambda o: torchs.OneCycleLR(o, 0.1, total_steps=20, cycle_momentum=False),
    "LambdaLR": lambda o: torchs.LambdaLR(o, lambda t: 0.9**t),
    "SequentialLR": lambda o: torchs.SequentialLR(
        o, [torchs.LinearLR(o, total_iters=4), torchs.CosineAnnealingLR(o, 9)], [4]
    ),
    "ChainedScheduler": lambda o: torchs.ChainedScheduler([torchs.ConstantLR(o), torchs.ExponentialLR(o, 0.9)]),
}


@pytest.mark.parametrize("before", [0, 1, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_twin_goes_on_where_the_pair_stood(optimizer, scheduler, before):
    cls, kwargs = OPTIMIZERS[optimizer]
    ours, theirs = (pair(cls, SCHEDULERS[scheduler], **kwargs) for _ in range(2))
    run(*ours, range(before))
    run(*theirs, range(before))
    twin = fs.compile(*ours[1:])
    run(ours[0], *twin, range(before, 10))
    run(*theirs, range(before, 10))
    assert [g["lr"] for g in twin[0].param_groups] == [g["lr"] for g in theirs[1].param_groups]
    # ten updates of at most 0.1: some float32 roundings of weights near 1
    torch.testing.assert_close([p.detach() for p in ours[0]], [p.detach() for p in theirs[0]], rtol=1e-5, atol=2e-6)


def test_the_twins_have_the_names_of_the_old_pair():
    _, optimizer, scheduler = pair(scheduler=SCHEDULERS["SequentialLR"])
    twin, twin_scheduler = fs.compile(optimizer, scheduler)
    assert type(twin) is fs.optim.AdamW
    assert type(twin_scheduler) is fs.lr_scheduler.SequentialLR
    assert [type(part) for part in twin_scheduler._schedulers] == [
        fs.lr_scheduler.LinearLR,
        fs.lr_scheduler.CosineAnnealingLR,
    ]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_state_tensors_are_shared_and_not_copied(optimizer):
    cls, kwargs = OPTIMIZERS[optimizer]
    params, old, _ = pair(cls, **kwargs)
    run(params, old, None, range(2))
    held = [dict(old.state[p]) for p in params]
    twin, _ = fs.compile(old)
    run(params, twin, None, range(2, 4))
    for p, tensors in zip(params, held, strict=True):
        assert all(twin.state[p][key] is tensor for key, tensor in tensors.items() if tensor is not None)


def test_the_position_is_the_number_of_updates_made():
    params, old, _ = pair()
    run(params, old, None, range(3))
    assert fs.compile(old)[0].position == 3


def test_a_shared_tensor_that_was_taken_away_gives_an_error_and_no_crash():
    params, old, _ = pair()
    run(params, old, None, range(2))
    twin, _ = fs.compile(old)
    twin.state[params[0]]["exp_avg"].untyped_storage().resize_(0)
    before = params[1].detach().clone()
    with pytest.raises((ValueError, RuntimeError)):
        twin.step()
    assert torch.equal(params[1], before)


def test_a_shared_tensor_that_was_moved_is_found():
    params, old, _ = pair()
    run(params, old, None, range(2))
    twin, _ = fs.compile(old)
    held = twin.state[params[0]]["exp_avg"]
    held.data = torch.full_like(held, 7.0)
    give_grads(params, seed=5)
    twin.step()
    grad = params[0].grad
    torch.testing.assert_close(twin.state[params[0]]["exp_avg"], 7.0 + 0.1 * (grad - 7.0))


def test_a_copied_twin_goes_on_by_itself():
    params, old, _ = pair()
    run(params, old, None, range(2))
    twin, _ = fs.compile(old)
    other = copy.deepcopy(twin)
    other_params = [p for group in other.param_groups for p in group["params"]]
    run(params, twin, None, range(2, 4))
    run(other_params, other, None, range(2, 4))
    assert all(map(torch.equal, params, other_params))


def test_stepping_the_old_pair_raises():
    params, old, scheduler = pair(scheduler=SCHEDULERS["StepLR"])
    fs.compile(old, scheduler)
    give_grads(params, seed=0)
    with pytest.raises(RuntimeError, match=r"AdamW: step: fastsched.compile has taken it over; step what"):
        old.step()
    with pytest.raises(RuntimeError, match=r"StepLR: step: fastsched.compile has taken it over"):
        scheduler.step()


@pytest.mark.parametrize("before", [0, 2])
def test_no_warning_of_the_order_of_steps_appears(before):
    params, *old = pair(scheduler=SCHEDULERS["StepLR"])
    run(params, *old, range(before))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(params, *fs.compile(*old), range(before, 5))


def test_the_wrong_order_of_steps_is_still_noticed():
    _, *old = pair(scheduler=SCHEDULERS["StepLR"])
    _, scheduler = fs.compile(*old)
    with pytest.warns(UserWarning, match=r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`"):
        scheduler.step()


def test_hooks_and_other_keys_of_groups_are_taken_over():
    params, old, _ = pair()
    seen = []
    old.register_step_post_hook(lambda *_: seen.append(1))
    old.param_groups[1]["name"] = "second"
    twin, _ = fs.compile(old)
    run(params, twin, None, range(2))
    assert seen == [1, 1]
    assert twin.param_groups[1]["name"] == "second"


def test_options_are_for_the_twin():
    params, old, _ = pair()
    twin, _ = fs.compile(old, max_grad_norm=1.0, ema_decay=0.5)
    run(params, twin, None, range(2))
    assert twin.grad_norm > 0
    assert "ema" in twin.state[params[0]]


def test_a_scheduler_of_the_users_own_is_taken_over_too():
    class Halving(torchs.LRScheduler):
        def get_lr(self):
            return [base * 0.5**self.last_epoch for base in self.base_lrs]

    params, *old = pair(scheduler=Halving)
    twin, scheduler = fs.compile(*old)
    run(params, twin, scheduler, range(3))
    assert type(scheduler) is Halving
    assert twin.lrs == [0.1 * 0.5**i / 8 for i in range(3)]


def test_reduce_on_plateau_is_taken_over():
    params, *old = pair(scheduler=lambda o: torchs.ReduceLROnPlateau(o, patience=0))
    twin, scheduler = fs.compile(*old)
    for t in range(3):
        give_grads(params, seed=t)
        twin.step()
        scheduler.step(1.0)
    assert twin.lrs[0] == pytest.approx(0.001)


def test_a_checkpoint_of_the_old_pair_loads_into_the_twin():
    params, *old = pair(scheduler=SCHEDULERS["CosineAnnealingLR"])
    run(params, *old, range(4))
    saved = copy.deepcopy([part.state_dict() for part in old])
    fresh, *begun = pair(scheduler=SCHEDULERS["CosineAnnealingLR"])
    twin, scheduler = fs.compile(*begun)
    twin.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert twin.position == 4
    assert scheduler.state_dict() == saved[1]
    run(fresh, twin, scheduler, range(4, 6))


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: (torch.optim.RMSprop([torch.zeros(1)]),), TypeError, "must be a torch.optim.AdamW, Adam or SGD"),
        (lambda: (fs.optim.AdamW([torch.zeros(1)]),), TypeError, "must be a torch.optim.AdamW, Adam or SGD"),
        (lambda: ("text",), TypeError, "must be a torch.optim.AdamW, Adam or SGD, got 'text'"),
        (lambda: (torch.optim.SGD([torch.zeros(1)]), "text"), TypeError, "scheduler must be a torch LRScheduler"),
        (
            lambda: (torch.optim.SGD([torch.zeros(1)]), torchs.StepLR(torch.optim.SGD([torch.zeros(1)]), 3)),
            ValueError,
            "the StepLR drives another optimizer",
        ),
        (
            lambda: (torch.optim.AdamW([torch.zeros(1)], capturable=True),),
            ValueError,
            "capturable must be False where a parameter lies in CPU memory",
        ),
        (
            lambda: (torch.optim.SGD([torch.zeros(1)], differentiable=True),),
            ValueError,
            "group 0 has differentiable=True, which has no twin",
        ),
        (lambda: (torch.optim.SGD([torch.zeros(1, device="meta")]),), ValueError, "must be in CPU memory or on"),
    ],
)
def test_what_cannot_be_taken_over_is_named_and_the_old_pair_stays_in_use(make, error, match):
    old = make()
    with pytest.raises(error, match=match):
        fs.compile(*old)
    assert "step" not in getattr(old[0], "__dict__", {}) or old[0].step.__name__ == "step"


def test_an_unknown_option_is_refused():
    with pytest.raises(TypeError, match="unexpected argument 'max_norm'"):
        fs.compile(pair()[1], max_norm=1.0)


def test_the_twins_are_freed_without_the_garbage_collector():
    gc.disable()
    try:
        params, *old = pair(scheduler=SCHEDULERS["StepLR"])
        twin, scheduler = fs.compile(*old)
        run(params, twin, scheduler, range(3))
        alive = weakref.ref(twin)
        del twin, scheduler, old
        assert alive() is None
    finally:
        gc.enable()


def test_a_step_that_was_kept_serves_for_good():
    ours, theirs = (pair(scheduler=SCHEDULERS["StepLR"]) for _ in range(2))
    optimizer, scheduler = fs.compile(*ours[1:])
    step, theirs_step = optimizer.step, theirs[1].step
    for t in range(5):
        give_grads(ours[0], seed=t)
        give_grads(theirs[0], seed=t)
        for call in (step, scheduler.step, theirs_step, theirs[2].step):
            call()
    torch.testing.assert_close([p.detach() for p in ours[0]], [p.detach() for p in theirs[0]], rtol=1e-5, atol=2e-6)


def test_a_wrapper_around_step_stays():
    params, optimizer, scheduler = pair(scheduler=SCHEDULERS["StepLR"])
    optimizer, scheduler = fs.compile(optimizer, scheduler)
    seen, original = [], optimizer.step

    @functools.wraps(original)  # torch's schedulers warn of others
    def wrapper():
        seen.append(True)
        original()

    optimizer.step = wrapper
    run(params, optimizer, scheduler, range(4))
    assert len(seen) == 4


class Halves:
    """What steps like a scheduler, and is none of torch's, as transformers' GreedyLR."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        for group in self.optimizer.param_groups:
            group["lr"] *= 0.5


def test_what_steps_like_a_scheduler_goes_on_with_the_twin():
    params, optimizer, scheduler = pair(scheduler=Halves)
    run(params, optimizer, scheduler, range(2))
    twin, twin_scheduler = fs.compile(optimizer, scheduler)
    run(params, twin, twin_scheduler, range(2, 4))
    assert [group["lr"] for group in twin.param_groups] == [0.1 * 0.5**i * 0.5**4 for i in range(3)]
    with pytest.raises(RuntimeError, match="has taken it over"):
        scheduler.step()
