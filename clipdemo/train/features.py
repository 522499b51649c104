"""Features of frozen towers, kept on disk: every image and caption goes through a tower once, ever.

A feature row depends on (tower fingerprint, content) alone, but for the last digits, which differ between devices;
so runs share it. The files may be deleted at any time. They hold numbers and hashes only, neither pictures nor words.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from clipdemo.errors import OutputError
from clipdemo.similarity import FloatArray


class FeatureCache:
    """The rows of one tower, by content hash.

    Args:
        fingerprint: of the tower.
        dim: length of a row.

    Raises:
        OutputError: the file cannot be made or read.
    """

    def __init__(self, fingerprint: str, dim: int) -> None:
        self.dim = dim
        self.path = cache_folder() / f"{fingerprint[:32]}-{dim}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._base.execute("PRAGMA journal_mode = WAL")
            self._base.execute("PRAGMA synchronous = NORMAL")
            self._base.execute("CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, row BLOB NOT NULL)")
            # Rows of another length would be of a file that is not ours.
            self.known = {
                key
                for (key,) in self._base.execute(
                    "SELECT key FROM rows WHERE length(row) = ?", [np.float32().nbytes * dim]
                )
            }
        except (OSError, sqlite3.Error) as error:
            raise self._refused(error) from error

    def add(self, rows: Mapping[str, FloatArray]) -> None:
        """Keep rows; they outlast this process.

        Raises:
            OutputError: the disk is full or gone.
        """
        lines = [(key, np.ascontiguousarray(row, dtype="<f4").tobytes()) for key, row in rows.items()]
        try:
            self._base.execute("BEGIN")
            self._base.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", lines)
            self._base.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._refused(error) from error
        self.known.update(rows)

    def rows(self, keys: Sequence[str]) -> FloatArray:
        """(len(keys), dim) rows, all of them known."""
        out = np.empty((len(keys), self.dim), dtype=np.float32)
        for place, key in enumerate(keys):
            (blob,) = self._base.execute("SELECT row FROM rows WHERE key = ?", [key]).fetchone()
            out[place] = np.frombuffer(blob, dtype="<f4")
        return out

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def _refused(self, error: Exception) -> OutputError:
        return OutputError(
            f"the features in {self.path} cannot be kept ({error}); free some disk space, or delete that file"
        )


def cache_folder() -> Path:
    """Where features are kept: the cache folder of the user."""
    home = os.getenv("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "clipdemo" / "features"
