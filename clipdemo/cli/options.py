"""Options, error translation and the progress bar that the commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipdemo.errors import ClipdemoError

if TYPE_CHECKING:
    from clipdemo.types import Encoder

SOME_FAILED, UNUSABLE, INTERRUPTED = 1, 2, 130  # exit codes


class Device(StrEnum):
    """Where a checkpoint runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Checkpoint = Annotated[
    str, typer.Option(help="'embedded', a Hugging Face hub name, or a local folder.", show_default=True)
]
OnDevice = Annotated[Device, typer.Option(help="auto uses a GPU if available.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="Images per forward pass.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, max=64, help="Threads that fetch and decode images.  [default: one per core, 4 to 16]"
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
PairsTable = Annotated[
    Path, typer.Argument(help="CSV, TSV, JSONL or Parquet with an image and a caption column.")
]
ImageFolder = Annotated[
    Path | None,
    typer.Option(help="Folder that relative image paths start from.  [default: the table's folder]"),
]


def thread_count(workers: int | None) -> int:
    """The threads that fetch and decode, with the default where none are named."""
    from clipdemo.images.sources import THREADS

    return workers or THREADS


def open_encoder(name: str, device: Device) -> Encoder:
    """Load a checkpoint, provided that it fits into this machine's memory.

    Raises:
        CheckpointError: an unknown or unusable checkpoint, or too little memory.
    """
    from clipdemo.limits import Limits
    from clipdemo.memory import Memory
    from clipdemo.models.governor import Governor
    from clipdemo.models.load import load_encoder

    gate = Governor(Memory(Limits.from_environment().memory_bytes))
    return load_encoder(name, device=device.value, gate=gate)


@contextmanager
def translate_errors() -> Iterator[None]:
    """Exit with 2 and one sentence on standard error on a ``ClipdemoError``, and with 130 on Ctrl-C."""
    try:
        yield
    except ClipdemoError as error:
        typer.echo(f"clipdemo: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error
    except KeyboardInterrupt as error:
        typer.echo("clipdemo: stopped", err=True)
        raise typer.Exit(INTERRUPTED) from error


class ProgressBar:
    """A progress bar on standard error, drawn only on a terminal.

    Args:
        unit: what is counted, in the plural.
    """

    def __init__(self, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.__stderr__),  # not escaped: the bar moves the cursor
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(unit, total=None, rate="")

    def __call__(self, done: int, total: int | None, rate: float) -> None:
        """Update the bar; ``rate`` is per second."""
        self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f}/s")

    def __enter__(self) -> ProgressBar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
