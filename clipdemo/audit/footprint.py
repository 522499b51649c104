"""What a run costs: seconds and items of each stage, and peak memory. Imports no framework."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from clipdemo.limits import MEGABYTE

P = ParamSpec("P")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Attributes:
        name: such as "fetch", "decode", "encode images" or "score".
        seconds: of work, summed over threads; stages overlap, so the sum may exceed the run's elapsed time.
        items: number processed.
    """

    name: str
    seconds: float
    items: int

    @property
    def rate(self) -> float:
        """Items per second of work; 0 when nothing was timed."""
        return self.items / self.seconds if self.seconds > 0 else 0.0


class ProgressCallback(Protocol):
    """A function that a long run calls with its progress."""

    def __call__(self, done: int, total: int | None, rate: float) -> None:
        """Report ``done`` of ``total`` items (None: unknown) at ``rate`` items per second."""


class Footprint:
    """Adds up the stages of a run; thread-safe."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[float, int]] = {}
        self._lock = threading.Lock()
        self._started = time.perf_counter()

    def add(self, name: str, seconds: float, items: int) -> None:
        """Add ``items`` that took ``seconds`` to the stage ``name``."""
        with self._lock:
            total_seconds, total_items = self._sums.get(name, (0.0, 0))
            self._sums[name] = total_seconds + seconds, total_items + items

    @contextmanager
    def stage(self, name: str, items: int) -> Iterator[None]:
        """Time the block, also when it raises."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - started, items)

    def timed(self, name: str, function: Callable[P, Result]) -> Callable[P, Result]:
        """Wrap ``function`` so that each call counts as one item of the stage ``name``."""

        def measured(*args: P.args, **kwargs: P.kwargs) -> Result:
            with self.stage(name, 1):
                return function(*args, **kwargs)

        return measured

    @property
    def seconds(self) -> float:
        """Elapsed seconds since the run started."""
        return time.perf_counter() - self._started

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages so far, in the order in which they first ended."""
        with self._lock:
            return tuple(Stage(name, seconds, items) for name, (seconds, items) in self._sums.items())


def peak_resident_bytes() -> int | None:
    """Return the peak memory of this process, or None on Windows, which does not report it."""
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def memory_text(resident: int | None, gpu: int | None) -> str:
    """Format peak memory, such as "peak memory 812 MB, on the GPU 340 MB".

    Args:
        resident: bytes of the process; None is unknown.
        gpu: bytes on the GPU; None without one.
    """
    text = "peak memory " + ("unknown" if resident is None else f"{resident / MEGABYTE:,.0f} MB")
    return text if gpu is None else f"{text}, on the GPU {gpu / MEGABYTE:,.0f} MB"


def stage_text(stage: Stage) -> str:
    """Format one stage, such as "decode 1.2 s for 320 (267/s)"."""
    return f"{stage.name} {stage.seconds:.1f} s for {stage.items:,} ({stage.rate:,.0f}/s)"
