"""VidCom2: in every frame the tokens least like the middle of it and of the video, more of them in unusual frames.

Tokens are compared by the half of their channels that varies least. Those furthest from their frame's mean and the
video's stay as they are; a frame far from the video's mean may keep up to about twice its share.

Source: Video Compression Commander (EMNLP 2025); met to the token as vLLM does it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...devices import widened
from ...tokens.video_tokens import Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid
from ..toolkit.newlines import NewlineRule
from ..toolkit.ranking import top_k_mask, true_places

WIDEST = 2.0
HALVINGS = 4
"""Similarity is a sum of Gaussians: of variance 2, and of half of that four times over."""

TEMPERATURE = 0.01
"""Of the softmax that shares tokens out among frames."""

SHORTEST = 1e-12
"""Shorter tokens count as this long where tokens are brought to length 1."""


@dataclass(frozen=True)
class VidCom2(Budgeted):
    """Keep the tokens of each frame that are least like it and the video; unusual frames keep more."""

    name = "vidcom2"
    title = "VidCom2"
    node_id = "AOTVidCom2"
    fixes_budget = ("ratio",)
    source = "Video Compression Commander, EMNLP 2025"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "vidcom2-10": "vidcom2:ratio=0.1",
            "vidcom2-15": "vidcom2:ratio=0.15",
            "vidcom2-20": "vidcom2:ratio=0.2",
            "vidcom2-25": "vidcom2:ratio=0.25",
        }
    )

    ratio: float = Setting(
        0.25,
        "Share of the language grid to keep on average, each frame's count rounded for itself as released. Not used "
        "where a retention is given.",
        low=0.001,
        high=1,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Kept cells in order of time, then raster; a frame's newlines, where there are any, after them."""
        grid = LanguageGrid.of(self.title, tokens)
        similarity, frame_similarity = similarities(quiet_directions(grid.depths))
        score = similarity + frame_similarity
        if part.budgets is not None:
            given = top_k_mask(-score, part.budgets)
            return grid.selection(true_places(given, sum(part.budgets)), NewlineRule.AFTER_FRAME)
        ratio, total = self.ratio_and_total(tokens.layout)
        keep = top_k_mask(-score, counts_of(frame_shares(similarity, ratio), score.shape[1]))
        if total is None:
            return grid.selection(true_places(keep, int(keep.sum())), NewlineRule.AFTER_FRAME)
        return grid.selection(true_places(brought_to(keep, score, total), total), NewlineRule.AFTER_FRAME)

    def ratio_and_total(self, layout: Layout) -> tuple[float, int | None]:
        """The share that frames' shares average to, and the tokens to keep exactly; None where that is left open.

        Raises:
            InputError: a budget is under a token a frame, or above what there is.
        """
        if not self.has_budget:
            return self.ratio, None
        full = layout.frames * layout.language_cells
        total = self.budget_of(layout, layout.frames, full)
        return (total / full if self.keep_tokens else self.retention), total


def quiet_directions(depths: Sequence[Tensor]) -> Tensor:
    """Tokens brought to length 1 over the half of all channels that varies least, (T, L, half).

    Args:
        depths: (T, L, D) each, side by side.
    """
    flat = [values.flatten(0, 1) for values in depths]
    spread = torch.cat([values.var(0, correction=0) for values in flat])
    half = len(spread) // 2
    quiet = top_k_mask(-spread[None], half)[0].split([values.shape[1] for values in flat])
    numbers = [half] if len(quiet) == 1 else torch.stack([each.sum() for each in quiet]).tolist()
    channels = [true_places(each, number) for each, number in zip(quiet, numbers, strict=True)]
    parts = [values.index_select(1, each) for values, each in zip(flat, channels, strict=True)]
    directions = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
    lengths = torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp(min=SHORTEST)
    return directions.div_(lengths).reshape(*depths[0].shape[:2], half)


def similarities(directions: Tensor) -> tuple[Tensor, Tensor]:
    """(T, L, d) to the similarity of every token to the video's mean and to its frame's, (T, L) each, 0 to 5."""
    return _similarity(directions, directions.mean((0, 1))), _similarity(directions, directions.mean(1, keepdim=True))


def _similarity(directions: Tensor, centre: Tensor) -> Tensor:
    gaussian = torch.exp((directions - centre).square().sum(2) / (-2 * WIDEST))
    total = gaussian
    for _ in range(HALVINGS):
        gaussian = gaussian.square()
        total = total + gaussian
    return total


def frame_shares(similarity: Tensor, ratio: float) -> Tensor:
    """Share of its tokens that each frame may keep, (T,) float64: more where it is unlike the video.

    Args:
        similarity: (T, L) similarity of every token to the video's mean.
        ratio: what the shares average to, none above 1.
    """
    bonus = torch.softmax(-widened(similarity).mean(1) / TEMPERATURE, 0)
    return (ratio * (1 + bonus - 1 / len(bonus))).clamp(max=1)


def counts_of(shares: Tensor, cells: int) -> Tensor:
    """Tokens of each frame, (T,) long, at least one; halves are rounded to even."""
    return (shares * cells).round().clamp(min=1).long()


def brought_to(keep: Tensor, score: Tensor, total: int) -> Tensor:
    """``keep`` with exactly ``total`` cells: the most alike of those kept dropped, or the least alike others added.

    Args:
        keep: (T, L) bool.
        score: (T, L) similarity, ranked over the whole video: a frame may lose all.
        total: from 0 to T L; of equal cells the earlier is dropped or added first.
    """
    missing = total - keep.sum()
    open_to_change = keep == (missing < 0)
    first = torch.where(missing < 0, score, -score).masked_fill(~open_to_change, -torch.inf)
    return keep ^ top_k_mask(first.reshape(1, -1), missing.abs()).reshape(keep.shape)
