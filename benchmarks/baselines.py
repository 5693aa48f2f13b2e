"""The plain loops of baselines.cpp, compiled by this machine's compiler for this machine."""

import ctypes
import functools
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path

import pytest
import torch


def compiled(source, folder, *flags):
    """Compile a C++ file beside this one; returns the library's path. Skips the test where there is no compiler."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no compiler ({compiler}): there is no plain loop to compare with")
    library = Path(folder, source).with_suffix(".so")
    source = str(Path(__file__).with_name(source))
    subprocess.run([compiler, "-std=c++17", "-shared", "-fPIC", *flags, source, "-o", str(library)], check=True)
    return library


@functools.cache
def _library():
    flags = "-O3", "-march=native", "-fopenmp", f"-I{sysconfig.get_path('include')}"
    with tempfile.TemporaryDirectory() as folder:
        # PyDLL: the GIL stays held, as read_addresses needs it
        return ctypes.PyDLL(str(compiled("baselines.cpp", folder, *flags)))


def streaming(shapes):
    """A call that reads four arrays of every shape and writes three: the bytes of an AdamW step.

    The arrays are torch's, so they lie in pages of the same size as a step's, and as many threads run as torch uses.
    """
    p, g, m, v = ([torch.full(shape, value) for shape in shapes] for value in (1.0, 0.5, 2.0, 3.0))
    addresses = [(ctypes.c_void_p * len(shapes))(*(t.data_ptr() for t in tensors)) for tensors in (p, g, m, v)]
    lengths = (ctypes.c_int64 * len(shapes))(*(t.numel() for t in p))
    stream = _library().stream

    def call():
        stream(*addresses, lengths, ctypes.c_int64(len(shapes)), torch.get_num_threads())

    call()
    for tensors, value in ((p, 1.5), (g, 0.5), (m, 2.5), (v, 3.5)):
        assert all(bool((t == value).all()) for t in tensors)
    call.tensors = p, g, m, v  # they live as long as the call
    return call


def reading(params):
    """A call that asks for the address of every parameter and gradient: the exchange and getattr, nothing else."""
    read = _library().read_addresses
    read.argtypes = [ctypes.py_object] * 3
    read.restype = ctypes.c_uint64
    capsule = torch.Tensor.__dlpack_c_exchange_api__

    def call():
        return read(params, "grad", capsule)

    assert call() == sum(p.data_ptr() + p.grad.data_ptr() for p in params) % 2**64
    return call
