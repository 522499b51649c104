"""The lock for importing and loading with transformers, and the translation of its errors.

This module imports no framework itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from clipdemo import memory
from clipdemo.errors import CheckpointError, ClipdemoError, CorruptCheckpointError

# Held while names are imported from transformers and while weights load. transformers resolves its names at
# their first use, which is not thread-safe: of two threads that load at once, one is told that ``BertModel``
# does not exist, or that the files are broken (docs/decisions.md).
IMPORT_LOCK = threading.Lock()


@contextmanager
def translate_load_errors(
    name: str, message: str, error_type: type[CheckpointError] = CorruptCheckpointError
) -> Iterator[None]:
    """Turn what transformers raises for a malformed checkpoint into an error of ours.

    Args:
        name: the checkpoint, for the sentence about missing memory.
        message: the sentence for every other error; the name of the library's error is appended.
        error_type: the error to raise.

    Raises:
        NotEnoughMemoryError: an allocation failed.
        CheckpointError: of ``error_type``.
    """
    try:
        with memory.translate_memory_errors(name):
            yield
    except ClipdemoError:
        raise
    except Exception as error:  # third-party boundary: malformed files raise a dozen unrelated types
        raise error_type(f"{message} ({type(error).__name__})") from error
    # Rust panics (tokenizers, safetensors) derive from BaseException, and no module exports their type.
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise error_type(f"{message} (PanicException)") from error
