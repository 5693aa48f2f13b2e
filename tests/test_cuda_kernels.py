"""The CUDA kernels, run as loops on the CPU, make the bits of the CPU's step; see kernels_beside_cpu.cpp."""

import ctypes
import math
from dataclasses import dataclass, field
from typing import Any

import device_tables as dt
import numpy as np
import pytest
from device_tables import BYTES, CHUNK, FORMATS, OPERANDS

CODES = [
    dt.code_of(kind, param, other_state=other, strided=strided)
    for kind in dt.KINDS
    for param in FORMATS
    for other in (False, True)
    for strided in (False, True)
    if not (other and kind in ("sgd", "none"))
]
SIZES = (0, 1, 3, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 5)
FEW_SIZES = (3, 600, 1027, CHUNK + 1)  # as many as formats of gradients
SHAPES = ((1,), (3,), (2, 3, 5), (CHUNK - 1,), (7, 1171), (2, 3, 2731))  # the last two pass the end of a chunk
FEW_SHAPES = ((3,), (2, 3, 5), (0, 4), (7, 1171))
USES = {"adam": 2, "amsgrad": 3, "sgd": 0, "momentum": 1, "lion": 1, "none": 0}  # averages

NUMBERS: dict[str, Any] = {
    "grad_scale": 0.7,
    "grad_limit": math.inf,
    "step_size": 0.01,
    "beta1": 0.9,
    "beta2": 0.999,
    "bias2": 1.3,
    "epsilon": 1e-8,
    "momentum": 0.9,
    "undampened": 0.8,
    "ema": 0.99,
}


def variant(code: int) -> tuple[str, str, bool, bool]:
    """Kind, format of the parameter, whether averages have another format, whether strided."""
    return dt.KINDS[code // 16], FORMATS[code // 4 % 4], bool(code & 2), bool(code & 1)


def rule_of(kind: str) -> int:
    return dt.RULES.index({"amsgrad": "adam", "momentum": "sgd"}.get(kind, kind))


@dataclass
class Tensor:
    """One tensor of a launch: what it holds and how."""

    shape: tuple[int, ...]
    grad: str
    state: str
    ema: bool = False
    master: bool = False
    fresh: int = 0
    zero_grad: bool = False
    param_at_random: bool = False
    misaligned: bool = False
    special: bool = True  # infinities, zeros, NaN among the elements
    numbers: dict[str, Any] = field(default_factory=dict)


class Launch:
    """Tensors of one variant in one block of memory, which both sides get a copy of."""

    def __init__(self, code: int, tensors: list[Tensor], seed: int = 0) -> None:
        self.code, self.tensors = code, tensors
        self.kind, self.param, _, self.strided = variant(code)
        self.random = np.random.default_rng(seed)
        self.size = 64
        self.pieces: list[tuple[int, np.ndarray]] = []
        self.layouts: list[int] = []
        self.device = (dt.DeviceTensor * max(len(tensors), 1))()
        self.prepared = (dt.Prepared * max(len(tensors), 1))()
        for index, tensor in enumerate(tensors):
            self.add(index, tensor)
        self.memory = np.frombuffer(self.random.bytes(self.size), np.uint8).copy()
        for at, piece in self.pieces:
            self.memory[at : at + piece.nbytes] = piece.view(np.uint8)

    def add(self, index: int, tensor: Tensor) -> None:
        device, prepared = self.device[index], self.prepared[index]
        real = "float64" if self.param == "float64" else "float32"
        averages = OPERANDS[2 : 2 + USES[self.kind]]
        formats = {
            "param": self.param,
            "grad": tensor.grad,
            **dict.fromkeys(averages, tensor.state),
            **({"ema": real} if tensor.ema else {}),
            **({"master": "float32"} if tensor.master else {}),
        }
        device.count = math.prod(tensor.shape)
        values = self.values(device.count, tensor.special)
        for name, format in formats.items():
            operand = OPERANDS.index(name)
            device.format[operand] = FORMATS.index(format)
            stored = dt.encode(self.of_operand(name, values, tensor.special), format)
            device.at[operand] = self.place(stored, tensor, spread=2 if self.strided else 1)
        device.strided = self.layout(tensor.shape) if self.strided else -1
        device.zero_grad, device.param_at_random = tensor.zero_grad, tensor.param_at_random
        for name, number in {**NUMBERS, **tensor.numbers}.items():
            setattr(prepared.numbers, name, number)
        prepared.numbers.amsgrad = self.kind == "amsgrad"
        prepared.bits[:] = [int(word) for word in self.random.integers(0, 2**32, 4)]
        prepared.fresh = tensor.fresh

    def values(self, count: int, special: bool) -> np.ndarray:
        values = self.random.standard_normal(count) * np.exp2(self.random.integers(-30, 4, count))
        if special:
            some = np.array([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42, 3e38, 1e-7, 65504.0])
            where = self.random.random(count) < 0.05
            values = np.where(where, self.random.choice(some, count), values)
        return values

    def of_operand(self, name: str, values: np.ndarray, special: bool) -> np.ndarray:
        if name == "param":
            return values
        if name == "master":  # most round to the parameter; where not, somebody has written it
            wrong = self.random.random(len(values)) < 0.1
            near = values * (1 + 1e-4 * self.random.standard_normal(len(values)))
            return np.where(wrong, self.values(len(values), False), near)
        made = self.values(len(values), special)
        return np.abs(made) if name in ("second", "top") else made

    def place(self, stored: np.ndarray, tensor: Tensor, spread: int) -> int:
        """Makes room for an operand; elements of strided ones have a gap beside each."""
        at = (self.size + 63) // 64 * 64 + (stored.itemsize if tensor.misaligned else 0)
        held = np.zeros(len(stored) * spread, stored.dtype)
        held[::spread] = stored
        self.pieces.append((at, held))
        self.size = at + held.nbytes + 64
        return at

    def layout(self, shape: tuple[int, ...]) -> int:
        """Parameter in order, gradient in the opposite order of dimensions, averages in order; all with gaps."""
        begin = len(self.layouts)
        rows = [2 * math.prod(shape[d + 1 :]) for d in range(len(shape))]
        columns = [2 * math.prod(shape[:d]) for d in range(len(shape))]
        self.layouts += [len(shape), *shape, *rows, *columns, *rows]
        return begin

    def run(self, side: str, *, skip: bool = False, only_zero: bool = False) -> np.ndarray:
        """The memory after an update on "cpu" or by the "kernel"."""
        whole = np.zeros(self.size + 64, np.uint8)
        shift = -dt.address(whole) % 64
        memory = whole[shift : shift + self.size]
        memory[:] = self.memory
        device = type(self.device).from_buffer_copy(self.device)
        for tensor in device:
            for operand, at in enumerate(tensor.at):
                tensor.at[operand] = at and at + dt.address(memory)
        layouts = np.array([*self.layouts, 0], np.int64)
        common = [device, self.prepared, len(self.tensors)]
        if side == "cpu":
            dt.library().step_on_cpu(*common, rule_of(self.kind), ctypes.c_void_p(dt.address(layouts)))
        else:
            control = dt.Control(skip=skip)
            dt.library().step_by_kernel(
                self.code, ctypes.byref(control), *common, ctypes.c_void_p(dt.address(layouts)), only_zero
            )
        return memory

    def unify_nan(self, memory: np.ndarray) -> None:
        """Which of two NaN an operation keeps, and with which sign, is left to the processor."""
        for index, device in enumerate(self.device):
            for operand, at in enumerate(device.at):
                if at:
                    stored = self.operand(memory, index, OPERANDS[operand])
                    format = FORMATS[device.format[operand]]
                    numbers = stored if format == "bfloat16" else stored.view(format)
                    stored[np.isnan(dt.decode(numbers, format))] = 0

    def operand(self, memory: np.ndarray, index: int, name: str) -> np.ndarray:
        """One operand's elements as they lie in memory, gaps included."""
        device = self.device[index]
        format = FORMATS[device.format[OPERANDS.index(name)]]
        at = device.at[OPERANDS.index(name)]
        kind = {"float32": np.uint32, "float64": np.uint64}.get(format, np.uint16)
        return memory[at : at + device.count * BYTES[format] * (2 if self.strided else 1)].view(kind)


def states_of(param: str, other: bool) -> tuple[str, ...]:
    if not other:
        return ("float64",) if param == "float64" else ("float32",)
    return ("bfloat16", "float32") if param == "float64" else ("bfloat16",)


def tensors_for(code: int, *, few: bool = True, **options: Any) -> list[Tensor]:
    """Tensors of many sizes, with gradients and averages of every format."""
    _, param, other, strided = variant(code)
    sizes = [(size,) for size in (FEW_SIZES if few else SIZES)]
    shapes = (FEW_SHAPES if few else SHAPES) if strided else sizes
    return [
        Tensor(shape, FORMATS[(FORMATS.index(param) + len(shapes) - i + j) % 4], state, **options)
        for j, state in enumerate(states_of(param, other))
        for i, shape in enumerate(shapes)
    ]


OPTIONS: dict[str, dict[str, Any]] = {
    "clipped by value and L2": {"numbers": {"grad_limit": 0.3, "coupled": 0.1}},
    "decayed": {"numbers": {"decay": 0.01}},
    "cautious": {"numbers": {"decay": 0.01, "cautious": True}},
    "maximize": {"numbers": {"grad_scale": -1.0}},
    "short averages": {"numbers": {"beta1": 0.3, "beta2": 0.4}},
    "nesterov": {"numbers": {"nesterov": True}},
    "first momentum": {"numbers": {"first_momentum": True}, "fresh": dt.FRESH_MOMENTUM},
    "averaged weights": {"ema": True},
    "fresh averaged weights": {"ema": True, "fresh": dt.FRESH_EMA},
    "weights averaged from the next update on": {"ema": True, "numbers": {"ema": 1.0}, "fresh": dt.FRESH_EMA},
    "zeroed gradients": {"zero_grad": True},
    "misaligned": {"misaligned": True, "ema": True, "zero_grad": True},
}
HALF_OPTIONS: dict[str, dict[str, Any]] = {
    "masters": {"master": True},
    "fresh masters": {"master": True, "fresh": dt.FRESH_MASTER},
    "masters and averaged weights": {"master": True, "ema": True},
    "fresh masters and averaged weights": {"master": True, "ema": True, "fresh": dt.FRESH_MASTER | dt.FRESH_EMA},
    "parameters at random": {"param_at_random": True},
    "parameters at random and averaged weights": {"param_at_random": True, "ema": True},
}


def assert_same(launch: Launch) -> None:
    """All bytes: those around and between the elements too."""
    by_kernel, on_cpu = launch.run("kernel"), launch.run("cpu")
    launch.unify_nan(by_kernel)
    launch.unify_nan(on_cpu)
    assert by_kernel.tobytes() == on_cpu.tobytes()


@pytest.mark.parametrize("index", range(len(dt.STRUCTS)))
def test_structs_are_as_large_here_as_there(index):
    assert ctypes.sizeof(dt.STRUCTS[index]) == dt.library().size_of(index)


def test_every_variant_has_a_kernel_and_no_other_code_has():
    assert [code for code in range(-1, 130) if dt.library().has_kernel(code)] == CODES
    assert len(CODES) == 80


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("misaligned", [False, True])
def test_update_of_any_size_makes_the_cpu_steps_bits(code, misaligned):
    assert_same(Launch(code, tensors_for(code, few=False, misaligned=misaligned)))


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("option", OPTIONS)
def test_update_makes_the_cpu_steps_bits(code, option):
    assert_same(Launch(code, tensors_for(code, **OPTIONS[option])))


@pytest.mark.parametrize("code", [code for code in CODES if BYTES[variant(code)[1]] == 2])
@pytest.mark.parametrize("option", HALF_OPTIONS)
def test_update_of_halves_makes_the_cpu_steps_bits(code, option):
    options = HALF_OPTIONS[option]
    if options.get("param_at_random") and variant(code)[1] == "float16":
        options = {**options, "param_at_random": False}
    assert_same(Launch(code, tensors_for(code, **options)))


def test_an_update_changes_what_it_should():
    launch = Launch(dt.code_of("adam", "float32"), [Tensor((CHUNK + 1,), "float32", "float32", special=False)])
    after = launch.run("kernel")
    for name in ("param", "first", "second"):
        changed = launch.operand(after, 0, name) != launch.operand(launch.memory, 0, name)
        assert changed.mean() > 0.9, name
    assert np.array_equal(launch.operand(after, 0, "grad"), launch.operand(launch.memory, 0, "grad"))


@pytest.mark.parametrize("code", [code for code in CODES if variant(code)[0] != "none"])
def test_a_skipped_update_only_zeroes_gradients_that_are_to_be_zeroed(code):
    tensors = tensors_for(code, ema=True, zero_grad=True) + tensors_for(code, ema=True)
    launch = Launch(code, tensors)
    after = launch.run("kernel", skip=True)
    expected = launch.memory.copy()
    step = 2 if launch.strided else 1
    for index, tensor in enumerate(tensors):
        if tensor.zero_grad:
            launch.operand(expected, index, "grad")[::step] = 0
    assert after.tobytes() == expected.tobytes()


@pytest.mark.parametrize("code", CODES)
def test_a_launch_that_only_zeroes_does_so_whatever_was_decided(code):
    launch = Launch(code, tensors_for(code, ema=True))
    expected = launch.memory.copy()
    for index in range(len(launch.tensors)):
        launch.operand(expected, index, "grad")[:: 2 if launch.strided else 1] = 0
    for skip in (False, True):
        assert launch.run("kernel", skip=skip, only_zero=True).tobytes() == expected.tobytes()


@pytest.mark.parametrize("param", FORMATS)
def test_elements_past_4_billion_are_rounded_as_on_the_cpu(param):
    tensor = Tensor((1000,), "float32", "bfloat16", param_at_random=param == "bfloat16")
    code = dt.code_of("adam", param, other_state=True)
    launch = Launch(code, [tensor])
    begin = 3 * 2**32
    results = []
    for side in ("cpu", "kernel"):
        memory = launch.memory.copy()
        device = dt.DeviceTensor.from_buffer_copy(launch.device[0])
        for operand, at in enumerate(device.at):
            if at:
                size = BYTES[FORMATS[device.format[operand]]]
                device.at[operand] = at + dt.address(memory) - begin * size
        device.count += begin
        common = [ctypes.byref(device), launch.prepared]
        if side == "cpu":
            dt.library().step_on_cpu_from(*common, 0, ctypes.c_int64(begin))
        else:
            dt.library().step_by_kernel_from(code, ctypes.byref(dt.Control()), *common, ctypes.c_int64(begin))
        launch.unify_nan(memory)
        results.append(memory.tobytes())
    assert results[0] == results[1]
    low = launch.run("kernel")
    launch.unify_nan(low)
    assert results[0] != low.tobytes()
