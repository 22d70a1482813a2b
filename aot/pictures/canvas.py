"""What every picture here is drawn with: colours, margins, text broken into lines, and the file it is saved to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACKGROUND = (22, 24, 29)
TEXT = (238, 240, 243)
QUIET_TEXT = (160, 167, 178)

MARGIN = 24
GAP = 12


def save_png(image: Tensor, path: Path) -> None:
    """Write an image, (1, H, W, 3) or (H, W, 3) floating in 0 to 1, as PNG; whole or not at all."""
    pixels = image.detach().cpu().reshape(image.shape[-3:])
    pixels = (pixels.float().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        Image.fromarray(pixels).save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def text_lines(texts: Sequence[tuple[str, int, tuple[int, int, int]]], width: int) -> Image.Image:
    """Texts under one another, each (text, font size, colour), broken between words to fit ``width``."""
    lines = [
        (line, ImageFont.load_default(size=size), round(size * 1.4), colour)
        for text, size, colour in texts
        for line in wrap(text, ImageFont.load_default(size=size), width - 2 * MARGIN)
    ]
    picture = Image.new("RGB", (width, sum(height for _, _, height, _ in lines) + MARGIN + GAP), BACKGROUND)
    draw = ImageDraw.Draw(picture)
    y = MARGIN - 4
    for line, font, height, colour in lines:
        draw.text((MARGIN, y + height / 2), line, fill=colour, font=font, anchor="lm")
        y += height
    return picture


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """The text in lines no wider than ``width`` pixels; a word that is wider still is shortened."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(word)
    return [shorten(line, font, width) for line in lines]


def shorten(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, ended by three dots where it is wider than ``width`` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def plural(count: int, noun: str) -> str:
    """One token, two tokens."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
