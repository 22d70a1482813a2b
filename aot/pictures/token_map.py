"""Pictures of what a reduction did: the frames with every language-grid cell's fate told apart at a glance.

A cell's fate is read off the tokens' place and role alone, so it is the same for any stage, whoever wrote it.
Surviving cells show the picture inside an outline; absorbed cells are grey and dim. Outlines differ in line
and mark as well as in colour, and the colours are Okabe and Ito's, so colour vision is not needed to read them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import IntFlag
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from ..tokens import Role, VideoTokens
from ..video import Frames
from .canvas import BACKGROUND, GAP, MARGIN, QUIET_TEXT, TEXT, plural, text_lines

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601 weights of red, green and blue in brightness."""

DIMMED = 0.42
"""Share of its brightness that an absorbed cell keeps."""

TALLEST = 1.0
"""Height over width that the grid of frames stays under."""

MOST_PANEL = 720
"""A frame is drawn no larger than this on either side, in pixels."""


LEGEND_WIDTH = 940
"""What the usual legend takes on one line; a picture of few frames is no narrower unless asked to be."""

LEAST_WIDTH, MOST_WIDTH = 320, 2400

WHOLE_CLIPS, PART_CLIPS = 1.6, 1.3
"""How much larger frames must become for rows of whole clips, or of equal parts of clips, to be given up."""


class Fate(IntFlag):
    """What became of a cell: one flag for each role of the tokens at its place, none where it was absorbed."""

    ABSORBED = 0
    KEPT = 1 << int(Role.KEPT)
    KEYFRAME = 1 << int(Role.KEYFRAME)
    DISTINCT = 1 << int(Role.DISTINCT)
    UPDATED = 1 << int(Role.MERGED)


COLOURS = MappingProxyType(
    {
        Fate.KEPT: (0, 158, 115),
        Fate.KEYFRAME: (230, 159, 0),
        Fate.DISTINCT: (86, 180, 233),
        Fate.UPDATED: (240, 228, 66),
    }
)
"""Okabe and Ito's bluish green, orange, sky blue and yellow."""

OUTLINES = (Fate.KEYFRAME, Fate.DISTINCT, Fate.KEPT, Fate.UPDATED)
"""Whose outline a cell of several fates gets: the first of these it has."""


class LegendEntry(NamedTuple):
    """A line of the legend: a fate as it is drawn, its name, how many there are, what it means."""

    fate: Fate
    name: str
    count: int
    meaning: str


class Grid(NamedTuple):
    """How frames are laid out: columns and rows of panels, each (width, height) pixels under a caption."""

    columns: int
    rows: int
    panel: tuple[int, int]
    caption: int


def token_map(tokens: VideoTokens, frames: Frames, *, width: int = 1600, columns: int | None = None) -> Tensor:
    """The video's frames in reading order, each cell of the language grid drawn by its fate.

    Args:
        tokens: of T frames; anything from freshly encoded to fully reduced.
        frames: those they were encoded from, of any size; of several that the encoder takes as one, the first is drawn.
        width: of the picture at most, in pixels; its frames take no more height than that.
        columns: frames a row; None chooses large frames, and rows that start where clips start.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: the frames are not the tokens' in number, the width or the columns are out of bounds, or
            leave less than a pixel for a cell.
    """
    layout = tokens.layout
    if frames.count != tokens.frames_shown:
        raise InputError(
            f"The tokens describe {tokens.frames_shown} frames and {frames.count} frames were given to draw them on; "
            "connect the same frames that were encoded."
        )
    together = -(-frames.count // layout.frames)
    frames = Frames(frames.pixels[::together].contiguous(), frames.timestamps[::together], frames.source)
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise InputError(f"A token map {width} pixels wide; give {LEAST_WIDTH} to {MOST_WIDTH}.")
    if columns is not None and columns < 1:
        raise InputError(f"A token map of {columns} columns; give 1 or more, or leave the choice open.")

    fate = fates(tokens).numpy()
    grid = _arrange(frames, width, columns, _clip_length(fate))
    if grid.panel[0] < layout.language_grid[1] or grid.panel[1] < layout.language_grid[0]:
        raise InputError(
            f"{frames.count} frames in {grid.columns} columns have no room in a token map {width} pixels wide; "
            "give more columns, a larger width or fewer frames."
        )
    across = grid.columns * (grid.panel[0] + GAP) - GAP
    canvas_width = min(width, max(across, LEGEND_WIDTH) + 2 * MARGIN)

    header = _header(tokens, canvas_width)
    footer = _footer(legend(tokens), canvas_width)
    body = grid.rows * (grid.caption + grid.panel[1] + GAP) - GAP
    canvas = Image.new("RGB", (canvas_width, header.height + body + footer.height), BACKGROUND)
    canvas.paste(header, (0, 0))
    canvas.paste(footer, (0, header.height + body))
    for index, kept in enumerate(_tokens_per_frame(tokens)):
        row, column = divmod(index, grid.columns)
        x = MARGIN + column * (grid.panel[0] + GAP)
        y = header.height + row * (grid.caption + grid.panel[1] + GAP)
        cells = int(np.count_nonzero(fate[index]))
        amount = plural(kept, "token") + (f" of {plural(cells, 'cell')}" if kept != cells else "")
        number = str(index) if together == 1 else f"{index * together}+"
        parts = (number, f"{float(frames.timestamps[index]):.2f} s", amount)
        _caption(canvas, (x, y, grid.panel[0], grid.caption), parts)
        panel = Image.fromarray(frames.pixels[index].cpu().numpy()).resize(grid.panel, Image.Resampling.LANCZOS)
        canvas.paste(Image.fromarray(_draw_fates(np.asarray(panel), fate[index])), (x, y + grid.caption))
    return torch.from_numpy(np.array(canvas)).to(torch.float32)[None] / 255


def fates(tokens: VideoTokens) -> Tensor:
    """(T, h, w) uint8 of :class:`Fate` flags: what became of every cell of the language grid."""
    layout = tokens.layout
    found = torch.zeros(layout.frames, *layout.language_grid, dtype=torch.uint8)
    if not tokens.pooled:
        return found.fill_(int(Fate.KEPT))
    place, role = tokens.place.cpu(), tokens.role.cpu()
    for each in Role:
        if each is not Role.NEWLINE:
            t, y, x = place[role == int(each)].unbind(1)
            found[t, y, x] |= 1 << int(each)
    return found


def legend(tokens: VideoTokens) -> tuple[LegendEntry, ...]:
    """What a token map's legend says: tokens of every role there is, and the cells absorbed."""
    fate = fates(tokens)
    roles = tokens.role.cpu() if tokens.pooled else torch.full((tokens.tokens_full,), int(Role.KEPT))
    count = torch.bincount(roles.long(), minlength=len(Role)).tolist()
    repeats = bool((fate == int(Fate.KEYFRAME | Fate.UPDATED)).any())
    updated = Fate.KEYFRAME | Fate.UPDATED if repeats else Fate.UPDATED
    again = "the keyframe cell again, merged" if repeats else "a mean of several cells"
    survivors = (
        LegendEntry(Fate.KEPT, "kept", count[Role.KEPT], "stays a token"),
        LegendEntry(Fate.KEYFRAME, "keyframe", count[Role.KEYFRAME], "the clip's anchor, as it was"),
        LegendEntry(updated, "updated", count[Role.MERGED], again),
        LegendEntry(Fate.DISTINCT, "distinct", count[Role.DISTINCT], "new in its frame"),
    )
    absorbed = LegendEntry(Fate.ABSORBED, "absorbed", int((fate == 0).sum()), "merged into the others")
    return (*(entry for entry in survivors if entry.count), absorbed)


def _tokens_per_frame(tokens: VideoTokens) -> list[int]:
    """Tokens at each frame, newlines not counted, on the language grid even where pooling is pending."""
    if not tokens.pooled:
        return [tokens.layout.language_cells] * tokens.layout.frames
    drawn = tokens.frame[tokens.role != int(Role.NEWLINE)]
    return torch.bincount(drawn, minlength=tokens.layout.frames).tolist()


def _clip_length(fate: np.ndarray) -> int:
    """The step that all keyframes are multiples of; 0 where there is none."""
    keyframes = np.flatnonzero((fate & int(Fate.KEYFRAME)).any(axis=(1, 2)))
    return math.gcd(*keyframes.tolist())


def _arrange(frames: Frames, width: int, columns: int | None, clip: int) -> Grid:
    """The grid with the largest frames, or with rows that start at clips where that costs little."""
    aspect = frames.height / frames.width

    def grid(columns: int) -> Grid:
        rows = math.ceil(frames.count / columns)
        across = min(MOST_PANEL, (width - 2 * MARGIN + GAP) // columns - GAP)
        caption = 26 if across >= 130 else 18
        down = min(MOST_PANEL, int((TALLEST * width + GAP) // rows) - GAP - caption)
        across = max(1, min(across, int(down / aspect)))
        return Grid(columns, rows, (across, max(1, round(across * aspect))), caption)

    def worth(grid: Grid) -> tuple[float, int]:
        whole, part = clip and grid.columns % clip == 0, clip and clip % grid.columns == 0
        return grid.panel[0] * (WHOLE_CLIPS if whole else PART_CLIPS if part else 1), grid.columns

    most = min(frames.count, (width - 2 * MARGIN) // (GAP + 8))
    if columns is not None:
        return grid(min(columns, most))
    return max((grid(columns) for columns in range(1, most + 1)), key=worth)


def _draw_fates(pixels: np.ndarray, fate: np.ndarray) -> np.ndarray:
    """A frame, (H, W, 3) uint8, with its cells' fates, (h, w), drawn over it; a new array."""
    height, width = pixels.shape[:2]
    row, y, cell_height = _cells_along(height, fate.shape[0])
    column, x, cell_width = _cells_along(width, fate.shape[1])
    at = fate[row[:, None], column[None, :]]
    y, x = y[:, None], x[None, :]
    cell = min(cell_height, cell_width)

    picture = pixels.astype(np.float32)
    grey = (picture @ np.array(LUMA, dtype=np.float32))[:, :, None]
    picture = np.where((at == int(Fate.ABSORBED))[:, :, None], DIMMED * grey, picture)
    if cell >= 8:
        seam = ((y == 0) & (row > 0)[:, None]) | ((x == 0) & (column > 0)[None, :])
        picture = np.where(seam[:, :, None], 0.72 * picture, picture)

    line = max(1, min(4, round(cell / 7)))
    border = _border(at, line)
    dash = (np.arange(height)[:, None] + np.arange(width)[None, :]) // (line + 1) % 3 > 0
    undrawn = border & (at != int(Fate.ABSORBED))
    for owner in OUTLINES:
        mine = undrawn & (at & int(owner) > 0)
        undrawn &= ~mine
        if owner is Fate.DISTINCT:
            picture[mine & ~dash] = BACKGROUND
            mine &= dash
        picture[mine] = COLOURS[owner]
    corner = (y + x < cell / 2) & (at & int(Fate.UPDATED) > 0)
    picture[corner] = COLOURS[Fate.UPDATED]
    return picture.round().astype(np.uint8)


def _cells_along(length: int, cells: int) -> tuple[np.ndarray, np.ndarray, int]:
    """For each pixel of a side its cell and its place in that cell; and the smallest cell's pixels."""
    starts = np.arange(cells) * length // cells
    sizes = np.diff(np.append(starts, length))
    cell = np.repeat(np.arange(cells), sizes)
    return cell, np.arange(length) - starts[cell], int(sizes.min())


def _border(at: np.ndarray, line: int) -> np.ndarray:
    """(H, W) bool: pixels with one of another fate, or the frame's end, within ``line`` pixels of them."""
    height, width = at.shape
    padded = np.pad(at.astype(np.int16), line, constant_values=-1)
    border = np.zeros_like(at, dtype=bool)
    for dy in (0, line, 2 * line):
        for dx in (0, line, 2 * line):
            border |= padded[dy : dy + height, dx : dx + width] != at
    return border


def _header(tokens: VideoTokens, width: int) -> Image.Image:
    title = f"{tokens.tokens_kept} of {tokens.tokens_full} tokens ({tokens.retention:.1%})"
    if tokens.layout.newlines and tokens.pooled:
        newlines = int((tokens.role == int(Role.NEWLINE)).sum())
        title += f" + {plural(newlines, 'newline')}"
    road = " > ".join(f"{record.name} {record.tokens_out}" for record in tokens.history)
    subtitle = ": ".join(part for part in (tokens.model, road) if part)
    return text_lines([(title, 28, TEXT), (subtitle, 17, QUIET_TEXT)], width)


def _footer(entries: Sequence[LegendEntry], width: int) -> Image.Image:
    """The legend: a sample cell, count, name and meaning for each entry, in as many rows as they need."""
    sample, space = 34, 40
    name_font, meaning_font = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    names = [f"{entry.name} {entry.count}" for entry in entries]
    sizes = [
        sample + 10 + math.ceil(max(name_font.getlength(name), meaning_font.getlength(entry.meaning)))
        for name, entry in zip(names, entries, strict=True)
    ]
    places, x, y = [], MARGIN, MARGIN - 4
    for size in sizes:
        if x > MARGIN and x + size > width - MARGIN:
            x, y = MARGIN, y + sample + 16
        places.append((x, y))
        x += size + space
    picture = Image.new("RGB", (width, y + sample + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for entry, name, (x, y) in zip(entries, names, places, strict=True):
        cell = _draw_fates(_sample(sample), np.array([[int(entry.fate)]], dtype=np.uint8))
        picture.paste(Image.fromarray(cell), (x, y))
        draw.text((x + sample + 10, y + 8), name, fill=TEXT, font=name_font, anchor="lm")
        draw.text((x + sample + 10, y + 27), entry.meaning, fill=QUIET_TEXT, font=meaning_font, anchor="lm")
    return picture


def _sample(size: int) -> np.ndarray:
    """A small picture to show fates on in the legend: sky over a meadow."""
    top, bottom = np.array((150, 190, 225)), np.array((120, 150, 70))
    share = (np.arange(size) > size * 0.55)[:, None, None]
    return np.broadcast_to(np.where(share, bottom, top), (size, size, 3)).astype(np.uint8)


def _caption(canvas: Image.Image, box: tuple[int, int, int, int], parts: tuple[str, str, str]) -> None:
    """Frame index and seconds on the left, tokens on the right; what a narrow frame has no room for is left out."""
    x, y, width, height = box
    index, seconds, tokens = parts
    font = ImageFont.load_default(size=15 if height >= 24 else 11)
    draw = ImageDraw.Draw(canvas)
    gap, middle = 8, y + height / 2
    used = font.getlength(index)
    if used > width:
        return
    draw.text((x, middle), index, fill=TEXT, font=font, anchor="lm")
    for text, right in ((seconds, False), (tokens, True)):
        length = font.getlength(text)
        if used + gap + length > width:
            return
        start = x + width - length if right else x + used + gap
        draw.text((start, middle), text, fill=QUIET_TEXT, font=font, anchor="lm")
        used += gap + length
