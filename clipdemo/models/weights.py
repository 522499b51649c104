"""How many bytes a checkpoint's weights take in memory, read off its files without loading them."""

from __future__ import annotations

import json
from pathlib import Path

_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
_MOST_HEADER = 100_000_000  # what the safetensors library itself reads at most


def weight_bytes(folder: Path, itemsize: int) -> int:
    """Bytes of a checkpoint's weights once they are loaded: those in its files, or those its configuration names.

    transformers makes room for weights that are named and lacking before it says so, however many they are.

    Files that cannot be read count as large as they are: whoever loads them says what is wrong.

    Args:
        folder: with safetensors files or ``pytorch_model.bin``.
        itemsize: bytes of one number in the dtype they are used in.
    """
    return max(_in_files(folder, itemsize), itemsize * _named(folder))


def _in_files(folder: Path, itemsize: int) -> int:
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
    config = _config(folder)
    dtype = config.get("dtype") or config.get("torch_dtype")
    return 2 if dtype in ("float16", "bfloat16") else 4


def _named(folder: Path) -> int:
    """Weights that the configuration names at least: attention, two layers behind it, the token table."""
    config = _config(folder)
    towers = [
        tower
        for name in ("text_config", "vision_config")
        # Old files hold both forms; the second one counts.
        if isinstance(tower := config.get(f"{name}_dict") or config.get(name), dict)
    ]
    return sum(
        _count(tower, "num_hidden_layers", 12) * (4 * width * width + 2 * width * inner)
        + _count(tower, "vocab_size", 0) * width
        for tower in towers
        for width in [_count(tower, "hidden_size", 512)]
        for inner in [_count(tower, "intermediate_size", 2048)]
    )


def _count(tower: dict[str, object], name: str, least: int) -> int:
    """A number of the configuration; ``least`` is the smallest one that transformers takes where there is none."""
    value = tower.get(name, least)
    return value if isinstance(value, int) and value > 0 else 0


def _config(folder: Path) -> dict[str, object]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
