"""A complete run of ``clipdemo evaluate``: retrieval metrics of a table, source by source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdemo.audit.footprint import Footprint, ProgressCallback
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.errors import FileMissingError, TableError
from clipdemo.escape import escape_controls
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import Limits
from clipdemo.regular import open_regular
from clipdemo.scoring.retrieval import Evaluation, evaluate
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.tables.table import Table, open_table
from clipdemo.types import Checkpoint, Encoder

ALL = "all"


@dataclass(frozen=True)
class EvaluationOptions:
    """The options of ``clipdemo evaluate``.

    Attributes:
        table: file with the rows.
        images: folder that the table's image paths start from.
        split: only rows of this split; None for all.
        batch_size: images, and captions, per forward pass.
        workers: threads that fetch and decode.
    """

    table: Path
    images: Path
    split: str | None
    batch_size: int
    workers: int


@dataclass(frozen=True)
class Report:
    """The result of an evaluation.

    Attributes:
        checkpoint: that was evaluated.
        device: of the checkpoint.
        sources: metrics of each source among its own images and captions; "all" without a source column.
        failed: number of rows that could not be used.
        notes: sentences on how the table was read.
        seconds: elapsed.
    """

    checkpoint: Checkpoint
    device: str
    sources: dict[str, Evaluation]
    failed: int
    notes: tuple[str, ...]
    seconds: float

    def as_json(self) -> str:
        """Return one JSON object with every figure."""
        return json.dumps(
            {
                "checkpoint": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "device": self.device,
                "seconds": round(self.seconds, 3),
                "failed_rows": self.failed,
                "notes": list(self.notes),
                "sources": {source: evaluation.as_dict() for source, evaluation in self.sources.items()},
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """Return the figures as lines of text."""
        lines = [f"note: {note}" for note in self.notes]
        for source, evaluation in self.sources.items():
            lines.append(f"{source}: {evaluation.images:,} images, {evaluation.captions:,} captions")
            lines.append(f"  text to image: {evaluation.text_to_image.as_text()}")
            lines.append(f"  image to text: {evaluation.image_to_text.as_text()}")
        lines += [
            "a query is a hit when any of its right answers is among the first k; each source is searched "
            "independently; in brackets 95 % bootstrap intervals over images",
            f"checkpoint {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}, on {self.device}, "
            f"{self.seconds:.1f} s; {self.failed:,} rows failed",
        ]
        return "\n".join(map(escape_controls, lines))


def run_evaluation(options: EvaluationOptions, encoder: Encoder, progress: ProgressCallback) -> Report:
    """Encode a table's images and captions and measure how well they find each other.

    Args:
        options: of the run.
        encoder: from ``load_encoder``.
        progress: called with the number of rows done.

    Raises:
        TableError: the table, or all of its rows, cannot be used.
        FileMissingError: the folder of images does not exist.
    """
    footprint = Footprint()
    table = _open_table(options)
    ledger = Ledger()
    plan = Plan(Limits.from_environment(), options.workers, options.batch_size)
    locate = folder_locator(options.images, plan.limits)
    for done in score_table(table, locate, encoder, ledger, footprint, plan):
        progress(done, table.count, done / max(footprint.seconds, 1e-9))
    numbers, pairs, _ = ledger.pairs()
    if not len(pairs):
        first = next((row.error for row in ledger.rows()), "the table has no rows")
        raise TableError(f"no row of the table can be used: {first}")
    images, captions = (
        np.concatenate(list(ledger.image_blocks())),
        np.concatenate(list(ledger.caption_blocks())),
    )
    column = table.column("source")
    sources = np.array([row.cell(column) or ALL for row in table.rows()])[numbers]
    evaluations = {
        source: _evaluate_pairs(images, captions, pairs[sources == source])
        for source in dict.fromkeys(sources.tolist())
    }
    failed = table.count - len(pairs)
    return Report(encoder.checkpoint, encoder.device, evaluations, failed, table.notes, footprint.seconds)


def _open_table(options: EvaluationOptions) -> Table:
    if not options.table.exists():
        raise TableError(f"there is no table {options.table}")
    if not options.images.is_dir():
        raise FileMissingError(f"there is no folder of images {options.images}")
    table = open_table(printable_name(options.table.name), lambda: open_regular(options.table))
    return _rows_of_split(table, options.split) if options.split else table


def _rows_of_split(table: Table, split: str) -> Table:
    """Return the rows of one split, and those that cannot be read."""
    column = table.column("split")
    if column is None:
        raise TableError(
            "the table has no column 'split' for --split to choose by; if `clipdemo train` made the split, "
            "its figures are in metrics.json in the checkpoint's folder"
        )
    chosen = table.where(lambda row: bool(row.problem) or row.split(column) == split)
    if not chosen.count:
        raise TableError(f"no row of the table has the split {split!r}")
    return chosen


def _evaluate_pairs(images: FloatArray, captions: FloatArray, pairs: IntArray) -> Evaluation:
    """Evaluate some pairs among their own images and captions."""
    image_ids, image_of = np.unique(pairs[:, 0], return_inverse=True)
    caption_ids, caption_of = np.unique(pairs[:, 1], return_inverse=True)
    return evaluate(images[image_ids], captions[caption_ids], np.stack([image_of, caption_of], axis=1))
