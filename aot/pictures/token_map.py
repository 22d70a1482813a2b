"""The token map: frames in a grid or in a strip, each cell of the language grid drawn by what became of it.

What became of a cell: :mod:`.outcomes`. How that is drawn: :mod:`.overlay`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from ..tokens.video_tokens import Role, VideoTokens
from ..video.frames import Frames
from .canvas import (
    BACKGROUND,
    GAP,
    MARGIN,
    QUIET_TEXT,
    SAMPLE,
    TEXT,
    as_image,
    check_width,
    legend_row,
    plural,
    text_lines,
)
from .outcomes import SURVIVES, LegendEntry, Outcome, cell_outcomes, legend
from .overlay import draw_outcomes

LAYOUTS = ("grid", "strip")
"""How frames are laid out: in rows that are filled one after another, or all in one row."""

TALLEST = 1.0
"""Height over width that the grid of frames stays under."""

MOST_PANEL = 720
"""The longest side of a frame, in pixels."""

STRIP_CELL, MOST_STRIP = 10, 16384
"""Pixels that a cell of a strip has at least, and the width of a strip at most."""

LEGEND_WIDTH = 1240
"""Pixels of the usual legend on one line; without a smaller ``width`` no picture is narrower."""

WHOLE_CLIPS, PART_CLIPS = 1.6, 1.3
"""Rows of whole clips, or of equal parts of clips, are chosen unless other rows make frames larger by this factor."""


class Grid(NamedTuple):
    """How frames are laid out.

    Args:
        columns: frames in a row.
        rows: of frames.
        panel: (width, height) of a frame in pixels.
        caption: height of the line above a frame in pixels.
    """

    columns: int
    rows: int
    panel: tuple[int, int]
    caption: int


def token_map(
    tokens: VideoTokens, frames: Frames, *, width: int = 1600, columns: int | None = None, layout: str = "grid"
) -> Tensor:
    """The video's frames in reading order, each cell of the language grid drawn by what became of it.

    Args:
        tokens: of T frames; anything from freshly encoded to fully reduced.
        frames: the encoded ones, of any size. Where the encoder takes several as one, the first of them is drawn.
        width: of the picture at most, in pixels; its frames take no more height than that. A strip is wider where
            its cells would have too few pixels.
        columns: frames in a row of the grid; None chooses large frames, and rows that start where clips start.
        layout: "grid", or "strip" for all frames in one row.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: the frames are more or fewer than the tokens', the layout is unknown, the width or the columns are
            out of bounds, or the frames have no room.
    """
    tokens = tokens.on(frames.count)
    frames, together = frames_drawn(tokens, frames)
    check_width(width, "token map")
    if layout not in LAYOUTS:
        raise InputError(f"A token map laid out as {layout!r}; give one of {', '.join(LAYOUTS)}.")
    if columns is not None and columns < 1:
        raise InputError(f"A token map of {columns} columns; give 1 or more, or leave the choice open.")

    cells = cell_outcomes(tokens)
    outcome, area = cells.outcome.numpy(), cells.area.numpy()
    if layout == "strip":
        grid, width = _strip(frames, width, tokens.layout.language_grid)
    else:
        grid = _arrange(frames, width, columns, _clip_length(outcome))
    if grid.panel[0] < outcome.shape[2] or grid.panel[1] < outcome.shape[1]:
        raise InputError(
            f"{frames.count} frames in {grid.columns} columns have no room in a token map {width} pixels wide; "
            "give more columns, a larger width or fewer frames."
        )
    across = grid.columns * (grid.panel[0] + GAP) - GAP
    canvas_width = min(width, max(across, LEGEND_WIDTH) + 2 * MARGIN)

    header = header_of(tokens, canvas_width)
    footer = legend_row(legend_samples(legend(tokens, cells.outcome), bool((area >= 0).any())), canvas_width)
    body = grid.rows * (grid.caption + grid.panel[1] + GAP) - GAP
    canvas = Image.new("RGB", (canvas_width, header.height + body + footer.height), BACKGROUND)
    canvas.paste(header, (0, 0))
    canvas.paste(footer, (0, header.height + body))
    for index, amount in enumerate(amounts(tokens, outcome)):
        row, column = divmod(index, grid.columns)
        x = MARGIN + column * (grid.panel[0] + GAP)
        y = header.height + row * (grid.caption + grid.panel[1] + GAP)
        number = str(index) if together == 1 else f"{index * together}+"
        parts = (number, f"{float(frames.timestamps[index]):.2f} s", amount)
        caption(canvas, (x, y, grid.panel[0], grid.caption), parts, 15 if grid.caption >= 24 else 11)
        panel = Image.fromarray(frames.pixels[index].cpu().numpy()).resize(
            grid.panel, Image.Resampling.LANCZOS, reducing_gap=2.0
        )
        canvas.paste(
            Image.fromarray(draw_outcomes(np.asarray(panel), outcome[index], area[index])), (x, y + grid.caption)
        )
    return as_image(canvas)


def frames_drawn(tokens: VideoTokens, frames: Frames) -> tuple[Frames, int]:
    """The frames to draw, one for each that the encoder sees, and how many of the video's each of them represents.

    Args:
        tokens: of any stage.
        frames: the encoded ones.

    Raises:
        InputError: the frames are more or fewer than the tokens'.
    """
    if frames.count != tokens.frames_shown:
        raise InputError(
            f"The tokens describe {tokens.frames_shown} frames and {frames.count} frames were given to draw them on; "
            "connect the same frames that were encoded."
        )
    together = frames_together(tokens)
    return Frames(frames.pixels[::together].contiguous(), frames.timestamps[::together], frames.source), together


def frames_together(tokens: VideoTokens) -> int:
    """How many frames of the video the encoder takes as one.

    Args:
        tokens: of any stage.
    """
    return -(-tokens.frames_shown // tokens.layout.frames)


def amounts(tokens: VideoTokens, outcome: np.ndarray) -> list[str]:
    """The tokens of each frame in words, with their cells where there are fewer.

    Args:
        tokens: of T frames, of any stage.
        outcome: (T, h, w) uint8 of :class:`Outcome` flags, of the same tokens.
    """
    survivors = np.count_nonzero(outcome & int(SURVIVES), axis=(1, 2)).tolist()
    return [
        plural(count, "token") + (f" of {plural(cells, 'cell')}" if count != cells else "")
        for count, cells in zip(_tokens_per_frame(tokens), survivors, strict=True)
    ]


def _tokens_per_frame(tokens: VideoTokens) -> list[int]:
    """Tokens at each frame, newlines not counted, on the language grid even where pooling is pending."""
    if not tokens.pooled:
        return [tokens.layout.language_cells] * tokens.layout.frames
    drawn = tokens.frame[tokens.role != int(Role.NEWLINE)]
    return torch.bincount(drawn, minlength=tokens.layout.frames).tolist()


def _clip_length(outcome: np.ndarray) -> int:
    """The largest number that divides every keyframe's; 0 where there is none."""
    keyframes = np.flatnonzero((outcome & int(Outcome.KEYFRAME)).any(axis=(1, 2)))
    return math.gcd(*keyframes.tolist())


def _strip(frames: Frames, width: int, cells: tuple[int, int]) -> tuple[Grid, int]:
    """All frames in one row, and the width of a picture that leaves every cell enough pixels.

    Raises:
        InputError: the picture would be too wide.
    """
    aspect = frames.height / frames.width
    least = max(STRIP_CELL * cells[1], math.ceil(STRIP_CELL * cells[0] / aspect))
    needed = frames.count * (least + GAP) - GAP + 2 * MARGIN
    if needed > MOST_STRIP:
        raise InputError(
            f"{frames.count} frames have no room in a strip {MOST_STRIP} pixels wide; draw them as a grid."
        )
    across = (max(width, needed) - 2 * MARGIN + GAP) // frames.count - GAP
    across = min(across, MOST_PANEL, int(MOST_PANEL / aspect))
    panel = across, max(1, round(across * aspect))
    return Grid(frames.count, 1, panel, 26 if across >= 130 else 18), max(width, needed)


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
        whole_clips, part_clips = clip and grid.columns % clip == 0, clip and clip % grid.columns == 0
        return grid.panel[0] * (WHOLE_CLIPS if whole_clips else PART_CLIPS if part_clips else 1), grid.columns

    most = min(frames.count, (width - 2 * MARGIN) // (GAP + 8))
    if columns is not None:
        return grid(min(columns, most))
    return max((grid(columns) for columns in range(1, most + 1)), key=worth)


def header_of(tokens: VideoTokens, width: int) -> Image.Image:
    """A title: how many tokens are left, and the stages that left them.

    Args:
        tokens: of any stage.
        width: of the picture in pixels.
    """
    return text_lines([(budget_of(tokens), 28, TEXT), (stages_of(tokens), 17, QUIET_TEXT)], width)


def budget_of(tokens: VideoTokens) -> str:
    """How many tokens are left, in words.

    Args:
        tokens: of any stage.
    """
    budget = f"{tokens.tokens_kept} of {tokens.tokens_full} tokens ({tokens.retention:.1%})"
    if tokens.layout.newlines and tokens.pooled:
        newlines = int((tokens.role == int(Role.NEWLINE)).sum())
        budget += f" + {plural(newlines, 'newline')}"
    return budget


def stages_of(tokens: VideoTokens) -> str:
    """The model, and its stages with the tokens that each left; whether W is exact, where it is not.

    Args:
        tokens: of any stage.
    """
    stages = " > ".join(f"{record.name} {record.tokens_out}" for record in tokens.history)
    exact = "" if tokens.is_exact else " (W is attribution)"
    return ": ".join(part for part in (tokens.model, stages) if part) + exact


def legend_samples(
    entries: Sequence[LegendEntry], areas: bool, *, counts: bool = True
) -> list[tuple[np.ndarray, str, str]]:
    """The samples of :func:`legend_row`: one for each entry, and one for areas.

    Args:
        entries: of the legend.
        areas: whether an area is drawn.
        counts: whether an entry's count follows its name.
    """
    samples = [
        (_sample(entry.outcome), f"{entry.name} {entry.count}" if counts else entry.name, entry.meaning)
        for entry in entries
    ]
    if areas:
        survivor = next(entry.outcome for entry in entries if entry.outcome & SURVIVES)
        samples.append((_sample_area(survivor), "area", "a token and what it absorbed"))
    return samples


def _sample(outcome: Outcome) -> np.ndarray:
    """A cell of an outcome, as it is drawn."""
    return draw_outcomes(_meadow(SAMPLE, SAMPLE), np.array([[int(outcome)]], dtype=np.uint8), np.array([[-1]]))


def _sample_area(outcome: Outcome) -> np.ndarray:
    """A token with three cells that it absorbed."""
    cells = np.full((2, 2), int(Outcome.ABSORBED), dtype=np.uint8)
    cells[0, 0] = int(outcome) & ~int(Outcome.UPDATED) or int(outcome)
    return draw_outcomes(_meadow(SAMPLE, SAMPLE), cells, np.zeros((2, 2), dtype=np.int64))


def _meadow(height: int, width: int) -> np.ndarray:
    """A small picture for the legend, sky over a meadow, to draw outcomes on."""
    top, bottom = np.array((150, 190, 225)), np.array((120, 150, 70))
    share = (np.arange(height) > height * 0.55)[:, None, None]
    return np.broadcast_to(np.where(share, bottom, top), (height, width, 3)).astype(np.uint8)


def caption(canvas: Image.Image, box: tuple[int, int, int, int], parts: tuple[str, str, str], size: int) -> None:
    """Draw a frame's name and time on the left, its tokens on the right; a narrow frame has fewer of them.

    Args:
        canvas: to draw on.
        box: (x, y, width, height) in pixels.
        parts: the frame's name, its time and its tokens, in the order in which they are left out from the end.
        size: of the font in pixels.
    """
    x, y, width, height = box
    index, seconds, tokens = parts
    font = ImageFont.load_default(size=size)
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
