"""The frozen dataclasses that travel between modules, and the ``Encoder`` protocol.

Depends only on ``similarity`` (pure NumPy), ``errors`` and ``view``: without frameworks, files or network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from clipdemo import similarity
from clipdemo.errors import ImageError
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.view import TowerView, seen


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One usable image.

    Attributes:
        name: file name or URL as the user gave it; untrusted, escape it before showing it.
        sha256: hex digest of the original file's bytes; identifies the image everywhere.
        image: RGB, upright, transparency flattened on white; shrunk to the model copy, which every checkpoint
            can use, or prepared for one ``view``.
        thumbnail: JPEG bytes, longest side at most 320 pixels; may be empty.
        width: of the upright original, in pixels.
        height: of the upright original, in pixels.
        source: "upload", "zip", "url", "camera", "sample" or "bytes".
        view: what ``image`` was prepared for; None if it is the model copy.
    """

    name: str
    sha256: str
    image: Image.Image
    thumbnail: bytes
    width: int
    height: int
    source: str
    view: TowerView | None = None

    def seen_by(self, view: TowerView | None) -> Image.Image:
        """The input of a tower with this view; the model copy where only a processor knows its input.

        Raises:
            ImageError: the image was prepared for a different view.
        """
        if self.view is None:
            return seen(self.image, view)
        if self.view != view:
            raise ImageError("the image was prepared for another checkpoint; decode it again without a view")
        return self.image


@dataclass(frozen=True)
class Rejected:
    """An image, row or file that could not be used, and why.

    Attributes:
        name: file name or URL as the user gave it; untrusted.
        verdict: a label of one to three words, such as "not an image" or "duplicate".
        reason: one sentence: what was wrong and what to do.
        source: as in :class:`ImageItem`.
    """

    name: str
    verdict: str
    reason: str
    source: str


@dataclass(frozen=True)
class Checkpoint:
    """Identifies the model behind a score, and how its scores are scaled.

    Attributes:
        id: hub name, folder or "embedded".
        revision: hub commit, or "local", or the package versions of the embedded model.
        fingerprint: changes whenever an embedding could change.
        dim: of an embedding.
        image_size: side of the square input in pixels; the embedded model keeps the proportions, at as many
            pixels.
        context_length: tokens of a caption that are read, special tokens included.
        logit_scale: multiplies the cosine before softmax or sigmoid.
        logit_bias: added after scaling by sigmoid checkpoints; None where softmax applies.
        parameters: number of weights.
        source: "embedded", "hub" or "folder".
    """

    id: str
    revision: str
    fingerprint: str
    dim: int
    image_size: int
    context_length: int
    logit_scale: float
    logit_bias: float | None
    parameters: int
    source: str


@dataclass(frozen=True)
class CaptionTokens:
    """How much of a caption the checkpoint reads.

    Attributes:
        used: tokens of the whole caption, special tokens included.
        limit: tokens that the checkpoint reads.
        kept: the part of the caption that is read.
        cut: the rest; empty when the caption fits.
    """

    used: int
    limit: int
    kept: str
    cut: str


class Encoder(Protocol):
    """Maps images and captions into one embedding space; safe to call from many threads."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint behind every embedding this encoder returns."""

    @property
    def view(self) -> TowerView | None:
        """What ``decode_image`` may prepare images for; None takes model copies only."""

    @property
    def device(self) -> str:
        """Where the forward pass runs: "cpu", "cuda" or "mps"."""

    @property
    def dtype(self) -> str:
        """Of the weights and the forward pass: "float32" or "float16"."""

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) float32 unit rows."""

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) float32 unit rows."""

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """Which part of ``caption`` is read, and which is cut off."""


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Every image of a workspace against every caption, under one checkpoint.

    Attributes:
        images: the rows.
        captions: the columns.
        cosine: (n_images, n_captions) float32.
        checkpoint: the model that the cosines belong to.
    """

    images: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    cosine: FloatArray
    checkpoint: Checkpoint

    def logits(self) -> FloatArray:
        """(n_images, n_captions): logit scale x cosine, plus the bias of a sigmoid checkpoint."""
        return similarity.logits(self.cosine, self.checkpoint.logit_scale, self.checkpoint.logit_bias)

    def probabilities(self) -> FloatArray:
        """(n_images, n_captions): CLIP's share among these captions, or SigLIP's sigmoid per pair."""
        if self.checkpoint.logit_bias is None:
            return similarity.softmax(self.logits(), axis=1)
        return similarity.sigmoid(self.logits())

    def ranks(self, *, of: str) -> IntArray:
        """1-based ranks, (n_images, n_captions); ties keep input order.

        Args:
            of: "images" ranks the images of each caption, "captions" the captions of each image.
        """
        return similarity.ranks(self.cosine, axis={"images": 0, "captions": 1}[of])


@dataclass(frozen=True)
class Hit:
    """One line of a ranking.

    Attributes:
        rank: 1 is best.
        index: of the image or caption in the workspace.
        cosine: with the query.
        percentile: share of the background below this cosine, 0-100.
    """

    rank: int
    index: int
    cosine: float
    percentile: float

    @property
    def whole_percentile(self) -> int:
        """Rounded down, so that 100 means above every pair of the background."""
        return math.floor(self.percentile)


@dataclass(frozen=True)
class PairScore:
    """One image scored with the caption that belongs to it.

    Attributes:
        row: position of the pair in the input.
        rank_of_caption: 1-based rank of the caption among the captions of other images, for this image.
        rank_of_image: 1-based rank of the image among the images of other captions, for this caption.
        truncated: whether the checkpoint cut off the end of the caption.
    """

    row: int
    cosine: float
    rank_of_caption: int
    rank_of_image: int
    truncated: bool
