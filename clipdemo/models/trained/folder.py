"""Reads and writes the folder of a dual encoder that ``clipdemo train`` made.

``config.json`` names the two towers, ``model.safetensors`` has the heads. Towers that were trained and towers
that came from a folder are in ``image_tower/`` and ``text_tower/``. A folder never names a path: it can be
moved, and a hostile one cannot point to other files of this machine.
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
from clipdemo.disk import write_atomically
from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.hub import snapshot as hub
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
)
from clipdemo.models.weights import folder_fingerprint

UNTRAINED_SCALE = 1 / 0.07  # Radford et al. 2021, section 2.5
PRIOR_SCALE = 20.0  # the scale all-MiniLM-L6-v2 was trained with (train_script.py of its model card)


class DualEncoder(nn.Module):
    """Two towers and their heads."""

    def __init__(self, recipe: Recipe, image_tower: AnyImageTower, text_tower: AnyTextTower) -> None:
        super().__init__()
        self.recipe, self.image_tower, self.text_tower = recipe, image_tower, text_tower
        # With a prior the text space is good already and stays fixed: only images learn their place in it,
        # and words outside the training captions keep theirs (Zhai et al. 2022, "LiT").
        text_head = LOCKED if recipe.prior else recipe.head
        self.heads = Heads(
            HeadConfig(recipe.head, image_tower.dim, recipe.dim, recipe.prior, recipe.dropout),
            HeadConfig(text_head, text_tower.dim, recipe.dim, recipe.prior, recipe.dropout),
            PRIOR_SCALE if recipe.prior else UNTRAINED_SCALE,
        )


def open_towers(
    image: str, text: str, unfreeze: str = ""
) -> tuple[AnyImageTower, Reference, AnyTextTower, Reference]:
    """Load the towers for a training run.

    Args:
        image: "embedded", a hub name, or a folder.
        text: the same.
        unfreeze: the towers that are trained: "image", "text", "both" or "".

    Raises:
        CheckpointError: a tower does not exist or cannot be used.
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
        CorruptCheckpointError: files are broken, missing or do not fit together.
        CheckpointError: a tower cannot be loaded.
        NotEnoughMemoryError: an allocation failed.
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
            for tower, subfolder in ((model.image_tower, IMAGE_FOLDER), (model.text_tower, TEXT_FOLDER)):
                if _has_trained_weights(tower, recipe):
                    tower.load_state_dict(safetensors.torch.load_file(folder / subfolder / WEIGHTS))
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CorruptCheckpointError(
            f"the weights of {folder.name} are broken, missing or of another shape than its configuration "
            "says; train or copy it again"
        ) from error
    if not all(torch.isfinite(weight).all() for weight in model.heads.parameters()):
        raise CorruptCheckpointError(f"the weights of {folder.name} contain NaN or infinity; train it again")
    return model


def save(folder: Path, model: DualEncoder) -> None:
    """Write the model; each file is replaced atomically, ``config.json`` last.

    Raises:
        OSError: the folder is not writable; its previous content can still be read.
        SafetensorError: the same.
    """
    recipe = model.recipe
    folder.mkdir(parents=True, exist_ok=True)
    for tower, reference, subfolder in (
        (model.image_tower, recipe.image_tower, folder / IMAGE_FOLDER),
        (model.text_tower, recipe.text_tower, folder / TEXT_FOLDER),
    ):
        if isinstance(tower, ImageTower | TextTower):
            if reference.learned or (reference.origin == SAVED and not subfolder.exists()):
                _save_tower(subfolder, tower)
        elif reference.learned:
            subfolder.mkdir(exist_ok=True)
            _save_tensors(subfolder / WEIGHTS, tower)
    _save_tensors(folder / WEIGHTS, model.heads)
    config = {"model_type": MODEL_TYPE, "format": FORMAT, **asdict(recipe)}
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())


def _save_tower(folder: Path, tower: ImageTower | TextTower) -> None:
    """Write a tower to another folder first, then swap."""
    fresh = folder.with_name(folder.name + ".new")
    shutil.rmtree(fresh, ignore_errors=True)  # left by a run that was killed
    try:
        tower.save(fresh)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(fresh, folder)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _save_tensors(path: Path, module: nn.Module) -> None:
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    write_atomically(path, safetensors.torch.save(tensors))


def _find(name: str, needs: hub.Needs) -> tuple[Reference, Path]:
    """A tower's reference, and the folder with its files."""
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
    """Folder, name and fingerprint of a tower from the hub or from a folder."""
    if reference.origin == HUB and not reference.learned:
        name, snapshot = reference.name, hub_tower(reference, needs)
        return snapshot.folder, name, hashlib.sha256(f"{name}@{snapshot.revision}".encode()).hexdigest()
    if not folder.is_dir():
        raise CorruptCheckpointError(f"the folder {folder.name} with the tower {reference.name} is missing")
    try:
        return folder, reference.name, folder_fingerprint(folder)
    except OSError as error:
        raise CorruptCheckpointError(
            f"the tower {reference.name} cannot be read ({error.strerror})"
        ) from error


def _has_trained_weights(tower: nn.Module, recipe: Recipe) -> bool:
    """Whether an embedded tower was trained, so that the folder has its weights."""
    return (isinstance(tower, EmbeddedImageTower) and recipe.image_tower.learned) or (
        isinstance(tower, EmbeddedTextTower) and recipe.text_tower.learned
    )


def fingerprint(folder: Path, tower_fingerprints: Sequence[str]) -> str:
    """Changes whenever an embedding could."""
    digest = hashlib.sha256("\n".join(tower_fingerprints).encode())
    for file in (CONFIG, WEIGHTS, f"{IMAGE_FOLDER}/{WEIGHTS}", f"{TEXT_FOLDER}/{WEIGHTS}"):
        if (folder / file).is_file():
            with (folder / file).open("rb") as stream:
                digest.update(file.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
