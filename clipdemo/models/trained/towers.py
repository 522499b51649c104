"""The two towers of a trained dual encoder: a pretrained image model and a pretrained text model.

A tower returns one row of pooled features for each image or caption; ``heads`` maps both sides into one
space. The embedded towers come with installed packages; any other vision or text model of transformers is
read from a folder.
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

from clipdemo.errors import CorruptCheckpointError, UnsafeWeightsError, UnsupportedCheckpointError
from clipdemo.models.clip.encoder import split_at_limit
from clipdemo.models.embedded import conse
from clipdemo.models.embedded import towers as embedded_towers
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.models.frameworks import translate_load_errors
from clipdemo.models.weights import has_safetensors
from clipdemo.types import CaptionTokens
from clipdemo.view import TowerView, crop_to_max_aspect

MAX_TOKENS = 128  # of a caption; some text models would read more


class EmbeddedImageTower(nn.Module):
    """EfficientNet-Lite0: the pooled features of its last blocks, followed by the ConSE embedding.

    The ConSE embedding maps an image into the text space without training; a head may start from it
    (``heads.Head`` with a prior).

    Args:
        learned: whether its weights are trained, or were.
    """

    dim = embedded_towers.FEATURE_DIM + conse.DIM
    image_size = embedded_towers.IMAGE_SIZE
    view = embedded_towers.VIEW
    batch_size = 1  # shapes differ, and larger batches do not fit the CPU's cache

    def __init__(self, *, learned: bool = False) -> None:
        super().__init__()
        tower = embedded_towers.load_image_tower()
        self.model = tower if learned else tower.fuse_batch_norms()

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the features could."""
        return hashlib.sha256(
            f"{embedded_towers.image_fingerprint()} {conse.fingerprint()}".encode()
        ).hexdigest()

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Pixels of images in ``view``, each (1, 3, height, width) under a name of its own: shapes differ."""
        views = [torch.from_numpy(embedded_towers.pixels(image)) for image in images]
        return {f"image_{index}": view for index, view in enumerate(views)}

    def forward(self, **views: Tensor) -> Tensor:
        """(n, 2176) features of n images from :meth:`inputs`."""
        return torch.cat([self._features(view) for view in views.values()])

    def _features(self, view: Tensor) -> Tensor:
        features, logits = self.model(view)
        with torch.no_grad():  # the prior stays fixed
            prior = torch.from_numpy(conse.embed_images(_numpy(logits)))
        return torch.cat([features, prior.to(features.device)], dim=1)


class EmbeddedTextTower(nn.Module):
    """all-MiniLM-L6-v2, centred as in ConSE: its rows already lie in the ConSE space."""

    dim = conse.DIM
    context_length = embedded_towers.CONTEXT_LENGTH
    batch_size = 16

    def __init__(self) -> None:
        super().__init__()
        self.model = embedded_towers.load_text_tower()
        self._encoder = EmbeddedEncoder()
        self.register_buffer("centre", torch.from_numpy(conse.centre()), persistent=False)
        self.centre: Tensor

    @cached_property
    def fingerprint(self) -> str:
        """Changes whenever the features could."""
        return hashlib.sha256(
            f"{embedded_towers.text_fingerprint()} {conse.fingerprint()}".encode()
        ).hexdigest()

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
        """How much of ``caption`` is read."""
        return self._encoder.caption_tokens(caption)


class ImageTower(nn.Module):
    """Any vision model of transformers (ResNet, ViT, DINOv2, ...).

    Args:
        folder: as ``save_pretrained`` writes it.
        name: for error messages.
        fingerprint: changes whenever a file in ``folder`` changes.

    Raises:
        UnsafeWeightsError: all weights are pickled.
        UnsupportedCheckpointError: the model is not a vision model.
        CorruptCheckpointError: files are broken or missing.
    """

    batch_size = 16
    view: TowerView | None = None  # processors of many kinds: only they know

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.model: Any = _read_model(folder, name)
        with translate_load_errors(name, f"the image processor of {name} cannot be read"):
            # The PIL backend needs no torchvision.
            self._processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
        # Models with a class token have its embedding among their weights.
        self._has_class_token = any(
            key.endswith(("cls_token", "class_embedding")) for key in self.state_dict()
        )
        unsupported = f"{name} does not turn images into features"
        with translate_load_errors(name, unsupported, UnsupportedCheckpointError), torch.inference_mode():
            blank = self.inputs([Image.new("RGB", (64, 64))])
            self.dim = int(self.eval()(**blank).shape[1])
            self.image_size = int(blank["pixel_values"].shape[-1])

    def inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Pixels as the model was trained, (n, 3, side, side)."""
        batch = self._processor([crop_to_max_aspect(image) for image in images], return_tensors="pt")
        return {"pixel_values": batch["pixel_values"]}

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(n, dim) features: the class token if there is one, else the mean over positions or patches."""
        hidden: Tensor = self.model(pixel_values=pixel_values).last_hidden_state
        if hidden.ndim == 4:  # (n, dim, height, width) of a convolutional network
            return hidden.mean(dim=(2, 3))
        return hidden[:, 0] if self._has_class_token else hidden.mean(dim=1)

    def save(self, folder: Path) -> None:
        """Write everything that :class:`ImageTower` reads."""
        self.model.save_pretrained(folder)
        self._processor.save_pretrained(folder)


class TextTower(nn.Module):
    """Any text encoder of transformers (DistilBERT, BERT, MiniLM, ...); the masked mean of its last layer.

    Args:
        folder: as ``save_pretrained`` writes it.
        name: for error messages.
        fingerprint: changes whenever a file in ``folder`` changes.

    Raises:
        UnsafeWeightsError: all weights are pickled.
        UnsupportedCheckpointError: the model is not a text encoder.
        CorruptCheckpointError: files are broken or missing.
    """

    batch_size = 16

    def __init__(self, folder: Path, name: str, fingerprint: str) -> None:
        super().__init__()
        self.fingerprint = fingerprint
        self.model: Any = _read_model(folder, name)
        with translate_load_errors(name, f"the tokenizer of {name} cannot be read"):
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        positions = getattr(self.model.config, "max_position_embeddings", MAX_TOKENS)
        self.context_length = min(MAX_TOKENS, positions, self._tokenizer.model_max_length)
        unsupported = f"{name} does not turn captions into features"
        with translate_load_errors(name, unsupported, UnsupportedCheckpointError), torch.inference_mode():
            self.dim = int(self.eval()(**self.inputs(["a cat"])).shape[1])

    def inputs(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Token ids and mask, (n, width); not thread-safe, because the tokenizer has state."""
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
        """How much of ``caption`` is read."""
        return split_at_limit(caption, self.context_length, self._count_tokens)

    def save(self, folder: Path) -> None:
        """Write everything that :class:`TextTower` reads."""
        self.model.save_pretrained(folder)
        self._tokenizer.save_pretrained(folder)

    def _count_tokens(self, caption: str) -> int:
        return len(self._tokenizer(caption, truncation=False, verbose=False).input_ids)


AnyImageTower = EmbeddedImageTower | ImageTower
AnyTextTower = EmbeddedTextTower | TextTower


def mean_of_tokens(hidden: Tensor, mask: Tensor) -> Tensor:
    """(n, dim) mean over the tokens that are not padding, from (n, width, dim) and a (n, width) mask."""
    weights = mask[..., None].to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _read_model(folder: Path, name: str) -> Any:
    if not has_safetensors(folder):
        raise UnsafeWeightsError(
            f"{name} lacks model.safetensors; pickled weights can run code, so save it as safetensors first"
        )
    broken = f"the files of {name} are broken, incomplete or of a model that transformers does not know"
    with translate_load_errors(name, broken):
        model, report = transformers.AutoModel.from_pretrained(
            folder,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype=torch.float32,
        )
    # The poolers of BERT and ViT are often missing in the file; nothing here uses them.
    missing = [key for key in report["missing_keys"] if "pooler." not in key]
    if missing or report["mismatched_keys"]:
        raise CorruptCheckpointError(
            f"{name} lacks weights that its configuration requires; it cannot be used"
        )
    return model.eval()


def _numpy(rows: Tensor) -> Any:
    return rows.detach().float().cpu().numpy()
