"""``clipdemo rank`` and ``clipdemo matrix``: score images against captions."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdemo.cli.options import (
    SOME_FAILED,
    AsJson,
    BatchSize,
    Checkpoint,
    Device,
    OnDevice,
    ProgressBar,
    Workers,
    open_encoder,
    thread_count,
    translate_errors,
)
from clipdemo.escape import escape_controls

if TYPE_CHECKING:
    from clipdemo.cli.scored_images import ScoredImages, ScoringOptions
    from clipdemo.types import Encoder

Images = Annotated[list[str], typer.Argument(help="Image files, folders, zips or URLs.", metavar="IMAGES...")]
Captions = Annotated[list[str] | None, typer.Option("--caption", help="A caption; repeat for several.")]
CaptionFile = Annotated[Path | None, typer.Option(help="A text file with one caption per line.")]
TemplateOption = Annotated[
    list[str] | None,
    typer.Option(help="A prompt template such as 'a photo of {}'; repeat for an ensemble."),
]

_MAX_CAPTION_BYTES = 20_000_000


def rank(
    images: Images,
    caption: Captions = None,
    captions: CaptionFile = None,
    template: TemplateOption = None,
    top: Annotated[int, typer.Option(min=1, help="Images to print per caption.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Write the whole ranking to this CSV file.")] = None,
    checkpoint: Checkpoint = "embedded",
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Rank images for each caption, best first."""
    with translate_errors():
        from clipdemo.cli.scored_images import ScoringOptions

        texts, threads = _captions(caption, captions), thread_count(workers)
        options = ScoringOptions(images, texts, template or [], batch_size, threads)
        scored = _score(options, open_encoder(checkpoint, device))
        if output:
            _write(output, scored.ranking_csv())
    typer.echo(scored.ranking_json(top) if as_json else scored.ranking_text(top))
    _report_left_out(scored)


def matrix(
    images: Images,
    caption: Captions = None,
    captions: CaptionFile = None,
    template: TemplateOption = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the CSV to this file instead of printing it.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Draw the matrix as a PNG image.")] = None,
    checkpoint: Checkpoint = "embedded",
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Print the cosine of each image with each caption as CSV."""
    with translate_errors():
        from clipdemo.cli.scored_images import ScoringOptions

        texts, threads = _captions(caption, captions), thread_count(workers)
        options = ScoringOptions(
            images, texts, template or [], batch_size, threads, thumbnails=figure is not None
        )
        scored = _score(options, open_encoder(checkpoint, device))
        if figure:
            _write(figure, scored.matrix_png())
        if output:
            _write(output, scored.matrix_csv())
    if as_json:
        typer.echo(scored.matrix_json())
    elif output is None:
        _print_csv(scored.matrix_csv())
    _report_left_out(scored)


def _captions(captions: list[str] | None, file: Path | None) -> list[str]:
    """Return the distinct captions of the options and of the file, in order."""
    texts = list(captions or [])
    if file:
        name = escape_controls(str(file))
        try:
            with file.open("rb") as stream:  # may be a pipe, and never end
                data = stream.read(_MAX_CAPTION_BYTES + 1)
            texts += data.decode("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(
                f"{name} cannot be read as UTF-8 text ({error})", param_hint="--captions"
            ) from error
        if len(data) > _MAX_CAPTION_BYTES:
            raise typer.BadParameter(
                f"{name} has more than {_MAX_CAPTION_BYTES:,} bytes; split it", param_hint="--captions"
            )
    distinct = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not distinct:
        raise typer.BadParameter("give at least one caption", param_hint="--caption")
    return distinct


def _score(options: ScoringOptions, encoder: Encoder) -> ScoredImages:
    from clipdemo.cli.scored_images import score_images

    with ProgressBar("images") as progress:
        return score_images(options, encoder, progress)


def _write(path: Path, data: bytes) -> None:
    from clipdemo.disk import write_atomically

    try:
        if path.exists() and not path.is_file():  # a pipe or /dev/stdout
            path.write_bytes(data)
        else:
            write_atomically(path, data)
    except OSError as error:
        name = escape_controls(str(path))
        raise typer.BadParameter(f"{name} cannot be written ({error.strerror})") from error


def _print_csv(data: bytes) -> None:
    """Print a table; a terminal gets every cell escaped, a file or another program the cells as they are."""
    text = data.decode("utf-8-sig")
    if not sys.stdout.isatty():
        typer.echo(text.encode(), nl=False)
        return
    out = io.StringIO(newline="")
    csv.field_size_limit(len(text) + 1)  # a caption may be longer than the default allows
    rows = csv.reader(io.StringIO(text, newline=""))
    csv.writer(out, lineterminator="\n").writerows(map(escape_controls, row) for row in rows)
    typer.echo(out.getvalue(), nl=False)


def _report_left_out(scored: ScoredImages) -> None:
    """Print duplicates and rejected images on standard error; exit with 1 if images were rejected."""
    for line in scored.duplicates:
        typer.echo(f"duplicate: {escape_controls(line)}", err=True)
    for line in scored.rejected:
        typer.echo(f"left out: {escape_controls(line)}", err=True)
    if scored.rejected:
        raise typer.Exit(SOME_FAILED)
