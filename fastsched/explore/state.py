"""What the page shows, as plain data: its whole state, the link that restores it, and what the engine says of it.

Every field of the state is the text that its control holds, also where that is no number: what is wrong with it is
said where it is used, in the words of the engine.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

import numpy as np
import numpy.typing as npt

import fastsched
from fastsched import _outline, spec
from fastsched._check import LARGEST_STEP, Choice, Number, shown
from fastsched._compare import Comparison, compare
from fastsched._outline import Line
from fastsched._writing import Table, write
from fastsched.lint import Report
from fastsched.plan import Plan
from fastsched.schedule import Schedule

Floats = npt.NDArray[np.float64]
Steps = npt.NDArray[np.int64]

SLOTS = 4  # schedules side by side
LONGEST_FIELD = 20_000  # characters of one control: a link is no place for more
COLUMNS = 600  # of a curve: as many as a screen has pixels for it, nearly
MOST_LOOKED_AT = 1 << 20  # updates of a curve, one by one: some milliseconds
MOST_EXPORTED = 1 << 21  # values of a table
ROWS = 11  # of the table of values

AXES = ("auto", "linear", "log")
TABS = ("training", "range", "frameworks", "code")
PROBLEMS = ("quadratic", "rosenbrock", "noisy", "valleys", "digits")
OPTIMIZERS = ("sgd", "momentum", "adamw")
MEASURES = ("effective", "length", "spread")
FORMS = ("png", "csv", "json", "py")

_LR = Number("pass a base learning rate such as 0.1")
_GROUPS = Number("pass how many layers there are", least=1, most=2000, whole=True)
_DECAY = Number("pass each layer's share of the one above it, such as 0.75", above=0, most=1)
_STEPS = Number("pass how many updates to show", least=1, most=LARGEST_STEP, whole=True)


@dataclass(frozen=True)
class State:
    """All that a page's controls hold, as texts."""

    first: str = "warmup(100, start=0.0, shape=linear) > cosine(900, start=1.0, end=0.1)"
    second: str = ""
    third: str = ""
    fourth: str = ""
    chosen: str = "first"
    lr: str = "0.1"
    groups: str = "1"
    decay: str = "0.75"
    steps: str = ""
    axis: str = "auto"
    tab: str = "training"
    problem: str = "quadratic"
    conditioning: str = "20"
    noise: str = "0.5"
    optimizers: str = "sgd momentum adamw"
    updates: str = "200"
    seed: str = "0"
    measure: str = "effective"
    low: str = "1e-4"
    high: str = "10"
    sweep: str = "100"
    name: str = "cosine"
    left: str = "torch"
    right: str = "optax"
    horizon: str = "1000"

    @property
    def texts(self) -> tuple[str, ...]:
        """The schedules' texts, an empty one where there is none."""
        return self.first, self.second, self.third, self.fourth

    @property
    def text(self) -> str:
        """The text that sliders turn."""
        return self.texts[self.slot]

    @property
    def slot(self) -> int:
        """Which of the texts that is."""
        return NAMES.index(self.chosen) if self.chosen in NAMES else 0

    def to_query(self) -> str:
        """The part of a link that restores this state: what differs from the default.

        >>> State(first="rex(10)", lr="0.5").to_query()
        'first=rex%2810%29&lr=0.5'
        """
        default = asdict(State())
        return urlencode({name: value for name, value in asdict(self).items() if value != default[name]})

    @classmethod
    def from_query(cls, query: str) -> State:
        """The state of a link; what no control of the page could hold is left out.

        >>> State.from_query("?first=rex%2810%29&unknown=1") == State(first="rex(10)")
        True
        """
        try:
            pairs = parse_qsl(query.lstrip("?"), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            return cls()
        return cls.of(dict(pairs))

    @classmethod
    def of(cls, values: Mapping[str, object]) -> State:
        """The state of controls by their names: lists are joined, what is None or unknown is left out."""
        known = {field.name for field in fields(cls)}
        made = cls()
        for name, value in values.items():
            text = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
            if name not in known or value is None or len(text) > LONGEST_FIELD or not _allowed(name, text):
                continue
            made = replace(made, **{name: text})
        return made

    def with_text(self, text: str) -> State:
        """The state with another text in the chosen slot."""
        return replace(self, **{NAMES[self.slot]: text})


NAMES = tuple(field.name for field in fields(State))[:SLOTS]
_CHOICES: Mapping[str, Sequence[str]] = {
    "chosen": NAMES,
    "axis": AXES,
    "tab": TABS,
    "problem": PROBLEMS,
    "measure": MEASURES,
}


def _allowed(name: str, text: str) -> bool:
    """Whether a control can hold it: menus have their options only."""
    if name == "optimizers":
        return set(text.split()) <= set(OPTIMIZERS)
    return text in _CHOICES.get(name, (text,))


def number(name: str, text: str, rule: Number) -> float:
    """The number in a control.

    Errors: ``ValueError`` and ``TypeError`` in the words of the rule.
    """
    who = "explore"
    try:
        value: float = float(text)
    except ValueError:
        raise ValueError(f"{who}: {name} must be a number, got {shown(text)}; {rule.advice}") from None
    if re.fullmatch(r"\s*[+-]?\d{1,40}\s*", text):
        value = int(text)
    elif rule.whole and abs(value) <= LARGEST_STEP and value.is_integer():  # such as 1e3
        value = int(value)
    checked: float = rule(who, name, value)
    return checked


# ---- the schedules ----


class Read(NamedTuple):
    """A slot with a text: its schedule, or what is wrong with it."""

    slot: int
    text: str
    schedule: Schedule | None
    message: str

    @property
    def name(self) -> str:
        """What to call it, for eyes and ears."""
        return f"{self.slot + 1}: {_outline.shortened(self.text, 50)}"


def read(state: State) -> list[Read]:
    """The slots that have a text, each parsed."""
    return [_read(slot, text.strip()) for slot, text in enumerate(state.texts) if text.strip()]


def _read(slot: int, text: str) -> Read:
    try:
        return Read(slot, text, spec.parse(text), "")
    except (ValueError, TypeError) as error:
        return Read(slot, text, None, str(error))


def schedules(state: State) -> list[tuple[Read, Schedule]]:
    """Those that are schedules."""
    return [(each, each.schedule) for each in read(state) if each.schedule is not None]


def chosen(state: State) -> Schedule:
    """The schedule of the chosen slot.

    Errors: ``ValueError`` if it has none.
    """
    return spec.parse(state.text)


def base_lr(state: State) -> float:
    """The base learning rate."""
    return number("lr", state.lr, _LR)


def scales(state: State) -> list[float]:
    """The layers' shares of the base lr, the last of which is 1."""
    count = int(number("groups", state.groups, _GROUPS))
    decay = number("decay", state.decay, _DECAY)
    return [decay ** (count - 1 - i) for i in range(count)]


def count(state: State) -> int:
    """How many updates to show: those asked for, else what shows the longest schedule."""
    if state.steps.strip():
        return int(number("steps", state.steps, _STEPS))
    return max((_outline.first_look(schedule) for _, schedule in schedules(state)), default=1)


# ---- what is drawn ----


class Curve(NamedTuple):
    """A line to draw: its name, steps and values."""

    slot: int
    name: str
    steps: Steps
    values: Floats


class Heat(NamedTuple):
    """Many groups of one schedule: edges of cells over steps and over groups, and the cells' values."""

    steps: Steps
    groups: Steps
    values: Floats


class Picture(NamedTuple):
    """What the page draws of the schedules, and how."""

    updates: int
    curves: list[Curve]
    heat: Heat | None
    marks: list[_outline.Phase]
    log: bool
    summary: str


def plan(state: State, schedule: Schedule) -> Plan:
    """The layers with a schedule."""
    lr = base_lr(state)
    return Plan([{"lr": lr * scale} for scale in scales(state)], schedule)


def picture(state: State) -> Picture:
    """The curves of all schedules, and the layers of the chosen one.

    Up to a dozen layers are lines, more a heat map below the largest layer's line. Errors: those of the controls.
    """
    total = count(state)
    curves: list[Curve] = []
    heat, marks = None, []
    for each, schedule in schedules(state):
        made = plan(state, schedule)
        lines = _outline.lines(made, "lr")
        if each.slot == state.slot:
            marks = _outline.phases(schedule, 0, total)
            if len(lines) > _outline.MOST_LINES:
                heat = Heat(*_outline.heat(made, lines, 0, total))
        few = each.slot == state.slot and len(lines) <= _outline.MOST_LINES
        curves += [_curve(each, line, len(made), total) for line in (reversed(lines) if few else lines[-1:])]
    values = [curve.values for curve in curves]
    log = _outline.logarithmic(values) if state.axis == "auto" else state.axis == "log"
    return Picture(total, curves, heat, marks, log, _summary(curves, heat, total))


def _curve(each: Read, line: Line, groups: int, total: int) -> Curve:
    steps, values = line.points(0, total, columns=COLUMNS, most=MOST_LOOKED_AT)
    of = "" if groups == 1 else f", {_outline.groups_in_words(line.groups)}"
    return Curve(each.slot, f"{each.name}{of}", steps, values)


def _summary(curves: Sequence[Curve], heat: Heat | None, total: int) -> str:
    """The picture in words."""
    if not curves:
        return "No schedule to show."
    parts = []
    for curve in curves[:SLOTS]:
        finite = np.flatnonzero(np.isfinite(curve.values))
        if not len(finite):
            parts.append(f"{curve.name} has no finite value.")
            continue
        top = finite[curve.values[finite].argmax()]
        parts.append(
            f"{curve.name}: {curve.values[0]:.4g} at update 0, at most {curve.values[top]:.4g} at "
            f"{curve.steps[top]:,}, {curve.values[-1]:.4g} at {curve.steps[-1]:,}."
        )
    if heat is not None:
        parts.append(f"The heat map shows all {heat.groups[-1]:,} layers.")
    return f"{total:,} updates. " + " ".join(parts)


def rows(state: State) -> tuple[list[str], list[list[str]]]:
    """A table of some updates' values: its head and its rows."""
    total, lr = count(state), base_lr(state)
    made = schedules(state)
    steps = np.unique(np.linspace(0, total - 1, ROWS).round().astype(np.int64))
    plans = [Plan([{"lr": lr}], schedule) for _, schedule in made]
    cells = [[f"{step:,}", *(f"{each.at(step)['lr'][0]:.6g}" for each in plans)] for step in steps.tolist()]
    return ["update", *(each.name for each, _ in made)], cells


def findings(state: State) -> Report:
    """What lint says of the chosen schedule with its layers."""
    lr = base_lr(state)
    total = int(number("steps", state.steps, _STEPS)) if state.steps.strip() else None
    return chosen(state).lint([lr * scale for scale in scales(state)], total)


# ---- what is taken away ----


def code(state: State) -> str:
    """Python that makes the chosen schedule and trains with it."""
    schedule = chosen(state)
    text = repr(schedule)
    names = sorted({name for name in re.findall(r"\b[A-Z]\w*", text) if name in fastsched.__all__})
    layers = int(number("groups", state.groups, _GROUPS))
    decay = number("decay", state.decay, _DECAY)
    params = f"fs.layerwise(model, lr={base_lr(state)!r}, decay={decay!r})" if layers > 1 else "model.parameters()"
    lr = "" if layers > 1 else f", lr={base_lr(state)!r}"
    lines = ["import fastsched as fs"]
    if "Fraction(" in text:
        lines.insert(0, "from fractions import Fraction\n")
    if names:
        lines.append(f"from fastsched import {', '.join(names)}")
    return "\n".join(
        [*lines, "", f"schedule = {text}", f"# optimizer = fs.optim.AdamW({params}{lr}, schedule=schedule)\n"]
    )


def as_json(state: State) -> str:
    """The chosen schedule as JSON."""
    return chosen(state).to_json()


def export(state: State, form: str) -> bytes:
    """A file of the chosen schedule and its layers in one of `FORMS`.

    Errors: ``ValueError`` for a table too large for a page; those of the controls.
    """
    form = Choice(FORMS)("explore", "form", form)
    if form == "json":
        return as_json(state).encode()
    if form == "py":
        return code(state).encode()
    return _csv(state) if form == "csv" else _png(state)


def _csv(state: State) -> bytes:
    shares, lr, total = scales(state), base_lr(state), count(state)
    if total * len(shares) > MOST_EXPORTED:
        raise ValueError(
            f"explore: a table from the page must have at most {MOST_EXPORTED} values, got {total} updates of "
            f"{len(shares)} layers; write it with fastsched table, or show fewer updates"
        )
    names = [f"layer{i}" for i in range(len(shares))] if len(shares) > 1 else ["lr"]
    file = io.BytesIO()
    write(Table(chosen(state), total, 0, [lr * share for share in shares], names), file, "csv")
    return file.getvalue()


def _png(state: State) -> bytes:
    """The engine's own picture: one schedule with its layers, or all schedules side by side."""
    made = schedules(state)
    total = count(state)
    log = None if state.axis == "auto" else state.axis == "log"
    file = io.BytesIO()
    axes: Any = None
    if len(made) == 1 or len(scales(state)) > 1:
        axes = plan(state, chosen(state)).plot(total, log=log)
    else:
        for each, schedule in made:
            axes = (schedule * base_lr(state)).plot(total, ax=axes, label=each.name, log=log)
        if axes is None:
            raise ValueError("explore: there must be a schedule, got none; write one such as cosine(1000)")
        axes.set_title("")
        axes.legend(frameon=False, fontsize="small")
    axes.get_figure(root=True).savefig(file, format="png", dpi=150)
    return file.getvalue()


# ---- frameworks ----

CONVENTIONS: Mapping[str, Mapping[str, str]] = {
    "cosine": {
        "torch": "torch.CosineAnnealingLR({lr}, T_max={steps}, eta_min={low})",
        "timm": "timm.CosineLRScheduler({lr}, t_initial={steps}, lr_min={low})",
        "transformers": "transformers.get_cosine_schedule_with_warmup({lr}, 0, {steps})",
        "optax": "optax.cosine_decay_schedule({lr}, decay_steps={steps}, alpha=0.01)",
        "keras": "keras.CosineDecay({lr}, decay_steps={steps}, alpha=0.01)",
    },
    "cosine with warmup": {
        "timm": "timm.CosineLRScheduler({lr}, t_initial={steps}, warmup_t={tenth})",
        "transformers": "transformers.get_cosine_schedule_with_warmup({lr}, {tenth}, {steps})",
        "optax": "optax.warmup_cosine_decay_schedule(0.0, {lr}, warmup_steps={tenth}, decay_steps={steps})",
        "keras": "keras.CosineDecay(0.0, decay_steps={steps}, warmup_target={lr}, warmup_steps={tenth})",
    },
    "restarts": {
        "torch": "torch.CosineAnnealingWarmRestarts({lr}, T_0={quarter})",
        "timm": "timm.CosineLRScheduler({lr}, t_initial={quarter}, cycle_limit=4)",
        "transformers": "transformers.get_cosine_with_hard_restarts_schedule_with_warmup({lr}, 0, {steps}, 4)",
        "keras": "keras.CosineDecayRestarts({lr}, first_decay_steps={quarter}, t_mul=1.0)",
    },
    "one cycle": {
        "torch": "torch.OneCycleLR({lr}, max_lr={lr}, total_steps={steps})",
        "optax": "optax.cosine_onecycle_schedule({steps}, {lr})",
    },
    "step": {
        "torch": "torch.StepLR({lr}, step_size={quarter}, gamma=0.5)",
        "timm": "timm.StepLRScheduler({lr}, decay_t={quarter}, decay_rate=0.5, warmup_t={tenth})",
        "optax": "optax.exponential_decay({lr}, {quarter}, 0.5, staircase=True)",
        "keras": "keras.ExponentialDecay({lr}, {quarter}, 0.5, staircase=True)",
    },
    "polynomial": {
        "torch": "torch.PolynomialLR({lr}, total_iters={steps}, power=2.0)",
        "timm": "timm.PolyLRScheduler({lr}, t_initial={steps}, power=2.0)",
        "transformers": "transformers.get_polynomial_decay_schedule_with_warmup({lr}, 0, {steps}, power=2.0)",
        "optax": "optax.polynomial_schedule({lr}, 0.0, 2.0, {steps})",
        "keras": "keras.PolynomialDecay({lr}, {steps}, power=2.0)",
    },
    "warmup, stable, decay": {
        "timm": "timm.WSDLRScheduler({lr}, t_initial={steps}, decay_t={quarter}, warmup_t={tenth})",
        "transformers": "transformers.get_wsd_schedule({lr}, {tenth}, {quarter}, {steps})",
    },
}
_HORIZON = Number("pass how many updates the schedules are for", least=20, most=100_000, whole=True)
_PEAK = Number("pass a base learning rate such as 0.1", above=0)


def conventions(state: State) -> tuple[str, str]:
    """The two texts that the page compares: one name in two frameworks."""
    known = CONVENTIONS[Choice(tuple(CONVENTIONS))("explore", "name", state.name)]
    steps = int(number("horizon", state.horizon, _HORIZON))
    lr = number("lr", state.lr, _PEAK)
    values = {"lr": f"{lr:.12g}", "low": f"{lr / 100:.6g}", "steps": steps, "tenth": steps // 10, "quarter": steps // 4}
    left, right = (Choice(tuple(known))("explore", "framework", side) for side in (state.left, state.right))
    return known[left].format(**values), known[right].format(**values)


def differences(state: State) -> Comparison:
    """Where the two differ, up to a quarter past the end: what comes after it differs, too."""
    left, right = map(spec.parse, conventions(state))
    steps = int(number("horizon", state.horizon, _HORIZON))
    return compare(left, right, steps + steps // 4)
