"""Trains, is killed at random moments, goes on from its latest checkpoint: the weights must be those of a quiet run.

python tests/kill_and_resume.py [kills, default 100]

With two arguments, a folder and a number of updates, this is the training: it prints the number of each update made.
"""

import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

UPDATES_PER_KILL = 15  # more than lie between two checkpoints, so that the training gets on


def train(folder, updates):
    """Go on from the folder's checkpoint, if there is one, to the last update; leaves final.pt."""
    import torch

    import fastsched as fs

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
    groups = [{"params": [p], "lr": 0.05 * 0.8**i} for i, p in enumerate(model.parameters())]
    schedule = fs.Cosine(steps=updates).warmup(20)
    optimizer = fs.optim.AdamW(
        groups,
        schedule=schedule,
        weight_decay=fs.Linear(0.1, 0.0, steps=updates),
        max_grad_norm=1.0,
        ema_decay=0.9,
        zero_grads=True,
        state_dtype=torch.bfloat16,
    )
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    while optimizer.position < updates:
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(optimizer.position))
        model(inputs).pow(2).mean().backward()
        optimizer.step()
        if optimizer.position % 7 == 0:
            whole = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(whole, folder / "unfinished.pt")
            os.replace(folder / "unfinished.pt", checkpoint)  # a kill leaves the one or the other
        print(optimizer.position, flush=True)
    torch.save([model.state_dict(), optimizer.state_dict()["state"]], folder / "final.pt")


def run(folder, updates, kill_after=None):
    """Start the training; kill it after so many of its lines. Returns whether it came to its end."""
    command = [sys.executable, "-P", __file__, str(folder), str(updates)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder) as process:
        for count, _ in enumerate(process.stdout, 1):
            if count == kill_after:
                process.kill()
                break
        return process.wait() == 0


def interrupted(folder, updates, kills):
    """Kill the training so often, then let it end; returns how often it was really killed."""
    chance, killed = random.Random(0), 0
    for _ in range(kills):
        killed += not run(folder, updates, chance.randint(1, 2 * UPDATES_PER_KILL))
    assert run(folder, updates)
    return killed


def finals(folder):
    """What a training left."""
    import torch

    return torch.load(folder / "final.pt", weights_only=True)


def same(a, b):
    """Whether two nests of tensors have the same bits."""
    import torch

    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    items = a.items() if isinstance(a, dict) else enumerate(a)
    return len(a) == len(b) and all(same(value, b[key]) for key, value in items)


def main(kills):
    updates = max(100, kills * UPDATES_PER_KILL)
    with tempfile.TemporaryDirectory() as quiet, tempfile.TemporaryDirectory() as troubled:
        assert run(Path(quiet), updates)
        killed = interrupted(Path(troubled), updates, kills)
        assert same(finals(Path(quiet)), finals(Path(troubled)))
    print(f"killed {killed} times in {updates} updates, and the same bits")


if __name__ == "__main__":
    if len(sys.argv) == 3:
        train(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
