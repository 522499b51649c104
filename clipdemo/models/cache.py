"""Caches embeddings in memory so that nothing is encoded twice: a bounded store and ``CachedEncoder``.

An embedding is a pure function of (checkpoint fingerprint, content). That pair is its key, so sessions share
the cache safely. This module is independent of torch, pages and sessions.
"""

from __future__ import annotations

import copy
import hashlib
import threading
import time
from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TypeVar

import numpy as np
from PIL import Image

from clipdemo.errors import ReleasedCheckpointError
from clipdemo.similarity import FloatArray
from clipdemo.types import CaptionTokens, Checkpoint, Encoder, ImageItem

BATCH = 16
FIRST_BATCH = 4  # while the pace of a checkpoint is unknown
TURN_SECONDS = 1.0  # of a forward pass, unless a single input takes longer; then others have a turn
POLL_SECONDS = 0.3  # between two calls of on_wait
Key = tuple[str, str]
Content = TypeVar("Content")
OnWait = Callable[[int], None]  # takes the number of requests ahead


@dataclass(eq=False)
class _Ticket:
    """A request for the lock.

    Attributes:
        owner: whose it is.
        turn: one more than that of the owner's request before it.
        called: set when the lock is given.
    """

    owner: object
    turn: int = 0
    called: threading.Event = field(default_factory=threading.Event)


class FairLock:
    """A lock that owners hold in turn: 200 requests of one visitor never starve another's single one.

    Requests of one owner are served in the order of arrival.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: list[_Ticket] = []  # in the order they are served; the first one holds the lock

    @contextmanager
    def acquire(self, on_wait: OnWait | None = None, owner: object = None) -> Iterator[None]:
        """Hold the lock for the block.

        Args:
            on_wait: called repeatedly with the number of requests ahead while this one waits, and then once
                with 0; an exception from it ends the waiting.
            owner: takes one turn before the next owner has one; None is an owner of this request alone.
        """
        ticket = _Ticket(object() if owner is None else owner)
        with self._guard:
            turns = [other.turn for other in self._waiting if other.owner == ticket.owner]
            ticket.turn = max(turns) + 1 if turns else self._waiting[0].turn if self._waiting else 0
            place = bisect_right(self._waiting, ticket.turn, key=attrgetter("turn"))
            self._waiting.insert(place, ticket)
            self._waiting[0].called.set()
        try:
            called = False
            while not ticket.called.wait(POLL_SECONDS if on_wait else None):
                if on_wait:
                    called = True
                    on_wait(self._count_ahead(ticket))
            if called and on_wait:
                on_wait(0)
            yield
        finally:
            with self._guard:
                self._waiting.remove(ticket)
                if self._waiting:
                    self._waiting[0].called.set()

    def _count_ahead(self, ticket: _Ticket) -> int:
        with self._guard:
            return self._waiting.index(ticket)


class EmbeddingStore:
    """A bounded, thread-safe LRU cache of unit rows, by (fingerprint, content hash)."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._rows: OrderedDict[Key, FloatArray] = OrderedDict()
        self._bytes = 0
        self._guard = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Bytes of the cached embeddings."""
        return self._bytes

    def find(self, keys: Iterable[Key]) -> dict[Key, FloatArray]:
        """The rows that are cached, by key; marks each as used."""
        rows = {}
        with self._guard:
            for key in keys:
                row = self._rows.get(key)
                if row is not None:
                    self._rows.move_to_end(key)
                    rows[key] = row
        return rows

    def add(self, rows: Mapping[Key, FloatArray]) -> None:
        """Cache ``rows``; drops the least recently used ones beyond ``max_bytes``."""
        with self._guard:
            for key, row in rows.items():
                if key not in self._rows:
                    copied = np.array(row, dtype=np.float32)  # a view would keep its whole batch in memory
                    self._rows[key] = copied
                    self._bytes += copied.nbytes
            while self._bytes > self.max_bytes and self._rows:
                _, old = self._rows.popitem(last=False)
                self._bytes -= old.nbytes


@dataclass
class _EncoderSlot:
    """What a ``CachedEncoder`` and its copies share.

    Attributes:
        encoder: None once it is released.
        seconds: that one image and one caption took in the latest forward pass of each.
    """

    encoder: Encoder | None
    seconds: dict[str, float] = field(default_factory=dict)

    def batch(self, kind: str) -> int:
        """How many inputs one turn takes."""
        seconds = self.seconds.get(kind, 0.0)
        return max(1, min(BATCH, int(TURN_SECONDS / seconds))) if seconds else FIRST_BATCH


class CachedEncoder:
    """An encoder with a cache, which runs one forward pass at a time.

    After ``release`` it still returns cached embeddings; any other raises ``ReleasedCheckpointError``.

    Args:
        encoder: computes the embeddings that are not cached.
        store: shared by all encoders and sessions of the process.
        device_lock: shared by all encoders of a device.
    """

    view = None  # sessions share an embedding, so all of them compute it from the same model copy

    def __init__(self, encoder: Encoder, store: EmbeddingStore, device_lock: FairLock) -> None:
        self.device, self.dtype = encoder.device, encoder.dtype
        self._checkpoint = encoder.checkpoint
        self._slot = _EncoderSlot(encoder)
        self._store = store
        self._device_lock = device_lock
        self._on_wait: OnWait | None = None
        self._owner: object = None

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint; available after a release, too."""
        return self._checkpoint

    @property
    def encoder(self) -> Encoder:
        """The encoder without the cache.

        Raises:
            ReleasedCheckpointError: its weights were released.
        """
        if self._slot.encoder is None:
            raise ReleasedCheckpointError(
                f"{self._checkpoint.id} was released to make room for another checkpoint; choose it again"
            )
        return self._slot.encoder

    @property
    def released(self) -> bool:
        """Whether the weights were released, so that only cached embeddings are available."""
        return self._slot.encoder is None

    def release(self) -> None:
        """Release the weights, between two forward passes; copies of this encoder lose them, too."""
        with self._device_lock.acquire():
            self._slot.encoder = None

    def for_session(self, owner: object, on_wait: OnWait | None = None) -> CachedEncoder:
        """A copy whose requests for the device are one session's.

        Args:
            owner: takes turns with other owners.
            on_wait: called with the number of requests ahead while this copy waits for the device.
        """
        other = copy.copy(self)
        other._owner, other._on_wait = owner, on_wait
        return other

    def reserve_device(self) -> AbstractContextManager[None]:
        """Reserve the device for a block of work: no other forward pass runs meanwhile."""
        return self._device_lock.acquire(self._on_wait, self._owner)

    def caption_tokens(self, caption: str) -> CaptionTokens:
        """How much of ``caption`` is read."""
        return self.encoder.caption_tokens(caption)

    def warm_up(self) -> None:
        """Run the encoder once on dummy inputs, so that the first visitor need not wait; notes its pace."""
        blank = ImageItem("", "", Image.new("RGB", (32, 32)), b"", 32, 32, "bytes")
        with self.reserve_device():
            self._timed("caption", ["warm up"], self._encode_captions)
            self._timed("image", [blank], self._encode_images)

    def encode_images(self, items: Sequence[ImageItem]) -> FloatArray:
        """(len(items), dim) unit rows; encodes only images that are not cached."""
        keys = [image_key(self.checkpoint, item.sha256) for item in items]
        return self._rows("image", keys, list(items), self._encode_images)

    def encode_captions(self, captions: Sequence[str]) -> FloatArray:
        """(len(captions), dim) unit rows; encodes only captions that are not cached."""
        by_length = sorted(captions, key=len)  # a batch is padded to its longest caption
        keys = [caption_key(self.checkpoint, caption) for caption in by_length]
        rows = self._rows("caption", keys, by_length, self._encode_captions)
        row_of = {caption: row for row, caption in enumerate(by_length)}
        return rows[[row_of[caption] for caption in captions]] if captions else rows

    def missing(self, items: Sequence[ImageItem]) -> list[ImageItem]:
        """The images that are not cached."""
        keys = {item.sha256: image_key(self.checkpoint, item.sha256) for item in items}
        cached = self._store.find(keys.values())
        return [item for item in items if keys[item.sha256] not in cached]

    def missing_captions(self, captions: Sequence[str]) -> list[str]:
        """The captions that are not cached."""
        keys = [caption_key(self.checkpoint, caption) for caption in captions]
        cached = self._store.find(keys)
        return [caption for key, caption in zip(keys, captions, strict=True) if key not in cached]

    # ``self.encoder`` raises after a release, so it is looked up only when something must be encoded.
    def _encode_images(self, items: list[ImageItem]) -> FloatArray:
        return self.encoder.encode_images(items)

    def _encode_captions(self, captions: list[str]) -> FloatArray:
        return self.encoder.encode_captions(captions)

    def _timed(
        self, kind: str, inputs: list[Content], encode: Callable[[list[Content]], FloatArray]
    ) -> FloatArray:
        started = time.perf_counter()
        rows = encode(inputs)
        self._slot.seconds[kind] = (time.perf_counter() - started) / len(inputs)
        return rows

    def _rows(
        self, kind: str, keys: list[Key], inputs: list[Content], encode: Callable[[list[Content]], FloatArray]
    ) -> FloatArray:
        rows = self._store.find(keys)
        missing = {key: content for key, content in zip(keys, inputs, strict=True) if key not in rows}
        waiting = deque(missing)
        while waiting:
            with self.reserve_device():
                batch = [waiting.popleft() for _ in range(min(self._slot.batch(kind), len(waiting)))]
                # Another session may have encoded some of them while this one waited.
                rows.update(self._store.find(batch))
                remaining = [key for key in batch if key not in rows]
                if remaining:
                    encoded = self._timed(kind, [missing[key] for key in remaining], encode)
                    new_rows = dict(zip(remaining, encoded, strict=True))
                    self._store.add(new_rows)
                    rows.update(new_rows)
        if not keys:
            return np.zeros((0, self.checkpoint.dim), dtype=np.float32)
        return np.stack([rows[key] for key in keys])


def image_key(checkpoint: Checkpoint, sha256: str) -> Key:
    """The cache key of an image."""
    return checkpoint.fingerprint, f"image:{sha256}"


def caption_key(checkpoint: Checkpoint, caption: str) -> Key:
    """The cache key of a caption: a hash, so that the text itself is not stored."""
    digest = hashlib.sha256(caption.encode("utf-8", "surrogatepass")).hexdigest()
    return checkpoint.fingerprint, f"caption:{digest}"
