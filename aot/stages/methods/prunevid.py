"""PruneVid before the LLM: the video is cut into segments, and places that stay alike over one are merged over it.

Then tokens that are alike are merged in space: a segment's merged places together, the others frame by frame. No
token is dropped, and nothing says which matter: neither attention nor the question.

Source: PruneVid (ACL 2025), its first stage, as its release runs it on PLLaVA's frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ...tokens.factors import Sparse
from ...tokens.video_tokens import VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.budget_search import counts_of_total, lowest_threshold
from ..toolkit.dpc_knn import Groups, clustered
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.uploads import BoolArray, IntArray, uploaded

NEIGHBOURS = 7
"""Nearest neighbours that a density is taken over."""

SMALL = 14
"""Groups of at most this many tokens are left as they are."""

SHORTEST = 1e-12
"""Shorter tokens count as this long where they are compared."""


@dataclass(frozen=True)
class PruneVid(Budgeted):
    """Merge the places that stay alike over a segment of time, then tokens of a frame that are alike; drop none."""

    name = "prunevid"
    title = "PruneVid"
    node_id = "AOTPruneVid"
    fixes_budget = ("cluster_ratio",)
    source = "PruneVid, ACL 2025, before the LLM"
    no_frame_budgets = "It merges what stays alike over several frames, so that its tokens are of no frame alone."

    similarity: float = Setting(
        0.8,
        "A place is static over a segment where the mean cosine between its tokens in all pairs of frames is above "
        "this.",
        low=-1,
        high=1,
        step=0.01,
    ).field()
    segment_ratio: float = Setting(
        0.25,
        "Clusters of frames that segments are made from, as a share of the frames, rounded down.",
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ).field()
    cluster_ratio: float = Setting(
        0.5,
        "Clusters of a group of more than 14 tokens, as a share of it, rounded down. Not used where a retention is "
        "given.",
        low=0.067,
        high=1,
        step=0.05,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Of every segment its static clusters, then those of its frames; clusters with the best centre first."""
        return self.reduction(tokens)

    def reduction(self, tokens: VideoTokens, noise: Tensor | None = None) -> Reduction:
        """What :meth:`build` gives, with noise on the densities of clustering.

        Args:
            tokens: on the language grid.
            noise: uniform in [0, 1): T for the frames, then one for each token of each group that is clustered; None
                for none.
        """
        grid = LanguageGrid.of(self.title, tokens)
        features, frames = grid.features, len(grid.token)
        lengths = self.segments(features.mean(1), None if noise is None else noise[:frames])
        units = Units.of(self.static_places(grid, lengths), lengths)
        counts, small = self.counts_and_small(grid, units.sizes)
        drawn = None if noise is None else noise[frames:]
        place, row = units.clustered(features, counts, units.sizes > small, drawn)
        return grid.means(place, row, torch.arange(len(row), device=row.device), NewlineRule.KEPT_ROWS)

    def segments(self, vectors: Tensor, noise: Tensor | None = None) -> tuple[int, ...]:
        """Lengths of the segments that frames with similar vectors make.

        Args:
            vectors: (T, D) floating, one a frame.
            noise: (T,) uniform in [0, 1), on the densities; None for none.
        """
        clusters = max(1, int(len(vectors) * self.segment_ratio))
        _, label = clustered(Groups.even(vectors[None]), (clusters,), NEIGHBOURS, noise)
        return tuple(len(list(run)) for _, run in groupby(contiguous(label.tolist())))

    def static_places(self, grid: LanguageGrid, lengths: tuple[int, ...]) -> BoolArray:
        """(S, L) bool, the static places of each segment; fewer where a budget leaves more than merging them would.

        Raises:
            InputError: the budget is above what there is.
        """
        similarity = similarity_over(grid.features, lengths).cpu().numpy()
        budget = self._budget(grid, 1)
        if budget is None:
            return similarity > self.similarity
        repeats = np.array(lengths) - 1

        def left(above: float) -> int:
            return grid.token.numel() - int(((similarity > above).sum(1) * repeats).sum())

        return similarity > lowest_threshold(similarity, self.similarity, left, budget)

    def counts_and_small(self, grid: LanguageGrid, sizes: IntArray) -> tuple[IntArray, int]:
        """(G,) int64, the tokens that groups of these sizes become, and the size up to which groups are left whole.

        Raises:
            InputError: a budget is under a token a group.
        """
        budget = self._budget(grid, int((sizes > 0).sum()))
        if budget is None:
            return counts_at(sizes, SMALL, self.cluster_ratio), SMALL
        small = SMALL if int(counts_at(sizes, SMALL, 0).sum()) <= budget else 0
        return counts_of_total(partial(counts_at, sizes, small), budget), small

    def _budget(self, grid: LanguageGrid, least: int) -> int | None:
        if not self.has_budget:
            return None
        return self.budget_of(grid.tokens.layout, least, grid.token.numel())


@dataclass(frozen=True)
class Units:
    """What is clustered in space: a segment's static places, merged over time, and its frames' other cells.

    Of T frames of L cells, a segment's static places are in its first frame and make one group, every frame's others
    another; groups and units are in the order of the kept tokens.

    Args:
        cell: (U,) int64, frame * L + cell at which each unit is.
        group: (U,) int64, 2 * frame for static units, one more for others.
        sizes: (2 T,) int64, units of each group.
        cells: (U,) int64, how many cells are in each unit.
        of_cell: (T * L,) int64, the unit that each cell is in.
    """

    cell: IntArray
    group: IntArray
    sizes: IntArray
    cells: IntArray
    of_cell: IntArray

    @classmethod
    def of(cls, static: BoolArray, lengths: tuple[int, ...]) -> Units:
        """The units of segments with these static places and lengths."""
        length = np.array(lengths)
        segment = np.arange(len(length)).repeat(length)
        first, still = (length.cumsum() - length)[segment], static[segment]
        leads = first == np.arange(len(first))
        occupied = np.stack((still & leads[:, None], ~still), 1)
        frame, kind, place = occupied.nonzero()
        number = (occupied.cumsum() - 1).reshape(occupied.shape)
        return cls(
            cell=frame * still.shape[1] + place,
            group=2 * frame + kind,
            sizes=occupied.sum(2).ravel(),
            cells=np.where(kind == 0, length[segment[frame]], 1),
            of_cell=np.where(still, number[first, 0], number[:, 1]).ravel(),
        )

    def clustered(
        self, features: Tensor, counts: IntArray, large: BoolArray, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The tokens that the units become.

        Args:
            features: (T, L, D) floating.
            counts: (2 T,) int64, tokens that each group becomes.
            large: (2 T,) bool, the groups that are clustered; the others' units are tokens.
            noise: (P,) uniform in [0, 1), on the densities of the units that are clustered; None for none.

        Returns:
            place (K,) long, the cell at which each token is; row (T * L,) long, the token that each cell goes to.
        """
        members, clusters = int(self.sizes[large].sum()), int(counts[large].sum())
        clustered_first = [np.argsort(~each, kind="stable") for each in (large[self.group], large.repeat(counts))]
        unit, row, cell, of_cell = uploaded([*clustered_first, self.cell, self.of_cell], features.device)
        groups = Groups(self.points(features, of_cell), unit[:members], tuple(self.sizes[large].tolist()))
        centre, owner = clustered(groups, counts[large].tolist(), NEIGHBOURS, noise)
        head = torch.empty_like(row).index_copy_(0, row, torch.cat((unit[centre], unit[members:])))
        row_of_unit = torch.empty_like(unit).index_copy_(0, unit, torch.cat((row[owner], row[clusters:])))
        return cell[head], row_of_unit[of_cell]

    def points(self, features: Tensor, of_cell: Tensor) -> Tensor:
        """(T, L, D) to (U, D): the mean of each unit's cells; ``of_cell`` where the features are."""
        tokens = features.flatten(0, 1)
        if len(self.cell) == len(tokens):
            return tokens
        every = torch.arange(len(tokens), device=tokens.device)
        sums = Sparse(of_cell, every, tokens.new_ones(len(tokens)), len(self.cell), len(tokens), copies=False)
        (cells,) = uploaded([self.cells], tokens.device)
        return sums.apply(tokens).div_(cells[:, None])


def similarity_over(features: Tensor, lengths: Sequence[int]) -> Tensor:
    """(T, L, D) to (S, L): the mean cosine of a place's tokens over all pairs of a segment's frames.

    All products less one a frame, so that a token of zeros counts against its place; minus infinity where a segment
    has one frame.

    Args:
        features: (T, L, D) floating.
        lengths: frames of each segment, T together.
    """
    directions = features / torch.linalg.vector_norm(features, dim=2, keepdim=True).clamp(min=SHORTEST)
    (frames, cells, _), device = features.shape, features.device
    segment, length = uploaded([np.arange(len(lengths)).repeat(lengths)[:, None], np.array(lengths)[:, None]], device)
    place = torch.arange(frames * cells, device=device).reshape(frames, cells)
    row = (segment * cells + place % cells).flatten()
    ones = directions.new_ones(len(row))
    by_segment = Sparse(row, place.flatten(), ones, len(lengths) * cells, len(row), copies=False)
    sums = by_segment.apply(directions.flatten(0, 1)).reshape(len(lengths), cells, -1)
    similarity = (sums.square().sum(2) - length) / (length * (length - 1)).clamp(min=1)
    return similarity.masked_fill(length == 1, -torch.inf)


def contiguous(labels: Sequence[int]) -> list[int]:
    """Labels of frames brought into stretches: every frame outside its label's longest ones goes to a neighbour.

    A stretch that is shorter than its label's longest, or one frame long, is left without a label. From left to right
    those stretches, as long as they are, then take the label of the longer neighbour, of equal ones the left; the left
    one counts what it has taken. Where no label is left, all frames get one.
    """
    runs = [(label, len(list(run))) for label, run in groupby(labels)]
    longest = {label: max(length for other, length in runs if other == label) for label, _ in runs}
    sure = [label if length == longest[label] > 1 else None for label, length in runs for _ in range(length)]
    pieces = [(label, len(list(run))) for label, run in groupby(sure)]
    if all(label is None for label, _ in pieces):
        return [0] * len(labels)
    done: list[list[int]] = []
    for at, (label, length) in enumerate(pieces):
        if label is None:
            after, right = pieces[at + 1] if at + 1 < len(pieces) else (None, 0)
            label = after if not done or right > done[-1][1] else done[-1][0]
            assert label is not None  # pieces without one never touch, and not all are without
        if done and done[-1][0] == label:
            done[-1][1] += length
        else:
            done.append([label, length])
    return [label for label, length in done for _ in range(length)]


def counts_at(sizes: IntArray, small: int, ratio: float) -> IntArray:
    """(G,) int64: groups of at most ``small`` whole, of others their ratio rounded down, but one token at least."""
    return np.where(sizes <= small, sizes, np.floor(sizes * ratio).astype(np.int64).clip(min=1))
