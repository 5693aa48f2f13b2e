"""Every kernel compiles for GPUs of every generation, without a GPU; registers and spills are what ptxas reports."""

import re
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
# Compiling everything takes half a minute: one architecture gets all of it, the others the updates of most operands.
EVERYTHING = (9, 0)
LARGEST = [name for (kind, *_), name in UPDATES.items() if kind == "amsgrad"]
ARCHITECTURES = {(8, 0): LARGEST, EVERYTHING: list(UPDATES.values()), (10, 0): LARGEST, (12, 0): LARGEST}


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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_nvrtc, "OPTIONS", (*_nvrtc.OPTIONS, "--ptxas-options=-v"))
        made = nvrtc.compile(folder, names, capability)
    assert not re.search(r"\bwarning\b", made.log), made.log[:2000]
    kernels = kernels_of(made.log)
    assert set(kernels) == set(made.lowered.values()), "what is not named is not compiled"
    return {name: kernels[symbol] for name, symbol in made.lowered.items()}


@cache
def kernels(capability: tuple[int, int]) -> dict[str, Kernel]:
    names = [f"fastsched::cuda::{name}" for name in (*ARCHITECTURES[capability], *OTHERS)]
    return compiled(SOURCES, names, capability)


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


def test_one_architecture_gets_every_variant():
    assert len(kernels(EVERYTHING)) == 80 + len(OTHERS)


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
    found = compiled(tmp_path, ["spills<64>", "spills<4>"], EVERYTHING)
    assert found["spills<64>"].spilled > 0
    assert found["spills<4>"].spilled == 0


def test_an_error_in_a_kernel_is_raised(tmp_path):
    (tmp_path / "cuda").mkdir()
    (tmp_path / "cuda" / "kernels.cu").write_text("template <int n> __global__ void broken(int* at) { *at = nothing; }")
    with pytest.raises(RuntimeError, match="nothing"):
        compiled(tmp_path, ["broken<1>"], EVERYTHING)
