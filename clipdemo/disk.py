"""Files that exist completely or not at all, whatever happens while they are written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A path beside ``path``; the file written there takes its place at the end of the block.

    If the block fails, or the process is killed, ``path`` stays as it was. The new content survives a power
    cut.

    Raises:
        OSError: ``path`` cannot be written; ``filename`` is set.
    """
    target = path.resolve() if path.is_symlink() else path
    fresh = target.with_name(f"{target.name}.new")
    try:
        yield fresh
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, target)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk is reported without a name
        raise
    finally:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)  # half a file would keep a full disk full


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole or not at all.

    Raises:
        OSError: it cannot be written; ``filename`` is set.
    """
    with replacement(path) as fresh:
        fresh.write_bytes(data)
