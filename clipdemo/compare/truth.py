"""Ground truth for a workspace: the right captions of its images, and the recall of a checkpoint."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

import numpy as np

from clipdemo.errors import CaptionError
from clipdemo.scoring.prompts import MAX_CAPTION_CHARACTERS, Query, Templates
from clipdemo.scoring.retrieval import RetrievalMetrics, rank_pairs, retrieval_metrics
from clipdemo.scoring.score import encode_queries, prompts_of
from clipdemo.similarity import IntArray
from clipdemo.tables.table import Table
from clipdemo.types import Encoder, ImageItem

MAX_PAIRS = 1_000  # each caption goes through every template under every checkpoint


@dataclass(frozen=True, eq=False)
class Truth:
    """Images and their right captions.

    Attributes:
        images: those with a right caption.
        captions: without repetitions.
        pairs: (n_pairs, 2) indices of an image and of a right caption.
        left_out: number of pairs beyond ``MAX_PAIRS``.
    """

    images: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    pairs: IntArray
    left_out: int = 0

    def queries(self) -> list[Query]:
        """The captions as plain text: signs such as ``--`` have no special meaning."""
        return [Query.plain(caption) for caption in self.captions]

    def prompts(self, templates: Templates) -> list[str]:
        """The prompts of all captions, as an encoder gets them."""
        return prompts_of(self.queries(), templates)


@dataclass(frozen=True)
class Recall:
    """How well a checkpoint finds the right answers, in both directions.

    Attributes:
        image_to_text: each image is a query for its captions.
        text_to_image: each caption is a query for its images.
    """

    image_to_text: RetrievalMetrics[float]
    text_to_image: RetrievalMetrics[float]


def from_names(items: Sequence[ImageItem]) -> Truth:
    """Take file names as captions: "red-square_2.png" is "red square 2"."""
    return _truth((item, caption_of(item.name)) for item in items)


def from_table(table: Table, items: Sequence[ImageItem]) -> Truth:
    """Take the rows of a table whose image cell names an image of the workspace.

    A cell matches the whole name of an image, or else its last part if that is unique in the workspace.

    Raises:
        TableError: the table can no longer be read.
    """
    by_name = {item.name: item for item in items}
    ends = Counter(_end(item.name) for item in items)
    by_end = {_end(item.name): item for item in items if ends[_end(item.name)] == 1}
    pairs = []
    for row in table.rows():
        cell = row.image
        item = by_name.get(cell) or by_end.get(_end(cell))
        if item and not row.problem:
            pairs.append((item, row.caption))
    return _truth(pairs)


def caption_of(name: str) -> str:
    """The stem of a file name or URL as words: hyphens, underscores and plus signs become spaces."""
    path = name
    if name.startswith(("http://", "https://")):
        with suppress(ValueError):  # a file name may look like a malformed URL
            path = unquote(urlsplit(name).path)
    return " ".join(re.sub(r"[-_+\s]+", " ", PurePosixPath(_end(path)).stem).split())


def recall(encoder: Encoder, truth: Truth, templates: Templates) -> Recall | None:
    """Retrieval in both directions among the images and captions of ``truth``; None without pairs.

    Other captions of the same image, and other images of the same caption, do not count as rivals.

    Raises:
        CheckpointError: the encoder's weights are needed and cannot be used.
    """
    if not len(truth.pairs):
        return None
    rows = encoder.encode_images(truth.images)
    columns = encode_queries(encoder, truth.queries(), templates)
    image_ranks, caption_ranks = rank_pairs(rows, columns, truth.pairs).best_ranks()
    return Recall(retrieval_metrics(image_ranks), retrieval_metrics(caption_ranks))


def _truth(candidates: Iterable[tuple[ImageItem, str]]) -> Truth:
    """Each image, caption and pair once, in the given order; skips text that is not a valid caption."""
    images: dict[str, ImageItem] = {}
    captions: dict[str, None] = {}
    pairs: dict[tuple[str, str], None] = {}
    left_out = 0
    for item, raw in candidates:
        caption = " ".join(raw.split())
        try:
            Query.plain(caption)
        except CaptionError:
            continue
        if len(caption) > MAX_CAPTION_CHARACTERS or (item.sha256, caption) in pairs:
            continue
        if len(pairs) == MAX_PAIRS:
            left_out += 1
            continue
        images[item.sha256] = item
        captions[caption] = None
        pairs[item.sha256, caption] = None
    row_of = {sha256: row for row, sha256 in enumerate(images)}
    column_of = {caption: column for column, caption in enumerate(captions)}
    indices = [(row_of[sha256], column_of[caption]) for sha256, caption in pairs]
    pair_array = np.array(indices, dtype=np.int64).reshape(-1, 2)
    return Truth(tuple(images.values()), tuple(captions), pair_array, left_out)


def _end(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
