"""Loads and runs a stranger's checkpoint in a child process first, where it can be stopped.

The files were checked; what remains is what only a run shows: seconds of an image, memory of a caption, a
library that crashes. A checkpoint that passes is loaded into the server afterwards.
"""

from __future__ import annotations

import json
import math
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

from clipdemo import child, memory
from clipdemo.errors import CheckpointError, ClipdemoError, UnsupportedCheckpointError
from clipdemo.limits import MEGABYTE, format_bytes

MAX_PASS_SECONDS = 5.0  # processor time of one image, or of one caption, on one core
START_SECONDS = 60  # to import the frameworks and to run
BYTES_PER_SECOND = 50 * MEGABYTE  # from the disk
SLOWDOWN = 3  # wall clock of a busy machine by processor time
MAX_ANSWER = 10_000
RETRY_SECONDS = 600  # a checkpoint that failed is tried again only after this time
PASS_BYTES = 500 * MEGABYTE  # of buffers and of the frameworks, in addition to `memory.need`
_ONE_AT_A_TIME = Lock()
_PASSED: set[Path] = set()  # a snapshot never changes
_FAILED: dict[str, tuple[float, str]] = {}  # when, and the sentence, by name

# Long, without spaces, of spaces, with marks that normalization moves, with special tokens.
_CAPTIONS = (
    "a photo of a cat",
    "a" * 10_000,
    "a b " * 10_000,
    " " * 10_000,
    "\u0958\ufdfa\u1e9b\u0323" * 2_000,
    "<|endoftext|></s><bos>" * 500,
)


def try_in_child(folder: Path, checkpoint_id: str, weight_bytes: int) -> None:
    """Load and run the checkpoint in ``folder`` in a child process, once per process and folder.

    Args:
        folder: of a snapshot; its files have been checked.
        checkpoint_id: its name.
        weight_bytes: size of its weights in float32.

    Raises:
        UnsupportedCheckpointError: it takes too much memory or time.
        CheckpointError: it cannot be loaded.
    """
    with _ONE_AT_A_TIME:
        if folder in _PASSED:
            return
        failed_at, reason = _FAILED.get(checkpoint_id, (-math.inf, ""))
        if time.monotonic() < failed_at + RETRY_SECONDS:
            raise UnsupportedCheckpointError(f"{reason} (it can be tried again in some minutes)")
        try:
            _try(folder, checkpoint_id, weight_bytes)
        except CheckpointError as error:
            _FAILED[checkpoint_id] = time.monotonic(), str(error)
            raise
        _PASSED.add(folder)


def _try(folder: Path, checkpoint_id: str, weight_bytes: int) -> None:
    memory_bytes = memory.need(weight_bytes) + PASS_BYTES
    seconds = START_SECONDS + weight_bytes // BYTES_PER_SECOND
    task = {
        "folder": str(folder),
        "id": checkpoint_id,
        "memory_bytes": memory_bytes,
        "cpu_seconds": seconds,
    }
    answer = _ask_child(task, SLOWDOWN * seconds)
    reason = answer.get("reason")
    if isinstance(reason, str):
        raise CheckpointError(reason[:500])
    taken = answer.get("seconds")
    if not isinstance(taken, int | float):
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} did not pass its trial: it crashed, or took more than "
            f"{format_bytes(memory_bytes)} or {seconds:.0f} seconds; choose another checkpoint"
        )
    if not 0 <= taken <= MAX_PASS_SECONDS:
        raise UnsupportedCheckpointError(
            f"{checkpoint_id} takes {taken:.0f} seconds for one image or caption, and this server allows "
            f"{MAX_PASS_SECONDS:.0f}; choose a smaller checkpoint"
        )


def _ask_child(task: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What the child answers; empty if it does not."""
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    output = b""
    with child.start(__name__, environment=offline) as process:
        assert process.stdin is not None  # noqa: S101 - for the type checker
        assert process.stdout is not None  # noqa: S101
        try:
            with child.deadline(process, seconds):
                process.stdin.write(json.dumps(task).encode())
                process.stdin.close()
                output = process.stdout.read(MAX_ANSWER)
        except OSError:  # it ended before it read its task
            pass
        finally:
            process.kill()
    try:
        answer = json.loads(output)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _run(task: dict[str, Any]) -> dict[str, Any]:
    """In the child: seconds of processor time for the slowest single image or caption, or a reason."""
    from PIL import Image

    from clipdemo.models.clip.encoder import Origin, TransformersEncoder, import_classes
    from clipdemo.types import ImageItem

    import_classes()  # before the limits: some modules look for a folder that they can write to
    child.limit(memory_bytes=task["memory_bytes"], cpu_seconds=task["cpu_seconds"])
    try:
        encoder = TransformersEncoder(Path(task["folder"]), Origin(task["id"], "", "", "hub"))
        images = [Image.new("RGB", size) for size in ((32, 32), (32, 32), (640, 480), (20, 2_000))]
        items = [ImageItem("", "", image, b"", *image.size, "bytes") for image in images]
        encoder.encode_images(items[:1])  # the first pass also reads the weights from the disk
        passes = [_seconds(encoder.encode_images, item) for item in items[1:]]
        for caption in _CAPTIONS:
            passes.append(_seconds(encoder.encode_captions, caption))
            encoder.caption_tokens(caption)
    except ClipdemoError as error:
        return {"reason": str(error)}
    return {"seconds": max(passes)}


def _seconds(encode: Any, content: Any) -> float:
    started = time.process_time()
    encode([content])
    return time.process_time() - started


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_run(json.load(sys.stdin))))
