"""How well images and captions match under CLIP: the engine behind the app, ready for a notebook.

>>> encoder = load_encoder("embedded")
>>> images = [decode_image(data, name)]
>>> score_matrix(encoder, images, ["a cat", "a dog"]).cosine

Names are loaded when first used, so that importing clipdemo costs nothing. Every error raised here is a
child of ``ClipdemoError``.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

# Before torch is loaded: its threads spin while they wait for each other, and where another program or a
# decoding thread holds a core, an image took 18 times as long (docs/decisions.md).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

if TYPE_CHECKING:
    from clipdemo.errors import (
        ArchiveError,
        BlockedURLError,
        CaptionError,
        CheckpointError,
        CheckpointNotFoundError,
        ClipdemoError,
        CorruptCheckpointError,
        FetchError,
        FetchTimeoutError,
        FetchTooLargeError,
        FileMissingError,
        HubUnreachableError,
        ImageError,
        ImageTooLargeError,
        LedgerError,
        LoadAbandonedError,
        NotAnImageError,
        NotEnoughMemoryError,
        OutputError,
        RedirectRefusedError,
        ReleasedCheckpointError,
        SettingError,
        TableError,
        TrainingError,
        UnreachableURLError,
        UnsafeWeightsError,
        UnsupportedCheckpointError,
    )
    from clipdemo.images.decode import decode_image
    from clipdemo.images.fetch import fetch_image
    from clipdemo.models.load import load_encoder
    from clipdemo.scoring.score import score_matrix, score_pairs
    from clipdemo.types import Checkpoint, Encoder, ImageItem, PairScore, ScoreMatrix

__version__ = "0.1.0"

_HOME = {
    "load_encoder": "models.load",
    "fetch_image": "images.fetch",
    "decode_image": "images.decode",
    "score_matrix": "scoring.score",
    "score_pairs": "scoring.score",
    "Checkpoint": "types",
    "Encoder": "types",
    "ImageItem": "types",
    "PairScore": "types",
    "ScoreMatrix": "types",
}

__all__ = [
    "ArchiveError",
    "BlockedURLError",
    "CaptionError",
    "Checkpoint",
    "CheckpointError",
    "CheckpointNotFoundError",
    "ClipdemoError",
    "CorruptCheckpointError",
    "Encoder",
    "FetchError",
    "FetchTimeoutError",
    "FetchTooLargeError",
    "FileMissingError",
    "HubUnreachableError",
    "ImageError",
    "ImageItem",
    "ImageTooLargeError",
    "LedgerError",
    "LoadAbandonedError",
    "NotAnImageError",
    "NotEnoughMemoryError",
    "OutputError",
    "PairScore",
    "RedirectRefusedError",
    "ReleasedCheckpointError",
    "ScoreMatrix",
    "SettingError",
    "TableError",
    "TrainingError",
    "UnreachableURLError",
    "UnsafeWeightsError",
    "UnsupportedCheckpointError",
    "decode_image",
    "fetch_image",
    "load_encoder",
    "score_matrix",
    "score_pairs",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'clipdemo' has no attribute {name!r}")
    return getattr(import_module(f"clipdemo.{_HOME.get(name, 'errors')}"), name)
