"""The folder of a training run: the checkpoint, the log, and the state from which an interrupted run resumes.

Files are replaced atomically. The state is loaded as tensors and plain values only, so it cannot run code.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from clipdemo.disk import leftovers, remove_leftovers, write_atomically
from clipdemo.errors import LedgerError, OutputError
from clipdemo.lock import lock_outputs
from clipdemo.train.learner import Learner

STATE, LOG = "state.pt", "log.jsonl"
LONGEST_VALUE = 20  # characters of a setting that are worth repeating in a message; fingerprints are longer


@dataclass
class State:
    """The position of a run and its results so far.

    Attributes:
        step: completed steps.
        epoch: completed epochs.
        loss_sum: over the steps of the current epoch.
        history: one ``loop.Epoch`` as a dictionary for each completed epoch.
        best: number of the epoch with the best validation recall, from 1; 0 before the first.
        best_recall: validation recall of that epoch, 0 to 1.
        best_weights: trained parameters of that epoch, by name.
        log_lines: lines of the log that belong to the completed steps.
        threads: CPU threads of torch, a count for each part of the run; they affect the last bits of
            products.
    """

    step: int = 0
    epoch: int = 0
    loss_sum: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: int = 0
    best_recall: float = -1.0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    log_lines: int = 0
    threads: list[int] = field(default_factory=lambda: [torch.get_num_threads()])


@dataclass
class RunFolder:
    """Saves and restores one run; call ``begin`` first and ``finish`` last.

    Attributes:
        path: the folder.
        identity: name and value of everything that a resumed run must share with the run it continues.
        saved_at: ``time.perf_counter()`` of the last save.
    """

    path: Path
    identity: Mapping[str, str]
    learner: Learner
    optimiser: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    state: State = field(default_factory=State)
    saved_at: float = field(default_factory=time.perf_counter)

    def begin(self) -> None:
        """Restore the state in the folder, or create the folder with a new state.

        Raises:
            LedgerError: the state belongs to another run, or is broken.
            OutputError: the folder cannot be written.
        """
        if (self.path / STATE).exists():
            self._restore()
            return
        with translate_write_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            (self.path / LOG).write_bytes(b"")
        self.save()

    def log(self, entry: Mapping[str, Any]) -> None:
        """Append an entry to the log.

        Raises:
            OutputError: the folder cannot be written.
        """
        with translate_write_errors(self.path), (self.path / LOG).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        self.state.log_lines += 1

    def save(self) -> None:
        """Write the state.

        Raises:
            OutputError: the folder cannot be written; the previous state stays readable.
        """
        device = self.learner.log_scale.device
        out = io.BytesIO()
        torch.save(
            {
                "about": dict(self.identity),
                "weights": {name: weight.detach() for name, weight in self.learner.trainable().items()},
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "random": torch.get_rng_state(),
                "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
                "state": vars(self.state),
            },
            out,
        )
        with translate_write_errors(self.path):
            write_atomically(self.path / STATE, out.getvalue())
        self.saved_at = time.perf_counter()

    def save_best(self, recall: float) -> None:
        """Record the epoch just completed as the best one and write its weights as the checkpoint.

        Raises:
            OutputError: the folder cannot be written.
        """
        trainable = self.learner.trainable()
        self.state.best, self.state.best_recall = self.state.epoch, recall
        self.state.best_weights = {name: weight.detach().clone() for name, weight in trainable.items()}
        self._write_checkpoint()

    def finish(self) -> None:
        """Load the best weights into the learner and write the checkpoint.

        Raises:
            OutputError: the folder cannot be written.
        """
        self._load(self.state.best_weights)
        self._write_checkpoint()  # again: a run killed in save_best may have left a partial checkpoint

    def _restore(self) -> None:
        device = self.learner.log_scale.device
        try:
            saved = torch.load(self.path / STATE, map_location=device, weights_only=True)
            identity = saved["about"]
        except (OSError, RuntimeError, EOFError, UnpicklingError, LookupError, TypeError) as error:
            raise LedgerError(f"{self.path / STATE} is broken; start again in another folder") from error
        differences = [
            _difference(name, identity.get(name))
            for name, value in self.identity.items()
            if identity.get(name) != value
        ]
        if differences:
            raise LedgerError(
                f"the run to resume differs in {' and '.join(differences)}; resume it with the same command, "
                "or start again in another folder"
            )
        self._load(saved["weights"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.schedule.load_state_dict(saved["schedule"])
        torch.set_rng_state(saved["random"].cpu())
        if device.type == "cuda":
            torch.cuda.set_rng_state(saved["random_cuda"].cpu(), device)
        self.state = State(**saved["state"])
        self.state.threads.append(torch.get_num_threads())
        self._cut_log()

    def _cut_log(self) -> None:
        """Remove the log entries of steps that will be repeated."""
        log = self.path / LOG
        with translate_write_errors(self.path):
            lines = log.read_text("utf-8").splitlines(keepends=True) if log.exists() else []
            write_atomically(log, "".join(lines[: self.state.log_lines]).encode())

    def _load(self, weights: Mapping[str, Tensor]) -> None:
        trainable = self.learner.trainable()
        with torch.no_grad():
            for name, weight in weights.items():
                trainable[name].copy_(weight)

    def _write_checkpoint(self) -> None:
        with translate_write_errors(self.path):
            self.learner.save(self.path)


@contextmanager
def claim_output(folder: Path, *, resume: bool) -> Iterator[None]:
    """Keep other runs away from a folder while the block runs; keeps existing files.

    Raises:
        LedgerError: the folder contains an interrupted run and ``resume`` is False.
        OutputError: the folder contains something else, or another run is writing it.
    """
    with translate_write_errors(folder):
        folder.resolve().parent.mkdir(parents=True, exist_ok=True)
    with lock_outputs(folder):
        if (folder / STATE).exists():
            if not resume:
                raise LedgerError(
                    f"{folder} contains an interrupted run; add --resume to continue it, or name another "
                    "folder"
                )
        elif folder.exists() and (
            not folder.is_dir() or {*folder.iterdir()} - {folder / LOG, *leftovers(folder)}
        ):
            raise OutputError(
                f"{folder} already exists and does not contain an interrupted run; name another folder"
            )
        with translate_write_errors(folder):
            remove_leftovers(folder)
        yield


def remove_state(folder: Path) -> None:
    """Delete the state of a completed run.

    Raises:
        OutputError: the file cannot be deleted.
    """
    with translate_write_errors(folder):
        (folder / STATE).unlink(missing_ok=True)


def best_weights_note(folder: Path, best: int) -> str:
    """Return the end of an error message: where the weights of the epoch ``best`` are; "" for 0."""
    return f"; the weights of epoch {best} are kept in {folder}" if best else ""


@contextmanager
def translate_write_errors(folder: Path) -> Iterator[None]:
    """Turn a full disk and other write errors into an :class:`OutputError`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{folder} cannot be written ({reason}); free some disk space and continue with --resume; the "
            "best weights so far are kept there"
        ) from error


def _difference(name: str, before: str | None) -> str:
    """Return the name of a setting, with its earlier value if that is short."""
    return f"{name} (it was {before})" if before and len(before) <= LONGEST_VALUE else name
