"""A table of image,caption rows goes through an encoder, a chunk of rows at a time, into a ledger.

Files are fetched and decoded in threads, a little ahead of the encoder, which runs in the caller's thread.
Every image and caption is encoded once, however many rows name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.ledger import Done, Ledger
from clipdemo.errors import LedgerError
from clipdemo.images import sources
from clipdemo.images.decode import decode_image
from clipdemo.images.locate import Locator
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.score import encode_queries
from clipdemo.similarity import FloatArray
from clipdemo.tables.table import Row, Table
from clipdemo.types import Encoder, ImageItem, Rejected

CHUNK = 64  # rows between two commits, unless a batch needs more
MAX_CAPTION = 10_000  # characters; no checkpoint reads a tenth of it
_NO_NUMBER = "not usable: the checkpoint gives no number for the {}; choose another checkpoint"


@dataclass(frozen=True)
class Plan:
    """How a table is worked through.

    Attributes:
        limits: for every image.
        workers: threads that fetch and decode.
        batch_size: images, and captions, of one forward pass.
        thumbnails: whether thumbnails are kept, for pictures and reports.
        patience: as in ``sources.load``.
    """

    limits: Limits
    workers: int = 4
    batch_size: int = 16
    thumbnails: bool = False
    patience: float | None = None


def begin(ledger: Ledger, about: Mapping[str, str]) -> int:
    """Make sure the ledger belongs to this run; gives the rows already done.

    Args:
        ledger: new, or from a run that was stopped.
        about: what must be the same: the table, the checkpoint, where images lie ...

    Raises:
        LedgerError: the ledger is of another run, with what differs.
    """
    before = ledger.about()
    if not before:
        ledger.describe(about)
        return 0
    differing = [key for key in about if before.get(key) != about[key]]
    if differing:
        raise LedgerError(
            f"the run to resume had another {' and '.join(differing)}; write to another output, or delete that "
            "run's progress file to start anew"
        )
    return ledger.row_count


def score_table(
    table: Table, locate: Locator, encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan
) -> Iterator[int]:
    """Score the rows that the ledger does not hold yet.

    Args:
        table: from ``open_table``.
        locate: turns an image cell into a source.
        encoder: from ``load_encoder``.
        ledger: takes every row, committed chunk by chunk.
        footprint: takes the seconds of every stage.
        plan: how.

    Yields:
        Rows done so far, after each chunk; with a patience, also while files are waited for.

    Raises:
        LedgerError: the progress cannot be written.
    """
    begun: set[str] = set()
    size = max(CHUNK, 4 * plan.batch_size) if plan.patience is None else plan.batch_size

    def wanted() -> Iterator[Source | list[Row]]:
        """New images, and each chunk of rows after the last image it needs."""
        chunk: list[Row] = []
        for row in table.rows(ledger.row_count):
            cell = image_cell(row, table)
            if not problem(row, table) and cell not in begun and ledger.file(cell) is None:
                begun.add(cell)
                yield _timed(locate(cell), footprint)
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    batch: list[ImageItem] = []
    for thing in sources.load(
        wanted(),
        plan.limits,
        workers=plan.workers,
        look_ahead=plan.batch_size,
        patience=plan.patience,
        decode=footprint.timed("decode", partial(decode_image, thumbnail=plan.thumbnails)),
    ):
        if isinstance(thing, ImageItem):
            batch.append(thing)
            if len(batch) == plan.batch_size:
                _keep_images(batch, encoder, ledger, footprint, plan)
        elif isinstance(thing, Rejected):
            ledger.add_file(thing.name, None, f"{thing.verdict}: {thing.reason}")
        elif thing is not None:
            _keep_images(batch, encoder, ledger, footprint, plan)
            _finish(thing, table, encoder, ledger, footprint, plan)
            # A row that cannot be scored never began its image; a later row may have.
            begun.difference_update(image_cell(row, table) for row in thing if not problem(row, table))
            ledger.commit()
        if thing is None or isinstance(thing, list):
            yield ledger.row_count


def image_cell(row: Row, table: Table) -> str:
    """The image cell, without blanks around it."""
    return row.cells[table.image].strip()


def caption_cell(row: Row, table: Table) -> str:
    """The caption cell, with single blanks between words."""
    return " ".join(row.cells[table.caption].split())


def problem(row: Row, table: Table) -> str:
    """Why a row cannot be scored, as far as the table alone can tell; empty when it can."""
    caption = caption_cell(row, table)
    if row.problem:
        return row.problem
    if not image_cell(row, table):
        return "no image: the cell is empty"
    if not caption:
        return "no caption: the cell is empty"
    if len(caption) > MAX_CAPTION:
        return f"the caption has {len(caption):,} characters; at most {MAX_CAPTION:,} are taken"
    if any("\ud800" <= letter <= "\udfff" for letter in caption):
        return "the caption holds characters that are no text (lone surrogates)"
    return ""


def _timed(source: Source, footprint: Footprint) -> Source:
    stage = "fetch" if source.kind == "url" else "read"
    return Source(source.name, source.kind, footprint.timed(stage, source.read))


def _keep_images(
    batch: list[ImageItem], encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan
) -> None:
    """Encode what was never encoded, remember every file, and empty the batch."""
    fresh = {item.sha256: item for item in batch if ledger.image(item.sha256) is None}
    if fresh:
        with footprint.stage("encode images", len(fresh)):
            rows = encoder.encode_images(list(fresh.values()))
        for row, item in zip(rows, fresh.values(), strict=True):
            if np.isfinite(row).all():
                ledger.add_image(item.sha256, row, item.thumbnail if plan.thumbnails else None)
    for item in batch:
        image = ledger.image(item.sha256)
        ledger.add_file(item.name, image, "" if image is not None else _NO_NUMBER.format("image"))
    batch.clear()


def _finish(
    rows: Sequence[Row], table: Table, encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan
) -> None:
    """Encode the captions of rows whose images are here, and write the rows down."""
    wanted: list[tuple[int, int, str]] = []  # row, image, caption
    errors: dict[int, str] = {}
    for row in rows:
        wrong = problem(row, table)
        file = None if wrong else ledger.file(image_cell(row, table))
        if file is None or file.image is None:
            errors[row.number] = wrong or (file.error if file else "the image was not read")
        else:
            wanted.append((row.number, file.image, caption_cell(row, table)))
    _keep_captions([caption for *_, caption in wanted], encoder, ledger, footprint, plan)
    usable: list[tuple[int, int, int]] = []  # row, image, caption
    for number, image, text in wanted:
        caption = ledger.caption(text)
        if caption is None:
            errors[number] = _NO_NUMBER.format("caption")
        else:
            usable.append((number, image, caption))
    done = [Done(number, None, None, None, error) for number, error in errors.items()]
    if usable:
        _, images, captions = zip(*usable, strict=True)
        together = ledger.image_embeddings(images), ledger.caption_embeddings(captions)
        cosines = np.einsum("nd,nd->n", *together).clip(-1, 1)
        done += [Done(*at, cosine, "") for at, cosine in zip(usable, cosines.tolist(), strict=True)]
    ledger.add_rows(done)


def _keep_captions(
    captions: Sequence[str], encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan
) -> None:
    fresh = [caption for caption in dict.fromkeys(captions) if ledger.caption(caption) is None]
    by_length = sorted(fresh, key=len)  # a batch is as wide as its longest caption
    embeddings: dict[str, FloatArray] = {}
    for start in range(0, len(by_length), plan.batch_size):
        some = by_length[start : start + plan.batch_size]
        with footprint.stage("encode captions", len(some)):
            rows = encode_queries(encoder, [Query.plain(caption) for caption in some])
        embeddings.update(zip(some, rows, strict=True))
    for caption in fresh:
        if np.isfinite(embeddings[caption]).all():
            cut = bool(encoder.caption_tokens(caption).cut)
            ledger.add_caption(caption, embeddings[caption], cut)
