"""NVRTC, NVIDIA's compiler as a library: found and called at run time, so that installing needs no CUDA.

`compile` and `target` are what `_kernels` asks of a compiler; tests put another one in their place.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# Contraction of a*b+c would change bits, which are part of the contract. The last one is for lambdas, which NVRTC 13.0
# takes for functions of the host, even within a kernel.
OPTIONS: tuple[str, ...] = ("--std=c++17", "--fmad=false", "--device-as-default-execution-space")
OLDEST = (7, 0)  # the first capability whose threads keep their order within a warp
PACKAGES = ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu13", "nvidia-cuda-nvrtc-cu12")
_LONGEST_LOG = 2000  # characters of a compiler's log that an error shows


@dataclass(frozen=True, slots=True)
class Compiled:
    """What a compiler made: the image, each name expression's symbol in it, and what it said."""

    image: bytes
    lowered: dict[str, str]
    log: str


@dataclass(frozen=True, slots=True)
class Target:
    """What to compile for: `architecture` as NVRTC spells it; a virtual one gives PTX, which the driver compiles."""

    architecture: str
    compiler: str  # which compiler and version

    @property
    def virtual(self) -> bool:
        """Whether the image is PTX."""
        return self.architecture.startswith("compute_")


class Nvrtc:
    """One loaded library. ``path`` is a file, or a name that the loader found by itself."""

    def __init__(self, path: str) -> None:
        self.path = path
        for builtins in _builtins_beside(Path(path)):
            ctypes.CDLL(str(builtins))
        self._library = ctypes.CDLL(path)
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = (major.value, minor.value)
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        numbers = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", numbers)
        self.capabilities = sorted(divmod(number, 10) for number in numbers)

    def __str__(self) -> str:
        return f"NVRTC {_dotted(self.version)}"

    def target(self, capability: tuple[int, int]) -> Target:
        """Machine code where this NVRTC knows the device, else PTX for the newest older one that it knows."""
        if capability < OLDEST:
            raise RuntimeError(
                f"CUDA kernels: need a GPU of compute capability {_dotted(OLDEST)} or newer, got "
                f"{_dotted(capability)}; move the parameters to the CPU"
            )
        if capability < self.capabilities[0]:
            raise RuntimeError(
                f"CUDA kernels: {self} serves GPUs of compute capability {_dotted(self.capabilities[0])} or newer, got "
                f"{_dotted(capability)}; pip install {PACKAGES[-1]} and set FASTSCHED_NVRTC to its library"
            )
        known = max(one for one in self.capabilities if one <= capability)
        kind = "sm" if known == capability else "compute"
        return Target(f"{kind}_{known[0]}{known[1]}", str(self))

    def compile(self, folder: Path, names: Sequence[str], capability: tuple[int, int]) -> Compiled:
        """Compile what `names` instantiate of `folder`/cuda/kernels.cu."""
        target = self.target(capability)
        program = ctypes.c_void_p()
        source = (folder / "cuda" / "kernels.cu").read_bytes()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source, b"kernels.cu", 0, None, None)
        try:
            return self._compile(program, folder, names, target)
        finally:
            self._library.nvrtcDestroyProgram(ctypes.byref(program))

    def _compile(self, program: ctypes.c_void_p, folder: Path, names: Sequence[str], target: Target) -> Compiled:
        for name in names:
            self._call("nvrtcAddNameExpression", program, name.encode())
        options = [*OPTIONS, f"--gpu-architecture={target.architecture}", f"--include-path={folder}"]
        encoded = (ctypes.c_char_p * len(options))(*map(os.fsencode, options))
        failed = self._library.nvrtcCompileProgram(program, len(options), encoded)
        log = self._bytes(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
        if failed:
            raise RuntimeError(
                f"CUDA kernels: {target.compiler} cannot compile {', '.join(names)} for {target.architecture} "
                f"({self._text(failed)}); reinstall fastsched, or report this with what it said:\n{log[:_LONGEST_LOG]}"
            )
        return Compiled(
            image=self._bytes(program, "PTX" if target.virtual else "CUBIN"),
            lowered={name: self._lowered(program, name) for name in names},
            log=log,
        )

    def _lowered(self, program: ctypes.c_void_p, name: str) -> str:
        symbol = ctypes.c_char_p()
        self._call("nvrtcGetLoweredName", program, name.encode(), ctypes.byref(symbol))
        assert symbol.value is not None
        return symbol.value.decode()

    def _bytes(self, program: ctypes.c_void_p, what: str) -> bytes:
        """PTX and logs end in a zero byte."""
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, content)
        return content.raw

    def _call(self, function: str, *arguments: object) -> None:
        failed = getattr(self._library, function)(*arguments)
        if failed:
            raise RuntimeError(f"CUDA kernels: {function}: {self._text(failed)}; reinstall NVRTC")

    def _text(self, result: int) -> str:
        function = self._library.nvrtcGetErrorString
        function.restype = ctypes.c_char_p
        text: bytes | None = function(result)
        return text.decode() if text else f"error {result}"


def target(capability: tuple[int, int]) -> Target:
    """What `compile` would compile for."""
    return find().target(capability)


def compile(folder: Path, names: Sequence[str], capability: tuple[int, int]) -> Compiled:
    """Compile name expressions of the kernels in `folder` for a device."""
    return find().compile(folder, names, capability)


@functools.cache
def find() -> Nvrtc:
    """The NVRTC of this environment; ``RuntimeError`` where there is none."""
    chosen = os.environ.get("FASTSCHED_NVRTC", "")
    if chosen:
        try:
            return Nvrtc(chosen)
        except (OSError, AttributeError) as error:
            raise RuntimeError(
                f"CUDA kernels: FASTSCHED_NVRTC is no NVRTC ({error}); correct it, or unset it to search"
            ) from None
    for path in _candidates():
        try:
            return Nvrtc(path)
        except (OSError, AttributeError):  # not there, or not loadable on this machine
            continue
    raise RuntimeError(f"CUDA kernels: NVRTC was not found; pip install {package()}")


def package() -> str:
    """The PyPI package of the NVRTC that goes with torch."""
    return PACKAGES[-1] if _torch_major() == 12 else PACKAGES[0]


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _torch_major() -> int | None:
    """The major CUDA version of a torch that is imported; torch without CUDA has none."""
    version = getattr(getattr(sys.modules.get("torch"), "version", None), "cuda", None)
    return int(version.partition(".")[0]) if version else None


def _candidates() -> Iterator[str]:
    """Where NVRTC may be. What goes with torch's CUDA comes first: an older driver loads no newer machine code."""
    files = [*_packaged(), *_of_torch()]
    suffix = f".so.{_torch_major()}"
    yield from (str(file) for file in files if file.name.endswith(suffix))
    yield from (str(file) for file in files if not file.name.endswith(suffix))
    yield from ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")  # the loader's own search


def _packaged() -> Iterator[Path]:
    for name in PACKAGES:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        yield from (Path(str(file.locate())) for file in files if _is_nvrtc(file.name))


def _of_torch() -> Iterator[Path]:
    spec = importlib.util.find_spec("torch")  # without importing it
    for folder in (spec and spec.submodule_search_locations) or []:
        yield from (file for file in sorted(Path(folder, "lib").glob("libnvrtc*")) if _is_nvrtc(file.name))


def _builtins_beside(library: Path) -> list[Path]:
    """What NVRTC opens by name alone when it compiles: CUDA 13.0's looks in the loader's folders only."""
    if not library.is_absolute():
        return []
    return [file for file in sorted(library.parent.glob("libnvrtc-builtins*.so*")) if ".alt." not in file.name]


def _is_nvrtc(name: str) -> bool:
    # CUDA 13.0 packs a second one, libnvrtc.alt.so, with builtins of its own.
    return name.startswith("libnvrtc") and ".so" in name and "builtins" not in name and ".alt." not in name
