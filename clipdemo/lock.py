"""Locks on outputs: of two runs that would write the same file, the second is refused while the first lives.

The lock is the operating system's, on a file ``.<output>.clipdemo-lock`` beside the output: it ends with the
process that has it, however that process ends. The file contains the process's number, for the message; a
file with other content is not ours, and stays as it is.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from clipdemo.errors import OutputError

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)  # Windows has none


@contextmanager
def lock_outputs(*outputs: Path) -> Iterator[None]:
    """Hold a lock on each output, a file or a folder that may not exist yet, while the block runs.

    Raises:
        OutputError: another run has a lock on one of them, or a lock file cannot be written or is not ours.
    """
    with ExitStack() as held:
        for output in outputs:
            held.enter_context(_lock(output))
        yield


@contextmanager
def _lock(output: Path) -> Iterator[None]:
    target = output.resolve()  # two names of one file have one lock
    path = target.parent / f".{target.name}.clipdemo-lock"
    if path.is_symlink():
        raise _foreign_error(output, path)
    try:
        descriptor = _open_locked(path)
    except OSError as error:
        raise OutputError(
            f"{output} cannot be written: {path} cannot be created ({error.strerror}); choose another folder"
        ) from error
    if descriptor is None:
        process = _owner(path)
        raise OutputError(
            f"another run{process} is writing {output}; wait until it has ended, or name another output"
        )
    if not _is_ours(descriptor):
        os.close(descriptor)
        raise _foreign_error(output, path)
    try:
        with suppress(OSError):  # a full disk: the lock holds without the number
            os.truncate(descriptor, 0)
            os.write(descriptor, b"%d\n" % os.getpid())
        yield
    finally:
        with suppress(OSError):  # Windows keeps open files
            path.unlink()
        os.close(descriptor)


def _open_locked(path: Path) -> int | None:
    """Open and lock a file; None if another process has it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NOFOLLOW, 0o666)
        try:
            locked = _try_lock(descriptor)
            # The run before may have deleted the file after it was opened here.
            current = locked and _is_at(path, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if current:
            return descriptor
        os.close(descriptor)
        if not locked:
            return None


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _is_ours(descriptor: int) -> bool:
    """Whether an open file is what ``_lock`` writes, or still empty; a second name of a file is not."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        return False
    content = os.read(descriptor, 32)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return re.fullmatch(rb"(\d{1,20}\r?\n?)?", content) is not None


def _foreign_error(output: Path, path: Path) -> OutputError:
    return OutputError(
        f"{output} cannot be written: {path} is not a lock of clipdemo; move it away, or name another output"
    )


def _owner(path: Path) -> str:
    """The process that wrote its number into a lock file, in words."""
    try:
        return f" (process {int(path.read_text('ascii'))})"
    except (OSError, ValueError):  # the number is not written yet
        return ""


if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> bool:
        """Lock a byte behind the number: others may not read locked bytes."""
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        os.lseek(descriptor, 0, os.SEEK_SET)
        return True

else:
    import fcntl

    def _try_lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
