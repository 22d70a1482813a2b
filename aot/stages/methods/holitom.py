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

import torch
from torch import Tensor

from ...devices import widened
from ...errors import InputError
from ...tokens.video_tokens import Extra, Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.budget_search import counts_of_total, lowest_threshold
from ..toolkit.dpc_knn import Groups, clustered
from ..toolkit.language_grid import LanguageGrid, Merge
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k_mask

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
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
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
        merged_counts, frame_counts = counts[: len(windows.lengths)], counts[len(windows.lengths) :]
        own = grid.attention(Extra.LAST).cpu().masked_fill(windows.still[windows.of_frame], -torch.inf)
        chosen = top_k_mask(own, frame_counts)
        occupied = torch.stack((torch.zeros_like(chosen), chosen), 1)
        clusters = self._clusters(grid.features, windows, merged_counts, noise)
        occupied[clusters.frame, 0, clusters.place] = True
        if not bool(occupied.any()):
            raise InputError(
                f"{self.title}: target {self.target:g} leaves no token of so small and still a video; raise it, or "
                "set keep_tokens."
            )
        return self._ordered(grid, occupied, clusters)

    def windows_and_counts(self, grid: LanguageGrid) -> tuple[Windows, Tensor]:
        """Windows of time, and how many tokens each one's still places keep, then how many each frame's others do.

        Raises:
            InputError: a budget is above what there is.
        """
        layout = grid.tokens.layout
        similarity = cosines_with_next(grid.features).cpu()
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

    def _clusters(self, features: Tensor, windows: Windows, counts: Tensor, noise: Tensor | None) -> Clusters:
        """The tokens of windows' still places, clustered by the windows' means."""
        device, cells = features.device, features.shape[1]
        some = (counts > 0).nonzero()[:, 0]
        which, place = windows.still[some].nonzero(as_tuple=True)
        if not len(some):
            none = torch.empty(0, dtype=torch.long)
            return Clusters(none, none, none, none, none, torch.empty(0, dtype=features.dtype))
        runs = features.split(windows.lengths)
        means = torch.stack([runs[at].mean(0) for at in some.tolist()])
        sizes, clusters = windows.still[some].sum(1), tuple(counts[some].tolist())
        groups = Groups(means.flatten(0, 1), (which * cells + place).to(device), tuple(sizes.tolist()))
        neighbours = [min(self.neighbours, count) for count in clusters]
        centre, owner = (each.cpu() for each in clustered(groups, clusters, neighbours, noise, by_place=True))
        weight = self._weights(centre, owner)
        length = torch.tensor(windows.lengths)[some][which]
        first = windows.first[some][which]
        member = torch.arange(len(which)).repeat_interleave(length)
        frame = first[member] + torch.arange(len(member)) - (length.cumsum(0) - length)[member]
        return Clusters(
            first[centre],
            place[centre],
            owner[member],
            frame,
            place[member],
            (weight / length)[member].to(features.dtype),
        )

    def _weights(self, centre: Tensor, owner: Tensor) -> Tensor:
        """(P,) float64 weight of every member in its cluster's mean over places."""
        others = widened((torch.bincount(owner, minlength=len(centre)) - 1)[owner])
        if self.merge == "average":
            return 1 / (others + 1)
        is_centre = torch.zeros_like(owner, dtype=torch.bool).index_fill_(0, centre, True)
        share = torch.where(is_centre, self.centre_share, (1 - self.centre_share) / others)
        return torch.where(others == 0, 1.0, share)

    def _ordered(self, grid: LanguageGrid, occupied: Tensor, clusters: Clusters) -> Reduction:
        """Clusters and single cells in order; ``occupied`` (T, 2, L) bool: a frame's clusters, then its cells."""
        cells = occupied.shape[2]
        row = occupied.flatten().cumsum(0).sub(1).reshape(occupied.shape)
        frame, kind, place = occupied.nonzero(as_tuple=True)
        single = kind == 1
        merged_row = row[clusters.frame, 0, clusters.place][clusters.token]
        rows = torch.cat((merged_row, single.nonzero()[:, 0]))
        cell = torch.cat((clusters.source_frame * cells + clusters.source_place, (frame * cells + place)[single]))
        weight = torch.cat((clusters.weight, clusters.weight.new_ones(int(single.sum()))))
        return grid.reduction(Merge(frame * cells + place, rows, cell, weight), NewlineRule.KEPT_ROWS)


@dataclass(frozen=True)
class Clusters:
    """Merged tokens and what they are made of, E entries.

    Args:
        frame: (C,) long, where each merged token is.
        place: (C,) long, its cell in the frame.
        token: (E,) long, the merged token of each entry.
        source_frame: (E,) long, the frame of its cell.
        source_place: (E,) long, its cell in the frame.
        weight: (E,) floating.
    """

    frame: Tensor
    place: Tensor
    token: Tensor
    source_frame: Tensor
    source_place: Tensor
    weight: Tensor


@dataclass(frozen=True)
class Windows:
    """A video cut into windows of time.

    Args:
        lengths: frames of each.
        still: (S, L) bool, the places that stay alike over the whole window; none in a window of one frame.
        gain: tokens that averaging those places over their windows leaves out.
    """

    lengths: tuple[int, ...]
    still: Tensor
    gain: int

    @classmethod
    def of(cls, alike: Tensor, longest: int) -> Windows:
        """The windows of a video of which (T - 1, L) says where a place is like itself in the next frame."""
        lengths, gain = cut(alike, longest)
        length = torch.tensor(lengths)
        last = length.cumsum(0) - 1
        steps = torch.cat((alike.new_zeros(1, alike.shape[1]), alike)).cumsum(0)
        still = steps[last] - steps[last - length + 1] == length[:, None] - 1
        return cls(lengths, still & (length > 1)[:, None], gain)

    @property
    def first(self) -> Tensor:
        """(S,) long, the first frame of each."""
        length = torch.tensor(self.lengths)
        return length.cumsum(0) - length

    @property
    def of_frame(self) -> Tensor:
        """(T,) long, the window of each frame."""
        return torch.arange(len(self.lengths)).repeat_interleave(torch.tensor(self.lengths))

    def counts(self, share: float) -> Tensor:
        """(S + T,) long, tokens of each window's still places and of each frame's others at a share of them.

        Rounded half to even, and up; in doubles, whose last bit both see.
        """
        places = self.still.sum(1)
        others = self.still.shape[1] - places[self.of_frame]
        return torch.cat(((widened(places) * share).round(), (widened(others) * share).ceil())).long()


def cosines_with_next(features: Tensor) -> Tensor:
    """(T, L, D) to (T - 1, L): the cosine of every place's token with the same place's in the next frame."""
    length = torch.linalg.vector_norm(features, dim=2).clamp(min=SHORTEST)
    return (features[:-1] * features[1:]).sum(2) / (length[:-1] * length[1:])


def cut(alike: Tensor, longest: int) -> tuple[tuple[int, ...], int]:
    """Lengths of the windows that make most tokens repeat one before them, and how many do.

    A window of w frames over which n places stay alike gains n (w - 1). Of equal gains the shortest last window wins.

    Args:
        alike: (T - 1, L) bool, where a place is like itself in the next frame.
        longest: frames that a window may have.
    """
    frames = len(alike) + 1
    step = torch.arange(frames - 1)[:, None]
    differs = torch.where(alike, -1, step).cummax(0).values if frames > 1 else step.expand_as(alike)
    run = (step - differs).clamp(max=longest - 1)
    runs = torch.bincount((step * frames + run).flatten(), minlength=(frames - 1) * frames)
    as_long = runs.reshape(frames - 1, frames).flip(1).cumsum(1).flip(1)
    gain = as_long * torch.arange(frames)
    best, window = torch.zeros(frames + 1, dtype=torch.long), [0] * frames
    for end in range(1, frames):
        ends = best[: end + 1].flip(0) + gain[end - 1, : end + 1]
        window[end] = int(ends.argmax())
        best[end + 1] = ends[window[end]]
    lengths, end = [], frames - 1
    while end >= 0:
        lengths.append(window[end] + 1)
        end -= window[end] + 1
    return tuple(reversed(lengths)), int(best[-1])
