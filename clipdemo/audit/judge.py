"""What a scored table says: ranks among rivals, flags, retrieval figures, and the rows of the output."""

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
    """The table in a few figures.

    Attributes:
        rows: of the table.
        scored: rows with a similarity.
        failed: rows with an error.
        errors: the first words of these errors -> rows, the commonest first.
        images: distinct images that were scored; equal bytes are one image.
        captions: distinct captions that were scored.
        truncated: scored rows whose caption has a tail the checkpoint does not read.
        flags: flag -> rows that carry it.
        image_to_text: each image asks for its captions.
        text_to_image: each caption asks for its images.
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
    """A scored table; everything is by pair, in the order of the rows that could be scored.

    Attributes:
        table: as it was read.
        ledger: holds embeddings, captions and errors.
        checkpoint: what the cosines must be read against.
        numbers: (n,) row number of each pair.
        pairs: (n, 2) ids of its image and caption.
        cosines: (n,).
        percentiles: (n,) against the background of unrelated pairs, 0-100.
        rivals: ranks and best rivals.
        flags: (n,) what each pair is flagged with.
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
        """(n,) pairs, lowest percentile first; ties keep the order of the rows."""
        return np.argsort(self.cosines, kind="stable").astype(np.int64)

    def caption(self, pair: int) -> str:
        """The caption of a pair."""
        return self.ledger.caption_text(int(self.pairs[pair, 1]))[0]

    def image_name(self, image: int) -> str:
        """What the table first called an image."""
        return self.ledger.file_name(image)

    def short_name(self, image: int) -> str:
        """The end of an image's name, where names of one folder differ."""
        return self.image_name(image).rstrip("/").rsplit("/", 1)[-1]

    def rival_caption(self, pair: int) -> str:
        """The caption of other images that fits the pair's image best; empty without rivals."""
        rival = int(self.rivals.rival_caption[self.pairs[pair, 0]])
        return self.ledger.caption_text(rival)[0] if rival >= 0 else ""

    def results(self, pair: int) -> tuple[str, ...]:
        """The cells of ``RESULT_COLUMNS`` of one pair."""
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
        """Every row of the table with its results, in order; rows never reached say so."""
        done = self.ledger.rows()
        pair = 0
        for row in self.table.rows():
            found = next(done, None)
            if found is None:
                yield [*row.cells, *unscored("not scored: stopped before this row")]
            elif found.error:
                yield [*row.cells, *unscored(found.error)]
            else:
                yield [*row.cells, *self.results(pair)]
                pair += 1

    def summary(self) -> Summary:
        """The table in a few figures."""
        images, captions = self.pairs[:, 0], self.pairs[:, 1]
        image_ranks, caption_ranks = self.rivals.best_ranks()
        flags = Counter(flag for some in self.flags for flag in some)
        return Summary(
            rows=self.table.count,
            scored=len(self.pairs),
            failed=self.table.count - len(self.pairs),
            errors=dict(
                Counter(row.error.split(":")[0][:60] for row in self.ledger.rows() if row.error).most_common(
                    5
                )
            ),
            images=len(np.unique(images)),
            captions=len(np.unique(captions)),
            truncated=sum(self.ledger.caption_text(int(caption))[1] for caption in captions),
            flags={flag: flags[flag] for flag in FLAGS},
            image_to_text=retrieval_metrics(image_ranks),
            text_to_image=retrieval_metrics(caption_ranks),
        )


def result_columns(table: Table) -> tuple[str, ...]:
    """Names of the result columns; all get a prefix, if need be twice, where the table already uses one of them."""
    taken = {column.strip().lower() for column in table.columns}
    names: tuple[str, ...] = RESULT_COLUMNS
    while taken.intersection(names):
        names = tuple("clipdemo_" + name for name in names)
    return names


def unscored(error: str) -> tuple[str, ...]:
    """The cells of ``RESULT_COLUMNS`` of a row that has no score."""
    return ("",) * (len(RESULT_COLUMNS) - 1) + (error,)


def judge(
    table: Table, ledger: Ledger, checkpoint: Checkpoint, background: FloatArray, footprint: Footprint
) -> Audit:
    """Rank and flag what the ledger holds.

    Args:
        table: the rows, all or some of which were scored.
        ledger: of ``score_table``.
        checkpoint: under which they were scored.
        background: cosines of unrelated pairs under it.
        footprint: takes the seconds.
    """
    numbers, pairs, cosines = ledger.pairs()
    with footprint.stage("score", len(pairs)):
        shape = ledger.image_count, ledger.caption_count
        rivals = find_rivals(ledger.image_blocks, ledger.caption_blocks, shape, pairs, cosines)
        percentiles = similarity.percentile(cosines, background)
        weak = percentiles < WEAK_BELOW
        swapped = weak & (
            _strong_elsewhere(pairs, rivals, background) | _gains(ledger, pairs, cosines, rivals, background)
        )
        twice = ledger.duplicates()
    flags = [
        tuple(
            flag
            for flag, holds in (
                (SWAPPED, swapped[pair]),
                (WEAK, weak[pair]),
                (DUPLICATE, int(image) in twice),
            )
            if holds
        )
        for pair, image in enumerate(pairs[:, 0])
    ]
    return Audit(table, ledger, checkpoint, numbers, pairs, cosines, percentiles, rivals, flags)


def _strong_elsewhere(pairs: IntArray, rivals: Rivals, background: FloatArray) -> BoolArray:
    """(n,) whether the image has a strong match among other captions, and the caption among other images."""
    of_image = similarity.percentile(rivals.rival_caption_cosine[pairs[:, 0]], background)
    of_caption = similarity.percentile(rivals.rival_image_cosine[pairs[:, 1]], background)
    return (of_image >= STRONG_FROM) & (of_caption >= STRONG_FROM)


def _gains(
    ledger: Ledger, pairs: IntArray, cosines: FloatArray, rivals: Rivals, background: FloatArray
) -> BoolArray:
    """(n,) whether exchanging captions with the pair whose caption fits the image best gives two possible matches.

    The other pair must gain, too; that this one does follows from its being weak.
    """
    owner = np.full(ledger.caption_count, -1, dtype=np.int64)
    owner[pairs[::-1, 1]] = np.arange(len(pairs))[::-1]  # the first pair of each caption
    rival = rivals.rival_caption[pairs[:, 0]]
    possible = similarity.percentile(rivals.rival_caption_cosine[pairs[:, 0]], background) >= POSSIBLE_FROM
    wanted = np.flatnonzero(possible & (rival >= 0))
    gains = np.zeros(len(pairs), dtype=np.bool_)
    for start in range(0, len(wanted), BLOCK):
        some = wanted[start : start + BLOCK]
        other = owner[rival[some]]
        theirs = ledger.image_embeddings(pairs[other, 0].tolist())
        ours = ledger.caption_embeddings(pairs[some, 1].tolist())
        exchanged = row_cosines(theirs, ours)
        likely = similarity.percentile(exchanged, background) >= POSSIBLE_FROM
        gains[some] = likely & (exchanged > cosines[other])
    return gains
