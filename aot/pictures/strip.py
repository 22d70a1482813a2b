"""Sampled frames in a few rows with their times: what a model will look at, small enough for a node."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..video.frames import Frames
from .canvas import BACKGROUND, QUIET_TEXT, TEXT, as_image

WIDTH, HEIGHT = 500, 340
"""Pixels: twice what a node gives it, so that it is sharp on dense screens and when it is zoomed in."""

MOST = 16
"""The most frames that are shown. Of more, the shown ones are spread evenly, the first and the last among them."""

MOST_COLUMNS = 6
"""Narrower frames would leave their times no room."""

_GAP = 6
_LINE = 26
"""Height of a line of text, in pixels."""


class _Grid(NamedTuple):
    """Where frames lie: `width` and `height` of each, and of the cell that it lies in the middle of, in pixels."""

    columns: int
    width: int
    height: int
    cell_width: int
    cell_height: int


def strip(frames: Frames) -> Tensor:
    """The frames in rows, as large as they fit, each with its time under it; a last line says where not all are shown.

    Args:
        frames: as they were sampled.

    Returns:
        (1, 340, 500, 3) float32, 0 to 1.
    """
    shown = np.unique(np.linspace(0, frames.count - 1, min(MOST, frames.count), dtype=int)).tolist()
    ground = HEIGHT - (_LINE if len(shown) < frames.count else 0)
    grid = max(
        (_grid(frames, len(shown), columns, ground) for columns in range(1, MOST_COLUMNS + 1)),
        key=lambda grid: (grid.cell_height > 2 * _LINE, grid.width),
    )
    picture = Image.new("RGB", (WIDTH, HEIGHT), BACKGROUND)
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
    for place, frame in enumerate(shown):
        row, column = divmod(place, grid.columns)
        x, y = column * (grid.cell_width + _GAP), row * (grid.cell_height + _GAP)
        small = Image.fromarray(frames.pixels[frame].numpy()).resize(
            (grid.width, grid.height), Image.Resampling.LANCZOS
        )
        picture.paste(
            small, (x + (grid.cell_width - grid.width) // 2, y + (grid.cell_height - _LINE - grid.height) // 2)
        )
        seconds = float(frames.timestamps[frame])
        time = f"{seconds:.2f} s" if seconds < 100 else f"{seconds:.0f} s"
        under = (x + grid.cell_width / 2, y + (grid.cell_height - _LINE + grid.height) / 2 + _LINE / 2)
        draw.text(under, time, fill=TEXT, font=font, anchor="mm")
    if ground < HEIGHT:
        words = f"{len(shown)} of {frames.count} frames are shown"
        draw.text((WIDTH / 2, HEIGHT - _LINE / 2), words, fill=QUIET_TEXT, font=font, anchor="mm")
    return as_image(picture)


def _grid(frames: Frames, count: int, columns: int, height: int) -> _Grid:
    rows = -(-count // columns)
    cell_width = (WIDTH - _GAP * (columns - 1)) // columns
    cell_height = (height - _GAP * (rows - 1)) // rows
    scale = min(cell_width / frames.width, max(1, cell_height - _LINE) / frames.height)
    width, height = (max(1, int(side * scale)) for side in (frames.width, frames.height))
    return _Grid(columns, width, height, cell_width, cell_height)
