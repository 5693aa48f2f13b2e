"""The native scalar functions against mpmath."""

import math
import random

import mpmath
import pytest

from fastsched import _core


def ulps(value: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(value) - exact) / math.ulp(float(exact)))


def test_power_is_within_two_ulp_of_mpmath():
    draw = random.Random(2)
    with mpmath.workprec(200):
        for _ in range(2000):
            x = 2.0 ** draw.uniform(-1000.0, 1000.0)
            y = draw.uniform(-900.0, 900.0) / math.log2(x)
            assert ulps(_core.power(x, y), mpmath.mpf(x) ** mpmath.mpf(y)) <= 2.0, (x, y)


def test_power_of_a_beta_is_within_two_ulp_of_mpmath_at_any_step():
    draw = random.Random(3)
    with mpmath.workprec(200):
        for beta in (0.9, 0.95, 0.99, 0.999, 0.9999, 1.0 - 2.0**-52):
            for _ in range(200):
                step = float(draw.randrange(1, int(min(700.0 / -math.log2(beta), 2.0**53))))
                assert ulps(_core.power(beta, step), mpmath.mpf(beta) ** int(step)) <= 2.0, (beta, step)


@pytest.mark.parametrize(
    ("x", "y", "exact"),
    [
        (0.0, 3.0, 0.0),
        (1.0, 2.0**53, 1.0),
        (0.5, 3.0, 0.125),
        (0.9, 0.0, 1.0),
        (0.9, 2.0**53, 0.0),
        (2.0, -1.0, 0.5),
    ],
)
def test_power_at_its_ends(x, y, exact):
    assert _core.power(x, y) == exact
