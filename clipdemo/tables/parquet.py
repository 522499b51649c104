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
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import chain
from typing import Any, BinaryIO, cast

from clipdemo import child
from clipdemo.errors import TableError
from clipdemo.tables.content import MAX_COLUMNS, MAX_ROW, Content, Opener, Record, unreadable
from clipdemo.tables.typed import cell_text

_READER = "clipdemo.tables.parquet_reader"
# Bytes for a child: measured on large tables 0.5 GB, and 0.95 GB for one page of 180 MB.
MEMORY_BYTES, _LEAST_BYTES = 1_000_000_000, 60_000_000
_running: set[subprocess.Popen[bytes]] = set()
# Else pyarrow's allocator takes 1 GB before it needs any, which counts against the limit.
_ENVIRONMENT = {"MIMALLOC_ARENA_EAGER_COMMIT": "0"}
_MAX_LINE = 6 * MAX_ROW + 20 * MAX_COLUMNS  # bytes: six for an escaped character
# The child of a small table ends at once, while images are still fetched for its first rows.
_READ_AHEAD = 4_000_000  # bytes


def read_parquet(opener: Opener) -> Content:
    """Read the columns and the number of rows of a Parquet file; its rows are read in small batches.

    Raises:
        TableError: the file is broken, or beyond the limits; damaged pages show only when rows are read.
    """
    with closing(_lines(opener)) as lines:
        header = _parse(next(lines, b""))
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
        with closing(_lines(opener, str(start))) as lines:
            ahead, size = [], 0
            for line in lines:
                ahead.append(line)
                if (size := size + len(line)) > _READ_AHEAD:
                    break
            for line in chain(ahead, lines):
                answer = _parse(line)
                if answer == "end":
                    break
                end += 1
                yield _record(answer)
            else:
                raise _stopped()
        if end != max(start, count):
            raise TableError(f"the Parquet file is broken: it declares {count:,} rows but ends after {end:,}")

    return Content(columns, read, count, notes, byte_columns)


def _lines(opener: Opener, *arguments: str) -> Generator[bytes, None, None]:
    """Yield what a child prints about the file, line by line; the child ends with the iterator."""
    try:
        with opener() as file, _as_real_file(file) as stdin:
            memory = str(_memory_share(len(_running)))
            process = child.start(_READER, memory, *arguments, stdin=stdin, environment=_ENVIRONMENT)
    except OSError as error:
        raise unreadable(error) from error
    with process:
        _running.add(process)
        try:
            while process.stdout and (line := process.stdout.readline(_MAX_LINE)):
                yield line
        finally:
            process.kill()
            _running.discard(process)


def _memory_share(running: int) -> int:
    """Return the bytes for the next child: all for the first two, then ever less; so their sum is bounded."""
    return max(_LEAST_BYTES, MEMORY_BYTES >> max(0, running - 1))


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
