"""Names become encoders: the device, and ``load_encoder`` for hub, folder or embedded.

torch and transformers are imported only when a checkpoint other than the embedded one is loaded.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from clipdemo.errors import (
    CheckpointError,
    CheckpointNotFoundError,
    CorruptCheckpointError,
    HubUnreachableError,
)
from clipdemo.memory import need
from clipdemo.models import hub
from clipdemo.models.catalogue import CATALOGUE, CLIP_BASE, EMBEDDED, title
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.models.trained import recipes
from clipdemo.models.weights import folder_fingerprint, weight_bytes
from clipdemo.types import Encoder

__all__ = [
    "CLIP_BASE",
    "EMBEDDED",
    "is_local",
    "load_encoder",
    "peak_gpu_bytes",
    "pick_device",
    "preferred",
    "public_id",
    "title",
]


def public_id(name: str) -> str:
    """What a link or a file says of a checkpoint: never a path of the server."""
    return Path(name).resolve().name if _is_folder(name) else name


def preferred(environment: Mapping[str, str] = os.environ) -> str:
    """The checkpoint a new visit should run on once it is ready: ``CLIPDEMO_CHECKPOINT``, else CLIP."""
    return environment.get("CLIPDEMO_CHECKPOINT", "").strip() or CLIP_BASE


def is_local(name: str) -> bool:
    """Whether loading ``name`` needs no network: embedded, a folder, or a hub name already here.

    A copy of another commit than the catalogue's counts: it is used when the hub cannot be reached.
    """
    if name == EMBEDDED or _is_folder(name):
        return True
    return any(hub.find(name, revision) for revision in {_pinned(name), None})


class Gate(Protocol):
    """Asked whether a checkpoint fits into memory; both raise ``NotEnoughMemoryError`` when it does not."""

    def judge(self, name: str, weights: int) -> None:
        """Before a download and before a framework is imported: could so many bytes of weights ever fit?"""

    def admit(self, name: str, weights: int, device: str) -> None:
        """Right before they are loaded; may wait until they fit."""


def lighter(free: int) -> str:
    """What of the catalogue fits into ``free`` bytes, in words: the largest one, and the embedded model."""
    others = (entry for entry in CATALOGUE.values() if entry.id != EMBEDDED)
    fits = [entry for entry in others if need(entry.memory_bytes) <= free]
    best = max(fits, key=lambda entry: entry.parameters, default=None)
    return f"{best.title} or the embedded model" if best else "the embedded model"


def load_encoder(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    on_progress: Callable[[hub.Progress], None] | None = None,
    gate: Gate | None = None,
) -> Encoder:
    """A ready encoder for a checkpoint.

    Args:
        name: "embedded", a hub name such as "openai/clip-vit-base-patch32", or a local folder.
        device: "auto" (the fastest one here), "cpu", "cuda" or "mps"; the embedded model runs on the CPU.
        on_progress: told of bytes while files are downloaded.
        gate: asked whether there is memory for it; None loads it anyway.

    A catalogue name is loaded at the catalogue's commit where it has one; ``checkpoint.revision`` says which it was.

    Raises:
        CheckpointError: no such device, or one of its children, with a sentence that says what to do.
    """
    if not isinstance(name, str | os.PathLike):
        raise CheckpointNotFoundError(f"{name!r} is no name of a checkpoint; give a hub name or a folder")
    if isinstance(name, os.PathLike):
        return _load_folder(Path(name), device, on_progress, gate)
    if name == EMBEDDED:
        return EmbeddedEncoder()
    if _is_folder(name):
        return _load_folder(Path(name), device, on_progress, gate)
    if not hub.is_name(name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither the folder of a checkpoint on this machine nor a hub name of the form owner/name"
        )
    here = hub.find(name, _pinned(name))
    if here:
        try:
            return _load_snapshot(name, here, device, gate)
        except CorruptCheckpointError:
            pass  # downloading checks every file against the hub and fetches the broken ones again
    return _load_snapshot(name, _download(name, here, on_progress, gate), device, gate)


def _pinned(name: str) -> str | None:
    """The commit the catalogue names for a checkpoint; None is the default branch."""
    return CATALOGUE[name].revision if name in CATALOGUE else None


def _download(
    name: str,
    broken: hub.Snapshot | None,
    on_progress: Callable[[hub.Progress], None] | None,
    gate: Gate | None,
) -> hub.Snapshot:
    """The checkpoint from the hub, or, when that cannot be reached, a copy of another commit that is here."""
    pickle = name in CATALOGUE and CATALOGUE[name].pickle
    judge = partial(gate.judge, name) if gate else None
    try:
        return hub.download(
            name, revision=_pinned(name), allow_pickle=pickle, on_progress=on_progress, judge=judge
        )
    except HubUnreachableError:
        other = hub.find(name)
        if other is None or other == broken:
            raise
        return other


def download_bytes(name: str, revision: str) -> int | None:
    """Bytes of the files a hub checkpoint is loaded from; None for one that is not from the hub."""
    snapshot = None if name == EMBEDDED or _is_folder(name) else hub.find(name, revision)
    return hub.needed_bytes(snapshot) if snapshot else None


def _load_snapshot(name: str, snapshot: hub.Snapshot, device: str, gate: Gate | None) -> Encoder:
    device = _passed(gate, name, partial(weight_bytes, snapshot.folder), device)
    from clipdemo.models.clip.encoder import Origin, TransformersEncoder

    fingerprint = hashlib.sha256(f"{name}@{snapshot.revision}".encode()).hexdigest()
    origin = Origin(name, snapshot.revision, fingerprint, "hub")
    pickle = name in CATALOGUE and CATALOGUE[name].pickle
    return TransformersEncoder(snapshot.folder, origin, allow_pickle=pickle, device=device)


def _passed(gate: Gate | None, name: str, weigh: Callable[[int], int], device: str) -> str:
    """The device to load on, once there is memory for the weights; ``weigh`` tells their bytes by a number's."""
    if gate:
        gate.judge(name, weigh(4))
    device = pick_device(device)
    with IMPORT_LOCK:
        import clipdemo.models.clip.encoder  # noqa: F401 - takes seconds and memory that are not the checkpoint's own

    if gate:
        gate.admit(name, weigh(2 if device == "cuda" else 4), device)
    return device


def pick_device(wanted: str = "auto") -> str:
    """The device wanted, or for "auto" the fastest one here: "cuda", "mps" or "cpu".

    Raises:
        CheckpointError: a device this machine lacks.
    """
    import torch

    here = ["cpu"]
    if torch.backends.mps.is_available():
        here.append("mps")
    if torch.cuda.is_available():
        here.append("cuda")
    if wanted == "auto":
        return here[-1]
    if wanted not in here:
        raise CheckpointError(f"this machine has no {wanted} device; it has {', '.join(here)}")
    return wanted


def peak_gpu_bytes() -> int | None:
    """The most memory this process held on a CUDA device, or None when it used none."""
    import sys

    torch = sys.modules.get("torch")  # a run that never loaded it used no GPU
    if torch is None or not torch.cuda.is_available():
        return None
    return int(torch.cuda.max_memory_allocated())


def _load_folder(
    folder: Path, device: str, on_progress: Callable[[hub.Progress], None] | None, gate: Gate | None
) -> Encoder:
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"there is no folder {folder.name!r}")
    if recipes.is_trained(folder):
        return _load_trained(folder, device, on_progress, gate)
    try:
        fingerprint = folder_fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    # Visitors see the id: the folder's name, not the server's path.
    device = _passed(gate, str(folder), partial(weight_bytes, folder), device)
    from clipdemo.models.clip.encoder import Origin, TransformersEncoder

    origin = Origin(folder.resolve().name, "local", fingerprint, "folder")
    return TransformersEncoder(folder, origin, device=device)


def _load_trained(
    folder: Path, device: str, on_progress: Callable[[hub.Progress], None] | None, gate: Gate | None
) -> Encoder:
    name, recipe = str(folder), recipes.read_recipe(folder)
    recipes.download_towers(recipe, on_progress, partial(gate.judge, name) if gate else None)
    try:
        weights = recipes.weight_bytes(folder, recipe)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    device = _passed(gate, name, lambda _: weights, device)  # float32 on every device
    from clipdemo.models.trained.encoder import TrainedEncoder

    return TrainedEncoder(folder, device=device)


def _is_folder(name: str) -> bool:
    if name == EMBEDDED or not Path(name).is_dir():
        return False
    return os.sep in name or "/" in name or "." in name or (Path(name) / "config.json").is_file()
