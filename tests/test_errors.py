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
    "flag": ([], [None, "no", 0.5, 1j, {}]),
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
        {"start": 1.0, "end": 0.1, "steps": 10, "power": 2.0},
        {"start": "finite", "end": "finite", "steps": "count", "power": "not negative"},
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
    assert re.match(rf"{kind}\b.*\b{parameter}\b", message)
    assert tells(message, bad) or abs(bad) > 10**300  # a number of 400 digits may be shortened


@pytest.mark.parametrize(("kind", "good", "parameter", "bad"), list(rows(1)))
def test_a_wrong_type_is_a_type_error_that_says_who_what_and_which(kind, good, parameter, bad):
    message = refuse(kind, good, parameter, bad, TypeError)
    assert re.match(rf"{kind}\b.*\b{parameter}\b", message)
    assert tells(message, bad)


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [(k, p) for k, (_, rules) in KINDS.items() for p, rule in rules.items() if rule != "flag"],
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
    ],
)
def test_a_missing_parameter_is_a_type_error(text):
    with pytest.raises(TypeError):
        schedule(text)


@pytest.mark.parametrize(
    "text", ["Constant(1.0, 10)", "Linear(1.0, 0.0, 10)", "Cosine(1.0, 0.0, 10)", "Polynomial(1.0, 0.0, 10)",
             "Geometric(1.0, 0.1, 10)", "Exponential(1.0, 0.9)", "StepDecay(1.0, 0.5, 3)",
             "MultiStep(1.0, [3], 0.5)"],
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


# The combinator's own parameters.


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
