"""Short texts for schedules: what they mean, and that a wrong one is refused at its column."""

import inspect
import io
import re
import sys

import oracles
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import schedule

import fastsched as fs
from fastsched import recipes, spec

KINDS = sorted(set(oracles.KINDS) - {"Samples"})


def small(name):
    """Cosine -> cosine, OneMinusSqrt -> one_minus_sqrt."""
    return "_".join(re.findall("[A-Z][a-z]*", name)).lower()


# ---- what a text means ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("warmup(500) > cosine(9500, end=0.1)", fs.Cosine(end=0.1, steps=9500).warmup(500)),
        ("linear(0, 1, 5) > constant(1, 10) > rex(5)", fs.Constant(steps=10).warmup(5).then(fs.Rex(steps=5))),
        ("warmup(5, 0.1, cosine) > rex(9)", fs.Rex(steps=9).warmup(5, start=0.1, shape="cosine")),
        ("warmup(3) > 0.5 * cosine(9)", (fs.Cosine(steps=9) * 0.5).warmup(3)),
        ("rex(4) > warmup(5) > rex(9)", fs.Rex(steps=4).then(fs.Rex(steps=9).warmup(5))),
        ("warmup(2) > warmup(3) > rex(9)", fs.Rex(steps=9).warmup(3).warmup(2)),
        ("0.5 * cosine(100) + 0.1", fs.Cosine(steps=100) * 0.5 + 0.1),
        ("cosine(100) * rex(100)", fs.Cosine(steps=100) * fs.Rex(steps=100)),
        ("rex(9) + 2 * rex(5)", fs.Rex(steps=9) + fs.Rex(steps=5) * 2),
        ("rex(9) * (1 + rex(5))", fs.Rex(steps=9) * (fs.Rex(steps=5) + 1)),
        ("rex(5) > rex(5) + 1", fs.Rex(steps=5).then(fs.Rex(steps=5) + 1)),
        ("(rex(5) > rex(6)).repeat(3)", fs.Rex(steps=5).then(fs.Rex(steps=6)).repeat(3)),
        ("cosine(10).repeat().clip(low=0.1)", fs.Cosine(steps=10).repeat().clip(low=0.1)),
        ("one_cycle(100).momentum(0.8, 0.9)", fs.OneCycle(steps=100).momentum(0.8, 0.9)),
        ("constant().cooldown(at=10, steps=5, shape=sqrt)", fs.Constant().cooldown(at=10, steps=5, shape="sqrt")),
        ("multi_step([30, 60], 0.1)", fs.MultiStep(milestones=[30, 60], gamma=0.1)),
        ("multi_step(milestones=(30,), gamma=0.1)", fs.MultiStep(milestones=[30], gamma=0.1)),
        ("samples([1, .5, 2.5e-1])", fs.Samples([1.0, 0.5, 0.25])),
        ("triangular(0, 1, 5, mode='triangular2')", fs.Triangular(0.0, 1.0, up=5, mode="triangular2")),
        ("exponential(gamma=.9, staircase=true)", fs.Exponential(gamma=0.9, staircase=True)),
        ("cosine_restarts(10, cycles=None)", fs.CosineRestarts(first=10)),
        ("0.25", fs.Constant(0.25)),
        ("2 * 0.25 + 1", fs.Constant(1.5)),
        ("cosine(1e4)", fs.Cosine(steps=10_000)),
        ("cosine(10_000)", fs.Cosine(steps=10_000)),
        ("linear(-1, -2.5e-3, 7)", fs.Linear(-1.0, -0.0025, steps=7)),
        ("  cosine ( 7 , end = 0.5 )\n", fs.Cosine(1.0, 0.5, steps=7)),
        ("rex(9)+0.5", fs.Rex(steps=9) + 0.5),
        ("Cosine(1.0, 0.1, steps=95)", fs.Cosine(1.0, 0.1, steps=95)),
        ("bert(steps=1000)", recipes.bert(1000)),
        ("noam(400, d_model=512)", recipes.noam(400, d_model=512)),
        ("torch.CosineAnnealingLR(0.1, T_max=100)", fs.compat.torch.CosineAnnealingLR(0.1, T_max=100)),
        ("optax.cosine_decay_schedule(0.1, 100)", fs.compat.optax.cosine_decay_schedule(0.1, 100)),
        (
            "transformers.get_linear_schedule_with_warmup(5e-5, num_warmup_steps=10, num_training_steps=100)",
            fs.compat.transformers.get_linear_schedule_with_warmup(5e-5, num_warmup_steps=10, num_training_steps=100),
        ),
        ("torch.LambdaLR(0.1, cosine(100))", fs.compat.torch.LambdaLR(0.1, fs.Cosine(steps=100))),
    ],
)
def test_a_text_is_the_schedule_that_python_makes(text, expected):
    assert spec.parse(text) == expected


@given(case=st.one_of([row.cases() for row in oracles.KINDS.values()]))
def test_a_kind_goes_by_its_small_name(case):
    kind = case.text.partition("(")[0]
    text = case.text.replace(f"{kind}(", f"{small(kind)}(", 1)
    assert spec.parse(text) == schedule(case)


@pytest.mark.parametrize("kind", KINDS)
def test_values_without_a_name_are_first_those_that_must_be_given(kind):
    parameters = inspect.signature(getattr(fs, kind)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty]
    case = next(case for name, case in oracles.EXAMPLES.items() if name.partition("-")[0] == kind)
    values = [case.arguments[name] for name in needed]
    others = {name: value for name, value in case.arguments.items() if name not in needed}
    texts = [repr(value) for value in values] + [f"{name}={value!r}" for name, value in others.items()]
    assert spec.parse(f"{small(kind)}({', '.join(texts)})") == schedule(case)


@given(case=st.one_of(list(oracles.CASES.values())))
def test_the_repr_of_any_schedule_is_a_text_for_it(case):
    made = schedule(case)
    assert spec.parse(repr(made)) == made


@pytest.mark.parametrize("name", oracles.EXAMPLES)
def test_repr_and_json_are_texts_for_a_schedule(name):
    made = schedule(oracles.EXAMPLES[name])
    assert spec.parse(repr(made)) == spec.parse(f"  {made.to_json()}\n") == made


def test_every_name_can_be_called():
    for name in spec.names():
        with pytest.raises(spec.SpecError) as error:
            spec.parse(f"{name}(nonsense=1)")
        assert "got 'nonsense'" in str(error.value)


# ---- refusals ----


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", 0, "text must be an expression, got nothing; pass one such as cosine(9500)"),
        ("warmup(5) > cosin(95)", 12, "got 'cosin'; did you mean cosine or cosine_restarts?"),
        ("Cosin(95)", 0, "got 'Cosin'; did you mean Cosine"),
        ("cosine(9, stop=1)", 10, "cosine must have the parameter, got 'stop'; did you mean steps?"),
        ("cosine(end=1)", 0, "cosine: steps must be given, got nothing; add steps=..."),
        ("cosine(0)", 7, "Cosine: steps must be >= 1, got 0; for a fixed value use Constant(1.0)"),
        ("cosine(end=1, steps=0.5)", 14, "Cosine: steps must be an int, got 0.5"),
        ("multi_step([30, 'x'], 0.1)", 11, "MultiStep: milestones[1] must be an int, got 'x'"),
        ("cosine(5, 1, 0, 1, 1, 1, 7)", 25, "cosine must get at most 6 values without a name, got more; leave it out"),
        ("Cosine(1, 0, 5)", 13, "Cosine must get at most 2 values without a name, got more; name it: steps"),
        ("cosine(5, steps=6)", 10, "cosine: steps must be given once, got it twice; leave one out"),
        ("cosine(end=1, 5)", 14, "cosine: values without a name must come first, got one later; name it"),
        ("cosine", 0, "a part must be a schedule or a number, got 'cosine'; write cosine(...)"),
        ("'a b'", 0, "a part must be a schedule or a number, got 'a b'; pass such as cosine(9500)"),
        ("[1, 2]", 0, "a part must be a schedule or a number, got a value of type tuple"),
        ("true", 0, "a part must be a schedule or a number, got True"),
        ("cosine(5) + rex", 10, "a part must be a schedule or a number, got 'rex'; write rex(...)"),
        ("cosine(5) * None", 10, "a part must be a schedule or a number, got None"),
        ("warmup(5)", 9, "> must follow warmup(...), then what it is the warmup of, got the end; add it"),
        ("warmup(5) >", 11, "a number, a name or a parenthesis must follow, got the end; add one"),
        ("warmup(0) > rex(5)", 0, "warmup: steps must be >= 1, got 0; leave warmup out if there is none"),
        ("2 * warmup(5) > rex(5)", 4, "warmup(...) must stand before >, got it elsewhere"),
        ("warmup(5) + 1 > rex(5)", 0, "warmup(...) must stand before >, got it elsewhere"),
        ("warmup(5).repeat(2) > rex(5)", 0, "warmup(...) must stand before >, got it elsewhere"),
        ("constant(1) > rex(5)", 12, "then: the schedule before it must end, got one of kind Constant"),
        ("rex(5) - 0.1", 7, "- must be the sign of a number, got it alone; to subtract, add -1 * what to subtract"),
        ("rex(5)-0.1", 6, "an operator must follow, got '-0.1'; join parts with >, + or *"),
        ("rex(5))", 6, "an operator must follow, got ')'"),
        ("((rex(5))", 9, ") must close the parenthesis, got the end; add it"),
        ("rex(5 6)", 6, ", must stand between arguments, got '6'; add it"),
        ("[1 2]", 3, ", must stand between items, got '2'; add it"),
        ("rex(5", 5, ", must stand between arguments, got the end; add it"),
        ("rex(5x)", 4, "a number must be written as in Python, got other signs in it; write 0.1 or 1e-3"),
        ("rex(1.2.3)", 4, "a number must be written as in Python"),
        ("rex('5", 4, "a string must have an end and no backslash, got one without; close it"),
        ("rex(5) ; rex(6)", 7, "there must be no ';'"),
        ("rex(\u00e9)", 4, "there must be no '\u00e9'"),
        ("rex(1e400)", 4, "a number must be at most 1e290 in size, got '1e400'; pass a smaller one"),
        ("1e200 * 1e200", 6, "a number must be at most 1e290 in size, got more; pass smaller ones"),
        (f"rex({'1' * 41})", 4, "a number must have at most 40 signs, got 41; round it"),
        ("rex(5).speed_up(Fraction(1, 0))", 28, "Fraction: denominator must be >= 1, got 0"),
        ("rex(5).momentum()", 7, "a method must be one that makes a schedule, got 'momentum'; pass one of then"),
        ("rex(5).to_json()", 7, "got 'to_json'"),
        ("rex(5).__class__()", 7, "got '__class__'"),
        ("rex(5).steps", 7, "got 'steps'"),
        ("0.5 .repeat(2)", 5, "before a dot there must be a schedule, got 0.5; call a kind: cosine(9500)"),
        ("tensorflow.cosine(5)", 0, "a name before a dot must be a framework, or be called, got 'tensorflow'"),
        ("torch.CosineAnealingLR(1)", 6, "torch must have the name, got 'CosineAnealingLR'; did you mean Cosine"),
        ("torch.CosineAnnealingLR", 23, "( must follow a name, got the end; add it"),
        ("torch.StepLR(0.1)", 6, "torch.StepLR: step_size must be given, got nothing; add step_size=..."),
        (
            "torch.LambdaLR(0.1, evil)",
            20,
            "LambdaLR: lr_lambda must be a function, got 'evil'; strings are not evaluated",
        ),
        ("torch.__name__()", 6, "torch must have the name, got '__name__'"),
        ("bert(5, warmup=5)", 8, "bert: warmup must be shorter than all 5 updates, got 5; pass a shorter one"),
        ("(" * 65 + "1", 64, "there must be at most 64 levels, got more; flatten them"),
    ],
)
def test_a_wrong_text_is_refused_at_its_column(text, column, message):
    with pytest.raises(spec.SpecError) as error:
        spec.parse(text)
    assert message in str(error.value)
    assert error.value.column == column


@pytest.mark.parametrize("position", [0, 5, 500, 5000])
def test_the_caret_stands_below_the_fault_in_a_text_of_any_length(position):
    text = "1 + " * position + "? + " + "1 + " * 600 + "1"
    with pytest.raises(spec.SpecError) as error:
        spec.parse(text)
    _, line, caret = str(error.value).split("\n")
    assert line[caret.index("^")] == "?"
    assert len(line) < 90
    assert error.value.column == 4 * position


def test_a_message_has_no_control_characters():
    with pytest.raises(spec.SpecError) as error:
        spec.parse("rex(5)\n\t\x1b[31m")
    assert "\x1b" not in str(error.value)
    assert str(error.value).count("\n") == 2


@given(text=st.text("warmupcosinel0159.,()[]>+*='\" -_{}:\n") | st.text())
@example(text="rex(5).then(rex(5)).warmup(")
@example(text='{"fastsched": 1, "schedule": []}')
@example(text="{" * 100_000)
def test_any_text_is_a_schedule_or_a_spec_error(text):
    try:
        made = spec.parse(text)
    except spec.SpecError:
        return
    assert isinstance(made, fs.Schedule)


def test_a_text_that_is_too_long_is_refused():
    with pytest.raises(spec.SpecError, match="at most 2\\*\\*20 characters, got 1048577"):
        spec.parse(" " * (2**20 + 1))


def test_a_chain_of_thousands_of_parts_is_no_matter_of_depth():
    made = spec.parse(" > ".join(["warmup(2) > rex(3)"] * 3_000))
    assert made.steps == 15_000
    assert made(14_998) == fs.Rex(steps=3)(1)


def test_a_text_must_be_a_string():
    with pytest.raises(TypeError, match="spec: text must be a string, got 3"):
        spec.parse(3)


@pytest.mark.parametrize(
    "text", ["__import__('os')", "eval('1')", "open('x')", "rex(5)._parts", "(1).real", "tabulate(1)"]
)
def test_neither_pythons_names_nor_attributes_get_anywhere(text):
    with pytest.raises(spec.SpecError):
        spec.parse(text)


# ---- files ----


@pytest.mark.parametrize("text", ["warmup(5) > rex(9)\n", fs.Rex(steps=9).warmup(5).to_json()])
def test_a_file_may_hold_a_text(text, tmp_path):
    path = tmp_path / "schedule.json"
    path.write_text(text)
    assert spec.load(str(path)) == fs.Rex(steps=9).warmup(5)


def test_a_dash_is_the_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("rex(9)"))
    assert spec.load("-") == fs.Rex(steps=9)


@pytest.mark.parametrize("text", ["rex(9)", f"rex({' ' * 5000}9)", fs.Rex(steps=9).to_json()])
def test_an_expression_is_no_file(text):
    assert spec.load(text) == fs.Rex(steps=9)


def test_a_text_that_no_file_can_be_called_is_an_expression():
    with pytest.raises(spec.SpecError, match="there must be no"):
        spec.load("rex(9)\0")


@pytest.mark.parametrize("name", ["missing.json", "no/such/file"])
def test_a_missing_file_is_said_to_be_missing(name):
    with pytest.raises(spec.SpecError, match="spec: there must be such a file, got"):
        spec.load(name)


def test_a_file_of_other_bytes_is_refused(tmp_path):
    path = tmp_path / "schedule.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(spec.SpecError, match="must be text in UTF-8"):
        spec.load(str(path))


def test_a_file_that_is_too_large_is_refused_unread(tmp_path):
    path = tmp_path / "schedule.json"
    with path.open("wb") as file:
        file.truncate(2**27 + 1)
    with pytest.raises(spec.SpecError, match="at most 2\\*\\*27 bytes, got 134217729"):
        spec.load(str(path))
