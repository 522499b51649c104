"""Several checkpoints over one workspace: rankings side by side, how far they agree, where they do not.

Ranks are compared, never raw cosines: each checkpoint's cosines lie on a scale of their own. Knows nothing of
torch or pages.
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
    """How far two checkpoints rank alike.

    Attributes:
        first: position of the one checkpoint in the comparison.
        second: position of the other.
        spearman: rho, -1 to 1; None where it is undefined.
        kendall: tau-b, -1 to 1; None where it is undefined.
        overlap: share of the first k images they have in common, 0 to 1; None without images.
    """

    first: int
    second: int
    spearman: float | None
    kendall: float | None
    overlap: float | None


@dataclass(frozen=True)
class Dispute:
    """An image that the checkpoints place differently for a caption.

    Attributes:
        image: position in the workspace.
        caption: position in the workspace.
        places: its 1-based rank under each checkpoint.
        spread: worst rank less best rank.
    """

    image: int
    caption: int
    places: tuple[int, ...]
    spread: int


@dataclass(frozen=True, eq=False)
class Comparison:
    """The same images and captions under several checkpoints.

    Attributes:
        matrices: one for each checkpoint.
        ranks: (n_checkpoints, n_images, n_captions) 1-based rank of each image for each caption; ties keep the order
            of the workspace.
    """

    matrices: tuple[ScoreMatrix, ...]
    ranks: IntArray

    def agreement(self, caption: int, k: int) -> list[Agreement]:
        """Every pair of checkpoints on one caption; equal cosines count as ties.

        Args:
            caption: position of the caption.
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
        """Every pair of checkpoints, each figure as its mean over the captions for which it is defined."""
        captions = range(self.ranks.shape[2])
        each = list(zip(*(self.agreement(caption, k) for caption in captions), strict=True))
        return [
            Agreement(
                same[0].first,
                same[0].second,
                _mean([found.spearman for found in same]),
                _mean([found.kendall for found in same]),
                _mean([found.overlap for found in same]),
            )
            for same in each
        ]

    def contenders(self, caption: int, k: int) -> list[int]:
        """The images that are among the first k of any checkpoint, by their best rank, then as in the workspace."""
        best = self.ranks[:, :, caption].min(axis=0)
        return [int(image) for image in np.argsort(best, kind="stable") if best[image] <= k]

    def disputes(self, most: int, caption: int | None = None) -> list[Dispute]:
        """Where the ranks differ most, widest first; ties keep the order of the workspace.

        Args:
            most: how many at most; an image that all place alike is never among them.
            caption: position of a caption, or None for all.
        """
        spread = self.ranks.max(axis=0) - self.ranks.min(axis=0)  # (n_images, n_captions)
        if caption is not None:
            spread = np.where(np.arange(spread.shape[1]) == caption, spread, 0)
        found = []
        for place in np.argsort(-spread, axis=None, kind="stable")[:most]:
            image, column = (int(part) for part in np.unravel_index(place, spread.shape))
            if spread[image, column]:
                places = tuple(int(rank) for rank in self.ranks[:, image, column])
                found.append(Dispute(image, column, places, int(spread[image, column])))
        return found


def compare(matrices: Sequence[ScoreMatrix]) -> Comparison:
    """Set score matrices of the same images and captions beside each other.

    Args:
        matrices: one for each checkpoint, at least one.

    Raises:
        ValueError: no matrices, or ones of different images or captions.
    """
    if not matrices:
        raise ValueError("there is nothing to compare; give the score matrices of two checkpoints or more")
    contents = {(tuple(item.sha256 for item in matrix.images), matrix.captions) for matrix in matrices}
    if len(contents) > 1:
        raise ValueError("the matrices hold different images or captions; score the same ones, in one order")
    ranks = np.stack([similarity.ranks(matrix.cosine, axis=0) for matrix in matrices])
    return Comparison(tuple(matrices), ranks)


def ordinal(rank: int) -> str:
    """The rank as people say it: 1st, 2nd, 3rd, 4th."""
    if rank % 100 in {11, 12, 13}:
        return f"{rank}th"
    return f"{rank}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(rank % 10, 'th') }"


def _mean(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
