"""Compares how several checkpoints rank the same images; imports neither torch nor streamlit.

Ranks are compared, never raw cosines: each checkpoint's cosines have a scale of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from clipdemo import similarity
from clipdemo.compare import correlation
from clipdemo.similarity import IntArray
from clipdemo.types import ScoreMatrix


@dataclass(frozen=True)
class Agreement:
    """How far the rankings of two checkpoints agree.

    Attributes:
        first: index of one checkpoint in the comparison.
        second: index of the other.
        spearman: rho, -1 to 1; None if undefined.
        kendall: tau-b, -1 to 1; None if undefined.
        overlap: share of the first k images in common, 0 to 1; None without images.
    """

    first: int
    second: int
    spearman: float | None
    kendall: float | None
    overlap: float | None


@dataclass(frozen=True)
class Dispute:
    """An image that the checkpoints rank differently for a caption.

    Attributes:
        image: index in the workspace.
        caption: index in the workspace.
        ranks: 1-based, under each checkpoint.
        spread: worst rank minus best rank.
    """

    image: int
    caption: int
    ranks: tuple[int, ...]
    spread: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same images and captions under several checkpoints.

    Attributes:
        matrices: one for each checkpoint.
        ranks: (n_checkpoints, n_images, n_captions) 1-based rank of each image for each caption; ties keep
            the order of the workspace.
    """

    matrices: tuple[ScoreMatrix, ...]
    ranks: IntArray

    def agreement(self, caption: int, k: int) -> list[Agreement]:
        """The agreement of every pair of checkpoints on one caption; equal cosines count as ties.

        Args:
            caption: index of the caption.
            k: cut-off of the overlap.
        """
        columns = [matrix.cosine[:, caption] for matrix in self.matrices]
        return [
            Agreement(
                one,
                two,
                correlation.spearman(columns[one], columns[two]),
                correlation.kendall(columns[one], columns[two]),
                correlation.overlap_at_k(self.ranks[one, :, caption], self.ranks[two, :, caption], k),
            )
            for one, two in combinations(range(len(self.matrices)), 2)
        ]

    def mean_agreement(self, k: int) -> list[Agreement]:
        """The agreement of every pair of checkpoints, as means over the captions that define a figure."""
        captions = range(self.ranks.shape[2])
        by_pair = zip(*(self.agreement(caption, k) for caption in captions), strict=True)
        return [
            Agreement(
                pair[0].first,
                pair[0].second,
                _mean([agreement.spearman for agreement in pair]),
                _mean([agreement.kendall for agreement in pair]),
                _mean([agreement.overlap for agreement in pair]),
            )
            for pair in by_pair
        ]

    def contenders(self, caption: int, k: int) -> list[int]:
        """The images among the first k of any checkpoint, by best rank, then in the workspace's order."""
        best = self.ranks[:, :, caption].min(axis=0)
        return [int(image) for image in np.argsort(best, kind="stable") if best[image] <= k]

    def disputes(self, limit: int, caption: int | None = None) -> list[Dispute]:
        """The images whose ranks differ most, widest first; ties keep the order of the workspace.

        Args:
            limit: of the list, which never contains an image that all checkpoints rank the same.
            caption: index of a caption, or None for all.
        """
        spread = self.ranks.max(axis=0) - self.ranks.min(axis=0)  # (n_images, n_captions)
        if caption is not None:
            spread = np.where(np.arange(spread.shape[1]) == caption, spread, 0)
        disputes = []
        for cell in np.argsort(-spread, axis=None, kind="stable")[:limit]:
            image, column = (int(index) for index in np.unravel_index(cell, spread.shape))
            if spread[image, column]:
                ranks = tuple(self.ranks[:, image, column].tolist())
                disputes.append(Dispute(image, column, ranks, int(spread[image, column])))
        return disputes


def compare_matrices(matrices: Sequence[ScoreMatrix]) -> Comparison:
    """Compare score matrices of the same images and captions.

    Args:
        matrices: one for each checkpoint, at least one.

    Raises:
        ValueError: no matrix, or matrices of different images or captions.
    """
    if not matrices:
        raise ValueError("nothing to compare; give the score matrices of two or more checkpoints")
    contents = {(tuple(item.sha256 for item in matrix.images), matrix.captions) for matrix in matrices}
    if len(contents) > 1:
        raise ValueError(
            "the matrices have different images or captions; score the same ones in the same order"
        )
    ranks = np.stack([similarity.ranks(matrix.cosine, axis=0) for matrix in matrices])
    return Comparison(tuple(matrices), ranks)


def ordinal(rank: int) -> str:
    """The rank as an ordinal: 1st, 2nd, 3rd, 4th."""
    if rank % 100 in {11, 12, 13}:
        return f"{rank}th"
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th') }"


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
