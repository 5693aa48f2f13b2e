"""What the linter says, and what becomes of a schedule's sums in the end."""

import math

import numpy as np
import oracles
import pytest
from support import schedule

import fastsched as fs
from fastsched import lint
from fastsched._tails import _COMBINATORS, _KINDS, tail
from fastsched.schedule import Kind, _combinators, _kinds

# Robbins and Monro: the sum of the values is infinite, the sum of their squares finite. By hand, kind by kind.

BOTH, ONLY_INFINITE, ONLY_FINITE = (True, True), (True, False), (False, True)

FALLING = "fs.InverseTime(rate=0.5)"
ALTERNATING = "fs.Samples([1.0, 0.0]).repeat()"

SUMS = {
    # What holds a value: of 0, nothing is added any more.
    "fs.Constant(1.0)": ONLY_INFINITE,
    "fs.Constant(0.0)": ONLY_FINITE,
    "fs.Cosine(steps=10)": ONLY_FINITE,
    "fs.Cosine(1.0, 0.1, steps=10)": ONLY_INFINITE,
    "fs.Tanh(steps=10)": ONLY_INFINITE,  # comes near 0 only
    "fs.OneCycle(steps=10)": ONLY_INFINITE,
    "fs.WarmupStableDecay(warmup=2, stable=3, decay=5)": ONLY_FINITE,
    "fs.Infinite(warmup=1, cosine=10, plateau=0.1)": ONLY_INFINITE,
    "fs.MultiStep(milestones=[3], gamma=0.1)": ONLY_INFINITE,
    "fs.Piecewise(boundaries=[3], values=[1.0, 0.0])": ONLY_FINITE,
    "fs.Samples([1.0, 0.0])": ONLY_FINITE,
    # Powers: t**-a adds up to infinity where a <= 1, its square where a <= 1/2.
    "fs.InverseSqrt(timescale=10)": ONLY_INFINITE,
    FALLING: BOTH,
    "fs.InverseTime(rate=0.5, every=7, staircase=True)": BOTH,
    "fs.InverseTime(rate=0.0)": ONLY_INFINITE,
    "fs.PowerLaw(exponent=0.5, timescale=3)": ONLY_INFINITE,
    "fs.PowerLaw(exponent=math.nextafter(0.5, 1.0), timescale=3)": BOTH,
    "fs.PowerLaw(exponent=1.0, timescale=3)": BOTH,
    "fs.PowerLaw(exponent=math.nextafter(1.0, 2.0), timescale=3)": ONLY_FINITE,
    "fs.PowerLaw(exponent=30.0, timescale=1e200)": ONLY_FINITE,
    # Exponentials.
    "fs.Exponential(gamma=0.999)": ONLY_FINITE,
    "fs.Exponential(gamma=1.0)": ONLY_INFINITE,
    "fs.Exponential(rate=0.0)": ONLY_INFINITE,
    "fs.Exponential(rate=-0.1)": ONLY_INFINITE,
    "fs.Exponential(gamma=0.0 + 5e-324)": ONLY_FINITE,
    "fs.StepDecay(gamma=0.1, every=30)": ONLY_FINITE,
    "fs.StepDecay(gamma=0.1, every=0.7)": ONLY_FINITE,
    # Cycles.
    "fs.Triangular(0.0, 1.0, up=3)": ONLY_INFINITE,
    "fs.Triangular(0.0, 1.0, up=10**9)": ONLY_INFINITE,
    "fs.Triangular(0.0, 1.0, up=3, mode='triangular2')": ONLY_FINITE,
    "fs.Triangular(0.1, 1.0, up=3, mode='triangular2')": ONLY_INFINITE,
    "fs.Triangular(0.0, 1.0, up=10**9, mode='triangular2')": ONLY_FINITE,
    "fs.Triangular(0.0, 1.0, up=3, mode='exp_range', gamma=0.9)": ONLY_FINITE,
    "fs.CosineRestarts(first=3)": ONLY_INFINITE,
    "fs.CosineRestarts(first=3, decay=0.5)": ONLY_FINITE,
    "fs.CosineRestarts(1.0, 0.1, first=3, decay=0.5)": ONLY_INFINITE,
    "fs.CosineRestarts(first=3, decay=0.5, cycles=2)": ONLY_FINITE,
    "fs.Cosine(steps=5).repeat()": ONLY_INFINITE,
    "fs.Constant(0.0, steps=5).repeat()": ONLY_FINITE,
    "fs.Samples([0.0] * 20000 + [1.0]).repeat()": ONLY_INFINITE,
    # Growing cycles: cycle k has m**k steps of the size d**k, so it is d*m against 1, for the squares d*d*m.
    "fs.CosineRestarts(first=3, multiplier=2)": ONLY_INFINITE,
    "fs.CosineRestarts(first=3, multiplier=2, decay=0.5)": BOTH,
    "fs.CosineRestarts(first=3, multiplier=2, decay=0.49)": ONLY_FINITE,
    "fs.CosineRestarts(first=3, multiplier=2, decay=0.7)": BOTH,
    "fs.CosineRestarts(first=3, multiplier=2, decay=0.5**0.5)": ONLY_INFINITE,
    "fs.CosineRestarts(first=3, multiplier=3, decay=1 / 3)": BOTH,
    "fs.CosineRestarts(first=3, multiplier=4, decay=0.5)": ONLY_INFINITE,
    "fs.CosineRestarts(first=3, multiplier=4, decay=1.5)": ONLY_INFINITE,
    "fs.CosineRestarts(1.0, 0.1, first=3, multiplier=3, decay=0.1)": ONLY_INFINITE,
    # Sums: the larger one. Products: exponents add.
    f"{FALLING} + fs.InverseSqrt(timescale=2)": ONLY_INFINITE,
    f"{FALLING} + fs.Exponential(gamma=0.5)": BOTH,
    f"{FALLING} + 0.1": ONLY_INFINITE,
    "fs.InverseSqrt(timescale=2) * fs.InverseSqrt(timescale=3)": BOTH,
    f"{FALLING} * fs.PowerLaw(exponent=0.01, timescale=1)": ONLY_FINITE,
    f"{FALLING} * fs.Exponential(gamma=0.9999)": ONLY_FINITE,
    f"{FALLING} * fs.Cosine(steps=5).repeat()": BOTH,
    f"{FALLING} * fs.Cosine(steps=5)": ONLY_FINITE,
    f"{FALLING} * fs.CosineRestarts(first=3, multiplier=2)": BOTH,
    "fs.InverseSqrt(timescale=2) * fs.CosineRestarts(first=3, multiplier=4, decay=0.5)": BOTH,
    "fs.Exponential(gamma=0.5) * fs.Exponential(gamma=2.0)": ONLY_INFINITE,
    f"fs.Exponential(gamma=0.1) * fs.Exponential(gamma=10.0) * {FALLING}": BOTH,
    # Patterns that miss each other leave nothing; those of coprime periods meet.
    f"{ALTERNATING} * fs.Samples([0.0, 1.0]).repeat()": ONLY_FINITE,
    f"{ALTERNATING} * fs.Samples([0.0, 1.0, 0.0]).repeat()": ONLY_INFINITE,
    f"{ALTERNATING} * {FALLING}": BOTH,
    f"{ALTERNATING} * fs.Constant(1.0, steps=3).then(fs.Samples([0.0, 1.0]).repeat())": ONLY_INFINITE,
    f"{ALTERNATING} * fs.Samples([0.0, 1.0]).repeat().skip(3)": ONLY_INFINITE,
    "fs.Samples([1.0, 0.0]).repeat().skip(1).speed_up(2)": ONLY_FINITE,
    "fs.Samples([1.0, 0.0]).repeat().speed_up(2)": ONLY_INFINITE,
    # Differences: what is left is smaller by a power.
    "fs.InverseTime(rate=0.5) + -1.0 * fs.InverseTime(2.0, rate=1.0)": ONLY_FINITE,
    f"{ALTERNATING} + -1.0 * {ALTERNATING}": ONLY_FINITE,
    # Bounds.
    f"({FALLING}).clip(low=0.01)": ONLY_INFINITE,
    f"({FALLING}).clip(high=0.01)": BOTH,
    f"({FALLING}).clip(0.0, 1.0)": BOTH,
    f"({FALLING}).clip(high=0.0)": ONLY_FINITE,
    f"({FALLING} + -0.1).clip(low=0.0)": ONLY_FINITE,
    f"({FALLING} + 0.1).clip(high=0.1) + -0.1": ONLY_FINITE,
    f"({FALLING} + 0.1).clip(low=0.1) + -0.1": BOTH,
    "fs.Exponential(gamma=1.1).clip(high=3.0)": ONLY_INFINITE,
    "(fs.Triangular(0.0, 1.0, up=3) * fs.Exponential(gamma=1.1)).clip(high=3.0)": ONLY_INFINITE,
    "fs.Triangular(-1.0, 1.0, up=3).clip(low=0.0)": ONLY_INFINITE,
    "fs.Triangular(-1.0, 0.0, up=3).clip(low=0.0)": ONLY_FINITE,
    "(fs.CosineRestarts(first=3, multiplier=2) + -0.5).clip(low=0.0)": ONLY_INFINITE,
    # Everything else keeps what its part has.
    f"({FALLING}).noisy(0.1)": BOTH,
    f"({FALLING}).warmup(10)": BOTH,
    f"({FALLING} * 0.1).warmup(10)": BOTH,
    f"({FALLING}).skip(10)": BOTH,
    f"({FALLING}).speed_up(2.5)": BOTH,
    f"({FALLING}).stretch(3)": BOTH,
    f"({FALLING}).cooldown(at=10, steps=5)": ONLY_FINITE,
    f"fs.Linear(0.0, 1.0, steps=5).then({FALLING})": BOTH,
    "fs.Constant(1.0, steps=10**15).then(fs.StepDecay(gamma=0.5, every=1))": ONLY_FINITE,
}


@pytest.mark.parametrize("text", SUMS)
def test_the_sums_are_infinite_or_finite_as_derived_by_hand(text):
    result = lint.robbins_monro(eval(text))
    assert (result.diverges, result.squares_converge) == SUMS[text]
    assert not result.negative or text.startswith("fs.InverseTime(rate=0.5) + -1.0")  # whose sign is not looked into


@pytest.mark.parametrize("text", [t for t, case in oracles.EXAMPLES.items() if case.steps == math.inf])
def test_the_verdict_agrees_with_blocks_of_ever_more_steps(text):
    s = schedule(oracles.EXAMPLES[text])
    result = lint.robbins_monro(s)
    # The mean over [2**k, 2**(k+1)) falls as 2**(k * power): 12 octaves show the power to 0.1, or nothing is left
    for exponent, infinite in ((1, result.diverges), (2, not result.squares_converge)):
        means = [np.mean(np.abs(s(np.linspace(2**k, 2 ** (k + 1), 4001).round())) ** exponent) for k in (30, 42)]
        power = (math.log2(means[1]) - math.log2(means[0])) / 12 if min(means) > 0.0 else -math.inf
        assert infinite == (power > -1.05)
        assert abs(power + 1.0) > 0.1 or abs(power + 1.0) < 1e-3  # far enough from the border, or on it


@pytest.mark.parametrize("text", oracles.EXAMPLES)
def test_every_schedule_has_a_tail(text):
    tail(schedule(oracles.EXAMPLES[text]))


def test_every_kind_and_combinator_without_an_end_has_a_rule():
    ends = {"Cosine", "Linear", "Polynomial", "Logarithmic", "Geometric", "Tanh", "Rex", "OneMinusSqrt", "Samples"}
    ends |= {"OneCycle", "OneCycleMomentum", "WarmupStableDecay"}
    assert {kind.__name__ for kind in _KINDS if issubclass(kind, Kind)} == set(_kinds) - ends
    combinators = {combinator.__name__ for combinator in _COMBINATORS} | {"Repeat"}
    assert combinators == set(_combinators) - {"Cooldown", "Head"}  # those end


def test_a_deep_nest_has_a_verdict():
    s = fs.InverseTime(rate=0.5)
    for _ in range(5000):
        s = s * 1.0 + fs.Constant(0.0)
    assert lint.robbins_monro(s).holds


def test_a_tail_that_falls_below_zero_is_negative():
    assert lint.robbins_monro(fs.Linear(1.0, -1.0, steps=4)).negative
    assert lint.robbins_monro(fs.InverseTime(rate=1.0) * -1).negative
    assert lint.robbins_monro(fs.InverseTime(rate=1.0) + -0.1).negative
    assert lint.robbins_monro(fs.Triangular(-1.0, 1.0, up=3)).negative
    assert not lint.robbins_monro(fs.Linear(-1.0, 1.0, steps=4)).negative
    assert not lint.robbins_monro(fs.InverseTime(rate=1.0) * -1).holds


# The convergence bound of gradient descent.

PROBLEM = {"gap": 2.0, "smoothness": 3.0, "gradient_bound": 5.0}


def test_the_bound_is_that_of_the_theorem():
    s = fs.Samples([0.5, 0.25])
    assert fs.convergence_bound(s, 2, **PROBLEM) == (2.0 + 3.0 * 25.0 / 2.0 * 0.3125) / 0.75


def test_gradient_descent_keeps_within_the_bound():
    # f(x) = x**2 / 2: its gradient x has Lipschitz constant 1, f's infimum is 0
    for s in (fs.InverseTime(rate=0.1), fs.Cosine(0.9, 0.0, steps=50), fs.InverseSqrt(0.5, timescale=5)):
        x, squares = 3.0, []
        for t in range(50):
            squares.append(x * x)
            x -= s(t) * x
            bound = fs.convergence_bound(s, t + 1, gap=4.5, smoothness=1.0, gradient_bound=3.0)
            assert min(squares) <= bound


def test_the_bound_falls_to_zero_under_the_conditions_and_not_without_them():
    steps = [10**k for k in (2, 3, 4, 5, 6)]
    holding = [fs.convergence_bound(fs.PowerLaw(exponent=0.75, timescale=1), n, **PROBLEM) for n in steps]
    assert holding == sorted(holding, reverse=True)
    assert holding[-1] < holding[0] / 10
    constant = [fs.convergence_bound(fs.Constant(1.0), n, **PROBLEM) for n in steps]
    assert constant[-1] > 3.0 * 25.0 / 2.0


def test_one_over_t_is_too_fast_for_practice():
    # The seeds' exercise: sum 1/t is the harmonic number, ln n + Euler's constant; sum 1/sqrt(t) about 2 sqrt n
    n = 10**6
    assert fs.InverseTime(rate=1.0).table(n).sum() == pytest.approx(math.log(n) + 0.5772156649, abs=1e-6)
    assert fs.InverseSqrt(timescale=1.0).table(n).sum() == pytest.approx(2 * math.sqrt(n) - 1.4603545, abs=1e-3)


def test_a_cosine_is_at_the_mean_of_its_ends_halfway():
    assert fs.Cosine(0.1, 0.001, steps=100)(50) == pytest.approx(0.0505, rel=1e-15)


def test_long_sums_are_made_block_by_block(monkeypatch):
    whole = fs.convergence_bound(fs.Cosine(steps=1000), 1000, **PROBLEM)
    monkeypatch.setattr(lint, "LARGEST_LOOK", 64)
    assert fs.convergence_bound(fs.Cosine(steps=1000), 1000, **PROBLEM) == pytest.approx(whole, rel=1e-14)


@pytest.mark.parametrize(
    ("s", "changed", "message"),
    [
        (fs.Constant(-1.0), {}, "values must be >= 0, got -1.0; clip"),
        (fs.Constant(0.0), {}, "some value must be > 0, got only 0"),
        (fs.Constant(1.0), {"gap": -1.0}, "gap must be >= 0, got -1.0"),
        (fs.Constant(1.0), {"smoothness": math.inf}, "smoothness must be finite"),
        (fs.Constant(1.0), {"gradient_bound": -1.0}, "gradient_bound must be >= 0"),
        (fs.Constant(1.0), {"steps": 0}, "steps must be >= 1, got 0"),
    ],
)
def test_the_bound_refuses_what_the_theorem_does_not_cover(s, changed, message):
    with pytest.raises(ValueError, match=f"convergence_bound: {message}"):
        fs.convergence_bound(s, **(PROBLEM | {"steps": 5} | changed))


def test_the_bound_is_of_a_schedule():
    with pytest.raises(TypeError, match=r"convergence_bound: schedule must be a Schedule, got 0\.1; wrap"):
        fs.convergence_bound(0.1, 5, **PROBLEM)


# Findings.


def found(s, code, **arguments):
    """The findings of a code."""
    return [finding for finding in s.lint(**arguments) if finding.code == code]


SOUND = [
    fs.Cosine(steps=100),
    fs.Cosine(0.1, 0.001, steps=100).warmup(10, start=0.1),
    fs.Cosine(steps=90).warmup(10, start=0.01, shape="exponential"),
    fs.WarmupStableDecay(warmup=10, stable=80, decay=10).skip(1),
    fs.OneCycle(steps=100),
    fs.OneCycleMomentum(steps=100),
    fs.MultiStep(milestones=[30, 60], gamma=0.1),
    fs.StepDecay(gamma=0.1, every=30),
    fs.Piecewise(boundaries=[10, 20], values=[0.1, 1.0, 0.01]),
    fs.CosineRestarts(first=10, multiplier=2),
    fs.Triangular(0.1, 1.0, up=20),
    fs.Cosine(steps=10).repeat(3),
    fs.InverseSqrt(timescale=100).warmup(100, start=0.5),
    fs.Cosine(steps=50).cooldown(at=20, steps=10),
    fs.Linear(1.0, 0.1, steps=10) * fs.Exponential(gamma=0.9),
    fs.Constant(1.0).noisy(0.1),
]


@pytest.mark.parametrize("s", SOUND, ids=str)
def test_a_sound_schedule_has_nothing_but_the_sums(s):
    assert s.lint().codes == ("robbins-monro",)


def test_negative_values_are_an_error():
    (finding,) = found(fs.Linear(1.0, -1.0, steps=10), "negative")
    assert (finding.severity, finding.steps) == ("error", (6, 7, 8, 9))


def test_values_that_turn_negative_after_the_updates_are_a_warning():
    s = fs.Linear(1.0, -1.0, steps=10)
    (finding,) = found(s, "negative", steps=6)
    assert (finding.severity, finding.steps[0]) == ("warning", 6)


def test_values_that_overflow_are_an_error():
    (finding,) = found(fs.Exponential(gamma=10.0), "not-finite")
    assert (finding.severity, finding.steps[0]) == ("error", 309)


def test_a_first_update_with_lr_0_is_said():
    (finding,) = found(fs.Constant(1.0).warmup(10), "zero-first-update")
    assert (finding.severity, finding.steps) == ("info", (0,))


JUMPS = {
    "up": (fs.Linear(0.0, 0.5, steps=10).then(fs.Constant(1.0)), (10,)),
    "down": (fs.Linear(0.0, 1.0, steps=10).then(fs.Cosine(0.5, 0.0, steps=10)), (10,)),
    "of raw steps": (fs.Linear(0.0, 1.0, steps=20).then(fs.Cosine(steps=100).skip(20)), (20,)),  # timm without prefix
    "within a product": (fs.Constant(2.0) * fs.Linear(0.0, 0.5, steps=10).then(fs.Cosine(steps=9)), (10,)),
    "twice": (
        fs.Linear(0.0, 0.5, steps=9).then(fs.Linear(1.0, 0.5, steps=9)).then(fs.Linear(1.0, 0.0, steps=9)),
        (9, 18),
    ),
    "skipped into": (fs.Linear(0.0, 0.5, steps=10).then(fs.Cosine(steps=9)).skip(4), (6,)),
    "sped up": (fs.Linear(0.0, 0.5, steps=25).then(fs.Cosine(steps=50)).speed_up(2), (13,)),
    "repeated": (fs.Linear(0.0, 0.5, steps=10).then(fs.Cosine(steps=9)).repeat(3), (10,)),
    "in samples": (fs.tabulate(lambda t: t / 20 if t < 10 else (20 - t) / 10, 20), (10,)),
}


@pytest.mark.parametrize("name", JUMPS)
def test_a_jump_where_two_parts_meet_is_a_warning(name):
    s, steps = JUMPS[name]
    (finding,) = found(s, "jump")
    assert (finding.severity, finding.steps) == ("warning", steps)


def test_a_step_between_plateaus_is_no_more_than_a_fact():
    (finding,) = found(fs.Constant(1 / 3, steps=5).then(fs.Constant(1.0)), "jump")
    assert (finding.severity, finding.steps) == ("info", (5,))


def test_a_restart_made_by_hand_is_no_jump():
    assert not found(fs.Cosine(1.0, 0.1, steps=10).then(fs.Cosine(0.5, 0.1, steps=10)), "jump")
    assert not found((0.1 * fs.Cosine(steps=10)).then(0.05 * fs.Cosine(steps=10)), "jump")


def test_a_jump_that_another_factor_undoes_is_none():
    up = fs.Constant(1.0, steps=10).then(fs.Constant(2.0))
    assert found(up, "jump")
    assert not found(up * fs.Constant(2.0, steps=10).then(fs.Constant(1.0)) * fs.Cosine(steps=40), "jump")


PEAKS = {
    "between two steps": (fs.OneCycle(steps=7), {}, 2),
    "of a line": (fs.OneCycle(steps=7, anneal="linear"), {}, 2),
    "of a faster clock": (fs.Triangular(0.0, 1.0, up=5).speed_up(2), {"steps": 5}, 2),
    "at the end of all updates": (fs.Constant(1.0).warmup(10), {"steps": 10}, 10),
    "after them": (fs.Cosine(steps=50).warmup(100), {"steps": 60}, 100),
    "of a rise to the end": (fs.Linear(0.0, 1.0, steps=100), {}, 100),
}


@pytest.mark.parametrize("name", PEAKS)
def test_a_peak_that_no_update_uses_is_a_warning(name):
    s, arguments, step = PEAKS[name]
    (finding,) = found(s, "unused-peak", **arguments)
    assert (finding.severity, finding.steps) == ("warning", (step,))


def test_a_peak_that_a_jump_cuts_off_is_said_to_be_there():
    (finding,) = found(fs.Linear(0.0, 1.0, steps=10).then(fs.Cosine(0.5, 0.0, steps=10)), "unused-peak")
    assert "just before step 10, where it jumps" in finding.message


def test_a_peak_missed_by_less_than_can_be_seen_is_no_finding():
    assert not found(fs.OneCycle(steps=9999), "unused-peak")
    assert not found(fs.Linear(0.0, 1.0, steps=10000), "unused-peak")


def test_a_rise_after_the_end_is_a_warning():
    (finding,) = found(fs.CosineRestarts(first=10), "rise-after-end", steps=20)
    assert (finding.severity, finding.steps) == ("warning", (20,))
    assert found(fs.Cosine(steps=40, cycles=1.0), "rise-after-end", steps=20)
    assert not found(fs.Cosine(steps=20), "rise-after-end", steps=20)
    assert not found(fs.Cosine(steps=20), "rise-after-end", steps=30)
    assert not found(fs.CosineRestarts(first=10), "rise-after-end")  # nobody has said where the end is


# Floors, and groups.


def test_an_absolute_floor_above_the_bases_of_deep_layers_is_a_warning():
    s = fs.Cosine(0.1, 1e-5, steps=100)
    (finding,) = found(s, "floor-above-base", groups=[0.1, 1e-3, 1e-5, 1e-6, 1e-7])
    assert finding.severity == "warning"
    assert "2 groups, the first of them 3" in finding.message
    assert "1e-05" in finding.message


def test_a_floor_that_is_a_ratio_is_never_above_a_base():
    assert not found(fs.Cosine(1.0, 0.1, steps=100), "floor-above-base", groups=[1.0, 0.1, 1e-6])
    assert not found(fs.Cosine(steps=100).clip(low=0.1), "floor-above-base", groups=[0.1, 1e-6])
    assert not found(2.0 * fs.Cosine(1.0, 0.1, steps=100), "floor-above-base", groups=[0.1, 1e-6])


def test_groups_may_be_torchs_own():
    groups = [{"params": [], "lr": 0.05, "initial_lr": 0.1}, {"params": [], "lr": 1e-6, "weight_decay": 0.0}]
    (finding,) = found((0.1 * fs.Cosine(steps=100)).clip(low=1e-4), "floor-above-base", groups=groups)
    assert "group 1" in finding.message


def test_groups_with_schedules_of_their_own_are_compared():
    each = [fs.Cosine(base, 1e-5, steps=100) for base in (0.1, 1e-3, 1e-6)]
    for groups in (each, [{"lr": s} for s in each], [s.warmup(10, start=0.1) for s in each]):
        (finding,) = found(fs.Constant(1.0, steps=110), "floor-above-base", groups=groups)
        assert "group 2" in finding.message
    assert not found(fs.Constant(1.0, steps=110), "floor-above-base", groups=each[:2])


@pytest.mark.parametrize(
    "s",
    [
        fs.Cosine(1e-6, 1e-5, steps=100),
        fs.Cosine(1e-6, 1e-5, steps=100).warmup(10),
        (1e-6 * fs.Cosine(steps=100)).clip(low=1e-5),
        fs.CosineRestarts(1e-6, 1e-5, first=10),
    ],
    ids=str,
)
def test_a_floor_above_the_schedule_itself_is_a_warning(s):
    (finding,) = found(s, "floor-above-base")
    assert finding.severity == "warning"


def test_a_momentum_that_comes_back_has_no_floor():
    assert not found(fs.Cosine(0.95, 0.85, steps=30).then(fs.Cosine(0.85, 0.95, steps=70)), "floor-above-base")


def test_a_negative_base_is_an_error():
    (finding,) = found(fs.Cosine(steps=10), "negative", groups=[0.1, -0.1])
    assert finding.severity == "error"
    assert "group 1" in finding.message


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        (0.1, TypeError, "groups must be a list, got 0.1"),
        ("ab", TypeError, "groups must be a list, got 'ab'"),
        ([None], TypeError, r"groups\[0\] must be a number, a Schedule or a mapping, got None"),
        ([True], TypeError, r"groups\[0\] must be a number"),
        ([0.1, {"params": []}], ValueError, r"groups\[1\] must have an lr"),
        ([math.nan], ValueError, r"the lr of groups\[0\] must be finite"),
    ],
)
def test_groups_are_checked(groups, error, message):
    with pytest.raises(error, match=f"lint: {message}"):
        fs.Cosine(steps=10).lint(groups)


@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (2.0, TypeError), (2**54, ValueError)])
def test_steps_are_checked(steps, error):
    with pytest.raises(error, match="lint: steps must be"):
        fs.Cosine(steps=10).lint(steps=steps)


# Reports.


def test_the_gravest_finding_comes_first():
    report = fs.Linear(0.0, -1.0, steps=10).then(fs.Constant(1.0)).lint()
    order = [lint.SEVERITIES.index(finding.severity) for finding in report]
    assert order == sorted(order)
    assert report[0].code == "negative"


def test_a_report_is_a_sequence_that_prints_a_line_for_each():
    report = fs.OneCycle(steps=7).lint()
    assert len(report) == len(str(report).splitlines()) == len(list(report))
    assert report[:1] == (report[0],)
    assert report == fs.OneCycle(steps=7).lint()
    assert hash(report) == hash(fs.OneCycle(steps=7).lint())
    assert str(report[0]).startswith("warning: no update uses the peak 1: the largest value used is 0.994639")
    assert str(report[0]).endswith("[unused-peak]")


def test_the_sums_over_the_updates_are_in_the_report():
    (finding,) = found(fs.Samples([1.0, 0.5]), "robbins-monro")
    assert "over 2 updates they are 1.5 and 1.25" in finding.message


def test_horizons_too_long_to_tabulate_are_looked_at_here_and_there():
    s = fs.Linear(0.0, 0.5, steps=2**40).then(fs.Linear(1.0, -0.1, steps=2**52))
    codes = s.lint().codes
    assert codes == ("negative", "jump", "zero-first-update", "robbins-monro")
