"""What is fuzzed in Python: every function takes a fuzzer's bytes, and any error but an expected one is a finding."""

from __future__ import annotations

import base64
import functools
import json
import math
import struct
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import fastsched as fs
from fastsched import _core, spec
from fastsched._program import FIELDS, INSTRUCTION, compile_program

DATA = Path(__file__).parents[1] / "data"
CORPUS = Path(__file__).parent / "corpus"


class Bytes:
    """A fuzzer's bytes as choices. When they run out, all that follows is 0."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        found = self.data[self.at : self.at + count]
        self.at += count
        return found.ljust(count, b"\0")

    def below(self, count: int) -> int:
        return int.from_bytes(self.take(2), "little") % count

    def pick(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def double(self) -> float:
        return float(struct.unpack("<d", self.take(8))[0])

    def text(self) -> str:
        return self.take(self.below(12)).decode("utf-8", "replace")


# ---- texts


def _require_laws(s: Any) -> None:
    """What holds of every schedule that was accepted."""
    assert fs.from_json(s.to_json()) == s
    assert hash(s) == hash(s)
    repr(s)
    steps = np.array([0.0, 1.0, 7.5])
    values = s(steps)
    table = s.table(2)
    assert values.tobytes() == np.array([s(t) for t in steps]).tobytes() or np.isnan(values).any()
    assert table.tobytes() == values[:2].tobytes() or np.isnan(table).any()


def from_json(data: bytes) -> None:
    try:
        s = fs.from_json(data.decode("utf-8", "replace"))
    except ValueError:
        return
    _require_laws(s)


def plan_from_json(data: bytes) -> None:
    try:
        plan = fs.Plan.from_json(data.decode("utf-8", "replace"))
    except ValueError:
        return
    assert fs.Plan.from_json(plan.to_json()).fingerprint == plan.fingerprint
    plan.at(3)
    plan.table(2)


def spec_parse(data: bytes) -> None:
    try:
        s = spec.parse(data.decode("utf-8", "replace"))
    except spec.SpecError:
        return
    _require_laws(s)


# ---- data


def _hostile_number(bytes_: Bytes) -> Any:
    edges = (0, 1, -1, 2, 100, 0.5, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1e300, 2**31, 2**53, 2**53 + 1, 2**70)
    which = bytes_.below(len(edges) + 3)
    if which < len(edges):
        return edges[which]
    return (bytes_.double(), bytes_.below(65536), -bytes_.below(300))[which - len(edges)]


def _hostile_value(bytes_: Bytes, depth: int = 0) -> Any:
    if bytes_.below(3):
        return _hostile_number(bytes_)
    kind = bytes_.below(8 if depth < 3 else 5)
    if kind >= 5:
        inner = [_hostile_value(bytes_, depth + 1) for _ in range(bytes_.below(4))]
        return inner if kind == 5 else tuple(inner) if kind == 6 else {bytes_.text(): value for value in inner}
    return (None, True, bytes_.text(), np.float32(0.5), np.zeros(2))[kind]


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) of nested dicts and lists."""
    if isinstance(tree, (dict, list)):
        for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
            yield tree, key
            yield from _places(tree[key])


def _mutate(bytes_: Bytes, tree: Any, value: Callable[[Bytes], Any]) -> None:
    for _ in range(bytes_.below(4)):
        places = list(_places(tree))
        if not places:
            return
        container, key = bytes_.pick(places)
        action = bytes_.below(5)
        if action == 0:
            del container[key]
        elif action == 1 and isinstance(container, dict):
            container[bytes_.text()] = container[key]
        else:
            container[key] = value(bytes_)


@functools.cache
def _cases() -> list[str]:
    """Recorded calls of the frameworks, as JSON: copied by reading."""
    fields = ("name", "kwargs", "base_lr", "hyperparameter", "context")
    found = []
    for path in sorted(DATA.glob("c*.json")):
        system = path.stem.removeprefix("compat_")  # of curves.json every case names its own
        for case in json.loads(path.read_text())["cases"]:
            if "kwargs" in case and "name" in case:
                chosen = {key: case[key] for key in fields if key in case}
                found.append(json.dumps({"system": case.get("system", system), **chosen}))
    return found


def compat_build(data: bytes) -> None:
    bytes_ = Bytes(data)
    case = json.loads(bytes_.pick(_cases()))
    system, name = case.pop("system"), case.pop("name")
    _mutate(bytes_, case, _hostile_value)
    kwargs = case.pop("kwargs", {})
    try:
        built = fs.compat.build(system, name, kwargs, **case)
    except (ValueError, TypeError):
        return
    for s in built if isinstance(built, list) else [built]:
        s(3)


# ---- checkpoints


def _hostile_tensor(bytes_: Bytes) -> Any:
    import torch

    if bytes_.below(3) == 0:
        return _hostile_value(bytes_)
    shapes = ((), (0,), (1,), (3,), (2, 3), (3, 2), (6,), (2, 3, 1), (0, 3), (1, 2, 3))
    dtypes = (
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.int64,
        torch.bool,
        torch.complex64,
        torch.uint8,
        torch.float8_e4m3fn,
    )
    shape, dtype, form = bytes_.pick(shapes), bytes_.pick(dtypes), bytes_.below(7)
    if form == 0:
        return torch.zeros(shape, dtype=dtype, device="meta")
    if form == 1:
        return torch.zeros((), dtype=dtype).expand(shape)
    if form == 2:
        return torch.zeros([2 * length for length in shape], dtype=dtype)[tuple(slice(None, None, 2) for _ in shape)]
    if form == 3:
        return torch.zeros(shape, dtype=dtype).to_sparse() if len(shape) and dtype == torch.float32 else torch.zeros(1)
    if form == 4:
        return torch.full(shape, _hostile_float(bytes_), dtype=torch.float32)
    return torch.zeros(shape, dtype=dtype)


def _hostile_float(bytes_: Bytes) -> float:
    number = _hostile_number(bytes_)
    return float(number) if abs(number) < 1e38 else math.inf  # NaN as well


RULES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("AdamW", {"lr": 0.1}),
    ("Adam", {"lr": 0.1, "amsgrad": True, "ema_decay": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "max_grad_norm": 1.0}),
    ("Lion", {"lr": 0.1, "schedule": fs.Cosine(steps=10)}),
)


def checkpoint(data: bytes) -> None:
    import torch

    bytes_ = Bytes(data)
    rule, options = bytes_.pick(RULES)
    dtype = bytes_.pick((torch.float32, torch.float64, torch.bfloat16))

    def made() -> tuple[Any, list[Any]]:
        params = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape in ((2, 3), (3,))]
        for p in params:
            p.grad = torch.ones_like(p)
        return getattr(fs.optim, rule)([{"params": [p]} for p in params], **options), params

    opt, _ = made()
    opt.step()
    state = opt.state_dict()
    _mutate(bytes_, state, _hostile_tensor)
    fresh, params = made()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if bytes_.below(2):
                fresh.load_state_dict(state)
            else:  # as wrappers do that bypass it
                for p, entry in zip(params, dict(state["state"]).values(), strict=False):
                    fresh.state[p] = entry
            fresh.step()
            fresh.step()
            fresh.state_dict()
        except (ValueError, TypeError, RuntimeError, KeyError, AttributeError, IndexError, NotImplementedError):
            return  # torch's own refusals are of all these kinds


# ---- the native module


@functools.cache
def _arrays() -> list[Any]:
    texts = ("linear(1, 0, 50)", "warmup(5) > cosine(100)", "cosine(9).repeat(3)", "samples([1, 2, 3])", "0.5")
    return [compile_program(spec.parse(text)) for text in texts]


def _hostile_array(bytes_: Bytes, usual: Any) -> Any:
    kind = bytes_.below(10)
    if kind > 7:
        return usual
    size = bytes_.below(9)
    dtype = bytes_.pick(("<f8", "<f4", "<i4", "<i8", ">f8", "V8", "?", "O", "<c16"))
    base = np.zeros(16, dtype)
    if kind == 0:
        return base[:size]
    if kind == 1:
        return np.lib.stride_tricks.as_strided(base, (size, 2), (0, base.itemsize))
    if kind == 2:
        return base.reshape(4, 4)[::-1, ::-2]
    if kind == 3:
        return np.frombuffer(bytearray(17 * 8), np.uint8)[1 : 1 + 8 * size].view(np.float64).reshape(-1, 1)
    if kind == 4:
        base.flags.writeable = False
        return base[:size]
    if kind == 5:
        return base.reshape(4, 4).T[:size, :2]
    return _hostile_value(bytes_) if kind == 6 else np.zeros((size, 0), dtype)


def _hostile_instructions(bytes_: Bytes) -> Any:
    code = bytes_.pick(_arrays())
    rows, samples = code.instructions.copy(), code.samples
    for _ in range(bytes_.below(5)):
        field = bytes_.pick(INSTRUCTION.names)
        number = _hostile_number(bytes_)
        if field in ("code", "next"):
            number = int(number) if abs(number) < 2**31 else -1
        rows[field][bytes_.below(len(rows))] = number
    return _hostile_array(bytes_, rows), _hostile_array(bytes_, samples)


def native(data: bytes) -> None:
    bytes_ = Bytes(data)
    made = []
    for call in range(6):
        try:
            if call < 2:
                made.append(_core.Program(*_hostile_instructions(bytes_)))
                made[-1].value(_hostile_number(bytes_))
                made[-1].values(_hostile_array(bytes_, np.array([0.0, 2.5])), out=_hostile_array(bytes_, np.empty(2)))
            else:
                column = _hostile_array(bytes_, np.array([0, -1], np.int32))
                row = _core.Row(made, column, _hostile_array(bytes_, np.array([1.0, 0.5])))
                row.at(_hostile_number(bytes_), _hostile_array(bytes_, np.empty(2)))
                row.table(_hostile_number(bytes_), _hostile_array(bytes_, np.empty((9, 2), bytes_.pick(("f4", "f8")))))
                _core.Grid({"lr": row}).at(_hostile_number(bytes_), {"lr": _hostile_array(bytes_, np.empty(2))})
        except (ValueError, TypeError):
            continue


# Numbers at the edges of what programs are checked for: those of bytes.hpp, which test_fuzz.py compares.
EDGES = (
    *(0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, 10.0, 100.0, 511.0, 512.0, 513.0, 1024.0, 2048.0, 1e-7, 1e290),
    *(4294967295.0, 4294967296.0, 2.0**53 - 1, 2.0**53, -(2.0**53), 2.0**53 + 2, math.inf, -math.inf, math.nan),
    *(5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -1.7976931348623157e308, 0.1, 1.5, 0.999),
)


def _edge_or_double(bytes_: Bytes) -> float:
    which = bytes_.take(1)[0]
    return EDGES[which] if which < len(EDGES) else bytes_.double()


def programs(data: bytes) -> None:
    """What programs.cpp does, through the module: see program_bytes.hpp for the form."""
    bytes_ = Bytes(data)
    at = [_edge_or_double(bytes_), _edge_or_double(bytes_)]
    length, groups, _ = bytes_.take(3)
    steps, groups = (520 + length if length >= 250 else 1 + length % 20), 1 + groups % 10
    samples = np.array([_edge_or_double(bytes_) for _ in range(bytes_.take(1)[0] % 41)], np.float64)
    rows = np.zeros(bytes_.take(1)[0] % 91, INSTRUCTION)
    for i, row in enumerate(rows):
        code, ahead = struct.unpack("<bb", bytes_.take(2))
        row["code"], row["next"] = code, i + ahead
        for name in FIELDS:
            row[name] = _edge_or_double(bytes_)
    try:
        program = _core.Program(rows, samples)
    except ValueError:
        return
    for step in at:
        if 0 <= step <= 2**53:
            program.value(step)
    if 0 <= at[1] <= 2**53 - steps:
        row = _core.Row([program], np.zeros(groups, np.int32), np.ones(groups))
        for dtype in (np.float32, np.float64):
            row.table(int(at[1]), np.empty((steps, groups), dtype))


def encoded(schedule: fs.Schedule) -> bytes | None:
    """A schedule's program in that form, asked for six steps from 3 on; None where it is too long."""
    code = compile_program(schedule)
    rows, samples = code.instructions, code.samples
    if len(samples) > 40 or len(rows) > 90 or np.any(rows["next"] - np.arange(len(rows)) > 127):
        return None

    def number(value: float) -> bytes:
        return struct.pack("<Bd", len(EDGES), value)

    parts = [number(7.5), number(3.0), bytes([5, 4, 0, len(samples)]), *map(number, samples), bytes([len(rows)])]
    for i, row in enumerate(rows):
        parts.append(struct.pack("<bb", row["code"], row["next"] - i))
        parts += [number(row[name]) for name in FIELDS]
    return b"".join(parts)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "from_json": from_json,
    "plan_from_json": plan_from_json,
    "spec": spec_parse,
    "compat_build": compat_build,
    "checkpoint": checkpoint,
    "native": native,
    "programs": programs,
}


@functools.cache
def dictionary() -> list[bytes]:
    """Words of the texts, which mutation alone would not find."""
    kinds = [name for name in dir(fs) if name[0].isupper()]
    words = [*spec.names(), *spec.METHODS, *kinds, "fastsched", "schedule", "plan", "kind", "count", "steps"]
    return [word.encode() for word in words]


def seeds(target: str) -> list[bytes]:
    """Valid inputs to begin with."""
    texts = ["warmup(500) > cosine(9500, end=0.1)", "0.5 * linear(1, 0, 10) + 0.1", "multi_step([30, 60], 0.1)"]
    texts += [
        "torch.StepLR(0.5, step_size=30)",
        "cosine(100).repeat(3).clip(0.1)",
        "bert(steps=1000)",
        "rex(9).skip(3)",
    ]
    if target == "spec":
        return [text.encode() for text in texts]
    if target == "from_json":
        return [spec.parse(text).to_json().encode() for text in texts]
    if target == "plan_from_json":
        groups = [{"lr": 0.1, "weight_decay": fs.Linear(0.0, 0.1, steps=9)}, {"lr": 0.2}]
        return [fs.Plan(groups, spec.parse(text)).to_json().encode() for text in texts[:3]]
    if target == "programs":
        return [program for program in map(encoded, map(spec.parse, texts)) if program]
    return [bytes(range(k, k + 40)) for k in range(0, 200, 40)]


def recorded(target: str) -> list[bytes]:
    """What fuzzing kept of a target: one input a line in base64, after which a word may say what it found."""
    path = CORPUS / f"{target}.txt"
    return [base64.b64decode(line.split()[0]) for line in path.read_text().splitlines()] if path.exists() else []
