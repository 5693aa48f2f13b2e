"""Instructions per call of the two hot paths, by callgrind: repeatable where times are noisy.

python benchmarks/count_instructions.py (needs valgrind; takes minutes, most of them torch's import under valgrind).
Each path runs N and 2 N times; the difference over N is the cost of one call, without start-up. valgrind 3.19 knows no
AVX-512, so the AVX2 kernels are counted.
"""

import os
import re
import subprocess
import sys
import tempfile

TABLE = """
import numpy as np, fastsched as fs
schedule, out = fs.Cosine(steps=10_000), np.empty(10_000)
for _ in range({n}):
    schedule.table(10_000, out=out)
"""

STEP = """
import torch, fastsched as fs
params = [torch.nn.Parameter(torch.ones(256)) for _ in range(100)]
for p in params:
    p.grad = torch.ones(256)
opt = fs.optim.AdamW([{{"params": [p]}} for p in params], schedule=fs.Cosine(steps=1000))
opt.step()
for _ in range({n}):
    opt.step()
"""


def total(script):
    """Instructions of a whole process."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", sys.executable, "-c", script]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "ATEN_CPU_CAPABILITY": "avx2"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        found = re.search(r"Collected : (\d+)", done.stderr)
        if done.returncode or not found:
            sys.exit(f"callgrind failed:\n{done.stderr[-2000:]}")
        return int(found[1])


def main():
    for name, script, n, unit, units in (
        ("Cosine table of 10,000 steps", TABLE, 100, "step", 10_000),
        ("AdamW step of 100 x 256 in 100 groups", STEP, 50, "element", 25_600),
    ):
        per_call = (total(script.format(n=2 * n)) - total(script.format(n=n))) / n
        print(f"{name}: {per_call:,.0f} instructions a call, {per_call / units:.2f} per {unit}", flush=True)


if __name__ == "__main__":
    main()
