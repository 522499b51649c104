"""The heads that map two towers into one space: one on each side, and a learned logit scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

LOCKED = "locked"
MAX_SCALE = 100.0  # Radford et al. 2021, section 2.5: the logit scale is clamped there


@dataclass(frozen=True)
class HeadConfig:
    """The head of one side.

    Attributes:
        kind: "linear", "projection", or "locked" for a side that has a prior and is not trained.
        inputs: length of the tower's features.
        dim: length of an embedding.
        prior: whether the last ``dim`` features are an embedding in the shared space already; the head then
            learns an addition to it, and an untrained head leaves it unchanged.
        dropout: share of values dropped during training.
    """

    kind: str
    inputs: int
    dim: int
    prior: bool
    dropout: float


class Head(nn.Module):
    """Maps features to unit embeddings; standardises the features first."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(config.inputs))
        self.register_buffer("deviation", torch.ones(config.inputs))
        self.mean: Tensor
        self.deviation: Tensor
        self.body = {"linear": _Linear, "projection": _Projection, LOCKED: _Locked}[config.kind](config)

    def fit(self, features: Tensor) -> None:
        """Take mean and deviation from the (n, inputs) features of the training split."""
        deviation = features.std(dim=0, correction=0)
        self.mean.copy_(features.mean(dim=0))
        # The floor keeps nearly constant features from being blown up.
        self.deviation.copy_(deviation + 0.1 * deviation.mean() + 1e-6)

    def forward(self, features: Tensor) -> Tensor:
        """(n, dim) unit rows of (n, inputs) features."""
        out = self.body((features - self.mean) / self.deviation)
        if self.config.prior:
            out = out + features[:, -self.config.dim :]
        return nn.functional.normalize(out, dim=1)


class _Locked(nn.Module):
    """Adds nothing to the prior."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.dim = config.dim

    def forward(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), self.dim)


class _Linear(nn.Module):
    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(config.inputs, config.dim)
        if config.prior:
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)

    def forward(self, features: Tensor) -> Tensor:
        out: Tensor = self.project(self.dropout(features))
        return out


class _Projection(nn.Module):
    """Linear, GELU, linear, dropout, residual, layer norm: the head of small CLIPs in the literature."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.project = nn.Linear(config.inputs, config.dim)
        self.mix = nn.Linear(config.dim, config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.norm = nn.LayerNorm(config.dim)
        if config.prior:
            nn.init.zeros_(self.norm.weight)

    def forward(self, features: Tensor) -> Tensor:
        projected = self.project(features)
        out: Tensor = self.norm(projected + self.dropout(self.mix(nn.functional.gelu(projected))))
        return out


class Heads(nn.Module):
    """Both sides' heads and the logarithm of the logit scale."""

    def __init__(self, image: HeadConfig, caption: HeadConfig, scale: float) -> None:
        super().__init__()
        self.image, self.caption = Head(image), Head(caption)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def clamp(self) -> None:
        """Clamp the logit scale between 1 and ``MAX_SCALE``."""
        with torch.no_grad():
            self.log_scale.clamp_(0, math.log(MAX_SCALE))
