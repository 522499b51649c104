"""How much memory there is and what is taken of it; and freed memory given back to the system. No framework here.

Every limit that binds is read, and the one that leaves the least room counts: the control groups of this process and
of its ancestors (containers, systemd), the machine's own memory, and the host's ``CLIPDEMO_MEMORY_MB``.
"""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipdemo.errors import NotEnoughMemoryError
from clipdemo.limits import MEGABYTE

# Measured with transformers 5.23 and torch 2.13 on Linux with a CLIP of ViT-B/32's size (605 MB in float32):
# - resident memory rises by the weights, whatever the file: safetensors, zipped or old .bin. There is no second copy
#   at the peak, only the mapped file, which the system takes back. Weights that are stored as they are used stay
#   mapped, come in at the first passes and do not count as anonymous memory: used memory therefore includes them.
# - a process that used no checkpoint yet takes 400 MB more, torch, transformers and the buffers of the first pass.
# - a batch of 16 images takes 80 MB beside 605 MB of weights, 305 beside ViT-L/14's 1.7 GB, 591 at 336 pixels.
# - released weights leave the resident memory once gc and malloc_trim have run: 1,083 to 419 MB.
FIRST_USE, FIRST_PASS = 400 * MEGABYTE, 170 * MEGABYTE  # the second where transformers is imported already
_LACK = re.compile("allocate memory|unable to allocate|out of memory", re.IGNORECASE)
_NO_LIMIT = 1 << 60  # what version 1 control groups say where there is none is a little below 2**63


def need(weights: int) -> int:
    """Bytes that a checkpoint takes in use, from those of its weights in the dtype they are used in."""
    return weights + weights // 4 + 100 * MEGABYTE


def first_use() -> int:
    """Bytes that the first checkpoint of a process takes beside its own."""
    return FIRST_PASS if "transformers" in sys.modules else FIRST_USE


@dataclass(frozen=True)
class Room:
    """One limit and what is taken of it, in bytes."""

    limit: int
    used: int

    @property
    def free(self) -> int:
        """Bytes left; never below zero."""
        return max(0, self.limit - self.used)


class Memory:
    """The memory this process may use.

    Args:
        own_limit: bytes of resident memory the host grants this process, or None.
        root: where ``proc`` and ``sys`` are.
    """

    def __init__(self, own_limit: int | None = None, root: Path = Path("/")) -> None:
        self._own_limit = own_limit
        self._root = root

    def room(self) -> Room:
        """The limit that leaves the least room."""
        resident, mapped = self._process()
        rooms = [self._machine(mapped), *self._control_groups()]
        if self._own_limit is not None:
            rooms.append(Room(self._own_limit, resident))
        return min(rooms, key=lambda room: room.free)

    def resident(self) -> int:
        """Bytes of this process in memory, mapped files included."""
        return self._process()[0]

    def _process(self) -> tuple[int, int]:
        """Bytes resident, and of them those of mapped files."""
        if sys.platform != "linux":
            import psutil

            return int(psutil.Process().memory_info().rss), 0
        status = _fields(self._root / "proc/self/status")
        return 1024 * status["VmRSS"], 1024 * status["RssFile"]  # the second is 0 before Linux 4.5

    def _machine(self, mapped: int) -> Room:
        if sys.platform != "linux":
            import psutil

            memory = psutil.virtual_memory()
            return Room(int(memory.total), int(memory.total - memory.available))
        fields = _fields(self._root / "proc/meminfo")
        total, available = 1024 * fields["MemTotal"], 1024 * fields["MemAvailable"]
        # Our mapped weights are available in the system's eyes; without them each pass reads the disk.
        return Room(total, total - available + mapped)

    def _control_groups(self) -> list[Room]:
        try:
            lines = (self._root / "proc/self/cgroup").read_text("utf-8").splitlines()
        except OSError:  # not Linux, or no control groups
            return []
        found: list[Room | None] = []
        for _, controllers, path in (line.split(":", 2) for line in lines):
            unified = not controllers
            if unified or "memory" in controllers.split(","):
                mount = self._root / ("sys/fs/cgroup" if unified else "sys/fs/cgroup/memory")
                # In a container the path may be that of the machine and exist nowhere here: then the mount is ours.
                group = mount / path.lstrip("/")
                folders = [each for each in (group, *group.parents) if each.is_relative_to(mount)]
                found += [_unified(each) if unified else _version_1(each) for each in folders]
        return [room for room in found if room]


def give_back() -> None:
    """Return memory that was let go to the system: C's allocator and torch's both keep it for themselves."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc only
        if trim:
            trim(0)
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def translate_memory_errors(title: str) -> Iterator[None]:
    """A failed allocation, which Python, torch and the system each tell in their own way, becomes a sentence.

    Raises:
        NotEnoughMemoryError: no memory for ``title``.
    """
    try:
        yield
    except (
        MemoryError,
        RuntimeError,
        OSError,
        ValueError,
    ) as error:  # transformers turns NumPy's into the last
        if not (isinstance(error, MemoryError) or _LACK.search(str(error))):
            raise
        raise NotEnoughMemoryError(
            f"the memory of this machine is not enough for {title}; try fewer or smaller images, or a smaller checkpoint"
        ) from error


def gpu_room() -> Room | None:
    """The current CUDA device's memory, or None where torch was not imported or finds no such device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return Room(total, total - free)


def _unified(group: Path) -> Room | None:
    """Version 2: ``memory.high`` slows a group down to a crawl before ``memory.max`` kills it."""
    limits = [value for name in ("memory.max", "memory.high") if (value := _number(group / name)) is not None]
    current = _number(group / "memory.current")
    if not limits or current is None:
        return None
    stat = _fields(group / "memory.stat")
    return Room(
        min(limits), current - _unmapped(stat["active_file"], stat["inactive_file"], stat["file_mapped"])
    )


def _version_1(group: Path) -> Room | None:
    limit, usage = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or usage is None or limit >= _NO_LIMIT:
        return None
    stat = _fields(group / "memory.stat")
    names = ("total_active_file", "total_inactive_file", "total_mapped_file")
    return Room(limit, usage - _unmapped(*(stat[name] for name in names)))


def _unmapped(active: int, inactive: int, mapped: int) -> int:
    """Bytes of files that the system drops at no cost: those read, not those mapped as weights are."""
    return max(0, active + inactive - mapped)


def _number(file: Path) -> int | None:
    """The number in a file; None for "max", and where there is no such file."""
    try:
        text = file.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _fields(file: Path) -> Counter[str]:
    """Lines such as ``VmRSS:  123 kB`` or ``file_mapped 123``; what is not there is 0."""
    rows = (line.replace(":", " ").split() for line in file.read_text("utf-8").splitlines())
    return Counter({row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()})
