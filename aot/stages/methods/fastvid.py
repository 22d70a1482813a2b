"""FastVID: salient cells of every frame, and density peaks of some frames that gather what their segment leaves.

The video is cut into segments where frames differ. In every frame the cells that receive most attention stay as they
are. Of the others, those of highest density-peaks score are anchors, in every fourth frame of a segment, the last
one first; what its frames have left over joins the anchor it resembles most, of every such frame once.

Source: FastVID (NeurIPS 2025), the LLaVA-OneVision variant as released by its authors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...errors import InputError
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import fill_levels
from ..clips import dynamic_clips
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.dpc_knn import Groups, density_scores
from ..toolkit.language_grid import LanguageGrid, Merge, unit
from ..toolkit.ranking import top_k, top_k_mask

NEIGHBOURS = 4
"""Nearest cells that a cell's density is taken over, itself among them."""


@dataclass(frozen=True)
class FastVID(Budgeted):
    """Keep the cells of each frame that receive most attention; merge each segment's others into density peaks."""

    name = "fastvid"
    title = "FastVID"
    node_id = "AOTFastVID"
    fixes_budget = ("retention_ratio",)
    source = "FastVID, NeurIPS 2025, LLaVA-OneVision variant"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {f"fastvid-{percent}": f"fastvid:retention_ratio={percent / 100:g}" for percent in (10, 15, 20, 25)}
    )

    retention_ratio: float = Setting(
        0.1,
        "The authors' retention r; a frame's share is N r, rounded down, so that a little less is kept. Not used where "
        "a retention is given.",
        low=0.001,
        high=1,
        step=0.01,
    ).field()
    context_share: float = Setting(
        0.4,
        "Share of a frame's tokens that is spent on anchors, rounded down; the others are its most attended cells.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    min_segments: int = Setting(
        8, "Segments there are at least, cut where frames are least alike.", low=1, high=100_000
    ).field()
    similarity: float = Setting(
        0.9,
        "A segment also begins at every frame whose frame vector has a lower cosine than this with the one before.",
        low=-1,
        high=1,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    anchor_stride: int = Setting(
        4,
        "Frames from one with anchors to the next in a segment; its last has some.",
        low=1,
        high=100_000,
        advanced=True,
    ).field()
    anchor_weight: float = Setting(
        0.6,
        "Weight of an anchor itself in what it becomes, beside the mean of those that join it, at least.",
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ).field()

    def build(self, tokens: VideoTokens, part: Part, noise: Tensor | None = None) -> Reduction:
        """Rows in order of place.

        Args:
            tokens: on the language grid.
            part: which frames of the video these are.
            noise: (R,) uniform in [0, 1) for the R cells that are not salient, frame after frame; a millionth of it is
                added to their densities. None adds nothing, and equally dense cells then rank in raster order.
        """
        grid = LanguageGrid.of(self.title, tokens)
        budgets, exact = self._budgets(tokens, part)
        context = [int(budget * self.context_share) for budget in budgets]
        salient = self.salient(grid, [budget - own for budget, own in zip(budgets, context, strict=True)])
        room = (~salient).sum(1).tolist()
        lengths = self.segments(grid)
        numbers, pools = anchor_counts(context, room, lengths, self.anchor_stride, exact)
        ranked = self._ranked(grid, salient, numbers, noise)
        anchor, row, cell = joined(grid, ~salient, ranked, numbers, pools)
        plain = salient.flatten().nonzero()[:, 0]
        return grid.reduction(self._merge(anchor, row, cell, grid.features.dtype).beside(plain))

    def _merge(self, anchor: Tensor, row: Tensor, cell: Tensor, dtype: torch.dtype) -> Merge:
        """What anchors become, each with the cells that join it: itself and the mean of those, weighted."""
        members = torch.bincount(row, minlength=len(anchor))
        own = (1 / (members + 1).to(dtype)).clamp(min=self.anchor_weight).masked_fill(members == 0, 1)
        itself = cell == anchor[row]
        weight = ((1 - own) / members)[row] + torch.where(itself, own[row], 0)
        apart = torch.ones_like(anchor, dtype=torch.bool).index_fill(0, row[itself], False).nonzero()[:, 0]
        return Merge(anchor, torch.cat((row, apart)), torch.cat((cell, anchor[apart])), torch.cat((weight, own[apart])))

    def _budgets(self, tokens: VideoTokens, part: Part) -> tuple[tuple[int, ...], bool]:
        """Tokens of every frame, and whether their sum is to be met to the token."""
        layout = tokens.layout
        counts = self.counts(layout, part)
        if counts:
            return counts, True
        budget = int(layout.language_cells * self.retention_ratio)
        if not budget:
            raise InputError(
                f"{self.title}: retention_ratio {self.retention_ratio:g} leaves nothing of a frame of "
                f"{layout.language_cells}; give {math.ceil(1e4 / layout.language_cells) / 1e4:g} or more."
            )
        return (budget,) * layout.frames, False

    def segments(self, grid: LanguageGrid) -> tuple[int, ...]:
        """Lengths of the runs of frames that anchors gather from."""
        return dynamic_clips(grid.frame_vectors(Extra.GLOBAL), self.similarity, self.min_segments - 1)

    def salient(self, grid: LanguageGrid, counts: Sequence[int]) -> Tensor:
        """(T, L) bool: the ``counts[t]`` cells of every frame that stay as they are."""
        return top_k_mask(grid.attention(Extra.HEAD, Extra.LAST), counts)

    def _ranked(self, grid: LanguageGrid, salient: Tensor, numbers: Sequence[int], noise: Tensor | None) -> Tensor:
        """(T, A) long, the cells of every frame that has anchors by density-peaks score, the best first."""
        frames, cells = salient.shape
        hosting = torch.tensor(numbers, device=salient.device) > 0
        offered = ~salient & hosting[:, None]
        member = offered.flatten().nonzero()[:, 0]
        groups = Groups(grid.features.reshape(frames * cells, -1), member, tuple(offered.sum(1)[hosting].tolist()))
        drawn = None if noise is None else noise[hosting.to(noise.device)[(~salient).nonzero()[:, 0]]]
        scores = torch.full((frames * cells,), -1.0, device=salient.device)
        scores[member] = density_scores(groups, NEIGHBOURS, drawn)
        return top_k(scores.reshape(frames, cells), max(numbers))


def anchor_counts(
    context: Sequence[int], room: Sequence[int], lengths: tuple[int, ...], stride: int, exact: bool
) -> tuple[list[int], list[tuple[int, int]]]:
    """Anchors of every frame, and the frames that they gather from.

    Args:
        context: anchors that every frame has to give.
        room: cells that every frame has for anchors.
        lengths: frames of each segment.
        stride: frames from one that holds anchors to the next; the last frame of a segment holds some.
        exact: whether what does not divide by those frames goes to some of them; otherwise it is lost.

    Returns:
        numbers, of every frame; pools, first frame and number of frames that a frame's anchors gather from.
    """
    numbers, pools = list(context), [(frame, 1) for frame in range(len(context))]
    first = 0
    for length in lengths:
        here = range(first, first + length)
        first += length
        hosts = [frame for frame in here if (here[-1] - frame) % stride == 0]
        if len(hosts) == length:
            continue
        total = sum(context[frame] for frame in here)
        if not exact:
            total -= total % len(hosts)
        for frame in here:
            numbers[frame] = 0
        others = [frame for frame in here if frame not in hosts]
        for group in (hosts, others):
            space = [room[frame] for frame in group]
            shares = fill_levels(space, min(total, sum(space)))
            for frame, share in zip(group, shares, strict=True):
                numbers[frame] = share
            total -= sum(shares)
        if exact or numbers[hosts[0]] > context[hosts[0]]:
            for frame in here:
                pools[frame] = here[0], length
    return numbers, pools


def joined(
    grid: LanguageGrid, rest: Tensor, ranked: Tensor, numbers: Sequence[int], pools: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Which anchor of every frame that has some each cell of its pool joins: the one of highest cosine.

    Args:
        grid: T frames of L cells.
        rest: (T, L) bool, the cells that are in pools.
        ranked: (T, A) long, anchors of every frame; of equal cosines the first is joined.
        numbers: anchors of every frame.
        pools: first frame and number of frames that a frame's anchors gather from.

    Returns:
        anchor (K,) long, frame * L + cell; row, cell (E,) long, the anchor that a cell joins and the cell.
    """
    cells = rest.shape[1]
    directions = unit(grid.features)
    anchors, rows, members, known = [], [], [], 0
    for frame, (number, (first, length)) in enumerate(zip(numbers, pools, strict=True)):
        if not number:
            continue
        here = ranked[frame, :number]
        pool = slice(first, first + length)
        similarity = directions[pool].flatten(0, 1) @ directions[frame, here].T
        inside = rest[pool].flatten().nonzero()[:, 0]
        anchors.append(here + frame * cells)
        rows.append(similarity.argmax(1)[inside] + known)
        members.append(inside + first * cells)
        known += number
    none = ranked.new_zeros(0)
    return torch.cat((none, *anchors)), torch.cat((none, *rows)), torch.cat((none, *members))
