"""Exact budgets where a share and a threshold settle how many tokens are left: both are moved until it fits.

All of it is on the host: these searches are small, and every step needs the one before.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np

from ..budget import split_evenly
from .uploads import FloatArray, IntArray

HALVINGS = 64
"""Of the range that a share is searched in; doubles hold no finer ones."""


def counts_of_total(counts_at: Callable[[float], IntArray], total: int) -> IntArray:
    """Tokens of groups that add up to ``total``: by the largest share that gives no more, and one more for some.

    The groups whose counts would be the next to rise get what is missing, spread evenly over them.

    Args:
        counts_at: gives (G,) int64 counts at a share from 0 to 1. None falls as the share rises, and each rises by one
            at a time.
        total: from what they add up to at 0 to what they add up to at 1.
    """
    low, high = 0.0, 1.0
    counts = counts_at(high)
    if counts.sum() <= total:
        return counts
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if counts_at(middle).sum() <= total:
            low = middle
        else:
            high = middle
    counts = counts_at(low)
    rising = np.flatnonzero(counts_at(high) > counts)
    more = np.zeros_like(counts)
    more[rising] = split_evenly(total - int(counts.sum()), len(rising))
    return counts + more


def lowest_threshold(values: FloatArray, threshold: float, left: Callable[[float], int], total: int) -> float:
    """The lowest threshold, from ``threshold`` on, that leaves ``total`` tokens or more.

    Args:
        values: floating, of any shape: what is compared with the threshold.
        threshold: the lowest one allowed.
        left: tokens left by merging what is above a threshold. It does not fall as the threshold rises, and is
            ``total`` or more where nothing is above.
        total: tokens to leave at least.
    """
    if left(threshold) >= total:
        return threshold
    steps = np.unique(values[values > threshold]).tolist()
    return steps[bisect_left(steps, True, key=lambda step: left(step) >= total)]
