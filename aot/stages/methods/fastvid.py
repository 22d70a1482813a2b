"""FastVID: salient cells of every frame, and density peaks of some frames that gather what their segment leaves.

The video is cut into segments where frames differ. In every frame the cells that receive most attention stay as they
are. Of the others, those of highest density-peaks score are anchors, in every fourth frame of a segment, the last
one first; what its frames have left over joins the anchor it resembles most, of every such frame once.

Source: FastVID (NeurIPS 2025), the LLaVA-OneVision variant as released by its authors.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...tokens.factors import pad, unpad
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import fill_levels
from ..clips import dynamic_clips
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.dpc_knn import BATCH, Groups, density_scores
from ..toolkit.language_grid import LanguageGrid, Merge, unit
from ..toolkit.ranking import tally, top_k, top_k_mask, true_indices, true_places
from ..toolkit.uploads import IntArray, uploaded

NEIGHBOURS = 4
"""Nearest cells that a cell's density is taken over, itself among them."""

Run = tuple[int, int, list[int]]
"""First frame and number of frames that are gathered from together, and the hosts that do: frames with anchors."""


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
        8,
        "Segments there are at least, cut where frames are least alike.",
        low=1,
        high=100_000,
        advanced=True,
    ).field()
    similarity: float = Setting(
        0.9,
        "A segment also begins at every frame whose frame vector has a lower cosine than this with the one before.",
        low=-1,
        high=1,
        step=0.01,
        advanced=True,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
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
        counts = [budget - own for budget, own in zip(budgets, context, strict=True)]
        room = tuple(grid.token.shape[1] - count for count in counts)
        salient = self.salient(grid, counts)
        plain = true_places(salient, sum(counts))
        numbers, pools = anchor_counts(context, room, self.segments(grid), self.anchor_stride, exact)
        hosts = [frame for frame, number in enumerate(numbers) if number]
        if not hosts:
            return grid.selection(plain)
        rest = true_indices(~salient, max(room)) + grid.cell[:, :1]
        host, gathered = gathered_pools(hosts, numbers, pools, room, grid.features)
        drawn = None if noise is None else torch.cat([noise.split(room)[frame] for frame in hosts])
        anchors = best_cells(grid, rest[host], tuple(room[frame] for frame in hosts), max(numbers), drawn)
        anchor = unpad(anchors[:, :, None], tuple(numbers[frame] for frame in hosts))[:, 0]
        row, cell = joined(grid, rest, anchor, gathered)
        return grid.reduction(self._merge(anchor, row, cell, grid.features.dtype).beside(plain))

    def _merge(self, anchor: Tensor, row: Tensor, cell: Tensor, dtype: torch.dtype) -> Merge:
        """What anchors become: each itself, and the mean of the cells that join it, weighted."""
        members = tally(row, len(anchor))
        others = torch.zeros_like(anchor).index_add_(0, row, (cell != anchor[row]).long())
        own = (members + 1).to(dtype).reciprocal().clamp(min=self.anchor_weight).masked_fill(others == 0, 1)
        every = torch.arange(len(anchor), device=row.device)
        weight = torch.cat((((1 - own) / members)[row], own))
        return Merge(anchor, torch.cat((row, every)), torch.cat((cell, anchor)), weight)

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


def best_cells(grid: LanguageGrid, offered: Tensor, room: tuple[int, ...], count: int, noise: Tensor | None) -> Tensor:
    """The cells of every host of highest density-peaks score.

    Args:
        grid: T frames of L cells.
        offered: (H, R) long, the cells of every host to choose from, in raster order, and any after them.
        room: how many of them there are to choose from.
        count: A, cells of every host.
        noise: (sum of room,) uniform in [0, 1), as in :meth:`FastVID.build`.

    Returns:
        (H, A) long, highest score first.
    """
    groups = Groups(grid.features.flatten(0, 1), unpad(offered[:, :, None], room)[:, 0], room)
    scores = density_scores(groups, NEIGHBOURS, noise)
    return offered.gather(1, top_k(pad(scores[:, None], room, offered.shape[1])[:, :, 0], count))


@dataclass(frozen=True)
class Pools:
    """Runs of at most N frames that at most H hosts gather from; a host is a frame that has anchors.

    Args:
        frames: (P, N) long, the frames of every run, its last one again in padding.
        anchors: (P, K) long, the anchors of its hosts, counted among all, the last one again in padding.
        columns: (P, H, A) long, which of these are a host's, its first one again in padding.
        firsts: (P, H) long, the first anchor of every host, counted among all; any in padding.
        entries: (E,) long, which of (P, N, R, H) are no padding.
    """

    frames: Tensor
    anchors: Tensor
    columns: Tensor
    firsts: Tensor
    entries: Tensor

    def joined(self, cells: Tensor, rest: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The anchor of every host that each cell joins: the one of highest cosine, of equal ones the first.

        Args:
            cells: (T * L, D) floating, the features of all cells.
            rest: (T, R) long, the cells of every frame that can join anchors, and any after them.
            directions: (K, D) floating, all anchors at length 1.

        Returns:
            row, cell (E,) long, an anchor and the cell that joins it; the cells of an anchor are in raster order.
        """
        rest = rest[self.frames].flatten(1)
        similarity = torch.bmm(cells[rest], directions[self.anchors].mT)
        columns = self.columns.flatten(1)[:, None].expand(-1, rest.shape[1], -1)
        best = similarity.gather(2, columns).unflatten(2, self.columns.shape[1:]).argmax(3)
        row = (best + self.firsts[:, None]).flatten()[self.entries]
        return row, rest.flatten()[self.entries // best.shape[2]]


def gathered_pools(
    hosts: Sequence[int],
    numbers: Sequence[int],
    pools: Sequence[tuple[int, int]],
    room: Sequence[int],
    features: Tensor,
) -> tuple[Tensor, list[Pools]]:
    """The frames that anchors gather from, in few batches; all is sent to the device at once.

    Args:
        hosts: the frames that have anchors.
        numbers: anchors of every frame.
        pools: first frame and number of frames that a frame's anchors gather from.
        room: cells of every frame that can join anchors.
        features: (T, L, D) floating, on the device where the result is wanted.

    Returns:
        (H,) long, the hosts; the pools.
    """
    of_pool: dict[tuple[int, int], list[int]] = {}
    for host, frame in enumerate(hosts):
        of_pool.setdefault(pools[frame], []).append(host)
    columns = max(map(len, of_pool.values())) * max(numbers)
    at_most = max(1, BATCH // (max(room) * max(columns, features.shape[2])))
    arrays = [np.array(hosts)]
    for runs in _alike(of_pool, at_most):
        arrays += _arrays(runs, np.array(numbers)[hosts], np.array(room))
    host, *sent = uploaded(arrays, features.device)
    return host, [Pools(*sent[at : at + 5]) for at in range(0, len(sent), 5)]


def _arrays(runs: Sequence[Run], numbers: IntArray, room: IntArray) -> tuple[IntArray, ...]:
    """The fields of :class:`Pools`.

    Args:
        runs: of about the same length.
        numbers: anchors of all hosts.
        room: cells of every frame that can join anchors.
    """
    first, length = (np.array(each)[:, None] for each in zip(*(run[:2] for run in runs), strict=True))
    hosts = np.array(list(itertools.zip_longest(*(run[2] for run in runs), fillvalue=-1))).T
    real, within = hosts >= 0, np.arange(length.max())
    frames = first + np.minimum(within, length - 1)
    joining = (np.arange(room.max()) < room[frames][:, :, None]) & (within < length)[:, :, None]
    entries = np.flatnonzero(joining[:, :, :, None] & real[:, None, None])
    firsts, counts = (numbers.cumsum() - numbers)[hosts], numbers[hosts] * real
    total, own = counts.sum(1, keepdims=True), np.arange(counts.max())
    anchors = firsts[:, :1] + np.minimum(np.arange(total.max()), total - 1)
    columns = ((firsts - firsts[:, :1]) * real)[:, :, None] + own * (own < counts[:, :, None])
    return frames, anchors, columns, firsts, entries


def _alike(pools: Mapping[tuple[int, int], list[int]], at_most: int) -> Iterator[list[Run]]:
    """Batches of runs of frames, none more than twice as long as another.

    Args:
        pools: the hosts that gather from a pool, by its first frame and its number of frames.
        at_most: frames of a batch; longer pools are cut.

    Yields:
        Runs, the longest first.
    """
    runs = [
        (at, min(at_most, first + length - at), hosts)
        for (first, length), hosts in pools.items()
        for at in range(first, first + length, at_most)
    ]
    runs.sort(key=lambda run: -run[1])
    for _, alike in itertools.groupby(runs, key=lambda run: run[1].bit_length()):
        batch = list(alike)
        at_once = max(1, at_most // batch[0][1])
        yield from (batch[at : at + at_once] for at in range(0, len(batch), at_once))


def joined(grid: LanguageGrid, rest: Tensor, anchor: Tensor, pools: Sequence[Pools]) -> tuple[Tensor, Tensor]:
    """Which anchor of every host that gathers from its frame each cell joins: that of highest cosine.

    Args:
        grid: T frames of L cells.
        rest: (T, R) long, the cells of every frame that can join anchors, and any after them.
        anchor: (K,) long, the anchors of all hosts.
        pools: the frames that they gather from.

    Returns:
        row, cell (E,) long, an anchor, counted among all, and the cell that joins it.
    """
    cells = grid.features.flatten(0, 1)
    directions = unit(cells[anchor])
    rows, members = zip(*(each.joined(cells, rest, directions) for each in pools), strict=True)
    return torch.cat(rows), torch.cat(members)
