"""Compiled kernels: found by name, kept between processes, never trusted when damaged; and NVRTC."""

import logging
import os
import stat
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from support import output

import fastsched
from fastsched import _kernels, _nvrtc
from fastsched._nvrtc import Compiled, Target

HOPPER = (9, 0)
NAME = "small::scaled<3>"
SOURCE = """
#include "number.hpp"
namespace small {
struct Args { double* out; };
template <int n> __global__ void scaled(Args a) { a.out[threadIdx.x] = NUMBER * n; }
}
"""


class Counting:
    """A compiler that is quick and counts; the image depends on what it was asked for."""

    OPTIONS = ("-O1",)
    version = "counting 1"
    padding = 0

    def __init__(self):
        self.compiled = []

    def target(self, capability):
        return Target(f"sm_{capability[0]}{capability[1]}", self.version)

    def compile(self, folder, names, capability):
        (name,) = names
        self.compiled.append((name, capability))
        return Compiled(f"{name} {capability}".encode() + bytes(self.padding), {name: f"symbol of {name}"}, "")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("FASTSCHED_CACHE", str(folder))
    return folder


@pytest.fixture
def sources(tmp_path):
    """A folder of kernels of its own."""
    folder = tmp_path / "csrc"
    (folder / "cuda").mkdir(parents=True)
    (folder / "cuda" / "kernels.cu").write_text(SOURCE)
    (folder / "number.hpp").write_text("#define NUMBER 2.0\n")
    return folder


@pytest.fixture
def compiler(cache, sources):
    made = Counting()
    _kernels.use(made, sources)
    yield made
    _kernels.use()


def as_in_a_new_process(compiler, sources):
    _kernels.use(compiler, sources)


def files(cache):
    return sorted(cache.iterdir())


# ---- from memory and from the folder


def test_a_kernel_is_compiled_once_in_a_process(compiler):
    first = _kernels.kernel(HOPPER, NAME)
    assert first == (f"{NAME} {HOPPER}".encode(), f"symbol of {NAME}")
    assert _kernels.kernel(HOPPER, NAME) is first
    assert compiler.compiled == [(NAME, HOPPER)]


def test_the_next_process_finds_it_in_the_folder(compiler, sources):
    first = _kernels.kernel(HOPPER, NAME)
    as_in_a_new_process(compiler, sources)
    assert _kernels.kernel(HOPPER, NAME) == first
    assert len(compiler.compiled) == 1


def change_name(compiler, sources):
    return HOPPER, "small::scaled<4>"


def change_device(compiler, sources):
    return (8, 0), NAME


def change_version(compiler, sources):
    compiler.version = "counting 2"
    return HOPPER, NAME


def change_options(compiler, sources):
    compiler.OPTIONS = ("-O2",)
    return HOPPER, NAME


def change_header(compiler, sources):
    (sources / "number.hpp").write_text("#define NUMBER 3.0\n")
    return HOPPER, NAME


def rename_header(compiler, sources):
    (sources / "number.hpp").rename(sources / "numbers.hpp")
    return HOPPER, NAME


@pytest.mark.parametrize(
    "change", [change_name, change_device, change_version, change_options, change_header, rename_header]
)
def test_whatever_the_image_depends_on_makes_another_file(compiler, sources, cache, change):
    _kernels.kernel(HOPPER, NAME)
    capability, name = change(compiler, sources)
    as_in_a_new_process(compiler, sources)
    _kernels.kernel(capability, name)
    assert len(compiler.compiled) == len(files(cache)) == 2


def test_threads_that_want_the_same_kernel_compile_it_once(compiler):
    gate, found = threading.Barrier(8), []

    def ask():
        gate.wait()
        found.append(_kernels.kernel(HOPPER, NAME))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(compiler.compiled) == 1


ASK = """
import sys, warnings
from pathlib import Path
from fastsched import _kernels
from test_kernel_cache import HOPPER, Counting
_kernels.use(Counting(), Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
print([_kernels.kernel(HOPPER, f"update<{i}>") for i in range(30)])
"""


def test_processes_that_write_the_same_files_agree(cache, sources):
    command = [sys.executable, "-P", "-W", "error", "-c", ASK, sources]
    path = os.pathsep.join([str(Path(fastsched.__file__).parents[1]), str(Path(__file__).parent)])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, **pipes) for _ in range(4)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=120)[0] for process in processes]
    assert "update<29>" in found[0]
    assert found == found[:1] * 4
    assert [process.returncode for process in processes] == [0] * 4
    assert len(files(cache)) == 30
    assert all(file.suffix == ".kernel" for file in files(cache))


# ---- files that are not as they were written


@pytest.mark.parametrize("length", [0, 5, 30, 60, -1])
def test_a_truncated_file_is_compiled_again(compiler, sources, cache, length):
    first = _kernels.kernel(HOPPER, NAME)
    (file,) = files(cache)
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    as_in_a_new_process(compiler, sources)
    assert _kernels.kernel(HOPPER, NAME) == first
    assert file.read_bytes() == whole


def test_a_file_with_one_wrong_bit_is_compiled_again(compiler, sources, cache):
    first = _kernels.kernel(HOPPER, NAME)
    (file,) = files(cache)
    whole = file.read_bytes()
    for place in (0, 25, 52, 60, len(whole) - 1):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        as_in_a_new_process(compiler, sources)
        assert _kernels.kernel(HOPPER, NAME) == first
        assert file.read_bytes() == whole


def test_a_writer_that_was_killed_leaves_nothing_that_is_read(compiler, sources, cache):
    cache.mkdir(mode=0o700)
    unfinished = cache / "0123456789abcdef.unfinished"
    unfinished.write_bytes(b"half")
    _kernels.kernel(HOPPER, NAME)
    assert unfinished.exists()  # perhaps its writer is still at it
    long_ago = time.time() - 2 * 3600
    os.utime(unfinished, (long_ago, long_ago))
    _kernels.kernel((8, 0), NAME)
    assert not unfinished.exists()


@pytest.mark.parametrize("kind", ["symlink", "fifo", "folder"])
def test_what_is_no_file_is_not_read(compiler, sources, cache, tmp_path, kind):
    first = _kernels.kernel(HOPPER, NAME)
    (file,) = files(cache)
    if kind == "symlink":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    else:
        file.unlink()
        os.mkfifo(file) if kind == "fifo" else file.mkdir()
    as_in_a_new_process(compiler, sources)
    with warnings.catch_warnings(record=True) as caught:  # a folder cannot be replaced by the new file
        warnings.simplefilter("always")
        assert _kernels.kernel(HOPPER, NAME) == first
    assert len(caught) == (kind == "folder")
    assert len(compiler.compiled) == 2


# ---- the folder


def test_the_folder_and_its_files_are_the_users_alone(compiler, cache):
    _kernels.kernel(HOPPER, NAME)
    (file,) = files(cache)
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def symlinked(cache):
    real = cache.with_name("real")
    real.mkdir(mode=0o700)
    cache.symlink_to(real)


def writable_by_all(cache):
    cache.mkdir()
    cache.chmod(0o777)


def a_file(cache):
    cache.write_text("")


def in_a_file(cache):
    cache.with_name("file").write_text("")
    os.environ["FASTSCHED_CACHE"] = str(cache.with_name("file") / "cache")


@pytest.mark.parametrize("unusable", [symlinked, writable_by_all, a_file, in_a_file])
def test_a_folder_that_cannot_be_trusted_or_used_is_one_warning_and_no_cache(compiler, sources, cache, unusable):
    unusable(cache)
    with pytest.warns(RuntimeWarning, match=r"cannot be kept for the next process .*; set FASTSCHED_CACHE to a folder"):
        first = _kernels.kernel(HOPPER, NAME)
    second = _kernels.kernel((8, 0), NAME)  # a second warning would be an error
    assert first[1] == second[1] == f"symbol of {NAME}"
    assert cache.is_file() or not list(cache.resolve().glob("*.kernel"))


def test_a_folder_of_somebody_else_is_not_used(compiler, cache, monkeypatch):
    cache.mkdir(mode=0o700)
    me = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: me + 1)
    with pytest.warns(RuntimeWarning, match="belongs to, or can be written by, somebody else"):
        _kernels.kernel(HOPPER, NAME)
    assert files(cache) == []


def test_a_full_disk_is_one_warning_and_leaves_nothing(compiler, cache, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.warns(RuntimeWarning, match="No space left on device"):
        _kernels.kernel(HOPPER, NAME)
    assert files(cache) == []


def test_the_folder_is_the_users_cache_unless_another_is_named(monkeypatch):
    monkeypatch.setenv("FASTSCHED_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere/cache")
    assert _kernels.cache_folder() == Path("/somewhere/cache/fastsched")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the specification tells to ignore
    assert _kernels.cache_folder() == Path.home() / ".cache" / "fastsched"
    monkeypatch.setenv("FASTSCHED_CACHE", "/mine")
    assert _kernels.cache_folder() == Path("/mine")


def test_the_oldest_files_go_when_the_limit_is_passed(compiler, sources, cache, monkeypatch):
    compiler.padding = 1000
    for i in range(5):
        _kernels.kernel(HOPPER, f"update<{i}>")
    by_name = {}
    for i in range(5):
        (file,) = [file for file in files(cache) if f"update<{i}>".encode() in file.read_bytes()]
        os.utime(file, (1000.0 + i, 1000.0 + i))
        by_name[i] = file
    as_in_a_new_process(compiler, sources)
    _kernels.kernel(HOPPER, "update<0>")  # used again: now the latest
    monkeypatch.setattr(_kernels, "SIZE_LIMIT", 5000)
    _kernels.kernel(HOPPER, "update<5>")
    assert [i for i in range(5) if by_name[i].exists()] == [0, 3, 4]
    assert sum(file.stat().st_size for file in files(cache)) <= 5000


def test_other_peoples_files_are_never_removed(compiler, cache, monkeypatch):
    cache.mkdir(mode=0o700)
    (cache / "notes.txt").write_bytes(bytes(1000))
    monkeypatch.setattr(_kernels, "SIZE_LIMIT", 0)
    _kernels.kernel(HOPPER, NAME)
    assert [file.name for file in files(cache)] == ["notes.txt"]


def test_nothing_is_printed_but_the_log_tells(compiler, capfd, caplog):
    with caplog.at_level(logging.INFO, "fastsched"):
        _kernels.kernel(HOPPER, NAME)
    assert capfd.readouterr() == ("", "")
    assert caplog.messages[0] == f"compiling {NAME} for sm_90"
    assert caplog.messages[1].startswith(f"compiled {NAME} in ")


# ---- sources


def test_missing_sources_name_the_fix(cache, tmp_path):
    _kernels.use(Counting(), tmp_path / "nowhere")
    try:
        with pytest.raises(RuntimeError, match=r"CUDA kernels: their sources are not in .*; reinstall fastsched"):
            _kernels.kernel(HOPPER, NAME)
    finally:
        _kernels.use()


def test_requiring_kernels_compiles_none(compiler, cache):
    _kernels.require(HOPPER)
    assert compiler.compiled == []
    assert not cache.exists()


def test_requiring_kernels_without_a_compiler_says_why(compiler, monkeypatch):
    def fail(capability):
        raise RuntimeError("CUDA kernels: NVRTC was not found")

    monkeypatch.setattr(compiler, "target", fail)
    with pytest.raises(RuntimeError, match="NVRTC was not found"):
        _kernels.require(HOPPER)


def test_the_packages_kernels_are_found():
    folder = _kernels.sources()
    assert (folder / "host_device.hpp").is_file()
    assert (folder / "cuda" / "tables.hpp").is_file()


# ---- NVRTC


@pytest.fixture
def nvrtc():
    try:
        return _nvrtc.find()
    except RuntimeError:
        pytest.skip("needs NVRTC")


def test_nvrtc_makes_machine_code_for_devices_that_it_knows(nvrtc, sources):
    made = nvrtc.compile(sources, [NAME, "small::scaled<4>"], HOPPER)
    assert made.image.startswith(b"\x7fELF")
    assert made.lowered.keys() == {NAME, "small::scaled<4>"}
    assert all(symbol.encode() + b"\0" in made.image for symbol in made.lowered.values())


def test_nvrtc_makes_ptx_of_the_newest_it_knows_for_newer_devices(nvrtc, sources):
    newest = nvrtc.capabilities[-1]
    newer = (newest[0] + 1, 0)
    assert nvrtc.target(newer).architecture == f"compute_{newest[0]}{newest[1]}"
    made = nvrtc.compile(sources, [NAME], newer)
    assert f".target sm_{newest[0]}{newest[1]}".encode() in made.image
    assert made.image.endswith(b"\0")  # as the driver wants it
    assert made.lowered[NAME].encode() in made.image


def test_the_kernel_is_compiled_from_the_folders_headers(nvrtc, sources):
    before = nvrtc.compile(sources, [NAME], HOPPER).image
    (sources / "number.hpp").write_text("#define NUMBER 3.0\n")
    assert nvrtc.compile(sources, [NAME], HOPPER).image != before


def test_a_kernel_through_nvrtc_is_kept_and_found_again(nvrtc, cache, sources):
    _kernels.use(None, sources)
    try:
        first = _kernels.kernel(HOPPER, NAME)
        assert len(files(cache)) == 1
        _kernels.use(None, sources)
        assert _kernels.kernel(HOPPER, NAME) == first
    finally:
        _kernels.use()


def test_devices_before_volta_are_refused(nvrtc):
    with pytest.raises(RuntimeError) as caught:
        nvrtc.target((6, 1))
    assert str(caught.value) == (
        "CUDA kernels: need a GPU of compute capability 7.0 or newer, got 6.1; move the parameters to the CPU"
    )


def test_devices_that_this_nvrtc_has_left_behind_name_the_package(nvrtc, monkeypatch):
    monkeypatch.setattr(nvrtc, "capabilities", [(8, 0), (9, 0)])
    with pytest.raises(RuntimeError, match=r"compute capability 8\.0 or newer, got 7\.5; pip install nvidia-cuda"):
        nvrtc.target((7, 5))


def test_a_source_that_does_not_compile_shows_the_log(nvrtc, sources):
    (sources / "number.hpp").write_text("#error no number\n")
    with pytest.raises(RuntimeError, match=r"cannot compile small::scaled<3> for sm_90") as caught:
        nvrtc.compile(sources, [NAME], HOPPER)
    assert "no number" in str(caught.value)


def test_a_library_that_is_no_nvrtc_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTSCHED_NVRTC", str(tmp_path / "libnvrtc.so"))
    _nvrtc.find.cache_clear()
    try:
        with pytest.raises(RuntimeError, match=r"FASTSCHED_NVRTC is no NVRTC .*; correct it, or unset it"):
            _nvrtc.find()
    finally:
        _nvrtc.find.cache_clear()


@pytest.mark.parametrize(
    ("torch_cuda", "package"),
    [(None, "nvidia-cuda-nvrtc"), ("13.0", "nvidia-cuda-nvrtc"), ("12.8", "nvidia-cuda-nvrtc-cu12")],
)
def test_a_missing_nvrtc_names_the_package_of_torchs_cuda(torch_cuda, package):
    code = f"""
import sys, types
from fastsched import _nvrtc
sys.modules["torch"] = types.SimpleNamespace(version=types.SimpleNamespace(cuda={torch_cuda!r}))
_nvrtc._candidates = lambda: iter(["libnvrtc-that-is-not-there.so"])
try:
    _nvrtc.find()
except RuntimeError as error:
    print(error)
"""
    expected = f"CUDA kernels: NVRTC was not found; pip install {package}"
    assert output(code, FASTSCHED_NVRTC="") == expected


def test_the_nvrtc_of_torchs_cuda_comes_first(monkeypatch):
    found = [Path(f"/packages/libnvrtc.so.{major}") for major in (11, 13, 12)]
    monkeypatch.setattr(_nvrtc, "_packaged", lambda: iter(found))
    monkeypatch.setattr(_nvrtc, "_of_torch", lambda: iter([]))
    for major in (12, 13):
        monkeypatch.setattr(_nvrtc, "_torch_major", lambda major=major: major)
        assert next(_nvrtc._candidates()) == f"/packages/libnvrtc.so.{major}"


@pytest.mark.parametrize("name", ["libnvrtc.alt.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"])
def test_what_lies_beside_nvrtc_is_not_taken_for_it(name):
    assert not _nvrtc._is_nvrtc(name)
    assert _nvrtc._is_nvrtc("libnvrtc.so.13")


def test_the_builtins_beside_nvrtc_are_found_but_not_those_of_another(tmp_path):
    for name in ("libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc-builtins.alt.so.13.0"):
        (tmp_path / name).touch()
    assert _nvrtc._builtins_beside(tmp_path / "libnvrtc.so.13") == [tmp_path / "libnvrtc-builtins.so.13.0"]
    assert _nvrtc._builtins_beside(Path("libnvrtc.so.13")) == []
