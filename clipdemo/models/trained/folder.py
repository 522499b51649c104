"""The folder of a dual encoder that ``clipdemo train`` made: written, and read again.

It says in ``config.json`` which towers it stands on and holds the heads in ``model.safetensors``.
Towers that learned, and towers that came from a folder, lie in ``image_tower/`` and ``text_tower/``; a
folder never names a path, so it can be moved, and a hostile one leads nowhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from clipdemo import memory
from clipdemo.errors import CorruptCheckpointError
from clipdemo.models import hub
from clipdemo.models.trained.heads import LOCKED, HeadConfig, Heads
from clipdemo.models.trained.recipes import (
    CONFIG,
    EMBEDDED,
    FORMAT,
    HUB,
    IMAGE_FOLDER,
    MODEL_TYPE,
    SAVED,
    TEXT_FOLDER,
    WEIGHTS,
    Recipe,
    Reference,
    hub_tower,
    read_recipe,
)
from clipdemo.models.trained.towers import (
    AnyImageTower,
    AnyTextTower,
    EmbeddedImageTower,
    EmbeddedTextTower,
    ImageTower,
    TextTower,
    folder_fingerprint,
)

UNTRAINED_SCALE = 1 / 0.07  # Radford et al. 2021, section 2.5
PRIOR_SCALE = 20.0  # what all-MiniLM-L6-v2 was trained with (its model card's train_script.py)


class DualEncoder(nn.Module):
    """Two towers and their heads."""

    def __init__(self, recipe: Recipe, image_tower: AnyImageTower, text_tower: AnyTextTower) -> None:
        super().__init__()
        self.recipe, self.image_tower, self.text_tower = recipe, image_tower, text_tower
        # A text space that is good already stays: images learn to find their place in it, and words that no
        # pair holds keep theirs (Zhai et al. 2022, "LiT").
        image, text = (
            HeadConfig(kind, tower.dim, recipe.dim, recipe.prior, recipe.dropout)
            for kind, tower in (
                (recipe.head, image_tower),
                (LOCKED if recipe.prior else recipe.head, text_tower),
            )
        )
        self.heads = Heads(image, text, PRIOR_SCALE if recipe.prior else UNTRAINED_SCALE)


def open_towers(
    image: str, text: str, unfreeze: str = ""
) -> tuple[AnyImageTower, Reference, AnyTextTower, Reference]:
    """Two towers by name: "embedded", a hub name, or a folder; ``unfreeze`` ("image", "text", "both") says which learn.

    Raises:
        CheckpointError: no such tower, or one that cannot be used.
    """
    image_reference, image_folder = _find(image, hub.IMAGES)
    text_reference, text_folder = _find(text, hub.CAPTIONS)
    image_reference = replace(image_reference, learned=unfreeze in {"image", "both"})
    text_reference = replace(text_reference, learned=unfreeze in {"text", "both"})
    return (
        _image_tower(image_reference, image_folder),
        image_reference,
        _text_tower(text_reference, text_folder),
        text_reference,
    )


def load(folder: Path) -> DualEncoder:
    """The model of a trained folder.

    Raises:
        CorruptCheckpointError: files that are broken, missing or do not fit together.
        CheckpointError: a tower that cannot be had.
        NotEnoughMemoryError: the system gives no more memory.
    """
    recipe = read_recipe(folder)
    model = DualEncoder(
        recipe,
        _image_tower(recipe.image_tower, folder / IMAGE_FOLDER),
        _text_tower(recipe.text_tower, folder / TEXT_FOLDER),
    )
    try:
        with memory.translate_memory_errors(folder.name):
            model.heads.load_state_dict(safetensors.torch.load_file(folder / WEIGHTS))
            for tower, place in ((model.image_tower, IMAGE_FOLDER), (model.text_tower, TEXT_FOLDER)):
                if _has_own_weights(tower, recipe):
                    tower.load_state_dict(safetensors.torch.load_file(folder / place / WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptCheckpointError(
            f"the weights of {folder.name} are broken, missing or of another shape than its configuration says; "
            "train it again or copy it anew"
        ) from error
    if not all(torch.isfinite(weight).all() for weight in model.heads.parameters()):
        raise CorruptCheckpointError(f"the weights of {folder.name} are not all numbers; train it again")
    return model


def save(folder: Path, model: DualEncoder) -> None:
    """Write the model; each file takes its place at once, ``config.json`` last.

    Raises:
        OSError: the folder cannot be written; what it held before can still be read.
        SafetensorError: the same.
    """
    recipe = model.recipe
    folder.mkdir(parents=True, exist_ok=True)
    for tower, reference, place in (
        (model.image_tower, recipe.image_tower, folder / IMAGE_FOLDER),
        (model.text_tower, recipe.text_tower, folder / TEXT_FOLDER),
    ):
        if isinstance(tower, ImageTower | TextTower):
            if reference.learned or (reference.origin == SAVED and not place.exists()):
                _save_tower(place, tower)
        elif reference.learned:
            place.mkdir(exist_ok=True)
            _save_tensors(place / WEIGHTS, tower)
    _save_tensors(folder / WEIGHTS, model.heads)
    config = {"model_type": MODEL_TYPE, "format": FORMAT, **asdict(recipe)}
    write(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def write(path: Path, data: bytes) -> None:
    """Write a file that takes its place at once or not at all; it outlasts a power cut."""
    fresh = path.with_name(path.name + ".new")
    with fresh.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)


def _save_tower(place: Path, tower: ImageTower | TextTower) -> None:
    """Whole or not at all."""
    fresh = place.with_name(place.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)  # of a run that was killed
    tower.save(fresh)
    shutil.rmtree(place, ignore_errors=True)
    os.replace(fresh, place)


def _save_tensors(path: Path, module: nn.Module) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write(path, safetensors.torch.save(tensors))


def _find(name: str, needs: hub.Needs) -> tuple[Reference, Path]:
    """A tower's reference, and the folder its files lie in now."""
    if name == EMBEDDED:
        return Reference(EMBEDDED, name), Path()
    if Path(name).is_dir():
        return Reference(SAVED, Path(name).resolve().name), Path(name)
    snapshot = hub.find(name, needs=needs) or hub.download(name, needs=needs)
    return Reference(HUB, name, snapshot.revision), snapshot.folder


def _image_tower(reference: Reference, folder: Path) -> AnyImageTower:
    if reference.origin == EMBEDDED:
        return EmbeddedImageTower(learned=reference.learned)
    return ImageTower(*_files(reference, folder, hub.IMAGES))


def _text_tower(reference: Reference, folder: Path) -> AnyTextTower:
    if reference.origin == EMBEDDED:
        return EmbeddedTextTower()
    return TextTower(*_files(reference, folder, hub.CAPTIONS))


def _files(reference: Reference, folder: Path, needs: hub.Needs) -> tuple[Path, str, str]:
    """Folder, name and fingerprint of a tower that is not embedded."""
    if reference.origin == HUB and not reference.learned:
        name, here = reference.name, hub_tower(reference, needs)
        return here.folder, name, hashlib.sha256(f"{name}@{here.revision}".encode()).hexdigest()
    if not folder.is_dir():
        raise CorruptCheckpointError(f"the folder {folder.name} with the tower {reference.name} is missing")
    try:
        return folder, reference.name, folder_fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the tower {reference.name} cannot be read ({error.strerror})"
        ) from error


def _has_own_weights(tower: nn.Module, recipe: Recipe) -> bool:
    """Whether an embedded tower's weights were trained and lie in the folder."""
    return (isinstance(tower, EmbeddedImageTower) and recipe.image_tower.learned) or (
        isinstance(tower, EmbeddedTextTower) and recipe.text_tower.learned
    )


def fingerprint(folder: Path, towers: Sequence[str]) -> str:
    """Changes whenever an embedding could.

    Args:
        folder: of the checkpoint.
        towers: fingerprints of its towers.
    """
    digest = hashlib.sha256("\n".join(towers).encode())
    for file in (CONFIG, WEIGHTS, f"{IMAGE_FOLDER}/{WEIGHTS}", f"{TEXT_FOLDER}/{WEIGHTS}"):
        if (folder / file).is_file():
            with (folder / file).open("rb") as stream:
                digest.update(file.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
