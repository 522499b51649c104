"""Dual encoders of the families in ``families``, read from a local folder through transformers.

The only inference code for them: it prepares the inputs of a tower and reads its outputs. Callers get NumPy
arrays; tensors stay inside, except for training. Nothing is downloaded here, and no code of a checkpoint is
run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from clipdemo import similarity
from clipdemo.errors import CorruptCheckpointError, UnsafeWeightsError
from clipdemo.models.clip import inference
from clipdemo.models.clip.families import FAMILIES, Family, read_family
from clipdemo.models.clip.pixels import PixelRecipe
from clipdemo.models.clip.tokenizer import load_tokenizer
from clipdemo.models.frameworks import IMPORT_LOCK, translate_load_errors
from clipdemo.models.weights import has_safetensors
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem
from clipdemo.view import TowerView, crop_to_max_aspect

transformers.utils.logging.disable_progress_bar()

MAX_LETTERS = 200_000  # of a caption


def import_classes() -> None:
    """Import every class of transformers that a family names; their modules load at first use."""
    for family in FAMILIES.values():
        for name in (family.model_class, family.processor_class, *family.tokenizer_classes.values()):
            getattr(transformers, name)


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint came from; the fields have the meaning they have in ``Checkpoint``.

    Attributes:
        revision: hub commit or "local".
        source: "hub" or "folder".
    """

    id: str
    revision: str
    fingerprint: str
    source: str


class TransformersEncoder:
    """A dual encoder read from ``folder``.

    Args:
        folder: config, processor, tokenizer and weights as ``save_pretrained`` writes them.
        origin: becomes part of ``checkpoint``.
        allow_pickle: whether ``pytorch_model.bin`` may be read (weights only) if there are no safetensors.
        device: "cpu", "cuda" or "mps".

    Raises:
        CheckpointNotFoundError: the folder lacks ``config.json``.
        UnsupportedCheckpointError: the model is not of one of our families.
        UnsafeWeightsError: all weights are pickled, and that is not allowed.
        CorruptCheckpointError: files are broken, missing or do not fit together; encoding may raise it, too.
        NotEnoughMemoryError: an allocation failed; encoding may raise it, too.
    """

    def __init__(
        self, folder: Path, origin: Origin, *, allow_pickle: bool = False, device: str = "cpu"
    ) -> None:
        self.family: Family = read_family(folder / "config.json", origin.id)
        safe = has_safetensors(folder)
        if not safe and not allow_pickle:
            raise UnsafeWeightsError(
                f"{origin.id} has only pickled weights, which can run code when they are loaded; "
                "save it as safetensors first, or choose another checkpoint"
            )
        # Half precision is slower than float32 on a CPU (measured) and faster on a GPU.
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self._device = torch.device(device)
        broken = f"the files of {origin.id} are broken or incomplete; remove its folder and load it again"
        with IMPORT_LOCK, translate_load_errors(origin.id, broken):
            self._processor = getattr(transformers, self.family.processor_class).from_pretrained(folder)
            self._recipe = PixelRecipe.of(self._processor) if self.family.has_pixel_recipe else None
            self._tokenizer = load_tokenizer(folder, self.family, origin.id)
            model, report = getattr(transformers, self.family.model_class).from_pretrained(
                folder,
                use_safetensors=safe,
                weights_only=True,
                output_loading_info=True,
                dtype=self._dtype,
            )
            self._model: Any = model.eval().to(self._device)
            self._limit = int(model.config.text_config.max_position_embeddings)
            self._vocabulary = int(model.config.text_config.vocab_size)
            self.checkpoint = self._describe(origin)
            if self._dtype == torch.float32 and self._device.type == "cpu":
                inference.specialise(self._model)
        if report["missing_keys"] or report["mismatched_keys"]:
            raise CorruptCheckpointError(
                f"{origin.id} lacks weights that its configuration requires; choose another checkpoint"
            )
        # Truncation and padding are state of the tokenizer: two threads would mix them up.
        self._tokenizing = threading.Lock()

    @property
    def view(self) -> TowerView | None:
        """What images may be prepared for; None where only the checkpoint's processor knows."""
        return self._recipe.view if self._recipe else None

    @property
    def device(self) -> str:
        """The device of the forward pass."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """The dtype of the weights and of the forward pass."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def model(self) -> Any:
        """The transformers model with its ordinary layers, for training; encoding uses them from now on."""
        inference.restore(self._model)
        return self._model

    def save(self, folder: Path) -> None:
        """Write everything that this class reads.

        Raises:
            OSError: the folder is not writable.
        """
        for part in (self.model, self._processor, self._tokenizer):
            part.save_pretrained(folder)

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows."""
        if not items:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        with self._translate_errors(), torch.inference_mode():
            inputs = self.image_inputs([item.seen_by(self.view) for item in items])
            return self._unit(self._model.get_image_features(**inputs).pooler_output)

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; captions are truncated to ``context_length`` tokens."""
        if not captions:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        with self._translate_errors(), torch.inference_mode():
            inputs = self.caption_inputs(captions)
            return self._unit(self._model.get_text_features(**inputs).pooler_output)

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """Inputs of the image tower: pixel values, and for NaFlex checkpoints masks and shapes.

        Args:
            images: went through ``view``, where there is one.
        """
        if self._recipe:
            pixels = torch.from_numpy(self._recipe.pixels(images))
            return {"pixel_values": pixels.to(self._device, self._dtype)}
        usable = [crop_to_max_aspect(image) for image in images]
        batch = self._processor(usable, return_tensors="pt").to(self._device)
        return {
            name: value.to(self._dtype) if value.is_floating_point() else value
            for name, value in batch.items()
        }

    def caption_inputs(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Inputs of the text tower: token ids, and an attention mask where the family takes one."""
        with self._tokenizing:
            batch = self._tokenizer(
                [self._prepared(caption) for caption in captions],
                padding=self.family.padding,
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
                return_attention_mask=self.family.attention_mask,
            )
        if int(batch["input_ids"].max()) >= self._vocabulary:  # on a GPU the pass would end the process
            raise CorruptCheckpointError(
                f"the tokenizer of {self.checkpoint.id} has tokens that its model lacks; "
                "choose another checkpoint"
            )
        batch = batch.to(self._device)
        names = ("input_ids", "attention_mask") if self.family.attention_mask else ("input_ids",)
        return {name: batch[name] for name in names}

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """How much of ``caption`` is read."""
        with self._translate_errors():
            return split_at_limit(caption, self._limit, self._count_tokens)

    def _translate_errors(self) -> AbstractContextManager[None]:
        """Malformed settings may show only when an image or a caption is prepared or encoded."""
        broken = (
            f"{self.checkpoint.id} cannot encode: its files do not fit together; choose another checkpoint"
        )
        return translate_load_errors(self.checkpoint.id, broken)

    def _prepared(self, caption: str) -> str:
        caption = caption[:MAX_LETTERS]  # far beyond what is read; tokenizing takes time for every letter
        return caption.lower() if self.family.lower_case else caption

    def _count_tokens(self, caption: str) -> int:
        with self._tokenizing:
            return len(self._tokenizer(self._prepared(caption), truncation=False, verbose=False).input_ids)

    def _unit(self, rows: torch.Tensor) -> FloatArray:
        return similarity.unit(rows.float().cpu().numpy())

    def _describe(self, origin: Origin) -> Checkpoint:
        model, config = self._model, self._model.config
        dim = getattr(config, "projection_dim", None) or config.vision_config.hidden_size
        size = getattr(config.vision_config, "image_size", None)
        bias = getattr(model, "logit_bias", None)
        return Checkpoint(
            id=origin.id,
            revision=origin.revision,
            fingerprint=origin.fingerprint,
            dim=int(dim),
            image_size=int(size or 16 * math.sqrt(config.vision_config.num_patches)),
            context_length=self._limit,
            logit_scale=math.exp(model.logit_scale.item()),
            logit_bias=None if bias is None else bias.item(),
            parameters=sum(weight.numel() for weight in model.parameters()),
            source=origin.source,
        )


def split_at_limit(caption: str, limit: int, count_tokens: Callable[[str], int]) -> CaptionTokens:
    """Split a caption into the part that a model reads and the part that it truncates.

    Args:
        caption: any length.
        limit: tokens that the model reads.
        count_tokens: returns the number of tokens of a text, special tokens included.
    """
    used = count_tokens(caption)
    if used <= limit:
        return CaptionTokens(used, limit, caption, "")
    # The token count grows with the text: a binary search finds the longest prefix that fits.
    low, high = 0, len(caption)
    while low < high:
        middle = (low + high + 1) // 2
        if count_tokens(caption[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return CaptionTokens(used, limit, caption[:low], caption[low:])
