"""The progress of a run over a table in SQLite: on disk for the command line, in memory for a page.

The ledger makes a run resumable, lets each image and caption be encoded once, and keeps the embeddings of a
large table out of memory. Rows are committed completely or not at all.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdemo.errors import LedgerError
from clipdemo.scoring.rivals import BLOCK
from clipdemo.similarity import FloatArray, IntArray

_SCHEMA = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE images (
    id INTEGER PRIMARY KEY, sha256 TEXT UNIQUE NOT NULL, embedding BLOB NOT NULL, thumbnail BLOB
);
CREATE TABLE files (name TEXT PRIMARY KEY, image INTEGER, error TEXT NOT NULL);
CREATE INDEX files_of_image ON files (image);
CREATE TABLE captions (
    id INTEGER PRIMARY KEY, text TEXT UNIQUE NOT NULL, embedding BLOB NOT NULL, cut INTEGER NOT NULL
);
CREATE TABLE rows (
    number INTEGER PRIMARY KEY, image INTEGER, caption INTEGER, cosine REAL, error TEXT NOT NULL
);
"""


@dataclass(frozen=True)
class File:
    """The result of one image cell: the id of its image, or None and the error."""

    image: int | None
    error: str


@dataclass(frozen=True)
class ScoredRow:
    """A processed row; a failed one has an error instead of an image id, caption id and cosine."""

    number: int
    image: int | None
    caption: int | None
    cosine: float | None
    error: str


class Ledger:
    """The progress of one run. Ids of images and captions count from 0, in the order in which they are added.

    Args:
        path: of the file, created if missing; None keeps everything in memory.

    Raises:
        LedgerError: the file cannot be opened, is not a ledger, or is in use by another run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path, existed = path, path is not None and path.exists()
        try:
            # A page's script runs in another thread each time, one at a time.
            self._base = sqlite3.connect(
                path or ":memory:", timeout=0, isolation_level=None, check_same_thread=False
            )
            self._base.execute("PRAGMA journal_mode = WAL")  # a killed process loses nothing committed
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("PRAGMA cache_size = -8000")
            if not self._base.execute("SELECT name FROM sqlite_master").fetchall():
                self._base.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
            self._base.execute("SELECT number FROM rows LIMIT 1")
            self._base.execute("BEGIN IMMEDIATE")  # locks out other writers between two commits
        except sqlite3.Error as error:
            if not existed:
                self._discard()
            raise LedgerError(_open_error(path, error)) from error

    def commit(self) -> None:
        """Write everything so far to disk.

        Raises:
            LedgerError: the disk is full or gone.
        """
        self._execute("COMMIT")
        self._execute("BEGIN IMMEDIATE")

    def close(self) -> None:
        """Close the file; uncommitted changes are lost."""
        self._base.close()

    def about(self) -> dict[str, str]:
        """Return what :meth:`describe` stored; empty in a new ledger."""
        return dict(self._execute("SELECT key, value FROM about"))

    def describe(self, about: Mapping[str, str]) -> None:
        """Store what a resumed run must agree with."""
        self._execute_many("INSERT INTO about VALUES (?, ?)", about.items())
        self.commit()

    def file(self, name: str) -> File | None:
        """Return the result of an image cell, or None before it is processed."""
        row = self._execute("SELECT image, error FROM files WHERE name = ?", [name]).fetchone()
        return File(*row) if row else None

    def add_file(self, name: str, image: int | None, error: str = "") -> None:
        """Record the result of an image cell."""
        self._execute("INSERT OR REPLACE INTO files VALUES (?, ?, ?)", [name, image, error])

    def file_name(self, image: int) -> str:
        """Return the first image cell that named an image."""
        query = "SELECT name FROM files WHERE image = ? ORDER BY rowid LIMIT 1"
        return str(self._execute(query, [image]).fetchone()[0])

    def image(self, sha256: str) -> int | None:
        """Return the id of an image, or None before it is encoded."""
        row = self._execute("SELECT id FROM images WHERE sha256 = ?", [sha256]).fetchone()
        return int(row[0]) if row else None

    def add_image(self, sha256: str, embedding: FloatArray, thumbnail: bytes | None) -> None:
        """Add an encoded image."""
        values = [self.image_count, sha256, _blob(embedding), thumbnail]
        self._execute("INSERT INTO images VALUES (?, ?, ?, ?)", values)

    def caption(self, text: str) -> int | None:
        """Return the id of a caption, or None before it is encoded."""
        row = self._execute("SELECT id FROM captions WHERE text = ?", [text]).fetchone()
        return int(row[0]) if row else None

    def add_caption(self, text: str, embedding: FloatArray, truncated: bool) -> None:
        """Add an encoded caption."""
        values = [self.caption_count, text, _blob(embedding), truncated]
        self._execute("INSERT INTO captions VALUES (?, ?, ?, ?)", values)

    def add_rows(self, rows: Iterable[ScoredRow]) -> None:
        """Add processed rows."""
        values = [(row.number, row.image, row.caption, row.cosine, row.error) for row in rows]
        self._execute_many("INSERT INTO rows VALUES (?, ?, ?, ?, ?)", values)

    @property
    def row_count(self) -> int:
        """The number of processed rows; they are the first rows of the table."""
        return self._one("SELECT coalesce(max(number) + 1, 0) FROM rows")

    @property
    def image_count(self) -> int:
        """The number of distinct images."""
        return self._one("SELECT coalesce(max(id) + 1, 0) FROM images")

    @property
    def caption_count(self) -> int:
        """The number of distinct captions."""
        return self._one("SELECT coalesce(max(id) + 1, 0) FROM captions")

    def rows(self, start: int = 0, stop: int | None = None) -> Iterator[ScoredRow]:
        """Yield processed rows in order, from ``start`` to before ``stop``."""
        stop = self.row_count if stop is None else stop
        # Block by block: an open cursor would block the next commit.
        for first in range(start, stop, BLOCK):
            block = self._execute(
                "SELECT number, image, caption, cosine, error FROM rows"
                " WHERE number >= ? AND number < ? ORDER BY number",
                [first, min(first + BLOCK, stop)],
            ).fetchall()
            yield from (ScoredRow(*values) for values in block)

    def pairs(self) -> tuple[IntArray, IntArray, FloatArray]:
        """Return the scored rows: their numbers (n,), image and caption ids (n, 2), and cosines (n,)."""
        query = "SELECT number, image, caption, cosine FROM rows WHERE error = '' ORDER BY number"
        kind = np.dtype([("number", "i8"), ("image", "i8"), ("caption", "i8"), ("cosine", "f4")])
        rows = np.fromiter(self._execute(query), dtype=kind)
        return rows["number"], np.stack([rows["image"], rows["caption"]], axis=1), rows["cosine"]

    def image_blocks(self) -> Iterator[FloatArray]:
        """Yield the embeddings of the images in blocks of unit rows, in the order of their ids."""
        return self._blocks(
            "SELECT embedding FROM images WHERE id >= ? AND id < ? ORDER BY id", self.image_count
        )

    def caption_blocks(self) -> Iterator[FloatArray]:
        """Yield the embeddings of the captions in blocks of unit rows, in the order of their ids."""
        return self._blocks(
            "SELECT embedding FROM captions WHERE id >= ? AND id < ? ORDER BY id", self.caption_count
        )

    def image_embeddings(self, ids: Sequence[int]) -> FloatArray:
        """Return (len(ids), dim) unit rows."""
        return self._select("SELECT embedding FROM images WHERE id = ?", ids)

    def caption_embeddings(self, ids: Sequence[int]) -> FloatArray:
        """Return (len(ids), dim) unit rows."""
        return self._select("SELECT embedding FROM captions WHERE id = ?", ids)

    def caption_text(self, caption: int) -> tuple[str, bool]:
        """Return a caption's text, and whether the checkpoint truncated it."""
        text, truncated = self._execute("SELECT text, cut FROM captions WHERE id = ?", [caption]).fetchone()
        return str(text), bool(truncated)

    def thumbnail(self, image: int) -> bytes | None:
        """Return the JPEG bytes of an image's thumbnail, or None if thumbnails were not kept."""
        row = self._execute("SELECT thumbnail FROM images WHERE id = ?", [image]).fetchone()
        return row[0] if row else None

    def duplicates(self) -> set[int]:
        """Return the ids of images that several image cells name."""
        query = "SELECT image FROM files WHERE image IS NOT NULL GROUP BY image HAVING count(*) > 1"
        return {image for (image,) in self._execute(query)}

    def _blocks(self, query: str, count: int) -> Iterator[FloatArray]:
        for first in range(0, count, BLOCK):
            yield _rows(self._execute(query, [first, first + BLOCK]))

    def _select(self, query: str, ids: Sequence[int]) -> FloatArray:
        return _rows(self._execute(query, [key]).fetchone() for key in ids)

    def _execute(self, query: str, values: Sequence[object] = ()) -> sqlite3.Cursor:
        try:
            return self._base.execute(query, values)
        except sqlite3.Error as error:
            raise self._use_error(error) from error

    def _execute_many(self, query: str, rows: Iterable[Sequence[object]]) -> None:
        try:
            self._base.executemany(query, rows)
        except sqlite3.Error as error:  # also between commits: many rows do not fit into SQLite's cache
            raise self._use_error(error) from error

    def _use_error(self, error: sqlite3.Error) -> LedgerError:
        return LedgerError(
            f"the progress file {self._path} cannot be written or read ({error}); free some disk space and "
            "go on with --resume"
        )

    def _discard(self) -> None:
        """Delete a file that was created but could not be filled: it would look like a stopped run."""
        if hasattr(self, "_base"):
            self._base.close()
        if self._path:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _one(self, query: str) -> int:
        return int(self._execute(query).fetchone()[0])


def _open_error(path: Path | None, error: sqlite3.Error) -> str:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # without SQLite's details
    if code in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
        return f"the progress file {path} cannot be written ({error}); free some disk space and try again"
    if code == sqlite3.SQLITE_READONLY:
        return f"the progress file {path} cannot be written ({error}); make it and its folder writable"
    if path is None or not path.exists():
        return f"the progress file {path} cannot be created ({error}); write the output to another folder"
    if code == sqlite3.SQLITE_BUSY:
        return f"the progress file {path} is in use; another run writes the same output"
    return f"the progress file {path} cannot be used ({error}); delete it"


def _blob(embedding: FloatArray) -> bytes:
    return np.ascontiguousarray(embedding, dtype="<f4").tobytes()


def _rows(blobs: Iterable[tuple[bytes]]) -> FloatArray:
    rows = [np.frombuffer(blob, dtype="<f4") for (blob,) in blobs]
    return np.stack(rows).astype(np.float32, copy=False) if rows else np.zeros((0, 0), dtype=np.float32)
