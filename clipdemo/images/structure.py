"""What an image file declares about itself, read from a few of its bytes before a decoder sees it.

Decoders trust some declarations with memory and time far beyond the size of the picture. These checks are
cheap and refuse what no camera or editor writes; :mod:`clipdemo.images.pool` bounds what they miss.
"""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Iterator

from clipdemo.errors import ImageTooLargeError
from clipdemo.limits import MEGABYTE, Limits

# The sample photographs have 12 scans at most, and 5 segments of one kind; a colour profile has up to 255.
MAX_SCANS = 200  # of a progressive JPEG; each makes the decoder pass over the whole picture
MAX_SEGMENTS = 1_000  # of one kind in a JPEG; Pillow joins Exif segments in quadratic time
MAX_TIFF_VALUES = 200_000  # of one field; strips of one row make as many as the picture has rows
_AFTER_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # a marker that ends entropy-coded data

# Peak private memory of decoding pictures of 50 megapixels, measured with Pillow 13 on Linux, in bytes per
# pixel: JPEG 0.4 (drafted) to 3.3 (progressive, 4:2:0), PNG 4.3 to 12.2, WebP 16.3 to 18.2, AVIF 9.4 to 17
# (4:4:4), HEIC 7.7, GIF 5.3, BMP 4.3, TIFF 4.3 to 12.2; the highest are of pictures with transparency.
_BYTES_PER_PIXEL = {"JPEG": 10, "WebP": 20, "AVIF": 20}
_BYTES_PER_PIXEL_OTHERS = 14
_BYTES_BESIDE_PIXELS = 64 * MEGABYTE

_TIFF_ENTRY = {"classic": ("H", 2, "HHI", 12, 4), "big": ("Q", 8, "HHQ", 20, 8)}
_TIFF_BYTES = {1, 2, 6, 7}  # types whose values stay one object of bytes in Pillow
_TILE_WIDTH, _TILE_LENGTH = 322, 323
_STRIP_OFFSETS, _TILE_OFFSETS = 273, 324


def decoding_bytes(kind: str, pixels: int, file_bytes: int) -> int:
    """Estimate the most memory that decoding an honest file takes, in bytes.

    Args:
        kind: as ``detect_format`` returns it.
        pixels: width x height.
        file_bytes: size of the file; decoders copy parts of it.
    """
    return (
        _BYTES_BESIDE_PIXELS + 4 * file_bytes + _BYTES_PER_PIXEL.get(kind, _BYTES_PER_PIXEL_OTHERS) * pixels
    )


def check_structure(data: bytes, kind: str, limits: Limits) -> None:
    """Refuse a file whose structure would cost far more than its picture.

    Raises:
        ImageTooLargeError: thousands of scans, segments, strips or tiles, or a tile beyond ``limits.pixels``.
    """
    if kind == "JPEG":
        _check_jpeg(data)
    elif kind == "TIFF":
        _check_tiff(data, limits)


def declared_pixels(data: bytes, kind: str) -> int:
    """Pixels of a WebP canvas, which its decoder allocates when it opens the file; 0 for other formats.

    Source: RFC 9649, sections 2.5 to 2.7.
    """
    if kind != "WebP" or len(data) < 30:
        return 0
    chunk, body = data[12:16], data[20:30]
    if chunk == b"VP8X":
        width, height = (1 + int.from_bytes(body[start : start + 3], "little") for start in (4, 7))
    elif chunk == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        width, height = (int.from_bytes(body[start : start + 2], "little") & 0x3FFF for start in (6, 8))
    return width * height


def _check_jpeg(data: bytes) -> None:
    counts: Counter[int] = Counter()
    for marker in _jpeg_markers(data):
        counts[marker] += 1
        limit = MAX_SCANS if marker == 0xDA else MAX_SEGMENTS
        if counts[marker] > limit:
            what = "scans" if marker == 0xDA else "segments of one kind"
            raise ImageTooLargeError(
                f"the JPEG has more than {limit:,} {what}, which takes too long to decode; "
                "open it in an image editor and save it again"
            )


def _jpeg_markers(data: bytes) -> Iterator[int]:
    """Second byte of each marker that starts a segment, up to the end of the image (ITU-T T.81, annex B)."""
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # a decoder skips such bytes, too
            at = data.find(b"\xff", at)
            if at < 0:
                return
            continue
        marker = data[at + 1]
        if marker == 0xD9:
            return
        if marker == 0xFF:
            at += 1
        elif marker in {0x00, 0x01} or 0xD0 <= marker <= 0xD8:  # without a length
            at += 2
        else:
            yield marker
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
            if marker == 0xDA:
                found = _AFTER_SCAN.search(data, at)
                at = found.start() if found else len(data)


def _check_tiff(data: bytes, limits: Limits) -> None:
    tile = {}
    for tag, kind, count, value in _tiff_fields(data):
        if tag in {_TILE_WIDTH, _TILE_LENGTH}:
            tile[tag] = value
        if count > MAX_TIFF_VALUES and (kind not in _TIFF_BYTES or tag in {_STRIP_OFFSETS, _TILE_OFFSETS}):
            raise ImageTooLargeError(
                f"a field of the TIFF has {count:,} values, such as strips or tiles; the limit is "
                f"{MAX_TIFF_VALUES:,}; save it as PNG"
            )
    width, length = tile.get(_TILE_WIDTH, 1), tile.get(_TILE_LENGTH, 1)
    if width * length > limits.pixels:
        raise ImageTooLargeError(
            f"the TIFF has tiles of {width:,} x {length:,} pixels; the limit is {limits.pixels:,}; "
            "save it as PNG"
        )


def _tiff_fields(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(tag, type, number of values, value or offset) of the first directory (TIFF 6.0, section 2)."""
    order = "<" if data[:2] == b"II" else ">"
    big = struct.unpack_from(f"{order}H", data, 2)[0] == 43 if len(data) >= 16 else False
    size, skipped, entry, step, width = _TIFF_ENTRY["big" if big else "classic"]
    try:
        (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}{size}", data, start)
        for index in range(min(count, 65_535)):
            at = start + skipped + step * index
            tag, kind, values = struct.unpack_from(f"{order}{entry}", data, at)
            end = at + struct.calcsize(f"{order}{entry}")
            short = order == ">" and kind == 3 and values == 1  # a SHORT fills the field from its left
            raw = data[end : end + (2 if short else width)]
            yield tag, kind, values, int.from_bytes(raw, "big" if order == ">" else "little")
    except (struct.error, OverflowError):  # cut off: left to the decoder
        return
