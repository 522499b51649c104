"""The commands that train and evaluate; ``cli`` makes them part of the command line."""

from __future__ import annotations

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
    OnDevice,
    Shown,
    Workers,
    open_encoder,
    words,
)

if TYPE_CHECKING:
    from clipdemo.train.loop import Progress
    from clipdemo.train.run import Trained

Pairs = Annotated[Path, typer.Argument(help="CSV, TSV, JSONL or Parquet with an image and a caption column.")]
Images = Annotated[
    Path | None,
    typer.Option(help="Folder the table's image paths start from.  [default: the table's own]"),
]


class Head(StrEnum):
    """What joins a tower to the shared space."""

    linear = "linear"
    projection = "projection"


class Unfreeze(StrEnum):
    """Which towers learn, too."""

    image = "image"
    text = "text"
    both = "both"


class Adapt(StrEnum):
    """What of a checkpoint learns."""

    heads = "heads"
    lora = "lora"


class Split(StrEnum):
    """Which rows of a table."""

    train = "train"
    val = "val"
    test = "test"


def train(
    table: Pairs,
    output: Annotated[Path, typer.Option(help="Folder to make; its path is then a checkpoint's name.")],
    image_tower: Annotated[
        str, typer.Option(help="'embedded', or a vision model of transformers: hub name or folder.")
    ] = "embedded",
    text_tower: Annotated[
        str, typer.Option(help="'embedded', or a text encoder of transformers: hub name or folder.")
    ] = "embedded",
    head: Annotated[Head, typer.Option(help="What joins each tower to the shared space.")] = Head.linear,
    unfreeze: Annotated[Unfreeze | None, typer.Option(help="Let towers learn, too; slow on a CPU.")] = None,
    base: Annotated[
        str | None, typer.Option("--from", help="Fine-tune a CLIP or SigLIP checkpoint instead.")
    ] = None,
    adapt: Annotated[
        Adapt | None,
        typer.Option(
            help="With --from: its projections only, or low-rank changes of its attention.  [default: heads]"
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1, max=10_000, help="At most.  [default: 30; 10 when a tower learns; 5 with --from]"
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=65_536,
            help="Pairs of one step.  [default: 256; 32 when a tower learns or with --from]",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, max=10, help="The highest.  [default: 0.001; 0.0001 with --from]"),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the split, the order, dropout and new weights.")] = 0,
    device: OnDevice = Device.auto,
    images: Images = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped run ended.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a dual encoder on image,caption pairs: two pretrained towers, joined by heads that learn.

    The folder opens wherever a checkpoint is named. Exit code 1: done, but some rows were left out.
    """
    with words():
        from clipdemo.train.run import TrainRun, run_training

        wanted = TrainRun(
            table=table,
            output=output,
            images=images or table.parent,
            image_tower=image_tower,
            text_tower=text_tower,
            head=head.value,
            unfreeze=unfreeze.value if unfreeze else "",
            base=base,
            adapt=adapt.value if adapt else Adapt.heads.value if base else "",
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            seed=seed,
            device=device.value,
            resume=resume,
            command=shlex.join(["clipdemo", *sys.argv[1:]]),
        )
        with Shown("images") as reading:
            done = run_training(wanted, _Epochs(), reading)
    if as_json:
        import json

        typer.echo(json.dumps(done.as_dict(), indent=2, ensure_ascii=False))
    else:
        typer.echo(_as_text(done))
    if done.pairs.left_out:
        raise typer.Exit(SOME_FAILED)


def evaluate(
    table: Pairs,
    checkpoint: Checkpoint = "embedded",
    split: Annotated[Split | None, typer.Option(help="Only rows of this split.  [default: all]")] = None,
    images: Images = None,
    device: OnDevice = Device.auto,
    batch_size: BatchSize = 16,
    workers: Workers = 4,
    as_json: AsJson = False,
) -> None:
    """Measure how well images and captions find each other: recall@k, median rank and MRR, both ways.

    Each with a 95 % bootstrap interval, and source by source where the table has a column of that name. Exit code
    1: done, but some rows could not be used.
    """
    with words():
        from clipdemo.audit.evaluate import EvaluationOptions, run_evaluation

        folder, only = images or table.parent, split.value if split else None
        options = EvaluationOptions(table, folder, only, batch_size, workers)
        encoder = open_encoder(checkpoint, device)
        with Shown("rows") as show:
            report = run_evaluation(options, encoder, show)
    typer.echo(report.as_json() if as_json else report.as_text())
    if report.failed:
        raise typer.Exit(SOME_FAILED)


class _Epochs:
    """One line on standard error for each epoch; on a terminal, the last line moves with every step."""

    def __init__(self) -> None:
        self._looked_at = sys.stderr.isatty()

    def __call__(self, now: Progress) -> None:
        """Say where the run is."""
        last = now.step * now.epochs % now.steps == 0  # the last step of its epoch
        recall = "" if now.recall is None else f", validation recall {100 * now.recall:.1f} %"
        line = (
            f"epoch {now.epoch}/{now.epochs}, step {now.step:,}/{now.steps:,}: loss {now.loss:.4f}, temperature "
            f"{now.temperature:.4f}, {now.pairs_per_second:,.0f} pairs/s, {now.seconds_left:,.0f} s left{recall}"
        )
        if self._looked_at:
            typer.echo(f"\r\x1b[K{line}", err=True, nl=last)
        elif last:
            typer.echo(line, err=True)


def _as_text(done: Trained) -> str:
    lines = [f"note: {note}" for note in (*done.pairs.notes, *done.history.notes)]
    lines += [f"{count:,} rows left out: {reason}" for reason, count in done.pairs.left_out.items()]
    lines.append(
        ", ".join(f"{done.pairs.image_count(split):,} {split}" for split in ("train", "val", "test"))
        + f" images; best epoch {done.history.best} of {len(done.history.epochs)}"
    )
    for split, figures in done.figures.items():
        for direction, found in (
            ("text to image", figures.text_to_image),
            ("image to text", figures.image_to_text),
        ):
            lines.append(f"{split}, {direction}: {found.recall_text()}")
    lines.append(f"{done.seconds:.1f} s on {done.device}; written: {done.folder}")
    return "\n".join(lines)
