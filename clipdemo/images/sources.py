"""Sources of images (uploads, zips, URLs, samples), read and decoded a few at a time.

A :class:`Source` is read only when its image is needed, so an archive of ten thousand files costs only the
images that are used. Everything stays in memory; nothing is written to disk.
"""

from __future__ import annotations

import io
import re
import threading
import zipfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final, Protocol, TypeVar

from clipdemo.errors import ArchiveError, ClipdemoError, ImageTooLargeError
from clipdemo.images.pool import WORKERS, decode_image
from clipdemo.limits import Limits
from clipdemo.types import ImageItem, Rejected

THREADS: Final = max(4, WORKERS)  # keep every decoding worker busy, and several servers waiting
MAX_ENTRIES = 10_000
MAX_NAME = 4_096  # characters of a path inside a zip; Linux allows as many bytes
MAX_RATIO = 100  # unpacked to packed bytes; images hardly shrink in a zip, see _unpacked_limit

Mark = TypeVar("Mark")  # whatever a caller puts between the sources, such as a Rejected

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # the first file, or the end of an empty archive
_DIRECTORY_ENTRY = b"PK\x01\x02"


@dataclass(frozen=True)
class Source:
    """One file that is read later.

    Attributes:
        name: as in :class:`ImageItem`.
        kind: becomes :attr:`ImageItem.source`.
        read: returns the whole file; callable from any thread; raises ClipdemoError or MemoryError.
    """

    name: str
    kind: str
    read: Callable[[], bytes]


class Decode(Protocol):
    """The signature of ``decode_image``."""

    def __call__(self, data: bytes, name: str, *, source: str, limits: Limits) -> ImageItem:
        """Decode one file; raises ImageError."""


def from_bytes(name: str, data: bytes, kind: str) -> Source:
    """A source of bytes that are in memory already."""
    return Source(name, kind, lambda: data)


def expand(name: str, data: bytes, kind: str, limits: Limits) -> Iterator[Source | Rejected]:
    """The file itself, or the files inside it when it is a zip.

    Args:
        name: of the file; members are called ``name/path/in/the.zip``.
        data: the whole file; its content decides whether it is a zip.
        kind: of a file that is not a zip; members have the kind "zip".
        limits: ``images`` and ``file_bytes`` bound the archive.

    Yields:
        A :class:`Source` for each file and a :class:`Rejected` for each refused member; a single Rejected for
        an archive that is broken, empty or has too many files.
    """
    if not data.startswith(_ZIP_STARTS):
        yield from_bytes(name, data, kind)
        return
    # Counted before zipfile creates an object for each: every entry of the directory starts with these bytes.
    entries = data.count(_DIRECTORY_ENTRY)
    max_entries = min(MAX_ENTRIES, max(2_000, 10 * limits.images))
    if entries > max_entries:
        reason = f"the zip contains {entries:,} files; the limit is {max_entries:,}; split it"
        yield Rejected(name, "too many files", reason, "zip")
        return
    broken = f"the zip is broken or cut off after {len(data):,} bytes; create or download it again"
    try:
        with translate_zip_errors(broken):
            archive = zipfile.ZipFile(io.BytesIO(data))
    except ArchiveError as error:
        yield Rejected(name, error.verdict, str(error), "zip")
        return
    yield from _members(name, archive, limits, _unpacked_limit(len(data), limits))


def load(
    sources: Iterable[Source | Mark],
    limits: Limits,
    *,
    workers: int = 2,
    look_ahead: int = 4,
    patience: float | None = None,
    decode: Decode = decode_image,
) -> Iterator[ImageItem | Rejected | Mark | None]:
    """Read and decode sources in threads; yields the results in input order.

    A source that cannot be used becomes a :class:`Rejected`; the others continue. Closing or dropping the
    iterator cancels the sources that have not started, without waiting for those that have.

    Args:
        sources: taken one by one, in the caller's thread. Anything that is not a Source (a Mark) is yielded
            unchanged in its place, so that the caller can tell what its results belong to.
        limits: for every image.
        workers: threads. Decoding may need 4 bytes per pixel several times over; waiting for the network
            needs nothing, so URLs may have more threads.
        look_ahead: sources started beyond those that the threads are working on; bounds the memory.
        patience: seconds to wait for the next result; then None is yielded, so that the caller can do
            something else and ask again. Without it, None is never yielded.
        decode: turns bytes into an item.
    """
    remaining = iter(sources)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="clipdemo-load")
    started: deque[Future[ImageItem | Rejected] | Mark] = deque()
    try:
        while True:
            for source in islice(remaining, workers + look_ahead - len(started)):
                if isinstance(source, Source):
                    started.append(pool.submit(_load_one, source, limits, decode))
                else:
                    started.append(source)
            if not started:
                return
            first = started[0]
            if isinstance(first, Future) and not wait([first], patience).done:
                yield None
                continue
            started.popleft()
            yield first.result() if isinstance(first, Future) else first
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _load_one(source: Source, limits: Limits, decode: Decode) -> ImageItem | Rejected:
    try:
        return decode(source.read(), source.name, source=source.kind, limits=limits)
    except ClipdemoError as error:
        return Rejected(source.name, error.verdict, str(error), source.kind)
    except MemoryError:
        reason = "it does not fit into the memory of this machine; make it smaller"
        return Rejected(source.name, "too large", reason, source.kind)


@contextmanager
def translate_zip_errors(message: str) -> Iterator[None]:
    """Turn what zipfile raises into an ArchiveError; MemoryError passes, as the zip may be fine.

    Raises:
        ArchiveError: with ``message``.
    """
    try:
        yield
    except (ClipdemoError, MemoryError):
        raise
    except Exception as error:  # third-party boundary: zipfile raises many types on damaged archives
        raise ArchiveError(message) from error


def _unpacked_limit(archive_bytes: int, limits: Limits) -> int:
    """Bytes that all members of one archive may unpack to.

    Ten of the largest files plus a hundred times the archive: far above any collection of images,
    far below a bomb. Never more than a workspace of the largest files.
    """
    return min(limits.images * limits.file_bytes, 10 * limits.file_bytes + MAX_RATIO * archive_bytes)


def _members(
    name: str, archive: zipfile.ZipFile, limits: Limits, unpacked_limit: int
) -> Iterator[Source | Rejected]:
    # Members share one archive. zipfile does not promise thread safety, so they are unpacked one at a time;
    # decoding, which costs far more, still runs in parallel.
    lock = threading.Lock()
    files = [info for info in archive.infolist() if not _is_folder(info) and not _is_clutter(info)]
    if not files:
        yield Rejected(name, ArchiveError.verdict, "the zip contains no files; add images to it", "zip")
    unpacked = used = 0
    for info in files:
        member_name = f"{name}/{info.filename[:MAX_NAME]}"
        error = _refusal(info, limits)
        if error is not None:
            yield Rejected(member_name, error.verdict, str(error), "zip")
            continue
        # Members are unpacked up to their declared size (see _reader), so this sum is a bound.
        unpacked += info.file_size
        if unpacked > unpacked_limit:
            reason = (
                f"the zip unpacks to more than {unpacked_limit:,} bytes; only the first {used:,} "
                "of its files are used; split it"
            )
            yield Rejected(name, ImageTooLargeError.verdict, reason, "zip")
            return
        used += 1
        yield Source(member_name, "zip", _reader(archive, info, lock))


def _refusal(info: zipfile.ZipInfo, limits: Limits) -> ClipdemoError | None:
    """Why a member is refused, according to its entry in the directory; None if it is fine."""
    if _is_unsafe(info):
        return ArchiveError("its path leads out of the zip or hides where it leads; rename it")
    if not 0 < len(info.filename) <= MAX_NAME:
        return ArchiveError(f"its path has {len(info.filename):,} characters; rename it")
    if info.flag_bits & 0x1:
        return ArchiveError("it is encrypted; create the zip without a password")
    # bzip2 and lzma are refused too: they are rare, and lzma lets the file choose how much memory it takes.
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return ArchiveError(
            f"it is compressed with method {info.compress_type}; create the zip with deflate, the usual one"
        )
    if info.file_size > limits.file_bytes:
        return ImageTooLargeError(
            f"the file has {info.file_size:,} bytes unpacked; the limit is {limits.file_bytes:,}; "
            "shrink the image or save it as JPEG"
        )
    return None


def _is_unsafe(info: zipfile.ZipInfo) -> bool:
    """Whether a path leads out of the zip or hides its end.

    Nothing is written to disk, but such a name is a trick, and people would see it.
    """
    # The original name still has what zipfile cleans up: backslashes, and everything after a NUL.
    path = info.orig_filename
    return (
        path.startswith("/")
        or ".." in path.split("/")
        or re.match(r"[A-Za-z]:", path) is not None
        or re.search(r"[\\\0]", path) is not None
    )


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith("/")  # ZipInfo.is_dir fails on an empty name


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    """Whether an operating system added the file; an unsafe path never counts as clutter."""
    parts = [part for part in info.filename.split("/") if part != "."]
    return not _is_unsafe(info) and bool(
        "__MACOSX" in parts
        or any(part.startswith(".") for part in parts)
        or (parts and parts[-1].lower() in {"thumbs.db", "desktop.ini"})
    )


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock) -> Callable[[], bytes]:
    def read() -> bytes:
        with (
            translate_zip_errors("it is damaged inside the zip; create or download the zip again"),
            lock,
            archive.open(info) as member,
        ):
            # A member larger than it declares is unpacked only this far; then its checksum does not match.
            data = member.read(info.file_size + 1)
        if data.startswith(_ZIP_STARTS):
            raise ArchiveError("it is a zip inside the zip; unpack it and add its images")
        return data

    return read
