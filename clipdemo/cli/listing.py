"""The catalogue as ``clipdemo checkpoints`` prints it: for people, and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict

from clipdemo.models.catalogue import CATALOGUE, CatalogueEntry, format_bytes
from clipdemo.models.load import is_local


def as_json() -> str:
    """Every fact of every entry, and whether it is here."""
    entries = [
        asdict(entry) | {"memory_bytes": entry.memory_bytes, "here": is_local(entry.id)}
        for entry in CATALOGUE.values()
    ]
    return json.dumps({"checkpoints": entries}, indent=2)


def as_text() -> str:
    """A few lines for each entry."""
    return "\n\n".join(_lines(entry) for entry in CATALOGUE.values())


def _lines(entry: CatalogueEntry) -> str:
    state = (
        "on this machine" if is_local(entry.id) else f"to be downloaded, {format_bytes(entry.download_bytes)}"
    )
    shape = (
        f"{entry.parameters / 1e6:,.0f} M parameters, {format_bytes(entry.memory_bytes)} of memory in float32, "
        f"{entry.dim} dimensions, {entry.image_size} pixels, {entry.context_length} tokens"
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
