"""Tokens at even steps in space and time: sampling that looks at nothing, as a control."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ....devices import to_device
from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Reduction
from ...budget import split_evenly
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.language_grid import LanguageGrid
from ...toolkit.newlines import NewlineRule


@dataclass(frozen=True)
class UniformGrid(Budgeted):
    """Keep cells at even steps over each frame's grid and over time, drop all others."""

    name = "uniform"
    title = "Uniform Grid"
    node_id = "AOTUniformGrid"
    source = "a control"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    frame_step: int = Setting(
        1, "Keep cells of every n-th frame only, the first among them: 2 halves the frames.", low=1, high=4096
    ).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time."""
        return (1,) * layout.frames

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From nothing at all to every cell."""
        return (0,) * layout.frames, (layout.language_cells,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept cells frame by frame in raster order."""
        grid, layout = LanguageGrid.of(self.title, tokens), tokens.layout
        counts = part.budgets
        if counts is None:
            counts = self.frame_counts(dataclasses.replace(layout, frames=part.frames))
            counts = counts[part.first : part.first + layout.frames]
        cells = {count: even_cells(count, layout.language_grid) for count in set(counts)}
        place = np.concatenate([cells[count] + frame * layout.language_cells for frame, count in enumerate(counts)])
        return grid.selection(to_device(place, grid.token.device), NewlineRule.KEPT_ROWS)

    def frame_counts(self, video: Layout) -> tuple[int, ...]:
        """Tokens of every frame of the whole video; fewer tokens than frames are one each, at even steps.

        Raises:
            InputError: the budget is above what the frames that are looked at have.
        """
        looked_at = range(0, video.frames, self.frame_step)
        most = len(looked_at) * video.language_cells
        total = self.budget_of(video, 1, most)
        shares = dict(zip(looked_at, split_evenly(total, len(looked_at)), strict=True))
        return tuple(shares.get(frame, 0) for frame in range(video.frames))


def even_cells(count: int, grid: tuple[int, int]) -> np.ndarray:
    """Cells spread evenly over a grid.

    The number of rows, ``round(sqrt(count h / w))`` within what fits, makes steps down and across about equal. Rows
    share the cells evenly, and each has its own in the middle of as many equal parts.

    Args:
        count: cells, at most h w.
        grid: (h, w).

    Returns:
        (count,) int64: y w + x, in raster order.
    """
    if not count:
        return np.zeros(0, np.int64)
    height, width = grid
    rows = round((count * height / width) ** 0.5)
    rows = min(max(rows, -(-count // width), 1), height, count)
    shares = split_evenly(count, rows)
    return np.concatenate(
        [y * width + np.array(_middles(share, width)) for y, share in zip(_middles(rows, height), shares, strict=True)]
    )


def _middles(parts: int, side: int) -> list[int]:
    """The cells in the middle of ``parts`` equal parts of a side."""
    return [(2 * part + 1) * side // (2 * parts) for part in range(parts)]
