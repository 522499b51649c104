"""Retrieval metrics of image,caption pairs: recall@k, MRR and median rank, with bootstrap intervals.

Text to image: each distinct caption searches for its images. Image to text: each distinct image searches for
its captions. A query is a hit if any of its right answers is among the first k, and its other right answers
are not counted as rivals (see ``rivals.py``). NumPy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from clipdemo.scoring.rivals import BLOCK, Rivals, find_rivals, row_cosines
from clipdemo.similarity import FloatArray, IntArray

CUTS = (1, 5, 10)
RESAMPLES = 1000
_RESAMPLES_AT_ONCE = 50  # bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A metric with its 95 % bootstrap interval; images are resampled together with their captions."""

    value: float
    low: float
    high: float


Value = TypeVar("Value", bound=float | Estimate)


@dataclass(frozen=True)
class RetrievalMetrics(Generic[Value]):
    """Metrics of one direction; each value is a float, or an :class:`Estimate` where an interval is known.

    Attributes:
        queries: number of queries.
        recall: recall@k by k, 0 to 1.
        mean_reciprocal_rank: of the best right answer.
        median_rank: of the best right answer.
    """

    queries: int
    recall: dict[int, Value]
    mean_reciprocal_rank: Value
    median_rank: Value

    def recall_text(self) -> str:
        """Format recall in percent, such as "recall@1 40.0 %, recall@5 62.5 %, recall@10 80.0 %"."""
        return ", ".join(f"recall@{k} {_text(value, '.1f', 100)} %" for k, value in self.recall.items())

    def as_text(self) -> str:
        """Format all metrics as one line."""
        if not self.queries:
            return "no queries"
        median_format = ".1f" if isinstance(self.median_rank, Estimate) else "g"
        return (
            f"{self.recall_text()}, MRR {_text(self.mean_reciprocal_rank, '.3f')}, "
            f"median rank {_text(self.median_rank, median_format)} ({self.queries:,} queries)"
        )


@dataclass(frozen=True)
class Evaluation:
    """Both directions over one set of images and captions."""

    images: int
    captions: int
    text_to_image: RetrievalMetrics[Estimate]
    image_to_text: RetrievalMetrics[Estimate]

    def as_dict(self) -> dict[str, Any]:
        """Return all metrics for JSON, with the number of candidates of each direction."""
        return {
            "images": self.images,
            "captions": self.captions,
            "text_to_image": _with_candidates(self.text_to_image, self.images),
            "image_to_text": _with_candidates(self.image_to_text, self.captions),
        }


def recall_at_k(ranks: IntArray, k: int) -> float:
    """Return the share of queries whose best right answer is among the first k; 0 without queries.

    Args:
        ranks: (n_queries,) 1-based rank of each query's best right answer.
        k: cut-off, at least 1.
    """
    return float(np.mean(ranks <= k)) if len(ranks) else 0.0


def mean_reciprocal_rank(ranks: IntArray) -> float:
    """Return the mean of 1 / rank over the queries; 0 without queries."""
    return float(np.mean(1 / ranks)) if len(ranks) else 0.0


def median_rank(ranks: IntArray) -> float:
    """Return the median 1-based rank; 0 without queries."""
    return float(np.median(ranks)) if len(ranks) else 0.0


def retrieval_metrics(ranks: IntArray) -> RetrievalMetrics[float]:
    """Return all metrics of one direction.

    Args:
        ranks: (n_queries,) 1-based rank of each query's best right answer.
    """
    recall = {k: recall_at_k(ranks, k) for k in CUTS}
    return RetrievalMetrics(len(ranks), recall, mean_reciprocal_rank(ranks), median_rank(ranks))


def rank_pairs(images: FloatArray, captions: FloatArray, pairs: IntArray) -> Rivals:
    """Rank every pair among its rivals, for embeddings in memory.

    Args:
        images: (n_images, dim) unit rows.
        captions: (n_captions, dim) unit rows.
        pairs: (n_pairs, 2) indices of an image and a caption that belong together.
    """

    def blocks(rows: FloatArray) -> Iterator[FloatArray]:
        return (rows[start : start + BLOCK] for start in range(0, len(rows), BLOCK))

    cosines = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs), BLOCK):  # bounds the memory
        some = pairs[start : start + BLOCK]
        cosines[start : start + BLOCK] = row_cosines(images[some[:, 0]], captions[some[:, 1]])
    shape = len(images), len(captions)
    return find_rivals(lambda: blocks(images), lambda: blocks(captions), shape, pairs, cosines)


def mean_recall(images: FloatArray, captions: FloatArray, pairs: IntArray) -> float:
    """Return the mean of recall@1, @5 and @10 over both directions, 0 to 1: the metric that selects an epoch.

    Arguments as for :func:`rank_pairs`.
    """
    both = rank_pairs(images, captions, pairs).best_ranks()
    return float(np.mean([recall_at_k(ranks, k) for ranks in both for k in CUTS]))


def evaluate(images: FloatArray, captions: FloatArray, pairs: IntArray, seed: int = 0) -> Evaluation:
    """Compute the metrics of both directions with their intervals.

    Args:
        images: (n_images, dim) unit rows; each is in a pair.
        captions: (n_captions, dim) unit rows; each is in a pair.
        pairs: (n_pairs, 2) indices of an image and a caption that belong together.
        seed: of the bootstrap.
    """
    image_ranks, caption_ranks = rank_pairs(images, captions, pairs).best_ranks()
    # A caption of several images is resampled with the first of them.
    image_of_caption = np.full(len(captions), len(images))
    np.minimum.at(image_of_caption, pairs[:, 1], pairs[:, 0])
    return Evaluation(
        len(images),
        len(captions),
        _estimate(caption_ranks, _resample(caption_ranks, image_of_caption, len(images), seed)),
        _estimate(image_ranks, _resample(image_ranks, np.arange(len(images)), len(images), seed)),
    )


def _estimate(ranks: IntArray, resamples: npt.NDArray[np.float64]) -> RetrievalMetrics[Estimate]:
    metrics = retrieval_metrics(ranks)
    values = [*metrics.recall.values(), metrics.mean_reciprocal_rank, metrics.median_rank]
    low, high = np.percentile(resamples, [2.5, 97.5], axis=0).tolist()
    *recall, reciprocal, median = map(Estimate, values, low, high)
    return RetrievalMetrics(metrics.queries, dict(zip(CUTS, recall, strict=True)), reciprocal, median)


def _resample(ranks: IntArray, image_of_query: IntArray, images: int, seed: int) -> npt.NDArray[np.float64]:
    """Return the metrics of bootstrap resamples of the images.

    Args:
        ranks: (n_queries,).
        image_of_query: (n_queries,) index of the image that each query is resampled with.
        images: number of images.
        seed: of the random numbers.

    Returns:
        (RESAMPLES, 5): recall at each of ``CUTS``, mean reciprocal rank and median rank.
    """
    order = np.argsort(ranks, kind="stable")
    ordered = ranks[order]
    columns = np.stack([*(ordered <= k for k in CUTS), 1 / ordered], axis=1)  # (n_queries, 4)
    rng = np.random.default_rng(seed)
    resamples = []
    for _ in range(0, RESAMPLES, _RESAMPLES_AT_ONCE):
        times = rng.multinomial(images, np.full(images, 1 / images), size=_RESAMPLES_AT_ONCE)
        weights = times[:, image_of_query[order]]  # (resamples, n_queries): how often each query was drawn
        totals = np.maximum(weights.sum(axis=1), 1)
        cumulative = weights.cumsum(axis=1)
        # As numpy.median: the mean of the two middle ranks of an even number.
        lower = _ranks_at(ordered, cumulative, (totals + 1) // 2)
        upper = _ranks_at(ordered, cumulative, totals // 2 + 1)
        medians = (lower + upper) / 2
        resamples.append(np.column_stack([weights @ columns / totals[:, None], medians]))
    return np.concatenate(resamples)


def _ranks_at(ordered: IntArray, cumulative: IntArray, places: IntArray) -> IntArray:
    """Return the rank at a 1-based place of each resample.

    Args:
        ordered: (n_queries,) ranks, ascending.
        cumulative: (n_resamples, n_queries) how often the queries up to each one were drawn.
        places: (n_resamples,).
    """
    index = (cumulative < places[:, None]).sum(axis=1)
    ranks: IntArray = ordered[np.minimum(index, len(ordered) - 1)]
    return ranks


def _with_candidates(metrics: RetrievalMetrics[Estimate], candidates: int) -> dict[str, Any]:
    values = asdict(metrics)
    return {"queries": values.pop("queries"), "candidates": candidates, **values}


def _text(value: float | Estimate, form: str, scale: float = 1) -> str:
    if isinstance(value, Estimate):
        return f"{scale * value.value:{form}} ({scale * value.low:{form}}–{scale * value.high:{form}})"
    return f"{scale * value:{form}}"
