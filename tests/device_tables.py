"""The structs of csrc/cuda/tables.hpp, and the library in which the kernels run as loops beside the CPU's step."""

import ctypes as c
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

SOURCES = Path(__file__).parents[1] / "csrc"
CHUNK = 8192
OPERANDS = ("param", "grad", "first", "second", "top", "ema", "master")
FORMATS = ("float32", "float64", "bfloat16", "float16")
BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}
RULES = ("adam", "sgd", "lion", "none")
KINDS = ("adam", "amsgrad", "sgd", "momentum", "lion", "none")
HYPERS = ("lr", "weight_decay", "momentum", "beta1", "beta2")
FRESH_MOMENTUM, FRESH_EMA, FRESH_MASTER = 1, 2, 4
WHOLE, TENSORS, ADVANCE, PROBE, EDITS = range(5)

Int, Long, Double, Address = c.c_int32, c.c_int64, c.c_double, c.c_void_p


def struct(name: str, **fields: Any) -> type[c.Structure]:
    return type(name, (c.Structure,), {"_fields_": list(fields.items())})


Settings = struct(
    "Settings", rule=Int, decay=Int, norm=Int, max_grad_norm=Double, max_grad_value=Double, seed=c.c_uint64
)
Constants = struct(
    "Constants",
    eps=Double,
    dampening=Double,
    base=Double,
    maximize=c.c_bool,
    amsgrad=c.c_bool,
    nesterov=c.c_bool,
    decoupled=c.c_bool,
)
Numbers = struct(
    "Numbers",
    grad_scale=Double,
    grad_limit=Double,
    coupled=Double,
    decay=Double,
    step_size=Double,
    beta1=Double,
    beta2=Double,
    bias2=Double,
    epsilon=Double,
    momentum=Double,
    undampened=Double,
    ema=Double,
    nesterov=c.c_bool,
    cautious=c.c_bool,
    amsgrad=c.c_bool,
    first_momentum=c.c_bool,
)
Program = struct("Program", code=Address, size=Long, samples=Address)
DeviceRow = struct("DeviceRow", programs=Address, values=Address, column=Address, scale=Address, program_count=Int)
Control = struct(
    "Control",
    position=Long,
    skipped=Long,
    grad_norm=Double,
    ema_decay=Double,
    row=DeviceRow * (len(HYPERS) + 1),
    skip=Int,
    sequence=Long,
)
Report = struct("Report", position=Long, skipped=Long, grad_norm=Double, sequence=Long)
Slot = struct("Slot", steps=Long, fresh=c.c_uint32)
HyperEdit = struct("HyperEdit", group=Int, hyper=Int, value=Double)
SlotEdit = struct("SlotEdit", slot=Int, fresh=c.c_uint32, steps=Long)
LrTensor = struct("LrTensor", at=Address, format=Int)
DeviceTensor = struct(
    "DeviceTensor",
    at=Address * len(OPERANDS),
    step=Address,
    count=Long,
    share=Double,
    strided=Long,
    format=Int * len(OPERANDS),
    group=Int,
    slot=Int,
    place=c.c_uint32,
    averaged_only=c.c_bool,
    zero_grad=c.c_bool,
    param_at_random=c.c_bool,
)
Prepared = struct("Prepared", numbers=Numbers, bits=c.c_uint32 * 4, fresh=c.c_uint32)
ControlArgs = struct(
    "ControlArgs",
    settings=Settings,
    phase=Int,
    control=Address,
    report=Address,
    values=Address,
    constants=Address,
    lr_tensors=Address,
    group_count=Int,
    slots=Address,
    tensors=Address,
    prepared=Address,
    tensor_count=Int,
    hyper_edits=Address,
    slot_edits=Address,
    hyper_edit_count=Int,
    slot_edit_count=Int,
    set_position=Long,
    partials=Address,
    partial_count=Int,
    joined=Address,
    given_norm_at=Address,
    given_norm_format=Int,
    given_norm=Double,
    skip=c.c_bool,
    grad_scale=Address,
    found_inf=Address,
    unscale=Double,
)
ProbeArgs = struct(
    "ProbeArgs",
    code=Address,
    size=Long,
    samples=Address,
    steps=Address,
    values=Address,
    count=Long,
    element=Address,
    lr=Double,
    beta1=Double,
    beta2=Double,
    eps=Double,
    weight_decay=Double,
    update=Double,
)
# In the order of size_of() in kernels_beside_cpu.cpp.
STRUCTS = (
    Settings,
    Constants,
    Numbers,
    DeviceRow,
    Control,
    Report,
    Slot,
    HyperEdit,
    SlotEdit,
    LrTensor,
    DeviceTensor,
    Prepared,
    ControlArgs,
    ProbeArgs,
)


@functools.cache
def library() -> c.CDLL:
    """Built once per session; skips where there is no compiler."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler: the kernels are compiled as loops on the CPU")
    folder = tempfile.TemporaryDirectory(prefix="fastsched-kernels-")
    built = Path(folder.name, "kernels.so")
    options = ["-std=c++17", "-O1", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC"]
    source = Path(__file__).with_name("kernels_beside_cpu.cpp")
    done = subprocess.run(
        [compiler, *options, f"-I{SOURCES}", str(source), "-o", str(built)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    loaded = c.CDLL(str(built))
    folder.cleanup()
    loaded.size_of.restype = Long
    loaded.has_kernel.restype = c.c_bool
    loaded.norm_on_cpu.restype = Double
    return loaded


def code_of(kind: str, param: str, *, other_state: bool = False, strided: bool = False) -> int:
    """A variant's code, as in tables.hpp."""
    return KINDS.index(kind) * 16 + FORMATS.index(param) * 4 + 2 * other_state + strided


def address(array: Any) -> int:
    """Of a numpy array or a ctypes object; 0 for None."""
    if array is None:
        return 0
    return array.ctypes.data if isinstance(array, np.ndarray) else c.addressof(array)


def encode(values: np.ndarray, format: str) -> np.ndarray:
    """Numbers as they lie in memory, infinite where the format ends; to bfloat16 by cutting digits off."""
    with np.errstate(over="ignore"):
        if format == "bfloat16":
            return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return values.astype(format)


def decode(stored: np.ndarray, format: str) -> np.ndarray:
    """As float64."""
    if format == "bfloat16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float64)
