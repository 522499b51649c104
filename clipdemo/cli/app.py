"""The command line: arguments in, files and exit codes out. With ``ui`` the only place that prints.

Nothing heavy is imported before a command needs it; ``clipdemo --help`` never imports torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdemo.cli import train as train_cli
from clipdemo.cli.options import (
    SOME_FAILED,
    AsJson,
    BatchSize,
    Checkpoint,
    Device,
    OnDevice,
    Shown,
    Workers,
    open_encoder,
    words,
)

if TYPE_CHECKING:
    from clipdemo.cli.scored_images import ScoredImages
    from clipdemo.types import Encoder

app = typer.Typer(
    help="How well images and captions match under CLIP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


Captions = Annotated[list[str] | None, typer.Option("--caption", help="A caption; give it several times.")]
CaptionFile = Annotated[Path | None, typer.Option(help="A text file with one caption a line.")]
Template = Annotated[
    list[str] | None,
    typer.Option(help="A prompt template such as 'a photo of {}'; several are ensembled."),
]
Images = Annotated[list[str], typer.Argument(help="Image files, folders, zips or URLs.", metavar="IMAGES...")]


@app.command()
def pairs(
    table: Annotated[
        Path | None, typer.Argument(help="CSV, TSV, JSONL or Parquet with an image and a caption column.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The scored table.")] = Path("output.csv"),
    figures: Annotated[
        Path | None, typer.Option(help="Folder for image_captions.png and similarity_matrix.png.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A one-file HTML report.")] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder the table's image paths start from.  [default: the table's own]"),
    ] = None,
    image_column: Annotated[str | None, typer.Option(help="Found by name if not given.")] = None,
    caption_column: Annotated[str | None, typer.Option(help="Found by name if not given.")] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="'embedded', a Hugging Face hub name, or a local folder.  [default: embedded]"),
    ] = None,
    device: Annotated[Device | None, typer.Option(help="auto takes a GPU when there is one.")] = None,
    batch_size: BatchSize = 16,
    workers: Workers = 4,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run ended.")] = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with csv_path, image_path (url or a folder), use_cuda, pretrained_model."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score every row of a table of image,caption pairs, rank it among its rivals, and flag what looks wrong.

    Exit code 0: every row was scored. 1: some rows failed; their error column says why. 2: nothing could be done.
    """
    from clipdemo.audit.run import AuditOptions, run_audit
    from clipdemo.cli.config import Config, read_config

    with words():
        file = read_config(config) if config else Config()
        source = table or file.csv_path
        if source is None:
            raise typer.BadParameter("name a table, or a --config file with csv_path", param_hint="TABLE")
        if device is None:
            device = {True: Device.cuda, False: Device.cpu, None: Device.auto}[file.use_cuda]
        options = AuditOptions(
            table=source,
            output=output,
            figures=figures,
            report=report,
            images=images or file.image_path or source.parent,
            columns=(image_column, caption_column),
            batch_size=batch_size,
            workers=workers,
            resume=resume,
        )
        name = checkpoint or file.pretrained_model or "embedded"
        with Shown("rows") as show:
            result = run_audit(options, lambda: open_encoder(name, device), show)
    typer.echo(result.as_json() if as_json else result.as_text())
    if result.summary.failed:
        raise typer.Exit(SOME_FAILED)


@app.command()
def rank(
    images: Images,
    caption: Captions = None,
    captions: CaptionFile = None,
    template: Template = None,
    top: Annotated[int, typer.Option(min=1, help="Images a caption to print.")] = 5,
    output: Annotated[Path | None, typer.Option(help="Every image of every caption, as CSV.")] = None,
    checkpoint: Checkpoint = "embedded",
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = 4,
    as_json: AsJson = False,
) -> None:
    """Rank images for captions, best first."""
    with words():
        texts = _texts(caption, captions)
        scored = _score(images, texts, template or [], open_encoder(checkpoint, device), batch_size, workers)
        if output:
            _write(output, scored.ranking_csv())
    typer.echo(scored.ranking_json(top) if as_json else scored.ranking_text(top))
    _tell_left_out(scored)


@app.command()
def matrix(
    images: Images,
    caption: Captions = None,
    captions: CaptionFile = None,
    template: Template = None,
    output: Annotated[Path | None, typer.Option(help="Write the CSV there instead of printing it.")] = None,
    figure: Annotated[Path | None, typer.Option(help="The matrix as a PNG picture.")] = None,
    checkpoint: Checkpoint = "embedded",
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = 4,
    as_json: AsJson = False,
) -> None:
    """Print the cosine of every image with every caption, as CSV."""
    with words():
        texts = _texts(caption, captions)
        scored = _score(images, texts, template or [], open_encoder(checkpoint, device), batch_size, workers)
        if figure:
            _write(figure, scored.matrix_png())
        if output:
            _write(output, scored.matrix_csv())
    if as_json:
        typer.echo(scored.matrix_json())
    elif output is None:
        typer.echo(scored.matrix_csv().decode("utf-8-sig"), nl=False)
    _tell_left_out(scored)


app.command()(train_cli.train)
app.command()(train_cli.evaluate)


@app.command()
def checkpoints(as_json: AsJson = False) -> None:
    """List the checkpoints offered by name; any other hub name or folder works, too."""
    from clipdemo.cli import listing

    typer.echo(listing.as_json() if as_json else listing.as_text())


def main() -> None:
    """Run the command line."""
    app(prog_name="clipdemo")


def _score(
    images: list[str], texts: list[str], templates: list[str], encoder: Encoder, batch_size: int, workers: int
) -> ScoredImages:
    from clipdemo.audit.score import Plan
    from clipdemo.cli.scored_images import score_images
    from clipdemo.limits import Limits

    plan = Plan(Limits.from_environment(), workers, batch_size)
    with Shown("images") as show:
        return score_images(images, texts, templates, encoder, plan, show)


def _texts(given: list[str] | None, file: Path | None) -> list[str]:
    texts = list(given or [])
    if file:
        try:
            texts += file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(
                f"{file} cannot be read as UTF-8 text ({error})", param_hint="--captions"
            ) from error
    texts = list(dict.fromkeys(text.strip() for text in texts if text.strip()))
    if not texts:
        raise typer.BadParameter("give at least one caption", param_hint="--caption")
    return texts


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise typer.BadParameter(f"{path} cannot be written ({error.strerror})") from error


def _tell_left_out(scored: ScoredImages) -> None:
    for line in scored.duplicates:
        typer.echo(f"duplicate: {line}", err=True)
    for line in scored.rejected:
        typer.echo(f"left out: {line}", err=True)
    if scored.rejected:
        raise typer.Exit(SOME_FAILED)
