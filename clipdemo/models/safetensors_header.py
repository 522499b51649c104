"""Reads and checks the header of a safetensors file: names, shapes and places of its tensors.

Source: https://github.com/huggingface/safetensors#format. The library checks much of this, too, once torch is
imported; here it costs no more than reading the header.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAX_HEADER_BYTES = 10_000_000  # ViT-bigG has 1,000 tensors in 150 KB
MAX_DIMENSIONS = 8
# Bytes of one number; others are not used for weights of dual encoders.
ITEM_SIZES = {
    **{"F64": 8, "F32": 4, "F16": 2, "BF16": 2},
    **{"I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1},
}


@dataclass(frozen=True)
class TensorInfo:
    """One tensor: its dtype as the format names it, and its place in the data, in bytes."""

    dtype: str
    start: int
    end: int


def read_header(file: Path) -> dict[str, TensorInfo]:
    """The tensors of a safetensors file by name.

    Raises:
        OSError: the file cannot be read.
        ValueError: the header is malformed, or does not describe the data that the file has.
    """
    if not file.is_file():
        raise ValueError(f"{file.name} is not a file")
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        data_bytes = file.stat().st_size - 8 - length
        if data_bytes < 0 or length > MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length:,} bytes")
        try:
            content = json.loads(stream.read(length), object_pairs_hook=_without_duplicates)
        except RecursionError as error:
            raise ValueError("its header is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("its header is not a JSON object")
    if not all(name.isprintable() for name in content):  # transformers prints them
        raise ValueError("the name of a tensor has control characters")
    tensors = {name: _tensor(entry) for name, entry in content.items() if name != "__metadata__"}
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if tensor.start != end:
            raise ValueError("its tensors overlap or leave gaps")
        end = tensor.end
    if end != data_bytes:
        raise ValueError(f"its tensors have {end:,} bytes and the file has {data_bytes:,}")
    return tensors


def _tensor(entry: Any) -> TensorInfo:
    try:
        dtype, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    except (TypeError, LookupError) as error:
        raise ValueError("a tensor lacks its dtype, shape or place") from error
    numbers = [*shape, start, end] if isinstance(shape, list) else [None]
    if (
        not isinstance(dtype, str)
        or dtype not in ITEM_SIZES
        or not all(type(each) is int and each >= 0 for each in numbers)
    ):
        raise ValueError("a tensor has an unknown dtype, shape or place")
    if len(shape) > MAX_DIMENSIONS or math.prod(shape) * ITEM_SIZES[dtype] != end - start:
        raise ValueError("the shape of a tensor does not fit its bytes")
    return TensorInfo(dtype, start, end)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        raise ValueError("a name occurs twice")
    return content
