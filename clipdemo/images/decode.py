"""Bytes to :class:`ImageItem`: the one door through which pixels come in.

Here live the list of formats, the caps, the EXIF turn, the conversion to RGB and the shrinking.
No framework, no network and no file system: bytes in, one item or one :class:`ImageError` out.
"""

from __future__ import annotations

import hashlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import PREFIXES as TIFF_PREFIXES
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

from clipdemo.errors import ImageTooLargeError, NotAnImageError
from clipdemo.limits import Limits
from clipdemo.types import ImageItem

MODEL_SIDE = 384  # the largest input of the checkpoints on offer; the shorter side of the copy
MODEL_LONG_SIDE = 4 * MODEL_SIDE
THUMBNAIL_SIDE = 320
THUMBNAIL_QUALITY = 85

_DEFAULT_LIMITS = Limits()

# The decoders are called by class, not through Image.open: the format is known by then, an MPO is
# read as the JPEG it starts with, and HEIC needs no registration that other code would notice.
_DECODERS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "WebP": WebPImageFile,
    "AVIF": AvifImageFile,
    "GIF": GifImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
    "HEIC": HeifImageFile,
}
_READABLE = "use JPEG, PNG, WebP, AVIF, HEIC, GIF, BMP or TIFF"

_HEIF_BRANDS = frozenset(b"heic heix heim heis hevc hevx hevm hevs mif1 msf1".split())
_SIGNATURES: Final = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    **dict.fromkeys(TIFF_PREFIXES, "TIFF"),
}
_OTHER_FILES: Final = {
    b"%PDF": "the file is a PDF, not an image; save its page as PNG",
    b"%!PS": "the file is an EPS drawing; export it as PNG",
    b"\xc5\xd0\xd3\xc6": "the file is an EPS drawing; export it as PNG",
    b"PK\x03\x04": "the file is a zip archive or an office document; unpack it",
    b"Rar!": "the file is an archive; unpack it or use a zip",
    b"7z\xbc\xaf": "the file is an archive; unpack it or use a zip",
    b"\x1f\x8b": "the file is an archive; unpack it or use a zip",
    b"8BPS": "the file is a Photoshop document; export it as PNG",
    b"\xff\x0a": "the file is a JPEG XL image; save it as JPEG or PNG",
    b"\0\0\0\x0cJXL ": "the file is a JPEG XL image; save it as JPEG or PNG",
    b"\0\0\0\x0cjP  ": "the file is a JPEG 2000 image; save it as JPEG or PNG",
    b"\0\0\1\0": "the file is an icon; save it as PNG",
}

# What Pillow, its codecs and pillow-heif raise on hostile bytes, by base class; Warning is here for
# programs that run with warnings as errors.
_DATA_ERRORS = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, EOFError)
_CODE_ERRORS = (TypeError, AttributeError, AssertionError, RuntimeError, MemoryError)
_BROKEN = (*_DATA_ERRORS, *_CODE_ERRORS, struct.error, zlib.error, ImageCms.PyCMSError, Warning)
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)

# Pillow's remarks on visitors' files (large, odd EXIF) would only fill the log: we refuse by our own,
# lower cap. Said once at import because catch_warnings is not thread-safe. Pillow's error at twice
# its own cap stays: it stops WebP and GIF decoders that ask for memory before there is a size here.
warnings.filterwarnings("ignore", module=r"PIL\.")

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode_image(
    data: bytes,
    name: str,
    *,
    source: str = "bytes",
    limits: Limits = _DEFAULT_LIMITS,
    thumbnail: bool = True,
) -> ImageItem:
    """Turn the bytes of one file into the small upright RGB copy that everything else uses.

    Args:
        data: the whole file; its format is told by its content, never by ``name``.
        name: file name or URL, kept as it is.
        source: as in :class:`ImageItem`.
        limits: ``file_bytes`` and ``pixels`` are the caps.
        thumbnail: whether to make one; it takes a tenth to a third of the time.

    Returns:
        An item that holds no reference to ``data``.

    Raises:
        NotAnImageError: no image, a format we do not read, or a broken file.
        ImageTooLargeError: more bytes or pixels than the limits.
    """
    if not isinstance(data, bytes):
        raise NotAnImageError(f"an image is decoded from bytes, not from {type(data).__name__}")
    if len(data) > limits.file_bytes:
        raise ImageTooLargeError(
            f"the file has {len(data):,} bytes; the limit is {limits.file_bytes:,}; "
            "shrink the image or save it as JPEG"
        )
    kind = _kind(data)
    try:
        image, size = _model_copy(data, kind, limits)
        small = _thumbnail(image) if thumbnail else b""
    except _BOMBS as error:
        raise ImageTooLargeError(
            f"the image is far beyond the limit of {limits.pixels:,} pixels; shrink it"
        ) from error
    except _BROKEN as error:
        raise NotAnImageError(
            f"the file starts like a {kind} image, but its {len(data):,} bytes are broken or "
            "cut off; save or download it again"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    return ImageItem(name, digest, image, small, *size, source)


def _kind(data: bytes) -> str:
    """The format by its first bytes, a key of ``_DECODERS``."""
    if not data:
        raise NotAnImageError("the file is empty; save or download it again")
    for prefix, kind in _SIGNATURES.items():
        if data.startswith(prefix):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[:2] == b"BM" and data[15:18] == b"\0\0\0":  # header size; a text may start with BM too
        return "BMP"
    if data[4:8] == b"ftyp":
        return _kind_of_ftyp(data)
    raise NotAnImageError(_what_else(data))


def _kind_of_ftyp(data: bytes) -> str:
    """AVIF and HEIC share their box format with video; the brands tell them apart."""
    end = min(max(int.from_bytes(data[:4], "big"), 12), 256)
    brands = {data[at : at + 4] for at in (8, *range(16, end, 4))}
    if brands & {b"avif", b"avis"}:
        return "AVIF"
    if brands & _HEIF_BRANDS:
        return "HEIC"
    raise NotAnImageError("the file is a video, not an image; save one of its frames as PNG")


def _what_else(data: bytes) -> str:
    """The most helpful sentence about a file that is no image of ours."""
    for prefix, sentence in _OTHER_FILES.items():
        if data.startswith(prefix):
            return sentence
    head = data[:2048].lower()
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"<!doctype html", b"<html", b"<head")):
        return "the file is an HTML page, not an image; open the image itself and save that"
    if b"<svg" in head:
        return "SVG is a drawing; export it as PNG"
    if not any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return f"the file is a text, not an image; {_READABLE}"
    return f"the file is no image in a format that is read here; {_READABLE}"


def _model_copy(data: bytes, kind: str, limits: Limits) -> tuple[Image.Image, tuple[int, int]]:
    """The model copy and the (width, height) of the upright original."""
    file = _DECODERS[kind](io.BytesIO(data), "")
    width, height = file.size
    if width * height > limits.pixels:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} = {width * height:,} pixels; "
            f"the limit is {limits.pixels:,}; shrink it"
        )
    size = _fit(width, height, shorter=MODEL_SIDE, longer=MODEL_LONG_SIDE)
    # A JPEG decodes at 1/2, 1/4 or 1/8 of its size: never below the copy's, never its colours.
    drafted = file.draft(None, size) if kind == "JPEG" else None
    file.load()
    turn = _TURNS.get(_orientation(file))
    icc = file.info.get("icc_profile")
    # A box filter first, down to no less than twice the copy, so that conversions are cheap and
    # the last step, the sharp filter, stays well sampled. (A JPEG's own filter needs no such margin.)
    image = _averageable(file)
    across, down = drafted[1][2:] if drafted else image.size  # the picture, without what rounding up added
    factors = max(1, image.width // (2 * size[0])), max(1, image.height // (2 * size[1]))
    image = _to_srgb(_on_white(image.reduce(factors)), icc)
    box = (0.0, 0.0, across / factors[0], down / factors[1])
    image = image.resize(size, Image.Resampling.LANCZOS, box=box)
    if turn is not None:
        image = image.transpose(turn)
        if turn in {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}:
            width, height = height, width
    image.info = {}  # EXIF, GPS position, comments and profile are not passed on
    return image, (width, height)


def _fit(width: int, height: int, *, shorter: int, longer: int) -> tuple[int, int]:
    """The size within both bounds; never larger, never below one pixel."""
    scale = min(1.0, shorter / min(width, height), longer / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation after loading; a broken EXIF block leaves the image unturned."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:
        return 1


def _averageable(image: Image.Image) -> Image.Image:
    """L, RGB, CMYK or, where anything is transparent, RGBA: all can be shrunk by averaging."""
    if image.mode.startswith(("I", "F")):
        return _grey_to_8_bits(image)
    if image.has_transparency_data:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        return image.convert(straight).convert("RGBA")
    return image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """16-bit greys by their full range; 32-bit integers and floats by the range they use."""
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        low, high = math.inf, -math.inf
        for _, band in _bands(image):
            finite = np.isfinite(band)
            low = min(low, float(band.min(where=finite, initial=math.inf)))
            high = max(high, float(band.max(where=finite, initial=-math.inf)))
        if low > high:
            raise NotAnImageError("the image holds no finite number; export it as 8-bit PNG")
    grey = Image.new("L", image.size)
    for top, band in _bands(image):
        values = np.nan_to_num(band, nan=low, posinf=high, neginf=low)
        scaled = np.rint((values - low) / ((high - low) or 1.0) * 255)
        grey.paste(Image.fromarray(scaled.astype(np.uint8)), (0, top))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(top row, values) of bands of about a million pixels; all at once would be 400 MB."""
    rows = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        with np.errstate(invalid="ignore"):  # a float file may hold any kind of NaN
            band = np.asarray(image.crop(box)).astype(np.float64)
        yield top, band


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return canvas


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """RGB as a screen shows it; a profile that is broken or does not fit is ignored."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if "sRGB" not in ImageCms.getProfileDescription(profile):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
                return converted or image.convert("RGB")
        except _BROKEN:
            pass
    return image.convert("RGB")


def _thumbnail(image: Image.Image) -> bytes:
    size = _fit(image.width, image.height, shorter=THUMBNAIL_SIDE, longer=THUMBNAIL_SIDE)
    buffer = io.BytesIO()
    # From 512 x 384 a sharper filter takes twice as long, and the eye sees no difference.
    image.resize(size, Image.Resampling.HAMMING).save(
        buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True
    )
    return buffer.getvalue()
