"""Token Merging: the most similar pairs of a frame's tokens become one, round by round, until the budget is met.

In each round a frame's tokens are dealt alternately into A and B. Every token of A names the token of B whose key is
most similar to its own, and the most similar of these pairs merge, A's token into B's. A token is always the mean of
all cells that have gone into it, a large one weighing by its size.

Source: Token Merging (ICLR 2023), bipartite soft matching; here after the encoder, where the paper merges some tokens
in every layer of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...tokens.video_tokens import Extra, Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid, unit
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import by_count, top_k


@dataclass(frozen=True)
class TokenMerging(Budgeted):
    """Merge the most similar pairs of each frame's tokens, round by round, by bipartite soft matching."""

    name = "tome"
    title = "Token Merging"
    node_id = "AOTToMe"
    source = "Token Merging (ToMe), ICLR 2023"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    round_share: float = Setting(
        0.5,
        "Share of a frame's tokens that merge in one round at most. Half is the fewest rounds there can be; a smaller "
        "share merges the most similar pairs first and compares again.",
        low=0.01,
        high=0.5,
        step=0.05,
    ).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time."""
        return (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """A frame's tokens in raster order of the cells they were merged into."""
        grid = LanguageGrid.of(self.title, tokens)
        counts = self.shares(tokens.layout, part)
        keys = grid.vectors(Extra.KEYS)
        owner = torch.empty(grid.token.shape, dtype=torch.long, device=keys.device)
        heads = torch.full((len(counts), max(counts)), -1, device=keys.device)
        for frames, count in by_count(counts):
            heads[frames, :count], owner[frames] = match(keys[frames], count, self.round_share)
        place, row = grid.rows(heads, owner, sum(counts))
        return grid.means(place, row, torch.arange(len(row), device=row.device), NewlineRule.KEPT_ROWS)


def match(keys: Tensor, count: int, round_share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Merge each frame's tokens down to ``count``.

    Args:
        keys: (T, L, d) floating; of a merged token, those of its cells added up.
        count: tokens to leave of each frame.
        round_share: share of the tokens that merge in a round at most.

    Returns:
        heads (T, count), the cell each token was merged into, in raster order; owner (T, L), which of them each cell
        went to.
    """
    frames, cells, _ = keys.shape
    heads = torch.arange(cells, device=keys.device).expand(frames, -1)
    owner = heads
    while heads.shape[1] > count:
        tokens = heads.shape[1]
        merges = min(tokens - count, max(1, int(tokens * round_share)))
        directions = unit(keys)
        similarity, partner = torch.bmm(directions[:, ::2], directions[:, 1::2].mT).max(2)
        merging = top_k(similarity, merges)
        into = 2 * partner.gather(1, merging) + 1
        stays = torch.ones_like(heads, dtype=torch.bool).scatter_(1, 2 * merging, False)
        moved = stays.cumsum(1) - 1
        moved = moved.scatter(1, 2 * merging, moved.gather(1, into))
        heads, owner = heads[stays].reshape(frames, -1), moved.gather(1, owner)
        row = (moved + heads.shape[1] * torch.arange(frames, device=keys.device)[:, None]).flatten()
        added = keys.new_zeros(frames * heads.shape[1], keys.shape[2]).index_add_(0, row, keys.flatten(0, 1))
        keys = added.reshape(frames, heads.shape[1], -1)
    return heads, owner
