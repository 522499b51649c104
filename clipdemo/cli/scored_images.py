"""Images named on the command line, scored against captions: for ``clipdemo rank`` and ``clipdemo matrix``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipdemo import similarity
from clipdemo.audit.footprint import ProgressCallback
from clipdemo.audit.score import Plan
from clipdemo.errors import ImageError
from clipdemo.images import sources
from clipdemo.images.locate import read_arguments
from clipdemo.models import catalogue
from clipdemo.output import files, pictures
from clipdemo.output.files import Ranked
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.prompts import Query, Templates
from clipdemo.scoring.score import background, encode_queries, rank
from clipdemo.similarity import FloatArray
from clipdemo.types import Checkpoint, Encoder, Hit, ImageItem, Rejected


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """Every image with every caption.

    Attributes:
        names: of the images, each file once.
        hashes: SHA-256 of each.
        thumbnails: JPEG bytes of each.
        captions: the columns.
        cosine: (n_images, n_captions).
        scale: cosines of unrelated pairs under the same checkpoint and templates.
        checkpoint: what the cosines must be read against.
        templates: prompt templates.
        rejected: what was left out, a line each.
        duplicates: files that came under a second name, a line each.
    """

    names: list[str]
    hashes: list[str]
    thumbnails: list[bytes]
    captions: list[str]
    cosine: FloatArray
    scale: FloatArray
    checkpoint: Checkpoint
    templates: Templates
    rejected: list[str]
    duplicates: list[str]

    def hits(self, column: int) -> list[Hit]:
        """The images of one caption, best first."""
        return rank(self.cosine[:, column], self.scale)

    def ranking_csv(self) -> bytes:
        """Every image of every caption."""
        rankings = [
            Ranked(caption, self.hits(column), self.names, self.hashes)
            for column, caption in enumerate(self.captions)
        ]
        return files.ranking_csv(rankings, self.checkpoint, self.templates)

    def ranking_text(self, top: int) -> str:
        """The best images of every caption, for people."""
        lines = []
        for column, caption in enumerate(self.captions):
            lines.append(caption)
            for hit in self.hits(column)[:top]:
                score = f"cosine {hit.cosine:6.3f}  percentile {hit.whole_percentile:3d}"
                lines.append(f"  {hit.rank:3d}  {score}  {self.names[hit.index]}")
        return "\n".join([*lines, f"under {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}"])

    def ranking_json(self, top: int) -> str:
        """The best images of every caption, for programs."""
        queries = [
            {
                "caption": caption,
                "hits": [
                    {
                        "rank": hit.rank,
                        "name": self.names[hit.index],
                        "sha256": self.hashes[hit.index],
                        "cosine": round(hit.cosine, 6),
                        "percentile": round(hit.percentile, 2),
                    }
                    for hit in self.hits(column)[:top]
                ],
            }
            for column, caption in enumerate(self.captions)
        ]
        return json.dumps({**self._origin(), "queries": queries}, indent=2, ensure_ascii=False)

    def matrix_csv(self) -> bytes:
        """A row per image, a column per caption: cosines."""
        notes = {
            "checkpoint": self.checkpoint.id,
            "revision": self.checkpoint.revision,
            "templates": " | ".join(self.templates.patterns),
        }
        return files.matrix_csv(self.cosine, self.names, self.captions, notes)

    def matrix_json(self) -> str:
        """The cosines, for programs."""
        return json.dumps(
            {
                **self._origin(),
                "images": [{"name": n, "sha256": h} for n, h in zip(self.names, self.hashes, strict=True)],
                "captions": self.captions,
                "cosine": np.round(self.cosine.astype(np.float64), 6).tolist(),
            },
            indent=2,
            ensure_ascii=False,
        )

    def matrix_png(self) -> bytes:
        """The cosines as a picture."""
        footer = f"Under {catalogue.title(self.checkpoint.id)}, {' | '.join(self.templates.patterns)}"
        title = "Cosine of images and captions"
        labels = pictures.MatrixLabels(self.names, self.captions, title, footer, self.thumbnails)
        return pictures.matrix_png(pictures.cosine_sheet(self.cosine), labels)

    def _origin(self) -> dict[str, object]:
        return {
            "checkpoint": self.checkpoint.id,
            "revision": self.checkpoint.revision,
            "templates": list(self.templates.patterns),
            "left_out": self.rejected,
            "duplicates": self.duplicates,
        }


def score_images(
    arguments: Sequence[str],
    captions: list[str],
    templates: Sequence[str],
    encoder: Encoder,
    plan: Plan,
    show: ProgressCallback,
) -> ScoredImages:
    """Load and score what the arguments name; images are let go as soon as they are encoded.

    Args:
        arguments: files, folders, zips, URLs.
        captions: each may carry weighted terms.
        templates: prompt templates; none means captions as typed.
        encoder: from ``load_encoder``.
        plan: limits, batch size and threads.
        show: told of images done.

    Raises:
        ImageError: none of them can be used.
        CaptionError: a caption or template that cannot be read.
        CheckpointError: weights that turn out broken.
    """
    prompts = Templates.parse("\n".join(templates))
    rows = encode_queries(encoder, [Query.parse(caption) for caption in captions], prompts)
    kept: dict[str, tuple[str, bytes]] = {}
    rejected: list[str] = []
    duplicates: list[str] = []
    embeddings: list[FloatArray] = []
    batch: list[ImageItem] = []
    started = time.perf_counter()

    def flush() -> None:
        if batch:
            embeddings.append(encoder.encode_images(batch))
            batch.clear()
            show(len(kept), None, len(kept) / (time.perf_counter() - started))

    for thing in sources.load(
        read_arguments(arguments, plan.limits), plan.limits, workers=plan.workers, look_ahead=plan.batch_size
    ):
        if isinstance(thing, Rejected):
            rejected.append(f"{thing.name}: {thing.verdict}: {thing.reason}")
        elif thing is not None and thing.sha256 in kept:
            duplicates.append(f"{thing.name}: the same file as {kept[thing.sha256][0]}; it counts once")
        elif thing is not None:
            kept[thing.sha256] = thing.name, thing.thumbnail
            batch.append(thing)
            if len(batch) == plan.batch_size:
                flush()
    flush()
    if not kept:
        raise ImageError("none of the images can be used: " + "; ".join(rejected[:3]))
    scale = background(encoder, sample_items(), NEUTRAL_CAPTIONS, prompts).captions
    return ScoredImages(
        [name for name, _ in kept.values()],
        list(kept),
        [thumbnail for _, thumbnail in kept.values()],
        captions,
        similarity.cosine(np.concatenate(embeddings), rows),
        scale,
        encoder.checkpoint,
        prompts,
        rejected,
        duplicates,
    )
