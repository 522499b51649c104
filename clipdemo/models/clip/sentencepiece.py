"""Bounds a SentencePiece model: its size, its pieces, and how much its normalization can lengthen a text."""

from __future__ import annotations

from pathlib import Path

from clipdemo.errors import CorruptCheckpointError

MAX_BYTES = 20_000_000  # SigLIP has 0.8 MB, its multilingual variant 4.3 MB
MAX_PIECES = 1_000_000
MAX_PIECE = 512  # letters
MAX_REPLACEMENT = 100  # bytes for one character; NFKC's longest has 33


def check_sentencepiece(path: Path, checkpoint_id: str) -> None:
    """Check ``spiece.model``.

    Raises:
        CorruptCheckpointError: it is missing, malformed or beyond the bounds.
    """
    from google.protobuf.message import DecodeError
    from sentencepiece import sentencepiece_model_pb2

    broken = f"{path.name} of {checkpoint_id} is missing or malformed; choose another checkpoint"
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise CorruptCheckpointError(broken)
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, OSError) as error:
        raise CorruptCheckpointError(broken) from error
    longest = max((len(piece.piece) for piece in model.pieces), default=0)
    rules = model.normalizer_spec.precompiled_charsmap
    if not 0 < len(model.pieces) <= MAX_PIECES or longest > MAX_PIECE:
        raise CorruptCheckpointError(broken)
    if rules and _longest_replacement(rules) > MAX_REPLACEMENT:
        raise CorruptCheckpointError(broken)


def _longest_replacement(rules: bytes) -> int:
    """In bytes. Rules are the length of a trie, the trie, and replacements that end with a zero byte."""
    replacements = rules[4 + int.from_bytes(rules[:4], "little") :]
    return max(map(len, replacements.split(b"\0")))
