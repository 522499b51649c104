"""Cosine, logits, softmax, sigmoid, percentiles and stable ranks of embeddings: NumPy in, NumPy out.

Every figure of the app starts in this file, so it imports nothing but NumPy.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def unit(rows: npt.ArrayLike) -> FloatArray:
    """Scale every row to length one.

    The norm is computed in float64; in float32, rows of tiny values would not get unit length.

    Args:
        rows: (n, dim) or (dim,) real numbers.

    Returns:
        The same shape, float32; a row of zeros stays zero.
    """
    wide = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(norms == 0, 1, norms)).astype(np.float32)


def cosine(images: FloatArray, captions: FloatArray) -> FloatArray:
    """Cosine of every image with every caption.

    Args:
        images: (n_images, dim) unit rows.
        captions: (n_captions, dim) unit rows.

    Returns:
        (n_images, n_captions) float32 in [-1, 1].
    """
    products: FloatArray = images @ captions.T
    return products.clip(-1, 1)


def logits(cosines: FloatArray, scale: float, bias: float | None = None) -> FloatArray:
    """The values that the checkpoint was trained on: ``scale * cosine (+ bias)``.

    Source: Radford et al. 2021, fig. 3 (scale); Zhai et al. 2023, alg. 1 (scale and bias).
    """
    return (cosines * np.float32(scale) + np.float32(bias or 0)).astype(np.float32)


def softmax(values: FloatArray, axis: int = -1) -> FloatArray:
    """Shares along ``axis`` that sum to one; subtracts the maximum first to avoid overflow."""
    wide = values.astype(np.float64)
    powers = np.exp(wide - wide.max(axis=axis, keepdims=True)) if wide.size else wide
    shares: FloatArray = (powers / powers.sum(axis=axis, keepdims=True)).astype(np.float32)
    return shares


def sigmoid(values: FloatArray) -> FloatArray:
    """Logistic function of each value, without overflow at either end."""
    wide = values.astype(np.float64)
    small = np.exp(-np.abs(wide))
    return np.where(wide >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def order(scores: FloatArray) -> IntArray:
    """Indices of a vector of scores, best first; ties keep their input order."""
    return np.argsort(-scores, kind="stable").astype(np.int64)


def ranks(scores: FloatArray, axis: int) -> IntArray:
    """1-based rank of every score along ``axis``, best first; ties keep their input order.

    Args:
        scores: (n_images, n_captions).
        axis: 0 ranks the images of each caption, 1 the captions of each image.

    Returns:
        The same shape, int64; along ``axis``, each of 1..n occurs once.
    """
    by_score = np.argsort(-scores, axis=axis, kind="stable")
    return (np.argsort(by_score, axis=axis, kind="stable") + 1).astype(np.int64)


def percentile(scores: npt.ArrayLike, background: npt.ArrayLike) -> FloatArray:
    """Percentage of the background below each score; a tie counts half.

    Source: the mid-rank percentile (``scipy.stats.percentileofscore(kind="mean")``).

    Args:
        scores: any shape.
        background: any shape, at least one value.

    Returns:
        The shape of ``scores``, float32 in [0, 100].
    """
    ordered = np.sort(np.asarray(background, dtype=np.float32), axis=None)
    values = np.asarray(scores, dtype=np.float32)
    below = np.searchsorted(ordered, values, side="left")
    up_to = np.searchsorted(ordered, values, side="right")
    return ((below + up_to) * (50 / ordered.size)).astype(np.float32)
