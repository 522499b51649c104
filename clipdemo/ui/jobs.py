"""Background work of a session, done in slices at the end of each run of the script.

Anything that takes longer than a blink is a :class:`Job`. A page hands one over (``view.hand_over`` for work
that ends with the page, :func:`submit` for work that goes on while the visitor looks at other pages) and
reads its result. :func:`run` is the only place that knows in which order things happen.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import streamlit as st

from clipdemo.models.loader import Loader

SLICE_SECONDS = 2.0  # of work between two looks at the page
WATCH_SECONDS = 3.0  # between two looks whether the script still runs


@dataclass(frozen=True)
class Progress:
    """How far a job is.

    Attributes:
        share: 0 to 1.
        text: Markdown for the progress bar.
    """

    share: float
    text: str


class Job(ABC):
    """Work in small steps; nothing done is lost when a click interrupts it between two of them.

    Attributes:
        lock: held during a slice; after a click, the previous run of the script may still be in a step.
        cancelled: whether the visitor ended it early.
        page: URL path of the page that shows its result; empty for work without a page of its own.
        granted: the checkpoints it needs, if those are what the session now keeps; empty otherwise.
        announced: whether the visitor was told that it finished.
    """

    page = ""

    def __init__(self, lock: threading.Lock | None = None) -> None:
        self.lock = lock or threading.Lock()
        self.cancelled = self.announced = False
        self.granted: tuple[str, ...] = ()

    @abstractmethod
    def step(self) -> bool:
        """Do the next small piece of work; returns False when there is nothing to do now."""

    @abstractmethod
    def progress(self) -> Progress | None:
        """How far it is; None when there is nothing to show."""

    def checkpoints(self) -> tuple[str, ...]:
        """Checkpoints that the session must keep in memory for this job, and no others; empty for none."""
        return ()

    @property
    def finished(self) -> bool:
        """Whether its result is complete, or will never be."""
        return False

    def outcome(self) -> str:
        """One sentence of Markdown on how it ended, for visitors who are on another page."""
        return ""

    def cancel(self) -> None:
        """End it early; what is done is kept."""
        self.cancelled = True


def submit(name: str, job: Job) -> None:
    """Keep a job in this session until :func:`discard`; it goes on on every page."""
    st.session_state.setdefault("jobs", {})[name] = job


def find(name: str) -> Job | None:
    """The session's job of that name, finished or not."""
    job: Job | None = st.session_state.get("jobs", {}).get(name)
    return job


def discard(name: str) -> None:
    """Drop a job and its result."""
    st.session_state.get("jobs", {}).pop(name, None)


def run(
    draw: Callable[[], None], handed_over: list[Job], loader: Loader, session: object, *, page: str = ""
) -> None:
    """Draw the page, then serve the session's jobs in turn; runs the script again while there is work.

    Args:
        draw: draws the page.
        handed_over: jobs of this run only; sidebar and page append to it.
        loader: keeps the checkpoints that jobs need.
        session: holds the session's claim on checkpoints, which ends with it.
        page: URL path of the page.
    """
    lasting: list[Job] = list(st.session_state.get("jobs", {}).values())
    _announce(lasting, page)
    unfinished = [job for job in lasting if not job.finished]
    if unfinished:
        _watch(unfinished)
    draw()
    _claim_checkpoints(handed_over, loader, session)
    served = [_serve(job) for job in (*handed_over, *unfinished)]
    # A job that an overlapping run of the script finished meanwhile must be drawn, too.
    if any(served) or any(job.finished for job in unfinished):
        st.rerun()


def reserve_progress() -> None:
    """Keep a place for the progress of jobs; the sidebar calls it first, so it is seen without scrolling."""
    st.session_state["progress"] = st.container()


def _watch(unfinished: Sequence[Job]) -> None:
    """Have the browser run the script again when a visitor stopped it by Streamlit's own button."""
    in_script = True

    @st.fragment(run_every=WATCH_SECONDS)
    def watch() -> None:
        # As a fragment of its own it runs only while the script does not.
        if not in_script and not all(job.finished for job in unfinished):
            st.rerun()

    watch()
    in_script = False


def _claim_checkpoints(handed_over: Sequence[Job], loader: Loader, session: object) -> None:
    """Let the session keep the checkpoints of one job; those of others may be released.

    The page's own job, handed over after the sidebar's, comes first: its checkpoints may be all that memory
    can hold.
    """
    for job in reversed(handed_over):
        if names := job.checkpoints():
            job.granted = names
            st.session_state["claimed"] = () if job is handed_over[0] else names
            loader.use(names[0], session, *names[1:])
            return


def _serve(job: Job) -> bool:
    """Give a job one slice; returns whether anything was done."""
    with job.lock:
        until = time.monotonic() + SLICE_SECONDS
        bar, worked = st.session_state["progress"].empty(), False
        _show(bar, job)
        while time.monotonic() < until and job.step():
            worked = True
            _show(bar, job)
    return worked


def _show(bar: st.delta_generator.DeltaGenerator, job: Job) -> None:
    progress = job.progress()
    if progress:
        bar.progress(min(max(progress.share, 0.0), 1.0), progress.text)


def _announce(lasting: list[Job], page: str) -> None:
    """Say once that a job has finished, unless its own page says so already."""
    for job in lasting:
        if job.finished and not job.announced:
            job.announced = True
            if job.page != page:
                st.toast(job.outcome(), icon=":material/task_alt:")
