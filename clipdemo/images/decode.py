"""Decodes the bytes of an image file into an :class:`ImageItem`; all pixels enter through this module.

It checks the limits, applies the EXIF orientation, converts to RGB and shrinks. Bytes in, one item or one
:class:`ImageError` out: without frameworks, network or file system.
"""

from __future__ import annotations

import hashlib
import io
import math
import warnings
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
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

from clipdemo.errors import ImageError, ImageTooLargeError, NotAnImageError
from clipdemo.images.formats import detect_format
from clipdemo.limits import Limits
from clipdemo.types import ImageItem

MODEL_SIDE = 384  # shorter side of the model copy; the largest input of the catalogue's checkpoints
MODEL_LONG_SIDE = 4 * MODEL_SIDE
THUMBNAIL_SIDE = 320
THUMBNAIL_QUALITY = 85

_DEFAULT_LIMITS = Limits()

# Called by class, not through Image.open: the format is known already, an MPO is read as the JPEG that it
# starts with, and HEIC works without registering a plugin for the whole process.
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
_BOMBS: Final = (Image.DecompressionBombError, Image.DecompressionBombWarning)

# Pillow's warnings about visitors' files (large, odd EXIF) would fill the log; our own limit is lower. Set
# once at import because catch_warnings is not thread-safe. Pillow's error at twice its own limit stays: it
# stops WebP and GIF decoders that allocate memory before the size is known here.
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
    """Decode one file into the small upright RGB copy that everything else uses.

    Args:
        data: the whole file; its content decides the format, never ``name``.
        name: file name or URL, kept unchanged.
        source: as in :class:`ImageItem`.
        limits: ``file_bytes`` and ``pixels`` apply.
        thumbnail: whether to make one; it takes a tenth to a third of the time.

    Returns:
        An item without a reference to ``data``.

    Raises:
        NotAnImageError: not an image, an unsupported format, or a broken file.
        ImageTooLargeError: more bytes or pixels than the limits.
    """
    if not isinstance(data, bytes):
        raise NotAnImageError(f"an image is decoded from bytes, not from {type(data).__name__}")
    if len(data) > limits.file_bytes:
        raise ImageTooLargeError(
            f"the file has {len(data):,} bytes; the limit is {limits.file_bytes:,}; "
            "shrink the image or save it as JPEG"
        )
    kind = detect_format(data)
    try:
        image, size = _model_copy(data, kind, limits)
        small = _thumbnail(image) if thumbnail else b""
    except ImageError:
        raise
    except _BOMBS as error:
        raise ImageTooLargeError(
            f"the image is far beyond the limit of {limits.pixels:,} pixels; shrink it"
        ) from error
    except Exception as error:  # third-party boundary: codecs raise anything on hostile bytes
        raise NotAnImageError(
            f"the file starts like a {kind} image, but its {len(data):,} bytes are broken or "
            "cut off; save or download it again"
        ) from error
    digest = hashlib.sha256(data).hexdigest()
    return ImageItem(name, digest, image, small, *size, source)


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
    # A JPEG can decode at 1/2, 1/4 or 1/8 of its size; draft() stays above the copy's and keeps the colours.
    drafted = file.draft(None, size) if kind == "JPEG" else None
    file.load()
    turn = _TURNS.get(_orientation(file))
    icc = file.info.get("icc_profile")
    # First a box filter down to at least twice the copy: conversions become cheap, and the sharp filter of
    # the last step stays well sampled. (A JPEG's own filter does not need this margin.)
    image = _averageable(file)
    across, down = drafted[1][2:] if drafted else image.size  # without the padding of a drafted JPEG
    factors = max(1, image.width // (2 * size[0])), max(1, image.height // (2 * size[1]))
    image = _to_srgb(_on_white(image.reduce(factors)), icc)
    box = (0.0, 0.0, across / factors[0], down / factors[1])
    image = image.resize(size, Image.Resampling.LANCZOS, box=box)
    if turn is not None:
        image = image.transpose(turn)
        if turn in {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}:
            width, height = height, width
    image.info = {}  # drops EXIF, GPS position, comments and profile
    return image, (width, height)


def _fit(width: int, height: int, *, shorter: int, longer: int) -> tuple[int, int]:
    """The size within both bounds; never enlarged, at least one pixel."""
    scale = min(1.0, shorter / min(width, height), longer / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation after loading; a broken EXIF block leaves the image unturned."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - third-party boundary: Pillow parses a hostile EXIF block
        return 1


def _averageable(image: Image.Image) -> Image.Image:
    """Convert to a mode whose pixels can be averaged: L, RGB, CMYK or, with transparency, RGBA."""
    if image.mode.startswith(("I", "F")):
        return _grey_to_8_bits(image)
    if image.has_transparency_data:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)
        return image.convert(straight).convert("RGBA")
    return image if image.mode in {"L", "RGB", "CMYK"} else image.convert("RGB")


def _grey_to_8_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit greys by their full range, 32-bit integers and floats by the range they use."""
    low, high = 0.0, 65535.0
    if not image.mode.startswith("I;16"):
        low, high = math.inf, -math.inf
        for _, band in _bands(image):
            finite = np.isfinite(band)
            low = min(low, float(band.min(where=finite, initial=math.inf)))
            high = max(high, float(band.max(where=finite, initial=-math.inf)))
        if low > high:
            raise NotAnImageError("every pixel of the image is NaN or infinite; export it as 8-bit PNG")
    grey = Image.new("L", image.size)
    for top, band in _bands(image):
        values = np.nan_to_num(band, nan=low, posinf=high, neginf=low)
        scaled = np.rint((values - low) / ((high - low) or 1.0) * 255)
        grey.paste(Image.fromarray(scaled.astype(np.uint8)), (0, top))
    return grey


def _bands(image: Image.Image) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """(top row, values) of bands of about a million pixels; the whole image would take 400 MB."""
    rows = max(1, 1_000_000 // image.width)
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        with np.errstate(invalid="ignore"):  # a float file may contain signalling NaNs
            band = np.asarray(image.crop(box)).astype(np.float64)
        yield top, band


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return canvas


def _to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """Convert to sRGB; a profile that is broken or does not fit is ignored."""
    if icc:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            if "sRGB" not in ImageCms.getProfileDescription(profile):
                srgb = ImageCms.createProfile("sRGB")
                converted = ImageCms.profileToProfile(image, profile, srgb, outputMode="RGB")
                return converted or image.convert("RGB")
        except Exception:  # noqa: BLE001, S110 - third-party boundary: the file brings its own colour profile
            pass
    return image.convert("RGB")


def _thumbnail(image: Image.Image) -> bytes:
    size = _fit(image.width, image.height, shorter=THUMBNAIL_SIDE, longer=THUMBNAIL_SIDE)
    buffer = io.BytesIO()
    # From 512 x 384 a sharper filter takes twice as long without a visible difference.
    image.resize(size, Image.Resampling.HAMMING).save(
        buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True
    )
    return buffer.getvalue()
