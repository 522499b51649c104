"""Which checkpoint a visitor's words or a link mean, and whether this host offers it. Loads nothing.

What is typed, and what a link says, comes from strangers: only a name of the hub's form, a checkpoint on offer or, where
the host allows it, a folder comes out.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from clipdemo.errors import CheckpointNotFoundError
from clipdemo.limits import Typed
from clipdemo.models import hub, load
from clipdemo.models.catalogue import CATALOGUE, size, title

MOST = 1_000  # characters of a typed name; paths are shorter
_BESIDE = " · "  # between a title and what is said of it in the picker


def offered(preferred: str) -> list[str]:
    """The checkpoints every visitor may choose: the catalogue, and the host's own."""
    return list(dict.fromkeys([*CATALOGUE, preferred]))


def label(name: str, *, failed: bool = False) -> str:
    """What the picker says of a checkpoint: its title, and what stands between the visitor and it."""
    beside = []
    if failed:
        beside.append("not available")
    elif not load.is_local(name):
        entry = CATALOGUE.get(name)
        beside.append(f"{size(entry.download_bytes)} to download" if entry else "to be downloaded")
    return _BESIDE.join([title(name), *beside])


def resolve(text: str, options: Sequence[str], typed: Typed) -> str:
    """The checkpoint that ``text`` means.

    Args:
        text: as typed or linked; hostile.
        options: checkpoints on offer, in this session; each also answers to its title and to its public id.
        typed: what may be typed beside them.

    Raises:
        CheckpointNotFoundError: with the sentence to show beside the picker.
    """
    words = text.strip()
    if any(unicodedata.category(sign).startswith("C") for sign in words) or not 0 < len(words) <= MOST:
        raise CheckpointNotFoundError("that is no name of a checkpoint; type a hub name such as owner/name")
    for name in options:
        if words.split(_BESIDE)[0].lower() in {name.lower(), title(name).lower()}:
            return name
    for name in options:
        if words == load.public_id(name):
            return name
    if typed == "none":
        raise CheckpointNotFoundError(f"{words} is not on offer here; choose one from the list")
    if _is_path(words):
        return _folder(words, typed)
    if not hub.is_name(words):
        example = "owner/name, or a folder" if typed == "folders" else "owner/name"
        raise CheckpointNotFoundError(f"{words} is no name of a hub checkpoint; type {example}")
    if Path(words).exists():  # loading would take the server's folder for it
        raise CheckpointNotFoundError(f"{words} cannot be loaded from the hub on this server; choose another")
    return words


def is_on_request(name: str, preferred: str) -> bool:
    """Whether a link to a checkpoint waits for a click: it would start a download that nobody here asked for."""
    return name != preferred and not load.is_local(name)


def _is_path(words: str) -> bool:
    return bool(re.match(r"[/~.\\]|[A-Za-z]:", words)) or "\\" in words or words.count("/") > 1


def _folder(words: str, typed: Typed) -> str:
    if typed != "folders":
        raise CheckpointNotFoundError(
            f"{words} looks like a folder, and folders of this server are not open to visitors; type a hub name "
            "such as owner/name"
        )
    parts = re.split(r"[/\\]", words)
    if ".." in parts or parts[0].startswith("~"):
        raise CheckpointNotFoundError(f"{words} leads somewhere else; type the whole path of a folder")
    try:
        there = Path(words).is_dir()
    except OSError:
        there = False
    if not there:
        raise CheckpointNotFoundError(f"there is no folder {words} on this server; check its spelling")
    return words
