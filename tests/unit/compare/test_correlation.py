import numpy as np
import pytest

from clipdemo.compare import correlation


def test_the_same_order_agrees_fully_and_the_reverse_not_at_all():
    scores = np.array([0.3, 0.1, 0.2, 0.25], dtype=np.float32)
    assert correlation.spearman(scores, scores * 7 - 2) == correlation.kendall(scores, scores**3) == 1
    assert correlation.spearman(scores, -scores) == correlation.kendall(scores, -scores) == -1


@pytest.mark.parametrize("values", [[], [0.4], [0.2, 0.2, 0.2]])
def test_what_has_no_order_has_no_correlation(values):
    other = np.arange(len(values))
    assert correlation.spearman(values, other) is correlation.kendall(other, values) is None


def test_equal_values_share_their_ranks():
    assert correlation.average_ranks([5, 1, 5, 9]).tolist() == [2.5, 1, 2.5, 4]


def test_overlap_counts_what_both_put_first():
    one, two = np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])
    assert [correlation.overlap_at_k(one, two, k) for k in (1, 2, 3, 4, 9)] == [0, 0, 2 / 3, 1, 1]
    assert correlation.overlap_at_k(one[:0], two[:0], 3) is None
