"""Size, format and fingerprint of a checkpoint's files, read without loading the weights."""

from __future__ import annotations

import hashlib
from pathlib import Path

from clipdemo.errors import CorruptCheckpointError
from clipdemo.models.json_files import MAX_INDEX_BYTES, read_json
from clipdemo.models.safetensors_header import ITEM_SIZES, read_header

_FLOATS = {"F64", "F32", "F16", "BF16"}  # the others keep their dtype
_INDEX = "model.safetensors.index.json"


def has_safetensors(folder: Path) -> bool:
    """Whether the folder has weights in a format that cannot carry code."""
    return any(folder.glob("model*.safetensors"))


def folder_fingerprint(folder: Path) -> str:
    """SHA-256 over names and contents of the files directly in a folder: any change means another checkpoint.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        with file.open("rb") as stream:
            digest.update(file.name.encode() + hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def check_weights(folder: Path, checkpoint_id: str) -> None:
    """Check the headers of the safetensors files, and that an index names files of the folder only.

    Raises:
        CorruptCheckpointError: a header or the index is malformed.
    """
    try:
        for file in _weight_files(folder):
            part = file.name
            read_header(file)
        part = _INDEX
        if (folder / _INDEX).exists():
            named = set(read_json(folder / _INDEX, MAX_INDEX_BYTES)["weight_map"].values())
            if not named <= {path.name for path in folder.glob("*.safetensors")}:
                raise ValueError("it names files that are not in the folder")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CorruptCheckpointError(
            f"{part} of {checkpoint_id} is malformed ({error}); load it again, or choose another checkpoint"
        ) from error


def weight_bytes(folder: Path, itemsize: int) -> int:
    """The size of a checkpoint's weights in bytes once they are loaded.

    That is the size of the weights in its files, or of those its configuration implies if that is more:
    transformers allocates weights that are missing in the files before it reports them. A file that cannot be
    parsed counts with its size on disk; the error is left to the load.

    Args:
        folder: with safetensors files or ``pytorch_model.bin``.
        itemsize: bytes of one number in the dtype of the loaded weights.
    """
    return max(_bytes_in_files(folder, itemsize), itemsize * _count_configured(folder))


def _bytes_in_files(folder: Path, itemsize: int) -> int:
    files = _weight_files(folder)
    if files:
        return sum(_safetensors_bytes(file, itemsize) for file in files)
    pickled = folder / "pytorch_model.bin"
    return pickled.stat().st_size * itemsize // _pickled_itemsize(folder) if pickled.exists() else 0


def _weight_files(folder: Path) -> list[Path]:
    single = folder / "model.safetensors"  # variants of it next to it are not read
    return [single] if single.exists() else sorted(folder.glob("model*.safetensors"))


def _safetensors_bytes(file: Path, itemsize: int) -> int:
    """Reads the header only, which has the dtype and the offsets of each tensor."""
    try:
        tensors = read_header(file).values()
    except (OSError, ValueError):
        return file.stat().st_size
    return sum(
        (each.end - each.start) * itemsize // ITEM_SIZES[each.dtype]
        if each.dtype in _FLOATS
        else each.end - each.start
        for each in tensors
    )


def _pickled_itemsize(folder: Path) -> int:
    """Bytes of one stored number according to the configuration; the pickle itself is not opened."""
    config = _read_config(folder)
    dtype = config.get("dtype") or config.get("torch_dtype")
    return 2 if dtype in ("float16", "bfloat16") else 4


def _count_configured(folder: Path) -> int:
    """A lower bound of the weights in the configuration: attention, MLPs and the token table."""
    config = _read_config(folder)
    total = 0
    for name in ("text_config", "vision_config"):
        # Old files have both; transformers reads the first.
        tower = config.get(f"{name}_dict") or config.get(name)
        if not isinstance(tower, dict):
            continue
        width = _positive(tower, "hidden_size", 512)
        inner = _positive(tower, "intermediate_size", 2048)
        layers = _positive(tower, "num_hidden_layers", 12)
        total += layers * (4 * width * width + 2 * width * inner)
        total += _positive(tower, "vocab_size", 0) * width
    return total


def _positive(tower: dict[str, object], name: str, default: int) -> int:
    """A number of the configuration; ``default`` is the smallest that transformers assumes."""
    value = tower.get(name, default)
    return value if isinstance(value, int) and value > 0 else 0


def _read_config(folder: Path) -> dict[str, object]:
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}
