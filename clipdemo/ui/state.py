"""What lives longer than one run of the script: the engine of the process, the workspace of a session."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from clipdemo.compare import costs
from clipdemo.compare.costs import Stopwatch
from clipdemo.images import sources
from clipdemo.images.sources import Source
from clipdemo.limits import Limits
from clipdemo.memory import Memory
from clipdemo.models import catalogue, load
from clipdemo.models.cache import BATCH, CachedEncoder, EmbeddingStore
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.models.governor import Governor
from clipdemo.models.loader import Loader
from clipdemo.samples import NEUTRAL_CAPTIONS, preload, sample_items
from clipdemo.scoring.prompts import Templates
from clipdemo.types import ImageItem, Rejected

TIME_SLICE = 2.0  # seconds of work between two looks at the grid
PATIENCE = 0.2  # seconds a visitor's click waits at most for a file that does not come
MAX_VERDICTS = 500  # on files, and on URLs, that a session keeps
COMPARED = "compared"  # in the session: checkpoints that the Compare page works with at present
_DONE = object()
URL_WORKERS = 6


@dataclass(frozen=True)
class Engine:
    """What all sessions of the process share."""

    limits: Limits
    loader: Loader
    preferred: str
    stopwatch: Stopwatch


@dataclass(eq=False)  # a claim on a checkpoint ends with it, so it is held weakly and by identity
class Workspace:
    """The images one session brought; they are never shared, saved or put into a link.

    Attributes:
        items: usable images by SHA-256, in the order they came.
        rejected: what could not be used, and why.
        urls: the latest verdict on each URL.
        queue: what is still to be read and decoded.
        uploader: goes up to empty the upload widgets, so that streamlit drops the originals.
        lock: held while the queue is worked on; after a click, the old run of the script may still be
            in the middle of a step while the new one begins.
    """

    items: dict[str, ImageItem] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    urls: dict[str, Rejected | ImageItem] = field(default_factory=dict)
    queue: deque[Iterator[ImageItem | Rejected | None]] = field(default_factory=deque)
    uploader: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enqueue(self, incoming: Iterable[Source | Rejected], limits: Limits, *, workers: int = 2) -> None:
        """Have ``incoming`` read and decoded, a little with every run of the script."""
        with self.lock:
            self.queue.append(sources.load(incoming, limits, workers=workers, patience=PATIENCE))

    def take(self, thing: ImageItem | Rejected, samples: tuple[ImageItem, ...], limits: Limits) -> None:
        """Keep an image, or say why not: a rejected one, a duplicate, or one too many.

        The first one too many empties the queue: what comes after it would be decoded for nothing.
        """
        if isinstance(thing, ImageItem):
            same = self.items.get(thing.sha256) or next(
                (sample for sample in samples if sample.sha256 == thing.sha256), None
            )
            if same:
                reason = f"the same file as {same.name}; it counts once"
                thing = Rejected(thing.name, "duplicate", reason, thing.source)
            elif len(self.items) + len(samples) >= limits.images:
                reason = (
                    f"the workspace is full: {limits.images} images, samples included, is the most; this one and all "
                    "after it were left out; clear some first"
                )
                thing = Rejected(thing.name, "too many", reason, thing.source)
                self.queue.clear()
        if thing.source == "url" and not isinstance(self.urls.get(thing.name), ImageItem):
            self.urls[thing.name] = thing
            for old in list(self.urls)[:-MAX_VERDICTS]:
                del self.urls[old]
        if isinstance(thing, ImageItem):
            self.items[thing.sha256] = thing
        elif thing.source != "url":
            self.rejected.append(thing)
            del self.rejected[:-MAX_VERDICTS]

    def clear(self) -> None:
        """Forget everything the session brought."""
        with self.lock:
            self.items.clear()
            self.rejected.clear()
            self.urls.clear()
            self.queue.clear()
            self.uploader += 1

    def remove(self, sha256: str) -> None:
        """Forget one image."""
        with self.lock:
            item = self.items.pop(sha256, None)
            if item:
                self.urls.pop(item.name, None)


@dataclass(frozen=True)
class View:
    """What the sidebar says, for a page to show.

    Attributes:
        encoder: None while the chosen checkpoint is on its way.
        items: samples first, then what the session brought.
        captions: as typed, each once.
        templates: prompt templates.
        checkpoint: the name chosen.
        samples: the part of ``items`` that is the sample set.
    """

    encoder: CachedEncoder | None
    items: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    templates: Templates
    checkpoint: str
    samples: tuple[ImageItem, ...]

    def ready_items(self) -> tuple[ImageItem, ...]:
        """The images that can be ranked now, without encoding."""
        if self.encoder is None:
            return ()
        waiting = {item.sha256 for item in self.encoder.missing(self.items)}
        return tuple(item for item in self.items if item.sha256 not in waiting)


@st.cache_resource(show_spinner=False)
def engine() -> Engine:
    """The engine of this process; the first visit after a start makes it and begins to warm it up."""
    limits = Limits.from_environment()
    store = EmbeddingStore(limits.cache_bytes)
    preload(store)
    loader = Loader(store, governor=Governor(Memory(limits.memory_bytes)))
    stopwatch = Stopwatch(sample_items()[: costs.IMAGES], NEUTRAL_CAPTIONS[: costs.CAPTIONS])
    return Engine(limits, loader, load.preferred(), stopwatch)


def workspace() -> Workspace:
    """The session's workspace."""
    if "workspace" not in st.session_state:
        st.session_state["workspace"] = Workspace()
    kept: Workspace = st.session_state["workspace"]
    return kept


def first_checkpoint(shared: Engine) -> str:
    """What a new session starts on: the preferred checkpoint if it is asked for or here, else embedded.

    A session keeps what it started on until its visitor chooses another.
    """
    asked_for = shared.preferred != catalogue.CLIP_BASE
    ready = shared.loader.encoder(shared.preferred) is not None
    if asked_for or ready or load.is_local(shared.preferred):
        return shared.preferred
    return EMBEDDED


def take(shared: Engine, space: Workspace, name: str) -> CachedEncoder | None:
    """The checkpoint this run works with, if it is here; it stays while the session uses it.

    Whenever the session waits for its turn, the line made here says so.
    """
    st.session_state["queue-line"] = st.empty()
    shared.loader.use(name, space, *st.session_state.get(COMPARED, ()))
    encoder = shared.loader.encoder(name)
    return watched(encoder) if encoder else None


def watched(encoder: CachedEncoder) -> CachedEncoder:
    """The same encoder; while it waits for its turn, the session's line says so."""
    return encoder.with_wait_callback(_say_queue)


def _say_queue(before: int) -> None:
    """Show how many go first; in the session's own thread, for elements belong to no other."""
    if get_script_run_ctx(suppress_warning=True) is None or "queue-line" not in st.session_state:
        return
    line = st.session_state["queue-line"]
    if before:
        line.caption(f":material/groups: {before} {'other goes' if before == 1 else 'others go'} first …")
    else:
        line.empty()


def warm_up(shared: Engine, space: Workspace, chosen: str) -> None:
    """Begin loading what this and later visits need, without waiting; harmless to repeat."""
    shared.loader.use(chosen, space)
    if shared.loader.status(chosen).state == "idle":
        shared.loader.start(chosen)
    # A session on the embedded model has CLIP fetched behind its back, once per process: where it had to make
    # room, only a visitor who chooses it brings it back.
    if shared.loader.status(shared.preferred).state == "idle" and not shared.loader.known(shared.preferred):
        shared.loader.start(shared.preferred, after=chosen)


def work(view: View, space: Workspace, limits: Limits, *, encode: bool = True) -> bool:
    """Read, decode and encode what is waiting, for one time slice; says whether to run the script again.

    The page has already shown what it can. Decoding goes on in the pool's threads while this one encodes;
    an interaction of the visitor interrupts between two images, and nothing done is lost.

    Args:
        view: the workspace.
        space: of the session.
        limits: of the host.
        encode: False where the Compare page encodes, with the checkpoints that the session claims.
    """
    if not encode:  # what the session no longer claims may be released at any time
        view = replace(view, encoder=None)
    if space.queue or (view.encoder and view.encoder.missing(view.items)):
        with space.lock:
            _work(view, space, limits)
        return True
    return False


def _work(view: View, space: Workspace, limits: Limits) -> None:
    missing = view.encoder.missing(view.items) if view.encoder else []
    until = time.monotonic() + TIME_SLICE
    bar = st.sidebar.progress(0.0, _progress_text(view, space, len(missing)))
    while time.monotonic() < until and (space.queue or missing):
        while space.queue and len(missing) < BATCH and time.monotonic() < until:
            thing = next(space.queue[0], _DONE)
            if thing is None:
                break  # nothing has come yet, a slow URL perhaps
            if not isinstance(thing, ImageItem | Rejected):
                space.queue.popleft()
                continue
            space.take(thing, view.samples, limits)
            if view.encoder and isinstance(thing, ImageItem) and thing.sha256 in space.items:
                missing += view.encoder.missing([thing])
        if view.encoder and missing:
            view.encoder.encode_images(missing[:4])
            missing = missing[4:]
        total = len(view.samples) + len(space.items)
        bar.progress(
            1 - len(missing) / max(total, len(missing), 1), _progress_text(view, space, len(missing))
        )


def _progress_text(view: View, space: Workspace, missing: int) -> str:
    total = len(view.samples) + len(space.items)
    reading = "reading files; " if space.queue else ""
    return f"{reading}{total - missing} of {total} images encoded"
