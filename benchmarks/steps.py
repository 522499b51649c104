"""The questions a worker answers: each function runs one step with a contender and returns its figures."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import contenders
from benchmarks.matrix_product import product_rates
from benchmarks.photographs import TWELVE_MEGAPIXELS, caption, captions, photograph, photographs
from benchmarks.web import pairs

OWN, EMBEDDED = "clipdemo", "embedded model"
ALTERNATIVES: dict[str, Callable[[Path], contenders.Contender]] = {
    "transformers pipeline": contenders.Pipeline,
    "sentence-transformers": contenders.SentenceTransformersClip,
    "open_clip": contenders.OpenClip,
    "loop over pairs": contenders.PairLoop,
}
SHORT = (
    1.0  # seconds; a step that takes less is repeated, because its time varies with the load of the moment
)
SHORT_REPEATS = 5
_NEW = itertools.count(100_000)  # numbers of captions and photographs that were not used before
Figures = dict[str, Any]


def load(name: str, checkpoint: Path) -> contenders.Contender:
    """Load the contender of this name and warm it up on one image and one caption."""
    if name in ALTERNATIVES:
        contender = ALTERNATIVES[name](checkpoint)
    else:
        from benchmarks.ours import Clipdemo

        contender = Clipdemo("embedded" if name == EMBEDDED else checkpoint)
    contender.cold([photograph(0, (224, 224))], ["warm up"])
    contender.forget()
    return contender


def memory(_contender: contenders.Contender) -> Figures:
    """Return only the memory, which the worker adds to every answer."""
    return {}


def cold(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Score files with an empty cache."""
    contender.forget()
    files, lines = photographs(images), captions(texts)
    return _timed(contender, lambda: contender.cold(files, lines))


def same_question(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Ask the same question again."""
    held = _held(contender, images, texts)
    return _timed(contender, lambda: contender.scores(held, captions(texts)), SHORT_REPEATS)


def one_more_caption(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Ask with one caption more than before."""
    held = _held(contender, images, texts)
    return _timed(
        contender, lambda: contender.scores(held, [*captions(texts), caption(next(_NEW))]), SHORT_REPEATS
    )


def one_more_image(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Ask with one image more than before, from its file."""
    held = _held(contender, images, texts)
    files = [photograph(next(_NEW)) for _ in range(SHORT_REPEATS)]
    return _timed(
        contender,
        lambda: contender.scores([*held, *contender.decode([files.pop()])], captions(texts)),
        SHORT_REPEATS,
    )


def caption_alone(contender: contenders.Contender) -> Figures:
    """Encode one caption, the cost for someone who keeps image embeddings by hand."""
    return _timed(contender, lambda: contender.captions([caption(next(_NEW))]), SHORT_REPEATS)


def large(contender: contenders.Contender, images: int) -> Figures:
    """Encode files of 12 megapixels."""
    contender.forget()
    files = photographs(images, TWELVE_MEGAPIXELS)
    return _timed(contender, lambda: contender.embed(files))


def table(contender: contenders.Contender, port: int, rows: int) -> Figures:
    """Score a table of new URLs and captions."""
    contender.forget()
    table_rows = pairs(rows, next(_NEW) * 10_000)
    return _timed(contender, lambda: contender.rows(port, table_rows))


def tower(contender: contenders.Contender, sizes: list[int], repeats: int) -> Figures:
    """Return the image tower's arithmetic per second as a share of the machine's best matrix product."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model = contender.bare._model  # type: ignore[attr-defined]
    shares: dict[str, list[float]] = {}
    peaks: dict[str, list[float]] = {}
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model.get_image_features(pixel_values=torch.randn(1, 3, 224, 224))
        for size in sizes * repeats:
            batch = torch.randn(size, 3, 224, 224)
            seconds = _seconds(lambda batch=batch: model.get_image_features(pixel_values=batch))
            rates = product_rates()
            for name, rate in rates.items():
                peaks.setdefault(name, []).append(rate / 1e9)
            rate = counter.get_total_flops() * size / seconds
            shares.setdefault(str(size), []).append(rate / max(rates.values()))
    return {"shares": shares, "gigaflops": peaks, "threads": torch.get_num_threads()}


def embedded(contender: contenders.Contender, images: int, texts: int) -> Figures:
    """Return the seconds of one image and of one caption."""
    contender.forget()
    held = contender.decode(photographs(images))
    encoder = contender.bare  # type: ignore[attr-defined]
    image = _seconds(lambda: encoder.encode_images(held)) / images
    return {"image": image, "caption": _seconds(lambda: encoder.encode_captions(captions(texts))) / texts}


def _held(contender: contenders.Contender, images: int, texts: int) -> list[Any]:
    """Return the decoded images; scored once already if the contender has a cache."""
    held = contender.decode(photographs(images))
    if contender.caches:
        contender.scores(held, captions(texts))
    return held


def _timed(contender: contenders.Contender, work: Callable[[], Any], short_repeats: int = 1) -> Figures:
    """Return seconds; the median of ``short_repeats`` runs if one takes less than ``SHORT``."""
    contender.scale = 1.0
    seconds = _seconds(work)
    if seconds < SHORT:
        seconds = statistics.median([seconds, *(_seconds(work) for _ in range(short_repeats - 1))])
    return {"seconds": seconds * contender.scale, "scale": contender.scale}


def _seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
