"""The report on a run: curves as a PNG image, and the model card in Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image, ImageDraw

from clipdemo.output.pictures import png_bytes, write_line
from clipdemo.train.loop import History, Settings

CARD, CURVES = "README.md", "curves.png"
_WIDTH, _HEIGHT, _LEFT, _EDGE = 720, 260, 70, 40
_INK, _FAINT, _PAPER, _LINE = "#1f2430", "#667085", "#ffffff", "#2563eb"


def curves_png(history: History) -> bytes:
    """Draw loss and validation recall by epoch, one above the other, with the kept epoch marked."""
    canvas = Image.new("RGB", (_WIDTH, 2 * _HEIGHT), _PAPER)
    draw = ImageDraw.Draw(canvas)
    losses = [epoch.loss for epoch in history.epochs]
    recalls = [100 * epoch.recall for epoch in history.epochs]
    _curve(draw, 0, "mean loss of each epoch", losses, history.best)
    _curve(
        draw, _HEIGHT, "validation recall after each epoch, % (mean of @1, @5, @10)", recalls, history.best
    )
    return png_bytes(canvas)


def _curve(draw: ImageDraw.ImageDraw, top: int, title: str, values: Sequence[float], best: int) -> None:
    """Draw one curve with its extremes, and a dot at epoch ``best``."""
    low, high = min(values), max(values)
    width, height = _WIDTH - _LEFT - _EDGE, _HEIGHT - 2 * _EDGE

    def point(index: int) -> tuple[float, float]:
        across = index / max(1, len(values) - 1)
        up = (values[index] - low) / (high - low) if high > low else 0.5
        return _LEFT + across * width, top + _EDGE + (1 - up) * height

    write_line(draw, (_LEFT, top + 10), title, 15, width)
    for value, line_y in ((high, top + _EDGE), (low, top + _HEIGHT - _EDGE)):
        draw.line([(_LEFT, line_y), (_WIDTH - _EDGE, line_y)], fill="#d0d5dd")
        write_line(draw, (8, line_y - 8), f"{value:.3g}", 13, _LEFT - 12, _FAINT)
    write_line(draw, (_LEFT, top + _HEIGHT - _EDGE + 6), "epoch 1", 13, 120, _FAINT)
    write_line(draw, (_WIDTH - _EDGE - 60, top + _HEIGHT - _EDGE + 6), f"{len(values)}", 13, 60, _FAINT)
    points = [point(index) for index in range(len(values))]
    draw.line(points, fill=_LINE, width=2)
    if best:
        x, y = points[best - 1]
        draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=_LINE, outline=_INK)


def card_text(
    command: str, origin: str, settings: Settings, figures: Mapping[str, Any], licences: Mapping[str, int]
) -> str:
    """Return the model card.

    Args:
        command: the command line.
        origin: names of the pretrained models.
        settings: hyperparameters.
        figures: from ``run.TrainingResult.as_dict``.
        licences: licence named in the table -> number of pairs.
    """
    images, pairs = figures["images"], figures["pairs"]
    fence = "`" * (1 + max(2, *map(len, re.findall("`*", command))))
    counts = ", ".join(f"{images[split]:,} images and {pairs[split]:,} pairs ({split})" for split in images)
    listed = [
        f"- {escape_markdown(licence)}: {count:,} pairs" for licence, count in list(licences.items())[:20]
    ]
    left_out = [
        f"- {count:,} rows left out: {escape_markdown(reason)}"
        for reason, count in figures["left_out"].items()
    ]
    table = [
        "| split | direction | recall@1 | recall@5 | recall@10 | MRR | median rank |",
        "|---|---|---|---|---|---|---|",
    ]
    for split, evaluation in figures["figures"].items():
        for direction in ("text to image", "image to text"):
            cells = _cells(evaluation[direction.replace(" ", "_")])
            table.append(f"| {split} | {direction} | {cells} |")
    return "\n".join(
        [
            "---\nlibrary_name: clipdemo\npipeline_tag: zero-shot-image-classification\n---",
            "# An image-text dual encoder trained by clipdemo",
            f"Trained from {escape_markdown(origin)}. To use it, give clipdemo the path of this folder "
            "as the name of the checkpoint.",
            f"\n{fence}sh\n{command}\n{fence}",
            "\n## Data\n",
            f"{counts}; each image is in one split only.",
            *(f"- {note}" for note in figures["notes"]),
            *left_out,
            "\nLicences of the data, as named in the table:\n"
            if listed
            else "\nThe table does not name a licence.",
            *listed,
            "\n## Figures\n",
            "Percent, with 95 % bootstrap intervals (images are resampled with their captions). Each split "
            "is searched independently: more candidates would give lower figures.\n",
            *table,
            f"\nBest epoch {figures['best_epoch']} of {len(figures['epochs'])}; {figures['seconds']:.0f} s "
            f"on {figures['device']}; batch size {settings.batch_size}, learning rate "
            f"{settings.learning_rate:g}, seed {settings.seed}. Figures by epoch: `metrics.json`; by step: "
            "`log.jsonl`.",
            f"\n![Loss and validation recall by epoch]({CURVES})",
            "\n## Limits\n",
            "The model knows what its pairs and its towers cover, and inherits their gaps and biases. A "
            "cosine is not a probability and cannot be compared with that of another checkpoint. The epoch "
            "was chosen on the validation split, so its figures are optimistic.",
            "",
        ]
    )


def escape_markdown(text: str) -> str:
    """Return foreign text on one line of at most 300 characters, with Markdown and HTML escaped."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split())[:300])


def _cells(direction: Mapping[str, Any]) -> str:
    def cell(figure: Mapping[str, float], scale: float, digits: int) -> str:
        value, low, high = (scale * figure[key] for key in ("value", "low", "high"))
        return f"{value:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"

    recall = [cell(figure, 100, 1) for figure in direction["recall"].values()]
    rest = [cell(direction["mean_reciprocal_rank"], 1, 3), cell(direction["median_rank"], 1, 1)]
    return " | ".join([*recall, *rest])
