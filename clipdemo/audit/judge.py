"""Judges a scored table: ranks among rivals, flags, retrieval metrics, and the rows of the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from clipdemo import similarity
from clipdemo.audit.footprint import Footprint
from clipdemo.audit.ledger import Ledger
from clipdemo.scoring.retrieval import RetrievalMetrics, retrieval_metrics
from clipdemo.scoring.rivals import BLOCK, Rivals, find_rivals, row_cosines
from clipdemo.similarity import BoolArray, FloatArray, IntArray
from clipdemo.tables.table import Table
from clipdemo.types import Checkpoint

SWAPPED, WEAK, DUPLICATE = "likely swapped", "weak", "duplicate image"
FLAGS = (SWAPPED, WEAK, DUPLICATE)
WEAK_BELOW, POSSIBLE_FROM, STRONG_FROM = 80.0, 95.0, 99.0  # percentiles, as on the score card
RESULT_COLUMNS = (
    "similarity",
    "percentile",
    "rank_of_caption",
    "rank_of_image",
    "best_rival_caption",
    "truncated",
    "flag",
    "error",
)


@dataclass(frozen=True)
class Summary:
    """Figures of a scored table.

    Attributes:
        rows: of the table.
        scored: rows with a similarity.
        failed: rows with an error.
        errors: number of rows by the label of their error, the five commonest first.
        images: distinct images that were scored; files with equal bytes are one image.
        captions: distinct captions that were scored.
        truncated: scored rows whose caption is longer than the checkpoint reads.
        flags: number of rows by flag.
        image_to_text: each image searches for its captions.
        text_to_image: each caption searches for its images.
    """

    rows: int
    scored: int
    failed: int
    errors: dict[str, int]
    images: int
    captions: int
    truncated: int
    flags: dict[str, int]
    image_to_text: RetrievalMetrics[float]
    text_to_image: RetrievalMetrics[float]


@dataclass(frozen=True, eq=False)
class Audit:
    """A scored table. Arrays hold one entry per pair, in the order of the rows that could be scored.

    Attributes:
        table: the rows.
        ledger: their embeddings, captions and errors.
        checkpoint: that scored them.
        numbers: (n,) row numbers.
        pairs: (n, 2) image and caption ids.
        cosines: (n,).
        percentiles: (n,) against the background of unrelated pairs, 0-100.
        rivals: ranks and best rivals.
        flags: (n,) the flags of each pair.
    """

    table: Table
    ledger: Ledger
    checkpoint: Checkpoint
    numbers: IntArray
    pairs: IntArray
    cosines: FloatArray
    percentiles: FloatArray
    rivals: Rivals
    flags: list[tuple[str, ...]]

    def worst(self) -> IntArray:
        """Return (n,) indices of the pairs, lowest percentile first; ties keep the order of the rows."""
        return np.argsort(self.cosines, kind="stable").astype(np.int64)

    def caption(self, pair: int) -> str:
        """Return the caption of a pair."""
        return self.ledger.caption_text(int(self.pairs[pair, 1]))[0]

    def image_name(self, image: int) -> str:
        """Return the first name that the table gives an image."""
        return self.ledger.file_name(image)

    def short_name(self, image: int) -> str:
        """Return the last part of an image's path or URL."""
        return self.image_name(image).rstrip("/").rsplit("/", 1)[-1]

    def rival_caption(self, pair: int) -> str:
        """Return the best-scoring caption of other images for the pair's image; "" without rivals."""
        rival = int(self.rivals.rival_caption[self.pairs[pair, 0]])
        return self.ledger.caption_text(rival)[0] if rival >= 0 else ""

    def results(self, pair: int) -> tuple[str, ...]:
        """Return the cells of ``RESULT_COLUMNS`` for a pair."""
        return (
            f"{self.cosines[pair]:.6f}",
            f"{self.percentiles[pair]:.2f}",
            str(self.rivals.rank_of_caption[pair]),
            str(self.rivals.rank_of_image[pair]),
            self.rival_caption(pair),
            "yes" if self.ledger.caption_text(int(self.pairs[pair, 1]))[1] else "no",
            "; ".join(self.flags[pair]),
            "",
        )

    def rows(self) -> Iterator[list[str]]:
        """Yield every row of the table with its results, in order; rows not reached have an error."""
        scored_rows = self.ledger.rows()
        pair = 0
        for row in self.table.rows():
            scored = next(scored_rows, None)
            if scored is None:
                yield [*row.cells, *unscored("not scored: stopped before this row")]
            elif scored.error:
                yield [*row.cells, *unscored(scored.error)]
            else:
                yield [*row.cells, *self.results(pair)]
                pair += 1

    def summary(self) -> Summary:
        """Return the figures of the table."""
        images, captions = self.pairs[:, 0], self.pairs[:, 1]
        image_ranks, caption_ranks = self.rivals.best_ranks()
        flags = Counter(flag for pair_flags in self.flags for flag in pair_flags)
        errors = Counter(row.error.split(":")[0][:60] for row in self.ledger.rows() if row.error)
        return Summary(
            rows=self.table.count,
            scored=len(self.pairs),
            failed=self.table.count - len(self.pairs),
            errors=dict(errors.most_common(5)),
            images=len(np.unique(images)),
            captions=len(np.unique(captions)),
            truncated=sum(self.ledger.caption_text(int(caption))[1] for caption in captions),
            flags={flag: flags[flag] for flag in FLAGS},
            image_to_text=retrieval_metrics(image_ranks),
            text_to_image=retrieval_metrics(caption_ranks),
        )


def result_columns(table: Table) -> tuple[str, ...]:
    """Return the names of the result columns, with "clipdemo_" before them until all are new to the table."""
    taken = {column.strip().lower() for column in table.columns}
    names: tuple[str, ...] = RESULT_COLUMNS
    while taken.intersection(names):
        names = tuple("clipdemo_" + name for name in names)
    return names


def unscored(error: str) -> tuple[str, ...]:
    """Return the cells of ``RESULT_COLUMNS`` for a row without a score."""
    return ("",) * (len(RESULT_COLUMNS) - 1) + (error,)


def judge(
    table: Table, ledger: Ledger, checkpoint: Checkpoint, background: FloatArray, footprint: Footprint
) -> Audit:
    """Rank and flag the pairs of a ledger.

    Args:
        table: the rows, all or some of which were scored.
        ledger: filled by ``score_table``.
        checkpoint: that scored them.
        background: cosines of unrelated pairs under the same checkpoint.
        footprint: receives the time.
    """
    numbers, pairs, cosines = ledger.pairs()
    with footprint.stage("score", len(pairs)):
        shape = ledger.image_count, ledger.caption_count
        rivals = find_rivals(ledger.image_blocks, ledger.caption_blocks, shape, pairs, cosines)
        percentiles = similarity.percentile(cosines, background)
        weak = percentiles < WEAK_BELOW
        swapped = weak & (_strong_elsewhere(rivals, background) | _gains(ledger, rivals, background))
        duplicates = ledger.duplicates()
    duplicate = [image in duplicates for image in pairs[:, 0].tolist()]
    flags = [
        tuple(flag for flag, applies in zip(FLAGS, tests, strict=True) if applies)
        for tests in zip(swapped, weak, duplicate, strict=True)
    ]
    return Audit(table, ledger, checkpoint, numbers, pairs, cosines, percentiles, rivals, flags)


def _strong_elsewhere(rivals: Rivals, background: FloatArray) -> BoolArray:
    """Return (n,): whether the image strongly matches another caption, and the caption another image."""
    of_image = similarity.percentile(rivals.rival_caption_cosine[rivals.pairs[:, 0]], background)
    of_caption = similarity.percentile(rivals.rival_image_cosine[rivals.pairs[:, 1]], background)
    return (of_image >= STRONG_FROM) & (of_caption >= STRONG_FROM)


def _gains(ledger: Ledger, rivals: Rivals, background: FloatArray) -> BoolArray:
    """Return (n,): whether swapping captions with the best rival caption's pair yields two possible matches.

    The other pair must gain from the swap, too; this pair does because it is weak.
    """
    pairs, cosines = rivals.pairs, rivals.cosines
    owner = np.full(ledger.caption_count, -1, dtype=np.int64)
    owner[pairs[::-1, 1]] = np.arange(len(pairs))[::-1]  # the first pair of each caption
    rival = rivals.rival_caption[pairs[:, 0]]
    possible = similarity.percentile(rivals.rival_caption_cosine[pairs[:, 0]], background) >= POSSIBLE_FROM
    candidates = np.flatnonzero(possible & (rival >= 0))
    gains = np.zeros(len(pairs), dtype=np.bool_)
    for start in range(0, len(candidates), BLOCK):
        block = candidates[start : start + BLOCK]
        other = owner[rival[block]]
        other_images = ledger.image_embeddings(pairs[other, 0].tolist())
        own_captions = ledger.caption_embeddings(pairs[block, 1].tolist())
        swapped = row_cosines(other_images, own_captions)
        likely = similarity.percentile(swapped, background) >= POSSIBLE_FROM
        gains[block] = likely & (swapped > cosines[other])
    return gains
