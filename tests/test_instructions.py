"""The hot paths' instructions, counted by callgrind: a guard that noise cannot move. The bounds are generous.

`python benchmarks/count_instructions.py` prints the counts, and those of the steps, which need torch.
"""

import os
import shutil
from pathlib import Path

import count_instructions
import pytest

from fastsched import _core

HEADER = Path("/usr/include/valgrind/callgrind.h")

# name: instructions of a call, at most
BOUNDS = {  # about half more than what valgrind 3.19 counted of g++ 12's AVX2 kernels
    "Cosine table of 10,000 steps": 380_000,
    "Cosine after warmup, 10,000 steps": 370_000,
    "table of 1,000 x 100 groups": 2_500_000,
    "s(t), Cosine": 2_800,
}


@pytest.fixture(scope="module")
def counts():
    if shutil.which("valgrind") is None or not HEADER.exists():
        pytest.skip("needs valgrind and its headers")
    if os.environ.get("LD_PRELOAD"):
        pytest.skip("a library loaded ahead of all others, such as a sanitizer's, would be counted too")
    if "avx2" not in _core.isas():
        pytest.skip("the bounds are those of the AVX2 kernels")
    return count_instructions.counts("tables")


@pytest.mark.parametrize("name", BOUNDS)
def test_instructions_stay_within_their_bound(counts, name):
    assert 0 < counts[name][0] <= BOUNDS[name]


def test_every_counted_path_has_a_bound(counts):
    assert counts.keys() == BOUNDS.keys()
