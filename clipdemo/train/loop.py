"""The training loop, read top to bottom: AdamW, warm-up and cosine decay, early stopping on validation recall.

It can be stopped at any moment, by force, too: what it needs to go on is written down again and again, and a
run that goes on takes the same steps as one that was never stopped.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from clipdemo.errors import TrainingError
from clipdemo.scoring import retrieval
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.train import state
from clipdemo.train.dataset import Pairs
from clipdemo.train.learner import Learner
from clipdemo.train.loss import same_content

SAVE_SECONDS = 30.0  # at most so much work is done again after a stop
VALIDATION_BATCH = 256


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the training pairs, at most.
        batch_size: pairs of one step, at most.
        learning_rate: the highest one.
        seed: of the order of pairs, of dropout and of what is altered in images.
        weight_decay: of matrices.
        warm_up: share of all steps on the way to the highest learning rate.
        clip_norm: the longest gradient.
        patience: epochs without a better validation recall after which to stop.
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
    """Where a run is; ``recall`` is the last validation's, None before the first."""

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
    """One epoch: its mean loss, the temperature after it, and the mean validation recall after it."""

    epoch: int
    loss: float
    temperature: float
    recall: float


@dataclass(frozen=True)
class History:
    """Every epoch, the number of the one whose weights were kept, and sentences on how the run went."""

    epochs: tuple[Epoch, ...]
    best: int
    notes: tuple[str, ...] = ()

    @property
    def recall(self) -> float:
        """Mean validation recall of the weights that were kept."""
        return max((each.recall for each in self.epochs if each.epoch == self.best), default=0.0)


def train(
    learner: Learner,
    pairs: Pairs,
    settings: Settings,
    folder: Path,
    about: Mapping[str, str],
    show: Callable[[Progress], None],
) -> History:
    """Train, and leave ``learner`` with the weights of the best epoch, which are also in ``folder``.

    Args:
        learner: on its device.
        pairs: to train and validate on.
        settings: how.
        folder: takes checkpoint, log and state; goes on with the state that is there.
        about: what a run that goes on must agree with.
        show: told after every step.

    Raises:
        LedgerError: the state is of another run, or broken.
        OutputError: the folder cannot be written.
        TrainingError: the loss is no number, or memory is short; the best weights so far are in ``folder``.
    """
    training, validation = pairs.of("train"), pairs.of("val")
    steps = math.ceil(len(training) / settings.batch_size)  # of an epoch
    total = steps * settings.epochs
    torch.manual_seed(settings.seed)
    optimiser = torch.optim.AdamW(
        learner.groups(settings.learning_rate), betas=(0.9, 0.98), weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: pace(step, total, settings.warm_up))
    now = state.begin(folder, about, learner, optimiser, schedule)
    started, first, saved = time.perf_counter(), now.step, time.perf_counter()

    while now.epoch < settings.epochs and now.epoch - now.best < settings.patience:
        order = np.random.default_rng([settings.seed, now.epoch]).permutation(len(training))
        batches = np.array_split(order, steps)
        learner.begin_epoch(now.epoch)
        for batch in batches[now.step - now.epoch * steps :]:
            with translate_step_memory_errors(settings, folder, now.best):
                loss = _loss(learner, training[batch], learner.log_scale.device)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                norm = torch.nn.utils.clip_grad_norm_(learner.learned().values(), settings.clip_norm)
                if not torch.isfinite(norm) or not math.isfinite(loss.item()):
                    raise TrainingError(
                        f"the loss is no number any more at step {now.step + 1}; take a smaller --learning-rate"
                        + _kept(folder, now.best)
                    )
                optimiser.step()
            schedule.step()
            learner.clamp()
            now.step += 1
            now.loss_sum += loss.item()
            seconds = time.perf_counter() - started
            rate = (now.step - first) / seconds
            progress = Progress(
                now.epoch + 1,
                settings.epochs,
                now.step,
                total,
                loss.item(),
                math.exp(-learner.log_scale.item()),
                rate * len(training) / steps,
                (total - now.step) / rate,
                now.history[-1]["recall"] if now.history else None,
            )
            _log(folder, now, {**asdict(progress), "learning_rate": schedule.get_last_lr()[0]})
            show(progress)
            if time.perf_counter() - saved > SAVE_SECONDS and now.step % steps:
                state.save(folder, about, learner, optimiser, schedule, now)
                saved = time.perf_counter()
        with translate_step_memory_errors(settings, folder, now.best):
            recall = retrieval.mean_recall(*embed(learner, validation, settings.batch_size))
        done = Epoch(now.epoch + 1, now.loss_sum / steps, math.exp(-learner.log_scale.item()), recall)
        _log(folder, now, {"validation": asdict(done)})
        now.history.append(asdict(done))
        now.epoch, now.loss_sum = now.epoch + 1, 0.0
        if recall > now.best_recall:
            now.best, now.best_recall = now.epoch, recall
            now.best_weights = {name: weight.detach().clone() for name, weight in learner.learned().items()}
            with state.writing(folder):
                learner.save(folder)
        state.save(folder, about, learner, optimiser, schedule, now)
        saved = time.perf_counter()

    state.put(learner, now.best_weights)
    with state.writing(folder):  # once more: a run that was killed may have left it half written
        learner.save(folder)
    learner.begin_validation()
    return History(tuple(Epoch(**each) for each in now.history), now.best, _thread_note(now.threads))


def _thread_note(before: int) -> tuple[str, ...]:
    """Says so when a run went on with another thread count than it began with."""
    threads = torch.get_num_threads()
    if threads == before:
        return ()
    return (
        f"the run began with {before} thread{'s' if before > 1 else ''} and goes on with {threads}: its weights may "
        "differ in their last digits from those of an unbroken run",
    )


def pace(step: int, total: int, warm_up: float) -> float:
    """Share of the highest learning rate: up in a line, down along half a cosine."""
    rising = max(1, round(warm_up * total))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))


def embed(learner: Learner, pairs: IntArray, batch_size: int) -> tuple[FloatArray, FloatArray, IntArray]:
    """Unit rows of the images and captions of some pairs, and the pairs with their new numbers.

    Args:
        learner: on its device.
        pairs: rows of image and caption numbers.
        batch_size: of the training, so that what had memory for a step has it here; at most VALIDATION_BATCH is used.
    """
    learner.begin_validation()
    images, image_of = np.unique(pairs[:, 0], return_inverse=True)
    captions, caption_of = np.unique(pairs[:, 1], return_inverse=True)
    at_once = min(batch_size, VALIDATION_BATCH)
    return (
        _in_batches(learner.embed_images, images, at_once),
        _in_batches(learner.embed_captions, captions, at_once),
        np.stack([image_of, caption_of], axis=1),
    )


def _in_batches(embed_some: Callable[[IntArray], Tensor], which: IntArray, at_once: int) -> FloatArray:
    with torch.inference_mode():
        rows = [
            embed_some(which[start : start + at_once]).float().cpu().numpy()
            for start in range(0, len(which), at_once)
        ]
    return np.concatenate(rows)


def _loss(learner: Learner, batch: IntArray, device: torch.device) -> Tensor:
    """The loss of some pairs; an image or caption that comes twice is embedded once."""
    images, image_of = np.unique(batch[:, 0], return_inverse=True)
    captions, caption_of = np.unique(batch[:, 1], return_inverse=True)
    # bfloat16 needs no scaling of the loss, as float16 would; on a CPU it is slower than float32.
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        image_rows = learner.embed_images(images)
        caption_rows = learner.embed_captions(captions)
    image_at, caption_at = (torch.from_numpy(each).to(device) for each in (image_of, caption_of))
    cosines = image_rows.float()[image_at] @ caption_rows.float()[caption_at].T  # (n, n)
    return learner.loss(cosines, same_content(image_at, caption_at))


def _log(folder: Path, now: state.State, line: Mapping[str, Any]) -> None:
    with state.writing(folder), (folder / state.LOG).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    now.log_lines += 1


@contextmanager
def translate_step_memory_errors(settings: Settings, folder: Path, best: int) -> Iterator[None]:
    """FairLock short memory into a :class:`TrainingError`; ``best`` is the epoch whose weights are in ``folder``, or 0."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        # torch says it of the CPU with a plain RuntimeError.
        if type(error) is RuntimeError and "can't allocate memory" not in str(error):
            raise
        raise TrainingError(
            f"there is not enough memory for {settings.batch_size} pairs a step; take a smaller --batch-size"
            + _kept(folder, best)
        ) from error


def _kept(folder: Path, best: int) -> str:
    return f"; the weights of epoch {best} are kept in {folder}" if best else ""
