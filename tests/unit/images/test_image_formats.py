"""Every format and colour mode decodes to the same RGB picture; other files are named in the message."""

import hashlib
import struct

import numpy as np
import pytest
from pictures import (
    BLUE,
    FORMATS,
    GREEN,
    RED,
    WHITE,
    close,
    corners,
    encode,
    halves,
    left_right,
    noise,
    swapped_profile,
)
from PIL import Image, ImageCms

from clipdemo.errors import NotAnImageError
from clipdemo.images.decode import decode_image

# --- formats ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_decodes_to_the_same_picture(kind):
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
def test_the_first_of_many_frames_is_used(kind):
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
    "is text": b"BM is how this text starts, and it goes on",
    "not an image in a supported format": b"\0\1\2\3" * 20,
}


@pytest.mark.parametrize("says", OTHER_FILES)
def test_other_files_are_named_in_the_message(says):
    with pytest.raises(NotAnImageError, match=says) as caught:
        decode_image(OTHER_FILES[says], "photo.jpg")
    assert len(str(caught.value)) > 30  # it also says what to do
    assert caught.value.verdict == "not an image"


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_a_truncated_file_is_refused(kind, kept):
    data = encode(noise((96, 64)), kind)
    cut = data[: max(20, int(kept * len(data)))]
    with pytest.raises(NotAnImageError, match=f"{len(cut):,} bytes are broken or cut off"):
        decode_image(cut, "x")


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
    pixels[..., 1] = 255  # green, but fully transparent
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


def test_nan_and_infinity_in_a_float_image_are_harmless():
    values = np.asarray(greys(np.float32, 0, 1)).copy()
    values[0, 5], values[0, 6], values[0, 7] = np.nan, np.inf, -np.inf
    values.view(np.uint32)[0, 8] = 0x7FA00000  # a signalling NaN: converting it raises a warning
    found = np.asarray(decode_image(encode(Image.fromarray(values), "TIFF"), "x").image)[..., 0]
    assert found[0, 5:9].tolist() == [0, 255, 0, 0]
    assert abs(int(found[4, 128]) - 128) <= 1


def test_a_float_image_of_nothing_but_nan_is_refused():
    data = encode(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF")
    with pytest.raises(NotAnImageError, match="NaN or infinite"):
        decode_image(data, "x")


def test_a_flat_float_image_is_usable():
    data = encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF")
    assert decode_image(data, "x").image.getextrema() == ((0, 0),) * 3


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
