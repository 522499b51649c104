"""A table of images and captions, CSV, TSV, JSONL or Parquet, as a stream of rows.

Opening reads the file through, for its hash, its encoding and its number of rows; the rows are then read
anew each time they are asked for, so memory does not grow with the table. What the cells point to is never
fetched here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import PurePath

from clipdemo.errors import TableError
from clipdemo.tables.delimited import (
    MAX_COLUMNS,
    Content,
    Opener,
    Record,
    find_delimiter,
    inspect,
    read_lines,
    records,
)
from clipdemo.tables.typed import read_jsonl, read_parquet

IMAGE_NAMES = ("image", "image_url", "url", "file", "path", "file_name", "filename", "image_path", "filepath")
CAPTION_NAMES = ("caption", "text", "title", "captions", "description", "sentence")
MAX_NAME = 1_000  # characters of a header's cell
MAX_CELL = 1_000_000  # characters

_ARRAY = re.compile(r'\[\s*(?:$|[\[{"\]])')
_DATA = re.compile(r"https?://|.*\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif|heic)$", re.IGNORECASE)


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        number: place among the data rows, from 0.
        cells: one for each of the table's columns, as text; "" for empty.
        problem: "" or why the row cannot be read; the cells then hold what could be, padded or cut.
    """

    number: int
    cells: tuple[str, ...]
    problem: str


@dataclass(frozen=True)
class Table:
    """A table that was looked through once and can be read any number of times.

    Attributes:
        name: of the file.
        columns: the header as written, duplicates kept.
        image: index of the image column.
        caption: index of the caption column.
        count: data rows.
        sha256: of the file's bytes.
        notes: sentences on how it was read.
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
            ValueError: ``start`` is below 0.
            TableError: the file can no longer be read, or a part of it that only rows need is damaged.
        """
        if start < 0:
            raise ValueError(f"start is {start}; rows are numbered from 0")
        for number, (cells, problem) in enumerate(self._read(start), start):
            yield _row(number, cells, problem, len(self.columns))


def open_table(
    name: str, opener: Opener, *, image_column: str | None = None, caption_column: str | None = None
) -> Table:
    """Look a table through and find its image and caption columns.

    Args:
        name: of the file; its suffix only counts where the content leaves the format open.
        opener: opens the file anew each time, at its beginning.
        image_column: the header of the image column; without it the first of ``IMAGE_NAMES``.
        caption_column: the header of the caption column; without it the first of ``CAPTION_NAMES``.

    Raises:
        TableError: the file is no such table, or a column is not found.
    """
    inspection = inspect(opener)
    content = _content(name, opener, inspection.encoding)
    image, caption, notes = _choose(content, image_column, caption_column)
    return Table(
        name=name,
        columns=content.columns,
        image=image,
        caption=caption,
        count=sum(1 for _ in content.read(0)) if content.count is None else content.count,
        sha256=inspection.sha256,
        notes=(*inspection.notes, *content.notes, *notes),
        _read=content.read,
    )


def read_columns(name: str, opener: Opener) -> tuple[str, ...]:
    """The header alone, to choose columns from; the same that :func:`open_table` finds.

    Raises:
        TableError: the file is no table.
    """
    return _content(name, opener, inspect(opener).encoding).columns


def _content(name: str, opener: Opener, encoding: str) -> Content:
    suffix = PurePath(name).suffix.lower()
    if not encoding:
        content = read_parquet(opener)
    else:
        text = next((line.lstrip() for line in read_lines(opener, encoding) if line.strip()), "")
        if not text:
            raise TableError("the file is empty; it needs a header such as image,caption and rows below it")
        if suffix in {".parquet", ".pq"}:
            raise TableError(
                f"the file is called {suffix} but does not begin like Parquet; create or download it again"
            )
        if _ARRAY.match(text):
            raise TableError(
                "the file is one JSON array; write it as JSONL, one object a line, for example with "
                "`jq -c '.[]' table.json > table.jsonl`"
            )
        if text.startswith("{") or suffix in {".jsonl", ".ndjson", ".json"}:
            content = read_jsonl(opener, encoding)
        else:
            content = _csv(opener, encoding, is_tsv=suffix in {".tsv", ".tab"})
    _check_header(content.columns)
    return content


def _check_header(columns: Collection[str]) -> None:
    if len(columns) > MAX_COLUMNS:
        raise TableError(f"the table has {len(columns):,} columns or more; the limit is {MAX_COLUMNS:,}")
    if (longest := max(map(len, columns), default=0)) > MAX_NAME:
        raise TableError(f"a column's name has {longest:,} characters; the limit is {MAX_NAME:,}")


def _row(number: int, cells: Sequence[str], problem: str, width: int) -> Row:
    if not problem and (len(cells) < width or any(cells[width:])):
        has = "1 cell" if len(cells) == 1 else f"{len(cells):,} cells"
        problem = f"the row has {has}; the header has {width:,}"
    kept = [*cells[:width], *[""] * (width - len(cells))]
    longest = max(map(len, kept), default=0)
    if longest > MAX_CELL:
        problem = problem or f"a cell has {longest:,} characters; the limit is {MAX_CELL:,}"
        kept = [cell[:MAX_CELL] for cell in kept]
    return Row(number, tuple(kept), problem)


def _choose(
    content: Content, image_column: str | None, caption_column: str | None
) -> tuple[int, int, tuple[str, ...]]:
    """Indexes of the image and the caption column, and notes on names that are there twice."""
    columns = content.columns
    image, caption = _chosen(columns, image_column), _chosen(columns, caption_column)
    image = image or _found(columns, IMAGE_NAMES, content.unusable.union(caption[:1]))
    caption = caption or _found(columns, CAPTION_NAMES, content.unusable.union(image[:1]))
    for what, indexes in (("image", image), ("caption", caption)):
        if not indexes:
            raise TableError(_missing(content, what))
        if indexes[0] in content.unusable:
            raise TableError(f"the column {columns[indexes[0]]!r} holds bytes; {what}s are read from text")
    if image[0] == caption[0]:
        raise TableError(f"{columns[image[0]]!r} cannot be both the image and the caption column; choose two")
    notes = tuple(
        f"the column {columns[indexes[0]]!r} is there {len(indexes)} times; the first is used"
        for indexes in (image, caption)
        if len(indexes) > 1
    )
    return image[0], caption[0], notes


def _chosen(columns: Sequence[str], wanted: str | None) -> list[int]:
    """Indexes of the columns of that name; none if none was chosen."""
    if wanted is None:
        return []
    exact = [index for index, column in enumerate(columns) if column == wanted]
    indexes = exact or [index for index, column in enumerate(columns) if _bare(column) == _bare(wanted)]
    if not indexes:
        raise TableError(f"there is no column {_short(wanted)}; the columns are {_listed(columns)}")
    return indexes


def _found(columns: Sequence[str], names: Sequence[str], taken: Collection[int]) -> list[int]:
    for name in names:
        indexes = [
            index for index, column in enumerate(columns) if _bare(column) == name and index not in taken
        ]
        if indexes:
            return indexes
    return []


def _missing(content: Content, what: str) -> str:
    listed = _listed(content.columns)
    if any(_DATA.match(column.strip()) for column in content.columns):
        return (
            f"no {what} column was found: the first row ({listed}) looks like data; add a header such as "
            f"image,caption above it, or choose the {what} column if it is the header"
        )
    notes = "".join(f"; {note}" for note in content.notes)
    hint = "; comma, semicolon, tab or | must part the columns" if len(content.columns) == 1 else ""
    return f"no {what} column was found among {listed}; call one {what!r} or choose which it is{hint}{notes}"


def _bare(column: str) -> str:
    return column.strip().casefold()


def _short(column: str) -> str:
    return repr(column if len(column) <= 60 else column[:59] + "…")


def _listed(columns: Sequence[str]) -> str:
    more = f" and {len(columns) - 10:,} more" if len(columns) > 10 else ""
    return (", ".join(map(_short, columns[:10])) or "no columns") + more


def _csv(opener: Opener, encoding: str, *, is_tsv: bool) -> Content:
    known = {*IMAGE_NAMES, *CAPTION_NAMES}
    delimiter = "\t" if is_tsv else find_delimiter(read_lines(opener, encoding), known)

    def read(start: int) -> Iterator[Record]:
        # The header is the first record.
        return islice(records(read_lines(opener, encoding), delimiter), start + 1, None)

    header, problem = next(records(read_lines(opener, encoding), delimiter), ((), ""))
    if problem:
        raise TableError(f"the header cannot be read: {problem}")
    return Content(tuple(header), read)
