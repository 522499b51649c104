"""Retrieval metrics from ranks (recall@k, mean reciprocal rank, median rank) and agreement of two rankings. NumPy only.

Rank correlations are our own, tested equal to scipy's: importing ``scipy.stats`` takes about a second.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipdemo.similarity import IntArray


def recall_at_k(ranks: IntArray, k: int) -> float:
    """Share of queries whose best right answer is among the first k (per-query hit rate).

    Args:
        ranks: (n_queries,) 1-based rank of each query's best right answer.
        k: cut-off, at least 1.
    """
    return float(np.mean(ranks <= k)) if len(ranks) else 0.0


def mean_reciprocal_rank(ranks: IntArray) -> float:
    """Mean of 1 / rank over the queries; 0 without queries."""
    return float(np.mean(1 / ranks)) if len(ranks) else 0.0


def median_rank(ranks: IntArray) -> float:
    """Median 1-based rank of the right answer; 0 without queries."""
    return float(np.median(ranks)) if len(ranks) else 0.0


def average_ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n,) 1-based ranks, smallest value first; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return means


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Spearman's rho of two rankings or score vectors of the same things: 1 same order, -1 reversed.

    Args:
        first: (n,) ranks or scores, no nan.
        second: (n,) of the same things.

    Returns:
        Pearson's correlation of the average ranks; None where one of them has fewer than two distinct values.
    """
    one, two = average_ranks(first), average_ranks(second)
    one, two = one - one.sum() / max(1, one.size), two - two.sum() / max(1, two.size)
    spread = float((one @ one) * (two @ two))
    return float(np.clip((one @ two) / np.sqrt(spread), -1, 1)) if spread else None


def kendall(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Kendall's tau-b of two rankings or score vectors of the same things: 1 same order, -1 reversed.

    Args:
        first: (n,) ranks or scores, no nan; time and memory grow with n squared.
        second: (n,) of the same things.

    Returns:
        Pairs in the same order less pairs in the opposite order, over the pairs not tied; None where one of them
        has fewer than two distinct values.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    one, two = _signs(first), _signs(second)
    untied = float(np.count_nonzero(one)) * float(np.count_nonzero(two))
    return float(np.vdot(one, two) / np.sqrt(untied)) if untied else None


def overlap_at_k(first: IntArray, second: IntArray, k: int) -> float | None:
    """Share of the first k of one ranking that are among the first k of the other, whatever their order there.

    Args:
        first: (n,) 1-based ranks, each once.
        second: (n,) of the same things.
        k: cut-off, at least 1; more than n counts as n.

    Returns:
        0 to 1; None without anything to rank.
    """
    return float(np.sum((first <= k) & (second <= k)) / min(k, len(first))) if len(first) else None


def _signs(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """(n, n) whether each value is above (1), equal to (0) or below (-1) each other one."""
    places = average_ranks(values)  # differences of ranks neither overflow nor round
    return np.sign(places[:, None] - places[None, :])
