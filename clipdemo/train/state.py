"""What a training run needs to go on: written whole or not at all, read without running anything."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from clipdemo.errors import LedgerError, OutputError
from clipdemo.models.trained import folder as trained_folder
from clipdemo.train.learner import Learner

STATE, LOG = "state.pt", "log.jsonl"
SHORT = 20  # letters of a setting that are worth repeating; a fingerprint has more


@dataclass
class State:
    """Where a run is.

    Attributes:
        step: steps done.
        epoch: epochs done.
        loss_sum: of the steps of this epoch.
        history: one entry for each epoch done.
        best: number of the epoch with the best validation recall, from 1; 0 before the first.
        best_recall: its recall.
        best_weights: what was learned by then.
        log_lines: lines of the log that belong to these steps.
        threads: of torch on the CPU; matrix products sum in another order with another count.
    """

    step: int = 0
    epoch: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    best_recall: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    log_lines: int = 0
    threads: int = field(default_factory=torch.get_num_threads)


def begin(
    folder: Path,
    about: Mapping[str, str],
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> State:
    """The state in the folder, put into learner, optimiser and schedule; a new one where there is none.

    Raises:
        LedgerError: a state of another run, or a broken one.
        OutputError: the folder cannot be written.
    """
    device = learner.log_scale.device
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / STATE).exists():
            (folder / LOG).write_bytes(b"")
            save(folder, about, learner, optimiser, schedule, State())
            return State()
    try:
        held = torch.load(folder / STATE, map_location=device, weights_only=True)
        before = held["about"]
    except (OSError, RuntimeError, EOFError, UnpicklingError, LookupError, TypeError) as error:
        raise LedgerError(f"{folder / STATE} is broken; start anew in another folder") from error
    differing = [_said(key, before.get(key)) for key in about if before.get(key) != about[key]]
    if differing:
        raise LedgerError(
            f"the run to resume differs in {' and '.join(differing)}; resume it with the same command, or "
            "start anew in another folder"
        )
    put(learner, held["weights"])
    optimiser.load_state_dict(held["optimiser"])
    schedule.load_state_dict(held["schedule"])
    torch.set_rng_state(held["random"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(held["random_cuda"].cpu(), device)
    now = State(**held["state"])
    with writing(folder):
        lines = (folder / LOG).read_text("utf-8").splitlines(keepends=True) if (folder / LOG).exists() else []
        trained_folder.write_atomically(folder / LOG, "".join(lines[: now.log_lines]).encode())
    return now


def _said(key: str, before: str | None) -> str:
    """What differs, with what it was where that is short."""
    return f"{key} (it had {before})" if before and len(before) <= SHORT else key


def save(
    folder: Path,
    about: Mapping[str, str],
    learner: Learner,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    now: State,
) -> None:
    """Write everything down.

    Raises:
        OutputError: the folder cannot be written; what it held before can still be read.
    """
    device = learner.log_scale.device
    out = io.BytesIO()
    torch.save(
        {
            "about": dict(about),
            "weights": {name: weight.detach() for name, weight in learner.learned().items()},
            "optimiser": optimiser.state_dict(),
            "schedule": schedule.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "state": vars(now),
        },
        out,
    )
    with writing(folder):
        trained_folder.write_atomically(folder / STATE, out.getvalue())


def put(learner: Learner, weights: Mapping[str, Tensor]) -> None:
    """Give the learner these weights."""
    learned = learner.learned()
    with torch.no_grad():
        for name, weight in weights.items():
            learned[name].copy_(weight)


def check(folder: Path, *, resume: bool) -> None:
    """Whether a run may write there; nothing that is there already is overwritten by accident.

    Raises:
        LedgerError: a run was stopped there, or there is nothing to resume.
        OutputError: the folder holds something else.
    """
    if (folder / STATE).exists():
        if not resume:
            raise LedgerError(
                f"{folder} holds a run that was stopped; add --resume to go on, or name another folder"
            )
    elif folder.exists() and (not folder.is_dir() or any(file.name != LOG for file in folder.iterdir())):
        raise OutputError(
            f"{folder} is there already, and holds no run that was stopped; name another folder"
        )


def end(folder: Path) -> None:
    """The run is complete: there is nothing to go on with."""
    with writing(folder):
        (folder / STATE).unlink(missing_ok=True)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """A full disk and the like, in words."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{folder} cannot be written ({reason}); make room and go on with --resume; the best weights so far are "
            "kept there"
        ) from error
