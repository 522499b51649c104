"""Resizes, crops and normalises PIL images for an image tower, in one pass.

The result equals that of transformers' PIL processors bit for bit; those copy every image several times
between PIL and NumPy. NumPy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipdemo.similarity import FloatArray


@dataclass(frozen=True, eq=False)
class PixelRecipe:
    """How the pixels of one checkpoint are prepared.

    Attributes:
        size: (height, width) to resize to, or the length of the shorter side.
        resample: the filter.
        crop: (height, width) of the centre crop, at most the resized image; None for no crop.
        values: (3, 256) float32, the normalised value of each level of each channel.
    """

    size: tuple[int, int] | int
    resample: Image.Resampling
    crop: tuple[int, int] | None
    values: FloatArray

    @classmethod
    def of(cls, processor: Any) -> PixelRecipe | None:
        """The recipe of an image processor; None for settings that only the processor supports."""
        size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
        usual_steps = (
            processor.do_resize and processor.do_rescale and processor.do_normalize and not processor.do_pad
        )
        has_size = size.shortest_edge or (size.height and size.width)
        if not usual_steps or not has_size or size.longest_edge or not isinstance(processor.resample, int):
            return None
        target = int(size.shortest_edge) if size.shortest_edge else (int(size.height), int(size.width))
        cropped = (int(crop.height), int(crop.width)) if crop else None
        smallest = target if isinstance(target, tuple) else (target, target)
        if cropped and (cropped[0] > smallest[0] or cropped[1] > smallest[1]):
            return None  # the processor would pad
        levels = (np.arange(256) * processor.rescale_factor).astype(np.float32)
        mean, std = (np.array(part, np.float32) for part in (processor.image_mean, processor.image_std))
        if mean.shape != (3,) or std.shape != (3,):
            return None
        values = (levels - mean[:, None]) / std[:, None]
        return cls(target, Image.Resampling(processor.resample), cropped, values)

    def pixels(self, images: Sequence[Image.Image]) -> FloatArray:
        """(len(images), 3, height, width) float32 of RGB images."""
        views = [self._view(image) for image in images]
        batch = np.empty((len(views), 3, *views[0].shape[:2]), dtype=np.float32)
        for planes, view in zip(batch, views, strict=True):
            for channel, plane in enumerate(planes):
                np.take(self.values[channel], view[..., channel], out=plane, mode="clip")
        return batch

    def _view(self, image: Image.Image) -> NDArray[np.uint8]:
        """(height, width, 3): resized and cropped."""
        height, width = self.size if isinstance(self.size, tuple) else self._by_shorter_side(image)
        levels = np.asarray(image.resize((width, height), self.resample))
        if self.crop is None:
            return levels
        top, left = (height - self.crop[0]) // 2, (width - self.crop[1]) // 2
        return levels[top : top + self.crop[0], left : left + self.crop[1]]

    def _by_shorter_side(self, image: Image.Image) -> tuple[int, int]:
        assert isinstance(self.size, int)  # noqa: S101 - for the type checker
        longer = int(self.size * max(image.size) / min(image.size))
        return (longer, self.size) if image.width <= image.height else (self.size, longer)
