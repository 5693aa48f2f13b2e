"""Many groups, tensors, steps, threads and processes; interrupts. `.ci/load` runs the long forms."""

import gc
import itertools
import os
import signal
import sys
import threading

import pytest
import torch
from optimizers import equal, params_of, same_bits, weights
from support import output

import fastsched as fs

# How much longer than in CI; .ci/load sets it.
LONGER = int(os.environ.get("FASTSCHED_LOAD", "1"))
COSINE = fs.Cosine(steps=100)


def resident():
    """Bytes of memory that this process has."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- many


def test_10000_groups_give_the_weights_of_one_and_follow_their_schedules():
    count = 10_000
    one = torch.nn.Parameter(torch.linspace(-1, 1, count))
    many = [torch.nn.Parameter(value.clone()) for value in one.detach()]
    together = fs.optim.AdamW([one], lr=0.1, schedule=COSINE)
    apart = fs.optim.AdamW([{"params": [p]} for p in many], lr=0.1, schedule=COSINE)
    for t in range(3):
        one.grad = torch.linspace(-2, 3, count) + t
        for p, grad in zip(many, one.grad, strict=True):
            p.grad = grad.clone()
        together.step()
        apart.step()
    assert set(apart.lrs) == {0.1 * COSINE(3)}
    assert torch.equal(torch.stack([p.detach() for p in many]), one.detach())


def test_100000_tensors_give_the_weights_of_one():
    count = 100_000
    one = torch.nn.Parameter(torch.linspace(-1, 1, count))
    many = [torch.nn.Parameter(value.clone()) for value in one.detach()]
    together, apart = fs.optim.SGD([one], lr=0.1, momentum=0.9), fs.optim.SGD(many, lr=0.1, momentum=0.9)
    one.grad = torch.linspace(-2, 3, count)
    for p, grad in zip(many, one.grad, strict=True):
        p.grad = grad.clone()
    for _ in range(2):
        together.step()
        apart.step()
    assert torch.equal(torch.stack([p.detach() for p in many]), one.detach())


EVERYTHING = {"max_grad_norm": 1.0, "ema_decay": 0.9, "zero_grads": True}


def loop(opt, params, steps):
    """A loop that reads what loops read."""
    for t in range(steps):
        for p in params:
            if p.grad is None:
                p.grad = torch.ones_like(p)
            else:
                p.grad.fill_(1.0)
        opt.step()
        if t % 16 == 0:
            opt.param_groups[0]["lr"] = 0.01
            assert len(opt.lrs) == len(opt.param_groups)
        if t % 256 == 0:
            opt.load_state_dict(opt.state_dict())


@pytest.mark.skipif("LD_PRELOAD" in os.environ, reason="a sanitizer keeps what is freed")
def test_memory_does_not_grow_over_20000_steps():
    params = params_of([(8,), (3, 5), ()])
    opt = fs.optim.AdamW([{"params": [p]} for p in params], lr=0.1, schedule=COSINE, **EVERYTHING)
    loop(opt, params, 2000)
    gc.collect()
    objects, memory = sys.getallocatedblocks(), resident()
    loop(opt, params, 20_000 * LONGER)
    gc.collect()
    # One object that stays at each step would be 20,000 of them; a few caches may still grow.
    assert sys.getallocatedblocks() - objects < 1000
    # 64 bytes that stay at each step would be 1.2 MiB; the allocator may take some pages.
    assert resident() - memory < 1 << 20


def test_optimizers_that_are_made_and_dropped_leave_no_memory():
    def use():
        params = params_of([(64, 256)])
        opt = fs.optim.AdamW(params, **EVERYTHING)
        loop(opt, params, 2)

    for _ in range(20):
        use()
    memory = resident()
    for _ in range(100 * LONGER):
        use()
    assert resident() - memory < 10 << 20  # each of the hundred holds 320 KiB


# ---- threads


def run(seed, steps, shapes):
    params = params_of(shapes, seed=seed)
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE, max_grad_norm=1.0, zero_grads=True, ema_decay=0.9)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in params:
            p.grad = torch.randn(p.shape, generator=generator)
        opt.step()
    return weights(params) + [opt.state[p]["ema"] for p in params]


def in_threads(functions):
    """Runs all at once; their results, or the first error."""
    results, errors, gate = [None] * len(functions), [], threading.Barrier(len(functions))

    def call(index, function):
        try:
            gate.wait()
            results[index] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=pair) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("shapes", [[(5,), (3, 4)], [(300_000,), (7,)]], ids=["small", "large"])
def test_optimizers_on_two_threads_do_not_disturb_one_another(shapes):
    steps = 20 * LONGER
    alone = [run(seed, steps, shapes) for seed in (1, 2)]
    together = in_threads([lambda: run(1, steps, shapes), lambda: run(2, steps, shapes)])
    for a, b in zip(alone, together, strict=True):
        assert same_bits(a, b)


def test_one_optimizer_on_two_threads_makes_whole_updates_or_refuses():
    params = params_of([(300_000,)])
    opt = fs.optim.SGD(params, lr=1.0)
    params[0].grad = torch.ones(300_000)
    start = params[0].detach().clone()

    def use():
        made = 0
        for _ in range(20):
            try:
                opt.step()
                made += 1
            except RuntimeError as error:
                assert "already running" in str(error)  # noqa: PT017
        return made

    made = sum(in_threads([use, use]))
    assert opt.position == made
    expected = start
    for _ in range(made):
        expected = expected - 1
    assert torch.equal(params[0].detach(), expected)


def test_tables_and_steps_run_beside_one_another():
    def fill():
        return [fs.lr_table(fs.OneCycle(steps=500_000), 500_000) for _ in range(5)]

    tables, _ = in_threads([fill, lambda: run(1, 20, [(300_000,)])])
    for table in tables[1:]:
        assert (table == tables[0]).all()


# ---- processes


AFTER_USE = """
import functools, torch, fastsched as fs
torch.set_num_threads(2)
weight = torch.nn.Parameter(torch.ones(400_000))
opt = fs.optim.AdamW([weight], max_grad_norm=1.0)
weight.grad = torch.ones(400_000)
opt.step()
fs.lr_table(fs.Cosine(steps=400_000), 400_000)
"""


def test_forked_workers_of_a_data_loader_may_use_what_their_parent_used():
    code = """
class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        fs.lr_table(fs.Cosine(steps=400_000), 400_000)
        for _ in range(index):
            opt.step()
        return opt.position, weight[0].item()

loader = torch.utils.data.DataLoader(Data(), batch_size=None, num_workers=2, multiprocessing_context="fork")
assert sorted(position for position, _ in loader) == [1, 2, 3, 5], list(loader)
opt.step()
print(opt.position)
"""
    assert output(AFTER_USE + code) == "2"


def test_spawned_workers_of_a_data_loader_take_a_schedule_along():
    code = """
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(
        range(4), batch_size=None, num_workers=1, collate_fn=fs.Cosine(steps=3), multiprocessing_context="spawn"
    )
    assert [float(value) for value in loader] == [fs.Cosine(steps=3)(t) for t in range(4)]
    opt.step()
    print(opt.position)
"""
    assert output(AFTER_USE + code) == "2"


def test_openmp_numba_and_torch_work_in_one_process_and_its_child():
    code = """
import os, threading
import numba, numpy as np

@numba.njit(parallel=True)
def total(x):
    s = 0.0
    for i in numba.prange(len(x)):
        s += x[i]
    return s

def everything():
    assert total(np.ones(100_000)) == 100_000
    torch.ones(400, 400) @ torch.ones(400, 400)
    opt.step()
    for name in ("numba", "native"):
        fs.use_backend(name)
        fs.lr_table(fs.Cosine(steps=200_000), 200_000)

for _ in range(5):
    everything()
torch_side = threading.Thread(target=lambda: [torch.ones(400, 400) @ torch.ones(400, 400) for _ in range(20)])
torch_side.start()
for _ in range(5):
    everything()
torch_side.join()
child = os.fork()
if child == 0:
    code = 1
    try:
        opt.step()
        for name in ("numba", "native"):
            fs.use_backend(name)
            fs.lr_table(fs.Cosine(steps=200_000), 200_000)
        code = 0
    finally:
        os._exit(code)
assert os.waitpid(child, 0)[1] == 0
everything()
print(opt.position)
"""
    assert output(AFTER_USE + code) == "12"


# ---- interrupts


class Interrupting:
    """A hyperparameter whose reading is interrupted."""

    def __float__(self):
        raise KeyboardInterrupt


@pytest.fixture
def alarm():
    """SIGALRM as Ctrl-C's SIGINT is; switched off afterwards."""
    held = signal.signal(signal.SIGALRM, signal.default_int_handler)
    yield lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, held)


def step_until_interrupted(opt, alarm, after):
    try:
        alarm(after)
        while True:
            opt.step()
    except KeyboardInterrupt:
        pass


@pytest.mark.parametrize("shapes", [[(5,)] * 200, [(200_000,), (7,)]], ids=["many", "large"])
def test_an_interrupt_leaves_whole_updates(alarm, shapes):
    params, same = params_of(shapes), params_of(shapes)
    options = {"lr": 0.1, "schedule": COSINE, "max_grad_norm": 1.0, "ema_decay": 0.9}
    opt, other = fs.optim.AdamW(params, **options), fs.optim.AdamW(same, **options)
    for p in (*params, *same):
        p.grad = torch.ones_like(p)
    opt.step()  # so that there is something to interrupt, however slow the machine is
    # Different each time, so that the signal meets different places of the loop.
    for after in itertools.islice(itertools.cycle([1e-4, 3.3e-4, 7.7e-4, 2e-3]), 40 * LONGER):
        step_until_interrupted(opt, alarm, after)
        assert {state["step"].item() for state in opt.state.values()} <= {opt.position}
        assert opt.lrs == [0.1 * COSINE(opt.position)]
    while other.position < opt.position:
        other.step()
    assert same_bits(weights(params), weights(same))
    assert same_bits([opt.state[p]["ema"] for p in params], [other.state[p]["ema"] for p in same])


def test_an_interrupt_while_the_groups_are_read_leaves_everything_as_it_was():
    params = params_of([(5,), (3,)])
    opt = fs.optim.AdamW([{"params": [p]} for p in params], lr=0.1, schedule=COSINE)
    for p in params:
        p.grad = torch.ones_like(p)
    opt.step()
    before = weights(params)
    opt.param_groups[1]["weight_decay"] = Interrupting()
    with pytest.raises((KeyboardInterrupt, TypeError)):  # it may pass for a number that cannot be read
        opt.step()
    assert equal(params, before)
    assert opt.position == 1
    opt.param_groups[1]["weight_decay"] = 0.0
    opt.step()
    assert opt.position == 2


def test_an_interrupt_in_the_code_of_a_gradient_of_a_subclass_leaves_everything_as_it_was():
    class Slow(torch.Tensor):
        interrupted = True

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if cls.interrupted and function is torch.Tensor.is_neg:
                raise KeyboardInterrupt
            return super().__torch_function__(function, types, args, kwargs or {})

    params = params_of([(5,), (3,)])
    opt = fs.optim.AdamW(params, lr=0.1, schedule=COSINE)
    params[0].grad = torch.ones(5)
    params[1].grad = torch.ones(3).as_subclass(Slow)
    before = weights(params)
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    assert equal(params, before)
    assert (opt.position, len(opt.state)) == (0, 0)
    Slow.interrupted = False
    opt.step()
    assert opt.position == 1


def test_an_interrupt_while_a_negated_gradient_is_zeroed_leaves_a_whole_update():
    class Slow(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            if function is torch.Tensor.zero_:
                raise KeyboardInterrupt
            return super().__torch_function__(function, types, args, kwargs or {})

    params = params_of([(5,)])
    opt = fs.optim.SGD(params, lr=0.1, schedule=COSINE, zero_grads=True)
    params[0].grad = torch._neg_view(torch.ones(5)).as_subclass(Slow)
    before = weights(params)
    with pytest.raises(KeyboardInterrupt):
        opt.step()
    assert opt.position == (0 if equal(params, before) else 1)
