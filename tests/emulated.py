"""A GPU for tests: `emulated_driver.cpp` in libcuda's place, and g++ in NVRTC's.

A test file takes it by ``cuda = pytest.fixture(emulated.running)``, or `training` where optimizers run on it. Kernels
run on the CPU, block after block, from the sources that NVRTC compiles for real devices. It does not show races, memory
order, or what limits a launch.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from fastsched import _kernels
from fastsched._nvrtc import Compiled, Target

ROOT = Path(__file__).parents[1]
_EXCHANGE = b"dlpack_exchange_api"  # a capsule keeps this pointer

# What makes a kernel's image of the sources: one function that runs all blocks, the size of the kernel's struct,
# and its name for the log.
_TRAMPOLINE = """
#include <cstddef>
#include "cuda/kernels.cu"
template <class A> void call(void (*k)(A), void** p) {{ k(*static_cast<A*>(p[0])); }}
template <class A> constexpr std::size_t size_of(void (*)(A)) {{ return sizeof(A); }}
"""
_ENTRY = """
extern "C" void {symbol}(unsigned blocks, void** p) {{
  for (unsigned b = 0; b < blocks; ++b) {{
    fastsched::cuda::emulated_block = b;
    fastsched::cuda::emulated_blocks = blocks;
    call(&{name}, p);
  }}
}}
extern "C" const std::size_t {symbol}_size = size_of(&{name});
extern "C" const char* const {symbol}_name = "{name}";
"""


def build(target: Path, sources: Sequence[Path], *options: str) -> Path:
    """A shared library; skips the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++ to build what stands in for the GPU")
    command = [compiler, "-std=c++17", "-O1", "-shared", "-fPIC", *options, *map(str, sources), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return target


def image(code: str, *options: str) -> bytes:
    """The bytes of a shared library made of C++ code."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "image.cpp")
        source.write_text(code)
        return build(Path(folder, "image.so"), [source], *options).read_bytes()


class Compiler:
    """g++ as `_kernels` asks of a compiler: images that the emulated driver runs."""

    # -fno-gnu-unique: each image has its own variables.
    OPTIONS: tuple[str, ...] = ("-ffp-contract=off", "-fno-gnu-unique", "-DFASTSCHED_EMULATED")

    def target(self, capability: tuple[int, int]) -> Target:
        return Target(f"emulated_{capability[0]}{capability[1]}", "g++")

    def compile(self, folder: Path, names: Sequence[str], capability: tuple[int, int]) -> Compiled:
        symbols = {name: f"fastsched_run{i or ''}" for i, name in enumerate(names)}
        code = _TRAMPOLINE.format() + "".join(_ENTRY.format(symbol=symbols[name], name=name) for name in names)
        return Compiled(image(code, *self.OPTIONS, f"-I{folder}"), symbols, "")


def compile_emulated(folder: Path, names: Sequence[str], capability: tuple[int, int]) -> Compiled:
    """`_nvrtc.compile` for the emulated driver."""
    return Compiler().compile(folder, names, capability)


class Driver:
    """What tests see of the emulated driver and do to it. The calls of the real one are in `counts` and `log`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        pointer, text, number, count = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
        for name, result, arguments in (
            ("reset", None, ()),
            ("count", count, (text,)),
            ("log", text, ()),
            ("violations", text, ()),
            ("allocations", count, ()),
            ("streams", count, ()),
            ("locked_blocks", count, ()),
            ("contexts", count, ()),
            ("capture_mode", number, ()),
            ("fail", None, (text, number, number)),
            ("machine", None, (number, number, number)),
            ("register", None, (pointer, ctypes.c_size_t, number)),
            ("unregister", None, (pointer,)),
            ("stream", pointer, ()),
            ("hold", None, (pointer, number)),
            ("begin_capture", None, (pointer,)),
            ("end_capture", pointer, (pointer,)),
            ("nodes", count, (pointer,)),
            ("replay", None, (pointer,)),
            ("end_graph", None, (pointer,)),
            ("exchange", pointer, (pointer,)),
            ("tensors", None, (number, number)),
            ("set_current_stream", None, (pointer,)),
        ):
            function = getattr(self.library, f"emulated_{name}")
            function.restype, function.argtypes = result, arguments

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """``driver.hold(stream, 1)`` is the library's ``emulated_hold``; texts come and go as str."""
        function = getattr(self.library, f"emulated_{name}")

        def call(*arguments: Any) -> Any:
            found = function(*(one.encode() if isinstance(one, str) else one for one in arguments))
            return found.decode() if isinstance(found, bytes) else found

        return call

    def launches(self) -> list[tuple[str, int, int]]:
        """Name, blocks and threads of every kernel that ran since the reset, in order."""
        lines = [line.split(" ") for line in self.log().splitlines() if line.startswith("launch ")]
        return [(" ".join(line[1:-2]), int(line[-2]), int(line[-1])) for line in lines]

    def capsule(self) -> Any:
        """torch's exchange table, but tensors lie on devices as `tensors` and `register` say. For `use_exchange`."""
        import torch

        get, new = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_New
        get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        table = self.library.emulated_exchange(get(torch.Tensor.__dlpack_c_exchange_api__, _EXCHANGE))
        return new(table, _EXCHANGE, None)


@functools.cache
def folder() -> Path:
    """Of this session: the driver, and the cache of kernels."""
    made = tempfile.TemporaryDirectory(prefix="fastsched-emulated-")
    _keep.append(made)
    return Path(made.name)


_keep: list[tempfile.TemporaryDirectory[str]] = []  # removed at exit


@functools.cache
def driver() -> Driver:
    """The emulated driver; not yet where fastsched finds it."""
    options = ("-Wall", "-Wextra", "-Werror", "-ldl")
    return Driver(build(folder() / "libcuda.so.1", [ROOT / "tests" / "emulated_driver.cpp"], *options))


@functools.cache
def _loaded() -> Driver:
    import fastsched._core as core

    emulated = driver()
    with mock.patch.dict(os.environ, FASTSCHED_LIBCUDA=str(emulated.path)):
        core.cuda_driver_version()  # loads it, for the whole process
    if emulated.count("cuInit") == 0:
        pytest.skip("this process has loaded the machine's own driver before")
    return emulated


def running() -> Iterator[Driver]:
    """The emulated driver where fastsched finds it, its kernels by g++; at the end nothing forbidden was done."""
    emulated = _loaded()
    emulated.reset()
    with mock.patch.dict(os.environ, FASTSCHED_CACHE=str(folder() / "kernels")):
        _kernels.use(Compiler())
        try:
            yield emulated
            assert emulated.violations() == ""
        finally:
            emulated.tensors(0, 0)
            emulated.machine(1, 90, 13000)
            emulated.set_current_stream(None)
            emulated.reset()
            _kernels.use()


def everywhere() -> Iterator[Driver]:
    """The same, and optimizers see every tensor on cuda:0; `tensors` and `register` change that."""
    import torch

    import fastsched._core as core
    from fastsched import optim

    def room(device: int, size: int, *, numbers: bool = False) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.float64 if numbers else torch.uint8)

    for emulated in running():
        core.use_exchange(emulated.capsule())
        try:
            with mock.patch.object(optim._Fused, "_room", staticmethod(room)):
                emulated.tensors(1, 0)
                yield emulated
        finally:
            core.use_exchange(None)
