"""NumPy's matrix product on the calling thread alone, so that several threads multiply side by side.

OpenBLAS splits each product over all cores and its threads then wait for each other in a loop: with other
programs on the cores, a product takes three times as long as on one thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

_SET, _GET = "scipy_openblas_set_num_threads64_", "scipy_openblas_get_num_threads64_"


def cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Limit:
    """The number of OpenBLAS's threads before the first of several users set it to one."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = threading.Lock(), 0, 0

    @contextmanager
    def held(self, library: ctypes.CDLL) -> Iterator[None]:
        with self._lock:
            if not self._users:
                self._before = getattr(library, _GET)()
                getattr(library, _SET)(1)
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    getattr(library, _SET)(self._before)


_LIMIT = _Limit()


@contextmanager
def products_on_one_thread() -> Iterator[bool]:
    """Keep NumPy's products on the thread that calls them, in the whole process, until the last user leaves.

    Yields:
        Whether it worked: it does with the OpenBLAS of NumPy's own packages on Linux and macOS. PyTorch's
        products are not affected.
    """
    library = _openblas()
    if library is None:
        yield False
        return
    with _LIMIT.held(library):
        yield True


def _openblas() -> ctypes.CDLL | None:
    # The handle of NumPy's extension finds the functions of the libraries that it is linked with.
    extension = getattr(getattr(np, "_core", None), "_multiarray_umath", None)
    path = getattr(extension, "__file__", None)
    library = ctypes.CDLL(path) if path else None
    return library if hasattr(library, _SET) and hasattr(library, _GET) else None
