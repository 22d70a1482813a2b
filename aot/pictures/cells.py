"""Fates and areas drawn over a frame: colours, outlines and textures that colour vision is not needed to tell apart.

Surviving cells show the picture inside an outline: keyframe thick and solid, distinct dashed, kept thin and solid,
updated with a marked corner. Cells that are gone are grey: absorbed plain, absorbed by another frame
hatched, dropped nearly black with a dot. The colours are Okabe and Ito's.
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from .canvas import BACKGROUND, GREEN, ORANGE, QUIET_TEXT, SKY_BLUE, YELLOW
from .fates import SURVIVES, Fate

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue in brightness."""

DIMMED, HATCH, DARK = 0.42, 0.78, 0.14
"""Share of its brightness that a cell keeps: absorbed, under the hatching, and dropped."""

COLOURS = MappingProxyType({Fate.KEPT: GREEN, Fate.KEYFRAME: ORANGE, Fate.DISTINCT: SKY_BLUE, Fate.UPDATED: YELLOW})

AREA = QUIET_TEXT
"""Colour of the line around the area that a token absorbed."""

OUTLINES = (Fate.KEYFRAME, Fate.DISTINCT, Fate.KEPT, Fate.UPDATED)
"""Whose outline a cell of several fates gets: the first of these it has."""


def draw_cells(pixels: np.ndarray, fate: np.ndarray, area: np.ndarray) -> np.ndarray:
    """A frame, (H, W, 3) uint8, with its cells' fates and areas, (h, w) each, drawn over it; a new array."""
    height, width = pixels.shape[:2]
    row, y, cell_height = _cells_along(height, fate.shape[0])
    column, x, cell_width = _cells_along(width, fate.shape[1])
    across = row[:, None], column[None, :]
    at, area_at = fate[across], area[across]
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
    corner = (inside[0] + inside[1] < cell / 2) & (at & int(Fate.UPDATED) > 0)
    picture[corner] = COLOURS[Fate.UPDATED]
    return picture.round().astype(np.uint8)


def _draw_gone(picture: np.ndarray, at: np.ndarray, inside: tuple[np.ndarray, np.ndarray], cell: int) -> None:
    """Grey, hatched or dark where no token stands, into the picture given, (H, W, 3) float32."""
    grey = picture @ np.array(LUMA, dtype=np.float32)
    share = np.full_like(grey, DIMMED)
    y, x = np.indices((at.shape[0], at.shape[1]), sparse=True)
    period = max(3, round(cell / 3))
    hatched = (y + x) % period < max(1, period // 4)
    share[hatched & (at == int(Fate.ELSEWHERE))] = HATCH
    grey *= share
    grey[hatched & (at == int(Fate.ELSEWHERE))] += 26
    dropped = at == int(Fate.DROPPED)
    grey[dropped] *= DARK / DIMMED
    dot = (abs(inside[0] - cell // 2) <= cell / 12) & (abs(inside[1] - cell // 2) <= cell / 12)
    grey[dropped & dot] = 120
    gone = at & int(SURVIVES) == 0
    picture[gone] = grey[gone, None]


def _draw_outlines(picture: np.ndarray, at: np.ndarray, line: int) -> None:
    """Outlines of the cells that survive, neighbours of one fate inside one, into the picture given."""
    survives = at & int(SURVIVES)
    border, thick = _border(survives, line), _border(survives, line + max(1, line // 2))
    y, x = np.indices((at.shape[0], at.shape[1]), sparse=True)
    dash = (y + x) // (line + 1) % 3 > 0
    undrawn = survives > 0
    for owner in OUTLINES:
        own = undrawn & (at & int(owner) > 0)
        undrawn &= ~own
        mine = own & (thick if owner is Fate.KEYFRAME else border)
        if owner is Fate.DISTINCT:
            picture[mine & ~dash] = BACKGROUND
            mine &= dash
        picture[mine] = COLOURS[owner]


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
