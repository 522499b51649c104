"""The content of a table file: format and encoding, told by its bytes, and what each reader returns."""

from __future__ import annotations

import codecs
import hashlib
import io
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Literal

from clipdemo.errors import TableError

Opener = Callable[[], BinaryIO]
Record = tuple[Sequence[str], str]  # the cells, and why they cannot be trusted or ""
Lines = Callable[[], Iterator[str]]  # reads the lines of the file from its beginning
Format = Literal["text", "parquet"]

MAX_COLUMNS = 1_000
MAX_NAME = 1_000  # characters of a column name
MAX_CELL = 1_000_000  # characters
LINES_PER_ROW = 100  # blank lines and line breaks in cells, on average, where rows are limited
MAX_ROW = 2_000_000  # characters of one record, including quoted line breaks
TOO_LONG = f"the row has {MAX_ROW:,} characters or more, which is too long"
_CHUNK = 1 << 16

_BOMS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_UNDEFINED = (b"\x81", b"\x8d", b"\x8f", b"\x90", b"\x9d")  # bytes that Windows-1252 does not define
_SHEET = "it is a spreadsheet or another {}; open it and save the sheet as CSV"
_PACKED = "it is compressed with {}; unpack it first"
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
    """The result of one pass over a file's bytes.

    Attributes:
        encoding: name of the codec; "" unless the format is text.
        sha256: of the whole file.
        notes: sentences on characters that could not be decoded.
    """

    format: Format
    encoding: str
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """A table as its file format defines it.

    Attributes:
        columns: the header as written.
        read: reads the rows from a given number on.
        count: number of rows; None if they must be counted.
        notes: sentences on what could not be read.
        byte_columns: indices of columns that contain bytes rather than text.
    """

    columns: tuple[str, ...]
    read: Callable[[int], Iterator[Record]]
    count: int | None = None
    notes: tuple[str, ...] = ()
    byte_columns: frozenset[int] = frozenset()


def inspect(opener: Opener) -> Inspection:
    """Read the file once for its format, encoding and hash; a new format is recognised here.

    Raises:
        TableError: the file cannot be read, is empty, or is neither text nor Parquet.
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
        return Inspection("parquet", "", digest.hexdigest())
    for signature, advice in _BINARY.items():
        if chunk.startswith(signature):
            raise TableError(f"the file cannot be read as a table: {advice}")
    encoding = next((name for bom, name in _BOMS.items() if chunk.startswith(bom)), "utf-8")
    decoder = codecs.getincrementaldecoder(encoding)("strict")
    size = undefined = 0
    broken = False
    while chunk:
        _refuse_nul(chunk, encoding, size)
        undefined += sum(map(chunk.count, _UNDEFINED))
        broken = broken or not _decodes(decoder, chunk)
        size += len(chunk)
        chunk = next(chunks, b"")
        digest.update(chunk)
    if not size:
        raise TableError("the file is empty; it needs a header such as image,caption and rows below it")
    if not broken and _decodes(decoder, b"", final=True):
        return Inspection("text", encoding, digest.hexdigest())
    if encoding != "utf-8":
        name = encoding.upper().removesuffix("-SIG")
        note = f"the file is marked as {name} but is not valid; characters that could not be read became �"
        return Inspection("text", encoding, digest.hexdigest(), (note,))
    note = "the file is not UTF-8; it was read as Windows-1252"
    if undefined:
        note += f", which does not define {undefined:,} of its bytes; they became �"
    return Inspection("text", "cp1252", digest.hexdigest(), (note,))


def _refuse_nul(chunk: bytes, encoding: str, offset: int) -> None:
    if encoding != "utf-16" and (index := chunk.find(b"\0")) >= 0:
        raise TableError(
            f"the file is not text (byte {offset + index:,} is NUL); "
            "save the sheet as CSV, or the text as UTF-8"
        )


def _decodes(decoder: codecs.IncrementalDecoder, data: bytes, *, final: bool = False) -> bool:
    try:
        decoder.decode(data, final)
    except UnicodeError:
        return False
    return True


def unreadable(error: OSError) -> TableError:
    """Return the error for a file that the operating system cannot open or read."""
    return TableError(f"the file cannot be read: {error.strerror or error}")


def read_lines(opener: Opener, encoding: str, max_lines: int | None = None) -> Iterator[str]:
    r"""Read lines with their ends (LF, CR or CRLF), each cut at ``MAX_ROW`` characters.

    Raises:
        TableError: the file cannot be read, or has more lines than ``max_lines``.
    """
    count = 0
    try:
        with opener() as raw, io.TextIOWrapper(raw, encoding, errors="replace", newline="") as text:
            while line := text.readline(MAX_ROW):
                if count == max_lines:
                    raise TableError(f"the table has more than {max_lines:,} lines; split it")
                count += 1
                yield line
                while len(line) == MAX_ROW and not line.endswith(("\n", "\r")):
                    line = text.readline(MAX_ROW)  # skip the rest of the line
    except OSError as error:
        raise unreadable(error) from error


def check_header(columns: Collection[str]) -> None:
    """Refuse a header with too many columns or too long names.

    Raises:
        TableError: with the numbers.
    """
    if len(columns) > MAX_COLUMNS:
        raise TableError(f"the table has {len(columns):,} columns or more; the limit is {MAX_COLUMNS:,}")
    if (longest := max(map(len, columns), default=0)) > MAX_NAME:
        raise TableError(f"a column name has {longest:,} characters; the limit is {MAX_NAME:,}")


def too_many_rows(max_rows: int) -> TableError:
    """Return the error for a table with more rows than its reader takes."""
    return TableError(f"the table has more than {max_rows:,} rows, the limit here; split it")


def shorten(cells: Sequence[str], problem: str) -> Record:
    """Cut cells at ``MAX_CELL`` characters and the row at ``MAX_ROW``, and make that the row's problem."""
    longest, left = max(map(len, cells), default=0), MAX_ROW
    if longest <= MAX_CELL and sum(map(len, cells)) <= MAX_ROW:
        return cells, problem
    if longest > MAX_CELL:
        problem = problem or f"a cell has {longest:,} characters; the limit is {MAX_CELL:,}"
    short = []
    for cell in cells:
        short.append(cell[: min(left, MAX_CELL)])
        left -= len(short[-1])
    return short, problem or TOO_LONG
