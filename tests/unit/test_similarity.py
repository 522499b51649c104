import numpy as np
import pytest

from clipdemo import similarity


def test_rows_become_length_one_even_when_tiny():
    rows = similarity.unit(np.array([[3.0, 4.0], [1e-30, 1e-30], [0.0, 0.0]], dtype=np.float32))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), [1, 1, 0], atol=1e-6)


def test_softmax_of_huge_logits_does_not_overflow():
    shares = similarity.softmax(np.array([[1e4, 0.0, -1e4]], dtype=np.float32))
    np.testing.assert_allclose(shares, [[1, 0, 0]], atol=1e-6)


def test_sigmoid_is_right_at_both_ends():
    np.testing.assert_allclose(similarity.sigmoid(np.array([-1e4, 0, 1e4], dtype=np.float32)), [0, 0.5, 1])


def test_ties_keep_their_input_order():
    scores = np.array([0.2, 0.5, 0.5, 0.1], dtype=np.float32)
    assert similarity.order(scores).tolist() == [1, 2, 0, 3]
    assert similarity.ranks(scores[:, None], axis=0)[:, 0].tolist() == [3, 1, 2, 4]


def test_a_percentile_counts_what_lies_below_and_half_of_what_is_equal():
    background = np.array([0.1, 0.2, 0.2, 0.3], dtype=np.float32)
    got = similarity.percentile(np.array([0.0, 0.2, 0.25, 0.9]), background)
    assert got.tolist() == pytest.approx([0, 50, 75, 100])


def test_logits_add_the_bias_only_where_there_is_one():
    cosine = np.array([[0.5]], dtype=np.float32)
    assert similarity.logits(cosine, 100.0)[0, 0] == 50
    assert similarity.logits(cosine, 100.0, -12.0)[0, 0] == 38
