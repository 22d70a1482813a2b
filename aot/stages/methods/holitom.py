"""HoliTom before the LLM: places that stay alike over windows of time are merged, the others chosen by attention.

The video is cut into windows so that as many tokens as possible repeat the one before them; such still places are
averaged over their window and clustered. Of the rest, every frame keeps those that receive most attention.

Source: HoliTom (NeurIPS 2025), without merging inside the LLM, as its release runs it on LLaVA's frames.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.factors import Sparse
from ...tokens.video_tokens import Extra, Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.budget_search import counts_of_total, lowest_threshold
from ..toolkit.dpc_knn import Groups, clustered
from ..toolkit.language_grid import LanguageGrid, Merge
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import tally, top_k_mask, true_places
from ..toolkit.uploads import BoolArray, IntArray, uploaded

SPARSE, SPARSE_SIMILARITY, SIMILARITY = 0.125, 0.65, 0.8
"""The authors run similarity 0.65 at 10 %, and 0.80 from 15 % on; halfway between lies 12.5 %."""

SHORTEST = 1e-12
"""Shorter tokens count as this long where they are compared."""


@dataclass(frozen=True)
class HoliTom(Budgeted):
    """Merge the places that stay alike over a window of frames; keep the most attended cells of the others."""

    name = "holitom"
    title = "HoliTom"
    node_id = "AOTHoliTom"
    fixes_budget = ("target",)
    source = "HoliTom, NeurIPS 2025, before the LLM"
    no_frame_budgets = "It merges what stays alike over several frames, so that its tokens are of no frame alone."
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "holitom-10": "holitom:target=0.1,similarity=0.65",
            "holitom-15": "holitom:target=0.15,similarity=0.8",
            "holitom-20": "holitom:target=0.2,similarity=0.8",
            "holitom-25": "holitom:target=0.25,similarity=0.8",
        }
    )

    target: float = Setting(
        0.1,
        "Share of the language grid to keep, as the authors count it: rounding up in every frame keeps more, a still "
        "video keeps less. Not used where a retention is given.",
        low=0.001,
        high=1,
        step=0.01,
    ).field()
    similarity: float = Setting(
        0.0,
        "A place is still between two frames where the cosine of its tokens is above this. 0 is as the authors run "
        "it: 0.65 around 10 %, 0.80 from 12.5 % on.",
        low=0,
        high=1,
        step=0.01,
    ).field()
    centre_share: float = Setting(
        0.6,
        "Weight of a cluster's centre in its token; the mean of the others has the rest.",
        low=0,
        high=1,
        step=0.05,
        advanced=True,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    merge: str = Setting(
        "released",
        "What a cluster becomes: released weighs its centre with centre_share; average takes the plain mean.",
        choices=("released", "average"),
        advanced=True,
    ).field()
    neighbours: int = Setting(
        7,
        "Nearest neighbours that a token's density is taken over; the number of clusters where that is less.",
        low=1,
        high=1000,
        advanced=True,
    ).field()
    longest_window: int = Setting(1024, "Frames that a window may have.", low=1, high=1_000_000, advanced=True).field()

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Of every window its still clusters in raster order, then its frames' own cells."""
        return self.reduction(tokens)

    def reduction(self, tokens: VideoTokens, noise: Tensor | None = None) -> Reduction:
        """What :meth:`build` gives, with noise on the densities of clustering.

        Args:
            tokens: on the language grid.
            noise: (P,) uniform in [0, 1), one for each still place of each window that keeps any, in order; None for
                none.
        """
        grid = LanguageGrid.of(self.title, tokens)
        windows, counts = self.windows_and_counts(grid)
        if not counts.any():
            raise InputError(
                f"{self.title}: target {self.target:g} leaves no token of so small and still a video; raise it, or "
                "set keep_tokens."
            )
        merged, others = np.split(counts, [len(windows.lengths)])
        own = self._own_cells(grid, windows, others)
        if not merged.any():
            return grid.selection(own, NewlineRule.KEPT_ROWS)
        return grid.reduction(
            self._merge(grid.features, StillPlaces.of(windows, merged, others), own, noise), NewlineRule.KEPT_ROWS
        )

    def windows_and_counts(self, grid: LanguageGrid) -> tuple[Windows, IntArray]:
        """Windows of time, and how many tokens each one's still places keep, then how many each frame's others do.

        Raises:
            InputError: a budget is above what there is.
        """
        layout = grid.tokens.layout
        similarity = cosines_with_next(grid.features).cpu().numpy()
        threshold, full = self._similarity(layout), grid.token.numel()
        if not self.has_budget:
            windows = Windows.of(similarity > threshold, self.longest_window)
            return windows, windows.counts(min(1, self.target / ((full - windows.gain) / full)))
        total = self.budget_of(layout, 1, full)

        def left(above: float) -> int:
            return full - cut(similarity > above, self.longest_window)[1]

        threshold = lowest_threshold(similarity, threshold, left, total)
        windows = Windows.of(similarity > threshold, self.longest_window)
        return windows, counts_of_total(windows.counts, total)

    def _similarity(self, layout: Layout) -> float:
        full = layout.frames * layout.language_cells
        share = self.keep_tokens / full or self.retention or self.target
        return self.similarity or (SPARSE_SIMILARITY if share < SPARSE else SIMILARITY)

    def _own_cells(self, grid: LanguageGrid, windows: Windows, counts: IntArray) -> Tensor:
        """(A,) long, the most attended cells of every frame that are not still, ``counts`` of each."""
        attention = grid.attention(Extra.LAST)
        still, number = uploaded([np.flatnonzero(windows.still[windows.of_frame]), counts], attention.device)
        attention = attention.flatten().index_fill(0, still, -torch.inf).reshape(attention.shape)
        return true_places(top_k_mask(attention, number), int(counts.sum()))

    def _merge(self, features: Tensor, still: StillPlaces, own: Tensor, noise: Tensor | None) -> Merge:
        """Still places' tokens, averaged over their windows and clustered, and frames' ``own`` cells as they are."""
        arrays = [still.first, still.length, still.place, still.cell, still.row]
        first, length, place, cell, row = uploaded(arrays, features.device)
        tokens, ones = features.flatten(0, 1), features.new_ones(len(cell) + len(own))
        sums = Sparse(place, cell, ones[: len(cell)], len(first), len(tokens), copies=False).apply(tokens)
        groups = Groups(sums.div_(length[:, None]), torch.arange(len(first), device=first.device), still.sizes)
        neighbours = [min(self.neighbours, count) for count in still.clusters]
        centre, owner = clustered(groups, still.clusters, neighbours, noise, by_place=True)
        weight = (self._weights(centre, owner) / length)[place].to(features.dtype)
        return Merge(
            torch.empty_like(row).index_copy_(0, row, torch.cat((first[centre], own))),
            torch.cat((row[owner[place]], row[len(centre) :])),
            torch.cat((cell, own)),
            torch.cat((weight, ones[len(cell) :])),
        )

    def _weights(self, centre: Tensor, owner: Tensor) -> Tensor:
        """(P,) float64 weight of every still place in its cluster's mean over places."""
        others = widened((tally(owner, len(centre)) - 1)[owner])
        if self.merge == "average":
            return 1 / (others + 1)
        is_centre = torch.zeros_like(owner, dtype=torch.bool).index_fill_(0, centre, True)
        share = torch.where(is_centre, self.centre_share, (1 - self.centre_share) / others)
        return torch.where(others == 0, 1.0, share)


@dataclass(frozen=True)
class StillPlaces:
    """The P still places of windows that keep a token of theirs, and the cells they are averaged over.

    Args:
        first: (P,) int64, the cell, frame * L + place, of each in its window's first frame.
        length: (P,) int64, frames of its window.
        place: (E,) int64, the still place that each entry is of, in order.
        cell: (E,) int64, its cell.
        row: (K,) int64, the kept tokens that windows' clusters are, then those that frames' own cells are.
        sizes: still places of each window.
        clusters: tokens they become.
    """

    first: IntArray
    length: IntArray
    place: IntArray
    cell: IntArray
    row: IntArray
    sizes: tuple[int, ...]
    clusters: tuple[int, ...]

    @classmethod
    def of(cls, windows: Windows, merged: IntArray, others: IntArray) -> StillPlaces:
        """The still places of windows.

        Args:
            windows: S of them, over T frames.
            merged: (S,) int64, tokens that each one's still places become.
            others: (T,) int64, further cells that each frame keeps.
        """
        some = merged > 0
        window, place = (windows.still & some[:, None]).nonzero()
        first, length = windows.first[window] * windows.still.shape[1] + place, windows.lengths[window]
        entry = np.arange(len(place)).repeat(length)
        step = np.arange(len(entry)) - (length.cumsum() - length)[entry]
        of_frame = np.zeros((len(others), 2), np.int64)
        of_frame[windows.first, 0], of_frame[:, 1] = merged, others
        is_own = np.tile([False, True], len(others)).repeat(of_frame.ravel())
        return cls(
            first,
            length,
            entry,
            first[entry] + step * windows.still.shape[1],
            np.argsort(is_own, kind="stable"),
            tuple(windows.still[some].sum(1).tolist()),
            tuple(merged[some].tolist()),
        )


@dataclass(frozen=True)
class Windows:
    """A video cut into windows of time.

    Args:
        lengths: (S,) int64, frames of each.
        still: (S, L) bool, the places that stay alike over the whole window; none in a window of one frame.
        gain: tokens that averaging those places over their windows leaves out.
    """

    lengths: IntArray
    still: BoolArray
    gain: int

    @classmethod
    def of(cls, alike: BoolArray, longest: int) -> Windows:
        """The windows of a video of which (T - 1, L) says where a place is like itself in the next frame."""
        lengths, gain = cut(alike, longest)
        length = np.array(lengths)
        last = length.cumsum() - 1
        steps = np.concatenate((np.zeros((1, alike.shape[1]), np.int64), alike)).cumsum(0)
        still = steps[last] - steps[last - length + 1] == length[:, None] - 1
        return cls(length, still & (length > 1)[:, None], gain)

    @property
    def first(self) -> IntArray:
        """(S,) int64, the first frame of each."""
        return self.lengths.cumsum() - self.lengths

    @property
    def of_frame(self) -> IntArray:
        """(T,) int64, the window of each frame."""
        return np.arange(len(self.lengths)).repeat(self.lengths)

    def counts(self, share: float) -> IntArray:
        """(S + T,) int64, tokens of each window's still places and of each frame's others at a share of them.

        Rounded half to even, and up; in doubles, whose last bit both see.
        """
        places = self.still.sum(1)
        others = self.still.shape[1] - places[self.of_frame]
        return np.concatenate(((places * share).round(), np.ceil(others * share))).astype(np.int64)


def cosines_with_next(features: Tensor) -> Tensor:
    """(T, L, D) to (T - 1, L): the cosine of every place's token with the same place's in the next frame."""
    length = torch.linalg.vector_norm(features, dim=2).clamp(min=SHORTEST)
    return (features[:-1] * features[1:]).sum(2) / (length[:-1] * length[1:])


def cut(alike: BoolArray, longest: int) -> tuple[tuple[int, ...], int]:
    """Lengths of the windows that make most tokens repeat one before them, and how many do.

    A window of w frames over which n places stay alike gains n (w - 1). Of equal gains the shortest last window wins.

    Args:
        alike: (T - 1, L) bool, where a place is like itself in the next frame.
        longest: frames that a window may have.
    """
    frames = len(alike) + 1
    step = np.arange(frames - 1)[:, None]
    differs = np.maximum.accumulate(np.where(alike, -1, step), 0)
    run = np.minimum(step - differs, longest - 1)
    runs = np.bincount((step * frames + run).ravel(), minlength=(frames - 1) * frames)
    as_long = runs.reshape(frames - 1, frames)[:, ::-1].cumsum(1)[:, ::-1]
    gain = as_long * np.arange(frames)
    best, window = np.zeros(frames + 1, np.int64), [0] * frames
    for end in range(1, frames):
        ends = best[end::-1] + gain[end - 1, : end + 1]
        window[end] = int(ends.argmax())
        best[end + 1] = ends[window[end]]
    lengths, end = [], frames - 1
    while end >= 0:
        lengths.append(window[end] + 1)
        end -= window[end] + 1
    return tuple(reversed(lengths)), int(best[-1])
