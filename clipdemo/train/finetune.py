"""A CLIP or SigLIP checkpoint goes on learning: its projections only, or low-rank changes of its attention.

What comes of it is an ordinary checkpoint of the same family in a folder of its own; low-rank changes are
added into its weights. The base is only ever read.
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
from clipdemo.train.learner import Photographs, learning, parameter_groups
from clipdemo.train.loss import sigmoid_loss, softmax_loss

ADAPTS = ("heads", "lora")
RANK, ALPHA = 8, 16.0


class LowRank(nn.Module):
    """A frozen linear layer plus a product of two thin matrices that learns; it starts as the layer alone.

    Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models" (arXiv:2106.09685).
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(torch.empty(RANK, linear.in_features))
        self.up = nn.Parameter(torch.zeros(linear.out_features, RANK))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, rows: Tensor) -> Tensor:
        """What the merged layer gives."""
        out: Tensor = self.linear(rows) + ALPHA / RANK * (rows @ self.down.T @ self.up.T)
        return out

    def merged(self) -> nn.Linear:
        """An ordinary layer that gives the same."""
        plain = copy.deepcopy(self.linear)
        with torch.no_grad():
            plain.weight += ALPHA / RANK * self.up @ self.down
        return plain


class WholeLearner(nn.Module):
    """A whole checkpoint, of which little learns.

    Args:
        base: from :func:`open_base`.
        adapt: "heads" or "lora".
        photographs: the images.
        captions: the texts.
        device: where to train.
    """

    def __init__(
        self,
        base: TransformersEncoder,
        adapt: str,
        photographs: Photographs,
        captions: Sequence[str],
        device: torch.device,
    ) -> None:
        super().__init__()
        self._base, self._photographs, self._captions = base, photographs, captions
        self.model: Any = base.model.requires_grad_(False)
        self._adapters: list[tuple[nn.Module, str, LowRank]] = []
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
        """Of the checkpoint."""
        return self._base.checkpoint.fingerprint

    def begin_epoch(self, epoch: int) -> None:
        """Images are altered; nothing is dropped."""
        self.model.eval()
        self._photographs.epoch = epoch

    def begin_validation(self) -> None:
        """Everything as it will be used."""
        self.model.eval()
        self._photographs.epoch = None

    def embed_images(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows."""
        inputs = to_device(self._base.image_inputs(self._photographs.read(which)), self.log_scale.device)
        return nn.functional.normalize(self.model.get_image_features(**inputs).pooler_output, dim=1)

    def embed_captions(self, which: IntArray) -> Tensor:
        """(len(which), dim) unit rows."""
        inputs = self._base.caption_inputs([self._captions[number] for number in which])
        features = self.model.get_text_features(**to_device(inputs, self.log_scale.device))
        return nn.functional.normalize(features.pooler_output, dim=1)

    def loss(self, cosines: Tensor, same: Tensor) -> Tensor:
        """The loss with which the family was trained."""
        if self._bias is None:
            return softmax_loss(cosines, self.log_scale, same)
        return sigmoid_loss(cosines, self.log_scale, self._bias, same)

    def groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """All at the same rate."""
        return parameter_groups(self.model, learning_rate)

    def learned(self) -> dict[str, Tensor]:
        """The parameters that learn, by name."""
        return learning(self)

    def clamp(self) -> None:
        """CLIP's bounds; SigLIP was trained without, and beyond them."""
        if self._bias is None:
            with torch.no_grad():
                self.log_scale.clamp_(0, math.log(MAX_SCALE))

    def save(self, folder: Path) -> None:
        """An ordinary checkpoint in ``folder``; each file takes its place at once, ``config.json`` last."""
        fresh = folder / "new"
        shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
        with self._merged():
            self._base.save(fresh)
        for file in sorted(fresh.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, folder / file.name)
        fresh.rmdir()

    def _insert_adapters(self) -> None:
        for parent in list(self.model.modules()):
            for name, child in list(parent.named_children()):
                if name in self._base.family.lora_layers and isinstance(child, nn.Linear):
                    adapter = LowRank(child)
                    setattr(parent, name, adapter)
                    self._adapters.append((parent, name, adapter))

    @contextmanager
    def _merged(self) -> Iterator[None]:
        """The model with ordinary layers, for as long as it is written."""
        for parent, name, adapter in self._adapters:
            setattr(parent, name, adapter.merged())
        try:
            yield
        finally:
            for parent, name, adapter in self._adapters:
                setattr(parent, name, adapter)


def open_base(name: str) -> TransformersEncoder:
    """The checkpoint to start from, on the CPU and in float32.

    Raises:
        SettingError: one that is not of the CLIP or SigLIP families.
        CheckpointError: one that cannot be had.
    """
    encoder = load_encoder(name, device="cpu")
    if not isinstance(encoder, TransformersEncoder):
        raise SettingError(
            f"--from takes a checkpoint of the CLIP or SigLIP families; {name} is none, so train it anew instead"
        )
    return encoder
