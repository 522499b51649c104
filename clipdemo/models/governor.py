"""Who may load a checkpoint and who must let go of one, so that the machine's memory is enough.

Loads are admitted one at a time, so that memory measured before and after one is its own. To make room, the least
recently used checkpoint that no session uses is released; the embedded model is not in here and stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from clipdemo import memory
from clipdemo.errors import LoadAbandonedError, NotEnoughMemoryError
from clipdemo.memory import Memory
from clipdemo.models import catalogue, load
from clipdemo.models.cache import CachedEncoder

# A visitor who reads what is on the page runs no script; after a quarter of an hour others go first.
CLAIM_SECONDS = 15 * 60.0
PATIENCE_SECONDS = 5 * 60.0  # how long a load waits for others to let go
LOOK_SECONDS = 1.0  # a session that ends, and memory that other programs free, tell nobody


@dataclass
class _Held:
    """A checkpoint in memory: the encoder, bytes that come back when it is released, when it was last used."""

    encoder: CachedEncoder
    nbytes: int
    used: float


@dataclass(frozen=True)
class _Admitted:
    """The load under way: when it began, how much was resident then, bytes it takes beside its weights."""

    name: str
    started: float
    resident: int
    beside: int


@dataclass(frozen=True)
class Measured:
    """What a load took: seconds without download or waiting, and bytes that stay."""

    seconds: float
    nbytes: int


class Governor:
    """Admits loads; safe to use from any thread. One that holds nothing, as on the command line, only refuses.

    Args:
        room: the memory of this process.
        now: the clock.
    """

    def __init__(self, room: Memory, *, now: Callable[[], float] = time.monotonic) -> None:
        self.memory = room
        self._now = now
        self._changed = threading.Condition()
        self._held: dict[str, _Held] = {}
        self._claims: WeakKeyDictionary[object, tuple[tuple[str, ...], float]] = WeakKeyDictionary()
        self._loading: str | None = None
        self._admitted: _Admitted | None = None
        self._waiting: dict[str, str] = {}
        self._needs: dict[str, int] = {}  # measured, for the next time
        self._used_before = False
        self._asked: set[str] = set()  # by a session, since its last load
        self._ended = now()  # the last load

    def use(self, name: str, by: object, *others: str) -> None:
        """``by``, a session, works with these checkpoints from now on, and not with those before them.

        Its claim lasts while ``by`` lives, at most ``CLAIM_SECONDS`` after the last call.
        """
        with self._changed:
            self._claims[by] = (name, *others), self._now()
            self._asked.update(self._claims[by][0])
            self._changed.notify_all()

    def encoder(self, name: str) -> CachedEncoder | None:
        """The encoder, if its weights are here."""
        with self._changed:
            held = self._held.get(name)
            if held:
                held.used = self._now()
            return held.encoder if held else None

    @property
    def held(self) -> dict[str, int]:
        """Bytes of each checkpoint that is here, by name."""
        with self._changed:
            return {name: held.nbytes for name, held in self._held.items()}

    def waits_for(self, name: str) -> str:
        """What a load waits for, in words; empty while it does not wait."""
        return self._waiting.get(name, "")

    def judge(self, name: str, weights: int) -> None:
        """Refuse what could not be loaded even if every other checkpoint were released.

        Args:
            name: the checkpoint.
            weights: bytes of them.

        Raises:
            NotEnoughMemoryError: with both figures, and what to try instead.
        """
        with self._changed:
            if self._loading not in {None, name}:
                return  # what that one takes is not known yet
            self._refuse_hopeless(name, self._need(name, weights))

    def admit(self, name: str, weights: int, device: str = "cpu") -> None:
        """Wait for room and reserve it until ``hold`` or ``leave``; releases what nobody uses.

        Args:
            name: the checkpoint.
            weights: bytes of them as they are used.
            device: where they go.

        Raises:
            NotEnoughMemoryError: it can never fit, nobody asked for it, or nothing was let go for a long time.
            LoadAbandonedError: somebody asked for it and has turned to something else.
        """
        since = self._now()
        try:
            while victim := self._victim(name, weights, device, since):
                victim.encoder.release()
                memory.give_back()
        finally:
            self._waiting.pop(name, None)

    def hold(self, name: str, encoder: CachedEncoder) -> Measured:
        """Keep a loaded encoder; a first pass brings its weights in, so that what it takes can be measured.

        Raises:
            CheckpointError: the first pass fails.
        """
        admitted = self._admitted
        took = self._now() - admitted.started if admitted else 0.0
        encoder.warm_up()
        memory.give_back()
        nbytes = encoder.checkpoint.parameters * (2 if encoder.dtype == "float16" else 4)
        if admitted and encoder.device != "cuda":
            # Rows of the token table that no caption needed yet are not in memory: the weights are the least.
            nbytes = max(nbytes, self.memory.resident() - admitted.resident - admitted.beside)
        with self._changed:
            self._held[name] = _Held(encoder, nbytes, self._now())
            self._needs[name] = memory.need(nbytes)
        self.used()
        return Measured(took, nbytes)

    def used(self) -> None:
        """Some encoder made a pass: the next one finds the frameworks imported and their buffers made."""
        self._used_before = True

    def leave(self, name: str) -> None:
        """End a load, whatever came of it."""
        memory.give_back()
        with self._changed:
            self._asked.discard(name)
            if self._loading == name:
                self._loading = self._admitted = None
            self._ended = self._now()
            self._changed.notify_all()

    def _victim(self, name: str, weights: int, device: str, since: float) -> _Held | None:
        """What to release next for ``name``, no longer handed out; None once ``name`` is admitted."""
        with self._changed:
            while True:
                if self._loading in {None, name}:
                    need = self._need(name, weights)
                    if need <= self._free(device):
                        self._loading = name
                        self._admitted = _Admitted(name, self._now(), self.memory.resident(), self._beside())
                        return None
                    self._refuse_hopeless(name, need, device)
                    if idle := self._idle():
                        self._loading = name
                        return self._held.pop(idle)
                    self._loading = None
                    # Where loads go in and out, this one's time comes.
                    late = self._now() >= max(since, self._ended) + PATIENCE_SECONDS
                    if late or not self._users(name):
                        kind = (
                            LoadAbandonedError if name in self._asked and not late else NotEnoughMemoryError
                        )
                        raise kind(f"{self._lack(name, need, device)}; {self._in_use()}, try later")
                    self._waiting[name] = self._in_use()
                else:
                    self._waiting[name] = f"{catalogue.title(self._loading)} is loading"
                self._changed.wait(LOOK_SECONDS)

    def _need(self, name: str, weights: int) -> int:
        return max(memory.need(weights), self._needs.get(name, 0)) + self._beside()

    def _beside(self) -> int:
        return 0 if self._used_before else memory.first_use()

    def _free(self, device: str) -> int:
        gpu = memory.gpu_room() if device == "cuda" else None
        free = self.memory.room().free  # a GPU's weights pass through here, too
        return min(free, gpu.free) if gpu else free

    def _refuse_hopeless(self, name: str, need: int, device: str = "cpu") -> None:
        free = self._free(device) + sum(held.nbytes for held in self._held.values())
        if need > free:
            lighter = load.lighter(free - self._beside())
            raise NotEnoughMemoryError(f"{self._lack(name, need, device)}; try {lighter}")

    def _lack(self, name: str, need: int, device: str) -> str:
        room = (memory.gpu_room() if device == "cuda" else None) or self.memory.room()
        where = "this machine's GPU" if device == "cuda" else "this machine"
        return (
            f"{where} has {_gigabytes(room.limit)}, {_gigabytes(room.free)} of them free, and "
            f"{catalogue.title(name)} needs about {_gigabytes(need)}"
        )

    def _in_use(self) -> str:
        names = [catalogue.title(name) for name in self._held if self._users(name)]
        return f"{' and '.join(names) or 'the memory'} {'are' if len(names) > 1 else 'is'} in use"

    def _idle(self) -> str | None:
        """The least recently used one that no session uses."""
        free = [name for name in self._held if not self._users(name)]
        return min(free, key=lambda name: self._held[name].used, default=None)

    def _users(self, name: str) -> int:
        since = self._now() - CLAIM_SECONDS
        return sum(1 for used, when in list(self._claims.values()) if name in used and when > since)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
