"""``clipdemo train`` and ``clipdemo evaluate``."""

from __future__ import annotations

import json
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdemo.cli.options import (
    SOME_FAILED,
    AsJson,
    BatchSize,
    Checkpoint,
    Device,
    ImageFolder,
    OnDevice,
    PairsTable,
    ProgressBar,
    Resume,
    Workers,
    open_encoder,
    thread_count,
    translate_errors,
)
from clipdemo.escape import escape_controls

if TYPE_CHECKING:
    from clipdemo.train.loop import Progress
    from clipdemo.train.run import TrainingResult


class Head(StrEnum):
    """The kind of projection from a tower into the shared space."""

    linear = "linear"
    projection = "projection"


class Unfreeze(StrEnum):
    """Which towers are trained, too."""

    image = "image"
    text = "text"
    both = "both"


class Adapt(StrEnum):
    """Which part of a checkpoint is fine-tuned."""

    heads = "heads"
    lora = "lora"


class Split(StrEnum):
    """A subset of a table's rows."""

    train = "train"
    val = "val"
    test = "test"


def train(
    table: PairsTable,
    output: Annotated[
        Path, typer.Option(help="Folder to create; its path then works as a checkpoint's name.")
    ],
    image_tower: Annotated[
        str, typer.Option(help="'embedded', or a transformers vision model: hub name or local folder.")
    ] = "embedded",
    text_tower: Annotated[
        str, typer.Option(help="'embedded', or a transformers text encoder: hub name or local folder.")
    ] = "embedded",
    head: Annotated[
        Head, typer.Option(help="Projection from each tower into the shared space.")
    ] = Head.linear,
    unfreeze: Annotated[Unfreeze | None, typer.Option(help="Train these towers, too; slow on a CPU.")] = None,
    base: Annotated[
        str | None, typer.Option("--from", help="Fine-tune this CLIP or SigLIP checkpoint instead.")
    ] = None,
    adapt: Annotated[
        Adapt | None,
        typer.Option(
            help="With --from: train its projections only, or low-rank adapters (LoRA) in its attention.  "
            "[default: heads]"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=10_000,
            help="Maximum number of epochs.  [default: 30; 10 with --unfreeze; 5 with --from]",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, max=65_536, help="Pairs per step.  [default: 256; 32 with --unfreeze or --from]"),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, max=10, help="Peak learning rate.  [default: 0.001; 0.0001 with --from]"),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the split, the batch order, dropout and new weights.")
    ] = 0,
    device: OnDevice = Device.auto,
    images: ImageFolder = None,
    resume: Resume = False,
    as_json: AsJson = False,
) -> None:
    """Train a dual encoder on image,caption pairs: two pretrained towers, joined by trained heads.

    The output folder works wherever a checkpoint is named. Exit code 1: done, but some rows were left out.
    """
    with translate_errors():
        from clipdemo.train.run import TrainOptions, run_training

        if adapt is None and base:
            adapt = Adapt.heads
        options = TrainOptions(
            table=table,
            output=output,
            images=images or table.parent,
            image_tower=image_tower,
            text_tower=text_tower,
            head=head.value,
            unfreeze=unfreeze.value if unfreeze else "",
            base=base,
            adapt=adapt.value if adapt else "",
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device.value,
            resume=resume,
            command=shlex.join(["clipdemo", *sys.argv[1:]]),
        )
        with ProgressBar("images") as progress:
            result = run_training(options, _StepPrinter(), progress)
    if as_json:
        typer.echo(json.dumps(result.as_dict(), indent=2, ensure_ascii=False))
    else:
        typer.echo(_as_text(result))
    if result.pairs.left_out:
        raise typer.Exit(SOME_FAILED)


def evaluate(
    table: PairsTable,
    checkpoint: Checkpoint = "embedded",
    split: Annotated[Split | None, typer.Option(help="Use rows of this split only.  [default: all]")] = None,
    images: ImageFolder = None,
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Measure retrieval between images and captions: recall@k, median rank and MRR, in both directions.

    With 95 % bootstrap intervals, and per source where the table has a column 'source'. Exit code 1: done,
    but some rows failed.
    """
    with translate_errors():
        from clipdemo.audit.evaluate import EvaluationOptions, run_evaluation

        encoder = open_encoder(checkpoint, device)
        folder, only = images or table.parent, split.value if split else None
        options = EvaluationOptions(table, folder, only, batch_size, thread_count(workers))
        with ProgressBar("rows") as progress:
            report = run_evaluation(options, encoder, progress)
    typer.echo(report.as_json() if as_json else report.as_text())
    if report.failed:
        raise typer.Exit(SOME_FAILED)


class _StepPrinter:
    """Prints one line per epoch on standard error; on a terminal, each step updates the last line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        """Print the progress after a step."""
        ends_epoch = progress.step * progress.epochs % progress.steps == 0
        recall = "" if progress.recall is None else f", validation recall {100 * progress.recall:.1f} %"
        line = (
            f"epoch {progress.epoch}/{progress.epochs}, step {progress.step:,}/{progress.steps:,}: "
            f"loss {progress.loss:.4f}, temperature {progress.temperature:.4f}, "
            f"{progress.pairs_per_second:,.0f} pairs/s, {progress.seconds_left:,.0f} s left{recall}"
        )
        if self._terminal:
            typer.echo(f"\r\x1b[K{line}", file=sys.__stderr__, nl=ends_epoch)  # not escaped
        elif ends_epoch:
            typer.echo(line, err=True)


def _as_text(result: TrainingResult) -> str:
    pairs, history = result.pairs, result.history
    counts = ", ".join(f"{pairs.image_count(split):,} {split}" for split in ("train", "val", "test"))
    lines = [
        *(f"note: {note}" for note in (*pairs.notes, *history.notes)),
        *(f"{count:,} rows left out: {reason}" for reason, count in pairs.left_out.items()),
        f"{counts} images; best epoch {history.best} of {len(history.epochs)}",
    ]
    for split, evaluation in result.evaluations.items():
        directions = {
            "text to image": evaluation.text_to_image,
            "image to text": evaluation.image_to_text,
        }
        for name, direction in directions.items():
            lines.append(f"{split}, {name}: {direction.recall_text()}")
    lines.append(f"{result.seconds:.1f} s on {result.device}; written: {result.folder}")
    return "\n".join(map(escape_controls, lines))
