"""Exact budgets where a share and a threshold settle how many tokens are left: both are moved until it fits."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import torch
from torch import Tensor

from ..budget import split_evenly

HALVINGS = 64
"""Of the range that a share is searched in; doubles hold no finer ones."""


def counts_of_total(counts_at: Callable[[float], Tensor], total: int) -> Tensor:
    """Tokens of groups that add up to ``total``: by the largest share that gives no more, and one more for some.

    The groups whose counts would be the next to rise get what is missing, spread evenly over them.

    Args:
        counts_at: gives (G,) long counts at a share from 0 to 1. None falls as the share rises, and each rises by one
            at a time.
        total: from what they add up to at 0 to what they add up to at 1.
    """
    low, high = 0.0, 1.0
    counts = counts_at(high)
    if int(counts.sum()) <= total:
        return counts
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if int(counts_at(middle).sum()) <= total:
            low = middle
        else:
            high = middle
    counts = counts_at(low)
    rising = (counts_at(high) > counts).nonzero()[:, 0]
    missing = split_evenly(total - int(counts.sum()), len(rising))
    return counts.index_add(0, rising, torch.tensor(missing, dtype=counts.dtype, device=counts.device))


def lowest_threshold(values: Tensor, threshold: float, left: Callable[[float], int], total: int) -> float:
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
    steps = values[values > threshold].unique().tolist()
    return steps[bisect_left(steps, True, key=lambda step: left(step) >= total)]
