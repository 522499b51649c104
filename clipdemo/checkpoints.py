"""Names become encoders: the catalogue, the device, and ``load_encoder`` for hub, folder or embedded.

torch and transformers are imported only when a checkpoint other than the embedded one is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from clipdemo import hub
from clipdemo.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from clipdemo.memory import need
from clipdemo.mini import EmbeddedEncoder
from clipdemo.types import Encoder
from clipdemo.weights import weight_bytes

EMBEDDED = "embedded"
CLIP_BASE = "openai/clip-vit-base-patch32"


@dataclass(frozen=True)
class CatalogueEntry:
    """A checkpoint the app offers by name.

    Attributes:
        id: what ``load_encoder`` takes.
        title: what people read.
        about: one sentence: what it is good for, from where.
        pickle: its main branch has only ``pytorch_model.bin``, which is read with weights_only.
        parameters: how many it has; 0 for the embedded model, which always fits.
    """

    id: str
    title: str
    about: str
    pickle: bool = False
    parameters: int = 0


CATALOGUE = {
    entry.id: entry
    for entry in (
        CatalogueEntry(
            EMBEDDED,
            "Embedded model",
            "A small stand-in that needs no download: EfficientNet-Lite0 and all-MiniLM-L6-v2 joined "
            "by ConSE. It knows the 1,000 ImageNet classes well and the rest roughly. It is not CLIP.",
        ),
        CatalogueEntry(
            CLIP_BASE,
            "CLIP ViT-B/32",
            "OpenAI's CLIP (Radford et al. 2021), trained on 400 million image-text pairs; about "
            "600 MB to download once, MIT licence.",
            pickle=True,
            parameters=151_277_313,
        ),
    )
}


def title(checkpoint_id: str) -> str:
    """What people read for a checkpoint."""
    entry = CATALOGUE.get(checkpoint_id)
    return entry.title if entry else checkpoint_id.rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]


def public_id(name: str) -> str:
    """What a link or a file says of a checkpoint: never a path of the server."""
    return Path(name).resolve().name if _is_folder(name) else name


def preferred(environment: Mapping[str, str] = os.environ) -> str:
    """The checkpoint a new visit should run on once it is ready: ``CLIPDEMO_CHECKPOINT``, else CLIP."""
    return environment.get("CLIPDEMO_CHECKPOINT", "").strip() or CLIP_BASE


def is_local(name: str) -> bool:
    """Whether loading ``name`` needs no network: embedded, a folder, or a hub name already here."""
    return name == EMBEDDED or _is_folder(name) or hub.find(name) is not None


class Gate(Protocol):
    """Asked whether a checkpoint fits into memory; both raise ``NotEnoughMemoryError`` when it does not."""

    def judge(self, name: str, weights: int) -> None:
        """Before a download and before a framework is imported: could so many bytes of weights ever fit?"""

    def admit(self, name: str, weights: int, device: str) -> None:
        """Right before they are loaded; may wait until they fit."""


def lighter(free: int) -> str:
    """What of the catalogue fits into ``free`` bytes, in words: the largest one, and the embedded model."""
    fits = [entry for entry in CATALOGUE.values() if entry.parameters and need(4 * entry.parameters) <= free]
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

    Raises:
        CheckpointError: no such device, or one of its children, with a sentence that says what to do.
    """
    if not isinstance(name, str | os.PathLike):
        raise CheckpointNotFoundError(f"{name!r} is no name of a checkpoint; give a hub name or a folder")
    if isinstance(name, os.PathLike):
        return _load_folder(Path(name), device, gate)
    if name == EMBEDDED:
        return EmbeddedEncoder()
    if _is_folder(name):
        return _load_folder(Path(name), device, gate)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither a folder on this machine nor a hub name of the form owner/name"
        )
    pickle = name in CATALOGUE and CATALOGUE[name].pickle
    here = hub.find(name)
    if here:
        try:
            return _load_snapshot(name, here, pickle, device, gate)
        except CorruptCheckpointError:
            pass  # downloading checks every file against the hub and fetches the broken ones again
    judge = partial(gate.judge, name) if gate else None
    snapshot = hub.download(name, allow_pickle=pickle, on_progress=on_progress, judge=judge)
    return _load_snapshot(name, snapshot, pickle, device, gate)


def download_bytes(name: str, revision: str) -> int | None:
    """Bytes of a hub checkpoint's files on this disk; None for one that is not from the hub."""
    snapshot = None if name == EMBEDDED or _is_folder(name) else hub.find(name, revision)
    return sum(file.stat().st_size for file in snapshot.folder.iterdir()) if snapshot else None


def _load_snapshot(
    name: str, snapshot: hub.Snapshot, pickle: bool, device: str, gate: Gate | None
) -> Encoder:
    device = _passed(gate, name, snapshot.folder, device)
    from clipdemo.encoder import Origin, TransformersEncoder

    fingerprint = hashlib.sha256(f"{name}@{snapshot.revision}".encode()).hexdigest()
    origin = Origin(name, snapshot.revision, fingerprint, "hub")
    return TransformersEncoder(snapshot.folder, origin, allow_pickle=pickle, device=device)


def _passed(gate: Gate | None, name: str, folder: Path, device: str) -> str:
    """The device to load on, once there is memory for the weights."""
    if gate:
        gate.judge(name, weight_bytes(folder, 4))
    device = pick_device(device)
    import clipdemo.encoder  # noqa: F401 - takes seconds and memory that are not the checkpoint's own

    if gate:
        gate.admit(name, weight_bytes(folder, 2 if device == "cuda" else 4), device)
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


def _load_folder(folder: Path, device: str, gate: Gate | None) -> Encoder:
    if not folder.is_dir():
        raise CheckpointNotFoundError(f"there is no folder {folder.name!r}")
    try:
        fingerprint = _fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    # Visitors see the id: the folder's name, not the server's path.
    device = _passed(gate, str(folder), folder, device)
    from clipdemo.encoder import Origin, TransformersEncoder

    origin = Origin(folder.resolve().name, "local", fingerprint, "folder")
    return TransformersEncoder(folder, origin, device=device)


def _is_folder(name: str) -> bool:
    return (os.sep in name or "/" in name or "." in name) and Path(name).is_dir()


def _fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's own files: any change is another checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
