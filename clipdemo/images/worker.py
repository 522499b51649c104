"""The child process that decodes images for :mod:`clipdemo.images.pool`, one after the other.

It first says that it is ready. For each image it reads one line of JSON and the file's bytes from standard
input, and writes one line of JSON to standard output, followed by the pixels and the thumbnail. In between it
may ask for memory once the size of the image is known: ``{"need": bytes}``, answered by an empty line.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, BinaryIO

import pillow_heif
from PIL import AvifImagePlugin

from clipdemo import child
from clipdemo.errors import ImageError, ImageTooLargeError
from clipdemo.images.decode import Picture, decode_picture
from clipdemo.images.structure import decoding_bytes
from clipdemo.limits import Limits
from clipdemo.view import TowerView

HEADER_SECONDS = 5  # of processor time, for everything but the pixels
PIXELS_PER_SECOND = 10_000_000  # the slowest honest file of 50 megapixels took 2.8 s on an AMD EPYC


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Decode until the parent closes the pipe."""
    while line := requests.readline():
        task = json.loads(line)
        # Before the file is read: the limit of the task before may be too low for it.
        child.limit(memory_bytes=decoding_bytes("", 0, task["size"]), cpu_seconds=HEADER_SECONDS)
        data = requests.read(task["size"])
        _decode(data, task, requests, answers)


def _decode(data: bytes, task: dict[str, Any], requests: BinaryIO, answers: BinaryIO) -> None:
    pixels, fields = task["pixels"], task["view"]
    view = TowerView.from_json(fields) if fields else None

    def reserve(nbytes: int) -> None:
        _send(answers, {"need": nbytes})
        requests.readline()
        child.limit(memory_bytes=nbytes, cpu_seconds=HEADER_SECONDS + pixels // PIXELS_PER_SECOND)

    try:
        picture = decode_picture(
            data, Limits(pixels=pixels), thumbnail=task["thumbnail"], view=view, reserve=reserve
        )
    except ImageError as error:
        _send(answers, {"error": str(error), "too_large": isinstance(error, ImageTooLargeError)})
    else:
        _send_picture(answers, picture)


def _send_picture(answers: BinaryIO, picture: Picture) -> None:
    size = {"width": picture.width, "height": picture.height}
    _send(answers, {**size, "copy": picture.image.size, "thumbnail": len(picture.thumbnail)}, more=True)
    answers.write(picture.image.tobytes())
    answers.write(picture.thumbnail)
    answers.flush()


def _send(answers: BinaryIO, message: object, *, more: bool = False) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    if not more:
        answers.flush()


def main() -> None:
    """Serve the parent; whatever a codec prints does not mix with the answers."""
    # Threads of a codec would each reserve a stack; several workers use several cores already.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    pillow_heif.options.DECODE_THREADS = 1
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _send(answers, {"ready": True})
    serve(sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
