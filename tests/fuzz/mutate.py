"""Inputs changed at random, for where no fuzzer is installed: ``python -m fuzz.mutate SECONDS [SEED]``, run in tests/.

Unlike run.py it does not follow what an input covers. The same seed makes the same inputs.
"""

from __future__ import annotations

import base64
import faulthandler
import random
import resource
import sys
import time

from fuzz import targets

HANG = 60  # seconds beyond a target's share
MEMORY = 8 << 30  # bytes; beyond it a MemoryError is the finding


def mutated(seed: bytes, choose: random.Random) -> bytes:
    """A few bytes changed, left out or doubled, or a word put in."""
    data = bytearray(seed)
    for _ in range(choose.randrange(1, 5)):
        at = choose.randrange(len(data) + 1)
        match choose.randrange(4):
            case 0:
                data[at : at + 1] = bytes([choose.randrange(256)])
            case 1:
                del data[at : at + choose.randrange(1, 9)]
            case 2:
                data[at:at] = data[at : at + choose.randrange(1, 17)]
            case 3:
                data[at:at] = choose.choice(targets.dictionary())
    return bytes(data)


def attempt(target: str, data: bytes) -> None:
    """Runs one input; a finding says which line to add to the corpus."""
    try:
        targets.TARGETS[target](data)
    except Exception as error:
        error.add_note(f"corpus/{target}.txt: {base64.b64encode(data).decode()}")
        raise


def run(target: str, choose: random.Random, seconds: float) -> int:
    """How many executions."""
    inputs = [*targets.seeds(target), *targets.recorded(target)]
    attempt(target, inputs[0])  # imports what the target needs, beside the clock
    faulthandler.dump_traceback_later(seconds + HANG, exit=True)
    end, count = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        attempt(target, mutated(choose.choice(inputs), choose))
        count += 1
    faulthandler.cancel_dump_traceback_later()
    return count


def main() -> None:
    seconds = float(sys.argv[1])
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.SystemRandom().randrange(2**32)
    print(f"seed {seed}", flush=True)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    for target in targets.TARGETS:
        print(target, run(target, random.Random(f"{seed} {target}"), seconds / len(targets.TARGETS)), flush=True)


if __name__ == "__main__":
    main()
