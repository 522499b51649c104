"""A budget of bytes that threads reserve and wait for."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Bytes that may be in use at a time; first come, first served, so that a large request gets its turn.

    Args:
        nbytes: the sum of all reservations at a time.
    """

    def __init__(self, nbytes: int) -> None:
        self._free = self._size = nbytes
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()

    @contextmanager
    def reserve(self, nbytes: int) -> Iterator[None]:
        """Wait for ``nbytes``, or for everything if that is less, and use them in the block."""
        nbytes, ticket = min(nbytes, self._size), object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and self._free >= nbytes)
                self._free -= nbytes
            finally:  # also after an interrupt: those behind it move up
                self._waiting.remove(ticket)
                self._changed.notify_all()
        try:
            yield
        finally:
            with self._changed:
                self._free += nbytes
                self._changed.notify_all()
