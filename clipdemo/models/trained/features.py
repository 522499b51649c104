"""Features of a tower for any number of images or captions, computed in small batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from clipdemo.models.trained.towers import AnyImageTower, AnyTextTower
from clipdemo.types import ImageItem


@torch.inference_mode()
def image_features(tower: AnyImageTower, items: Sequence[ImageItem], device: torch.device) -> Tensor:
    """(len(items), tower.dim) features."""
    rows = [torch.zeros(0, tower.dim, device=device)]
    for start in range(0, len(items), tower.batch_size):
        inputs = tower.inputs([item.seen_by(tower.view) for item in items[start : start + tower.batch_size]])
        rows.append(tower(**to_device(inputs, device)))
    return torch.cat(rows)


@torch.inference_mode()
def caption_features(tower: AnyTextTower, captions: Sequence[str], device: torch.device) -> Tensor:
    """(len(captions), tower.dim) features."""
    rows = [torch.zeros(0, tower.dim, device=device)]
    for start in range(0, len(captions), tower.batch_size):
        inputs = tower.inputs(captions[start : start + tower.batch_size])
        rows.append(tower(**to_device(inputs, device)))
    return torch.cat(rows)


def to_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The inputs of a tower, moved to ``device``."""
    return {name: value.to(device) for name, value in inputs.items()}
