"""The child process that reads a Parquet file, its standard input, and prints JSON lines.

``python -m clipdemo.tables.parquet_reader MEMORY`` prints the columns and the number of rows, within so
many bytes. With the number of a row it prints the rows from there on, each as ``[cells, problem]``, and "end"
after the last. A file that cannot be read becomes ``{"error": sentence}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from clipdemo import child
from clipdemo.errors import ClipdemoError, TableError
from clipdemo.tables.content import MAX_CELL, MAX_COLUMNS, Record, check_header, shorten, unreadable
from clipdemo.tables.typed import cell_text

CPU_SECONDS = 20  # of the metadata, and of as many rows as a batch may have
MAX_VALUES = MAX_CELL // 3  # per row, on average: a list needs three characters for each, as in "0, "
MAX_BYTES = 4 * MAX_CELL  # per row and column, on average; four is the longest character in UTF-8
_BATCH_ROWS, _BATCH_BYTES = 256, 4_000_000


class ParquetTable:
    """An open Parquet file.

    Attributes:
        columns: their names; one more than the limit if there are too many.
        byte_columns: indices of columns with bytes, whose cells are left empty and never read.
        count: number of rows that the file declares.

    Raises:
        TableError: the metadata is beyond the limits.
    """

    def __init__(self, file: Any) -> None:
        declared = pyarrow.parquet.ParquetFile(file).schema_arrow
        # Dictionaries keep a long text in memory once, however many rows repeat it.
        texts = [field.name for field in declared if str(field.type) in {"string", "large_string"}]
        self._file = pyarrow.parquet.ParquetFile(
            file,
            read_dictionary=texts,
            buffer_size=1 << 16,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        schema = self._file.schema_arrow
        self.columns = tuple(map(str, schema.names[: MAX_COLUMNS + 1]))
        check_header(self.columns)
        self.byte_columns = frozenset(i for i, field in enumerate(schema) if _contains_bytes(field.type))
        self.count = self._file.metadata.num_rows
        if self.count < 0:
            raise TableError(f"the Parquet file is broken: it declares {self.count:,} rows")
        self._read = [i for i in range(len(self.columns)) if i not in self.byte_columns]
        unique = len(set(schema.names)) == len(schema.names)
        if not self._read or not unique or any("." in name for name in schema.names):
            self._read = list(range(len(self.columns)))  # the names do not tell the columns apart
        self._row_bytes = self._check_sizes()

    def _check_sizes(self) -> int:
        """Refuse rows that are too large on average, by the metadata; return the bytes of the largest."""
        names, metadata = {self.columns[index] for index in self._read}, self._file.metadata
        largest = 0
        for index in range(metadata.num_row_groups):
            group, total = metadata.row_group(index), 0
            rows = max(1, group.num_rows)
            for number in range(group.num_columns):
                chunk = group.column(number)
                name = chunk.path_in_schema.split(".")[0]
                if name not in names and len(names) < len(self.columns):
                    continue  # bytes, which are not read
                if chunk.num_values > MAX_VALUES * rows:
                    raise _too_large(name, f"{chunk.num_values:,} values", rows, f"{MAX_VALUES:,} values")
                if chunk.total_uncompressed_size > MAX_BYTES * rows:
                    size = f"{chunk.total_uncompressed_size:,} bytes"
                    raise _too_large(name, size, rows, f"{MAX_BYTES:,} bytes")
                # A run of equal values takes no bytes in the file, but eight each once it is read.
                total += max(0, chunk.total_uncompressed_size, 8 * chunk.num_values)
            largest = max(largest, total // rows)
        return largest

    def records(self, start: int) -> Iterator[Record]:
        """Read the rows from number ``start`` on."""
        groups = [self._file.metadata.row_group(n).num_rows for n in range(self._file.num_row_groups)]
        first = 0
        while first < len(groups) and start >= groups[first]:
            start -= groups[first]
            first += 1
        batches = self._file.iter_batches(
            batch_size=max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, self._row_bytes))),
            row_groups=list(range(first, len(groups))),
            columns=None if len(self._read) == len(self.columns) else [self.columns[i] for i in self._read],
            use_threads=False,
        )
        for batch in batches:
            yield from self._batch_records(batch.slice(start))
            start = max(0, start - batch.num_rows)

    def _batch_records(self, batch: Any) -> Iterator[Record]:
        read = dict(zip(self._read, batch.columns, strict=True))
        values = {index: _values(column) for index, column in read.items() if index not in self.byte_columns}
        for row in range(batch.num_rows):
            cells, problem = [""] * len(self.columns), ""
            for index, column in values.items():
                try:
                    cells[index] = cell_text(column[row] if isinstance(column, list) else column[row].as_py())
                except (ValueError, OverflowError, LookupError) as error:  # not UTF-8, a date after year 9999
                    problem = f"the cell of the column {self.columns[index][:60]!r} cannot be read: {error}"
            yield shorten(cells, problem[:1_000])


def _too_large(name: str, size: str, rows: int, limit: str) -> TableError:
    few = "1 row" if rows == 1 else f"{rows:,} rows"
    return TableError(
        f"the column {name[:60]!r} of the Parquet file has {size} in {few}; the limit is {limit} a row; "
        "leave the column out"
    )


def _values(column: Any) -> list[Any] | Any:
    """Return the values of a column at once, which is fast, or the column if one of them cannot be read."""
    try:
        if not isinstance(column, pyarrow.DictionaryArray):
            return column.to_pylist()
        used = column.indices.unique()
        texts = dict(zip(used.to_pylist(), column.dictionary.take(used).to_pylist(), strict=True))
        return [texts[index] for index in column.indices.to_pylist()]
    except (ValueError, OverflowError, LookupError):
        return column


def _contains_bytes(kind: Any) -> bool:
    """Tell whether cells of this Arrow type are bytes, or lists or objects that contain bytes."""
    if hasattr(kind, "value_type") and not kind.num_fields:  # a dictionary
        return _contains_bytes(kind.value_type)
    if kind.num_fields:
        return any(_contains_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return "binary" in str(kind)


def answer(file: Any, start: int | None) -> Iterator[Any]:
    """Yield what the child prints about a file: its header, or the rows from number ``start`` on.

    Raises:
        TableError: the file is broken, or beyond the limits.
    """
    with _translate_errors():
        table = ParquetTable(file)
        if start is not None:
            yield from table.records(start)
            yield "end"
            return
        yield {"columns": table.columns, "byte_columns": sorted(table.byte_columns), "count": table.count}


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise a TableError for whatever pyarrow raises for a broken file; MemoryError ends the child."""
    try:
        yield
    except (ClipdemoError, MemoryError):
        raise
    except Exception as error:  # third-party boundary: pyarrow raises built-in errors of many types
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(error) from error
        reason = " ".join(str(error).split())[:200]
        raise TableError(
            f"the Parquet file is broken or of an unknown kind ({reason}); create it again"
        ) from error


def main(arguments: Sequence[str]) -> None:
    """Print the answer."""
    memory, *start = map(int, arguments)
    child.limit(memory_bytes=memory, cpu_seconds=CPU_SECONDS)
    out = sys.stdout.buffer
    try:
        parts = answer(sys.stdin.buffer, start[0] if start else None)
        for number, part in enumerate(parts):
            if number % _BATCH_ROWS == 0:
                child.limit_processor_time(CPU_SECONDS)
            out.write(json.dumps(part, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
    except ClipdemoError as error:
        out.write(json.dumps({"error": str(error)}).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
