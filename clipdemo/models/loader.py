"""Loads checkpoints in the background, one thread each; their state is readable at any time.

Pages read ``Loader.status`` and never wait for a download. One loader serves all sessions of the process. The
governor decides what fits into memory.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from clipdemo.errors import CheckpointError, LoadAbandonedError
from clipdemo.memory import Memory
from clipdemo.models.cache import CachedEncoder, EmbeddingStore, FairLock
from clipdemo.models.catalogue import EMBEDDED
from clipdemo.models.embedded.encoder import EmbeddedEncoder
from clipdemo.models.frameworks import IMPORT_LOCK
from clipdemo.models.governor import Governor
from clipdemo.models.hub import snapshot as hub
from clipdemo.models.hub.transfer import Progress
from clipdemo.models.load import download_bytes, load_encoder
from clipdemo.types import Encoder

State = Literal["idle", "downloading", "waiting", "loading", "ready", "failed"]


@dataclass(frozen=True)
class Status:
    """The state of a checkpoint.

    Attributes:
        state: "idle" before it is requested and after it is released.
        progress: of the download.
        reason: the sentence to show for "failed", and why it waits for "waiting".
    """

    state: State
    progress: Progress | None = None
    reason: str = ""

    @property
    def busy(self) -> bool:
        """Whether the state will change without further requests."""
        return self.state in {"downloading", "waiting", "loading"}


@dataclass(frozen=True)
class LoadCost:
    """What loading a checkpoint took.

    Attributes:
        load_seconds: from its files to a ready encoder, without waiting for memory.
        held_bytes: measured memory; of the embedded model, the size of its weights.
        download_bytes: size of its files; None for a folder.
    """

    load_seconds: float
    held_bytes: int
    download_bytes: int | None


class Loader:
    """Loads each checkpoint once for all sessions, as far as memory allows.

    Args:
        store: the cache for the embeddings of all checkpoints.
        load: ``load_encoder``, or a stand-in.
        governor: decides what fits into memory.
        offered: the checkpoints of the host; a hub name beyond them was typed by a visitor, and is tried
            before it is loaded. None means that all are the host's.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        load: Callable[..., Encoder] = load_encoder,
        governor: Governor | None = None,
        offered: Collection[str] | None = None,
    ) -> None:
        self._offered = offered
        self.governor = governor or Governor(Memory())
        self._store = store
        self._load = load
        self._device_lock = FairLock()  # the process uses one device
        self._guard = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._status: dict[str, Status] = {}
        # The embedded model is available from the start: its weights load at the first encoding.
        self._known = {EMBEDDED: CachedEncoder(EmbeddedEncoder(), store, self._device_lock)}
        self._costs: dict[str, LoadCost] = {}

    def use(self, name: str, session: object, *others: str) -> None:
        """Claim checkpoints for a session, so that they are not released; see ``Governor.use``.

        To be called at every run of the script, before :meth:`encoder`.
        """
        self.governor.use(name, session, *others)
        for each in filter(self._is_typed, (name, *others)):
            hub.note_use(each)  # so that its files are kept, too

    def encoder(self, name: str) -> CachedEncoder | None:
        """The encoder, if it is ready; the embedded one always is."""
        return self._known[EMBEDDED] if name == EMBEDDED else self.governor.encoder(name)

    def known(self, name: str) -> CachedEncoder | None:
        """The encoder, even after its release: it still returns its cached embeddings."""
        return self._known.get(name)

    def cost(self, name: str) -> LoadCost | None:
        """What loading took; None before the first load."""
        return self._costs.get(name)

    def status(self, name: str) -> Status:
        """The current state of a checkpoint."""
        status = self._status.get(name, Status("idle"))
        if status.state == "ready" and name != EMBEDDED and name not in self.governor.loaded_bytes:
            return Status("idle")
        reason = self.governor.wait_reason(name)
        return Status("waiting", reason=reason) if reason and status.busy else status

    def start(self, name: str, *, after: str | None = None) -> None:
        """Start loading in the background, unless the checkpoint is loading or ready.

        Args:
            name: the checkpoint; one that failed is tried again.
            after: another checkpoint; if it is loading, wait for it first.
        """
        with self._guard:
            if self.status(name).busy or self.status(name).state == "ready":
                return
            self._status[name] = Status("loading")
            first = self._threads.get(after) if after else None
            # Python below 3.14 aborts when it exits while torch runs in a daemon thread. The exit waits for
            # the embedded model, which takes seconds, but not for others, which may download gigabytes.
            thread = threading.Thread(target=self._run, args=(name, first), daemon=name != EMBEDDED)
            self._threads[name] = thread
            thread.start()

    def wait(self, name: str) -> Status:
        """Block until the load ends; for scripts and tests."""
        thread = self._threads.get(name)
        if thread:
            thread.join()
        return self.status(name)

    def _run(self, name: str, first: threading.Thread | None) -> None:
        # Stays after an unexpected error, which the thread itself reports in the server log.
        outcome = Status("failed", reason=f"{name} could not be loaded: unexpected error; see the server log")
        try:
            if first:
                first.join()
                if not threading.main_thread().is_alive():  # the process exits; torch must not start now
                    raise LoadAbandonedError
            if name == EMBEDDED:
                self._warm_up_embedded()
            else:
                self._load_checkpoint(name)
            outcome = Status("ready")
        except LoadAbandonedError:
            outcome = Status("idle")  # the next request loads it
        except CheckpointError as error:
            outcome = Status("failed", reason=str(error))
        except ImportError as error:
            outcome = Status("failed", reason=f"{name} could not be loaded ({error})")
        finally:
            self.governor.end_load(name)  # before the status allows another start
            self._status[name] = outcome

    def _warm_up_embedded(self) -> None:
        with IMPORT_LOCK:
            import clipdemo.models.clip.encoder  # noqa: F401 - its seconds do not count as the model's

        encoder = self._known[EMBEDDED]
        started = time.perf_counter()
        encoder.warm_up()
        self.governor.note_first_use()
        nbytes = 4 * encoder.checkpoint.parameters
        self._costs[EMBEDDED] = LoadCost(time.perf_counter() - started, nbytes, None)

    def _load_checkpoint(self, name: str) -> None:
        load = partial(self._load, typed=True) if self._is_typed(name) else self._load
        loaded = load(name, on_progress=partial(self._report_download, name), gate=self.governor)
        encoder = CachedEncoder(loaded, self._store, self._device_lock)
        measured = self.governor.add_loaded(name, encoder)
        size = download_bytes(name, encoder.checkpoint.revision)
        self._costs[name] = LoadCost(measured.seconds, measured.nbytes, size)
        self._known[name] = encoder

    def _is_typed(self, name: str) -> bool:
        return self._offered is not None and name not in self._offered

    def _report_download(self, name: str, progress: Progress) -> None:
        complete = progress.done >= progress.total
        self._status[name] = Status("loading") if complete else Status("downloading", progress)
