"""An on-disk cache of features: each image and caption goes through a frozen tower once.

A row depends on the tower's fingerprint, on how images are prepared, and on the content only (last digits
vary by device), so all runs share it. The files contain numbers and hashes, neither images nor captions, and
may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipdemo.errors import OutputError
from clipdemo.images.decode import recipe
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained.towers import AnyImageTower, AnyTextTower
from clipdemo.similarity import FloatArray

CAPTION_BATCH = 256  # captions encoded between two writes to the cache


def image_cache(tower: AnyImageTower) -> FeatureCache:
    """The cache of an image tower's features of images in its view.

    Raises:
        OutputError: the file cannot be created or read.
    """
    key = f"{tower.fingerprint} {recipe(tower.view)}"
    return FeatureCache(hashlib.sha256(key.encode()).hexdigest(), tower.dim)


class FeatureCache:
    """The feature rows of one tower in a SQLite file, by the SHA-256 of their content.

    Args:
        fingerprint: of the tower and of how its inputs are prepared.
        dim: length of a row.

    Attributes:
        known: the hashes in the file.

    Raises:
        OutputError: the file cannot be created or read.
    """

    def __init__(self, fingerprint: str, dim: int) -> None:
        self.dim = dim
        self.path = cache_folder() / f"{fingerprint[:32]}-{dim}.sqlite"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(
                "CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, row BLOB NOT NULL)"
            )
            # Rows of another length are not ours.
            self.known = {
                key
                for (key,) in self._database.execute(
                    "SELECT key FROM rows WHERE length(row) = ?", [np.float32().nbytes * dim]
                )
            }
        except (OSError, sqlite3.Error) as error:
            raise self._error(error) from error

    def add(self, rows: Mapping[str, FloatArray]) -> None:
        """Store rows permanently.

        Raises:
            OutputError: the file cannot be written.
        """
        values = [(key, np.ascontiguousarray(row, dtype="<f4").tobytes()) for key, row in rows.items()]
        try:
            self._database.execute("BEGIN")
            self._database.executemany("INSERT OR REPLACE INTO rows VALUES (?, ?)", values)
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._error(error) from error
        self.known.update(rows)

    def rows(self, keys: Sequence[str]) -> FloatArray:
        """Return (len(keys), dim) rows; all keys must be known."""
        rows = np.empty((len(keys), self.dim), dtype=np.float32)
        for index, key in enumerate(keys):
            (blob,) = self._database.execute("SELECT row FROM rows WHERE key = ?", [key]).fetchone()
            rows[index] = np.frombuffer(blob, dtype="<f4")
        return rows

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def _error(self, error: Exception) -> OutputError:
        return OutputError(
            f"features cannot be stored in {self.path} ({error}); free some disk space, or delete that file"
        )


def caption_features(tower: AnyTextTower, captions: Sequence[str], device: torch.device) -> Tensor:
    """Return (len(captions), dim) features of a frozen tower, from the cache where possible.

    Raises:
        OutputError: the cache cannot be written.
    """
    cache = FeatureCache(tower.fingerprint, tower.dim)
    keys = [hashlib.sha256(caption.encode()).hexdigest() for caption in captions]
    new = {key: text for key, text in zip(keys, captions, strict=True) if key not in cache.known}
    by_length = sorted(new, key=lambda key: (len(new[key]), key))  # a batch is padded to its longest caption
    for start in range(0, len(by_length), CAPTION_BATCH):
        batch = by_length[start : start + CAPTION_BATCH]
        rows = tower_features.caption_features(tower, [new[key] for key in batch], device).cpu().numpy()
        cache.add(dict(zip(batch, rows, strict=True)))
    features = cache.rows(keys)
    cache.close()
    return torch.from_numpy(features).to(device)


def cache_folder() -> Path:
    """Return the folder of all feature files, in the user's cache folder."""
    home = os.getenv("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(home) / "clipdemo" / "features"
