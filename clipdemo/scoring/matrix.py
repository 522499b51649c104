"""Views of a score matrix: their values, order and colour scale. NumPy only, without streamlit or plotly.

The page, the chart and the picture share these decisions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from clipdemo import similarity
from clipdemo.similarity import FloatArray, IntArray
from clipdemo.types import Checkpoint

IMAGES_CAPTIONS, IMAGES_IMAGES, CAPTIONS_CAPTIONS = (
    "Images × captions",
    "Images × images",
    "Captions × captions",
)
COSINE = "Cosine"
SHARE_OF_CAPTIONS = "Share among captions"
SHARE_OF_IMAGES = "Share among images"
SIGMOID = "Sigmoid of each pair"
RANK_OF_CAPTION = "Rank of the caption"
RANK_OF_IMAGE = "Rank of the image"
RANK = "Rank"
PERCENTILE = "Percentile"
AS_GIVEN, BY_BEST, CLUSTERED = "As given", "By best match", "Clustered"

MEANINGS = {
    COSINE: "Cosine of the two embeddings. It is not a probability, and not comparable between checkpoints.",
    SHARE_OF_CAPTIONS: "Softmax over the given captions, for each image: every row adds up to 100 %.",
    SHARE_OF_IMAGES: "Softmax over the given images, for each caption: every column adds up to 100 %.",
    SIGMOID: "Sigmoid of the logit, independently for each pair, as the checkpoint was trained.",
    RANK_OF_CAPTION: "Rank of the caption among all captions, for each image: "
    "1 is best and occurs once in every row.",
    RANK_OF_IMAGE: "Rank of the image among all images, for each caption: "
    "1 is best and occurs once in every column.",
    RANK: "Rank of the column among all others, for each row: "
    "1 is most similar and occurs once in every row.",
    PERCENTILE: "How many of a hundred unrelated pairs score lower under this checkpoint.",
}

# Cividis: lightness rises evenly, and colour-blind people see it as everyone does.
# Source: Nuñez, Anderton & Renslow 2018.
COLOURS = (
    "#00224e",
    "#123570",
    "#3b496c",
    "#575d6d",
    "#707173",
    "#8a8678",
    "#a59c74",
    "#c3b369",
    "#e1cc55",
    "#fee838",
)


@dataclass(frozen=True, eq=False)
class Sheet:
    """One view of a matrix with its colour scale.

    Attributes:
        values: (n_rows, n_columns) float32; nan where an item meets itself.
        unit: title of the colour bar.
        low: value at the dark end of the scale.
        high: value at the bright end; smaller than ``low`` for ranks, where 1 is best.
        decimals: digits to show after the point.
    """

    values: FloatArray
    unit: str
    low: float
    high: float
    decimals: int

    def positions(self) -> FloatArray:
        """Return the values on the colour scale: 0 is dark, 1 is bright; nan stays nan."""
        span = (self.high - self.low) or 1.0
        return ((self.values - self.low) / span).clip(0, 1).astype(np.float32)

    def reordered(self, rows: IntArray, columns: IntArray) -> Sheet:
        """Return the view with its rows and columns in another order."""
        return replace(self, values=self.values[np.ix_(rows, columns)])


def views_of(pairs: str, shape: tuple[int, int], checkpoint: Checkpoint) -> list[str]:
    """Return the views that are informative for a matrix of ``pairs``; the cosine always comes first.

    Args:
        pairs: ``IMAGES_CAPTIONS``, ``IMAGES_IMAGES`` or ``CAPTIONS_CAPTIONS``.
        shape: (n_rows, n_columns) of the matrix.
        checkpoint: a sigmoid checkpoint lacks shares.
    """
    rows, columns = shape
    if pairs == IMAGES_IMAGES:
        return [COSINE, PERCENTILE, RANK]
    if pairs == CAPTIONS_CAPTIONS:
        return [COSINE, RANK]
    if checkpoint.logit_bias is not None:
        shares = [SIGMOID]
    else:
        shares = [SHARE_OF_CAPTIONS] * (columns > 1) + [SHARE_OF_IMAGES] * (rows > 1)
    ranks = [RANK_OF_CAPTION] * (columns > 1) + [RANK_OF_IMAGE] * (rows > 1)
    return [COSINE, *shares, *ranks, PERCENTILE]


def sheet(view: str, cosine: FloatArray, checkpoint: Checkpoint, background: FloatArray) -> Sheet:
    """Return one view of images x captions.

    Args:
        view: one of ``views_of(IMAGES_CAPTIONS, ...)``.
        cosine: (n_images, n_captions).
        checkpoint: for its logit scale and bias.
        background: cosines of unrelated image-caption pairs; any shape.

    Raises:
        ValueError: an unknown view.
    """
    if view in {SHARE_OF_CAPTIONS, SHARE_OF_IMAGES, SIGMOID}:
        logits = similarity.logits(cosine, checkpoint.logit_scale, checkpoint.logit_bias)
        if view == SIGMOID:
            return _percent(100 * similarity.sigmoid(logits), "sigmoid of each pair, %")
        rivals = "captions" if view == SHARE_OF_CAPTIONS else "images"
        shares = similarity.softmax(logits, axis={"images": 0, "captions": 1}[rivals])
        return _percent(100 * shares, f"share among {rivals}, %")
    if view == RANK_OF_CAPTION:
        return _ranks(similarity.ranks(cosine, axis=1), "rank of the caption", cosine.shape[1])
    if view == RANK_OF_IMAGE:
        return _ranks(similarity.ranks(cosine, axis=0), "rank of the image", cosine.shape[0])
    if view == PERCENTILE:
        return _percent(np.floor(similarity.percentile(cosine, background)), "percentile", decimals=0)
    if view == COSINE:
        return cosine_sheet(cosine)
    raise ValueError(f"{view!r} is not a view of images x captions")


def square_sheet(view: str, cosine: FloatArray, background: FloatArray | None = None) -> Sheet:
    """Return one view of items against themselves, with an empty diagonal.

    The cosine of 1 of an item with itself would stretch the colour scale for nothing.

    Args:
        view: one of ``views_of(IMAGES_IMAGES, ...)`` or of captions.
        cosine: (n, n).
        background: cosines of unrelated pairs of the same kind; needed for the percentile.

    Raises:
        ValueError: an unknown view, or the percentile without a background.
    """
    others = _without_diagonal(cosine)
    if view == RANK:
        last = np.where(np.isnan(others), -np.inf, others).astype(np.float32)  # an item ranks last for itself
        ranked = _ranks(similarity.ranks(last, axis=1), "rank in the row", max(1, len(cosine) - 1))
        return replace(ranked, values=_without_diagonal(ranked.values))
    if view == PERCENTILE and background is not None:
        percentiles = np.floor(similarity.percentile(cosine, background)).astype(np.float32)
        return _percent(_without_diagonal(percentiles), "percentile", decimals=0)
    if view == COSINE:
        return cosine_sheet(others)
    raise ValueError(f"{view!r} is not a view of items against themselves")


def cosine_sheet(values: FloatArray, decimals: int = 3) -> Sheet:
    """Return a matrix of cosines, coloured from its lowest to its highest value.

    Args:
        values: (n_rows, n_columns); may be empty, and nan where a pair has no value.
        decimals: digits shown.
    """
    defined = values[~np.isnan(values)]
    low, high = (float(defined.min()), float(defined.max())) if defined.size else (0.0, 1.0)
    return Sheet(values.astype(np.float32), "cosine", low, high, decimals)


def arrange(how: str, cosine: FloatArray, *, square: bool = False) -> tuple[IntArray, IntArray]:
    """Return the order in which rows and columns are shown, as indices.

    Args:
        how: ``AS_GIVEN``, ``BY_BEST`` or ``CLUSTERED``.
        cosine: (n_rows, n_columns), for every view, so that the order stays when the view changes.
        square: whether rows and columns are the same items; they then share one order.
    """
    if how == CLUSTERED:
        rows = _leaves(cosine)
        return rows, rows if square else _leaves(cosine.T)
    rows = np.arange(cosine.shape[0], dtype=np.int64)
    columns = np.arange(cosine.shape[1], dtype=np.int64)
    if how != BY_BEST or not cosine.size:
        return rows, columns
    if square:
        best = np.where(np.eye(len(cosine), dtype=bool), -np.inf, cosine).max(axis=1)
        rows = similarity.order(best.astype(np.float32))
        return rows, rows
    # Rows by the column they match best, best first: a staircase from top left to bottom right.
    rows = np.lexsort((-cosine.max(axis=1), cosine.argmax(axis=1))).astype(np.int64)
    return rows, columns


def _leaves(rows: FloatArray) -> IntArray:
    """Return an order that puts similar rows next to each other: average linkage with optimal leaf ordering.

    Source: Bar-Joseph, Gifford & Jaakkola 2001.
    """
    if len(rows) < 3 or not rows.shape[1]:
        return np.arange(len(rows), dtype=np.int64)
    from scipy.cluster import hierarchy

    tree = hierarchy.linkage(rows.astype(np.float64), "average", optimal_ordering=True)
    return np.asarray(hierarchy.leaves_list(tree), dtype=np.int64)


def _percent(values: FloatArray, unit: str, decimals: int = 1) -> Sheet:
    return Sheet(values.astype(np.float32), unit, 0.0, 100.0, decimals)


def _ranks(ranks: IntArray, unit: str, last: int) -> Sheet:
    return Sheet(ranks.astype(np.float32), unit, float(last), 1.0, 0)


def _without_diagonal(values: FloatArray) -> FloatArray:
    return np.where(np.eye(len(values), dtype=bool), np.float32(np.nan), values).astype(np.float32)
