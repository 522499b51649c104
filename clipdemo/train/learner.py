"""What the loop trains: a dual encoder on features that are kept, or on the images and captions themselves."""

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
from clipdemo.images.decode import decode_image
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained import folder as trained_folder
from clipdemo.similarity import IntArray
from clipdemo.train.loss import softmax_loss
from clipdemo.types import ImageItem

TOWER_PACE = 0.02  # of the heads' learning rate, for towers that have learned much already


class Learner(Protocol):
    """Anything the loop can train."""

    @property
    def log_scale(self) -> Tensor:
        """() logarithm of the logit scale, on the device where it trains."""

    @property
    def fingerprint(self) -> str:
        """Of what it starts from; changes whenever a file of that changes."""

    def begin_epoch(self, epoch: int) -> None:
        """Switch to training; ``epoch`` and the seed say how images are altered."""

    def begin_validation(self) -> None:
        """Switch to embedding as it will be used."""

    def embed_images(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows of the images with these numbers."""

    def embed_captions(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows of the captions with these numbers."""

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """The loss of a batch, as in ``loss``."""

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Parameters that learn, with their learning rate and weight decay."""

    def learned(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""

    def clamp(self) -> None:
        """Keep the temperature in its bounds; called after every step."""

    def save(self, folder: Path) -> None:
        """Write what was learned as a checkpoint."""


class Photographs:
    """Images read anew each time, and a little altered while training.

    Args:
        files: where they lie.
        limits: for each.
        seed: of what is altered.
    """

    def __init__(self, files: Sequence[Source], limits: Limits, seed: int) -> None:
        self._files, self._limits, self._seed = files, limits, seed
        self.epoch: int | None = None  # None: as they are

    def read(self, which: IntArray) -> list[Image.Image]:
        """The images with these numbers.

        Raises:
            TrainingError: one that could be read before no longer can.
        """
        out = []
        files: Iterable[Source] = (self._files[number] for number in which)
        decode = partial(decode_image, thumbnail=False)
        for number, item in zip(which, sources.load(files, self._limits, decode=decode), strict=True):
            if not isinstance(item, ImageItem):
                raise TrainingError(
                    f"the image {self._files[number].name} can no longer be read; bring it back and resume"
                )
            out.append(item.image if self.epoch is None else self._altered(item.image, int(number)))
        return out

    def _altered(self, image: Image.Image, number: int) -> Image.Image:
        """A large part of the image, perhaps mirrored; the same one in the same epoch."""
        rng = np.random.default_rng([self._seed, self.epoch or 0, number])
        share = rng.uniform(0.6, 1) ** 0.5
        width, height = (max(1, round(side * share)) for side in image.size)
        left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
        part = image.crop((int(left), int(top), int(left) + width, int(top) + height))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


class DualLearner(nn.Module):
    """Heads on two towers; a tower that is frozen is represented by its kept features.

    Args:
        model: towers and heads.
        image_features: (n_images, dim) of the frozen image tower, or None when it learns.
        caption_features: (n_captions, dim) of the frozen text tower, or None when it learns.
        photographs: the images, for a tower that learns.
        captions: the texts, for a tower that learns.
    """

    def __init__(
        self,
        model: trained_folder.DualEncoder,
        image_features: Tensor | None,
        caption_features: Tensor | None,
        photographs: Photographs,
        captions: Sequence[str],
    ) -> None:
        super().__init__()
        self.model, self._photographs, self._captions = model, photographs, captions
        self._image_features, self._caption_features = image_features, caption_features
        model.image_tower.requires_grad_(image_features is None)
        model.text_tower.requires_grad_(caption_features is None)
        if isinstance(pooler := getattr(model.text_tower.model, "pooler", None), nn.Module):
            pooler.requires_grad_(False)  # not used here
        self.log_scale = model.heads.log_scale

    @property
    def fingerprint(self) -> str:
        """Of both towers."""
        return f"{self.model.image_tower.fingerprint} {self.model.text_tower.fingerprint}"

    def begin_epoch(self, epoch: int) -> None:
        """Heads drop numbers, images are altered; towers stay as they are used (small batches, few pairs)."""
        self.model.eval()
        self.model.heads.train()
        self._photographs.epoch = epoch

    def begin_validation(self) -> None:
        """Everything as it will be used."""
        self.model.eval()
        self._photographs.epoch = None

    def embed_images(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows."""
        rows: Tensor = self.model.heads.image(self.image_rows(which))
        return rows

    def embed_captions(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows."""
        rows: Tensor = self.model.heads.caption(self.caption_rows(which))
        return rows

    def image_rows(self, which: IntArray) -> Tensor:
        """(len(which), dim) features of the image tower."""
        if self._image_features is not None:
            return self._image_features[torch.from_numpy(which)]
        tower = self.model.image_tower
        inputs = tower.inputs(self._photographs.read(which))
        rows: Tensor = tower(**tower_features.to_device(inputs, self.log_scale.device))
        return rows

    def caption_rows(self, which: IntArray) -> Tensor:
        """(len(which), dim) features of the text tower."""
        if self._caption_features is not None:
            return self._caption_features[torch.from_numpy(which)]
        tower = self.model.text_tower
        inputs = tower.inputs([self._captions[number] for number in which])
        rows: Tensor = tower(**tower_features.to_device(inputs, self.log_scale.device))
        return rows

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """CLIP's symmetric cross-entropy."""
        return softmax_loss(cosines, self.log_scale, same)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Heads at the full rate, towers at a small part of it."""
        parts = (
            (self.model.heads, 1.0),
            (self.model.image_tower, TOWER_PACE),
            (self.model.text_tower, TOWER_PACE),
        )
        groups = [group for part, pace in parts for group in parameter_groups(part, pace * learning_rate)]
        return [group for group in groups if group["params"]]

    def learned(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""
        return learning(self)

    def clamp(self) -> None:
        """As CLIP does."""
        self.model.heads.clamp()

    def save(self, folder: Path) -> None:
        """A folder that ``load_encoder`` opens."""
        trained_folder.save(folder, self.model)


def learning(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module that learn, by name."""
    return {name: weight for name, weight in module.named_parameters() if weight.requires_grad}


def parameter_groups(module: nn.Module, learning_rate: float) -> list[dict[str, Any]]:
    """Matrices with weight decay; biases, norms and the temperature without."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in weights if weight.ndim >= 2], "lr": learning_rate},
        {
            "params": [weight for weight in weights if weight.ndim < 2],
            "lr": learning_rate,
            "weight_decay": 0.0,
        },
    ]
