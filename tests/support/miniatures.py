"""Miniature sets in the published layouts: annotations with questions of our own. The clips are each test's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from comfyui_aot.aot.evaluation.published.mvbench import TASKS

MVBENCH_ROW = {
    "video": "kettle.mp4",
    "question": "What does the person lift off the stove?",
    "candidates": ["A pan", "A kettle", "A lid", "Nothing"],
    "answer": "A kettle",
}
MVBENCH_PART = MVBENCH_ROW | {"start": 0.5, "end": 1.2}
"""The same, asked of a part of the video."""

VIDEOMME_ROWS = [
    {
        "question_id": f"00{video}-{number}",
        "videoID": f"clip{video}_id",
        "duration": duration,
        "domain": "Knowledge",
        "sub_category": "Law",
        "task_type": "Object Recognition",
        "question": f"Which tool is used {number} times?",
        "options": ["A. A saw.", "B. A drill.", "C. A plane.", "D. None of them."],
        "answer": "ABC"[number],
    }
    for video, duration in enumerate(("short", "medium", "long"))
    for number in range(3)
]

EGOSCHEMA_OPTIONS = ["C bakes bread.", "C knits.", "C paints a fence.", "C reads aloud.", "C tunes a guitar."]
EGOSCHEMA_ROWS = [
    {
        "question_idx": str(i),
        "question": f"What is C up to in part {i}?",
        "video_idx": f"uid-{i}",
        "option": [f"{letter}. {text}" for letter, text in zip("ABCDE", EGOSCHEMA_OPTIONS, strict=True)],
        "answer": str(i),
    }
    for i in range(3)
]

LONGVIDEOBENCH_ROWS = [
    {
        "id": f"street_{i}",
        "video_id": "street",
        "video_path": "street.mp4",
        "question": "When the tram stops, what is beside it?",
        "candidates": ["a bicycle", "a dog", "a fountain", "a kiosk", "a tree"][: 5 - i % 2],
        "correct_choice": i,
        "duration_group": group,
        "duration": 12.5,
        "question_category": "E2O",
    }
    for i, group in enumerate((15, 60, 600, 3600))
]


def write_mvbench(folder: Path, **rows: list[dict[str, Any]]) -> Path:
    """json/ with the rows given for a task, and one above for each other."""
    (folder / "json").mkdir(parents=True)
    for task, source in TASKS.items():
        asked = rows.get(task, [MVBENCH_PART if source.bounded else MVBENCH_ROW])
        (folder / "json" / f"{task}.json").write_text(json.dumps(asked), encoding="utf-8")
    return folder


def write_videomme(folder: Path) -> Path:
    """Its Parquet file."""
    return _write_parquet(folder, "videomme/test-00000-of-00001.parquet", VIDEOMME_ROWS)


def write_egoschema(folder: Path) -> Path:
    """Both Parquet files: the subset is the first two of three questions."""
    _write_parquet(folder, "Subset/test-00000-of-00001.parquet", EGOSCHEMA_ROWS[:2])
    unanswered = [{**row, "answer": None} for row in EGOSCHEMA_ROWS]
    return _write_parquet(folder, "GENERATION/test-00000-of-00001.parquet", unanswered)


def write_egoschema_json(folder: Path) -> Path:
    """The same as EgoSchema's own repository has it."""
    asked = [
        {"q_uid": row["video_idx"], "question": row["question"]}
        | {f"option {i}": text for i, text in enumerate(EGOSCHEMA_OPTIONS)}
        for row in EGOSCHEMA_ROWS
    ]
    answers = {row["video_idx"]: int(row["answer"]) for row in EGOSCHEMA_ROWS[:2]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "questions.json").write_text(json.dumps(asked), encoding="utf-8")
    (folder / "subset_answers.json").write_text(json.dumps(answers), encoding="utf-8")
    return folder


def write_longvideobench(folder: Path) -> Path:
    """lvb_val.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "lvb_val.json").write_text(json.dumps(LONGVIDEOBENCH_ROWS), encoding="utf-8")
    return folder


def _write_parquet(folder: Path, relative: str, rows: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet

    path = folder / relative
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return folder
