"""Typed cells become text; JSONL, a table with one JSON object per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from clipdemo.errors import TableError
from clipdemo.tables.content import MAX_COLUMNS, MAX_ROW, Content, Lines, Record, too_many_rows

_SURROGATE = re.compile(r"[\ud800-\udfff]")  # half a character, which cannot be encoded


def read_jsonl(lines: Lines, max_rows: int | None = None) -> Content:
    """Read one object per line; the columns are all names in order of first appearance.

    Raises:
        TableError: none of the lines is an object, there are too many, or the file cannot be read.
    """
    columns: dict[str, None] = {}
    count = 0
    for cells, _ in _objects(lines()):
        if count == max_rows:
            raise too_many_rows(max_rows)
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
        for cells, problem in islice(_objects(lines()), start, None):
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
            return {_replace_surrogates(key): cell_text(cell) for key, cell in value.items()}, ""
    except json.JSONDecodeError as error:
        return {}, f"the line is not JSON: {error.msg} at character {error.pos + 1:,}"
    except RecursionError:
        return {}, "the line's lists or objects are nested too deeply"
    except ValueError:  # Python refuses integers of more than 4,300 digits
        return {}, "the line contains a number with too many digits"
    return {}, f"the line is {line.strip()[:40]}, not a JSON object"


def cell_text(value: object) -> str:
    """Return a typed cell as text: strings as they are, None as "", anything else as JSON."""
    if isinstance(value, str):
        return _replace_surrogates(value)
    if value is None:
        return ""
    if isinstance(value, bool | int | float | list | dict):
        return _replace_surrogates(json.dumps(value, ensure_ascii=False, default=str))
    return str(value)


def _replace_surrogates(text: str) -> str:
    return _SURROGATE.sub("\ufffd", text)
