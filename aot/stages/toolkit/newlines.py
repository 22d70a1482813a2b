"""Newlines of a layout that ends every grid row with one: which stay when tokens are dropped, and where."""

from __future__ import annotations

from enum import Enum

import torch
from torch import Tensor

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
            kept: (K,) bool on the CPU, which tokens are kept; newlines are not looked at.

        Returns:
            (K,) bool on the CPU.
        """
        newline = tokens.role == int(Role.NEWLINE)
        if self is not NewlineRule.KEPT_ROWS:
            return newline
        row = tokens.frame * tokens.layout.language_grid[0] + tokens.place[:, 1]
        return newline & torch.isin(row, row[kept & ~newline])

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
        frame, y, x = torch.cat((place, newline + newline.new_tensor([0, down, 0]))).unbind(1)
        return ((frame * 2 * height + y) * (width + 1) + x).sort(stable=True).indices
