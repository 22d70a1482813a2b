"""A picture of the most telling kept tokens: a row for each, its place and, frame by frame, the cells it comes from.

Weights are shaded in one colour that no outline has, lighter as they grow, over a grey, dim frame; so neither the
interactive view nor colour vision is needed to read it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
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
    TEXT,
    as_image,
    plural,
    shorten,
    text_lines,
)
from .explorer import Transport
from .overlay import DIMMED, LUMA
from .roles import BEND, FAINTEST, ROLE_STYLES, SHADE, STRONGEST
from .token_map import frames_drawn

WIDTH = 1400
"""Of the picture, in pixels."""

PANELS = 5
"""Frames a row shows at most: its token's own, and those it takes most from."""

TALLEST_PANEL = 260
"""Pixels."""

STANDS_FOR, REACHES = "stand for most", "reach furthest"
CHOICES = (STANDS_FOR, REACHES)
"""Which tokens are shown: those standing for most source cells, or those with most weight outside their own frame."""

MOST_ROWS = 12


class Panel(NamedTuple):
    """A frame of a row: its number, the token's weight in it, and its cells' weights (H, W)."""

    frame: int
    share: float
    weights: np.ndarray


def transport_picture(
    tokens: VideoTokens, frames: Frames, transport: Transport, *, choice: str = STANDS_FOR, rows: int = 4
) -> Tensor:
    """The most telling kept tokens, a row for each: what they are, and the frames and cells they come from.

    Args:
        tokens: anything from freshly encoded to fully reduced.
        frames: those they were encoded from; of several that the encoder takes as one, the first is drawn.
        transport: of the same tokens.
        choice: which tokens are telling, one of ``CHOICES``.
        rows: how many, 1 to 12.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: the frames are not the tokens' in number, or there is no such choice or number of rows.
    """
    if choice not in CHOICES:
        raise InputError(f"There is no choice {choice!r} of tokens to show; choose one of {', '.join(CHOICES)}.")
    if not 1 <= rows <= MOST_ROWS:
        raise InputError(f"A picture of {rows} tokens; give 1 to {MOST_ROWS}.")
    frames, together = frames_drawn(tokens, frames)
    chosen = [int(token) for token in telling(transport, choice)[:rows]]
    panels = [_panels(transport, token) for token in chosen]
    columns = max(2, *map(len, panels))
    parts = [_header(tokens, transport)]
    for token, row in zip(chosen, panels, strict=True):
        parts.append(_row(frames, transport, token, row, columns, together))
    canvas = Image.new("RGB", (WIDTH, sum(part.height for part in parts) + MARGIN), BACKGROUND)
    y = 0
    for part in parts:
        canvas.paste(part, (0, y))
        y += part.height
    return as_image(canvas)


def telling(transport: Transport, choice: str) -> np.ndarray:
    """(n,) int64: kept tokens, newlines left out, the most telling first.

    Those at least half as telling as the very first take turns by frame, so that a picture of few shows several clips.
    """
    frame = transport.place[:, 0]
    if choice == REACHES:
        away = transport.source // transport.layout.sources != frame[transport.row]
        measure = np.bincount(transport.row, transport.weight * away, transport.kept)
    else:
        measure = transport.speaks
    order = np.lexsort((-measure, frame))
    first = np.flatnonzero(np.diff(frame[order], prepend=-1))
    number = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    order = order[np.lexsort((-measure[order], number, 2 * measure[order] < measure.max()))]
    return order[transport.role[order] != int(Role.NEWLINE)]


def describe(transport: Transport, token: int, together: int = 1) -> str:
    """What a token is and where its weight lies, in a sentence; numbers count from 0."""
    part = slice(transport.start[token], transport.start[token + 1])
    own, shown = float(transport.own[token]), float(transport.shown[token])
    t, y, x = transport.place[token]
    name = ROLE_STYLES[Role(int(transport.role[token]))].name
    found = np.unique(transport.source[part] // transport.layout.sources)
    span = f"frame {_number(found[0], together)}"
    if len(found) > 1:
        span = f"frames {_number(found[0], together)} to {_number(found[-1], together)}"
    said = (
        f"Frame {_number(t, together)}, row {y}, column {x}: {name} token = {own:.0%} its own place, "
        f"{max(0.0, 1 - own):.0%} elsewhere; {plural(part.stop - part.start, 'cell')} in {span} make up {shown:.0%}; "
        f"stands for {transport.speaks[token]:.1f} source cells"
    )
    scale = float(transport.scale[token])
    return said + (f"; multiplied by {scale:.2f}" if abs(scale - 1) > 1e-3 else "") + "."


def _number(frame: int, together: int) -> str:
    return str(frame) if together == 1 else f"{frame * together}+"


def _header(tokens: VideoTokens, transport: Transport) -> Image.Image:
    title = f"Where {plural(tokens.tokens_kept, 'token')} of {tokens.tokens_full} come from"
    legend = (
        "Outlined: the token's place. Shaded: the cells it is a weighted mean of, stronger as they weigh more (the "
        f"largest of a token is full). Drawn is {transport.shown.min():.0%} or more of every token's weight."
    )
    return text_lines(((title, 22, TEXT), (legend, 14, QUIET_TEXT)), WIDTH)


def _row(
    frames: Frames, transport: Transport, token: int, panels: list[Panel], columns: int, together: int
) -> Image.Image:
    """One token: a sentence, and under it its frames side by side, each with its share of the token's weight."""
    across = (WIDTH - 2 * MARGIN + GAP) // columns - GAP
    down = min(TALLEST_PANEL, round(across * frames.height / frames.width))
    across = min(across, max(1, round(down * frames.width / frames.height)))
    sentence = text_lines(((describe(transport, token, together), 15, TEXT),), WIDTH)
    row = Image.new("RGB", (WIDTH, sentence.height + 20 + down), BACKGROUND)
    row.paste(sentence, (0, 0))
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=13)
    largest = max(float(panel.weights.max()) for panel in panels)
    for index, panel in enumerate(panels):
        x, y = MARGIN + index * (across + GAP), sentence.height + 20
        own = panel.frame == transport.place[token, 0]
        time = float(frames.timestamps[panel.frame])
        caption = f"{_number(panel.frame, together)}   {time:.2f} s   {panel.share:.1%}{', its frame' if own else ''}"
        draw.text((x, y - 11), shorten(caption, font, across), fill=QUIET_TEXT, font=font, anchor="lm")
        pixels = Image.fromarray(frames.pixels[panel.frame].cpu().numpy()).resize((across, down))
        picture = Image.fromarray(_shaded(np.asarray(pixels), panel.weights / (largest or 1)))
        if own:
            _outline(picture, transport, token)
        row.paste(picture, (x, y))
    return row


def _panels(transport: Transport, token: int) -> list[Panel]:
    """The token's own frame and those it takes most from, in order."""
    maps = transport.maps(token)
    share = maps.sum((1, 2))
    own = int(transport.place[token, 0])
    others = [int(frame) for frame in np.argsort(-share, kind="stable") if frame != own and share[frame] > 0]
    return [Panel(frame, float(share[frame]), maps[frame]) for frame in sorted([own, *others[: PANELS - 1]])]


def _shaded(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A frame, (H, W, 3) uint8, grey and dim, its cells shaded by their weights, (h, w) in 0 to 1; a new array."""
    height, width = pixels.shape[:2]
    rows, columns = (
        np.arange(side) * cells // side for side, cells in zip((height, width), weights.shape, strict=True)
    )
    at = weights[rows[:, None], columns[None, :], None]
    cover = np.where(at > 0, FAINTEST + (STRONGEST - FAINTEST) * at**BEND, 0)
    grey = DIMMED * (pixels.astype(np.float64) @ np.array(LUMA))[:, :, None]
    return (grey * (1 - cover) + np.array(SHADE) * cover).round().astype(np.uint8)


def _outline(picture: Image.Image, transport: Transport, token: int) -> None:
    """Draw a token's place onto its frame, in its role's colour between dark lines, so that it shows on any ground."""
    (height, width), (_, y, x) = transport.token_grid, transport.place[token]
    box = [
        math.floor(x * picture.width / width), math.floor(y * picture.height / height),
        math.ceil((x + 1) * picture.width / width) - 1, math.ceil((y + 1) * picture.height / height) - 1,
    ]  # fmt: skip
    colour = ROLE_STYLES[Role(int(transport.role[token]))].colour
    draw = ImageDraw.Draw(picture)
    for grow, width, fill in ((3, 1, BACKGROUND), (2, 2, colour), (0, 1, BACKGROUND)):
        draw.rectangle([box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow], outline=fill, width=width)
