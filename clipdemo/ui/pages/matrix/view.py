"""The rows and columns of the Matrix page, in the order shown, and the score card of each cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from clipdemo import similarity
from clipdemo.models import catalogue
from clipdemo.scoring import matrix as matrices
from clipdemo.scoring.matrix import CAPTIONS_CAPTIONS, IMAGES_CAPTIONS, IMAGES_IMAGES, Sheet
from clipdemo.scoring.prompts import Query
from clipdemo.scoring.score import encode_queries, rank
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import ImageItem
from clipdemo.ui.card import Card
from clipdemo.ui.scored import Scored


@dataclass(frozen=True, eq=False)
class MatrixView:
    """Rows against columns.

    Attributes:
        pairs: images x captions, or one of them with itself.
        cosine: (n_rows, n_columns), in the order of the workspace.
        background: cosines of unrelated pairs of this kind, or None.
        rows: indices into the workspace, in the order shown.
        columns: the same for the columns.
    """

    scored: Scored
    pairs: str
    cosine: FloatArray
    background: FloatArray | None
    rows: IntArray
    columns: IntArray

    @property
    def row_names(self) -> list[str]:
        """Names of the rows, in the order shown; untrusted."""
        return _names(self.scored, self.rows, captions=self.pairs == CAPTIONS_CAPTIONS)

    @property
    def column_names(self) -> list[str]:
        """Names of the columns, in the order shown; untrusted."""
        return _names(self.scored, self.columns, captions=self.pairs != IMAGES_IMAGES)

    @property
    def row_images(self) -> list[ImageItem]:
        """The images in the rows, in the order shown; empty for rows of captions."""
        images = self.scored.matrix.images
        return [] if self.pairs == CAPTIONS_CAPTIONS else [images[n] for n in self.rows]

    @property
    def title(self) -> str:
        """Names the checkpoint."""
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
        """The score card of a cell, by its row and column as shown; None for a cell without one."""
        if self.pairs == CAPTIONS_CAPTIONS or not (row < len(self.rows) and column < len(self.columns)):
            return None
        matrix, scale = self.scored.matrix, self.scored.scale
        first, second = int(self.rows[row]), int(self.columns[column])
        if self.pairs == IMAGES_CAPTIONS:
            hits = rank(self.cosine[:, second], scale.captions)
            hit = next(hit for hit in hits if hit.index == first)
            return Card(matrix.images[first].sha256, matrix.captions[second], hit)
        others = [hit for hit in rank(self.cosine[first], scale.images) if hit.index != first]
        for place, hit in enumerate(others, start=1):
            if hit.index == second:
                among_others = replace(hit, rank=place)
                return Card(matrix.images[second].sha256, None, among_others, matrix.images[first].sha256)
        return None


def matrix_view(pairs: str, order: str, scored: Scored) -> MatrixView:
    """Compare ``pairs`` (see ``scoring.matrix``), sorted by ``order``."""
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
    return MatrixView(scored, pairs, cosine, background, rows, columns)


def _names(scored: Scored, positions: Sequence[int] | IntArray, *, captions: bool) -> list[str]:
    matrix = scored.matrix
    names = matrix.captions if captions else [item.name for item in matrix.images]
    return [names[n] for n in positions]
