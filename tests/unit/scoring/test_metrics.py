import numpy as np
import pytest

from clipdemo.scoring import metrics

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


def test_the_same_order_agrees_fully_and_the_reverse_not_at_all():
    scores = np.array([0.3, 0.1, 0.2, 0.25], dtype=np.float32)
    assert metrics.spearman(scores, scores * 7 - 2) == metrics.kendall(scores, scores**3) == 1
    assert metrics.spearman(scores, -scores) == metrics.kendall(scores, -scores) == -1


@pytest.mark.parametrize("values", [[], [0.4], [0.2, 0.2, 0.2]])
def test_what_has_no_order_has_no_correlation(values):
    other = np.arange(len(values))
    assert metrics.spearman(values, other) is metrics.kendall(other, values) is None


def test_equal_values_share_their_ranks():
    assert metrics.average_ranks([5, 1, 5, 9]).tolist() == [2.5, 1, 2.5, 4]


def test_overlap_counts_what_both_put_first():
    one, two = np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])
    assert [metrics.overlap_at_k(one, two, k) for k in (1, 2, 3, 4, 9)] == [0, 0, 2 / 3, 1, 1]
    assert metrics.overlap_at_k(one[:0], two[:0], 3) is None
