"""On several processes with torch.distributed (gloo, one machine): the trajectories of torch's own optimizers.

This file is also the program of the workers: a `Run` forks one for each rank, and each of them goes through the
scenarios below and saves what it finds. The tests then state one claim each about the findings of all ranks.

A trajectory is the list of what a rank holds of every weight, after every update.
"""

import copy
import math
import os
import re
import signal
import subprocess
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from optimizers import Plain
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel, parallelize_module
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

import fastsched as fs

LR = 0.05
LIMIT = 0.5  # of the norms, which are above it in most updates
UPDATES = 6
SCHEDULE = fs.Linear(1.0, 0.1, steps=7).warmup(2, start=0.1)  # another value at every update
# With a smaller eps, Adam would magnify what rounding leaves of gradients that nearly cancel between ranks.
ADAM = {"lr": LR, "eps": 1e-4}
# A dozen updates of at most LR each, of weights near 1: some float32 roundings.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}
PATIENCE = timedelta(seconds=60)  # of one collective, when another rank is gone
LONGEST = 240  # seconds of a run

# ---------------------------------------------------------------------------------------------------- the workers

SCENARIOS = {}  # per run, the names and functions in order


def scenario(*runs, **variants):
    """A function to call in these runs; what it returns is found under its name, or `name variant`."""

    def keep(function):
        for run in runs:
            for variant, arguments in (variants or {"": {}}).items():
                name = f"{function.__name__} {variant}".strip()
                SCENARIOS.setdefault(run, {})[name] = (function, arguments)
        return function

    return keep


class Here:
    """Where a worker is."""

    def __init__(self, rank, world, place):
        self.rank, self.world, self.place = rank, world, place
        self.last = rank == world - 1
        self.mesh = init_device_mesh("cpu", (world,))

    def first(self):
        """Where every rank has the batches of the first."""
        there = copy.copy(self)
        there.rank = 0
        return there


def tiny():
    """7 rows over 2 or 4 ranks are uneven shards, and 1 row or 3 leave some empty."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1), nn.Tanh(), nn.Linear(1, 3))


def filled():
    """Uneven shards, none of them empty over 2 or 4 ranks: torch's largest of an empty gradient is an error."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 7))


def sharded(here, model=None):
    return fully_shard(model or tiny(), mesh=here.mesh)


def layer_by_layer(here):
    """As large models are sharded; the other scenarios do with fewer collectives."""
    model = tiny()
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=here.mesh)
    return sharded(here, model)


def batch(seed):
    return torch.randn(4, 5, generator=torch.Generator().manual_seed(seed))


def local(tensor):
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor):
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def held(model):
    """What this rank holds of the weights."""
    return [local(p).clone() for p in model.parameters()]


def whole(model):
    return [full(p) for p in model.parameters()]


def state_of(optimizer, model, see=full):
    """Copies of all averages and steps, by name."""
    names = {p: name for name, p in model.named_parameters()}
    return {
        f"{names[p]} {key}": see(value).clone()
        for p in names
        for key, value in sorted(optimizer.state.get(p, {}).items())
    }


def backward(model, here, t):
    model.zero_grad()
    model(batch(100 * t + here.rank)).pow(2).sum().backward()


def train(model, optimizer, here, *prepare, updates=range(UPDATES), norms=None):
    """The trajectory; each of `prepare` is called before an update, and `norms` is filled with ours."""
    path = []
    for t in updates:
        backward(model, here, t)
        for call in prepare:
            call(t)
        optimizer.step()
        if norms is not None:
            norms.append(optimizer.grad_norm)
        path.append(held(model))
    return path


def scheduled(optimizer):
    """What torch's optimizers, and Plain, need before each update to follow SCHEDULE."""
    groups = [optimizer.options] if isinstance(optimizer, Plain) else optimizer.param_groups

    def prepare(t):
        for group in groups:
            group["lr"] = LR * SCHEDULE(t)

    return prepare


def clipped(model, norms, kind=2.0):
    """torch's clipping, before each update."""
    return lambda _: norms.append(full(clip_grad_norm_(model.parameters(), LIMIT, kind)).item())


def gathered_norm(model, kind=2.0):
    grads = torch.cat([full(p.grad).flatten() for p in model.parameters()])
    return torch.linalg.vector_norm(grads, kind).item()


def give_grads(model, seed):
    """The same random gradients on every rank and in every world."""
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        grad = torch.randn(p.shape, generator=generator)
        p.grad = distribute_tensor(grad, p.device_mesh, p.placements) if isinstance(p, DTensor) else grad


def train_whole(model, optimizer, updates):
    """A trajectory of whole weights, which does not depend on how they are sharded."""
    path = []
    for t in updates:
        give_grads(model, t)
        optimizer.step()
        path.append(whole(model))
    return path


# ---- DDP

DDP = {"plain": {}, "views": {"gradient_as_bucket_view": True}, "static": {"static_graph": True}}


@scenario("2", "4", **DDP)
def ddp(here, **options):
    a, b = tiny(), tiny()
    parallel, torchs_parallel = DistributedDataParallel(a, **options), DistributedDataParallel(b, **options)
    ours = fs.optim.AdamW(a.parameters(), **ADAM, schedule=SCHEDULE, max_grad_norm=LIMIT, zero_grads=True)
    torchs = torch.optim.AdamW(b.parameters(), **ADAM)
    found = {"ours": [], "norms": [], "zeroed": [], "in place": [], "torchs norms": []}
    for t in range(UPDATES):
        parallel(batch(100 * t + here.rank)).pow(2).sum().backward()
        places = [p.grad.data_ptr() for p in a.parameters()]
        ours.step()
        found["norms"].append(ours.grad_norm)
        found["zeroed"].append(not any(p.grad.any() for p in a.parameters()))
        found["in place"].append(places == [p.grad.data_ptr() for p in a.parameters()])
        found["ours"].append(held(a))
    prepare = clipped(b, found["torchs norms"]), scheduled(torchs)
    return {**found, "torchs": train(torchs_parallel, torchs, here, *prepare)}


# ---- FSDP2

RULES = {
    "AdamW": (fs.optim.AdamW, torch.optim.AdamW, ADAM),
    "Adam": (fs.optim.Adam, torch.optim.Adam, {**ADAM, "amsgrad": True}),
    "SGD": (fs.optim.SGD, torch.optim.SGD, {"lr": LR, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    "Lion": (fs.optim.Lion, partial(Plain, "Lion"), {"lr": LR}),  # torch has none
}


@scenario("2", "4", **{rule: {"rule": rule} for rule in RULES})
def fsdp(here, rule):
    make, make_torchs, options = RULES[rule]
    a, b = layer_by_layer(here), layer_by_layer(here)
    torchs = make_torchs(b.parameters(), **options)
    return {
        "ours": train(a, make(a.parameters(), **options, schedule=SCHEDULE), here),
        "torchs": train(b, torchs, here, scheduled(torchs)),
        "sizes": [len(p) for p in held(a)],
    }


NORMS = {"1": {"kind": 1.0}, "2": {"kind": 2.0}, "inf": {"kind": math.inf}}


@scenario("2", "4", **NORMS)
def norm(here, kind):
    a, b = sharded(here, filled()), sharded(here, filled())
    ours = fs.optim.AdamW(a.parameters(), **ADAM, max_grad_norm=LIMIT, norm_type=kind)
    torchs = torch.optim.AdamW(b.parameters(), **ADAM)
    norms, torchs_norms = [], []
    return {
        "ours": train(a, ours, here, norms=norms),
        "torchs": train(b, torchs, here, clipped(b, torchs_norms, kind)),
        "norms": norms,
        "torchs norms": torchs_norms,
    }


@scenario("2", "4", **NORMS)
def empty(here, kind):
    """With empty shards."""
    model = sharded(here)
    norms, gathered = [], []
    ours = fs.optim.AdamW(model.parameters(), **ADAM, max_grad_norm=LIMIT, norm_type=kind)
    train(model, ours, here, lambda _: gathered.append(gathered_norm(model, kind)), updates=range(3), norms=norms)
    return {"norms": norms, "gathered": gathered}


@scenario("2", "4")
def alone(here):
    """One row: every rank but one holds nothing at all."""

    def row():
        torch.manual_seed(0)
        return fully_shard(nn.Linear(5, 1, bias=False), mesh=here.mesh)

    a, b = row(), row()
    ours = fs.optim.AdamW(a.parameters(), **ADAM, schedule=SCHEDULE, max_grad_norm=LIMIT)
    torchs = torch.optim.AdamW(b.parameters(), **ADAM)
    return {
        "ours": train(a, ours, here),
        "torchs": train(b, torchs, here, clipped(b, []), scheduled(torchs)),
        "position": ours.position,
        "norm": ours.grad_norm,
        "size": sum(p.numel() for p in held(a)),
    }


CHECKS = {
    "norm 1": {"max_grad_norm": LIMIT, "norm_type": 1.0},
    "norm 2": {"max_grad_norm": LIMIT},
    "norm inf": {"max_grad_norm": LIMIT, "norm_type": math.inf},
    "amp": {"amp": True},
}
SPOILT = {"inf": math.inf, "nan": math.nan}


@scenario("2", "4", **{f"{check} {value}": {"check": check, "value": value} for check in CHECKS for value in SPOILT})
def spoilt(here, check, value):
    """The last rank alone has one gradient that is not finite."""
    model = sharded(here)
    optimizer = fs.optim.AdamW(model.parameters(), **ADAM, ema_decay=0.9, **CHECKS[check])
    train(model, optimizer, here, updates=range(2))
    before = held(model), state_of(optimizer, model, local)
    backward(model, here, 2)
    if here.last:
        local(next(model.parameters()).grad)[0, 0] = SPOILT[value]
    optimizer.step()
    after = held(model), state_of(optimizer, model, local)
    found = {"before": before, "after": after, "skipped": optimizer.skipped, "position": optimizer.position}
    train(model, optimizer, here, updates=range(3, 5))
    return {**found, "end": optimizer.position, "moved": not same(held(model), before[0])}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@scenario(
    "2",
    "4",
    torchs={"make": torch.optim.AdamW},
    plain={"make": fs.optim.AdamW},
    amp={"make": fs.optim.AdamW, "amp": True},
)
def scaled(here, make, **options):
    """GradScaler, and one gradient on the last rank that overflows in the fourth update."""
    model = sharded(here)
    optimizer = make(model.parameters(), **ADAM, **options)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    path, scales = [], []
    for t in range(UPDATES):
        model.zero_grad()
        scaler.scale(model(batch(100 * t + here.rank)).pow(2).sum()).backward()
        if t == 3 and here.last:
            local(next(model.parameters()).grad)[0, 0] = math.inf
        scaler.step(optimizer)
        scaler.update()
        path.append(held(model))
        scales.append(scaler.get_scale())
    return {"path": path, "scales": scales}


@scenario("2", "4")
def ema(here):
    model = layer_by_layer(here)  # a root with weights stays unsharded after a forward pass alone
    optimizer = fs.optim.AdamW(model.parameters(), **ADAM, ema_decay=0.75)
    start = held(model)
    path = train(model, optimizer, here)
    averages = [local(optimizer.state[p]["ema"]).clone() for p in model.parameters()]
    output = model(batch(1)).detach()
    with optimizer.ema():
        within = held(model)
        averaged = model(batch(1)).detach()
    plain = tiny()
    for p, average in zip(
        plain.parameters(), [full(optimizer.state[p]["ema"]) for p in model.parameters()], strict=True
    ):
        p.data.copy_(average)
    return {
        "start": start,
        "path": path,
        "averages": averages,
        "within": within,
        "after": held(model),
        "outputs": [output, averaged, plain(batch(1)).detach(), model(batch(1)).detach()],
    }


@scenario("2", "4", **{rule: {"rule": rule} for rule in RULES})
def placed(here, rule):
    """For every state tensor of every parameter whether it is a DTensor like it, and its dtype."""
    make, _, options = RULES[rule]
    model = sharded(here)
    optimizer = make(model.parameters(), **options, ema_decay=0.9)
    train(model, optimizer, here, updates=range(1))
    return {
        f"{name} {key}": (
            isinstance(value, DTensor)
            and value.device_mesh == p.device_mesh
            and value.placements == p.placements
            and value.shape == p.shape
            and value.stride() == p.stride()
            and value.to_local().shape == p.to_local().shape,
            isinstance(value, DTensor),
            str(value.dtype),
        )
        for name, p in model.named_parameters()
        for key, value in optimizer.state[p].items()
    }


@scenario("2", "4")
def masters(here):
    """bfloat16 parameters, beside torch's AdamW on float32 copies of what this rank holds of them."""
    model = sharded(here, tiny().to(torch.bfloat16))
    optimizer = fs.optim.AdamW(model.parameters(), **ADAM, master_weights=True)
    copies = [nn.Parameter(p.float()) for p in held(model)]
    torchs = torch.optim.AdamW(copies, **ADAM)
    found = {"masters": [], "torchs": [], "weights": []}
    for t in range(UPDATES):
        model.zero_grad()
        model(batch(100 * t + here.rank).bfloat16()).pow(2).sum().backward()
        for p, kept in zip(model.parameters(), copies, strict=True):
            kept.grad = local(p.grad).float()
        optimizer.step()
        torchs.step()
        found["masters"].append([local(optimizer.state[p]["master_param"]).clone() for p in model.parameters()])
        found["torchs"].append([p.detach().clone() for p in copies])
        found["weights"].append(held(model))
    found["placed"] = all(
        isinstance(optimizer.state[p]["master_param"], DTensor)
        and optimizer.state[p]["master_param"].placements == p.placements
        for p in model.parameters()
    )
    return found


@scenario("2", "4")
def without(here):
    """The last rank has no gradient at all in every other update; torch's norm takes part with zeros there."""
    a, b = sharded(here), sharded(here)

    def gone(t):
        return here.last and t % 2 == 1

    def drop(model, t):
        for p in model.parameters() if gone(t) else []:
            p.grad = None

    def clear(t):
        for p in b.parameters() if gone(t) else []:
            local(p.grad).zero_()

    ours = fs.optim.AdamW(a.parameters(), **ADAM, max_grad_norm=LIMIT)
    torchs = torch.optim.AdamW(b.parameters(), **ADAM)
    norms, torchs_norms = [], []
    return {
        "ours": train(a, ours, here, partial(drop, a), norms=norms),
        "torchs": train(b, torchs, here, clear, clipped(b, torchs_norms), partial(drop, b)),
        "norms": norms,
        "torchs norms": torchs_norms,
        "position": ours.position,
    }


# ---- tensor parallel


class Parallel(nn.Module):
    """Columns, rows and a replicated head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down, self.head = nn.Linear(5, 8), nn.Linear(8, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.down(self.up(x).tanh()))


@scenario("2", "4")
def tensor_parallel(here):
    """Every rank has the same batches, so that the whole model on one rank is a reference too."""
    here = here.first()
    layers = {"up": ColwiseParallel(), "down": RowwiseParallel()}
    a, b, c = (parallelize_module(Parallel(), here.mesh, layers) for _ in range(3))
    single = Parallel()
    ours = fs.optim.AdamW(c.parameters(), **ADAM, max_grad_norm=LIMIT)
    norms, single_norms = [], []
    train(c, ours, here, norms=norms)
    train(single, torch.optim.AdamW(single.parameters(), **ADAM), here, clipped(single, single_norms))
    return {
        "ours": train(a, fs.optim.AdamW(a.parameters(), **ADAM), here),
        # its foreach kernels take no mixture of DTensors and plain ones
        "torchs": train(b, torch.optim.AdamW(b.parameters(), **ADAM, foreach=False), here),
        "norms": norms,
        "single norms": single_norms,
        "clipped": whole(c),
        "single": whole(single),
        "placements": [str(getattr(p, "placements", "plain")) for p in c.parameters()],
    }


@scenario("2", "4")
def sequence_parallel(here):
    """The gradients of the norm's weights are Partial; torch's optimizers reduce them."""
    here = here.first()
    layers = {
        "0": SequenceParallel(),
        "1": ColwiseParallel(input_layouts=Shard(1)),
        "3": RowwiseParallel(output_layouts=Replicate()),
    }
    found = {"refused": ""}

    def model():
        torch.manual_seed(0)
        inner = nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
        return nn.Sequential(nn.Unflatten(0, (1, -1)), *parallelize_module(inner, here.mesh, layers))

    a, b, c = model(), model(), model()
    clipping = fs.optim.AdamW(c.parameters(), **ADAM, max_grad_norm=LIMIT)
    norms, gathered = [], []
    found["torchs"] = train(b, torch.optim.AdamW(b.parameters(), **ADAM), here)
    try:
        found["ours"] = train(a, fs.optim.AdamW(a.parameters(), **ADAM), here)
        train(c, clipping, here, lambda _: gathered.append(gathered_norm(c)), norms=norms)
    except ValueError as error:  # on all ranks: they may go on
        found["refused"] = str(error)
    return {**found, "norms": norms, "gathered": gathered}


def on_a_grid(here, way):
    """Two by two ranks: FSDP2 with replicas, or FSDP2 of tensor-parallel layers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3), nn.Tanh())
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("outer", "inner"))
    if way == "replicas":
        return fully_shard(model, mesh=mesh)
    parallelize_module(model, mesh["inner"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    return fully_shard(model, mesh=mesh["outer"])


GRIDS = {"replicas": {"way": "replicas"}, "tensor": {"way": "tensor"}}


@scenario("4", **GRIDS)
def grid(here, way):
    here = here.first()
    a, b = on_a_grid(here, way), on_a_grid(here, way)
    ours = fs.optim.AdamW(a.parameters(), **ADAM, max_grad_norm=LIMIT)
    norms, gathered = [], []
    return {
        "ours": train(a, ours, here, lambda _: gathered.append(gathered_norm(a)), norms=norms),
        "torchs": train(b, torch.optim.AdamW(b.parameters(), **ADAM), here, clipped(b, [])),
        "norms": norms,
        "gathered": gathered,
    }


# ---- what ranks agree on

ALIKE = {"schedule": SCHEDULE, "position": 0, "weight_decay": 0.01, "max_grad_norm": None, "swapped": False}
UNLIKE = {
    "schedule": fs.Linear(1.0, 0.1, steps=9).warmup(2, start=0.1),
    "position": 3,
    "weight_decay": 0.02,
    "max_grad_norm": 1.0,
    "swapped": True,
}


def wrapped(here, way):
    if way == "fsdp":
        return sharded(here)
    return DistributedDataParallel(tiny()) if way == "ddp" else tiny()


def one_of_many(here, way, *, schedule, position, weight_decay, max_grad_norm, swapped, **options):
    """A model and its optimizer with two groups."""
    model = wrapped(here, way)
    weights = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    groups = [{"params": others}, {"params": weights}] if swapped else [{"params": weights}, {"params": others}]
    settings = {**ADAM, "schedule": schedule, "weight_decay": weight_decay, "max_grad_norm": max_grad_norm}
    optimizer = fs.optim.AdamW(groups, **settings, **options)
    optimizer.position = position
    return model, optimizer


def outcome(call, model):
    """The error, and whether the weights moved."""
    before = held(model)
    try:
        call()
    except RuntimeError as error:
        return str(error), not same(held(model), before)
    return "", not same(held(model), before)


@scenario("2", "4", **{f"{way} {what}": {"way": way, "what": what} for way in ("ddp", "fsdp") for what in UNLIKE})
def disagree(here, way, what):
    """The last rank differs."""
    model, optimizer = one_of_many(here, way, **{**ALIKE, **({what: UNLIKE[what]} if here.last else {})})
    backward(model, here, 0)
    return outcome(optimizer.step, model)


@scenario("2", ddp={"way": "ddp"}, fsdp={"way": "fsdp"})
def disagree_after_loading(here, way):
    model, optimizer = one_of_many(here, way, **ALIKE)
    train(model, optimizer, here, updates=range(2))
    checkpoint = optimizer.state_dict()
    if here.last:
        for state in checkpoint["state"].values():
            state["step"] = state["step"] + 5
    before = state_of(optimizer, model, local)
    error, _ = outcome(lambda: optimizer.load_state_dict(checkpoint), model)
    return error, optimizer.position, before, state_of(optimizer, model, local)


@scenario("2", false={"agree": False}, plain={"way": "plain"})
def may_differ(here, agree=True, way="ddp"):
    settings = {**ALIKE, "schedule": UNLIKE["schedule"]} if here.last else ALIKE
    model, optimizer = one_of_many(here, way, **settings, agree=agree)
    backward(model, here, 0)
    return outcome(optimizer.step, model)


@scenario("2")
def told_to_agree(here):
    """Parameters that torch.distributed knows nothing of."""
    settings = {**ALIKE, "schedule": UNLIKE["schedule"]} if here.last else ALIKE
    model, optimizer = one_of_many(here, "plain", **settings, agree=dist.group.WORLD)
    backward(model, here, 0)
    return outcome(optimizer.step, model)


@scenario("2", "4", ddp={"way": "ddp"}, fsdp={"way": "fsdp"})
def collectives(here, way):
    """How often ranks are asked, over a first step, three more, and one after loading."""
    model, optimizer = one_of_many(here, way, **ALIKE)
    asked, original = [], dist.all_gather
    dist.all_gather = lambda tensors, tensor, group: (asked.append(tensor.nbytes), original(tensors, tensor, group))
    try:
        counts = []
        for updates in (range(1), range(1, 4)):
            train(model, optimizer, here, updates=updates)
            counts.append(len(asked))
        optimizer.load_state_dict(optimizer.state_dict())
        counts.append(len(asked))
        return counts, max(asked)
    finally:
        dist.all_gather = original


# ---- ZeroRedundancyOptimizer


def zero_redundancy_optimizer():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch.jit.script, in its own package
        from torch.distributed.optim import ZeroRedundancyOptimizer
    return ZeroRedundancyOptimizer


@scenario("2", "4", full={"model": tiny}, small={"model": partial(nn.Linear, 5, 3)})
def zero(here, model):
    """Each rank updates its part of the parameters; with two parameters, two of four ranks have none."""
    ZeroRedundancyOptimizer = zero_redundancy_optimizer()  # noqa: N806
    here = here.first()
    torch.manual_seed(0)
    a = model()
    b = copy.deepcopy(a)
    ours = ZeroRedundancyOptimizer(a.parameters(), optimizer_class=fs.optim.AdamW, **ADAM, schedule=SCHEDULE)
    torchs = ZeroRedundancyOptimizer(b.parameters(), optimizer_class=torch.optim.AdamW, **ADAM)
    return {
        "ours": train(a, ours, here),
        "torchs": train(b, torchs, here, scheduled(torchs)),
    }


@scenario("2", "4", scheduled={"schedule": SCHEDULE}, constant={})
def zero_resumes(here, **options):
    """The consolidated state dict goes into a new one."""
    there, here = here, here.first()
    make = partial(zero_redundancy_optimizer(), optimizer_class=fs.optim.AdamW, **ADAM, **options)
    a = tiny()
    old = make(a.parameters())
    train(a, old, here, updates=range(4))
    for rank in range(here.world):
        old.consolidate_state_dict(to=rank)
        if rank == there.rank:
            saved = copy.deepcopy(old.state_dict())
    b = copy.deepcopy(a)
    new = make(b.parameters())
    new.load_state_dict(saved)
    return {
        "path": train(a, old, here, updates=range(4, UPDATES)),
        "path again": train(b, new, here, updates=range(4, UPDATES)),
        "positions": [old.optim.position, new.optim.position],
    }


# ---- checkpoints


def full_of(here, **options):
    """Ours with all that a checkpoint may hold."""
    model = sharded(here)
    return model, fs.optim.AdamW(model.parameters(), **ADAM, schedule=SCHEDULE, ema_decay=0.9, **options)


def save(model, optimizer, where):
    weights, state = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optimizer": state}, checkpoint_id=where)


def load(model, optimizer, where, **options):
    weights, state = get_state_dict(model, optimizer)
    loaded = {"model": weights, "optimizer": state}
    dcp.load(loaded, checkpoint_id=where, planner=dcp.DefaultLoadPlanner(**options))
    set_state_dict(model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"])


def what_is(model, optimizer):
    """Of the whole model."""
    return {
        "weights": whole(model),
        "state": state_of(optimizer, model),
        "position": getattr(optimizer, "position", None),
        "lrs": [float(group["lr"]) for group in optimizer.param_groups],
    }


@scenario("2", "4")
def saves(here):
    """A checkpoint for the other world, and how this one goes on."""
    model, optimizer = full_of(here)
    train_whole(model, optimizer, range(4))
    save(model, optimizer, here.place / f"of {here.world}")
    return {**what_is(model, optimizer), "path": train_whole(model, optimizer, range(4, UPDATES))}


@scenario("4", loads2={"other": 2})
@scenario("again", loads4={"other": 4})
def reshards(here, other):
    model, optimizer = full_of(here)
    load(model, optimizer, here.place / f"of {other}")
    return {**what_is(model, optimizer), "path": train_whole(model, optimizer, range(4, UPDATES))}


BOTH = {
    "AdamW": (fs.optim.AdamW, torch.optim.AdamW, ADAM),
    "SGD": (fs.optim.SGD, torch.optim.SGD, {"lr": LR, "momentum": 0.9}),
}
WAYS = {"state_dict": False, "checkpoint": True}
DIRECTIONS = {"from torch": True, "to torch": False}


@scenario(
    "2",
    "4",
    **{
        f"{rule} {direction} {way}": {"rule": rule, "from_torch": DIRECTIONS[direction], "saved": WAYS[way]}
        for rule in BOTH
        for direction in DIRECTIONS
        for way in WAYS
    },
)
def crosses(here, rule, from_torch, saved):
    """A checkpoint of one optimizer goes into the other, and both go on."""
    ours, torchs, options = BOTH[rule]
    first, second = (torchs, ours) if from_torch else (ours, torchs)
    a, b = sharded(here), sharded(here)
    old, new = first(a.parameters(), **options), second(b.parameters(), **options)
    train(a, old, here, updates=range(4))
    if saved:
        where = here.place / f"{rule} {from_torch} {here.world}"
        save(a, old, where)
        load(b, new, where, allow_partial_load=rule == "SGD" and from_torch)  # torch's SGD has no steps
    else:
        with torch.no_grad():
            for p, q in zip(a.parameters(), b.parameters(), strict=True):
                q.copy_(p)
        new.load_state_dict(copy.deepcopy(old.state_dict()))
    position = (new if from_torch else old).position
    return {
        "position": position,
        "old": train(a, old, here, updates=range(4, UPDATES)),
        "new": train(b, new, here, updates=range(4, UPDATES)),
    }


WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
FROM_FIRST = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


@scenario("2", "4")
def gathers(here):
    """A full state dict on the first rank, into a model in one process, and into shards again."""
    model, optimizer = full_of(here)
    train_whole(model, optimizer, range(4))
    found = what_is(model, optimizer)
    weights, state = get_state_dict(model, optimizer, options=WHOLE)
    kept = copy.deepcopy((weights, state))  # torch distributes what it loads, in place

    again, resumed = full_of(here)
    set_model_state_dict(again, weights, options=FROM_FIRST)  # one call for both would need weights on every rank
    set_optimizer_state_dict(again, resumed, state, options=FROM_FIRST)
    found["again"] = what_is(again, resumed)
    found["path again"] = train_whole(again, resumed, range(4, UPDATES))
    found["path"] = train_whole(model, optimizer, range(4, UPDATES))
    if here.rank == 0:
        single = tiny()
        alone = fs.optim.AdamW(single.parameters(), **ADAM, schedule=SCHEDULE, ema_decay=0.9)
        set_state_dict(single, alone, model_state_dict=kept[0], optim_state_dict=kept[1])
        found["single"] = what_is(single, alone)
        found["path single"] = train_whole(single, alone, range(4, UPDATES))
    return found


@scenario("2", "4", ours={"make": fs.optim.AdamW}, torchs={"make": torch.optim.AdamW})
def scatters(here, make):
    """The state dict of one process, with whole tensors, into shards."""
    single = tiny()
    alone = make(single.parameters(), **ADAM)
    train_whole(single, alone, range(4))
    model = sharded(here, copy.deepcopy(single))
    optimizer = fs.optim.AdamW(model.parameters(), **ADAM)
    optimizer.load_state_dict(alone.state_dict())
    found = what_is(model, optimizer)
    return {
        **found,
        "single": what_is(single, alone),
        "path": train_whole(model, optimizer, range(4, UPDATES)),
        "path single": train_whole(single, alone, range(4, UPDATES)),
    }


# ---- a rank dies


def interrupted(here, updates, where, die=None):
    """Checkpoints after every second update; `die` is called in the middle of one."""
    model, optimizer = full_of(here, max_grad_norm=LIMIT)
    start = updates.start
    if start:
        load(model, optimizer, where / str(start))
    path = []
    for t in updates:
        backward(model, here, t)
        if die is not None:
            die(t)
        optimizer.step()
        path.append(held(model))
        if where is not None and t % 2:
            save(model, optimizer, where / str(t + 1))
    return {"path": path, "state": state_of(optimizer, model, local), "position": optimizer.position}


@scenario("2")
def undisturbed(here):
    return interrupted(here, range(UPDATES), None)


@scenario("2")  # the last one of this run
def dies(here):
    def die(t):
        if t == 5 and here.last:
            os.kill(os.getpid(), signal.SIGKILL)

    try:
        return interrupted(here, range(UPDATES), here.place / "killed", die)
    except RuntimeError:  # the others wait for their end
        signal.pause()


@scenario("again")
def resumes(here):
    return interrupted(here, range(4, UPDATES), here.place / "killed")


def work(rank, run, world, place):
    meeting = f"file://{place}/meeting {run}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=world, timeout=PATIENCE)
    here = Here(rank, world, place)
    for name, (function, arguments) in SCENARIOS[run].items():
        torch.save(function(here, **arguments), place / f"{run} {name} {rank}")
    dist.destroy_process_group()


if __name__ == "__main__":  # forked, since every import of torch takes seconds; ends all when one fails
    run, world, place = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    start_processes(work, (run, world, place), world, start_method="fork")


# ------------------------------------------------------------------------------------------------------ the tests


class Run:
    """Workers that have ended, and what they found."""

    def __init__(self, name, world, place):
        self.name, self.world, self.place = name, world, place
        # The workers see the same package, and the modules beside this file.
        paths = [Path(fs.__file__).parents[1], Path(__file__).parent, os.environ.get("PYTHONPATH")]
        launcher = subprocess.Popen(
            [sys.executable, "-P", "-W", "error", __file__, name, str(world), str(place)],
            cwd=place,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, filter(None, paths))), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            self.said, _ = launcher.communicate(timeout=LONGEST)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)
            self.said, _ = launcher.communicate()
            self.said += f"\nkilled after {LONGEST} seconds"

    def __getitem__(self, scenario):
        """What every rank found, in their order."""
        files = [self.place / f"{self.name} {scenario} {rank}" for rank in range(self.world)]
        if not all(file.exists() for file in files):
            pytest.fail(f"{scenario}: the workers ended before it did:\n{self.said}", pytrace=False)
        return [torch.load(file, weights_only=True) for file in files]


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """A run by its name, made at its first use; "4" loads what "2" saves, and "again" what both save."""
    place = tmp_path_factory.mktemp("distributed")
    made = {}

    def run(name):
        for before in {"2": [], "4": ["2"], "again": ["2", "4"]}[name]:
            run(before)
        if name not in made:
            made[name] = Run(name, 4 if name == "4" else 2, place)
        return made[name]

    return run


@pytest.fixture(scope="session", params=["2", "4"])
def run(request, runs):
    """On 2 and on 4 processes."""
    return runs(request.param)


def close(a, b):
    torch.testing.assert_close(a, b, **CLOSE)


def assert_same_bits(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def everywhere(found, name):
    """What must be the same on all ranks."""
    first, *others = (rank[name] for rank in found)
    for other in others:
        assert other == first
    return first


# ---- DDP

every_ddp = pytest.mark.parametrize("way", DDP)


@every_ddp
def test_ddp_follows_torch_with_schedule_and_clipping(run, way):
    for found in run[f"ddp {way}"]:
        close(found["ours"], found["torchs"])


@every_ddp
def test_ddp_keeps_the_weights_of_all_ranks_the_same_to_the_bit(run, way):
    first, *others = run[f"ddp {way}"]
    for other in others:
        assert_same_bits(other["ours"], first["ours"])


@every_ddp
def test_ddp_measures_the_norm_that_torch_does(run, way):
    found = run[f"ddp {way}"]
    close(everywhere(found, "norms"), found[0]["torchs norms"])


@every_ddp
def test_ddp_gradients_are_zeroed_in_place(run, way):
    for found in run[f"ddp {way}"]:
        assert all(found["zeroed"])
        assert all(found["in place"])


# ---- FSDP2


@pytest.mark.parametrize("rule", RULES)
def test_fsdp_follows_torch_with_a_schedule(run, rule):
    for found in run[f"fsdp {rule}"]:
        close(found["ours"], found["torchs"])


def test_these_shards_are_uneven_and_some_are_empty(run):
    sizes = [found["sizes"] for found in run["fsdp AdamW"]]
    assert len({tuple(rank) for rank in sizes}) > 1
    assert sizes[0] == ([4, 4, 1, 1, 2, 2] if len(sizes) == 2 else [2, 2, 1, 1, 1, 1])
    assert 0 in sizes[-1]


every_norm = pytest.mark.parametrize("kind", NORMS)


@every_norm
def test_fsdp_clips_like_torch(run, kind):
    for found in run[f"norm {kind}"]:
        close(found["ours"], found["torchs"])


@every_norm
def test_fsdp_norm_is_that_of_torch(run, kind):
    found = run[f"norm {kind}"]
    close(found[0]["norms"], found[0]["torchs norms"])


@every_norm
def test_fsdp_norm_is_the_same_on_all_ranks_to_the_bit(run, kind):
    everywhere(run[f"norm {kind}"], "norms")
    everywhere(run[f"empty {kind}"], "norms")


@every_norm
def test_fsdp_norm_over_empty_shards_is_that_of_the_gathered_gradients(run, kind):
    for found in run[f"empty {kind}"]:
        close(found["norms"], found["gathered"])


def test_ranks_with_nothing_but_empty_shards_take_part(run):
    for found in run["alone"]:
        close(found["ours"], found["torchs"])


def test_ranks_with_nothing_but_empty_shards_keep_time_and_norm(run):
    found = run["alone"]
    assert [rank["size"] for rank in found] == [5] + [0] * (len(found) - 1)
    assert everywhere(found, "position") == UPDATES
    assert everywhere(found, "norm") > 0


every_check = pytest.mark.parametrize("check", CHECKS)
every_spoilt = pytest.mark.parametrize("value", SPOILT)


@every_check
@every_spoilt
def test_a_bad_gradient_on_one_rank_skips_the_update_on_all(run, check, value):
    found = run[f"spoilt {check} {value}"]
    assert everywhere(found, "skipped") == 1
    assert everywhere(found, "position") == 2


@every_check
@every_spoilt
def test_a_skipped_update_changes_no_weight_and_no_state_on_any_rank(run, check, value):
    for found in run[f"spoilt {check} {value}"]:
        assert_same_bits(found["after"], found["before"])


@every_check
@every_spoilt
def test_training_goes_on_after_a_skip(run, check, value):
    found = run[f"spoilt {check} {value}"]
    assert everywhere(found, "end") == 4
    assert all(rank["moved"] for rank in found)


every_amp = pytest.mark.parametrize("way", ["plain", "amp"])


@every_amp
def test_grad_scaler_makes_the_trajectory_of_torch(run, way):
    for found, torchs in zip(run[f"scaled {way}"], run["scaled torchs"], strict=True):
        close(found["path"], torchs["path"])


@every_amp
def test_grad_scaler_sees_what_it_sees_with_torch(run, way):
    found = run[f"scaled {way}"]
    assert everywhere(found, "scales") == everywhere(run["scaled torchs"], "scales")


def test_averages_of_shards_are_those_of_their_trajectory(run):
    for found in run["ema"]:
        averages = [p.double() for p in found["start"]]
        for weights in found["path"]:
            averages = [0.75 * a + 0.25 * p.double() for a, p in zip(averages, weights, strict=True)]
        close([a.double() for a in found["averages"]], averages)


def test_ema_puts_the_averages_of_shards_in_place_and_the_weights_back(run):
    for found in run["ema"]:
        assert_same_bits(found["within"], found["averages"])
        assert_same_bits(found["after"], found["path"][-1])


def test_a_model_within_ema_computes_with_the_gathered_averages(run):
    for found in run["ema"]:
        before, averaged, plain, after = found["outputs"]
        close(averaged, plain)
        assert_same_bits(after, before)
        assert not torch.equal(averaged, before)


@pytest.mark.parametrize("rule", RULES)
def test_state_is_sharded_like_its_parameter(run, rule):
    for found in run[f"placed {rule}"]:
        assert {key.split()[1] for key in found} >= {"step", "ema"}
        for name, (alike, is_shard, dtype) in found.items():
            assert alike if not name.endswith(" step") else not is_shard, name
            assert dtype == "torch.float32", name


def test_master_weights_of_bfloat16_shards_follow_torch_in_float32(run):
    for found in run["masters"]:
        close(found["masters"], found["torchs"])


def test_bfloat16_shards_are_their_rounded_master_weights(run):
    for found in run["masters"]:
        assert_same_bits(found["weights"], [[p.bfloat16() for p in weights] for weights in found["masters"]])


def test_master_weights_are_sharded_like_their_parameters(run):
    assert everywhere(run["masters"], "placed")


def test_a_rank_without_any_gradient_is_passed_over_as_by_torch(run):
    for found in run["without"]:
        close(found["ours"], found["torchs"])


def test_a_rank_without_any_gradient_hears_of_the_norm(run):
    found = run["without"]
    close(everywhere(found, "norms"), found[0]["torchs norms"])


def test_a_rank_without_any_gradient_keeps_time_with_the_others(run):
    assert everywhere(run["without"], "position") == UPDATES


# ---- tensor parallel


def test_tensor_parallel_follows_torch(run):
    for found in run["tensor_parallel"]:
        close(found["ours"], found["torchs"])


def test_one_norm_over_sharded_replicated_and_plain_parameters_counts_each_element_once(run):
    found = run["tensor_parallel"]
    placements = everywhere(found, "placements")
    assert {"(Shard(dim=0),)", "(Shard(dim=1),)", "(Replicate(),)", "plain"} == set(placements)
    close(everywhere(found, "norms"), found[0]["single norms"])


def test_tensor_parallel_clips_like_torch_in_one_process(run):
    for found in run["tensor_parallel"]:
        close(found["clipped"], found["single"])


def test_sequence_parallel_follows_torch(run):
    for found in run["sequence_parallel"]:
        assert not found["refused"]
        close(found["ours"], found["torchs"])


def test_the_norm_of_partial_gradients_is_that_of_their_sum(run):
    for found in run["sequence_parallel"]:
        assert not found["refused"]
        close(found["norms"], found["gathered"])


every_grid = pytest.mark.parametrize("way", GRIDS)


@every_grid
def test_a_grid_of_ranks_follows_torch_with_clipping(runs, way):
    for found in runs("4")[f"grid {way}"]:
        close(found["ours"], found["torchs"])


@every_grid
def test_the_norm_over_a_grid_is_that_of_the_gathered_gradients(runs, way):
    for found in runs("4")[f"grid {way}"]:
        close(found["norms"], found["gathered"])


# ---- what ranks agree on

SAID = {
    "schedule": r"in schedule \(schedule: Linear's steps: 7 on rank 0, 9 on rank {last}\)",
    "position": r"in position \(position: 0 on rank 0, 3 on rank {last}\)",
    "weight_decay": r"in schedule \(group 0's weight_decay: 0.01 on rank 0, 0.02 on rank {last}; group 1's",
    "max_grad_norm": r"in options \(max_grad_norm: none on rank 0, 1.0 on rank {last}\)",
    "swapped": r"in parameters \(group 0's parameters: \(\(7, 5\), ",
}


@pytest.mark.parametrize("what", UNLIKE)
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_rank_that_differs_is_named_with_the_field_on_every_rank(run, way, what):
    last = run.world - 1
    for error, _ in run[f"disagree {way} {what}"]:
        assert re.match(rf"AdamW: rank {last} differs from rank 0 {SAID[what].format(last=last)}", error)


@pytest.mark.parametrize("what", UNLIKE)
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_a_step_on_which_ranks_disagree_changes_nothing(run, way, what):
    assert not any(moved for _, moved in run[f"disagree {way} {what}"])


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_ranks_that_load_what_differs_say_so_and_keep_what_they_had(runs, way):
    for error, position, before, after in runs("2")[f"disagree_after_loading {way}"]:
        assert "rank 1 differs from rank 0 in position (position: 2 on rank 0, 7 on rank 1)" in error
        assert position == 2
        assert_same_bits(after, before)


@pytest.mark.parametrize("variant", ["false", "plain"])
def test_ranks_may_differ_where_told_so_or_where_nothing_says_that_they_step_together(runs, variant):
    for error, moved in runs("2")[f"may_differ {variant}"]:
        assert not error
        assert moved


def test_ranks_of_a_given_process_group_must_agree(runs):
    for error, moved in runs("2")["told_to_agree"]:
        assert "rank 1 differs from rank 0 in schedule" in error
        assert not moved


@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_ranks_are_asked_at_the_first_step_and_at_loading_only_and_for_forty_bytes(run, way):
    for counts, size in run[f"collectives {way}"]:
        assert counts == [1, 1, 2]
        assert size == 40


# ---- ZeroRedundancyOptimizer


@pytest.mark.parametrize("size", ["full", "small"])
def test_zero_redundancy_follows_torch_with_a_schedule(run, size):
    for found in run[f"zero {size}"]:
        close(found["ours"], found["torchs"])


@pytest.mark.parametrize("way", ["scheduled", "constant"])
def test_a_consolidated_state_dict_of_zero_redundancy_resumes_to_the_bit(run, way):
    for found in run[f"zero_resumes {way}"]:
        assert_same_bits(found["path again"], found["path"])


def test_a_consolidated_state_dict_of_zero_redundancy_brings_the_position(run):
    assert everywhere(run["zero_resumes scheduled"], "positions") == [UPDATES, UPDATES]


# ---- checkpoints

every_reshard = pytest.mark.parametrize(("saver", "loader"), [("2", "4"), ("4", "again")], ids=["2 to 4", "4 to 2"])


@pytest.fixture
def resharded(runs, saver, loader):
    """What was saved, and what every rank of the other world loaded."""
    loaded = runs(loader)[f"reshards loads{saver}"]
    return runs(saver)["saves"][0], loaded


@every_reshard
def test_a_checkpoint_resharded_to_another_world_holds_the_same_bits(resharded):
    saved, loaded = resharded
    for found in loaded:
        assert_same_bits(found["weights"], saved["weights"])
        assert_same_bits(found["state"], saved["state"])


@every_reshard
def test_a_resharded_run_is_where_it_was_saved(resharded):
    saved, loaded = resharded
    assert everywhere(loaded, "position") == saved["position"] == 4
    assert everywhere(loaded, "lrs") == saved["lrs"]


@every_reshard
def test_a_resharded_run_goes_on_to_the_bit(resharded):
    saved, loaded = resharded
    for found in loaded:
        assert_same_bits(found["path"], saved["path"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("rule", BOTH)
def test_checkpoints_cross_between_torch_and_ours(run, rule, direction, way):
    for found in run[f"crosses {rule} {direction} {way}"]:
        close(found["new"], found["old"])


@pytest.mark.parametrize("way", WAYS)
def test_the_position_is_recovered_from_a_sharded_checkpoint_of_torch(run, way):
    assert everywhere(run[f"crosses AdamW from torch {way}"], "position") == 4


def test_a_gathered_state_dict_goes_into_one_process_to_the_bit(run):
    found = run["gathers"][0]
    assert_same_bits(found["single"]["weights"], found["weights"])
    assert_same_bits(found["single"]["state"], found["state"])
    assert found["single"]["position"] == 4
    assert_same_bits(found["path single"], found["path"])


def test_a_gathered_state_dict_is_scattered_again_to_the_bit(run):
    for found in run["gathers"]:
        assert_same_bits(found["again"]["weights"], found["weights"])
        assert_same_bits(found["again"]["state"], found["state"])
        assert found["again"]["position"] == 4
        assert_same_bits(found["path again"], found["path"])


def test_a_state_dict_of_one_process_goes_into_shards_to_the_bit(run):
    for found in run["scatters ours"]:
        assert_same_bits(found["state"], found["single"]["state"])
        assert found["position"] == 4
        assert_same_bits(found["path"], found["path single"])


def test_a_state_dict_of_torch_in_one_process_goes_into_shards(run):
    for found in run["scatters torchs"]:
        assert found["position"] == 4
        close(found["path"], found["path single"])


# ---- a rank dies


def test_a_rank_was_killed(runs):
    assert "process 1 terminated with signal SIGKILL" in runs("2").said


def test_a_run_whose_rank_was_killed_resumes_to_the_bit(runs):
    for found, whole_run in zip(runs("again")["resumes"], runs("2")["undisturbed"], strict=True):
        assert_same_bits(found["path"], whole_run["path"][4:])
        assert_same_bits(found["state"], whole_run["state"])
        assert found["position"] == whole_run["position"] == UPDATES
