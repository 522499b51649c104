"""ConSE, which maps images into the text space without training; ``projection`` adds a learned map to it.

Source: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings"
(arXiv:1312.5650): the embedding of an image is the probability-weighted mean of the text embeddings of its
top-k class names. Both sides are centred on the mean class embedding, which moves unrelated images and texts
apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from clipdemo import similarity
from clipdemo.errors import CorruptCheckpointError
from clipdemo.similarity import FloatArray

DIM = 384
TOP_K = 50
CLASS_TEMPLATE = "a photo of a {}"
DATA = Path(__file__).parent
CLASS_NAMES = DATA / "imagenet_classnames.txt"
CLASS_EMBEDDINGS = DATA / "class_embeddings.npy"
BROKEN = "{} of the embedded model is missing or broken; reinstall clipdemo, or check out its folder again"


def embed_images(class_logits: FloatArray) -> FloatArray:
    """(n, 384) unit rows of images from their (n, 1000) ImageNet-1k logits."""
    shares = similarity.softmax(class_logits)
    threshold = np.sort(shares, axis=1)[:, -TOP_K, None]
    top = np.where(shares >= threshold, shares, 0)
    return similarity.unit(top / top.sum(axis=1, keepdims=True) @ (_classes() - centre()))


def centre() -> FloatArray:
    """(384,) mean of the class embeddings, which is subtracted on both sides."""
    mean: FloatArray = _classes().mean(axis=0)
    return mean


def fingerprint() -> str:
    """Changes whenever an embedding of this module could.

    Raises:
        CorruptCheckpointError: the class embeddings are missing.
    """
    recipe = f"conse {TOP_K} {CLASS_TEMPLATE}".encode()
    try:
        return hashlib.sha256(recipe + CLASS_EMBEDDINGS.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(BROKEN.format(CLASS_EMBEDDINGS.name)) from error


def build(encode_sentences: Callable[[Sequence[str]], FloatArray]) -> None:
    """Write the class embeddings again, with this text tower."""
    names = CLASS_NAMES.read_text("utf-8").splitlines()
    rows = encode_sentences([CLASS_TEMPLATE.format(name) for name in names])
    np.save(CLASS_EMBEDDINGS, rows.astype(np.float16))
    _classes.cache_clear()


@cache
def _classes() -> FloatArray:
    """(1000, 384) text embeddings of the ImageNet-1k class names."""
    try:
        rows: FloatArray = np.load(CLASS_EMBEDDINGS, allow_pickle=False).astype(np.float32)
    except (OSError, ValueError, EOFError) as error:
        raise CorruptCheckpointError(BROKEN.format(CLASS_EMBEDDINGS.name)) from error
    return rows
