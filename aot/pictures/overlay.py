"""Outcomes and areas drawn over a frame, so that colour vision is not needed to tell them apart.

Cells with a token show the picture inside an outline: keyframe thick and solid, distinct dashed, kept thin and solid,
updated with a marked corner. Cells without one are grey: absorbed plain, absorbed by another frame hatched, dropped
nearly black with a dot. Names and colours of the roles are in :mod:`.roles`.
"""

from __future__ import annotations

import numpy as np

from ..tokens.video_tokens import Role
from .canvas import BACKGROUND, QUIET_TEXT
from .outcomes import SURVIVES, Outcome
from .roles import ROLE_STYLES

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue in brightness."""

DIMMED, HATCH, DARK = 0.42, 0.78, 0.14
"""Share of its brightness that a cell keeps: absorbed, under the hatching, and dropped."""

AREA = QUIET_TEXT
"""Colour of the line around the area that a token absorbed."""


def draw_outcomes(pixels: np.ndarray, outcome: np.ndarray, area: np.ndarray) -> np.ndarray:
    """A frame with the outcomes and the areas of its cells drawn over it.

    Args:
        pixels: (H, W, 3) uint8, the frame.
        outcome: (h, w) uint8 of :class:`Outcome` flags.
        area: (h, w) int64, the area that each cell belongs to; -1 in none.

    Returns:
        (H, W, 3) uint8, a new array.
    """
    height, width = pixels.shape[:2]
    row, y, cell_height = _cells_along(height, outcome.shape[0])
    column, x, cell_width = _cells_along(width, outcome.shape[1])
    across = row[:, None], column[None, :]
    at, area_at = outcome[across], area[across]
    inside = y[:, None], x[None, :]
    cell = min(cell_height, cell_width)

    picture = pixels.astype(np.float32)
    _draw_gone(picture, at, inside, cell)
    if cell >= 8:
        seam = ((inside[0] == 0) & (row > 0)[:, None]) | ((inside[1] == 0) & (column > 0)[None, :])
        seam &= at & int(SURVIVES) > 0
        picture[seam] *= 0.72
    line = max(1, min(4, round(cell / 7)))
    picture[_divided(area_at, 1 + cell // 40)] = AREA
    _draw_outlines(picture, at, line)
    corner = (inside[0] + inside[1] < cell / 2) & (at & int(Outcome.UPDATED) > 0)
    picture[corner] = ROLE_STYLES[Role.MERGED].colour
    return picture.round().astype(np.uint8)


def _draw_gone(picture: np.ndarray, at: np.ndarray, inside: tuple[np.ndarray, np.ndarray], cell: int) -> None:
    """Draw cells without a token grey, hatched or dark; changes ``picture``, (H, W, 3) float32."""
    grey = picture @ np.array(LUMA, dtype=np.float32)
    share = np.full_like(grey, DIMMED)
    y, x = np.indices((at.shape[0], at.shape[1]), sparse=True)
    period = max(3, round(cell / 3))
    hatched = (y + x) % period < max(1, period // 4)
    share[hatched & (at == int(Outcome.ELSEWHERE))] = HATCH
    grey *= share
    grey[hatched & (at == int(Outcome.ELSEWHERE))] += 26
    dropped = at == int(Outcome.DROPPED)
    grey[dropped] *= DARK / DIMMED
    dot = (abs(inside[0] - cell // 2) <= cell / 12) & (abs(inside[1] - cell // 2) <= cell / 12)
    grey[dropped & dot] = 120
    gone = at & int(SURVIVES) == 0
    picture[gone] = grey[gone, None]


def _draw_outlines(picture: np.ndarray, at: np.ndarray, line: int) -> None:
    """Draw outlines of the cells with tokens; neighbours of one outcome share one. Changes ``picture``."""
    survives = at & int(SURVIVES)
    border, thick = _border(survives, line), _border(survives, line + max(1, line // 2))
    y, x = np.indices((at.shape[0], at.shape[1]), sparse=True)
    dash = (y + x) // (line + 1) % 3 > 0
    undrawn = survives > 0
    for role, style in ROLE_STYLES.items():
        if style.outline == "none":
            continue
        own = undrawn & (at & 1 << int(role) > 0)
        undrawn &= ~own
        edge = own & (thick if style.outline == "thick" else border)
        if style.outline == "dashed":
            picture[edge & ~dash] = BACKGROUND
            edge &= dash
        picture[edge] = style.colour


def _cells_along(length: int, cells: int) -> tuple[np.ndarray, np.ndarray, int]:
    """For each pixel of a side its cell and its place in that cell; and the smallest cell's pixels."""
    starts = np.arange(cells) * length // cells
    sizes = np.diff(np.append(starts, length))
    cell = np.repeat(np.arange(cells), sizes)
    return cell, np.arange(length) - starts[cell], int(sizes.min())


def _divided(area: np.ndarray, line: int) -> np.ndarray:
    """(H, W) bool: lines of that thickness between two areas, or between one and what is in none, -1."""
    padded = np.pad(area, line, constant_values=-1)
    before = padded[: -2 * line, line:-line], padded[line:-line, : -2 * line]
    after = padded[2 * line :, line:-line], padded[line:-line, 2 * line :]
    starts = np.logical_or(*(each != area for each in before)) & (area >= 0)
    ends = np.logical_or(*((each < 0) & (area >= 0) for each in after))
    return starts | ends


def _border(at: np.ndarray, line: int) -> np.ndarray:
    """(H, W) bool: pixels with another value, or the frame's end, within ``line`` pixels of them."""
    height, width = at.shape
    padded = np.pad(at.astype(np.int64), line, constant_values=-2)
    border = np.zeros_like(at, dtype=bool)
    for dy in (0, line, 2 * line):
        for dx in (0, line, 2 * line):
            border |= padded[dy : dy + height, dx : dx + width] != at
    return border
