"""Delimited text as records of cells: finds the delimiter and reads record by record.

Not :mod:`csv`, which reads a cell such as ``, "a cat"`` with its quotes (docs/decisions.md has the
measurement). Which column is which is decided in ``table.py``.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import islice

from clipdemo.tables.content import MAX_ROW, TOO_LONG, Record

MAX_REREAD = 20_000  # lines of a file that are read a second time because of broken quotes
_SAMPLE_ROWS, _SAMPLE_CHARACTERS = 100, 100_000
_DELIMITERS = ",\t;|"  # the first wins a tie
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?[\r\n]*', re.IGNORECASE)  # Excel's own hint


def find_delimiter(lines: Iterable[str], known: Collection[str]) -> str:
    """Detect the delimiter from the first rows.

    A delimiter must split the header into at least two cells. The one that yields most known column names
    wins, then the one that splits most of the rows below into as many cells as the header.

    Args:
        lines: of the table; only the first ones are read.
        known: column names in lower case.
    """
    sample: list[str] = []
    size = 0
    for line in lines:
        sample.append(line)
        size += len(line)
        if size > _SAMPLE_CHARACTERS:
            break
    if sample and (hint := _SEPARATOR_LINE.fullmatch(sample[0])):
        return hint[1]
    return max(_DELIMITERS, key=lambda delimiter: _fitness(sample, delimiter, known))


def _fitness(sample: Sequence[str], delimiter: str, known: Collection[str]) -> tuple[bool, int, float]:
    table = [cells for cells, _ in islice(records(iter(sample), delimiter), _SAMPLE_ROWS)]
    if not table or len(table[0]) < 2:
        return (False, 0, 0.0)
    header, *rows = table
    names = sum(cell.strip().lower() in known for cell in header)
    fitting = sum(len(row) == len(header) for row in rows)
    return (True, names, fitting / max(1, len(rows)))


def records(lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    """Read the header and the rows: cells without their quotes; blank lines are skipped.

    A row with broken quotes ends at the end of its first line, so that the rows below it survive: the lines
    read in search of the closing quote are read a second time. After ``MAX_REREAD`` such lines a quote must
    close on its own line, so that a hostile file costs time in proportion to its length. Only the lines of
    one row are kept in memory.

    Args:
        lines: with their ends, as from :func:`read_lines`.
        delimiter: one character.
    """
    reread = 0
    pending: deque[str] = deque()  # lines to read a second time

    def take() -> str:
        return pending.popleft() if pending else next(lines, "")

    first = take()
    if not _SEPARATOR_LINE.fullmatch(first):
        pending.append(first)
    for line in iter(take, ""):
        if delimiter not in line and not line.strip():
            continue
        if len(line) >= MAX_ROW:
            yield line.split(delimiter), TOO_LONG
        elif '"' not in line:
            yield line.rstrip("\r\n").split(delimiter), ""
        else:
            row = _QuotedRow(line, delimiter, take if reread < MAX_REREAD else lambda: "")
            try:
                yield row.read(), ""
            except _BrokenQuoteError as error:
                reread += len(row.taken)
                pending.extendleft(reversed(row.taken))
                yield line.rstrip("\r\n").split(delimiter), str(error)


class _BrokenQuoteError(ValueError):
    """The quotes of a row are unbalanced or misplaced."""


class _QuotedRow:
    """One row that contains quotes, read line by line.

    Args:
        line: the first line.
        delimiter: one character.
        take: returns the next line, or "" at the end.
    """

    def __init__(self, line: str, delimiter: str, take: Callable[[], str]) -> None:
        self.taken: list[str] = []  # the lines after the first
        self._line, self._position, self._size = line, 0, len(line)
        self._delimiter, self._take = delimiter, take

    def read(self) -> list[str]:
        """Return all cells of the row.

        Raises:
            _BrokenQuoteError: a quote is never closed, or text follows a closing quote.
        """
        cells: list[str] = []
        while True:
            quote = self._after_spaces()
            if self._line.startswith('"', quote):
                cells.append(self._quoted(quote, len(cells) + 1))
            else:
                cells.append(self._unquoted())
            if not self._line.startswith(self._delimiter, self._position):
                return cells
            self._position += 1

    def _unquoted(self) -> str:
        start, self._position = self._position, self._line.find(self._delimiter, self._position)
        if self._position < 0:
            self._position = len(self._line.rstrip("\r\n"))
        return self._line[start : self._position]

    def _quoted(self, quote: int, number: int) -> str:
        parts: list[str] = []
        self._position = quote + 1
        while True:
            end = self._line.find('"', self._position)
            if end < 0:
                parts.append(self._line[self._position :])
                self._next_line(number)
            elif self._line.startswith('""', end):
                parts.append(self._line[self._position : end + 1])
                self._position = end + 2
            else:
                parts.append(self._line[self._position : end])
                self._position = end + 1
                break
        self._position = self._after_spaces()
        if self._line[self._position : self._position + 1] not in ("", self._delimiter, "\r", "\n"):
            raise _BrokenQuoteError(
                f"cell {number} goes on after its closing quote; double the quotes inside a quoted cell"
            )
        return "".join(parts)

    def _next_line(self, number: int) -> None:
        line = self._take()
        if line:
            self.taken.append(line)
        self._size += len(line)
        if not line or self._size > MAX_ROW:
            where = "in the file" if not line else f"within {MAX_ROW:,} characters"
            raise _BrokenQuoteError(f"the quote that opens cell {number} is never closed {where}")
        self._line, self._position = line, 0

    def _after_spaces(self) -> int:
        position = self._position
        while self._line.startswith(" ", position):
            position += 1
        return position
