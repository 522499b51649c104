"""``clipdemo checkpoints``: the catalogue as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from clipdemo.cli.options import AsJson

if TYPE_CHECKING:
    from clipdemo.models.catalogue import CatalogueEntry


def checkpoints(as_json: AsJson = False) -> None:
    """List the checkpoints of the catalogue; other hub names and folders work, too."""
    typer.echo(_as_json() if as_json else _as_text())


def _as_json() -> str:
    """Return all fields of all entries; ``here`` says whether the checkpoint is on this machine."""
    from clipdemo.models.catalogue import CATALOGUE
    from clipdemo.models.load import is_local

    entries = [
        asdict(entry) | {"memory_bytes": entry.memory_bytes, "here": is_local(entry.id)}
        for entry in CATALOGUE.values()
    ]
    return json.dumps({"checkpoints": entries}, indent=2)


def _as_text() -> str:
    """Return a few lines for each entry."""
    from clipdemo.models.catalogue import CATALOGUE

    return "\n\n".join(_entry_text(entry) for entry in CATALOGUE.values())


def _entry_text(entry: CatalogueEntry) -> str:
    from clipdemo.limits import format_bytes
    from clipdemo.models.load import is_local

    state = (
        "on this machine" if is_local(entry.id) else f"to be downloaded, {format_bytes(entry.download_bytes)}"
    )
    shape = (
        f"{entry.parameters / 1e6:,.0f} M parameters, {format_bytes(entry.memory_bytes)} of memory in "
        f"float32, {entry.dim} dimensions, {entry.image_size} pixels, {entry.context_length} tokens"
    )
    lines = [
        f"{entry.id}  ({entry.title}, {state})",
        entry.about,
        shape,
        f"licence: {entry.licence or 'not stated'}; captions: {entry.languages or 'not stated'}",
    ]
    if entry.figure:
        figure = entry.figure
        lines.append(f"{figure.measure}: {figure.percent:g} % ({figure.by}, {figure.url})")
    if entry.download_bytes:
        lines.append(f"commit: {entry.revision or 'the newest of the default branch'}")
    return "\n    ".join(lines)
