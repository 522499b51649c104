"""Checkpoints loaded in the background, one thread each, their state readable at any time.

Pages ask ``Loader.status`` and never wait for a download; one loader serves all sessions of the process. What fits
into memory is the governor's business.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
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
from clipdemo.models.hub.snapshot import Progress
from clipdemo.models.load import download_bytes, load_encoder
from clipdemo.types import Encoder

State = Literal["idle", "downloading", "waiting", "loading", "ready", "failed"]


@dataclass(frozen=True)
class Status:
    """Where a checkpoint is.

    Attributes:
        state: "idle" before anyone asked for it, and after it was released.
        progress: bytes so far while downloading.
        reason: the sentence to show when failed; what it waits for when waiting.
    """

    state: State
    progress: Progress | None = None
    reason: str = ""

    @property
    def busy(self) -> bool:
        """Whether it is worth asking again soon."""
        return self.state in {"downloading", "waiting", "loading"}


@dataclass(frozen=True)
class LoadCost:
    """What loading a checkpoint took.

    Attributes:
        load_seconds: from its files to a ready encoder, waiting for memory not counted.
        held_bytes: memory it holds, measured; of the embedded model, that of its weights.
        download_bytes: of its files; None for a folder.
    """

    load_seconds: float
    held_bytes: int
    download_bytes: int | None


class Loader:
    """Loads each checkpoint once, however many sessions ask, as far as there is memory.

    Args:
        store: where the embeddings of all checkpoints are kept.
        load: ``load_encoder``, or a stand-in.
        governor: who says what fits.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        load: Callable[..., Encoder] = load_encoder,
        governor: Governor | None = None,
    ) -> None:
        self.governor = governor or Governor(Memory())
        self._store = store
        self._load = load
        self._turns = FairLock()  # one device per process, so one turn at a time
        self._guard = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}
        self._status: dict[str, Status] = {}
        # The embedded model is an encoder from the start: its weights load at the first encoding.
        self._known = {EMBEDDED: CachedEncoder(EmbeddedEncoder(), store, self._turns)}
        self._costs: dict[str, LoadCost] = {}

    def use(self, name: str, by: object, *others: str) -> None:
        """``by``, a session, works with these checkpoints now and with no other: they are not released meanwhile.

        To be called before :meth:`encoder`, at every run of the script; see ``Governor.use``.
        """
        self.governor.use(name, by, *others)

    def encoder(self, name: str) -> CachedEncoder | None:
        """The encoder, if it can be used now; the embedded one always can."""
        return self._known[EMBEDDED] if name == EMBEDDED else self.governor.encoder(name)

    def known(self, name: str) -> CachedEncoder | None:
        """The encoder, also when its weights were released: what it has encoded can still be had."""
        return self._known.get(name)

    def cost(self, name: str) -> LoadCost | None:
        """What loading it took; None before it was loaded."""
        return self._costs.get(name)

    def status(self, name: str) -> Status:
        """Where the checkpoint is now."""
        status = self._status.get(name, Status("idle"))
        if status.state == "ready" and name != EMBEDDED and name not in self.governor.held:
            return Status("idle")
        reason = self.governor.waits_for(name)
        return Status("waiting", reason=reason) if reason and status.busy else status

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
            # Python below 3.14 aborts when it exits while torch works in a daemon thread. The embedded model is
            # waited for, which takes seconds; others, which may have gigabytes to fetch, are not.
            thread = threading.Thread(target=self._run, args=(name, first), daemon=name != EMBEDDED)
            self._threads[name] = thread
            thread.start()

    def wait(self, name: str) -> Status:
        """Block until the checkpoint is ready or has failed; for scripts and tests."""
        thread = self._threads.get(name)
        if thread:
            thread.join()
        return self.status(name)

    def _run(self, name: str, first: threading.Thread | None) -> None:
        # What stays of an error nobody foresaw; the thread's own report has it.
        outcome = Status("failed", reason=f"{name} could not be loaded; see the server's log")
        try:
            if first:
                first.join()
                if not threading.main_thread().is_alive():  # the process ends; torch must not begin now
                    raise LoadAbandonedError
            if name == EMBEDDED:
                self._warm_up_embedded()
            else:
                self._bring(name)
            outcome = Status("ready")
        except LoadAbandonedError:
            outcome = Status("idle")  # whoever wants it next has it loaded
        except CheckpointError as error:
            outcome = Status("failed", reason=str(error))
        except ImportError as error:
            outcome = Status("failed", reason=f"{name} could not be loaded ({error})")
        finally:
            self.governor.leave(name)  # before anybody may start it again
            self._status[name] = outcome

    def _warm_up_embedded(self) -> None:
        with IMPORT_LOCK:
            import clipdemo.models.clip.encoder  # noqa: F401 - the frameworks take seconds that are not the model's own

        encoder = self._known[EMBEDDED]
        started = time.perf_counter()
        encoder.warm_up()
        self.governor.used()
        held = 4 * encoder.checkpoint.parameters
        self._costs[EMBEDDED] = LoadCost(time.perf_counter() - started, held, None)

    def _bring(self, name: str) -> None:
        report = partial(self._downloading, name)
        encoder = CachedEncoder(
            self._load(name, on_progress=report, gate=self.governor), self._store, self._turns
        )
        measured = self.governor.hold(name, encoder)
        size = download_bytes(name, encoder.checkpoint.revision)
        self._costs[name] = LoadCost(measured.seconds, measured.nbytes, size)
        self._known[name] = encoder

    def _downloading(self, name: str, done: Progress) -> None:
        whole = done.done >= done.total
        self._status[name] = Status("loading") if whole else Status("downloading", done)
