"""A complete run of ``clipdemo pairs``: a table in, a scored table, figures and a report out; resumable."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from clipdemo.audit import report as audit_report
from clipdemo.audit.footprint import Footprint, ProgressCallback, peak_resident_bytes
from clipdemo.audit.judge import judge, unscored
from clipdemo.audit.ledger import Ledger, ScoredRow
from clipdemo.audit.result import Result
from clipdemo.audit.score import Plan, begin, score_table
from clipdemo.disk import remove_leftovers, replacement, write_atomically
from clipdemo.errors import FileMissingError, LedgerError, OutputError, TableError
from clipdemo.images.decode import recipe
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import Limits
from clipdemo.lock import lock_outputs
from clipdemo.models.load import peak_gpu_bytes
from clipdemo.output.files import CsvWriter
from clipdemo.regular import open_regular
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.score import background
from clipdemo.similarity import FloatArray, percentile
from clipdemo.tables.row import Row
from clipdemo.tables.table import Table, open_table
from clipdemo.types import Encoder


@dataclass(frozen=True)
class AuditOptions:
    """The options of ``clipdemo pairs``.

    Attributes:
        table: file with the rows.
        output: the scored table; ``<output>.progress`` and ``<output>.partial`` lie next to it until the run
            is complete.
        figures: folder for pictures, or None.
        report: file for the HTML report, or None.
        images: folder that the table's image paths start from.
        columns: names of the image and the caption column; None finds them by name.
        batch_size: images, and captions, per forward pass.
        workers: threads that fetch and decode.
        resume: continue a run that was stopped.
    """

    table: Path
    output: Path
    figures: Path | None
    report: Path | None
    images: Path
    columns: tuple[str | None, str | None]
    batch_size: int
    workers: int
    resume: bool

    @property
    def outputs(self) -> list[Path]:
        """The files to write, apart from the figures."""
        return [self.output, self.report] if self.report else [self.output]

    @property
    def progress_files(self) -> list[Path]:
        """The ledger and the two files that SQLite keeps next to it."""
        name = self.output.name + ".progress"
        return [self.output.with_name(name + suffix) for suffix in ("", "-wal", "-shm")]

    @property
    def temporary_files(self) -> list[Path]:
        """What lies next to the output during a run under a name that another file could have."""
        return [self.partial, *self.progress_files]

    @property
    def partial(self) -> Path:
        """The output while rows are scored: complete but for ranks and flags."""
        return self.output.with_name(self.output.name + ".partial")


def run_audit(options: AuditOptions, load: Callable[[], Encoder], progress: ProgressCallback) -> Result:
    """Score a table and write the outputs that the options name.

    Args:
        options: of the run.
        load: returns the encoder; called once the table and the paths to write are known to be usable.
        progress: called with the number of rows done.

    Raises:
        TableError: the table cannot be used, or changes while it is scored.
        FileMissingError: the folder of images does not exist.
        LedgerError: there is nothing to resume, or the progress belongs to a different run.
        OutputError: a file cannot be written, or another run writes it.
        CheckpointError: the checkpoint cannot be used.
    """
    _check_inputs(options)
    with lock_outputs(*options.outputs):
        with _translate_output_errors(options.output):
            for output in options.outputs:
                remove_leftovers(output)
        return _run(options, _open_table(options), load(), progress)


def _run(options: AuditOptions, table: Table, encoder: Encoder, progress: ProgressCallback) -> Result:
    footprint = Footprint()
    samples, neutral = sample_items(), NEUTRAL_CAPTIONS
    with footprint.stage("start and background", len(samples) + len(neutral)):
        unrelated = background(encoder, samples, neutral).captions
    pictures = bool(options.figures or options.report)
    plan = Plan(Limits.from_environment(), options.workers, options.batch_size, thumbnails=pictures)
    with _translate_output_errors(options.partial):
        ledger = _open_ledger(options, table, encoder, pictures)
        try:
            locate = folder_locator(options.images, plan.limits)
            chunks = score_table(table, locate, encoder, ledger, footprint, plan)
            _PartialOutput(options, table, ledger, unrelated).follow(chunks, progress)
            audit = judge(table, ledger, encoder.checkpoint, unrelated, footprint)
            _check_unchanged(options, table)
            _write_output(options.output, audit.rows(), table)
            figures = audit_report.write_figures(audit, options.figures)
            result = Result(
                audit.summary(),
                encoder.checkpoint,
                encoder.device,
                footprint.stages,
                footprint.seconds,
                peak_resident_bytes(),
                peak_gpu_bytes() if encoder.device == "cuda" else None,
                table.notes,
                tuple(map(printable_name, [str(options.output), *figures, *map(str, options.outputs[1:])])),
            )
            if options.report:
                usage = audit_report.Usage(
                    result.stages, result.seconds, result.device, result.peak_bytes, result.peak_gpu_bytes
                )
                page = audit_report.audit_html(audit, result.summary, usage)
                write_atomically(options.report, page.encode())
        finally:
            ledger.close()
        for file in (options.partial, *options.progress_files):
            file.unlink(missing_ok=True)
    return result


def _check_inputs(options: AuditOptions) -> None:
    if not options.table.exists():
        raise TableError(f"there is no table {options.table}")
    if not options.images.is_dir():
        raise FileMissingError(f"there is no folder of images {options.images}")
    _check_outputs(options)


def _open_table(options: AuditOptions) -> Table:
    ledger = options.progress_files[0]
    if ledger.exists() and not options.resume:
        raise LedgerError(
            f"{ledger} holds the progress of a run that was stopped; add --resume to go on, or delete it"
        )
    image, caption = options.columns
    name = printable_name(options.table.name)
    return open_table(name, lambda: open_regular(options.table), image_column=image, caption_column=caption)


def _check_outputs(options: AuditOptions) -> None:
    """Refuse outputs that cannot be written before hours of work; only plain files are overwritten."""
    for file in options.outputs:
        if not file.parent.is_dir():
            raise OutputError(f"there is no folder {file.parent} for {file.name}; make it first")
        if file.exists() and not file.is_file():
            raise OutputError(f"{file} is not a file; name another one")
    for file in (*options.outputs, *options.temporary_files):
        if file.exists() and file.samefile(options.table):
            raise OutputError(f"the output {file} is the table itself; name another file")
    if len({file.resolve() for file in options.outputs}) < len(options.outputs):
        raise OutputError(f"the report and the scored table cannot both be {options.output}")
    if options.figures and options.figures.exists() and not options.figures.is_dir():
        raise OutputError(f"{options.figures} is not a folder; name another one")


def _check_unchanged(options: AuditOptions, table: Table) -> None:
    try:
        with open_regular(options.table) as file:
            unchanged = hashlib.file_digest(file, "sha256").hexdigest() == table.sha256
    except OSError as error:
        raise TableError(f"{options.table} can no longer be read ({error.strerror})") from error
    if not unchanged:
        raise _changed(options)


def _changed(options: AuditOptions) -> TableError:
    ledger = options.progress_files[0]
    return TableError(f"{options.table} was changed while it was scored; delete {ledger} and start over")


def _open_ledger(options: AuditOptions, table: Table, encoder: Encoder, pictures: bool) -> Ledger:
    path = options.progress_files[0]
    if options.resume and not path.exists() and options.output.exists():
        raise LedgerError(
            f"there is nothing to resume: {options.output} is complete; run without --resume to redo it"
        )
    ledger = Ledger(path)
    about = {
        "table": table.sha256,
        "image column": str(table.image),
        "caption column": str(table.caption),
        "checkpoint": encoder.checkpoint.fingerprint,
        "preparation of images": recipe(encoder.view),
        "folder of images": printable_name(str(options.images.resolve())),
        "--figures or --report": str(pictures),
    }
    begin(ledger, about)
    return ledger


class _PartialOutput:
    """Writes ``options.partial``, for people to look at while rows are scored.

    Args:
        options: of the run.
        table: the rows.
        ledger: their scores.
        unrelated: cosines of unrelated pairs under the same checkpoint.
    """

    def __init__(self, options: AuditOptions, table: Table, ledger: Ledger, unrelated: FloatArray) -> None:
        self._options, self._table, self._ledger, self._unrelated = options, table, ledger, unrelated
        self._rows = table.rows()
        self._written = 0

    def follow(self, chunks: Iterator[int], progress: ProgressCallback) -> None:
        """Write the rows already scored, then those of each chunk."""
        before, started = self._ledger.row_count, time.perf_counter()
        with self._options.partial.open("w", encoding="utf-8", newline="") as file:
            writer = CsvWriter(file, audit_report.header(self._table), line_end="\r\n")
            self._catch_up(writer, file)
            progress(self._written, self._table.count, 0.0)
            for done in chunks:
                self._catch_up(writer, file)
                seconds = time.perf_counter() - started
                progress(done, self._table.count, (done - before) / seconds if seconds else 0.0)

    def _catch_up(self, writer: CsvWriter, file: IO[str]) -> None:
        done = self._ledger.row_count
        for scored in self._ledger.rows(self._written, done):
            writer.write(self._cells(scored))
        file.flush()
        self._written = done

    def _cells(self, scored: ScoredRow) -> Sequence[str]:
        row: Row | None = next(self._rows, None)
        if row is None:
            raise _changed(self._options)
        if scored.cosine is None or scored.caption is None:
            return [*row.cells, *unscored(scored.error)]
        truncated = "yes" if self._ledger.caption_text(scored.caption)[1] else "no"
        above = float(percentile([scored.cosine], self._unrelated)[0])
        return [*row.cells, f"{scored.cosine:.6f}", f"{above:.2f}", "", "", "", truncated, "", ""]


def _write_output(path: Path, rows: Iterable[Sequence[str]], table: Table) -> None:
    with replacement(path) as new, new.open("w", encoding="utf-8", newline="") as file:
        writer = CsvWriter(file, audit_report.header(table), line_end="\r\n")
        for row in rows:
            writer.write(row)


@contextmanager
def _translate_output_errors(partial: Path) -> Iterator[None]:
    """Turn a full disk and other write errors into an :class:`OutputError`; a full disk names no file."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or partial} cannot be written ({error.strerror or error}); free some disk "
            "space, or make it writable, and go on with --resume"
        ) from error
