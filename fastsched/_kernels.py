"""Compiled CUDA kernels by name: from memory, from the user's cache folder, or from the compiler.

A cached file is named by a digest of everything that its image depends on, and holds a checksum: whatever does not
fit is compiled again. Files are written under another name and renamed, so readers see whole ones or none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets
import stat
import struct
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from fastsched import _nvrtc

_MAGIC = b"fastsched kernel 1\n"
_LENGTH = struct.Struct("<I")  # of the symbol
_DIGEST = hashlib.sha256
SIZE_LIMIT = 64 * 2**20  # bytes of the whole cache
_ABANDONED = 3600  # seconds after which an unfinished file has no writer any more
_KERNEL, _UNFINISHED = ".kernel", ".unfinished"

_log = logging.getLogger("fastsched")


class Compiler(Protocol):
    """What kernels are made by: `_nvrtc`, or what tests put in its place."""

    OPTIONS: tuple[str, ...]

    def target(self, capability: tuple[int, int]) -> _nvrtc.Target:
        """What it compiles for."""

    def compile(self, folder: Path, names: Sequence[str], capability: tuple[int, int]) -> _nvrtc.Compiled:
        """The image of some kernels."""


_compiler: Compiler = _nvrtc
_sources: Path | None = None  # None: the package's
_known: dict[tuple[tuple[int, int], str], tuple[bytes, str]] = {}
_lock = threading.Lock()
_warned = False


def kernel(capability: tuple[int, int], name: str) -> tuple[bytes, str]:
    """Image and symbol of the kernel that a name expression of kernels.cu means, for devices of a capability.

    ``RuntimeError`` says why there is none: no compiler, a device that it does not serve, sources that are not there.
    """
    with _lock:  # one compiles, the others wait for what it made
        found = _known.get((capability, name))
        if found is None:
            found = _known[capability, name] = _cached(capability, name)
        return found


def architecture(capability: tuple[int, int]) -> str:
    """What kernels for such devices are compiled for, as the compiler spells it."""
    return _compiler.target(capability).architecture


def require(capability: tuple[int, int]) -> None:
    """Raise the RuntimeError that a kernel for devices of a capability would end in, without making one."""
    with _lock:
        _compiler.target(capability)
        sources()


def use(compiler: Compiler | None = None, folder: Path | None = None) -> None:
    """Compile with something else, other sources; None: what the package does by itself. For tests."""
    global _compiler, _sources, _warned
    with _lock:
        _compiler = _nvrtc if compiler is None else compiler
        _sources, _warned = folder, False
        _known.clear()
        _digest.cache_clear()


def _cached(capability: tuple[int, int], name: str) -> tuple[bytes, str]:
    folder = sources()
    target = _compiler.target(capability)
    key = _key(_digest(folder), name, target)
    with contextlib.ExitStack() as stack:
        try:
            cache: _Cache | None = stack.enter_context(_opened())
        except (OSError, RuntimeError) as error:  # RuntimeError: a user without a home
            cache = None
            _without(error)
        found = cache.read(key) if cache else None
        if found is None:
            found = _compile(folder, name, capability, target)
            if cache:
                cache.write(key, *found)
        return found


def _compile(folder: Path, name: str, capability: tuple[int, int], target: _nvrtc.Target) -> tuple[bytes, str]:
    _log.info("compiling %s for %s", name, target.architecture)
    began = time.perf_counter()
    made = _compiler.compile(folder, [name], capability)
    _log.info("compiled %s in %.1f s", name, time.perf_counter() - began)
    return made.image, made.lowered[name]


# ---- sources


def sources() -> Path:
    """The folder of the kernels' sources: installed with the package, or beside it in a source tree."""
    package = Path(__file__).resolve().parent
    for folder in [_sources] if _sources else [package / "csrc", package.parent / "csrc"]:
        if (folder / "cuda" / "kernels.cu").is_file():
            return folder
    raise RuntimeError(f"CUDA kernels: their sources are not in {package / 'csrc'}; reinstall fastsched")


@functools.cache
def _digest(folder: Path) -> str:
    """Of every file that a kernel may include."""
    digest = _DIGEST()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".hpp", ".cu"):
            _add(digest.update, path.relative_to(folder).as_posix().encode(), path.read_bytes())
    return digest.hexdigest()


def _key(digest: str, name: str, target: _nvrtc.Target) -> str:
    key = _DIGEST()
    _add(key.update, *(part.encode() for part in (digest, name, target.architecture, target.compiler)))
    _add(key.update, *(option.encode() for option in _compiler.OPTIONS))
    return key.hexdigest()


def _add(update: Callable[[bytes], object], *parts: bytes) -> None:
    for part in parts:
        update(len(part).to_bytes(8, "little"))
        update(part)


# ---- the folder


def cache_folder() -> Path:
    """Where compiled kernels are kept; it need not exist. ``RuntimeError`` where the user has no home."""
    chosen = os.environ.get("FASTSCHED_CACHE", "")
    if chosen:
        return Path(chosen).absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".cache") / "fastsched"


def cache_size() -> tuple[int, int]:
    """Number and bytes of the kernels that are kept; ``OSError`` says why the folder cannot be used."""
    with _opened() as cache:
        sizes = [entry.size for entry in cache.entries()]
    return len(sizes), sum(sizes)


def _without(error: Exception) -> None:
    """Nothing is kept: a message, once."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fastsched: compiled CUDA kernels cannot be kept for the next process ({error}); "
            "set FASTSCHED_CACHE to a folder of your own",
            RuntimeWarning,
            stacklevel=2,
        )


@contextlib.contextmanager
def _opened() -> Iterator[_Cache]:
    """The cache, by its folder's descriptor: what was checked stays what is used, whatever the path becomes."""
    path = cache_folder()
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        found = os.fstat(folder)
        # Whoever can write there could have this process load code of theirs.
        if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise PermissionError(f"{path} belongs to, or can be written by, somebody else")
        yield _Cache(folder)
    finally:
        os.close(folder)


class _Entry(NamedTuple):
    used: float  # when
    size: int  # bytes
    name: str


class _Cache:
    def __init__(self, folder: int) -> None:
        self._folder = folder

    def read(self, key: str) -> tuple[bytes, str] | None:
        """Image and symbol; None where there is no such file, or it is not as it was written."""
        try:
            return _unpacked(self._content(key + _KERNEL))
        except OSError:
            return None

    def _content(self, name: str) -> bytes:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe must not be waited for
        file = os.open(name, flags, dir_fd=self._folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return b""
            with open(file, "rb", closefd=False) as stream:
                content = stream.read()
            with contextlib.suppress(OSError):
                os.utime(file)  # many file systems do not keep the time of reading
            return content
        finally:
            os.close(file)

    def write(self, key: str, image: bytes, symbol: str) -> None:
        unfinished = f"{secrets.token_hex(8)}{_UNFINISHED}"
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            file = os.open(unfinished, flags, mode=0o600, dir_fd=self._folder)
            try:
                with open(file, "wb") as stream:
                    stream.write(_packed(image, symbol))
                os.rename(unfinished, key + _KERNEL, src_dir_fd=self._folder, dst_dir_fd=self._folder)
            except OSError:
                self._remove(unfinished)
                raise
            self._prune()
        except OSError as error:
            _without(error)

    def entries(self) -> list[_Entry]:
        found = []
        for name in os.listdir(self._folder):
            if name.endswith((_KERNEL, _UNFINISHED)):
                with contextlib.suppress(FileNotFoundError):  # another process removes files too
                    status = os.stat(name, dir_fd=self._folder, follow_symlinks=False)
                    found.append(_Entry(status.st_mtime, status.st_size, name))
        return found

    def _prune(self) -> None:
        """Removes what was not used for longest, until the rest is within the limit, and what nobody finishes."""
        now = time.time()
        entries = sorted(self.entries())
        total = sum(entry.size for entry in entries)
        for entry in entries:
            unfinished = entry.name.endswith(_UNFINISHED)
            if now - entry.used > _ABANDONED if unfinished else total > SIZE_LIMIT:
                self._remove(entry.name)
                total -= entry.size

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=self._folder)


def _packed(image: bytes, symbol: str) -> bytes:
    name = symbol.encode()
    body = _LENGTH.pack(len(name)) + name + image
    return _MAGIC + _DIGEST(body).digest() + body


def _unpacked(content: bytes) -> tuple[bytes, str] | None:
    start = len(_MAGIC) + _DIGEST().digest_size
    body = content[start:]
    if content[:start] != _MAGIC + _DIGEST(body).digest():
        return None
    (length,) = _LENGTH.unpack_from(body)
    begin = _LENGTH.size + length
    return body[begin:], body[_LENGTH.size : begin].decode()
