"""Decoding returns a small upright copy or raises a helpful error; formats: ``test_image_formats.py``."""

import gc
import io
import struct
import subprocess
import sys
import warnings
import weakref
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from pictures import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    close,
    corners,
    encode,
    halves,
    noise,
    orientation,
    swapped_profile,
)
from PIL import Image

from clipdemo.errors import ImageError, ImageTooLargeError, NotAnImageError
from clipdemo.images.decode import MODEL_SIDE, THUMBNAIL_SIDE, decode_image
from clipdemo.limits import Limits

SAMPLES = Path(__file__).parents[3] / "assets" / "samples"

# --- limits ----------------------------------------------------------------------------------


def test_more_bytes_than_the_limit_are_refused_with_both_numbers():
    with pytest.raises(ImageTooLargeError, match=r"2,001 bytes; the limit is 2,000"):
        decode_image(bytes(2_001), "x", limits=Limits(file_bytes=2_000))


def test_exactly_the_limits_are_fine():
    data = encode(halves(), "PNG")
    limits = Limits(file_bytes=len(data), pixels=80 * 40)
    assert decode_image(data, "x", limits=limits).width == 80


@pytest.mark.parametrize("kind", FORMATS)
def test_more_pixels_than_the_limit_are_refused_before_decoding(kind, monkeypatch):
    data = encode(halves(), kind)

    def refuse(*_):
        raise KeyboardInterrupt("decoded")

    monkeypatch.setattr("PIL.Image.Image.load", refuse)
    with pytest.raises(ImageTooLargeError, match=r"80 x 40 = 3,200 pixels; the limit is 3,199"):
        decode_image(data, "x", limits=Limits(pixels=3_199))


@pytest.mark.parametrize("size", [(9_000, 9_000), (12_000, 12_000), (65_000, 65_000)])
def test_a_bomb_is_refused_by_its_header_with_its_numbers(size):
    data = bytearray(encode(Image.new("L", (1, 1)), "BMP"))
    struct.pack_into("<ii", data, 18, *size)
    with pytest.raises(ImageTooLargeError, match=f"{size[0] * size[1]:,} pixels"):
        decode_image(bytes(data), "x")


def test_a_gif_frame_larger_than_its_screen_is_refused():
    for side in (8_000, 10_000, 60_000):
        data = bytearray(encode(Image.new("P", (2, 2)), "GIF"))
        struct.pack_into("<HH", data, data.index(b",", 13) + 5, side, side)
        with pytest.raises(ImageTooLargeError, match="50,000,000"):
            decode_image(bytes(data), "x")


def test_a_webp_canvas_too_large_to_allocate_is_refused():
    bits = (16_383 - 1) | (16_383 - 1) << 14
    chunk = b"VP8L" + struct.pack("<IBI", 20, 0x2F, bits) + bytes(15)
    data = b"RIFF" + struct.pack("<I", len(chunk) + 4) + b"WEBP" + chunk
    with pytest.raises(ImageTooLargeError, match="50,000,000"):
        decode_image(data, "x")


@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_an_image_without_pixels_is_refused(size):
    data = bytearray(encode(Image.new("L", (5, 5)), "BMP"))
    struct.pack_into("<ii", data, 18, *size)
    gif = bytearray(encode(Image.new("P", (2, 2)), "GIF"))
    struct.pack_into("<HH", gif, 6, *size)
    struct.pack_into("<HH", gif, gif.index(b",", 13) + 5, *size)
    for broken in (data, gif):
        with pytest.raises(NotAnImageError):
            decode_image(bytes(broken), "x")


def test_pillow_prints_nothing_about_large_images_or_odd_exif():
    # In a separate process: here pytest turns warnings into errors.
    code = """
import io, struct, sys
from PIL import Image
from clipdemo.images.decode import decode_image
from clipdemo.errors import ImageTooLargeError
buffer = io.BytesIO()
Image.new("P", (2, 2)).save(buffer, "GIF")
data = bytearray(buffer.getvalue())
struct.pack_into("<HH", data, data.index(b",", 13) + 5, 10_000, 10_000)
try:
    decode_image(bytes(data), "x")
except ImageTooLargeError as error:
    assert "10,000 x 10,000" in str(error)
buffer = io.BytesIO()
Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=b"Exif\\0\\0II*\\0\\xff\\xff\\xff\\x7f")
assert decode_image(buffer.getvalue(), "x").width == 8
for heavy in ("torch", "streamlit", "transformers"):
    assert heavy not in sys.modules
assert Image.MAX_IMAGE_PIXELS
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- upright ---------------------------------------------------------------------------------

# Which corner of the stored picture (numbered in reading order) is at each corner of the upright one.
UPRIGHT = {1: "0123", 2: "1032", 3: "3210", 4: "2301", 5: "0213", 6: "2031", 7: "3120", 8: "1302"}
QUARTERS = [RED, GREEN, BLUE, (255, 255, 0)]


@pytest.fixture(scope="module")
def quarters():
    image = Image.new("RGB", (128, 64))
    for colour, at in zip(QUARTERS, ((0, 0), (64, 0), (0, 32), (64, 32)), strict=True):
        image.paste(colour, (*at, at[0] + 64, at[1] + 32))
    return image


@pytest.mark.parametrize("number", UPRIGHT)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_the_exif_orientation_is_applied(kind, number, quarters):
    options = {"tiffinfo": {274: number}} if kind == "TIFF" else {"exif": orientation(number)}
    item = decode_image(encode(quarters, kind, **options), "x")
    assert (item.width, item.height) == ((128, 64) if number < 5 else (64, 128))
    assert item.image.size == (item.width, item.height)
    expected = [QUARTERS[int(i)] for i in UPRIGHT[number]]
    assert all(close(*pair, 60) for pair in zip(corners(item), expected, strict=True))


def test_the_orientation_of_a_heic_is_applied_once():
    heif = pillow_heif.from_pillow(halves())
    heif.info["exif"] = orientation(6)
    buffer = io.BytesIO()
    heif.save(buffer, quality=90)
    item = decode_image(buffer.getvalue(), "x")
    assert (item.width, item.height) == (40, 80)
    top_left, top_right, bottom_left, _ = corners(item)
    assert close(top_left, RED)
    assert close(top_right, RED)
    assert close(bottom_left, BLUE)


def test_a_large_rotated_photo_keeps_its_true_size():
    item = decode_image(encode(halves(size=(2000, 1000)), "JPEG", exif=orientation(6)), "x")
    assert (item.width, item.height) == (1000, 2000)
    assert item.image.size == (384, 768)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's warning about the broken block
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block", [b"garbage!", b"", b"II*\0\xff\xff\xff\x7f", orientation(6)[6:18], orientation(99)]
)
def test_a_broken_exif_block_is_ignored(kind, block):
    item = decode_image(encode(halves(), kind, exif=b"Exif\0\0" + block), "x")
    assert (item.width, item.height) == (80, 40)


# --- the copies ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "copy"),
    [
        ((1, 1), (1, 1)),
        ((200, 100), (200, 100)),
        ((384, 500), (384, 500)),
        ((800, 600), (512, 384)),
        ((600, 800), (384, 512)),
        ((8000, 1000), (1536, 192)),
        ((1, 40_000), (1, 1536)),
        ((40_000, 1), (1536, 1)),
    ],
)
def test_the_copy_is_shrunk_and_never_enlarged(size, copy):
    item = decode_image(encode(Image.new("RGB", size, "red"), "PNG"), "x")
    assert (item.width, item.height) == size
    assert item.image.size == copy
    assert item.image.getpixel((0, 0)) == RED
    thumbnail = Image.open(io.BytesIO(item.thumbnail))
    assert max(thumbnail.size) == min(max(size), THUMBNAIL_SIDE)
    assert min(thumbnail.size) >= 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_fine_patterns_become_grey_rather_than_moire(kind):
    pixels = np.zeros((2400, 2400, 3), np.uint8)
    pixels[:, ::2] = 255
    item = decode_image(encode(Image.fromarray(pixels), kind, quality=95), "x")
    assert item.image.size == (MODEL_SIDE, MODEL_SIDE)
    assert np.asarray(item.image).std() < 6


@pytest.mark.parametrize("side", [864, 1000, 3000])
def test_a_jpeg_decoded_small_looks_like_one_decoded_whole(side):
    photo = Image.open(SAMPLES / "astronaut.jpg").convert("RGB")
    data = encode(photo.resize((side * 4 // 3, side), Image.Resampling.BICUBIC), "JPEG", quality=90)
    ours = decode_image(data, "x").image
    whole = Image.open(io.BytesIO(data)).resize(ours.size, Image.Resampling.LANCZOS)
    apart = np.abs(np.asarray(ours, dtype=np.int16) - np.asarray(whole, dtype=np.int16))
    assert apart.mean() < 1  # of 255 levels


def test_a_large_jpeg_is_decoded_at_a_reduced_size_above_the_copy(monkeypatch):
    seen = []
    resize = Image.Image.resize
    monkeypatch.setattr(
        Image.Image,
        "resize",
        lambda self, *args, **box: (seen.append(self.size), resize(self, *args, **box))[1],
    )
    item = decode_image(encode(halves(size=(4000, 3200)), "JPEG"), "x", thumbnail=False)
    assert (item.width, item.height) == (4000, 3200)
    assert item.image.size == (480, 384)
    assert seen == [(500, 400)]


def test_a_small_copy_of_a_large_jpeg_is_faithful():
    image = noise((20, 15)).resize((3000, 2250), Image.Resampling.BICUBIC)
    item = decode_image(encode(image, "JPEG", quality=95), "x")
    exact = np.asarray(image.resize(item.image.size, Image.Resampling.LANCZOS)).astype(int)
    assert np.abs(np.asarray(item.image) - exact).mean() < 2


def test_the_thumbnail_is_a_jpeg_of_the_copy():
    item = decode_image(encode(halves(size=(800, 400)), "PNG"), "x")
    thumbnail = Image.open(io.BytesIO(item.thumbnail))
    assert (thumbnail.format, thumbnail.mode, thumbnail.size) == ("JPEG", "RGB", (320, 160))
    assert close(thumbnail.getpixel((5, 5)), RED)
    assert close(thumbnail.getpixel((315, 5)), BLUE)


def test_the_thumbnail_is_optional():
    data = encode(halves(size=(800, 400)), "PNG")
    bare, full = decode_image(data, "x", thumbnail=False), decode_image(data, "x")
    assert not bare.thumbnail
    assert full.thumbnail
    assert bare.image == full.image


def test_gps_position_and_profile_are_dropped():
    exif = Image.Exif()
    exif[271] = "secret camera"
    options = {"exif": exif, "comment": b"secret", "icc_profile": swapped_profile("odd!")}
    item = decode_image(encode(halves(), "JPEG", **options), "x")
    assert item.image.info == {}
    assert not item.image.getexif()
    assert b"secret" not in item.thumbnail
    assert b"ICC_PROFILE" not in item.thumbnail


@pytest.mark.parametrize("kind", FORMATS)
def test_the_item_releases_the_file_and_the_original(kind, monkeypatch):
    streams = []

    class Stream(io.BytesIO):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            streams.append(weakref.ref(self))

    data = encode(halves(), kind)
    monkeypatch.setattr("clipdemo.images.decode.io.BytesIO", Stream)
    item = decode_image(data, "x")
    gc.collect()
    assert streams
    assert [stream() for stream in streams] == [None] * len(streams)
    assert type(item.image) is Image.Image


def test_whatever_the_codec_raises_becomes_an_image_error(monkeypatch):
    data = encode(halves(), "PNG")
    for error in (MemoryError, RecursionError, struct.error, KeyError, OverflowError, EOFError):
        monkeypatch.setattr("clipdemo.images.decode._thumbnail", _raiser(error))
        with pytest.raises(ImageError):
            decode_image(data, "x")


def _raiser(error):
    def fail(*_):
        raise error

    return fail


def test_warnings_as_errors_become_an_image_error():
    data = encode(halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotAnImageError):
            decode_image(data, "x")
