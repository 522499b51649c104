"""Colours of decoded files become 8-bit sRGB on white: modes, bit depths, transparency and profiles."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from clipdemo.errors import NotAnImageError


def averageable(image: Image.Image) -> Image.Image:
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


def on_white(image: Image.Image) -> Image.Image:
    """Flatten transparency on white."""
    if image.mode != "RGBA":
        return image
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(image, mask=image)
    return canvas


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
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
    return image if image.mode == "RGB" else image.convert("RGB")
