"""The clip timeline: frames along time, cuts and keyframes, tokens kept of every frame, how well they explain it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..stages.methods.anchor_ot.inter import InterFrame
from ..stages.replay import replay
from ..tokens.quality import absorption
from ..tokens.video_tokens import Role, VideoTokens
from ..video.frames import Frames
from .canvas import (
    BACKGROUND,
    MARGIN,
    QUIET_TEXT,
    RAISED,
    RULE,
    SAMPLE,
    TEXT,
    as_image,
    check_width,
    legend_row,
)
from .roles import ROLE_STYLES
from .token_map import frames_drawn, header_of

AXIS = 66
"""Pixels left of the charts for the numbers on their axes."""

LEAST_THUMBNAIL, MOST_THUMBNAIL = 72, 240
"""Bounds of a thumbnail's width, in pixels; where frames are narrower, only some get one."""

BARS, SPREAD = 190, 190
"""Heights of the two charts, in pixels."""

TITLE = 44
"""Pixels from the top of a chart's part to its ground: a line of text, and room for the number on the highest bar."""

BINS = 38
"""Bins of a histogram in the lower chart."""

LEAST_APART = 10
"""Pixels between clips under which no line marks a cut: lines would hide the charts. Diamonds remain."""

MOST_MARKS = 8
"""The most numbers on the lower chart's axis."""

STACK = (Role.KEYFRAME, Role.MERGED, Role.DISTINCT, Role.KEPT)
"""From the bottom of a bar up."""

MEANINGS = MappingProxyType(
    {
        "plan": "share that the keyframe's best token takes of each token",
        "cost": "exp(-c), with c what the keyframe's cheapest token costs each token",
    }
)
"""What q is, by what explains."""

KEYFRAME_COLOUR = ROLE_STYLES[Role.KEYFRAME].colour

CARRIED = (120, 126, 138)
"""Colour of tokens that were merged, in the lower chart."""


class Explained(NamedTuple):
    """How well what was kept explains each token.

    Args:
        value: (N,) float64, above 0 and up to 1.
        frame: (N,) long, the token's frame.
        stayed: (N,) bool, whether the token stays as it is.
        name: of the value.
        meaning: of the value, in a few words.
    """

    value: Tensor
    frame: Tensor
    stayed: Tensor
    name: str
    meaning: str


class Axis(NamedTuple):
    """The time axis of the charts.

    Args:
        edge: (T + 1,) int64, the pixel at which each frame begins, and where the last one ends.
    """

    edge: np.ndarray

    @property
    def frames(self) -> int:
        """T."""
        return len(self.edge) - 1

    @property
    def step(self) -> float:
        """Pixels of a frame."""
        return float(self.edge[-1] - self.edge[0]) / self.frames


def timeline(tokens: VideoTokens, frames: Frames, full: VideoTokens | None = None, *, width: int = 1600) -> Tensor:
    """A video's frames along time: cuts, keyframes, tokens kept of every frame by role, and how well they explain it.

    Frames are at equal distances, each over its second. Bars are the tokens kept, with a texture for each role. The
    lower chart has a histogram for each frame after a keyframe, on a logarithmic axis. With ``full`` it is of q: of
    each token that enters phase II, how well the keyframe explains it. Finished tokens do not carry q, so the stages
    run again. Without ``full``, or without phase II, it is of W: of what is left of each cell, the largest part that is
    in one token.

    Args:
        tokens: of T frames, of any stage.
        frames: the encoded ones.
        full: the encoder's tokens, before any stage; None reads the lower chart off W, as is done where more frames are
            drawn than were encoded.
        width: of the picture, in pixels.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: ``frames`` or ``full`` are not those of ``tokens``, or the width is out of bounds.
    """
    if tokens.on(frames.count) is not tokens:
        tokens, full = tokens.on(frames.count), None
    frames, together = frames_drawn(tokens, frames)
    check_width(width, "timeline")
    pooled = tokens.to_language_grid()
    first = keyframes(tokens)
    explained = explanation(tokens, full, first)
    counts = role_counts(tokens)
    axis = Axis(np.linspace(MARGIN + AXIS, width - MARGIN, frames.count + 1).round().astype(int))

    header, footer = header_of(pooled, width), legend_row(_samples(counts, explained, bool(first)), width)
    film = _film(frames, axis, first, width, together)
    title = "tokens a frame" + ("" if not first else f", {len(first)} clip" + ("s" if len(first) > 1 else ""))
    bars = _bars(counts, axis, width, title)
    spread = _spread(explained, axis, width, Role.DISTINCT if counts[Role.DISTINCT].any() else Role.KEPT)
    parts = [header, film, bars, spread, footer]
    canvas = Image.new("RGB", (width, sum(part.height for part in parts)), BACKGROUND)
    starts = list(accumulate((part.height for part in parts), initial=0))
    for part, y in zip(parts, starts, strict=False):
        canvas.paste(part, (0, y))
    grounds = [(starts[2] + TITLE, starts[3]), (starts[3] + TITLE, starts[4])]
    _draw_cuts(canvas, axis, first, [(starts[1], starts[2]), *grounds])
    return as_image(canvas)


def keyframes(tokens: VideoTokens) -> tuple[int, ...]:
    """The frames that clips begin with, read off the roles; none where no stage cut the video into clips.

    Args:
        tokens: of any stage.
    """
    if not tokens.pooled:
        return ()
    roles = [int(Role.KEYFRAME)]
    if any(record.name == InterFrame.name for record in tokens.history):
        roles.append(int(Role.MERGED))
    in_keyframe = torch.isin(tokens.role.cpu(), torch.tensor(roles, dtype=torch.uint8))
    return tuple(tokens.frame.cpu()[in_keyframe].unique().tolist())


def role_counts(tokens: VideoTokens) -> Tensor:
    """(roles, T) long: tokens of each role at each frame, on the language grid.

    Args:
        tokens: of T frames, of any stage.
    """
    pooled = tokens.to_language_grid()
    frames = pooled.layout.frames
    flat = torch.bincount(pooled.role.cpu().long() * frames + pooled.frame.cpu(), minlength=len(Role) * frames)
    return flat.reshape(len(Role), frames)


def explanation(tokens: VideoTokens, full: VideoTokens | None, first: Sequence[int]) -> Explained:
    """How well each token of the frames after keyframes is explained: by q where phase II ran, else by W.

    Args:
        tokens: of T frames, of any stage.
        full: the encoder's tokens, before any stage; None reads it off W.
        first: frames that clips begin with; their tokens are not counted.

    Raises:
        InputError: ``full`` is not what ``tokens`` were made of.
    """
    steps = list(replay(full, tokens)) if full is not None else []
    phase_two = next(((step, step.stage) for step in steps if isinstance(step.stage, InterFrame)), None)
    if phase_two is not None:
        phase, stage = phase_two
        before = phase.src.to_language_grid()
        q = stage.explained(before).cpu()
        measured = torch.isfinite(q) & (before.role.cpu() != int(Role.NEWLINE))
        cells = before.place.cpu()[measured]
        distinct = phase.reduced.place[phase.reduced.role == int(Role.DISTINCT)].cpu()
        stayed = torch.isin(before.layout.index(cells), before.layout.index(distinct))
        meaning = MEANINGS[stage.explained_by]
        return Explained(q[measured], cells[:, 0], stayed, "q", meaning)
    largest = absorption(tokens).largest
    shape = largest.shape
    frame = torch.arange(shape[0])[:, None, None].expand(shape)
    measured = (largest > 0) & ~torch.isin(frame, torch.tensor(first, dtype=torch.long))
    pooled = tokens.to_language_grid()
    cells = pooled.place[pooled.role != int(Role.NEWLINE)].cpu()
    stayed = torch.zeros(shape, dtype=torch.bool)
    stayed[tuple(cells.unbind(1))] = True
    meaning = "of each cell, the part in the token that holds most of it, read off W"
    return Explained(largest[measured], frame[measured], stayed[measured], "largest share", meaning)


def _film(frames: Frames, axis: Axis, first: Sequence[int], width: int, together: int) -> Image.Image:
    """Thumbnails over their frame and second; a keyframe's has a thick outline and a diamond above it."""
    every = max(1, math.ceil(LEAST_THUMBNAIL / axis.step))
    across = min(MOST_THUMBNAIL, int(axis.step * every) - 4)
    down = max(1, round(across * frames.height / frames.width))
    top = 20
    picture = Image.new("RGB", (width, top + down + 44), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    small = ImageFont.load_default(size=14)
    for index in range(0, frames.count, every):
        x = int(axis.edge[index]) + (2 if every > 1 else int(axis.step - across) // 2)
        if x + across > width - MARGIN + 2:
            break
        thumbnail = Image.fromarray(frames.pixels[index].cpu().numpy())
        picture.paste(thumbnail.resize((across, down), Image.Resampling.LANCZOS, reducing_gap=2.0), (x, top))
        if index in first:
            draw.rectangle((x, top, x + across - 1, top + down - 1), outline=KEYFRAME_COLOUR, width=3)
        middle = x + across / 2
        draw.text((middle, top + down + 11), str(index * together), fill=TEXT, font=small, anchor="mm")
        seconds = f"{float(frames.timestamps[index]):.2f} s"
        draw.text((middle, top + down + 27), seconds, fill=QUIET_TEXT, font=small, anchor="mm")
    half = max(1, min(7, int(_apart(axis, first) / 2) - 1))
    for index in first:
        x = (int(axis.edge[index]) + int(axis.edge[index + 1])) // 2
        draw.polygon(((x, 9 - half), (x + half, 9), (x, 9 + half), (x - half, 9)), fill=KEYFRAME_COLOUR)
    return picture


def _apart(axis: Axis, first: Sequence[int]) -> float:
    """Pixels between the two cuts nearest to each other."""
    return axis.step * min((b - a for a, b in pairwise(first)), default=axis.frames)


def _bars(counts: Tensor, axis: Axis, width: int, title: str) -> Image.Image:
    """A bar of the tokens kept for every frame, its roles one above the other."""
    total = counts[list(STACK)].sum(0)
    most = max(1, int(total.max()))
    picture, floor = _chart(width, BARS, title)
    draw = ImageDraw.Draw(picture)
    _ticks(draw, [(floor - round(BARS * at / most), str(at)) for at in sorted({0, most // 2, most})], width)
    pixels = np.array(picture)
    for role in STACK:
        below = counts[list(STACK[: STACK.index(role)])].sum(0)
        lows = (floor - BARS * below / most).round().int().tolist()
        highs = (floor - BARS * (below + counts[role]) / most).round().int().tolist()
        for left, right, low, high in zip(axis.edge[:-1], axis.edge[1:], lows, highs, strict=True):
            space = 2 if right - left > 8 else 0
            _fill(pixels, (int(left) + space, high, max(int(left) + 1, int(right) - space), low), role)
    picture = Image.fromarray(pixels)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    if axis.step >= font.getlength(str(most)) + 4:
        for index, amount in enumerate(total.tolist()):
            x = (axis.edge[index] + axis.edge[index + 1]) / 2
            draw.text((x, floor - BARS * amount / most - 9), str(amount), fill=TEXT, font=font, anchor="mm")
    return picture


def _spread(explained: Explained, axis: Axis, width: int, role: Role) -> Image.Image:
    """A histogram of every frame's values, on a logarithmic axis; tokens that stayed have the texture of ``role``."""
    picture, floor = _chart(width, SPREAD, f"{explained.name}: {explained.meaning}")
    if not len(explained.value):
        return picture
    value = explained.value.clamp(1e-6, 1).log10()
    low, high = _decades(float(value.min()), float(value.max()))
    draw = ImageDraw.Draw(picture)
    marks = [(floor - round(SPREAD * (math.log10(at) - low) / (high - low)), f"{at:g}") for at in _marks(low, high)]
    _ticks(draw, marks, width)
    step = ((value - low) / (high - low) * BINS).long().clamp(0, BINS - 1)
    cell = (explained.frame * BINS + step) * 2 + explained.stayed.long()
    count = torch.bincount(cell, minlength=axis.frames * BINS * 2).reshape(axis.frames, BINS, 2)
    most, space = int(count.sum(2).max()), min(3.0, axis.step / 8)
    pixels = np.array(picture)
    for frame, step in count.sum(2).nonzero().tolist():
        carried, stayed = count[frame, step].tolist()
        left, room = int(axis.edge[frame] + space), max(1.0, axis.step - 2 * space)
        top = floor - round(SPREAD * (step + 1) / BINS)
        bottom = floor - round(SPREAD * step / BINS) - 1
        middle = left + max(round(room * stayed / most), 1 if stayed else 0)
        right = middle + max(round(room * carried / most), 1 if carried else 0)
        _fill(pixels, (left, top, middle, bottom), role)
        pixels[top:bottom, middle:right] = CARRIED
    return Image.fromarray(pixels)


def _chart(width: int, height: int, title: str) -> tuple[Image.Image, int]:
    """The ground of a chart under its title, and the row of its floor."""
    picture = Image.new("RGB", (width, TITLE + height + 20), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN + AXIS, 12), title, fill=QUIET_TEXT, font=ImageFont.load_default(size=15), anchor="lm")
    floor = TITLE + height
    draw.rectangle((MARGIN + AXIS, TITLE, width - MARGIN, floor), fill=RAISED)
    return picture, floor


def _ticks(draw: ImageDraw.ImageDraw, ticks: Sequence[tuple[int, str]], width: int) -> None:
    """Draw lines across a chart, each with its number on the left."""
    font = ImageFont.load_default(size=14)
    for y, text in ticks:
        draw.line((MARGIN + AXIS, y, width - MARGIN, y), fill=RULE)
        draw.text((MARGIN + AXIS - 8, y), text, fill=QUIET_TEXT, font=font, anchor="rm")


def _decades(low: float, high: float) -> tuple[float, float]:
    """The logarithms at both ends of an axis: a little beyond its values, and never equal."""
    room = max(0.05, 0.04 * (high - low))
    return low - room, min(high + room, 0.02)


def _marks(low: float, high: float) -> list[float]:
    """The numbers on a logarithmic axis from 10^low to 10^high: round ones, as many as have room."""
    powers = range(-7, 1)
    marks: list[float] = []
    for digits in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        finer = [digit * 10.0**power for power in powers for digit in digits]
        finer = [mark for mark in finer if low <= math.log10(mark) <= high]
        marks = finer if len(finer) <= MOST_MARKS else marks
    return marks


def _fill(pixels: np.ndarray, box: tuple[int, int, int, int], role: Role) -> None:
    """Fill a box (left, top, right, bottom) with a role's colour and texture.

    Keyframe is solid, updated dotted, distinct hatched, kept ruled.
    """
    left, top, right, bottom = box
    area = pixels[top:bottom, left:right]
    y, x = np.indices((area.shape[0], area.shape[1]), sparse=True)
    y, x = y + top, x + left
    dark = {
        Role.MERGED: (y % 5 < 2) & (x % 5 < 2),
        Role.DISTINCT: (y + x) % 6 < 2,
        Role.KEPT: (y % 7 < 1) | (x < 0),
    }.get(role)
    colour = ROLE_STYLES[role].colour
    area[:] = colour
    if dark is not None:
        area[dark] = (np.array(colour) * 0.35).astype(np.uint8)


def _samples(counts: Tensor, explained: Explained, clips: bool) -> list[tuple[np.ndarray, str, str]]:
    """The legend: every role that tokens have, the tokens merged into others, and where clips begin."""
    samples = []
    for role in STACK:
        if amount := int(counts[role].sum()):
            pixels = np.zeros((SAMPLE, SAMPLE, 3), dtype=np.uint8)
            _fill(pixels, (0, 0, SAMPLE, SAMPLE), role)
            style = ROLE_STYLES[role]
            samples.append((pixels, f"{style.name} {amount}", style.brief))
    if merged := int((~explained.stayed).sum()):
        grey = np.full((SAMPLE, SAMPLE, 3), CARRIED, dtype=np.uint8)
        samples.append((grey, f"merged {merged}", "tokens after keyframes" if clips else "into others"))
    if clips:
        picture = Image.new("RGB", (SAMPLE, SAMPLE), BACKGROUND)
        draw = ImageDraw.Draw(picture)
        draw.polygon(((17, 3), (27, 13), (17, 23), (7, 13)), fill=KEYFRAME_COLOUR)
        samples.append((np.array(picture), "clip", "begins with its keyframe"))
    return samples


def _draw_cuts(canvas: Image.Image, axis: Axis, first: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
    """Draw a dashed line where each clip but the first begins, over each of the (top, bottom) spans."""
    draw = ImageDraw.Draw(canvas)
    for index in first:
        x = int(axis.edge[index])
        for top, bottom in spans if index and _apart(axis, first) >= LEAST_APART else ():
            for y in range(top, bottom, 9):
                draw.line((x, y, x, min(y + 4, bottom)), fill=TEXT)
