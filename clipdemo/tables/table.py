"""A table of images and captions (CSV, TSV, JSONL or Parquet) as a stream of rows.

Opening a table reads the file once, for its hash, its encoding and its number of rows. Every iteration reads
the rows from the file again, so memory does not grow with the table. Images are not fetched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import PurePath

from clipdemo.errors import TableError
from clipdemo.tables.content import (
    LINES_PER_ROW,
    Content,
    Inspection,
    Lines,
    Opener,
    Record,
    check_header,
    inspect,
    read_lines,
    shorten,
    too_many_rows,
)
from clipdemo.tables.delimited import find_delimiter, records
from clipdemo.tables.parquet import read_parquet
from clipdemo.tables.row import Row
from clipdemo.tables.typed import read_jsonl

UPLOAD_SUFFIXES = ("csv", "tsv", "txt", "jsonl", "ndjson", "parquet")
IMAGE_NAMES = ("image", "image_url", "url", "file", "path", "file_name", "filename", "image_path", "filepath")
CAPTION_NAMES = ("caption", "text", "title", "captions", "description", "sentence")

_JSON_ARRAY = re.compile(r'\[\s*(?:$|[\[{"\]])')
_URL_OR_IMAGE_FILE = re.compile(r"https?://|.*\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)


@dataclass(frozen=True)
class Table:
    """A table that was inspected once and can be read any number of times.

    Attributes:
        name: of the file.
        columns: the header as written, duplicates included.
        image: index of the image column.
        caption: index of the caption column.
        count: number of data rows.
        sha256: of the file's bytes.
        notes: sentences on how the file was read.
    """

    name: str
    columns: tuple[str, ...]
    image: int
    caption: int
    count: int
    sha256: str
    notes: tuple[str, ...]
    _read: Callable[[int], Iterator[Record]] = field(repr=False, compare=False)

    def rows(self, start: int = 0) -> Iterator[Row]:
        """Read the rows from number ``start`` on.

        Raises:
            ValueError: ``start`` is negative.
            TableError: the file can no longer be read, or its data is damaged.
        """
        if start < 0:
            raise ValueError(f"start is {start}; rows are numbered from 0")
        for number, (cells, problem) in enumerate(self._read(start), start):
            yield self._row(number, cells, problem)

    def column(self, *names: str) -> int | None:
        """Return the index of the column with the first of ``names`` that exists, ignoring case, or None."""
        columns = [_normalise(column) for column in self.columns]
        return next((columns.index(name) for name in names if name in columns), None)

    def where(self, condition: Callable[[Row], bool]) -> Table:
        """Return the table of the rows that meet the condition, numbered from 0."""

        def read(start: int) -> Iterator[Record]:
            chosen = ((row.cells, row.problem) for row in self.rows() if condition(row))
            return islice(chosen, start, None)

        return replace(self, count=sum(1 for _ in read(0)), _read=read)

    def _row(self, number: int, cells: Sequence[str], problem: str) -> Row:
        width = len(self.columns)
        if not problem and (len(cells) < width or any(cells[width:])):
            found = "1 cell" if len(cells) == 1 else f"{len(cells):,} cells"
            problem = f"the row has {found}; the header has {width:,}"
        fitted: Sequence[str] = [*cells[:width], *[""] * (width - len(cells))]
        fitted, problem = shorten(fitted, problem)
        caption = " ".join(fitted[self.caption].split())
        return Row(number, tuple(fitted), problem, fitted[self.image].strip(), caption)


def open_table(
    name: str,
    opener: Opener,
    *,
    image_column: str | None = None,
    caption_column: str | None = None,
    max_rows: int | None = None,
) -> Table:
    """Inspect a table and find its image and caption columns.

    Args:
        name: file name; its suffix matters only where the content leaves the format open.
        opener: opens the file at its beginning; called several times.
        image_column: name of the image column; by default the first of ``IMAGE_NAMES``.
        caption_column: name of the caption column; by default the first of ``CAPTION_NAMES``.
        max_rows: refuse a table with more rows, without reading to its end.

    Raises:
        TableError: the file is not a table, a column is missing, or there are too many rows.
    """
    inspection = inspect(opener)
    content = _read_content(name, opener, inspection, max_rows)
    image, caption, notes = _choose_columns(content, image_column, caption_column)
    stop = None if max_rows is None else max_rows + 1
    count = sum(1 for _ in islice(content.read(0), stop)) if content.count is None else content.count
    if max_rows is not None and count > max_rows:
        raise too_many_rows(max_rows)
    return Table(
        name=name,
        columns=content.columns,
        image=image,
        caption=caption,
        count=count,
        sha256=inspection.sha256,
        notes=(*inspection.notes, *content.notes, *notes),
        _read=content.read,
    )


def read_columns(name: str, opener: Opener, max_rows: int | None = None) -> tuple[str, ...]:
    """Return the header alone, to choose columns from; the same as that of :func:`open_table`.

    Raises:
        TableError: the file is not a table, or JSONL with too many rows.
    """
    return _read_content(name, opener, inspect(opener), max_rows).columns


def _read_content(name: str, opener: Opener, inspection: Inspection, max_rows: int | None) -> Content:
    suffix, encoding = PurePath(name).suffix.lower(), inspection.encoding
    max_lines = None if max_rows is None else LINES_PER_ROW * (max_rows + 1)
    lines = partial(read_lines, opener, encoding, max_lines)
    if inspection.format == "parquet":
        content = read_parquet(opener)
    else:
        text = next((line.lstrip() for line in lines() if line.strip()), "")
        if not text:
            raise TableError("the file is empty; it needs a header such as image,caption and rows below it")
        if suffix in {".parquet", ".pq"}:
            raise TableError(
                f"the file is called {suffix} but does not begin like Parquet; create or download it again"
            )
        if _JSON_ARRAY.match(text):
            raise TableError(
                "the file is one JSON array; write it as JSONL, one object per line, for example with "
                "`jq -c '.[]' table.json > table.jsonl`"
            )
        if text.startswith("{") or suffix in {".jsonl", ".ndjson", ".json"}:
            content = read_jsonl(lines, max_rows)
        else:
            content = _read_delimited(lines, is_tsv=suffix in {".tsv", ".tab"})
    check_header(content.columns)
    return content


def _read_delimited(lines: Lines, *, is_tsv: bool) -> Content:
    known = {*IMAGE_NAMES, *CAPTION_NAMES}
    delimiter = "\t" if is_tsv else find_delimiter(lines(), known)

    def read(start: int) -> Iterator[Record]:
        # The header is the first record.
        return islice(records(lines(), delimiter), start + 1, None)

    header, problem = next(records(lines(), delimiter), ((), ""))
    if problem:
        raise TableError(f"the header cannot be read: {problem}")
    return Content(tuple(header), read)


def _choose_columns(
    content: Content, image_column: str | None, caption_column: str | None
) -> tuple[int, int, tuple[str, ...]]:
    """Return the indices of the image and the caption column, and notes on duplicate names."""
    columns = content.columns
    image, caption = _indices(columns, image_column), _indices(columns, caption_column)
    image = image or _first_known(columns, IMAGE_NAMES, content.byte_columns.union(caption[:1]))
    caption = caption or _first_known(columns, CAPTION_NAMES, content.byte_columns.union(image[:1]))
    for kind, indices in (("image", image), ("caption", caption)):
        if not indices:
            raise TableError(_missing_column(content, kind))
        if indices[0] in content.byte_columns:
            raise TableError(f"the column {columns[indices[0]]!r} contains bytes; {kind}s are read from text")
    if image[0] == caption[0]:
        raise TableError(f"{columns[image[0]]!r} cannot be both the image and the caption column; choose two")
    notes = tuple(
        f"the column {columns[indices[0]]!r} appears {len(indices)} times; the first is used"
        for indices in (image, caption)
        if len(indices) > 1
    )
    return image[0], caption[0], notes


def _indices(columns: Sequence[str], name: str | None) -> list[int]:
    """Return the indices of the columns with this name; an exact match wins over one that ignores case."""
    if name is None:
        return []
    exact = [index for index, column in enumerate(columns) if column == name]
    indices = exact or [
        index for index, column in enumerate(columns) if _normalise(column) == _normalise(name)
    ]
    if not indices:
        raise TableError(f"there is no column {_quote(name)}; the columns are {_list_columns(columns)}")
    return indices


def _first_known(columns: Sequence[str], names: Sequence[str], excluded: Collection[int]) -> list[int]:
    """Return the indices of the columns with the first of ``names`` that exists."""
    for name in names:
        indices = [
            index
            for index, column in enumerate(columns)
            if _normalise(column) == name and index not in excluded
        ]
        if indices:
            return indices
    return []


def _missing_column(content: Content, kind: str) -> str:
    columns = _list_columns(content.columns)
    if any(_URL_OR_IMAGE_FILE.match(column.strip()) for column in content.columns):
        return (
            f"no {kind} column was found: the first row ({columns}) looks like data; add a header such as "
            f"image,caption above it, or choose the {kind} column if it is the header"
        )
    notes = "".join(f"; {note}" for note in content.notes)
    hint = "; separate columns with comma, semicolon, tab or |" if len(content.columns) == 1 else ""
    return f"no {kind} column was found among {columns}; call one {kind!r} or choose one{hint}{notes}"


def _normalise(column: str) -> str:
    return column.strip().casefold()


def _quote(column: str) -> str:
    return repr(column if len(column) <= 60 else column[:59] + "…")


def _list_columns(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - 10:,} more" if len(columns) > 10 else ""
    return (", ".join(map(_quote, columns[:10])) or "no columns") + more
