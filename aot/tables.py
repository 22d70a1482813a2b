"""Tables as text: for a terminal, in Markdown and as CSV, and where two of settings differ.

No cell has control characters.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .text import all_shown, shown

NOTHING = ("", "-")
"""Cells without a value."""

NUMBER = re.compile(r"[-+]?\d[\d.,/]*( ?([%x]|[a-zA-Z]{1,3}))?")
"""A cell of a column of numbers: 12, 0.5, 3/4, 25.0%, 5.3 x, 12 ms."""

_FORMULA = re.compile("'*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""Begins a text that a spreadsheet takes for a formula, or one that already has the apostrophe before it."""


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """For a terminal: columns as wide as their widest cell, a rule under the head.

    Args:
        head: names of the columns.
        rows: the cells of each row, one for each column.
    """
    head, *rows = ([*map(shown, row)] for row in (head, *rows))
    widths = _widths(head, rows)
    lines = (head, ["-" * width for width in widths], *rows)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], *, padded: bool = False) -> str:
    """In Markdown. A bar in a cell is escaped, a line break becomes ``<br>``.

    Args:
        head: names of the columns.
        rows: the cells of each row, one for each column.
        padded: whether the source is aligned for the eye too; columns are then all flush left.
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    escaped = [[shown(cell).replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in (head, *rows)]
    if padded:
        widths = _widths(escaped[0], escaped[1:])
        top, *rest = ([*map(str.ljust, row, widths)] for row in escaped)
        return "\n".join(map(line, (top, ["-" * width for width in widths], *rest)))
    right = [holds_numbers(column) for column in zip(*rows, strict=True)] if rows else [False] * len(head)
    rule = "|" + "|".join("---:" if is_right else "---" for is_right in right) + "|"
    return "\n".join((line(escaped[0]), rule, *map(line, escaped[1:])))


def as_csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """As CSV, UTF-8 text with ``\\n`` at the end of each line. A column that a line lacks is empty in it.

    A text that a spreadsheet would take for a formula has an apostrophe before it. Numbers are as they are.

    Args:
        lines: values by column; columns are in the order of their first line.
    """
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(_plain, names))
    writer.writerows([_plain(line.get(name, "")) for name in names] for line in lines)
    return text.getvalue()


def _plain(value: Any) -> Any:
    """A cell of a CSV file that is no formula."""
    value = all_shown(value)
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def holds_numbers(column: Sequence[str]) -> bool:
    """Whether a column holds a number, and nothing else."""
    filled = [cell for cell in column if cell not in NOTHING]
    return bool(filled) and all(NUMBER.fullmatch(cell) for cell in filled)


def _widths(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(head, *rows, strict=True)]


def differing(before: Mapping[str, Any], now: Mapping[str, Any], missing: Any = None) -> dict[str, tuple[Any, Any]]:
    """Where two sets of settings differ: each dotted name with its value in both, ``missing`` where one has none.

    Args:
        before: settings, perhaps nested.
        now: others.
        missing: stands for a value that is not there.
    """
    flat, flat_now = dict(_flat(before)), dict(_flat(now))
    return {
        name: (flat.get(name, missing), flat_now.get(name, missing))
        for name in {**flat, **flat_now}
        if flat.get(name) != flat_now.get(name)
    }


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of dotted name and value."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
