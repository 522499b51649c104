"""The ``clipdemo`` command: one Typer app with one module per group of commands.

Commands import heavy modules in their bodies: ``clipdemo --help`` imports neither torch nor NumPy.
"""

from __future__ import annotations

import sys

import typer

from clipdemo.cli.checkpoints import checkpoints
from clipdemo.cli.images import matrix, rank
from clipdemo.cli.pairs import pairs
from clipdemo.cli.train import evaluate, train
from clipdemo.escape import EscapingStream

app = typer.Typer(
    help="Measure how well images and captions match under CLIP.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (pairs, rank, matrix, train, evaluate, checkpoints):
    app.command()(command)


def main() -> None:
    """Run the command line; whatever it prints, control characters are escaped."""
    sys.stdout, sys.stderr = EscapingStream(sys.stdout), EscapingStream(sys.stderr)
    app(prog_name="clipdemo")
