"""Times in epochs, samples, tokens and fractions become whole updates, exactly; lrs follow the batch size."""

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastsched as fs
from fastsched.units import Units, batch_scaled_lr

COUNTS = st.integers(1, 10**6)
SMALL = st.integers(1, 64)


# ---- what an update is ----


def test_an_update_takes_batch_size_times_accumulation_times_world_size_samples():
    u = Units(batch_size=64, accumulation=2, world_size=8, sequence_length=512)
    assert u.samples_per_step == 1024
    assert u.tokens_per_step == 1024 * 512


@pytest.mark.parametrize(
    ("arguments", "steps"),
    [
        ({"samples": 50_000, "batch_size": 64}, 782),  # 781.25 batches
        ({"samples": 50_000, "batch_size": 64, "drop_last": True}, 781),
        ({"samples": 50_000, "batch_size": 64, "world_size": 8}, 98),
        ({"samples": 50_000, "batch_size": 64, "world_size": 8, "drop_last": True}, 97),
        ({"batches": 10}, 10),
        ({"batches": 10, "accumulation": 4}, 3),
        ({"batches": 10, "accumulation": 4, "remainder": "drop"}, 2),
        ({"batches": 10, "accumulation": 4, "remainder": "carry"}, Fraction(5, 2)),
        ({"batches": 8, "accumulation": 4, "remainder": "carry"}, 2),
        ({"steps_per_epoch": 7, "accumulation": 4}, 7),
    ],
)
def test_an_epochs_updates_follow_from_its_size_and_what_is_left_over(arguments, steps):
    assert Units(**arguments).steps_per_epoch == steps


@given(samples=COUNTS, batch_size=SMALL, world_size=SMALL, drop_last=st.booleans())
def test_an_epoch_is_what_a_distributed_sampler_and_a_dataloader_make_of_it(samples, batch_size, world_size, drop_last):
    """DistributedSampler pads or cuts to one length per process; DataLoader then pads or cuts to batches."""
    rounding = math.floor if drop_last else math.ceil
    expected = rounding(Fraction(rounding(Fraction(samples, world_size)), batch_size))
    arguments = {"samples": samples, "batch_size": batch_size, "world_size": world_size, "drop_last": drop_last}
    if expected == 0:
        with pytest.raises(ValueError, match="an epoch must have an update"):
            Units(**arguments)
    else:
        assert Units(**arguments).steps_per_epoch == expected


@given(batches=COUNTS, accumulation=SMALL)
def test_accumulation_leaves_over_what_the_frameworks_loops_do(batches, accumulation):
    def updates(epochs, flush, clear):
        count, made = 0, 0
        for _ in range(epochs):
            full, count = divmod(count + batches, accumulation)
            made += full
            if flush and count:
                made, count = made + 1, 0
            if clear:
                count = 0
        return made

    for remainder, flush, clear in (("step", True, False), ("drop", False, True), ("carry", False, False)):
        if remainder == "drop" and batches < accumulation:
            continue
        u = Units(batches=batches, accumulation=accumulation, remainder=remainder)
        exact = u.steps_per_epoch * 3
        assert math.floor(exact) == updates(3, flush, clear)
        assert u.steps("3ep") == math.ceil(exact)


# ---- times ----


U = Units(samples=50_000, batch_size=64, accumulation=2, world_size=8, sequence_length=512, epochs=90)


@pytest.mark.parametrize(
    ("time", "named"),
    [
        ("3ep", {"epochs": 3}),
        ("1.5ep", {"epochs": 1.5}),
        ("1e6sp", {"samples": 1e6}),
        ("2.5e9tok", {"tokens": 2_500_000_000}),
        ("0.1dur", {"fraction": 0.1}),
        ("1dur", {"fraction": 1}),
    ],
)
def test_a_time_string_says_what_the_named_time_says(time, named):
    assert U.steps(time) == U.steps(**named)


@pytest.mark.parametrize("time", ["12ba", 12, "12.0ba", "1.2e1ba", " 12 ba ", "12BA", np.int64(12)])
def test_batches_and_plain_numbers_are_updates(time):
    assert U.steps(time) == 12


def test_the_total_follows_from_epochs_or_duration():
    assert U.total == 90 * 49
    assert Units(batch_size=8, sequence_length=2048, duration="1e9tok").total == 61036  # 61035.15...
    assert Units(duration=1000).total == 1000
    assert Units(steps_per_epoch=100, epochs=0.255).total == 26


def test_a_part_of_an_update_counts_as_one():
    assert U.steps(samples=1024) == 1
    assert U.steps(samples=1025) == 2
    assert U.steps(samples=0) == 0


def test_a_float_is_the_decimal_that_it_prints_as():
    """0.07 * 100 is 7.000000000000001 in floats: no eighth update."""
    u = Units(duration=100)
    assert u.steps(fraction=0.07) == 7
    assert u.steps("0.07dur") == 7
    assert u.steps(fraction=Fraction(1, 3)) == 34


@given(tokens=st.integers(0, 10**15), per_step=st.integers(1, 10**7))
def test_large_numbers_of_tokens_are_counted_exactly(tokens, per_step):
    steps = Units(batch_size=1, sequence_length=per_step).steps(tokens=tokens)
    assert (steps - 1) * per_step < tokens <= steps * per_step or steps == tokens == 0


@given(epochs=st.integers(0, 1000), more=st.integers(0, 1000))
def test_later_times_are_no_earlier_updates(epochs, more):
    u = Units(batches=10, accumulation=4, remainder="carry")
    assert u.steps(epochs=epochs) <= u.steps(epochs=epochs + more)


def test_times_serve_as_horizons_of_schedules():
    warmup = U.steps("5ep")
    s = fs.Cosine(steps=U.total - warmup).warmup(warmup)
    assert s.steps == U.total
    assert s(warmup) == 1.0


# ---- the object ----


def test_equal_units_are_equal_and_hash_alike_and_survive_a_pickle():
    again = pickle.loads(pickle.dumps(U))
    assert again == U
    assert hash(again) == hash(U)
    assert Units(batches=3) != Units(batches=4)


def test_the_repr_evaluates_to_the_same_and_leaves_defaults_out():
    assert repr(Units(batches=3, epochs=1.5)) == "Units(batches=3, epochs=1.5)"
    assert eval(repr(U)) == U


def test_units_cannot_be_changed():
    with pytest.raises(AttributeError, match="Units is immutable"):
        U.batch_size = 3


# ---- errors ----


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 10}, "batch_size must be given to count samples"),
        ({"samples": 10, "batches": 3, "batch_size": 2}, "at most one of samples, batches, .* got samples and batches"),
        ({"epochs": 3, "duration": 10, "batches": 3}, "at most one of epochs, duration"),
        ({"epochs": 3}, "the size of an epoch must be given"),
        ({"duration": "1e9tok", "batch_size": 8}, "sequence_length must be given to count tokens"),
        ({"duration": "1e9tok", "sequence_length": 8}, "batch_size must be given to count samples"),
        ({"duration": "0.5dur"}, "must not be a fraction of itself, got '0.5dur'"),
        ({"duration": "0ba"}, "the run's steps must be >= 1, got 0"),
        ({"batches": 3, "accumulation": 4, "remainder": "drop"}, "an epoch must have an update"),
        ({"batches": 0}, "batches must be >= 1, got 0"),
        ({"batches": 3, "remainder": "keep"}, "remainder must be a known one, got 'keep'; pass 'step', 'drop' or"),
        ({"batches": 3, "epochs": -1}, "epochs must be >= 0, got -1"),
        ({"batches": 3, "epochs": math.nan}, "epochs must be finite"),
    ],
)
def test_construction_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        Units(**arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"batches": 3.0},
        {"batches": True},
        {"batches": "3"},
        {"drop_last": 1},
        {"duration": 1e3},
        {"batches": 1, "epochs": "3"},
    ],
)
def test_construction_refuses_wrong_types(arguments):
    with pytest.raises(TypeError, match="must be"):
        Units(**arguments)


@pytest.mark.parametrize(
    ("time", "named", "message"),
    [
        (None, {}, "exactly one time must be given, got nothing"),
        ("3ep", {"epochs": 3}, "exactly one time must be given, got a time, epochs"),
        (None, {"epochs": 3, "tokens": 3}, "exactly one time must be given, got epochs, tokens"),
        ("90sec", {}, "got '90sec'.*seconds and iterations are no number of updates"),
        ("1h30m", {}, "got '1h30m'"),
        ("3iter", {}, "got '3iter'"),
        ("3", {}, "got '3'"),
        ("ep", {}, "got 'ep'"),
        ("-3ep", {}, "got '-3ep'"),
        ("1e999999999ep", {}, "must be in epochs"),
        ("9e99ep", {}, r"at most 2\*\*53 updates"),
        (-3, {}, "time must be >= 0, got -3"),
        (None, {"fraction": Fraction(-1, 2)}, "fraction must be >= 0, got -0.5"),
    ],
)
def test_steps_refuses_what_is_no_time(time, named, message):
    with pytest.raises(ValueError, match=f"^Units.steps: .*{message}"):
        U.steps(time, **named)


@pytest.mark.parametrize("time", [2.0, True, b"3ep", ["3ep"]])
def test_steps_refuses_wrong_types(time):
    with pytest.raises(TypeError, match=r"^Units\.steps: time must be"):
        U.steps(time)


@pytest.mark.parametrize(
    ("time", "message"),
    [
        ("1ep", r"the size of an epoch must be given .*pass Units\(samples=\.\.\.\)"),
        ("1sp", r"batch_size must be given .*pass Units\(batch_size=\.\.\.\)"),
        ("1tok", r"sequence_length must be given .*pass Units\(sequence_length=\.\.\.\)"),
        ("1dur", r"the run's length must be given, .*pass Units\(epochs=\.\.\.\)"),
    ],
)
def test_a_time_that_cannot_be_counted_names_what_is_missing(time, message):
    with pytest.raises(ValueError, match=message):
        Units().steps(time)


# ---- batch size ----


def test_the_linear_rule_scales_with_the_batch_size():
    assert batch_scaled_lr(0.1, 8192, 256) == 3.2
    assert batch_scaled_lr(0.1, 128, 256) == 0.05


def test_the_square_root_rule_scales_with_its_root():
    assert batch_scaled_lr(3e-4, 1024, 256, rule="sqrt") == 6e-4


@given(lr=st.floats(1e-8, 10.0), size=COUNTS, rule=st.sampled_from(["linear", "sqrt"]))
def test_the_base_batch_size_keeps_the_lr(lr, size, rule):
    assert batch_scaled_lr(lr, size, size, rule=rule) == lr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.1, 0, 256), "batch_size must be >= 1, got 0"),
        ((0.1, 256, 0), "base_batch_size must be >= 1, got 0"),
        ((-0.1, 256, 256), "lr must be >= 0, got -0.1"),
        ((0.1, 256, 256, "cubic"), "rule must be a known one, got 'cubic'"),
    ],
)
def test_batch_scaling_refuses_what_it_cannot_use(arguments, message):
    with pytest.raises(ValueError, match=f"^batch_scaled_lr: {message}"):
        batch_scaled_lr(*arguments)
