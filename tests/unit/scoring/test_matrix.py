from dataclasses import replace

import numpy as np
import pytest

from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import (
    AS_GIVEN,
    BY_BEST,
    CAPTIONS_CAPTIONS,
    CLUSTERED,
    COSINE,
    IMAGES_CAPTIONS,
    IMAGES_IMAGES,
    PERCENTILE,
    RANK,
    RANK_OF_CAPTION,
    RANK_OF_IMAGE,
    SHARE_OF_CAPTIONS,
    SHARE_OF_IMAGES,
    SIGMOID,
)
from clipdemo.types import Checkpoint

CLIP = Checkpoint("tiny", "local", "f" * 64, 4, 32, 77, 20.0, None, 1000, "folder")
SIGLIP = replace(CLIP, logit_bias=-2.0)
SCORES = np.array([[0.1, 0.3], [0.25, 0.2], [0.05, 0.3]], dtype=np.float32)
BACKGROUND = np.linspace(0, 0.4, 401, dtype=np.float32)


def show(view, scores=SCORES, checkpoint=CLIP):
    return matrices.sheet(view, scores, checkpoint, BACKGROUND)


def by_hand(scores, axis, scale=20.0):
    powers = np.exp(scale * scores.astype(np.float64))
    return 100 * powers / powers.sum(axis=axis, keepdims=True)


@pytest.mark.parametrize(("view", "axis"), [(SHARE_OF_CAPTIONS, 1), (SHARE_OF_IMAGES, 0)])
def test_shares_add_up_along_the_axis_they_name(view, axis):
    sheet = show(view)
    np.testing.assert_allclose(sheet.values, by_hand(SCORES, axis), rtol=1e-4)
    assert (sheet.low, sheet.high) == (0, 100)


def test_a_sigmoid_checkpoint_shows_each_pair_independently():
    np.testing.assert_allclose(
        show(SIGMOID, checkpoint=SIGLIP).values, 100 / (1 + np.exp(2 - 20 * SCORES)), rtol=1e-4
    )


def test_ranks_count_captions_in_rows_and_images_in_columns():
    assert show(RANK_OF_CAPTION).values.tolist() == [[2, 1], [1, 2], [2, 1]]
    sheet = show(RANK_OF_IMAGE)
    assert sheet.values.tolist() == [[2, 1], [1, 3], [3, 2]]  # the tie keeps its order
    assert (sheet.low, sheet.high) == (3, 1)  # 1 is bright


def test_percentiles_are_rounded_down_as_on_the_score_card():
    assert show(PERCENTILE).values.tolist() == [[25, 74], [62, 50], [12, 74]]


def test_cosine_colours_reach_from_the_smallest_to_the_largest_value_shown():
    sheet = show(COSINE)
    assert (sheet.low, sheet.high) == pytest.approx((0.05, 0.3))
    assert sheet.positions()[2, 0] == 0
    assert sheet.positions()[0, 1] == 1


def test_the_best_rank_is_bright_and_the_worst_dark():
    assert show(RANK_OF_IMAGE).positions()[:, 1].tolist() == [1, 0, 0.5]


@pytest.mark.parametrize("value", [0.2, -0.3])
def test_a_matrix_of_one_value_has_one_colour(value):
    positions = show(COSINE, np.full((2, 2), value, np.float32)).positions()
    assert set(positions.ravel().tolist()) == {0.0}


def test_an_item_is_not_compared_with_itself():
    cosine = np.array([[1, 0.8, 0.5], [0.8, 1, 0.6], [0.5, 0.6, 1]], dtype=np.float32)
    sheet = matrices.square_sheet(COSINE, cosine)
    assert np.isnan(np.diag(sheet.values)).all()
    assert (sheet.low, sheet.high) == pytest.approx((0.5, 0.8))
    places = matrices.square_sheet(RANK, cosine)
    np.testing.assert_array_equal(places.values, [[np.nan, 1, 2], [1, np.nan, 2], [2, 1, np.nan]])
    assert (places.low, places.high) == (2, 1)
    among = matrices.square_sheet(PERCENTILE, cosine, np.array([0.55, 0.7], np.float32))
    np.testing.assert_array_equal(among.values, [[np.nan, 100, 0], [100, np.nan, 50], [0, 50, np.nan]])


def test_only_informative_views_are_offered():
    assert matrices.views_of(IMAGES_CAPTIONS, (3, 2), CLIP) == [
        COSINE,
        SHARE_OF_CAPTIONS,
        SHARE_OF_IMAGES,
        RANK_OF_CAPTION,
        RANK_OF_IMAGE,
        PERCENTILE,
    ]
    sigmoid = matrices.views_of(IMAGES_CAPTIONS, (3, 2), SIGLIP)
    assert SIGMOID in sigmoid
    assert not {SHARE_OF_CAPTIONS, SHARE_OF_IMAGES} & set(sigmoid)
    one_caption = matrices.views_of(IMAGES_CAPTIONS, (3, 1), CLIP)
    assert not {SHARE_OF_CAPTIONS, RANK_OF_CAPTION} & set(one_caption)
    assert matrices.views_of(IMAGES_IMAGES, (3, 3), CLIP) == [COSINE, PERCENTILE, RANK]
    assert matrices.views_of(CAPTIONS_CAPTIONS, (2, 2), CLIP) == [COSINE, RANK]


def test_every_view_is_explained():
    for pairs in (IMAGES_CAPTIONS, IMAGES_IMAGES, CAPTIONS_CAPTIONS):
        for checkpoint in (CLIP, SIGLIP):
            assert set(matrices.views_of(pairs, (3, 3), checkpoint)) <= set(matrices.MEANINGS)


def test_by_best_match_makes_a_staircase():
    rows, columns = matrices.arrange(BY_BEST, SCORES)
    assert rows.tolist() == [1, 0, 2]
    assert columns.tolist() == [0, 1]
    like = np.array([[1, 0.1, 0.2], [0.1, 1, 0.7], [0.2, 0.7, 1]], dtype=np.float32)
    rows, columns = matrices.arrange(BY_BEST, like, square=True)
    assert rows.tolist() == columns.tolist() == [1, 2, 0]


def blocks(seed=3, groups=4, size=5):
    """A block-diagonal matrix and its shuffled copy."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), size)
    clean = np.where(group[:, None] == group, 0.8, 0.1) + rng.normal(0, 0.01, (len(group), len(group)))
    mixed = rng.permutation(len(group))
    return clean[np.ix_(mixed, mixed)].astype(np.float32), group[mixed]


@pytest.mark.parametrize("square", [True, False])
def test_clusters_are_contiguous(square):
    scores, group = blocks()
    rows, columns = matrices.arrange(CLUSTERED, scores, square=square)
    for order in (rows, columns):
        assert sorted(order.tolist()) == list(range(20))
        assert (np.diff(group[order]) != 0).sum() == 3  # four groups, three borders
    if square:
        assert rows.tolist() == columns.tolist()


@pytest.mark.parametrize("how", [AS_GIVEN, BY_BEST, CLUSTERED])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (1, 1), (1, 5), (2, 2), (4, 1)])
def test_every_order_keeps_every_row_and_column_once(how, shape):
    rows, columns = matrices.arrange(how, np.zeros(shape, np.float32))
    assert sorted(rows.tolist()) == list(range(shape[0]))
    assert sorted(columns.tolist()) == list(range(shape[1]))


def test_a_reordered_sheet_keeps_its_scale():
    sheet = show(COSINE).reordered(np.array([2]), np.array([1, 0]))
    np.testing.assert_allclose(sheet.values, [[0.3, 0.05]], rtol=1e-6)
    assert sheet.low == pytest.approx(0.05)
