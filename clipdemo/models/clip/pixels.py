"""The view and the normalisation of a checkpoint's image tower.

The result equals that of transformers' PIL processors bit for bit; those copy every image several times
between PIL and NumPy. NumPy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from clipdemo.similarity import FloatArray
from clipdemo.view import TowerView


@dataclass(frozen=True, eq=False)
class PixelRecipe:
    """How the pixels of one checkpoint are prepared.

    Attributes:
        view: how images are resized and cropped.
        values: (3, 256) float32, the normalised value of each level of each channel.
    """

    view: TowerView
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
        target = int(size.shortest_edge) if size.shortest_edge else (int(size.width), int(size.height))
        cropped = (int(crop.width), int(crop.height)) if crop else None
        smallest = target if isinstance(target, tuple) else (target, target)
        if cropped and (cropped[0] > smallest[0] or cropped[1] > smallest[1]):
            return None  # the processor would pad
        levels = (np.arange(256) * processor.rescale_factor).astype(np.float32)
        mean, std = (np.array(part, np.float32) for part in (processor.image_mean, processor.image_std))
        if mean.shape != (3,) or std.shape != (3,):
            return None
        values = (levels - mean[:, None]) / std[:, None]
        return cls(TowerView(target, int(processor.resample), cropped), values)

    def pixels(self, images: Sequence[Image.Image]) -> FloatArray:
        """(len(images), 3, height, width) float32 of RGB images that went through the view."""
        views = [np.asarray(image) for image in images]
        batch = np.empty((len(views), 3, *views[0].shape[:2]), dtype=np.float32)
        for planes, view in zip(batch, views, strict=True):
            for channel, plane in enumerate(planes):
                np.take(self.values[channel], view[..., channel], out=plane, mode="clip")
        return batch
