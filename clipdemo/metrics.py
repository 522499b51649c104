"""Retrieval metrics from ranks: recall@k, mean reciprocal rank and median rank. NumPy only."""

from __future__ import annotations

import numpy as np

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
