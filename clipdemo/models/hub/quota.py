"""Bounds the disk space of checkpoints that visitors typed: the least recently used one makes room.

A file in a folder of its own marks such a repository and notes the bytes reserved for it. It is deleted last:
what an interrupted removal leaves still counts. Repositories without the mark are the host's own and are
never removed.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from pathlib import Path

from clipdemo.errors import CheckpointError
from clipdemo.limits import format_bytes

MAX_CHECKPOINT_BYTES = 6_000_000_000
MAX_TOTAL_BYTES = 12_000_000_000
LEAST_BYTES = 10_000_000  # counted for each, so that thousands of small ones do not fill the disk's index
KEEP_SECONDS = 15 * 60.0  # after the last use
_MARKS = ".clipdemo-typed"  # in the cache; has a file with the name of each folder
_RESERVING = threading.Lock()


def reserve(name: str, repo: Path, needed: int) -> None:
    """Reserve room for a checkpoint that a visitor typed, and remove others if that is what it takes.

    Args:
        name: of the checkpoint.
        repo: its folder in the cache of the hub.
        needed: bytes of its files.

    Raises:
        CheckpointError: it is too large, or the others are in use.
    """
    if needed > MAX_CHECKPOINT_BYTES:
        raise CheckpointError(
            f"{name} has {format_bytes(needed)} of files, and a typed checkpoint may have "
            f"{format_bytes(MAX_CHECKPOINT_BYTES)}; choose a smaller one"
        )
    mark = _mark(repo)
    if repo.exists() and not mark.exists():
        return  # the host's own
    with _RESERVING:
        room = MAX_TOTAL_BYTES - max(needed, LEAST_BYTES)
        others = [each for each in _marks(repo.parent) if each != mark]
        for old in others:
            if sum(map(_reserved, others)) <= room:
                break
            if time.time() - old.stat().st_mtime < KEEP_SECONDS:
                raise CheckpointError(
                    f"{name} must wait: typed checkpoints may take {format_bytes(MAX_TOTAL_BYTES)} of this "
                    "server's disk, and the others are in use; try later"
                )
            folder = repo.with_name(old.name)
            shutil.rmtree(folder, ignore_errors=True)
            if not folder.exists():
                old.unlink()
            others = [each for each in others if each.exists()]
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(max(needed, LEAST_BYTES)), encoding="ascii")


def note_use(repo: Path) -> None:
    """Note that a checkpoint was used now, if a visitor typed it."""
    with suppress(OSError):  # without a mark it is the host's own; a read-only cache loses no files
        os.utime(_mark(repo))


def _mark(repo: Path) -> Path:
    return repo.parent / _MARKS / repo.name


def _marks(cache: Path) -> list[Path]:
    """The least recently used first."""
    return sorted(cache.glob(f"{_MARKS}/models--*"), key=lambda mark: mark.stat().st_mtime)


def _reserved(mark: Path) -> int:
    text = mark.read_text("ascii", "replace")
    return int(text) if text.isdecimal() else MAX_CHECKPOINT_BYTES
