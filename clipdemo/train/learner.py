"""What the loop trains: a ``Learner``. The dual encoder of two towers with heads lives here, too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from clipdemo.errors import TrainingError
from clipdemo.images import sources
from clipdemo.images.pool import decode_image
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained import folder as trained_folder
from clipdemo.similarity import IntArray
from clipdemo.train.loss import softmax_loss
from clipdemo.types import ImageItem
from clipdemo.view import seen

TOWER_RATE = 0.02  # of the heads' learning rate: towers are pretrained


class Learner(Protocol):
    """A model that the loop can train."""

    @property
    def log_scale(self) -> Tensor:
        """() logarithm of the logit scale, on the training device."""

    @property
    def fingerprint(self) -> str:
        """Identifies the pretrained files; changes whenever one of them does."""

    def begin_epoch(self, epoch: int) -> None:
        """Switch to training mode; ``epoch`` and the seed determine the image augmentation."""

    def begin_validation(self) -> None:
        """Switch to inference mode."""

    def embed_images(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""

    def embed_captions(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """Return the loss of a batch; arguments as in ``clipdemo.train.loss``."""

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the trainable parameters as groups for an optimiser, with learning rate and weight decay."""

    def trainable(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name."""

    def clamp(self) -> None:
        """Clamp the temperature; called after each step."""

    def save(self, folder: Path) -> None:
        """Write the checkpoint."""


class TrainingImages:
    """Images that are read from their files each time, and augmented during training.

    Args:
        files: where to read each image.
        limits: for each file.
        seed: of the augmentation.
    """

    def __init__(self, files: Sequence[Source], limits: Limits, seed: int) -> None:
        self._files, self._limits, self._seed = files, limits, seed
        self.epoch: int | None = None  # None: no augmentation

    def read(self, indices: IntArray) -> list[Image.Image]:
        """Read some images.

        Raises:
            TrainingError: a file that was readable before no longer is.
        """
        images = []
        files: Iterable[Source] = (self._files[index] for index in indices)
        decode = partial(decode_image, thumbnail=False)
        for index, item in zip(indices, sources.load(files, self._limits, decode=decode), strict=True):
            if not isinstance(item, ImageItem):
                raise TrainingError(
                    f"the image {self._files[index].name} can no longer be read; restore it and resume"
                )
            images.append(item.image if self.epoch is None else self._augment(item.image, int(index)))
        return images

    def _augment(self, image: Image.Image, index: int) -> Image.Image:
        """Crop 60 to 100 % of the area and mirror every other image; the result is fixed for an epoch."""
        rng = np.random.default_rng([self._seed, self.epoch or 0, index])
        side = rng.uniform(0.6, 1) ** 0.5
        width, height = (max(1, round(side * length)) for length in image.size)
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        crop = image.crop((int(left), int(top), int(left) + width, int(top) + height))
        return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else crop


class DualLearner(nn.Module):
    """Two towers with heads; precomputed features stand in for a frozen tower.

    Args:
        model: towers and heads.
        image_features: (n_images, dim) of the frozen image tower; None to train the tower.
        caption_features: (n_captions, dim) of the frozen text tower; None to train the tower.
        images: input of a trained image tower.
        captions: input of a trained text tower.
    """

    def __init__(
        self,
        model: trained_folder.DualEncoder,
        image_features: Tensor | None,
        caption_features: Tensor | None,
        images: TrainingImages,
        captions: Sequence[str],
    ) -> None:
        super().__init__()
        self.model, self._images, self._captions = model, images, captions
        self._image_features, self._caption_features = image_features, caption_features
        model.image_tower.requires_grad_(image_features is None)
        model.text_tower.requires_grad_(caption_features is None)
        if isinstance(pooler := getattr(model.text_tower.model, "pooler", None), nn.Module):
            pooler.requires_grad_(False)  # unused: captions are mean-pooled
        self.log_scale = model.heads.log_scale

    @property
    def fingerprint(self) -> str:
        """The fingerprints of both towers."""
        return f"{self.model.image_tower.fingerprint} {self.model.text_tower.fingerprint}"

    def begin_epoch(self, epoch: int) -> None:
        """Enable dropout in the heads and augmentation; towers stay in inference mode (batches are small)."""
        self.model.eval()
        self.model.heads.train()
        self._images.epoch = epoch

    def begin_validation(self) -> None:
        """Switch to inference mode."""
        self.model.eval()
        self._images.epoch = None

    def embed_images(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""
        rows: Tensor = self.model.heads.image(self.image_features(indices))
        return rows

    def embed_captions(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""
        rows: Tensor = self.model.heads.caption(self.caption_features(indices))
        return rows

    def image_features(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) features of the image tower."""
        if self._image_features is not None:
            return self._image_features[torch.from_numpy(indices)]
        tower = self.model.image_tower
        inputs = tower.inputs([seen(image, tower.view) for image in self._images.read(indices)])
        rows: Tensor = tower(**tower_features.to_device(inputs, self.log_scale.device))
        return rows

    def caption_features(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) features of the text tower."""
        if self._caption_features is not None:
            return self._caption_features[torch.from_numpy(indices)]
        tower = self.model.text_tower
        inputs = tower.inputs([self._captions[index] for index in indices])
        rows: Tensor = tower(**tower_features.to_device(inputs, self.log_scale.device))
        return rows

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """Return CLIP's symmetric cross-entropy."""
        return softmax_loss(cosines, self.log_scale, same)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the heads at the full learning rate and the towers at ``TOWER_RATE`` of it."""
        groups = [
            *weight_decay_groups(self.model.heads, learning_rate),
            *weight_decay_groups(self.model.image_tower, TOWER_RATE * learning_rate),
            *weight_decay_groups(self.model.text_tower, TOWER_RATE * learning_rate),
        ]
        return [group for group in groups if group["params"]]

    def trainable(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name."""
        return trainable_parameters(self)

    def clamp(self) -> None:
        """Clamp the temperature as CLIP does."""
        self.model.heads.clamp()

    def save(self, folder: Path) -> None:
        """Write a folder that ``load_encoder`` opens."""
        trained_folder.save(folder, self.model)


def trainable_parameters(module: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a module that require gradients, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def weight_decay_groups(module: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Return two parameter groups: matrices with weight decay; biases, norms and the temperature without."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim >= 2], "lr": learning_rate},
        {
            "params": [weight for weight in weights if weight.ndim < 2],
            "lr": learning_rate,
            "weight_decay": 0.0,
        },
    ]
