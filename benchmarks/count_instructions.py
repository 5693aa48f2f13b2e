"""Instructions per call of the hot paths, by callgrind: repeatable where times are noisy.

python benchmarks/count_instructions.py (needs valgrind and its headers, and a C++ compiler)

Each list of paths runs in one process, which counts during the calls only (callgrind.cpp), so imports cost little.
valgrind 3.19 knows no AVX-512: the AVX2 kernels are counted. tests/test_instructions.py holds the counts to bounds.
"""

import ctypes
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CALLS = 10


def table_paths():
    """{name: (a call, how many units of work it does, the unit)}, without torch."""
    import numpy as np

    import fastsched as fs

    cosine, warm, out = fs.Cosine(steps=10_000), fs.Cosine(steps=9000).warmup(1000), np.empty(10_000)
    wide, scale = np.empty((1000, 100), np.float32), 0.99 ** np.arange(100)
    return {
        "Cosine table of 10,000 steps": (lambda: cosine.table(10_000, out=out), 10_000, "step"),
        "Cosine after warmup, 10,000 steps": (lambda: warm.table(10_000, out=out), 10_000, "step"),
        "table of 1,000 x 100 groups": (lambda: fs.lr_table(cosine, 1000, scale=scale, out=wide), 100_000, "value"),
        "s(t), Cosine": (lambda: cosine(1234), 1, "value"),
    }


def training_paths():
    """The same of what needs torch, whose import under valgrind takes longer than all the counting."""
    import torch

    import fastsched as fs

    def groups():
        params = [torch.nn.Parameter(torch.ones(256)) for _ in range(100)]
        for p in params:
            p.grad = torch.ones(256)
        return [{"params": [p]} for p in params]

    optimizer = fs.optim.AdamW(groups(), schedule=fs.Cosine(steps=10_000))
    stepped = torch.optim.SGD(groups(), lr=0.1)
    scheduler = fs.lr_scheduler.CosineAnnealingLR(stepped, 10_000)
    stepped.step()
    return {
        "scheduler.step() of 100 groups": (scheduler.step, 100, "group"),
        "AdamW step of 100 x 256 in 100 groups": (optimizer.step, 25_600, "element"),
    }


PATHS = {"tables": table_paths, "training": training_paths}


def counted(library, which):
    """Within callgrind: count the calls of each path."""
    import gc

    counter = ctypes.CDLL(library)
    gc.disable()  # a collection would belong to whichever path it fell into
    for name, (call, units, unit) in PATHS[which]().items():
        call()
        call()
        counter.start_counting()
        for _ in range(CALLS):
            call()
        counter.stop_counting(f"{name}|{units}|{unit}".encode())


def counts(which):
    """{name: (instructions of a call, units, unit)} of the paths of a name in PATHS."""
    from baselines import compiled

    with tempfile.TemporaryDirectory() as folder:
        library = compiled("callgrind.cpp", folder, "-O1")
        options = ["--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={folder}/out"]
        command = ["valgrind", *options, sys.executable, str(Path(__file__)), "counted", str(library), which]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "ATEN_CPU_CAPABILITY": "avx2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"callgrind failed:\n{done.stderr[-2000:]}")
        texts = [path.read_text() for path in Path(folder).glob("out.*")]
    found = {}
    for text in texts:
        trigger, total = (
            re.search(r"Client Request: (.*)\|(\d+)\|(\w+)", text),
            re.search(r"^totals: (\d+)", text, re.M),
        )
        if trigger and total:
            found[trigger[1]] = int(total[1]) / CALLS, int(trigger[2]), trigger[3]
    return found


def main():
    print("| path | instructions a call | each |\n|---|---|---|")
    for which in PATHS:
        for name, (total, units, unit) in sorted(counts(which).items()):
            print(f"| {name} | {total:,.0f} | {total / units:.2f} per {unit} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["counted"]:
        counted(*sys.argv[2:])
    else:
        main()
