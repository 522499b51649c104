"""Finds images: a cell of a table, or an argument of a command, becomes a ``Source``.

A table may come from anyone. Its cells reach the public web, and files below one folder or among the uploads;
nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clipdemo.errors import FileMissingError, ImageTooLargeError
from clipdemo.images import fetch, formats, sources
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.regular import open_regular
from clipdemo.types import Rejected

Locator = Callable[[str], Source]  # from the cell of a table to its image

MAX_ZIP_BYTES = 2_000_000_000  # of a zip named on the command line; it is read into memory


def is_url(cell: str) -> bool:
    """Whether a cell contains a web address."""
    return cell.lower().startswith(("http://", "https://"))


def url_source(url: str, limits: Limits) -> Source:
    """The image at a URL."""
    return Source(url, "url", lambda: fetch.fetch_bytes(url, limits))


def folder_locator(folder: Path, limits: Limits) -> Locator:
    """Locates URLs, and files by their path relative to ``folder``; files outside it are refused."""
    root = folder.resolve()

    def locate(cell: str) -> Source:
        if is_url(cell):
            return url_source(cell, limits)
        return Source(cell, "file", lambda: _read_inside(root, cell, limits))

    return locate


def upload_locator(files: Iterable[Source], limits: Limits) -> Locator:
    """Locates URLs, and uploaded files by name or by the end of their path in a zip; nothing else.

    Args:
        files: uploads and the members of uploaded zips; names may repeat.
        limits: of fetched images.
    """
    by_basename: dict[str, list[Source]] = {}
    for file in files:
        by_basename.setdefault(_basename(file.name), []).append(file)

    def locate(cell: str) -> Source:
        if is_url(cell):
            return url_source(cell, limits)
        path = cell.replace("\\", "/").removeprefix("./")
        candidates = by_basename.get(_basename(path), [])
        exact = [file for file in candidates if file.name == path]
        matches = exact or [file for file in candidates if file.name.endswith("/" + path)]
        return Source(cell, "upload", lambda: _read_only_match(cell, matches))

    return locate


def _basename(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _read_only_match(cell: str, matches: list[Source]) -> bytes:
    if not matches:
        raise FileMissingError(f"no uploaded file is called {cell[:80]!r}; upload it, alone or in a zip")
    if len(matches) > 1:
        raise FileMissingError(
            f"{len(matches)} uploaded files are called {cell[:80]!r}; rename them, or write more of the path"
        )
    return matches[0].read()


def printable_name(name: str) -> str:
    """The name of a file as valid text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(name).decode("utf-8", "replace")


def read_arguments(arguments: Iterable[str], limits: Limits) -> Iterator[Source | Rejected]:
    """The images that a command's arguments name: URLs, image files, zips, and the image files of folders."""
    for argument in arguments:
        path = Path(argument)
        if is_url(argument):
            yield url_source(argument, limits)
        elif path.is_dir():
            yield from _files_of(path, limits)
        elif path.suffix.lower() == ".zip" and path.is_file():
            yield from _members_of(path, argument, limits)
        else:
            yield _file_source(printable_name(argument), path, limits)


def _files_of(folder: Path, limits: Limits) -> Iterator[Source | Rejected]:
    """The image files below a folder, in order, without hidden ones."""
    empty = True
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if path.suffix.lower() in formats.SUFFIXES and not any(
            part.startswith(".") for part in relative.parts
        ):
            empty = False
            yield _file_source(printable_name(str(relative)), path, limits)
    if empty:
        reason = "no image files were found in the folder; choose another one"
        yield Rejected(printable_name(str(folder)), "no images", reason, "file")


def _members_of(path: Path, argument: str, limits: Limits) -> Iterator[Source | Rejected]:
    try:
        data = _read(path, MAX_ZIP_BYTES)
    except (FileMissingError, ImageTooLargeError) as error:
        yield Rejected(printable_name(argument), error.verdict, str(error), "file")
        return
    yield from sources.expand(printable_name(path.name), data, "file", limits)


def _file_source(name: str, path: Path, limits: Limits) -> Source:
    return Source(name, "file", lambda: _read(path, limits.file_bytes))


def _read_inside(root: Path, cell: str, limits: Limits) -> bytes:
    if cell.lower().startswith("file:"):
        raise FileMissingError(
            "file: addresses are not read; write the path relative to the folder of images"
        )
    try:
        path = (root / cell).resolve()
        if not path.exists() and "\\" in cell:
            path = (root / cell.replace("\\", "/")).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise FileMissingError(f"{cell[:80]!r} is not the path of a file; correct the cell") from error
    if not path.is_relative_to(root):
        raise FileMissingError(
            f"{cell[:80]!r} is outside the folder of images, or a link that leads out of it; "
            "choose another folder"
        )
    return _read(path, limits.file_bytes)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise FileMissingError(
            f"{path.name!r} cannot be read ({error.strerror}); check its name and folder"
        ) from error
    except ValueError as error:
        raise FileMissingError(
            "its name contains characters that file names cannot have; correct the cell"
        ) from error
    if len(data) > max_bytes:
        raise ImageTooLargeError(
            f"the file has more than {max_bytes:,} bytes; shrink the image or save it as JPEG"
        )
    return data
