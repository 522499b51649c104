"""A whole run of ``clipdemo evaluate``: a table and a checkpoint in, retrieval figures out, source by source."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from clipdemo.audit.footprint import Footprint, Show
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.errors import FileMissingError, TableError
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import Limits
from clipdemo.scoring.retrieval import Direction, Evaluation, Figure, evaluate
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.tables.delimited import Record
from clipdemo.tables.table import Row, Table, open_table
from clipdemo.train.dataset import column, split_of
from clipdemo.types import Checkpoint, Encoder

ALL = "all"


@dataclass(frozen=True)
class Report:
    """What came of it.

    Attributes:
        checkpoint: that was evaluated.
        device: where it ran.
        sources: source -> its figures, each among its own images and captions; "all" without such a column.
        failed: rows that could not be used.
        notes: on how the table was read.
        seconds: on the clock.
    """

    checkpoint: Checkpoint
    device: str
    sources: dict[str, Evaluation]
    failed: int
    notes: tuple[str, ...]
    seconds: float

    def as_json(self) -> str:
        """One object with every figure."""
        return json.dumps(
            {
                "checkpoint": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "device": self.device,
                "seconds": round(self.seconds, 3),
                "failed_rows": self.failed,
                "notes": list(self.notes),
                "sources": {source: asdict(figures) for source, figures in self.sources.items()},
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """The figures for people."""
        lines = [f"note: {note}" for note in self.notes]
        for source, figures in self.sources.items():
            lines.append(f"{source}: {figures.images:,} images, {figures.captions:,} captions")
            lines.append(f"  text to image: {_line(figures.text_to_image)}")
            lines.append(f"  image to text: {_line(figures.image_to_text)}")
        lines += [
            "a query is a hit when any of its right answers is among the first k; each source is searched by itself; "
            "in brackets 95 % bootstrap intervals over images",
            f"checkpoint {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}, on {self.device}, "
            f"{self.seconds:.1f} s; {self.failed:,} rows failed",
        ]
        return "\n".join(lines)


def run_evaluation(
    path: Path, images: Path, split: str | None, encoder: Encoder, pace: tuple[int, int], show: Show
) -> Report:
    """Encode a table's images and captions and see how well they find each other.

    Args:
        path: of the table.
        images: folder that its image paths start from.
        split: only rows of this split; None for all.
        encoder: from ``load_encoder``.
        pace: images of one forward pass, and threads that fetch and decode.
        show: told of rows done.

    Raises:
        TableError: a table that cannot be used, or none of whose rows can.
        FileMissingError: no folder of images.
    """
    footprint = Footprint()
    if not path.is_file():
        raise TableError(f"there is no table {path}")
    if not images.is_dir():
        raise FileMissingError(f"there is no folder of images {images}")
    table = open_table(printable_name(path.name), lambda: path.open("rb"))
    if split:
        table = _only(table, split)
    limits = Limits.from_environment()
    batch_size, workers = pace
    ledger = Ledger()
    plan = Plan(limits, workers, batch_size)
    for done in score_table(table, folder_locator(images, limits), encoder, ledger, footprint, plan):
        show(done, table.count, done / max(footprint.seconds, 1e-9))
    numbers, pairs, _ = ledger.pairs()
    if not len(pairs):
        first = next((row.error for row in ledger.rows()), "the table has no rows")
        raise TableError(f"no row of the table can be used: {first}")
    rows = _together(ledger.image_blocks()), _together(ledger.caption_blocks())
    at = column(table, "source")
    of_row = [row.cells[at].strip() or ALL if at is not None else ALL for row in table.rows()]
    named = np.array(of_row)[numbers]
    figures = {str(one): _evaluate_some(*rows, pairs[named == one]) for one in dict.fromkeys(named.tolist())}
    failed = table.count - len(pairs)
    return Report(encoder.checkpoint, encoder.device, figures, failed, table.notes, footprint.seconds)


def _only(table: Table, split: str) -> Table:
    """The table's rows of one split."""
    at = column(table, "split")
    if at is None:
        raise TableError(
            "the table has no column 'split', so --split has nothing to choose by; what `clipdemo train` set apart by "
            "itself is measured in its folder's metrics.json"
        )

    def wanted(row: Row) -> bool:
        return bool(row.problem) or split_of(row, at) == split

    def read(start: int) -> Iterator[Record]:
        kept = ((row.cells, row.problem) for row in table.rows() if wanted(row))
        for number, record in enumerate(kept):
            if number >= start:
                yield record

    count = sum(1 for _ in read(0))
    if not count:
        raise TableError(f"no row of the table is of the split {split!r}")
    return replace(table, count=count, _read=read)


def _evaluate_some(images: FloatArray, captions: FloatArray, pairs: IntArray) -> Evaluation:
    some_images, image_of = np.unique(pairs[:, 0], return_inverse=True)
    some_captions, caption_of = np.unique(pairs[:, 1], return_inverse=True)
    return evaluate(images[some_images], captions[some_captions], np.stack([image_of, caption_of], axis=1))


def _together(blocks: Iterator[FloatArray]) -> FloatArray:
    return np.concatenate(list(blocks))


def _line(direction: Direction) -> str:
    def said(figure: Figure, scale: float, digits: int) -> str:
        return f"{scale * figure.value:.{digits}f} ({scale * figure.low:.{digits}f}–{scale * figure.high:.{digits}f})"

    recall = ", ".join(f"recall@{k} {said(figure, 100, 1)} %" for k, figure in direction.recall.items())
    return (
        f"{recall}, MRR {said(direction.mean_reciprocal_rank, 1, 3)}, "
        f"median rank {said(direction.median_rank, 1, 1)} ({direction.queries:,} queries)"
    )
