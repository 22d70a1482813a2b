"""Tokens of frames that stages chose, or made smaller, before they were encoded."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..tokens.video_tokens import ENCODE, Given, Layout, StageRecord, VideoTokens
from ..video.choice import Choice, Shrink


def as_chosen(tokens: VideoTokens, choice: Choice, layout: Layout, timestamps: Tensor) -> VideoTokens:
    """Tokens that know what their frames were chosen of, and by which stages.

    Args:
        tokens: of the chosen frames, encoded and perhaps reduced.
        choice: that was made.
        layout: that the tokens of all frames would have.
        timestamps: (T,) float64, in seconds, of that layout's frames.
    """
    own = tokens.layout
    together = -(-choice.given.count // layout.frames)
    index = torch.cat((choice.index, choice.index[-1:].expand(-len(choice.index) % together)))
    of = index.reshape(-1, together)
    neighbours = (of[:, :1] // together * together + torch.arange(together)).clamp(max=choice.given.count - 1)
    exact = own.grid == layout.grid and bool((of == neighbours).all())
    given = Given(layout, timestamps, choice.given.count, of // together, exact)
    before, records = given.tokens, []
    for line in choice.history:
        is_last = line is choice.history[-1]  # what is encoded is known; fewer frames may be larger ones
        cells = own.language_cells if line.shrink or is_last else layout.language_cells
        after = -(-line.frames // together) * cells
        records.append(StageRecord(line.name, line.settings, before, after, line.milliseconds))
        before = after
    encoded = next(i for i, record in enumerate(tokens.history) if record.name == ENCODE)
    return replace(tokens, given=given, history=(*records, *tokens.history[encoded:]))


def smaller_grid(layout: Layout, shrink: Shrink) -> tuple[int, int]:
    """The largest language grid, (h, w), of about the same aspect with which all frames meet a budget.

    Args:
        layout: of the frames that the budget is for, as the model would make it.
        shrink: the budget.

    Raises:
        InputError: it leaves less than a token a frame, or is more than there is.
    """
    full = layout.frames * layout.language_cells
    total = shrink.tokens or round(shrink.retention * full)
    if not layout.frames <= total <= full:
        raise InputError(
            f"Smaller Frames: {total} tokens of {layout.frames} frames of {layout.language_cells} cannot be met; give "
            f"{layout.frames} to {full} tokens, retention {math.ceil(1e4 * layout.frames / full) / 1e4:g} to 1."
        )
    height, width = layout.language_grid
    aspect, most = height / width, total // layout.frames
    grids = {(h, max(1, round(h / aspect))) for h in range(1, height + 1)}
    grids |= {(max(1, round(w * aspect)), w) for w in range(1, width + 1)}
    fit = [(h, w) for h, w in grids if h <= height and w <= width and h * w <= most]
    return max(fit, key=lambda grid: (grid[0] * grid[1], -abs(math.log(grid[0] / grid[1] / aspect))))
