"""The training loop: AdamW, warm-up and cosine decay, early stopping on validation recall.

A run may be interrupted at any moment, even killed: its state is saved regularly, and a resumed run takes the
same steps as an uninterrupted one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from clipdemo.errors import TrainingError
from clipdemo.scoring import retrieval
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.train.dataset import Pairs
from clipdemo.train.learner import Learner
from clipdemo.train.loss import same_content
from clipdemo.train.state import RunFolder, best_weights_note

SAVE_SECONDS = 30.0  # between saves within an epoch: the most work that is repeated after an interruption
VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Settings:
    """Hyperparameters.

    Attributes:
        epochs: maximum number of passes over the training pairs.
        batch_size: maximum pairs per step.
        learning_rate: the peak.
        seed: of the batch order, dropout and image augmentation.
        weight_decay: of matrices; other parameters have none.
        warm_up: fraction of all steps before the peak learning rate.
        clip_norm: maximum norm of the gradient.
        patience: epochs without a better validation recall before training stops.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    weight_decay: float = 0.1
    warm_up: float = 0.1
    clip_norm: float = 1.0
    patience: int = 10


@dataclass(frozen=True)
class Progress:
    """The progress after a step; ``recall`` is that of the last validation, None before the first."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    temperature: float
    pairs_per_second: float
    seconds_left: float
    recall: float | None


@dataclass(frozen=True)
class Epoch:
    """One epoch: its mean loss, and the temperature and mean validation recall at its end."""

    epoch: int
    loss: float
    temperature: float
    recall: float


@dataclass(frozen=True)
class History:
    """All epochs, the number of the one whose weights were kept, and notes on the run."""

    epochs: tuple[Epoch, ...]
    best: int
    notes: tuple[str, ...] = ()

    @property
    def recall(self) -> float:
        """Mean validation recall of the kept weights."""
        return max((epoch.recall for epoch in self.epochs if epoch.epoch == self.best), default=0.0)


def train(
    learner: Learner,
    pairs: Pairs,
    settings: Settings,
    folder: Path,
    identity: Mapping[str, str],
    show: Callable[[Progress], None],
) -> History:
    """Train, or resume training, and leave the weights of the best epoch in ``learner`` and ``folder``.

    Args:
        learner: on its device.
        pairs: to train and validate on.
        settings: hyperparameters.
        folder: receives checkpoint, log and state.
        identity: what a resumed run must share with the run it continues.
        show: called after each step.

    Raises:
        LedgerError: the state in the folder belongs to another run, or is broken.
        OutputError: the folder cannot be written.
        TrainingError: the loss is NaN or infinite, or memory is short; the best weights so far are in
            ``folder``.
    """
    training, validation = pairs.of("train"), pairs.of("val")
    epoch_steps = math.ceil(len(training) / settings.batch_size)
    steps = epoch_steps * settings.epochs
    torch.manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(
        learner.parameter_groups(settings.learning_rate),
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps, settings.warm_up)
    )
    run = RunFolder(folder, identity, learner, optimiser, schedule)
    run.begin()
    state, started, first_step = run.state, time.perf_counter(), run.state.step

    while state.epoch < settings.epochs and state.epoch - state.best < settings.patience:
        order = np.random.default_rng([settings.seed, state.epoch]).permutation(len(training))
        batches = np.array_split(order, epoch_steps)
        learner.begin_epoch(state.epoch)
        for batch in batches[state.step - state.epoch * epoch_steps :]:
            loss = _step(run, training[batch], settings)
            rate = (state.step - first_step) / (time.perf_counter() - started)
            progress = Progress(
                epoch=state.epoch + 1,
                epochs=settings.epochs,
                step=state.step,
                steps=steps,
                loss=loss,
                temperature=_temperature(learner),
                pairs_per_second=rate * len(training) / epoch_steps,
                seconds_left=(steps - state.step) / rate,
                recall=state.history[-1]["recall"] if state.history else None,
            )
            run.log({**asdict(progress), "learning_rate": schedule.get_last_lr()[0]})
            show(progress)
            if time.perf_counter() - run.saved_at > SAVE_SECONDS and state.step % epoch_steps:
                run.save()
        with translate_step_memory_errors(settings, folder, state.best):
            recall = retrieval.mean_recall(*embed(learner, validation, settings.batch_size))
        epoch = Epoch(state.epoch + 1, state.loss_sum / epoch_steps, _temperature(learner), recall)
        run.log({"validation": asdict(epoch)})
        state.history.append(asdict(epoch))
        state.epoch, state.loss_sum = epoch.epoch, 0.0
        if recall > state.best_recall:
            run.save_best(recall)
        run.save()

    run.finish()
    learner.begin_validation()
    return History(tuple(Epoch(**epoch) for epoch in state.history), state.best, _thread_note(state.threads))


def learning_rate_factor(step: int, steps: int, warm_up: float) -> float:
    """Return the fraction of the peak learning rate: linear warm-up, then half a cosine.

    Args:
        step: completed steps.
        steps: of the whole run.
        warm_up: fraction of the steps.
    """
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, steps - rising))))


def embed(learner: Learner, pairs: IntArray, batch_size: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Embed the images and captions of some pairs for validation.

    Args:
        learner: on its device.
        pairs: (n, 2) indices of images and captions.
        batch_size: of training, so that validation fits into memory if a step does; capped at
            VALIDATION_BATCH.

    Returns:
        Unit rows of the distinct images, those of the distinct captions, and (n, 2) the pairs as indices of
        these rows.
    """
    learner.begin_validation()
    images, image_of = np.unique(pairs[:, 0], return_inverse=True)
    captions, caption_of = np.unique(pairs[:, 1], return_inverse=True)
    batch_size = min(batch_size, VALIDATION_BATCH)
    return (
        _in_batches(learner.embed_images, images, batch_size),
        _in_batches(learner.embed_captions, captions, batch_size),
        np.stack([image_of, caption_of], axis=1),
    )


@contextmanager
def translate_step_memory_errors(settings: Settings, folder: Path, best: int) -> Iterator[None]:
    """Turn failed allocations into a :class:`TrainingError`.

    Args:
        settings: of the run.
        folder: of the run.
        best: the epoch whose weights are in ``folder``, or 0.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # On the CPU torch reports a failed allocation as a plain RuntimeError.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"not enough memory for {settings.batch_size} pairs per step; use a smaller --batch-size"
            + best_weights_note(folder, best)
        ) from error


def _step(run: RunFolder, batch: IntArray, settings: Settings) -> float:
    """Take one step on (n, 2) pairs and return the loss."""
    learner, state = run.learner, run.state
    with translate_step_memory_errors(settings, run.path, state.best):
        loss = _loss(learner, batch)
        run.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(learner.trainable().values(), settings.clip_norm)
        value = loss.item()
        if not torch.isfinite(norm) or not math.isfinite(value):
            raise TrainingError(
                f"loss is NaN or infinite at step {state.step + 1}; use a smaller --learning-rate"
                + best_weights_note(run.path, state.best)
            )
        run.optimiser.step()
    run.schedule.step()
    learner.clamp()
    state.step += 1
    state.loss_sum += value
    return value


def _loss(learner: Learner, batch: IntArray) -> Tensor:
    """Return the loss of (n, 2) pairs; repeated images and captions are embedded once."""
    device = learner.log_scale.device
    images, image_of = np.unique(batch[:, 0], return_inverse=True)
    captions, caption_of = np.unique(batch[:, 1], return_inverse=True)
    # bfloat16 needs no loss scaling, unlike float16; on a CPU it is slower than float32.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        image_rows = learner.embed_images(images)
        caption_rows = learner.embed_captions(captions)
    image_index, caption_index = (torch.from_numpy(index).to(device) for index in (image_of, caption_of))
    cosines = image_rows.float()[image_index] @ caption_rows.float()[caption_index].T  # (n, n)
    return learner.loss(cosines, same_content(image_index, caption_index))


def _in_batches(embed_batch: Callable[[IntArray], Tensor], indices: IntArray, batch_size: int) -> FloatArray:
    with torch.inference_mode():
        rows = [
            embed_batch(indices[start : start + batch_size]).float().cpu().numpy()
            for start in range(0, len(indices), batch_size)
        ]
    return np.concatenate(rows)


def _temperature(learner: Learner) -> float:
    return math.exp(-learner.log_scale.item())


def _thread_note(threads: list[int]) -> tuple[str, ...]:
    """A note if the parts of the run had different thread counts."""
    if len(set(threads)) == 1:
        return ()
    first, *others = threads
    resumed = " and ".join(str(count) for count in others)
    return (
        f"the run started with {first} thread{'s' if first > 1 else ''} and was resumed with {resumed}: "
        "its weights may differ in their last digits from those of an uninterrupted run",
    )
