"""A picture of the most telling kept tokens: a row for each, with its place and the cells of each frame it comes from.

Weights are shaded in one colour that no outline has, stronger as they grow, over a grey, dim frame. Neither the
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
"""Width of the picture, in pixels."""

PANELS = 5
"""The most frames in a row: the token's own, and those it takes most from."""

TALLEST_PANEL = 260
"""The largest height of a frame, in pixels."""

STANDS_FOR, REACHES = "stand for most", "reach furthest"
CHOICES = (STANDS_FOR, REACHES)
"""Which tokens the picture has: those that stand for most source cells, or those with most weight in other frames."""

MOST_ROWS = 12


class Panel(NamedTuple):
    """A frame of a row.

    Args:
        frame: its number.
        share: of the token's weight that lies in it.
        weights: (H, W) float64, of its cells.
    """

    frame: int
    share: float
    weights: np.ndarray


def transport_picture(
    tokens: VideoTokens, frames: Frames, transport: Transport, *, choice: str = STANDS_FOR, rows: int = 4
) -> Tensor:
    """The most telling kept tokens, a row for each: what it is, and the frames and cells it comes from.

    Args:
        tokens: anything from freshly encoded to fully reduced.
        frames: the encoded ones. Where the encoder takes several as one, the first of them is drawn.
        transport: of the same tokens.
        choice: which tokens are telling, one of ``CHOICES``.
        rows: how many, 1 to 12.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: the frames are more or fewer than the tokens', or the choice or the number of rows is not allowed.
    """
    if choice not in CHOICES:
        raise InputError(f"There is no choice {choice!r} of tokens to show; choose one of {', '.join(CHOICES)}.")
    if not 1 <= rows <= MOST_ROWS:
        raise InputError(f"A picture of {rows} tokens; give 1 to {MOST_ROWS}.")
    tokens = tokens.on(frames.count)
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
    """(n,) int64: indices of the kept tokens without newlines, the most telling first.

    Tokens at least half as telling as the first take turns by frame, so that a picture of few shows several clips.

    Args:
        transport: of the tokens.
        choice: which tokens are telling, one of ``CHOICES``.
    """
    frame = transport.place[:, 0]
    if choice == REACHES:
        away = transport.src // transport.layout.sources != frame[transport.row]
        measure = np.bincount(transport.row, transport.weight * away, transport.kept)
    else:
        measure = transport.stands_for
    order = np.lexsort((-measure, frame))
    first = np.flatnonzero(np.diff(frame[order], prepend=-1))
    number = np.arange(len(order)) - np.repeat(first, np.diff(np.append(first, len(order))))
    order = order[np.lexsort((-measure[order], number, 2 * measure[order] < measure.max()))]
    return order[transport.role[order] != int(Role.NEWLINE)]


def describe(transport: Transport, token: int, together: int = 1) -> str:
    """A sentence: what a token is, and where its weight lies. Numbers count from 0.

    Args:
        transport: of the tokens.
        token: index of the kept token.
        together: frames of the video that the encoder takes as one.
    """
    part = slice(transport.start[token], transport.start[token + 1])
    own, coverage = float(transport.own[token]), float(transport.coverage[token])
    t, y, x = transport.place[token]
    name = ROLE_STYLES[Role(int(transport.role[token]))].name
    frames = np.unique(transport.src[part] // transport.layout.sources)
    span = f"frame {_number(frames[0], together)}"
    if len(frames) > 1:
        span = f"frames {_number(frames[0], together)} to {_number(frames[-1], together)}"
    sentence = (
        f"Frame {_number(t, together)}, row {y}, column {x}: {name} token = {own:.0%} its own place, "
        f"{max(0.0, 1 - own):.0%} elsewhere; {plural(part.stop - part.start, 'cell')} in {span} make up "
        f"{coverage:.0%}; stands for {transport.stands_for[token]:.1f} source cells"
    )
    scale = float(transport.scale[token])
    return sentence + (f"; multiplied by {scale:.2f}" if abs(scale - 1) > 1e-3 else "") + "."


def _number(frame: int, together: int) -> str:
    return str(frame) if together == 1 else f"{frame * together}+"


def _header(tokens: VideoTokens, transport: Transport) -> Image.Image:
    title = f"Where {plural(tokens.tokens_kept, 'token')} of {tokens.tokens_full} come from"
    legend = (
        "Outlined: the token's place. Shaded: the cells it is a weighted mean of, stronger as they weigh more (the "
        f"largest of a token is full). Drawn is {transport.coverage.min():.0%} or more of every token's weight."
    )
    return text_lines(((title, 22, TEXT), (legend, 14, QUIET_TEXT)), WIDTH)


def _row(
    frames: Frames, transport: Transport, token: int, panels: list[Panel], columns: int, together: int
) -> Image.Image:
    """One token: a sentence, and below it its frames side by side, each with its share of the weight."""
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
    """The token's own frame and those it takes most from, in order of time."""
    maps = transport.maps(token)
    share = maps.sum((1, 2))
    own = int(transport.place[token, 0])
    others = [int(frame) for frame in np.argsort(-share, kind="stable") if frame != own and share[frame] > 0]
    return [Panel(frame, float(share[frame]), maps[frame]) for frame in sorted([own, *others[: PANELS - 1]])]


def _shaded(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8, a new array: the frame grey and dim, its cells shaded by their weights, (h, w), 0 to 1."""
    height, width = pixels.shape[:2]
    rows, columns = (
        np.arange(side) * cells // side for side, cells in zip((height, width), weights.shape, strict=True)
    )
    at = weights[rows[:, None], columns[None, :], None]
    opacity = np.where(at > 0, FAINTEST + (STRONGEST - FAINTEST) * at**BEND, 0)
    grey = DIMMED * (pixels.astype(np.float64) @ np.array(LUMA))[:, :, None]
    return (grey * (1 - opacity) + np.array(SHADE) * opacity).round().astype(np.uint8)


def _outline(picture: Image.Image, transport: Transport, token: int) -> None:
    """Outline a token's place on its frame in its role's colour, between dark lines, to show on any picture."""
    (height, width), (_, y, x) = transport.token_grid, transport.place[token]
    box = [
        math.floor(x * picture.width / width), math.floor(y * picture.height / height),
        math.ceil((x + 1) * picture.width / width) - 1, math.ceil((y + 1) * picture.height / height) - 1,
    ]  # fmt: skip
    colour = ROLE_STYLES[Role(int(transport.role[token]))].colour
    draw = ImageDraw.Draw(picture)
    for grow, width, fill in ((3, 1, BACKGROUND), (2, 2, colour), (0, 1, BACKGROUND)):
        draw.rectangle([box[0] - grow, box[1] - grow, box[2] + grow, box[3] + grow], outline=fill, width=width)
