"""Errors of transformers become ours; our own errors and requests to stop pass."""

import pytest

from clipdemo.errors import CorruptCheckpointError, NotEnoughMemoryError, UnsupportedCheckpointError
from clipdemo.models.frameworks import translate_load_errors


class PanicException(BaseException):
    """What a panic in tokenizers or safetensors looks like."""


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (KeyError("x"), CorruptCheckpointError),
        (AssertionError(), CorruptCheckpointError),
        (RecursionError(), CorruptCheckpointError),
        (MemoryError(), NotEnoughMemoryError),
        (RuntimeError("CUDA out of memory"), NotEnoughMemoryError),
        (UnsupportedCheckpointError("x"), UnsupportedCheckpointError),
        (ImportError("x"), CorruptCheckpointError),  # a configuration can name a package
        (PanicException("x"), CorruptCheckpointError),
        (SystemExit(), SystemExit),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_errors_while_loading_are_translated(raised, expected):
    with pytest.raises(expected) as error, translate_load_errors("tiny", "the files of tiny are broken"):
        raise raised
    assert error.type is expected


def test_the_sentence_ends_with_the_name_of_the_original_error():
    with (
        pytest.raises(UnsupportedCheckpointError, match=r"^tiny is of another kind \(KeyError\)$"),
        translate_load_errors("tiny", "tiny is of another kind", UnsupportedCheckpointError),
    ):
        raise KeyError("x")
