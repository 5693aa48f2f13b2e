"""What works here and what does not: the facts that a bug report needs, and a short self-test.

Every check is a function that returns what it found. It raises `Missing` for what need not be there, and any other
exception for what is broken.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np

from fastsched import _backend, _kernels, _nvrtc, curves
from fastsched._program import FIELDS, compile_program
from fastsched.kinds import Cosine, OneCycle, Polynomial
from fastsched.schedule import Schedule

_PROBE = "fastsched::cuda::probe<true>"
_PROBE_THREADS = 256  # block_threads of csrc/cuda/tables.hpp
_STEPS = np.array([0.0, 1.0, 7.0, 49.5, 100.0, 1000.0])
_LR, _BETAS, _EPS, _DECAY = 0.01, (0.9, 0.999), 1e-8, 0.01  # of the updates that are compared
_OLDEST_TORCH = (2, 10)

State = Literal["ok", "missing", "failed"]


@dataclass(frozen=True, slots=True)
class Line:
    """One finding. ``missing`` is what need not be there; ``failed`` should work and does not."""

    what: str
    state: State
    found: str  # and, unless it is ok, what to do


class Missing(Exception):  # noqa: N818
    """Something that need not be there is not; the text says what to do to have it."""


def examine() -> list[Line]:
    """Look at everything and try it.

    Takes a second or two, most of it torch's import; where there is a GPU, longer at first, for a kernel is compiled.

    >>> [line.found for line in examine() if line.what == "backend"]  # doctest: +ELLIPSIS
    ['native, ...']
    """
    return list(_lines())


def _lines() -> Iterator[Line]:
    yield _line("fastsched", _fastsched)
    yield _line("native", _native)
    yield _line("backend", _chosen_backend)
    yield _line("torch", _torch)
    driver = _line("driver", _driver)
    yield driver
    devices: list[tuple[str, tuple[int, int]]] = []
    if driver.state == "ok":
        yield _line("GPUs", partial(_gpus, devices))
    yield _needed_by(devices, _line("NVRTC", partial(_compiler, devices)))
    yield _line("kernels", lambda: str(_kernels.sources()))
    yield _line("cache", _cache)
    yield _line("curves", _curves_agree)
    yield _line("step", _step_agrees)
    for index, (_, capability) in enumerate(devices):
        yield _line(f"cuda:{index}", partial(_device_agrees, index, capability))


def _line(what: str, check: Callable[[], str]) -> Line:
    try:
        return Line(what, "ok", check())
    except Missing as missing:
        return Line(what, "missing", str(missing))
    except Exception as error:  # whatever it is, the other checks are wanted too
        return Line(what, "failed", f"{type(error).__name__}: {error}")


def _needed_by(devices: list[tuple[str, tuple[int, int]]], line: Line) -> Line:
    """What only GPUs need fails where there is one."""
    return Line(line.what, "failed", line.found) if devices and line.state == "missing" else line


# ---- what is there


def _fastsched() -> str:
    system = f"{platform.system()} {platform.machine()}"
    return f"{importlib.metadata.version('fastsched')}, Python {platform.python_version()}, {system}"


def _core() -> Any:
    if isinstance(_backend.IMPORT_ERROR, ModuleNotFoundError):
        raise Missing("the native module was not built; reinstall fastsched where a C++17 compiler works")
    if _backend.IMPORT_ERROR is not None:
        raise RuntimeError(f"{_backend.IMPORT_ERROR}; reinstall fastsched")
    import fastsched._core as core

    return core


def _native() -> str:
    core = _core()
    return f"instruction set {core.isa()} of {', '.join(core.isas())}"


def _chosen_backend() -> str:
    name = _backend.backend()
    return f"{name}, " + (
        "the compiled module" if name == "native" else "compiled by Numba; fastsched.optim needs native"
    )


def _torch() -> str:
    if importlib.util.find_spec("torch") is None:
        raise Missing("torch is not installed, and fastsched.optim needs it; pip install 'fastsched[torch]'")
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_TORCH:
        raise Missing(f"{torch.__version__}; fastsched.optim needs 2.10 or newer: pip install 'fastsched[torch]'")
    cuda = torch.version.cuda
    return f"{torch.__version__}, " + (f"built for CUDA {cuda}" if cuda else "built without CUDA")


def _driver() -> str:
    core = _core()
    try:
        version = core.cuda_driver_version()
    except RuntimeError as error:
        if "no driver was found" in str(error):
            raise Missing(f"{error}") from None
        raise
    return f"for CUDA {version // 1000}.{version % 1000 // 10}"


def _gpus(devices: list[tuple[str, tuple[int, int]]]) -> str:
    devices += _core().cuda_devices()
    if not devices:
        raise Missing("the driver shows none; check CUDA_VISIBLE_DEVICES if there should be one")
    return "; ".join(f"{name}, compute capability {major}.{minor}" for name, (major, minor) in devices)


def _compiler(devices: list[tuple[str, tuple[int, int]]]) -> str:
    try:
        found = _nvrtc.find()
    except RuntimeError as error:
        if "was not found" in str(error):
            raise Missing(str(error)) from None
        raise
    targets = {_kernels.architecture(capability) for _, capability in devices}
    return ", ".join([f"{found} in {found.path}", *(f"compiles for {one}" for one in sorted(targets))])


def _cache() -> str:
    try:
        files, size = _kernels.cache_size()
    except (OSError, RuntimeError) as error:
        raise Missing(f"no folder for compiled kernels ({error}); set FASTSCHED_CACHE to one of your own") from None
    return f"{_kernels.cache_folder()}, {files} kernels, {size / 2**20:.1f} MiB"


# ---- the self-test


def _examples() -> list[Schedule]:
    return [Cosine(steps=90).warmup(10), OneCycle(steps=100), Polynomial(1.0, 0.1, steps=100, power=0.9)]


def _curves_agree() -> str:
    name = _backend.backend()
    examples = _examples()
    for schedule in examples:
        plain, ours = _plain_values(schedule), schedule(_STEPS)
        worst = float(np.abs(plain - ours).max())
        if not worst <= 1e-12:  # the contract's, of a peak of 1; NaN fails
            raise RuntimeError(f"{type(schedule).__name__}: {worst} from plain Python; reinstall fastsched")
    return f"{len(examples)} schedules agree on {name} and in plain Python"


def _plain_values(schedule: Schedule) -> np.ndarray[Any, Any]:
    """By the formulas in Python, not compiled."""
    code = compile_program(schedule)
    columns = [code.instructions[name] for name in ("code", "next", *FIELDS)]
    rows = np.column_stack(columns).astype(np.float64)
    scratch, out = np.zeros(curves.SCRATCH_SIZE), np.zeros(len(_STEPS))
    for i, step in enumerate(_STEPS.tolist()):
        curves.window(rows, 0, len(rows), code.samples, step, scratch, out[i : i + 1])
    return out


def _one_update(optimizer: Callable[..., Any], device: str = "cpu") -> dict[str, float]:
    """A weight of 1 with a gradient of 0.5 after AdamW's first update, and its averages."""
    import torch

    p = torch.nn.Parameter(torch.ones(1, device=device))
    p.grad = torch.full_like(p, 0.5)
    made = optimizer([p], lr=_LR, betas=_BETAS, eps=_EPS, weight_decay=_DECAY)
    made.step()
    state = made.state[p]
    return {"param": p.item(), **{name: state[name].item() for name in ("exp_avg", "exp_avg_sq")}}


def _step_agrees() -> str:
    if importlib.util.find_spec("torch") is None:
        raise Missing("needs torch")
    if _backend.backend() != "native":
        raise Missing("needs the native backend")
    import torch

    from fastsched import optim

    ours, theirs = _one_update(optim.AdamW), _one_update(torch.optim.AdamW)
    for name, value in theirs.items():
        # Both round to float32, 6e-8 of the value, a few times and in another order.
        if not abs(ours[name] - value) <= 1e-6 * abs(value):
            raise RuntimeError(f"AdamW: {name} is {ours[name]}, torch's {value}; please report this")
    return "an update by fastsched.optim.AdamW agrees with torch's"


def _device_agrees(index: int, capability: tuple[int, int]) -> str:
    image, symbol = _kernels.kernel(capability, _PROBE)
    schedule = _examples()[0]
    code = compile_program(schedule)
    parts = {
        "code": code.instructions.tobytes(),
        "samples": code.samples.tobytes() or bytes(8),
        "steps": _STEPS.tobytes(),
        "values": bytes(_STEPS.nbytes),
        "element": struct.pack("4f", 0.5, 1.0, 0.0, 0.0),  # gradient, weight, averages
    }
    places: dict[str, int] = {}
    memory = b""
    for name, content in parts.items():
        places[name] = len(memory)
        memory += content
    arguments = struct.pack(  # ProbeArgs of csrc/cuda/probe.hpp
        "7q6d",
        *(places["code"], len(code.instructions), places["samples"], places["steps"]),
        *(places["values"], len(_STEPS), places["element"]),
        *(_LR, *_BETAS, _EPS, _DECAY, 1.0),
    )
    result = _core().cuda_run(index, image, symbol, _PROBE_THREADS, memory, arguments, [0, 2, 3, 4, 6])
    values = np.frombuffer(result, np.float64, len(_STEPS), places["values"])
    if values.tobytes() != np.asarray(schedule(_STEPS)).tobytes():
        raise RuntimeError("the device's values of a schedule are not the host's to the bit; please report this")
    if importlib.util.find_spec("torch") is not None and _backend.backend() == "native":
        from fastsched import optim

        _, *updated = struct.unpack_from("4f", result, places["element"])
        if updated != list(_one_update(optim.AdamW).values()):
            raise RuntimeError("the device's AdamW is not the host's to the bit; please report this")
    return "a kernel was compiled and run, and agrees with the host to the bit"


# ---- what is shown


def works(lines: list[Line]) -> bool:
    """Whether nothing that should work has failed."""
    return all(line.state != "failed" for line in lines)


def report(lines: list[Line]) -> str:
    """One finding a line; what to do follows what was found."""
    width = max(len(line.what) for line in lines)
    return "\n".join(f"{line.state:<7}  {line.what:<{width}}  {_on_one_line(line.found)}" for line in lines)


def plain(lines: list[Line]) -> dict[str, Any]:
    """The same for JSON."""
    return {
        "ok": works(lines),
        "python": sys.version,
        "findings": {line.what: {"state": line.state, "found": line.found} for line in lines},
    }


def _on_one_line(text: str) -> str:
    first, *others = text.splitlines() or [""]
    return first + (" ..." if others else "")
