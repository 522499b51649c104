import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipdemo import similarity
from clipdemo.scoring.rivals import find_rivals


def blocks(rows, size):
    return lambda: (rows[start : start + size] for start in range(0, len(rows), size))


def naive(images, captions, pairs):
    scores = images @ captions.T
    together = set(map(tuple, pairs.tolist()))

    def before(other, own, other_index, own_index):
        return other > own + 1e-6 or (abs(other - own) <= 1e-6 and other_index < own_index)

    of_captions, of_images = [], []
    for i, c in pairs.tolist():
        own = scores[i, c]
        rivals = [d for d in range(len(captions)) if (i, d) not in together]
        of_captions.append(1 + sum(before(scores[i, d], own, d, c) for d in rivals))
        rivals = [j for j in range(len(images)) if (j, c) not in together]
        of_images.append(1 + sum(before(scores[j, c], own, j, i) for j in rivals))
    return of_captions, of_images


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 12), st.integers(1, 30), st.integers(1, 7))
def test_block_ranks_equal_naive_ones_with_ties(seed, n_images, n_captions, n_pairs, size):
    noise = np.random.default_rng(seed)
    # Few distinct directions, so that many cosines tie.
    images = similarity.unit(noise.integers(-1, 2, (n_images, 3)) + 0.01)
    captions = similarity.unit(noise.integers(-1, 2, (n_captions, 3)) + 0.01)
    pairs = np.c_[noise.integers(0, n_images, n_pairs), noise.integers(0, n_captions, n_pairs)]
    cosines = np.einsum("nd,nd->n", images[pairs[:, 0]], captions[pairs[:, 1]])
    found = find_rivals(blocks(images, size), blocks(captions, size), (n_images, n_captions), pairs, cosines)
    assert (found.rank_of_caption.tolist(), found.rank_of_image.tolist()) == naive(images, captions, pairs)


def test_captions_of_the_same_image_are_not_rivals_and_the_best_rival_is_named():
    images = np.eye(3, dtype=np.float32)
    captions = similarity.unit([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.6, 0], [0, 0, 1]])
    pairs = np.array([[0, 1], [0, 2], [1, 0], [2, 3]])
    cosines = np.einsum("nd,nd->n", images[pairs[:, 0]], captions[pairs[:, 1]])
    found = find_rivals(blocks(images, 2), blocks(captions, 3), (3, 4), pairs, cosines)
    # Image 0 scores highest with caption 0, a rival; its own two captions do not compete.
    assert found.rank_of_caption.tolist() == [2, 2, 3, 1]
    assert found.rival_caption.tolist() == [0, 2, 0]
    assert found.rival_image.tolist() == [0, 1, 1, 0]


def test_a_single_pair_lacks_rivals():
    row = np.ones((1, 1), dtype=np.float32)
    found = find_rivals(blocks(row, 9), blocks(row, 9), (1, 1), np.array([[0, 0]]), np.ones(1, np.float32))
    assert found.rank_of_caption.tolist() == found.rank_of_image.tolist() == [1]
    assert found.rival_caption.tolist() == found.rival_image.tolist() == [-1]


def test_without_pairs_there_are_no_ranks():
    empty = np.zeros((0, 2), dtype=np.int64)
    found = find_rivals(lambda: iter(()), lambda: iter(()), (0, 0), empty, np.zeros(0, np.float32))
    assert not len(found.rank_of_caption)
