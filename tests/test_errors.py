"""Every parameter refuses what it cannot use: out of range is a ValueError, a wrong type a TypeError.

One table says which rule a parameter obeys; the rules say what breaks them.
"""

import math
import re

import numpy as np
import pytest
from support import schedule

import fastsched as fs

LONGEST = 2**53
MOST_SAMPLES = 2**21
NOT_FINITE = [math.nan, math.inf, -math.inf]
NOT_A_NUMBER = [True, np.True_, "0.1", b"1", 1j, {}, object(), np.array([0.123456789, 0.2])]

# rule -> (values out of range, values of the wrong type)
RULES = {
    "finite": (NOT_FINITE, [None, *NOT_A_NUMBER]),
    "positive": ([0.0, -0.5, *NOT_FINITE], [None, *NOT_A_NUMBER]),
    "not negative": ([-0.5, *NOT_FINITE], [None, *NOT_A_NUMBER]),
    "not negative or none": ([-0.5, *NOT_FINITE], NOT_A_NUMBER),
    "finite or none": (NOT_FINITE, NOT_A_NUMBER),
    "count": ([0, -1, LONGEST + 1, 10**400], [None, 2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "count or none": ([0, -1, LONGEST + 1, 10**400], [2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "every": ([0, -1, math.nan, math.inf], [None, *NOT_A_NUMBER]),
    "share": ([-0.1, 1.5, *NOT_FINITE], [None, *NOT_A_NUMBER]),
    "positive share": ([0.0, -0.1, 1.5, *NOT_FINITE], [None, *NOT_A_NUMBER]),
    "length": ([-1, LONGEST + 1, 10**400], [None, 2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "length or none": ([-1, LONGEST + 1, 10**400], [2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "at least one": ([0, -1], [None, 2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "at least one or none": ([0, -1], [2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "not below zero or none": ([-1], [2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "number of samples": ([0, -1, MOST_SAMPLES + 1, 10**400], [None, 2.5, math.nan, *NOT_A_NUMBER]),
    "seed": ([-1, 2**64, 10**400], [None, 2.5, math.nan, np.float64(3.5), *NOT_A_NUMBER]),
    "choice": (["", "nonsense", "Linear", "COS"], [None, 1, True, ["linear"], b"linear"]),
    "flag": ([], [None, "no", 0.5, 1j, {}]),
    "values": (
        [[math.nan, 1.0, 2.0], [1.0, math.inf, 2.0], [1.0, 2.0, -math.inf]],
        [None, 5, 2.5, "0.5", [None, 1.0, 2.0], [1.0, True, 2.0], [1.0, 2.0, "3"], [[1.0], 2.0, 3.0], object(), {}],
    ),
    "milestones": (
        [[-1], [3, -5], [LONGEST + 1]],
        [None, 5, 2.5, [2.5], [True], ["3"], [None], [[1]], object()],
    ),
}

# kind -> (arguments that are good, parameter -> rule)
KINDS = {
    "Constant": ({"value": 1.0, "steps": 10}, {"value": "finite", "steps": "count or none"}),
    "Linear": (
        {"start": 1.0, "end": 0.1, "steps": 10},
        {"start": "finite", "end": "finite", "steps": "count"},
    ),
    "Cosine": (
        {"start": 1.0, "end": 0.1, "steps": 10, "cycles": 0.5, "exponent": 1.0, "k": 1.0},
        {
            "start": "finite",
            "end": "finite",
            "steps": "count",
            "cycles": "not negative",
            "exponent": "not negative",
            "k": "not negative",
        },
    ),
    "Polynomial": (
        {"start": 1.0, "end": 0.1, "steps": 10, "power": 2.0, "k": 1.5},
        {"start": "finite", "end": "finite", "steps": "count", "power": "positive", "k": "positive"},
    ),
    "Geometric": (
        {"start": 1.0, "end": 0.1, "steps": 10},
        {"start": "positive", "end": "positive", "steps": "count"},
    ),
    "Logarithmic": (
        {"start": 1.0, "end": 0.1, "steps": 10},
        {"start": "finite", "end": "finite", "steps": "count"},
    ),
    "Exponential": (
        {"start": 1.0, "gamma": 0.9, "every": 2, "staircase": True},
        {"start": "finite", "gamma": "not negative or none", "every": "every", "staircase": "flag"},
    ),
    "StepDecay": (
        {"start": 1.0, "gamma": 0.5, "every": 3},
        {"start": "finite", "gamma": "not negative", "every": "every"},
    ),
    "MultiStep": (
        {"start": 1.0, "milestones": [3, 5], "gamma": 0.5},
        {"start": "finite", "milestones": "milestones", "gamma": "not negative"},
    ),
    "Piecewise": (
        {"boundaries": [3, 5], "values": [1.0, 0.5, 0.1]},
        {"boundaries": "milestones", "values": "values"},
    ),
    "InverseSqrt": (
        {"start": 1.0, "timescale": 10.0, "shift": 2},
        {"start": "finite", "timescale": "positive", "shift": "finite"},
    ),
    "InverseTime": (
        {"start": 1.0, "rate": 0.1, "every": 2, "staircase": True},
        {"start": "finite", "rate": "not negative", "every": "every", "staircase": "flag"},
    ),
    "PowerLaw": (
        {"start": 1.0, "exponent": 0.5, "timescale": 10.0},
        {"start": "finite", "exponent": "positive", "timescale": "positive"},
    ),
    "Tanh": (
        {"start": 1.0, "end": 0.1, "steps": 10, "lower": -7.0, "upper": 3.0},
        {"start": "finite", "end": "finite", "steps": "count", "lower": "finite", "upper": "finite"},
    ),
    "Rex": ({"start": 1.0, "end": 0.1, "steps": 10}, {"start": "finite", "end": "finite", "steps": "count"}),
    "OneMinusSqrt": ({"start": 1.0, "end": 0.1, "steps": 10}, {"start": "finite", "end": "finite", "steps": "count"}),
    "Triangular": (
        {"low": 0.1, "high": 1.0, "up": 3, "down": 4, "mode": "exp_range", "gamma": 0.9},
        {
            "low": "finite",
            "high": "finite",
            "up": "count",
            "down": "count or none",
            "mode": "choice",
            "gamma": "positive share",
        },
    ),
    "CosineRestarts": (
        {"start": 1.0, "end": 0.1, "first": 3, "multiplier": 2, "decay": 0.5, "cycles": 4},
        {
            "start": "finite",
            "end": "finite",
            "first": "count",
            "multiplier": "at least one",
            "decay": "positive",
            "cycles": "at least one or none",
        },
    ),
    "OneCycle": (
        {
            "peak": 1.0,
            "steps": 10,
            "pct_start": 0.3,
            "div_factor": 25.0,
            "final_div_factor": 1e4,
            "anneal": "cos",
            "three_phase": True,
        },
        {
            "peak": "finite",
            "steps": "count",
            "pct_start": "share",
            "div_factor": "positive",
            "final_div_factor": "positive",
            "anneal": "choice",
            "three_phase": "flag",
        },
    ),
    "OneCycleMomentum": (
        {"low": 0.85, "high": 0.95, "steps": 10, "pct_start": 0.3, "anneal": "cos", "three_phase": True},
        {
            "low": "finite",
            "high": "finite",
            "steps": "count",
            "pct_start": "share",
            "anneal": "choice",
            "three_phase": "flag",
        },
    ),
    "WarmupStableDecay": (
        {"peak": 1.0, "warmup": 2, "stable": 3, "decay": 4, "shape": "sqrt", "end": 0.1},
        {
            "peak": "finite",
            "warmup": "length",
            "stable": "length",
            "decay": "length",
            "shape": "choice",
            "end": "finite",
        },
    ),
    "Infinite": (
        {"peak": 1.0, "warmup": 2, "cosine": 5, "plateau": 0.2, "constant": 3, "cooldown": 4, "end": 0.1},
        {
            "peak": "finite",
            "warmup": "length",
            "cosine": "count",
            "plateau": "finite",
            "constant": "length or none",
            "cooldown": "count or none",
            "end": "finite or none",
        },
    ),
    "Samples": ({"values": [1.0, 0.5, 0.1]}, {"values": "values"}),
}
BY_RATE = {"start": 1.0, "rate": 0.1, "every": 2, "staircase": False}


def rows(which):
    for kind, (good, rules) in KINDS.items():
        for parameter, rule in rules.items():
            for bad in RULES[rule][which]:
                yield pytest.param(kind, good, parameter, bad, id=f"{kind}-{parameter}-{shown(bad)}")
    for bad in RULES["finite or none"][which]:
        yield pytest.param("Exponential", BY_RATE, "rate", bad, id=f"Exponential-rate-{shown(bad)}")


def shown(bad):
    return type(bad).__name__ if isinstance(bad, (np.ndarray, int)) or type(bad) is object else repr(bad)


def refuse(kind, good, parameter, bad, error):
    with pytest.raises(error) as caught:
        getattr(fs, kind)(**{**good, parameter: bad})
    assert type(caught.value) is error
    return str(caught.value)


def tells(message, bad):
    """The message says what was received: the value as Python writes it, or its type."""
    values = [repr(bad), str(bad)] if not isinstance(bad, (np.ndarray, list)) else [repr(v) for v in bad]
    return type(bad).__name__ in message or any(value in message for value in values)


@pytest.mark.parametrize(("kind", "good", "parameter", "bad"), list(rows(0)))
def test_out_of_range_is_a_value_error_that_says_who_what_and_which(kind, good, parameter, bad):
    message = refuse(kind, good, parameter, bad, ValueError)
    assert re.match(rf"{kind}\b.*\b{parameter}\b.*; \w", message)
    assert tells(message, bad) or abs(bad) > 10**300  # a number of 400 digits may be shortened


@pytest.mark.parametrize(("kind", "good", "parameter", "bad"), list(rows(1)))
def test_a_wrong_type_is_a_type_error_that_says_who_what_and_which(kind, good, parameter, bad):
    message = refuse(kind, good, parameter, bad, TypeError)
    assert re.match(rf"{kind}\b.*\b{parameter}\b.*; \w", message)
    assert tells(message, bad)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [(k, p) for k, (_, rules) in KINDS.items() for p, rule in rules.items() if rule != "flag" and k != "Samples"],
)
def test_no_message_prints_the_contents_of_an_array(kind, parameter):
    contents = np.array([0.123456789, 7.987654321])
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(fs, kind)(**{**KINDS[kind][0], parameter: contents})
    assert "123456" not in str(caught.value)
    assert "987654" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_an_unknown_parameter_is_a_type_error(kind):
    with pytest.raises(TypeError, match="nonsense"):
        getattr(fs, kind)(**KINDS[kind][0], nonsense=1)


@pytest.mark.parametrize(
    "text",
    [
        "Linear(1.0, 0.0)",
        "Linear(steps=10)",
        "Cosine()",
        "Polynomial()",
        "Geometric(1.0, 0.1)",
        "StepDecay(gamma=0.5)",
        "StepDecay(every=3)",
        "MultiStep(gamma=0.5)",
        "MultiStep(milestones=[3])",
        "Piecewise(boundaries=[3])",
        "Piecewise(values=[1.0, 0.5])",
        "InverseSqrt()",
        "InverseTime(every=3)",
        "PowerLaw(exponent=0.5)",
        "PowerLaw(timescale=10)",
        "Tanh()",
        "Rex()",
        "OneMinusSqrt()",
        "Triangular(0.1, 1.0)",
        "Triangular(0.1, up=10)",
        "CosineRestarts()",
        "OneCycle()",
        "OneCycleMomentum()",
        "WarmupStableDecay(warmup=1, stable=1)",
        "WarmupStableDecay(warmup=1, decay=1)",
        "WarmupStableDecay(stable=1, decay=1)",
        "Infinite(warmup=1, cosine=1)",
        "Infinite(warmup=1, plateau=0.1)",
        "Infinite(cosine=1, plateau=0.1)",
        "Samples()",
        "tabulate(abs)",
    ],
)
def test_a_missing_parameter_is_a_type_error(text):
    with pytest.raises(TypeError):
        schedule(text)


@pytest.mark.parametrize(
    "text", ["Constant(1.0, 10)", "Linear(1.0, 0.0, 10)", "Cosine(1.0, 0.0, 10)", "Polynomial(1.0, 0.0, 10)",
             "Geometric(1.0, 0.1, 10)", "Exponential(1.0, 0.9)", "StepDecay(1.0, 0.5, 3)",
             "MultiStep(1.0, [3], 0.5)", "Piecewise([3], [1.0, 0.5])", "InverseSqrt(1.0, 10)", "InverseTime(1.0, 0.1)",
             "PowerLaw(1.0, 0.5, 10)", "Tanh(1.0, 0.0, 10)", "Rex(1.0, 0.0, 10)", "OneMinusSqrt(1.0, 0.0, 10)",
             "Triangular(0.1, 1.0, 10)", "CosineRestarts(1.0, 0.0, 10)", "OneCycle(1.0, 10)",
             "OneCycleMomentum(0.85, 0.95, 10)", "WarmupStableDecay(1.0, 1, 2, 3)", "Infinite(1.0, 1, 2, 0.1)",
             "Constant(1.0).noisy(0.1, 3)"],
)  # fmt: skip
def test_parameters_after_the_values_are_by_name_only(text):
    with pytest.raises(TypeError):
        schedule(text)


def test_exponential_needs_gamma_or_rate():
    with pytest.raises((TypeError, ValueError), match=r"Exponential.*gamma.*rate"):
        fs.Exponential(1.0)


def test_exponential_takes_gamma_or_rate_but_not_both():
    with pytest.raises((TypeError, ValueError), match=r"Exponential.*gamma.*rate"):
        fs.Exponential(1.0, gamma=0.9, rate=0.1)


# Rules between parameters.

HUGE = {"multiplier": LONGEST, "cycles": LONGEST}


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("Piecewise", {"values": [1.0, 0.5]}, "values"),
        ("Piecewise", {"values": [1.0, 0.5, 0.2, 0.1]}, "values"),
        ("Piecewise", {"boundaries": [], "values": [1.0]}, "boundaries"),
        ("Piecewise", {"boundaries": [5, 3]}, "boundaries"),
        ("InverseSqrt", {"shift": -10.0}, "shift"),
        ("InverseSqrt", {"shift": -11}, "shift"),
        ("Tanh", {"lower": 3.0}, "lower"),
        ("Tanh", {"lower": 4.0}, "lower"),
        ("Triangular", {"mode": "triangular"}, "gamma"),
        ("Triangular", {"mode": "triangular2"}, "gamma"),
        ("Triangular", {"up": LONGEST}, "2\\*\\*53"),
        ("Triangular", {"up": LONGEST, "down": None}, "2\\*\\*53"),
        ("InverseSqrt", {"start": 1e290, "shift": -10.0 + 1e-9}, "1e290"),
        ("CosineRestarts", {"first": LONGEST, "multiplier": 1, "cycles": 2}, "2\\*\\*53"),
        ("CosineRestarts", {"first": 1, "multiplier": 2, "cycles": 54}, "2\\*\\*53"),
        ("CosineRestarts", {"first": 2, "multiplier": 1, "cycles": LONGEST}, "2\\*\\*53"),
        ("CosineRestarts", {"first": LONGEST, **HUGE}, "2\\*\\*53"),
        ("CosineRestarts", {"multiplier": 1, "cycles": 10**400}, "2\\*\\*53"),
        ("CosineRestarts", {"multiplier": 2, "cycles": 10**400}, "2\\*\\*53"),
        ("OneCycle", {"pct_start": 0.6}, "pct_start"),
        ("OneCycle", {"peak": 1e200, "div_factor": 1e-200}, "1e290"),
        ("OneCycle", {"peak": 1e200, "final_div_factor": 1e-200}, "1e290"),
        ("OneCycleMomentum", {"pct_start": 0.6}, "pct_start"),
        ("WarmupStableDecay", {"warmup": 0, "stable": 0, "decay": 0}, "steps"),
        ("WarmupStableDecay", {"warmup": LONGEST}, "2\\*\\*53"),
        ("Infinite", {"constant": None}, "constant"),
        ("Infinite", {"constant": None, "cooldown": None}, "end"),
        ("Infinite", {"constant": None, "end": None}, "cooldown"),
        ("Infinite", {"cooldown": None}, "cooldown"),
        ("Infinite", {"end": None}, "end"),
        ("Infinite", {"plateau": 0.0}, "plateau"),
        ("Infinite", {"end": 0.0}, "end"),
        ("Infinite", {"end": -0.1}, "end"),
        ("Infinite", {"plateau": -0.2}, "plateau"),
        ("Infinite", {"cooldown": LONGEST}, "2\\*\\*53"),
        ("Samples", {"values": []}, "values"),
        ("Samples", {"values": np.zeros(MOST_SAMPLES + 1)}, "values"),
        ("Samples", {"values": [0.0] * (MOST_SAMPLES + 1)}, "values"),
    ],
    ids=str,
)
def test_parameters_that_do_not_fit_together_are_a_value_error_that_names_one(kind, changes, named):
    with pytest.raises(ValueError, match=rf"{kind}\b.*{named}.*; \w"):
        getattr(fs, kind)(**{**KINDS[kind][0], **changes})


@pytest.mark.parametrize(
    "values",
    [np.zeros((2, 3)), np.array(0.5), np.array(["0.123456"]), np.array([True]), np.array([1j]), iter([1.0]), {1.0}],
    ids=lambda values: f"{type(values).__name__}-{getattr(values, 'dtype', '')}{getattr(values, 'ndim', '')}",
)
def test_samples_of_the_wrong_type_or_shape_are_a_type_error(values):
    with pytest.raises(TypeError, match=r"Samples\b.*\bvalues\b.*; \w") as caught:
        fs.Samples(values)
    assert "123456" not in str(caught.value)


def test_no_message_prints_the_contents_of_samples():
    with pytest.raises(ValueError, match=r"Samples\b.*\bvalues") as caught:
        fs.Samples(np.array([0.123456789, math.nan, 7.987654321]))
    assert "123456" not in str(caught.value)
    assert "987654" not in str(caught.value)


# The combinators' own parameters.

CALLS = {
    "repeat": (fs.Cosine(steps=10), {"times": 2}, {"times": "at least one or none"}),
    "clip": (fs.Cosine(steps=10), {"low": 0.1, "high": 0.9}, {"low": "finite or none", "high": "finite or none"}),
    "stretch": (fs.Cosine(steps=10), {"factor": 2}, {"factor": "positive"}),
    "skip": (fs.Cosine(steps=10), {"steps": 2}, {"steps": "length"}),
    "speed_up": (fs.Cosine(steps=10), {"factor": 2}, {"factor": "positive"}),
    "head": (fs.Cosine(steps=10), {"steps": 3}, {"steps": "count"}),
    "cooldown": (
        fs.Cosine(steps=10),
        {"at": 5, "steps": 3, "shape": "sqrt", "end": 0.1},
        {"at": "length", "steps": "count", "shape": "choice", "end": "finite"},
    ),
    "noisy": (
        fs.Cosine(steps=10),
        {"limit": 0.1, "seed": 7, "distribution": "normal", "std": 0.5},
        {"limit": "positive share", "seed": "seed", "distribution": "choice", "std": "positive"},
    ),
    "cycle_ends": (fs.CosineRestarts(first=10), {"steps": 30}, {"steps": "not below zero or none"}),
    "tabulate": (fs, {"fn": abs, "steps": 5}, {"steps": "number of samples"}),
}


def call_rows(which):
    for name, (owner, good, rules) in CALLS.items():
        for parameter, rule in rules.items():
            for bad in RULES[rule][which]:
                yield pytest.param(
                    getattr(owner, name), {**good, parameter: bad}, parameter, id=f"{name}-{parameter}-{shown(bad)}"
                )


@pytest.mark.parametrize(("method", "arguments", "parameter"), list(call_rows(0)))
def test_a_method_refuses_what_is_out_of_range(method, arguments, parameter):
    bad = arguments[parameter]
    with pytest.raises(ValueError, match=rf"{method.__name__}\b.*\b{parameter}\b.*; \w") as caught:
        method(**arguments)
    assert tells(str(caught.value), bad) or abs(bad) > 10**300


@pytest.mark.parametrize(("method", "arguments", "parameter"), list(call_rows(1)))
def test_a_method_refuses_what_is_of_the_wrong_type(method, arguments, parameter):
    with pytest.raises(TypeError, match=rf"{method.__name__}\b.*\b{parameter}\b.*; \w") as caught:
        method(**arguments)
    assert tells(str(caught.value), arguments[parameter])
    assert "123456" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("Constant(1.0).repeat(2)", r"repeat\b.*steps"),
        ("Constant(1.0).repeat()", r"repeat\b.*steps"),
        ("CosineRestarts(first=3).repeat(2)", r"repeat\b.*steps"),
        ("Cosine(steps=10).repeat().repeat(2)", r"repeat\b.*steps"),
        ("Cosine(steps=10).repeat(2**50)", r"steps.*2\*\*53"),
        ("Cosine(steps=10).repeat(10**400)", r"2\*\*53"),
        ("Cosine(steps=10).skip(10)", r"skip\b.*steps.*10"),
        ("Cosine(steps=10).skip(2**53)", r"skip\b.*steps"),
        ("Cosine(steps=10).skip(4).skip(6)", r"skip\b.*steps.*6"),
        ("Constant(1.0).skip(2**53).skip(1)", r"skip\b.*steps.*2\*\*53"),
        ("Constant(1.0).skip(2**53 + 1)", r"skip\b.*steps.*2\*\*53"),
        ("Cosine(steps=10).speed_up(Fraction(-1, 3))", r"speed_up\b.*factor.*> 0"),
        ("Cosine(steps=10).speed_up(2.0**53 + 2)", r"speed_up\b.*factor.*2\*\*53"),
        ("Cosine(steps=10).speed_up(10**400)", r"speed_up\b.*factor.*2\*\*53"),
        ("Cosine(steps=10).speed_up(2**30).speed_up(2**30)", r"speed_up\b.*factor.*2\*\*53"),
        ("Constant(1.0).speed_up(1e-17)", r"speed_up\b.*factor.*1e-16"),
        ("Constant(1.0).speed_up(Fraction(1, 10**400))", r"speed_up\b.*factor.*1e-16"),
        ("Cosine(steps=2**40).speed_up(Fraction(1, 2**14))", r"steps.*2\*\*53"),
        ("Cosine(steps=10).clip(0.5, 0.4)", r"clip\b.*low"),
        ("Cosine(steps=10).cooldown(at=2**53, steps=1)", r"2\*\*53"),
        ("Cosine(steps=10).cooldown(at=2**53 - 5, steps=6)", r"2\*\*53"),
        ("Exponential(gamma=1.05).cooldown(at=10**9, steps=6)", r"cooldown\b.*at"),
        ("Cosine(steps=10) + float('nan')", "finite"),
        ("float('inf') + Cosine(steps=10)", "finite"),
        ("Cosine(steps=10) + 1e300", "1e290"),
    ],
)
def test_what_cannot_be_combined_is_a_value_error_with_advice(text, match):
    with pytest.raises(ValueError, match=rf"{match}.*; \w"):
        schedule(text)


def test_clip_needs_a_bound():
    with pytest.raises((TypeError, ValueError), match=r"clip\b.*low.*high.*; \w"):
        fs.Cosine(steps=10).clip()


@pytest.mark.parametrize("other", ["1.0", None, True, 1j, [1.0], {}])
def test_a_sum_with_something_else_is_a_type_error(other):
    with pytest.raises(TypeError):
        fs.Cosine(steps=10) + other
    with pytest.raises(TypeError):
        other + fs.Cosine(steps=10)


@pytest.mark.parametrize("fn", [None, 1.0, "abs", [1.0], fs])
def test_tabulate_refuses_what_cannot_be_called(fn):
    with pytest.raises(TypeError, match=r"tabulate\b.*\bfn\b.*; \w"):
        fs.tabulate(fn, 5)


@pytest.mark.parametrize("result", [None, "0.123456", True, 1j, [1.0], np.array([0.123456, 1.0])], ids=shown)
def test_tabulate_names_the_step_whose_value_is_no_number(result):
    with pytest.raises(TypeError, match=r"tabulate\b.*\b3\b.*; \w") as caught:
        fs.tabulate(lambda t: result if t == 3 else 0.5, 5)
    assert isinstance(result, str) or "123456" not in str(caught.value)


@pytest.mark.parametrize("result", [*NOT_FINITE, 10**400])
def test_tabulate_names_the_step_whose_value_is_not_finite(result):
    with pytest.raises(ValueError, match=r"tabulate\b.*\b3\b.*; \w"):
        fs.tabulate(lambda t: result if t == 3 else 0.5, 5)


def test_tabulate_lets_an_error_of_the_function_through():
    with pytest.raises(ZeroDivisionError):
        fs.tabulate(lambda t: 1 / t, 5)


@pytest.mark.parametrize(("low", "high"), [(None, 0.9), (0.8, "x"), (math.nan, 0.9), (0.8, math.inf)])
def test_the_momentum_of_a_one_cycle_refuses_what_the_twin_refuses(low, high):
    with pytest.raises((TypeError, ValueError), match=r"OneCycleMomentum\b.*\b(low|high)\b.*; \w"):
        fs.OneCycle(steps=10).momentum(low, high)


@pytest.mark.parametrize("steps", [-1, LONGEST + 1, 10**400])
def test_warmup_refuses_steps_out_of_range(steps):
    with pytest.raises(ValueError, match=r"warmup.*steps"):
        fs.Cosine(steps=10).warmup(steps)


@pytest.mark.parametrize("steps", RULES["count"][1])
def test_warmup_refuses_steps_of_the_wrong_type(steps):
    with pytest.raises(TypeError, match=r"warmup.*steps"):
        fs.Cosine(steps=10).warmup(steps)


def test_warmup_refuses_a_sum_of_horizons_above_the_longest():
    with pytest.raises(ValueError, match=r"steps"):
        fs.Cosine(steps=LONGEST).warmup(1)


@pytest.mark.parametrize("start", NOT_FINITE)
def test_warmup_refuses_a_start_out_of_range(start):
    with pytest.raises(ValueError, match=r"warmup.*start"):
        fs.Cosine(steps=10).warmup(3, start=start)


@pytest.mark.parametrize("start", RULES["finite"][1])
def test_warmup_refuses_a_start_of_the_wrong_type(start):
    with pytest.raises(TypeError, match=r"warmup.*start"):
        fs.Cosine(steps=10).warmup(3, start=start)


def test_warmup_refuses_an_exponential_rise_from_zero():
    with pytest.raises(ValueError, match=r"warmup.*exponential.*start|warmup.*start.*exponential"):
        fs.Cosine(steps=10).warmup(3, shape="exponential")


@pytest.mark.parametrize("shape", ["", "Linear", "quadratic"])
def test_warmup_names_the_shapes_it_knows(shape):
    with pytest.raises(ValueError, match=r"warmup.*shape") as caught:
        fs.Cosine(steps=10).warmup(3, shape=shape)
    assert all(name in str(caught.value) for name in ["linear", "cosine", "constant", "exponential", "log"])


@pytest.mark.parametrize("shape", [None, 1, True, ["linear"]])
def test_warmup_refuses_a_shape_of_the_wrong_type(shape):
    with pytest.raises(TypeError, match=r"warmup.*shape"):
        fs.Cosine(steps=10).warmup(3, shape=shape)
