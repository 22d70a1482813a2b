"""EarlyTom: alike frames are merged inside the vision tower, and cells of the frames left are chosen after it.

After a few of the tower's blocks the video is cut into runs of frames that are like their first one. The first and the
last frame of a run stay; those between them are thinned out where neighbours are alike. So later blocks see fewer
frames, each whole. After the tower the first and the last frame of a run keep their most attended cells, a frame
between them the most attended cell of each of equal stretches.

Source: EarlyTom (CVPR 2026), without its half inside the LLM.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...errors import InputError
from ...tokens.frame_merge import FrameMerge
from ...tokens.layout import Layout
from ...tokens.matmul import working_dtype
from ...tokens.video_tokens import Extra, VideoTokens
from ..base import Budgeted, Part, Reduction, Stage
from ..before_tokens import TowerStage
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import ranked, true_places
from ..toolkit.uploads import BoolArray, FloatArray, IntArray, uploaded

SIGLIP_BLOCKS = 26
"""Of SigLIP so400m those that reach the LLM, by which the authors count layers."""

SHORTEST = 1e-12
"""Shorter states count as this long."""


@dataclass(frozen=True)
class EarlyTom(TowerStage):
    """Merge alike frames inside the vision tower, so that its later blocks see fewer of them."""

    name = "earlytom"
    title = "EarlyTom"
    node_id = "AOTEarlyTom"
    source = "EarlyTom, CVPR 2026, inside the vision tower"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "earlytom-10": "earlytom:similarity=0.3,layers=10/21/23+earlytom-cells:target=0.1",
            "earlytom-15": "earlytom:similarity=0.4,layers=8/21/23+earlytom-cells:target=0.15",
            "earlytom-20": "earlytom:similarity=0.5,layers=8/21/23+earlytom-cells:target=0.2",
            "earlytom-25": "earlytom:similarity=0.7,layers=10/21/23+earlytom-cells:target=0.25",
        }
    )

    similarity: float = Setting(
        0.6,
        "A run of frames ends where their likeness to its first frame, smoothed, falls below this. The authors run 0.3 "
        "to 0.8, by benchmark and by how much is kept.",
        low=0,
        high=1,
        step=0.05,
    ).field()
    layers: str = Setting(
        "8/21/23",
        "Blocks of the tower after which frames are merged, counted from 0 among the 26 of SigLIP so400m; other towers "
        "take the blocks as deep. Earlier ones save more.",
    ).field()
    window: int = Setting(6, "A run has fewer frames than this.", low=2, high=64).field()
    last_middle: str = Setting(
        "released",
        "The last frame between the ends of a run of four or more: released loses it, whatever it shows; kept merges "
        "or keeps it like the others.",
        choices=("released", "kept"),
    ).field()
    smoothing: float = Setting(
        0.9, "Weight of the newest frame in the smoothed likeness.", low=0, high=1, step=0.05, advanced=True
    ).field()
    merging: str = Setting(
        "mixing",
        "What the frames between the ends of a run become: mixing joins alike neighbours; average makes one mean of "
        "all of them.",
        choices=("mixing", "average"),
        advanced=True,
    ).field()

    def __post_init__(self) -> None:
        super().__post_init__()
        layers_of(self.layers)

    def blocks(self, used: int) -> Sequence[int]:
        """Indices of the tower's blocks after which frames are merged; never the last, after which nothing is saved."""
        deep = (round((layer + 1) * used / SIGLIP_BLOCKS) - 1 for layer in layers_of(self.layers))
        return sorted({min(max(block, 0), used - 2) for block in deep} - {-1, -2})

    def merge(self, states: Tensor) -> FrameMerge:
        """The means that the frames become, run by run; one look at the device."""
        frames, likeness = len(states), Likeness.of(states, self.window)
        rows = [row for run in self.runs(likeness) for row in self._rows(*run, likeness)]
        return FrameMerge.of(rows, frames)

    def notes(self, states: Tensor) -> Mapping[str, Tensor]:
        """The runs of the frames left, numbered from 1."""
        runs = self.runs(Likeness.of(states, self.window))
        lengths = [last - first + 1 for first, last in runs]
        numbers = np.arange(1, len(runs) + 1).repeat(lengths)
        return {Extra.RUNS: torch.from_numpy(numbers).float().to(states.device)}

    def runs(self, likeness: Likeness) -> list[tuple[int, int]]:
        """The first and the last frame of every run.

        Args:
            likeness: of the frames.
        """
        runs, first, level = [], 0, 1.0
        for frame in range(1, likeness.frames):
            near = frame - first + 1 < self.window
            if near:
                level = self.smoothing * likeness(first, frame) + (1 - self.smoothing) * level
            if not near or level < self.similarity:
                runs.append((first, frame - 1))
                first, level = frame, 1.0
        return [*runs, (first, likeness.frames - 1)]

    def _rows(self, first: int, last: int, likeness: Likeness) -> list[dict[int, float]]:
        """A run's means: its ends as they are, and what becomes of the frames between them."""
        middle = range(first + 1, last)
        if len(middle) < 2:
            return [{frame: 1.0} for frame in range(first, last + 1)]
        if self.merging == "average":
            between = [dict.fromkeys(middle, 1 / len(middle))]
        else:
            between = self._mixed(middle, likeness(first, last), likeness)
        return [{first: 1.0}, *between, {last: 1.0}]

    def _mixed(self, middle: Sequence[int], least: float, likeness: Likeness) -> list[dict[int, float]]:
        """Frames between the ends, of which neighbours more alike than ``least`` are joined.

        A pair is joined where the next pair is less alike, and the more so the more weight its first frame has. As
        released there is no next pair at the end: the last frame then is lost.
        """
        near = [likeness(frame, frame + 1) for frame in middle[:-1]]
        rows, i = [], 0
        while i < len(near):
            at_end = i == len(near) - 1
            joined = near[i] > least and (at_end or near[i] > near[i + 1])
            share = 0.5 if self.last_middle == "kept" else 1.0
            if not at_end and near[i + 1] != 0:
                share = min(max(near[i] / (near[i] + near[i + 1]), 0.0), 1.0)
            rows.append({middle[i]: share, middle[i + 1]: 1 - share} if joined else {middle[i]: 1.0})
            i += 2 if joined else 1
        if self.last_middle == "kept" and i == len(near):
            rows.append({middle[-1]: 1.0})
        return rows


@dataclass(frozen=True)
class EarlyTomCells(Budgeted):
    """Keep the most attended cells of the frames that EarlyTom left: any at a run's ends, spread out between them."""

    name = "earlytom-cells"
    title = "EarlyTom Cells"
    node_id = "AOTEarlyTomCells"
    fixes_budget = ("target",)
    source = "EarlyTom, CVPR 2026, after the vision tower"

    target: float = Setting(
        0.1,
        "Share of the video's language grid to keep, frames that were merged in the tower counted; within half a point "
        "of it. Not used where a retention is given.",
        low=0.001,
        high=1,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()

    def for_frames_left(self, layout: Layout, left: int) -> Stage:
        """With a target that makes up for the frames merged in the tower."""
        stage = super().for_frames_left(layout, left)
        return replace(stage, target=min(self.target / (left / layout.frames), 1.0))

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster."""
        grid = LanguageGrid.of(self.title, tokens)
        attention = grid.attention(Extra.TOWER, Extra.LAST)
        frames, cells = attention.shape
        ends = run_ends(tokens.extras.get(Extra.RUNS), frames)
        counts = self.counts(tokens.layout, part)
        if counts is None:
            between = max(1, round(cells * self.target))
            counts = tuple(math.ceil(cells * self.target) if end else between for end in ends)
        kept = most_attended(attention, np.array(counts), ends)
        return grid.selection(true_places(kept, sum(counts)), NewlineRule.KEPT_ROWS)


@dataclass(frozen=True)
class Likeness:
    """How alike frames are: the mean over their patches of the cosine of the same patch's states.

    Args:
        near: (window, T) float64, of frame t and frame t + d in row d; of frames that far apart only.
    """

    near: FloatArray

    @classmethod
    def of(cls, states: Tensor, window: int) -> Likeness:
        """The likeness of frames less than a window apart.

        Args:
            states: (T, P, D) floating.
            window: in frames.
        """
        frames = len(states)
        directions = functional.normalize(states.to(working_dtype(states.dtype)), dim=2, eps=SHORTEST)
        rows = []
        for apart in range(1, min(window, frames)):
            near = (directions[apart:] * directions[:-apart]).sum(2).mean(1)
            rows.append(functional.pad(near, (0, apart)))
        near = torch.stack(rows).cpu().double().numpy() if rows else np.zeros((0, frames))
        return cls(np.concatenate((np.ones((1, frames)), near)))

    @property
    def frames(self) -> int:
        """T."""
        return self.near.shape[1]

    def __call__(self, earlier: int, later: int) -> float:
        """The likeness of two frames.

        Args:
            earlier: index of one.
            later: index of the other, less than a window after it.
        """
        return float(self.near[later - earlier, earlier])


def run_ends(runs: Tensor | None, frames: int) -> BoolArray:
    """(T,) which frames are the first or the last of their run; all, where runs are not known.

    Args:
        runs: (T,) floating, the number of each frame's run.
        frames: T.
    """
    if runs is None:
        return np.ones(frames, bool)
    number = runs.cpu().numpy()
    return (np.diff(number, prepend=-1) != 0) | (np.diff(number, append=-1) != 0)


def most_attended(attention: Tensor, counts: IntArray, ends: BoolArray) -> Tensor:
    """(T, L) bool, the cells kept: a run's ends keep the most attended, the others one of each of equal stretches.

    Args:
        attention: (T, L) floating.
        counts: (T,) int64, cells that each frame keeps, at least one.
        ends: (T,) bool, the ends of runs.
    """
    cells = attention.shape[1]
    number, best = (each[:, None] for each in (np.where(ends, 1, counts), np.where(ends, counts, 1)))
    short, longer = np.divmod(cells, number)  # the first stretches are one cell longer
    cell, in_longer = np.arange(cells), longer * (short + 1)
    stretch = np.where(cell < in_longer, cell // (short + 1), longer + (cell - in_longer) // short)
    begin = stretch * short + np.minimum(stretch, longer)
    index, first = uploaded([stretch, (cell - begin < best).astype(np.int64)], attention.device)
    order = ranked(attention)
    # Sorted by stretch, cells have the stretches of raster order, the most attended of each first.
    order = order.gather(1, index.gather(1, order).sort(dim=1, stable=True).indices)
    return torch.zeros_like(first, dtype=torch.bool).scatter_(1, order, first.bool())


def layers_of(text: str) -> tuple[int, ...]:
    """The layers that a setting names, rising.

    Args:
        text: whole numbers between slashes or spaces.

    Raises:
        InputError: it holds something else, or none.
    """
    parts = text.replace("/", " ").split()
    if not parts or not all(each.isascii() and each.isdigit() and int(each) < SIGLIP_BLOCKS for each in parts):
        raise InputError(
            f"EarlyTom: layers is {text!r}; give blocks from 0 to {SIGLIP_BLOCKS - 1} with slashes between them, such "
            "as 8/21/23."
        )
    return tuple(sorted(set(map(int, parts))))
