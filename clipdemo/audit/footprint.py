"""What a run costs: seconds and items of each stage, and the most memory it held. No framework here."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: "fetch", "decode", "encode images", "encode captions" or "score".
        seconds: of work, summed over threads; stages overlap, so they may exceed the run's own time.
        items: how many went through.
    """

    name: str
    seconds: float
    items: int

    @property
    def rate(self) -> float:
        """Items a second of work; 0 when nothing was timed."""
        return self.items / self.seconds if self.seconds > 0 else 0.0


class Show(Protocol):
    """Told how far a run is."""

    def __call__(self, done: int, total: int | None, rate: float) -> None:
        """``done`` of ``total``, ``rate`` a second."""


class Footprint:
    """Sums up stages from any thread."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self._guard = threading.Lock()
        self._started = time.perf_counter()

    def add(self, name: str, seconds: float, items: int) -> None:
        """Count ``items`` that took ``seconds`` in the stage ``name``."""
        with self._guard:
            had_seconds, had_items = self._sums.get(name, (0.0, 0))
            self._sums[name] = had_seconds + seconds, had_items + items

    @contextmanager
    def stage(self, name: str, items: int) -> Iterator[None]:
        """Time the block; one that raises is timed, too."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started, items)

    def timed(self, name: str, function: Callable[P, Result]) -> Callable[P, Result]:
        """``function``, with each call counted as one item of the stage ``name``."""

        def measured(*args: P.args, **kwargs: P.kwargs) -> Result:
            with self.stage(name, 1):
                return function(*args, **kwargs)

        return measured

    @property
    def seconds(self) -> float:
        """Seconds on the clock since the run began."""
        return time.perf_counter() - self._started

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Every stage so far, in the order they first ended."""
        with self._guard:
            return tuple(Stage(name, seconds, items) for name, (seconds, items) in self._sums.items())


def peak_resident_bytes() -> int | None:
    """The most memory this process ever held, or None where the system does not say (Windows)."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
