"""The frozen dataclasses that travel between modules, and the ``Encoder`` protocol.

Only ``similarity`` (pure NumPy) is imported; no framework, no input or output.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from clipdemo import similarity
from clipdemo.similarity import FloatArray, IntArray


@dataclass(frozen=True, eq=False)
class ImageItem:
    """One usable image.

    Attributes:
        name: file name or URL as the user gave it; untrusted, escape it before showing it.
        sha256: hex digest of the original file's bytes; the image's identity everywhere.
        image: RGB, upright, transparency flattened on white, shrunk to the model copy.
        thumbnail: JPEG bytes, longest side at most 320 pixels; empty where none was asked for.
        width: width of the original, upright, in pixels.
        height: height of the original, upright, in pixels.
        source: "upload", "zip", "url", "camera", "sample" or "bytes".
    """

    name: str
    sha256: str
    image: Image.Image
    thumbnail: bytes
    width: int
    height: int
    source: str


@dataclass(frozen=True)
class Rejected:
    """Something that could not be used, and why, in words.

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
    """What a score must be read against.

    Attributes:
        id: hub name, folder or "embedded".
        revision: hub commit, or "local", or the package versions of the embedded model.
        fingerprint: changes whenever an embedding could change.
        dim: length of an embedding.
        image_size: side of the model's square input in pixels; the embedded model keeps an image's proportions, at as
            many pixels.
        context_length: most tokens of a caption that are read.
        logit_scale: multiplies the cosine before softmax or sigmoid.
        logit_bias: added after scaling by sigmoid checkpoints; None where softmax applies.
        parameters: count of weights.
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
        limit: tokens the checkpoint reads.
        kept: the part of the caption that is read.
        cut: the tail that is not read; empty when all fits.
    """

    used: int
    limit: int
    kept: str
    cut: str


class Encoder(Protocol):
    """Anything that puts images and captions into one space; safe to call from many threads."""

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint behind every embedding this encoder returns."""

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
        """What of ``caption`` is read and what is cut off."""


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """Every image of a workspace against every caption, under one checkpoint.

    Attributes:
        images: the rows.
        captions: the columns.
        cosine: (n_images, n_captions) float32.
        checkpoint: what the cosines must be read against.
    """

    images: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    cosine: FloatArray
    checkpoint: Checkpoint

    def logits(self) -> FloatArray:
        """(n_images, n_captions): logit scale x cosine, plus the bias where there is one."""
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
        index: position of the image or caption in the workspace.
        cosine: with the query.
        percentile: share of the background below this cosine, 0-100.
    """

    rank: int
    index: int
    cosine: float
    percentile: float

    @property
    def whole_percentile(self) -> int:
        """For people: rounded down, so that 100 means above every pair of the background."""
        return math.floor(self.percentile)


@dataclass(frozen=True)
class PairScore:
    """One image with the one caption that belongs to it.

    Attributes:
        row: position of the pair in the input.
        cosine: of the pair.
        rank_of_caption: 1-based rank of the caption among the captions of other images, for this image.
        rank_of_image: 1-based rank of the image among the images of other captions, for this caption.
        truncated: whether the checkpoint cut the caption's tail off.
    """

    row: int
    cosine: float
    rank_of_caption: int
    rank_of_image: int
    truncated: bool
