"""Which kinds of checkpoints are read, told by ``config.json`` alone: before weights are fetched, without torch."""

from __future__ import annotations

import json
from pathlib import Path

from clipdemo.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedCheckpointError

# model_type -> (model class, PIL image processor class) of transformers; torchvision is never needed.
FAMILIES = {
    "clip": ("CLIPModel", "CLIPImageProcessorPil"),
    "siglip": ("SiglipModel", "SiglipImageProcessorPil"),
    "siglip2": ("Siglip2Model", "Siglip2ImageProcessorPil"),
}


def read_family(config: Path, checkpoint_id: str) -> str:
    """The ``model_type`` of a checkpoint's configuration, if it is one we know.

    Raises:
        CheckpointNotFoundError: no such file.
        CorruptCheckpointError: a configuration that is not JSON.
        UnsupportedCheckpointError: another kind of model.
    """
    try:
        content = json.loads(config.read_text("utf-8"))
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(f"{checkpoint_id} holds no checkpoint (no config.json)") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CorruptCheckpointError(
            f"the configuration of {checkpoint_id} cannot be read; choose another checkpoint"
        ) from error
    family = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(family, str) or family not in FAMILIES:
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} is of the type {str(family)[:40]!r}; clipdemo reads image-text dual encoders of "
            "the CLIP and SigLIP families, so choose one of those"
        )
    return family
