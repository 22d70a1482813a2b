"""EVS: the tokens that changed most since the frame before, over the whole video.

Every token is compared with the one at the same place a frame earlier; all changes are put in one order, and the
greatest stay as they are. The first frame, which has nothing before it, is always kept whole.

Source: Efficient Video Sampling (NVIDIA, 2025), as vLLM serves it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import first_frame_whole
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k, top_k_mask, true_places

FIRST = 255.0
"""The change of the first frame's tokens, above that of any other: a cosine differs from 1 by 2 at most."""

SHORTEST = 1e-8
"""Shorter tokens count as this long, so that a zero token has changed by 1."""


@dataclass(frozen=True)
class EVS(Budgeted):
    """Keep the first frame and, of the whole video, the tokens that changed most since the frame before."""

    name = "evs"
    title = "EVS"
    node_id = "AOTEVS"
    fixes_budget = ("pruning_rate",)
    source = "Efficient Video Sampling, arXiv 2510.14624, as in vLLM"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "evs-10": "evs:pruning_rate=0.9",
            "evs-15": "evs:pruning_rate=0.85",
            "evs-20": "evs:pruning_rate=0.8",
            "evs-25": "evs:pruning_rate=0.75",
        }
    )

    pruning_rate: float = Setting(
        0.75,
        "Share of the video's language grid to drop, as vLLM counts it: 0.9, 0.85, 0.8 and 0.75 are 10, 15, 20 and "
        "25 % kept; the first frame stays whole in any case. Not used where a retention is given.",
        low=0,
        high=0.999,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first frame whole; of the others from nothing to every cell."""
        return first_frame_whole(layout)

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        changed = change(grid.depths)
        if part.budgets is not None:
            kept = true_places(top_k_mask(changed, part.budgets), sum(part.budgets))
        else:
            kept = top_k(changed.flatten(), self.total(tokens.layout)).sort().values
        return grid.selection(kept, NewlineRule.KEPT_ROWS)

    def total(self, layout: Layout) -> int:
        """Tokens kept of the video.

        Raises:
            InputError: a budget is under one frame, or above what there is.
        """
        frame, full = layout.language_cells, layout.frames * layout.language_cells
        if self.has_budget:
            return self.budget_of(layout, frame, full)
        return max(frame, int(full * (1 - self.pruning_rate)))


def change(depths: Sequence[Tensor]) -> Tensor:
    """1 minus the cosine of every token with the one at its place a frame earlier, (T, L).

    Args:
        depths: (T, L, D) each; the cosine is over all of their channels side by side.
    """
    product = sum((values[1:] * values[:-1]).sum(2) for values in depths)
    lengths = torch.stack([torch.linalg.vector_norm(values, dim=2) for values in depths])
    length = torch.linalg.vector_norm(lengths, dim=0).clamp(min=SHORTEST)
    first = length.new_full(length[:1].shape, FIRST)
    return torch.cat((first, 1 - product / (length[1:] * length[:-1])))
