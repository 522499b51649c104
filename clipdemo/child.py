"""Child processes with limits, for work on bytes from strangers that must be stoppable.

On hostile bytes a codec, a Parquet reader or a tokenizer may take any amount of memory and time, inside C
code that Python can neither interrupt nor bound. In a child process the system bounds both. What it answers
is as untrusted as what it read: parents parse JSON and raw bytes, never pickles.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

_PARENT = "CLIPDEMO_PARENT"  # variable with the parent's process id, for its children
_WATCH_SECONDS = 2
_PACKAGES = str(Path(__file__).resolve().parent.parent)
# Everything else stays behind: tokens and passwords of the host are none of a codec's business.
_PASSED_ON = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "SYSTEMROOT",
    "TEMP",
    "TMP",
    "TMPDIR",
    "VIRTUAL_ENV",
)


def cores() -> int:
    """Number of processor cores that this process, and its children, may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start(
    module: str,
    *arguments: str,
    stdin: IO[bytes] | int = subprocess.PIPE,
    environment: dict[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Run ``python -m module`` as a child whose standard output is a pipe.

    The module calls :func:`limit` before it reads anything untrusted; from then on, it ends within seconds of
    its parent, however that ends (except on Windows). Interrupts from the keyboard go to the parent alone.
    Its standard error is discarded: libraries print parts of files there.

    Args:
        module: name of the module with a ``__main__`` block.
        arguments: of its command line; each may be seen by other users of the machine.
        stdin: an open file that the child reads, or a pipe.
        environment: variables in addition to the few that every child gets.
    """
    inherited = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    paths = os.pathsep.join([_PACKAGES, *(path for path in sys.path if path and path != _PACKAGES)])
    return subprocess.Popen(  # noqa: S603 - this Python, and a module of this package
        [sys.executable, "-P", "-m", module, *arguments],  # -P: without modules of the current folder
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={
            **inherited,
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": "1",
            _PARENT: str(os.getpid()),
            **(environment or {}),
        },
        start_new_session=True,
    )


@contextmanager
def deadline(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End a child if the block takes longer than ``seconds``; called in the parent.

    Yields:
        An event that is set if the deadline ended the child.
    """
    struck = threading.Event()

    def strike() -> None:
        struck.set()
        process.kill()

    timer = threading.Timer(seconds, strike)
    timer.daemon = True
    timer.start()
    try:
        yield struck
    finally:
        timer.cancel()


def limit(*, memory_bytes: int, cpu_seconds: int) -> None:
    """Limit what this process may take from now on; called in the child, again before each task.

    Beyond the memory limit, allocations fail (``MemoryError``, or whatever a library makes of it); beyond the
    processor time, the system ends the process. It can write files no longer, and leaves no core dump. Only
    Linux enforces the memory limit, and Windows neither; there, the parent's deadline remains.

    Args:
        memory_bytes: private memory in addition to what the process has now.
        cpu_seconds: processor time of all threads, in addition to what it has used.
    """
    if sys.platform == "win32":
        return
    import resource

    _end_with_parent()
    with suppress(OSError):  # where memory runs out, Linux ends this process rather than the server
        Path("/proc/self/oom_score_adj").write_text("1000", "ascii")
    limit_processor_time(cpu_seconds)
    _set_soft_limit(resource.RLIMIT_CORE, 0)
    _set_soft_limit(resource.RLIMIT_FSIZE, 0)
    if sys.platform == "linux":
        _set_soft_limit(resource.RLIMIT_DATA, _private_bytes() + memory_bytes)


def limit_processor_time(seconds: int) -> None:
    """Limit the processor time from now on, and leave the limit of memory where it is.

    Args:
        seconds: as in :func:`limit`.
    """
    if sys.platform == "win32":
        return
    import resource

    used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
    _set_soft_limit(resource.RLIMIT_CPU, int(used) + 1 + seconds)


def _end_with_parent() -> None:
    """Watch the parent from a thread, once; a system's death signal would follow the thread that forked."""
    parent = os.environ.pop(_PARENT, None)
    if parent:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_WATCH_SECONDS)
    os._exit(1)


def _set_soft_limit(kind: int, value: int) -> None:
    import resource

    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _private_bytes() -> int:
    """What the system counts against ``RLIMIT_DATA``: private writable mappings (proc(5), ``VmData``)."""
    for line in Path("/proc/self/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmData:"):
            return 1024 * int(line.split()[1])
    return 0
