"""VScan's first stage: cells that matter to the frame or to their window are kept, the others merged into them.

The local scan takes the cells of every window that receive most attention at a shallow layer, the global scan the
best of the rest at a deep one: chosen as AOT's anchors are. AOT carries the other tokens to those by transport; here
each goes whole to the one it is most like.

Source: VScan (TMLR 2026), its first stage; the second prunes inside the LLM and is not part of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...devices import to_device
from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k_mask
from .anchor_ot.intra import select_anchors


@dataclass(frozen=True)
class VScan(Budgeted):
    """Keep the cells of each frame that a global and a local scan choose; merge the others into the most similar."""

    name = "vscan"
    title = "VScan"
    node_id = "AOTVScan"
    source = "VScan, TMLR 2026, its first stage"

    global_ratio: float = Setting(
        0.5,
        "Share of a frame's tokens chosen over the whole frame by deep attention; the others are chosen window by "
        "window by shallow attention.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    window: int = Setting(
        4,
        "Side of the windows of the local scan, in cells of the language grid; 4 cuts 14 x 14 and 13 x 13 into 3 x 3. "
        "Where the grid is no multiple of it they are a little larger.",
        low=1,
        high=256,
    ).field()
    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time."""
        return (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """A frame's chosen cells in raster order, each with those that joined it."""
        grid = LanguageGrid.of(self.title, tokens)
        counts = self.shares(tokens.layout, part)
        shallow, deep, size = grid.pooled(tokens.shallow), grid.deep, tokens.layout.language_grid
        chosen = scan(shallow, deep, counts, self.global_ratio, self.window, size)
        return grid.merged(chosen, NewlineRule.KEPT_ROWS, counts=counts)


def scan(
    shallow: Tensor, deep: Tensor, counts: Sequence[int], global_ratio: float, window: int, grid: tuple[int, int]
) -> Tensor:
    """The cells that the local and the global scan choose.

    What the windows' equal shares leave over of the local part goes to the global one.

    Args:
        shallow: (T, L) floating, attention received at the shallow layer, L = h w.
        deep: (T, L) floating, attention received at the deep layer.
        counts: (T,) cells of each frame; a few different ones.
        global_ratio: share of them chosen over the whole frame, from 0 to 1.
        window: side of a window, in cells.
        grid: (h, w).

    Returns:
        (T, L) bool, exactly ``counts[t]`` a frame.
    """
    parts = [int(count * (1 - global_ratio)) for count in counts]
    total, part = to_device((counts, parts), deep.device)
    local = torch.zeros_like(deep, dtype=torch.bool)
    for number in set(parts):
        local |= select_anchors(shallow, deep, number, 0.0, window, grid) & (part == number)[:, None]
    return local | top_k_mask(deep.masked_fill(local, -torch.inf), total - local.sum(1))
