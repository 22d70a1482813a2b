"""List files: a video a line of a text, or a row of a CSV, JSON Lines or Parquet file with columns of its own."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import LARGEST_JSON, parse_json

LISTS = (".txt", ".csv", ".jsonl", ".parquet")
"""End the names of list files."""


def read_list(path: Path, video: str) -> list[dict[str, str]]:
    """The rows of a list file, at least one, every value as text. A text file has one column, of videos.

    Args:
        path: of the file.
        video: name of the column of videos.

    Raises:
        InputError: it cannot be read, has no row, or no such column.
    """
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            rows = _parquet(path)
        else:
            with path.open("rb") as file:
                content = file.read(LARGEST_JSON + 1)
            if len(content) > LARGEST_JSON:
                raise ValueError(f"it is larger than {LARGEST_JSON >> 20} MiB; make several lists of it")
            rows = _rows(kind, content.decode("utf-8-sig"), video)
    except (OSError, ValueError, csv.Error) as error:
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        raise InputError(f"The list {path} cannot be read ({reason}); write it as UTF-8, a video a row.") from error
    if not rows:
        raise InputError(f"The list {path} names no video; write one a row.")
    if video not in rows[0]:
        raise InputError(f"The list {path} has no column {video!r}, but {', '.join(rows[0])}; give --video-column.")
    return rows


def _rows(kind: str, text: str, video: str) -> list[dict[str, str]]:
    if kind == ".txt":
        return [{video: line.strip()} for line in text.splitlines() if line.strip()]
    if kind == ".csv":
        table = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="", restval="")
        return [{str(name): str(value) for name, value in row.items() if name} for row in table]
    lines = (line for line in text.split("\n") if line.strip())
    return [{name: _text(value) for name, value in parse_json(line, kind=dict).items()} for line in lines]


def _parquet(path: Path) -> list[dict[str, str]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise InputError("Parquet is read by pyarrow, which is missing; pip install comfyui-aot[batch].") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except pyarrow.ArrowException as error:
        raise ValueError(str(error)) from error
    return [{name: _text(value) for name, value in row.items()} for row in rows]


def _text(value: Any) -> str:
    """A value as a question would have it; a list, of choices for instance, has a line each."""
    if isinstance(value, list):
        return "\n".join(map(_text, value))
    return "" if value is None else str(value)
