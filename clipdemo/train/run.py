"""A whole run of ``clipdemo train``: from a table to a checkpoint folder with figures and a model card."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from clipdemo.audit.footprint import ProgressCallback
from clipdemo.disk import write_atomically
from clipdemo.errors import FileMissingError, SettingError, TableError
from clipdemo.images.locate import folder_locator, printable_name
from clipdemo.limits import Limits
from clipdemo.models.load import pick_device
from clipdemo.models.trained import features as tower_features
from clipdemo.models.trained import folder as trained_folder
from clipdemo.models.trained import recipes
from clipdemo.regular import open_regular
from clipdemo.scoring.retrieval import Evaluation, evaluate
from clipdemo.tables.table import Table, open_table
from clipdemo.train import card, finetune, state
from clipdemo.train.dataset import ImageReader, Pairs, read_pairs
from clipdemo.train.features import caption_features, image_cache
from clipdemo.train.learner import DualLearner, Learner, TrainingImages
from clipdemo.train.loop import History, Progress, Settings, embed, train, translate_step_memory_errors
from clipdemo.types import ImageItem

METRICS = "metrics.json"
DIM = 256  # of a new shared space
DROPOUT = 0.1
# Of the input features where the image head starts as ConSE: with less, 1,024 photographs were overfitted
# after two epochs (docs/training.md).
PRIOR_DROPOUT = 0.8
MAX_TO_STANDARDISE = 2000
# Large batches have many negatives; a trained tower needs memory for each pair.
FROZEN = Settings(epochs=30, batch_size=256, learning_rate=1e-3, seed=0)
UNFROZEN = Settings(epochs=10, batch_size=32, learning_rate=1e-3, seed=0)
FINE_TUNING = Settings(epochs=5, batch_size=32, learning_rate=1e-4, seed=0, patience=3)


@dataclass(frozen=True)
class TrainOptions:
    """The options of a run.

    Attributes:
        table: file with the pairs.
        output: folder to create.
        images: folder that relative image paths start from.
        image_tower: "embedded", a hub name or a folder.
        text_tower: "embedded", a hub name or a folder.
        head: "linear" or "projection".
        unfreeze: "", "image", "text" or "both".
        base: CLIP or SigLIP checkpoint to fine-tune; None to train two towers with new heads.
        adapt: "heads" or "lora"; "" without a base.
        epochs: None for the default, as for the next two.
        batch_size: pairs per step.
        learning_rate: the peak.
        seed: of the split, the batch order, dropout and new weights.
        device: "auto", "cpu" or "cuda".
        resume: continue an interrupted run.
        command: the command line, for the model card.
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
        """The hyperparameters, with defaults that suit what is trained."""
        defaults = FROZEN
        if self.base:
            defaults = FINE_TUNING
        elif self.unfreeze:
            defaults = UNFROZEN
        return Settings(
            self.epochs or defaults.epochs,
            self.batch_size or defaults.batch_size,
            self.learning_rate or defaults.learning_rate,
            self.seed,
            patience=defaults.patience,
        )


@dataclass(frozen=True)
class TrainingResult:
    """The result of a run.

    Attributes:
        folder: path of the checkpoint.
        history: of the whole run, also if it was resumed.
        evaluations: split -> retrieval figures of the kept weights, searched within the split.
        seconds: of this process; without those before a resume.
        device: where the model was trained.
        pairs: the training data.
    """

    folder: str
    history: History
    evaluations: dict[str, Evaluation]
    seconds: float
    device: str
    pairs: Pairs

    def as_dict(self) -> dict[str, Any]:
        """Return everything but the data, ready for JSON."""
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
            "figures": {split: evaluation.as_dict() for split, evaluation in self.evaluations.items()},
            "epochs": [asdict(epoch) for epoch in self.history.epochs],
        }


def run_training(
    options: TrainOptions, show: Callable[[Progress], None], progress: ProgressCallback
) -> TrainingResult:
    """Train on a table and write the checkpoint folder.

    Args:
        options: of the run.
        show: called after each step.
        progress: called with the number of images read before training; new ones are encoded, too.

    Raises:
        ClipdemoError: an unusable table, tower or folder, or a failed run. The best weights so far are kept.
    """
    table = _open_table(options)
    with state.claim_output(options.output, resume=options.resume):
        return _train(options, table, show, progress)


def _train(
    options: TrainOptions, table: Table, show: Callable[[Progress], None], progress: ProgressCallback
) -> TrainingResult:
    started = time.perf_counter()
    device = torch.device(pick_device(options.device))
    settings = options.settings
    torch.manual_seed(settings.seed)
    prepare = _prepare_fine_tuning if options.base else _prepare_towers
    learner, pairs, origin = prepare(options, table, device, progress)
    identity = {
        "table or images": pairs.fingerprint,
        "model": origin,
        "version of the model's files": learner.fingerprint,
        "head": options.head,
        "what learns": options.unfreeze or options.adapt or "the heads alone",
        "device": device.type,
        **{name.replace("_", " "): str(value) for name, value in asdict(settings).items()},
    }
    history = train(learner, pairs, settings, options.output, identity, show)
    with translate_step_memory_errors(settings, options.output, history.best):
        evaluations = {
            split: evaluate(*embed(learner, pairs.of(split), settings.batch_size))
            for split in ("val", "test")
            if pairs.image_count(split)
        }
    result = TrainingResult(
        printable_name(str(options.output)),
        history,
        evaluations,
        time.perf_counter() - started,
        device.type,
        pairs,
    )
    _write_results(options, origin, result)
    return result


def _open_table(options: TrainOptions) -> Table:
    """Check the options, then open the table."""
    towers = options.image_tower, options.text_tower
    if options.base and (options.unfreeze or towers != ("embedded", "embedded")):
        raise SettingError("--from takes a whole checkpoint; omit --image-tower, --text-tower and --unfreeze")
    if options.adapt and not options.base:
        raise SettingError("--adapt requires --from; name the checkpoint to fine-tune, or omit --adapt")
    if not options.table.exists():
        raise TableError(f"there is no table {options.table}")
    if not options.images.is_dir():
        raise FileMissingError(f"there is no folder of images {options.images}")
    return open_table(printable_name(options.table.name), lambda: open_regular(options.table))


def _write_results(options: TrainOptions, origin: str, result: TrainingResult) -> None:
    """Write metrics, curves and model card, then delete the state."""
    figures = result.as_dict()
    with state.translate_write_errors(options.output):
        write_atomically(options.output / METRICS, (json.dumps(figures, indent=2) + "\n").encode())
        write_atomically(options.output / card.CURVES, card.curves_png(result.history))
        text = card.card_text(options.command, origin, options.settings, figures, dict(result.pairs.licences))
        write_atomically(options.output / card.CARD, text.encode())
    state.remove_state(options.output)


def _prepare_towers(
    options: TrainOptions, table: Table, device: torch.device, progress: ProgressCallback
) -> tuple[Learner, Pairs, str]:
    """Return two towers with new heads, their pairs, and the names of the towers."""
    image_tower, image_reference, text_tower, text_reference = trained_folder.open_towers(
        options.image_tower, options.text_tower, options.unfreeze
    )
    prior = image_reference.origin == text_reference.origin == recipes.EMBEDDED
    recipe = recipes.Recipe(
        image_reference,
        text_reference,
        options.head,
        text_tower.dim if prior else DIM,
        prior,
        PRIOR_DROPOUT if prior and options.head == "linear" else DROPOUT,
    )
    model = trained_folder.DualEncoder(recipe, image_tower, text_tower).eval().to(device)
    limits = Limits.from_environment()
    locate = folder_locator(options.images, limits)
    if recipe.image_tower.learned:
        image_features = None
        pairs = read_pairs(table, ImageReader(locate, limits, progress), options.seed)
    else:
        cache = image_cache(image_tower)

        def encode(items: Sequence[ImageItem]) -> None:
            rows = tower_features.image_features(image_tower, items, device).cpu().numpy()
            cache.add({item.sha256: row for item, row in zip(items, rows, strict=True)})

        reader = ImageReader(locate, limits, progress, cache.known, encode, image_tower.view)
        pairs = read_pairs(table, reader, options.seed)
        image_features = torch.from_numpy(cache.rows(pairs.sha256)).to(device)
        cache.close()
    caption_rows = None if recipe.text_tower.learned else caption_features(text_tower, pairs.captions, device)
    images = TrainingImages(pairs.images, limits, options.seed)
    learner = DualLearner(model, image_features, caption_rows, images, pairs.captions)
    _standardise(learner, pairs)
    names = (
        f"{reference.name}@{reference.revision}" if reference.revision else reference.name
        for reference in (image_reference, text_reference)
    )
    return learner, pairs, " and ".join(names)


def _prepare_fine_tuning(
    options: TrainOptions, table: Table, device: torch.device, progress: ProgressCallback
) -> tuple[Learner, Pairs, str]:
    """Return a CLIP or SigLIP checkpoint to fine-tune, its pairs, and its name."""
    limits = Limits.from_environment()
    base = finetune.open_base(options.base or "")
    reader = ImageReader(folder_locator(options.images, limits), limits, progress)
    pairs = read_pairs(table, reader, options.seed)
    images = TrainingImages(pairs.images, limits, options.seed)
    learner = finetune.FineTuneLearner(base, options.adapt, images, pairs.captions, device)
    return learner, pairs, f"{base.checkpoint.id}@{base.checkpoint.revision}"


def _standardise(learner: DualLearner, pairs: Pairs) -> None:
    """Fit the heads' mean and deviation to features of a part of the training split."""
    training = pairs.of("train")
    images, captions = (np.unique(training[:, side])[:MAX_TO_STANDARDISE] for side in (0, 1))
    learner.begin_validation()
    with torch.inference_mode():
        learner.model.heads.image.fit(learner.image_features(images))
        learner.model.heads.caption.fit(learner.caption_features(captions))
