"""The two towers of a trained dual encoder: a pretrained image model and a pretrained text model.

Each gives one row of pooled features for an image or a caption; what makes of them one shared space is in
``heads``. The embedded towers come with the packages; any other vision or text model of transformers is
read from a folder. Tensors leave this file only towards ``trained`` and ``train``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor, nn

from clipdemo import memory
from clipdemo.errors import CorruptCheckpointError, UnsafeWeightsError, UnsupportedCheckpointError
from clipdemo.models.clip.encoder import BROKEN, crop_to_max_aspect, has_safetensors, tokens_read
from clipdemo.models.embedded import conse
from clipdemo.models.embedded import encoder as embedded
from clipdemo.types import CaptionTokens

MOST_TOKENS = 128  # of a caption, where a text model would read more


class EmbeddedImageTower(nn.Module):
    """EfficientNet-Lite0: the pooled features of its last blocks, and the ConSE embedding after them.

    The ConSE embedding is what the towers make of an image without training; a head may start from it
    (``heads.Head`` with a prior).

    Args:
        learned: whether its weights are to learn, or have learned.
    """

    dim = embedded.FEATURES + conse.DIM
    image_size = embedded.IMAGE_SIZE
    step = 1  # shapes differ, and larger batches leave the CPU's cache

    def __init__(self, *, learned: bool = False) -> None:
        super().__init__()
        whole = embedded.load_image_tower()
        self.model = whole if learned else embedded.fuse_batch_norms(whole)

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the features could."""
        return hashlib.sha256(f"{embedded.image_fingerprint()} {conse.fingerprint()}".encode()).hexdigest()

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Pixels of each image, (1, 3, high, wide), by its place: shapes differ."""
        return {
            f"image_{place}": torch.from_numpy(embedded.pixels(image)) for place, image in enumerate(images)
        }

    def forward(self, **views: Tensor) -> Tensor:
        """(n, 2176) features of n images from :meth:`inputs`."""
        return torch.cat([self._one(view) for view in views.values()])

    def _one(self, view: Tensor) -> Tensor:
        features, logits = embedded.image_features(self.model, view)
        with torch.no_grad():  # the prior is a starting point, not something that learns
            prior = torch.from_numpy(conse.embed_images(_numpy(logits)))
        return torch.cat([features, prior.to(features.device)], dim=1)


class EmbeddedTextTower(nn.Module):
    """all-MiniLM-L6-v2, centred as ConSE centres it: its rows already lie in the ConSE space."""

    dim = conse.DIM
    context_length = embedded.CONTEXT_LENGTH
    step = 16

    def __init__(self) -> None:
        super().__init__()
        self.model = embedded.load_text_tower()
        self._encoder = embedded.EmbeddedEncoder()
        self.register_buffer("centre", torch.from_numpy(conse.centre()), persistent=False)
        self.centre: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the features could."""
        return hashlib.sha256(f"{embedded.text_fingerprint()} {conse.fingerprint()}".encode()).hexdigest()

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (n, width)."""
        ids, mask = self._encoder.token_ids(captions)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, 384) unit features."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        sentences = nn.functional.normalize(mean_of_tokens(hidden, attention_mask), dim=1)
        return nn.functional.normalize(sentences - self.centre, dim=1)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off."""
        return self._encoder.caption_tokens(caption)


class ImageTower(nn.Module):
    """Any vision model of transformers (ResNet, ViT, DINOv2, ...).

    Args:
        folder: as ``save_pretrained`` writes it.
        name: what people call it.
        fingerprint: changes whenever a file of it changes.

    Raises:
        UnsafeWeightsError: there are only pickled weights.
        UnsupportedCheckpointError: no vision model.
        CorruptCheckpointError: files that are broken or missing.
    """

    step = 16

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.model: Any = _read_model(folder, name)
        try:
            # torchvision is never needed.
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        except BROKEN as error:
            raise CorruptCheckpointError(f"the image processor of {name} cannot be read") from error
        # Models that sum up an image in a token of its own have its embedding among their weights.
        self._has_token = any(key.endswith(("cls_token", "class_embedding")) for key in self.state_dict())
        try:
            with torch.inference_mode():
                blank = self.inputs([Image.new("RGB", (64, 64))])
                self.dim = int(self.eval()(**blank).shape[1])
            self.image_size = int(blank["pixel_values"].shape[-1])
        except BROKEN as error:
            raise UnsupportedCheckpointError(f"{name} does not turn images into features") from error

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Pixels as the model was trained, (n, 3, side, side)."""
        batch = self._processor([crop_to_max_aspect(image) for image in images], return_tensors="pt")
        return {"pixel_values": batch["pixel_values"]}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(n, dim) features: the mean over places or patches, or the token that sums up the image."""
        hidden: Tensor = self.model(pixel_values=pixel_values).last_hidden_state
        if hidden.ndim == 4:  # (n, dim, high, wide) of a convolutional network
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self._has_token else hidden.mean(dim=1)

    def save(self, folder: Path) -> None:
        """Write everything that :class:`ImageTower` reads."""
        self.model.save_pretrained(folder)
        self._processor.save_pretrained(folder)


class TextTower(nn.Module):
    """Any text encoder of transformers (DistilBERT, BERT, MiniLM, ...); masked mean of its last layer.

    Args:
        folder: as ``save_pretrained`` writes it.
        name: what people call it.
        fingerprint: changes whenever a file of it changes.

    Raises:
        UnsafeWeightsError: there are only pickled weights.
        UnsupportedCheckpointError: no text encoder.
        CorruptCheckpointError: files that are broken or missing.
    """

    step = 16

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.model: Any = _read_model(folder, name)
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except BROKEN as error:
            raise CorruptCheckpointError(f"the tokenizer of {name} cannot be read") from error
        positions = getattr(self.model.config, "max_position_embeddings", MOST_TOKENS)
        self.context_length = min(MOST_TOKENS, positions, self._tokenizer.model_max_length)
        try:
            with torch.inference_mode():
                self.dim = int(self.eval()(**self.inputs(["a cat"])).shape[1])
        except BROKEN as error:
            raise UnsupportedCheckpointError(f"{name} does not turn captions into features") from error

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (n, width). Not safe from several threads: a tokenizer has state."""
        batch = self._tokenizer(
            list(captions),
            padding="longest",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
            return_attention_mask=True,
        )
        return {name: batch[name] for name in ("input_ids", "attention_mask")}

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, dim) features."""
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return mean_of_tokens(hidden, attention_mask)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off."""
        return tokens_read(caption, self.context_length, self._count)

    def save(self, folder: Path) -> None:
        """Write everything that :class:`TextTower` reads."""
        self.model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _count(self, caption: str) -> int:
        return len(self._tokenizer(caption, truncation=False, verbose=False).input_ids)


AnyImageTower = EmbeddedImageTower | ImageTower
AnyTextTower = EmbeddedTextTower | TextTower


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """(n, dim) mean over the tokens that are no padding, of (n, width, dim) and a (n, width) mask."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of a folder's own files."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def _read_model(folder: Path, name: str) -> Any:
    if not has_safetensors(folder):
        raise UnsafeWeightsError(
            f"{name} has no model.safetensors; pickled weights can run code, so save it as safetensors first"
        )
    try:
        with memory.translate_memory_errors(name):
            model, report = transformers.AutoModel.from_pretrained(
                folder,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except BROKEN as error:
        raise CorruptCheckpointError(
            f"the files of {name} are broken, incomplete or of a model that transformers does not know "
            f"({type(error).__name__})"
        ) from error
    # The poolers of BERT and ViT are often not in the file, and are not used here.
    lacking = [key for key in report["missing_keys"] if "pooler." not in key]
    if lacking or report["mismatched_keys"]:
        raise CorruptCheckpointError(f"{name} lacks weights that its configuration names; it cannot be used")
    return model.eval()


def _numpy(rows: Tensor) -> Any:
    return rows.detach().float().cpu().numpy()
