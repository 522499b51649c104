"""The pixels of an opened image file as RGB, as many as are needed, and their way to an upright picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from PIL import ExifTags, Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile

from clipdemo.images.colours import averageable, on_white, to_srgb
from clipdemo.view import Size

_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = {_TURNS[5], _TURNS[6], _TURNS[7], _TURNS[8]}


@dataclass(frozen=True, eq=False)
class Raster:
    """The pixels of a file as RGB, all or fewer of them, before they are turned upright.

    Attributes:
        image: a drafted JPEG is padded at its right and bottom.
        drawn: (width, height) of the image without that padding.
        turn: makes it upright; None if it is.
        size: (width, height) of the upright original.
    """

    image: Image.Image
    drawn: tuple[float, float]
    turn: Image.Transpose | None
    size: Size

    def upright(self, size: Size, resample: Image.Resampling) -> Image.Image:
        """A picture of ``size`` (width, height)."""
        turned = size[::-1] if self.turn in _SIDEWAYS else size
        image = self.image.resize(turned, resample, box=(0.0, 0.0, *self.drawn))
        if self.turn is not None:
            image = image.transpose(self.turn)
        image.info = {}  # drops EXIF, GPS position, comments and profile
        return image


def read_raster(file: ImageFile.ImageFile, *, drafted: Size, reduced: Size) -> Raster:
    """Decode an opened file.

    Args:
        file: its header is read.
        drafted: the JPEG decoder returns 1/2, 1/4 or 1/8 of the pixels, but stays at least this large.
        reduced: then a box filter makes conversions cheap; the result stays at least this large.
    """
    width, height = file.size
    draft = file.draft(None, drafted) if isinstance(file, JpegImageFile) else None  # keeps the colours
    file.load()
    turn = _TURNS.get(_orientation(file))
    icc = file.info.get("icc_profile")
    image = averageable(file)
    across, down = draft[1][2:] if draft else image.size
    factors = max(1, image.width // reduced[0]), max(1, image.height // reduced[1])
    if factors != (1, 1):
        image = image.reduce(factors)
    size = (height, width) if turn in _SIDEWAYS else (width, height)
    return Raster(to_srgb(on_white(image), icc), (across / factors[0], down / factors[1]), turn, size)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation after loading; a broken EXIF block leaves the image unturned."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001 - third-party boundary: Pillow parses a hostile EXIF block
        return 1
