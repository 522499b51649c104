"""ConSE, which joins two towers without training; ``projection`` adds to it what was learned.

Source: Norouzi et al. 2014, "Zero-Shot Learning by Convex Combination of Semantic Embeddings"
(arXiv:1312.5650): an image's embedding is the probability-weighted mean of the text embeddings of its
top-k class names. Both sides are centred on the mean class embedding, so that unlike things are far apart.
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
BROKEN = "{} of the embedded model is missing or broken; get clipdemo's folder anew"


def embed_images(class_logits: FloatArray) -> FloatArray:
    """(n, 384) unit rows of images from their (n, 1000) ImageNet-1k logits."""
    shares = similarity.softmax(class_logits)
    weakest_kept = np.sort(shares, axis=1)[:, -TOP_K, None]
    kept = np.where(shares >= weakest_kept, shares, 0)
    return similarity.unit(kept / kept.sum(axis=1, keepdims=True) @ (_classes() - centre()))


def centre() -> FloatArray:
    """(384,) mean of the class embeddings; both sides are seen from there."""
    middle: FloatArray = _classes().mean(axis=0)
    return middle


def fingerprint() -> str:
    """Changes whenever this head could give another embedding.

    Raises:
        CorruptCheckpointError: its file is missing.
    """
    recipe = f"conse {TOP_K} {CLASS_TEMPLATE}".encode()
    try:
        return hashlib.sha256(recipe + CLASS_EMBEDDINGS.read_bytes()).hexdigest()
    except OSError as error:
        raise CorruptCheckpointError(BROKEN.format(CLASS_EMBEDDINGS.name)) from error


def build(encode_sentences: Callable[[Sequence[str]], FloatArray]) -> None:
    """Write the class embeddings anew with the text tower given."""
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
