"""Every curve exists twice, under one name: in C++ and in plain Python."""

import inspect
import math
import re

import numpy as np
import pytest

import fastsched as fs
from fastsched import _core, curves
from fastsched._program import INSTRUCTION, Curve, compile_program

NUMBERS = {  # one curve of each kind: steps, p, q, r
    "constant": (math.inf, 0.0, 0.0, 0.0),
    "linear": (100.0, 0.01, 0.0, 0.0),
    "half_cosine": (100.0, 1e-4, 0.0, 0.0),
    "cosine": (100.0, 1e-4, 1.75, 0.01),
    "shaped_cosine": (100.0, 0.5, 2.0, 3.0),
    "polynomial": (100.0, 0.9, 0.01, 0.0),
    "exponential": (math.inf, -0.01, 1e-19, 0.0),
    "staircase": (math.inf, -0.5, 1e-18, 7.0),
    "logarithmic": (100.0, 1.0 / math.log2(101.0), 0.0, 0.0),
}
FIELDS = ["t", "start", "end", "steps", "p", "q", "r"]


def one_curve(curve: Curve) -> _core.Program:
    code = np.zeros(1, INSTRUCTION)
    code[0] = (curves.CODES[curve.name], 1, 0.0, *curve[1:])
    return _core.Program(code)


def test_names_and_codes_agree():
    assert _core.codes == curves.CURVES + curves.OPERATIONS
    assert (curves.CODES["branch"], curves.CODES["scale"]) == (curves.BRANCH, curves.SCALE)


def test_every_curve_is_tested_here():
    assert set(NUMBERS) == set(curves.CURVES)


@pytest.mark.parametrize("name", curves.CURVES)
def test_plain_curve_has_the_common_signature(name):
    assert list(inspect.signature(getattr(curves, name)).parameters) == FIELDS


@pytest.mark.parametrize("name", curves.CURVES)
def test_plain_dispatch_reaches_each_curve_by_its_code(name):
    steps, *pqr = NUMBERS[name]
    numbers = (37.0, 0.8, 0.2, steps, *pqr)
    assert curves.curve(curves.CODES[name], *numbers) == getattr(curves, name)(*numbers)


@pytest.mark.parametrize("ends", [(0.8, 0.2), (0.8, -0.2), (-0.5, 0.0)])
@pytest.mark.parametrize("name", curves.CURVES)
def test_native_and_plain_agree(name, ends):
    steps, *pqr = NUMBERS[name]
    program = one_curve(Curve(name, *ends, steps, *pqr))
    for t in (0.0, 1.0, 37.0, 49.0, 50.0, 51.0, 63.5, 99.0, 100.0, 250.0):
        plain = curves.curve(curves.CODES[name], t, *ends, steps, *pqr)
        # the contract's bound for the plain twin
        assert program.value(t) == pytest.approx(plain, rel=0.0, abs=1e-12 * 0.8)


@pytest.mark.parametrize("name", curves.CURVES)
def test_every_curve_is_reached_by_a_public_kind(name):
    made = {
        fs.Constant(): "constant",
        fs.Linear(1.0, 0.0, steps=9): "linear",
        fs.Cosine(steps=9): "half_cosine",
        fs.Cosine(steps=9, cycles=2.0): "cosine",
        fs.Cosine(steps=9, k=2.0): "shaped_cosine",
        fs.Polynomial(steps=9, power=2.0): "polynomial",
        fs.Geometric(1.0, 0.1, steps=9): "exponential",
        fs.StepDecay(gamma=0.5, every=3): "staircase",
        fs.Logarithmic(steps=9): "logarithmic",
    }
    codes = {int(compile_program(schedule)["code"][0]) for schedule in made}
    assert curves.CODES[name] in codes


def broken(**fields):
    code = compile_program(fs.Linear(1.0, 0.0, steps=9) * fs.Constant(2.0))
    for name, value in fields.items():
        code[name][-1] = value
    return code


@pytest.mark.parametrize(
    "code",
    [
        np.zeros(0, INSTRUCTION),
        np.zeros(3, INSTRUCTION),
        broken(code=99),
        broken(code=-1),
        broken(code=curves.BRANCH),
        broken(code=0, steps=1.0),
        broken(next=0),
        broken(next=2**30),
        broken(next=-1),
        broken(offset=-1.0),
        broken(offset=math.nan),
        broken(offset=0.5),
    ],
)
def test_a_broken_program_is_refused(code):
    with pytest.raises(ValueError, match=re.escape("Program: ")):
        _core.Program(code)


@pytest.mark.parametrize("source", [None, "code", 3, [1.0], np.zeros((2, 2))])
def test_what_is_no_program_is_refused(source):
    with pytest.raises((TypeError, ValueError), match="pass the array"):
        _core.Program(source)
