"""Refuses configurations with absurd numbers before weights are downloaded, or torch is imported.

A configuration of a kilobyte can ask for any amount of memory and time. The bounds are generous: the largest
published checkpoints (ViT-bigG, SigLIP 2 giant, NaFlex) stay far below them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipdemo.errors import CorruptCheckpointError, UnsupportedCheckpointError
from clipdemo.models.json_files import read_json

CONFIG = "config.json"
PROCESSORS = ("preprocessor_config.json", "processor_config.json")

MAX_NUMBER = 1_000_000  # of anything
MAX_PIXELS = 1_024  # of one side of the input image; SigLIP 2 has up to 512
MAX_PATCHES = 4_096  # of one image; SigLIP 2 has up to 1,024
# By key, wherever in the file it stands. What the largest published checkpoints have is in brackets.
MAX_BY_KEY = {
    "hidden_size": 8_192,  # (1,664)
    "intermediate_size": 32_768,  # (8,192)
    "num_hidden_layers": 100,  # (48)
    "num_attention_heads": 256,  # (20)
    "projection_dim": 8_192,  # (1,280)
    "projection_size": 8_192,
    "vocab_size": 1_000_000,  # (256,000)
    "max_position_embeddings": 8_192,  # (248)
    "image_size": MAX_PIXELS,
    "patch_size": MAX_PIXELS,
    "num_patches": MAX_PATCHES,  # (256)
    "max_num_patches": MAX_PATCHES,  # (1,024)
    "num_channels": 3,
    "size": MAX_PIXELS,
    "crop_size": MAX_PIXELS,
    "pad_size": MAX_PIXELS,
}
# In JSON text: what a terminal would obey where a library prints a setting.
_CONTROL = re.compile(r"\\u00[01]|[\x7f-\x9f]")
_VISION = ("vision_config", "vision_config_dict")
# They make transformers import other packages, load code for layers from the hub, or read other files.
_FOREIGN = (
    "quantization_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "transformers_weights",
)


def check_configuration(folder: Path, checkpoint_id: str) -> None:
    """Check the configurations of the model and of its image processor, as far as they exist.

    Raises:
        CorruptCheckpointError: a file is not a JSON object.
        UnsupportedCheckpointError: a number is beyond the bounds.
    """
    for name in (CONFIG, *PROCESSORS):
        if (folder / name).exists():
            check_file(folder / name, name, checkpoint_id)


def check_file(path: Path, name: str, checkpoint_id: str) -> None:
    """Check one configuration; ``name`` is its name in the checkpoint. Raises as `check_configuration`."""
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(
            f"{name} of {checkpoint_id} cannot be read; choose another checkpoint"
        ) from error
    if not isinstance(content, dict):
        raise CorruptCheckpointError(f"{name} of {checkpoint_id} is not a JSON object")
    if _CONTROL.search(json.dumps(content, ensure_ascii=False)):
        raise CorruptCheckpointError(
            f"{name} of {checkpoint_id} has control characters; choose another checkpoint"
        )
    for key, value in _numbers(content, ""):
        limit = MAX_BY_KEY.get(key, MAX_NUMBER)
        if not math.isfinite(value) or abs(value) > limit:
            raise UnsupportedCheckpointError(
                f"{checkpoint_id} asks for {key} = {value:,.10g}, and clipdemo accepts at most {limit:,}; "
                "choose another checkpoint"
            )
    for config in (content, *(part for part in content.values() if isinstance(part, dict))):
        for key in _FOREIGN:
            if config.get(key) is not None:
                raise UnsupportedCheckpointError(
                    f"{checkpoint_id} needs {key}, which clipdemo does not support; choose another checkpoint"
                )
    for key in _VISION:
        if isinstance(content.get(key), dict):
            _check_patches(content[key], checkpoint_id)


def _numbers(value: Any, key: str) -> Iterator[tuple[str, float]]:
    """Every number with the nearest key that has a bound of its own, or else with its own key."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, key if key in MAX_BY_KEY else str(name)[:40])
    elif isinstance(value, list):
        for part in value:
            yield from _numbers(part, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            yield key, float(value)
        except OverflowError:  # an integer of more than 308 digits
            yield key, math.inf


def _check_patches(vision: dict[str, Any], checkpoint_id: str) -> None:
    """The number of patches, which memory and time grow with; missing sizes have harmless defaults."""
    image, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    if not isinstance(image, int) or not isinstance(patch, int):
        raise UnsupportedCheckpointError(
            f"the image size of {checkpoint_id} is not one number; choose another checkpoint"
        )
    patches = (image // patch) ** 2 if patch > 0 else math.inf
    if patches > MAX_PATCHES:
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} cuts an image into {patches:,} patches, and clipdemo accepts at most "
            f"{MAX_PATCHES:,}; choose another checkpoint"
        )
