"""Parquet: columns and rows, read by a child process with limits (``tables/parquet_reader.py``).

A few hundred bytes of Parquet may hold gigabytes, whatever their metadata says, and pyarrow unpacks them in C
code. So this process never opens the file itself: it passes it to a child and parses the JSON lines that the
child prints.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from clipdemo import child
from clipdemo.budget import Budget
from clipdemo.errors import TableError
from clipdemo.tables.content import MAX_COLUMNS, MAX_ROW, Content, Opener, Record, unreadable
from clipdemo.tables.typed import cell_text

_READER = "clipdemo.tables.parquet_reader"
# Bytes for a child: measured on large tables 0.5 GB, and 0.95 GB for one page of 180 MB.
MEMORY_BYTES = 1_000_000_000
_BUDGET = Budget(2 * MEMORY_BYTES)  # two at a time; others wait, seconds for each slice
# Else pyarrow's allocator takes 1 GB before it needs any, which counts against the limit.
_ENVIRONMENT = {"MIMALLOC_ARENA_EAGER_COMMIT": "0"}
_MAX_LINE = 6 * MAX_ROW + 20 * MAX_COLUMNS  # bytes: six for an escaped character
# Rows are read in slices: between them no child waits for its reader, which may fetch images for hours.
SLICE_BYTES = 8_000_000
DEADLINE_SECONDS = 60.0  # of one slice, and of the header


def read_parquet(opener: Opener) -> Content:
    """Read the columns and the number of rows of a Parquet file; its rows are read in slices.

    Raises:
        TableError: the file is broken, or beyond the limits; damaged pages show only when rows are read.
    """
    header = _parse((*_ask(opener), b"")[0])
    try:
        columns, count = tuple(map(cell_text, header["columns"])), int(header["count"])
        byte_columns = frozenset(map(int, header["byte_columns"]))
        notes = tuple(
            f"the column {columns[index][:60]!r} contains bytes, not text; its cells are left empty"
            for index in sorted(byte_columns)
        )
    except (LookupError, TypeError, ValueError) as error:
        raise _stopped() from error

    def read(start: int) -> Iterator[Record]:
        end = start
        while True:
            lines = _ask(opener, str(end))
            for line in lines:
                answer = _parse(line)
                if answer == "end":
                    if end != max(start, count):
                        raise TableError(
                            f"the Parquet file is broken: it declares {count:,} rows but ends after {end:,}"
                        )
                    return
                end += 1
                yield _record(answer)
            if sum(map(len, lines)) <= SLICE_BYTES:
                raise _stopped()

    return Content(columns, read, count, notes, byte_columns)


def _ask(opener: Opener, *arguments: str) -> list[bytes]:
    """Return the lines that a child prints about the file, up to the one that completes a slice."""
    lines: list[bytes] = []
    size = 0
    with _BUDGET.reserve(MEMORY_BYTES):
        try:
            with opener() as file, _as_real_file(file) as stdin:
                memory = str(MEMORY_BYTES)
                process = child.start(_READER, memory, *arguments, stdin=stdin, environment=_ENVIRONMENT)
        except OSError as error:
            raise unreadable(error) from error
        with process, child.deadline(process, DEADLINE_SECONDS):
            try:
                while size <= SLICE_BYTES and process.stdout and (line := process.stdout.readline(_MAX_LINE)):
                    lines.append(line)
                    size += len(line)
            finally:
                process.kill()
    return lines


def _as_real_file(file: BinaryIO) -> BinaryIO:
    """Return a file that a child can inherit: the same, or a copy of bytes in memory."""
    try:
        file.fileno()
    except io.UnsupportedOperation:
        copy: Any
        if hasattr(os, "memfd_create"):  # Linux: it stays in memory, as uploads do
            copy = os.fdopen(os.memfd_create("table"), "w+b")
        else:
            copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
        shutil.copyfileobj(file, copy)
        copy.seek(0)
        return cast("BinaryIO", copy)
    return file


def _parse(line: bytes) -> Any:
    """Return an answer of the child.

    Raises:
        TableError: the child says what is wrong with the file, or ended without a word.
    """
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _stopped() from error
    if isinstance(answer, dict) and "error" in answer:
        raise TableError(str(answer["error"])[:1_000])
    return answer


def _record(answer: Any) -> Record:
    try:
        cells, problem = answer
        return list(map(cell_text, cells)), cell_text(problem)
    except (TypeError, ValueError) as error:
        raise _stopped() from error


def _stopped() -> TableError:
    return TableError(
        "the Parquet file takes too much memory or time to read, or is broken; "
        "create it again with smaller row groups and pages, or save it as JSONL"
    )
