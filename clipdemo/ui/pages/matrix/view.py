"""What the Matrix page compares with what, in the order shown, and which score card a cell opens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipdemo import similarity
from clipdemo.models import catalogue
from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import CAPTIONS_CAPTIONS, IMAGES_CAPTIONS, IMAGES_IMAGES, Sheet
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.score import encode_queries, rank
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import Hit, ImageItem
from clipdemo.ui.card import Card
from clipdemo.ui.scored import Scored


@dataclass(frozen=True, eq=False)
class Field:
    """Rows against columns.

    Attributes:
        scored: the workspace under one checkpoint.
        pairs: images x captions, or one of them with itself.
        cosine: (n_rows, n_columns), in the order of the workspace.
        background: cosines of unrelated pairs of this kind, or None.
        rows: positions in the workspace of what stands in the rows, in the order shown.
        columns: the same of the columns.
    """

    scored: Scored
    pairs: str
    cosine: FloatArray
    background: FloatArray | None
    rows: IntArray
    columns: IntArray

    @property
    def row_names(self) -> list[str]:
        """What the rows are called, in the order shown; untrusted."""
        return _names(self.scored, self.rows, captions=self.pairs == CAPTIONS_CAPTIONS)

    @property
    def column_names(self) -> list[str]:
        """What the columns are called, in the order shown; untrusted."""
        return _names(self.scored, self.columns, captions=self.pairs != IMAGES_IMAGES)

    @property
    def row_images(self) -> list[ImageItem]:
        """The images in the rows, in the order shown; empty where captions stand there."""
        images = self.scored.matrix.images
        return [] if self.pairs == CAPTIONS_CAPTIONS else [images[n] for n in self.rows]

    @property
    def title(self) -> str:
        """Under which checkpoint the scores hold."""
        return f"under {catalogue.title(self.scored.matrix.checkpoint.id)}"

    def sheet(self, shown: str) -> Sheet:
        """One view, in the order shown."""
        checkpoint, scale = self.scored.matrix.checkpoint, self.scored.scale
        if self.pairs == IMAGES_CAPTIONS:
            sheet = matrices.sheet(shown, self.cosine, checkpoint, scale.captions)
        else:
            sheet = matrices.square_sheet(shown, self.cosine, self.background)
        return sheet.reordered(self.rows, self.columns)

    def extra(self) -> list[FloatArray]:
        """Cosines and, where there is a background, whole percentiles, in the order shown."""
        cosine = self.cosine[np.ix_(self.rows, self.columns)]
        if self.background is None:
            return [cosine]
        return [cosine, np.floor(similarity.percentile(cosine, self.background))]

    def card(self, row: int, column: int) -> Card | None:
        """The score card of a cell, counted as shown; None where the pair has none."""
        if self.pairs == CAPTIONS_CAPTIONS or not (row < len(self.rows) and column < len(self.columns)):
            return None
        matrix, scale = self.scored.matrix, self.scored.scale
        at, to = int(self.rows[row]), int(self.columns[column])
        if self.pairs == IMAGES_CAPTIONS:
            hit = next(hit for hit in rank(self.cosine[:, to], scale.captions) if hit.index == at)
            return Card(matrix.images[at].sha256, matrix.captions[to], hit)
        others = [hit for hit in rank(self.cosine[at], scale.images) if hit.index != at]
        for place, hit in enumerate(others, start=1):
            if hit.index == to:
                told = Hit(place, to, hit.cosine, hit.percentile)
                return Card(matrix.images[to].sha256, None, told, matrix.images[at].sha256)
        return None


def field(pairs: str, order: str, scored: Scored) -> Field:
    """Compare what ``pairs`` says, ordered as ``order`` says."""
    matrix, background = scored.matrix, None
    if pairs == IMAGES_CAPTIONS:
        cosine, background = matrix.cosine, scored.scale.captions
    elif pairs == IMAGES_IMAGES:
        embeddings = scored.encoder.encode_images(matrix.images)
        cosine, background = similarity.cosine(embeddings, embeddings), scored.scale.images
    else:
        queries = [Query.parse(caption) for caption in matrix.captions]
        embeddings = encode_queries(scored.encoder, queries, scored.templates)
        cosine = similarity.cosine(embeddings, embeddings)
    rows, columns = matrices.arrange(order, cosine, square=pairs != IMAGES_CAPTIONS)
    return Field(scored, pairs, cosine, background, rows, columns)


def _names(scored: Scored, positions: Sequence[int] | IntArray, *, captions: bool) -> list[str]:
    matrix = scored.matrix
    names = matrix.captions if captions else [item.name for item in matrix.images]
    return [names[n] for n in positions]
