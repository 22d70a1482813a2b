"""VisionZip, as ported to LLaVA-OneVision's and LLaVA-Video's frames by HoliTom's authors.

In every frame the cells that receive most attention stay as they are. Of the others, cells at even steps are
targets, and each remaining cell joins the target whose key is most like its own. A target becomes itself plus
the mean of those that joined it: a sum of two means, stated here as the mean of both and a scale of 2 beside W.

Source: VisionZip (CVPR 2025), the video port in HoliTom's release.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from ...devices import to_device
from ...errors import InputError
from ...tokens.video_tokens import Extra, Layout, VideoTokens
from ..base import Budgeted, Part, Reduction
from ..options import KEEP_TOKENS, OPTIONAL_RETENTION, Setting
from ..toolkit.language_grid import LanguageGrid, Merge, unit
from ..toolkit.ranking import first_mask, ranked, tally


@dataclass(frozen=True)
class VisionZip(Budgeted):
    """Keep the cells of each frame that receive most attention; merge the others by their keys into a few."""

    name = "visionzip"
    title = "VisionZip"
    node_id = "AOTVisionZip"
    fixes_budget = ("tokens_per_frame",)
    source = "VisionZip, CVPR 2025, LLaVA-OneVision port"
    presets: ClassVar[Mapping[str, str]] = MappingProxyType(
        {
            "visionzip-10": "visionzip:tokens_per_frame=20",
            "visionzip-15": "visionzip:tokens_per_frame=30",
            "visionzip-20": "visionzip:tokens_per_frame=40",
            "visionzip-25": "visionzip:tokens_per_frame=50",
        }
    )

    tokens_per_frame: int = Setting(
        50,
        "Tokens of every frame. The released counts for 10, 15, 20 and 25 % are 20, 30, 40 and 50. Not used where a "
        "retention is given.",
        low=1,
        high=1_000_000,
    ).field()
    dominant_ratio: float = Setting(
        0.84375,
        "Share of a frame's tokens that are kept as they are, rounded down; 54 of 64.",
        low=0,
        high=1,
        step=0.01,
    ).field()
    retention: float = OPTIONAL_RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    merge: str = Setting(
        "released",
        "What a target becomes: released adds the mean of those that joined it, which doubles its length; average "
        "takes the mean of the two.",
        choices=("released", "average"),
        advanced=True,
    ).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time."""
        return (1,) * layout.frames

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """From nothing at all to every cell."""
        return (0,) * layout.frames, (layout.language_cells,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """Rows of a frame: its dominant cells in raster order, then its targets."""
        grid = LanguageGrid.of(self.title, tokens)
        cells = tokens.layout.language_cells
        counts = self.counts(tokens.layout, part) or (self.tokens_per_frame,) * tokens.layout.frames
        if max(counts) > cells:
            raise InputError(f"{self.title}: {max(counts)} tokens of a frame of {cells}; give 1 to {cells}.")
        attention, keys = grid.attention(Extra.LAST), grid.vectors(Extra.KEYS)
        cell, counts = grid.cell, tuple(counts)
        if 0 in counts:  # frames that another stage leaves nothing of
            present = to_device([t for t, count in enumerate(counts) if count], attention.device)
            attention, keys, cell = attention[present], keys[present], cell[present]
            counts = tuple(filter(None, counts))
        dominant = tuple(min(int(count * self.dominant_ratio), count - 1) for count in counts)
        contextual = tuple(count - kept for count, kept in zip(counts, dominant, strict=True))
        heads, read, owner = dominant_and_contextual(attention, keys, dominant, contextual)
        place, row = grid.rows(heads, owner, sum(counts))
        cell = cell.flatten()
        place = cell[place]
        joined = tally(row, len(place)) - 1
        merged = joined > 0
        share = 1 / joined.clamp(min=1).to(attention)[row]
        weight = torch.where(merged[row], torch.where(place[row] == cell, 1, share) / 2, 1)
        scale = 1 + merged.to(weight) if self.merge == "released" else None
        return grid.reduction(
            Merge(place, row, cell, weight, scale, read_at=cell[grid.rows(read, owner, sum(counts))[0]])
        )


def dominant_and_contextual(
    attention: Tensor, keys: Tensor, dominant: Sequence[int], contextual: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The cells that a frame keeps, and which of them each cell joins.

    Args:
        attention: (T, L) floating, received.
        keys: (T, L, d) floating.
        dominant: (T,) cells of each frame that stay as they are.
        contextual: (T,) targets of each frame, at least one; at most L with the dominant ones.

    Returns:
        heads (T, S), the cells that are kept: the dominant ones in raster order, then the targets, -1 after those of
        a frame with fewer; read, the same shape, the cells by which the released code puts tokens between a frame's
        newlines, where it labels its dominant tokens in order of attention; owner (T, L), the head of each cell.
    """
    cells, device = attention.shape[1], attention.device
    first, further = to_device((dominant, contextual), device)[:, :, None]
    step = (cells - first) // further
    number = torch.arange(max(a + b for a, b in zip(dominant, contextual, strict=True)), device=device)
    present = number < first + further
    by_attention = ranked(attention)
    dominant_first = ranked(first_mask(by_attention, first).to(torch.uint8))
    at = torch.where(number < first, number, first + (number - first) * step)
    heads = torch.where(present, dominant_first.gather(1, at.clamp(max=cells - 1)), -1)
    read = torch.where(number < first, by_attention[:, : len(number)], heads)
    targets = heads.gather(1, (first + number[: max(contextual)]).clamp(max=len(number) - 1))
    owner = first + _nearest(unit(keys), targets, number[: max(contextual)] >= further)
    spare = torch.cat((owner, owner[:, :1]), 1)
    owner = spare.scatter(1, torch.where(present, heads, cells), number.expand_as(heads))[:, :cells]
    return heads, read, owner


def _nearest(directions: Tensor, targets: Tensor, padding: Tensor) -> Tensor:
    """(T, L) long: which of its frame's targets (T, C) each cell is most like, padding (T, C) left out."""
    index = targets.clamp(min=0)[:, :, None].expand(-1, -1, directions.shape[2])
    similarity = torch.bmm(directions, directions.gather(1, index).mT)
    return similarity.masked_fill_(padding[:, None], -torch.inf).argmax(2)
