"""Decodes the bytes of an image file into an :class:`ImageItem`; all pixels enter through this module.

It checks the limits, applies the EXIF orientation, converts to RGB and shrinks. Bytes in, one item or one
:class:`ImageError` out: without frameworks, network or file system.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageFile
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
from clipdemo.images.raster import read_raster
from clipdemo.images.structure import check_structure, declared_pixels, decoding_bytes
from clipdemo.limits import Limits
from clipdemo.types import ImageItem
from clipdemo.view import Size, TowerView

MODEL_SIDE = 384  # shorter side of the model copy; the largest input of the catalogue's checkpoints
MODEL_LONG_SIDE = 4 * MODEL_SIDE
THUMBNAIL_SIDE = 320
THUMBNAIL_QUALITY = 85
MARGIN = 2  # a file is decoded to at least this many times a view

_VERSION = 1  # raise it when a change of this code changes pixels
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


@dataclass(frozen=True, eq=False)
class Picture:
    """A decoded file: the fields have the meaning they have in :class:`ImageItem`."""

    image: Image.Image
    thumbnail: bytes
    width: int
    height: int


def decode_image(
    data: bytes,
    name: str,
    *,
    source: str = "bytes",
    limits: Limits = _DEFAULT_LIMITS,
    thumbnail: bool = True,
    view: TowerView | None = None,
) -> ImageItem:
    """Decode one file into the small upright RGB copy that everything else uses, or for one image tower.

    It runs in this process: hostile bytes may take memory and time that only a worker can bound. Use
    :func:`clipdemo.images.pool.decode_image` for bytes from strangers.

    Args:
        data: the whole file; its content decides the format, never ``name``.
        name: file name or URL, kept unchanged.
        source: as in :class:`ImageItem`.
        limits: ``file_bytes`` and ``pixels`` apply.
        thumbnail: whether to make one; it takes a tenth to a third of the time.
        view: of the only encoder that gets the item; closer to the checkpoint's own preparation than a copy.

    Returns:
        An item without a reference to ``data``.

    Raises:
        NotAnImageError: not an image, an unsupported format, or a broken file.
        ImageTooLargeError: more bytes, pixels or memory than the limits.
    """
    check_size(data, limits)
    picture = decode_picture(data, limits, thumbnail=thumbnail, view=view)
    return as_item(picture, data, name, source, view)


def recipe(view: TowerView | None) -> str:
    """What belongs to the key of anything computed from items: changes whenever their pixels could."""
    return f"{json.dumps(view.as_json(), sort_keys=True) if view else 'model copy'}; {_VERSION}"


def check_size(data: bytes, limits: Limits) -> None:
    """Refuse what is not bytes, and a file beyond ``limits.file_bytes``.

    Raises:
        ImageError: with the sentence to show.
    """
    if not isinstance(data, bytes):
        raise NotAnImageError(f"an image is decoded from bytes, not from {type(data).__name__}")
    if len(data) > limits.file_bytes:
        raise ImageTooLargeError(
            f"the file has {len(data):,} bytes; the limit is {limits.file_bytes:,}; "
            "shrink the image or save it as JPEG"
        )


def as_item(picture: Picture, data: bytes, name: str, source: str, view: TowerView | None) -> ImageItem:
    """The item of a decoded file, identified by the hash of its bytes."""
    digest = hashlib.sha256(data).hexdigest()
    size = picture.width, picture.height
    return ImageItem(name, digest, picture.image, picture.thumbnail, *size, source, view)


def decode_picture(
    data: bytes,
    limits: Limits,
    *,
    thumbnail: bool = True,
    view: TowerView | None = None,
    reserve: Callable[[int], None] | None = None,
) -> Picture:
    """Decode one file.

    Args:
        data: the whole file.
        limits: ``pixels`` applies.
        thumbnail: whether to make one.
        view: as in :func:`decode_image`.
        reserve: called with an estimate of the memory in bytes, as soon as the size of the image is known
            and before its pixels are decoded.

    Raises:
        NotAnImageError: as :func:`decode_image`.
        ImageTooLargeError: as :func:`decode_image`.
    """
    kind = detect_format(data)
    try:
        check_structure(data, kind, limits)
        file = _open(data, kind, limits, reserve)
        return _seen(file, view, thumbnail=thumbnail) if view else _copied(file, thumbnail=thumbnail)
    except ImageError:
        raise
    except _BOMBS as error:
        raise ImageTooLargeError(
            f"the image is far beyond the limit of {limits.pixels:,} pixels; shrink it"
        ) from error
    except MemoryError as error:
        raise ImageTooLargeError(
            "decoding it takes more memory than an image of its size should; save it again as JPEG or PNG"
        ) from error
    except Exception as error:  # third-party boundary: codecs raise anything on hostile bytes
        raise NotAnImageError(
            f"the file starts like a {kind} image, but its {len(data):,} bytes are broken or "
            "cut off; save or download it again"
        ) from error


def _open(
    data: bytes, kind: str, limits: Limits, reserve: Callable[[int], None] | None
) -> ImageFile.ImageFile:
    """Read the header, and reserve the memory that the pixels will take."""
    reserved = declared_pixels(data, kind)
    if reserve and 0 < reserved <= limits.pixels:
        reserve(decoding_bytes(kind, reserved, len(data)))
    file = _DECODERS[kind](io.BytesIO(data), "")
    width, height = file.size
    if width * height > limits.pixels:
        raise ImageTooLargeError(
            f"the image has {width:,} x {height:,} = {width * height:,} pixels; "
            f"the limit is {limits.pixels:,}; shrink it"
        )
    if reserve and width * height > reserved:
        reserve(decoding_bytes(kind, width * height, len(data)))
    return file


def _copied(file: ImageFile.ImageFile, *, thumbnail: bool) -> Picture:
    """The model copy, and the thumbnail made from it."""
    size = _fit(*file.size, shorter=MODEL_SIDE, longer=MODEL_LONG_SIDE)
    # A box filter leaves twice the copy, so that the sharp filter of the last step stays well sampled. (A
    # JPEG's own filter does not need this margin.)
    raster = read_raster(file, drafted=size, reduced=(2 * size[0], 2 * size[1]))
    size = _fit(*raster.size, shorter=MODEL_SIDE, longer=MODEL_LONG_SIDE)
    image = raster.upright(size, Image.Resampling.LANCZOS)
    return Picture(image, _thumbnail(image) if thumbnail else b"", *raster.size)


def _seen(file: ImageFile.ImageFile, view: TowerView, *, thumbnail: bool) -> Picture:
    """The input of a tower with ``view``; the thumbnail shows the whole picture."""
    strip = view.box(*file.size) != (0, 0, *file.size)
    enough = file.size if strip else _enough(view, *file.size)
    raster = read_raster(file, drafted=enough, reduced=enough)
    if strip:  # rare; cropped before it is resized
        image = view.of(raster.upright(raster.size, view.filter))
    else:
        image = view.cropped(raster.upright(view.resized(*raster.size), view.filter))
    if not thumbnail:
        return Picture(image, b"", *raster.size)
    small = _fit(*raster.size, shorter=THUMBNAIL_SIDE, longer=THUMBNAIL_SIDE)
    return Picture(image, _thumbnail(raster.upright(small, Image.Resampling.HAMMING)), *raster.size)


def _enough(view: TowerView, width: int, height: int) -> Size:
    """The size that a file is decoded to at least: enough for the view, and for a thumbnail."""
    size = view.resized(width, height)
    if isinstance(view.size, tuple):  # which side is up is known after the pixels
        size = max(size), max(size)
    small = _fit(width, height, shorter=THUMBNAIL_SIDE, longer=THUMBNAIL_SIDE)
    return max(MARGIN * size[0], small[0]), max(MARGIN * size[1], small[1])


def _fit(width: int, height: int, *, shorter: int, longer: int) -> tuple[int, int]:
    """The size within both bounds; never enlarged, at least one pixel."""
    scale = min(1.0, shorter / min(width, height), longer / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _thumbnail(image: Image.Image) -> bytes:
    size = _fit(image.width, image.height, shorter=THUMBNAIL_SIDE, longer=THUMBNAIL_SIDE)
    buffer = io.BytesIO()
    # From 512 x 384 a sharper filter takes twice as long without a visible difference.
    image.resize(size, Image.Resampling.HAMMING).save(
        buffer, "JPEG", quality=THUMBNAIL_QUALITY, optimize=True
    )
    return buffer.getvalue()
