"""What is written about a run: the curves as a picture, and the model card."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from clipdemo.output.pictures import png_bytes, write_line
from clipdemo.train.loop import History, Settings

CARD, CURVES = "README.md", "curves.png"
_WIDE, _HIGH, _LEFT, _EDGE = 720, 260, 70, 40
_INK, _FAINT, _PAPER, _LINE = "#1f2430", "#667085", "#ffffff", "#2563eb"


def curves_png(history: History) -> bytes:
    """Loss and validation recall of every epoch, one below the other; the epoch that was kept is marked."""
    canvas = Image.new("RGB", (_WIDE, 2 * _HIGH), _PAPER)
    draw = ImageDraw.Draw(canvas)
    losses = [epoch.loss for epoch in history.epochs]
    recalls = [100 * epoch.recall for epoch in history.epochs]
    _curve(draw, 0, "mean loss of each epoch", losses, history.best)
    _curve(draw, _HIGH, "validation recall after each epoch, % (mean of @1, @5, @10)", recalls, history.best)
    return png_bytes(canvas)


def _curve(draw: ImageDraw.ImageDraw, top: int, title: str, values: Sequence[float], best: int) -> None:
    """One line from left to right with its smallest and largest value; a dot where ``best`` is."""
    low, high = min(values), max(values)
    room = _WIDE - _LEFT - _EDGE, _HIGH - 2 * _EDGE

    def at(place: int) -> tuple[float, float]:
        across = place / max(1, len(values) - 1)
        up = (values[place] - low) / (high - low) if high > low else 0.5
        return _LEFT + across * room[0], top + _EDGE + (1 - up) * room[1]

    write_line(draw, (_LEFT, top + 10), title, 15, room[0])
    for value, height in ((high, top + _EDGE), (low, top + _HIGH - _EDGE)):
        draw.line([(_LEFT, height), (_WIDE - _EDGE, height)], fill="#d0d5dd")
        write_line(draw, (8, height - 8), f"{value:.3g}", 13, _LEFT - 12, _FAINT)
    write_line(draw, (_LEFT, top + _HIGH - _EDGE + 6), "epoch 1", 13, 120, _FAINT)
    write_line(draw, (_WIDE - _EDGE - 60, top + _HIGH - _EDGE + 6), f"{len(values)}", 13, 60, _FAINT)
    points = [at(place) for place in range(len(values))]
    draw.line(points, fill=_LINE, width=2)
    if best:
        across, down = points[best - 1]
        draw.ellipse([across - 5, down - 5, across + 5, down + 5], fill=_LINE, outline=_INK)


def card_text(
    command: str, origin: str, settings: Settings, done: Mapping[str, Any], licences: Mapping[str, int]
) -> str:
    """The model card, in Markdown.

    Args:
        command: as it was typed.
        origin: what it was trained from.
        settings: how.
        done: every figure, as ``run.Trained.as_dict`` gives them.
        licences: what the table says of its pairs -> how many.
    """
    images, pairs = done["images"], done["pairs"]
    fence = "`" * (1 + max(2, *map(len, re.findall("`*", command))))
    counts = ", ".join(f"{images[split]:,} images and {pairs[split]:,} pairs ({split})" for split in images)
    said = [f"- {_plain(licence)}: {count:,} pairs" for licence, count in list(licences.items())[:20]]
    out = [f"- {count:,} rows left out: {_plain(reason)}" for reason, count in done["left_out"].items()]
    table = [
        "| split | direction | recall@1 | recall@5 | recall@10 | MRR | median rank |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, figures in done["figures"].items():
        for words in ("text to image", "image to text"):
            table.append(f"| {split} | {words} | {_figures(figures[words.replace(' ', '_')])} |")
    return "\n".join(
        [
            "---\nlibrary_name: clipdemo\npipeline_tag: zero-shot-image-classification\n---",
            "# An image-text dual encoder trained by clipdemo",
            f"Trained from {_plain(origin)}. Opened by clipdemo: the folder's path is the checkpoint's name.",
            f"\n{fence}sh\n{command}\n{fence}",
            "\n## Data\n",
            f"{counts}; no image is in two splits.",
            *(f"- {note}" for note in done["notes"]),
            *out,
            "\nLicence of the data, as its table says:\n" if said else "\nThe table names no licence.",
            *said,
            "\n## Figures\n",
            "Percent, with 95 % bootstrap intervals (images drawn again with their captions). Each split is searched "
            "by itself: more candidates would make lower figures.\n",
            *table,
            f"\nBest epoch {done['best_epoch']} of {len(done['epochs'])}; {done['seconds']:.0f} s on {done['device']}; "
            f"batch size {settings.batch_size}, learning rate {settings.learning_rate:g}, seed {settings.seed}. "
            f"Epoch by epoch: `metrics.json`; step by step: `log.jsonl`.",
            f"\n![Loss and validation recall of each epoch]({CURVES})",
            "\n## Limits\n",
            "It knows what its pairs and its towers have seen. A cosine is no probability and cannot be compared "
            "with another checkpoint's. What the pairs leave out or distort, it does too. The validation split chose "
            "the epoch, so its figures flatter.",
            "",
        ]
    )


def _figures(direction: Mapping[str, Any]) -> str:
    def said(figure: Mapping[str, float], scale: float, digits: int) -> str:
        value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
        return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

    recall = [said(figure, 100, 1) for figure in direction["recall"].values()]
    rest = [said(direction["mean_reciprocal_rank"], 1, 3), said(direction["median_rank"], 1, 1)]
    return " | ".join([*recall, *rest])


def _plain(text: str) -> str:
    """Foreign text on one line, every Markdown and HTML character escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split())[:300])
