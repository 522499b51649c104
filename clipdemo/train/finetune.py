"""Fine-tunes a CLIP or SigLIP checkpoint: its projections only, or low-rank adapters (LoRA) in its attention.

The result is an ordinary checkpoint of the same family in a folder of its own, with adapters merged into the
weights. The base checkpoint is only read.
"""

from __future__ import annotations

import copy
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipdemo.errors import SettingError
from clipdemo.models.clip.encoder import TransformersEncoder
from clipdemo.models.load import load_encoder
from clipdemo.models.trained.features import to_device
from clipdemo.models.trained.heads import MAX_SCALE
from clipdemo.similarity import IntArray
from clipdemo.train.learner import TrainingImages, trainable_parameters, weight_decay_groups
from clipdemo.train.loss import sigmoid_loss, softmax_loss
from clipdemo.view import seen

RANK, ALPHA = 8, 16.0


class LoraLinear(nn.Module):
    """A frozen linear layer plus a trainable product of two thin matrices, which starts as zero.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.empty(RANK, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, rows: Tensor) -> Tensor:
        """Return (..., out_features), as the merged layer does."""
        out: Tensor = self.linear(rows) + ALPHA / RANK * (rows @ self.down.T @ self.up.T)
        return out

    def merged(self) -> nn.Linear:
        """Return an ordinary layer with the same output."""
        linear = copy.deepcopy(self.linear)
        with torch.no_grad():
            linear.weight += ALPHA / RANK * self.up @ self.down
        return linear


class FineTuneLearner(nn.Module):
    """A whole checkpoint; a small part of it is trained.

    Args:
        base: from :func:`open_base`.
        adapt: "heads" or "lora".
        images: of the pairs.
        captions: of the pairs.
        device: where to train.
    """

    def __init__(
        self,
        base: TransformersEncoder,
        adapt: str,
        images: TrainingImages,
        captions: Sequence[str],
        device: torch.device,
    ) -> None:
        super().__init__()
        self._base, self._images, self._captions = base, images, captions
        self.model: Any = base.model.requires_grad_(False)
        self._adapters: list[tuple[nn.Module, str, LoraLinear]] = []
        if adapt == "lora":
            self._insert_adapters()
        else:
            for name, module in self.model.named_modules():
                if name in base.family.heads:
                    module.requires_grad_(True)
        self.log_scale: Tensor = self.model.logit_scale.requires_grad_(True)
        self._bias: Tensor | None = getattr(self.model, "logit_bias", None)
        if self._bias is not None:
            self._bias.requires_grad_(True)
        self.model.to(device)

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the checkpoint."""
        return self._base.checkpoint.fingerprint

    def begin_epoch(self, epoch: int) -> None:
        """Enable augmentation; dropout stays off."""
        self.model.eval()
        self._images.epoch = epoch

    def begin_validation(self) -> None:
        """Switch to inference mode."""
        self.model.eval()
        self._images.epoch = None

    def embed_images(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""
        images = [seen(image, self._base.view) for image in self._images.read(indices)]
        inputs = to_device(self._base.image_inputs(images), self.log_scale.device)
        return nn.functional.normalize(self.model.get_image_features(**inputs).pooler_output, dim=1)

    def embed_captions(self, indices: IntArray) -> Tensor:
        """Return (len(indices), dim) unit rows."""
        inputs = self._base.caption_inputs([self._captions[index] for index in indices])
        features = self.model.get_text_features(**to_device(inputs, self.log_scale.device))
        return nn.functional.normalize(features.pooler_output, dim=1)

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """Return the loss that the family was trained with: softmax for CLIP, sigmoid for SigLIP."""
        if self._bias is None:
            return softmax_loss(cosines, self.log_scale, same)
        return sigmoid_loss(cosines, self.log_scale, self._bias, same)

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Return the trainable parameters, all at the same learning rate."""
        return weight_decay_groups(self.model, learning_rate)

    def trainable(self) -> dict[str, Tensor]:
        """Return the trainable parameters by name."""
        return trainable_parameters(self)

    def clamp(self) -> None:
        """Clamp the temperature of a CLIP; SigLIP was trained unclamped, beyond these bounds."""
        if self._bias is None:
            with torch.no_grad():
                self.log_scale.clamp_(0, math.log(MAX_SCALE))

    def save(self, folder: Path) -> None:
        """Write an ordinary checkpoint; each file is replaced atomically, ``config.json`` last."""
        temporary = folder / "new"
        shutil.rmtree(temporary, ignore_errors=True)  # from a killed run
        try:
            with self._merged():
                self._base.save(temporary)
            for file in sorted(temporary.iterdir(), key=lambda file: file.name == "config.json"):
                os.replace(file, folder / file.name)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _insert_adapters(self) -> None:
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if name in self._base.family.lora_layers and isinstance(child, nn.Linear):
                    adapter = LoraLinear(child)
                    setattr(parent, name, adapter)
                    self._adapters.append((parent, name, adapter))

    @contextmanager
    def _merged(self) -> Iterator[None]:
        """Replace the adapters by merged layers while the block runs."""
        for parent, name, adapter in self._adapters:
            setattr(parent, name, adapter.merged())
        try:
            yield
        finally:
            for parent, name, adapter in self._adapters:
                setattr(parent, name, adapter)


def open_base(name: str) -> TransformersEncoder:
    """Load the checkpoint to fine-tune, on the CPU and in float32.

    Raises:
        SettingError: the checkpoint is not of the CLIP or SigLIP families.
        CheckpointError: the checkpoint cannot be loaded.
    """
    encoder = load_encoder(name, device="cpu")
    if not isinstance(encoder, TransformersEncoder):
        raise SettingError(
            f"--from takes a checkpoint of the CLIP or SigLIP families; {name} is not one of them, so train "
            "without --from"
        )
    return encoder
