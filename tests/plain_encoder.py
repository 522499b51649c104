"""A small NumPy ``Encoder`` that knows eight colours and counts its calls, with tables and files for it."""

from __future__ import annotations

import csv
import hashlib
import io
import threading
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from tiny_checkpoints import COLOURS, square

from clipdemo import similarity
from clipdemo.audit.footprint import Footprint
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.errors import FileMissingError
from clipdemo.images.locate import Locator
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.tables.table import Table, open_table
from clipdemo.types import CaptionTokens, Checkpoint, ImageItem

LIMIT = 20  # words of a caption that are read
BACKGROUND = np.linspace(-1, 0.9, 1000, dtype=np.float32)


def colour_row(rgb: Sequence[float]) -> np.ndarray:
    """The colour as a direction from grey."""
    return np.append(np.asarray(rgb, dtype=np.float64) - 128, 9.0)


class PlainEncoder:
    """The mean colour of an image, and the mean of the colours a caption names."""

    view, device, dtype = None, "cpu", "float32"

    def __init__(self, name: str = "plain") -> None:
        print_ = hashlib.sha256(name.encode()).hexdigest()
        self.checkpoint = Checkpoint(name, "local", print_, 4, 32, LIMIT, 100.0, None, 0, "folder")
        self.images: Counter[str] = Counter()  # by name
        self.captions: Counter[str] = Counter()

    def encode_images(self, items: Sequence[ImageItem]) -> similarity.FloatArray:
        self.images.update(item.name for item in items)
        means = [np.asarray(item.image, dtype=np.float64).mean(axis=(0, 1)) for item in items]
        return similarity.unit([colour_row(mean) for mean in means])

    def encode_captions(self, captions: Sequence[str]) -> similarity.FloatArray:
        self.captions.update(captions)
        return similarity.unit([self._caption(caption) for caption in captions])

    def caption_tokens(self, caption: str) -> CaptionTokens:
        words = caption.split()
        return CaptionTokens(len(words), LIMIT, " ".join(words[:LIMIT]), " ".join(words[LIMIT:]))

    def _caption(self, caption: str) -> np.ndarray:
        named = [colour_row(COLOURS[word]) for word in caption.split()[:LIMIT] if word in COLOURS]
        if named:
            return np.mean(named, axis=0)
        digest = hashlib.sha256(caption.encode()).digest()
        return np.array([byte - 127.5 for byte in digest[:4]])


def square_png(colour: str, side: int = 8) -> bytes:
    """A PNG of one colour; the side length changes the bytes, not the colour."""
    out = io.BytesIO()
    square(colour, side).save(out, "PNG")
    return out.getvalue()


SQUARES = {f"{colour}.png": square_png(colour) for colour in COLOURS}


def csv_of(rows: Iterable[Sequence[str]], header: Sequence[str] = ("image", "caption")) -> bytes:
    """A CSV file's bytes."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    return text.getvalue().encode()


def table_of(rows: Iterable[Sequence[str]], header: Sequence[str] = ("image", "caption")) -> Table:
    """A table in memory."""
    data = csv_of(rows, header)
    return open_table("t.csv", lambda: io.BytesIO(data))


class Shelf:
    """Files by name, and how often each was read."""

    def __init__(self, files: Mapping[str, bytes] = SQUARES) -> None:
        self.files = files
        self.read: Counter[str] = Counter()
        self._guard = threading.Lock()

    def locate(self, cell: str) -> Source:
        def read() -> bytes:
            with self._guard:
                self.read[cell] += 1
            if cell not in self.files:
                raise FileMissingError(f"{cell!r} is not on the shelf")
            return self.files[cell]

        return Source(cell, "file", read)


def scored(
    table: Table,
    encoder: object,
    *,
    locate: Locator | None = None,
    ledger: Ledger | None = None,
    plan: Plan | None = None,
) -> Ledger:
    """Score the whole table into a ledger."""
    ledger = ledger or Ledger()
    plan = plan or Plan(Limits(), thumbnails=True)
    for _ in score_table(table, locate or Shelf().locate, encoder, ledger, Footprint(), plan):
        pass
    return ledger
