"""Decides which checkpoint a typed name or a link refers to, and whether this host offers it. Loads nothing.

Typed names and links come from strangers. The result is always a name of the hub's form, a checkpoint on
offer or, where the host allows it, a folder.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from clipdemo.errors import CheckpointNotFoundError
from clipdemo.limits import Typed, format_bytes
from clipdemo.models import load
from clipdemo.models.catalogue import CATALOGUE, title
from clipdemo.models.hub import snapshot as hub

MAX_LENGTH = 1_000  # characters of a typed name; paths are shorter
_SEPARATOR = " · "  # between a title and its status in the picker


def offered(preferred: str) -> list[str]:
    """The checkpoints that every visitor may choose: the catalogue, and the host's own."""
    return list(dict.fromkeys([*CATALOGUE, preferred]))


def label(name: str, *, failed: bool = False) -> str:
    """The label of a checkpoint in the picker: its title, and whether it failed or needs a download."""
    parts = [title(name)]
    if failed:
        parts.append("not available")
    elif not load.is_local(name):
        entry = CATALOGUE.get(name)
        parts.append(f"{format_bytes(entry.download_bytes)} to download" if entry else "to be downloaded")
    return _SEPARATOR.join(parts)


def resolve(text: str, options: Sequence[str], typed: Typed) -> str:
    """The checkpoint that ``text`` refers to.

    Args:
        text: as typed or linked; untrusted.
        options: checkpoints on offer in this session; each may be given by its name, title or public id.
        typed: which other checkpoints may be typed.

    Raises:
        CheckpointNotFoundError: with the sentence to show next to the picker.
    """
    name = text.strip()
    if any(unicodedata.category(sign).startswith("C") for sign in name) or not 0 < len(name) <= MAX_LENGTH:
        raise CheckpointNotFoundError(
            "that is not the name of a checkpoint; type a hub name such as owner/name"
        )
    for option in options:
        if name.split(_SEPARATOR)[0].lower() in {option.lower(), title(option).lower()}:
            return option
    for option in options:
        if name == load.public_id(option):
            return option
    if typed == "none":
        raise CheckpointNotFoundError(f"{name} is not on offer here; choose one from the list")
    if _is_path(name):
        return _check_folder(name, typed)
    if not hub.is_name(name):
        example = "owner/name, or a folder" if typed == "folders" else "owner/name"
        raise CheckpointNotFoundError(f"{name} is not the name of a hub checkpoint; type {example}")
    if Path(name).exists():  # loading would read the server's folder instead
        raise CheckpointNotFoundError(f"{name} cannot be loaded from the hub on this server; choose another")
    return name


def is_on_request(name: str, preferred: str) -> bool:
    """Whether a link to a checkpoint waits for a click, because it would start a download."""
    return name != preferred and not load.is_local(name)


def _is_path(name: str) -> bool:
    return bool(re.match(r"[/~.\\]|[A-Za-z]:", name)) or "\\" in name or name.count("/") > 1


def _check_folder(name: str, typed: Typed) -> str:
    if typed != "folders":
        raise CheckpointNotFoundError(
            f"{name} looks like a folder, and folders of this server are not open to visitors; type a hub "
            "name such as owner/name"
        )
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0].startswith("~"):
        raise CheckpointNotFoundError(f"{name} is not a full path; type the whole path of a folder")
    try:
        exists = Path(name).is_dir()
    except OSError:
        exists = False
    if not exists:
        raise CheckpointNotFoundError(f"the folder {name} does not exist on this server; check its spelling")
    return name
