"""Counts of better candidates for the pairs of one direction of a search, tile by tile. NumPy only.

A tile holds the cosines of some queries with some candidates. All candidates of a tile come before, or all
come after, a right answer outside the tile, which decides how they tie; so one comparison of each is enough.
Only the tile of the answer itself looks at positions.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from clipdemo.similarity import BoolArray, FloatArray, IntArray

# Closer cosines are equal: the last bits of one embedding differ between blocks.
TIE = float(np.float32(1e-6))
_MOST_PASSES = 24
_SORT_COST = 24  # sorting a row of cosines takes as long as this many comparisons of the row with a threshold
_PART = 64  # candidates whose highest cosine is found at a time
_AT_ONCE = 256  # rows that are copied at a time


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Some pairs, in the order of their queries.

    Attributes:
        row: (n,) row of the query in the tile.
        answer: (n,) column of the right answer in the tile; below 0 or past the end for one outside.
        above: (n,) what a candidate after the answer must exceed: the answer's cosine plus TIE.
        level: (n,) what a candidate before the answer must exceed: just less than its cosine minus TIE.
    """

    row: IntArray
    answer: IntArray
    above: FloatArray
    level: FloatArray

    def __getitem__(self, index: IntArray | BoolArray) -> _Pairs:
        return _Pairs(self.row[index], self.answer[index], self.above[index], self.level[index])

    def threshold(self, candidates: int) -> FloatArray:
        """Return what the candidates of the tile must exceed, ties in the answer's own tile aside."""
        return np.where(self.answer >= candidates, self.level, self.above)

    def inside(self, candidates: int) -> IntArray:
        """Return the indices of the pairs whose answer is in the tile."""
        return np.flatnonzero((self.answer >= 0) & (self.answer < candidates))


class Direction:
    """The pairs of one direction: images that search for captions, or captions that search for images.

    Threads may call :meth:`add` for several tiles at a time; the order of the tiles does not matter.

    Args:
        queries: (n_pairs,) index of the pair's query.
        answers: (n_pairs,) index of the pair's right answer on the other side.
        cosines: (n_pairs,).
        count: number of queries.

    Attributes:
        rival: (count,) index of the candidate with the highest cosine so far, the first of equal ones; -1
            without candidates.
        rival_cosine: (count,) its cosine, -inf without candidates.
    """

    def __init__(self, queries: IntArray, answers: IntArray, cosines: FloatArray, count: int) -> None:
        self._order = np.lexsort((cosines, queries))  # ascending thresholds are found sooner
        self._queries, self._answers = queries[self._order], answers[self._order]
        own = cosines[self._order].astype(np.float64)
        self._above = _rounded_down(own + TIE)
        self._level = np.nextafter(-_rounded_down(TIE - own), np.float32(-np.inf))
        self._first = np.searchsorted(self._queries, np.arange(count + 1))  # of each query
        self._better = np.zeros(len(queries), dtype=np.int64)
        self.rival = np.full(count, -1, dtype=np.int64)
        self.rival_cosine = np.full(count, -np.inf, dtype=np.float32)
        self._lock = threading.Lock()

    def ranks(self) -> IntArray:
        """Return (n_pairs,) 1-based ranks among the candidates so far, in the order of the arguments."""
        ranks = np.empty_like(self._better)
        ranks[self._order] = self._better + 1
        return ranks

    def answers_of(self, first: int, end: int) -> tuple[IntArray, IntArray]:
        """Return the queries and the right answers of the pairs of the queries in [first, end)."""
        block = slice(self._first[first], self._first[end])
        return self._queries[block], self._answers[block]

    def add(self, scores: FloatArray, flags: BoolArray, first_query: int, first_candidate: int) -> None:
        """Count the better candidates of a tile, and keep the best ones.

        Args:
            scores: (queries, candidates) cosines; -inf where a candidate is not a rival.
            flags: the same shape, overwritten.
            first_query: index of the query in the first row.
            first_candidate: index of the candidate in the first column.
        """
        self._keep_best(scores, first_query, first_candidate)
        start, end = self._first[first_query], self._first[first_query + len(scores)]
        if start == end:
            return
        block = slice(start, end)
        pairs = _Pairs(
            self._queries[block] - first_query,
            self._answers[block] - first_candidate,
            self._above[block],
            self._level[block],
        )
        better = _better(pairs, scores, flags)
        with self._lock:
            self._better[block] += better

    def _keep_best(self, scores: FloatArray, first_query: int, first_candidate: int) -> None:
        least = self.rival_cosine[first_query : first_query + len(scores)]  # may rise before the lock
        rows, columns = _best(scores, least)
        values, queries, candidates = scores[rows, columns], rows + first_query, columns + first_candidate
        with self._lock:
            best, cosine = self.rival[queries], self.rival_cosine[queries]
            higher = (values > cosine) | ((values == cosine) & (candidates < best))
            self.rival[queries[higher]] = candidates[higher]
            self.rival_cosine[queries[higher]] = values[higher]


def _best(scores: FloatArray, least: FloatArray) -> tuple[IntArray, IntArray]:
    """Return the rows whose highest cosine reaches ``least``, and its first column in each."""
    if scores.flags.c_contiguous:
        columns = scores.argmax(axis=1)
        rows = np.flatnonzero(scores[np.arange(len(scores)), columns] >= least)
        return rows, columns[rows]
    # argmax would copy a transposed tile, which takes twenty times as long as max: where it is, only matters
    # for the few rows that exceed what other tiles have.
    starts = np.arange(0, scores.shape[1], _PART)
    parts = np.stack([scores[:, start : start + _PART].max(axis=1) for start in starts])
    rows = np.flatnonzero(parts.max(axis=0) >= least)
    first = starts[parts[:, rows].argmax(axis=0)]
    columns = np.minimum(first[:, None] + np.arange(_PART), scores.shape[1] - 1)
    return rows, first + scores[rows[:, None], columns].argmax(axis=1)


def _better(pairs: _Pairs, scores: FloatArray, flags: BoolArray) -> IntArray:
    """Return (n_pairs,) numbers of candidates of a tile that come before the right answer."""
    better = np.zeros(len(pairs.row), dtype=np.int64)
    counts = np.bincount(pairs.row, minlength=len(scores))
    passes = _passes(counts)
    light = counts <= passes
    first = np.cumsum(counts) - counts
    for turn in range(min(passes, int(counts.max()))):
        some = first[light & (counts > turn)] + turn  # one pair of each query
        better[some] = _by_comparing(pairs[some], scores, flags)
    if not light.all():
        some = np.flatnonzero(~light[pairs.row])
        better[some] = _by_sorting(pairs[some], scores, np.flatnonzero(~light))
    return better


def _passes(counts: IntArray) -> int:
    """Return how many pairs a query may have to be compared with a threshold for each; others are sorted.

    Args:
        counts: (queries,) number of pairs.
    """
    histogram = np.bincount(np.minimum(counts, _MOST_PASSES + 1), minlength=_MOST_PASSES + 2)
    more = len(counts) - np.cumsum(histogram)[:-1]  # queries with more than 0, 1, ... pairs
    return int(np.argmin(np.arange(_MOST_PASSES + 1) * len(counts) + _SORT_COST * more))


def _by_comparing(pairs: _Pairs, scores: FloatArray, flags: BoolArray) -> IntArray:
    """Count the better candidates of pairs of different queries, with one comparison of the whole tile."""
    thresholds = np.full((len(scores), 1), np.inf, dtype=np.float32)
    thresholds[pairs.row, 0] = pairs.threshold(scores.shape[1])
    np.greater(scores, thresholds, out=flags)
    better = _true_per_row(flags)[pairs.row]
    inside = pairs.inside(scores.shape[1])
    better[inside] += _ties_before(pairs[inside], scores)
    return better


def _by_sorting(pairs: _Pairs, scores: FloatArray, rows: IntArray) -> IntArray:
    """Count the better candidates of the pairs of some queries in sorted cosines.

    Args:
        pairs: all with a query in ``rows``.
        scores: of the tile.
        rows: ascending.
    """
    candidates = scores.shape[1]
    ordered = scores[rows]
    ordered.sort(axis=1)
    np.maximum(ordered, -2, out=ordered)  # was -inf
    place = np.searchsorted(rows, pairs.row)
    # Apart by more than any two cosines, the rows are one ascending vector; float64 keeps 1e-11 of a cosine.
    ladder = np.add(ordered, 8 * np.arange(len(rows))[:, None], dtype=np.float64).ravel()
    ends = (place + 1) * candidates

    def exceeding(index: IntArray | slice, thresholds: FloatArray) -> IntArray:
        found = np.searchsorted(ladder, thresholds + 8.0 * place[index], side="right")
        above: IntArray = ends[index] - found
        return above

    better = exceeding(slice(None), pairs.threshold(candidates))
    inside = pairs.inside(candidates)
    own = pairs[inside]
    tied = exceeding(inside, own.level) != exceeding(inside, own.above)
    better[inside[tied]] += _ties_before(own[tied], scores)
    return better


def _ties_before(pairs: _Pairs, scores: FloatArray) -> IntArray:
    """Return (n_pairs,) numbers of candidates that tie with the right answer and come before it."""
    ties = np.zeros(len(pairs.row), dtype=np.int64)
    columns = np.arange(scores.shape[1])
    for start in range(0, len(ties), _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        rows = scores[pairs.row[some]]
        tied = (rows > pairs.level[some, None]) & (rows <= pairs.above[some, None])
        if tied.any():
            ties[some] = np.count_nonzero(tied & (columns < pairs.answer[some, None]), axis=1)
    return ties


def _rounded_down(values: npt.NDArray[np.float64]) -> FloatArray:
    """Return the highest float32 that does not exceed each value."""
    nearest = values.astype(np.float32)
    down: FloatArray = np.where(nearest > values, np.nextafter(nearest, np.float32(-np.inf)), nearest)
    return down


def _true_per_row(flags: BoolArray) -> IntArray:
    """Count along axis 1; sums of bytes that cannot overflow are several times faster than count_nonzero."""
    counts = np.zeros(len(flags), dtype=np.int64)
    numbers = flags.view(np.uint8)
    for start in range(0, flags.shape[1], 255):
        counts += np.add.reduce(numbers[:, start : start + 255], axis=1, dtype=np.uint8)
    return counts
