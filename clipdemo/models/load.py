"""Loads a checkpoint by name: the embedded model, a hub name or a folder. Also picks the device.

torch and transformers are imported only when a checkpoint other than the embedded one is loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from clipdemo import memory
from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    HubUnreachableError,
)
from clipdemo.models.catalogue import CATALOGUE, CLIP_BASE, EMBEDDED
from clipdemo.models.clip.bounds import check_configuration
from clipdemo.models.clip.families import read_family
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.models.hub import snapshot as hub
from clipdemo.models.hub.transfer import Progress
from clipdemo.models.trained import recipes
from clipdemo.models.trial import try_in_child
from clipdemo.models.weights import check_weights, folder_fingerprint, weight_bytes
from clipdemo.types import Encoder

OnProgress = Callable[[Progress], None]


class MemoryGate(Protocol):
    """Raises ``NotEnoughMemoryError`` for a checkpoint that does not fit into memory."""

    def refuse_if_hopeless(self, name: str, weight_bytes: int) -> None:
        """Called before a download and before a framework is imported: could this much ever fit?"""

    def admit(self, name: str, weight_bytes: int, device: str) -> None:
        """Called right before the weights load; may wait until they fit."""


def public_id(name: str) -> str:
    """The name of a checkpoint for links and files: never a path of the server."""
    return Path(name).resolve().name if _is_folder(name) else name


def preferred(environment: Mapping[str, str] = os.environ) -> str:
    """The checkpoint that a new visit uses once it is ready: ``CLIPDEMO_CHECKPOINT``, or CLIP."""
    return environment.get("CLIPDEMO_CHECKPOINT", "").strip() or CLIP_BASE


def is_local(name: str) -> bool:
    """Whether ``name`` loads without the network: embedded, a folder, or a hub name in the cache.

    A cached copy of another commit than the catalogue's counts: it is used when the hub cannot be reached.
    """
    if name == EMBEDDED or _is_folder(name):
        return True
    return any(hub.find(name, revision) for revision in {_pinned_revision(name), None})


def download_bytes(name: str, revision: str) -> int | None:
    """Bytes of the files that a hub checkpoint is loaded from; None if it is not from the hub."""
    snapshot = None if name == EMBEDDED or _is_folder(name) else hub.find(name, revision)
    return hub.needed_bytes(snapshot) if snapshot else None


def load_encoder(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    on_progress: OnProgress | None = None,
    gate: MemoryGate | None = None,
    typed: bool = False,
) -> Encoder:
    """Load a checkpoint.

    A checkpoint of the catalogue is loaded at the catalogue's commit, if that names one;
    ``checkpoint.revision`` is the commit that was loaded.

    Args:
        name: "embedded", a hub name such as "openai/clip-vit-base-patch32", or a local folder.
        device: "auto" (the fastest of this machine), "cpu", "cuda" or "mps"; the embedded model runs on the
            CPU.
        on_progress: called while files are downloaded.
        gate: asked whether the checkpoint fits into memory; None skips the check.
        typed: whether a visitor of the page typed the name: a hub checkpoint is then downloaded without the
            host's token and within a share of the disk, and tried in a child process before it is loaded.

    Raises:
        CheckpointError: or a subclass, with a sentence that says what to do.
    """
    if not isinstance(name, str | os.PathLike):
        raise CheckpointNotFoundError(
            f"{name!r} is not the name of a checkpoint; give a hub name or a folder"
        )
    if isinstance(name, os.PathLike):
        return _load_folder(Path(name), device, on_progress, gate)
    if name == EMBEDDED:
        return EmbeddedEncoder()
    if _is_folder(name):
        return _load_folder(Path(name), device, on_progress, gate)
    if not hub.is_name(name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither the folder of a checkpoint on this machine nor a hub name of the form "
            "owner/name"
        )
    cached = hub.find(name, _pinned_revision(name))
    if cached:
        try:
            return _load_snapshot(name, cached, device, gate, typed=typed)
        except CorruptCheckpointError:
            pass  # the download verifies every file against the hub and replaces broken ones
    snapshot = _download(name, cached, on_progress, gate, typed=typed)
    return _load_snapshot(name, snapshot, device, gate, typed=typed)


def check_files(folder: Path, checkpoint_id: str) -> None:
    """Refuse files that are malformed, or ask for absurd amounts, before a framework is imported.

    Raises:
        CheckpointError: or a subclass, with a sentence that says what to do.
    """
    read_family(folder / hub.CONFIG, checkpoint_id)
    check_configuration(folder, checkpoint_id)
    check_weights(folder, checkpoint_id)


def pick_device(name: str = "auto") -> str:
    """The device to use: "auto" picks the fastest of "cuda", "mps" and "cpu".

    Raises:
        CheckpointError: this machine lacks the device.
    """
    import torch

    available = ["cpu"]
    if torch.backends.mps.is_available():
        available.append("mps")
    if torch.cuda.is_available():
        available.append("cuda")
    if name == "auto":
        return available[-1]
    if name not in available:
        raise CheckpointError(f"this machine lacks a {name} device; use {' or '.join(available)}")
    return name


def peak_gpu_bytes() -> int | None:
    """The peak memory of this process on a CUDA device, or None if it used none."""
    import sys

    torch = sys.modules.get("torch")  # a run without torch used no GPU
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _is_folder(name: str) -> bool:
    if name == EMBEDDED or not Path(name).is_dir():
        return False
    return os.sep in name or "/" in name or "." in name or (Path(name) / "config.json").is_file()


def _pinned_revision(name: str) -> str | None:
    """The catalogue's commit for a checkpoint; None means the default branch."""
    return CATALOGUE[name].revision if name in CATALOGUE else None


def _allows_pickle(name: str) -> bool:
    return name in CATALOGUE and CATALOGUE[name].pickle


def _download(
    name: str,
    broken: hub.Snapshot | None,
    on_progress: OnProgress | None,
    gate: MemoryGate | None,
    *,
    typed: bool,
) -> hub.Snapshot:
    """Download a checkpoint; if the hub cannot be reached, fall back to a cached copy of another commit."""
    try:
        return hub.download(
            name,
            revision=_pinned_revision(name),
            allow_pickle=_allows_pickle(name),
            on_progress=on_progress,
            check_size=partial(gate.refuse_if_hopeless, name) if gate else None,
            typed=typed,
        )
    except HubUnreachableError:
        fallback = hub.find(name)
        if fallback is None or fallback == broken:
            raise
        return fallback


def _load_snapshot(
    name: str, snapshot: hub.Snapshot, device: str, gate: MemoryGate | None, *, typed: bool
) -> Encoder:
    check_files(snapshot.folder, name)
    if typed:  # before it is admitted: a trial takes minutes, in which others may load
        size = weight_bytes(snapshot.folder, 4)
        if gate:
            gate.refuse_if_hopeless(name, size + memory.FIRST_USE)  # of the child
        hub.note_use(name)
        try_in_child(snapshot.folder, name, size)
    device = _admit(name, partial(weight_bytes, snapshot.folder), device, gate)
    from clipdemo.models.clip.encoder import Origin, TransformersEncoder

    fingerprint = hashlib.sha256(f"{name}@{snapshot.revision}".encode()).hexdigest()
    origin = Origin(name, snapshot.revision, fingerprint, "hub")
    return TransformersEncoder(snapshot.folder, origin, allow_pickle=_allows_pickle(name), device=device)


def _load_folder(
    folder: Path, device: str, on_progress: OnProgress | None, gate: MemoryGate | None
) -> Encoder:
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"the folder {folder.name!r} does not exist")
    _refuse_special_files(folder)
    if recipes.is_trained(folder):
        return _load_trained(folder, device, on_progress, gate)
    try:
        fingerprint = folder_fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    check_files(folder, folder.name)
    device = _admit(str(folder), partial(weight_bytes, folder), device, gate)
    from clipdemo.models.clip.encoder import Origin, TransformersEncoder

    # Visitors see the id: the folder's name rather than the server's path.
    origin = Origin(folder.resolve().name, "local", fingerprint, "folder")
    return TransformersEncoder(folder, origin, device=device)


def _refuse_special_files(folder: Path) -> None:
    """Refuse pipes and devices among the files of a checkpoint, before anything waits for their contents."""
    for file in (*folder.glob("*"), *folder.glob("*/*")):
        if file.exists() and not file.is_file() and not file.is_dir():
            raise CorruptCheckpointError(
                f"{file.name!r} in {folder.name} is not a regular file; copy the checkpoint again"
            )


def _load_trained(
    folder: Path, device: str, on_progress: OnProgress | None, gate: MemoryGate | None
) -> Encoder:
    name, recipe = str(folder), recipes.read_recipe(folder)
    check_size = partial(gate.refuse_if_hopeless, name) if gate else None
    recipes.download_towers(recipe, on_progress, check_size)
    try:
        size = recipes.weight_bytes(folder, recipe)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    device = _admit(name, lambda _itemsize: size, device, gate)  # float32 on every device
    from clipdemo.models.trained.encoder import TrainedEncoder

    return TrainedEncoder(folder, device=device)


def _admit(name: str, weight_bytes: Callable[[int], int], device: str, gate: MemoryGate | None) -> str:
    """Pass the gate and import the frameworks.

    Args:
        name: of the checkpoint.
        weight_bytes: ``weight_bytes(itemsize)`` returns the size of the weights in bytes.
        device: as in ``load_encoder``.
        gate: as in ``load_encoder``.

    Returns:
        The device to load on.
    """
    if gate:
        gate.refuse_if_hopeless(name, weight_bytes(4))
    device = pick_device(device)
    with IMPORT_LOCK:
        import clipdemo.models.clip.encoder  # noqa: F401 - its time and memory are not the checkpoint's

    if gate:
        gate.admit(name, weight_bytes(2 if device == "cuda" else 4), device)
    return device
