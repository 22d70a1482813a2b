"""Question sets whose annotations are not as published."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hypothesis import strategies as st

from comfyui_aot.aot.evaluation.published import SETS, open_set
from comfyui_aot.aot.evaluation.runner import by_clip
from comfyui_aot.tests.hostile.values import (
    NOTHING,
    RAW,
    TEXTS,
    Damage,
    Edit,
    Hurt,
    Kind,
    damaged,
    damages,
    hurt_file,
    hurts,
    pick,
    places,
)
from comfyui_aot.tests.support.miniatures import (
    write_egoschema,
    write_egoschema_json,
    write_longvideobench,
    write_mvbench,
    write_videomme,
)
from comfyui_aot.tests.support.videos import write_clip

FOLDERS = (
    ("mvbench", "mvbench", None),
    ("longvideobench", "longvideobench", None),
    ("egoschema", "egoschema_json", "subset"),
    ("egoschema", "egoschema_json", "full"),
    ("videomme", "videomme", None),
    ("egoschema", "egoschema", "subset"),
)


@dataclass(frozen=True)
class Case:
    """A set, one of its annotation files, and what is done to it; or other rows in a Parquet file."""

    place: float
    file: float
    how: Hurt = NOTHING
    damages: Sequence[Damage] = ()


cases = (
    st.builds(Case, st.floats(0, 0.66), places, hurts)
    | st.builds(Case, st.floats(0, 0.66), places, hurts)
    | st.builds(Case, st.floats(0, 0.66), places, hurts)
    | st.builds(Case, places, places, st.just(NOTHING), damages)
)
table = (
    *(Case(k / 6, 0) for k in range(6)),
    *(Case(k / 6, 0, Hurt(text)) for k in range(4) for text in RAW),
    *(
        Case(k / 6, 0, Hurt(edits=[Edit(n / 20, "replace", text)]))
        for k in (0, 1, 2)
        for n in (2, 7, 12, 17)
        for text in TEXTS
    ),
    *(Case(k / 6, 0, damages=[Damage(n / 10, "cut")]) for k in range(6) for n in range(10)),
)


def prepare(whole: Path) -> None:
    """Every set in miniature, and a clip."""
    for name, write in (
        ("mvbench", write_mvbench),
        ("videomme", write_videomme),
        ("egoschema", write_egoschema),
        ("egoschema_json", write_egoschema_json),
        ("longvideobench", write_longvideobench),
    ):
        write(whole / name)
    write_clip(whole / "clip.mp4", 4)


def run(case: Case, whole: Path, folder: Path) -> None:
    """Open it, ask for all that an evaluation does, and decode a clip that is there."""
    name, source, split = pick(FOLDERS, case.place)
    copy = folder / source
    shutil.copytree(whole / source, copy)
    file = pick(sorted(each for each in copy.rglob("*") if each.is_file()), case.file)
    if case.how != NOTHING and file.suffix == ".json":
        hurt_file(file, case.how)
    file.write_bytes(damaged(file.read_bytes(), case.damages))
    questions = open_set(name, copy, split=split)
    json.dumps(dict(questions.identity)).encode()
    assert questions.name in SETS
    for question in questions.questions:
        for text in (question.id, question.clip, question.family, question.text, question.answer):
            assert isinstance(text, str)
            text.encode()
        assert questions.score(question, "A") in (0.0, 1.0, None)
    clips = by_clip(questions.questions)
    for videos in (copy / "videos", copy / "data"):
        videos.mkdir()
        shutil.copy(whole / "clip.mp4", videos / "street.mp4")
        shutil.copy(whole / "clip.mp4", videos / "uid-0.mp4")
    for clip in list(clips)[:3]:
        list(questions.frames(clip, 2).parts(2))


KIND = Kind("question sets", table, cases, prepare, run)
