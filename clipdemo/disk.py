"""Files that exist completely or not at all, whatever happens while they are written."""

from __future__ import annotations

import glob
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_TEMPORARY = ".{name}.{token}.clipdemo-new"


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A new, empty file beside ``path``; what is written there takes its place at the end of the block.

    Its name is hidden and random: it meets neither a file of the user nor another run. If the block fails, or
    the process is killed, ``path`` stays as it was. The new content survives a power cut.

    Raises:
        OSError: ``path`` cannot be written; ``filename`` is set.
    """
    target = path.resolve() if path.is_symlink() else path
    fresh = target.with_name(_TEMPORARY.format(name=target.name, token=secrets.token_hex(8)))
    try:
        os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))  # follows no link
        yield fresh
        with fresh.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(fresh, target)
    except OSError as error:
        if error.filename is None or str(error.filename) == str(fresh):  # a full disk has no name
            error.filename = str(path)
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


def leftovers(path: Path) -> list[Path]:
    """What killed runs left of replacements of a file, or of the files in a folder and its subfolders."""
    token = "[0-9a-f]" * 16
    if path.is_dir():
        pattern = _TEMPORARY.format(name="*", token=token)
        return [*path.glob(pattern), *path.glob(f"*/{pattern}")]
    target = path.resolve()
    return [*target.parent.glob(_TEMPORARY.format(name=glob.escape(target.name), token=token))]


def remove_leftovers(path: Path) -> None:
    """Delete the leftovers; for a run that has the lock on ``path``.

    Raises:
        OSError: one cannot be deleted.
    """
    for file in leftovers(path):
        file.unlink(missing_ok=True)
