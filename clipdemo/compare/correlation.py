"""Agreement of two rankings: Spearman's rho, Kendall's tau-b and overlap of the first k. NumPy only.

Implemented here and tested equal to scipy's, because importing ``scipy.stats`` takes about a second.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from clipdemo.similarity import IntArray


def average_ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (n,) 1-based ranks, smallest value first; equal values share the mean of their ranks."""
    _, place, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = counts.cumsum()
    means: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[place]
    return means


def spearman(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Return Spearman's rho of two rankings or score vectors of the same items: 1 same order, -1 reversed.

    Args:
        first: (n,) ranks or scores without nan.
        second: (n,) of the same items.

    Returns:
        Pearson's correlation of the average ranks; None if one of them has fewer than two distinct values.
    """
    one, two = average_ranks(first), average_ranks(second)
    one, two = one - one.sum() / max(1, one.size), two - two.sum() / max(1, two.size)
    spread = float((one @ one) * (two @ two))
    return float(np.clip((one @ two) / np.sqrt(spread), -1, 1)) if spread else None


def kendall(first: npt.ArrayLike, second: npt.ArrayLike) -> float | None:
    """Return Kendall's tau-b of two rankings or score vectors of the same items: 1 same order, -1 reversed.

    Args:
        first: (n,) ranks or scores without nan; time and memory grow with n squared.
        second: (n,) of the same items.

    Returns:
        Pairs in the same order minus pairs in the opposite order, over the pairs that are not tied; None if
        one of them has fewer than two distinct values.

    Source: Kendall 1945, "The treatment of ties in ranking problems".
    """
    one, two = _signs(first), _signs(second)
    untied = float(np.count_nonzero(one)) * float(np.count_nonzero(two))
    return float(np.vdot(one, two) / np.sqrt(untied)) if untied else None


def overlap_at_k(first: IntArray, second: IntArray, k: int) -> float | None:
    """Return the share of the first k of one ranking that are among the first k of the other, in any order.

    Args:
        first: (n,) 1-based ranks, each once.
        second: (n,) of the same items.
        k: cut-off, at least 1; more than n counts as n.

    Returns:
        0 to 1; None without items.
    """
    return float(np.sum((first <= k) & (second <= k)) / min(k, len(first))) if len(first) else None


def _signs(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return (n, n): 1 where the row's value is above the column's, 0 where equal, -1 where below."""
    places = average_ranks(values)  # differences of ranks neither overflow nor round
    return np.sign(places[:, None] - places[None, :])
