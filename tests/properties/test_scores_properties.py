"""Fast figures equal naive ones, with ties, for any input."""

import re
import string

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipdemo import similarity
from clipdemo.scoring import retrieval
from clipdemo.scoring.prompts import Query, read_captions
from clipdemo.ui.views import plain

# Few different values, so that ties are common.
SCORES = arrays(
    np.float32, st.tuples(st.integers(1, 6), st.integers(1, 6)), elements=st.sampled_from([-0.5, 0, 0.25, 1])
)
VECTORS = arrays(
    np.float32, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.floats(-1e6, 1e6, width=32)
)


@given(SCORES)
def test_ranks_equal_counting_who_is_better_or_equal_and_earlier(scores):
    ranks = similarity.ranks(scores, axis=0)
    for column in range(scores.shape[1]):
        line = scores[:, column]
        for row, score in enumerate(line):
            better = sum(line > score) + sum(line[:row] == score)
            assert ranks[row, column] == 1 + better


@given(SCORES)
def test_the_order_and_the_ranks_agree(scores):
    line = scores[:, 0]
    np.testing.assert_array_equal(
        similarity.ranks(line[:, None], axis=0)[similarity.order(line), 0], np.arange(len(line)) + 1
    )


@given(VECTORS)
def test_unit_rows_have_length_one_or_zero(rows):
    lengths = np.linalg.norm(similarity.unit(rows).astype(np.float64), axis=1)
    expected = (np.abs(rows) > 0).any(axis=1)
    np.testing.assert_allclose(lengths, expected.astype(float), atol=1e-5)


@given(VECTORS)
def test_shares_are_positive_and_add_up_to_one(values):
    shares = similarity.softmax(values)
    assert (shares >= 0).all()
    np.testing.assert_allclose(shares.sum(axis=-1), 1, atol=1e-5)


@given(VECTORS)
def test_a_sigmoid_is_one_minus_that_of_the_opposite(values):
    np.testing.assert_allclose(similarity.sigmoid(values) + similarity.sigmoid(-values), 1, atol=1e-6)


@given(SCORES, SCORES)
def test_percentiles_equal_counting(scores, background):
    flat = background.ravel()
    naive = [[100 * (np.mean(flat < s) + np.mean(flat == s) / 2) for s in row] for row in scores]
    np.testing.assert_allclose(similarity.percentile(scores, background), naive, atol=1e-3)


@given(st.lists(st.integers(1, 30), min_size=1), st.integers(1, 12))
def test_metrics_equal_naive_ones(ranks, k):
    got = np.array(ranks)
    assert abs(retrieval.recall_at_k(got, k) - sum(r <= k for r in ranks) / len(ranks)) < 1e-9
    assert abs(retrieval.mean_reciprocal_rank(got) - sum(1 / r for r in ranks) / len(ranks)) < 1e-9
    assert retrieval.median_rank(got) == float(np.median(ranks))


@settings(max_examples=300)
@given(st.text(max_size=300))
def test_any_text_can_be_read_as_captions(text):
    read = read_captions(text, 5)
    assert len(read.captions) <= 5
    assert len(set(read.captions)) == len(read.captions)
    for caption in read.captions:
        assert Query.parse(caption).terms
        caption.encode("utf-8")


@given(st.text(alphabet="ab*_`[]()<>#$:!&~|\\-.\"'{}^@", max_size=80))
def test_escaped_text_keeps_its_letters_and_leaves_no_sign_bare(text):
    shown = plain(text)
    bare = shown.replace("\u2060", "")
    sign = re.escape(string.punctuation)
    assert re.fullmatch(rf"(?:\\[{sign}]|[^{sign}])*", bare)
    pieces = iter(bare)
    back = "".join(next(pieces) if sign == "\\" else sign for sign in pieces)
    assert back == " ".join(text.split())
