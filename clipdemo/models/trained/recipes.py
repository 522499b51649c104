"""What a trained folder says of itself in ``config.json``, and how much its weights take; nothing heavy is loaded.

It comes from outside: names and numbers are judged here, before anything is loaded by them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdemo.errors import CorruptCheckpointError
from clipdemo.models import hub, weights
from clipdemo.models.embedded import conse
from clipdemo.models.embedded import encoder as embedded

MODEL_TYPE = "clipdemo-dual-encoder"
FORMAT = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
IMAGE_FOLDER, TEXT_FOLDER = "image_tower", "text_tower"
EMBEDDED, HUB, SAVED = "embedded", "hub", "saved"
HEADS = ("linear", "projection")
MOST_DIM = 4096


@dataclass(frozen=True)
class Reference:
    """Where a tower of a trained folder comes from.

    Attributes:
        origin: "embedded", "hub", or "saved" for one that lies in the folder.
        name: hub name; else what people called it.
        revision: hub commit; else empty.
        learned: whether its weights were trained, too, and lie in the folder.
    """

    origin: str
    name: str
    revision: str = ""
    learned: bool = False


@dataclass(frozen=True)
class Recipe:
    """What ``config.json`` says.

    Attributes:
        image_tower: where it comes from.
        text_tower: where it comes from.
        head: one of ``HEADS``.
        dim: length of an embedding.
        prior: as in ``heads.HeadConfig``; only for two embedded towers, which share a space already.
        dropout: as in ``heads.HeadConfig``.
    """

    image_tower: Reference
    text_tower: Reference
    head: str
    dim: int
    prior: bool
    dropout: float


def is_trained(folder: Path) -> bool:
    """Whether the folder says that it was written here; nothing heavy is loaded."""
    try:
        config = json.loads((folder / CONFIG).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_recipe(folder: Path) -> Recipe:
    """What a trained folder says of itself.

    Raises:
        CorruptCheckpointError: a configuration that cannot be read or used.
    """
    try:
        config: Any = json.loads((folder / CONFIG).read_text("utf-8"))
        if config["model_type"] != MODEL_TYPE or config["format"] != FORMAT:
            raise CorruptCheckpointError(
                f"{folder.name} was written by another version of clipdemo; train it again or update clipdemo"
            )
        recipe = Recipe(
            _read_reference(config["image_tower"]),
            _read_reference(config["text_tower"]),
            str(config["head"]),
            int(config["dim"]),
            config["prior"] is True,
            float(config["dropout"]),
        )
    except (OSError, ValueError, LookupError, TypeError, RecursionError, OverflowError) as error:
        raise CorruptCheckpointError(
            f"the configuration of {folder.name} cannot be read; train it again or copy it anew"
        ) from error
    embedded = recipe.image_tower.origin == recipe.text_tower.origin == EMBEDDED
    sound = (
        recipe.head in HEADS
        and 1 <= recipe.dim <= MOST_DIM
        and 0 <= recipe.dropout < 1
        and (not recipe.prior or (embedded and recipe.dim == conse.DIM))
    )
    if not sound:
        raise CorruptCheckpointError(
            f"the configuration of {folder.name} holds values that cannot be used; train it again"
        )
    return recipe


def hub_tower(
    reference: Reference,
    needs: hub.Needs,
    on_progress: Callable[[hub.Progress], None] | None = None,
    judge: Callable[[int], None] | None = None,
) -> hub.Snapshot:
    """The files of a tower from the hub, downloaded where they are not here; arguments as of ``hub.download``.

    Raises:
        CheckpointError: a tower that cannot be had.
    """
    name, revision = reference.name, reference.revision
    return hub.find(name, revision, needs=needs) or hub.download(
        name, revision=revision, needs=needs, on_progress=on_progress, judge=judge
    )


def bring_towers(
    recipe: Recipe,
    on_progress: Callable[[hub.Progress], None] | None = None,
    judge: Callable[[int], None] | None = None,
) -> None:
    """Download towers that are not on this machine; arguments and errors as of :func:`hub_tower`."""
    for reference, needs in ((recipe.image_tower, hub.IMAGES), (recipe.text_tower, hub.CAPTIONS)):
        if reference.origin == HUB and not reference.learned:
            hub_tower(reference, needs, on_progress, judge)


def weight_bytes(folder: Path, recipe: Recipe) -> int:
    """Bytes of the heads and both towers in float32; a tower whose files are not here counts as nothing."""
    image, text = recipe.image_tower, recipe.text_tower
    return (
        weights.weight_bytes(folder, 4)
        + _tower_bytes(image, folder / IMAGE_FOLDER, hub.IMAGES, embedded.IMAGE_PARAMETERS)
        + _tower_bytes(text, folder / TEXT_FOLDER, hub.CAPTIONS, embedded.TEXT_PARAMETERS)
    )


def _tower_bytes(reference: Reference, folder: Path, needs: hub.Needs, embedded: int) -> int:
    if reference.origin == EMBEDDED:
        return 4 * embedded
    if reference.origin == HUB and not reference.learned:
        here = hub.find(reference.name, reference.revision, needs=needs)
        return weights.weight_bytes(here.folder, 4) if here else 0
    return weights.weight_bytes(folder, 4)


def _read_reference(said: Any) -> Reference:
    reference = Reference(
        str(said["origin"]), str(said["name"]), str(said["revision"]), said["learned"] is True
    )
    if reference.origin not in {EMBEDDED, HUB, SAVED}:
        raise ValueError(reference.origin)
    return reference
