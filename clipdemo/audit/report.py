"""The pictures of an audit, and its report: one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipdemo import similarity
from clipdemo.audit.footprint import Stage, memory_text
from clipdemo.audit.judge import Audit, Summary, result_columns
from clipdemo.disk import write_atomically
from clipdemo.models import catalogue
from clipdemo.output import pictures
from clipdemo.output.html import data_uri, render
from clipdemo.output.pictures import MatrixLabels, Tile
from clipdemo.scoring.matrix import cosine_sheet
from clipdemo.scoring.retrieval import RetrievalMetrics
from clipdemo.tables.table import Table

MAX_TILES = 200  # the worst pairs, in a picture or report
MAX_ROWS = 200  # the first scored rows, in the picture of the matrix

DEFINITION = (
    "A query is a hit when any of its right answers is among the first k. Other captions of the same image, "
    "and equal images, are not counted as rivals. Ranks are exact, among all scored images and captions."
)


@dataclass(frozen=True)
class Usage:
    """The time and memory of a run.

    Attributes:
        stages: with their seconds of work.
        seconds: from start to end.
        device: where the forward passes ran.
        resident: peak memory of the process in bytes; None if unknown.
        gpu: peak memory on the GPU in bytes; None without a GPU.
    """

    stages: Sequence[Stage]
    seconds: float
    device: str
    resident: int | None
    gpu: int | None


def header(table: Table) -> list[str]:
    """The header of the scored table."""
    return [*table.columns, *result_columns(table)]


def write_figures(audit: Audit, folder: Path | None) -> list[str]:
    """Write ``image_captions.png`` and ``similarity_matrix.png``; return their paths.

    Raises:
        OSError: the folder cannot be written.
    """
    if folder is None:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "image_captions.png", folder / "similarity_matrix.png"]
    write_atomically(paths[0], image_captions_png(audit))
    write_atomically(paths[1], similarity_matrix_png(audit))
    return [str(path) for path in paths]


def image_captions_png(audit: Audit, limit: int = MAX_TILES) -> bytes:
    """The ``limit`` worst pairs as a picture: each image with its caption and score, worst first."""
    worst = audit.worst()[:limit].tolist()
    tiles = [
        Tile(
            audit.ledger.thumbnail(int(audit.pairs[pair, 0])) or b"",
            audit.caption(pair),
            f"cosine {audit.cosines[pair]:.3f} · percentile {int(audit.percentiles[pair])}",
            "; ".join(audit.flags[pair]),
        )
        for pair in worst
    ]
    complete = len(worst) == len(audit.pairs)
    order = "Worst first." if complete else f"The {len(worst)} worst of {len(audit.pairs):,} pairs."
    footer = f"Scores under {_model(audit)}. A cosine is not a probability. {order}"
    return pictures.contact_sheet_png(tiles, footer)


def similarity_matrix_png(audit: Audit, limit: int = MAX_ROWS) -> bytes:
    """The cosines of :func:`matrix` as a picture."""
    values, images, captions = matrix(audit, limit)
    thumbnails = [audit.ledger.thumbnail(image) or b"" for image in images]
    labels = MatrixLabels(
        row_names=[audit.short_name(image) for image in images],
        column_names=[audit.ledger.caption_text(caption)[0] for caption in captions],
        title="Cosine of images and captions",
        footer=f"Under {_model(audit)}. "
        f"The first {len(images)} images and {len(captions)} captions of the table.",
        row_thumbnails=thumbnails if all(thumbnails) else None,
    )
    return pictures.matrix_png(cosine_sheet(values, decimals=2), labels)


def matrix(audit: Audit, limit: int) -> tuple[similarity.FloatArray, list[int], list[int]]:
    """Cosines of the images and captions of the first ``limit`` scored rows, each image and caption once.

    Where each image has one caption, the pairs of the table lie on the diagonal.

    Returns:
        (n_images, n_captions) cosines, and the ids of the images and of the captions.
    """
    first = audit.pairs[:limit]
    images = list(dict.fromkeys(first[:, 0].tolist()))
    captions = list(dict.fromkeys(first[:, 1].tolist()))
    if not images:
        return np.zeros((0, 0), dtype=np.float32), [], []
    image_rows, caption_rows = (
        audit.ledger.image_embeddings(images),
        audit.ledger.caption_embeddings(captions),
    )
    return similarity.cosine(image_rows, caption_rows), images, captions


def audit_html(audit: Audit, summary: Summary, usage: Usage, limit: int = MAX_TILES) -> str:
    """A report as one HTML file, without scripts or requests.

    Args:
        audit: the scored table.
        summary: of the audit.
        usage: of the run.
        limit: number of pairs shown, worst first.
    """
    counts = {
        "in the table": summary.rows,
        "scored": summary.scored,
        "failed": summary.failed,
        "distinct images": summary.images,
        "distinct captions": summary.captions,
        "captions cut off": summary.truncated,
        **summary.flags,
    }
    return render(
        "audit.html",
        title=f"{audit.table.name}: image and caption audit",
        model=_model(audit),
        revision=audit.checkpoint.revision,
        counts=counts,
        definition=DEFINITION,
        retrieval=[
            _retrieval_row("image to text", summary.image_to_text),
            _retrieval_row("text to image", summary.text_to_image),
        ],
        notes=audit.table.notes,
        tiles=[_tile(audit, pair) for pair in audit.worst()[:limit].tolist()],
        pairs=len(audit.pairs),
        matrix=data_uri(similarity_matrix_png(audit), "png") if len(audit.pairs) else None,
        stages=[_stage_row(stage) for stage in usage.stages],
        usage=f"{usage.seconds:.1f} seconds in all, on {usage.device}; stages overlap and run in several "
        f"threads; "
        f"{memory_text(usage.resident, usage.gpu)}.",
    )


def _retrieval_row(direction: str, retrieval: RetrievalMetrics[float]) -> dict[str, str]:
    return {
        "direction": direction,
        "queries": f"{retrieval.queries:,}",
        **{f"recall@{k}": f"{100 * value:.1f} %" for k, value in retrieval.recall.items()},
        "MRR": f"{retrieval.mean_reciprocal_rank:.3f}",
        "median rank": f"{retrieval.median_rank:g}",
    }


def _stage_row(stage: Stage) -> dict[str, str]:
    return {
        "stage": stage.name,
        "seconds of work": f"{stage.seconds:.2f}",
        "items": f"{stage.items:,}",
        "items a second": f"{stage.rate:,.1f}",
    }


def _tile(audit: Audit, pair: int) -> dict[str, object]:
    """One pair as the template shows it."""
    image = int(audit.pairs[pair, 0])
    thumbnail = audit.ledger.thumbnail(image)
    return {
        "picture": data_uri(thumbnail) if thumbnail else None,
        "name": audit.image_name(image)[:100],
        "caption": audit.caption(pair)[:300],
        "row": int(audit.numbers[pair]) + 1,
        "score": f"cosine {audit.cosines[pair]:.3f}, percentile {int(audit.percentiles[pair])}",
        "ranks": f"caption rank {audit.rivals.rank_of_caption[pair]}, "
        f"image rank {audit.rivals.rank_of_image[pair]}",
        "rival": audit.rival_caption(pair)[:200],
        "flags": audit.flags[pair],
    }


def _model(audit: Audit) -> str:
    return catalogue.title(audit.checkpoint.id)
