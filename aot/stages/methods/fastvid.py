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
        counts = [budget - own for budget, own in zip(budgets, context, strict=True)]
        room = tuple(grid.token.shape[1] - count for count in counts)
        salient = self.salient(grid, counts)
        plain = true_places(salient, sum(counts))
        numbers, pools = anchor_counts(context, room, self.segments(grid), self.anchor_stride, exact)
        hosts = [frame for frame, number in enumerate(numbers) if number]
        if not hosts:
            return grid.selection(plain)
        rest = true_indices(~salient, max(room)) + grid.cell[:, :1]
        host, pooled = pooled_frames(hosts, numbers, pools, room, grid.features)
        drawn = None if noise is None else torch.cat([noise.split(room)[frame] for frame in hosts])
        anchors = best_cells(grid, rest[host], tuple(room[frame] for frame in hosts), max(numbers), drawn)
        row, cell = joined(grid, rest, anchors, pooled)
        anchor = unpad(anchors[:, :, None], tuple(numbers[frame] for frame in hosts))[:, 0]
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
class Pooled:
    """Frames that about as many hosts gather from; a host is a frame that has anchors.

    Args:
        most: the most anchors that one of the hosts has.
        frames: (F,) long, their numbers.
        hosts: (F, H) long, the hosts that gather from each frame, counted among all hosts; any in padding.
        numbers: (F, H) long, anchors of each of those hosts; 0 in padding.
        firsts: (F, H) long, the first of these, counted among all anchors.
        entries: (E,) long, which of (F, R, H) are of a cell that can join an anchor and of a host.
    """

    most: int
    frames: Tensor
    hosts: Tensor
    numbers: Tensor
    firsts: Tensor
    entries: Tensor

    def joined(self, cells: Tensor, rest: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """The anchor of every host that each cell joins: the one of highest cosine, of equal ones the first.

        Args:
            cells: (T * L, D) floating, the features of all cells.
            rest: (T, R) long, the cells of every frame that can join anchors, and any after them.
            directions: (H, A, D) floating, the anchors of every host at length 1, and any after them.

        Returns:
            row, cell (E,) long, an anchor and the cell that joins it; the cells of an anchor are in raster order.
        """
        rest = rest[self.frames]
        anchors = directions[self.hosts, : self.most]
        similarity = torch.bmm(cells[rest], anchors.flatten(1, 2).mT).reshape(*rest.shape, *anchors.shape[1:3])
        missing = torch.arange(self.most, device=rest.device) >= self.numbers[:, :, None]
        best = similarity.masked_fill_(missing[:, None], -torch.inf).argmax(3)
        row = (best + self.firsts[:, None]).flatten()[self.entries]
        return row, rest.flatten()[self.entries // best.shape[2]]


def pooled_frames(
    hosts: Sequence[int],
    numbers: Sequence[int],
    pools: Sequence[tuple[int, int]],
    room: Sequence[int],
    features: Tensor,
) -> tuple[Tensor, list[Pooled]]:
    """The frames that anchors gather from, in classes by their number of hosts; all is sent to the device at once.

    Args:
        hosts: the frames that have anchors.
        numbers: anchors of every frame.
        pools: first frame and number of frames that a frame's anchors gather from.
        room: cells of every frame that can join anchors.
        features: (T, L, D) floating, on the device where the result is wanted.

    Returns:
        (H,) long, the hosts; the frames.
    """
    number, spaces, width = np.array(numbers)[hosts], np.array(room), features.shape[2]
    first = number.cumsum() - number
    arrays, most = [np.array(hosts)], []
    for frames, gathering in _classes(hosts, pools, max(room) * width, max(numbers) * width):
        real = gathering >= 0
        in_room = np.arange(max(room)) < spaces[frames, None]
        entries = np.flatnonzero(in_room[:, :, None] & real[:, None])
        arrays += [frames, gathering * real, number[gathering] * real, first[gathering], entries]
        most.append(int(number[gathering].max()))
    host, *sent = uploaded(arrays, features.device)
    return host, [Pooled(each, *sent[5 * at : 5 * at + 5]) for at, each in enumerate(most)]


def _classes(
    hosts: Sequence[int], pools: Sequence[tuple[int, int]], of_frame: int, of_host: int
) -> Iterator[tuple[IntArray, IntArray]]:
    """Frames of pools in two classes that together pad least, those with most hosts first.

    Args:
        hosts: the frames that have anchors.
        pools: first frame and number of frames that a frame's anchors gather from.
        of_frame: entries that the cells of a frame take; of many frames at once at most :data:`BATCH`.
        of_host: entries that the anchors of a host take, for each frame that it gathers from.

    Yields:
        (F,) the frames, and (F, H) the hosts that gather from each, counted among all hosts; -1 in padding.
    """
    gathering: dict[int, list[int]] = {}
    for host, frame in enumerate(hosts):
        first, length = pools[frame]
        for each in range(first, first + length):
            gathering.setdefault(each, []).append(host)
    frames = sorted(gathering, key=lambda frame: -len(gathering[frame]))
    sizes = [len(gathering[frame]) for frame in frames]
    padded = [sizes[0] * at + size * (len(sizes) - at) for at, size in enumerate(sizes)]
    for begin, end in itertools.pairwise(sorted({0, padded.index(min(padded)), len(sizes)})):
        at_once = max(1, BATCH // max(of_frame, sizes[begin] * of_host))
        for at in range(begin, end, at_once):
            some = frames[at : min(at + at_once, end)]
            rows = [gathering[frame] + [-1] * (sizes[at] - len(gathering[frame])) for frame in some]
            yield np.array(some), np.array(rows)


def joined(grid: LanguageGrid, rest: Tensor, anchors: Tensor, pooled: Sequence[Pooled]) -> tuple[Tensor, Tensor]:
    """Which anchor of every host that gathers from its frame each cell joins: that of highest cosine.

    Args:
        grid: T frames of L cells.
        rest: (T, R) long, the cells of every frame that can join anchors, and any after them.
        anchors: (H, A) long, those of every host, and any after them.
        pooled: the frames that they gather from.

    Returns:
        row, cell (E,) long, an anchor, counted among all, and a cell that joins it.
    """
    cells = grid.features.flatten(0, 1)
    directions = unit(cells[anchors])
    rows, members = zip(*(each.joined(cells, rest, directions) for each in pooled), strict=True)
    return torch.cat(rows), torch.cat(members)
