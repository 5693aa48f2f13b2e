"""Tables and single values beside what memory, numpy, torch and math take. Each case asserts its result first."""

import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from beside import beside
from problems import WIDTHS

import fastsched as fs
from fastsched._writing import Table, write

STEPS = 10**6
LONG, GROUPS = 100_000, 500
ROWS = 10_000  # where the number of columns varies: 2,000 of float64 are 160 MB
COSINE = fs.Cosine(steps=STEPS)
SCALE = 0.99 ** np.arange(GROUPS)

# Every kind over a million steps. The first group is to take at most 3 times `ndarray.fill`, the second at most 8.
STREAMED = {
    "Constant": fs.Constant(0.3),
    "Linear": fs.Linear(1.0, 0.1, steps=STEPS),
    "Cosine": fs.Cosine(1.0, 0.1, steps=STEPS),
    "Exponential": fs.Exponential(gamma=0.99999),
    "Geometric": fs.Geometric(1.0, 0.01, steps=STEPS),
    "StepDecay": fs.StepDecay(gamma=0.97, every=1000),
    "MultiStep": fs.MultiStep(milestones=[300_000, 600_000], gamma=0.1),
    "Piecewise": fs.Piecewise(boundaries=[300_000, 600_000], values=[1.0, 0.5, 0.1]),
    "Polynomial, power 2": fs.Polynomial(1.0, 0.1, steps=STEPS, power=2),
    "Polynomial, power 3": fs.Polynomial(1.0, 0.1, steps=STEPS, power=3),
    "OneCycle": fs.OneCycle(steps=STEPS),
    "OneCycle, lines": fs.OneCycle(steps=STEPS, anneal="linear", three_phase=True),
    "CosineRestarts": fs.CosineRestarts(first=10_000, multiplier=2),
    "Triangular": fs.Triangular(0.1, 1.0, up=2000),
    "InverseTime": fs.InverseTime(rate=0.001),
    "Rex": fs.Rex(steps=STEPS),
    "WarmupStableDecay": fs.WarmupStableDecay(warmup=STEPS // 10, stable=STEPS // 2, decay=4 * STEPS // 10),
    "Infinite": fs.Infinite(warmup=10_000, cosine=500_000, plateau=0.1, constant=200_000, cooldown=100_000, end=0.01),
    "Samples": fs.Samples(np.linspace(1.0, 0.0, STEPS)),
    "Cosine after warmup": fs.Cosine(steps=STEPS - 10_000).warmup(10_000),
}
POWERS = {
    "Polynomial, power 0.9": fs.Polynomial(steps=STEPS, power=0.9),
    "PowerLaw": fs.PowerLaw(exponent=0.7, timescale=1000),
    "InverseSqrt": fs.InverseSqrt(timescale=1000),
    "OneMinusSqrt": fs.OneMinusSqrt(steps=STEPS),
    "Tanh": fs.Tanh(steps=STEPS),
    "Logarithmic": fs.Logarithmic(steps=STEPS),
    "Cosine, 3.25 cycles": fs.Cosine(steps=STEPS, cycles=3.25),
    "Triangular, exp_range": fs.Triangular(0.1, 1.0, up=2000, mode="exp_range", gamma=0.99999),
    "WarmupStableDecay, exponential": fs.WarmupStableDecay(warmup=0, stable=0, decay=STEPS, shape="exponential"),
}


def curves():
    """As many different schedules as groups."""
    return [fs.Cosine(1.0, 0.001 * i, steps=LONG - 1000).warmup(1000) for i in range(GROUPS)]


@contextmanager
def threads(count):
    """torch.set_num_threads governs the one OpenMP runtime of the process, ours too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def some(names, short):
    """Parameters, of which some are of the short set."""
    return [pytest.param(name, marks=[pytest.mark.short] if name in short else []) for name in names]


def steps_of_numpy():
    return np.arange(STEPS)


# What people write: of 1e6 float64 steps, from the array of the steps on
NUMPY = {
    "Linear": lambda: 1.0 - 0.9 * (steps_of_numpy() / STEPS),
    "Cosine": lambda: 0.1 + 0.9 * 0.5 * (1.0 + np.cos(np.pi * steps_of_numpy() / STEPS)),
    "Exponential": lambda: 0.99999 ** steps_of_numpy(),
    "Geometric": lambda: np.geomspace(1.0, 0.01, STEPS + 1)[:-1],
    "StepDecay": lambda: 0.97 ** (steps_of_numpy() // 1000),
    "Polynomial, power 2": lambda: 0.1 + 0.9 * (1.0 - steps_of_numpy() / STEPS) ** 2,
    "InverseTime": lambda: 1.0 / (1.0 + 0.001 * steps_of_numpy()),
    "Rex": lambda: (1.0 - steps_of_numpy() / STEPS) / (1.0 - 0.5 * (steps_of_numpy() / STEPS)),
    "Polynomial, power 0.9": lambda: (1.0 - steps_of_numpy() / STEPS) ** 0.9,
    "PowerLaw": lambda: (1.0 + steps_of_numpy() / 1000) ** -0.7,
    "InverseSqrt": lambda: 1.0 / np.sqrt(1.0 + steps_of_numpy() / 1000),
    "OneMinusSqrt": lambda: 1.0 - np.sqrt(steps_of_numpy() / STEPS),
}


@pytest.mark.parametrize("name", some(NUMPY, ("Cosine", "Exponential")))
def test_numpy_expressions(benchmark, name):
    schedule, expression = (STREAMED | POWERS)[name], NUMPY[name]
    # 1e-11: gamma**t loses some 500 ulp in numpy's form, the others a few
    np.testing.assert_allclose(schedule.table(STEPS), expression(), rtol=0.0, atol=1e-11)
    group = f"{name}, 1e6 float64 steps, allocated"
    beside(benchmark, group, lambda: schedule.table(STEPS), "numpy expression", expression, rounds=20)


# Of optax; its step counts are float32, so the values are compared as such
OPTAX = {
    "Linear": lambda optax: optax.linear_schedule(1.0, 0.1, STEPS),
    "Cosine": lambda optax: optax.cosine_decay_schedule(1.0, STEPS, alpha=0.1),
    "Exponential": lambda optax: optax.exponential_decay(1.0, 1000, 0.99999**1000),
    "Polynomial, power 2": lambda optax: optax.polynomial_schedule(1.0, 0.1, 2, STEPS),
    "CosineRestarts, equal": lambda optax: optax.join_schedules(
        [optax.cosine_decay_schedule(1.0, STEPS // 4)] * 4, [STEPS // 4 * i for i in (1, 2, 3)]
    ),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of jax's inside
@pytest.mark.parametrize("name", OPTAX)
def test_optax_jitted(benchmark, name):
    """A table of all steps by one compiled call, in the float32 that jax has unless told otherwise."""
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    equal = fs.CosineRestarts(first=STEPS // 4, cycles=4)
    schedule = equal if name == "CosineRestarts, equal" else (STREAMED | POWERS)[name]
    table, steps, out = jax.jit(jax.vmap(OPTAX[name](optax))), jax.numpy.arange(STEPS), np.empty(STEPS, np.float32)
    # float32 progress is off by 6e-8 and a decay rate by 3e-8, of which some hundreds are multiplied
    np.testing.assert_allclose(schedule.table(STEPS), np.asarray(table(steps)), rtol=0.0, atol=1e-5)
    beside(
        benchmark,
        f"{name}, 1e6 float32 steps",
        lambda: schedule.table(STEPS, dtype=np.float32, out=out),
        "optax, jitted",
        lambda: table(steps).block_until_ready(),
        rounds=20,
    )


SHORT_KINDS = ("Linear", "Cosine", "Exponential", "Polynomial, power 0.9")


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", some([*STREAMED, *POWERS], SHORT_KINDS))
def test_a_million_steps_of_each_kind(benchmark, name, count):
    schedule = (STREAMED | POWERS)[name]
    out, filled = np.empty(STEPS), np.empty(STEPS)
    assert schedule.table(STEPS, out=out) is out
    assert all(out[step] == schedule(step) for step in range(0, STEPS, 9_973))
    with threads(count):
        beside(
            benchmark,
            f"{name}, 1e6 float64 steps, {count} thread(s)",
            lambda: schedule.table(STEPS, out=out),
            "ndarray.fill, 1 thread",
            lambda: filled.fill(1.0),
            rounds=40,
        )


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("how", ["scales of one curve", "different curves"])
@pytest.mark.parametrize("columns", WIDTHS)
def test_a_table_of_some_columns(benchmark, columns, how, dtype):
    rows = ROWS if benchmark.enabled else 50
    out, filled = np.empty((rows, columns), dtype), np.empty((rows, columns), dtype)
    if how == "scales of one curve":
        schedules, scale = fs.Cosine(steps=ROWS), 0.99 ** np.arange(columns)
        expected = np.outer(schedules.table(rows), scale).astype(dtype)
    else:
        schedules, scale = [fs.Cosine(1.0, 0.1 / (i + 1), steps=ROWS - 9).warmup(9) for i in range(columns)], None
        expected = np.stack([s.table(rows, dtype=dtype) for s in schedules], axis=1)
    fs.lr_table(schedules, rows, scale=scale, dtype=dtype, out=out)
    assert np.array_equal(out, expected)
    beside(
        benchmark,
        f"{ROWS:,} rows of {np.dtype(dtype)}, columns: {columns:,}, {how}",
        lambda: fs.lr_table(schedules, rows, scale=scale, dtype=dtype, out=out),
        "ndarray.fill, 1 thread",
        lambda: filled.fill(1.0),
        rounds=15,
        point=("columns", columns) if (how, dtype) == ("scales of one curve", np.float32) else None,
    )


@pytest.mark.short
@pytest.mark.parametrize("name", ["one curve and 500 scales", "500 different curves"])
def test_a_table_of_500_groups(benchmark, name):
    out, filled = np.empty((LONG, GROUPS), np.float32), torch.empty(LONG, GROUPS)
    if name.startswith("one"):
        schedules, scale = fs.Cosine(steps=LONG), SCALE
        expected = np.outer(schedules.table(LONG), SCALE).astype(np.float32)
    else:
        schedules, scale = curves(), None
        expected = np.stack([s.table(LONG, dtype=np.float32) for s in schedules], axis=1)
    fs.lr_table(schedules, LONG, scale=scale, out=out)
    assert np.array_equal(out, expected)
    beside(
        benchmark,
        f"100,000 x 500 float32, {name}",
        lambda: fs.lr_table(schedules, LONG, scale=scale, out=out),
        "torch.fill_",
        lambda: filled.fill_(1.0),
        rounds=10,
    )


@pytest.mark.short
def test_a_table_beside_stepping_a_torch_scheduler(benchmark):
    """The scheduler makes 300 rows, so its time is to be multiplied by 100,000 / 300."""
    schedule, rows = fs.Cosine(steps=LONG), 300
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(GROUPS)]

    def stepped():
        groups = [{"params": [p], "lr": lr} for p, lr in zip(parameters, SCALE, strict=True)]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 0.5 * (1.0 + math.cos(math.pi * t / LONG)))
        table = np.empty((rows, GROUPS), np.float32)
        for row in table:
            row[:] = scheduler.get_last_lr()
            optimizer.step()
            scheduler.step()
        return table

    out = np.empty((LONG, GROUPS), np.float32)
    fs.lr_table(schedule, LONG, scale=SCALE, out=out)
    np.testing.assert_allclose(out[:rows], stepped(), rtol=1e-6)  # both are float32
    beside(
        benchmark,
        "100,000 x 500 float32",
        lambda: fs.lr_table(schedule, LONG, scale=SCALE, out=out),
        "LambdaLR, the first 300 rows",
        stepped,
        rounds=3,
    )


def test_a_table_in_a_file(benchmark, tmp_path):
    """As `fastsched table -o` computes and writes it, block by block; numpy has the finished array."""
    rows, scale = LONG if benchmark.enabled else 50, SCALE[:100]
    table = Table(fs.Cosine(steps=LONG), rows, scale=scale, names=[f"g{i}" for i in range(100)], dtype=np.float32)
    whole = fs.lr_table(table.schedule, rows, scale=scale)

    def ours():
        with open(tmp_path / "ours.npz", "wb") as file:
            write(table, file, "npz")

    def baseline():
        np.savez(tmp_path / "theirs.npz", lr=whole)

    ours()
    with np.load(tmp_path / "ours.npz") as saved:
        assert np.array_equal(saved["lr"], whole)
    beside(benchmark, "100,000 x 100 float32, as npz", ours, "numpy.savez of the table", baseline, rounds=7)


@pytest.mark.parametrize(
    "name", ["Cosine", "OneCycle", "CosineRestarts", "Exponential", "PowerLaw", "Cosine after warmup"]
)
def test_one_value(benchmark, name):
    schedule = (STREAMED | POWERS)[name]
    assert schedule(12345) == schedule.table(1, start=12345)[0]
    step, angle, cos = 12345, 0.5, math.cos
    beside(
        benchmark, f"s(t), {name}", lambda: schedule(step), "math.cos(x)", lambda: cos(angle), calls=100_000, rounds=15
    )


@pytest.mark.parametrize("name", ["one schedule", "500 different curves"])
def test_one_row_of_a_plan(benchmark, name):
    if name == "one schedule":
        plan = fs.Plan([{"lr": lr} for lr in SCALE.tolist()], fs.Cosine(steps=LONG))
    else:
        plan = fs.Plan([{"lr": schedule} for schedule in curves()])
    out, step, angle, cos = plan.at(0), 12345, 0.5, math.cos
    assert plan.at(step, out=out) is out
    assert np.array_equal(out["lr"], plan.table(1, start=step, dtype=np.float64)["lr"][0])
    ours = lambda: plan.at(step, out=out)  # noqa: E731
    beside(benchmark, f"plan.at(t), 500 groups, {name}", ours, "math.cos(x)", lambda: cos(angle), calls=2000, rounds=15)


@pytest.mark.parametrize("name", some([*STREAMED, *POWERS], ("Cosine",)))
def test_the_numba_backend(benchmark, name):
    """The ratio shown is native beside Numba: 4 is four times as slow."""
    schedule = (STREAMED | POWERS)[name]
    out, native = np.empty(STEPS), schedule.table(STEPS)

    def on(backend):
        fs.use_backend(backend)
        schedule.table(STEPS, out=out)

    try:
        on("numba")
        np.testing.assert_allclose(out, native, rtol=0.0, atol=1e-12)  # the contract's
        group = f"{name}, 1e6 float64 steps"
        beside(benchmark, group, lambda: on("native"), "Numba backend", lambda: on("numba"), rounds=15)
    finally:
        fs.use_backend("native")
