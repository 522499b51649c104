"""Retrieval figures of image,caption pairs with their uncertainty. NumPy only; no torch, no files.

Text to image: each distinct caption asks for its images. Image to text: each distinct image asks for its
captions, and any of them counts. Ranks are among rivals, as everywhere: a query's other right answers never
stand in its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipdemo.scoring import metrics
from clipdemo.scoring.rivals import BLOCK, find_rivals
from clipdemo.similarity import FloatArray, IntArray

CUTS = (1, 5, 10)
DRAWS = 1000
_SOME = 50  # draws at a time, so that memory stays small


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % bootstrap interval; images are drawn again, with their captions."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Direction:
    """One direction of retrieval.

    Attributes:
        queries: how many ask.
        candidates: how many may be found.
        recall: k -> recall@k, 0 to 1.
        mean_reciprocal_rank: of the best right answer.
        median_rank: of the best right answer.
    """

    queries: int
    candidates: int
    recall: dict[int, Figure]
    mean_reciprocal_rank: Figure
    median_rank: Figure


@dataclass(frozen=True)
class Evaluation:
    """Both directions over one set of images and captions."""

    images: int
    captions: int
    text_to_image: Direction
    image_to_text: Direction


def best_ranks(images: FloatArray, captions: FloatArray, pairs: IntArray) -> tuple[IntArray, IntArray]:
    """The 1-based rank of each query's best right answer.

    Args:
        images: (n_images, dim) unit rows; each is in a pair.
        captions: (n_captions, dim) unit rows; each is in a pair.
        pairs: (n_pairs, 2) which image and caption belong together.

    Returns:
        (n_images,) among captions, and (n_captions,) among images.
    """

    def blocks(rows: FloatArray) -> Iterator[FloatArray]:
        return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))

    cosines = np.einsum("nd,nd->n", images[pairs[:, 0]], captions[pairs[:, 1]])
    shape = len(images), len(captions)
    found = find_rivals(lambda: blocks(images), lambda: blocks(captions), shape, pairs, cosines)
    of_images = np.full(len(images), np.iinfo(np.int64).max)
    of_captions = np.full(len(captions), np.iinfo(np.int64).max)
    np.minimum.at(of_images, pairs[:, 0], found.rank_of_caption)
    np.minimum.at(of_captions, pairs[:, 1], found.rank_of_image)
    return of_images, of_captions


def mean_recall(images: FloatArray, captions: FloatArray, pairs: IntArray) -> float:
    """Mean of recall@1, @5 and @10 of both directions, 0 to 1: the one figure to choose by."""
    ranks = best_ranks(images, captions, pairs)
    return float(np.mean([metrics.recall_at_k(one, k) for one in ranks for k in CUTS]))


def evaluate(images: FloatArray, captions: FloatArray, pairs: IntArray, seed: int = 0) -> Evaluation:
    """Every figure of both directions.

    Args:
        images: (n_images, dim) unit rows; each is in a pair.
        captions: (n_captions, dim) unit rows; each is in a pair.
        pairs: (n_pairs, 2) which image and caption belong together.
        seed: of the bootstrap.
    """
    of_images, of_captions = best_ranks(images, captions, pairs)
    # A caption of several images is drawn with the first of them.
    home = np.full(len(captions), len(images))
    np.minimum.at(home, pairs[:, 1], pairs[:, 0])
    return Evaluation(
        len(images),
        len(captions),
        _direction(of_captions, home, len(images), len(images), seed),
        _direction(of_images, np.arange(len(images)), len(images), len(captions), seed),
    )


def _direction(ranks: IntArray, home: IntArray, images: int, candidates: int, seed: int) -> Direction:
    """Figures of the ``ranks`` of queries, each of which belongs to the image ``home``."""
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    columns = np.stack([*(ordered <= k for k in CUTS), 1 / ordered], axis=1)  # (n_queries, 4)
    rng = np.random.default_rng(seed)
    drawn = []
    for _ in range(0, DRAWS, _SOME):
        times = rng.multinomial(images, np.full(images, 1 / images), size=_SOME)  # (some, n_images)
        weights = times[:, home[order]]  # (some, n_queries): how often each query came
        total = np.maximum(weights.sum(axis=1), 1)
        # As numpy.median: the mean of the two in the middle where their number is even.
        sums = weights.cumsum(axis=1)
        middle = [
            np.minimum((sums < at[:, None]).sum(axis=1), len(ordered) - 1)
            for at in ((total + 1) // 2, total // 2 + 1)
        ]
        medians = (ordered[middle[0]] + ordered[middle[1]]) / 2
        drawn.append(np.column_stack([weights @ columns / total[:, None], medians]))
    low, high = np.percentile(np.concatenate(drawn), [2.5, 97.5], axis=0)
    values = [
        *(metrics.recall_at_k(ranks, k) for k in CUTS),
        metrics.mean_reciprocal_rank(ranks),
        metrics.median_rank(ranks),
    ]
    figures = [Figure(value, float(a), float(b)) for value, a, b in zip(values, low, high, strict=True)]
    return Direction(len(ranks), candidates, dict(zip(CUTS, figures, strict=False)), figures[3], figures[4])
