"""Where a hub checkpoint's files are, or how they get here.

``find`` looks into the Hugging Face cache by path arithmetic, without the network; ``download`` asks the hub what there
is, chooses the few files that are needed and brings them into that same cache. Only the listing goes through
``huggingface_hub``, imported when needed; ``transfer`` moves the bytes. Nothing is run or unpickled here.
"""

from __future__ import annotations

import json
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
from clipdemo.models.clip.families import read_family
from clipdemo.models.hub.transfer import (
    CONNECT_SECONDS,
    NO_HUB,
    OFFLINE,
    File,
    Meter,
    Progress,
    bring,
    missing_bytes,
    translate_hub_errors,
)

__all__ = ["Progress", "Snapshot", "download", "find", "is_name"]

CONFIG, WEIGHTS, PICKLE = "config.json", "model.safetensors", "pytorch_model.bin"
INDEX, SHARDS = "model.safetensors.index.json", "model-[0-9]*-of-[0-9]*.safetensors"
SMALL_FILES = (
    *("preprocessor_config.json", "processor_config.json", "special_tokens_map.json"),
    *("tokenizer*.json", "tokenizer*.txt", "tokenizer*.model", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece*.model"),
)
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

# What a model must bring beside configuration and weights -> any of these files.
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

    Its weights may be pickled (``pytorch_model.bin``): whoever loads them decides whether they are trusted.

    Args:
        name: hub name, owner/name.
        revision: branch, tag or commit; the default branch when None.
        needs: what the model must bring; a single tower has a processor or a tokenizer only.
    """
    revision = revision or "main"
    if not _well_spelled(name, revision):
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
    if _lacks(names, needs) or not _whole_weights(folder, names):
        return None
    return Snapshot(folder, commit)


def download(
    name: str,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    needs: Needs = BOTH,
    judge: Callable[[int], None] | None = None,
) -> Snapshot:
    """Bring a checkpoint's files into the Hugging Face cache; each is checked against the hub's checksum first.

    What is already here is checked, not fetched again, so this also repairs a broken copy. A part that came before a
    failure is kept for the next call.

    Args:
        name: hub name, owner/name.
        revision: branch, tag or commit; the default branch when None.
        allow_pickle: take ``pytorch_model.bin`` where there is no safetensors file; for names we trust.
        on_progress: called in this thread, at most ten times a second; what it raises ends the download.
        needs: as in :func:`find`.
        judge: told the bytes of the weights before anything is fetched; what it raises ends the download.

    Raises:
        CheckpointError: or one of its children, with a sentence for the visitor.
    """
    revision = revision or "main"
    if not _well_spelled(name, revision):
        raise CheckpointNotFoundError(
            f"{name} (revision {revision}) cannot be a hub checkpoint; a name looks like owner/name"
        )
    if any(_is_on(os.getenv(switch)) for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        raise HubUnreachableError(OFFLINE.format(name=name))
    with translate_hub_errors(name, revision):
        commit, listed = _ask_hub(name, revision)
        files, repo = _choose(name, listed, needs, allow_pickle=allow_pickle), _repo_folder(name)
        if judge:
            judge(sum(file.size for file in files if file.name.endswith((".safetensors", ".bin"))))
        _check_disk(name, files, repo)
        meter = Meter(sum(file.size for file in files), on_progress)
        for file in files:
            blob = repo / "blobs" / file.digest
            bring(name, commit, file, blob, meter, endpoint=_endpoint())
            if file.name == CONFIG and needs == BOTH:  # first: no dual encoder, no weights fetched
                read_family(blob, name)
        return _publish(repo, revision, commit, files)


def _is_on(value: str | None) -> bool:
    return (value or "").upper() in {"1", "ON", "YES", "TRUE"}


def is_name(text: str) -> bool:
    """Whether ``text`` has the form owner/name of a hub checkpoint; nothing is looked up."""
    return text.count("/") == 1 and _well_spelled(text, "main")


def _well_spelled(name: str, revision: str) -> bool:
    """Whether both can be parts of a path and of a URL without leading anywhere else."""
    part = r"\w(?:[\w.-]{0,94}\w)?"
    fits = re.fullmatch(f"(?:{part}/)?{part}", name, re.ASCII) and not re.search(r"--|\.\.", name)
    return bool(fits) and bool(re.fullmatch(r"\w(?:[./-]?\w)*", revision, re.ASCII))


def _repo_folder(name: str) -> Path:
    # Read at every call: the client's own constants are frozen at its import.
    home = os.getenv("HF_HOME") or Path(os.getenv("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    cache = os.getenv("HF_HUB_CACHE") or os.getenv("HUGGINGFACE_HUB_CACHE") or Path(home) / "hub"
    folder = Path(os.path.expandvars(cache)).expanduser().absolute()
    return folder / "--".join(("models", *name.split("/")))


def _endpoint() -> str:
    return (os.getenv("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def _lacks(names: Collection[str], needs: Needs) -> str | None:
    """The first thing such a model of transformers needs, weights aside, and these files do not have."""
    if CONFIG not in names:
        return CONFIG
    missing = (what for what, files in needs.items() if not any(name in names for name in files))
    return next(missing, None)


def _whole_weights(folder: Path, names: Collection[str]) -> bool:
    if INDEX in names and WEIGHTS not in names:
        try:
            index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
            return set(index["weight_map"].values()) <= set(names)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return False
    return WEIGHTS in names or PICKLE in names


def _choose(name: str, listed: Collection[File], needs: Needs, *, allow_pickle: bool) -> list[File]:
    """The files to bring, config.json first: never code, nothing from subfolders, one kind of weights."""
    names = {file.name for file in listed}
    if lacking := _lacks(names, needs):
        raise UnsupportedCheckpointError(
            f"{name} has no {lacking}; clipdemo reads models in the transformers layout"
        )
    wanted = _weights(names)
    if wanted in {(), (PICKLE,)} and not (wanted and allow_pickle):
        if any(fnmatchcase(each, "pytorch_model*.bin*") for each in names):
            raise UnsafeWeightsError(
                f"{name} has only pickled weights, which can run code when loaded; clipdemo reads those only for "
                "checkpoints of its catalogue"
            )
        raise UnsupportedCheckpointError(f"{name} has no weights file that clipdemo can read")
    patterns = (CONFIG, *SMALL_FILES, *wanted)
    chosen = [each for each in listed if any(fnmatchcase(each.name, glob) for glob in patterns)]
    return sorted(chosen, key=lambda file: file.name != CONFIG)


def needed_bytes(snapshot: Snapshot) -> int:
    """Bytes of those files of a local copy that are read; other programs may have brought more of the repository."""
    sizes = {path.name: path.stat().st_size for path in snapshot.folder.iterdir() if path.is_file()}
    patterns = (CONFIG, *SMALL_FILES, *_weights(sizes))
    return sum(count for name, count in sizes.items() if any(fnmatchcase(name, glob) for glob in patterns))


def _weights(names: Collection[str]) -> tuple[str, ...]:
    """What the weights are read from: safetensors if there are any; empty where only other kinds are."""
    if WEIGHTS in names:
        return (WEIGHTS,)
    if INDEX in names:
        return (INDEX, SHARDS)
    return (PICKLE,) if PICKLE in names else ()


def _ask_hub(name: str, revision: str) -> tuple[str, list[File]]:
    """The commit behind ``revision`` and the files in the top folder of its tree."""
    from huggingface_hub import HfApi, constants

    # The client would otherwise ask the hub who is calling, and name other installed packages to it.
    constants.HF_HUB_DISABLE_TELEMETRY = True
    try:
        info = HfApi(endpoint=_endpoint()).model_info(
            name, revision=revision, files_metadata=True, timeout=CONNECT_SECONDS
        )
        listed = [
            File(each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else each.blob_id or "")
            for each in info.siblings or ()
            if re.fullmatch(r"[\w.-]+", each.rfilename, re.ASCII)
        ]
    except (TypeError, KeyError, AttributeError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise HubUnreachableError(NO_HUB.format(reason="what answers is not a hub")) from error
    # These become paths; a hub that follows its own rules never fails here.
    hashes = [info.sha or "", *(file.digest for file in listed)]
    if not all(re.fullmatch("[0-9a-f]{40}|[0-9a-f]{64}", each) for each in hashes):
        raise HubUnreachableError(NO_HUB.format(reason="its file list has no checksums"))
    return str(info.sha), listed


def _check_disk(name: str, files: Collection[File], repo: Path) -> None:
    here = next(folder for folder in (repo, *repo.parents) if folder.exists())
    needed = sum(missing_bytes(file, repo / "blobs" / file.digest) for file in files)
    free = shutil.disk_usage(here).free
    if needed > free:
        raise CheckpointError(
            f"{name} needs {needed / 1e6:,.1f} MB and the disk of the model cache has {free / 1e6:,.1f} MB "
            "free; make room, or set HF_HOME to a larger disk"
        )


def _publish(repo: Path, revision: str, commit: str, files: Collection[File]) -> Snapshot:
    """Name the checked blobs in a snapshot, config.json last: ``find`` sees it whole or not at all."""
    folder = repo / "snapshots" / commit
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(files, key=lambda file: file.name == CONFIG):
        spare = folder / f".{uuid.uuid4().hex}"
        try:
            spare.symlink_to(Path("..", "..", "blobs", file.digest))
        except OSError:  # Windows without the right to make links
            shutil.copyfile(repo / "blobs" / file.digest, spare)
        os.replace(spare, folder / file.name)
    if revision != commit:
        ref = repo / "refs" / revision
        ref.parent.mkdir(parents=True, exist_ok=True)
        spare = ref.with_name(f".{uuid.uuid4().hex}")
        spare.write_text(commit, encoding="utf-8")
        os.replace(spare, ref)
    return Snapshot(folder, commit)
