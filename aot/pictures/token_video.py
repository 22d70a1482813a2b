"""The token map as a video: the clip at its own speed, tokens over it, budget, question and answer below.

What became of a cell: :mod:`.outcomes`. How that is drawn: :mod:`.overlay`. Each frame that was encoded stays until
the time of the next one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import InputError
from ..models.progress import Progress, ignore_progress
from ..tokens.video_tokens import VideoTokens
from ..video.encoding import encode_mp4
from ..video.frames import Frames
from .canvas import BACKGROUND, MARGIN, QUIET_TEXT, TEXT, check_width, legend_row, text_lines
from .outcomes import SURVIVES, CellOutcomes, LegendEntry, cell_outcomes, legend
from .overlay import draw_outcomes
from .token_map import amounts, budget_of, caption, frames_together, legend_samples, stages_of

SHORTEST, LONGEST = 5.0, 30.0
"""Bounds of a video's length, in seconds, where it is left open."""

RATE, MOST_RATE = 10, 30
"""Frames a second: what will do where frames are held long, and the most there are."""

TALLEST = 9 / 16
"""Height over the video's width that a frame stays under."""

SEAM = 8
"""Pixels between the two clips."""

SPACE = 24
"""Pixels between two samples of the legend."""

MOST_LINES = 3
"""Lines of a text; a longer one is shortened."""


class Overlay(NamedTuple):
    """What is drawn over a clip, and written below it.

    Args:
        tokens: of any stage.
        question: that was asked about them; "" for none.
        answer: to it; None for none.
    """

    tokens: VideoTokens
    question: str = ""
    answer: str | None = None


class Pace(NamedTuple):
    """How long each frame stays.

    Args:
        rate: pictures a second.
        lasts: pictures of each frame, one at least.
    """

    rate: int
    lasts: list[int]


def token_video(
    overlays: Sequence[Overlay],
    frames: Frames,
    path: Path,
    *,
    width: int = 1280,
    seconds: float | None = None,
    metadata: Mapping[str, str] = MappingProxyType({}),
    on_progress: Progress = ignore_progress,
) -> None:
    """Write the clip with its tokens over it as an mp4, completely or not at all.

    Args:
        overlays: one, or two for one beside the other.
        frames: the encoded ones, of any size.
        path: of the file, in a folder that exists.
        width: of the video at most, in pixels; clips higher than 16:9 take less.
        seconds: that the video takes; None plays the clip at its own speed, in 5 seconds at least and 30 at most.
        metadata: texts by name, to be kept in the file.
        on_progress: called with the frames that are drawn and all of them.

    Raises:
        InputError: the frames are more or fewer than the tokens', there are too many for the seconds, the width is out
            of bounds or leaves cells without a pixel, or the file cannot be written.
    """
    check_width(width, "token map video")
    overlays = [each._replace(tokens=each.tokens.on(frames.count)) for each in overlays]
    _check_frames(overlays, frames)
    pace = paced(frames, seconds)
    pictures = zip(_pictures(overlays, frames, width, on_progress), pace.lasts, strict=True)
    encode_mp4(pictures, path, Fraction(pace.rate), metadata)


def paced(frames: Frames, seconds: float | None = None) -> Pace:
    """How long each frame stays: until the next one's time, the last one as long as most.

    Args:
        frames: of the clip.
        seconds: that all of them take; None for those of the clip, 5 at least and 30 at most, longer only where 30
            frames a second would not do.

    Raises:
        InputError: more than 30 frames a second are needed.
    """
    times = frames.timestamps.numpy()
    gaps = np.diff(times)
    real = float(times[-1] - times[0] + np.median(gaps)) if len(gaps) else 0.0
    needed = frames.count / MOST_RATE
    if seconds is None:
        seconds = max(needed, min(LONGEST, max(SHORTEST, real)))
    elif not (math.isfinite(seconds) and seconds >= needed):
        raise InputError(
            f"A token map video of {frames.count} frames in {seconds:g} seconds; give {needed:.2f} seconds or more."
        )
    closest = float(gaps.min()) * seconds / real if len(gaps) else seconds
    rate = min(MOST_RATE, max(RATE, math.ceil(1 / closest - 1e-6)))
    total = max(frames.count, round(seconds * rate))
    number = np.arange(frames.count)
    starts = np.rint((times - times[0]) / (real or 1.0) * total).astype(int)
    starts = np.maximum.accumulate(starts - number) + number  # one picture each, even where times are close
    starts = np.minimum(starts, total - frames.count + number)
    return Pace(rate, np.diff(starts, append=total).tolist())


def _check_frames(overlays: Sequence[Overlay], frames: Frames) -> None:
    counts = [overlay.tokens.frames_shown for overlay in overlays]
    if len(set(counts)) > 1:
        raise InputError(
            f"The tokens on the left describe {counts[0]} frames and those on the right {counts[1]}; "
            "connect tokens of the same frames."
        )
    if counts[0] != frames.count:
        raise InputError(
            f"The tokens describe {counts[0]} frames and {frames.count} frames were given to draw them on; "
            "connect the same frames that were encoded."
        )


def _pictures(overlays: Sequence[Overlay], frames: Frames, width: int, on_progress: Progress) -> Iterator[np.ndarray]:
    """The video's pictures, (H, W, 3) uint8, one for each frame.

    Raises:
        InputError: the width leaves cells without a pixel.
    """
    room = (width + SEAM) // len(overlays) - SEAM
    scale = min(room / frames.width, TALLEST * width / frames.height)
    panel = max(1, round(scale * frames.width)), max(1, round(scale * frames.height))
    cells = [cell_outcomes(overlay.tokens) for overlay in overlays]
    outcomes, areas = [each.outcome.numpy() for each in cells], [each.area.numpy() for each in cells]
    if any(panel[0] < each.shape[2] or panel[1] < each.shape[1] for each in outcomes):
        raise InputError(f"Cells have no pixel in a token map video {width} pixels wide; give a larger width.")

    column = max(panel[0], min(room, panel[1]))
    across = len(overlays) * (column + SEAM) - SEAM
    size = 18 + column // 80
    texts = [_text(overlay, column, size) for overlay in overlays]
    words = [amounts(overlay.tokens, outcome) for overlay, outcome in zip(overlays, outcomes, strict=True)]
    footer = _legend(overlays, cells, across)
    line = size + MARGIN // 2
    top = panel[1] + line - MARGIN // 2
    height = top + max(text.height for text in texts) + footer.height
    ground = Image.new("RGB", (across + across % 2, height + height % 2), BACKGROUND)
    ground.paste(footer, (0, height - footer.height))
    for number, text in enumerate(texts):
        ground.paste(text, (number * (column + SEAM), top))

    for index in range(frames.count):
        on_progress(index, frames.count)
        frame = Image.fromarray(frames.pixels[index].numpy())
        frame = np.asarray(frame.resize(panel, Image.Resampling.LANCZOS, reducing_gap=2.0))
        picture = ground.copy()
        parts = f"{float(frames.timestamps[index]):.2f} s", f"frame {index}"
        for number, overlay in enumerate(overlays):
            place = index // frames_together(overlay.tokens)
            x = number * (column + SEAM)
            drawn = draw_outcomes(frame, outcomes[number][place], areas[number][place])
            picture.paste(Image.fromarray(drawn), (x + (column - panel[0]) // 2, 0))
            box = x + MARGIN, panel[1], column - 2 * MARGIN, line
            caption(picture, box, (*parts, words[number][place]), round(0.7 * size))
        yield np.asarray(picture)
    on_progress(frames.count, frames.count)


def _text(overlay: Overlay, width: int, size: int) -> Image.Image:
    """The budget and how it came about, the question and the answer."""
    texts = [(budget_of(overlay.tokens), size, TEXT), (stages_of(overlay.tokens), round(0.6 * size), QUIET_TEXT)]
    if overlay.question:
        texts.append((overlay.question, round(0.8 * size), QUIET_TEXT))
    if overlay.answer is not None:
        texts.append((overlay.answer.strip() or "(empty answer)", round(1.2 * size), TEXT))
    return text_lines(texts, width, MOST_LINES)


def _legend(overlays: Sequence[Overlay], cells: Sequence[CellOutcomes], width: int) -> Image.Image:
    """What the outcomes of all overlays mean, with their counts where there is one."""
    entries = [
        entry
        for overlay, each in zip(overlays, cells, strict=True)
        for entry in legend(overlay.tokens, each.outcome)
        if entry.count
    ]
    by_name: dict[str, LegendEntry] = {}
    for entry in entries:
        by_name.setdefault(entry.name, entry)
    ordered = sorted(by_name.values(), key=lambda entry: not entry.outcome & SURVIVES)
    areas = any(bool((each.area >= 0).any()) for each in cells)
    return legend_row(legend_samples(ordered, areas, counts=len(overlays) == 1), width, SPACE)
