"""Retention to exact token counts, and the sharing of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..errors import InputError
from ..tokens.layout import Layout


def require_retention(retention: float) -> None:
    """Refuse a share that is not above 0 and at most 1."""
    if not 0 < retention <= 1:
        raise InputError(
            f"Retention {retention:g} is not above 0 and at most 1; give the share of the language grid to keep, "
            "0.1 for a tenth."
        )


def require_tokens(tokens: int) -> None:
    """Refuse a count of tokens below 1."""
    if tokens < 1:
        raise InputError(f"{tokens} tokens leave nothing to read; give 1 or more.")


def token_budget(
    title: str, retention: float, tokens: int, layout: Layout, least: int, most: int, remedy: str = ""
) -> int:
    """Language-grid tokens to keep of a video: ``tokens``, or ``round(retention x T x L)`` where that is 0.

    T are the video's frames, L the language-grid cells of one.

    Args:
        title: the stage's, for the error.
        retention: share of the language grid to keep, from 0 to 1.
        tokens: number of tokens to keep; 0 goes by the retention.
        layout: of the whole video.
        least: fewest tokens that can be kept.
        most: most tokens that can be kept.
        remedy: what else would help, for the end of the error.

    Raises:
        InputError: the budget is outside that range.
    """
    full = layout.frames * layout.language_cells
    total = tokens or round(retention * full)
    if not least <= total <= most:
        budget = f"{tokens} tokens" if tokens else f"retention {retention:g} ({total} tokens)"
        raise InputError(
            f"{title}: {budget} of a video of {layout.frames} frames and {full} language-grid tokens cannot be met; "
            f"give {least} to {most} tokens, retention {_up(least / full)} to {_down(most / full)}{remedy}."
        )
    return total


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """``total`` in ``parts`` whole shares that differ by at most one, spread over the sequence."""
    return tuple((i + 1) * total // parts - i * total // parts for i in range(parts))


def split_by(weights: Sequence[int], total: int) -> tuple[int, ...]:
    """``total`` in whole shares proportional to ``weights``, none above its weight; total is at most their sum."""
    weight_sum = max(1, sum(weights))
    shares, before, so_far = [], 0, 0
    for weight in weights:
        so_far += weight
        reached = so_far * total // weight_sum
        shares.append(reached - before)
        before = reached
    return tuple(shares)


def split_by_share(shares: Sequence[float], total: int, most: int | Sequence[int]) -> tuple[int, ...]:
    """``total`` in whole numbers in proportion to shares, none above ``most``; all of it fits.

    The largest fractions get the rest. What is above ``most`` goes round the others one by one, the largest first.

    Args:
        shares: of every part, 0 or more; all 0 count the same.
        total: to share out.
        most: for every part, or for each.
    """
    weights = np.asarray(shares, np.float32)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full_like(weights, 1 / len(weights))
    exact = weights * np.float32(total)
    counts = np.floor(exact).astype(np.int64)
    rest = total - int(counts.sum())
    counts[np.argsort(counts - exact, kind="stable")[: max(rest, 0)]] += 1
    counts = np.minimum(counts, most)
    order = np.argsort(-weights, kind="stable")
    room = np.broadcast_to(most, counts.shape)
    while (left := total - int(counts.sum())) > 0:
        counts[order[counts[order] < room[order]][:left]] += 1
    return tuple(counts.tolist())


def fill_levels(capacities: Sequence[int], total: int) -> tuple[int, ...]:
    """``total`` poured over vessels as evenly as their capacities allow; total is at most the capacities' sum.

    Vessels rise together, and full ones drop out; what does not make a whole level is spread evenly over those
    that are still open.
    """
    shares = [0] * len(capacities)
    left = total
    while left:
        free = [i for i, capacity in enumerate(capacities) if shares[i] < capacity]
        level = min(left // len(free), min(capacities[i] - shares[i] for i in free))
        rise = (level,) * len(free) if level else split_evenly(left, len(free))
        for i, by in zip(free, rise, strict=True):
            shares[i] += by
        left -= sum(rise)
    return tuple(shares)


def first_frame_whole(layout: Layout) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Fewest and most tokens of every frame for a method that says of all but the first what matters in it.

    Args:
        layout: of the video.
    """
    cells, later = layout.language_cells, layout.frames - 1
    return (cells, *(0,) * later), (cells,) * layout.frames


def _up(share: float) -> str:
    return f"{math.ceil(share * 1e4) / 1e4:g}"


def _down(share: float) -> str:
    return f"{math.floor(share * 1e4) / 1e4:g}"
