import numpy as np
import pytest

from clipdemo import metrics

RANKS = np.array([1, 3, 6, 11])


def test_recall_counts_queries_answered_within_k():
    assert [metrics.recall_at_k(RANKS, k) for k in (1, 5, 10)] == [0.25, 0.5, 0.75]


def test_mean_reciprocal_rank():
    assert metrics.mean_reciprocal_rank(RANKS) == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 11) / 4)


def test_median_rank():
    assert metrics.median_rank(RANKS) == 4.5


def test_no_queries_score_zero():
    empty = np.array([], dtype=np.int64)
    assert (
        metrics.recall_at_k(empty, 1)
        == metrics.mean_reciprocal_rank(empty)
        == metrics.median_rank(empty)
        == 0
    )
