"""``clipdemo pairs``: score a table of image,caption pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipdemo.cli.options import (
    SOME_FAILED,
    AsJson,
    BatchSize,
    Device,
    ImageFolder,
    ProgressBar,
    Resume,
    Workers,
    open_encoder,
    thread_count,
    translate_errors,
)


def pairs(
    table: Annotated[
        Path | None, typer.Argument(help="CSV, TSV, JSONL or Parquet with an image and a caption column.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The scored table, as CSV.")] = Path("output.csv"),
    figures: Annotated[
        Path | None, typer.Option(help="Folder for image_captions.png and similarity_matrix.png.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="A one-file HTML report.")] = None,
    images: ImageFolder = None,
    image_column: Annotated[
        str | None, typer.Option(help="Column with the images.  [default: found by name]")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Column with the captions.  [default: found by name]")
    ] = None,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="'embedded', a Hugging Face hub name, or a local folder.  [default: embedded]"),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="auto uses a GPU if available.  [default: auto]")
    ] = None,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    resume: Resume = False,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with csv_path, image_path (url or a folder), use_cuda, pretrained_model."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Score each row of a table of image,caption pairs, rank it among its rivals, and flag likely errors.

    Exit code 0: all rows were scored. 1: some rows failed; see their error column. 2: the command failed.
    """
    with translate_errors():
        from clipdemo.audit.run import AuditOptions, run_audit
        from clipdemo.cli.config import Config, read_config

        settings = read_config(config) if config else Config()
        source = table or settings.csv_path
        if source is None:
            raise typer.BadParameter("name a table, or a --config file with csv_path", param_hint="TABLE")
        options = AuditOptions(
            table=source,
            output=output,
            figures=figures,
            report=report,
            images=images or settings.image_path or source.parent,
            columns=(image_column, caption_column),
            batch_size=batch_size,
            workers=thread_count(workers),
            resume=resume,
        )
        name = checkpoint or settings.pretrained_model or "embedded"
        place = device or _configured_device(settings.use_cuda)
        with ProgressBar("rows") as progress:
            result = run_audit(options, lambda: open_encoder(name, place), progress)
    typer.echo(result.as_json() if as_json else result.as_text())
    if result.summary.failed:
        raise typer.Exit(SOME_FAILED)


def _configured_device(use_cuda: bool | None) -> Device:
    if use_cuda is None:
        return Device.auto
    return Device.cuda if use_cuda else Device.cpu
