"""What every command shares: common options, errors in words, and a progress bar."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from clipdemo.errors import ClipdemoError

if TYPE_CHECKING:
    from clipdemo.types import Encoder

SOME_FAILED, UNUSABLE = 1, 2


class Device(StrEnum):
    """Where a checkpoint runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Checkpoint = Annotated[
    str, typer.Option(help="'embedded', a Hugging Face hub name, or a local folder.", show_default=True)
]
OnDevice = Annotated[Device, typer.Option(help="auto takes a GPU when there is one.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
BatchSize = Annotated[int, typer.Option(min=1, max=4096, help="Images of one forward pass.")]
Workers = Annotated[int, typer.Option(min=1, max=64, help="Threads that fetch and decode.")]


def open_encoder(name: str, device: Device) -> Encoder:
    """The checkpoint of that name, if this machine has the memory for it."""
    from clipdemo.limits import Limits
    from clipdemo.memory import Memory
    from clipdemo.models.governor import Governor
    from clipdemo.models.load import load_encoder

    gate = Governor(Memory(Limits.from_environment().memory_bytes))
    return load_encoder(name, device=device.value, gate=gate)


@contextmanager
def words() -> Iterator[None]:
    """Our errors become one sentence on standard error and exit code 2; Ctrl-C becomes 130."""
    try:
        yield
    except ClipdemoError as error:
        typer.echo(f"clipdemo: {error}", err=True)
        raise typer.Exit(UNUSABLE) from error
    except KeyboardInterrupt as error:
        typer.echo("clipdemo: stopped", err=True)
        raise typer.Exit(130) from error


class Shown:
    """A progress bar on standard error, drawn only where someone is looking."""

    def __init__(self, unit: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
        )
        self._task = self._bar.add_task(unit, total=None, rate="")

    def __call__(self, done: int, total: int | None, rate: float) -> None:
        """Show how far it is."""
        self._bar.update(self._task, completed=done, total=total, rate=f"{rate:.1f}/s")

    def __enter__(self) -> Shown:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
