"""The head of the embedded model: a learned projection of image features into caption space, and local scaling.

Ridge regression maps the image tower's features to the mean embedding of a photograph's captions; the ConSE
embedding is added, so that words which no training caption used keep working. Captions keep their tower's space,
centred. Local scaling then lowers hubs, which are close to everything: the mean cosine with the nearest prototypes
of the other side is subtracted as far as it exceeds the average (after CSLS: Conneau et al. 2018, "Word Translation
Without Parallel Data", arXiv:1710.04087, eq. 4, which also raises what is close to nothing, nonsense included). It is
carried in two more dimensions, so that a score stays the cosine of two embeddings.
``python -m clipdemo.train.embedded`` learns it. NumPy only.
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
PRIOR = 0.3  # how much of the ConSE embedding is added to a projection of length one
NEAREST = 5  # prototypes that say how crowded a place is
SCALING = 0.7  # how much of the excess is subtracted from a cosine
SHARED = 0.4  # the number that carries the other side's excess into the product
WIDTHS = (1280, 1000, 320, 192)  # of the blocks that are projected
RECIPE = f"square roots of 1280 pooled and 1000 shares, 320, 192; {PRIOR} {NEAREST} {SCALING} {SHARED}; 1"


@dataclass(frozen=True, eq=False)
class Projection:
    """What was learned; float32 arrays.

    Attributes:
        mean: (2792,) of the inputs.
        deviation: (2792,) of the inputs.
        weights: (2792, 384) from standardised inputs to caption space.
        prior_centre: (384,) mean ConSE embedding.
        caption_centre: (384,) mean caption embedding.
        image_prototypes: (n, 384) unit rows, what images look like.
        caption_prototypes: (n, 384) unit rows, what captions say.
        density: (2,) mean density of images and of captions.
        logit_scale: (1,) what cosines are multiplied with before a softmax.
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
        return _with(rows, -SCALING / SHARED * excess, np.full_like(excess, SHARED))

    def embed_captions(self, sentences: FloatArray) -> FloatArray:
        """(n, 386) unit rows of the text tower's (n, 384) unit rows."""
        rows = similarity.unit(sentences - self.caption_centre)
        excess = np.maximum(density(rows, self.image_prototypes) - self.density[1], 0)
        return _with(rows, np.full_like(excess, SHARED), -SCALING / SHARED * excess)

    def project(self, features: FloatArray, class_logits: FloatArray) -> FloatArray:
        """(n, 384) unit rows in caption space, before local scaling; arguments as of :func:`inputs`."""
        projected = standardised(inputs(features, class_logits), self.mean, self.deviation) @ self.weights
        prior = similarity.unit(conse.embed_images(class_logits) - self.prior_centre)
        return similarity.unit(projected + np.float32(PRIOR) * prior)

    def save(self, path: Path) -> None:
        """Write in half precision."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}
        save_file({name: np.ascontiguousarray(array, np.float16) for name, array in arrays.items()}, path)


def load(path: Path = HEAD) -> Projection:
    """Read what :meth:`Projection.save` wrote.

    Raises:
        CorruptCheckpointError: a file that is missing or broken.
    """
    try:
        arrays = load_file(path)
        head = Projection(**{name: array.astype(np.float32) for name, array in arrays.items()})
    except (OSError, SafetensorError, TypeError) as error:
        raise CorruptCheckpointError(conse.BROKEN.format(path.name)) from error
    wide, dim = sum(WIDTHS), conse.DIM
    shapes = [
        array.shape for array in (head.mean, head.deviation, head.weights, head.density, head.logit_scale)
    ]
    rows = (head.prior_centre, head.caption_centre, head.image_prototypes, head.caption_prototypes)
    if shapes != [(wide,), (wide,), (wide, dim), (2,), (1,)] or any(each.shape[-1] != dim for each in rows):
        raise CorruptCheckpointError(conse.BROKEN.format(path.name))
    return head


@cache
def shipped() -> Projection:
    """The head that lies beside this file."""
    return load()


def fingerprint() -> str:
    """Changes whenever the shipped head could give another embedding.

    Raises:
        CorruptCheckpointError: it is missing.
    """
    recipe = f"{RECIPE} {conse.fingerprint()}".encode()
    try:
        return hashlib.sha256(recipe + HEAD.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(conse.BROKEN.format(HEAD.name)) from error


def inputs(features: FloatArray, class_logits: FloatArray) -> list[FloatArray]:
    """What the projection reads, block by block; square roots keep a few loud numbers from drowning the others.

    Args:
        features: (n, 1792) pooled features: 1280 of the head, 320 and 192 of the two blocks before it.
        class_logits: (n, 1000) ImageNet-1k logits.
    """
    loud, last, before = np.split(features, [1280, 1600], axis=1)
    return [np.sqrt(np.maximum(loud, 0)), np.sqrt(similarity.softmax(class_logits)), last, before]


def standardised(blocks: list[FloatArray], mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """(n, 2792): every block standardised, and of the same length in every row."""
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = zip(blocks, np.split(mean, ends), np.split(deviation, ends), strict=True)
    rows = [similarity.unit((block - middle) / spread) for block, middle, spread in parts]
    out: FloatArray = np.concatenate(rows, axis=1) / np.float32(np.sqrt(len(blocks)))
    return out


def density(rows: FloatArray, prototypes: FloatArray) -> FloatArray:
    """(n,) mean cosine of each unit row with its nearest prototypes."""
    nearest = np.sort(rows @ prototypes.T, axis=1)[:, -NEAREST:]
    out: FloatArray = nearest.mean(axis=1)
    return out


def _with(rows: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    return similarity.unit(np.concatenate([rows, first[:, None], second[:, None]], axis=1))
