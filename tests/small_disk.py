"""Disks for tests: a small one that fills up, and a folder that nobody may write, not even root."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def _mount(*arguments: object) -> None:
    command = ["mount", *map(str, arguments)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"there is no mount command here ({error.strerror})")
    if done.returncode:
        pytest.skip(f"this user may not mount a disk here: {done.stderr.strip()}")


@contextmanager
def _mounted(folder: Path, *arguments: object) -> Iterator[None]:
    _mount(*arguments, folder)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """Mount a file system of this size at a new folder; skips the test where that is not allowed."""
    folder.mkdir()
    with _mounted(folder, "-t", "tmpfs", "-o", f"size={kilobytes}k", "clipdemo-test"):
        yield folder


def resize(folder: Path, kilobytes: int) -> None:
    """Change the size of a small disk."""
    _mount("-o", f"remount,size={kilobytes}k", folder)


@contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """Make an existing folder read-only for the block; skips the test where that is not allowed."""
    with _mounted(folder, "--bind", folder):
        _mount("-o", "remount,ro,bind", folder)
        yield folder
