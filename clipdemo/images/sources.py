"""Uploads, zips, URLs and samples: (name, bytes) one at a time, decoded a few at a time.

A :class:`Source` reads nothing until it is asked to, so an archive of ten thousand files costs no
more than the images that are used. Nothing is ever written to disk.
"""

from __future__ import annotations

import io
import re
import struct
import threading
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from clipdemo.errors import ArchiveError, ClipdemoError, ImageTooLargeError
from clipdemo.images.decode import decode_image
from clipdemo.limits import Limits
from clipdemo.types import ImageItem, Rejected

MAX_ENTRIES = 10_000
MAX_RATIO = 100  # images hardly shrink in a zip; see _unpacked_limit

Mark = TypeVar("Mark")

_ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06")  # a first file, or the end of an empty archive
_DIRECTORY_ENTRY = b"PK\x01\x02"
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    OverflowError,
    RuntimeError,  # also NotImplementedError: a zip feature that zipfile does not know
    AssertionError,
)


@dataclass(frozen=True)
class Source:
    """One file that has a name but has not been read yet.

    Attributes:
        name: as in :class:`ImageItem`.
        kind: becomes :attr:`ImageItem.source`.
        read: gives the whole file; safe to call from any thread, raises only ClipdemoError.
    """

    name: str
    kind: str
    read: Callable[[], bytes]


class Decode(Protocol):
    """The shape of ``decode_image``."""

    def __call__(self, data: bytes, name: str, *, source: str, limits: Limits) -> ImageItem:
        """Bytes to an item; raises ImageError."""


def from_bytes(name: str, data: bytes, kind: str) -> Source:
    """A source whose bytes are already here."""
    return Source(name, kind, lambda: data)


def expand(name: str, data: bytes, kind: str, limits: Limits) -> Iterator[Source | Rejected]:
    """The file itself, or the files inside it when it is a zip.

    Args:
        name: of the file; members are called ``name/path/in/the.zip``.
        data: the whole file; whether it is a zip is told by its content.
        kind: of a file that is no zip; members are of kind "zip".
        limits: ``images`` and ``file_bytes`` bound the archive.

    Yields:
        One :class:`Source` a file, one :class:`Rejected` for each member that is refused; only a
        Rejected for an archive that is broken, empty or holds too many files.
    """
    if not data.startswith(_ZIP_STARTS):
        yield from_bytes(name, data, kind)
        return
    # Counted before zipfile builds an object for each: every entry of the directory starts so.
    entries = data.count(_DIRECTORY_ENTRY)
    most = min(MAX_ENTRIES, max(2_000, 10 * limits.images))
    if entries > most:
        reason = f"the zip holds {entries:,} files; the limit is {most:,}; split it"
        yield Rejected(name, "too many files", reason, "zip")
        return
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
    except _BROKEN_ZIP:
        reason = f"the zip is broken or cut off after {len(data):,} bytes; create or download it again"
        yield Rejected(name, ArchiveError.verdict, reason, "zip")
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
    """Read and decode in threads, in input order, and only a little ahead of whoever asks.

    A source that cannot be used becomes a :class:`Rejected`; the others go on. Closing or dropping
    the iterator cancels what has not begun and does not wait for what has.

    Args:
        sources: taken one by one, in the caller's thread; what is no Source comes out again in its place.
        limits: for every image.
        workers: threads; a decoding thread may need 4 bytes a pixel a few times over, a thread that
            waits for the network needs nothing, so URLs may have more.
        look_ahead: sources begun beyond those that the workers have in hand.
        patience: seconds to wait for the next one; then None is yielded, so that whoever asks can do
            something else and ask again. Without it, None never comes.
        decode: what turns bytes into an item.
    """
    remaining = iter(sources)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="clipdemo-load")
    begun: deque[Future[ImageItem | Rejected] | Mark] = deque()
    try:
        while True:
            for source in islice(remaining, workers + look_ahead - len(begun)):
                if isinstance(source, Source):
                    begun.append(pool.submit(_load_one, source, limits, decode))
                else:
                    begun.append(source)
            if not begun:
                return
            first = begun[0]
            if isinstance(first, Future) and not wait([first], patience).done:
                yield None
                continue
            begun.popleft()
            yield first.result() if isinstance(first, Future) else first
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _load_one(source: Source, limits: Limits, decode: Decode) -> ImageItem | Rejected:
    try:
        return decode(source.read(), source.name, source=source.kind, limits=limits)
    except ClipdemoError as error:
        return Rejected(source.name, error.verdict, str(error), source.kind)
    except MemoryError:
        reason = "this machine has not enough memory for it; make it smaller"
        return Rejected(source.name, "too large", reason, source.kind)


def _unpacked_limit(archive_bytes: int, limits: Limits) -> int:
    """Bytes that all members of one archive may unpack to.

    Ten of the largest files plus a hundred times the archive: far above any collection of images,
    far below a bomb. Never more than a workspace of the largest files.
    """
    return min(limits.images * limits.file_bytes, 10 * limits.file_bytes + MAX_RATIO * archive_bytes)


def _members(
    name: str, archive: zipfile.ZipFile, limits: Limits, unpacked_limit: int
) -> Iterator[Source | Rejected]:
    # Parsed once and shared; zipfile does not promise that this is safe in many threads, so members
    # are unpacked one at a time. Decoding, which costs far more, still runs side by side.
    lock = threading.Lock()
    files = [info for info in archive.infolist() if not info.is_dir() and not _is_clutter(info)]
    if not files:
        yield Rejected(name, ArchiveError.verdict, "the zip holds no files; add images to it", "zip")
    unpacked = used = 0
    for info in files:
        member_name = f"{name}/{info.filename}"
        error = _refusal(info, limits)
        if error is not None:
            yield Rejected(member_name, error.verdict, str(error), "zip")
            continue
        # No member is unpacked beyond its declared size (see _reader), so this sum is a bound.
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
    """Why a member is refused by what the directory says of it."""
    if _is_unsafe(info):
        return ArchiveError("its path leads out of the zip or hides where it leads; rename it")
    if info.flag_bits & 0x1:
        return ArchiveError("it is encrypted; create the zip without a password")
    # bzip2 and lzma are refused too: rare, and lzma lets the file choose how much memory it takes.
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return ArchiveError(
            f"it is packed by method {info.compress_type}; create the zip with deflate, as usual"
        )
    if info.file_size > limits.file_bytes:
        return ImageTooLargeError(
            f"the file has {info.file_size:,} bytes unpacked; the limit is {limits.file_bytes:,}; "
            "shrink the image or save it as JPEG"
        )
    return None


def _is_unsafe(info: zipfile.ZipInfo) -> bool:
    """Nothing is written to disk here, but such a name is a trick and would be shown to people."""
    # The original name still has what zipfile tidies away: backslashes and all after a NUL.
    path = info.orig_filename
    return (
        path.startswith("/")
        or ".." in path.split("/")
        or re.match(r"[A-Za-z]:", path) is not None
        or re.search(r"[\\\0]", path) is not None
    )


def _is_clutter(info: zipfile.ZipInfo) -> bool:
    """Files that operating systems add unasked; an unsafe path is never passed over as clutter."""
    parts = [part for part in info.filename.split("/") if part != "."]
    return not _is_unsafe(info) and (
        "__MACOSX" in parts
        or any(part.startswith(".") for part in parts)
        or parts[-1].lower() in {"thumbs.db", "desktop.ini"}
    )


def _reader(archive: zipfile.ZipFile, info: zipfile.ZipInfo, lock: threading.Lock) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            with lock, archive.open(info) as member:
                # A member that declares less than it holds is unpacked no further than this, and
                # then its checksum does not fit.
                data = member.read(info.file_size + 1)
        except _BROKEN_ZIP as error:
            raise ArchiveError("it is damaged inside the zip; create or download the zip again") from error
        if data.startswith(_ZIP_STARTS):
            raise ArchiveError("it is a zip inside the zip; unpack it and add its images")
        return data

    return read
