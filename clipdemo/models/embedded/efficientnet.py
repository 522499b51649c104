"""EfficientNet-Lite0, the image tower of the embedded model.

Source: Tan and Le 2019, "EfficientNet" (arXiv:1905.11946), table 1, in the Lite variant of TensorFlow's
reference implementation (``efficientnet_lite_builder.py``): without squeeze-and-excitation, and with ReLU6
instead of swish. Layers have the names of the published weights file. Its dropouts are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

STEM_CHANNELS, HEAD_CHANNELS, CLASSES = 32, 1280, 1000


class Stage(NamedTuple):
    """A sequence of blocks; only the first one has the stride and changes the number of channels."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


STAGES = (
    Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)


class Convolution(nn.Conv2d):
    """A convolution without bias, padded as TensorFlow's "SAME" pads inputs with even sides."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before, uneven = divmod(kernel - stride, 2)
        padding = 0 if uneven else before
        super().__init__(inputs, outputs, kernel, stride, padding=padding, groups=groups, bias=False)
        # With stride 2, one more column at the right and one more row at the bottom.
        self.uneven_padding = (before, before + 1, before, before + 1) if uneven else None

    def forward(self, hidden: Tensor) -> Tensor:
        """(n, outputs, height / stride, width / stride) of (n, inputs, height, width)."""
        if self.uneven_padding:
            hidden = nn.functional.pad(hidden, self.uneven_padding)
        return super().forward(hidden)


class Block(nn.Module):
    """An inverted residual: 1 x 1 expansion, depthwise convolution, 1 x 1 projection."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        width = inputs * stage.expansion
        self.residual = stride == 1 and inputs == stage.channels
        if stage.expansion > 1:
            self._expand_conv = Convolution(inputs, width, 1)
            self._bn0 = _norm(width)
        self.expands = stage.expansion > 1
        self._depthwise_conv = Convolution(width, width, stage.kernel, stride, groups=width)
        self._bn1 = _norm(width)
        self._project_conv = Convolution(width, stage.channels, 1)
        self._bn2 = _norm(stage.channels)
        self.relu = nn.ReLU6()

    def forward(self, inputs: Tensor) -> Tensor:
        """(n, channels, height / stride, width / stride) of (n, inputs, height, width)."""
        hidden = inputs
        if self.expands:
            hidden = self.relu(self._bn0(self._expand_conv(hidden)))
        hidden = self.relu(self._bn1(self._depthwise_conv(hidden)))
        hidden = self._bn2(self._project_conv(hidden))
        output: Tensor = hidden + inputs if self.residual else hidden
        return output


class EfficientNetLite0(nn.Module):
    """The network with new weights; both sides of its inputs must be multiples of 32."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = Convolution(3, STEM_CHANNELS, 3, stride=2)
        self._bn0 = _norm(STEM_CHANNELS)
        self._blocks = nn.ModuleList()
        channels = STEM_CHANNELS
        for stage in STAGES:
            for repeat in range(stage.repeats):
                self._blocks.append(Block(channels, stage, 1 if repeat else stage.stride))
                channels = stage.channels
        self._conv_head = Convolution(channels, HEAD_CHANNELS, 1)
        self._bn1 = _norm(HEAD_CHANNELS)
        self._fc = nn.Linear(HEAD_CHANNELS, CLASSES)
        self.relu = nn.ReLU6()

    def forward(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features and class logits of images.

        The two blocks before the head add textures and parts, which the head discards for its classes.

        Args:
            views: (n, 3, height, width), as (level - 127) / 128.

        Returns:
            (n, 1792) features, the means over all positions: 1280 of the head, 320 and 192 of the two blocks
            before it; and (n, 1000) ImageNet-1k logits.
        """
        hidden = self.relu(self._bn0(self._conv_stem(views.to(memory_format=torch.channels_last))))
        *blocks, last_block = self._blocks
        for block in blocks:
            hidden = block(hidden)
        final = last_block(hidden)
        head = self.relu(self._bn1(self._conv_head(final))).mean(dim=(2, 3))
        features = torch.cat([head, final.mean(dim=(2, 3)), hidden.mean(dim=(2, 3))], dim=1)
        return features, self.classify(head)

    def classify(self, head: Tensor) -> Tensor:
        """(n, 1000) ImageNet-1k logits of the first 1280 features, (n, 1280)."""
        logits: Tensor = self._fc(head)
        return logits

    def fuse_batch_norms(self) -> EfficientNetLite0:
        """Fold batch norms into the convolutions before them, in place (inference only).

        Also lets ReLU6 work in place. The outputs stay the same to 1e-4 and take two thirds of the time.
        """
        _fuse(self, "_conv_stem", "_bn0")
        _fuse(self, "_conv_head", "_bn1")
        self.relu = nn.ReLU6(inplace=True)
        for block in self._blocks:
            if block.expands:
                _fuse(block, "_expand_conv", "_bn0")
            _fuse(block, "_depthwise_conv", "_bn1")
            _fuse(block, "_project_conv", "_bn2")
            block.relu = nn.ReLU6(inplace=True)
        return self.to_channels_last()

    def to_channels_last(self) -> EfficientNetLite0:
        """Lay the weights out, in place, as convolutions on a CPU read them fastest."""
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's types
        return self


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _fuse(module: nn.Module, convolution: str, norm: str) -> None:
    setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
    setattr(module, norm, nn.Identity())
