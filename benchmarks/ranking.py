"""Exact ranks of image,caption pairs against the plain algorithm, and the matrix product alone, in turns.

``python -m benchmarks.ranking [REPEATS [ROWS]]`` prints seconds of all three and their ratios;
with ROWS only for one table of so many rows, each with an image and a caption of its own. The plain algorithm
multiplies block by block with NumPy, masks right answers, and compares the candidates of each pair with the
pair's cosine.
"""

from __future__ import annotations

import os

os.environ.pop("OPENBLAS_CORETYPE", None)  # slows NumPy where it names an older processor

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.machine import machine
from clipdemo import similarity
from clipdemo.scoring.retrieval import rank_pairs
from clipdemo.scoring.rivals import row_cosines
from clipdemo.similarity import FloatArray, IntArray

DIM = 512
BLOCK = 2048
TIE = np.float32(1e-6)


@dataclass(frozen=True, eq=False)
class Table:
    """Embeddings and pairs; those of a row are alike, so that right answers come early."""

    title: str
    images: FloatArray
    captions: FloatArray
    pairs: IntArray


def table(rows: int, images: int, captions: int) -> Table:
    """Return a table with random embeddings."""
    random = np.random.default_rng(0)
    if rows == images == captions:
        pairs = np.stack([np.arange(rows), random.permutation(rows)], axis=1)
    else:
        pairs = np.stack([random.integers(0, images, rows), random.integers(0, captions, rows)], axis=1)
    noise = [random.standard_normal((count, DIM), dtype=np.float32) for count in (images, captions)]
    noise[1][pairs[:, 1]] += 0.2 * noise[0][pairs[:, 0]]
    title = f"{rows:,} rows, {images:,} images x {captions:,} captions"
    return Table(title, similarity.unit(noise[0]), similarity.unit(noise[1]), pairs)


def ranks(table: Table) -> tuple[IntArray, IntArray]:
    """Rank with clipdemo."""
    found = rank_pairs(table.images, table.captions, table.pairs)
    return found.rank_of_caption, found.rank_of_image


def plain_ranks(table: Table) -> tuple[IntArray, IntArray]:
    """Rank with the plain algorithm."""
    pairs = table.pairs
    own = row_cosines(table.images[pairs[:, 0]], table.captions[pairs[:, 1]])
    both = np.ones((2, len(pairs)), dtype=np.int64)
    orders = [np.argsort(side, kind="stable") for side in pairs.T]
    for top in range(0, len(table.images), BLOCK):
        for left in range(0, len(table.captions), BLOCK):
            scores = table.images[top : top + BLOCK] @ table.captions[left : left + BLOCK].T
            corners = (top, left)
            blocks = []  # the pairs whose image, and those whose caption, is in the block
            for order, side, corner in zip(orders, pairs.T, corners, strict=True):
                low, high = np.searchsorted(side[order], [corner, corner + BLOCK])
                blocks.append(order[low:high])
            captions = pairs[blocks[0], 1]
            inside = blocks[0][(captions >= left) & (captions < left + BLOCK)]
            scores[pairs[inside, 0] - top, pairs[inside, 1] - left] = -np.inf
            for query, block in enumerate(blocks):
                facing = np.ascontiguousarray(scores.T) if query else scores
                facing.argmax(axis=1)  # the best rivals
                for start in range(0, len(block), BLOCK):
                    some = block[start : start + BLOCK]
                    both[query, some] += _before(facing, pairs[some], own[some], query, corners)
    return both[0], both[1]


def _before(
    scores: FloatArray, pairs: IntArray, own: FloatArray, query: int, corners: tuple[int, int]
) -> IntArray:
    """Return how many candidates of a block come before each pair's right answer."""
    rows = scores[pairs[:, query] - corners[query]]
    before: IntArray = np.count_nonzero(rows > own[:, None] + TIE, axis=1)
    near = np.flatnonzero(np.count_nonzero(rows >= own[:, None] - TIE, axis=1) != before)
    tied = np.abs(rows[near] - own[near, None]) <= TIE
    first = np.arange(rows.shape[1]) + corners[1 - query] < pairs[near, 1 - query, None]
    before[near] += np.count_nonzero(tied & first, axis=1)
    return before


def product(table: Table) -> None:
    """Only multiply, as NumPy does it by itself."""
    out = np.empty((BLOCK, BLOCK), dtype=np.float32)
    for top in range(0, len(table.images), BLOCK):
        images = table.images[top : top + BLOCK]
        for left in range(0, len(table.captions), BLOCK):
            captions = table.captions[left : left + BLOCK]
            np.matmul(images, captions.T, out=out[: len(images), : len(captions)])


def seconds(work: Callable[[Table], object], some: Table) -> float:
    """Time one call."""
    started = time.perf_counter()
    work(some)
    return time.perf_counter() - started


def main(repeats: int, rows: int | None) -> None:
    """Print one line for each table."""
    print(machine()["processor"], machine()["cores"], "cores, load", machine()["load before"])
    shapes = [(rows, rows, rows)] if rows else [(20_000, 20_000, 20_000), (200_000, 5_000, 5_000)]
    contenders: dict[str, Callable[[Table], object]] = {
        "clipdemo": ranks,
        "plain": plain_ranks,
        "product": product,
    }
    for shape in shapes:
        some = table(*shape)
        times: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(repeats):
            for name, work in contenders.items():
                times[name].append(seconds(work, some))
        ours, plain, alone = (median(times[name]) for name in contenders)
        print(
            f"{some.title}: {ours:.2f} s, plain {plain:.2f} s: {plain / ours:.2f} x; the product alone "
            f"{alone:.2f} s: {ours / alone:.2f} of it",
            flush=True,
        )


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(arguments[0] if arguments else 3, arguments[1] if len(arguments) > 1 else None)
