"""Retention to exact token counts."""

from __future__ import annotations

from .errors import InputError


def require_retention(retention: float) -> None:
    """Refuse a share that is not above 0 and at most 1."""
    if not 0 < retention <= 1:
        raise InputError(
            f"Retention {retention:g} is not above 0 and at most 1; give the share of the language grid to keep, "
            "0.1 for a tenth."
        )


def tokens_for(retention: float, frames: int, cells: int) -> int:
    """Tokens to keep of ``frames x cells`` language-grid tokens: ``round(retention x frames x cells)``.

    Raises:
        InputError: the retention is outside (0, 1] or leaves no token.
    """
    require_retention(retention)
    full = frames * cells
    kept = round(retention * full)
    if kept < 1:
        raise InputError(f"Retention {retention:g} of {full} tokens leaves none; give at least {1 / full:.2g}.")
    return kept


def split_evenly(total: int, parts: int) -> tuple[int, ...]:
    """``total`` in ``parts`` whole shares that differ by at most one, spread over the sequence."""
    return tuple((i + 1) * total // parts - i * total // parts for i in range(parts))
