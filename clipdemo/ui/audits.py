"""The audit of a session: a table scored in the background, and its result."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from contextlib import contextmanager

from clipdemo.audit.footprint import Footprint
from clipdemo.audit.judge import Audit, Summary, judge
from clipdemo.audit.ledger import Ledger
from clipdemo.audit.score import Plan, score_table
from clipdemo.errors import ClipdemoError, ReleasedCheckpointError
from clipdemo.images import sources
from clipdemo.images.locate import Locator, upload_locator
from clipdemo.limits import Limits
from clipdemo.models import catalogue
from clipdemo.samples import NEUTRAL_CAPTIONS, SAMPLES, sample_items, samples
from clipdemo.scoring.score import background
from clipdemo.tables.table import Table, open_table
from clipdemo.types import Rejected
from clipdemo.ui import jobs, views
from clipdemo.ui.jobs import Job, Progress
from clipdemo.ui.state import Engine, View, session_id
from clipdemo.ui.workspace import PATIENCE

BATCH = 8  # images of one step: a click waits for one step at most
WORKERS = 4
_NAME = "audit"


class AuditJob(Job):
    """Scores a table, chunk by chunk, then ranks and flags its pairs.

    Attributes:
        checkpoint: name of the checkpoint it started under; a later switch in the sidebar does not change it.
        done: rows done.
        seconds: that the audit took, once it has ended.
        audit: the result, once it has ended.
        summary: of the result.
        rejected: uploaded files that could not be used.
        failed: why it ended early; empty unless it did.
    """

    page = "audit"

    def __init__(
        self, table: Table, locate: Locator, view: View, engine: Engine, rejected: list[Rejected]
    ) -> None:
        super().__init__()
        self.table, self.checkpoint, self.rejected = table, view.checkpoint, rejected
        # Not the view's own encoder: that one draws while it waits, and a click would end the scoring there.
        encoder = engine.loader.encoder(view.checkpoint)
        if encoder is None:
            raise ReleasedCheckpointError(
                f"{catalogue.title(view.checkpoint)} is not loaded; choose it again"
            )
        self.encoder = encoder.for_session(session_id())
        self.ledger, self.footprint = Ledger(), Footprint()
        self.done, self.seconds, self.failed = 0, 0.0, ""
        self.audit: Audit | None = None
        self.summary: Summary | None = None
        self._loader = engine.loader
        self._started = time.perf_counter()
        plan = Plan(engine.limits, WORKERS, BATCH, thumbnails=True, patience=PATIENCE)
        self._steps: Iterator[int] | None = score_table(
            table, locate, self.encoder, self.ledger, self.footprint, plan
        )

    @property
    def finished(self) -> bool:
        """Whether there is a result, or none will come."""
        return self.audit is not None or (self._steps is None and bool(self.failed))

    @property
    def title(self) -> str:
        """Title of its checkpoint."""
        return catalogue.title(self.encoder.checkpoint.id)

    def step(self) -> bool:
        """Score the next rows; after the last ones, judge them all."""
        if self.finished:
            return False
        done = None
        if self._steps is not None and not self.cancelled:
            self._loader.use(self.checkpoint, self._steps)  # the claim ends with the steps
            with self._ending_on_error():
                done = next(self._steps, None)
        if done is not None:
            self.done = done
            return True
        if not (self.cancelled or self.failed) and self.done < self.table.count:
            self.failed = "the scoring was interrupted"
        try:
            with self._ending_on_error():
                self._judge()  # may still encode the background, so the claim ends after it
        finally:
            self._steps = None  # closes the thread pool, and releases the uploaded bytes
        return True

    def progress(self) -> Progress | None:
        """Rows done, rate and time left."""
        if self.finished:
            return None
        share = self.done / max(self.table.count, 1)
        return Progress(share, f"Audit: {self.progress_text()}")

    def progress_text(self) -> str:
        """Rows done, rate and time left, in words."""
        text = f"{self.done:,} of {self.table.count:,} rows"
        if not self.done:
            return text
        rate = self.done / (time.perf_counter() - self._started)
        left = (self.table.count - self.done) / rate
        return f"{text}, {rate:.1f} rows a second, about {_duration(left)} left"

    def outcome(self) -> str:
        """Rows scored, or why it ended early."""
        name = views.plain(self.table.name, 60)
        if self.failed or self.summary is None:
            return f"The audit of {name} ended early: {views.plain(self.failed, 200)}"
        return (
            f"The audit of {name} is finished: {self.summary.scored:,} of {self.summary.rows:,} rows scored."
        )

    def _judge(self) -> None:
        self.seconds = time.perf_counter() - self._started
        scale = background(self.encoder, sample_items(), NEUTRAL_CAPTIONS).captions
        audit = judge(self.table, self.ledger, self.encoder.checkpoint, scale, self.footprint)
        self.summary = audit.summary()
        self.audit = audit  # last: pages show the result once it is set

    @contextmanager
    def _ending_on_error(self) -> Iterator[None]:
        """End the audit on an error: ours with its sentence, any other also goes to the log."""
        try:
            yield
        except ClipdemoError as error:
            self.failed = str(error)
        except Exception:  # raised again; the page must not show this audit as running for ever
            self.failed = "unexpected error; see the server log"
            raise


def current() -> AuditJob | None:
    """The session's audit, running or finished."""
    job = jobs.find(_NAME)
    return job if isinstance(job, AuditJob) else None


def start(table: Table, locate: Locator, view: View, engine: Engine, rejected: list[Rejected]) -> None:
    """Start the audit of a table in this session.

    Raises:
        ReleasedCheckpointError: the checkpoint was released since the page was drawn.
    """
    jobs.submit(_NAME, AuditJob(table, locate, view, engine, rejected))


def discard() -> None:
    """Drop the session's audit."""
    jobs.discard(_NAME)


def example() -> tuple[Table, Locator]:
    """The sample photographs with a caption each, two of which are swapped."""
    data = (SAMPLES / "pairs.csv").read_bytes()
    files = [
        sources.from_bytes(sample.file, (SAMPLES / sample.file).read_bytes(), "sample")
        for sample in samples()
    ]
    return open_table("example.csv", lambda: io.BytesIO(data)), upload_locator(files, Limits())


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
