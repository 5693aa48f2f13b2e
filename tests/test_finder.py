"""The range test: what it measures, what it suggests, and that nothing is left changed."""

import copy
import itertools
import json
import math
import random
import signal
import sys
import types
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support import output, same_bits
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.utils.data import DataLoader, RandomSampler, TensorDataset

import fastsched as fs
from fastsched import finder

find = partial(fs.find_lr, progress=False)


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, 10)]
    return nn.Sequential(*layers)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these networks are small
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def digits():
    pixels, labels = load_digits(return_X_y=True)
    return TensorDataset(torch.tensor(pixels / 8.0 - 1.0, dtype=torch.float32), torch.tensor(labels))


def loader(data, **options):
    return DataLoader(data, 64, drop_last=True, **{"shuffle": True, **options})


def scripted(losses, **options):
    """A sweep whose losses are given: the batches are their indices."""

    def loss_fn(model, index):
        return 0.0 * model.weight.sum() + losses[index]

    model = nn.Linear(1, 1, dtype=torch.float64)
    return find(model, loss_fn, range(len(losses)), **{"steps": len(losses), "smooth": 0.0, **options})


# ---- everything that must be as it was


def content(value):
    """Anything as something that can be compared, tensors to the bit."""
    if isinstance(value, torch.Tensor):
        data = value.detach().contiguous().reshape(-1)
        return value.dtype, tuple(value.shape), data.view(torch.uint8).numpy().tobytes() if data.numel() else b""
    if isinstance(value, dict):
        return {key: content(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(inner) for inner in value]
    return value


def everything(model, optimizer=None):
    found = {
        "names": {
            name: id(tensor) for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers())
        },
        "tensors": [content(t) for t in itertools.chain(model.parameters(), model.buffers())],
        "grads": [(id(p.grad), content(p.grad)) for p in model.parameters()],
        "trains": [p.requires_grad for p in model.parameters()],
        "modes": [module.training for module in model.modules()],
        "python": random.getstate(),
        "numpy": [part.tobytes() if isinstance(part, np.ndarray) else part for part in np.random.get_state()],
        "torch": content(torch.get_rng_state()),
    }
    if optimizer is not None:
        found["optimizer"] = content(optimizer.state_dict())
        found["groups"] = [
            {key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups
        ]
        found["attributes"] = sorted(vars(optimizer))
        found["fused"] = [getattr(optimizer, name, None) for name in ("position", "skipped", "grad_norm")]
    return found


def train(model, optimizer, batches, loss_fn=cross_entropy):
    for x, y in batches:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()


SCHEDULE = fs.Cosine(steps=50).warmup(5)
OPTIMIZERS = {
    "torch AdamW": partial(torch.optim.AdamW, lr=1e-3, amsgrad=True),
    "torch AdamW with a tensor as lr": lambda params: torch.optim.AdamW(params, lr=torch.tensor(1e-3)),
    "torch SGD": partial(torch.optim.SGD, lr=0.01, momentum=0.9),
    "torch Rprop": torch.optim.Rprop,
    "AdamW with a schedule": partial(fs.optim.AdamW, lr=1e-3, schedule=SCHEDULE),
    "AdamW with all options": partial(
        fs.optim.AdamW, lr=1e-3, schedule=SCHEDULE, ema_decay=0.9, max_grad_norm=0.5, zero_grads=True
    ),
    "SGD with a schedule of momentum": partial(
        fs.optim.SGD, lr=0.01, momentum=fs.Linear(0.8, 0.9, steps=20), schedule=SCHEDULE
    ),
    "Lion": partial(fs.optim.Lion, lr=1e-4, state_dtype=torch.bfloat16, stochastic_rounding=True),
}


@pytest.mark.parametrize("steps_before", [0, 7])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_everything_is_as_it_was_to_the_bit(digits, name, steps_before):
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    train(model, optimizer, itertools.islice(loader(digits), steps_before))
    before = everything(model, optimizer)
    result = find(model, cross_entropy, loader(digits), optimizer=optimizer, steps=30)
    assert len(result.lrs) > 10
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_there_had_been_no_sweep(digits, name):
    ends = []
    for sweeps in (False, True):
        model = network()
        optimizer = OPTIMIZERS[name](model.parameters())
        batches = loader(digits, generator=torch.Generator().manual_seed(3))
        train(model, optimizer, itertools.islice(batches, 6))
        if sweeps:
            find(model, cross_entropy, batches, optimizer=optimizer, steps=25)
        train(model, optimizer, itertools.islice(batches, 6))
        ends.append(everything(model, optimizer))
    for changing in ("names", "grads"):  # they hold addresses
        assert ends[0].pop(changing) is not None
        assert ends[1].pop(changing) is not None
    assert ends[0] == ends[1]


def test_averages_and_a_position_set_by_hand_are_as_they_were(digits):
    model = network()
    averaged = [*model.buffers()]
    optimizer = fs.optim.AdamW(model.parameters(), lr=1e-3, schedule=SCHEDULE, ema_decay=0.9, ema_buffers=averaged)
    train(model, optimizer, itertools.islice(loader(digits), 3))
    optimizer.position = 40
    before = everything(model, optimizer)
    find(model, cross_entropy, loader(digits), optimizer=optimizer, steps=12)
    assert optimizer.position == 40
    assert everything(model, optimizer) == before


def test_gradients_are_kept_with_their_values(digits):
    model = network()
    x, y = digits[:64]
    cross_entropy(model(x), y).backward()
    model[0].bias.grad = None
    before = everything(model)
    find(model, cross_entropy, loader(digits), optimizer=partial(fs.optim.SGD, zero_grads=True), steps=12)
    assert everything(model) == before
    assert model[0].bias.grad is None
    assert model[0].weight.grad.abs().max() > 0


def test_gradients_whose_memory_is_written_keep_their_values():
    model = nn.Linear(2, 1)
    model(torch.ones(1, 2)).sum().backward()
    buckets = [param.grad for param in model.parameters()]  # as DDP writes into views of its buckets

    def loss_fn(model, batch):
        for bucket in buckets:
            bucket.zero_()
        return mse_loss(model(batch[0]), batch[1])

    before = everything(model)
    find(model, loss_fn, [(torch.ones(4, 2), torch.zeros(4, 1))], steps=3)
    assert everything(model) == before


def test_gradients_of_the_sweep_do_not_mix_with_those_that_were_there(digits):
    model, other = network(), network()
    for param in other.parameters():
        param.grad = torch.full_like(param, 1e3)
    batches = [digits[:64]]
    plain, beside = (find(net.eval(), cross_entropy, batches, steps=12) for net in (model, other))
    assert same_bits(plain.losses, beside.losses)


class Awkward(nn.Module):
    """Does what modules do behind a snapshot's back."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.register_buffer("mean", torch.zeros(4))
        self.register_buffer("places", torch.arange(4).expand(3, 4))
        self.register_buffer("hidden", torch.zeros(2), persistent=False)
        self.frozen = nn.Parameter(torch.full((3,), math.nan), requires_grad=False)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        self.hidden += 1.0
        self.one.bias.data = self.one.bias.data.clone()
        self.frozen.requires_grad_(True)
        self.one.eval()
        return self.two(self.one(x) - self.mean)


def test_replaced_shared_expanded_and_hidden_tensors_are_as_they_were():
    torch.manual_seed(1)
    model = Awkward()
    batches = [(torch.randn(8, 4), torch.randn(8, 4))]
    before, memory = everything(model), model.one.bias.data_ptr()
    find(model, mse_loss, batches, steps=12)
    assert everything(model) == before
    assert model.one.bias.data_ptr() == memory
    assert model.two.weight is model.one.weight


def test_a_criterions_own_parameters_are_as_they_were():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, outputs, targets):
            self.calls += 1.0
            return (self.scale * (outputs - targets)).square().mean()

    model, criterion = nn.Linear(2, 1), Scaled()
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    find(model, criterion, [(torch.ones(4, 2), torch.zeros(4, 1))], optimizer=optimizer, steps=12)
    assert (criterion.scale.item(), criterion.calls.item(), criterion.scale.grad) == (1.0, 0.0, None)


def test_an_optimizer_around_another_leaves_both_as_they_were(digits):
    class Around(torch.optim.Optimizer):  # as SAM's implementations do
        def __init__(self, params, inner):
            super().__init__(params, {})
            self.inner = inner
            self.param_groups = inner.param_groups
            self.updates = []

        def step(self, closure=None):
            self.inner.step()
            self.updates.append(1)

    model = network()
    inner = fs.optim.AdamW(model.parameters(), lr=1e-3, schedule=SCHEDULE)
    optimizer = Around(model.parameters(), inner)
    train(model, optimizer, itertools.islice(loader(digits), 4))
    before = everything(model, inner)
    result = find(model, cross_entropy, loader(digits), optimizer=optimizer, steps=60, high=1.0)
    assert result.losses.min() < 0.5 * result.losses[0]
    assert everything(model, inner) == before
    assert len(optimizer.updates) == 4


class FailureOnPurposeError(Exception):
    pass


def failing(kind, at):
    """A loss, batches, an optimizer's step or its making that raises when called for the `at`-th time."""
    calls = itertools.count()

    def fail(result=None):
        if next(calls) == at:
            raise kind("on purpose")
        return result

    return fail


@pytest.mark.parametrize("kind", [FailureOnPurposeError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("where", "at"), [*itertools.product(["loss", "backward", "batches", "step"], [0, 5]), ("making", 0)]
)
def test_everything_is_as_it_was_when_something_raises(digits, where, at, kind):
    model = network()
    fail = failing(kind, at)

    def loss_fn(model, batch):
        if where == "loss":
            fail()
        loss = cross_entropy(model(batch[0]), batch[1])
        if where == "backward":
            loss.register_hook(lambda grad: fail(grad))
        return loss

    def batches():
        while True:
            yield fail(digits[:64]) if where == "batches" else digits[:64]

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train(model, optimizer, [digits[:64]])
    if where == "step":
        optimizer.register_step_pre_hook(lambda *_: fail())

    def make(params):
        next(model.parameters()).data.zero_()
        torch.rand(1)
        return fail()

    before = everything(model, optimizer)
    with pytest.raises(kind, match="on purpose"):
        find(model, loss_fn, batches(), optimizer=make if where == "making" else optimizer)
    assert everything(model, optimizer) == before


def test_a_ctrl_c_while_things_are_set_back_waits_until_they_are(digits):
    class Impatient:
        def __iter__(self):
            return iter([digits[:64]])

        def state_dict(self):
            return {}

        def load_state_dict(self, _):
            signal.raise_signal(signal.SIGINT)

    model = network()
    before = everything(model)
    with pytest.raises(KeyboardInterrupt):
        find(model, cross_entropy, Impatient(), steps=12)
    assert everything(model) == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# ---- random generators and the data's position


class Noisy(torch.utils.data.Dataset):
    """Draws from every generator that there is."""

    def __init__(self):
        self.rng, self.old = np.random.default_rng(1), np.random.RandomState(2)
        self.transforms = [types.SimpleNamespace(rng=random.Random(3), secure=random.SystemRandom())]

    def __len__(self):
        return 64

    def __getitem__(self, _):
        own = self.rng.random() + self.old.rand() + self.transforms[0].rng.random()
        return torch.rand(4) + np.random.rand() + random.random() + own, torch.rand(1)


def drawn(batches):
    return [content(list(batch)) for batch in batches]


@pytest.mark.parametrize("own", [False, True])
def test_a_loader_gives_the_batches_it_would_have_given(own):
    epochs = []
    for sweeps in (False, True):
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        data, generator = Noisy(), torch.Generator().manual_seed(5) if own else None
        sampler = RandomSampler(data, generator=torch.Generator().manual_seed(6)) if own else None
        batches = DataLoader(data, 16, sampler=sampler, shuffle=None if own else True, generator=generator)
        model = nn.Linear(4, 1)
        epochs.append([])
        epochs[-1] += drawn(batches)
        if sweeps:
            find(model, mse_loss, batches, steps=11)
        epochs[-1] += drawn(batches)
    assert epochs[0] == epochs[1]


def test_a_loader_that_says_where_it_stands_is_set_back():
    class Stateful:
        at = 3

        def __iter__(self):
            while True:
                self.at += 1
                yield torch.ones(2, 4), torch.ones(2, 1)

        def state_dict(self):
            return {"at": [self.at]}

        def load_state_dict(self, state):
            (self.at,) = state["at"]

    batches = Stateful()
    find(nn.Linear(4, 1), mse_loss, batches, steps=11)
    assert batches.at == 3


def test_persistent_workers_that_run_stay_where_they_are():
    data = TensorDataset(torch.arange(12.0).reshape(12, 1), torch.zeros(12, 1))
    batches = DataLoader(data, 2, num_workers=1, persistent_workers=True)
    running = iter(batches)
    next(running)
    find(nn.Linear(1, 1), mse_loss, batches, steps=8)
    assert next(running)[0].flatten().tolist() == [2.0, 3.0]
    assert batches._iterator is running


def test_persistent_workers_that_the_sweep_started_end_with_it():
    batches = DataLoader([torch.ones(1)] * 4, num_workers=1, persistent_workers=True)
    find(nn.Linear(1, 1), lambda model, x: model(x).square().mean(), batches, steps=2)
    assert batches._iterator is None


def test_a_list_starts_over_as_often_as_needed(digits):
    assert len(find(network(), cross_entropy, [digits[:64]] * 3, steps=20, high=1e-3).lrs) == 20


def test_an_iterator_is_used_up_as_far_as_the_sweep_gets(digits):
    batches = itertools.repeat(digits[:64])
    counted = zip(itertools.count(), batches, strict=False)
    find(network(), lambda model, pair: cross_entropy(model(pair[1][0]), pair[1][1]), counted, steps=12, high=1e-3)
    assert next(counted)[0] == 12


def test_an_iterator_that_ends_early_gives_what_there_is_and_says_so(digits):
    result = find(network(), cross_entropy, iter([digits[:64]] * 15), steps=40)
    assert (len(result.lrs), result.ended) == (15, "out of batches")
    assert result.notes == ("batches ended after 15 of 40 updates; pass a loader, or a list, to go on",)


def test_batches_that_do_not_fill_an_update_are_dropped(digits):
    result = find(network(), cross_entropy, iter([digits[:64]] * 7), steps=40, accumulate=3)
    assert (len(result.lrs), result.ended) == (2, "out of batches")


# ---- batches and losses


def test_the_losses_forms_agree(digits):
    def named(model, batch):
        return cross_entropy(model(batch["x"]), batch["y"])

    class WithLoss(nn.Module):
        def __init__(self, net, wrap):
            super().__init__()
            self.net, self.wrap = net, wrap

        def forward(self, x, y):
            return self.wrap(loss=cross_entropy(self.net(x), y))

    x, y = digits[:64]
    options = {"steps": 12, "optimizer": fs.optim.SGD, "high": 1.0}
    Pair = namedtuple("Pair", ["x", "y"])
    losses = [
        find(network().eval(), cross_entropy, [(x, y)], **options).losses,
        find(network().eval(), cross_entropy, [[x, y]], **options).losses,
        find(network().eval(), cross_entropy, [Pair(x, y)], **options).losses,
        find(network().eval(), partial(cross_entropy, label_smoothing=0.0), [(x, y)], **options).losses,
        find(network().eval(), nn.CrossEntropyLoss(), [(x, y)], **options).losses,
        find(network().eval(), named, [{"x": x, "y": y}], **options).losses,
        find(WithLoss(network(), dict).eval(), None, [{"x": x, "y": y}], **options).losses,
        find(WithLoss(network(), types.SimpleNamespace).eval(), None, [{"x": x, "y": y}], **options).losses,
        find(WithLoss(network(), dict).eval(), None, [(x, y)], **options).losses,
    ]
    assert all(same_bits(losses[0], other) for other in losses[1:])


def test_accumulation_is_as_good_as_a_large_batch(digits):
    x, y = digits[:64]
    options = {"steps": 12, "optimizer": fs.optim.SGD, "high": 1.0}
    whole = find(network().eval(), cross_entropy, [(x, y)], **options)
    parts = [(x[i : i + 16], y[i : i + 16]) for i in range(0, 64, 16)]
    small = find(network().eval(), cross_entropy, parts, accumulate=4, **options)
    # float32 sums in another order, carried through a dozen updates
    np.testing.assert_allclose(small.losses, whole.losses, rtol=1e-5)


def test_the_sweep_has_gradients_where_the_caller_has_none(digits):
    with torch.no_grad():
        result = find(network(), cross_entropy, loader(digits), steps=30)
    assert result.losses[-1] != result.losses[0]


def test_a_batch_moves_with_everything_that_it_is_made_of():
    class Encoding(dict):
        def to(self, device):
            self["x"] = self["x"].to(device)
            return self

    Pair = namedtuple("Pair", ["x", "y"])
    x = torch.ones(2)
    batch = {"list": [x, "text"], "pair": Pair(x, None), "tuple": (x,), "encoding": Encoding(x=x), "number": 3}
    moved = finder._moved(batch, torch.device("meta"))
    tensors = (moved["list"][0], moved["pair"].x, moved["tuple"][0], moved["encoding"]["x"])
    assert all(tensor.device.type == "meta" for tensor in tensors)
    assert (moved["list"][1], moved["pair"].y, moved["number"]) == ("text", None, 3)
    assert batch["encoding"]["x"] is x
    assert type(moved["encoding"]) is Encoding


# ---- the sweep


def test_an_exponential_sweep_is_the_geometric_schedule():
    result = scripted([1.0] * 20, low=1e-5, high=0.1)
    assert same_bits(result.lrs, fs.Geometric(1e-5, 0.1, steps=19).table(20))
    assert result.lrs[-1] == 0.1


def test_a_linear_sweep_is_the_linear_schedule():
    result = scripted([1.0] * 20, low=1e-5, high=0.1, sweep="linear")
    assert same_bits(result.lrs, fs.Linear(1e-5, 0.1, steps=19).table(20))


def used(optimizer, model, groups, batches, **options):
    """The lr of every group at each update of a sweep."""
    seen = []
    hook = optimizer.register_step_pre_hook(
        lambda opt, *_: seen.append([float(group["lr"]) for group in opt.param_groups])
    )
    result = find(model, mse_loss, batches, optimizer=optimizer, groups=groups, **options)
    hook.remove()
    return result, np.array(seen)


BATCH = [(torch.ones(4, 2), torch.zeros(4, 1))]


def two_groups(make, **options):
    model = nn.Linear(2, 1)
    groups = [{"params": [model.weight], "lr": 0.01, "name": "trunk"}, {"params": [model.bias], "lr": 0.04}]
    return model, make(groups, **options)


@pytest.mark.parametrize("make", [torch.optim.SGD, fs.optim.SGD])
def test_groups_together_keep_the_ratios_of_their_lrs(make):
    model, optimizer = two_groups(make)
    result, seen = used(optimizer, model, "together", BATCH, steps=12, high=1e-3)
    assert same_bits(seen[:, 1], result.lrs)
    assert same_bits(seen[:, 0], 0.25 * result.lrs)  # a power of two: exact


def test_the_ratios_are_those_of_the_bases_where_a_warmup_starts_at_0():
    model, optimizer = two_groups(fs.optim.SGD, schedule=SCHEDULE)
    assert optimizer.lrs == [0.0, 0.0]
    result, seen = used(optimizer, model, "together", BATCH, steps=12, high=1e-3)
    assert same_bits(seen[:, 0], 0.25 * result.lrs)


def test_the_ratios_are_those_of_the_bases_where_a_scheduler_has_written():
    model, optimizer = two_groups(torch.optim.SGD)
    torch.optim.lr_scheduler.LambdaLR(optimizer, [lambda _: 0.0, lambda _: 1.0])
    result, seen = used(optimizer, model, "together", BATCH, steps=12, high=1e-3)
    assert same_bits(seen[:, 0], 0.25 * result.lrs)


def test_timms_scale_of_a_group_counts():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD([{"params": [model.weight], "lr_scale": 0.5}, {"params": [model.bias]}], lr=0.1)
    result, seen = used(optimizer, model, "together", BATCH, steps=12, high=1e-3)
    assert same_bits(seen[:, 0], 0.5 * result.lrs)


@pytest.mark.parametrize(("group", "name"), [(0, "trunk"), ("trunk", "trunk"), (1, 1)])
def test_a_group_alone_leaves_the_others_at_their_own_lr(group, name):
    model, optimizer = two_groups(fs.optim.AdamW)
    result, seen = used(optimizer, model, group, BATCH, steps=12, high=1e-3)
    alone = 0 if name == "trunk" else 1
    assert same_bits(seen[:, alone], result.lrs)
    assert np.all(seen[:, 1 - alone] == (0.01, 0.04)[1 - alone])
    assert result.group == name


def test_each_group_alone_starts_from_the_same_place(digits):
    model = network()
    optimizer = fs.optim.AdamW([{"params": model[0].parameters(), "name": "trunk"}, {"params": model[4].parameters()}])
    batches = loader(digits)
    each = find(model, cross_entropy, batches, optimizer=optimizer, groups="each", steps=30)
    assert list(each) == ["trunk", 1]
    assert same_bits(
        each[1].losses, find(model, cross_entropy, batches, optimizer=optimizer, groups=1, steps=30).losses
    )
    assert each["trunk"].losses[0] == each[1].losses[0]
    assert each.suggestion == {"trunk": each["trunk"].suggestion, 1: each[1].suggestion}
    assert repr(each).count("<Sweep of group ") == 2


def test_the_optimizer_may_be_made_by_anything_callable():
    model = nn.Linear(2, 1)
    losses = [
        find(model, mse_loss, BATCH, optimizer=optimizer, steps=12).losses
        for optimizer in (
            torch.optim.SGD,
            partial(torch.optim.SGD),
            lambda params: torch.optim.SGD(params),
            torch.optim.SGD(model.parameters()),
        )
    ]
    assert all(same_bits(losses[0], other) for other in losses[1:])


def test_frozen_parameters_are_not_swept():
    model = nn.Linear(2, 1)
    model.bias.requires_grad_(False)
    given = []

    def make(params):
        given.extend(params)
        return torch.optim.SGD(params)

    find(model, mse_loss, BATCH, optimizer=make, steps=3)
    assert [id(param) for param in given] == [id(model.weight)]


@pytest.mark.parametrize("make", [torch.optim.SGD, fs.optim.SGD])
def test_gradients_are_clipped(make):
    model = nn.Linear(2, 1)
    optimizer, norms = make(model.parameters(), lr=0.1), []
    optimizer.register_step_pre_hook(
        lambda *_: norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]))
    )
    find(
        model, mse_loss, [(torch.ones(4, 2), 100.0 * torch.ones(4, 1))], optimizer=optimizer, steps=5, max_grad_norm=0.5
    )
    assert max(norms).item() == pytest.approx(0.5, rel=1e-5)  # torch divides by the norm + 1e-6, in float32


# ---- how it ends


def test_it_ends_where_the_smoothed_loss_exceeds_the_best_by_the_factor():
    losses = [2.0, 1.0, 2.0, 3.9, 4.1, 1.0]
    assert scripted(losses).losses.tolist() == losses[:5]
    assert scripted(losses).ended == "diverged"
    assert len(scripted(losses, diverge=5.0).losses) == 6


def test_one_bad_batch_does_not_end_a_smoothed_sweep():
    losses = [1.0] * 10 + [10.0] + [1.0] * 9
    assert scripted(losses, smooth=0.9).ended == "finished"
    assert scripted(losses, smooth=0.0).ended == "diverged"


def test_without_a_limit_it_goes_to_the_end():
    result = scripted([1.0, 1e30, 1e30], diverge=None)
    assert (len(result.lrs), result.ended) == (3, "finished")


def test_losses_below_0_end_it_only_where_they_rise_far():
    assert scripted([-1.0, -2.0, -3.0, -1.0]).ended == "finished"
    assert scripted([-1.0, -2.0, -3.0, 6.1]).ended == "diverged"  # three times 3 above -3


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_it_and_is_left_out(bad):
    result = scripted([2.0, 1.5, bad, 1.0], diverge=None)
    assert (result.losses.tolist(), result.ended) == ([2.0, 1.5], "not finite")
    assert len(result.lrs) == len(result.smoothed) == 2


# ---- smoothing and suggestions

LRS = fs.Geometric(1e-5, 1.0, steps=20).table(21)  # four to a decade
CURVE = [2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.9, 1.8, 1.6, 0.9, 0.6, 0.5, 0.45, 0.4, 0.38, 1.2, 1.9, 2.2, 3.0]


def test_suggestions_are_read_off_the_curve():
    result = scripted(CURVE, low=1e-5, high=1.0, diverge=None)
    suggested = {name: suggestion.lr for name, suggestion in result.suggestions.items()}
    assert suggested == {
        "steep": LRS[11],  # (0.6 - 1.6) / 2 is the steepest
        "valley": LRS[11],  # of the descent 7 to 16
        "minimum": LRS[16] / 10.0,
        "edge": 0.9 * LRS[19],
    }
    assert result.suggestion == LRS[11]  # the middle one
    assert result.reason.startswith("valley: the middle of the longest descent")


def test_the_suggestion_is_the_middle_of_three():
    names = ("steep", "valley", "minimum", "edge")
    for order in itertools.permutations((1.0, 2.0, 3.0)):
        given = {name: finder.Suggestion(lr, "") for name, lr in zip(names, (*order, 100.0), strict=True)}
        some = np.ones(3)
        assert finder.Sweep(some, some, some, "finished", given).suggestion == 2.0


def test_the_edge_is_where_a_sweep_broke_off_before_the_loss_was_back():
    result = scripted([*CURVE[:17], math.nan, 0.0], low=1e-5, high=1.0)
    assert result.suggestions["edge"].lr == 0.9 * result.lrs[-1]
    assert "the last before it became infinite or NaN" in result.suggestions["edge"].reason


def test_without_a_rise_there_is_no_edge_and_a_note():
    result = scripted([3.0 - 0.1 * i for i in range(20)])
    assert result.suggestions["edge"].lr is None
    assert result.notes == ("the loss was still falling at the end; pass a larger high",)


def test_smoothing_is_the_mean_of_bias_corrected_averages_from_both_ends():
    losses = np.array([5.0, 3.0, 4.0, 1.0])

    def average(values):
        weights = 0.5 ** np.arange(len(values))[::-1]
        return (weights * values).sum() / weights.sum()

    expected = [(average(losses[: i + 1]) + average(losses[i:][::-1])) / 2 for i in range(4)]
    np.testing.assert_allclose(finder._smoothed(losses, 0.5), expected, rtol=1e-15)  # a few roundings


def test_what_explodes_at_the_end_does_not_hide_the_descent():
    falling = np.linspace(2.0, 1.0, 30)
    plain = finder._smoothed(np.array([*falling, 2.0]), 0.8)
    exploded = finder._smoothed(np.array([*falling, 1e30]), 0.8)
    assert same_bits(plain, exploded)


@pytest.mark.parametrize("trial", range(20))
def test_the_longest_descent_is_as_long_as_trying_all_finds(trial):
    values = np.random.default_rng(trial).integers(0, 8, 10).astype(np.float64)
    found = finder._longest_descent(values)
    assert all(a < b for a, b in itertools.pairwise(found))
    assert all(values[a] > values[b] for a, b in itertools.pairwise(found))
    subsets = (chosen for size in range(1, 11) for chosen in itertools.combinations(values, size))
    assert len(found) == max(len(s) for s in subsets if all(a > b for a, b in itertools.pairwise(s)))


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([1.0] * 30, "the loss never fell"),
        ([1.0 + 0.01 * i for i in range(30)], "the loss never fell"),
        ([1.0 - 1e-4 * i for i in range(30)], "the loss is flat: it fell by 0.3%"),
        ([1.0, 0.5, 0.3], "3 points are too few, 10 are needed; pass more steps"),
        ([1.0, 5.0], "the loss diverged: 2 points are too few, 10 are needed; pass a smaller low"),
        ([1.0, math.nan], "the loss became infinite or NaN: 1 points are too few"),
    ],
)
def test_a_curve_that_says_nothing_suggests_nothing_and_says_why(losses, reason):
    result = scripted(losses)
    assert result.suggestion is None
    assert result.reason.startswith(reason)
    assert all(suggestion == (None, result.reason) for suggestion in result.suggestions.values())
    assert result.reason in str(result)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_suggests_nothing(seed):
    losses = 2.0 + 0.3 * np.random.default_rng(seed).standard_normal(100)
    result = scripted(losses.tolist(), smooth=0.8)
    assert result.suggestion is None
    assert "no more than it varies from batch to batch" in result.reason


# ---- on a real task


def validation_loss(data, make, lr):
    torch.manual_seed(1)
    model = network()
    optimizer = make(model.parameters(), lr=lr)
    train_part = torch.utils.data.Subset(data, range(1400))
    for _ in range(8):
        train(model, optimizer, loader(train_part))
    x, y = data[1400:]
    with torch.no_grad():
        return cross_entropy(model.eval()(x), y).item()


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (fs.optim.AdamW, 1e-3, 3e-2),
        (partial(fs.optim.SGD, momentum=0.9), 5e-3, 0.2),
        (fs.optim.Lion, 3e-4, 1e-2),
    ],
    ids=["AdamW", "SGD with momentum", "Lion"],
)
def test_the_suggestion_trains_better_than_ten_times_less_or_thirty_times_more(digits, make, low, high):
    torch.manual_seed(0)
    result = find(network(), cross_entropy, loader(digits), optimizer=make)
    assert low < result.suggestion < high
    less, suggested, more = (validation_loss(digits, make, result.suggestion * factor) for factor in (0.1, 1.0, 30.0))
    assert suggested < less
    assert suggested < more


# ---- on several ranks

RANKS = """
import json
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
import fastsched as fs

def work(rank, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    found = []
    for wrap in (DistributedDataParallel, fully_shard):
        torch.manual_seed(0)
        model = wrap(nn.Linear(3, 5))
        local = lambda: [getattr(p, "_local_tensor", p).detach().tolist() for p in model.parameters()]
        optimizer = fs.optim.SGD(model.parameters(), lr=0.1, schedule=fs.Cosine(steps=50))
        before = local()
        x = torch.full((4, 3), 1.0 + rank)
        result = fs.find_lr(model, mse_loss, [(x, 10.0 * x.sum(1, keepdim=True).expand(4, 5))], optimizer=optimizer)
        found += [result.losses.tolist(), result.ended, before == local(), optimizer.position]
    with open(f"{path}.{rank}", "w") as file:
        json.dump(found, file)
    dist.destroy_process_group()

start_processes(work, (PATH,), nprocs=2, start_method="fork")
"""


def test_ranks_that_train_together_see_one_curve_and_end_together(tmp_path):
    output(RANKS.replace("PATH", repr(str(tmp_path / "store"))))
    one, two = (json.loads((tmp_path / f"store.{rank}").read_text()) for rank in (0, 1))
    assert one == two
    for losses, ended, as_before, position in (one[:4], one[4:]):
        assert (ended, as_before, position) == ("diverged", True, 0)
        assert len(losses) < 100


# ---- mixed precision


def test_autocast_reaches_model_and_loss(digits):
    seen = []

    def loss_fn(model, batch):
        out = model(batch[0])
        seen.append(out.dtype)
        return cross_entropy(out, batch[1])

    model = network()
    find(model, loss_fn, [digits[:64]], steps=3, autocast=torch.bfloat16)
    assert set(seen) == {torch.bfloat16}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("make", [torch.optim.SGD, partial(fs.optim.SGD, amp=True), fs.optim.SGD])
def test_a_scaler_changes_no_loss_and_is_as_it_was(digits, make):
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    options = {"optimizer": make, "steps": 12, "high": 1.0}
    scaled = find(network().eval(), cross_entropy, [digits[:64]], scaler=scaler, **options)
    plain = find(network().eval(), cross_entropy, [digits[:64]], **options)
    assert same_bits(scaled.losses, plain.losses)  # a power of two scales without rounding
    assert scaler.state_dict() == torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2).state_dict()


def test_clipping_sees_unscaled_gradients():
    batches = [(torch.ones(4, 2), 100.0 * torch.ones(4, 1))]
    options = {"optimizer": torch.optim.SGD, "steps": 12, "max_grad_norm": 0.5}
    torch.manual_seed(0)
    model = nn.Linear(2, 1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = find(model, mse_loss, batches, scaler=scaler, **options)
    assert same_bits(scaled.losses, find(model, mse_loss, batches, **options).losses)


def test_updates_that_the_scaler_skips_are_counted(digits):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.5)

    def loss_fn(model, batch):
        return 1e3 * cross_entropy(model(batch[0]), batch[1])

    result = find(network(), loss_fn, [digits[:64]], optimizer=torch.optim.SGD, scaler=scaler, steps=2)
    assert result.notes == ("the scaler skipped 2 updates: their gradients were infinite",)


# ---- modes and notes


def test_modes_are_kept_and_eval_mode_is_noted(digits):
    model = network().eval()
    modes = []
    find(
        model,
        lambda net, batch: modes.append(net.training) or cross_entropy(net(batch[0]), batch[1]),
        [digits[:64]],
        steps=3,
    )
    assert set(modes) == {False}
    assert "eval mode" in find(model, cross_entropy, [digits[:64]], steps=3).notes[0]


# ---- what it prints and draws


def test_a_sweep_prints_a_line_and_a_table():
    result = scripted(CURVE, low=1e-5, high=1.0, diverge=None)
    assert repr(result) == "<Sweep: 21 points, 1.0e-05 to 1.0e+00, finished; suggestion 5.62e-03>"
    lines = str(result).splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["steep", "5.62e-03"],
        ["valley", "5.62e-03"],
        ["minimum", "1.00e-02"],
        ["edge", "5.06e-01"],
    ]


def test_a_sweep_as_json_holds_what_was_measured():
    result = scripted(CURVE, low=1e-5, high=1.0, diverge=None)
    read = json.loads(result.to_json())
    assert read["lrs"] == result.lrs.tolist()
    assert read["losses"] == CURVE
    assert read["suggestion"] == result.suggestion
    assert read["suggestions"]["edge"]["lr"] == result.suggestions["edge"].lr


def test_a_plot_draws_into_the_axes_it_is_given():
    from matplotlib.figure import Figure

    result = scripted(CURVE, low=1e-5, high=1.0, diverge=None)
    ax = Figure().subplots()
    assert result.plot(ax) is ax
    assert ax.get_xscale() == "log"
    labels = ax.get_legend_handles_labels()[1]
    assert labels == [
        "loss",
        "smoothed",
        "steep: 0.0056",
        "valley: 0.0056 (suggestion)",
        "minimum: 0.01",
        "edge: 0.51",
    ]


def test_a_plots_scale_shows_the_descent_though_the_loss_exploded():
    exploded = [*CURVE[:-1], 1e30]
    ax = scripted(exploded, diverge=None).plot()
    assert ax.get_ylim()[1] < 3.0


def test_a_plot_of_each_group_has_a_curve_for_each():
    model, optimizer = two_groups(fs.optim.SGD)
    each = find(model, mse_loss, BATCH, optimizer=optimizer, groups="each", steps=12)
    assert each.plot().get_legend_handles_labels()[1] == ["trunk", "group 1"]


def test_a_plot_of_nothing_found_is_drawn_too():
    assert len(scripted([1.0, 1.0]).plot().lines) == 2


def test_a_plot_touches_no_global_state_of_matplotlib():
    code = (
        "import sys, numpy as np; from fastsched.finder import Suggestion, Sweep\n"
        "one, none = np.ones(2), dict.fromkeys(('steep', 'valley', 'minimum', 'edge'), Suggestion(None, ''))\n"
        "Sweep(one, one, one, 'finished', none).plot()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert output(code) == "False"


def test_a_plot_without_matplotlib_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="find_lr: needs matplotlib, which is not installed; pip install matplotlib"):
        scripted([1.0, 1.0]).plot()


def test_nothing_is_printed_where_there_is_no_terminal(capfd):
    fs.find_lr(nn.Linear(2, 1), mse_loss, BATCH, steps=3)
    assert capfd.readouterr() == ("", "")


def test_a_bar_counts_updates_on_a_terminal(capfd, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    fs.find_lr(nn.Linear(2, 1), mse_loss, BATCH, steps=3)
    out, err = capfd.readouterr()
    assert out == ""
    assert "3/3" in err


def test_no_bar_is_needed(monkeypatch, capfd):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setitem(sys.modules, "rich.console", None)
    fs.find_lr(nn.Linear(2, 1), mse_loss, BATCH, steps=3)
    assert capfd.readouterr() == ("", "")


# ---- errors


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"low": 0.0}, ValueError, "find_lr: low must be > 0, got 0.0; pass a learning rate that changes nothing"),
        ({"high": math.inf}, ValueError, "find_lr: high must be finite"),
        ({"low": 1.0, "high": 0.1}, ValueError, "find_lr: low must be below high, got 1.0 and 0.1; swap them"),
        ({"steps": 1}, ValueError, "find_lr: steps must be >= 2, got 1"),
        ({"steps": 10.0}, TypeError, "find_lr: steps must be an int, got 10.0; pass 10"),
        ({"sweep": "log"}, ValueError, "find_lr: sweep must be a known one, got 'log'; pass 'exponential' or 'linear'"),
        ({"smooth": 1.0}, ValueError, "find_lr: smooth must be <= 0.999, got 1.0"),
        ({"diverge": 1.0}, ValueError, "find_lr: diverge must be > 1, got 1.0"),
        ({"accumulate": 0}, ValueError, "find_lr: accumulate must be >= 1, got 0"),
        ({"max_grad_norm": -1.0}, ValueError, "find_lr: max_grad_norm must be > 0, got -1.0"),
        ({"progress": 1}, TypeError, "find_lr: progress must be True or False, got 1"),
        ({"autocast": True}, TypeError, "find_lr: autocast must be a torch.dtype or None, got True"),
        ({"scaler": 1024.0}, TypeError, "find_lr: scaler must be a GradScaler or None, got 1024.0"),
        ({"model": "net"}, TypeError, "find_lr: model must be a torch.nn.Module, got 'net'"),
        ({"loss_fn": 3}, TypeError, "find_lr: loss_fn must be callable, got 3"),
        (
            {"batches": {"x": 1}},
            TypeError,
            "find_lr: batches must be a loader, a list or an iterator, got a value of type",
        ),
        ({"batches": torch.ones(3)}, TypeError, "put a single batch into a list"),
        ({"batches": []}, ValueError, "find_lr: batches must make at least one update, got too few of them"),
        (
            {"batches": [torch.ones(4, 2)]},
            TypeError,
            r"find_lr: a criterion needs batches \(inputs, targets\), got a value",
        ),
        ({"optimizer": "adam"}, TypeError, "find_lr: optimizer must be one, or what makes one of a list of parameters"),
        ({"optimizer": len}, TypeError, "find_lr: optimizer must make an optimizer, got 2"),
        ({"optimizer": lambda p: torch.optim.SGD(p, lr=0.0)}, ValueError, "a group's lr must be > 0, got 0 in all"),
        (
            {"groups": "head"},
            ValueError,
            "find_lr: groups must be 'together', 'each', an index or a group's name, got 'head'",
        ),
        ({"groups": 1}, ValueError, "find_lr: groups must be <= 0, got 1"),
        ({"groups": None}, TypeError, "find_lr: groups must be an int, got None"),
        (
            {"loss_fn": lambda *_: 1.0},
            TypeError,
            "find_lr: the loss must be a tensor, got 1.0; return the mean over the",
        ),
        (
            {"loss_fn": lambda m, b: m(b[0])},
            ValueError,
            r"find_lr: the loss must be one real number, got shape \(4, 1\)",
        ),
        ({"loss_fn": lambda *_: torch.ones(())}, ValueError, "find_lr: the loss must have a gradient, got one without"),
        (
            {"loss_fn": lambda m, b: m(b[0]).sum() / 0.0},
            ValueError,
            "find_lr: the first loss must be finite, got another",
        ),
        ({"loss_fn": None}, TypeError, "find_lr: the loss must be a tensor, got None; the model must return an object"),
    ],
)
def test_an_error_says_what_was_wrong_and_what_to_do(options, kind, message):
    given = {"model": nn.Linear(2, 1), "loss_fn": mse_loss, "batches": BATCH, **options}
    if given["loss_fn"] is None:
        given["batches"] = [(torch.ones(4, 2),)]
    with pytest.raises(kind, match=message):
        find(given.pop("model"), given.pop("loss_fn"), given.pop("batches"), **given)


def test_an_optimizer_of_another_models_parameters_is_refused():
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(copy.deepcopy(model).parameters())
    with pytest.raises(ValueError, match="optimizer must hold parameters of the model, got one of others"):
        find(model, mse_loss, BATCH, optimizer=optimizer)


def test_a_model_that_trains_nothing_is_refused():
    with pytest.raises(ValueError, match="the model must have a parameter that trains, got none"):
        find(nn.Linear(2, 1).requires_grad_(False), mse_loss, BATCH)


def test_lazy_parameters_are_refused():
    with pytest.raises(ValueError, match="find_lr: weight has no shape yet; run the model on one batch first"):
        find(nn.LazyLinear(1), mse_loss, BATCH)


def test_groups_of_one_name_are_refused_for_each():
    model = nn.Linear(2, 1)
    optimizer = fs.optim.SGD([{"params": [p], "name": "same"} for p in model.parameters()])
    with pytest.raises(ValueError, match="find_lr: groups must have different names, got one twice"):
        find(model, mse_loss, BATCH, optimizer=optimizer, groups="each")


def test_a_failing_loss_hears_how_it_is_called():
    def loss_fn(outputs, targets):
        return (outputs - targets).square().mean()

    with pytest.raises(TypeError) as caught:
        find(nn.Linear(2, 1), loss_fn, BATCH)
    assert caught.value.__notes__ == ["find_lr calls loss_fn(model, batch), with each batch as it comes out of batches"]
