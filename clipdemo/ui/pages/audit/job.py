"""The audit of a session: a table on its way through the encoder, and what came of it."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import streamlit as st

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.judge import Audit, Summary, judge
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.errors import ClipdemoError, TableError
from clipdemo.images import sources
from clipdemo.images.locate import Locator, upload_locator
from clipdemo.images.sources import Source
from clipdemo.limits import MEGABYTE, Limits
from clipdemo.models import catalogue
from clipdemo.models.cache import CachedEncoder
from clipdemo.models.loader import Loader
from clipdemo.samples import NEUTRAL_CAPTIONS, SAMPLES, sample_items, samples
from clipdemo.scoring.score import background
from clipdemo.tables.table import Table, open_table
from clipdemo.types import Rejected
from clipdemo.ui.state import PATIENCE, View

BATCH = 8  # images of one step: a click waits for one step at most
TIME_SLICE = 1.0
WORKERS = 4
MAX_UNPACKED = 2  # times the largest file: what the cells of a table may hold together
IMAGE_BYTES = 200 * MEGABYTE  # of uploaded images and zips, held until the run ends


@dataclass(eq=False)
class AuditRun:
    """A table under way or done.

    Attributes:
        table: what is audited.
        checkpoint: what it was begun under; a later switch does not change it.
        encoder: of that checkpoint.
        ledger: the rows so far, in memory.
        footprint: seconds and items so far.
        steps: gives rows done with every step; None once the run ended.
        done: rows done.
        stopped: whether the visitor ended it early.
        started: on the clock.
        seconds: it took, once it ended.
        audit: what came of it, once it ended.
        summary: of it.
        rejected: uploaded files that could not be used.
        failed: why it broke off; empty as long as it did not.
        lock: held while a step runs; after a click, the old run of the script may still be in one.
    """

    table: Table
    checkpoint: str
    encoder: CachedEncoder
    ledger: Ledger
    footprint: Footprint
    steps: Iterator[int] | None
    done: int = 0
    stopped: bool = False
    started: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    audit: Audit | None = None
    summary: Summary | None = None
    rejected: list[Rejected] = field(default_factory=list)
    failed: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def progress(self) -> str:
        """Rows done, rate and time left, in words."""
        seconds = time.perf_counter() - self.started
        text = f"{self.done:,} of {self.table.count:,} rows"
        if not self.done:
            return text
        rate = self.done / seconds
        left = (self.table.count - self.done) / rate
        return f"{text}, {rate:.1f} rows a second, about {_duration(left)} left"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.audit is not None or (self.steps is None and bool(self.failed))

    def stop(self) -> None:
        """End it here; the rows done are kept."""
        self.stopped = True


def current() -> AuditRun | None:
    """The session's audit, if there is one."""
    run: AuditRun | None = st.session_state.get("audit")
    return run


def begin(table: Table, locate: Locator, view: View, limits: Limits, rejected: list[Rejected]) -> None:
    """Start the audit of a table in this session; it goes on with every run of the script."""
    if view.encoder is None:
        return
    ledger, footprint = Ledger(), Footprint()
    plan = Plan(limits, WORKERS, BATCH, thumbnails=True, patience=PATIENCE)
    steps = score_table(table, locate, view.encoder, ledger, footprint, plan)
    run = AuditRun(table, view.checkpoint, view.encoder, ledger, footprint, steps, rejected=rejected)
    st.session_state["audit"] = run


def forget() -> None:
    """Drop the session's audit."""
    st.session_state.pop("audit", None)


def open_upload(name: str, data: bytes, columns: tuple[str | None, str | None], limits: Limits) -> Table:
    """An uploaded table.

    Raises:
        TableError: it cannot be read, lacks a column, or is larger than this server takes.
    """
    check_size(data, limits)
    image, caption = columns
    table = open_table(name, lambda: io.BytesIO(data), image_column=image, caption_column=caption)
    if table.count > limits.rows:
        raise TableError(
            f"the table has {table.count:,} rows; this server takes {limits.rows:,}; "
            "split it, or use clipdemo pairs on the command line"
        )
    most, characters = MAX_UNPACKED * limits.file_bytes, 0
    for row in table.rows():  # a few hundred bytes of Parquet may hold gigabytes of text
        characters += sum(map(len, row.cells))
        if characters > most:
            raise TableError(
                f"the table unpacks to more than {most:,} characters; shorten its texts, or split it"
            )
    return table


def check_size(data: bytes, limits: Limits) -> None:
    """Refuse a table that is larger than this server takes.

    Raises:
        TableError: with both sizes.
    """
    if len(data) > limits.file_bytes:
        raise TableError(
            f"the table has {len(data):,} bytes; this server takes {limits.file_bytes:,}; "
            "split it, or use clipdemo pairs on the command line"
        )


def locate_uploads(files: list[tuple[str, bytes]], limits: Limits) -> tuple[Locator, list[Rejected]]:
    """Where the cells of a table lead: URLs, and the uploaded files and zips."""
    found: list[Source] = []
    rejected: list[Rejected] = []
    for name, data in files:
        for thing in sources.expand(name, data, "upload", limits):
            if isinstance(thing, Rejected):
                rejected.append(thing)
            else:
                found.append(thing)
    return upload_locator(found, limits), rejected


def check_images(total: int) -> None:
    """Refuse more bytes of images than this server holds for one audit.

    Raises:
        TableError: with both sizes.
    """
    if total > IMAGE_BYTES:
        raise TableError(
            f"the images have {total / MEGABYTE:,.0f} MB together; this server takes "
            f"{IMAGE_BYTES / MEGABYTE:,.0f} MB for one audit; shrink them, or use the command line"
        )


def example() -> tuple[Table, Locator]:
    """The sample photographs with a caption each, two of which are swapped."""
    data = (SAMPLES / "pairs.csv").read_bytes()
    files = [
        sources.from_bytes(sample.file, (SAMPLES / sample.file).read_bytes(), "sample")
        for sample in samples()
    ]
    return open_table("example.csv", lambda: io.BytesIO(data)), upload_locator(files, Limits())


def ended() -> bool:
    """Whether the session has no audit under way."""
    run = current()
    return run is None or run.ended


def work(loader: Loader, *, ended_when_drawn: bool) -> bool:
    """Score rows for one time slice; called at the end of every page.

    Args:
        loader: keeps the audit's checkpoint here as long as there are steps to do.
        ended_when_drawn: :func:`ended`, asked before the page was drawn.

    Returns:
        Whether the page must be drawn again; also when another run of the script did the last step meanwhile.
    """
    run = current()
    if run is None or ended_when_drawn:
        return False
    with run.lock:
        if not run.ended:
            if run.steps:
                loader.use(run.checkpoint, run.steps)  # the claim ends with the steps
            _work(run)
    return True


def _work(run: AuditRun) -> None:
    until = time.monotonic() + TIME_SLICE
    bar = st.sidebar.progress(run.done / max(run.table.count, 1), f"Audit: {run.progress()}")
    over = bool(run.stopped or run.failed)
    while not over and time.monotonic() < until:
        done: int | None = None
        with _told(run):
            done = next(run.steps, None) if run.steps else None
        over = done is None or run.stopped
        run.done = run.done if done is None else done
        bar.progress(run.done / max(run.table.count, 1), f"Audit: {run.progress()}")
    if over:
        run.steps = None  # closes the pool, and lets go of the uploaded bytes
        with _told(run):
            _end(run)


@contextmanager
def _told(run: AuditRun) -> Iterator[None]:
    """An error of ours breaks the audit off with its sentence; any other does, too, and goes on to the log."""
    fine = False
    try:
        yield
        fine = True
    except ClipdemoError as error:
        run.failed = str(error)
    finally:
        if not fine and not run.failed:
            run.failed = "an error that nobody foresaw; the server's log has it"


def _end(run: AuditRun) -> None:
    run.seconds = time.perf_counter() - run.started
    scale = background(run.encoder, sample_items(), NEUTRAL_CAPTIONS).captions
    audit = judge(run.table, run.ledger, run.encoder.checkpoint, scale, run.footprint)
    run.summary = audit.summary()
    run.audit = audit  # last: it says that all is there


def title(run: AuditRun) -> str:
    """What people read for the checkpoint of an audit."""
    return catalogue.title(run.encoder.checkpoint.id)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
