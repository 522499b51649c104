"""A whole run of ``clipdemo train``: table in, checkpoint folder out, with its figures and its card."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdemo.audit.footprint import ProgressCallback
from clipdemo.errors import FileMissingError, SettingError, TableError
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import Limits
from clipdemo.models.load import pick_device
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained import folder as trained_folder
from clipdemo.models.trained import recipes
from clipdemo.models.trained.towers import AnyTextTower
from clipdemo.scoring.retrieval import Evaluation, evaluate
from clipdemo.tables.table import Table, open_table
from clipdemo.train import card, finetune, state
from clipdemo.train.dataset import Pairs, read_pairs
from clipdemo.train.features import FeatureCache
from clipdemo.train.learner import DualLearner, Learner, Photographs
from clipdemo.train.loop import History, Progress, Settings, embed, train, translate_step_memory_errors
from clipdemo.types import ImageItem

METRICS = "metrics.json"
DIM = 256  # of a new shared space
DROPOUT = 0.1
# Of the features before one matrix that starts as ConSE: on 1,024 photographs, less of it learned them by heart
# after two epochs (docs/training.md).
PRIOR_DROPOUT = 0.8
CAPTION_BATCH = 256  # between two writes
MOST_TO_STANDARDISE = 2000
# Many pairs at once are many negatives; a tower that learns needs memory for each of them.
FROZEN = Settings(epochs=30, batch_size=256, learning_rate=1e-3, seed=0)
LEARNING = Settings(epochs=10, batch_size=32, learning_rate=1e-3, seed=0)
FINE_TUNING = Settings(epochs=5, batch_size=32, learning_rate=1e-4, seed=0, patience=3)


@dataclass(frozen=True)
class TrainRun:
    """What to do; None where the default is to be taken.

    Attributes:
        table: the file with the pairs.
        output: the folder to make.
        images: folder that image paths of the table start from.
        image_tower: "embedded", a hub name or a folder.
        text_tower: "embedded", a hub name or a folder.
        head: "linear" or "projection".
        unfreeze: "", "image", "text" or "both".
        base: a CLIP or SigLIP checkpoint to fine-tune instead of joining two towers.
        adapt: "heads" or "lora", of the base; empty without one.
        epochs: as in ``loop.Settings``.
        batch_size: as in ``loop.Settings``.
        learning_rate: as in ``loop.Settings``.
        seed: as in ``loop.Settings``, and of the split.
        device: "auto", "cpu" or "cuda".
        resume: go on with a run that was stopped.
        command: as it was typed, for the card.
    """

    table: Path
    output: Path
    images: Path
    image_tower: str
    text_tower: str
    head: str
    unfreeze: str
    base: str | None
    adapt: str
    epochs: int | None
    batch_size: int | None
    learning_rate: float | None
    seed: int
    device: str
    resume: bool
    command: str

    @property
    def settings(self) -> Settings:
        """With the defaults that fit what learns."""
        usual = FINE_TUNING if self.base else LEARNING if self.unfreeze else FROZEN
        return Settings(
            self.epochs or usual.epochs,
            self.batch_size or usual.batch_size,
            self.learning_rate or usual.learning_rate,
            self.seed,
            patience=usual.patience,
        )


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Attributes:
        folder: the checkpoint.
        history: of the run.
        figures: split -> retrieval figures of the weights that were kept, among that split alone.
        seconds: of this run; a resumed run counts only its own.
        device: where it ran.
        pairs: what it learned from.
    """

    folder: str
    history: History
    figures: dict[str, Evaluation]
    seconds: float
    device: str
    pairs: Pairs

    def as_dict(self) -> dict[str, Any]:
        """Every figure."""
        pairs = self.pairs
        return {
            "folder": self.folder,
            "best_epoch": self.history.best,
            "validation_recall": self.history.recall,
            "seconds": round(self.seconds, 2),
            "device": self.device,
            "images": {split: pairs.image_count(split) for split in ("train", "val", "test")},
            "pairs": {split: len(pairs.of(split)) for split in ("train", "val", "test")},
            "left_out": dict(pairs.left_out),
            "notes": [*pairs.notes, *self.history.notes],
            "figures": {split: figures.as_dict() for split, figures in self.figures.items()},
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
        }


def run_training(wanted: TrainRun, show: Callable[[Progress], None], reading: ProgressCallback) -> Trained:
    """Train on a table and write the checkpoint's folder.

    Args:
        wanted: what to do.
        show: told after every step.
        reading: told of images read, and encoded where they never were.

    Raises:
        ClipdemoError: one of its children: a table, a tower or a folder that cannot be used, or a run that
            cannot go on. What was learned by then is kept.
    """
    started = time.perf_counter()
    table = _open(wanted)
    device = torch.device(pick_device(wanted.device))
    settings = wanted.settings
    torch.manual_seed(settings.seed)
    join = _fine_tuned if wanted.base else _joined
    learner, pairs, origin = join(wanted, table, device, reading)
    about = {
        "table or images": pairs.fingerprint,
        "model": origin,
        "version of the model's files": learner.fingerprint,
        "head": wanted.head,
        "what learns": wanted.unfreeze or wanted.adapt or "the heads alone",
        "device": device.type,
        **{name.replace("_", " "): str(value) for name, value in asdict(settings).items()},
    }
    history = train(learner, pairs, settings, wanted.output, about, show)
    with translate_step_memory_errors(settings, wanted.output, history.best):
        figures = {
            split: evaluate(*embed(learner, pairs.of(split), settings.batch_size))
            for split in ("val", "test")
            if pairs.image_count(split)
        }
    done = Trained(
        printable_name(str(wanted.output)),
        history,
        figures,
        time.perf_counter() - started,
        device.type,
        pairs,
    )
    with state.writing(wanted.output):
        write = trained_folder.write_atomically
        write(wanted.output / METRICS, (json.dumps(done.as_dict(), indent=2) + "\n").encode())
        write(wanted.output / card.CURVES, card.curves_png(history))
        text = card.card_text(wanted.command, origin, settings, done.as_dict(), dict(pairs.licences))
        write(wanted.output / card.CARD, text.encode())
    state.end(wanted.output)
    return done


def _open(wanted: TrainRun) -> Table:
    """The table, once it is sure that there is something to do and a place for what comes of it."""
    if wanted.base and (
        wanted.unfreeze or (wanted.image_tower, wanted.text_tower) != ("embedded", "embedded")
    ):
        raise SettingError(
            "--from takes a whole checkpoint; leave --image-tower, --text-tower and --unfreeze out"
        )
    if wanted.adapt and not wanted.base:
        raise SettingError(
            "--adapt belongs to --from; name the checkpoint to fine-tune, or leave --adapt out"
        )
    if not wanted.table.is_file():
        raise TableError(f"there is no table {wanted.table}")
    if not wanted.images.is_dir():
        raise FileMissingError(f"there is no folder of images {wanted.images}")
    state.check(wanted.output, resume=wanted.resume)
    return open_table(printable_name(wanted.table.name), lambda: wanted.table.open("rb"))


def _joined(
    wanted: TrainRun, table: Table, device: torch.device, reading: ProgressCallback
) -> tuple[Learner, Pairs, str]:
    """Two towers with new heads, their pairs, and where the towers come from."""
    image_tower, image_from, text_tower, text_from = trained_folder.open_towers(
        wanted.image_tower, wanted.text_tower, wanted.unfreeze
    )
    prior = image_from.origin == text_from.origin == recipes.EMBEDDED
    recipe = recipes.Recipe(
        image_from,
        text_from,
        wanted.head,
        text_tower.dim if prior else DIM,
        prior,
        PRIOR_DROPOUT if prior and wanted.head == "linear" else DROPOUT,
    )
    model = trained_folder.DualEncoder(recipe, image_tower, text_tower).eval().to(device)
    limits = Limits.from_environment()
    kept = None if recipe.image_tower.learned else FeatureCache(image_tower.fingerprint, image_tower.dim)

    def take(items: Sequence[ImageItem]) -> None:
        if kept is not None:
            rows = tower_features.image_features(image_tower, items, device).cpu().numpy()
            kept.add({item.sha256: row for item, row in zip(items, rows, strict=True)})

    locate, known = folder_locator(wanted.images, limits), kept.known if kept else set[str]()
    pairs = read_pairs(table, locate, limits, wanted.seed, known, take, reading)
    images = None
    if kept:
        images = torch.from_numpy(kept.rows(pairs.sha256)).to(device)
        kept.close()
    captions = None if recipe.text_tower.learned else _caption_features(text_tower, pairs.captions, device)
    photographs = Photographs(pairs.images, limits, wanted.seed)
    learner = DualLearner(model, images, captions, photographs, pairs.captions)
    _standardise(learner, pairs)
    names = (f"{each.name}{'@' + each.revision if each.revision else ''}" for each in (image_from, text_from))
    return learner, pairs, " and ".join(names)


def _fine_tuned(
    wanted: TrainRun, table: Table, device: torch.device, reading: ProgressCallback
) -> tuple[Learner, Pairs, str]:
    """A checkpoint of the CLIP or SigLIP family that goes on learning, its pairs, and its name."""
    limits = Limits.from_environment()
    base = finetune.open_base(wanted.base or "")
    locate = folder_locator(wanted.images, limits)
    pairs = read_pairs(table, locate, limits, wanted.seed, set(), lambda items: None, reading)
    photographs = Photographs(pairs.images, limits, wanted.seed)
    learner = finetune.WholeLearner(base, wanted.adapt, photographs, pairs.captions, device)
    return learner, pairs, f"{base.checkpoint.id}@{base.checkpoint.revision}"


def _caption_features(tower: AnyTextTower, captions: Sequence[str], device: torch.device) -> Tensor:
    """(len(captions), dim) features, from disk where they are known."""
    cache = FeatureCache(tower.fingerprint, tower.dim)
    keys = [hashlib.sha256(caption.encode()).hexdigest() for caption in captions]
    new = {key: text for key, text in zip(keys, captions, strict=True) if key not in cache.known}
    by_length = sorted(new, key=lambda key: (len(new[key]), key))  # a batch is as wide as its longest
    for start in range(0, len(by_length), CAPTION_BATCH):
        some = by_length[start : start + CAPTION_BATCH]
        rows = tower_features.caption_features(tower, [new[key] for key in some], device).cpu().numpy()
        cache.add(dict(zip(some, rows, strict=True)))
    found = cache.rows(keys)
    cache.close()
    return torch.from_numpy(found).to(device)


def _standardise(learner: DualLearner, pairs: Pairs) -> None:
    """Tell the heads how features of the training split are spread; some are enough."""
    training = pairs.of("train")
    images, captions = (np.unique(training[:, side])[:MOST_TO_STANDARDISE] for side in (0, 1))
    learner.begin_validation()
    with torch.inference_mode():
        learner.model.heads.image.fit(learner.image_rows(images))
        learner.model.heads.caption.fit(learner.caption_rows(captions))
