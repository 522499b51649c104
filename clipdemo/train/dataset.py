"""A table of image,caption rows becomes pairs with a split; an image is what its bytes are, whatever its name.

No image stands in two splits. Nothing of a framework here.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from clipdemo.audit.footprint import ProgressCallback
from clipdemo.errors import TrainingError
from clipdemo.images import sources
from clipdemo.images.decode import decode_image
from clipdemo.images.locate import Locator
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.similarity import IntArray
from clipdemo.tables.row import SPLITS
from clipdemo.tables.table import Table
from clipdemo.types import ImageItem, Rejected

SHARE = 0.1  # of the images, for validation and for the test, where the table has no splits
BATCH = 16
_BLANK = Image.new("RGB", (1, 1))

Take = Callable[[Sequence[ImageItem]], None]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Distinct images and captions, and which belong together.

    Attributes:
        images: where each can be read again.
        sha256: of each image's bytes.
        captions: distinct texts.
        pairs: (n_pairs, 2) image and caption of each row, equal rows once.
        split: (n_images,) position in ``SPLITS``.
        licences: what the table's licence column says of the pairs -> how many; empty without one.
        left_out: why rows were left out -> how many.
        notes: sentences on what was decided.
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
        """(n, 2) the pairs of one split."""
        found: IntArray = self.pairs[self.split[self.pairs[:, 0]] == SPLITS.index(split)]
        return found

    def image_count(self, split: str) -> int:
        """Images of one split."""
        return int((self.split == SPLITS.index(split)).sum())

    @property
    def fingerprint(self) -> str:
        """Changes whenever another image, caption, pair or split does."""
        digest = hashlib.sha256("\n".join([*self.sha256, *self.captions]).encode())
        digest.update(self.pairs.tobytes() + self.split.tobytes())
        return digest.hexdigest()


def read_pairs(  # noqa: PLR0913, PLR0917 - what to read, how, and what becomes of it
    table: Table,
    locate: Locator,
    limits: Limits,
    seed: int,
    known: Collection[str],
    take: Take,
    show: ProgressCallback,
) -> Pairs:
    """Read the table and every image it names, once.

    Args:
        table: from ``open_table``.
        locate: turns an image cell into a source.
        limits: for every image.
        seed: of the split, where the table has none.
        known: hashes of images that need not be decoded.
        take: given every other image, a few at a time.
        show: told of images done.

    Raises:
        TableError: a split that is no split.
        TrainingError: too few images to train on.
    """
    split_column, licence_column = table.column("split"), table.column("licence", "license")
    rows: list[tuple[str, str, str, str]] = []  # image cell, caption, split, licence
    left_out: Counter[str] = Counter()
    for row in table.rows():
        if row.unusable:
            left_out[row.unusable.split(":")[0]] += 1
            continue
        rows.append((row.image, row.caption, row.split(split_column), row.cell(licence_column)))
    cells = {cell: locate(cell) for cell, *_ in rows}
    digests, refused = _read_images(cells.values(), limits, known, take, show)
    left_out.update(refused[cell] for cell, *_ in rows if cell in refused)
    usable = [row for row in rows if row[0] in digests]

    images = {digests[cell]: cells[cell] for cell, *_ in reversed(usable)}  # the first name stays
    order = list(dict.fromkeys(digests[cell] for cell, *_ in usable))
    numbers = {digest: number for number, digest in enumerate(order)}
    captions = {text: n for n, text in enumerate(dict.fromkeys(text for _, text, *_ in usable))}
    lines = dict.fromkeys((numbers[digests[cell]], captions[text]) for cell, text, *_ in usable)
    named = [(numbers[digests[cell]], split) for cell, _, split, _ in usable]
    split, notes = _splits(named, order, seed)
    found = Pairs(
        tuple(images[digest] for digest in order),
        tuple(order),
        tuple(captions),
        np.array(list(lines), dtype=np.int64).reshape(-1, 2),
        split,
        dict(Counter(licence for *_, licence in usable if licence).most_common()),
        dict(left_out.most_common()),
        notes,
    )
    _check(found)
    return found


def _read_images(
    files: Iterable[Source], limits: Limits, known: Collection[str], take: Take, show: ProgressCallback
) -> tuple[dict[str, str], dict[str, str]]:
    """Name -> hash of every image that can be used, and name -> verdict of every other."""
    digests: dict[str, str] = {}
    refused: dict[str, str] = {}
    seen: set[str] = set()
    batch: list[ImageItem] = []
    every = list(files)

    def decode(data: bytes, name: str, *, source: str, limits: Limits) -> ImageItem:
        digest = hashlib.sha256(data).hexdigest()
        if digest in known:
            return ImageItem(name, digest, _BLANK, b"", 1, 1, source)
        return decode_image(data, name, source=source, limits=limits, thumbnail=False)

    for thing in sources.load(every, limits, workers=2, look_ahead=BATCH, decode=decode):
        if isinstance(thing, Rejected):
            refused[thing.name] = thing.verdict
        elif isinstance(thing, ImageItem):
            digests[thing.name] = thing.sha256
            if thing.sha256 not in known and thing.sha256 not in seen:
                batch.append(thing)
            seen.add(thing.sha256)
        if len(batch) == BATCH:
            take(batch)
            batch = []
        show(len(digests) + len(refused), len(every), 0.0)
    if batch:
        take(batch)
    return digests, refused


def _splits(
    named: Sequence[tuple[int, str]], digests: Sequence[str], seed: int
) -> tuple[IntArray, tuple[str, ...]]:
    """The split of every image, and what was decided.

    An image that the table, or its bytes under another name, puts in two splits stays in the later one
    only: what is tested on is never trained on.
    """
    split = np.full(len(digests), -1, dtype=np.int64)
    twice = set()
    for image, word in named:
        if not word:
            continue
        place = SPLITS.index(word)
        if split[image] not in {-1, place}:
            twice.add(image)
        split[image] = max(split[image], place)
    notes = []
    if twice:
        notes.append(
            f"{len(twice)} images stood in two splits, by name or by their bytes; each was kept in the later one "
            "of train, val, test only"
        )
    # A hash orders the images: the same bytes always fall into the same split, whatever else the table holds.
    by_chance = sorted(
        np.flatnonzero(split <= 0).tolist(),
        key=lambda image: hashlib.sha256(f"{seed}:{digests[image]}".encode()).digest(),
    )
    share = max(1, round(SHARE * len(by_chance)))
    if (split < 0).any():
        split[by_chance] = 0
        split[by_chance[:share]], split[by_chance[share : 2 * share]] = 1, 2
        notes.append(f"the table names no splits; images were split by chance (seed {seed}), 80 : 10 : 10")
    elif len(split) and not (split == 1).any():
        split[by_chance[:share]] = 1
        notes.append(f"the table names no validation split; a tenth of train was taken (seed {seed})")
    return split, tuple(notes)


def _check(found: Pairs) -> None:
    reasons = ", ".join(f"{count:,} rows: {reason}" for reason, count in found.left_out.items())
    because = f" (left out: {reasons})" if reasons else ""
    train, val = found.image_count("train"), found.image_count("val")
    if train < 2 or val < 1:
        raise TrainingError(
            f"the table gives {len(found.images):,} usable images, {train:,} of them to train on and {val:,} to "
            f"validate with; training tells images apart, so it needs at least 2 and 1{because}"
            + "".join(f"; {note}" for note in found.notes)
        )
    texts = len(set(found.of("train")[:, 1].tolist()))
    if texts < 2:
        raise TrainingError("all images to train on have the same caption; there is nothing to tell apart")
