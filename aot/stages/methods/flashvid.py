"""FlashVID, the half that runs before the LLM: tokens that stand out, trees along time, clusters in space.

The video is cut into segments where frames differ. In every frame the cells are chosen one by one that are attended
to and unlike those chosen already; they stay as they are. Of the others, each is linked to the cell it resembles
most in the frame before, and the trees that result are merged into their roots. What roots a frame then has are
clustered until the frame's share is met.

As released, a root is divided by one more than its direct children, whatever hangs on those: a multiple of the
tree's mean, stated here as the mean and a scale beside W.

Source: FlashVID (ICLR 2026), as released by its authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..clips import dynamic_clips
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.dpc_knn import BATCH, NOISE, Groups, clustered
from ..toolkit.language_grid import LanguageGrid, Merge, unit
from ..toolkit.ranking import ranked, top_k

NEIGHBOURS = 7
"""Nearest roots that a root's density is taken over, at most."""


@dataclass(frozen=True)
class FlashVID(Budgeted):
    """Keep cells that are attended to and unlike each other; merge the others along time into trees, then in space."""

    name = "flashvid"
    title = "FlashVID"
    node_id = "AOTFlashVID"
    fixes_budget = ("retention_ratio",)
    source = "FlashVID, ICLR 2026, before the LLM"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            f"flashvid-{percent}{name}": f"flashvid:retention_ratio={percent / 100:g},expansion={expansion:g}"
            for name, expansion in (("", 1), ("-expanded", 1.25))
            for percent in (10, 15, 20, 25)
        }
    )

    retention_ratio: float = Setting(
        0.1,
        "The authors' retention r; a frame's share is N r expansion, rounded up. Not used where a retention is given.",
        low=0.001,
        high=1,
        step=0.01,
    ).field()
    expansion: float = Setting(
        1.25,
        "What r is multiplied with here. The authors keep 1.25 times as much before the LLM and drop tokens again "
        "inside it, which is no part of this; 1 compares with methods that end here.",
        low=0.01,
        high=10,
        step=0.05,
    ).field()
    alpha: float = Setting(
        0.7,
        "Share of a frame's tokens that are chosen and stay as they are, rounded up; the others are merged.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    temporal_threshold: float = Setting(
        0.8,
        "Cosine above which a cell is linked to one of the frame before. Higher merges less along time.",
        low=0,
        high=0.999,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    segment_threshold: float = Setting(
        0.9,
        "A segment begins where the mean features of two frames have a lower cosine than this.",
        low=-1,
        high=1,
        step=0.01,
        advanced=True,
    ).field()
    min_segments: int = Setting(
        8,
        "Segments there are at least, cut at the lowest cosines; a video of no more frames has a segment for each, "
        "and nothing is merged along time.",
        low=1,
        high=100_000,
        advanced=True,
    ).field()
    selection: str = Setting(
        "attn_div_v2",
        "What chosen cells are: far apart and attended to, and in v2 like their segment's frames as well; attn takes "
        "the most attended, div the farthest apart.",
        choices=("attn_div_v2", "attn_div", "attn", "div"),
        advanced=True,
    ).field()
    true_mean: bool = Setting(
        False,
        "Divide a tree by the number of its cells, not, as released, by one more than its root's direct children.",
        advanced=True,
    ).field()

    def build(self, tokens: VideoTokens, part: Part, noise: Tensor | None = None) -> Reduction:
        """Rows in order of place; of two at one place the chosen cell first.

        Args:
            tokens: on the language grid.
            part: which frames of the video these are.
            noise: (P,) what is added to the densities of the P roots that are clustered, frame after frame. None adds
                nothing, and equally dense roots then rank in raster order.
        """
        grid = LanguageGrid.of(self.title, tokens)
        frames, cells = grid.token.shape
        device = grid.features.device
        budgets, exact = self._budgets(tokens, part)
        chosen_counts = [math.ceil(budget * self.alpha) for budget in budgets]
        merging = [budget - count for budget, count in zip(budgets, chosen_counts, strict=True)]
        lengths = self.segments(grid)
        directions = unit(grid.features)
        order = self.chosen(grid, directions, lengths, max(chosen_counts), once=exact)
        counted = torch.arange(order.shape[1], device=device) < torch.tensor(chosen_counts, device=device)[:, None]
        chosen = (order + torch.arange(frames, device=device)[:, None] * cells)[counted]
        free = torch.ones(frames * cells, dtype=torch.bool, device=device).index_fill(0, chosen, False)
        linked = self._linked(directions, free.reshape(frames, cells), lengths, budgets)
        length = torch.tensor(lengths, device=device)
        alone = length.repeat_interleave(length) == 1
        trees = Trees.grown(linked, free | alone.repeat_interleave(cells), self.true_mean)
        roots = trees.roots.reshape(frames, cells).sum(1).tolist()
        counts = cluster_counts(roots, merging, lengths, exact)
        place, row, cell, weight = trees.clustered(grid, counts, noise)
        total = torch.zeros_like(place, dtype=weight.dtype).index_add(0, row, weight)
        merge = Merge(place, row, cell, weight / total[row], scale=None if self.true_mean else total)
        return grid.reduction(merge.beside(chosen))

    def _budgets(self, tokens: VideoTokens, part: Part) -> tuple[tuple[int, ...], bool]:
        """Tokens of every frame, and whether their sum is to be met to the token."""
        layout = tokens.layout
        counts = self.counts(layout, part)
        if counts:
            return counts, True
        cells = layout.language_cells
        budget = math.ceil(cells * self.retention_ratio * self.expansion)
        if budget > cells:
            raise InputError(
                f"{self.title}: retention_ratio {self.retention_ratio:g} times expansion {self.expansion:g} are "
                f"{budget} tokens of a frame of {cells}; lower one until the product is at most 1."
            )
        return (budget,) * layout.frames, False

    def segments(self, grid: LanguageGrid) -> tuple[int, ...]:
        """Lengths of the runs of frames that trees grow in."""
        return dynamic_clips(grid.features.mean(1), self.segment_threshold, self.min_segments - 1)

    def chosen(
        self, grid: LanguageGrid, directions: Tensor, lengths: tuple[int, ...], count: int, once: bool
    ) -> Tensor:
        """Cells of every frame that stay as they are: (T, count) long, in the order they are chosen in.

        Args:
            grid: T frames of L cells.
            directions: (T, L, D) floating, the features at length 1.
            lengths: frames of each segment.
            count: cells of every frame.
            once: whether no cell may be chosen again; as released, attn_div_v2 allows it.
        """
        if self.selection == "attn":
            return top_k(grid.attention(Extra.LAST), count)
        attention = grid.attention(Extra.LAST) if "attn" in self.selection else None
        weight = torch.ones_like(directions[:, :, 0]) if attention is None else attention
        if self.selection == "attn_div_v2":
            means = torch.cat([run.mean(0).expand_as(run) for run in grid.features.mean(1).split(lengths)])
            weight = weight * (grid.features @ means[:, :, None])[:, :, 0]
        frames_at_once = max(1, BATCH // weight.shape[1] ** 2)
        parts = zip(directions.split(frames_at_once), weight.split(frames_at_once), strict=True)
        once = once or self.selection != "attn_div_v2"
        return torch.cat([spread_out(x, importance, count, once) for x, importance in parts])

    def _linked(self, directions: Tensor, free: Tensor, lengths: tuple[int, ...], budgets: Sequence[int]) -> Tensor:
        """(T * L,) long, the cell of the frame before that each is linked to; itself where it is to none."""
        best, parent = most_similar(directions, free, lengths)
        keep = [sum(run.tolist()) for run in torch.tensor(budgets).split(lengths)]
        bar = thresholds(best, lengths, keep, self.temporal_threshold)
        return torch.where(best > bar[:, None], parent, torch.arange(best.numel(), device=best.device).view_as(best))


def spread_out(directions: Tensor, weight: Tensor, count: int, once: bool) -> Tensor:
    """Cells chosen one by one, each the farthest from those before it, as its weight counts distance.

    The distance from cell i to cell j is (1 - their cosine) times j's weight; the first cell is the one with the
    farthest neighbour, nearest but itself.

    Args:
        directions: (T, L, D) floating, of length 1.
        weight: (T, L) floating, what distances to a cell are multiplied with.
        count: cells of every frame.
        once: whether no cell may be chosen again.

    Returns:
        (T, count) long, in the order they are chosen in.
    """
    frames, cells, _ = directions.shape
    one = torch.ones_like(weight[:1, :1, None])
    distance = torch.baddbmm(one, directions, directions.mT, alpha=-1).mul_(weight[:, None])
    every = torch.arange(frames, device=weight.device)
    reach = distance.topk(min(2, cells), dim=1, largest=False).values[:, -1]
    chosen = torch.zeros(frames, count, dtype=torch.long, device=weight.device)
    nearest = torch.full_like(weight, torch.inf)
    taken = torch.zeros_like(weight, dtype=torch.bool)
    for step in range(count):
        pick = reach.masked_fill(taken, -torch.inf).argmax(1)
        chosen[:, step] = pick
        taken[every, pick] = once
        nearest = reach = nearest.minimum(distance[every, pick])
    return chosen


def most_similar(directions: Tensor, free: Tensor, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The free cell of the frame before that is most similar to each free cell, within a segment.

    Args:
        directions: (T, L, D) floating, of length 1.
        free: (T, L) bool.
        lengths: frames of each segment.

    Returns:
        best (T, L), the cosine, -1 where there is none to compare with; parent (T, L) long, frame * L + cell.
    """
    frames, cells, _ = directions.shape
    best = torch.full_like(directions[:, :, 0], -1)
    parent = torch.zeros_like(best, dtype=torch.long)
    at_once = max(1, BATCH // cells**2)
    for first in range(1, frames, at_once):
        now, before = slice(first, first + at_once), slice(first - 1, min(first + at_once, frames) - 1)
        cosine = torch.bmm(directions[now], directions[before].mT).masked_fill_(~free[before, None], -1)
        highest, at = cosine.max(2)
        best[now] = highest.masked_fill_(~free[now], -1)
        parent[now] = at + torch.arange(frames, device=at.device)[before, None] * cells
    best[torch.tensor((0, *lengths[:-1])).cumsum(0)] = -1
    return best, parent


def thresholds(best: Tensor, lengths: tuple[int, ...], keep: Sequence[int], threshold: float) -> Tensor:
    """(T,) the cosine that links have to be above: ``threshold``, or more where a segment would keep too little.

    Args:
        best: (T, L) floating, the cosine of every cell with the one it could be linked to.
        lengths: frames of each segment.
        keep: cells of every segment that must stay unlinked.
        threshold: the cosine that links have to be above.
    """
    cells = best.shape[1]
    size = torch.tensor(lengths, device=best.device)
    segment = torch.arange(len(lengths), device=best.device).repeat_interleave(size)
    falling = ranked(best.flatten())
    falling = falling[segment.repeat_interleave(cells)[falling].sort(stable=True).indices]
    ordered = best.flatten()[falling]
    first = (size.cumsum(0) - size) * cells
    links = size * cells - torch.tensor(keep, device=best.device)
    raised = ordered[first + (links - 1).clamp(min=0)]
    return torch.where(ordered[first + links] > threshold, raised, threshold)[segment]


def cluster_counts(roots: Sequence[int], merging: Sequence[int], lengths: tuple[int, ...], exact: bool) -> list[int]:
    """Clusters of every frame: a segment's merged tokens in proportion to its frames' roots, each rounded up.

    Args:
        roots: roots of every frame.
        merging: merged tokens that each frame is due.
        lengths: frames of each segment.
        exact: whether a segment's sum is met to the token: its frames with most clusters then have one less.
    """
    counts: list[int] = []
    for length in lengths:
        here = slice(len(counts), len(counts) + length)
        total, known = sum(merging[here]), sum(roots[here])
        shares = [math.ceil(count * (total / known)) if total else 0 for count in roots[here]]
        over = sum(shares) - total if exact else 0
        for frame in sorted(range(length), key=lambda at: -shares[at])[:over]:
            shares[frame] -= 1
        counts += shares
    return counts


@dataclass(frozen=True)
class Trees:
    """Cells merged along time.

    Args:
        root: (T * L,) long, the root of each cell's tree.
        grouped: (T * L,) bool, cells that are in trees at all.
        share: (T * L,) float64, what a cell has of the token that its tree becomes.
    """

    root: Tensor
    grouped: Tensor
    share: Tensor

    @classmethod
    def grown(cls, linked: Tensor, grouped: Tensor, true_mean: bool) -> Trees:
        """Trees from links.

        Args:
            linked: (T, L) long, frame * L + cell that each cell is linked to, itself where to none.
            grouped: (T * L,) bool.
            true_mean: whether a tree is divided by its cells, otherwise by its root and those linked to it directly.
        """
        parent = root = linked.flatten()
        for _ in range(len(linked).bit_length()):
            root = root[root]
        over = torch.bincount(root if true_mean else parent, minlength=len(parent))
        return cls(root, grouped, 1 / widened(over)[root])

    @property
    def roots(self) -> Tensor:
        """(T * L,) bool."""
        return self.grouped & (self.root == torch.arange(len(self.root), device=self.root.device))

    def clustered(
        self, grid: LanguageGrid, counts: Sequence[int], noise: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The tokens that clusters of roots become, their roots' trees and all.

        Args:
            grid: T frames of L cells.
            counts: clusters of every frame; the trees of a frame that has none are lost.
            noise: as in :meth:`FlashVID.build`.

        Returns:
            place (C,) long of every token; row, cell (E,) long and weight (E,), what it is made of, as released not
            summing to 1.
        """
        device = self.root.device
        frames, cells = grid.token.shape
        clusters = torch.tensor(counts, device=device)
        clustered_roots = self.roots & (clusters > 0).repeat_interleave(cells)
        member = clustered_roots.nonzero()[:, 0]
        at = torch.zeros_like(self.root).index_copy_(0, member, torch.arange(len(member), device=device))
        cell = (self.grouped & clustered_roots[self.root]).nonzero()[:, 0]
        owner = at[self.root[cell]]
        features = grid.features.reshape(frames * cells, -1)
        share = self.share[cell].to(features)
        points = torch.zeros(len(member), features.shape[1], dtype=features.dtype, device=device)
        points.index_add_(0, owner, features[cell] * share[:, None])
        sizes = tuple(clustered_roots.reshape(frames, cells).sum(1)[clusters > 0].tolist())
        numbers = [count for count in counts if count]
        groups = Groups(points, torch.arange(len(member), device=device), sizes)
        drawn = None if noise is None else noise / NOISE
        centre, cluster = clustered(groups, numbers, [min(count, NEIGHBOURS) for count in numbers], drawn)
        joined = torch.bincount(cluster, minlength=len(centre)).to(share)
        row = cluster[owner]
        return member[centre], row, cell, share / joined[row]
