"""The configuration of a trained folder, its validation, and the size of its weights; imports no framework.

A folder may come from anybody: its names and numbers are validated here before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipdemo.errors import CorruptCheckpointError
from clipdemo.models import weights
from clipdemo.models.embedded import conse
from clipdemo.models.embedded import towers as embedded_towers
from clipdemo.models.hub import snapshot as hub
from clipdemo.models.hub.transfer import Progress
from clipdemo.models.json_files import read_json

MODEL_TYPE = "clipdemo-dual-encoder"
FORMAT = 2
CONFIG, WEIGHTS = "config.json", "model.safetensors"
IMAGE_FOLDER, TEXT_FOLDER = "image_tower", "text_tower"
EMBEDDED, HUB, SAVED = "embedded", "hub", "saved"
HEADS = ("linear", "projection")
MAX_DIM = 4096


@dataclass(frozen=True)
class Reference:
    """Where a tower of a trained folder comes from.

    Attributes:
        origin: "embedded", "hub", or "saved" if the folder has its files.
        name: hub name, or a label.
        revision: hub commit, or empty.
        learned: whether it was trained, so that the folder has its weights.
    """

    origin: str
    name: str
    revision: str = ""
    learned: bool = False


@dataclass(frozen=True)
class Recipe:
    """The content of ``config.json``.

    Attributes:
        head: one of ``HEADS``.
        dim: length of an embedding.
        prior: as in ``heads.HeadConfig``; only for two embedded towers, which share a space before training.
        dropout: as in ``heads.HeadConfig``.
    """

    image_tower: Reference
    text_tower: Reference
    head: str
    dim: int
    prior: bool
    dropout: float


def is_trained(folder: Path) -> bool:
    """Whether ``config.json`` says that ``clipdemo train`` wrote the folder."""
    try:
        config = read_json(folder / CONFIG)
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == MODEL_TYPE


def read_recipe(folder: Path) -> Recipe:
    """Read and validate the configuration of a trained folder.

    Raises:
        CorruptCheckpointError: it cannot be read, or has values that cannot be used.
    """
    try:
        config: Any = read_json(folder / CONFIG)
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
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as error:
        raise CorruptCheckpointError(
            f"the configuration of {folder.name} cannot be read; train or copy it again"
        ) from error
    both_embedded = recipe.image_tower.origin == recipe.text_tower.origin == EMBEDDED
    valid = (
        recipe.head in HEADS
        and 1 <= recipe.dim <= MAX_DIM
        and 0 <= recipe.dropout < 1
        and (not recipe.prior or (both_embedded and recipe.dim == conse.DIM))
    )
    if not valid:
        raise CorruptCheckpointError(
            f"the configuration of {folder.name} has values that cannot be used; train it again"
        )
    return recipe


def hub_tower(
    reference: Reference,
    needs: hub.Needs,
    on_progress: Callable[[Progress], None] | None = None,
    check_size: Callable[[int], None] | None = None,
) -> hub.Snapshot:
    """The files of a tower from the hub, downloaded unless cached; arguments as of ``hub.download``.

    Raises:
        CheckpointError: the tower is neither in the cache nor on the hub.
    """
    name, revision = reference.name, reference.revision
    return hub.find(name, revision, needs=needs) or hub.download(
        name, revision=revision, needs=needs, on_progress=on_progress, check_size=check_size
    )


def download_towers(
    recipe: Recipe,
    on_progress: Callable[[Progress], None] | None = None,
    check_size: Callable[[int], None] | None = None,
) -> None:
    """Download the towers that are not in the cache; arguments and errors as of :func:`hub_tower`."""
    for reference, needs in ((recipe.image_tower, hub.IMAGES), (recipe.text_tower, hub.CAPTIONS)):
        if reference.origin == HUB and not reference.learned:
            hub_tower(reference, needs, on_progress, check_size)


def weight_bytes(folder: Path, recipe: Recipe) -> int:
    """Bytes of the heads and both towers in float32; a tower that is not downloaded yet counts as 0."""
    image, text = recipe.image_tower, recipe.text_tower
    return (
        weights.weight_bytes(folder, 4)
        + _tower_bytes(image, folder / IMAGE_FOLDER, hub.IMAGES, embedded_towers.IMAGE_PARAMETERS)
        + _tower_bytes(text, folder / TEXT_FOLDER, hub.CAPTIONS, embedded_towers.TEXT_PARAMETERS)
    )


def _tower_bytes(reference: Reference, folder: Path, needs: hub.Needs, embedded_parameters: int) -> int:
    if reference.origin == EMBEDDED:
        return 4 * embedded_parameters
    if reference.origin == HUB and not reference.learned:
        snapshot = hub.find(reference.name, reference.revision, needs=needs)
        return weights.weight_bytes(snapshot.folder, 4) if snapshot else 0
    return weights.weight_bytes(folder, 4)


def _read_reference(entry: Any) -> Reference:
    reference = Reference(
        str(entry["origin"]), str(entry["name"]), str(entry["revision"]), entry["learned"] is True
    )
    if reference.origin not in {EMBEDDED, HUB, SAVED}:
        raise ValueError(reference.origin)
    return reference
