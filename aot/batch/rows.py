"""The rows of a batch, on disk as soon as they are there, so that no video is answered twice and none is lost.

A folder holds ``settings.json``, written once, and ``rows.jsonl``, a line for each video and question: its answer and
what that cost, or the error that there is in its place. A run that is killed leaves whole lines and perhaps a part of
one, which the next run drops. Runs with the same settings add to each other, whatever their videos and questions; with
others they are refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import append_line, make_folder, parse_json, read_json, whole_file, write_json
from ..tables import as_csv, differing

ROWS = "rows.jsonl"
SETTINGS = "settings.json"
FORMATS = ("csv", "parquet")
"""Besides JSON Lines."""

COLUMNS: Mapping[str, type] = {
    "id": str,
    "video": str,
    "preset": str,
    "question": str,
    "answer": str,
    "error": str,
    "model": str,
    "stages": str,
    "tokens_full": int,
    "tokens_kept": int,
    "retention": float,
    "prompt_tokens": int,
    "new_tokens": int,
    "file_s": float,
    "encode_s": float,
    "reduce_s": float,
    "prefill_s": float,
    "decode_s": float,
    "thoughts": str,
    "settings": str,
    "sha256": str,
}
"""Of every row, with the kinds of their values; one that is not known is None. ``settings`` is a digest of
``settings.json``."""

Key = tuple[str, str, str]
"""Id, preset and question."""


class Rows:
    """The rows in a folder.

    Args:
        folder: made if need be.
        settings: JSON-ready, all that the rows of a folder have in common.
        again: whether rows with an error are dropped, so that they are asked again.

    Raises:
        InputError: the folder holds rows of other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], *, again: bool = False) -> None:
        make_folder(folder)
        self.folder = folder
        self._path = folder / ROWS
        self.settings: Mapping[str, Any] = json.loads(json.dumps(settings))
        self._require_settings(self.settings)
        self._rows = {key_of(row): row for row in self._read(again)}

    def __contains__(self, key: Key) -> bool:
        """Whether there is a row of this id, preset and question."""
        return key in self._rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """In the order in which they came."""
        return iter(tuple(self._rows.values()))

    def __len__(self) -> int:
        """Their number."""
        return len(self._rows)

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row and write its line at once. Raises an InputError where it cannot be written."""
        line = {name: row.get(name) for name in COLUMNS}
        append_line(self._path, json.dumps(line))
        self._rows[key_of(line)] = line

    def write(self, formats: Iterable[str]) -> list[Path]:
        """Write all rows as tables, each completely or not at all.

        Args:
            formats: of :data:`FORMATS`.

        Returns:
            The files.
        """
        files = []
        for kind in formats:
            path = self._path.with_suffix(f".{kind}")
            with whole_file(path) as temporary:
                if kind == "csv":
                    rows = [{name: "" if each is None else each for name, each in row.items()} for row in self]
                    temporary.write_text(as_csv(rows), encoding="utf-8")
                else:
                    _write_parquet(list(self), temporary)
            files.append(path)
        return files

    def _require_settings(self, current: Mapping[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists() and not self._path.exists():
            write_json(path, current)
            return
        earlier = read_json(path, "Settings of earlier rows", remedy="delete their folder, or give another")
        if found := differing(earlier, current):
            changes = ", ".join(f"{name} {before} there, {now} now" for name, (before, now) in found.items())
            raise InputError(f"{self.folder} has rows of other settings: {changes}; give another folder, or delete it.")

    def _read(self, again: bool) -> list[dict[str, Any]]:
        """The complete rows. Lines that are none are removed, and those with an error if they are asked again."""
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        read = [_row(line) for line in lines]
        kept = [row for row in read if row and not (again and row["error"] is not None)]
        if len(kept) < len(lines):
            with whole_file(self._path) as temporary:
                temporary.write_text("".join(f"{json.dumps(row)}\n" for row in kept), encoding="utf-8")
        return kept


def require_formats(formats: Iterable[str]) -> None:
    """Refuse, before any work, a format that cannot be written here.

    Args:
        formats: of :data:`FORMATS`.

    Raises:
        InputError: pyarrow is missing.
    """
    if "parquet" not in formats:
        return
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError("Parquet is written by pyarrow, which is missing; pip install comfyui-aot[batch].") from error


def key_of(row: Mapping[str, Any]) -> Key:
    """What tells a row from all others.

    Args:
        row: of a batch.
    """
    return row["id"], row["preset"], row["question"]


def _row(line: bytes) -> dict[str, Any] | None:
    """A line's row; None if the line is not complete, or is not what a run writes."""
    try:
        row = parse_json(line, kind=dict, keys=tuple(COLUMNS)) if line.endswith(b"\n") else {}
    except ValueError:
        return None
    is_sound = row and all(_is_of(row[name], kind) for name, kind in COLUMNS.items())
    has_key = is_sound and all(isinstance(each, str) for each in key_of(row))
    return {name: row[name] for name in COLUMNS} if has_key else None


def _is_of(value: object, kind: type) -> bool:
    if value is None:
        return True
    return isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)


def _write_parquet(rows: list[dict[str, Any]], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    kinds = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    schema = pyarrow.schema([(name, kinds[kind]) for name, kind in COLUMNS.items()])
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), path)
