"""Ranking by score along the last axis, and the top k of every row. Of equal scores the earlier ranks first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...devices import counts_on


def ranked(scores: Tensor) -> Tensor:
    """(..., L) scores to (..., L) long: the indices of the last axis, highest score first."""
    return scores.sort(dim=-1, descending=True, stable=True).indices


def top_k(scores: Tensor, k: int) -> Tensor:
    """(..., L) scores to (..., k) long: the indices of the k highest, highest first."""
    return ranked(scores)[..., :k]


def top_k_mask(scores: Tensor, counts: int | Sequence[int] | Tensor) -> Tensor:
    """The highest scores of each row.

    Args:
        scores: (T, L) floating.
        counts: how many of each row, T of them, or one for all.

    Returns:
        (T, L) bool.
    """
    return first_mask(ranked(scores), counts)


def first_mask(order: Tensor, counts: int | Sequence[int] | Tensor) -> Tensor:
    """The first indices of each row of a ranking.

    Args:
        order: (T, L) long, the indices 0 to L - 1 of each row, best first.
        counts: how many of each row, T of them, or one for all.

    Returns:
        (T, L) bool.
    """
    number = counts
    if not isinstance(number, int):
        number = number if isinstance(number, Tensor) else counts_on(tuple(number), order.device)
        number = number.reshape(-1, 1)
    first = (torch.arange(order.shape[1], device=order.device) < number).expand_as(order)
    return torch.zeros_like(first).scatter(1, order, first)


def true_indices(mask: Tensor, size: int) -> Tensor:
    """Where each row is True.

    Args:
        mask: (..., L) bool.
        size: indices of each row to give, at least as many as its True entries.

    Returns:
        (..., size) long, in order; after them indices that are False, which the caller masks.
    """
    return top_k(mask.to(torch.uint8), size)


def true_places(mask: Tensor, number: int) -> Tensor:
    """Where a mask is True, without a wait for how often it is.

    Args:
        mask: bool, of any shape.
        number: its True entries.

    Returns:
        (number,) long, indices into the flattened mask, in order.
    """
    return true_indices(mask.flatten(), number)


def tally(index: Tensor, size: int) -> Tensor:
    """How often each number occurs, without a wait for the largest.

    Args:
        index: (E,) long, 0 to size - 1.
        size: how many numbers there are.

    Returns:
        (size,) long.
    """
    return torch.zeros(size, dtype=torch.long, device=index.device).index_add_(0, index, torch.ones_like(index))
