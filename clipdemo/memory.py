"""Measures the memory limits of this process and their use, and returns freed memory to the system.

Several limits may apply: the control groups of this process and of their ancestors (containers, systemd), the
machine's memory, and ``CLIPDEMO_MEMORY_MB``. The one that leaves the least room counts.
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

# Measured with transformers 5.23 and torch 2.13 on Linux, with a CLIP as large as ViT-B/32 (605 MB, float32):
# - Resident memory rises by the size of the weights, for safetensors, zipped and old .bin files alike. The
#   peak has no second copy, only the mapped file, which the system reclaims. Weights whose stored dtype is
#   used stay mapped: they are read during the first passes and are not anonymous memory, so used memory here
#   includes mapped files.
# - Packed weights (`models/clip/product.py`) are anonymous instead, and the file is unmapped: 590 MB once
#   loaded. The peak has the file beside them, 1,180 MB, of which the system can reclaim the file's 600.
# - The first checkpoint of a process takes 400 MB more: torch, transformers, buffers of the first pass.
# - A batch of 16 images takes 80 MB with 605 MB of weights, 305 with ViT-L/14 (1.7 GB), 591 at 336 pixels.
# - Released weights leave the resident memory once gc and malloc_trim have run: from 1,083 to 419 MB.
FIRST_USE, FIRST_PASS = 400 * MEGABYTE, 170 * MEGABYTE  # the second if transformers is imported already
_OUT_OF_MEMORY = re.compile("allocate memory|unable to allocate|out of memory", re.IGNORECASE)
_NO_LIMIT = 1 << 60  # version 1 control groups without a limit report a little less than 2**63


def need(weights: int) -> int:
    """Bytes that a checkpoint takes in use; ``weights`` is their size in the dtype of the forward pass."""
    return weights + weights // 4 + 100 * MEGABYTE


def first_use() -> int:
    """Bytes that the first checkpoint of a process takes in addition to its own."""
    return FIRST_PASS if "transformers" in sys.modules else FIRST_USE


@dataclass(frozen=True)
class Room:
    """One memory limit and how much of it is used, in bytes."""

    limit: int
    used: int

    @property
    def free(self) -> int:
        """Bytes left; at least zero."""
        return max(0, self.limit - self.used)


class Memory:
    """The memory this process may use.

    Args:
        own_limit: bytes of resident memory that the host allows this process, or None.
        root: folder of ``proc`` and ``sys``.
    """

    def __init__(self, own_limit: int | None = None, root: Path = Path("/")) -> None:
        self._own_limit = own_limit
        self._root = root

    def room(self) -> Room:
        """The limit that leaves the least room, with its use."""
        resident, mapped = self._process()
        rooms = [self._machine(mapped), *self._control_groups()]
        if self._own_limit is not None:
            rooms.append(Room(self._own_limit, resident))
        return min(rooms, key=lambda room: room.free)

    def resident(self) -> int:
        """Resident bytes of this process, mapped files included."""
        return self._process()[0]

    def _process(self) -> tuple[int, int]:
        """Resident bytes, and how many of them belong to mapped files."""
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
        # The system counts our mapped weights as available, but without them each pass would read the disk.
        return Room(total, total - available + mapped)

    def _control_groups(self) -> list[Room]:
        try:
            lines = (self._root / "proc/self/cgroup").read_text("utf-8").splitlines()
        except OSError:  # not Linux, or no control groups
            return []
        rooms: list[Room | None] = []
        for _, controllers, path in (line.split(":", 2) for line in lines):
            unified = not controllers
            if unified or "memory" in controllers.split(","):
                mount = self._root / ("sys/fs/cgroup" if unified else "sys/fs/cgroup/memory")
                # In a container the path may be the host's and not exist here: then the mount is our group.
                group = mount / path.lstrip("/")
                folders = [each for each in (group, *group.parents) if each.is_relative_to(mount)]
                rooms += [_unified(each) if unified else _version_1(each) for each in folders]
        return [room for room in rooms if room]


def give_back() -> None:
    """Return freed memory to the system; the allocators of C and torch would keep it."""
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
    """Turn failed allocations, which Python, torch and the system each report differently, into our error.

    Raises:
        NotEnoughMemoryError: an allocation for ``title`` failed.
    """
    try:
        yield
    # transformers turns the MemoryError of NumPy into a ValueError.
    except (MemoryError, RuntimeError, OSError, ValueError) as error:
        if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(str(error))):
            raise
        raise NotEnoughMemoryError(
            f"the memory of this machine is not enough for {title}; "
            "try fewer or smaller images, or a smaller checkpoint"
        ) from error


def gpu_room() -> Room | None:
    """Memory of the current CUDA device; None without torch in this process, or without such a device."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    free, total = torch.cuda.mem_get_info()
    return Room(total, total - free)


def _unified(group: Path) -> Room | None:
    """A version 2 group: ``memory.high`` slows it to a crawl before ``memory.max`` kills it."""
    limits = [value for name in ("memory.max", "memory.high") if (value := _number(group / name)) is not None]
    current = _number(group / "memory.current")
    if not limits or current is None:
        return None
    stat = _fields(group / "memory.stat")
    return Room(
        min(limits), current - _unmapped(stat["active_file"], stat["inactive_file"], stat["file_mapped"])
    )


def _version_1(group: Path) -> Room | None:
    """A version 1 group."""
    limit, usage = _number(group / "memory.limit_in_bytes"), _number(group / "memory.usage_in_bytes")
    if limit is None or usage is None or limit >= _NO_LIMIT:
        return None
    stat = _fields(group / "memory.stat")
    names = ("total_active_file", "total_inactive_file", "total_mapped_file")
    return Room(limit, usage - _unmapped(*(stat[name] for name in names)))


def _unmapped(active: int, inactive: int, mapped: int) -> int:
    """Bytes of cached files that the system can drop: read files, but not mapped ones such as weights."""
    return max(0, active + inactive - mapped)


def _number(file: Path) -> int | None:
    """The number in a file; None for "max" and for a missing file."""
    try:
        text = file.read_text("ascii").strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _fields(file: Path) -> Counter[str]:
    """Values of lines such as ``VmRSS:  123 kB`` or ``file_mapped 123``; missing names are 0."""
    rows = (line.replace(":", " ").split() for line in file.read_text("utf-8").splitlines())
    return Counter({row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()})
