"""Finds the files of a hub checkpoint in the local cache, or downloads them into it.

``find`` looks into the Hugging Face cache by path, without the network. ``download`` lists the files on the
hub, selects the few that are needed and stores them in the same cache; ``connection`` asks the hub and
``transfer`` downloads the bytes. Nothing is executed or unpickled here.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    HubUnreachableError,
    UnsafeWeightsError,
    UnsupportedCheckpointError,
)
from clipdemo.limits import format_bytes
from clipdemo.models.clip import bounds
from clipdemo.models.clip.bounds import PROCESSORS
from clipdemo.models.clip.families import read_family
from clipdemo.models.hub import quota
from clipdemo.models.hub.listing import WEIGHT_SUFFIXES, ask_hub
from clipdemo.models.hub.transfer import (
    OFFLINE,
    File,
    Meter,
    Progress,
    download_file,
    missing_bytes,
    translate_hub_errors,
)
from clipdemo.models.json_files import MAX_INDEX_BYTES, MAX_TOKENIZER_BYTES, read_json

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
INDEX, SHARDS = "model.safetensors.index.json", "model-[0-9]*-of-[0-9]*.safetensors"
SMALL_FILES = (
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json"),
    *("tokenizer*.json", "tokenizer*.txt", "tokenizer*.model", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece*.model"),
)
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

# What a model needs besides configuration and weights -> the files, one of which is enough.
Needs = Mapping[str, tuple[str, ...]]
IMAGES: Needs = {"image processor": PROCESSORS}
CAPTIONS: Needs = {"tokenizer": TOKENIZERS}
BOTH: Needs = {**IMAGES, **CAPTIONS}


@dataclass(frozen=True)
class Snapshot:
    """The files of one checkpoint at one commit, in a folder that transformers can load."""

    folder: Path
    revision: str


def find(name: str, revision: str | None = None, *, needs: Needs = BOTH) -> Snapshot | None:
    """The complete local copy of a checkpoint, if there is one; no network, well under a millisecond.

    Its weights may be pickled (``pytorch_model.bin``): the caller decides whether to trust them.

    Args:
        name: hub name, owner/name.
        revision: branch, tag or commit; the default branch when None.
        needs: files the model must have; a single tower has only a processor or only a tokenizer.
    """
    revision = revision or "main"
    if not _is_safe(name, revision):
        return None
    repo = _repo_folder(name)
    try:
        commit = (repo / "refs" / revision).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        commit = revision
    if not re.fullmatch("[0-9a-f]{40}", commit):
        return None
    folder = repo / "snapshots" / commit
    try:  # is_file() is False for a link whose blob is missing
        names = {path.name for path in folder.iterdir() if path.is_file()}
    except OSError:
        return None
    if _missing_part(names, needs) or not _has_all_weights(folder, names):
        return None
    return Snapshot(folder, commit)


def download(  # noqa: PLR0913 - each is independent of the others, and named at every call
    name: str,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    needs: Needs = BOTH,
    check_size: Callable[[int], None] | None = None,
    typed: bool = False,
) -> Snapshot:
    """Download a checkpoint into the Hugging Face cache and verify each file against the hub's checksum.

    Files in the cache are verified, not downloaded again, so this also repairs a broken copy. A partial file
    is kept after a failure, and the next call resumes it.

    Args:
        name: hub name, owner/name.
        revision: branch, tag or commit; the default branch when None.
        allow_pickle: accept ``pytorch_model.bin`` if there are no safetensors; for names we trust.
        on_progress: called in this thread, at most ten times a second; an exception from it ends the
            download.
        needs: as in :func:`find`.
        check_size: called with the bytes of the weights before the download; an exception from it prevents
            it.
        typed: whether a visitor typed the name: the hub is asked without the host's token, and the disk
            space is bounded.

    Raises:
        CheckpointError: or a subclass, with a sentence for the visitor.
    """
    revision = revision or "main"
    if not _is_safe(name, revision):
        raise CheckpointNotFoundError(
            f"{name} (revision {revision}) cannot be a hub checkpoint; a name looks like owner/name"
        )
    if any(_is_on(os.getenv(switch)) for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        raise HubUnreachableError(OFFLINE.format(name=name))
    with translate_hub_errors(name, revision):
        commit, listed = ask_hub(name, revision, with_token=not typed)
        files, repo = _choose(name, listed, needs, allow_pickle=allow_pickle), _repo_folder(name)
        if check_size:
            check_size(sum(file.size for file in files if file.name.endswith(WEIGHT_SUFFIXES)))
        if typed:
            quota.reserve(name, repo, sum(file.size for file in files))
        _check_disk(name, files, repo)

        def report(progress: Progress) -> None:
            if typed:
                quota.note_use(repo)
            if on_progress:
                on_progress(progress)

        meter = Meter(sum(file.size for file in files), report)
        for file in files:
            blob = repo / "blobs" / file.digest
            download_file(name, commit, file, blob, meter, with_token=not typed)
            # Weights come last: other kinds of models are refused before they are downloaded.
            if file.name == CONFIG and needs == BOTH:
                read_family(blob, name)
            if file.name in (CONFIG, *PROCESSORS):
                bounds.check_file(blob, file.name, name)
        return _publish(repo, revision, commit, files)


def _is_on(value: str | None) -> bool:
    return (value or "").upper() in {"1", "ON", "YES", "TRUE"}


def is_name(text: str) -> bool:
    """Whether ``text`` has the form owner/name of a hub checkpoint; the hub is not asked."""
    return text.count("/") == 1 and _is_safe(text, "main")


def _is_safe(name: str, revision: str) -> bool:
    """Whether both are safe as parts of a path and of a URL."""
    part = r"\w(?:[\w.-]{0,94}\w)?"
    safe_name = re.fullmatch(f"(?:{part}/)?{part}", name, re.ASCII) and not re.search(r"--|\.\.", name)
    return bool(safe_name) and bool(re.fullmatch(r"\w(?:[./-]?\w)*", revision, re.ASCII))


def _repo_folder(name: str) -> Path:
    # Read at every call: the client reads the environment only at its import.
    home = os.getenv("HF_HOME") or Path(os.getenv("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = os.getenv("HF_HUB_CACHE") or os.getenv("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    folder = Path(os.path.expandvars(cache)).expanduser().absolute()
    return folder / "--".join(("models", *name.split("/")))


def _missing_part(names: Collection[str], needs: Needs) -> str | None:
    """The first part, other than weights, that a model with these files lacks."""
    if CONFIG not in names:
        return CONFIG
    for part, files in needs.items():
        if not any(name in names for name in files):
            return part
    return None


def _has_all_weights(folder: Path, names: Collection[str]) -> bool:
    if INDEX in names and WEIGHTS not in names:
        try:
            index = read_json(folder / INDEX, MAX_INDEX_BYTES)
            return set(index["weight_map"].values()) <= set(names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
    return WEIGHTS in names or PICKLE in names


def _choose(name: str, listed: Collection[File], needs: Needs, *, allow_pickle: bool) -> list[File]:
    """The files to download, config.json first: no code, nothing from subfolders, one format of weights."""
    names = {file.name for file in listed}
    if missing := _missing_part(names, needs):
        raise UnsupportedCheckpointError(
            f"{name} lacks its {missing}; clipdemo reads models in the transformers layout"
        )
    weights = _weight_patterns(names)
    if not weights or (weights == (PICKLE,) and not allow_pickle):
        if any(fnmatchcase(each, "pytorch_model*.bin*") for each in names):
            raise UnsafeWeightsError(
                f"{name} has only pickled weights, which can run code when loaded; clipdemo reads those "
                "only for checkpoints of its catalogue"
            )
        raise UnsupportedCheckpointError(f"{name} lacks a weights file that clipdemo can read")
    patterns = (CONFIG, *SMALL_FILES, *weights)
    files = [file for file in listed if any(fnmatchcase(file.name, pattern) for pattern in patterns)]
    for file in files:
        if file.size > MAX_TOKENIZER_BYTES and not file.name.endswith(WEIGHT_SUFFIXES):
            raise UnsupportedCheckpointError(
                f"{file.name} of {name} has {format_bytes(file.size)}, and clipdemo reads at most "
                f"{format_bytes(MAX_TOKENIZER_BYTES)}; choose another checkpoint"
            )
    return sorted(files, key=lambda file: (file.name.endswith(WEIGHT_SUFFIXES), file.name != CONFIG))


def note_use(name: str) -> None:
    """Note that a checkpoint was used now, so that its files are kept longer than others that were typed."""
    if is_name(name):
        quota.note_use(_repo_folder(name))


def needed_bytes(snapshot: Snapshot) -> int:
    """Bytes of the files in a local copy that clipdemo reads; other programs may have downloaded more."""
    sizes = {path.name: path.stat().st_size for path in snapshot.folder.iterdir() if path.is_file()}
    patterns = (CONFIG, *SMALL_FILES, *_weight_patterns(sizes))
    return sum(
        count for name, count in sizes.items() if any(fnmatchcase(name, pattern) for pattern in patterns)
    )


def _weight_patterns(names: Collection[str]) -> tuple[str, ...]:
    """Patterns of the weights files to read: safetensors if there are any; empty without a known format."""
    if WEIGHTS in names:
        return (WEIGHTS,)
    if INDEX in names:
        return (INDEX, SHARDS)
    return (PICKLE,) if PICKLE in names else ()


def _check_disk(name: str, files: Collection[File], repo: Path) -> None:
    existing = next(folder for folder in (repo, *repo.parents) if folder.exists())
    needed = sum(missing_bytes(file, repo / "blobs" / file.digest) for file in files)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise CheckpointError(
            f"{name} needs {format_bytes(needed)} and the disk of the model cache has {format_bytes(free)} "
            "free; make room, or set HF_HOME to a larger disk"
        )


def _publish(repo: Path, revision: str, commit: str, files: Collection[File]) -> Snapshot:
    """Link the verified blobs into a snapshot, config.json last: ``find`` sees the whole snapshot or none."""
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(files, key=lambda file: file.name == CONFIG):
        spare = folder / f".{uuid.uuid4().hex}"
        try:
            spare.symlink_to(Path("..", "..", "blobs", file.digest))
        except OSError:  # on Windows links need a permission
            shutil.copyfile(repo / "blobs" / file.digest, spare)
        os.replace(spare, folder / file.name)
    if revision != commit:
        ref = repo / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        spare = ref.with_name(f".{uuid.uuid4().hex}")
        spare.write_text(commit, encoding="utf-8")
        os.replace(spare, ref)
    return Snapshot(folder, commit)
