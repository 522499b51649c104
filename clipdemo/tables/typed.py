"""JSONL and Parquet: tables with typed cells, read row by row and converted to text. Does not use pandas."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

from clipdemo.errors import ClipdemoError, TableError
from clipdemo.tables.content import MAX_COLUMNS, MAX_ROW, Content, Opener, Record, read_lines, unreadable

_BATCH_ROWS, _BATCH_BYTES = 256, 4_000_000  # of Parquet, read at a time
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which cannot be encoded


def read_jsonl(opener: Opener, encoding: str) -> Content:
    """Read one object per line; the columns are all names in order of first appearance.

    Raises:
        TableError: none of the lines is an object, or the file cannot be read.
    """
    columns: dict[str, None] = {}
    count = 0
    for cells, _ in _objects(read_lines(opener, encoding)):
        count += 1
        if not cells.keys() <= columns.keys():
            columns |= dict.fromkeys(cells)
        if len(columns) > MAX_COLUMNS:
            break  # the caller refuses so many columns
    if not columns:
        raise TableError(
            f"none of the file's {count:,} lines is a JSON object with names; write one object per line, "
            "such as "
            '{"image": "a.jpg", "caption": "a cat"}'
        )

    def read(start: int) -> Iterator[Record]:
        for cells, problem in islice(_objects(read_lines(opener, encoding)), start, None):
            yield [cells.get(column, "") for column in columns], problem

    return Content(tuple(columns), read, count)


def _objects(lines: Iterator[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Yield the object of each line that is not blank, or an empty one and the reason."""
    for line in lines:
        if line.strip():
            yield _object(line)


def _object(line: str) -> tuple[dict[str, str], str]:
    if len(line) >= MAX_ROW:
        return {}, f"the line has {MAX_ROW:,} characters or more, which is too long"
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            return {_replace_surrogates(key): _text(cell) for key, cell in value.items()}, ""
    except json.JSONDecodeError as error:
        return {}, f"the line is not JSON: {error.msg} at character {error.pos + 1:,}"
    except RecursionError:
        return {}, "the line's lists or objects are nested too deeply"
    except ValueError:  # Python refuses integers of more than 4,300 digits
        return {}, "the line contains a number with too many digits"
    return {}, f"the line is {line.strip()[:40]}, not a JSON object"


def _text(value: object) -> str:
    if isinstance(value, str):
        return _replace_surrogates(value)
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return _replace_surrogates(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _replace_surrogates(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def read_parquet(opener: Opener) -> Content:
    """Read the columns and the number of rows of a Parquet file; its rows are read in small batches.

    Raises:
        TableError: the file is broken; damaged pages show only when rows are read.
    """
    with _translate_parquet_errors(), opener() as file, _parquet_file(file) as parquet:
        schema, count = parquet.schema_arrow, parquet.metadata.num_rows
        columns = tuple(map(str, schema.names[: MAX_COLUMNS + 1]))
        byte_columns = frozenset(i for i in range(len(columns)) if _contains_bytes(schema.field(i).type))
    if count < 0:
        raise TableError(f"the Parquet file is broken: it declares {count:,} rows")
    notes = tuple(
        f"the column {columns[index][:60]!r} contains bytes, not text; its cells are left empty"
        for index in sorted(byte_columns)
    )

    def read(start: int) -> Iterator[Record]:
        end = start
        with _translate_parquet_errors(), opener() as file, _parquet_file(file) as parquet:
            for record in _parquet_records(parquet, start, byte_columns):
                end += 1
                yield record
        if end != max(start, count):
            raise TableError(f"the Parquet file is broken: it declares {count:,} rows but ends after {end:,}")

    return Content(columns, read, count, notes, byte_columns)


def _parquet_file(file: Any) -> Any:
    from pyarrow import parquet

    declared = parquet.ParquetFile(file).schema_arrow
    # Dictionaries keep a long text in memory once, however many rows repeat it.
    texts = [field.name for field in declared if str(field.type) in {"string", "large_string"}]
    return parquet.ParquetFile(
        file,
        read_dictionary=texts,
        buffer_size=1 << 16,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def _parquet_records(parquet: Any, start: int, byte_columns: Collection[int]) -> Iterator[Record]:
    groups = [parquet.metadata.row_group(index) for index in range(parquet.num_row_groups)]
    row_bytes = sum(group.total_byte_size for group in groups) // max(1, parquet.metadata.num_rows)
    first = 0
    while first < len(groups) and start >= groups[first].num_rows:
        start -= groups[first].num_rows
        first += 1
    batches = parquet.iter_batches(
        batch_size=max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes))),
        row_groups=list(range(first, len(groups))),
        use_threads=False,
    )
    for batch in batches:
        for row in range(start, batch.num_rows):
            yield _arrow_cells(batch, row, byte_columns)
        start = max(0, start - batch.num_rows)


def _arrow_cells(batch: Any, row: int, byte_columns: Collection[int]) -> Record:
    cells, problem = [], ""
    for index, column in enumerate(batch.columns):
        cell = ""
        if index not in byte_columns:
            try:
                cell = _text(column[row].as_py())
            except (ValueError, OverflowError, LookupError) as error:  # not UTF-8, a date beyond year 9999
                problem = f"the cell of the column {batch.schema.names[index][:60]!r} cannot be read: {error}"
        cells.append(cell)
    return cells, problem


def _contains_bytes(kind: Any) -> bool:
    """Tell whether cells of this Arrow type are bytes, or lists or objects that contain bytes."""
    if hasattr(kind, "value_type") and not kind.num_fields:  # a dictionary
        return _contains_bytes(kind.value_type)
    if kind.num_fields:
        return any(_contains_bytes(kind.field(index).type) for index in range(kind.num_fields))
    return "binary" in str(kind)


@contextmanager
def _translate_parquet_errors() -> Iterator[None]:
    """Raise a TableError for whatever pyarrow raises for a broken file."""
    try:
        yield
    except ClipdemoError:
        raise
    except Exception as error:  # third-party boundary: pyarrow raises built-in errors of many types
        if isinstance(error, OSError) and error.errno is not None:
            raise unreadable(error) from error
        reason = " ".join(str(error).split())[:200]
        raise TableError(
            f"the Parquet file is broken or of an unknown kind ({reason}); create it again"
        ) from error
