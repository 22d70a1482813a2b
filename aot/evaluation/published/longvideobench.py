"""LongVideoBench: questions that refer to one moment of a video of seconds to an hour; frames only, no subtitles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..questions import Question
from .answers import longvideobench_letter
from .base import Clip, Item, PublishedSet, letters, read_rows
from .files import Release, literal

ANNOTATIONS = "lvb_val.json"
LAYOUT = f"{ANNOTATIONS} and videos/VIDEO_ID.mp4, its videos.tar.part.* joined and extracted in place"

DURATIONS = MappingProxyType({15: "8-15 s", 60: "15-60 s", 600: "180-600 s", 3600: "900-3600 s"})
"""The paper's groups of videos by their length."""


def open_longvideobench(folder: Path, split: str) -> PublishedSet:
    """LongVideoBench's validation questions, a family a group of durations. Raises InputError where it is not there."""
    release = Release("LongVideoBench", folder, LAYOUT)
    items = tuple(read_rows(release, ANNOTATIONS, release.json(ANNOTATIONS), _item))
    return PublishedSet("longvideobench", release, split, items, longvideobench_letter, guesses=True, max_new_tokens=32)


def prompt(question: str, options: Sequence[str]) -> str:
    """What lmms-eval 0.7.3 asks (longvideobench_val_v)."""
    lettered = (f"{letter}. {text}" for letter, text in zip(letters(len(options)), options, strict=True))
    ending = "Answer with the option's letter from the given choices directly.\n"
    return "\n".join((question, *lettered, ending))


def _item(i: int, row: Mapping[str, Any]) -> Item:
    options = tuple(row["candidates"])
    group = row["duration_group"]
    family = DURATIONS.get(group, f"up to {group} s")
    text = prompt(row["question"], options)
    question = Question(
        row["id"], row["video_path"], family, text, letters(len(options))[row["correct_choice"]], row["question"]
    )
    return Item(question, Clip((literal(f"videos/{row['video_path']}"),)), options)
