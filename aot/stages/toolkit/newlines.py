"""Newlines of a layout that ends every grid row with one: which stay when tokens are dropped, and where."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

from ...tokens.layout import ends_on
from ...tokens.video_tokens import Layout, Role, VideoTokens


class NewlineRule(Enum):
    """Which newlines stay, and where."""

    ALL = "all"
    """All, each at the end of its grid row."""
    KEPT_ROWS = "kept rows"
    """Those of grid rows that keep a token."""
    AFTER_FRAME = "after frame"
    """All, as one run after their frame's tokens."""

    def remaining(self, tokens: VideoTokens, kept: Tensor) -> Tensor:
        """The newlines that stay.

        Args:
            tokens: K tokens on the language grid.
            kept: (K,) bool, which tokens are kept; newlines are not looked at.

        Returns:
            (K,) bool.
        """
        newline = tokens.role == int(Role.NEWLINE)
        if self is not NewlineRule.KEPT_ROWS:
            return newline
        height = tokens.layout.language_grid[0]
        row = tokens.frame * height + tokens.place[:, 1]
        rows = tokens.layout.frames * height
        full = torch.zeros(rows + 1, dtype=torch.bool, device=row.device)
        full = full.scatter(0, torch.where(kept & ~newline, row, rows), True)
        return newline & full[row]

    def ends(self, tokens: VideoTokens, kept: Tensor) -> Tensor:
        """Which tokens are the newlines that stay.

        Args:
            tokens: K tokens on the language grid.
            kept: (k,) long, the tokens that are kept.

        Returns:
            (B,) long, in order.
        """
        if not tokens.layout.newlines:
            return kept[:0]
        if self is not NewlineRule.KEPT_ROWS and tokens.is_full_grid:
            return ends_on(tokens.layout, kept.device)
        mask = torch.zeros(len(tokens.role), dtype=torch.bool, device=kept.device).index_fill_(0, kept, True)
        return self.remaining(tokens, mask).nonzero()[:, 0]

    def order(self, layout: Layout, place: Tensor, newline: Tensor) -> Tensor:
        """Kept tokens and newlines in the order the LLM reads them: by frame, row and column.

        Args:
            layout: of the tokens.
            place: (A, 3) long: frame, y and x of the kept tokens.
            newline: (B, 3) long: frame, y and x of the newlines that stay, at x = w.

        Returns:
            (A + B,) long, indices into the tokens and the newlines after them.
        """
        height, width = layout.language_grid
        down = height if self is NewlineRule.AFTER_FRAME else 0
        frame, y, x = (torch.cat((place[:, i], newline[:, i] + (down if i == 1 else 0))) for i in range(3))
        return ((frame * 2 * height + y) * (width + 1) + x).sort(stable=True).indices
