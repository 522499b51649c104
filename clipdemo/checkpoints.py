"""Names become encoders: the catalogue, the device, and ``load_encoder`` for hub, folder or embedded.

torch and transformers are imported only when a checkpoint other than the embedded one is loaded.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from clipdemo import hub
from clipdemo.errors import CheckpointError, CheckpointNotFoundError, CorruptCheckpointError
from clipdemo.mini import EmbeddedEncoder
from clipdemo.types import Encoder

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
    """

    id: str
    title: str
    about: str
    pickle: bool = False


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


def load_encoder(
    name: str | os.PathLike[str],
    *,
    device: str = "auto",
    on_progress: Callable[[hub.Progress], None] | None = None,
) -> Encoder:
    """A ready encoder for a checkpoint.

    Args:
        name: "embedded", a hub name such as "openai/clip-vit-base-patch32", or a local folder.
        device: "auto" (the fastest one here), "cpu", "cuda" or "mps"; the embedded model runs on the CPU.
        on_progress: told of bytes while files are downloaded.

    Raises:
        CheckpointError: no such device, or one of its children, with a sentence that says what to do.
    """
    if not isinstance(name, str | os.PathLike):
        raise CheckpointNotFoundError(f"{name!r} is no name of a checkpoint; give a hub name or a folder")
    if isinstance(name, os.PathLike):
        return _load_folder(Path(name), device)
    if name == EMBEDDED:
        return EmbeddedEncoder()
    if _is_folder(name):
        return _load_folder(Path(name), device)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise CheckpointNotFoundError(
            f"{name!r} is neither a folder on this machine nor a hub name of the form owner/name"
        )
    pickle = name in CATALOGUE and CATALOGUE[name].pickle
    here = hub.find(name)
    if here:
        try:
            return _load_snapshot(name, here, pickle, device)
        except CorruptCheckpointError:
            pass  # downloading checks every file against the hub and fetches the broken ones again
    snapshot = hub.download(name, allow_pickle=pickle, on_progress=on_progress)
    return _load_snapshot(name, snapshot, pickle, device)


def _load_snapshot(name: str, snapshot: hub.Snapshot, pickle: bool, device: str) -> Encoder:
    from clipdemo.encoder import Origin, TransformersEncoder

    fingerprint = hashlib.sha256(f"{name}@{snapshot.revision}".encode()).hexdigest()
    origin = Origin(name, snapshot.revision, fingerprint, "hub")
    return TransformersEncoder(snapshot.folder, origin, allow_pickle=pickle, device=pick_device(device))


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


def _load_folder(folder: Path, device: str) -> Encoder:
    from clipdemo.encoder import Origin, TransformersEncoder
    from clipdemo.trained import TrainedEncoder
    from clipdemo.trained_folder import is_trained

    if not folder.is_dir():
        raise CheckpointNotFoundError(f"there is no folder {folder.name!r}")
    if is_trained(folder):
        return TrainedEncoder(folder, device=pick_device(device))
    try:
        fingerprint = _fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the files of {folder.name} cannot be read ({error.strerror})"
        ) from error
    # Visitors see the id: the folder's name, not the server's path.
    origin = Origin(folder.resolve().name, "local", fingerprint, "folder")
    return TransformersEncoder(folder, origin, device=pick_device(device))


def _is_folder(name: str) -> bool:
    return (os.sep in name or "/" in name or "." in name) and Path(name).is_dir()


def _fingerprint(folder: Path) -> str:
    """SHA-256 over the names and contents of a folder's own files: any change is another checkpoint."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
