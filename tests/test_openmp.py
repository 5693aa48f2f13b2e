"""Which OpenMP runtime the native module uses: g++ links none, csrc/cpu/openmp.cpp finds one."""

import os
from pathlib import Path

import emulated
import pytest
from support import output

from fastsched import _core

pytestmark = pytest.mark.skipif(
    b"libomp.so" in Path(_core.__file__).read_bytes(), reason="another compiler's runtime is linked"
)

# In the place of a system without libgomp: none can be loaded by its name, what is loaded is found.
SHIM = r"""
#include <cstring>
#include <dlfcn.h>
extern "C" void* dlopen(const char* name, int flags) {
  static const auto next = reinterpret_cast<void* (*)(const char*, int)>(dlsym(RTLD_NEXT, "dlopen"));
  const bool searches = name != nullptr && std::strstr(name, "libgomp") != nullptr && (flags & RTLD_NOLOAD) == 0;
  return searches ? nullptr : next(name, flags);
}
"""
SETUP = """
import os
import fastsched as fs
def runtimes():
    return {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
def threads_of(call):
    before = len(os.listdir("/proc/self/task"))
    call()
    return 1 + len(os.listdir("/proc/self/task")) - before
def table():
    return fs.Cosine(steps=1000).table(1 << 18)
"""


@pytest.fixture(scope="module")
def without_libgomp(tmp_path_factory):
    """What a fresh interpreter prints that has no libgomp but one that comes with torch; two threads are asked for."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.cpp").write_text(SHIM)
    library = str(emulated.build(folder / "shim.so", [folder / "shim.cpp"], "-ldl"))
    preload = " ".join(filter(None, [os.environ.get("LD_PRELOAD"), library]))
    return lambda code: output(SETUP + code, LD_PRELOAD=preload, OMP_NUM_THREADS="2")


def test_importing_loads_no_runtime():
    assert output(SETUP + "print(runtimes())") == "set()"


def test_an_installed_runtime_is_used():
    assert output(SETUP + "print(threads_of(table), len(runtimes()))", OMP_NUM_THREADS="2") == "2 1"


def test_a_table_needs_no_runtime_and_has_the_same_bits(without_libgomp):
    ask = "import hashlib; print(threads_of(table), len(runtimes()), hashlib.sha256(table()).hexdigest())"
    threads, found, bits = without_libgomp(ask).split()
    assert (threads, found) == ("1", "0")
    assert output(SETUP + ask, OMP_NUM_THREADS="2").split()[2] == bits


def test_the_runtime_that_torch_brings_later_is_found(without_libgomp):
    code = "table(); import torch; torch.set_num_threads(2); print(threads_of(table), runtimes())"
    threads, found = without_libgomp(code).split(maxsplit=1)
    assert threads == "2"
    assert found.count("libgomp") == 1
    assert "torch" in found
