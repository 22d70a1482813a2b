"""VideoMME: three questions about each of 900 videos of seconds to an hour; frames only, no subtitles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..questions import Question
from .answers import videomme_letter
from .base import Clip, Item, PublishedSet, read_rows
from .files import Release, literal

ANNOTATIONS = "videomme/test-00000-of-00001.parquet"
LAYOUT = f"{ANNOTATIONS} and data/VIDEO_ID.mp4, its videos_chunked_*.zip extracted in place"

COLUMNS = ("question_id", "videoID", "duration", "question", "options", "answer")


def open_videomme(folder: Path, split: str) -> PublishedSet:
    """VideoMME without subtitles, its families short, medium and long. Raises InputError where it is not there."""
    release = Release("VideoMME", folder, LAYOUT)
    items = tuple(read_rows(release, ANNOTATIONS, release.parquet(ANNOTATIONS, COLUMNS), _item))
    return PublishedSet("videomme", release, split, items, videomme_letter, guesses=False, max_new_tokens=16)


def prompt(row: Mapping[str, Any]) -> str:
    """What lmms-eval 0.7.3 asks for a row of VideoMME. It speaks of subtitles where there are none, too."""
    return "\n".join(
        (
            "Select the best answer to the following multiple-choice question based on the video and the subtitles. "
            "Respond with only the letter (A, B, C, or D) of the correct option.",
            row["question"],
            *row["options"],
            "",
            "Answer with the option's letter from the given choices directly.",
        )
    )


def _item(i: int, row: Mapping[str, Any]) -> Item:
    video = row["videoID"]
    question = Question(row["question_id"], video, row["duration"], prompt(row), row["answer"], row["question"])
    places = tuple(literal(f"data/{video}{suffix}") for suffix in (".mp4", ".MP4", ".mkv"))
    return Item(question, Clip(places), tuple(row["options"]))
