"""A whole run of ``clipdemo pairs``: table in, scored table, figures and report out, resumable at any row."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from clipdemo.audit import report as audit_report
from clipdemo.audit.footprint import Footprint, Show, Stage, peak_resident_bytes
from clipdemo.audit.judge import Retrieval, Summary, judge, unscored
from clipdemo.audit.ledger import Done, Ledger
from clipdemo.audit.score import Plan, begin, score_table
from clipdemo.errors import FileMissingError, LedgerError, OutputError, TableError
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import MEGABYTE, Limits
from clipdemo.models.load import peak_gpu_bytes
from clipdemo.output import files
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.score import background
from clipdemo.similarity import FloatArray, percentile
from clipdemo.tables.table import Row, Table, open_table
from clipdemo.types import Checkpoint, Encoder


@dataclass(frozen=True)
class TableRun:
    """What to do.

    Attributes:
        table: the file with the rows.
        output: the scored table; ``<output>.progress`` lies beside it until the run is complete.
        figures: folder for pictures, or None.
        report: file for the HTML report, or None.
        images: folder that image paths of the table start from.
        columns: names of the image and caption column; None where they are found by name.
        batch_size: images, and captions, of one forward pass.
        workers: threads that fetch and decode.
        resume: go on with a run that was stopped.
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


@dataclass(frozen=True)
class Result:
    """What came of it.

    Attributes:
        summary: of the table.
        checkpoint: under which it was scored.
        device: where the checkpoint ran.
        stages: seconds and items of this run; a resumed run counts only its own.
        seconds: of this run, on the clock.
        peak_bytes: the most memory the process held, None where the system does not say.
        peak_gpu_bytes: the same on the GPU, None without one.
        notes: on how the table was read.
        files: what was written.
    """

    summary: Summary
    checkpoint: Checkpoint
    device: str
    stages: tuple[Stage, ...]
    seconds: float
    peak_bytes: int | None
    peak_gpu_bytes: int | None
    notes: tuple[str, ...]
    files: tuple[str, ...]

    def as_json(self) -> str:
        """One object with every figure."""
        return json.dumps(
            {
                "summary": asdict(self.summary),
                "checkpoint": self.checkpoint.id,
                "revision": self.checkpoint.revision,
                "device": self.device,
                "seconds": round(self.seconds, 3),
                "stages": [
                    {
                        "name": s.name,
                        "seconds": round(s.seconds, 3),
                        "items": s.items,
                        "per_second": round(s.rate, 2),
                    }
                    for s in self.stages
                ],
                "peak_memory_bytes": self.peak_bytes,
                "peak_gpu_memory_bytes": self.peak_gpu_bytes,
                "notes": list(self.notes),
                "files": list(self.files),
            },
            indent=2,
            ensure_ascii=False,
        )

    def as_text(self) -> str:
        """The figures for people."""
        s = self.summary
        flags = ", ".join(f"{count} {flag}" for flag, count in s.flags.items())
        errors = ", ".join(f"{count:,} {error}" for error, count in s.errors.items())
        lines = [
            *(f"note: {note}" for note in self.notes),
            f"{s.scored:,} of {s.rows:,} rows scored, {s.failed:,} failed; "
            f"{s.images:,} distinct images, {s.captions:,} distinct captions",
            *([f"errors: {errors}"] if errors else []),
            f"flags: {flags}; {s.truncated:,} captions cut off",
            f"image to text: {_figures(s.image_to_text)}",
            f"text to image: {_figures(s.text_to_image)}",
            "a query is a hit when any of its right answers is among the first k; ranks are exact, among all "
            "images and captions that were scored",
            f"checkpoint {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}, on {self.device}",
            f"{self.seconds:.1f} s; " + "; ".join(stage_line(stage) for stage in self.stages),
            memory_line(self.peak_bytes, self.peak_gpu_bytes),
            "written: " + ", ".join(self.files),
        ]
        return "\n".join(lines)


def stage_line(stage: Stage) -> str:
    """One stage in words."""
    return f"{stage.name} {stage.seconds:.1f} s for {stage.items:,} ({stage.rate:,.0f}/s)"


def memory_line(resident: int | None, gpu: int | None) -> str:
    """The most memory held, in words."""
    said = "unknown" if resident is None else f"{resident / MEGABYTE:,.0f} MB"
    return f"peak memory {said}" + (f", on the GPU {gpu / MEGABYTE:,.0f} MB" if gpu is not None else "")


def _figures(retrieval: Retrieval) -> str:
    if not retrieval.queries:
        return "no queries"
    recall = ", ".join(f"recall@{k} {100 * value:.1f} %" for k, value in retrieval.recall.items())
    return (
        f"{recall}, MRR {retrieval.mean_reciprocal_rank:.3f}, median rank {retrieval.median_rank:g} "
        f"({retrieval.queries:,} queries)"
    )


def run_table(wanted: TableRun, load: Callable[[], Encoder], show: Show) -> Result:
    """Score a table and write everything that is wanted.

    Args:
        wanted: what to do.
        load: gives the encoder; asked only once the table and the places to write to are found usable.
        show: told of rows done.

    Raises:
        TableError: a table that cannot be used, or that changes while it is scored.
        FileMissingError: no folder of images.
        LedgerError: nothing to resume, or a run of something else.
        OutputError: a file that cannot be written.
        CheckpointError: a checkpoint that cannot be used.
    """
    table = _open(wanted)
    encoder = load()
    limits = Limits.from_environment()
    footprint = Footprint()
    samples, neutral = sample_items(), NEUTRAL_CAPTIONS
    with footprint.stage("start and background", len(samples) + len(neutral)):
        scale = background(encoder, samples, neutral).captions
    pictures = bool(wanted.figures or wanted.report)
    plan = Plan(limits, wanted.workers, wanted.batch_size, thumbnails=pictures)
    with _output_errors(wanted.output):
        ledger = _ledger(wanted, table, encoder.checkpoint, pictures)
        try:
            _score(wanted, table, encoder, ledger, footprint, plan, scale, show)
            audit = judge(table, ledger, encoder.checkpoint, scale, footprint)
            _check_unchanged(wanted, table)
            _write_table(wanted.output, audit.rows(), table)
            files = [str(wanted.output), *audit_report.write_figures(audit, wanted.figures)]
            result = Result(
                audit.summary(),
                encoder.checkpoint,
                encoder.device,
                footprint.stages,
                footprint.seconds,
                peak_resident_bytes(),
                peak_gpu_bytes() if encoder.device == "cuda" else None,
                table.notes,
                tuple(map(printable_name, files + ([str(wanted.report)] if wanted.report else []))),
            )
            if wanted.report:
                cost = audit_report.footprint_html(
                    result.stages, result.seconds, result.device, result.peak_bytes, result.peak_gpu_bytes
                )
                page = audit_report.audit_html(audit, result.summary, cost)
                wanted.report.write_text(page, encoding="utf-8")
        finally:
            ledger.close()
        for file in _progress_files(wanted.output):
            file.unlink(missing_ok=True)
    return result


def _open(wanted: TableRun) -> Table:
    if not wanted.table.is_file():
        raise TableError(f"there is no table {wanted.table}")
    if not wanted.images.is_dir():
        raise FileMissingError(f"there is no folder of images {wanted.images}")
    _check_places(wanted)
    progress = _progress_files(wanted.output)[0]
    if progress.exists() and not wanted.resume:
        raise LedgerError(
            f"{progress} holds the progress of a run that was stopped; add --resume to go on, or delete that file"
        )
    image, caption = wanted.columns
    name = printable_name(wanted.table.name)
    return open_table(name, lambda: wanted.table.open("rb"), image_column=image, caption_column=caption)


def _check_places(wanted: TableRun) -> None:
    """What cannot be written is said before hours of work, and nothing but a plain file is overwritten."""
    files = [wanted.output] + ([wanted.report] if wanted.report else [])
    for file in files:
        if not file.parent.is_dir():
            raise OutputError(f"there is no folder {file.parent} for {file.name}; make it first")
        if file.exists() and not file.is_file():
            raise OutputError(f"{file} is not a file; name another one")
        if file.exists() and file.samefile(wanted.table):
            raise OutputError(f"the output {file} is the table itself; name another file")
    if len({file.resolve() for file in files}) < len(files):
        raise OutputError(f"the report and the scored table cannot both be {wanted.output}")
    if wanted.figures and wanted.figures.exists() and not wanted.figures.is_dir():
        raise OutputError(f"{wanted.figures} is not a folder; name another one")


def _check_unchanged(wanted: TableRun, table: Table) -> None:
    try:
        with wanted.table.open("rb") as file:
            same = hashlib.file_digest(file, "sha256").hexdigest() == table.sha256
    except OSError as error:
        raise TableError(f"{wanted.table} can no longer be read ({error.strerror})") from error
    if not same:
        raise _changed(wanted)


def _changed(wanted: TableRun) -> TableError:
    progress = _progress_files(wanted.output)[0]
    return TableError(f"{wanted.table} was changed while it was scored; delete {progress} and start anew")


def _ledger(wanted: TableRun, table: Table, checkpoint: Checkpoint, pictures: bool) -> Ledger:
    path = _progress_files(wanted.output)[0]
    if wanted.resume and not path.exists() and wanted.output.exists():
        raise LedgerError(
            f"there is nothing to resume: {wanted.output} is complete; run without --resume to write it anew"
        )
    ledger = Ledger(path)
    about = {
        "table": table.sha256,
        "image column": str(table.image),
        "caption column": str(table.caption),
        "checkpoint": checkpoint.fingerprint,
        "folder of images": printable_name(str(wanted.images.resolve())),
        "wish for figures": str(pictures),
    }
    begin(ledger, about)
    return ledger


def _score(  # noqa: PLR0913, PLR0917 - the parts of one run
    wanted: TableRun,
    table: Table,
    encoder: Encoder,
    ledger: Ledger,
    footprint: Footprint,
    plan: Plan,
    scale: FloatArray,
    show: Show,
) -> None:
    """Score row by row; the output file grows with them, ranks still empty."""
    before, started = ledger.row_count, time.perf_counter()
    rows = table.rows()
    with wanted.output.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(files.inert, audit_report.header(table)))
        written = 0

        def catch_up(written: int) -> int:
            done = ledger.row_count
            for scored in ledger.rows(written, done):
                row = next(rows, None)
                if row is None:
                    raise _changed(wanted)
                writer.writerow(map(files.inert, _first_results(row, scored, ledger, scale)))
            file.flush()
            return done

        written = catch_up(written)
        show(written, table.count, 0.0)
        for done in score_table(
            table, folder_locator(wanted.images, plan.limits), encoder, ledger, footprint, plan
        ):
            written = catch_up(written)
            seconds = time.perf_counter() - started
            show(done, table.count, (done - before) / seconds if seconds else 0.0)


def _first_results(row: Row, scored: Done, ledger: Ledger, scale: FloatArray) -> list[str]:
    """What is known of a row before its rivals are: everything but ranks and flags."""
    if scored.cosine is None or scored.caption is None:
        return [*row.cells, *unscored(scored.error)]
    cut = "yes" if ledger.caption_text(scored.caption)[1] else "no"
    above = float(percentile([scored.cosine], scale)[0])
    return [*row.cells, f"{scored.cosine:.6f}", f"{above:.2f}", "", "", "", cut, "", ""]


def _write_table(path: Path, rows: Iterable[Sequence[str]], table: Table) -> None:
    """The whole output at once takes the place of the growing one."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(files.inert, audit_report.header(table)))
        for row in rows:
            writer.writerow(map(files.inert, row))
    os.replace(fresh, path)


def _progress_files(output: Path) -> list[Path]:
    name = output.name + ".progress"
    return [output.with_name(name + ending) for ending in ("", "-wal", "-shm")]


@contextmanager
def _output_errors(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or output
        raise OutputError(f"{where} cannot be written ({error.strerror or error})") from error
