"""What every picture here is drawn with: colours, margins, text broken into lines, and the file it is saved to."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError
from ..files import whole_file

BACKGROUND = (22, 24, 29)
TEXT = (238, 240, 243)
QUIET_TEXT = (160, 167, 178)
RAISED = (34, 37, 44)
"""Colour of what lies on the background: the head of a table, a marked row, the ground of a chart."""
RULE = (62, 67, 78)
"""Colour of thin lines between rows and across charts."""

ORANGE = (230, 159, 0)
SKY_BLUE = (86, 180, 233)
GREEN = (0, 158, 115)
YELLOW = (240, 228, 66)
VERMILION = (213, 94, 0)
PURPLE = (204, 121, 167)
"""Colours that colour-blind readers tell apart, by Okabe and Ito; shape, texture or a word always says the same."""

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
"""What Pillow loads: the second where it is built without FreeType."""

SYSTEM_FONTS = (
    "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "DroidSansFallbackFull.ttf",
    "arial.ttf", "msyh.ttc", "YuGothM.ttc", "malgun.ttf", "Nirmala.ttf", "Nirmala.ttc",
    "Arial Unicode.ttf", "PingFang.ttc", "Hiragino Sans GB.ttc", "AppleSDGothicNeo.ttc",
)  # fmt: skip
"""Fonts for scripts that others lack: of Linux, of Windows, of macOS. Pillow knows where each keeps them."""

NO_CHARACTER = "\U0010fffe"
"""What no font has: drawn, it is the box in place of a missing character."""

_UNSPACED = r"\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
"""Characters of Chinese, Japanese and Korean, in a regular expression."""

PIECE = re.compile(rf"\s*(?:[{_UNSPACED}]|[^\s{_UNSPACED}]+)")
"""A word, or a character of a script that is written without spaces, with the space before it."""

LEAST_WIDTH, MOST_WIDTH = 320, 2400
"""Bounds of a picture's width, in pixels."""

MARGIN = 24
GAP = 12
SAMPLE = 34
"""Side of a sample in a legend, in pixels."""


def as_image(picture: Image.Image) -> Tensor:
    """The picture as ComfyUI's IMAGE: (1, H, W, 3) float32, 0 to 1."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).to(torch.float32)[None] / 255


def check_width(width: int, what: str) -> None:
    """Raise an InputError where a width is out of bounds.

    Args:
        width: in pixels.
        what: the picture's name, for the error.
    """
    if not LEAST_WIDTH <= width <= MOST_WIDTH:
        raise InputError(f"A {what} {width} pixels wide; give {LEAST_WIDTH} to {MOST_WIDTH}.")


def save_png(image: Tensor, path: Path) -> None:
    """Write an image as PNG. No part of a file is left where writing fails.

    Args:
        image: (1, H, W, 3) or (H, W, 3), floating, 0 to 1.
        path: of the file.
    """
    pixels = image.detach().cpu().reshape(image.shape[-3:])
    pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def font_for(text: str, size: int) -> Font:
    """Pillow's own font; where it lacks characters of the text, the one at hand that lacks the fewest.

    Pillow's has little more than ASCII. Matplotlib's has Latin, Greek, Cyrillic and Arabic letters; others are the
    system's. A character that none of them has is drawn as a box.

    Args:
        text: to draw.
        size: in pixels.
    """
    best = ImageFont.load_default(size=size)
    unusual = {character for character in text if not character.isascii() and not character.isspace()}
    if not unusual:
        return best

    from matplotlib import get_data_path

    least = _missing(best, unusual)
    for name in (f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", *SYSTEM_FONTS):
        try:
            font = ImageFont.truetype(name, size)
        except OSError:
            continue
        if (missing := _missing(font, unusual)) < least:
            best, least = font, missing
        if not least:
            break
    return best


def _missing(font: Font, characters: Iterable[str]) -> int:
    """How many of the characters a font lacks."""
    box = _drawn(font, NO_CHARACTER)
    return sum(_drawn(font, character) == box for character in characters)


def _drawn(font: Font, character: str) -> bytes:
    """A character's pixels."""
    picture = Image.new("L", (64, 64))
    ImageDraw.Draw(picture).text((8, 8), character, fill=255, font=font)
    return picture.tobytes()


def text_lines(
    texts: Sequence[tuple[str, int, tuple[int, int, int]]], width: int, most_lines: int | None = None
) -> Image.Image:
    """Texts one below the other, broken between words.

    Args:
        texts: each (text, font size, colour).
        width: of the picture in pixels.
        most_lines: of each text, the last of them ended by three dots where it is longer; None for as many as it has.
    """
    lines = [
        (line, font, round(size * 1.4), colour)
        for text, size, colour in texts
        for font in [font_for(text, size)]
        for line in at_most(wrap(text, font, width - 2 * MARGIN), most_lines, font, width - 2 * MARGIN)
    ]
    picture = Image.new("RGB", (width, sum(height for _, _, height, _ in lines) + MARGIN + GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    y = MARGIN - 4
    for line, font, height, colour in lines:
        draw.text((MARGIN, y + height / 2), line, fill=colour, font=font, anchor="lm")
        y += height
    return picture


def legend_row(samples: Sequence[tuple[np.ndarray, str, str]], width: int, space: int = 32) -> Image.Image:
    """A legend in as many rows as it needs.

    Args:
        samples: each (sample, name, meaning); a sample is (34, 34, 3) uint8.
        width: of the picture in pixels.
        space: between two of them, in pixels.
    """
    name_font, meaning_font = ImageFont.load_default(size=18), ImageFont.load_default(size=14)
    places, x, y = [], MARGIN, MARGIN - 4
    for _, name, meaning in samples:
        size = SAMPLE + 10 + math.ceil(max(name_font.getlength(name), meaning_font.getlength(meaning)))
        if x > MARGIN and x + size > width - MARGIN:
            x, y = MARGIN, y + SAMPLE + 16
        places.append((x, y))
        x += size + space
    picture = Image.new("RGB", (width, y + SAMPLE + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for (sample, name, meaning), (x, y) in zip(samples, places, strict=True):
        picture.paste(Image.fromarray(sample), (x, y))
        draw.text((x + SAMPLE + 10, y + 8), name, fill=TEXT, font=name_font, anchor="lm")
        draw.text((x + SAMPLE + 10, y + 27), meaning, fill=QUIET_TEXT, font=meaning_font, anchor="lm")
    return picture


def wrap(text: str, font: Font, width: int) -> list[str]:
    """The text in lines no wider than ``width``; a single word that is wider is shortened.

    Args:
        text: of any length.
        font: that measures it.
        width: in pixels.
    """
    lines: list[str] = []
    for piece in PIECE.findall(text):
        word = piece.strip()
        joined = f"{lines[-1]} {word}" if lines and piece[0].isspace() else "".join((*lines[-1:], word))
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [shorten(line, font, width) for line in lines]


def at_most(lines: Sequence[str], most: int | None, font: Font, width: int) -> Sequence[str]:
    """The first lines; where more follow, the last of these ends in three dots.

    Args:
        lines: of a text.
        most: lines; None for all.
        font: that measures them.
        width: in pixels.
    """
    if most is None or len(lines) <= most:
        return lines
    return *lines[: most - 1], shorten(f"{lines[most - 1]} {lines[most]}", font, width)


def shorten(text: str, font: Font, width: int) -> str:
    """The text, cut and ended by three dots where it is wider than ``width``.

    Args:
        text: one line.
        font: that measures it.
        width: in pixels.
    """
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 token, 2 tokens."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
