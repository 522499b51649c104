"""What lives longer than one run of the script: the engine of the process; and what the sidebar chose."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import cache

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from clipdemo import samples
from clipdemo.compare import costs
from clipdemo.compare.costs import Stopwatch
from clipdemo.limits import Limits
from clipdemo.memory import Memory
from clipdemo.models import choices, load
from clipdemo.models.cache import CachedEncoder, EmbeddingStore
from clipdemo.models.catalogue import CLIP_BASE, EMBEDDED
from clipdemo.models.governor import Governor
from clipdemo.models.loader import Loader
from clipdemo.scoring.prompts import Templates
from clipdemo.types import ImageItem
from clipdemo.ui.jobs import Job

_making_engine = threading.Lock()


@dataclass(frozen=True)
class Engine:
    """What all sessions of the process share.

    Attributes:
        preferred: the checkpoint that visits start on once it is available.
        stopwatch: times forward passes for the Compare page.
    """

    limits: Limits
    loader: Loader
    preferred: str
    stopwatch: Stopwatch


@dataclass(frozen=True)
class View:
    """What the sidebar chose in this run of the script, for a page to show.

    Attributes:
        encoder: None until the chosen checkpoint is loaded.
        items: samples first, then the session's own images.
        captions: as typed, each once.
        checkpoint: the name chosen.
        samples: the part of ``items`` that is the sample set.
        jobs: work handed over in this run; it ends with the page.
    """

    encoder: CachedEncoder | None
    items: tuple[ImageItem, ...]
    captions: tuple[str, ...]
    templates: Templates
    checkpoint: str
    samples: tuple[ImageItem, ...]
    jobs: list[Job] = field(default_factory=list)

    def ready_items(self) -> tuple[ImageItem, ...]:
        """The images that can be ranked now, without encoding."""
        if self.encoder is None:
            return ()
        waiting = {item.sha256 for item in self.encoder.missing(self.items)}
        return tuple(item for item in self.items if item.sha256 not in waiting)

    def hand_over(self, job: Job) -> None:
        """Have a job served at the end of this run of the script, and of no other."""
        self.jobs.append(job)


def engine() -> Engine:
    """The engine of this process, made by the first visit after a start."""
    with _making_engine:
        return _make_engine()


@cache  # not Streamlit's: any browser may ask for those to be cleared, for all visitors
def _make_engine() -> Engine:
    limits = Limits.from_environment()
    store = EmbeddingStore(limits.cache_bytes)
    samples.preload(store)
    preferred = load.preferred()
    loader = Loader(store, governor=Governor(Memory(limits.memory_bytes)), offered=choices.offered(preferred))
    stopwatch = Stopwatch(samples.sample_items()[: costs.IMAGES], samples.NEUTRAL_CAPTIONS[: costs.CAPTIONS])
    return Engine(limits, loader, preferred, stopwatch)


def first_checkpoint(engine: Engine) -> str:
    """What a new session starts on: the preferred checkpoint if set or available, else the embedded model.

    A session keeps what it started on until its visitor chooses another.
    """
    set_by_host = engine.preferred != CLIP_BASE
    loaded = engine.loader.encoder(engine.preferred) is not None
    if set_by_host or loaded or load.is_local(engine.preferred):
        return engine.preferred
    return EMBEDDED


def claim_encoder(engine: Engine, session: object, name: str) -> CachedEncoder | None:
    """The checkpoint this run works with, if it is loaded; it stays in memory while the session uses it.

    Args:
        engine: of the process.
        session: holds the claim, which ends with it.
        name: the checkpoint.
    """
    st.session_state["queue-line"] = st.empty()
    # Checkpoints that a page works with are kept until it says, at the end of this run, whether it still
    # does.
    engine.loader.use(name, session, *st.session_state.get("claimed", ()))
    encoder = engine.loader.encoder(name)
    return with_queue_line(encoder) if encoder else None


def with_queue_line(encoder: CachedEncoder) -> CachedEncoder:
    """The same encoder; while it waits for other visitors, a line in the sidebar says so."""
    return encoder.for_session(session_id(), _show_queue)


def session_id() -> str:
    """Streamlit's id of the session whose script runs in this thread; empty in a thread of another kind."""
    context = get_script_run_ctx(suppress_warning=True)
    return context.session_id if context else ""


def _show_queue(ahead: int) -> None:
    """Show the number of requests ahead; only in the session's own thread, which owns its elements."""
    if get_script_run_ctx(suppress_warning=True) is None or "queue-line" not in st.session_state:
        return
    line = st.session_state["queue-line"]
    if ahead:
        line.caption(f":material/groups: waiting: {ahead} request{'s' if ahead > 1 else ''} ahead of you …")
    else:
        line.empty()
