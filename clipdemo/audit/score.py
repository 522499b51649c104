"""Scores the rows of a table with an encoder, chunk by chunk, into a ledger.

Threads fetch and decode files a little ahead of the encoder, which runs in the caller's thread. Every image
and caption is encoded once, however many rows name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.ledger import Ledger, ScoredRow
from clipdemo.errors import LedgerError
from clipdemo.images import sources
from clipdemo.images.locate import Locator
from clipdemo.images.pool import decode_image
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.rivals import row_cosines
from clipdemo.scoring.score import encode_queries
from clipdemo.similarity import FloatArray
from clipdemo.tables.row import Row
from clipdemo.tables.table import Table
from clipdemo.types import Encoder, ImageItem, Rejected

CHUNK = 64  # rows between two commits, unless a batch needs more
_NOT_FINITE = "not usable: the checkpoint's embedding of the {} is NaN or infinite; choose another checkpoint"


@dataclass(frozen=True)
class Plan:
    """How images are loaded and encoded.

    Attributes:
        limits: for every image.
        workers: threads that fetch and decode; a batch is ready before the encoder asks for it.
        batch_size: images, and captions, per forward pass.
        thumbnails: whether to keep thumbnails, for pictures and reports.
        patience: seconds to wait for a file before the caller gets control back; None waits until it has
            arrived.
    """

    limits: Limits
    workers: int = sources.THREADS
    batch_size: int = 16
    thumbnails: bool = False
    patience: float | None = None


def begin(ledger: Ledger, about: Mapping[str, str]) -> int:
    """Describe a new ledger, or check that it belongs to this run; return the number of rows it contains.

    Args:
        ledger: new, or of a run that was stopped.
        about: what a resumed run must share: the table, the checkpoint, the folder of images and so on.

    Raises:
        LedgerError: the ledger belongs to a different run; the message names the differences.
    """
    before = ledger.about()
    if not before:
        ledger.describe(about)
        return 0
    differing = [key for key in about if before.get(key) != about[key]]
    if differing:
        differences = " and ".join(
            f"different {key}" if key.startswith("--") else f"a different {key}" for key in differing
        )
        raise LedgerError(
            f"the run to resume was started with {differences}; write to another output, or delete that "
            "run's progress file to start over"
        )
    return ledger.row_count


def score_table(
    table: Table, locate: Locator, encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan
) -> Iterator[int]:
    """Score the rows that the ledger does not contain yet.

    Args:
        table: from ``open_table``.
        locate: turns an image cell into a source.
        encoder: from ``load_encoder``.
        ledger: receives every row, committed chunk by chunk.
        footprint: receives the time of every stage.
        plan: how to load and encode.

    Yields:
        The number of rows done, after each chunk and, if the plan has a patience, while waiting for files.

    Raises:
        LedgerError: the progress cannot be written.
    """
    return _Scorer(encoder, ledger, footprint, plan).score(table, locate)


class _Scorer:
    """One run over a table. Arguments as for :func:`score_table`."""

    def __init__(self, encoder: Encoder, ledger: Ledger, footprint: Footprint, plan: Plan) -> None:
        self._encoder, self._ledger, self._footprint, self._plan = encoder, ledger, footprint, plan
        self._batch: list[ImageItem] = []
        self._started: set[str] = set()  # image cells whose source is being loaded

    def score(self, table: Table, locate: Locator) -> Iterator[int]:
        """Score the remaining rows; yields as :func:`score_table` does."""
        decode = partial(decode_image, thumbnail=self._plan.thumbnails, view=self._encoder.view)
        for loaded in sources.load(
            self._sources_and_chunks(table, locate),
            self._plan.limits,
            workers=self._plan.workers,
            look_ahead=self._plan.batch_size,
            patience=self._plan.patience,
            decode=self._footprint.timed("decode", decode),
        ):
            if isinstance(loaded, ImageItem):
                self._batch.append(loaded)
                if len(self._batch) == self._plan.batch_size:
                    self._encode_batch()
            elif isinstance(loaded, Rejected):
                self._ledger.add_file(loaded.name, None, f"{loaded.verdict}: {loaded.reason}")
            else:
                if loaded is not None:
                    self._finish_chunk(loaded)
                yield self._ledger.row_count

    def _sources_and_chunks(self, table: Table, locate: Locator) -> Iterator[Source | list[Row]]:
        """Yield the sources of new images, and each chunk of rows after the last image it needs."""
        plan = self._plan
        size = max(CHUNK, 4 * plan.batch_size) if plan.patience is None else plan.batch_size
        chunk: list[Row] = []
        for row in table.rows(self._ledger.row_count):
            if not row.unusable and row.image not in self._started and self._ledger.file(row.image) is None:
                self._started.add(row.image)
                yield self._timed(locate(row.image))
            chunk.append(row)
            if len(chunk) == size:
                yield chunk
                chunk = []
        if chunk:
            yield chunk

    def _timed(self, source: Source) -> Source:
        stage = "fetch" if source.kind == "url" else "read"
        return Source(source.name, source.kind, self._footprint.timed(stage, source.read))

    def _encode_batch(self) -> None:
        """Encode the new images of the batch, record every file, and empty the batch."""
        new = {item.sha256: item for item in self._batch if self._ledger.image(item.sha256) is None}
        if new:
            with self._footprint.stage("encode images", len(new)):
                embeddings = self._encoder.encode_images(list(new.values()))
            for embedding, item in zip(embeddings, new.values(), strict=True):
                if np.isfinite(embedding).all():
                    thumbnail = item.thumbnail if self._plan.thumbnails else None
                    self._ledger.add_image(item.sha256, embedding, thumbnail)
        for item in self._batch:
            image = self._ledger.image(item.sha256)
            self._ledger.add_file(item.name, image, "" if image is not None else _NOT_FINITE.format("image"))
        self._batch.clear()

    def _finish_chunk(self, rows: Sequence[Row]) -> None:
        """Score rows whose images are loaded, and commit them."""
        self._encode_batch()
        errors: dict[int, str] = {}
        images: dict[int, int] = {}  # row number -> image id
        for row in rows:
            file = None if row.unusable else self._ledger.file(row.image)
            if file is not None and file.image is not None:
                images[row.number] = file.image
            else:
                errors[row.number] = row.unusable or (file.error if file else "the image was not read")
        self._encode_captions([row.caption for row in rows if row.number in images])
        pairs: list[tuple[int, int, int]] = []  # row number, image id, caption id
        for row in rows:
            if row.number in images:
                caption = self._ledger.caption(row.caption)
                if caption is None:
                    errors[row.number] = _NOT_FINITE.format("caption")
                else:
                    pairs.append((row.number, images[row.number], caption))
        self._ledger.add_rows(
            [ScoredRow(number, None, None, None, error) for number, error in errors.items()]
        )
        self._ledger.add_rows(self._score_pairs(pairs))
        # An unusable row never started its image; a later row may have.
        self._started.difference_update(row.image for row in rows if not row.unusable)
        self._ledger.commit()

    def _score_pairs(self, pairs: Sequence[tuple[int, int, int]]) -> list[ScoredRow]:
        if not pairs:
            return []
        _, images, captions = zip(*pairs, strict=True)
        cosines = row_cosines(
            self._ledger.image_embeddings(images), self._ledger.caption_embeddings(captions)
        )
        return [ScoredRow(*pair, cosine, "") for pair, cosine in zip(pairs, cosines.tolist(), strict=True)]

    def _encode_captions(self, captions: Sequence[str]) -> None:
        new = [caption for caption in dict.fromkeys(captions) if self._ledger.caption(caption) is None]
        by_length = sorted(new, key=len)  # a batch is as wide as its longest caption
        embeddings: dict[str, FloatArray] = {}
        for start in range(0, len(by_length), self._plan.batch_size):
            batch = by_length[start : start + self._plan.batch_size]
            with self._footprint.stage("encode captions", len(batch)):
                rows = encode_queries(self._encoder, [Query.plain(caption) for caption in batch])
            embeddings.update(zip(batch, rows, strict=True))
        for caption in new:
            if np.isfinite(embeddings[caption]).all():
                truncated = bool(self._encoder.caption_tokens(caption).cut)
                self._ledger.add_caption(caption, embeddings[caption], truncated)
