import numpy as np
import pytest
from PIL import Image
from scipy import stats

from clipdemo.compare.ranks import compare_matrices, ordinal
from clipdemo.models.cache import CachedEncoder, EmbeddingStore, FairLock
from clipdemo.models.load import load_encoder
from clipdemo.scoring.prompts import Templates
from clipdemo.scoring.score import score_matrix
from clipdemo.types import Checkpoint, ScoreMatrix


@pytest.fixture
def images(item_of):
    return tuple(item_of(Image.new("RGB", (8, 8), (n, 0, 0)), f"{n}.png") for n in range(4))


def matrix_of(images, cosine, name="one"):
    cosine = np.array(cosine, dtype=np.float32)
    captions = tuple(f"caption {n}" for n in range(cosine.shape[1]))
    checkpoint = Checkpoint(name, "local", name, 4, 32, 77, 100.0, None, 0, "folder")
    return ScoreMatrix(images, captions, cosine, checkpoint)


@pytest.fixture
def three(images):
    """The second checkpoint reverses the first caption's order; on the second, all agree but for a tie."""
    return compare_matrices(
        [
            matrix_of(images, [[0.9, 0.9], [0.8, 0.1], [0.7, 0.1], [0.6, 0.0]]),
            matrix_of(images, [[0.1, 90], [0.2, 20], [0.3, 10], [0.4, 0]]),
            matrix_of(images, [[5, 0.3], [4, 0.2], [2, 0.1], [3, 0.0]]),
        ]
    )


def test_figures_are_scipys_on_the_same_scores(three):
    columns = [matrix.cosine[:, 1] for matrix in three.matrices]
    agreements = three.agreement(1, 2)
    assert [(pair.first, pair.second) for pair in agreements] == [(0, 1), (0, 2), (1, 2)]
    for pair in agreements:
        one, two = columns[pair.first], columns[pair.second]
        assert pair.spearman == pytest.approx(stats.spearmanr(one, two).statistic)
        assert pair.kendall == pytest.approx(stats.kendalltau(one, two).statistic)
    assert agreements[0].spearman < 1  # the tie


def test_only_the_order_counts_not_the_scale(three, images):
    before = three.agreement(0, 2)[1]
    moved = compare_matrices([three.matrices[0], matrix_of(images, 1000 * three.matrices[2].cosine - 7)])
    assert (before.spearman, before.kendall, before.overlap) == pytest.approx(
        (moved.agreement(0, 2)[0].spearman, moved.agreement(0, 2)[0].kendall, 1)
    )


def test_means_are_over_captions_that_define_the_figure(images):
    flat = matrix_of(images, [[0.5, 4], [0.5, 3], [0.5, 2], [0.5, 1]])
    steep = matrix_of(images, [[4, 4], [3, 3], [2, 2], [1, 1]])
    comparison = compare_matrices([flat, steep])
    assert comparison.agreement(0, 2)[0].spearman is comparison.agreement(0, 2)[0].kendall is None
    mean = comparison.mean_agreement(2)[0]
    assert mean.spearman == mean.kendall == mean.overlap == 1


def test_the_widest_disputes_come_first_with_every_rank(three):
    first, second = three.disputes(2)
    assert (first.image, first.caption, first.ranks, first.spread) == (0, 0, (1, 4, 1), 3)
    assert (second.image, second.ranks, second.spread) == (3, (4, 1, 3), 3)
    assert {dispute.caption for dispute in three.disputes(9)} == {0}
    assert three.disputes(9, caption=1) == []


def test_contenders_are_among_the_first_k_of_any_checkpoint_best_first(three):
    assert three.contenders(0, 1) == [0, 3]
    assert three.contenders(1, 2) == [0, 1]
    assert sorted(three.contenders(0, 9)) == [0, 1, 2, 3]


def test_different_images_or_captions_and_no_matrices_are_refused(images):
    matrix = matrix_of(images, [[1.0]] * 4)
    with pytest.raises(ValueError, match="different images"):
        compare_matrices([matrix, matrix_of(images[:3], [[1.0]] * 3)])
    with pytest.raises(ValueError, match="different images"):
        compare_matrices([matrix, matrix_of(images, [[1.0, 1.0]] * 4)])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare_matrices([])


def test_without_images_or_captions_agreement_is_undefined(images):
    empty = matrix_of((), np.zeros((0, 1)))
    agreement = compare_matrices([empty, empty]).agreement(0, 5)[0]
    assert agreement.spearman is agreement.kendall is agreement.overlap is None
    silent = compare_matrices([matrix_of(images, np.zeros((4, 0)))] * 2)
    assert silent.mean_agreement(5) == silent.disputes(5) == []


def test_ranks_as_ordinals():
    ordinals = [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 103, 111)]
    assert ordinals == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "103rd", "111th"]


def test_every_family_is_compared_with_its_own_preprocessing(
    colour_clip, tiny_siglip, tiny_siglip2, colour_items
):
    store, lock = EmbeddingStore(10**6), FairLock()
    encoders = [
        CachedEncoder(load_encoder(folder), store, lock)
        for folder in (colour_clip, tiny_siglip, tiny_siglip2)
    ]
    captions, templates = ["a RED square", "a red square"], Templates(("{}", "a {}"))
    comparison = compare_matrices(
        [score_matrix(encoder, colour_items, captions, templates=templates) for encoder in encoders]
    )
    assert comparison.ranks.shape == (3, 8, 2)
    # The tokenizers of SigLIP are case-sensitive; these captions are equal only because we lower-case them.
    upper, lower = (np.stack([matrix.cosine[:, n] for matrix in comparison.matrices]) for n in (0, 1))
    np.testing.assert_allclose(upper[1:], lower[1:], atol=1e-6)
    assert comparison.ranks[0, 0, 1] == 1  # the colour CLIP knows red
    missing = [encoder.missing(colour_items) for encoder in encoders]
    assert missing == [[], [], []]
