"""Bounds the disk space of checkpoints that visitors typed: the least recently used one makes room.

A file in the folder of such a repository marks it and notes the bytes reserved for it. Repositories without
the mark are the host's own and are never removed.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from pathlib import Path

from clipdemo.errors import CheckpointError
from clipdemo.limits import format_bytes

MAX_CHECKPOINT_BYTES = 6_000_000_000
MAX_TOTAL_BYTES = 12_000_000_000
LEAST_BYTES = 10_000_000  # counted for each, so that thousands of small ones do not fill the disk's index
KEEP_SECONDS = 15 * 60.0  # after the last use
_MARK = ".clipdemo-typed"
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
    mark = repo / _MARK
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
            shutil.rmtree(old.parent, ignore_errors=True)
            others = [each for each in others if each.exists()]
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(max(needed, LEAST_BYTES)), encoding="ascii")


def note_use(repo: Path) -> None:
    """Note that a checkpoint was used now, if a visitor typed it."""
    mark = repo / _MARK
    if mark.exists():
        os.utime(mark)


def _marks(cache: Path) -> list[Path]:
    """The least recently used first."""
    return sorted(cache.glob(f"models--*/{_MARK}"), key=lambda mark: mark.stat().st_mtime)


def _reserved(mark: Path) -> int:
    text = mark.read_text("ascii", "replace")
    return int(text) if text.isdecimal() else MAX_CHECKPOINT_BYTES
