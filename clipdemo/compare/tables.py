"""The tables of a comparison, for the page, the report and spreadsheets: costs, recall, ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipdemo.compare import costs
from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import Comparison
from clipdemo.compare.truth import MOST_PAIRS, Recall, Truth
from clipdemo.limits import MEGABYTE
from clipdemo.output.files import csv_bytes
from clipdemo.scoring.prompts import Templates

MEANINGS = {
    "Spearman": "Spearman's rho: correlation of the two models' ranks of all images. 1 is the same order, 0 no "
    "relation, −1 the reverse.",
    "Kendall": "Kendall's tau-b: of all pairs of images, how many more are in the same order than in opposite order. "
    "1 is all, −1 none.",
    "overlap": "How many of the first images of one model are among the first of the other, whatever their order.",
}
COSTS = {
    "load, s": "From files on this machine to a ready model; the first one loaded also waits for its libraries.",
    "ms an image": "Milliseconds for one image, decoding not included.",
    "ms a caption": "Milliseconds for one caption, tokenising included.",
    "memory, MB": "What its weights hold.",
    "parameters, M": "Weights, in millions.",
    "embedding": "Numbers in one embedding.",
    "input, px": "Side of the square each image is shrunk to.",
    "download, MB": "Files to download; a dash where none were.",
}


def cost_row(title: str, cost: Cost) -> dict[str, object]:
    """One line of the cost table; None for what is not known."""
    load, speed, checkpoint = cost.load, cost.speed, cost.checkpoint
    downloaded = load.download_bytes if load else None
    return {
        "model": title,
        "ms an image": speed and speed.image_ms,
        "ms a caption": speed and speed.caption_ms,
        "load, s": load and load.load_seconds,
        "memory, MB": load and load.held_bytes / MEGABYTE,
        "parameters, M": checkpoint.parameters / 1e6,
        "embedding": checkpoint.dim,
        "input, px": checkpoint.image_size,
        "download, MB": None if downloaded is None else downloaded / MEGABYTE,
        "device": cost.device,
        "dtype": cost.dtype,
    }


def cost_sentence() -> str:
    """How the costs were measured."""
    count = costs.cores()
    return (
        f"Measured here and now, on {count} processor core{'s' if count > 1 else ''} shared with all visitors: the "
        f"median of {costs.LEAST} to {costs.MOST} batches of {costs.IMAGES} images and {costs.CAPTIONS} captions, after "
        "one that is not counted. Waiting for other visitors is not counted, their slowing down is."
    )


def costs_csv(known: Mapping[str, Cost]) -> bytes:
    """The cost table, with id and revision, as spreadsheets read it."""
    rows = []
    for title, cost in known.items():
        origin = {"id": cost.checkpoint.id, "revision": cost.checkpoint.revision}
        batch = {"images a batch": costs.IMAGES, "captions a batch": costs.CAPTIONS, "cores": costs.cores()}
        rows.append({**cost_row(title, cost), **batch, **origin})
    return _csv(rows)


def ranks_csv(comparison: Comparison, titles: Sequence[str], templates: Templates) -> bytes:
    """A row for each caption and image, a column of ranks for each checkpoint."""
    first = comparison.matrices[0]
    origin = {
        "checkpoints": " | ".join(f"{m.checkpoint.id} {m.checkpoint.revision}" for m in comparison.matrices),
        "templates": " | ".join(templates.patterns),
    }
    rows = [
        {
            "caption": caption,
            "image": item.name,
            "sha256": item.sha256,
            **{
                f"rank under {title}": int(rank)
                for title, rank in zip(titles, comparison.ranks[:, row, column], strict=True)
            },
            **origin,
        }
        for column, caption in enumerate(first.captions)
        for row, item in enumerate(first.images)
    ]
    return _csv(rows)


def recall_rows(found: Mapping[str, Recall]) -> list[dict[str, object]]:
    """Recall@1 and @5 of each checkpoint, both ways, 0 to 1."""
    return [
        {"model": title, "asks": asks, "questions": figures.queries}
        | {f"recall@{k}": figures.recall[k] for k in (1, 5)}
        for title, both in found.items()
        for asks, figures in (
            ("image → caption", both.image_to_text),
            ("caption → image", both.text_to_image),
        )
    ]


def truth_sentence(asked: Truth, images: int) -> str:
    """What was asked among what.

    Args:
        asked: the ground truth.
        images: in the workspace.
    """
    cut = f" Only the first {MOST_PAIRS:,} pairs were taken." if asked.left_out else ""
    return (
        f"{len(asked.images)} of {images} images have a right caption; {len(asked.captions)} captions in all. A question "
        "is a hit when any of its right answers is among the first k of these; other captions of the same image are no "
        f"rivals.{cut}"
    )


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Rows that share their column names, as CSV."""
    return csv_bytes(rows[0] if rows else (), (row.values() for row in rows))
