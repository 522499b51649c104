"""The images of one session, and the job that reads, decodes and encodes them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import streamlit as st

from clipdemo.images import sources
from clipdemo.images.sources import Source
from clipdemo.limits import MEGABYTE, Limits, format_bytes
from clipdemo.models.cache import BATCH, CachedEncoder
from clipdemo.types import ImageItem, Rejected
from clipdemo.ui.jobs import Job, Progress
from clipdemo.ui.state import Engine

PATIENCE = 0.2  # seconds that a click waits at most for a file that does not arrive
STEP = 4  # images encoded between two chances for a click
MAX_KEPT_BYTES = 200 * MEGABYTE  # pixels and thumbnails of a session; 200 photographs have 120
MAX_VERDICTS = 500  # on files, and on URLs, that a session keeps
_EXHAUSTED = object()


@dataclass(eq=False)  # a claim on a checkpoint ends with it, so it is referenced weakly and by identity
class Workspace:
    """The images one session brought; they are never shared, saved or put into a link.

    Attributes:
        items: usable images by SHA-256, in the order they came.
        rejected: what could not be used, and why.
        urls: the latest verdict on each URL.
        queue: what is still to be read and decoded.
        uploads: counts uploads; part of the widgets' keys, so that Streamlit drops the original files.
        lock: held while the queue is worked on.
    """

    items: dict[str, ImageItem] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    urls: dict[str, Rejected | ImageItem] = field(default_factory=dict)
    queue: deque[Iterator[ImageItem | Rejected | None]] = field(default_factory=deque)
    uploads: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enqueue(self, incoming: Iterable[Source | Rejected], limits: Limits, *, workers: int = 2) -> None:
        """Read and decode ``incoming`` in the background."""
        with self.lock:
            self.queue.append(sources.load(incoming, limits, workers=workers, patience=PATIENCE))

    def add(self, item: ImageItem | Rejected, samples: tuple[ImageItem, ...], limits: Limits) -> None:
        """Keep an image, or record why not: rejected, a duplicate, or beyond the limit.

        The first image beyond the limit empties the queue: those after it would be decoded in vain.
        """
        if isinstance(item, ImageItem):
            refused = self._refusal(item, samples, limits)
            item = refused or item
        if item.source == "url" and not isinstance(self.urls.get(item.name), ImageItem):
            self.urls[item.name] = item
            for old in list(self.urls)[:-MAX_VERDICTS]:
                del self.urls[old]
        if isinstance(item, ImageItem):
            self.items[item.sha256] = item
        elif item.source != "url":
            self.rejected.append(item)
            del self.rejected[:-MAX_VERDICTS]

    def _refusal(self, item: ImageItem, samples: tuple[ImageItem, ...], limits: Limits) -> Rejected | None:
        same = next((sample for sample in samples if sample.sha256 == item.sha256), None)
        same = self.items.get(item.sha256) or same
        if same:
            reason = f"the same file as {same.name}; it counts once"
            return Rejected(item.name, "duplicate", reason, item.source)
        kept = sum(_size(other) for other in (*self.items.values(), item))
        if len(self.items) + len(samples) < limits.images and kept <= MAX_KEPT_BYTES:
            return None
        self.queue.clear()
        limit = f"{limits.images} images, samples included"
        if kept > MAX_KEPT_BYTES:
            limit = f"{format_bytes(MAX_KEPT_BYTES)} of pixels"
        reason = (
            f"the workspace is full: the limit is {limit}; this one and all after it were left out; "
            "clear some first"
        )
        return Rejected(item.name, "too many", reason, item.source)

    def clear(self) -> None:
        """Forget everything the session brought."""
        with self.lock:
            self.items.clear()
            self.rejected.clear()
            self.urls.clear()
            self.queue.clear()
            self.uploads += 1

    def remove(self, sha256: str) -> None:
        """Forget one image."""
        with self.lock:
            item = self.items.pop(sha256, None)
            if item:
                self.urls.pop(item.name, None)


def _size(item: ImageItem) -> int:
    """Bytes that an image takes in memory."""
    return 3 * item.image.width * item.image.height + len(item.thumbnail)


def workspace() -> Workspace:
    """The workspace of this session."""
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = Workspace()
    kept: Workspace = st.session_state["workspace"]
    return kept


class EncodingJob(Job):
    """Loads the chosen checkpoint, reads and decodes new images, and encodes them.

    Decoding goes on in a pool of threads while this one encodes. The job refers to no view: the view holds
    the job, and a claim on a checkpoint must end with the session, not with the next garbage collection.

    Args:
        engine: of the process.
        workspace: of the session.
        checkpoint: the one chosen in the sidebar.
        encoder: of that checkpoint; None until it is loaded.
        samples: sample images in use.
    """

    def __init__(
        self,
        engine: Engine,
        workspace: Workspace,
        checkpoint: str,
        encoder: CachedEncoder | None,
        samples: tuple[ImageItem, ...],
    ) -> None:
        super().__init__(workspace.lock)
        self._engine, self._workspace = engine, workspace
        self._checkpoint, self._loaded, self._samples = checkpoint, encoder, samples
        self._missing: list[ImageItem] | None = None

    def checkpoints(self) -> tuple[str, ...]:
        """The one chosen in the sidebar."""
        return (self._checkpoint,)

    def step(self) -> bool:
        """Decode a few of the files that have arrived, then encode a few images."""
        if self.granted:
            self._start_loading()
        missing = self._find_missing()
        if not self._workspace.queue and not missing:
            return False
        # Decoding runs ahead of encoding by up to a batch: the page then says how many images are to come.
        for _ in range(min(2 * STEP, BATCH - len(missing))):
            if not self._workspace.queue or not self._decode_next(missing):
                break
        if self._encoder and missing:
            self._encoder.encode_images(missing[:STEP])
            del missing[:STEP]
        return True

    def progress(self) -> Progress | None:
        """Images encoded of those in the workspace."""
        missing = len(self._find_missing())
        if not self._workspace.queue and not missing:
            return None
        total = len(self._samples) + len(self._workspace.items)
        reading = "reading files; " if self._workspace.queue else ""
        share = 1 - missing / max(total, missing, 1)
        return Progress(share, f"{reading}{total - missing} of {total} images encoded")

    @property
    def _encoder(self) -> CachedEncoder | None:
        # A checkpoint that the session does not claim may be released at any time.
        return self._loaded if self.granted else None

    def _items(self) -> tuple[ImageItem, ...]:
        return (*self._samples, *self._workspace.items.values())

    def _find_missing(self) -> list[ImageItem]:
        if self._missing is None:
            self._missing = self._encoder.missing(self._items()) if self._encoder else []
        return self._missing

    def _decode_next(self, missing: list[ImageItem]) -> bool:
        """Take the next file off the queue; returns False when none has arrived yet, a slow URL perhaps."""
        item = next(self._workspace.queue[0], _EXHAUSTED)
        if item is None:
            return False
        if not isinstance(item, ImageItem | Rejected):
            self._workspace.queue.popleft()
            return True
        self._workspace.add(item, self._samples, self._engine.limits)
        if self._encoder and isinstance(item, ImageItem) and item.sha256 in self._workspace.items:
            missing += self._encoder.missing([item])
        return True

    def _start_loading(self) -> None:
        """Load what this and later visits need, in other threads; does nothing when repeated."""
        loader, chosen, preferred = self._engine.loader, self._checkpoint, self._engine.preferred
        if loader.status(chosen).state == "idle":
            loader.start(chosen)
        # A session on the embedded model has CLIP fetched in the background, once per process: where CLIP was
        # released to make room, only a visitor who chooses it brings it back.
        if loader.status(preferred).state == "idle" and not loader.known(preferred):
            loader.start(preferred, after=chosen)
