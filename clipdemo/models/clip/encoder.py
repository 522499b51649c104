"""Dual encoders of the CLIP and SigLIP families from a local folder, through transformers.

The one inference file for them: what is fed to a tower, and what is read off it, is decided here. NumPy
arrays leave it; tensors stay inside. Nothing is downloaded here and no code of a checkpoint is run.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import SafetensorError

from clipdemo import memory, similarity
from clipdemo.errors import CorruptCheckpointError, UnsafeWeightsError
from clipdemo.models.clip.families import FAMILIES, read_family
from clipdemo.models.clip.pixels import PixelRecipe
from clipdemo.models.frameworks import LOADING
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem

transformers.utils.logging.disable_progress_bar()

BROKEN = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # also RecursionError
    EOFError,
    UnpicklingError,
    SafetensorError,
    StrictDataclassError,
)


@dataclass(frozen=True)
class Origin:
    """Where a checkpoint came from.

    Attributes:
        id: the name people know it by.
        revision: hub commit or "local".
        fingerprint: changes whenever a file of the checkpoint changes.
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
        origin: where they came from.
        allow_pickle: whether ``pytorch_model.bin`` may be read (weights only) if there is nothing safer.
        device: "cpu", "cuda" or "mps".

    Raises:
        CheckpointNotFoundError: no ``config.json`` in the folder.
        UnsupportedCheckpointError: not a dual encoder of a family we know.
        UnsafeWeightsError: only pickled weights, and they are not allowed.
        CorruptCheckpointError: files that are broken, missing or do not fit together.
        NotEnoughMemoryError: the system gives no more memory; encoding may raise it, too.
    """

    def __init__(
        self, folder: Path, origin: Origin, *, allow_pickle: bool = False, device: str = "cpu"
    ) -> None:
        self._family = read_family(folder / "config.json", origin.id)
        safe = has_safetensors(folder)
        if not safe and not allow_pickle:
            raise UnsafeWeightsError(
                f"{origin.id} has only pickled weights, which can run code when they are loaded; "
                "save it as safetensors first, or choose another checkpoint"
            )
        # Half precision is slower than float32 on a CPU (measured) and faster on a GPU.
        self._dtype = torch.float16 if device == "cuda" else torch.float32
        self._device = torch.device(device)
        model_class, processor_class = FAMILIES[self._family]
        try:
            with LOADING, memory.translate_memory_errors(origin.id):
                self._processor = getattr(transformers, processor_class).from_pretrained(folder)
                # NaFlex cuts images into patches of many shapes: only its own processor knows how.
                self._recipe = None if self._family == "siglip2" else PixelRecipe.of(self._processor)
                self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
                model, report = getattr(transformers, model_class).from_pretrained(
                    folder,
                    use_safetensors=safe,
                    weights_only=True,
                    output_loading_info=True,
                    dtype=self._dtype,
                )
                self._model: Any = model.eval().to(self._device)
                self._limit = int(model.config.text_config.max_position_embeddings)
                self.checkpoint = self._describe(origin)
        except BROKEN as error:
            raise CorruptCheckpointError(
                f"the files of {origin.id} are broken or incomplete; remove its folder and load it again "
                f"({type(error).__name__})"
            ) from error
        if report["missing_keys"] or report["mismatched_keys"]:
            raise CorruptCheckpointError(
                f"{origin.id} lacks weights that its configuration names; choose another checkpoint"
            )
        # Truncation and padding are state of the tokenizer: two threads at once would mix them up.
        self._tokenizing = threading.Lock()

    @property
    def device(self) -> str:
        """Where the forward pass runs."""
        return self._device.type

    @property
    def dtype(self) -> str:
        """Of the weights and the forward pass."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def model(self) -> Any:
        """The transformers model itself, for training."""
        return self._model

    def save(self, folder: Path) -> None:
        """Write everything that this class reads.

        Raises:
            OSError: the folder cannot be written.
        """
        for part in (self._model, self._processor, self._tokenizer):
            part.save_pretrained(folder)

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows."""
        if not items:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        with memory.translate_memory_errors(self.checkpoint.id), torch.inference_mode():
            inputs = self.image_inputs([item.image for item in items])
            return self._unit(self._model.get_image_features(**inputs).pooler_output)

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; a caption over the limit is cut at its tail."""
        if not captions:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        with memory.translate_memory_errors(self.checkpoint.id), torch.inference_mode():
            inputs = self.caption_inputs(captions)
            return self._unit(self._model.get_text_features(**inputs).pooler_output)

    def image_inputs(self, images: Sequence[Image.Image]) -> dict[str, torch.Tensor]:
        """What the image tower is fed: pixel values, and for NaFlex checkpoints masks and shapes."""
        usable = [crop_to_max_aspect(image) for image in images]
        if self._recipe:
            pixels = torch.from_numpy(self._recipe.pixels(usable))
            return {"pixel_values": pixels.to(self._device, self._dtype)}
        batch = self._processor(usable, return_tensors="pt").to(self._device)
        return {
            name: value.to(self._dtype) if value.is_floating_point() else value
            for name, value in batch.items()
        }

    def caption_inputs(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """What the text tower is fed: lower-cased and padded as the family was trained."""
        clip = self._family == "clip"
        with self._tokenizing:
            batch = self._tokenizer(
                [self._prepared(caption) for caption in captions],
                # CLIP reads its end token wherever it stands, so short captions need no 77 columns; SigLIP
                # pools the last position and was trained on full width.
                padding="longest" if clip else "max_length",
                truncation=True,
                max_length=self._limit,
                return_tensors="pt",
                return_attention_mask=clip,
            ).to(self._device)
        names = ("input_ids", "attention_mask") if clip else ("input_ids",)
        return {name: batch[name] for name in names}

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off."""
        return tokens_read(caption, self._limit, self._count)

    def _prepared(self, caption: str) -> str:
        # SigLIP was trained on lower case, and SigLIP 2 files often declare themselves SigLIP, whose
        # tokenizer then does not lower-case: do it here for both.
        return caption if self._family == "clip" else caption.lower()

    def _count(self, caption: str) -> int:
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


def tokens_read(caption: str, limit: int, count: Callable[[str], int]) -> CaptionTokens:
    """What of ``caption`` is read by a model of ``limit`` tokens; ``count`` says how many a text has."""
    used = count(caption)
    if used <= limit:
        return CaptionTokens(used, limit, caption, "")
    # Token counts grow with the text, so the longest prefix that fits is found by halving.
    low, high = 0, len(caption)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if count(caption[:middle]) <= limit else (low, middle - 1)
    return CaptionTokens(used, limit, caption[:low], caption[low:])


def crop_to_max_aspect(image: Image.Image) -> Image.Image:
    """The middle of an image longer than 20 times its width.

    The processors enlarge the shorter side to the model's; a strip of one pixel would fill the memory.
    """
    most = 20 * min(image.size)
    if max(image.size) <= most:
        return image
    left, top = max(0, (image.width - most) // 2), max(0, (image.height - most) // 2)
    return image.crop((left, top, image.width - left, image.height - top))


def has_safetensors(folder: Path) -> bool:
    """Whether the folder holds weights that cannot carry code."""
    return any(folder.glob("model*.safetensors"))
