"""Every curve exists twice, under one name: in C++ and in plain Python."""

import inspect
import math
import re

import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import same_bits, schedule, window

import fastsched as fs
from fastsched import _core, curves
from fastsched._program import FIELDS as FIELDS_OF_CODE
from fastsched._program import INSTRUCTION, Curve, compile_program

NUMBERS = {  # one curve of each kind: steps, then p, q, r, s, u, v as far as it needs them
    "constant": (math.inf,),
    "linear": (100.0, 0.01),
    "half_cosine": (100.0, 1e-4),
    "cosine": (100.0, 1e-4, 1.75, 0.01),
    "shaped_cosine": (100.0, 1.25, 2.0, 3.0),
    "warped_cosine": (100.0, 1.5, 0.01),
    "cosine_power": (100.0, 2.5, 0.01),
    "polynomial": (100.0, 0.9, 0.01),
    "warped_polynomial": (100.0, 1.5, 0.01, 0.9),
    "power_rise": (100.0, 2.0, 0.01),
    "exponential": (math.inf, -0.01, 1e-19, 1024.0),
    "staircase": (math.inf, -0.5, 1e-18, 7.0, 512.0),
    "logarithmic": (100.0, 1.0 / math.log2(101.0)),
    "inverse_time": (math.inf, 0.01),
    "inverse_staircase": (math.inf, 0.1, 0.0, 7.0),
    "inverse_sqrt": (math.inf, 10.0, 12.0, 1e-17),
    "power_law": (math.inf, -0.7, 10.0, 0.1),
    "tanh": (100.0, -20.2, 1e-15, 1e-32, 0.2885, 1e-17, 1e-34),
    "rex": (100.0,),
    "one_minus_sqrt": (100.0, 0.01),
    "half_decay": (100.0, 0.01),
    "damped": (math.inf, 10.0, 20.0, 0.0, -0.01, 1e-19, 1024.0),
    "one_cycle": (100.0, 0.9, 30.5, 1.0, 1.0),
    "restarts": (math.inf, 10.0, 2.0, 0.0, -0.1, 1e-18),
    "triangle": (math.inf, 10.0, 20.0, 1.0),
}
FIELDS = ["t", "start", "end", "steps", "p", "q", "r", "s", "u", "v"]
NO_SAMPLES = np.zeros(0)
LONGEST = oracles.LONGEST


def numbers_of(name):
    return (*NUMBERS[name], *[0.0] * (7 - len(NUMBERS[name])))


def one_curve(curve: Curve) -> _core.Program:
    code = np.zeros(1, INSTRUCTION)
    code[0] = (curves.CODES[curve.name], 1, 0.0, *curve[1:])
    return _core.Program(code, NO_SAMPLES)


def plain_program(schedule):
    """The interpreter of curves.py as plain Python: a function of the step."""
    code = compile_program(schedule)
    columns = [
        code.instructions["code"],
        code.instructions["next"],
        *(code.instructions[name] for name in FIELDS_OF_CODE),
    ]
    rows = np.column_stack(columns).astype(np.float64)
    scratch = np.zeros(curves.SCRATCH_SIZE)

    def value(step):
        out = np.zeros(1)
        curves.window(rows, 0, len(rows), code.samples, float(step), scratch, out)
        return float(out[0])

    return value


def test_names_and_codes_agree():
    assert _core.codes == curves.CURVES + curves.OPERATIONS
    assert [getattr(curves, name.upper()) for name in curves.CODES] == list(curves.CODES.values())


def test_every_curve_is_tested_here():
    assert set(NUMBERS) == set(curves.CURVES)


@pytest.mark.parametrize("name", curves.CURVES)
def test_plain_curve_has_the_common_signature(name):
    assert list(inspect.signature(getattr(curves, name)).parameters) == FIELDS


@pytest.mark.parametrize("ends", [(0.8, 0.2), (0.8, -0.2), (-0.5, 0.0), (0.2, 0.8)])
@pytest.mark.parametrize("name", curves.CURVES)
def test_native_and_plain_agree(name, ends):
    steps, *rest = numbers_of(name)
    program = one_curve(Curve(name, *ends, steps, *rest))
    for t in (0.0, 1.0, 37.0, 49.0, 50.0, 51.0, 63.5, 99.0):
        plain = getattr(curves, name)(t, *ends, steps, *rest)
        # the contract's bound for the plain twin
        assert program.value(t) == pytest.approx(plain, rel=0.0, abs=1e-12 * 0.9)


@pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)
def test_the_plain_interpreter_agrees_with_native(case):
    s = schedule(case)
    plain = plain_program(s)
    for step in window(case, count=12).tolist()[::3]:
        assert plain(step) == pytest.approx(s(step), rel=0.0, abs=1e-12 * float(case.size(step)))


@pytest.mark.parametrize("name", curves.CURVES)
def test_every_curve_is_reached_by_a_public_kind(name):
    made = [
        fs.Constant(),
        fs.Linear(1.0, 0.0, steps=9),
        fs.Cosine(steps=9),
        fs.Cosine(steps=9, cycles=2.0),
        fs.Cosine(steps=9, k=2.0),
        fs.Cosine(steps=9, exponent=2.0),
        fs.Cosine(steps=9, exponent=2.0, k=2.0),
        fs.Polynomial(steps=9, power=2.0),
        fs.Polynomial(steps=9, power=2.0, k=2.0),
        fs.Geometric(1.0, 0.1, steps=9),
        fs.StepDecay(gamma=0.5, every=3),
        fs.Logarithmic(steps=9),
        fs.InverseTime(rate=1.0),
        fs.InverseTime(rate=1.0, staircase=True),
        fs.InverseSqrt(timescale=3),
        fs.PowerLaw(exponent=1.0, timescale=3),
        fs.Tanh(steps=9),
        fs.Rex(steps=9),
        fs.OneMinusSqrt(steps=9),
        fs.OneCycle(steps=9),
        fs.CosineRestarts(first=3),
        fs.Triangular(0.0, 1.0, up=3),
        fs.Triangular(0.0, 1.0, up=3, mode="exp_range", gamma=0.9),
        fs.WarmupStableDecay(warmup=0, stable=0, decay=3, shape="square"),
        fs.WarmupStableDecay(warmup=0, stable=0, decay=3, shape="exponential"),
    ]
    codes = {int(compile_program(made_of).instructions["code"][0]) for made_of in made}
    assert curves.CODES[name] in codes


PRODUCT = fs.Linear(1.0, 0.0, steps=9) * fs.Constant(2.0)
REPEAT = fs.Linear(1.0, 0.0, steps=9).repeat()
PACE = fs.Linear(1.0, 0.0, steps=9).speed_up(2)


def broken(schedule=PRODUCT, at=-1, **fields):
    code = compile_program(schedule).instructions
    for name, value in fields.items():
        code[name][at] = value
    return code


@pytest.mark.parametrize(
    "code",
    [
        np.zeros(0, INSTRUCTION),
        np.zeros(3, INSTRUCTION),
        broken(code=99),
        broken(code=-1),
        broken(code=curves.BRANCH),
        broken(code=curves.LINEAR, steps=1.0),
        broken(next=0),
        broken(next=2**30),
        broken(next=-1),
        broken(offset=-(2.0**53) - 2.0),
        broken(offset=2.0**53 + 2.0),
        broken(offset=-0.5),
        broken(offset=-math.inf),
        broken(offset=math.nan),
        broken(offset=0.5),
        broken(fs.Linear(1.0, 0.0, steps=9), steps=math.inf),
        broken(fs.Linear(1.0, 0.0, steps=9), steps=2.5),
        broken(fs.Cosine(steps=9, k=2.0), steps=math.nan),
        broken(fs.Samples([1.0, 2.0]), p=1.0),
        broken(fs.Samples([1.0, 2.0]), p=-1.0),
        broken(fs.Samples([1.0, 2.0]), p=math.nan),
        broken(fs.Samples([1.0, 2.0]), steps=math.inf),
        broken(REPEAT, code=curves.CYCLE),
        broken(REPEAT, at=0, code=curves.RESUME),
        broken(REPEAT, at=0, p=0.0),
        broken(REPEAT, at=0, p=0.5),
        broken(REPEAT, at=0, steps=math.nan),
        broken(REPEAT, at=0, code=curves.PACE, q=0.0),
        broken(PACE, code=curves.PACE),
        broken(PACE, at=0, code=curves.RESUME),
        broken(PACE, at=0, p=0.0),
        broken(PACE, at=0, p=-1.0),
        broken(PACE, at=0, p=math.inf),
        broken(PACE, at=0, q=0.0),
        broken(PACE, at=0, q=math.nan),
        broken(PACE, at=0, r=-1.0),
        broken(PACE, at=0, r=0.5),
        broken(PACE, at=0, r=math.inf),
        broken(PACE, at=0, steps=0.5),
        broken(PACE, at=0, steps=math.nan),
        broken(fs.Exponential(gamma=0.9), r=0.0),
        broken(fs.Exponential(gamma=0.9), r=3.0),
        broken(fs.Exponential(gamma=0.9), r=2048.0),
        broken(fs.StepDecay(gamma=0.9, every=3), r=0.0),
        broken(fs.StepDecay(gamma=0.9, every=3), r=math.inf),
        broken(fs.StepDecay(gamma=0.9, every=3), r=5e-324),
        broken(fs.StepDecay(gamma=0.9, every=3), s=0.0),
        broken(fs.InverseTime(rate=1.0, staircase=True), r=-1.0),
        broken(fs.CosineRestarts(first=3), p=0.0),
        broken(fs.CosineRestarts(first=3), q=0.5),
        broken(fs.Triangular(0.0, 1.0, up=3), p=0.0),
        broken(fs.Triangular(0.0, 1.0, up=3), q=math.inf),
        broken(fs.Triangular(0.0, 1.0, up=3, mode="exp_range", gamma=0.9), v=5.0),
        broken(fs.OneCycle(steps=9), q=10.0),
        broken(fs.OneCycle(steps=9), q=math.nan),
        broken(fs.Constant().noisy(0.1), p=-1.0),
        broken(fs.Constant().noisy(0.1), q=2.0**32),
        broken(fs.Constant().noisy(0.1), q=0.5),
    ],
)
def test_a_broken_program_is_refused(code):
    with pytest.raises(ValueError, match=re.escape("Program: ")):
        _core.Program(code, np.zeros(2))


@pytest.mark.parametrize(
    "s",
    [fs.Samples([1.0, 0.5]), fs.Exponential(gamma=0.5), fs.StepDecay(gamma=0.5, every=3), fs.CosineRestarts(first=3)],
    ids=str,
)
def test_a_program_that_is_early_gives_its_first_value_and_reads_nothing_before_it(s):
    program = _core.Program(broken(s, offset=2.0**40), compile_program(s).samples)
    assert program.value(3.0) == 1.0
    out = np.zeros((5000, 1))
    _core.Row([program], np.zeros(1, np.int32), np.ones(1)).table(0, out)
    assert out[0, 0] == 1.0
    assert np.all((out >= 0.0) & (out <= 1.0))


HOSTILE = [
    0.0,
    -0.0,
    0.5,
    1.0,
    -1.0,
    7.0,
    511.0,
    -511.0,
    2.0**53,
    -(2.0**53),
    1e300,
    5e-324,
    math.inf,
    -math.inf,
    math.nan,
]


@given(data=st.data())
def test_a_program_of_any_numbers_is_refused_or_runs_and_ends(data):
    s = schedule(data.draw(st.sampled_from(list(oracles.EXAMPLES.values()))))
    code, samples = compile_program(s)
    for _ in range(data.draw(st.integers(1, 4))):
        i = data.draw(st.integers(0, len(code) - 1))
        name = data.draw(st.sampled_from(INSTRUCTION.names))
        whole = st.integers(-1, len(curves.CODES) if name == "code" else len(code) + 1)
        code[name][i] = data.draw(whole if name in ("code", "next") else st.sampled_from(HOSTILE) | st.floats())
    try:
        program = _core.Program(code, samples)
    except ValueError:
        return
    program.values(np.array([0.0, 0.3, 511.7, 2.0**53]), np.zeros(4))
    row = _core.Row([program], np.zeros(1, np.int32), np.ones(1))
    row.table(0, np.zeros((700, 1)))
    row.table(LONGEST - 699, np.zeros((700, 1)))


@pytest.mark.parametrize("offset", [-(2.0**53), -(2.0**53) + 3.0, -5.0, 0.0])
@pytest.mark.parametrize("case", oracles.EXAMPLES.values(), ids=oracles.EXAMPLES)
def test_a_program_may_begin_before_step_0(case, offset):
    code, samples = compile_program(schedule(case))
    code["offset"] += offset
    if np.any(np.abs(code["offset"]) > LONGEST):
        return
    program = _core.Program(code, samples)
    for start in (0, LONGEST - 699):
        table, values = np.zeros((700, 1)), np.zeros(700)
        _core.Row([program], np.zeros(1, np.int32), np.ones(1)).table(start, table)
        program.values(start + np.arange(700.0), values)
        assert same_bits(table[:, 0], values)


@pytest.mark.parametrize("source", [None, "code", 3, [1.0], np.zeros((2, 2))])
def test_what_is_no_program_is_refused(source):
    with pytest.raises((TypeError, ValueError), match="pass the array"):
        _core.Program(source, NO_SAMPLES)


@pytest.mark.parametrize("samples", [None, [1.0], np.zeros(2, np.float32), np.zeros((2, 2)), np.zeros(4)[::2]])
def test_samples_that_are_no_array_of_doubles_are_refused(samples):
    with pytest.raises((TypeError, ValueError), match="samples"):
        _core.Program(compile_program(fs.Samples([1.0, 2.0])).instructions, samples)


def test_what_no_constructor_made_is_refused_and_not_run():
    program, grid = _core.Program.__new__(_core.Program), _core.Grid.__new__(_core.Grid)
    with pytest.raises((TypeError, ValueError)):
        program.value(0.0)
    with pytest.raises((TypeError, ValueError)):
        _core.Row([program], np.zeros(1, np.int32), np.ones(1))
    assert grid.at(0, {}) in (True, False)


@pytest.mark.parametrize("words", [(0, 0), (7, 3), (2**64 - 1, 2**53), (2**32, 2**32 + 1)])
def test_noise_is_the_same_to_the_bit_in_plain_python(words):
    seed, step = words
    e = fs.Constant(1.0).noisy(0.5, seed=seed, distribution="uniform")(step) - 1.0
    assert curves.noise(*divmod(seed, 2**32), step, 0.5, 0.0) == pytest.approx(e, rel=0.0, abs=2**-52)
