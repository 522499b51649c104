"""Measures the speed and size of checkpoints on this machine; imports neither torch nor streamlit.

The figures depend on the machine and its load, so no test asserts them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from clipdemo.models.cache import CachedEncoder
from clipdemo.models.loader import LoadCost
from clipdemo.types import Checkpoint, Encoder, ImageItem

IMAGES, CAPTIONS = 4, 16  # in a batch, as the page encodes them
MIN_BATCHES, MAX_BATCHES = 3, 9
ENOUGH_SECONDS = 4.0  # of timed work; no further batch after that


@dataclass(frozen=True)
class Speed:
    """Medians over several batches, after one warm-up batch.

    Attributes:
        image_ms: milliseconds per image, without decoding.
        caption_ms: milliseconds per caption.
        images: in each batch.
        captions: in each batch.
        batches: timed, without the warm-up.
    """

    image_ms: float
    caption_ms: float
    images: int
    captions: int
    batches: int


@dataclass(frozen=True)
class Cost:
    """The cost of one checkpoint on this machine.

    Attributes:
        dtype: of its weights and forward pass.
        load: None before it is loaded.
        speed: None before it is timed.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    load: LoadCost | None
    speed: Speed | None


@dataclass
class _Timing:
    """Seconds of each batch so far, without the warm-up; ``spent`` includes it."""

    images: list[float] = field(default_factory=list)
    captions: list[float] = field(default_factory=list)
    spent: float = 0.0
    warmed: bool = False

    @property
    def complete(self) -> bool:
        count = len(self.captions)
        return count >= MAX_BATCHES or (count >= MIN_BATCHES and self.spent >= ENOUGH_SECONDS)


class Stopwatch:
    """Times each checkpoint once per process; all sessions share its measurements.

    Args:
        images: one batch, the same for all checkpoints; at least one image.
        captions: one batch, the same for all checkpoints; at least one caption.
    """

    def __init__(self, images: Sequence[ImageItem], captions: Sequence[str]) -> None:
        self._images = list(images)
        self._captions = list(captions)
        self._timings: dict[str, _Timing] = {}
        # Two sessions that time one checkpoint at once would slow each other down.
        self._guard = threading.Lock()

    def speed(self, checkpoint: Checkpoint) -> Speed | None:
        """The measured speed; None before enough batches are timed."""
        timing = self._timings.get(checkpoint.fingerprint)
        if timing is None or not timing.complete:
            return None
        return Speed(
            1000 * median(timing.images) / len(self._images),
            1000 * median(timing.captions) / len(self._captions),
            len(self._images),
            len(self._captions),
            len(timing.captions),
        )

    def step(self, encoder: CachedEncoder) -> None:
        """Time one batch of images, then one of captions; the first step is the warm-up.

        Each batch takes the lock of the forward pass by itself, so others get their turn in between. Waiting
        for the lock is not counted. Embeddings are computed each time and not stored.

        Raises:
            ReleasedCheckpointError: the weights were released.
            CheckpointError: the weights cannot be used.
        """
        with self._guard:
            timing = self._timings.setdefault(encoder.checkpoint.fingerprint, _Timing())
            if timing.complete:
                return
            images = _timed(encoder, lambda uncached: uncached.encode_images(self._images))
            captions = _timed(encoder, lambda uncached: uncached.encode_captions(self._captions))
            timing.spent += images + captions
            if timing.warmed:
                timing.images.append(images)
                timing.captions.append(captions)
            timing.warmed = True

    def forget(self, checkpoint: Checkpoint) -> None:
        """Discard a measurement, so that it is taken again."""
        with self._guard:
            self._timings.pop(checkpoint.fingerprint, None)


def _timed(encoder: CachedEncoder, encode: Callable[[Encoder], object]) -> float:
    """Seconds of one forward pass, without the wait for the lock."""
    with encoder.reserve_device():
        uncached = encoder.encoder
        started = time.perf_counter()
        encode(uncached)
        return time.perf_counter() - started
