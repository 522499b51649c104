"""Reads the JSON files of checkpoints: at most so many bytes, and from regular files only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipdemo.limits import MEGABYTE

MAX_CONFIG_BYTES = 2 * MEGABYTE  # real configurations have a few kilobytes
MAX_TOKENIZER_BYTES = 100 * MEGABYTE  # tokenizer.json of SigLIP 2 has 34 MB
MAX_INDEX_BYTES = 10 * MEGABYTE


def read_json(path: Path, max_bytes: int = MAX_CONFIG_BYTES) -> Any:
    """The content of a JSON file.

    Args:
        path: the file; links are followed, as the cache of the hub consists of links.
        max_bytes: a larger file is not read.

    Raises:
        OSError: the file does not exist or cannot be read.
        ValueError: it is not JSON, too large, nested too deeply, or something else than a file.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for its writer
        raise ValueError(f"{path.name} is not a file")
    with path.open("rb") as stream:
        content = stream.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"{path.name} has more than {max_bytes:,} bytes")
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError(f"{path.name} is nested too deeply") from error


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
