"""DyCoke, stage 1: in groups of four frames, the cells that differ most from an earlier frame of the group.

The first frame of a group stays whole. The second is compared with the first, the third with the first, the fourth
with the third, cell by cell, and of each the least similar cells stay as they are. Nothing is merged, whatever the
paper calls it: its authors drop what is similar.

Source: DyCoke (CVPR 2025), the part before the LLM; its pruning of the KV cache is not part of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...devices import to_device
from ...tokens.factors import slots
from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import split_evenly
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import ranked

GROUP = 4
"""Frames that are compared with one another."""

SHORTEST = 1e-8
"""Shorter tokens count as this long in a cosine, so that a zero token has cosine 0."""


@dataclass(frozen=True)
class DyCoke(Budgeted):
    """Of every four frames keep the first whole, and of the others the cells least like an earlier one's."""

    name = "dycoke"
    title = "DyCoke"
    node_id = "AOTDyCoke"
    fixes_budget = ("pruning_ratio",)
    source = "DyCoke, CVPR 2025, stage 1"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType({"dycoke-paper": "dycoke:pruning_ratio=0.7"})

    pruning_ratio: float = Setting(
        0.7,
        "Share of a pruned frame's cells to drop. At 32 frames 9 are whole and 23 pruned, so 0.7 leaves 49 % of the "
        "video and 1 leaves 28 %. Not used where a retention is given.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A group at a time; a single frame after the last group goes with it, as it may be lost altogether."""
        groups, over = divmod(layout.frames, GROUP)
        lengths = (GROUP,) * groups + ((over,) if over else ())
        return (*lengths[:-2], GROUP + 1) if over == 1 and groups else lengths

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Frames that others are compared with whole; of the others from nothing to every cell."""
        cells = layout.language_cells
        whole = [reference < 0 for reference in references_of(layout.frames)]
        return tuple(cells * each for each in whole), (cells,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Whole frames in raster order, pruned ones most changed cell first."""
        grid = LanguageGrid.of(self.title, tokens)
        here = slice(part.first, part.first + tokens.layout.frames)
        references = tuple(max(-1, frame - part.first) for frame in references_of(part.frames)[here])
        frames, others = comparisons(references, grid.token.device)
        alike = grid.features.new_zeros(grid.token.shape)
        alike = alike.index_copy_(0, frames, similarity(grid.features, frames, others))
        cells = alike.shape[1]
        order = ranked(-alike) + cells * torch.arange(len(alike), device=alike.device)[:, None]
        counts = part.budgets or self.kept_of_each(tokens.layout, part.frames)[here]
        return grid.selection(order.flatten()[slots(counts, cells, order.device)], NewlineRule.KEPT_ROWS)

    def kept_of_each(self, layout: Layout, frames: int) -> tuple[int, ...]:
        """Tokens kept of every frame of a whole video; without a budget none of an odd last one, as released.

        Raises:
            InputError: a budget is under the whole frames, or above what there is.
        """
        cells = layout.language_cells
        pruned = [reference >= 0 for reference in references_of(frames)]
        if not self.has_budget:
            kept = int((1 - self.pruning_ratio) * cells)
            counts = [kept if each else cells for each in pruned]
            if frames % 2 and frames > 1:
                counts[-1] = 0
            return tuple(counts)
        video = dataclasses.replace(layout, frames=frames)
        least = (frames - sum(pruned)) * cells
        total = self.budget_of(video, least, frames * cells)
        shares = iter(split_evenly(total - least, sum(pruned)))
        return tuple(next(shares) if each else cells for each in pruned)


def references_of(frames: int) -> tuple[int, ...]:
    """The frame that each frame of a video is compared with, -1 for those kept whole."""
    return tuple(_reference(frame, frames) for frame in range(frames))


def _reference(frame: int, frames: int) -> int:
    """Odd frames go by the one before; a group's third by its first, unless it is one of the video's last two."""
    if frame % 2:
        return frame - 1
    return frame - 2 if frame % GROUP == 2 and frame <= frames - 3 else -1


@lru_cache(maxsize=64)
def comparisons(references: tuple[int, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """The frames that are pruned, and those they are compared with.

    Args:
        references: of each frame, -1 where it is kept whole.
        device: of the result.

    Returns:
        (n,) long twice. Shared: not to be changed.
    """
    pairs = [pair for pair in enumerate(references) if pair[1] >= 0]
    frames, others = to_device(torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T.contiguous(), device)
    return frames, others


def similarity(features: Tensor, frames: Tensor, references: Tensor) -> Tensor:
    """(n, L) cosine of every cell of ``frames`` (n,) with the same cell of ``references`` (n,), of (T, L, D)."""
    lengths = torch.linalg.vector_norm(features, dim=2).clamp(min=SHORTEST)
    product = (features[frames] * features[references]).sum(2)
    return product / (lengths[frames] * lengths[references])
