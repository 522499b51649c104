"""Retrieval metrics equal naive ones, with ties and several captions per image; so do their intervals."""

import numpy as np
import pytest

from clipdemo import similarity
from clipdemo.scoring.retrieval import (
    evaluate,
    mean_recall,
    mean_reciprocal_rank,
    median_rank,
    rank_pairs,
    recall_at_k,
    retrieval_metrics,
)


def some(seed, images=12, each=3, dim=4):
    """Rows with many ties: few directions, so that equal cosines are common."""
    rng = np.random.default_rng(seed)
    captions = images * each
    pairs = np.stack([np.repeat(np.arange(images), each), np.arange(captions)], axis=1)
    pairs = np.concatenate([pairs, [[0, captions - 1]]])  # one caption of two images
    rows = [rng.integers(-1, 2, (count, dim)) + 0.01 for count in (images, captions)]
    return similarity.unit(rows[0]), similarity.unit(rows[1]), pairs


def naive_ranks(queries, candidates, own):
    """The place of the best right answer among itself and the candidates that are not right."""
    out = []
    for query, row in enumerate(queries):
        scores = [round(float(row @ candidate), 5) for candidate in candidates]
        places = []
        for right in own[query]:
            rivals = [n for n in range(len(candidates)) if n not in own[query]]
            above = sum(
                scores[n] > scores[right] or (scores[n] == scores[right] and n < right) for n in rivals
            )
            places.append(above + 1)
        out.append(min(places))
    return np.array(out)


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_the_naive_ones_with_ties(seed):
    images, captions, pairs = some(seed)
    of_image = {n: set(pairs[pairs[:, 0] == n, 1].tolist()) for n in range(len(images))}
    of_caption = {n: set(pairs[pairs[:, 1] == n, 0].tolist()) for n in range(len(captions))}
    found = rank_pairs(images, captions, pairs).best_ranks()
    np.testing.assert_array_equal(found[0], naive_ranks(images, captions, of_image))
    np.testing.assert_array_equal(found[1], naive_ranks(captions, images, of_caption))


def test_metrics_follow_from_the_ranks_and_lie_in_their_intervals():
    images, captions, pairs = some(0)
    found, (of_images, of_captions) = (
        evaluate(images, captions, pairs),
        rank_pairs(images, captions, pairs).best_ranks(),
    )
    for direction, ranks in ((found.image_to_text, of_images), (found.text_to_image, of_captions)):
        assert direction.queries == len(ranks)
        assert direction.recall[5].value == pytest.approx((ranks <= 5).mean())
        assert direction.mean_reciprocal_rank.value == pytest.approx((1 / ranks).mean())
        assert direction.median_rank.value == np.median(ranks)
        for figure in (*direction.recall.values(), direction.mean_reciprocal_rank, direction.median_rank):
            assert figure.low <= figure.value <= figure.high
    every = [f.value for d in (found.image_to_text, found.text_to_image) for f in d.recall.values()]
    assert mean_recall(images, captions, pairs) == pytest.approx(np.mean(every))


def test_the_interval_is_the_bootstrap_over_images_with_their_captions():
    images, captions, pairs = some(3, images=30)
    found = evaluate(images, captions, pairs[:-1]).text_to_image.recall[1]
    hit = (rank_pairs(images, captions, pairs[:-1]).best_ranks()[1] <= 1).reshape(30, 3).mean(axis=1)
    rng = np.random.default_rng(7)
    drawn = [hit[rng.integers(0, 30, 30)].mean() for _ in range(4000)]
    assert (found.low, found.high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=0.03)
    assert evaluate(images, captions, pairs[:-1]).text_to_image.recall[1] == found  # seeded


def test_a_perfect_model_has_recall_one_and_no_spread():
    rows = np.eye(6, dtype=np.float32)
    found = evaluate(rows, rows, np.stack([np.arange(6)] * 2, axis=1))
    for direction in (found.image_to_text, found.text_to_image):
        assert [(f.value, f.low, f.high) for f in direction.recall.values()] == [(1, 1, 1)] * 3
        assert direction.median_rank.high == 1


RANKS = np.array([1, 3, 6, 11])


def test_recall_counts_queries_answered_within_k():
    assert [recall_at_k(RANKS, k) for k in (1, 5, 10)] == [0.25, 0.5, 0.75]


def test_mean_reciprocal_rank():
    assert mean_reciprocal_rank(RANKS) == pytest.approx((1 + 1 / 3 + 1 / 6 + 1 / 11) / 4)


def test_median_rank():
    assert median_rank(RANKS) == 4.5


def test_no_queries_score_zero():
    empty = np.array([], dtype=np.int64)
    assert recall_at_k(empty, 1) == mean_reciprocal_rank(empty) == median_rank(empty) == 0


def test_metrics_as_one_line_of_text():
    text = retrieval_metrics(RANKS).as_text()
    assert (
        text == "recall@1 25.0 %, recall@5 50.0 %, recall@10 75.0 %, MRR 0.398, median rank 4.5 (4 queries)"
    )
    assert retrieval_metrics(RANKS[:0]).as_text() == "no queries"
    rows = np.eye(6, dtype=np.float32)
    found = evaluate(rows, rows, np.stack([np.arange(6)] * 2, axis=1)).text_to_image
    assert found.as_text().startswith("recall@1 100.0 (100.0–100.0) %, recall@5")
    assert found.as_text().endswith("MRR 1.000 (1.000–1.000), median rank 1.0 (1.0–1.0) (6 queries)")


def test_json_names_the_candidates_of_each_direction():
    images, captions, pairs = some(0)
    values = evaluate(images, captions, pairs).as_dict()
    assert list(values) == ["images", "captions", "text_to_image", "image_to_text"]
    for direction, candidates in (("text_to_image", len(images)), ("image_to_text", len(captions))):
        assert list(values[direction])[:2] == ["queries", "candidates"]
        assert values[direction]["candidates"] == candidates
        assert set(values[direction]["recall"][5]) == {"value", "low", "high"}
