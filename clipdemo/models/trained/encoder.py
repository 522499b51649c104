"""The encoder of a folder that ``clipdemo train`` wrote."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from clipdemo import memory, similarity
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.models.trained import folder as trained_folder
from clipdemo.models.trained.features import caption_features, image_features
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem
from clipdemo.view import TowerView


class TrainedEncoder:
    """The encoder of a trained folder.

    Args:
        folder: as ``trained_folder.save`` writes it.
        device: "cpu", "cuda" or "mps".

    Raises:
        CorruptCheckpointError: files are broken, missing or do not fit together.
        CheckpointError: a tower cannot be loaded.
        NotEnoughMemoryError: an allocation failed; encoding may raise it, too.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        self._device = torch.device(device)
        with IMPORT_LOCK, memory.translate_memory_errors(folder.name):
            self._model = trained_folder.load(folder).eval().to(self._device)
        image_tower, text_tower = self._model.image_tower, self._model.text_tower
        self.checkpoint = Checkpoint(
            id=folder.resolve().name,
            revision="local",
            fingerprint=trained_folder.fingerprint(folder, [image_tower.fingerprint, text_tower.fingerprint]),
            dim=self._model.recipe.dim,
            image_size=image_tower.image_size,
            context_length=text_tower.context_length,
            logit_scale=math.exp(self._model.heads.log_scale.item()),
            logit_bias=None,
            parameters=sum(weight.numel() for weight in self._model.parameters()),
            source="folder",
        )
        # Truncation and padding are state of the tokenizer: two threads would mix them up.
        self._tokenizing = threading.Lock()

    @property
    def view(self) -> TowerView | None:
        """That of the image tower."""
        return self._model.image_tower.view

    @property
    def device(self) -> str:
        """The device of the forward pass."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """Always "float32", as in training."""
        return "float32"

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows."""
        if not items:
            return self._no_rows()
        with memory.translate_memory_errors(self.checkpoint.id):
            features = image_features(self._model.image_tower, items, self._device)
            return self._embed(features, self._model.heads.image)

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; captions are truncated to ``context_length`` tokens."""
        if not captions:
            return self._no_rows()
        with memory.translate_memory_errors(self.checkpoint.id):
            with self._tokenizing:
                features = caption_features(self._model.text_tower, captions, self._device)
            return self._embed(features, self._model.heads.caption)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """How much of ``caption`` is read."""
        with self._tokenizing:
            return self._model.text_tower.caption_tokens(caption)

    def _no_rows(self) -> FloatArray:
        return np.zeros((0, self.checkpoint.dim), dtype=np.float32)

    def _embed(self, features: Tensor, head: nn.Module) -> FloatArray:
        with torch.inference_mode():
            return similarity.unit(head(features).float().cpu().numpy())
