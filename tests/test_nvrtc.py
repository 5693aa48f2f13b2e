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
template <class Real>
__device__ void update(const TensorUpdate& work, long long i) {{
  Real* row[operands];
  for (int o = param; o < operands; ++o) row[o] = reinterpret_cast<Real*>(work.at[o]) + i;
  switch (work.rule) {{
    case Rule::adam:
      return adam<true, false>(adam_rule<Real>(work.numbers), *row[grad], *row[param], *row[first], *row[second],
                               *row[top]);
    case Rule::sgd: return sgd<true>(sgd_rule<Real>(work.numbers), *row[grad], *row[param], *row[first]);
    case Rule::lion: return lion(lion_rule<Real>(work.numbers), *row[grad], *row[param], *row[first]);
    case Rule::none: return;
  }}
}}
extern "C" __global__ void step(TensorUpdate work) {{
  const long long i = blockIdx.x * static_cast<long long>(blockDim.x) + threadIdx.x;
  if (i >= work.count) return;
  is_double(work) ? update<double>(work, i) : update<float>(work, i);
}}
extern "C" __global__ void formats(const Bfloat16* brain, const Float16* half, Bfloat16* out, Float16* half_out,
                                   Stream stream) {{
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  out[i] = upper_half(rounded_at_random(widened(brain[i]), random_bits(stream_part(stream, 0), i)));
  narrow(widened(half[i]) * 2.0f, half_out[i]);
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
