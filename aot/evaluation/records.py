"""Every variant's answers about every clip, on disk as soon as they are there, so that no work is done twice.

A folder holds ``settings.json``, written once, ``records.jsonl``, a line for each clip and variant, and, where clips
could not be read, ``unreadable.jsonl``, a line for each of them; they are not tried again while it is there. A run that
is stopped leaves whole lines and perhaps a part of one, which the next run drops. Runs with the same settings add to
each other, whatever their variants; with others they are refused.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import InputError
from ..files import append_line, make_folder, parse_json, read_json, whole_file, write_json
from ..tables import differing

SETTINGS = "settings.json"
RECORDS = "records.jsonl"
UNREADABLE = "unreadable.jsonl"

_NUMBERS = ("tokens_full", "tokens_kept", "encode_s", "reduce_s", "prefill_s", "questions_s", "readings")


@dataclass(frozen=True)
class Record:
    """One variant's answers about one clip, and their cost.

    Args:
        clip: its name.
        variant: its name; of two records of a folder with clip and variant in common the later counts.
        chain: the variant's label, the same at every retention.
        tokens_full: tokens of the language grid, newlines not counted.
        tokens_kept: those that are left of them; where stages act inside the LLM, the mean over its layers and all
            questions.
        encode_s: seconds of the vision encoder.
        reduce_s: seconds of the stages.
        prefill_s: seconds of the prompt up to the end of the video.
        questions_s: seconds of all questions and answers together.
        said: the answer to each question, by the question's id.
        scores: of each answer, 0 to 1, by the question's id; None if the set publishes no truth.
        readings: how often an LLM read the video: once, or once a question where a stage asks, twice with an assistant.
        inputs: a digest of what the variant read beside the clip, a file of scores for instance; "" where nothing.
    """

    clip: str
    variant: str
    chain: str
    tokens_full: int
    tokens_kept: float
    encode_s: float
    reduce_s: float
    prefill_s: float
    questions_s: float
    said: Mapping[str, str]
    scores: Mapping[str, float | None]
    readings: int = 1
    inputs: str = ""


class Records:
    """The records in a folder.

    Raises:
        InputError: the folder holds results of other settings, or cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        make_folder(folder)
        self.folder = folder
        self._path = folder / RECORDS
        self._unreadable = _read_unreadable(folder / UNREADABLE)
        self._records = {(record.clip, record.variant): record for record in self._resume(settings)}

    def __contains__(self, key: tuple[str, str, str]) -> bool:
        """Whether there is a record of a (clip, variant) with these inputs."""
        clip, variant, inputs = key
        record = self._records.get((clip, variant))
        return record is not None and record.inputs == inputs

    def __iter__(self) -> Iterator[Record]:
        """In the order in which they came."""
        return iter(tuple(self._records.values()))

    def add(self, record: Record) -> None:
        """Keep a record and write its line at once. Raises an InputError where it cannot be written."""
        append_line(self._path, line_of(record))
        self._records[record.clip, record.variant] = record

    @property
    def unreadable(self) -> Mapping[str, str]:
        """Why a clip could not be read, by its name."""
        return MappingProxyType(self._unreadable)

    def leave_out(self, clip: str, reason: str) -> None:
        """Keep that a clip cannot be read, so that it is not tried again.

        Args:
            clip: its name.
            reason: why, in one line.
        """
        self._unreadable[clip] = reason
        lines = (json.dumps({"clip": clip, "reason": reason}) for clip, reason in self._unreadable.items())
        with whole_file(self.folder / UNREADABLE) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _resume(self, settings: Mapping[str, Any]) -> list[Record]:
        """The complete records; a line that a stopped run left unfinished is removed."""
        current = json.loads(json.dumps(settings))
        path = self.folder / SETTINGS
        if not path.exists() and not self._path.exists():
            write_json(path, current)
            return []
        earlier = read_json(path, "Settings of earlier results", remedy="delete their folder, or give another")
        lines = self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []
        _require_same(self.folder, earlier, current)
        read = [record_of(line) for line in lines]
        if None in read:
            with whole_file(self._path) as temporary:
                temporary.write_bytes(b"".join(line for line, record in zip(lines, read, strict=True) if record))
        return [record for record in read if record]


def line_of(record: Record) -> str:
    """A record's line, without its end.

    Args:
        record: of a run.
    """
    return json.dumps(dataclasses.asdict(record))


def record_of(line: bytes) -> Record | None:
    """A line's record; None if the line is not complete, or is not what a run writes.

    Args:
        line: with its end.
    """
    try:
        record = Record(**parse_json(line, kind=dict)) if line.endswith(b"\n") else None
    except (ValueError, TypeError):
        return None
    return record if record is not None and _is_sound(record) else None


def _is_sound(record: Record) -> bool:
    """Whether all values of a line are of the kinds that a run writes, so that they can be counted."""
    texts = (record.clip, record.variant, record.chain, record.inputs)
    numbers = (getattr(record, name) for name in _NUMBERS)
    if not all(isinstance(each, str) for each in texts) or not all(map(_is_count, numbers)) or not record.tokens_full:
        return False
    if (
        not isinstance(record.said, dict)
        or not isinstance(record.scores, dict)
        or record.said.keys() != record.scores.keys()
    ):
        return False
    scores_are = all(score is None or (_is_count(score) and score <= 1) for score in record.scores.values())
    return scores_are and all(isinstance(text, str) for text in record.said.values())


def _is_count(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value >= 0


def _read_unreadable(path: Path) -> dict[str, str]:
    """Why each clip could not be read; a line that is no such entry says nothing."""
    reasons: dict[str, str] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        with suppress(ValueError):
            entry = parse_json(line, kind=dict, keys=("clip", "reason"))
            reasons[str(entry["clip"])] = str(entry["reason"])
    return reasons


def _require_same(folder: Path, earlier: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    if found := differing(earlier, current, "unset"):
        changes = ", ".join(f"{name} {before} there, {now} now" for name, (before, now) in found.items())
        raise InputError(f"{folder} holds results of other settings: {changes}; give another folder, or delete it.")
