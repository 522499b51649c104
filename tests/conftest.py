"""Fixtures shared by several folders of tests."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from PIL import Image
from tiny_checkpoints import (
    COLOURS,
    save_colour_clip,
    save_tiny_bert,
    save_tiny_resnet,
    save_tiny_siglip,
    save_tiny_siglip2,
    square,
)

from clipdemo.types import ImageItem

# No verdict depends on how busy the machine is.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


def make_item(image: Image.Image, name: str = "image.png") -> ImageItem:
    """An item from pixels, without the decoder."""
    digest = hashlib.sha256(image.tobytes() + name.encode()).hexdigest()
    thumbnail = io.BytesIO()
    image.convert("RGB").save(thumbnail, "JPEG")
    return ImageItem(name, digest, image, thumbnail.getvalue(), *image.size, "bytes")


@pytest.fixture(scope="session")
def colour_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny CLIP, trained on eight colours."""
    return save_colour_clip(tmp_path_factory.mktemp("colour-clip"))


@pytest.fixture(scope="session")
def tiny_siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny SigLIP with random weights."""
    return save_tiny_siglip(tmp_path_factory.mktemp("tiny-siglip"))


@pytest.fixture(scope="session")
def tiny_towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders of a tiny ResNet and a tiny BERT with random weights."""
    folder = tmp_path_factory.mktemp("towers")
    return save_tiny_resnet(folder / "resnet"), save_tiny_bert(folder / "bert")


@pytest.fixture(scope="session")
def tiny_siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a tiny SigLIP 2 with random weights."""
    return save_tiny_siglip2(tmp_path_factory.mktemp("tiny-siglip2"))


@pytest.fixture(scope="session")
def colour_items() -> list[ImageItem]:
    """One item per colour, named after it."""
    return [make_item(square(colour), colour) for colour in COLOURS]


@pytest.fixture
def item_of() -> Callable[..., ImageItem]:
    """Function that makes an item from pixels."""
    return make_item
