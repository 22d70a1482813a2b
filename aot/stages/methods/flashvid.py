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
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.factors import Sparse, unpad
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..clips import dynamic_clips
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.dpc_knn import BATCH, NOISE, Groups, clustered
from ..toolkit.language_grid import LanguageGrid, Merge, unit
from ..toolkit.ranking import tally, top_k, true_places
from ..toolkit.uploads import uploaded

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
        advanced=True,
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
        advanced=True,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
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
        budgets, exact = self._budgets(tokens, part)
        chosen_counts = tuple(math.ceil(budget * self.alpha) for budget in budgets)
        merging = [budget - count for budget, count in zip(budgets, chosen_counts, strict=True)]
        segments = self.segments(grid)
        directions = unit(grid.features)
        order = self.chosen(grid, directions, segments, max(chosen_counts), once=exact)
        chosen = unpad((order + grid.cell[:, :1])[:, :, None], chosen_counts)[:, 0]
        free = torch.ones_like(grid.cell, dtype=torch.bool).flatten().index_fill_(0, chosen, False)
        free = free.reshape(grid.cell.shape)
        linked = self._linked(grid, directions, free, segments, budgets)
        grouped = (free | (segments.length == 1)[:, None]).flatten()
        trees = Trees.grown(linked, grouped, max(segments.lengths), self.true_mean)
        sizes = trees.sizes()
        counts = cluster_counts(sizes[0], merging, segments.lengths, exact)
        return grid.reduction(trees.clustered(grid, counts, sizes, noise).beside(chosen))

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

    def segments(self, grid: LanguageGrid) -> Segments:
        """The runs of frames that trees grow in."""
        lengths = dynamic_clips(grid.frame_means, self.segment_threshold, self.min_segments - 1)
        return Segments.of(lengths, grid.features.device)

    def chosen(self, grid: LanguageGrid, directions: Tensor, segments: Segments, count: int, once: bool) -> Tensor:
        """Cells of every frame that stay as they are: (T, count) long, in the order they are chosen in.

        Args:
            grid: T frames of L cells.
            directions: (T, L, D) floating, the features at length 1.
            segments: of the frames.
            count: cells of every frame.
            once: whether no cell may be chosen again; as released, attn_div_v2 allows it.
        """
        if self.selection == "attn":
            return top_k(grid.attention(Extra.LAST), count)
        attention = grid.attention(Extra.LAST) if "attn" in self.selection else None
        weight = torch.ones_like(directions[:, :, 0]) if attention is None else attention
        if self.selection == "attn_div_v2":
            means = segments.means(grid.frame_means)
            weight = weight * (grid.features @ means[:, :, None])[:, :, 0]
        frames_at_once = max(1, BATCH // weight.shape[1] ** 2)
        parts = zip(directions.split(frames_at_once), weight.split(frames_at_once), strict=True)
        once = once or self.selection != "attn_div_v2"
        return torch.cat([spread_out(x, importance, count, once) for x, importance in parts])

    def _linked(
        self, grid: LanguageGrid, directions: Tensor, free: Tensor, segments: Segments, budgets: Sequence[int]
    ) -> Tensor:
        """(T, L) long, the cell of the frame before that each is linked to; itself where it is to none."""
        best, nearest = most_similar(directions, free, segments)
        bar = thresholds(best, segments, budgets, self.temporal_threshold)
        return torch.where(best > bar[:, None], nearest + grid.cell[:, :1] - best.shape[1], grid.cell)


@dataclass(frozen=True)
class Segments:
    """Runs of frames.

    Args:
        lengths: frames of each.
        number: (T,) long, which one each frame is in.
        length: (T,) long, how many frames are in that.
    """

    lengths: tuple[int, ...]
    number: Tensor
    length: Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Segments:
        """Segments by their lengths, in order.

        Args:
            lengths: frames of each.
            device: where the tensors are wanted.
        """
        number = np.arange(len(lengths)).repeat(lengths)
        return cls(lengths, *uploaded([number, np.array(lengths)[number]], device))

    def means(self, vectors: Tensor) -> Tensor:
        """(T, D) floating vectors of frames to (T, D): of each the mean of its segment."""
        together = self.number[:, None] == self.number
        return together.to(vectors) @ vectors / self.length[:, None]


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
    one = torch.ones_like(weight[:1, :1, None])
    distance = torch.baddbmm(one, directions, directions.mT, alpha=-1).mul_(weight[:, None])
    nearest = distance.topk(min(2, distance.shape[1]), dim=1, largest=False).values[:, -1]
    if once:
        distance.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    picks = [torch.zeros_like(weight[:, :0], dtype=torch.long)]
    for step in range(count):
        pick = nearest.argmax(1, keepdim=True)
        reach = distance.gather(1, pick[:, :, None].expand_as(distance[:, :1]))[:, 0]
        nearest = nearest.minimum(reach) if step else reach
        picks.append(pick)
    return torch.cat(picks, 1)


def most_similar(directions: Tensor, free: Tensor, segments: Segments) -> tuple[Tensor, Tensor]:
    """The free cell of the frame before that is most similar to each free cell, within a segment.

    Args:
        directions: (T, L, D) floating, of length 1.
        free: (T, L) bool.
        segments: of the frames.

    Returns:
        best (T, L), the cosine, -1 where there is none to compare with; its cell (T, L) long, any where there is none.
    """
    best, cell = torch.full_like(directions[:, :, 0], -1), torch.zeros_like(free, dtype=torch.long)
    taken = ~free
    at_once = max(1, BATCH // best.shape[1] ** 2)
    runs = (x.split(at_once) for x in (directions[1:], directions[:-1], taken[:-1], best[1:], cell[1:]))
    for here, before, not_free, highest, at in zip(*runs, strict=True):
        torch.max(torch.bmm(here, before.mT).masked_fill_(not_free[:, None], -1), 2, out=(highest, at))
    begins = segments.number[1:] != segments.number[:-1]
    best[1:].masked_fill_(taken[1:] | begins[:, None], -1)
    return best, cell


def thresholds(best: Tensor, segments: Segments, keep: Sequence[int], threshold: float) -> Tensor:
    """(T,) the cosine that links have to be above: ``threshold``, or more where a segment would keep too little.

    Args:
        best: (T, L) floating, the cosine of every cell with the one it could be linked to.
        segments: of the frames.
        keep: (T,) of a segment as many cells must stay unlinked as its frames' numbers add up to.
        threshold: the cosine that links have to be above.
    """
    cells = best.shape[1]
    size = np.array(segments.lengths) * cells
    first = size.cumsum() - size
    links = size - np.add.reduceat(keep, first // cells)
    (limits,) = uploaded([first + np.stack((links, np.maximum(links - 1, 0)))], best.device)
    cosines, falling = best.flatten().sort(descending=True, stable=True)
    by_segment = segments.number[falling // cells].sort(stable=True).indices
    following, last = cosines[by_segment[limits]]
    return last.masked_fill(following <= threshold, threshold)[segments.number]


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
        frames: T.
        true_mean: whether the shares of a tree add up to 1.
    """

    root: Tensor
    grouped: Tensor
    share: Tensor
    frames: int
    true_mean: bool

    @classmethod
    def grown(cls, linked: Tensor, grouped: Tensor, longest: int, true_mean: bool) -> Trees:
        """Trees from links.

        Args:
            linked: (T, L) long, frame * L + cell that each cell is linked to, itself where to none.
            grouped: (T * L,) bool.
            longest: frames that the longest chain of links can lead through.
            true_mean: whether a tree is divided by its cells, otherwise by its root and those linked to it directly.
        """
        parent = root = linked.flatten()
        for _ in range((longest - 1).bit_length()):
            root = root[root]
        over = tally(root if true_mean else parent, len(parent))
        return cls(root, grouped, widened(over)[root].reciprocal(), len(linked), true_mean)

    @cached_property
    def frame(self) -> Tensor:
        """(T * L,) long, the frame of each cell's root."""
        return self.root // (len(self.root) // self.frames)

    @cached_property
    def roots(self) -> Tensor:
        """(T * L,) bool."""
        return self.grouped & (self.root == torch.arange(len(self.root), device=self.root.device))

    def sizes(self) -> tuple[list[int], list[int]]:
        """Roots of every frame, and cells of their trees, for which the host waits."""
        both = torch.stack((self.roots, self.grouped)).long()
        roots, cells = both.new_zeros(2, self.frames).index_add_(1, self.frame, both).tolist()
        return roots, cells

    def clustered(
        self,
        grid: LanguageGrid,
        counts: Sequence[int],
        sizes: tuple[Sequence[int], Sequence[int]],
        noise: Tensor | None,
    ) -> Merge:
        """The tokens that clusters of roots become, their roots' trees and all.

        Args:
            grid: T frames of L cells.
            counts: clusters of every frame; the trees of a frame that has none are lost.
            sizes: as :meth:`sizes` says.
            noise: as in :meth:`FlashVID.build`.
        """
        here = [frame for frame, count in enumerate(counts) if count]
        numbers = [counts[frame] for frame in here]
        roots, members = (tuple(each[frame] for frame in here) for each in sizes)
        (clusters,) = uploaded([np.array(counts)], self.root.device)
        clustered_trees = self.grouped & (clusters[self.frame] > 0)
        member = true_places(clustered_trees & self.roots, sum(roots))
        cell = true_places(clustered_trees, sum(members))
        owner = torch.searchsorted(member, self.root[cell])
        features = grid.features.flatten(0, 1)
        share = self.share[cell].to(features)
        points = Sparse.sums(owner, len(member), features).apply(features[cell] * share[:, None])
        groups = Groups(points, grid.cell.flatten()[: len(member)], roots)
        drawn = None if noise is None else noise / NOISE
        centre, cluster = clustered(groups, numbers, [min(count, NEIGHBOURS) for count in numbers], drawn)
        row = cluster[owner]
        total = Sparse.sums(row, len(centre), share).apply(share[:, None]).squeeze(1)
        scale = None if self.true_mean else total / tally(cluster, len(centre))
        return Merge(member[centre], row, cell, share / total[row], scale)
