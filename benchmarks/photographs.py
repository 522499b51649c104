"""Generates photographs as JPEG files, the same on every machine: soft shapes with fine grain."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image

ONE_MEGAPIXEL = (1152, 864)
TWELVE_MEGAPIXELS = (4000, 3000)
SMALL = (640, 480)
WORDS = [
    "dog",
    "cat",
    "street",
    "harbour",
    "mountain",
    "bicycle",
    "market",
    "snow",
    "river",
    "bridge",
    "child",
    "musician",
    "kitchen",
    "train",
    "forest",
]


@cache
def photograph(number: int, size: tuple[int, int] = ONE_MEGAPIXEL) -> bytes:
    """Return photograph ``number`` as a JPEG of about two bits a pixel."""
    random = np.random.default_rng(number)
    width, height = size
    shapes = random.integers(0, 255, (9, 12, 3), dtype=np.uint8)
    soft = np.asarray(Image.fromarray(shapes).resize(size, Image.Resampling.BICUBIC)).astype(np.int16)
    grain = random.integers(-12, 13, (height, width, 1), dtype=np.int16)
    out = io.BytesIO()
    Image.fromarray((soft + grain).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=85)
    return out.getvalue()


def photographs(count: int, size: tuple[int, int] = ONE_MEGAPIXEL) -> list[bytes]:
    """Return the first ``count`` photographs."""
    return [photograph(number, size) for number in range(count)]


def caption(number: int) -> str:
    """Return a caption of about ten words, different for every number."""
    first, second, third = (WORDS[(number // len(WORDS) ** place) % len(WORDS)] for place in range(3))
    return f"photograph {number} of a {first} beside a {second}, {third} behind it"


def captions(count: int) -> list[str]:
    """Return the first ``count`` captions."""
    return [caption(number) for number in range(count)]
