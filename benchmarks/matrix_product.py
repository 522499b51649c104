"""The rate of one large float32 matrix product under each library that clipdemo's packages bring."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SIDE = 2048
PAUSE = 0.1  # seconds until the threads of the library before have stopped spinning


def product_rates() -> dict[str, float]:
    """Return operations per second by library; a product runs twice, and its faster run counts."""
    return {name: 2 * SIDE**3 / min(_seconds(product) for _ in range(2)) for name, product in _products()}


def _products() -> list[tuple[str, Callable[[], Any]]]:
    import torch

    from clipdemo.models.clip.product import PackedLinear, is_available

    square = torch.randn(SIDE, SIDE)
    library = "MKL" if torch.backends.mkl.is_available() else "its own library"
    products = [(f"PyTorch, {library}", lambda: square @ square)]
    if is_available():
        layer = PackedLinear(torch.nn.Linear(SIDE, SIDE, bias=False))
        products.append(("PyTorch, oneDNN", lambda: layer(square)))
    array = np.ones((SIDE, SIDE), np.float32)
    return [*products, ("NumPy, OpenBLAS", lambda: array @ array)]


def _seconds(product: Callable[[], Any]) -> float:
    time.sleep(PAUSE)
    started = time.perf_counter()
    product()
    return time.perf_counter() - started
