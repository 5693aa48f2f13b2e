"""Every kernel compiles for GPUs of every generation, without a GPU; registers and spills are what ptxas reports."""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import device_tables as dt
import pytest

from fastsched import _nvrtc

SOURCES = Path(__file__).parents[1] / "csrc"
UPDATES = {
    (kind, param, other, strided): f"update<{dt.code_of(kind, param, other_state=other, strided=strided)}>"
    for kind in dt.KINDS
    for param in dt.FORMATS
    for other in (False, True)
    for strided in (False, True)
    if not (other and kind in ("sgd", "none"))
}
OTHERS = [
    *(f"{kernel}<{kind}>" for kernel in ("norm", "join") for kind in range(3)),
    *(f"{kernel}<{scheduled}>" for kernel in ("control", "probe") for scheduled in ("true", "false")),
]
ARCHITECTURES = [(8, 0), (9, 0), (10, 0), (12, 0)]
OPTIONS = (*_nvrtc.OPTIONS, "--ptxas-options=-v")


@dataclass
class Kernel:
    """What ptxas says of a kernel and the functions that it calls."""

    registers: int
    spilled: int  # bytes, stored and loaded


def kernels_of(log: str) -> dict[str, Kernel]:
    """By symbol, from what ``--ptxas-options=-v`` adds to a log."""
    kernels: dict[str, Kernel] = {}
    for part in re.split(r"Compiling entry function '", log)[1:]:
        registers = re.search(r"Used (\d+) registers", part)
        assert registers, part[:500]
        spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", part)
        assert spills, part[:500]
        spilled = sum(int(stores) + int(loads) for stores, loads in spills)
        kernels[part.partition("'")[0]] = Kernel(int(registers[1]), spilled)
    return kernels


def compiled(folder: Path, names: list[str], capability: tuple[int, int]) -> dict[str, Kernel]:
    """By name."""
    try:
        nvrtc = _nvrtc.find()
    except RuntimeError as error:
        pytest.skip(str(error))
    made = nvrtc.compile(folder, names, capability)
    assert not re.search(r"\bwarning\b", made.log), made.log[:2000]
    kernels = kernels_of(made.log)
    assert set(kernels) == set(made.lowered.values()), "what is not named is not compiled"
    return {name: kernels[symbol] for name, symbol in made.lowered.items()}


@pytest.fixture(scope="module", autouse=True)
def report_of_ptxas():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nvrtc, "OPTIONS", OPTIONS)
        yield


@cache
def every_kernel() -> dict[tuple[int, int], dict[str, Kernel]]:
    """All architectures at once: half a minute of a core for each."""
    names = [f"fastsched::cuda::{name}" for name in (*UPDATES.values(), *OTHERS)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        made = {capability: pool.submit(compiled, SOURCES, names, capability) for capability in ARCHITECTURES}
        return {capability: future.result() for capability, future in made.items()}


def kernels(capability: tuple[int, int]) -> dict[str, Kernel]:
    return every_kernel()[capability]


@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_no_kernel_spills_registers(capability):
    assert {name: kernel for name, kernel in kernels(capability).items() if kernel.spilled} == {}


@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_two_blocks_of_an_update_or_norm_fit_a_multiprocessor(capability):
    most = 65536 // (2 * 256)
    bounded = {
        name: kernel.registers for name, kernel in kernels(capability).items() if "update<" in name or "norm<" in name
    }
    assert bounded
    assert {name: registers for name, registers in bounded.items() if registers > most} == {}


def test_every_variant_is_among_them():
    assert len(UPDATES) == 80


def test_a_kernel_that_spills_is_noticed(tmp_path):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "kernels.cu").write_text(
        """
template <int n> __global__ void __launch_bounds__(1024, 2) spills(float* at) {
  float held[n];
  for (int i = 0; i < n; ++i) held[i] = at[threadIdx.x + 1024 * i];
  __syncthreads();
  for (int i = 0; i < n; ++i) at[threadIdx.x + 1024 * i] = held[i] * held[(i + n / 2) % n];
}
"""
    )
    found = compiled(tmp_path, ["spills<64>", "spills<4>"], (9, 0))
    assert found["spills<64>"].spilled > 0
    assert found["spills<4>"].spilled == 0


def test_an_error_in_a_kernel_is_raised(tmp_path):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "kernels.cu").write_text("template <int n> __global__ void broken(int* at) { *at = nothing; }")
    with pytest.raises(RuntimeError, match="nothing"):
        compiled(tmp_path, ["broken<1>"], (9, 0))
