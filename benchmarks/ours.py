"""clipdemo as a contender, through the code that its pages and commands run."""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender
from benchmarks.web import Pair, network_to
from clipdemo import load_encoder, score_matrix
from clipdemo.audit.footprint import Footprint
from clipdemo.audit.judge import judge
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.images import sources
from clipdemo.images.fetch import fetch_bytes
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.models.cache import BATCH, CachedEncoder, EmbeddingStore, FairLock
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.score import background
from clipdemo.tables.table import open_table
from clipdemo.types import ImageItem


class Clipdemo(Contender):
    """The engine of the app: decoding in threads, a cached encoder."""

    caches = True

    def __init__(self, checkpoint: Path | str) -> None:
        self.bare = load_encoder(checkpoint, device="cpu")
        self.forget()

    def forget(self) -> None:
        """Start with an empty store."""
        self.encoder = CachedEncoder(self.bare, EmbeddingStore(Limits().cache_bytes), FairLock())

    def decode(self, files: Sequence[bytes]) -> list[Any]:
        """Decode files to the small copies that a session keeps."""
        return list(_decoded(files))

    def scores(self, images: Sequence[Any], captions: Sequence[str]) -> Any:
        """Return shares, as a page does."""
        return score_matrix(self.encoder, images, captions).probabilities()

    def cold(self, files: Sequence[bytes], captions: Sequence[str]) -> Any:
        """Score files as the pages do: the next ones are decoded while a batch is encoded."""
        items: list[ImageItem] = []
        for item in _decoded(files):
            items.append(item)
            if len(items) % BATCH == 0:
                self.encoder.encode_images(items[-BATCH:])
        return self.scores(items, captions)

    def captions(self, captions: Sequence[str]) -> Any:
        """Return (n, dim) unit embeddings."""
        return self.encoder.encode_captions(captions)

    def embed(self, files: Sequence[bytes]) -> Any:
        """Decode and encode files to unit embeddings."""
        return self.encoder.encode_images(list(_decoded(files)))

    def rows(self, port: int, pairs: Sequence[Pair]) -> Any:
        """Do the work of ``clipdemo pairs``: fetch URLs, score, rank among all rivals, judge."""
        text = io.StringIO()
        csv.writer(text).writerows([("image", "caption"), *((pair.url, pair.caption) for pair in pairs)])
        data = text.getvalue().encode()
        table = open_table("table.csv", lambda: io.BytesIO(data))
        limits, network = Limits(), network_to(port)
        footprint = Footprint()

        def locate(url: str) -> Source:
            return Source(url, "url", lambda: fetch_bytes(url, limits, network=network))

        with tempfile.TemporaryDirectory() as scratch:
            ledger = Ledger(Path(scratch) / "progress")
            for _ in score_table(table, locate, self.bare, ledger, footprint, Plan(limits)):
                pass
            scale = background(self.encoder, sample_items(), NEUTRAL_CAPTIONS).captions
            judged = list(judge(table, ledger, self.bare.checkpoint, scale, footprint).rows())
            ledger.close()
        return judged


def _decoded(files: Sequence[bytes]) -> Iterator[ImageItem]:
    named = (sources.from_bytes(f"{number}.jpg", data, "upload") for number, data in enumerate(files))
    for item in sources.load(named, Limits()):
        assert isinstance(item, ImageItem), item  # noqa: S101 - our own photographs
        yield item
