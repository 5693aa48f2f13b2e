"""Tables as files, written block by block: memory stays bounded whatever their size."""

from __future__ import annotations

import csv
import importlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fastsched.plan import lr_table
from fastsched.schedule import Schedule

BLOCK = 1 << 20  # values: 8 MB of float64
LARGEST_TABLE = 1 << 42  # bytes
TEXT_BYTES = 12  # of a number as text, at the least
FORMATS = ("csv", "json", "npy", "npz", "parquet")


@dataclass(frozen=True)
class Table:
    """The lrs of some groups for steps ``start, ..., start + steps - 1``, not computed yet."""

    schedule: Schedule
    steps: int
    start: int = 0
    scale: Sequence[float] = (1.0,)
    names: Sequence[str] = ("lr",)
    dtype: npt.DTypeLike = field(default=np.float64)

    @property
    def size(self) -> int:
        """Bytes of all values."""
        return self.steps * len(self.scale) * np.dtype(self.dtype).itemsize

    def blocks(self) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """The table in pieces, each with its first step; the array is used again for the next one."""
        rows = max(1, min(self.steps, BLOCK // len(self.scale)))
        room = np.empty((rows, len(self.scale)), self.dtype)
        for first in range(self.start, self.start + self.steps, rows):
            out = room[: self.start + self.steps - first]
            yield first, lr_table(self.schedule, len(out), scale=self.scale, start=first, dtype=self.dtype, out=out)


def write(table: Table, file: IO[bytes], form: str) -> None:
    """Writes a table to an open file in one of `FORMATS`.

    Errors: ``ImportError`` for parquet without pyarrow; those of the file.
    """
    _WRITERS[form](table, file)


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the name of ``path`` when it is complete; if something is raised, nothing is left of it."""
    if path.exists() and not path.is_file():  # a device or a pipe
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()  # of a link, what it leads to
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, path.stat().st_mode & 0o777 if path.exists() else 0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _header(table: Table) -> bytes:
    """What an npy file begins with."""
    head = io.BytesIO()
    kind = np.dtype(table.dtype).newbyteorder("<")
    shape = {"descr": kind.str, "fortran_order": False, "shape": (table.steps, len(table.scale))}
    np.lib.format.write_array_header_1_0(head, shape)
    return head.getvalue()


def _write_npy(table: Table, file: IO[bytes]) -> None:
    file.write(_header(table))
    for _, values in table.blocks():
        file.write(values.astype(values.dtype.newbyteorder("<"), copy=False).data.cast("B"))


def _write_npz(table: Table, file: IO[bytes]) -> None:
    """Uncompressed, as numpy's savez: lr (steps, groups), start, scale, names and the schedule as JSON; no pickle."""
    others = {
        "start": np.array(table.start),
        "scale": np.array(table.scale, np.float64),
        "names": np.array(table.names, np.str_),
        "schedule": np.array(table.schedule.to_json()),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with archive.open("lr.npy", "w", force_zip64=True) as entry:
            _write_npy(table, entry)
        for name, array in others.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)


def _write_csv(table: Table, file: IO[bytes]) -> None:
    """A head and a line for each step; numbers are the shortest text that gives them back."""
    head = io.StringIO()
    csv.writer(head, lineterminator="\n").writerow(["step", *table.names])
    file.write(head.getvalue().encode())
    for first, rows in _texts(table):
        lines = (f"{first + i},{','.join(row)}\n" for i, row in enumerate(rows))
        file.write("".join(lines).encode())


def _write_json(table: Table, file: IO[bytes]) -> None:
    head = {"schedule": repr(table.schedule), "start": table.start, "steps": table.steps, "names": list(table.names)}
    file.write(json.dumps(head, allow_nan=False)[:-1].encode() + b', "lr": [')
    before = ""
    for first, rows in _texts(table):
        for i, row in enumerate(rows):
            if any("n" in number for number in row):  # nan, inf
                raise ValueError(
                    f"table: json must have finite numbers, got others at step {first + i}; pass csv or npz"
                )
            file.write(f"{before}[{', '.join(row)}]".encode())
            before = ",\n"
    file.write(b"]}\n")


def _texts(table: Table) -> Iterator[tuple[int, Iterator[list[str]]]]:
    """Blocks of rows of numbers as text."""
    for first, values in table.blocks():
        if values.dtype == np.float64:
            yield first, (list(map(repr, row)) for row in values.tolist())
        else:  # the shortest text that gives back a float32 is shorter than that of its float64
            yield first, (row.astype(np.str_).tolist() for row in values)


def _write_parquet(table: Table, file: IO[bytes]) -> None:
    """A column ``step`` and one per group; a row group per block."""
    try:
        pa = importlib.import_module("pyarrow")
        parquet = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "pyarrow":
            raise
        raise ImportError("table: parquet needs pyarrow, which is not installed; pip install pyarrow") from None
    kind = pa.from_numpy_dtype(np.dtype(table.dtype))
    schema = pa.schema([("step", pa.int64()), *((name, kind) for name in table.names)])
    with parquet.ParquetWriter(file, schema) as writer:
        for first, values in table.blocks():
            steps = pa.array(np.arange(first, first + len(values)))
            columns = [pa.array(np.ascontiguousarray(column)) for column in values.T]
            writer.write_table(pa.Table.from_arrays([steps, *columns], schema=schema))


_WRITERS: dict[str, Callable[[Table, IO[bytes]], None]] = {
    "csv": _write_csv,
    "json": _write_json,
    "npy": _write_npy,
    "npz": _write_npz,
    "parquet": _write_parquet,
}
