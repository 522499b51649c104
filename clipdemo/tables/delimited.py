"""Text tables as lines and cells: how a file is encoded, what parts its cells, and its records one by one.

Written out rather than left to :mod:`csv`, which reads to the end of the file when a quote is never closed
and whose limit on a cell holds for the whole process. What the cells mean is said in ``tables.py``.
"""

from __future__ import annotations

import codecs
import hashlib
import io
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from clipdemo.errors import TableError

Opener = Callable[[], BinaryIO]
Record = tuple[Sequence[str], str]  # the cells as found, and "" or why they cannot be trusted

MAX_COLUMNS = 1_000
MAX_ROW = 2_000_000  # characters of one record, quoted line breaks included
MAX_AGAIN = 20_000  # lines of a file that are read again because of quotes that were wrong
_CHUNK = 1 << 16
_SAMPLE_ROWS, _SAMPLE_CHARACTERS = 100, 100_000
_DELIMITERS = ",\t;|"  # the first wins a tie
_SEPARATOR_LINE = re.compile(r'"?sep=([,;|\t])"?[\r\n]*', re.IGNORECASE)  # Excel's hint to itself

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")  # bytes that Windows-1252 gives no letter
_SHEET = "it is a spreadsheet or another {}; open it and save the sheet as CSV"
_PACKED = "it is packed with {}; unpack it first"
_BINARY = {
    b"PK\x03\x04": _SHEET.format("zip"),
    b"PK\x05\x06": _SHEET.format("zip"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1": _SHEET.format("Office file"),
    b"\x1f\x8b": _PACKED.format("gzip"),
    b"\x28\xb5\x2f\xfd": _PACKED.format("zstd"),
    b"BZh": _PACKED.format("bzip2"),
    b"\xfd7zXZ\x00": _PACKED.format("xz"),
    b"PARE": "it is an encrypted Parquet file; save it without encryption",
    b"%PDF-": "it is a PDF; save the table in it as CSV",
    codecs.BOM_UTF32_LE: "it is UTF-32 text; save it as UTF-8",
    codecs.BOM_UTF32_BE: "it is UTF-32 text; save it as UTF-8",
}


@dataclass(frozen=True)
class Inspection:
    """What one pass over a file's bytes tells.

    Attributes:
        encoding: a codec's name; "" for Parquet.
        sha256: of all bytes.
        notes: sentences on what could not be read as it should.
    """

    encoding: str
    sha256: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """A table as its format gives it.

    Attributes:
        columns: the header as written.
        read: streams the rows from a number on.
        count: rows, or None while they are not counted.
        notes: sentences on what could not be read as it should.
        unusable: indexes of columns that hold bytes.
    """

    columns: tuple[str, ...]
    read: Callable[[int], Iterator[Record]]
    count: int | None = None
    notes: tuple[str, ...] = ()
    unusable: frozenset[int] = frozenset()


def inspect(opener: Opener) -> Inspection:
    """Read the file once: its hash, and whether it is text and in which encoding.

    Raises:
        TableError: it cannot be read, is empty, or holds neither text nor Parquet.
    """
    try:
        with opener() as file:
            return _inspect(iter(lambda: file.read(_CHUNK), b""))
    except OSError as error:
        raise unreadable(error) from error


def _inspect(chunks: Iterator[bytes]) -> Inspection:
    chunk = next(chunks, b"")
    digest = hashlib.sha256(chunk)
    if chunk.startswith(b"PAR1"):
        for chunk in chunks:
            digest.update(chunk)
        return Inspection("", digest.hexdigest(), ())
    for start, what in _BINARY.items():
        if chunk.startswith(start):
            raise TableError(f"the file is no table we read: {what}")
    encoding = next((name for bom, name in _BOMS.items() if chunk.startswith(bom)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    size = undefined = 0
    broken = -1
    while chunk:
        _refuse_nul(chunk, encoding, size)
        undefined += sum(map(chunk.count, _UNDEFINED))
        if broken < 0 and not _decodes(decoder, chunk):
            broken = size
        size += len(chunk)
        chunk = next(chunks, b"")
        digest.update(chunk)
    if not size:
        raise TableError("the file is empty; it needs a header such as image,caption and rows below it")
    if broken < 0 and _decodes(decoder, b"", final=True):
        return Inspection(encoding, digest.hexdigest(), ())
    if encoding != "utf-8":
        note = f"the file is marked as {encoding.upper().removesuffix('-SIG')} but breaks its rules; "
        return Inspection(encoding, digest.hexdigest(), (note + "what could not be read became �",))
    note = "the file is not UTF-8; it was read as Windows-1252"
    if undefined:
        note += f", in which {undefined:,} of its bytes mean nothing and became �"
    return Inspection("cp1252", digest.hexdigest(), (note,))


def _refuse_nul(chunk: bytes, encoding: str, before: int) -> None:
    if encoding != "utf-16" and (at := chunk.find(b"\0")) >= 0:
        raise TableError(
            f"the file is not text (byte {before + at:,} is NUL); save the sheet as CSV, or the text as UTF-8"
        )


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(data, final)
    except UnicodeError:
        return False
    return True


def unreadable(error: OSError) -> TableError:
    """What the operating system refused, as a sentence."""
    return TableError(f"the file cannot be read: {error.strerror or error}")


def read_lines(opener: Opener, encoding: str) -> Iterator[str]:
    r"""The lines with their ends (LF, CR or CRLF); of a longer one only the first ``MAX_ROW`` characters.

    Raises:
        TableError: the file cannot be read.
    """
    try:
        with opener() as raw, io.TextIOWrapper(raw, encoding, errors="replace", newline="") as text:
            while line := text.readline(MAX_ROW):
                yield line
                while len(line) == MAX_ROW and not line.endswith(("\n", "\r")):
                    line = text.readline(MAX_ROW)  # the rest of it is passed over
    except OSError as error:
        raise unreadable(error) from error


def find_delimiter(lines: Iterable[str], known: Collection[str]) -> str:
    """What parts the cells, told from the first rows.

    The header decides: it must be cut into two cells at least, best into names we know; then the delimiter
    that cuts most of the rows below into as many cells as the header.

    Args:
        lines: the table's; only the first are read.
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
    found = [cells for cells, _ in islice(records(iter(sample), delimiter), _SAMPLE_ROWS)]
    if not found or len(found[0]) < 2:
        return (False, 0, 0.0)
    header, *rows = found
    names = sum(cell.strip().lower() in known for cell in header)
    fitting = sum(len(row) == len(header) for row in rows)
    return (True, names, fitting / max(1, len(rows)))


def records(lines: Iterator[str], delimiter: str) -> Iterator[Record]:
    """The header and the rows: cells without their quotes, blank lines left out.

    A row whose quotes are wrong ends at the end of its first line, so that the rows below it are not lost.
    To find that out, lines are read again; after ``MAX_AGAIN`` such lines a quote must close on its own line,
    so that a hostile file costs no more than its length. Nothing but the lines of one row is ever held.

    Args:
        lines: with their ends, as :func:`read_lines` gives them.
        delimiter: one character.
    """
    again = 0
    ahead: deque[str] = deque()  # lines that belong to no row after all, to be read again

    def take() -> str:
        return ahead.popleft() if ahead else next(lines, "")

    first = take()
    if not _SEPARATOR_LINE.fullmatch(first):
        ahead.append(first)
    for line in iter(take, ""):
        if delimiter not in line and not line.strip():
            continue
        if len(line) >= MAX_ROW:
            yield line.split(delimiter), f"the row has {MAX_ROW:,} characters or more, which is too long"
        elif '"' not in line:
            yield line.rstrip("\r\n").split(delimiter), ""
        else:
            row = _QuotedRow(line, delimiter, take if again < MAX_AGAIN else lambda: "")
            try:
                yield row.read(), ""
            except _BadQuoteError as error:
                again += len(row.taken)
                ahead.extendleft(reversed(row.taken))
                yield line.rstrip("\r\n").split(delimiter), str(error)


class _BadQuoteError(ValueError):
    """Why the quotes of a row cannot be right."""


class _QuotedRow:
    """One row with quotes in it, read a line at a time."""

    def __init__(self, line: str, delimiter: str, take: Callable[[], str]) -> None:
        self.taken: list[str] = []  # the lines after the first
        self._line, self._at, self._size = line, 0, len(line)
        self._delimiter, self._take = delimiter, take

    def read(self) -> list[str]:
        """All cells of the row.

        Raises:
            _BadQuoteError: a quote that is never closed, or text after one that is.
        """
        cells: list[str] = []
        while True:
            quote = self._after_spaces()
            if self._line.startswith('"', quote):
                cells.append(self._quoted(quote, len(cells) + 1))
            else:
                cells.append(self._plain())
            if not self._line.startswith(self._delimiter, self._at):
                return cells
            self._at += 1

    def _plain(self) -> str:
        start, self._at = self._at, self._line.find(self._delimiter, self._at)
        if self._at < 0:
            self._at = len(self._line.rstrip("\r\n"))
        return self._line[start : self._at]

    def _quoted(self, quote: int, number: int) -> str:
        parts: list[str] = []
        self._at = quote + 1
        while True:
            end = self._line.find('"', self._at)
            if end < 0:
                parts.append(self._line[self._at :])
                self._next_line(number)
            elif self._line.startswith('""', end):
                parts.append(self._line[self._at : end + 1])
                self._at = end + 2
            else:
                parts.append(self._line[self._at : end])
                self._at = end + 1
                break
        self._at = self._after_spaces()
        if self._at < len(self._line) and self._line[self._at] not in (self._delimiter, "\r", "\n"):
            raise _BadQuoteError(
                f"cell {number} goes on after its closing quote; quotes in it must be doubled"
            )
        return "".join(parts)

    def _next_line(self, number: int) -> None:
        line = self._take()
        if line:
            self.taken.append(line)
        self._size += len(line)
        if not line or self._size > MAX_ROW:
            where = "in the file" if not line else f"within {MAX_ROW:,} characters"
            raise _BadQuoteError(f"the quote that opens cell {number} is never closed {where}")
        self._line, self._at = line, 0

    def _after_spaces(self) -> int:
        at = self._at
        while self._line.startswith(" ", at):
            at += 1
        return at
