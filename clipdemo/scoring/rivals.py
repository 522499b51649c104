"""Exact ranks of pairs among their rivals, in blocks: the whole matrix is never in memory. NumPy only.

The rivals of a pair's caption are the captions of other images; the rivals of its image are the images of
other captions. Five captions of one photograph, or one caption of two photographs, do not compete with each
other.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
from threadpoolctl import ThreadpoolController

from clipdemo import child
from clipdemo.scoring.direction import Direction
from clipdemo.similarity import BoolArray, FloatArray, IntArray

BLOCK = 2048
# A tile has up to _SIDE images and captions; few of one side leave room for more of the other. No power of
# two: a column of such a matrix shares a few lines of the cache, and the counts take twice as long.
_SIDE = 976
_AREA = _SIDE * _SIDE
_GROUP = 8 * _SIDE  # images that share one reading of the captions
_MOST_WORKERS = 16  # each needs 5 MB, 20 MB where an image or a caption has many pairs

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
        captions: the same for captions, (n_captions, dim) in total; called once per 7,808 images.
        shape: (n_images, n_captions).
        pairs: (n_pairs, 2) indices of image and caption.
        cosines: (n_pairs,).

    Returns:
        Exact ranks; ties (cosines within 1e-6) keep the order of the rows of ``images`` and ``captions``.
        Time grows with n_images x n_captions, memory only with n_images + n_captions + n_pairs. The number
        of cores changes the time alone.
    """
    by_image = Direction(pairs[:, 0], pairs[:, 1], cosines, shape[0])
    by_caption = Direction(pairs[:, 1], pairs[:, 0], cosines, shape[1])
    with _ONE_THREAD.held() as alone:
        workers = min(child.cores(), _MOST_WORKERS) if alone else 1
        search = _Search(by_image, by_caption, workers)
        with ThreadPoolExecutor(workers, thread_name_prefix="clipdemo-rank") as threads:
            running: deque[Future[None]] = deque()
            for tile in _tiles(images, captions, shape):
                running.append(threads.submit(search.add, tile))
                if len(running) > 2 * workers:
                    running.popleft().result()
            for future in running:
                future.result()
    return Rivals(
        pairs,
        cosines,
        by_image.ranks(),
        by_caption.ranks(),
        by_image.rival,
        by_image.rival_cosine,
        by_caption.rival,
        by_caption.rival_cosine,
    )


class _OneThread:
    """Keeps NumPy's products on the thread that calls them, so that several threads multiply side by side.

    OpenBLAS splits each product over all cores, and its threads then wait for each other in a loop: with
    other programs on the cores, a product takes three times as long as on one thread.
    """

    def __init__(self) -> None:
        self._lock, self._users = threading.Lock(), 0

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Hold it in the whole process until the last user leaves; yields whether this machine can."""
        with self._lock:
            if not self._users:
                self._blas = ThreadpoolController().select(user_api="blas")
                self._limit = self._blas.limit(limits=1)
            self._users += 1
        try:
            yield bool(self._blas.lib_controllers)
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._limit.restore_original_limits()


_ONE_THREAD = _OneThread()


@dataclass(frozen=True, eq=False)
class _Tile:
    """Some images with some captions.

    Attributes:
        images: (n, dim) unit rows.
        captions: (m, dim) unit rows.
        top: index of the first image.
        left: index of the first caption.
    """

    images: FloatArray
    captions: FloatArray
    top: int
    left: int


class _Search:
    """Both directions of a search, with memory for the tiles of some threads.

    Args:
        by_image: images search for captions.
        by_caption: captions search for images.
        threads: tiles at a time.
    """

    def __init__(self, by_image: Direction, by_caption: Direction, threads: int) -> None:
        self._by_image, self._by_caption = by_image, by_caption
        self._spaces: SimpleQueue[tuple[FloatArray, BoolArray]] = SimpleQueue()
        for _ in range(threads):
            self._spaces.put((np.empty(_AREA, dtype=np.float32), np.empty(_AREA, dtype=np.bool_)))

    def add(self, tile: _Tile) -> None:
        """Multiply a tile, and count in both directions."""
        space = self._spaces.get()
        try:
            shape = len(tile.images), len(tile.captions)
            area = shape[0] * shape[1]
            scores, flags = space[0][:area].reshape(shape), space[1][:area].reshape(shape)
            np.matmul(tile.images, tile.captions.T, out=scores)
            images, captions = self._by_image.answers_of(tile.top, tile.top + shape[0])
            inside = (captions >= tile.left) & (captions < tile.left + shape[1])
            scores[images[inside] - tile.top, captions[inside] - tile.left] = -np.inf  # not a rival
            self._by_image.add(scores, flags, tile.top, tile.left)
            self._by_caption.add(scores.T, flags.T, tile.left, tile.top)
        finally:
            self._spaces.put(space)


def _tiles(images: Blocks, captions: Blocks, shape: tuple[int, int]) -> Iterator[_Tile]:
    """Yield tiles of up to _AREA cosines that cover the whole product; narrow ones are higher."""
    top = 0
    for image_rows in _regroup(images(), _GROUP):
        left = 0
        for caption_rows in _regroup(captions(), min(_GROUP, max(_SIDE, _AREA // shape[0]))):
            height = _AREA // len(caption_rows)
            for start in range(0, len(image_rows), height):
                yield _Tile(image_rows[start : start + height], caption_rows, top + start, left)
            left += len(caption_rows)
        top += len(image_rows)


def _regroup(blocks: Iterator[FloatArray], size: int) -> Iterator[FloatArray]:
    """Yield blocks of ``size`` rows, the last one shorter."""
    waiting: list[FloatArray] = []
    missing = size
    for block in blocks:
        rows = block
        while len(rows) >= missing:
            yield np.concatenate([*waiting, rows[:missing]])
            rows, waiting, missing = rows[missing:], [], size
        if len(rows):
            waiting.append(rows)
            missing -= len(rows)
    if waiting:
        yield np.concatenate(waiting)


def _best_per_query(queries: IntArray, ranks: IntArray) -> IntArray:
    """Return the lowest rank of each distinct query, in the order of their indices."""
    distinct, place = np.unique(queries, return_inverse=True)
    best = np.full(len(distinct), np.iinfo(np.int64).max, dtype=np.int64)
    np.minimum.at(best, place, ranks)
    return best
