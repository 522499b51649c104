"""Exact ranks of pairs among their rivals, in blocks: the whole matrix is never in memory. NumPy only.

The rivals of a pair's caption are the captions of other images; the rivals of its image are the images of
other captions. Five captions of one photograph, or one caption of two photographs, do not compete with each
other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipdemo.similarity import FloatArray, IntArray

BLOCK = 2048
TIE = 1e-6  # closer cosines are equal: the last bits of one embedding differ between blocks

Blocks = Callable[[], Iterator[FloatArray]]


@dataclass(frozen=True, eq=False)
class Rivals:
    """Pairs with their ranks among rivals and their best rivals.

    Attributes:
        pairs: (n_pairs, 2) indices of image and caption.
        cosines: (n_pairs,).
        rank_of_caption: (n_pairs,) 1-based rank of the caption among its rivals, for the pair's image.
        rank_of_image: (n_pairs,) 1-based rank of the image among its rivals, for the pair's caption.
        rival_caption: (n_images,) index of the rival caption with the highest cosine, -1 without rivals.
        rival_caption_cosine: (n_images,) its cosine, -inf without rivals.
        rival_image: (n_captions,) index of the rival image with the highest cosine, -1 without rivals.
        rival_image_cosine: (n_captions,) its cosine, -inf without rivals.
    """

    pairs: IntArray
    cosines: FloatArray
    rank_of_caption: IntArray
    rank_of_image: IntArray
    rival_caption: IntArray
    rival_caption_cosine: FloatArray
    rival_image: IntArray
    rival_image_cosine: FloatArray

    def best_ranks(self) -> tuple[IntArray, IntArray]:
        """Return the best right answer's rank for each distinct image and each distinct caption."""
        return (
            _best_per_query(self.pairs[:, 0], self.rank_of_caption),
            _best_per_query(self.pairs[:, 1], self.rank_of_image),
        )


def row_cosines(images: FloatArray, captions: FloatArray) -> FloatArray:
    """Return the cosine of each image with the caption in the same row.

    Args:
        images: (n, dim) unit rows.
        captions: (n, dim) unit rows.

    Returns:
        (n,) float32 in [-1, 1].
    """
    cosines: FloatArray = np.einsum("nd,nd->n", images, captions).clip(-1, 1)
    return cosines


def find_rivals(
    images: Blocks, captions: Blocks, shape: tuple[int, int], pairs: IntArray, cosines: FloatArray
) -> Rivals:
    """Rank every pair among its rivals.

    Args:
        images: returns an iterator over blocks of unit rows, (n_images, dim) in total; called once.
        captions: the same for captions, (n_captions, dim) in total; called once per block of images.
        shape: (n_images, n_captions).
        pairs: (n_pairs, 2) indices of image and caption.
        cosines: (n_pairs,).

    Returns:
        Exact ranks; ties (cosines within 1e-6) keep the order of the rows of ``images`` and ``captions``.
        Time grows with n_images x n_captions, memory only with n_images + n_captions + n_pairs.
    """
    rivals = Rivals(
        pairs,
        cosines,
        np.ones(len(pairs), dtype=np.int64),
        np.ones(len(pairs), dtype=np.int64),
        np.full(shape[0], -1, dtype=np.int64),
        np.full(shape[0], -np.inf, dtype=np.float32),
        np.full(shape[1], -1, dtype=np.int64),
        np.full(shape[1], -np.inf, dtype=np.float32),
    )
    by_image = _Side(pairs[:, 0], pairs[:, 1], cosines, rivals.rank_of_caption)
    by_caption = _Side(pairs[:, 1], pairs[:, 0], cosines, rivals.rank_of_image)
    top = 0
    for image_rows in images():
        bottom, left = top + len(image_rows), 0
        image_pairs = by_image.pairs_of(top, bottom)
        for caption_rows in captions():
            right = left + len(caption_rows)
            caption_pairs = by_caption.pairs_of(left, right)
            scores = image_rows @ caption_rows.T
            inside = image_pairs[(pairs[image_pairs, 1] >= left) & (pairs[image_pairs, 1] < right)]
            scores[pairs[inside, 0] - top, pairs[inside, 1] - left] = -np.inf  # a right answer is not a rival
            by_image.count_rivals(image_pairs, scores, top, left)
            _keep_best(rivals.rival_caption, rivals.rival_caption_cosine, scores, top, left)
            transposed = np.ascontiguousarray(scores.T)  # whole rows are read far faster
            by_caption.count_rivals(caption_pairs, transposed, left, top)
            _keep_best(rivals.rival_image, rivals.rival_image_cosine, transposed, left, top)
            left = right
        top = bottom
    return rivals


class _Side:
    """One direction of the search: the pairs by their query.

    Args:
        queries: (n_pairs,) index of the pair's query, an image or a caption.
        answers: (n_pairs,) index of the pair's right answer on the other side.
        cosines: (n_pairs,).
        ranks: (n_pairs,) raised in place by the number of better rivals.
    """

    def __init__(self, queries: IntArray, answers: IntArray, cosines: FloatArray, ranks: IntArray) -> None:
        self._queries, self._answers, self._cosines, self._ranks = queries, answers, cosines, ranks
        self._order = np.argsort(queries, kind="stable")
        self._sorted = queries[self._order]

    def pairs_of(self, first: int, end: int) -> IntArray:
        """Return the indices of the pairs whose query is in [first, end)."""
        low, high = np.searchsorted(self._sorted, [first, end])
        indices: IntArray = self._order[low:high]
        return indices

    def count_rivals(
        self, pairs: IntArray, scores: FloatArray, first_query: int, first_candidate: int
    ) -> None:
        """Raise the ranks of the given pairs by the number of candidates in a block that come before them.

        Args:
            pairs: indices of the pairs whose query is in the block.
            scores: (queries, candidates) of the block; -inf where a candidate is not a rival.
            first_query: index of the query in the first row.
            first_candidate: index of the candidate in the first column.
        """
        candidates = np.arange(first_candidate, first_candidate + scores.shape[1])
        for start in range(0, len(pairs), BLOCK):
            some = pairs[start : start + BLOCK]
            rows = scores[self._queries[some] - first_query]
            own = self._cosines[some][:, None]
            above = np.count_nonzero(rows > own + TIE, axis=1)
            self._ranks[some] += above
            near = np.flatnonzero(np.count_nonzero(rows >= own - TIE, axis=1) != above)
            if near.size:  # ties are rare
                tied = np.abs(rows[near] - own[near]) <= TIE
                before = candidates < self._answers[some[near]][:, None]
                self._ranks[some[near]] += np.count_nonzero(tied & before, axis=1)


def _keep_best(
    best: IntArray, best_cosine: FloatArray, scores: FloatArray, first_query: int, first_candidate: int
) -> None:
    """Update the best candidate of each query of a block in place; of equal ones the first stays."""
    columns = scores.argmax(axis=1)
    values = scores[np.arange(len(scores)), columns]
    queries = slice(first_query, first_query + len(scores))
    better = values > best_cosine[queries]
    best[queries][better] = columns[better] + first_candidate
    best_cosine[queries][better] = values[better]


def _best_per_query(queries: IntArray, ranks: IntArray) -> IntArray:
    """Return the lowest rank of each distinct query, in the order of their indices."""
    distinct, place = np.unique(queries, return_inverse=True)
    best = np.full(len(distinct), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(best, place, ranks)
    return best
