"""Inputs between the files of corpus/ and folders of one file an input, which fuzzers work on; run in tests/.

``python -m fuzz.corpus unpack TARGET FOLDER`` writes what is recorded, and seeds;
``python -m fuzz.corpus examples FOLDER`` writes the oracles' examples as programs;
``python -m fuzz.corpus pack TARGET FOLDER`` records what a folder has, short inputs first, up to 60 kB.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from pathlib import Path

import oracles
import support
from fuzz import targets

MOST = 60_000


def write(inputs: list[bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / hashlib.sha1(data).hexdigest()[:16]).write_bytes(data)


def examples() -> list[bytes]:
    """The oracles' examples as programs."""
    programs = (targets.encoded(support.schedule(case)) for case in oracles.EXAMPLES.values())
    return [program for program in programs if program]


def unpack(target: str, folder: Path) -> None:
    write(targets.recorded(target), folder)
    if target in targets.TARGETS:
        write(targets.seeds(target), folder)
    if target == "programs":
        write(examples(), folder)


def pack(target: str, folder: Path) -> None:
    path = targets.CORPUS / f"{target}.txt"
    text, known = path.read_text() if path.exists() else "", set(targets.recorded(target))
    for data in sorted({file.read_bytes() for file in folder.iterdir()} - known - {b""}, key=lambda d: (len(d), d)):
        line = base64.b64encode(data).decode() + "\n"
        if len(text) + len(line) > MOST:
            break
        text += line
    path.write_text(text)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["unpack", target, folder]:
            unpack(target, Path(folder))
        case ["examples", folder]:
            write(examples(), Path(folder))
        case ["pack", target, folder]:
            pack(target, Path(folder))
        case _:
            sys.exit(__doc__)
