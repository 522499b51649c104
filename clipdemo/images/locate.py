"""Where images lie: a cell of a table, or an argument of a command, becomes a ``Source``.

A table may come from anyone: it reaches the public web, and files below one folder or among the uploads,
and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from clipdemo.errors import FileMissingError, ImageTooLargeError
from clipdemo.images import fetch, sources
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.types import Rejected

Locate = Callable[[str], Source]

_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".png",
    ".webp",
    ".avif",
    ".gif",
    ".bmp",
    ".tif",
    ".tiff",
    ".heic",
    ".heif",
)
_ZIP = ".zip"
MAX_ZIP = 2_000_000_000  # bytes of a zip named on the command line; it is read into memory


def is_url(cell: str) -> bool:
    """Whether a cell names something on the web."""
    return cell.lower().startswith(("http://", "https://"))


def on_the_web(cell: str, limits: Limits) -> Source:
    """The image behind a URL."""
    return Source(cell, "url", lambda: fetch.fetch_bytes(cell, limits))


def in_folder(folder: Path, limits: Limits) -> Locate:
    """URLs, and files by their path relative to ``folder``; nothing outside it is read."""
    root = folder.resolve()

    def locate(cell: str) -> Source:
        if is_url(cell):
            return on_the_web(cell, limits)
        return Source(cell, "file", lambda: _read_inside(root, cell, limits))

    return locate


def among(files: Iterable[Source], limits: Limits) -> Locate:
    """URLs, and uploaded files by their name, or by the end of their path in a zip; nothing on this machine.

    Args:
        files: uploads and the members of uploaded zips; names may come twice.
        limits: for what is fetched.
    """
    by_last: dict[str, list[Source]] = {}
    for file in files:
        by_last.setdefault(file.name.rsplit("/", 1)[-1], []).append(file)

    def locate(cell: str) -> Source:
        if is_url(cell):
            return on_the_web(cell, limits)
        wanted = cell.replace("\\", "/").removeprefix("./")
        ending = [
            file
            for file in by_last.get(wanted.rsplit("/", 1)[-1], [])
            if file.name == wanted or file.name.endswith("/" + wanted)
        ]
        found = [file for file in ending if file.name == wanted] or ending
        return Source(cell, "upload", lambda: _the_one(cell, found))

    return locate


def _the_one(cell: str, found: list[Source]) -> bytes:
    if not found:
        raise FileMissingError(f"no uploaded file is called {cell[:80]!r}; upload it, alone or in a zip")
    if len(found) > 1:
        raise FileMissingError(
            f"{len(found)} uploaded files are called {cell[:80]!r}; rename them, or write more of the path"
        )
    return found[0].read()


def shown(name: str) -> str:
    """The name as text: bytes of a file name that are no UTF-8 cannot be printed or written to a file."""
    return os.fsencode(name).decode("utf-8", "replace")


def given(arguments: Iterable[str], limits: Limits) -> Iterator[Source | Rejected]:
    """What a command's arguments name: URLs, image files, zips, and the image files of folders."""
    for argument in arguments:
        path = Path(argument)
        if is_url(argument):
            yield on_the_web(argument, limits)
        elif path.is_dir():
            yield from _files_of(path, limits)
        elif path.suffix.lower() == _ZIP and path.is_file():
            try:
                data = _read(path, MAX_ZIP)
            except (FileMissingError, ImageTooLargeError) as error:
                yield Rejected(shown(argument), error.verdict, str(error), "file")
                continue
            yield from sources.expand(shown(path.name), data, "file", limits)
        else:
            yield Source(shown(argument), "file", _reader(path, limits))


def _files_of(folder: Path, limits: Limits) -> Iterator[Source | Rejected]:
    found = False
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix.lower() in _SUFFIXES and not hidden:
            found = True
            yield Source(shown(str(path.relative_to(folder))), "file", _reader(path, limits))
    if not found:
        yield Rejected(
            shown(str(folder)), "no images", "the folder holds no image files; give another one", "file"
        )


def _reader(path: Path, limits: Limits) -> Callable[[], bytes]:
    return lambda: _read(path, limits.file_bytes)


def _read_inside(root: Path, cell: str, limits: Limits) -> bytes:
    if cell.lower().startswith("file:"):
        raise FileMissingError("addresses with file: are not read; write the path below the images' folder")
    try:
        path = (root / cell).resolve()
        if not path.exists() and "\\" in cell:
            path = (root / cell.replace("\\", "/")).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise FileMissingError(f"{cell[:80]!r} is no path of a file; correct the cell") from error
    if not path.is_relative_to(root):
        raise FileMissingError(
            f"{cell[:80]!r} lies outside the images' folder, or is a link that leads out of it; name another folder"
        )
    return _read(path, limits.file_bytes)


def _read(path: Path, most: int) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a device or a pipe could be read for ever
            raise FileMissingError(f"{path.name!r} is not a file")
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise FileMissingError(
            f"{path.name!r} cannot be read ({error.strerror}); check its name and folder"
        ) from error
    except ValueError as error:
        raise FileMissingError("its name holds characters no file name has; correct the cell") from error
    if len(data) > most:
        raise ImageTooLargeError(
            f"the file has more than {most:,} bytes; shrink the image or save it as JPEG"
        )
    return data
