"""The tables of a comparison: costs, recall and ranks, for the page, the report and as CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from clipdemo import child
from clipdemo.compare import costs
from clipdemo.compare.costs import Cost
from clipdemo.compare.ranks import Comparison
from clipdemo.compare.truth import MAX_PAIRS, Recall, Truth
from clipdemo.limits import MEGABYTE
from clipdemo.output.files import csv_bytes
from clipdemo.scoring.prompts import Templates

MEANINGS = {
    "Spearman": "Spearman's rho: correlation of the two models' ranks of all images. 1 is the same order, "
    "0 no relation, −1 the reverse.",
    "Kendall": "Kendall's tau-b: of all pairs of images, the share in the same order minus the share in "
    "opposite order. 1 is the same order, −1 the reverse.",
    "overlap": "How many of the first images of one model are among the first of the other, in any order.",
}
COSTS = {
    "load, s": "Seconds from files on this machine to a ready model; "
    "the first model also imports its libraries.",
    "ms an image": "Milliseconds for one image, without decoding.",
    "ms a caption": "Milliseconds for one caption, with tokenising.",
    "memory, MB": "Memory of the weights.",
    "parameters, M": "Number of weights, in millions.",
    "embedding": "Dimensions of an embedding.",
    "input, px": "Side of the square that each image is resized to.",
    "download, MB": "Size of the downloaded files; a dash without a download.",
}


def cost_row(title: str, cost: Cost) -> dict[str, object]:
    """One row of the cost table; None for what is unknown."""
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
    count = child.cores()
    return (
        f"Measured on this machine, with {count} processor core{'s' if count > 1 else ''} shared by all "
        f"visitors: the median of {costs.MIN_BATCHES} to {costs.MAX_BATCHES} batches of {costs.IMAGES} "
        f"images and {costs.CAPTIONS} captions, after one warm-up batch. Time spent waiting for other "
        "visitors is not included; the slowdown that they cause is."
    )


def costs_csv(known: Mapping[str, Cost]) -> bytes:
    """The cost table with id and revision, as CSV."""
    rows = []
    for title, cost in known.items():
        origin = {"id": cost.checkpoint.id, "revision": cost.checkpoint.revision}
        batch = {"images a batch": costs.IMAGES, "captions a batch": costs.CAPTIONS, "cores": child.cores()}
        rows.append({**cost_row(title, cost), **batch, **origin})
    return _csv(rows)


def ranks_csv(comparison: Comparison, titles: Sequence[str], templates: Templates) -> bytes:
    """A row for each caption and image, a column of ranks for each checkpoint, as CSV."""
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


def recall_rows(recalls: Mapping[str, Recall]) -> list[dict[str, object]]:
    """Recall@1 and @5 of each checkpoint in both directions, 0 to 1."""
    return [
        {"model": title, "asks": direction, "questions": retrieval.queries}
        | {f"recall@{k}": retrieval.recall[k] for k in (1, 5)}
        for title, recall in recalls.items()
        for direction, retrieval in (
            ("image → caption", recall.image_to_text),
            ("caption → image", recall.text_to_image),
        )
    ]


def truth_sentence(truth: Truth, images: int) -> str:
    """How many images and captions the recall is measured on, and how.

    Args:
        truth: the ground truth.
        images: number of images in the workspace.
    """
    cut = f" Only the first {MAX_PAIRS:,} pairs are used." if truth.left_out else ""
    return (
        f"{len(truth.images)} of {images} images have a right caption; {len(truth.captions)} captions in "
        "all. A question is a hit when any of its right answers is among the first k of these; other "
        f"captions of the same image do not count as rivals.{cut}"
    )


def _csv(rows: Sequence[Mapping[str, object]]) -> bytes:
    """Rows that share their column names, as CSV."""
    return csv_bytes(rows[0] if rows else (), (row.values() for row in rows))
