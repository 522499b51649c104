"""Bytes in, one upright RGB copy or one helpful sentence out."""

import gc
import hashlib
import io
import struct
import subprocess
import sys
import warnings
import weakref

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms

from clipdemo.errors import ImageError, ImageTooLargeError, NotAnImageError
from clipdemo.images import MODEL_SIDE, THUMBNAIL_SIDE, decode_image
from clipdemo.limits import Limits

FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "HEIF"]
WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)


def encode(image, kind, **options):
    buffer = io.BytesIO()
    if kind == "HEIF":
        pillow_heif.from_pillow(image).save(buffer, quality=90, **options)
    else:
        image.save(buffer, kind, **options)
    return buffer.getvalue()


def halves(left="red", right="blue", size=(80, 40), mode="RGB"):
    image = Image.new(mode, size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def orientation(number):
    exif = Image.Exif()
    exif[274] = number
    return exif.tobytes()


def close(pixel, expected, tolerance=12):
    return all(abs(a - b) <= tolerance for a, b in zip(pixel, expected, strict=True))


def corners(item):
    """The four corners, a few pixels in: top left, top right, bottom left, bottom right."""
    x, y = item.image.width - 3, item.image.height - 3
    return [item.image.getpixel(at) for at in ((2, 2), (x, 2), (2, y), (x, y))]


def left_right(data):
    top_left, top_right, *_ = corners(decode_image(data, "x"))
    return top_left, top_right


def noise(size, seed=0):
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_gives_the_same_picture(kind):
    data = encode(halves(), kind)
    item = decode_image(data, "holiday.xyz", source="upload")
    left, right, *_ = corners(item)
    assert close(left, RED)
    assert close(right, BLUE)
    assert (item.width, item.height) == (80, 40)
    assert item.image.mode == "RGB"
    assert item.image.size == (80, 40)
    assert (item.name, item.source) == ("holiday.xyz", "upload")
    assert item.sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP", "AVIF"])
def test_of_many_frames_the_first_is_used(kind):
    first, second = halves(), halves("lime", "lime")
    left, _ = left_right(encode(first, kind, save_all=True, append_images=[second]))
    assert close(left, RED)


def test_an_mpo_is_the_jpeg_it_starts_with():
    data = encode(halves(), "MPO", save_all=True, append_images=[halves("lime", "lime")])
    assert close(left_right(data)[0], RED)


def test_a_heic_that_is_only_branded_as_heif_is_read():
    data = bytearray(encode(halves(), "HEIF"))
    data[8:12] = b"mif1"
    assert close(left_right(bytes(data))[0], RED)


def test_the_name_does_not_decide_the_format():
    assert decode_image(encode(halves(), "PNG"), "a.svg").width == 80
    with pytest.raises(NotAnImageError):
        decode_image(b"hello", "a.png")


OTHER_FILES = {
    "empty": b"",
    "HTML page": b"\n<!DOCTYPE html><html><body><svg></svg></body></html>",
    "SVG is a drawing; export it as PNG": b'<?xml version="1.0"?><svg xmlns="x"></svg>',
    "PDF": b"%PDF-1.7 \x00\x01",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0",
    "zip": b"PK\x03\x04 and so on",
    "archive": b"Rar!\x1a\x07",
    "Photoshop": b"8BPS\0\1",
    "JPEG XL": b"\xff\x0a\0\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n",
    "icon": b"\0\0\1\0\1\0",
    "video": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
    "is a text": b"BM is how this text starts, and it goes on",
    "no image in a format that is read": b"\0\1\2\3" * 20,
}


@pytest.mark.parametrize("says", OTHER_FILES)
def test_other_files_are_called_by_their_name(says):
    with pytest.raises(NotAnImageError, match=says) as caught:
        decode_image(OTHER_FILES[says], "photo.jpg")
    assert len(str(caught.value)) > 30  # what to do is said too
    assert caught.value.verdict == "not an image"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_file_that_lost_its_end_is_refused(kind, kept):
    data = encode(noise((96, 64)), kind)
    cut = data[: max(20, int(kept * len(data)))]
    with pytest.raises(NotAnImageError, match=f"{len(cut):,} bytes are broken or cut off"):
        decode_image(cut, "x")


# --- caps ------------------------------------------------------------------------------------


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
    # In a process of its own: here pytest turns warnings into errors.
    code = """
import io, struct, sys
from PIL import Image
from clipdemo.images import decode_image
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

# Where the stored picture's four corners (numbered in reading order) are seen once it is upright.
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
def test_the_camera_position_is_undone(kind, number, quarters):
    options = {"tiffinfo": {274: number}} if kind == "TIFF" else {"exif": orientation(number)}
    item = decode_image(encode(quarters, kind, **options), "x")
    assert (item.width, item.height) == ((128, 64) if number < 5 else (64, 128))
    assert item.image.size == (item.width, item.height)
    expected = [QUARTERS[int(i)] for i in UPRIGHT[number]]
    assert all(close(*pair, 60) for pair in zip(corners(item), expected, strict=True))


def test_a_turned_heic_is_turned_once():
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


def test_a_large_turned_photo_keeps_its_true_size():
    item = decode_image(encode(halves(size=(2000, 1000)), "JPEG", exif=orientation(6)), "x")
    assert (item.width, item.height) == (1000, 2000)
    assert item.image.size == (384, 768)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's remark on the broken block
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "block", [b"garbage!", b"", b"II*\0\xff\xff\xff\x7f", orientation(6)[6:18], orientation(99)]
)
def test_a_broken_exif_block_leaves_the_image_unturned(kind, block):
    item = decode_image(encode(halves(), kind, exif=b"Exif\0\0" + block), "x")
    assert (item.width, item.height) == (80, 40)


# --- transparency ----------------------------------------------------------------------------


def half_clear(mode):
    image = halves("red", "blue", mode="RGBA")
    image.paste((255, 0, 0, 0), (0, 0, 40, 40))
    return image.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("RGBA", kind) for kind in ("PNG", "WEBP", "AVIF", "TIFF", "GIF", "HEIF")),
        *(("LA", kind) for kind in ("PNG", "TIFF")),
        ("PA", "TIFF"),
    ],
)
def test_transparent_parts_are_white(mode, kind):
    left, right = left_right(encode(half_clear(mode), kind))
    assert close(left, WHITE)
    assert close(right, BLUE if "L" not in mode else (29, 29, 29))


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (halves(), RED),
        (halves().convert("L"), 76),
        (halves().quantize(2), None),
        (halves().quantize(2), b""),
        (halves("black", "white").convert("1"), 0),
    ],
    ids=["RGB", "L", "palette", "palette with alphas", "1"],
)
def test_a_transparent_colour_of_a_png_is_white(image, key):
    if image.mode == "P":
        index = image.getpixel((0, 0))
        key = index if key is None else bytes(0 if i == index else 255 for i in range(2))
    left, right = left_right(encode(image, "PNG", transparency=key))
    assert left == WHITE
    assert (right == WHITE) == (image.mode == "1")


def test_half_transparent_is_half_white():
    data = encode(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG")
    assert close(left_right(data)[0], (127, 127, 127), 1)


def test_half_transparent_is_half_white_in_a_premultiplied_tiff_too():
    data = encode(Image.new("LA", (8, 8), (0, 128)), "TIFF")
    straight = struct.pack("<HHIH", 338, 3, 1, 2)
    assert straight in data
    premultiplied = data.replace(straight, struct.pack("<HHIH", 338, 3, 1, 1))
    assert close(left_right(premultiplied)[0], (127, 127, 127), 1)


def test_a_hidden_colour_does_not_bleed_when_shrunk():
    pixels = np.zeros((1200, 1200, 4), np.uint8)
    pixels[..., 1] = 255  # green everywhere, but visible nowhere
    pixels[:, ::2] = (255, 0, 0, 255)
    item = decode_image(encode(Image.fromarray(pixels), "PNG"), "x")
    assert close(item.image.getpixel((190, 190)), (255, 128, 128), 4)


# --- colours ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "kind"),
    [
        *(("L", kind) for kind in ("PNG", "AVIF")),
        *(("1", kind) for kind in ("PNG", "TIFF")),
        *(("P", kind) for kind in ("PNG", "BMP", "TIFF")),
        *((mode, kind) for mode in ("CMYK", "YCbCr") for kind in ("JPEG", "TIFF")),
    ],
)
def test_every_mode_becomes_rgb(mode, kind):
    image = halves("white", "black") if mode in {"1", "L"} else halves()
    left, right = left_right(encode(image.convert(mode), kind))
    assert close(left, WHITE if mode in {"1", "L"} else RED)
    assert close(right, (0, 0, 0) if mode in {"1", "L"} else BLUE)


def test_lab_becomes_rgb():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    image = ImageCms.profileToProfile(halves(), srgb, lab, outputMode="LAB")
    left, right = left_right(encode(image, "TIFF"))
    assert close(left, RED, 25)
    assert close(right, BLUE, 25)


def greys(dtype, low, high):
    ramp = np.linspace(low, high, 256)
    return Image.fromarray(np.tile(ramp, (8, 1)).astype(dtype))


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (greys(np.uint16, 0, 65535), "PNG"),
        (greys(np.uint16, 0, 65535), "TIFF"),
        (greys(">u2", 0, 65535), "TIFF"),
        (greys(np.int32, -70_000, 2_000_000), "TIFF"),
        (greys(np.float32, -0.5, 0.25), "TIFF"),
        (greys(np.float32, -3e38, 3e38), "TIFF"),
    ],
    ids=["I;16 PNG", "I;16 TIFF", "I;16B", "I", "F", "F at its bounds"],
)
def test_deep_greys_are_scaled_and_not_clipped(image, kind):
    item = decode_image(encode(image, kind), "x")
    found = np.asarray(item.image)[4, :, 0].astype(int)
    assert np.abs(found - np.arange(256)).max() <= 1


def test_16_bit_greys_keep_their_brightness():
    item = decode_image(encode(greys(np.uint16, 257 * 100, 257 * 100), "PNG"), "x")
    assert item.image.getextrema() == ((100, 100),) * 3


def test_a_deep_image_larger_than_one_band_has_no_seams():
    values = np.linspace(0, 1, 2_400 * 1_000, dtype=np.float32).reshape(2_400, 1_000)
    column = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), "x").image)[:, 5, 0]
    assert (np.diff(column.astype(int)) >= 0).all()
    assert column[0] <= 1
    assert column[-1] >= 254


def test_holes_in_a_float_image_are_dark_and_harmless():
    values = np.asarray(greys(np.float32, 0, 1)).copy()
    values[0, 5], values[0, 6], values[0, 7] = np.nan, np.inf, -np.inf
    values.view(np.uint32)[0, 8] = 0x7FA00000  # a NaN that is reported when it is converted
    found = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), "x").image)[..., 0]
    assert found[0, 5:9].tolist() == [0, 255, 0, 0]
    assert abs(int(found[4, 128]) - 128) <= 1


def test_a_float_image_without_a_number_is_refused():
    data = encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")
    with pytest.raises(NotAnImageError, match="no finite number"):
        decode_image(data, "x")


def test_a_flat_float_image_is_usable():
    data = encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    assert decode_image(data, "x").image.getextrema() == ((0, 0),) * 3


def swapped_profile(name):
    """An ICC profile in which red and green have changed places."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = profile.replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))
    head, body = profile[:400], profile[400:]
    head = head.replace(b"rXYZ", b"----").replace(b"gXYZ", b"rXYZ").replace(b"----", b"gXYZ")
    return head + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF"])
def test_a_colour_profile_is_applied(kind):
    left, right = left_right(encode(halves(), kind, icc_profile=swapped_profile("odd!")))
    assert close(left, GREEN, 40)
    assert close(right, BLUE, 40)


def test_an_srgb_profile_changes_nothing():
    image = noise((60, 40))
    plain = decode_image(encode(image, "PNG"), "x").image
    named = decode_image(encode(image, "PNG", icc_profile=swapped_profile("sRGB")), "x").image
    assert named.tobytes() == plain.tobytes()


@pytest.mark.parametrize("profile", [b"junk", b"\0" * 200, swapped_profile("odd!")[:300]])
def test_a_broken_colour_profile_is_ignored(profile):
    left, right = left_right(encode(halves(), "JPEG", icc_profile=profile))
    assert close(left, RED)
    assert close(right, BLUE)


def test_a_profile_for_another_mode_is_ignored():
    data = encode(halves().convert("L"), "PNG", icc_profile=swapped_profile("odd!"))
    assert close(left_right(data)[0], (76, 76, 76), 1)


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


def test_a_large_jpeg_is_decoded_small_yet_at_least_twice_the_copy(monkeypatch):
    seen = []
    draft = Image.Image.reduce
    monkeypatch.setattr(
        Image.Image, "reduce", lambda self, *given: (seen.append(self.size), draft(self, *given))[1]
    )
    item = decode_image(encode(halves(size=(4000, 3200)), "JPEG"), "x")
    assert (item.width, item.height) == (4000, 3200)
    assert item.image.size == (480, 384)
    assert seen == [(1000, 800)]


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


def test_position_and_profile_do_not_travel_on():
    exif = Image.Exif()
    exif[271] = "secret camera"
    options = {"exif": exif, "comment": b"secret", "icc_profile": swapped_profile("odd!")}
    item = decode_image(encode(halves(), "JPEG", **options), "x")
    assert item.image.info == {}
    assert not item.image.getexif()
    assert b"secret" not in item.thumbnail
    assert b"ICC_PROFILE" not in item.thumbnail


@pytest.mark.parametrize("kind", FORMATS)
def test_the_item_keeps_neither_file_nor_original(kind, monkeypatch):
    streams = []

    class Stream(io.BytesIO):
        def __init__(self, *given):
            super().__init__(*given)
            streams.append(weakref.ref(self))

    data = encode(halves(), kind)
    monkeypatch.setattr("clipdemo.images.io.BytesIO", Stream)
    item = decode_image(data, "x")
    gc.collect()
    assert streams
    assert [stream() for stream in streams] == [None] * len(streams)
    assert type(item.image) is Image.Image


def test_only_image_errors_come_out_whatever_the_codec_raises(monkeypatch):
    data = encode(halves(), "PNG")
    for error in (MemoryError, RecursionError, struct.error, KeyError, OverflowError, EOFError):
        monkeypatch.setattr("clipdemo.images._thumbnail", _raiser(error))
        with pytest.raises(ImageError):
            decode_image(data, "x")


def _raiser(error):
    def fail(*_):
        raise error

    return fail


def test_warnings_as_errors_do_not_escape_either():
    data = encode(halves(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NotAnImageError):
            decode_image(data, "x")
