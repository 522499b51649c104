"""Decodes images in worker processes, whose memory and time are bounded.

Codecs are C code that may take gigabytes and minutes on a file of a few kilobytes, and hold Python's lock
meanwhile. Here each runs in a child process: its memory is limited to an estimate for the size of the image,
the estimates of all workers together to one budget, and a worker that takes too long is ended. Everything
that decodes bytes from outside uses this module; :mod:`clipdemo.images.worker` is the other side.
"""

from __future__ import annotations

import atexit
import json
import logging
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from queue import Empty, LifoQueue
from typing import IO, Final

from PIL import Image

from clipdemo import child
from clipdemo.budget import Budget
from clipdemo.errors import ImageError, ImageTooLargeError, NotAnImageError
from clipdemo.images.decode import MODEL_LONG_SIDE, Picture, as_item, check_size
from clipdemo.images.structure import decoding_bytes
from clipdemo.limits import Limits
from clipdemo.types import ImageItem
from clipdemo.view import TowerView

WORKERS: Final = min(max(2, child.cores()), 16)
DEADLINE_SECONDS: Final = 60.0  # of waiting for one answer; processor time ends a busy worker much sooner
TASKS: Final = 1_000  # of one worker; a new one takes a fifth of a second and starts without leaks
MAX_LINE: Final = 4_096
MAX_THUMBNAIL: Final = 1_000_000
_OUT_OF_TIME: Final = -getattr(signal, "SIGXCPU", 0) or None  # exit status; Windows has no such signal

_log = logging.getLogger(__name__)
_DEFAULT_LIMITS = Limits()
# One WebP of 50 megapixels at a time, or several photographs of the usual size.
BUDGET: Final = decoding_bytes("WebP", _DEFAULT_LIMITS.pixels, _DEFAULT_LIMITS.file_bytes)


def decode_image(
    data: bytes,
    name: str,
    *,
    source: str = "bytes",
    limits: Limits = _DEFAULT_LIMITS,
    thumbnail: bool = True,
    view: TowerView | None = None,
) -> ImageItem:
    """Decode one file in a worker process; callable from many threads.

    Args:
        data: as in :func:`clipdemo.images.decode.decode_image`, which returns the same item.
        name: likewise.
        source: likewise.
        limits: likewise.
        thumbnail: likewise.
        view: likewise.

    Raises:
        NotAnImageError: not an image, an unsupported format, or a broken file.
        ImageTooLargeError: more bytes or pixels than the limits, or more memory or time than an image of
            its size takes.
    """
    check_size(data, limits)
    picture = _POOL.decode(data, limits, thumbnail=thumbnail, view=view)
    return as_item(picture, data, name, source, view)


def close() -> None:
    """End all workers, also in the middle of an image; for the exit of the process."""
    _POOL.close()


@dataclass(eq=False)
class _Worker:
    """One child process, used by one thread at a time."""

    process: subprocess.Popen[bytes] = field(default_factory=lambda: child.start("clipdemo.images.worker"))
    tasks: int = 0
    late: threading.Event = field(default_factory=threading.Event)  # of the last deadline

    def is_ready(self) -> bool:
        """Wait for its first line."""
        try:
            return self._ask() == {"ready": True}
        except (OSError, ValueError, RecursionError):
            return False

    def decode(
        self, data: bytes, limits: Limits, budget: Budget, *, thumbnail: bool, view: TowerView | None
    ) -> Picture:
        """Send one file and read the answer.

        Raises:
            ImageError: the worker's verdict.
            OSError, ValueError, KeyError, RecursionError, MemoryError: the process ended or answers nonsense.
        """
        self.tasks += 1
        fields = view.as_json() if view else None
        task = {"size": len(data), "pixels": limits.pixels, "thumbnail": thumbnail, "view": fields}
        answer = self._ask(json.dumps(task).encode() + b"\n", data)
        if "need" not in answer:
            return self._read_answer(answer, limits, view)
        with budget.reserve(_count(answer["need"])):
            return self._read_answer(self._ask(b"\n"), limits, view)

    def end(self) -> ImageError:
        """End the process; returns the verdict on an image that it was decoding."""
        self.process.kill()  # if it has not ended by itself
        status = self.process.wait()
        for pipe in self._pipes():
            with suppress(OSError):  # closing sends what the process did not read
                pipe.close()
        if self.late.is_set() or status == _OUT_OF_TIME:
            return ImageTooLargeError(
                "decoding it takes far longer than an image of its size should; save it again as JPEG or PNG"
            )
        return NotAnImageError("its decoder failed on the file; save the image again as JPEG or PNG")

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        stdin, stdout = self.process.stdin, self.process.stdout
        assert stdin is not None  # noqa: S101 - both were asked for
        assert stdout is not None  # noqa: S101
        return stdin, stdout

    def _ask(self, *parts: bytes) -> dict[str, object]:
        stdin, stdout = self._pipes()
        with child.deadline(self.process, DEADLINE_SECONDS) as self.late:
            for part in parts:
                stdin.write(part)
            stdin.flush()
            answer = json.loads(stdout.readline(MAX_LINE))
        if not isinstance(answer, dict):
            raise ValueError("not an object")
        return answer

    def _read_answer(self, answer: dict[str, object], limits: Limits, view: TowerView | None) -> Picture:
        """Read the pixels; every figure is checked, as a hostile file may have taken the worker over."""
        if "error" in answer:
            kind = ImageTooLargeError if answer.get("too_large") else NotAnImageError
            raise kind(str(answer["error"])[:500])
        copy = answer["copy"]
        if not isinstance(copy, list) or len(copy) != 2:
            raise ValueError("no size")
        size = _count(copy[0]), _count(copy[1])
        length = _count(answer["thumbnail"])
        width, height = _count(answer["width"]), _count(answer["height"])
        if not 1 <= min(width, height) <= width * height <= limits.pixels:
            raise ValueError("impossible image")
        if not _fits(size, view, width, height) or length > MAX_THUMBNAIL:
            raise ValueError("impossible sizes")
        with child.deadline(self.process, DEADLINE_SECONDS) as self.late:
            pixels = self._read(3 * size[0] * size[1])
            small = self._read(length)
        return Picture(Image.frombytes("RGB", size, pixels), small, width, height)

    def _read(self, count: int) -> bytes:
        data = self._pipes()[1].read(count)
        if len(data) < count:
            raise ValueError("cut off")
        return data


class _Pool:
    """Workers, started when they are needed for the first time."""

    def __init__(self) -> None:
        self._budget = Budget(BUDGET)
        # None stands for a worker that is not started; the one used last is taken first.
        self._idle: LifoQueue[_Worker | None] = LifoQueue()
        for _ in range(WORKERS):
            self._idle.put(None)
        self._alive: set[_Worker] = set()
        self._guard = threading.Lock()
        self._closed = False

    def decode(
        self, data: bytes, limits: Limits, *, thumbnail: bool, view: TowerView | None = None
    ) -> Picture:
        """Wait for a worker and have it decode one file.

        Raises:
            ImageError: the worker's verdict, or on why it was lost.
        """
        worker = self._idle.get()
        try:
            worker = self._usable(worker)
            with self._replacing(worker):
                return worker.decode(data, limits, self._budget, thumbnail=thumbnail, view=view)
        finally:
            self._idle.put(worker)  # one that was lost is replaced when its turn comes

    @contextmanager
    def _replacing(self, worker: _Worker) -> Iterator[None]:
        """Drop the worker if it is lost, or in the middle of an answer."""
        try:
            yield
        except ImageError:
            raise
        except (OSError, ValueError, KeyError, RecursionError, MemoryError) as error:
            raise self._drop(worker) from error
        except BaseException:  # Ctrl+C in the middle of an answer: the rest would be read as the next one
            self._drop(worker)
            raise

    def close(self) -> None:
        """End all workers and refuse further work."""
        with self._guard:
            self._closed = True
            for worker in self._alive:
                worker.process.kill()
        idle: list[_Worker | None] = []
        with suppress(Empty):
            while True:
                idle.append(self._idle.get_nowait())
        for each in idle:  # the others are ended by the threads that use them
            if each:
                self._drop(each)
            self._idle.put(None)

    def _usable(self, worker: _Worker | None) -> _Worker:
        if worker and (worker.tasks >= TASKS or worker.process.poll() is not None):
            self._drop(worker)
            worker = None
        with self._guard:
            if self._closed:
                raise ImageError("clipdemo is stopping")
        return worker or self._start()

    def _start(self) -> _Worker:
        broken = "images cannot be decoded now: the process for it does not start on this machine"
        try:
            worker = _Worker()
        except OSError as error:
            raise ImageError(f"{broken} ({error.strerror})") from error
        with self._guard:
            self._alive.add(worker)
        if not worker.is_ready():
            self._drop(worker)
            _log.error("%s; try: python -m clipdemo.images.worker", broken)
            raise ImageError(broken)
        return worker

    def _drop(self, worker: _Worker) -> ImageError:
        """End a worker; returns the verdict on an image that it was decoding."""
        with self._guard:
            self._alive.discard(worker)
        return worker.end()


def _fits(size: tuple[int, int], view: TowerView | None, width: int, height: int) -> bool:
    """Whether ``size`` can be that of a model copy, or of the view of an image of ``width`` x ``height``."""
    return size == view.output(width, height) if view else 1 <= min(size) <= max(size) <= MODEL_LONG_SIDE


def _count(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("not a count")
    return value


_POOL: Final = _Pool()
atexit.register(close)
