"""Ground truth for the images of a workspace: which captions are right, and how well a checkpoint finds them."""

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

MOST_PAIRS = 1_000  # each caption goes through every template under every checkpoint


@dataclass(frozen=True, eq=False)
class Truth:
    """Images and the captions that are right for them.

    Attributes:
        images: those that have a caption.
        captions: each once.
        pairs: (n, 2) position of an image and of a caption that is right for it.
        left_out: pairs beyond the first 1,000, which are not asked.
    """

    images: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    pairs: IntArray
    left_out: int = 0

    def queries(self) -> list[Query]:
        """The captions as they stand, whatever signs they hold."""
        return [Query.plain(caption) for caption in self.captions]

    def prompts(self, templates: Templates) -> list[str]:
        """What an encoder is given for the captions."""
        return prompts_of(self.queries(), templates)


@dataclass(frozen=True)
class Recall:
    """How well a checkpoint finds what is right.

    Attributes:
        image_to_text: each image asks for its captions.
        text_to_image: each caption asks for its images.
    """

    image_to_text: RetrievalMetrics[float]
    text_to_image: RetrievalMetrics[float]


def from_names(items: Sequence[ImageItem]) -> Truth:
    """File names are captions: "red-square_2.png" is "red square 2"."""
    return _truth((item, caption_of(item.name)) for item in items)


def from_table(table: Table, items: Sequence[ImageItem]) -> Truth:
    """The rows of a table whose image cell names an image of the workspace.

    A cell matches the name an image came under, or else the last part of it where only one image ends so.

    Args:
        table: of image and caption.
        items: the workspace.

    Raises:
        TableError: the table can no longer be read.
    """
    by_name = {item.name: item for item in items}
    ends = Counter(_end(item.name) for item in items)
    by_end = {_end(item.name): item for item in items if ends[_end(item.name)] == 1}
    found = []
    for row in table.rows():
        cell = row.image
        item = by_name.get(cell) or by_end.get(_end(cell))
        if item and not row.problem:
            found.append((item, row.caption))
    return _truth(found)


def caption_of(name: str) -> str:
    """What a file name or URL says: its stem, with signs that part words as spaces."""
    path = name
    if name.startswith(("http://", "https://")):
        with suppress(ValueError):  # a file may be called like an address that is none
            path = unquote(urlsplit(name).path)
    return " ".join(re.sub(r"[-_+\s]+", " ", PurePosixPath(_end(path)).stem).split())


def recall(encoder: Encoder, truth: Truth, templates: Templates) -> Recall | None:
    """Retrieval both ways among the images and captions of ``truth`` alone; None without any.

    Other captions of the same image, and other images of the same caption, are no rivals.

    Raises:
        CheckpointError: something must be encoded and the encoder's weights cannot be used.
    """
    if not len(truth.pairs):
        return None
    rows = encoder.encode_images(truth.images)
    columns = encode_queries(encoder, truth.queries(), templates)
    image_ranks, caption_ranks = rank_pairs(rows, columns, truth.pairs).best_ranks()
    return Recall(retrieval_metrics(image_ranks), retrieval_metrics(caption_ranks))


def _truth(found: Iterable[tuple[ImageItem, str]]) -> Truth:
    """Each image, caption and pair once, in the order they come; what is no caption is passed over."""
    images: dict[str, ImageItem] = {}
    captions: dict[str, None] = {}
    pairs: dict[tuple[str, str], None] = {}
    left_out = 0
    for item, raw in found:
        caption = " ".join(raw.split())
        try:
            Query.plain(caption)
        except CaptionError:
            continue
        if len(caption) > MAX_CAPTION_CHARACTERS or (item.sha256, caption) in pairs:
            continue
        if len(pairs) == MOST_PAIRS:
            left_out += 1
            continue
        images[item.sha256] = item
        captions[caption] = None
        pairs[item.sha256, caption] = None
    row_of = {sha256: row for row, sha256 in enumerate(images)}
    column_of = {caption: column for column, caption in enumerate(captions)}
    at = [(row_of[sha256], column_of[caption]) for sha256, caption in pairs]
    return Truth(
        tuple(images.values()), tuple(captions), np.array(at, dtype=np.int64).reshape(-1, 2), left_out
    )


def _end(name: str) -> str:
    return name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
