"""The encoder of a folder that ``clipdemo train`` wrote, and features of its towers, a few things at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipdemo import memory, similarity
from clipdemo.models.frameworks import LOADING
from clipdemo.models.trained import folder as trained_folder
from clipdemo.models.trained.towers import AnyImageTower, AnyTextTower
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem


class TrainedEncoder:
    """The encoder of a trained folder.

    Args:
        folder: as ``trained_folder.save`` writes it.
        device: "cpu", "cuda" or "mps".

    Raises:
        CorruptCheckpointError: files that are broken, missing or do not fit together.
        CheckpointError: a tower that cannot be had.
        NotEnoughMemoryError: the system gives no more memory; encoding may raise it, too.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        self._device = torch.device(device)
        with LOADING, memory.translate_memory_errors(folder.name):
            self._model = trained_folder.load(folder).eval().to(self._device)
        towers = self._model.image_tower, self._model.text_tower
        self.checkpoint = Checkpoint(
            id=folder.resolve().name,
            revision="local",
            fingerprint=trained_folder.fingerprint(folder, [tower.fingerprint for tower in towers]),
            dim=self._model.recipe.dim,
            image_size=towers[0].image_size,
            context_length=towers[1].context_length,
            logit_scale=math.exp(self._model.heads.log_scale.item()),
            logit_bias=None,
            parameters=sum(weight.numel() for weight in self._model.parameters()),
            source="folder",
        )
        self._tokenizing = threading.Lock()  # truncation and padding are state of a tokenizer

    @property
    def device(self) -> str:
        """Where the forward pass runs."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """Always "float32", in which it was trained."""
        return "float32"

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows."""
        model = self._model
        with memory.translate_memory_errors(self.checkpoint.id):
            features = image_features(model.image_tower, items, self._device)
            return self._unit(items, features, model.heads.image)

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; a caption over the limit is cut at its tail."""
        model = self._model
        with memory.translate_memory_errors(self.checkpoint.id):
            with self._tokenizing:
                features = caption_features(model.text_tower, captions, self._device)
            return self._unit(captions, features, model.heads.caption)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off."""
        with self._tokenizing:
            return self._model.text_tower.caption_tokens(caption)

    def _unit(self, things: Sequence[object], features: Tensor, head: nn.Module) -> FloatArray:
        if not things:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        with torch.inference_mode():
            return similarity.unit(head(features).float().cpu().numpy())


@torch.inference_mode()
def image_features(tower: AnyImageTower, items: Sequence[ImageItem], device: torch.device) -> Tensor:
    """(len(items), tower.dim) features, a few images at a time."""
    rows = [torch.zeros(0, tower.dim, device=device)]
    for start in range(0, len(items), tower.step):
        inputs = tower.inputs([item.image for item in items[start : start + tower.step]])
        rows.append(tower(**to_device(inputs, device)))
    return torch.cat(rows)


@torch.inference_mode()
def caption_features(tower: AnyTextTower, captions: Sequence[str], device: torch.device) -> Tensor:
    """(len(captions), tower.dim) features, a few captions at a time."""
    rows = [torch.zeros(0, tower.dim, device=device)]
    for start in range(0, len(captions), tower.step):
        rows.append(tower(**to_device(tower.inputs(captions[start : start + tower.step]), device)))
    return torch.cat(rows)


def to_device(inputs: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """The same tensors there."""
    return {name: value.to(device) for name, value in inputs.items()}
