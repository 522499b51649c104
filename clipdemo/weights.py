"""How many bytes a checkpoint's weights take in memory, read off its files without loading them."""

from __future__ import annotations

import json
from pathlib import Path

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MOST_HEADER = 100_000_000  # what the safetensors library itself reads at most


def weight_bytes(folder: Path, itemsize: int) -> int:
    """Bytes of a checkpoint's weights once they are loaded.

    Files that cannot be read count as large as they are: whoever loads them says what is wrong.

    Args:
        folder: with safetensors files or ``pytorch_model.bin``.
        itemsize: bytes of one number in the dtype they are used in.
    """
    whole = folder / "model.safetensors"  # beside it may lie variants of it, which nobody reads
    safe = [whole] if whole.exists() else sorted(folder.glob("model*.safetensors"))
    if safe:
        return sum(_safetensors(file, itemsize) for file in safe)
    pickled = folder / "pytorch_model.bin"
    return pickled.stat().st_size * itemsize // _stored(folder) if pickled.exists() else 0


def _safetensors(file: Path, itemsize: int) -> int:
    """The header names each tensor's dtype and place."""
    try:
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, _MOST_HEADER)))
        total = 0
        for name, tensor in header.items():
            if name != "__metadata__":
                start, end = tensor["data_offsets"]
                stored = _BYTES.get(tensor["dtype"])
                total += (end - start) * itemsize // stored if stored else end - start
        return int(total)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return file.stat().st_size


def _stored(folder: Path) -> int:
    """Bytes of one stored number, which a pickle does not tell without being read; the configuration may."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        dtype = config.get("dtype") or config.get("torch_dtype")
    except (OSError, ValueError, AttributeError, RecursionError):
        return 4
    return 2 if dtype in {"float16", "bfloat16"} else 4
