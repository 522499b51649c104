"""What a checkpoint costs here and now: time a batch at a time, memory, size. Knows nothing of torch or pages.

Figures depend on the machine and on what else it does; they are shown, never judged by a test.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

from clipdemo.models.cache import CachedEncoder
from clipdemo.models.loader import LoadCost
from clipdemo.types import Checkpoint, Encoder, ImageItem

IMAGES, CAPTIONS = 4, 16  # of a batch: what the page itself feeds
LEAST, MOST = 3, 9  # batches that are timed
ENOUGH_SECONDS = 4.0


@dataclass(frozen=True)
class Speed:
    """Medians over several batches, after one that is not counted.

    Attributes:
        image_ms: milliseconds an image, decoding not included.
        caption_ms: milliseconds a caption.
        images: of a batch.
        captions: of a batch.
        batches: timed of each.
    """

    image_ms: float
    caption_ms: float
    images: int
    captions: int
    batches: int


@dataclass(frozen=True)
class Cost:
    """What one checkpoint costs on this machine.

    Attributes:
        checkpoint: which one.
        device: where its forward pass runs.
        dtype: of its weights and forward pass.
        load: seconds and bytes of loading it; None before it was loaded.
        speed: of its forward pass; None before it was timed.
    """

    checkpoint: Checkpoint
    device: str
    dtype: str
    load: LoadCost | None
    speed: Speed | None


@dataclass
class _Timing:
    """Seconds of each batch so far, the first of each kind not among them."""

    images: list[float] = field(default_factory=list)
    captions: list[float] = field(default_factory=list)
    spent: float = 0.0
    warmed: bool = False

    @property
    def over(self) -> bool:
        count = len(self.captions)
        return count >= MOST or (count >= LEAST and self.spent >= ENOUGH_SECONDS)


class Stopwatch:
    """Times each checkpoint once per process; any session goes on with what another began.

    Args:
        images: what is timed, the same for all checkpoints; at least one.
        captions: the same of captions.
    """

    def __init__(self, images: Sequence[ImageItem], captions: Sequence[str]) -> None:
        self._images = list(images)
        self._captions = list(captions)
        self._timings: dict[str, _Timing] = {}
        self._guard = threading.Lock()  # two sessions timing one checkpoint would time each other

    def speed(self, checkpoint: Checkpoint) -> Speed | None:
        """What was measured; None before it is all there."""
        timing = self._timings.get(checkpoint.fingerprint)
        if timing is None or not timing.over:
            return None
        return Speed(
            1000 * median(timing.images) / len(self._images),
            1000 * median(timing.captions) / len(self._captions),
            len(self._images),
            len(self._captions),
            len(timing.captions),
        )

    def step(self, encoder: CachedEncoder) -> None:
        """Time one batch of images and one of captions, each in a turn of its own; the first is the warm-up.

        Nothing is read from the store or kept there, and waiting for the turn is not counted.

        Raises:
            ReleasedCheckpointError: its weights were released.
            CheckpointError: its weights cannot be used.
        """
        with self._guard:
            timing = self._timings.setdefault(encoder.checkpoint.fingerprint, _Timing())
            if timing.over:
                return
            images = _timed(encoder, lambda inside: inside.encode_images(self._images))
            captions = _timed(encoder, lambda inside: inside.encode_captions(self._captions))
            timing.spent += images + captions
            if timing.warmed:
                timing.images.append(images)
                timing.captions.append(captions)
            timing.warmed = True

    def forget(self, checkpoint: Checkpoint) -> None:
        """Measure it again."""
        with self._guard:
            self._timings.pop(checkpoint.fingerprint, None)


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _timed(encoder: CachedEncoder, encode: Callable[[Encoder], object]) -> float:
    """Seconds of one forward pass."""
    with encoder.reserve_device():
        inside = encoder.encoder
        started = time.perf_counter()
        encode(inside)
        return time.perf_counter() - started
