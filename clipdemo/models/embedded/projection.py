"""The head of the embedded model: a learned projection of images into caption space, and local scaling.

Ridge regression maps the features of an image to the mean embedding of its captions. The ConSE embedding is
added, so that words outside the training captions keep working. Captions stay in the space of their tower,
centred. Local scaling then lowers hubs, which are close to everything: the mean cosine with the nearest
prototypes of the other side is subtracted as far as it exceeds the average (after CSLS: Conneau et al. 2018,
"Word Translation Without Parallel Data", arXiv:1710.04087, eq. 4, which also raises what is close to nothing,
including nonsense). Two extra dimensions carry it, so that a score stays the cosine of two embeddings.
``python -m clipdemo.train.embedded`` trains it. NumPy only.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from clipdemo import similarity
from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.embedded import conse
from clipdemo.similarity import FloatArray

DIM = conse.DIM + 2
HEAD = conse.DATA / "head.safetensors"
PRIOR = 0.3  # weight of the ConSE embedding; the projection has length one
NEAREST = 5  # prototypes over which a density is averaged
SCALING = 0.7  # share of the excess that is subtracted from a cosine
SHARED = 0.4  # the constant that multiplies the other side's excess in the dot product
WIDTHS = (1280, 1000, 320, 192)  # of the projected feature blocks
RECIPE = f"square roots of 1280 pooled and 1000 shares, 320, 192; {PRIOR} {NEAREST} {SCALING} {SHARED}; 1"


@dataclass(frozen=True, eq=False)
class Projection:
    """The trained head; float32 arrays.

    Attributes:
        mean: (2792,) of the inputs.
        deviation: (2792,) standard deviation of the inputs.
        weights: (2792, 384) from standardised inputs to caption space.
        prior_centre: (384,) mean ConSE embedding.
        caption_centre: (384,) mean caption embedding.
        image_prototypes: (n, 384) unit rows, cluster centres of projected images.
        caption_prototypes: (n, 384) unit rows, cluster centres of captions.
        density: (2,) mean density of images and of captions.
        logit_scale: (1,) factor of the cosines before a softmax.
    """

    mean: FloatArray
    deviation: FloatArray
    weights: FloatArray
    prior_centre: FloatArray
    caption_centre: FloatArray
    image_prototypes: FloatArray
    caption_prototypes: FloatArray
    density: FloatArray
    logit_scale: FloatArray

    def embed_images(self, features: FloatArray, class_logits: FloatArray) -> FloatArray:
        """(n, 386) unit rows; arguments as of :func:`inputs`."""
        rows = self.project(features, class_logits)
        excess = np.maximum(density(rows, self.caption_prototypes) - self.density[0], 0)
        return _append(rows, -SCALING / SHARED * excess, np.full_like(excess, SHARED))

    def embed_captions(self, sentences: FloatArray) -> FloatArray:
        """(n, 386) unit rows of the text tower's (n, 384) unit rows."""
        rows = similarity.unit(sentences - self.caption_centre)
        excess = np.maximum(density(rows, self.image_prototypes) - self.density[1], 0)
        return _append(rows, np.full_like(excess, SHARED), -SCALING / SHARED * excess)

    def project(self, features: FloatArray, class_logits: FloatArray) -> FloatArray:
        """(n, 384) unit rows in caption space, before local scaling; arguments as of :func:`inputs`."""
        projected = standardise(inputs(features, class_logits), self.mean, self.deviation) @ self.weights
        prior = similarity.unit(conse.embed_images(class_logits) - self.prior_centre)
        return similarity.unit(projected + np.float32(PRIOR) * prior)

    def save(self, path: Path) -> None:
        """Write in half precision."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        save_file({name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}, path)


def load(path: Path = HEAD) -> Projection:
    """Read what :meth:`Projection.save` wrote.

    Raises:
        CorruptCheckpointError: the file is missing or broken.
    """
    try:
        arrays = load_file(path)
        head = Projection(**{name: array.astype(np.float32) for name, array in arrays.items()})
    except (OSError, SafetensorError, TypeError) as error:
        raise CorruptCheckpointError(conse.BROKEN.format(path.name)) from error
    width, dim = sum(WIDTHS), conse.DIM
    fixed = (head.mean, head.deviation, head.weights, head.density, head.logit_scale)
    rows = (head.prior_centre, head.caption_centre, head.image_prototypes, head.caption_prototypes)
    shapes = [array.shape for array in fixed]
    if shapes != [(width,), (width,), (width, dim), (2,), (1,)] or any(a.shape[-1] != dim for a in rows):
        raise CorruptCheckpointError(conse.BROKEN.format(path.name))
    return head


@cache
def shipped() -> Projection:
    """The head in this package, loaded once."""
    return load()


def fingerprint() -> str:
    """Changes whenever an embedding of the shipped head could.

    Raises:
        CorruptCheckpointError: its file is missing.
    """
    recipe = f"{RECIPE} {conse.fingerprint()}".encode()
    try:
        return hashlib.sha256(recipe + HEAD.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(conse.BROKEN.format(HEAD.name)) from error


def inputs(features: FloatArray, class_logits: FloatArray) -> list[FloatArray]:
    """The input blocks of the projection; square roots keep a few large values from dominating.

    Args:
        features: (n, 1792) pooled features: 1280 of the head, 320 and 192 of the two blocks before it.
        class_logits: (n, 1000) ImageNet-1k logits.
    """
    head, last, before_last = np.split(features, [1280, 1600], axis=1)
    return [np.sqrt(np.maximum(head, 0)), np.sqrt(similarity.softmax(class_logits)), last, before_last]


def standardise(blocks: list[FloatArray], mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """(n, 2792): each block standardised and scaled to the same length in every row."""
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = zip(blocks, np.split(mean, ends), np.split(deviation, ends), strict=True)
    rows = [similarity.unit((block - centre) / spread) for block, centre, spread in parts]
    out: FloatArray = np.concatenate(rows, axis=1) / np.float32(np.sqrt(len(blocks)))
    return out


def density(rows: FloatArray, prototypes: FloatArray) -> FloatArray:
    """(n,) mean cosine of each unit row with its nearest prototypes."""
    nearest = np.sort(rows @ prototypes.T, axis=1)[:, -NEAREST:]
    out: FloatArray = nearest.mean(axis=1)
    return out


def _append(rows: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    return similarity.unit(np.concatenate([rows, first[:, None], second[:, None]], axis=1))
