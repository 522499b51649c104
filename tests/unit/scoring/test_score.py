import numpy as np
import pytest

from clipdemo import score_matrix, score_pairs
from clipdemo.errors import CaptionError, ImageError
from clipdemo.models.clip.encoder import Origin, TransformersEncoder
from clipdemo.scoring.prompts import Templates
from clipdemo.scoring.score import background, rank
from clipdemo.similarity import unit


@pytest.fixture(scope="module")
def encoder(colour_clip):
    return TransformersEncoder(colour_clip, Origin("tiny", "local", "a" * 64, "folder"))


def test_a_subtracting_query_is_the_weighted_sum_of_its_terms(encoder, colour_items):
    got = score_matrix(encoder, colour_items, ["red ++ blue ^0.5 -- green"]).cosine[:, 0]
    red, blue, green = encoder.encode_captions(["red", "blue", "green"]).astype(np.float64)
    expected = encoder.encode_images(colour_items) @ unit(red + 0.5 * blue - green)
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_removing_a_colour_lowers_it(encoder, colour_items):
    plain, without = score_matrix(
        encoder, colour_items, ["a red square", "a red square -- a blue square"]
    ).cosine.T
    blue = next(n for n, item in enumerate(colour_items) if item.name == "blue")
    assert without[blue] < plain[blue]


def test_a_query_that_cancels_out_is_refused(encoder, colour_items):
    with pytest.raises(CaptionError, match="cancels out"):
        score_matrix(encoder, colour_items, ["red -- red"])


def test_templates_are_ensembled_by_averaging_embeddings(encoder, colour_items):
    templates = Templates(("a {} square", "one {}"))
    got = score_matrix(encoder, colour_items, ["red"], templates=templates).cosine[:, 0]
    mean = unit(encoder.encode_captions(["a red square", "one red"]).mean(axis=0))
    np.testing.assert_allclose(got, encoder.encode_images(colour_items) @ mean, atol=1e-5)


def test_shares_of_an_image_add_up_to_one(encoder, colour_items):
    shares = score_matrix(encoder, colour_items, ["red", "blue", "green"]).probabilities()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)


def test_ranks_go_both_ways(encoder, colour_items):
    matrix = score_matrix(encoder, colour_items[:3], ["red", "blue"])
    for axis, of in ((0, "images"), (1, "captions")):
        np.testing.assert_array_equal(
            np.sort(matrix.ranks(of=of), axis=axis),
            np.sort(np.argsort(matrix.cosine, axis=axis) + 1, axis=axis),
        )


def test_nothing_to_score_gives_an_empty_matrix(encoder, colour_items):
    assert score_matrix(encoder, [], ["red"]).cosine.shape == (0, 1)
    assert score_matrix(encoder, colour_items, []).cosine.shape == (8, 0)
    assert score_matrix(encoder, colour_items, []).probabilities().shape == (8, 0)


def test_a_ranking_is_best_first_with_percentiles():
    hits = rank(np.array([0.1, 0.9, 0.1], dtype=np.float32), np.array([0.0, 0.5], dtype=np.float32))
    assert [(hit.rank, hit.index, hit.percentile) for hit in hits] == [(1, 1, 100), (2, 0, 50), (3, 2, 50)]


def test_pairs_are_ranked_among_each_other_and_repeats_count_once(encoder, colour_items):
    pairs = [(item, f"a {item.name} square") for item in colour_items]
    scores = score_pairs(encoder, [*pairs, pairs[0]])
    assert [score.rank_of_caption for score in scores] == [1] * 9
    assert [score.rank_of_image for score in scores] == [1] * 9
    assert scores[0].cosine == pytest.approx(scores[8].cosine)


def test_captions_of_one_image_are_not_rivals(encoder, colour_items):
    red, blue = colour_items[0], colour_items[2]
    pairs = [(red, f"a {red.name} square"), (red, "something else"), (blue, f"a {blue.name} square")]
    scores = score_pairs(encoder, pairs)
    best, other = scores[0], scores[1]
    assert best.cosine > other.cosine
    assert best.rank_of_caption == 1
    assert other.rank_of_caption <= 2  # only the other image's caption can come before it
    assert score_pairs(encoder, []) == []


def test_a_truncated_caption_is_marked(encoder, colour_items):
    scores = score_pairs(encoder, [(colour_items[0], "red"), (colour_items[0], "red " * 60)])
    assert [score.truncated for score in scores] == [False, True]


def test_the_background_excludes_each_image_with_itself(encoder, colour_items):
    scale = background(encoder, colour_items, ["red", "blue"])
    assert scale.captions.shape == (16,)
    assert scale.images.shape == (56,)


@pytest.mark.parametrize("captions", ["a cat", [""], ["  "], [None], ["\ud800 lone"]])
def test_anything_but_a_list_of_captions_is_refused_with_a_sentence(encoder, colour_items, captions):
    with pytest.raises(CaptionError):
        score_matrix(encoder, colour_items, captions)


def test_anything_but_an_item_is_refused_with_a_sentence(encoder, colour_items):
    for wrong in (b"bytes", colour_items[0].image):
        with pytest.raises(ImageError, match="decode_image"):
            score_matrix(encoder, [wrong], ["a cat"])
        with pytest.raises(ImageError, match="decode_image"):
            score_pairs(encoder, [(wrong, "a cat")])
