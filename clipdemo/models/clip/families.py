"""The families of dual encoders that clipdemo reads, one record each, and how ``config.json`` names them.

A new family is one entry of ``FAMILIES``. Nothing here imports torch, so a family is known before weights are
downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from clipdemo.errors import CheckpointNotFoundError, CorruptCheckpointError, UnsupportedCheckpointError
from clipdemo.models.json_files import read_json


@dataclass(frozen=True)
class Family:
    """How the checkpoints of one family are loaded, fed and fine-tuned.

    The loss needs no field: a model with a ``logit_bias`` is trained with the sigmoid loss, any other with
    softmax.

    Attributes:
        model_class: name of the model class in transformers.
        tokenizer_classes: names of the tokenizer classes in transformers, by the type of model in
            ``tokenizer.json``; "" is for checkpoints without that file. The class that the files of a
            checkpoint name is ignored.
        processor_class: name of the PIL image processor in transformers; torchvision is never needed.
        lower_case: whether captions are lower-cased before tokenizing.
        padding: captions are padded to the longest of the batch, or to the model's context length.
        attention_mask: whether the text tower takes an attention mask.
        has_pixel_recipe: whether ``PixelRecipe`` can replace the image processor.
        heads: modules that turn the last layer of a tower into an embedding; ``train --adapt heads`` trains
            them.
        lora_layers: last part of the names of the linear layers that ``train --adapt lora`` adapts.
    """

    title: str
    model_class: str
    tokenizer_classes: Mapping[str, str]
    processor_class: str
    lower_case: bool
    padding: Literal["longest", "max_length"]
    attention_mask: bool
    has_pixel_recipe: bool
    heads: tuple[str, ...]
    lora_layers: tuple[str, ...] = ("q_proj", "v_proj")  # Hu et al. 2021, section 4.2: queries and values


# By the "model_type" of config.json.
FAMILIES = {
    "clip": Family(
        title="CLIP",
        model_class="CLIPModel",
        tokenizer_classes={"BPE": "CLIPTokenizer", "": "CLIPTokenizer"},
        processor_class="CLIPImageProcessorPil",
        lower_case=False,  # its tokenizer does it
        # CLIP pools its end token wherever it is, so short captions need fewer than 77 columns.
        padding="longest",
        attention_mask=True,
        has_pixel_recipe=True,
        heads=("visual_projection", "text_projection"),
    ),
    "siglip": Family(
        title="SigLIP",
        model_class="SiglipModel",
        # SigLIP 2 files that declare themselves SigLIP have the tokenizer of Gemma.
        tokenizer_classes={"Unigram": "SiglipTokenizer", "": "SiglipTokenizer", "BPE": "GemmaTokenizer"},
        processor_class="SiglipImageProcessorPil",
        # Trained on lower case. SigLIP 2 files often declare themselves SigLIP, whose tokenizer does not
        # lower-case.
        lower_case=True,
        padding="max_length",  # SigLIP pools the last position and was trained on full width
        attention_mask=False,
        has_pixel_recipe=True,
        heads=("vision_model.head", "text_model.head"),
    ),
    "siglip2": Family(
        title="SigLIP 2",
        model_class="Siglip2Model",
        tokenizer_classes={"BPE": "Siglip2Tokenizer"},
        processor_class="Siglip2ImageProcessorPil",
        lower_case=True,
        padding="max_length",
        attention_mask=False,
        # NaFlex cuts images into patches of many shapes; only its own processor knows how.
        has_pixel_recipe=False,
        heads=("vision_model.head", "text_model.head"),
    ),
}


def family_names(conjunction: str = "or") -> str:
    """The families as part of a sentence: "CLIP, SigLIP or SigLIP 2"."""
    *first, last = (family.title for family in FAMILIES.values())
    return f"{', '.join(first)} {conjunction} {last}"


def read_family(config: Path, checkpoint_id: str) -> Family:
    """The family of the checkpoint with this configuration file.

    Raises:
        CheckpointNotFoundError: the file does not exist.
        CorruptCheckpointError: the configuration is not JSON.
        UnsupportedCheckpointError: the model is of another kind.
    """
    try:
        content = read_json(config)
    except FileNotFoundError as error:
        raise CheckpointNotFoundError(
            f"{checkpoint_id} is not a checkpoint: config.json is missing"
        ) from error
    except (OSError, ValueError) as error:
        raise CorruptCheckpointError(
            f"the configuration of {checkpoint_id} cannot be read; choose another checkpoint"
        ) from error
    model_type = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} is of the type {str(model_type)[:40]!r}; clipdemo reads image-text dual "
            f"encoders of the families {family_names('and')}, so choose one of those"
        )
    return FAMILIES[model_type]
