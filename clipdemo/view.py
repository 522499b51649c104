"""What an image tower is fed: how an image is resized and cropped for it, before any normalisation.

A view is data, so that a process that decodes images can prepare them without the tower. Pillow only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

MAX_ASPECT = 20  # longer to shorter side; beyond it the middle is used
Size = tuple[int, int]  # (width, height) in pixels


@dataclass(frozen=True)
class Area:
    """A size in the image's own proportions.

    Attributes:
        side: of a square image; others have about as many pixels.
        step: both sides are multiples of it.
        max_aspect: longer to shorter side; images beyond it are squeezed.
    """

    side: int
    step: int
    max_aspect: int

    def of(self, width: int, height: int) -> Size:
        """The size for an image of ``width`` x ``height`` pixels."""
        root = float(min(max(width / height, 1 / self.max_aspect), self.max_aspect) ** 0.5)
        across, down = (self.step * round(side / self.step) for side in (self.side * root, self.side / root))
        return across, down


@dataclass(frozen=True)
class TowerView:
    """How an upright RGB image becomes the input of one image tower.

    Attributes:
        size: (width, height) to resize to; or the length of the shorter side; or an ``Area``.
        resample: Pillow's number of the filter.
        crop: (width, height) of the centre crop, at most the resized image; None for no crop.
    """

    size: Size | int | Area
    resample: int
    crop: Size | None = None

    def of(self, image: Image.Image) -> Image.Image:
        """The input of the tower. Applying it again may change it further: crops and areas do."""
        size, box = self.resized(*image.size), self.box(*image.size)
        whole = box == (0, 0, *image.size)
        return self.cropped((image if whole else image.crop(box)).resize(size, self.filter))

    @property
    def filter(self) -> Image.Resampling:
        """The filter as Pillow takes it."""
        return Image.Resampling(self.resample)

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the part of an image that is resized."""
        return (0, 0, width, height) if isinstance(self.size, Area) else middle(width, height)

    def resized(self, width: int, height: int) -> Size:
        """The size before the crop, for an image of ``width`` x ``height`` pixels."""
        if isinstance(self.size, Area):
            return self.size.of(width, height)
        if isinstance(self.size, tuple):
            return self.size
        left, top, right, bottom = self.box(width, height)
        sides = right - left, bottom - top
        longer = int(self.size * max(sides) / min(sides))
        return (self.size, longer) if width <= height else (longer, self.size)

    def output(self, width: int, height: int) -> Size:
        """The size of the result, for an image of ``width`` x ``height`` pixels."""
        return self.crop or self.resized(width, height)

    def cropped(self, image: Image.Image) -> Image.Image:
        """The centre of a resized image.

        An odd border is one pixel smaller at the left and the top, as in transformers; torchvision rounds
        half of it to the even number (transformers issue 22505).
        """
        if self.crop in {None, image.size}:
            return image
        width, height = self.crop or image.size
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))

    def as_json(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> TowerView:
        """What :meth:`as_json` returned, after JSON made lists of its tuples."""
        size, crop = fields["size"], fields["crop"]
        if isinstance(size, Mapping):
            size = Area(**size)
        elif not isinstance(size, int):
            size = tuple(size)
        return cls(size, fields["resample"], tuple(crop) if crop else None)


def seen(image: Image.Image, view: TowerView | None) -> Image.Image:
    """The image through ``view``; unchanged where only a checkpoint's own processor knows its input."""
    return view.of(image) if view else image


def middle(width: int, height: int) -> tuple[int, int, int, int]:
    """The box of an image without what makes it longer than ``MAX_ASPECT`` times its shorter side.

    The shorter side is enlarged to the tower's size; a strip of one pixel would exhaust the memory.
    """
    longest = MAX_ASPECT * min(width, height)
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return left, top, width - left, height - top


def crop_to_max_aspect(image: Image.Image) -> Image.Image:
    """Crop to the middle what is longer than ``MAX_ASPECT`` times its shorter side."""
    return image.crop(middle(*image.size)) if max(image.size) > MAX_ASPECT * min(image.size) else image
