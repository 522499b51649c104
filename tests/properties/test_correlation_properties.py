"""Rank correlations equal scipy's, ties included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from clipdemo.compare import correlation

# Few distinct values tie often; the floats stand for cosines.
VALUES = st.one_of(st.integers(-3, 3), st.floats(-1, 1, width=32))
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=2, max_size=60)


def distinct(values):
    return len(set(values)) > 1


@given(PAIRS)
def test_spearman_and_kendall_equal_scipys(pairs):
    first, second = map(list, zip(*pairs, strict=True))
    if not (distinct(first) and distinct(second)):
        assert correlation.spearman(first, second) is correlation.kendall(first, second) is None
        return
    assert correlation.spearman(first, second) == pytest.approx(
        stats.spearmanr(first, second).statistic, abs=1e-12
    )
    assert correlation.kendall(first, second) == pytest.approx(
        stats.kendalltau(first, second, variant="b").statistic, abs=1e-12
    )


@given(st.lists(VALUES, min_size=1, max_size=60))
def test_average_ranks_equal_scipys(values):
    np.testing.assert_array_equal(correlation.average_ranks(values), stats.rankdata(values, "average"))


@given(PAIRS, st.integers(1, 70))
def test_overlap_equals_that_of_the_sets(pairs, k):
    first, second = (np.argsort(np.argsort(column)) + 1 for column in zip(*pairs, strict=True))
    both = set(np.flatnonzero(first <= k)) & set(np.flatnonzero(second <= k))
    assert correlation.overlap_at_k(first, second, k) == pytest.approx(len(both) / min(k, len(pairs)))
