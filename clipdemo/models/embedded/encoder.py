"""The embedded model: a small dual encoder with weights from two installed packages, without a download.

``projection`` joins its two towers; it was trained on about a thousand photographs. It is not CLIP and is
never called so. torch and transformers are imported at the first encoding: a page can show cached embeddings
without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from clipdemo import memory
from clipdemo.models.embedded import projection, towers
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem
from clipdemo.view import TowerView


@dataclass(frozen=True)
class _Towers:
    """The two loaded models."""

    image: Any
    text: Any


class EmbeddedEncoder:
    """The embedded dual encoder; the towers load once, at the first encoding."""

    def __init__(self) -> None:
        self._loaded: _Towers | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Known before anything is loaded: only weights with known hashes are.

        Raises:
            CorruptCheckpointError: a file of the model is missing or broken.
        """
        parts = [projection.fingerprint(), towers.image_fingerprint(), towers.text_fingerprint()]
        head = projection.shipped()
        return Checkpoint(
            id="embedded",
            revision=towers.package_versions(),
            fingerprint=hashlib.sha256("\n".join(parts).encode()).hexdigest(),
            dim=projection.DIM,
            image_size=towers.IMAGE_SIZE,
            context_length=towers.CONTEXT_LENGTH,
            logit_scale=float(head.logit_scale[0]),
            logit_bias=None,
            parameters=towers.IMAGE_PARAMETERS + towers.TEXT_PARAMETERS + head.weights.size,
            source="embedded",
        )

    @property
    def view(self) -> TowerView:
        """That of the image tower."""
        return towers.VIEW

    @property
    def device(self) -> str:
        """Always the CPU: the towers are small."""
        return "cpu"

    @property
    def dtype(self) -> str:
        """Always "float32"."""
        return "float32"

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), 386) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: an allocation failed.
        """
        if not items:
            return np.zeros((0, projection.DIM), dtype=np.float32)
        import torch

        features, logits = [], []
        with memory.translate_memory_errors(towers.MODEL_NAME), torch.inference_mode():
            tower = self._towers().image
            for item in items:  # one by one: shapes differ, and larger batches do not fit the CPU's cache
                pooled, classes = tower(torch.from_numpy(towers.pixels(item.seen_by(self.view))))
                features.append(pooled.numpy())
                logits.append(classes.numpy())
        return projection.shipped().embed_images(np.concatenate(features), np.concatenate(logits))

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), 386) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: an allocation failed.
        """
        if not captions:
            return np.zeros((0, projection.DIM), dtype=np.float32)
        return projection.shipped().embed_captions(self.encode_sentences(captions))

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """(len(sentences), 384) unit rows of the text tower, before ``projection``.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: an allocation failed.
        """
        import torch

        tokens, mask = map(torch.from_numpy, self.token_ids(sentences))
        with memory.translate_memory_errors(towers.MODEL_NAME), torch.inference_mode():
            tower = self._towers().text
            hidden = tower(input_ids=tokens, attention_mask=mask).last_hidden_state  # (n, width, 384)
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            rows: FloatArray = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return rows

    def token_ids(self, sentences: Sequence[str]) -> tuple[IntArray, IntArray]:
        """Inputs of the text tower: token ids and mask, both (len(sentences), width)."""
        encodings = [self._tokenizer.encode(sentence).ids for sentence in sentences]
        width = max(len(ids) for ids in encodings)
        tokens = np.array([ids + [0] * (width - len(ids)) for ids in encodings], dtype=np.int64)
        mask = np.array([[1] * len(ids) + [0] * (width - len(ids)) for ids in encodings], dtype=np.int64)
        return tokens, mask

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """How much of ``caption`` is read; needs the tokenizer only."""
        first = self._tokenizer.encode(caption)
        used = len(first.ids) + sum(len(part.ids) - 2 for part in first.overflowing)
        end = first.offsets[-2][1] if first.overflowing else len(caption)
        return CaptionTokens(used, towers.CONTEXT_LENGTH, caption[:end], caption[end:])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return towers.load_tokenizer()

    def _towers(self) -> _Towers:
        if self._loaded is None:
            with IMPORT_LOCK:  # two threads load them once
                if self._loaded is None:
                    image_tower = towers.load_image_tower().fuse_batch_norms()
                    self._loaded = _Towers(image_tower, towers.load_text_tower())
        return self._loaded
