"""Token Merging: the most similar pairs of a frame's tokens become one, round by round, until the budget is met.

In each round a frame's tokens are dealt alternately into A and B. Every token of A names the token of B whose key is
most similar to its own, and the most similar of these pairs merge, A's token into B's. A token is always the mean of
all cells that have gone into it, a large one weighing by its size.

Source: Token Merging (ICLR 2023), bipartite soft matching; here after the encoder, where the paper merges some tokens
in every layer of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...devices import to_device
from ...tokens.factors import Sparse
from ...tokens.video_tokens import Extra, Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid, unit
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k


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
        heads, owner = matched(keys, counts, self.round_share)
        place, row = grid.rows(heads, owner, sum(counts))
        return grid.means(place, row, torch.arange(len(row), device=row.device), NewlineRule.KEPT_ROWS)


def matched(keys: Tensor, counts: Sequence[int], round_share: float = 0.5) -> tuple[Tensor, Tensor]:
    """As :func:`match`, of frames with any counts: those of one count are merged together.

    Args:
        keys: as there.
        counts: (T,) tokens to leave of each frame.
        round_share: as there.
    """
    if max(counts) - min(counts) <= 1:
        return match(keys, counts, round_share)
    heads = torch.full((len(counts), max(counts)), -1, device=keys.device)
    owner = torch.empty(keys.shape[:2], dtype=torch.long, device=keys.device)
    for count in sorted(set(counts)):
        here = to_device([frame for frame, each in enumerate(counts) if each == count], keys.device)
        heads[here, :count], owner[here] = match(keys[here], (count,) * len(here), round_share)
    return heads, owner


def match(keys: Tensor, counts: Sequence[int], round_share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Merge each frame's tokens down to its count.

    All frames merge as many in a round, until in the last one some merge one less.

    Args:
        keys: (T, L, d) floating; of a merged token, those of its cells added up.
        counts: (T,) tokens to leave of each frame; they differ by one at most.
        round_share: share of the tokens that merge in a round at most.

    Returns:
        heads (T, S), the cell each token was merged into, in raster order, -1 after those of a frame with fewer;
        owner (T, L), which of them each cell went to.
    """
    frames, left, width = keys.shape
    fewest, most, device = min(counts), max(counts), keys.device
    keeps_more = to_device(counts, device)[:, None] > fewest
    frame, every = torch.arange(frames, device=device)[:, None], torch.arange(left, device=device)
    heads = owner = every.expand(frames, -1)
    while left > fewest:
        merges = min(left - fewest, max(1, int(left * round_share)))
        own, left = every[:left].expand(frames, -1), left - merges
        source, into = most_similar_pairs(keys, merges)
        size = most if left == fewest else left
        if left < size:  # the last round of frames that differ: the least similar pair of some stays apart
            into[:, -1:] = torch.where(keeps_more, source[:, -1:], into[:, -1:])
        target = own.scatter(1, source, into)
        stays = target == own
        number = stays.cumsum(1) - 1
        moved = number.gather(1, target)
        owner = moved.gather(1, owner)
        heads = heads.new_full((frames, size + 1), -1).scatter_(1, torch.where(stays, number, size), heads)[:, :size]
        if left > fewest:
            row = (moved + left * frame).flatten()
            keys = Sparse.sums(row, frames * left, keys).apply(keys.flatten(0, 1)).reshape(frames, left, width)
    return heads, owner


def most_similar_pairs(keys: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """A frame's pairs of a token of A, at an even place, and the token of B that it is most similar to.

    Args:
        keys: (T, S, d) floating.
        number: pairs of each frame, at most as many as A has tokens.

    Returns:
        (T, number) long twice: the places of the tokens of A, the most similar pair first, and of those of B.
    """
    directions = unit(keys)
    similarity, partner = torch.bmm(directions[:, ::2], directions[:, 1::2].mT).max(2)
    pairs = top_k(similarity, number)
    return 2 * pairs, 2 * partner.gather(1, pairs) + 1
