"""Differential token dropping: of every moment, what is not like the moment before it at the same place.

A moment is a frame, or the frames that share a time position. The first is kept whole. Of the others a token is dropped
where it is too like the one before, or the most alike are, a fixed share of each moment. Where a budget is set without
shares, the most changed tokens of the whole video stay, which is what EVS does.

Source: TimeChat-Online (ACM MM 2025).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...errors import InputError
from ...tokens.layout import Layout
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..budget import first_frame_whole, split_by
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k, top_k_mask, true_places
from ..toolkit.uploads import BoolArray, FloatArray, IntArray, uploaded

SHORTEST = 1e-8
"""Shorter tokens count as this long, so that a zero token is like none."""

RULES = ("feature", "pixel")


@dataclass(frozen=True)
class DTD(Budgeted):
    """Keep the first frame, and of every later one the tokens that are not like the ones before them."""

    name = "dtd"
    title = "DTD"
    node_id = "AOTDTD"
    fixes_budget = ("threshold",)
    source = "TimeChat-Online, ACM MM 2025, differential token dropping"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType({"dtd-paper": "dtd:threshold=0.5"})

    threshold: float = Setting(
        0.5,
        "Drop a token whose cosine with the one before is above this; by pixels, whose mean difference is below it. "
        "With shares, the share of every later moment that is dropped. Not used where a retention is given.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    rule: str = Setting(
        "feature",
        "What is compared: the tokens' features, or the pixels that they are of, from 0 to 1.",
        choices=RULES,
        advanced=True,
    ).field()
    shares: bool = Setting(
        False,
        "Drop the same share of every later moment, the most alike, rather than all above the threshold.",
        advanced=True,
    ).field()
    rate: float = Setting(
        0.0,
        "Time positions a second: frames that share one are one moment, as on Qwen2.5-VL, which has 2. 0 makes every "
        "frame a moment.",
        low=0,
        high=1000,
        step=0.5,
        advanced=True,
    ).field()

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The first frame whole; of the others from nothing to every cell."""
        return first_frame_whole(layout)

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        moments = Moments.of(tokens.timestamps.numpy(), self.rate if self.rule == "feature" else 0)
        change = self._change(grid, moments)
        if part.budgets is not None:
            kept = true_places(top_k_mask(change, part.budgets), sum(part.budgets))
        elif self.shares:
            kept = self._by_share(change, moments, tokens.layout)
        elif self.has_budget:
            kept = top_k(change.flatten(), self._total(tokens.layout, moments)).sort().values
        else:
            least = self.threshold if self.rule == "pixel" else -self.threshold
            kept = (change >= least).flatten().nonzero()[:, 0]
        return grid.selection(kept, NewlineRule.KEPT_ROWS)

    def _change(self, grid: LanguageGrid, moments: Moments) -> Tensor:
        """(T, L) how much every cell has changed since the moment before; infinite where there is none."""
        if self.rule == "pixel":
            if Extra.PIXELS not in grid.tokens.extras:
                raise InputError(
                    f"{self.title}: these tokens come without the change of their pixels, which rule pixel compares; "
                    "encode the video again with this version, or choose rule feature."
                )
            change = grid.pooled(grid.tokens.extras[Extra.PIXELS])
        else:
            change = -cosines(grid.features, moments)
        (first,) = uploaded([moments.alone], change.device)
        return change.index_fill(0, first, torch.inf)

    def _by_share(self, change: Tensor, moments: Moments, layout: Layout) -> Tensor:
        """(K,) long, the first moment's cells, and of every later moment its part of them that has changed most."""
        cells = change.shape[1]
        sizes = moments.lengths * cells
        if self.has_budget:
            later = self._total(layout, moments) - int(sizes[0])
            counts = np.array([sizes[0], *split_by(sizes[1:].tolist(), later)])
        else:
            counts = sizes - (sizes * self.threshold).astype(np.int64)
            counts[0] = sizes[0]
        longest = int(moments.lengths.max())
        row, number = uploaded([moments.number * longest + moments.step, counts], change.device)
        padded = change.new_full((len(sizes) * longest, cells), -torch.inf).index_copy_(0, row, change)
        kept = top_k_mask(padded.reshape(len(sizes), -1), number).reshape(-1, cells)[row]
        return true_places(kept, int(counts.sum()))

    def _total(self, layout: Layout, moments: Moments) -> int:
        """Tokens kept of the video, where a budget is set."""
        cells = layout.language_cells
        return self.budget_of(layout, int(moments.lengths[0]) * cells, layout.frames * cells)


@dataclass(frozen=True)
class Moments:
    """T frames as moments: runs of frames that share a time position.

    Args:
        lengths: (M,) int64, frames of each moment.
        number: (T,) int64, the moment of each frame.
        step: (T,) int64, which frame of its moment each is, from 0.
    """

    lengths: IntArray
    number: IntArray
    step: IntArray

    @classmethod
    def of(cls, times: FloatArray, rate: float) -> Moments:
        """The moments of frames.

        Args:
            times: (T,) seconds, increasing.
            rate: time positions a second; 0 makes every frame a moment.
        """
        position = np.floor(times * rate) if rate else times
        first = np.concatenate(([True], position[1:] != position[:-1]))
        number, begins = first.cumsum() - 1, first.nonzero()[0]
        return cls(np.diff(begins, append=len(times)), number, np.arange(len(times)) - begins[number])

    @property
    def before(self) -> IntArray:
        """(T,) int64, the frame of the moment before that each is compared with; where there is none, its own."""
        begins = self.lengths.cumsum() - self.lengths
        compared = begins[self.number - 1] + self.step
        return np.where(self._has_before, compared, np.arange(len(compared)))

    @property
    def alone(self) -> IntArray:
        """Frames that no frame of the moment before is compared with."""
        return (~self._has_before).nonzero()[0]

    @property
    def _has_before(self) -> BoolArray:
        return (self.number > 0) & (self.step < self.lengths[self.number - 1])


def cosines(features: Tensor, moments: Moments) -> Tensor:
    """(T, L, D) to (T, L): the cosine of every place's token with the same place's of the moment before.

    Args:
        features: floating.
        moments: of the frames.
    """
    (before,) = uploaded([moments.before], features.device)
    length = torch.linalg.vector_norm(features, dim=2).clamp(min=SHORTEST)
    product = (features * features[before]).sum(2)
    return product / (length * length[before])
