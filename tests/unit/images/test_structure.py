"""Structures that cost more than their picture are refused before a decoder sees them."""

import io
import struct

import pytest
from PIL import Image

from clipdemo.errors import ImageTooLargeError
from clipdemo.images.decode import decode_image
from clipdemo.images.formats import detect_format
from clipdemo.images.structure import check_structure, declared_pixels
from clipdemo.limits import Limits
from clipdemo.samples import SAMPLES

LIMITS = Limits()


def saved(kind, size=(64, 48), mode="RGB", **options):
    buffer = io.BytesIO()
    image = Image.linear_gradient("L").resize(size).convert(mode)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_with(segment, count):
    """A JPEG with ``count`` copies of a segment after its first marker."""
    plain = saved("JPEG")
    return plain[:2] + segment * count + plain[2:]


def progressive(scans):
    """A progressive JPEG whose last scan is repeated."""
    plain = saved("JPEG", progressive=True)
    last = plain.rindex(b"\xff\xda")
    return plain[:last] + plain[last:-2] * scans + plain[-2:]


def tiff(*fields, big=False):
    """A little-endian TIFF with one directory of (tag, type, count, value)."""
    if big:
        head = b"II" + struct.pack("<HHHQQ", 43, 8, 0, 16, len(fields))
        return head + b"".join(struct.pack("<HHQQ", *field) for field in fields) + bytes(8)
    head = b"II" + struct.pack("<HIH", 42, 8, len(fields))
    return head + b"".join(struct.pack("<HHII", *field) for field in fields) + bytes(4)


def test_a_jpeg_of_thousands_of_scans_is_refused():
    decode_image(progressive(100), "fine")
    with pytest.raises(ImageTooLargeError, match="200 scans"):
        decode_image(progressive(300), "x")


@pytest.mark.parametrize("marker", [0xE1, 0xE2, 0xED, 0xFE, 0xDB], ids=hex)
def test_a_jpeg_of_thousands_of_segments_is_refused(marker):
    segment = bytes([0xFF, marker]) + b"\0\x08Exif\0\0"
    with pytest.raises(ImageTooLargeError, match="1,000 segments of one kind"):
        decode_image(jpeg_with(segment, 5_000), "x")


def test_a_large_colour_profile_and_preview_are_fine():
    segments = b"\xff\xe2\xff\xff" + bytes(65_533)
    preview = b"\xff\xe1" + struct.pack(">H", 2 + 6 + 40_000) + b"Exif\0\0" + b"\xff\xda\0\x02" * 10_000
    decode_image(jpeg_with(segments, 255) + bytes(10), "profile")
    check_structure(jpeg_with(preview, 1), "JPEG", LIMITS)  # markers inside a segment do not count


def test_what_follows_the_end_of_a_jpeg_does_not_count():
    decode_image(saved("JPEG") + b"\xff\xda\0\x02" * 100_000, "motion photo")


@pytest.mark.parametrize("big", [False, True], ids=["classic", "BigTIFF"])
@pytest.mark.parametrize("tag", [273, 279, 324, 325])
def test_a_tiff_of_millions_of_strips_or_tiles_is_refused(tag, big):
    with pytest.raises(ImageTooLargeError, match="10,000,000 values"):
        check_structure(tiff((tag, 4, 10_000_000, 8), big=big), "TIFF", LIMITS)


def test_a_tiff_with_a_huge_tile_is_refused():
    huge = tiff((256, 3, 1, 10), (257, 3, 1, 10), (322, 4, 1, 46_000), (323, 4, 1, 46_000))
    with pytest.raises(ImageTooLargeError, match="46,000 x 46,000"):
        check_structure(huge, "TIFF", LIMITS)


def test_a_long_profile_or_preview_in_a_tiff_is_fine():
    check_structure(tiff((34675, 7, 5_000_000, 8), (700, 1, 5_000_000, 8)), "TIFF", LIMITS)


@pytest.mark.parametrize(
    "data", [b"II*\0", b"MM\0*\xff\xff\xff\xff", b"II+\0" + b"\xff" * 40, b"\xff\xd8\xff"]
)
def test_what_is_cut_off_is_left_to_the_decoder(data):
    check_structure(data, detect_format(data), LIMITS)


def test_every_sample_passes():
    files = [file for file in SAMPLES.iterdir() if file.suffix in {".jpg", ".png", ".webp", ".tif"}]
    assert files
    for file in files:
        check_structure(file.read_bytes(), detect_format(file.read_bytes()), LIMITS)


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"lossless": True}),
        ("RGBA", {}),
        ("RGB", {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
    ],
    ids=["lossy", "lossless", "transparent", "extended"],
)
def test_the_size_of_a_webp_is_known_before_it_is_opened(mode, options):
    assert declared_pixels(saved("WEBP", (301, 203), mode, **options), "WebP") == 301 * 203
    assert declared_pixels(saved("PNG"), "PNG") == 0
