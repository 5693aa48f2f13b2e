"""The shared headers compile as CUDA, without a GPU: NVRTC, from PyPI, takes a kernel that uses them."""

import ctypes
import importlib.metadata
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "csrc"
KERNEL = """
{includes}
using namespace fastsched;
extern "C" __global__ void table(const Instruction* code, long long size, double first, double* out, int n) {{
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const Program program = {{code, size}};
  if (i < n) out[i] = value(program, first + i) * power(0.999, first + i);
}}
extern "C" __global__ void step(AdamWork work) {{
  const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
  if (i >= work.count) return;
  adamw<true>(work.rule, work.at[grad][i], work.at[param][i], work.at[exp_avg][i], work.at[exp_avg_sq][i],
              work.at[max_exp_avg_sq][i]);
}}
"""


def load_nvrtc() -> ctypes.CDLL:
    for name in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if file.name.startswith("libnvrtc.so"):
                return ctypes.CDLL(str(file.locate()))
    pytest.skip("nvidia-cuda-nvrtc is not installed")


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_shared_headers_compile_as_cuda(architecture):
    nvrtc = load_nvrtc()
    headers = sorted(path.name for path in SOURCES.glob("*.hpp"))
    kernel = KERNEL.format(includes="\n".join(f'#include "{name}"' for name in headers))
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), kernel.encode(), b"table.cu", 0, None, None) == 0
    options = [
        f"--gpu-architecture={architecture}",
        f"--include-path={SOURCES}",
        "--std=c++17",
        "--fmad=false",
    ]
    encoded = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), encoded)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert not failed, log.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    assert size.value > 1000
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
