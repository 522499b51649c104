"""Ranks and best rivals equal those of plain loops, whatever the tiles, the blocks and the cores."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from clipdemo import similarity
from clipdemo.scoring import rivals
from clipdemo.scoring.retrieval import rank_pairs
from clipdemo.scoring.rivals import find_rivals


def blocks(rows, size):
    return lambda: (rows[start : start + size] for start in range(0, len(rows), size))


def naive(images, captions, pairs):
    """Ranks of captions, ranks of images, best rival captions, best rival images, each from a whole row."""
    scores = images @ captions.T
    rival = np.ones(scores.shape, dtype=bool)
    rival[pairs[:, 0], pairs[:, 1]] = False
    of_captions = [place(scores[i], rival[i], c) for i, c in pairs]
    of_images = [place(scores[:, c], rival[:, c], i) for i, c in pairs]
    best_captions = [best(row, rivals) for row, rivals in zip(scores, rival, strict=True)]
    best_images = [best(row, rivals) for row, rivals in zip(scores.T, rival.T, strict=True)]
    return of_captions, of_images, best_captions, best_images


def place(scores, rival, answer):
    own = scores[answer]
    tied = (np.abs(scores - own) <= 1e-6) & (np.arange(len(scores)) < answer)
    return 1 + np.count_nonzero(rival & ((scores > own + 1e-6) | tied))


def best(scores, rival):
    return np.flatnonzero(rival)[scores[rival].argmax()] if rival.any() else -1


def found(images, captions, pairs, size):
    cosines = np.einsum("nd,nd->n", images[pairs[:, 0]], captions[pairs[:, 1]])
    shape = len(images), len(captions)
    out = find_rivals(blocks(images, size), blocks(captions, size), shape, pairs, cosines)
    both = out.rank_of_caption, out.rank_of_image, out.rival_caption, out.rival_image
    return tuple(map(np.ndarray.tolist, both))


def exact(noise, count):
    """Unit rows of four halves of either sign: equal cosines have equal bits, many rows are duplicates."""
    return noise.choice(np.float32([-0.5, 0.5]), (count, 4))


def some_pairs(noise, images, captions, count):
    return np.c_[noise.integers(0, images, count), noise.integers(0, captions, count)]


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 7))
def test_block_ranks_equal_naive_ones_with_ties(seed, n_images, n_captions, n_pairs, size):
    noise = np.random.default_rng(seed)
    # Few distinct directions, so that many cosines tie.
    images = similarity.unit(noise.integers(-1, 2, (n_images, 3)) + 0.01)
    captions = similarity.unit(noise.integers(-1, 2, (n_captions, 3)) + 0.01)
    pairs = some_pairs(noise, n_images, n_captions, n_pairs)
    assert found(images, captions, pairs, size)[:2] == naive(images, captions, pairs)[:2]


@given(
    st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 60), st.integers(1, 500), st.integers(2, 20)
)
def test_ranks_and_best_rivals_hold_across_tiles_and_with_many_pairs(
    seed, n_images, n_captions, n_pairs, side
):
    noise = np.random.default_rng(seed)
    images, captions = exact(noise, n_images), exact(noise, n_captions)
    pairs = some_pairs(noise, n_images, n_captions, n_pairs)
    pairs[: n_pairs // 4, 0] = pairs[0, 0]  # one image with many captions, one caption with many images
    pairs[n_pairs // 2 :, 1] = pairs[-1, 1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rivals, "_SIDE", side)
        patch.setattr(rivals, "_AREA", side * side)
        patch.setattr(rivals, "_GROUP", 2 * side)
        assert found(images, captions, pairs, 7) == naive(images, captions, pairs)


@pytest.mark.parametrize(
    ("n_images", "n_captions", "n_pairs"),
    [(2500, 1100, 2500), (300, 40, 5000), (40, 2600, 2600), (1000, 1, 700)],
    ids=["one row each", "many rows", "few images", "one caption"],
)
def test_whole_tiles_equal_naive_ones(n_images, n_captions, n_pairs):
    noise = np.random.default_rng(n_pairs)
    images, captions = exact(noise, n_images), exact(noise, n_captions)
    images[n_images // 2 :] = similarity.unit(noise.standard_normal((n_images - n_images // 2, 4)))
    pairs = some_pairs(noise, n_images, n_captions, n_pairs)
    assert found(images, captions, pairs, 512)[:2] == naive(images, captions, pairs)[:2]


def test_the_number_of_cores_and_the_size_of_blocks_change_nothing(monkeypatch):
    noise = np.random.default_rng(1)
    images, captions = (similarity.unit(noise.standard_normal((count, 32))) for count in (2100, 2300))
    images[1500:1600] = images[:100]
    pairs = some_pairs(noise, len(images), len(captions), 4000)
    first = rank_pairs(images, captions, pairs)
    for number, size in ((1, 100), (5, 3000)):
        monkeypatch.setattr(rivals.child, "cores", lambda number=number: number)
        shape = len(images), len(captions)
        again = find_rivals(blocks(images, size), blocks(captions, size), shape, pairs, first.cosines)
        for before, after in zip(astuple(first), astuple(again), strict=True):
            np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("others", [0, 200], ids=["one pair", "many pairs"])
def test_ties_within_a_millionth_keep_the_order_and_others_do_not(others):
    own, steps = np.float32(0.5), 2.0**-25  # float32 just below 0.5; twice that above
    tied = [own + 32 * steps, own, own - 33 * steps]
    apart = [own + 34 * steps, own - 34 * steps]
    scores = np.float32([*tied, *apart, own, *apart, *tied, *[-0.9] * others])
    images, captions = np.float32([[1, 0]]), np.stack([scores, np.zeros_like(scores)], axis=1)
    answers = [5, *range(11, 11 + others)]
    # The three that tie and come before it, and both that are higher by more.
    assert found(images, captions, np.c_[np.zeros_like(answers), answers], 9)[0][0] == 6


def test_captions_of_the_same_image_are_not_rivals_and_the_best_rival_is_named():
    images = np.eye(3, dtype=np.float32)
    captions = similarity.unit([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.6, 0], [0, 0, 1]])
    pairs = np.array([[0, 1], [0, 2], [1, 0], [2, 3]])
    of_captions, _, best_captions, best_images = found(images, captions, pairs, 2)
    # Image 0 scores highest with caption 0, a rival; its own two captions do not compete.
    assert of_captions == [2, 2, 3, 1]
    assert best_captions == [0, 2, 0]
    assert best_images == [0, 1, 1, 0]


def test_a_single_pair_lacks_rivals():
    row = np.ones((1, 1), dtype=np.float32)
    assert found(row, row, np.array([[0, 0]]), 9) == ([1], [1], [-1], [-1])


def test_without_pairs_there_are_no_ranks():
    empty = np.zeros((0, 2), dtype=np.int64)
    nothing = find_rivals(lambda: iter(()), lambda: iter(()), (0, 0), empty, np.zeros(0, np.float32))
    assert not len(nothing.rank_of_caption)


def test_an_error_of_the_blocks_reaches_the_caller():
    def broken():
        yield np.ones((1, 1), dtype=np.float32)
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        find_rivals(broken, blocks(np.ones((2, 1)), 1), (2, 2), np.array([[0, 0]]), np.ones(1, np.float32))


def test_embeddings_of_different_lengths_are_an_error():
    images, captions = np.ones((2, 3), dtype=np.float32), np.ones((2, 4), dtype=np.float32)
    with pytest.raises(ValueError, match="matmul"):
        find_rivals(
            blocks(images, 1), blocks(captions, 1), (2, 2), np.array([[0, 0]]), np.ones(1, np.float32)
        )


def test_products_use_their_own_thread_until_the_last_ranking_ends():
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before, one = threads(), rivals._ONE_THREAD
    if not before:
        pytest.skip("the library of NumPy's products cannot be set to one thread")
    with one.held() as outer, one.held() as inner:
        assert (outer, inner) == (True, True)
        assert set(threads()) == {1}
        with one.held():
            pass
        assert set(threads()) == {1}
    assert threads() == before
