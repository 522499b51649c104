"""Checkpoints loaded in the background, one thread each, their state readable at any time.

Pages ask ``Loader.status`` and never wait for a download; one loader serves all sessions of the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from clipdemo.cache import CachedEncoder, EmbeddingStore, Turns
from clipdemo.checkpoints import EMBEDDED, load_encoder
from clipdemo.errors import CheckpointError
from clipdemo.hub import Progress
from clipdemo.mini import EmbeddedEncoder
from clipdemo.types import Encoder

State = Literal["idle", "downloading", "loading", "ready", "failed"]


@dataclass(frozen=True)
class Status:
    """Where a checkpoint is.

    Attributes:
        state: "idle" before anyone asked for it.
        progress: bytes so far while downloading.
        reason: the sentence to show when failed.
    """

    state: State
    progress: Progress | None = None
    reason: str = ""

    @property
    def busy(self) -> bool:
        """Whether it is worth asking again soon."""
        return self.state in {"downloading", "loading"}


@dataclass(frozen=True)
class LoadCost:
    """What loading a checkpoint took.

    Attributes:
        load_seconds: from its files to a ready encoder.
        held_bytes: memory its weights hold.
        download_bytes: of its files; None where nothing was downloaded.
    """

    load_seconds: float
    held_bytes: int
    download_bytes: int | None


class Loader:
    """Loads each checkpoint once, however many sessions ask.

    Args:
        store: where the embeddings of all checkpoints are kept.
        load: ``load_encoder``, or a stand-in.
    """

    def __init__(self, store: EmbeddingStore, load: Callable[..., Encoder] = load_encoder) -> None:
        self._store = store
        self._load = load
        self._turns = Turns()  # one device per process, so one turn at a time
        self._guard = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._status: dict[str, Status] = {}
        # The embedded model is an encoder from the start: its weights load at the first encoding.
        self._encoders = {EMBEDDED: CachedEncoder(EmbeddedEncoder(), store, self._turns)}
        self._costs: dict[str, LoadCost] = {}

    def encoder(self, name: str) -> CachedEncoder | None:
        """The encoder, if it can be used now; the embedded one always can."""
        return self._encoders.get(name)

    def known(self, name: str) -> CachedEncoder | None:
        """The encoder, also when its weights were released: what it has encoded can still be had."""
        return self._encoders.get(name)

    def cost(self, name: str) -> LoadCost | None:
        """What loading it took; None before it was loaded."""
        return self._costs.get(name)

    def status(self, name: str) -> Status:
        """Where the checkpoint is now."""
        return self._status.get(name, Status("idle"))

    def start(self, name: str, *, after: str | None = None) -> None:
        """Begin loading in the background; does nothing while it loads or once it is ready.

        Args:
            name: the checkpoint; one that failed is tried again.
            after: another checkpoint that goes first, when that one is being loaded.
        """
        with self._guard:
            if self.status(name).busy or self.status(name).state == "ready":
                return
            self._status[name] = Status("loading")
            first = self._threads.get(after) if after else None
            thread = threading.Thread(target=self._run, args=(name, first), daemon=True)
            self._threads[name] = thread
            thread.start()

    def wait(self, name: str) -> Status:
        """Block until the checkpoint is ready or has failed; for scripts and tests."""
        thread = self._threads.get(name)
        if thread:
            thread.join()
        return self.status(name)

    def _run(self, name: str, first: threading.Thread | None) -> None:
        if first:
            first.join()
        started = time.perf_counter()
        try:
            if name == EMBEDDED:
                self._encoders[EMBEDDED].warm_up()
            else:
                encoder = self._load(name, on_progress=lambda done: self._downloading(name, done))
                self._encoders[name] = CachedEncoder(encoder, self._store, self._turns)
            loaded = self._encoders[name]
            held = loaded.checkpoint.parameters * (2 if loaded.dtype == "float16" else 4)
            self._costs[name] = LoadCost(time.perf_counter() - started, held, None)
        except CheckpointError as error:
            self._status[name] = Status("failed", reason=str(error))
        except (MemoryError, ImportError) as error:
            self._status[name] = Status("failed", reason=f"{name} could not be loaded ({error})")
        else:
            self._status[name] = Status("ready")
        finally:
            if self.status(name).busy:  # an error nobody foresaw; the thread's own report has it
                self._status[name] = Status(
                    "failed", reason=f"{name} could not be loaded; see the server's log"
                )

    def _downloading(self, name: str, done: Progress) -> None:
        whole = done.done >= done.total
        self._status[name] = Status("loading") if whole else Status("downloading", done)
