"""What a worker can be asked: each function does one step with a contender and gives its figures."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.photographs import TWELVE_MEGAPIXELS, caption, captions, photograph, photographs
from benchmarks.web import pairs

OWN, EMBEDDED = "clipdemo", "embedded model"
ALTERNATIVES: dict[str, Callable[[Path], contenders.Contender]] = {
    "transformers pipeline": contenders.Pipeline,
    "sentence-transformers": contenders.SentenceTransformersClip,
    "open_clip": contenders.OpenClip,
    "loop over pairs": contenders.PairLoop,
}
SHORT, SHORT_ASKED = 1.0, 5  # seconds; the mood of a moment would decide a question of a tenth of a second
_NEW = itertools.count(100_000)  # captions and photographs never seen before
Figures = dict[str, Any]


def load(name: str, checkpoint: Path) -> contenders.Contender:
    """The contender of this name, warmed up on one image and one caption."""
    if name in ALTERNATIVES:
        contender = ALTERNATIVES[name](checkpoint)
    else:
        from benchmarks.ours import Clipdemo

        contender = Clipdemo("embedded" if name == EMBEDDED else checkpoint)
    contender.cold([photograph(0, (224, 224))], ["warm up"])
    contender.forget()
    return contender


def nothing(_contender: contenders.Contender) -> Figures:
    """Only say how much memory is held."""
    return {}


def cold(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Files to scores, nothing known."""
    contender.forget()
    files, words = photographs(images), captions(texts)
    return _timed(contender, lambda: contender.cold(files, words))


def again(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """The same question once more."""
    held = _held(contender, images, texts)
    return _timed(contender, lambda: contender.scores(held, captions(texts)), SHORT_ASKED)


def another_caption(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """One caption more than before."""
    held = _held(contender, images, texts)
    return _timed(
        contender, lambda: contender.scores(held, [*captions(texts), caption(next(_NEW))]), SHORT_ASKED
    )


def another_image(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """One image more than before, from its file."""
    held = _held(contender, images, texts)
    files = [photograph(next(_NEW)) for _ in range(SHORT_ASKED)]
    return _timed(
        contender,
        lambda: contender.scores([*held, *contender.decode([files.pop()])], captions(texts)),
        SHORT_ASKED,
    )


def only_a_caption(contender: contenders.Contender) -> Figures:
    """One caption and nothing else, as someone pays who keeps the embeddings of images by hand."""
    return _timed(contender, lambda: contender.captions([caption(next(_NEW))]), SHORT_ASKED)


def large(contender: contenders.Contender, images: int) -> Figures:
    """Files of 12 megapixels to embeddings."""
    contender.forget()
    files = photographs(images, TWELVE_MEGAPIXELS)
    return _timed(contender, lambda: contender.embed(files))


def table(contender: contenders.Contender, port: int, rows: int) -> Figures:
    """A table of URLs and captions, never seen before."""
    contender.forget()
    wanted = pairs(rows, next(_NEW) * 10_000)
    return _timed(contender, lambda: contender.rows(port, wanted))


def tower(contender: contenders.Contender, sizes: list[int], repeats: int) -> Figures:
    """Arithmetic a second inside the image tower, as a share of the machine's matrix product, per batch size."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = contender.bare._model  # type: ignore[attr-defined]
    square = torch.randn(2048, 2048)
    shares: dict[str, list[float]] = {}
    peaks: list[float] = []
    with torch.inference_mode():
        one = torch.randn(1, 3, 224, 224)
        with FlopCounterMode(display=False) as counter:
            model.get_image_features(pixel_values=one)
        for size in sizes * repeats:
            batch = torch.randn(size, 3, 224, 224)
            peak = 2 * 2048**3 / _seconds(lambda: square @ square)
            seconds = _seconds(lambda batch=batch: model.get_image_features(pixel_values=batch))
            shares.setdefault(str(size), []).append(counter.get_total_flops() * size / seconds / peak)
            peaks.append(peak / 1e9)
    return {"shares": shares, "gigaflops": peaks, "threads": torch.get_num_threads()}


def embedded(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Seconds of one image and of one caption."""
    contender.forget()
    held = contender.decode(photographs(images))
    encoder = contender.bare  # type: ignore[attr-defined]
    image = _seconds(lambda: encoder.encode_images(held)) / images
    return {"image": image, "caption": _seconds(lambda: encoder.encode_captions(captions(texts))) / texts}


def _held(contender: contenders.Contender, images: int, texts: int) -> list[Any]:
    """The images in memory; scored before where the contender remembers."""
    held = contender.decode(photographs(images))
    if contender.remembers:
        contender.scores(held, captions(texts))
    return held


def _timed(contender: contenders.Contender, work: Callable[[], Any], asked: int = 1) -> Figures:
    """Seconds of the work; what takes less than ``SHORT`` is asked several times, and its median counts."""
    contender.scale = 1.0
    seconds = _seconds(work)
    if seconds < SHORT:
        seconds = statistics.median([seconds, *(_seconds(work) for _ in range(asked - 1))])
    return {"seconds": seconds * contender.scale, "scale": contender.scale}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
