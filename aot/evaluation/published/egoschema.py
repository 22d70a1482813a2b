"""EgoSchema: one question with five options about each of 5,031 three-minute clips of people's own doings.

The answers of 500 are published. The others' come from its server, for a file of all choices.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ...errors import InputError
from ...files import whole_file
from ..questions import Question
from .answers import egoschema_letter
from .base import Clip, Item, PublishedSet, letters, read_rows
from .files import Release, literal

PARQUET = MappingProxyType(
    {"subset": "Subset/test-00000-of-00001.parquet", "full": "GENERATION/test-00000-of-00001.parquet"}
)
LAYOUT = (
    f"{PARQUET['subset']}, {PARQUET['full']} and videos/UID.mp4, its videos_chunked_*.zip extracted in place (or, of "
    "its own repository, questions.json, subset_answers.json and videos/UID.mp4)"
)
COLUMNS = ("video_idx", "question", "option", "answer")


def open_egoschema(folder: Path, split: str) -> PublishedSet:
    """EgoSchema, in one family: the "subset" whose answers are published, or "full", all questions and no answers.

    Raises:
        InputError: its questions are not there.
    """
    release = Release("EgoSchema", folder, LAYOUT)
    if (folder / "questions.json").is_file() and not (folder / PARQUET[split]).is_file():
        annotations, rows = "questions.json", _rows_of_json(release, split)
    else:
        annotations, rows = PARQUET[split], release.parquet(PARQUET[split], COLUMNS)
    items = tuple(read_rows(release, annotations, rows, functools.partial(_item, answered=split == "subset")))
    return PublishedSet("egoschema", release, split, items, egoschema_letter, guesses=True, max_new_tokens=16)


def prompt(row: Mapping[str, Any]) -> str:
    """What lmms-eval 0.7.3 asks for a row of EgoSchema."""
    ending = "Answer with the option's letter from the given choices directly."
    return "\n".join((row["question"], *row["option"], ending))


def write_submission(of: PublishedSet, answers: Mapping[str, str], path: Path) -> None:
    """Write what EgoSchema's server scores: one JSON object, each question's uid and the index (0 to 4) of the choice.

    Args:
        of: EgoSchema, either split; the server counts what is missing of the 5,031 as missing.
        answers: the answers, by question id.
        path: the file to write, whole or not at all.

    Raises:
        InputError: another set, an answer is missing, or the file cannot be written.
    """
    if of.name != "egoschema":
        raise InputError(f"{of.release.title} has no submission file; EgoSchema has one.")
    missing = [question.id for question in of.questions if question.id not in answers]
    if missing:
        raise InputError(
            f"{len(missing)} of EgoSchema's {len(of.questions)} questions, the first {missing[0]}, have no answer; "
            "ask them all before writing the submission file."
        )
    order = letters(5)
    choices = {question.id: order.index(of.choice(question, answers[question.id])) for question in of.questions}
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(choices, indent=4) + "\n", encoding="utf-8")


def _rows_of_json(release: Release, split: str) -> list[dict[str, Any]]:
    """The Parquet file's rows from the files of EgoSchema's own repository, whose options have no letters."""
    answers = release.json("subset_answers.json", dict) if split == "subset" else {}
    rows = read_rows(release, "questions.json", release.json("questions.json"), _row_of_json)
    return [
        row | {"answer": answers.get(row["video_idx"])}
        for row in rows
        if split == "full" or row["video_idx"] in answers
    ]


def _row_of_json(i: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    options = [f"{letter}. {entry[f'option {n}']}" for n, letter in enumerate(letters(5))]
    if not isinstance(entry["q_uid"], str):
        raise TypeError(f"q_uid is {entry['q_uid']!r}")
    return {"video_idx": entry["q_uid"], "question": entry["question"], "option": options}


def _item(i: int, row: Mapping[str, Any], *, answered: bool) -> Item:
    uid = row["video_idx"]
    answer = letters(5)[int(row["answer"])] if answered else ""
    question = Question(uid, uid, "all", prompt(row), answer, row["question"])
    places = tuple(literal(f"videos/{uid}{suffix}") for suffix in (".mp4", ".MP4"))
    return Item(question, Clip(places), tuple(row["option"]))
