"""Plans: the hyperparameters of many groups over time."""

import json
import math

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import output, same_bits, schedule

import fastsched as fs

LONGEST = oracles.LONGEST
COSINE = fs.Cosine(1.0, 0.1, steps=100)
LINEAR = fs.Linear(0.0, 0.05, steps=70)

bases = st.one_of(st.sampled_from([0.0, 1.0, 0.1, 3e-4]), st.floats(0.0, 10.0, allow_subnormal=False))
hyperparameters = st.one_of(bases, st.sampled_from([COSINE, LINEAR, fs.Constant(0.3), 0.5 * COSINE]))
group = st.fixed_dictionaries(
    {"lr": hyperparameters},
    optional={
        "weight_decay": hyperparameters,
        "momentum": hyperparameters,
        "betas": st.tuples(hyperparameters, hyperparameters),
        "name": st.just("head"),
        "params": st.just([object()]),
    },
)
plans = st.builds(fs.Plan, st.lists(group, min_size=1, max_size=12), st.none() | st.just(COSINE) | st.just(LINEAR))

# A layer-wise fine-tune: 12 depths, with and without weight decay; as text, for another process too.
FINE_TUNE = """fs.Plan(
    [
        dict(lr=1e-3 * 0.75**depth, weight_decay=decay, betas=(0.9, 0.999))
        for depth in range(12)
        for decay in (0.05, 0.0)
    ],
    fs.Cosine(1.0, 1e-3, steps=900).warmup(100),
)"""


RECORDED = "83400127ae0fae14ae936303b205f9fe"


def fine_tune():
    return eval(FINE_TUNE, {"fs": fs})


# Values.


@given(base=bases, step=st.integers(0, 200))
def test_a_number_is_the_base_that_the_schedule_multiplies(base, step):
    plan = fs.Plan([{"lr": base}], COSINE)
    assert same_bits(plan.at(step)["lr"], [base * COSINE(step)])


@pytest.mark.parametrize("step", [0, 1, 50, 99, 100, 10**9, LONGEST])
def test_the_schedule_multiplies_lr_and_nothing_else(step):
    row = fs.Plan([{"lr": 0.5, "weight_decay": 0.05, "momentum": 0.9}], COSINE).at(step)
    assert row["lr"][0] == 0.5 * COSINE(step)
    assert row["weight_decay"][0] == 0.05
    assert row["momentum"][0] == 0.9


def test_without_a_schedule_a_number_stays_what_it_is():
    assert fs.Plan([{"lr": 0.1}]).at(7)["lr"][0] == 0.1


@pytest.mark.parametrize("step", [0, 3, 70, 1000])
def test_a_schedule_as_hyperparameter_is_its_own_value(step):
    row = fs.Plan([{"lr": COSINE, "weight_decay": LINEAR}]).at(step)
    assert same_bits(row["lr"], [COSINE(step)])
    assert same_bits(row["weight_decay"], [LINEAR(step)])


@pytest.mark.parametrize("step", [0, 3, 50, 1000])
def test_the_plans_schedule_multiplies_an_lr_that_is_a_schedule(step):
    value = fs.Plan([{"lr": LINEAR}], COSINE).at(step)["lr"][0]
    assert value == pytest.approx(LINEAR(step) * COSINE(step), rel=9 * 2**-52)  # two factors: 9 ulp


def test_betas_appear_as_beta1_and_beta2():
    row = fs.Plan([{"lr": 0.1, "betas": (LINEAR, 0.999)}]).at(35)
    assert set(row) == {"lr", "beta1", "beta2"}
    assert row["beta1"][0] == LINEAR(35)
    assert row["beta2"][0] == 0.999


def test_a_group_without_the_name_has_nan_and_the_others_do_not():
    row = fs.Plan([{"lr": 0.1}, {"lr": 0.2, "momentum": 0.9}, {"lr": 0.3}]).at(0)
    assert np.array_equal(np.isnan(row["momentum"]), [True, False, True])
    assert not np.isnan(row["lr"]).any()


@pytest.mark.parametrize(
    "ignored",
    [
        {"params": [1.0, 2.0]},
        {"name": "head"},
        {"nesterov": True},
        {"foreach": None},
        {"x": np.ones(3)},
        {"y": {}},
    ],
)
def test_values_that_are_no_hyperparameter_are_ignored(ignored):
    plan = fs.Plan([dict(lr=0.1, **ignored)], COSINE)
    assert set(plan.at(0)) == {"lr"}
    assert plan.fingerprint == fs.Plan([{"lr": 0.1}], COSINE).fingerprint


def test_the_groups_of_a_torch_optimizer_make_a_plan():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))], lr=0.1, weight_decay=0.05)
    row = fs.Plan(optimizer.param_groups, COSINE).at(0)
    assert {name: row[name][0] for name in ("lr", "weight_decay", "beta1", "beta2")} == {
        "lr": 0.1,
        "weight_decay": 0.05,
        "beta1": 0.9,
        "beta2": 0.999,
    }


def test_numpy_numbers_are_numbers():
    row = fs.Plan([{"lr": np.float32(0.5), "momentum": np.int64(0)}], COSINE).at(0)
    assert row["lr"][0] == 0.5
    assert row["momentum"][0] == 0.0


def test_a_row_has_a_float64_value_per_group_in_their_order():
    row = fs.Plan([{"lr": 0.1 * k} for k in range(5)], COSINE).at(0)["lr"]
    assert (row.shape, row.dtype) == ((5,), np.float64)
    assert same_bits(row, [0.1 * k for k in range(5)])


def test_a_group_changed_afterwards_changes_nothing():
    groups = [{"lr": 0.1}]
    plan = fs.Plan(groups, COSINE)
    groups[0]["lr"] = 7.0
    groups.append({"lr": 1.0})
    assert same_bits(plan.at(0)["lr"], [0.1])


def test_writing_into_a_row_changes_no_later_row():
    plan = fs.Plan([{"lr": 0.1}])
    plan.at(0)["lr"][0] = 7.0
    assert plan.at(0)["lr"][0] == 0.1


@pytest.mark.parametrize("backend", ["native", "numba"])
@pytest.mark.parametrize(
    "out", [np.zeros(3), np.zeros((2, 1)), np.zeros(2, np.float32), np.zeros(4)[::2]], ids=["long", "2d", "f4", "gaps"]
)
def test_a_row_for_another_plan_is_refused_and_left_alone(backend, out):
    fs.use_backend(backend)
    try:
        with pytest.raises(ValueError, match=r"Plan\.at: out must"):
            fs.Plan([{"lr": 0.1}, {"lr": 0.2}], COSINE).at(0, out={"lr": out})
    finally:
        fs.use_backend("native")
    assert not out.any()


def test_any_iterable_of_mappings_makes_a_plan():
    from types import MappingProxyType

    plan = fs.Plan((MappingProxyType({"lr": lr}) for lr in (0.1, 0.2)), COSINE)
    assert same_bits(plan.at(0)["lr"], [0.1, 0.2])


# Tables.


@given(plan=plans, start=st.integers(0, 120), steps=st.integers(0, 20))
def test_rows_of_the_float64_table_are_the_rows_to_the_bit(plan, start, steps):
    table = plan.table(steps, start=start, dtype=np.float64)
    for k in range(steps):
        row = plan.at(start + k)
        assert set(row) == set(table)
        assert all(np.array_equal(row[name].view(np.int64), table[name][k].view(np.int64)) for name in row)


@given(plan=plans)
def test_the_float32_table_is_the_float64_table_rounded_once(plan):
    exact = plan.table(120, dtype=np.float64)
    rounded = plan.table(120)
    for name, column in exact.items():
        assert rounded[name].dtype == np.float32
        assert np.array_equal(rounded[name], column.astype(np.float32), equal_nan=True)


def test_a_table_has_a_row_per_step_and_a_column_per_group():
    table = fine_tune().table(7)
    assert {name: values.shape for name, values in table.items()} == dict.fromkeys(
        ["lr", "weight_decay", "beta1", "beta2"], (7, 24)
    )


def test_a_table_of_no_steps_is_empty():
    assert fine_tune().table(0)["lr"].shape == (0, 24)


def test_lr_of_a_plan_equals_the_lr_table():
    scale = [1e-3 * 0.75**depth for depth in range(12)]
    plan = fs.Plan([{"lr": lr} for lr in scale], COSINE)
    assert np.array_equal(plan.table(120)["lr"], fs.lr_table(COSINE, 120, scale=scale))


@pytest.mark.parametrize("step", [-1, math.nan, math.inf, LONGEST + 1, -0.5])
def test_a_row_at_a_step_out_of_range_is_a_value_error(step):
    with pytest.raises(ValueError, match="step"):
        fine_tune().at(step)


@pytest.mark.parametrize("step", [True, "3", None, 1j])
def test_a_row_at_a_step_of_the_wrong_type_is_a_type_error(step):
    with pytest.raises(TypeError, match="step"):
        fine_tune().at(step)


@pytest.mark.parametrize(("steps", "start"), [(-1, 0), (3, -1), (3, LONGEST), (LONGEST + 1, 0)])
def test_a_table_out_of_range_is_a_value_error(steps, start):
    with pytest.raises(ValueError, match=r"steps|start"):
        fine_tune().table(steps, start=start)


@pytest.mark.parametrize("steps", [True, 2.5, "3", None])
def test_a_table_of_the_wrong_type_is_a_type_error(steps):
    with pytest.raises(TypeError, match="steps"):
        fine_tune().table(steps)


# Columns: how many curves are evaluated.


@pytest.mark.parametrize(
    ("columns", "groups", "multiplier"),
    [
        (0, [{"lr": 0.1, "weight_decay": 0.05}], None),
        (1, [{"lr": 0.1}], COSINE),
        (1, [{"lr": 0.1 * k, "weight_decay": 0.05, "betas": (0.9, 0.999)} for k in range(1, 50)], COSINE),
        (1, [{"lr": COSINE}, {"lr": fs.Cosine(1.0, 0.1, steps=100)}], None),
        (1, [{"lr": COSINE, "weight_decay": COSINE}], None),
        (2, [{"lr": COSINE}, {"lr": LINEAR}], None),
        (2, [{"lr": 0.1, "weight_decay": LINEAR}, {"lr": 0.2, "weight_decay": LINEAR}], COSINE),
    ],
)
def test_columns_counts_the_distinct_curves(columns, groups, multiplier):
    assert fs.Plan(groups, multiplier).columns == columns


def test_a_schedule_scaled_by_a_number_shares_its_column():
    assert fs.Plan([{"lr": COSINE}, {"lr": 0.5 * COSINE}, {"lr": COSINE * 0.3}]).columns == 1


def test_a_constant_schedule_needs_no_column():
    assert fs.Plan([{"lr": fs.Constant(0.1), "weight_decay": fs.Constant(0.05, steps=10)}]).columns == 0


# Size.


def test_ten_thousand_groups_share_one_column():
    scale = [0.999**k for k in range(10_000)]
    plan = fs.Plan([{"lr": lr, "weight_decay": 0.05} for lr in scale], COSINE)
    assert plan.columns == 1
    assert same_bits(plan.at(50)["lr"], COSINE(50) * np.array(scale))


def test_ten_thousand_groups_survive_json():
    plan = fs.Plan([{"lr": 0.999**k} for k in range(10_000)], COSINE)
    assert fs.Plan.from_json(plan.to_json()).fingerprint == plan.fingerprint


def test_ten_thousand_different_schedules_are_ten_thousand_columns():
    plan = fs.Plan([{"lr": fs.Cosine(1.0, 0.0, steps=k)} for k in range(1, 10_001)])
    assert plan.columns == 10_000
    assert plan.at(10_000)["lr"].max() == 0.0


def test_a_plan_of_a_billion_steps_costs_nothing_until_it_is_read():
    s = fs.Cosine(steps=10**9)
    plan = fs.Plan([{"lr": 0.1}], s)
    table = plan.table(3, start=10**9 - 2, dtype=np.float64)["lr"][:, 0]
    assert same_bits(table, [0.1 * s(10**9 - 2 + k) for k in range(3)])


# JSON and the fingerprint.


@given(plan=plans)
def test_a_plan_from_json_has_the_same_values(plan):
    text = plan.to_json()
    json.loads(text)
    twin = fs.Plan.from_json(text)
    ours, theirs = plan.table(30, dtype=np.float64), twin.table(30, dtype=np.float64)
    assert set(ours) == set(theirs)
    assert all(np.array_equal(ours[name].view(np.int64), theirs[name].view(np.int64)) for name in ours)
    assert twin.columns == plan.columns


@given(plan=plans)
def test_a_plan_from_json_has_the_same_fingerprint_and_json(plan):
    twin = fs.Plan.from_json(plan.to_json())
    assert twin.fingerprint == plan.fingerprint
    assert twin.to_json() == plan.to_json()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "1", "{}", '{"groups": 3}'])
def test_json_of_something_else_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"(?i)json"):
        fs.Plan.from_json(text)


@pytest.mark.parametrize("text", [None, 1, {}, True])
def test_json_of_the_wrong_type_is_a_type_error(text):
    with pytest.raises(TypeError):
        fs.Plan.from_json(text)


def test_equal_plans_have_equal_fingerprints():
    assert fine_tune().fingerprint == fine_tune().fingerprint


def test_it_does_not_matter_to_the_fingerprint_whether_equal_schedules_are_one_object():
    twice = [2.0 * fs.Cosine(1.0, 0.1, steps=100) for _ in range(2)]
    one = fs.Plan([{"lr": 0.5, "weight_decay": twice[0]}], twice[0])
    two = fs.Plan([{"lr": 0.5, "weight_decay": twice[1]}], twice[0])
    assert one.fingerprint == two.fingerprint


def test_the_order_of_names_in_a_group_does_not_matter_to_the_fingerprint():
    a = fs.Plan([{"lr": 0.1, "weight_decay": 0.05}], COSINE)
    b = fs.Plan([{"weight_decay": 0.05, "lr": 0.1}], COSINE)
    assert a.fingerprint == b.fingerprint


@pytest.mark.parametrize(
    ("groups", "multiplier"),
    [
        ([{"lr": 0.1, "momentum": 0.9}, {"lr": 0.2}], COSINE),
        ([{"lr": 0.1}, {"lr": 0.2}], COSINE),
        ([{"lr": 0.2}, {"lr": 0.1}], COSINE),
        ([{"lr": 0.1}], COSINE),
        ([{"lr": math.nextafter(0.1, 1)}], COSINE),
        ([{"lr": 0.1}], fs.Cosine(1.0, 0.1, steps=101)),
        ([{"lr": 0.1}], fs.Cosine(1.0, 0.1, steps=100).warmup(1)),
        ([{"lr": 0.1}], None),
        ([{"momentum": 0.1}], COSINE),
    ],
)
def test_the_fingerprint_of_a_plan_is_its_own(groups, multiplier):
    others = [
        fs.Plan([{"lr": 0.1}, {"lr": 0.2, "momentum": 0.9}], COSINE),
        fs.Plan([{"lr": 0.1}], LINEAR),
        fine_tune(),
    ]
    fingerprint = fs.Plan(groups, multiplier).fingerprint
    assert type(fingerprint) is str
    assert fingerprint not in {other.fingerprint for other in others}


def test_the_fingerprint_is_the_same_in_every_process():
    code = f"import fastsched as fs; print({FINE_TUNE}.fingerprint)"
    seen = {output(code, PYTHONHASHSEED=seed) for seed in ("0", "1")}
    assert seen == {fine_tune().fingerprint}


def test_the_fingerprint_is_the_one_recorded():
    # A change of this value breaks what users have on record: it needs a very good reason.
    assert fine_tune().fingerprint == RECORDED


# What is no plan.


@pytest.mark.parametrize("groups", [None, 1.0, [1.0], [None], ["lr"], [[("lr", 0.1)]]])
def test_groups_that_are_no_mappings_are_a_type_error(groups):
    with pytest.raises(TypeError, match="group"):
        fs.Plan(groups)


@pytest.mark.parametrize("multiplier", [1.0, "Cosine", True, [COSINE]])
def test_a_multiplier_that_is_no_schedule_is_a_type_error(multiplier):
    with pytest.raises(TypeError, match="schedule"):
        fs.Plan([{"lr": 0.1}], multiplier)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_base_that_is_not_finite_is_a_value_error_that_names_it(bad):
    with pytest.raises(ValueError, match=r"lr"):
        fs.Plan([{"lr": 0.1}, {"lr": bad}])


def test_plans_of_every_kind_equal_their_schedules():
    schedules = [schedule(case) for case in oracles.EXAMPLES.values()]
    table = fs.Plan([{"lr": s} for s in schedules]).table(1100, dtype=np.float64)["lr"]
    for column, s in zip(table.T, schedules, strict=True):
        # A plan may factor a number out of a schedule and multiply it in again: one rounding more.
        np.testing.assert_allclose(column, s.table(1100), rtol=2 * 2**-52, atol=0)


def test_a_one_element_array_is_a_number():
    plan = fs.Plan([{"lr": np.array(0.5), "weight_decay": np.array([0.25])[0]}])
    assert plan.at(0)["lr"].tolist() == [0.5]


@pytest.mark.parametrize("value", ["1e-3", True, [0.1]])
def test_an_lr_that_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match="Plan: lr must be a number or a Schedule"):
        fs.Plan([{"lr": value}])
