"""Ranks of many pairs among all their rivals, in blocks, so that no whole matrix is ever held. NumPy only.

A rival of a pair's caption is a caption that belongs to other images only; a rival of its image is an
image that belongs to other captions only. So five captions of one photograph, or one caption of two
photographs, never compete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from clipdemo.similarity import FloatArray, IntArray

BLOCK = 2048
TIE = 1e-6  # cosines closer than this are equal: the same embedding gives other last bits in other blocks

Blocks = Callable[[], Iterator[FloatArray]]


@dataclass(frozen=True, eq=False)
class Rivals:
    """Where every pair stands.

    Attributes:
        rank_of_caption: (n_pairs,) 1-based rank of the caption among its rivals, for the pair's image.
        rank_of_image: (n_pairs,) 1-based rank of the image among its rivals, for the pair's caption.
        rival_caption: (n_images,) the rival caption that scores highest with the image, -1 without rivals.
        rival_caption_cosine: (n_images,) its cosine, -inf without rivals.
        rival_image: (n_captions,) the rival image that scores highest with the caption, -1 without rivals.
        rival_image_cosine: (n_captions,) its cosine, -inf without rivals.
    """

    rank_of_caption: IntArray
    rank_of_image: IntArray
    rival_caption: IntArray
    rival_caption_cosine: FloatArray
    rival_image: IntArray
    rival_image_cosine: FloatArray


def find_rivals(
    images: Blocks, captions: Blocks, shape: tuple[int, int], pairs: IntArray, cosines: FloatArray
) -> Rivals:
    """Rank every pair among its rivals.

    Args:
        images: gives blocks of unit rows, (n_images, dim) in all, anew each time.
        captions: the same for captions, (n_captions, dim) in all.
        shape: (n_images, n_captions).
        pairs: (n_pairs, 2) image and caption of each pair.
        cosines: (n_pairs,) of each pair.

    Returns:
        Exact ranks; ties (cosines within 1e-6) keep the order of the rows of ``images`` and ``captions``.
        Time grows with n_images x n_captions, memory with n_images + n_captions + n_pairs only.
    """
    found = Rivals(
        np.ones(len(pairs), dtype=np.int64),
        np.ones(len(pairs), dtype=np.int64),
        np.full(shape[0], -1, dtype=np.int64),
        np.full(shape[0], -np.inf, dtype=np.float32),
        np.full(shape[1], -1, dtype=np.int64),
        np.full(shape[1], -np.inf, dtype=np.float32),
    )
    by_image = np.argsort(pairs[:, 0], kind="stable")
    by_caption = np.argsort(pairs[:, 1], kind="stable")
    top = 0
    for image_rows in images():
        bottom, left = top + len(image_rows), 0
        of_images = by_image[slice(*np.searchsorted(pairs[by_image, 0], [top, bottom]))]
        for caption_rows in captions():
            right = left + len(caption_rows)
            of_captions = by_caption[slice(*np.searchsorted(pairs[by_caption, 1], [left, right]))]
            scores = image_rows @ caption_rows.T
            own = of_images[(pairs[of_images, 1] >= left) & (pairs[of_images, 1] < right)]
            scores[pairs[own, 0] - top, pairs[own, 1] - left] = -np.inf
            _count(found.rank_of_caption, scores, of_images, pairs, cosines, (0, top, left))
            _best(found.rival_caption, found.rival_caption_cosine, scores, top, left)
            turned = np.ascontiguousarray(scores.T)  # whole lines are read far faster
            _count(found.rank_of_image, turned, of_captions, pairs, cosines, (1, left, top))
            _best(found.rival_image, found.rival_image_cosine, turned, left, top)
            left = right
        top = bottom
    return found


def _count(
    ranks: IntArray,
    scores: FloatArray,
    wanted: IntArray,
    pairs: IntArray,
    cosines: FloatArray,
    at: tuple[int, int, int],
) -> None:
    """Add to ``ranks`` of the pairs ``wanted`` how many of the columns of ``scores`` come before them.

    Args:
        ranks: (n_pairs,) changed in place.
        scores: a block, with the pairs' queries along its rows and -inf where a column is no rival.
        wanted: indices of the pairs whose query is in the block.
        pairs: (n_pairs, 2).
        cosines: (n_pairs,).
        at: which column of ``pairs`` is the query, first query of the block, first candidate of the block.
    """
    side, first_query, first_candidate = at
    columns = np.arange(first_candidate, first_candidate + scores.shape[1])
    for start in range(0, len(wanted), BLOCK):
        some = wanted[start : start + BLOCK]
        lines = scores[pairs[some, side] - first_query]
        own = cosines[some][:, None]
        above = np.count_nonzero(lines > own + TIE, axis=1)
        ranks[some] += above
        near = np.flatnonzero(np.count_nonzero(lines >= own - TIE, axis=1) != above)
        if near.size:  # ties are rare
            tied = np.abs(lines[near] - own[near]) <= TIE
            before = columns < pairs[some[near], 1 - side][:, None]
            ranks[some[near]] += np.count_nonzero(tied & before, axis=1)


def _best(best: IntArray, highest: FloatArray, scores: FloatArray, first_query: int, first: int) -> None:
    """Keep the highest candidate of each query; of equal ones the first."""
    columns = scores.argmax(axis=1)
    values = scores[np.arange(len(scores)), columns]
    queries = slice(first_query, first_query + len(scores))
    better = values > highest[queries]
    best[queries][better] = columns[better] + first
    highest[queries][better] = values[better]
