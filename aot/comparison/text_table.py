"""Tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, a rule under the head."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (head, ["-" * width for width in widths], *rows)
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
