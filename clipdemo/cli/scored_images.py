"""Scores images named on the command line against captions, for ``clipdemo rank`` and ``clipdemo matrix``."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from clipdemo import similarity
from clipdemo.audit.footprint import ProgressCallback
from clipdemo.errors import ImageError
from clipdemo.escape import escape_controls
from clipdemo.images import sources
from clipdemo.images.locate import read_arguments
from clipdemo.images.pool import decode_image
from clipdemo.limits import Limits
from clipdemo.models import catalogue
from clipdemo.output import files, pictures
from clipdemo.output.files import Ranked
from clipdemo.samples import NEUTRAL_CAPTIONS, sample_items
from clipdemo.scoring.matrix import cosine_sheet
from clipdemo.scoring.prompts import Query, Templates
from clipdemo.scoring.score import background, encode_queries, rank
from clipdemo.similarity import FloatArray
from clipdemo.types import Checkpoint, Encoder, Hit, ImageItem, Rejected


@dataclass(frozen=True)
class ScoringOptions:
    """What to score, and how fast.

    Attributes:
        images: files, folders, zips and URLs.
        captions: each may carry weighted terms.
        templates: prompt templates; empty to encode captions as typed.
        batch_size: images per forward pass.
        workers: threads that fetch and decode.
        thumbnails: whether to keep thumbnails, for a picture.
    """

    images: Sequence[str]
    captions: list[str]
    templates: Sequence[str]
    batch_size: int
    workers: int
    thumbnails: bool = False


@dataclass(frozen=True, eq=False)
class ScoredImages:
    """The cosines of distinct images with captions.

    Attributes:
        names: (n_images) names; each file appears once.
        hashes: (n_images) SHA-256 of each file.
        thumbnails: (n_images) JPEG bytes; empty unless asked for.
        captions: (n_captions) texts.
        cosine: (n_images, n_captions) cosines.
        background: cosines of unrelated pairs under the same checkpoint and templates.
        rejected: one line for each image that was left out.
        duplicates: one line for each file given under a second name.
    """

    names: list[str]
    hashes: list[str]
    thumbnails: list[bytes]
    captions: list[str]
    cosine: FloatArray
    background: FloatArray
    checkpoint: Checkpoint
    templates: Templates
    rejected: list[str]
    duplicates: list[str]

    def hits(self, column: int) -> list[Hit]:
        """Return the images ranked for one caption, best first."""
        return rank(self.cosine[:, column], self.background)

    def ranking_csv(self) -> bytes:
        """Return the whole ranking of each caption as CSV."""
        rankings = [
            Ranked(caption, self.hits(column), self.names, self.hashes)
            for column, caption in enumerate(self.captions)
        ]
        return files.ranking_csv(rankings, self.checkpoint, self.templates)

    def ranking_text(self, top: int) -> str:
        """Return the ``top`` images of each caption as text."""
        lines = []
        for column, caption in enumerate(self.captions):
            lines.append(caption)
            for hit in self.hits(column)[:top]:
                score = f"cosine {hit.cosine:6.3f}  percentile {hit.whole_percentile:3d}"
                lines.append(f"  {hit.rank:3d}  {score}  {self.names[hit.index]}")
        lines.append(f"under {self.checkpoint.id}, revision {self.checkpoint.revision[:12]}")
        return "\n".join(map(escape_controls, lines))

    def ranking_json(self, top: int) -> str:
        """Return the ``top`` images of each caption as JSON."""
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
        """Return the cosines as CSV: one row per image, one column per caption."""
        notes = {
            "checkpoint": self.checkpoint.id,
            "revision": self.checkpoint.revision,
            "templates": " | ".join(self.templates.patterns),
        }
        return files.matrix_csv(self.cosine, self.names, self.captions, notes)

    def matrix_json(self) -> str:
        """Return the cosines as JSON."""
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
        """Draw the cosines as a PNG image."""
        footer = f"Under {catalogue.title(self.checkpoint.id)}, {' | '.join(self.templates.patterns)}"
        title = "Cosine of images and captions"
        labels = pictures.MatrixLabels(self.names, self.captions, title, footer, self.thumbnails)
        return pictures.matrix_png(cosine_sheet(self.cosine, decimals=2), labels)

    def _origin(self) -> dict[str, object]:
        return {
            "checkpoint": self.checkpoint.id,
            "revision": self.checkpoint.revision,
            "templates": list(self.templates.patterns),
            "left_out": self.rejected,
            "duplicates": self.duplicates,
        }


def score_images(options: ScoringOptions, encoder: Encoder, progress: ProgressCallback) -> ScoredImages:
    """Load and score the images; pixels are released as soon as they are encoded.

    Args:
        options: what to score.
        encoder: from ``load_encoder``.
        progress: called with the number of encoded images.

    Raises:
        ImageError: none of the images can be used.
        CaptionError: a caption or template with a syntax error.
        CheckpointError: the weights turn out to be broken.
    """
    limits = Limits.from_environment()
    prompts = Templates.parse("\n".join(options.templates))
    queries = encode_queries(encoder, [Query.parse(caption) for caption in options.captions], prompts)
    distinct: dict[str, tuple[str, bytes]] = {}  # SHA-256 -> name, thumbnail
    rejected: list[str] = []
    duplicates: list[str] = []
    embeddings: list[FloatArray] = []
    batch: list[ImageItem] = []
    started = time.perf_counter()

    def flush() -> None:
        if batch:
            embeddings.append(encoder.encode_images(batch))
            batch.clear()
            progress(len(distinct), None, len(distinct) / (time.perf_counter() - started))

    named = read_arguments(options.images, limits)
    decode = partial(decode_image, thumbnail=options.thumbnails, view=encoder.view)
    loading = sources.load(
        named, limits, workers=options.workers, look_ahead=options.batch_size, decode=decode
    )
    for item in loading:
        if isinstance(item, Rejected):
            rejected.append(f"{item.name}: {item.verdict}: {item.reason}")
        elif item is not None and item.sha256 in distinct:
            duplicates.append(f"{item.name}: the same file as {distinct[item.sha256][0]}; it counts once")
        elif item is not None:
            distinct[item.sha256] = item.name, item.thumbnail
            batch.append(item)
            if len(batch) == options.batch_size:
                flush()
    flush()
    if not distinct:
        raise ImageError("none of the images can be used: " + "; ".join(rejected[:3]))
    return ScoredImages(
        names=[name for name, _ in distinct.values()],
        hashes=list(distinct),
        thumbnails=[thumbnail for _, thumbnail in distinct.values()],
        captions=options.captions,
        cosine=similarity.cosine(np.concatenate(embeddings), queries),
        background=background(encoder, sample_items(), NEUTRAL_CAPTIONS, prompts).captions,
        checkpoint=encoder.checkpoint,
        templates=prompts,
        rejected=rejected,
        duplicates=duplicates,
    )
