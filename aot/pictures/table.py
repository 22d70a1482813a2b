"""A table as a picture: a head, rows of text, columns as wide as their text, and marked rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from PIL import Image, ImageDraw
from torch import Tensor

from ..errors import InputError
from ..tables import holds_numbers
from .canvas import (
    BACKGROUND,
    MARGIN,
    QUIET_TEXT,
    RAISED,
    RULE,
    TEXT,
    Font,
    as_image,
    check_width,
    font_for,
    text_lines,
    wrap,
)

FONT_SIZE = 17
LINE = 24
"""Height of a line of a cell, in pixels."""

PADDING = 9
"""Pixels between a cell's text and the rules above and below it."""

SPACE = 26
"""Pixels between two columns."""

MARK = 6
"""Width of the bar at the left of a marked row, in pixels."""

PIECE = re.compile(r"[^-,+:/=_.]*[-,+:/=_.]|[^-,+:/=_.]+")
"""A piece that a word is broken into where it is too wide."""


def table(
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    title: str = "",
    notes: Sequence[str] = (),
    marks: Mapping[int, tuple[int, int, int]] = MappingProxyType({}),
    width: int | None = None,
) -> Tensor:
    """A table drawn in the colours of the other pictures.

    A column is as wide as its widest cell. Where they have no room, the widest columns are narrowed to one width and
    their cells broken between words. Columns that hold only numbers, with or without a unit, are flush right.

    Args:
        head: names of the columns, one or more.
        rows: the cells of each row, one for each column; "\\n" begins a new line in a cell.
        title: a line above the table; "" for none.
        notes: lines under the table, small.
        marks: the colour of the bar at the left of each marked row, by its index from 0. A marked row's ground is
            raised and the other rows' text is quieter, so that it is seen without the colour.
        width: of the picture in pixels, 320 to 2400; None fits the text, 1600 at most.

    Returns:
        (1, H, W, 3) float32, 0 to 1: an image as ComfyUI passes them.

    Raises:
        InputError: a row has not one cell for each column, a mark is on no row, or the width is out of bounds or too
            narrow for the columns.
    """
    _check(head, rows, marks)
    font = font_for("".join(cell for row in (head, *rows) for cell in row), FONT_SIZE)
    natural = [max(_longest(cell, font) for cell in column) for column in zip(head, *rows, strict=True)]
    spent = 2 * MARGIN + MARK + PADDING + SPACE * len(head)
    if width is None:
        widest_line = max((font_for(title, 24).getlength(title), *map(font.getlength, notes), 0.0))
        width = min(1600, max(320, sum(natural) + spent, int(widest_line) + 2 * MARGIN + 1))
    check_width(width, "table")
    columns = _narrowed(natural, width - spent, width)

    above = text_lines([(title, 24, TEXT)], width) if title else Image.new("RGB", (width, MARGIN), BACKGROUND)
    below = text_lines([(note, 14, QUIET_TEXT) for note in notes], width) if notes else None
    cells = [[_broken(cell, font, size) for cell, size in zip(row, columns, strict=True)] for row in (head, *rows)]
    heights = [max(map(len, row)) * LINE + 2 * PADDING for row in cells]
    bottom = below.height if below else MARGIN
    canvas = Image.new("RGB", (width, above.height + sum(heights) + bottom), BACKGROUND)
    canvas.paste(above, (0, 0))
    if below:
        canvas.paste(below, (0, above.height + sum(heights)))
    draw = ImageDraw.Draw(canvas)
    right = [holds_numbers(column) for column in zip(*rows, strict=True)] if rows else [False] * len(head)
    y = above.height
    for index, (row, height) in enumerate(zip(cells, heights, strict=True), -1):
        mark = marks.get(index)
        _draw_ground(draw, (MARGIN, y, width - MARGIN, y + height), index < 0, mark)
        colour = QUIET_TEXT if index < 0 or (marks and mark is None) else TEXT
        x = MARGIN + MARK + PADDING
        for lines, size, is_right in zip(row, columns, right, strict=True):
            for number, line in enumerate(lines):
                start = x + size - font.getlength(line) if is_right else x
                draw.text((start, y + PADDING + (number + 0.5) * LINE), line, fill=colour, font=font, anchor="lm")
            x += size + SPACE
        y += height
    return as_image(canvas)


def _check(head: Sequence[str], rows: Sequence[Sequence[str]], marks: Mapping[int, tuple[int, int, int]]) -> None:
    if not head:
        raise InputError("A table without columns; give one name or more in its head.")
    for index, row in enumerate(rows):
        if len(row) != len(head):
            raise InputError(f"Row {index} of a table has {len(row)} cells under {len(head)} columns; give one each.")
    absent = [index for index in marks if not 0 <= index < len(rows)]
    if absent:
        raise InputError(f"A mark on row {absent[0]} of a table of {len(rows)} rows; rows are counted from 0.")


def _longest(cell: str, font: Font) -> int:
    """Pixels that the longest line of a cell takes."""
    return max((int(font.getlength(line)) + 1 for line in cell.split("\n")), default=1)


def _narrowed(natural: Sequence[int], room: int, width: int) -> list[int]:
    """Widths of the columns: their own, the widest of them cut to one width where they have no room."""
    rest, left = room, len(natural)
    for size in sorted(natural):
        if size * left > rest:
            break
        rest, left = rest - size, left - 1
    if not left:
        return list(natural)
    most = rest // left
    if most < 2 * FONT_SIZE:
        raise InputError(f"{len(natural)} columns have no room in a table {width} pixels wide; give a larger width.")
    return [min(size, most) for size in natural]


def _broken(cell: str, font: Font, width: int) -> list[str]:
    """The lines of a cell, one at least."""
    return [line for part in cell.split("\n") for line in (wrap(_split(part, font, width), font, width) or [""])]


def _split(text: str, font: Font, width: int) -> str:
    """The text with spaces in words wider than ``width``, each after a comma, a plus or the like."""
    words = []
    for word in text.split():
        pieces = [word] if font.getlength(word) <= width else PIECE.findall(word)
        words.append(pieces[0])
        for piece in pieces[1:]:
            if font.getlength(words[-1] + piece) <= width:
                words[-1] += piece
            else:
                words.append(piece)
    return " ".join(words)


def _draw_ground(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], is_head: bool, mark: tuple[int, int, int] | None
) -> None:
    """Draw the ground of a row: a rule above it, raised for the head and for a marked row."""
    left, top, right, bottom = box
    if is_head or mark is not None:
        draw.rectangle((left, top, right - 1, bottom - 1), fill=RAISED)
    if not is_head:
        draw.line((left, top, right - 1, top), fill=RULE)
    if mark is not None:
        draw.rectangle((left, top, left + MARK - 1, bottom - 1), fill=mark)
