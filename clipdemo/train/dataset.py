"""Reads a table of image,caption rows as pairs with a split. Imports no framework.

Images are identified by their bytes, not by their names, and each image belongs to one split only.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from clipdemo.audit.footprint import ProgressCallback
from clipdemo.errors import TrainingError
from clipdemo.images import sources
from clipdemo.images.locate import Locator
from clipdemo.images.pool import decode_image
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.similarity import IntArray
from clipdemo.tables.row import SPLITS
from clipdemo.tables.table import Table
from clipdemo.types import ImageItem, Rejected
from clipdemo.view import TowerView

SHARE = 0.1  # of the images, for each of validation and test, where the table does not name splits
BATCH = 16
_BLANK = Image.new("RGB", (1, 1))


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct images and captions, and which belong together.

    Attributes:
        images: where to read each distinct image.
        sha256: of the bytes of each image.
        captions: distinct texts.
        pairs: (n_pairs, 2) indices of image and caption; without repetitions.
        split: (n_images,) index into ``SPLITS``.
        licences: licence named in the table -> number of rows.
        left_out: reason -> number of rows left out.
        notes: decisions about the split, as sentences.
    """

    images: tuple[Source, ...]
    sha256: tuple[str, ...]
    captions: tuple[str, ...]
    pairs: IntArray
    split: IntArray
    licences: Mapping[str, int]
    left_out: Mapping[str, int]
    notes: tuple[str, ...]

    def of(self, split: str) -> IntArray:
        """Return the (n, 2) pairs of one split."""
        pairs: IntArray = self.pairs[self.split[self.pairs[:, 0]] == SPLITS.index(split)]
        return pairs

    def image_count(self, split: str) -> int:
        """Return the number of images in one split."""
        return int((self.split == SPLITS.index(split)).sum())

    @property
    def fingerprint(self) -> str:
        """A hash of all images, captions, pairs and splits."""
        digest = hashlib.sha256("\n".join([*self.sha256, *self.captions]).encode())
        digest.update(self.pairs.tobytes() + self.split.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageReader:
    """Reads and decodes the images of a table, each file once.

    Attributes:
        locate: turns an image cell into a source.
        limits: for each image.
        progress: called with the number of images read.
        known: SHA-256 of images that need no decoding.
        encode: called with each batch of decoded images, or None.
        view: what `encode` gets; None for model copies.
    """

    locate: Locator
    limits: Limits
    progress: ProgressCallback
    known: Collection[str] = frozenset()
    encode: Callable[[Sequence[ImageItem]], None] | None = None
    view: TowerView | None = None

    def read(self, files: Collection[Source]) -> tuple[dict[str, str], dict[str, str]]:
        """Return name -> SHA-256 of the usable images and name -> verdict of the others."""
        digests: dict[str, str] = {}
        verdicts: dict[str, str] = {}
        seen = set(self.known)
        batch: list[ImageItem] = []
        for item in sources.load(
            files, self.limits, workers=sources.THREADS, look_ahead=BATCH, decode=self._decode
        ):
            if isinstance(item, Rejected):
                verdicts[item.name] = item.verdict
            elif isinstance(item, ImageItem):
                digests[item.name] = item.sha256
                if item.sha256 not in seen:
                    batch.append(item)
                seen.add(item.sha256)
            if len(batch) == BATCH:
                self._encode(batch)
                batch = []
            self.progress(len(digests) + len(verdicts), len(files), 0.0)
        if batch:
            self._encode(batch)
        return digests, verdicts

    def _decode(self, data: bytes, name: str, *, source: str, limits: Limits) -> ImageItem:
        digest = hashlib.sha256(data).hexdigest()
        if digest in self.known:
            return ImageItem(name, digest, _BLANK, b"", 1, 1, source)
        return decode_image(data, name, source=source, limits=limits, thumbnail=False, view=self.view)

    def _encode(self, batch: Sequence[ImageItem]) -> None:
        if self.encode:
            self.encode(batch)


class _Line(NamedTuple):
    """What a usable row says; ``split`` and ``licence`` are "" where the table lacks the column."""

    image: str
    caption: str
    split: str
    licence: str


def read_pairs(table: Table, reader: ImageReader, seed: int) -> Pairs:
    """Read a table and its images.

    Args:
        table: from ``open_table``.
        reader: reads the images.
        seed: of the random split, where the table does not name splits.

    Raises:
        TableError: an unknown split.
        TrainingError: too few images to train on.
    """
    lines, left_out = _read_lines(table)
    files = {line.image: reader.locate(line.image) for line in lines}
    digests, verdicts = reader.read(files.values())
    left_out.update(verdicts[line.image] for line in lines if line.image in verdicts)
    usable = [line for line in lines if line.image in digests]

    by_digest = {digests[line.image]: files[line.image] for line in reversed(usable)}  # the first name wins
    order = list(dict.fromkeys(digests[line.image] for line in usable))
    images = {digest: index for index, digest in enumerate(order)}
    captions = {text: index for index, text in enumerate(dict.fromkeys(line.caption for line in usable))}
    distinct = dict.fromkeys((images[digests[line.image]], captions[line.caption]) for line in usable)
    named_splits = [(images[digests[line.image]], line.split) for line in usable]
    split, notes = _assign_splits(named_splits, order, seed)
    pairs = Pairs(
        images=tuple(by_digest[digest] for digest in order),
        sha256=tuple(order),
        captions=tuple(captions),
        pairs=np.array(list(distinct), dtype=np.int64).reshape(-1, 2),
        split=split,
        licences=dict(Counter(line.licence for line in usable if line.licence).most_common()),
        left_out=dict(left_out.most_common()),
        notes=notes,
    )
    _check(pairs)
    return pairs


def _read_lines(table: Table) -> tuple[list[_Line], Counter[str]]:
    """Return the usable rows, and the reasons why others are not."""
    split_column, licence_column = table.column("split"), table.column("licence", "license")
    lines: list[_Line] = []
    left_out: Counter[str] = Counter()
    for row in table.rows():
        if row.unusable:
            left_out[row.unusable.split(":")[0]] += 1
            continue
        lines.append(_Line(row.image, row.caption, row.split(split_column), row.cell(licence_column)))
    return lines, left_out


def _assign_splits(
    named: Sequence[tuple[int, str]], digests: Sequence[str], seed: int
) -> tuple[IntArray, tuple[str, ...]]:
    """Return the split of each image, and notes on what was decided.

    An image in two splits, possibly under two names, stays in the later one only: test images are never
    trained on.

    Args:
        named: image index and split, or "", of each row.
        digests: SHA-256 of each image.
        seed: of the random split.
    """
    split = np.full(len(digests), -1, dtype=np.int64)
    ambiguous = set()
    for image, name in named:
        if not name:
            continue
        index = SPLITS.index(name)
        if split[image] not in {-1, index}:
            ambiguous.add(image)
        split[image] = max(split[image], index)
    notes = []
    if ambiguous:
        notes.append(
            f"{len(ambiguous)} images were in two splits, by name or by content; each was kept in the later "
            "one of train, val, test only"
        )
    # Images are ordered by a hash: the same bytes fall into the same split whatever else the table contains.
    shuffled = sorted(
        np.flatnonzero(split <= 0).tolist(),
        key=lambda image: hashlib.sha256(f"{seed}:{digests[image]}".encode()).digest(),
    )
    share = max(1, round(SHARE * len(shuffled)))
    if (split < 0).any():
        split[shuffled] = 0
        split[shuffled[:share]], split[shuffled[share : 2 * share]] = 1, 2
        notes.append(
            f"the table does not name splits; images were split at random (seed {seed}), 80 : 10 : 10"
        )
    elif len(split) and not (split == 1).any():
        split[shuffled[:share]] = 1
        notes.append(f"the table does not name a validation split; a tenth of train is used (seed {seed})")
    return split, tuple(notes)


def _check(pairs: Pairs) -> None:
    reasons = ", ".join(f"{count:,} rows: {reason}" for reason, count in pairs.left_out.items())
    because = f" (left out: {reasons})" if reasons else ""
    train, val = pairs.image_count("train"), pairs.image_count("val")
    if train < 2 or val < 1:
        raise TrainingError(
            f"the table has {len(pairs.images):,} usable images, {train:,} of them to train on and {val:,} "
            f"to validate on; training needs at least 2 and 1{because}"
            + "".join(f"; {note}" for note in pairs.notes)
        )
    texts = len(set(pairs.of("train")[:, 1].tolist()))
    if texts < 2:
        raise TrainingError("all training images have the same caption; training needs at least 2 captions")
