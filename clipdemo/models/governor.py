"""Decides which checkpoints may load and which must be released, so that they fit into the machine's memory.

Loads are admitted one at a time: the memory measured before and after one is then its own. To make room, the
least recently used checkpoint that no session uses is released. The embedded model is not governed and always
stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from clipdemo import memory
from clipdemo.errors import LoadAbandonedError, NotEnoughMemoryError
from clipdemo.limits import format_bytes
from clipdemo.memory import Memory
from clipdemo.models.cache import CachedEncoder
from clipdemo.models.catalogue import CATALOGUE, EMBEDDED, title

# A visitor who reads a page runs no script; after a quarter of an hour the checkpoint may be released.
CLAIM_SECONDS = 15 * 60.0
MAX_WAIT_SECONDS = 5 * 60.0  # of a load, for memory
POLL_SECONDS = 1.0  # ended sessions and memory freed by other programs send no notification


@dataclass
class _LoadedCheckpoint:
    """A checkpoint in memory.

    Attributes:
        nbytes: memory that its release frees.
        used_at: time of the last use.
    """

    encoder: CachedEncoder
    nbytes: int
    used_at: float


@dataclass(frozen=True)
class _CurrentLoad:
    """The load under way.

    Attributes:
        resident_bytes: memory of the process before the load.
        first_use_bytes: memory for frameworks and buffers that this load takes in addition to its weights.
    """

    started_at: float
    resident_bytes: int
    first_use_bytes: int


@dataclass(frozen=True)
class LoadMeasurement:
    """What a load took.

    Attributes:
        seconds: without download and waiting.
        nbytes: memory that stays in use.
    """

    seconds: float
    nbytes: int


class Governor:
    """Admits loads; thread-safe. Without loaded checkpoints, as on the command line, it only refuses.

    Args:
        room: the memory of this process.
        now: the clock.
    """

    def __init__(self, room: Memory, *, now: Callable[[], float] = time.monotonic) -> None:
        self.memory = room
        self._now = now
        self._changed = threading.Condition()
        self._loaded: dict[str, _LoadedCheckpoint] = {}
        self._claims: WeakKeyDictionary[object, tuple[tuple[str, ...], float]] = WeakKeyDictionary()
        self._loading: str | None = None
        self._current_load: _CurrentLoad | None = None
        self._wait_reasons: dict[str, str] = {}
        self._measured_needs: dict[str, int] = {}  # for the next load of the same checkpoint
        self._used_before = False
        self._requested: set[str] = set()  # by a session, since the last load of the checkpoint
        self._last_load_ended_at = now()

    def use(self, name: str, session: object, *others: str) -> None:
        """Claim checkpoints for a session, in place of those it claimed before.

        A claimed checkpoint is not released. The claim ends with the lifetime of ``session``, or
        ``CLAIM_SECONDS`` after the last call.
        """
        with self._changed:
            self._claims[session] = (name, *others), self._now()
            self._requested.update(self._claims[session][0])
            self._changed.notify_all()

    def encoder(self, name: str) -> CachedEncoder | None:
        """The encoder, if its weights are in memory; marks it as used."""
        with self._changed:
            loaded = self._loaded.get(name)
            if loaded:
                loaded.used_at = self._now()
            return loaded.encoder if loaded else None

    @property
    def loaded_bytes(self) -> dict[str, int]:
        """Memory of each loaded checkpoint, by name."""
        with self._changed:
            return {name: loaded.nbytes for name, loaded in self._loaded.items()}

    def wait_reason(self, name: str) -> str:
        """Why a load waits; empty while it does not wait."""
        return self._wait_reasons.get(name, "")

    def refuse_if_hopeless(self, name: str, weight_bytes: int) -> None:
        """Refuse a checkpoint that would not fit even if every other one were released.

        Raises:
            NotEnoughMemoryError: with both figures, and a checkpoint that would fit.
        """
        with self._changed:
            if self._loading not in {None, name}:
                return  # the memory of the other load is not known yet
            self._check_fits(name, self._need(name, weight_bytes))

    def admit(self, name: str, weight_bytes: int, device: str = "cpu") -> None:
        """Wait for room and reserve it until ``end_load``; releases unused checkpoints.

        Args:
            name: the checkpoint.
            weight_bytes: size of the weights in the dtype they are used in.
            device: their destination.

        Raises:
            NotEnoughMemoryError: it cannot fit, no session uses it, or nothing was released for
                ``MAX_WAIT_SECONDS``.
            LoadAbandonedError: the sessions that requested it have switched to other checkpoints.
        """
        since = self._now()
        try:
            while released := self._next_to_release(name, weight_bytes, device, since):
                released.encoder.release()
                memory.give_back()
        finally:
            self._wait_reasons.pop(name, None)

    def add_loaded(self, name: str, encoder: CachedEncoder) -> LoadMeasurement:
        """Keep a loaded encoder, and measure it after a first pass, which brings its weights into memory.

        Raises:
            CheckpointError: the first pass fails.
        """
        load = self._current_load
        seconds = self._now() - load.started_at if load else 0.0
        encoder.warm_up()
        memory.give_back()
        nbytes = encoder.checkpoint.parameters * (2 if encoder.dtype == "float16" else 4)
        if load and encoder.device != "cuda":
            # Rows of the token table that no caption has used are not resident: the size of the weights is a
            # minimum.
            nbytes = max(nbytes, self.memory.resident() - load.resident_bytes - load.first_use_bytes)
        with self._changed:
            self._loaded[name] = _LoadedCheckpoint(encoder, nbytes, self._now())
            self._measured_needs[name] = memory.need(nbytes)
        self.note_first_use()
        return LoadMeasurement(seconds, nbytes)

    def note_first_use(self) -> None:
        """Note that an encoder has run: frameworks and buffers need no further memory."""
        self._used_before = True

    def end_load(self, name: str) -> None:
        """End a load, successful or not."""
        memory.give_back()
        with self._changed:
            self._requested.discard(name)
            if self._loading == name:
                self._loading = self._current_load = None
            self._last_load_ended_at = self._now()
            self._changed.notify_all()

    def _next_to_release(
        self, name: str, weight_bytes: int, device: str, since: float
    ) -> _LoadedCheckpoint | None:
        """Wait for a checkpoint to release for ``name``, and remove it; None once ``name`` is admitted."""
        with self._changed:
            while True:
                if self._loading in {None, name}:
                    need = self._need(name, weight_bytes)
                    if need <= self._free(device):
                        self._loading = name
                        self._current_load = _CurrentLoad(
                            self._now(), self.memory.resident(), self._first_use_bytes()
                        )
                        return None
                    self._check_fits(name, need, device)
                    if unused := self._least_recently_used():
                        self._loading = name
                        return self._loaded.pop(unused)
                    self._loading = None
                    self._check_patience(name, self._shortage(name, need, device), since)
                    self._wait_reasons[name] = self._in_use()
                else:
                    self._wait_reasons[name] = f"{title(self._loading)} is loading"
                self._changed.wait(POLL_SECONDS)

    def _check_patience(self, name: str, shortage: str, since: float) -> None:
        """Raise once a load has waited too long, or once its checkpoint is no longer used by any session."""
        # Every load that ends restarts the waiting time: while others come and go, room may follow.
        late = self._now() >= max(since, self._last_load_ended_at) + MAX_WAIT_SECONDS
        if not late and self._count_users(name):
            return
        message = f"{shortage}; {self._in_use()}, try later"
        if name in self._requested and not late:
            raise LoadAbandonedError(message)
        raise NotEnoughMemoryError(message)

    def _need(self, name: str, weight_bytes: int) -> int:
        return max(memory.need(weight_bytes), self._measured_needs.get(name, 0)) + self._first_use_bytes()

    def _first_use_bytes(self) -> int:
        return 0 if self._used_before else memory.first_use()

    def _free(self, device: str) -> int:
        gpu = memory.gpu_room() if device == "cuda" else None
        free = self.memory.room().free  # weights for a GPU pass through the machine's memory
        return min(free, gpu.free) if gpu else free

    def _check_fits(self, name: str, need: int, device: str = "cpu") -> None:
        free = self._free(device) + sum(loaded.nbytes for loaded in self._loaded.values())
        if need > free:
            alternative = suggest_smaller(free - self._first_use_bytes())
            raise NotEnoughMemoryError(f"{self._shortage(name, need, device)}; try {alternative}")

    def _shortage(self, name: str, need: int, device: str) -> str:
        room = (memory.gpu_room() if device == "cuda" else None) or self.memory.room()
        where = "the GPU of this machine" if device == "cuda" else "this machine"
        return (
            f"{title(name)} needs about {format_bytes(need)} of memory, and {where} has "
            f"{format_bytes(room.free)} free of {format_bytes(room.limit)}"
        )

    def _in_use(self) -> str:
        names = [title(name) for name in self._loaded if self._count_users(name)]
        return f"{' and '.join(names) or 'the memory'} {'are' if len(names) > 1 else 'is'} in use"

    def _least_recently_used(self) -> str | None:
        """Among the loaded checkpoints that no session uses."""
        unused = [name for name in self._loaded if not self._count_users(name)]
        return min(unused, key=lambda name: self._loaded[name].used_at, default=None)

    def _count_users(self, name: str) -> int:
        since = self._now() - CLAIM_SECONDS
        claims = list(self._claims.values())
        return sum(1 for names, claimed_at in claims if name in names and claimed_at > since)


def suggest_smaller(free: int) -> str:
    """Names the embedded model, and the largest of the catalogue that fits into ``free`` bytes."""
    others = (entry for entry in CATALOGUE.values() if entry.id != EMBEDDED)
    fitting = [entry for entry in others if memory.need(entry.memory_bytes) <= free]
    largest = max(fitting, key=lambda entry: entry.parameters, default=None)
    return f"{largest.title} or the embedded model" if largest else "the embedded model"
