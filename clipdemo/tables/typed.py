"""JSONL and Parquet: tables whose cells have types, read row by row and made text. No pandas here."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from itertools import islice
from typing import Any

from clipdemo.errors import TableError
from clipdemo.tables.delimited import MAX_COLUMNS, MAX_ROW, Content, Opener, Record, read_lines, unreadable

_BATCH_ROWS, _BATCH_BYTES = 256, 4_000_000  # Parquet read at a time
_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which no file can hold


def read_jsonl(opener: Opener, encoding: str) -> Content:
    """One object a line; the columns are all names in order of first appearance.

    Raises:
        TableError: no line is an object, or the file cannot be read.
    """
    columns: dict[str, None] = {}
    count = 0
    for cells, _ in _objects(read_lines(opener, encoding)):
        count += 1
        if not cells.keys() <= columns.keys():
            columns |= dict.fromkeys(cells)
        if len(columns) > MAX_COLUMNS:
            break  # whoever asked refuses so many
    if not columns:
        raise TableError(
            f"none of the file's {count:,} lines is a JSON object with names; write one object a line, such as "
            '{"image": "a.jpg", "caption": "a cat"}'
        )

    def read(start: int) -> Iterator[Record]:
        for cells, problem in islice(_objects(read_lines(opener, encoding)), start, None):
            yield [cells.get(column, "") for column in columns], problem

    return Content(tuple(columns), read, count)


def _objects(lines: Iterator[str]) -> Iterator[tuple[dict[str, str], str]]:
    """The object of each line that is not blank, or why there is none."""
    for line in lines:
        if line.strip():
            yield _object(line)


def _object(line: str) -> tuple[dict[str, str], str]:
    if len(line) >= MAX_ROW:
        return {}, f"the line has {MAX_ROW:,} characters or more, which is too long"
    try:
        value = json.loads(line)
        if isinstance(value, dict):
            return {_whole(key): _text(cell) for key, cell in value.items()}, ""
    except json.JSONDecodeError as error:
        return {}, f"the line is not JSON: {error.msg} at character {error.pos + 1:,}"
    except RecursionError:
        return {}, "the line's lists or objects are nested too deeply"
    except ValueError:  # Python reads no whole number of more than 4,300 digits
        return {}, "the line holds a number with too many digits"
    return {}, f"the line is {line.strip()[:40]}, not a JSON object"


def _text(value: object) -> str:
    if isinstance(value, str):
        return _whole(value)
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return _whole(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _whole(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)


def read_parquet(opener: Opener) -> Content:
    """The columns and the number of rows that a Parquet file declares, and its rows a few at a time.

    Raises:
        TableError: the file is broken; its pages are only looked at when rows are read.
    """
    try:
        with opener() as file, _parquet_file(file) as parquet:
            schema, count = parquet.schema_arrow, parquet.metadata.num_rows
            columns = tuple(map(str, schema.names[: MAX_COLUMNS + 1]))
            unusable = frozenset(i for i in range(len(columns)) if _holds_bytes(schema.field(i).type))
    except _parquet_errors() as error:
        raise _broken(error) from error
    if count < 0:
        raise TableError(f"the Parquet file is broken: it declares {count:,} rows")
    notes = tuple(
        f"the column {columns[index][:60]!r} holds bytes, not text; its cells are left empty"
        for index in sorted(unusable)
    )

    def read(start: int) -> Iterator[Record]:
        end = start
        try:
            with opener() as file, _parquet_file(file) as parquet:
                for record in _parquet_records(parquet, start, unusable):
                    end += 1
                    yield record
        except _parquet_errors() as error:
            raise _broken(error) from error
        if end != max(start, count):
            raise TableError(f"the Parquet file is broken: it declares {count:,} rows but ends after {end:,}")

    return Content(columns, read, count, notes, unusable)


def _parquet_file(file: Any) -> Any:
    from pyarrow import parquet

    declared = parquet.ParquetFile(file).schema_arrow
    # A few long texts that many rows repeat stay a few in memory.
    texts = [field.name for field in declared if str(field.type) in {"string", "large_string"}]
    return parquet.ParquetFile(
        file,
        read_dictionary=texts,
        buffer_size=1 << 16,
        pre_buffer=False,
        page_checksum_verification=True,
    )


def _parquet_records(parquet: Any, start: int, unusable: Collection[int]) -> Iterator[Record]:
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
        for at in range(start, batch.num_rows):
            yield _arrow_cells(batch, at, unusable)
        start = max(0, start - batch.num_rows)


def _arrow_cells(batch: Any, at: int, unusable: Collection[int]) -> Record:
    cells, problem = [], ""
    for index, column in enumerate(batch.columns):
        cell = ""
        if index not in unusable:
            try:
                cell = _text(column[at].as_py())
            except (ValueError, OverflowError, LookupError) as error:  # not UTF-8, a date beyond year 9999
                problem = f"the cell of the column {batch.schema.names[index][:60]!r} cannot be read: {error}"
        cells.append(cell)
    return cells, problem


def _holds_bytes(kind: Any) -> bool:
    """Whether cells of this Arrow type are bytes, or lists or objects with bytes in them."""
    if hasattr(kind, "value_type") and not kind.num_fields:  # a dictionary
        return _holds_bytes(kind.value_type)
    return (
        "binary" in str(kind)
        if not kind.num_fields
        else any(_holds_bytes(kind.field(index).type) for index in range(kind.num_fields))
    )


def _parquet_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for broken files; it and the system's own errors, which pyarrow also raises."""
    import pyarrow

    builtin = (OSError, ValueError, LookupError, TypeError, ArithmeticError, RuntimeError, MemoryError)
    return (pyarrow.ArrowException, *builtin)


def _broken(error: Exception) -> TableError:
    if isinstance(error, OSError) and error.errno is not None:
        return unreadable(error)
    words = " ".join(str(error).split())[:200]
    return TableError(f"the Parquet file is broken or of an unknown kind ({words}); create it again")
