"""Embeddings kept in memory, so that nothing is ever encoded twice: a bounded store and ``CachedEncoder``.

An embedding is a pure function of (checkpoint fingerprint, content), so that pair is its key and
sessions share it safely. This module knows nothing of torch, pages or sessions.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image

from clipdemo.errors import ReleasedCheckpointError
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, Encoder, ImageItem

BATCH = 16
LOOK_SECONDS = 0.3  # between two calls of on_wait
Key = tuple[str, str]
Content = TypeVar("Content")
OnWait = Callable[[int], None]


class FairLock:
    """A fair lock: whoever came first goes first, so one visitor's 200 images never starve another's one."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: deque[threading.Event] = deque()

    @contextmanager
    def take(self, on_wait: OnWait | None = None) -> Iterator[None]:
        """Hold the turn for the block.

        Args:
            on_wait: told how many go first, again and again while this one waits, and 0 at the end if it was told
                anything; what it raises ends the waiting.
        """
        mine = threading.Event()
        with self._guard:
            self._waiting.append(mine)
            if self._waiting[0] is mine:
                mine.set()
        try:
            told = False
            while not mine.wait(LOOK_SECONDS if on_wait else None):
                if on_wait:
                    told = True
                    on_wait(self._before(mine))
            if told and on_wait:
                on_wait(0)
            yield
        finally:
            with self._guard:
                self._waiting.remove(mine)
                if self._waiting:
                    self._waiting[0].set()

    def _before(self, mine: threading.Event) -> int:
        with self._guard:
            return self._waiting.index(mine)


class EmbeddingStore:
    """Unit rows by (fingerprint, content hash), least recently used dropped first; thread-safe.

    Args:
        max_bytes: bytes of embeddings kept at most.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[Key, FloatArray] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of embeddings held now."""
        return self._bytes

    def find(self, keys: Iterable[Key]) -> dict[Key, FloatArray]:
        """The rows that are held, each marked as just used."""
        found = {}
        with self._guard:
            for key in keys:
                row = self._rows.get(key)
                if row is not None:
                    self._rows.move_to_end(key)
                    found[key] = row
        return found

    def add(self, rows: Mapping[Key, FloatArray]) -> None:
        """Keep ``rows``; the least recently used ones leave when the bound is reached."""
        with self._guard:
            for key, row in rows.items():
                if key not in self._rows:
                    own = np.array(row, dtype=np.float32)  # a copy: a view would keep its whole batch
                    self._rows[key] = own
                    self._bytes += own.nbytes
            while self._bytes > self.max_bytes and self._rows:
                _, old = self._rows.popitem(last=False)
                self._bytes -= old.nbytes


@dataclass
class _Held:
    """The encoder behind a ``CachedEncoder`` and its watched copies; None once its weights are released."""

    encoder: Encoder | None


class CachedEncoder:
    """An encoder that remembers, and lets one forward pass run at a time.

    Once ``release`` was called it still gives every embedding that is held; one that is not raises
    ``ReleasedCheckpointError``.

    Args:
        encoder: what computes the embeddings that are not held yet.
        store: shared by all encoders and sessions of the process.
        turns: one per device; encoders of one device share it.
    """

    def __init__(self, encoder: Encoder, store: EmbeddingStore, turns: FairLock) -> None:
        self.device, self.dtype = encoder.device, encoder.dtype
        self._checkpoint = encoder.checkpoint
        self._held = _Held(encoder)
        self._store = store
        self._turns = turns
        self._on_wait: OnWait | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint of the encoder inside, also after its release."""
        return self._checkpoint

    @property
    def encoder(self) -> Encoder:
        """The encoder inside, which remembers nothing.

        Raises:
            ReleasedCheckpointError: its weights were released.
        """
        if self._held.encoder is None:
            raise ReleasedCheckpointError(
                f"{self._checkpoint.id} was put away to make room for another checkpoint; choose it again"
            )
        return self._held.encoder

    @property
    def released(self) -> bool:
        """Whether only what is held can still be had."""
        return self._held.encoder is None

    def release(self) -> None:
        """Let the weights go, between two forward passes; its watched copies lose them, too."""
        with self._turns.take():
            self._held.encoder = None

    def watched(self, on_wait: OnWait) -> CachedEncoder:
        """The same encoder, which tells ``on_wait`` how many go first while it waits for its turn."""
        other = copy.copy(self)
        other._on_wait = on_wait
        return other

    def turn(self) -> AbstractContextManager[None]:
        """The device for a block of work: no other forward pass runs meanwhile."""
        return self._turns.take(self._on_wait)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """What of ``caption`` is read and what is cut off."""
        return self.encoder.caption_tokens(caption)

    def warm_up(self) -> None:
        """Run the encoder once on nothing worth keeping, so that the first visitor need not wait."""
        blank = Image.new("RGB", (32, 32))
        with self.turn():
            self.encoder.encode_captions(["warm up"])
            self.encoder.encode_images([ImageItem("", "", blank, b"", 32, 32, "bytes")])

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows; only images never seen before are encoded."""
        keys = [image_key(self.checkpoint, item.sha256) for item in items]
        # A lambda, for a released encoder may be asked for what is held.
        return self._rows(keys, list(items), lambda wanted: self.encoder.encode_images(wanted))  # noqa: PLW0108

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; only captions never seen before are encoded."""
        by_length = sorted(captions, key=len)  # a batch is as wide as its longest caption
        keys = [caption_key(self.checkpoint, caption) for caption in by_length]
        rows = self._rows(keys, by_length, lambda wanted: self.encoder.encode_captions(wanted))  # noqa: PLW0108
        row_of = {caption: row for row, caption in enumerate(by_length)}
        return rows[[row_of[caption] for caption in captions]] if captions else rows

    def missing(self, items: Sequence[ImageItem]) -> list[ImageItem]:
        """The images that would have to be encoded."""
        keys = {item.sha256: image_key(self.checkpoint, item.sha256) for item in items}
        held = self._store.find(keys.values())
        return [item for item in items if keys[item.sha256] not in held]

    def missing_captions(self, captions: Sequence[str]) -> list[str]:
        """The captions that would have to be encoded."""
        keys = [caption_key(self.checkpoint, caption) for caption in captions]
        held = self._store.find(keys)
        return [caption for key, caption in zip(keys, captions, strict=True) if key not in held]

    def _rows(
        self, keys: list[Key], inputs: list[Content], encode: Callable[[list[Content]], FloatArray]
    ) -> FloatArray:
        rows = self._store.find(keys)
        wanted = {key: given for key, given in zip(keys, inputs, strict=True) if key not in rows}
        todo = list(wanted)
        for start in range(0, len(todo), BATCH):
            batch = todo[start : start + BATCH]
            with self.turn():
                # Another session may have encoded some of them while this one waited.
                rows.update(self._store.find(batch))
                left = [key for key in batch if key not in rows]
                if left:
                    fresh = dict(zip(left, encode([wanted[key] for key in left]), strict=True))
                    self._store.add(fresh)
                    rows.update(fresh)
        if not keys:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        return np.stack([rows[key] for key in keys])


def image_key(checkpoint: Checkpoint, sha256: str) -> Key:
    """Where an image's embedding is kept."""
    return checkpoint.fingerprint, f"image:{sha256}"


def caption_key(checkpoint: Checkpoint, caption: str) -> Key:
    """Where a caption's embedding is kept; the words themselves are not."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()
    return checkpoint.fingerprint, f"caption:{digest}"
