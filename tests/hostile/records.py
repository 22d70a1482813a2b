"""Folders of an evaluation's results that a crash, an editor or another program has been at."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.records import RECORDS, SETTINGS, Record, Records
from comfyui_aot.aot.evaluation.report import markdown
from comfyui_aot.aot.evaluation.summary import summarise
from comfyui_aot.tests.hostile.values import (
    RAW,
    Damage,
    Hurt,
    Kind,
    damaged,
    damages,
    hurt,
    hurt_file,
    hurts,
    pick,
    places,
)

SET = {"set": {"name": "tiny"}, "model": "tiny", "frames": 2, "dtype": "float32", "device": "cpu"}
QUESTIONS = tuple(Question(f"{clip}-{n}", clip, f"family {n}", "What?", "red") for clip in "ab" for n in range(2))
VARIANTS = ("full", "aot 0.5")


@dataclass(frozen=True)
class Case:
    """What is done to the settings, to lines of the records and to their bytes."""

    settings: Hurt | None = None
    lines: Sequence[tuple[float, Hurt]] = ()
    damages: Sequence[Damage] = ()


cases = (
    st.builds(Case, hurts)
    | st.builds(Case, lines=st.lists(st.tuples(places, hurts), min_size=1, max_size=2))
    | st.builds(Case, lines=st.lists(st.tuples(places, hurts), min_size=1, max_size=2))
    | st.builds(Case, damages=damages)
)
table = (
    Case(),
    *(Case(Hurt(text)) for text in RAW),
    *(Case(lines=[(place, Hurt(text))]) for text in RAW for place in (0, 0.9)),
    *(Case(damages=[Damage(k / 30, "cut")]) for k in range(30)),
)


def prepare(whole: Path) -> None:
    """Two variants' answers about two clips."""
    records = Records(whole / "results", SET)
    for clip in "ab":
        ids = [question.id for question in QUESTIONS if question.clip == clip]
        for variant in VARIANTS:
            said, scores = dict.fromkeys(ids, "red"), dict.fromkeys(ids, 1.0)
            records.add(Record(clip, variant, "aot", 32, 16, 0.5, 0.1, 0.2, 0.3, said, scores))


def run(case: Case, whole: Path, folder: Path) -> None:
    """Read the folder, add what lacks, and make the tables."""
    for name in (SETTINGS, RECORDS):
        (folder / name).write_bytes((whole / "results" / name).read_bytes())
    if case.settings is not None:
        hurt_file(folder / SETTINGS, case.settings)
    lines = (folder / RECORDS).read_bytes().splitlines(keepends=True)
    originals = [json.loads(line) for line in lines]
    for place, how in case.lines:
        at = pick(range(len(lines)), place)
        lines[at] = hurt(json.loads(lines[at]) if case.damages == () and _is_json(lines[at]) else {}, how) + b"\n"
    (folder / RECORDS).write_bytes(damaged(b"".join(lines), case.damages))
    records = Records(folder, SET)
    for values in originals:
        if (values["clip"], values["variant"], values.get("inputs", "")) not in records:
            records.add(Record(**values))
    summary = summarise(QUESTIONS, records, first=VARIANTS)
    _require_finite(dataclasses.asdict(summary))
    markdown(summary, {**SET, "set": "tiny", "command": "aot", "date": "today", "identity": {}}).encode()
    assert len(list(Records(folder, SET))) == len(list(records))


def _is_json(line: bytes) -> bool:
    try:
        return json.loads(line) is not None
    except (ValueError, RecursionError):
        return False


def _require_finite(value: Any) -> None:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for each in value:
            _require_finite(each)
    assert not isinstance(value, float) or math.isfinite(value), "a figure that is not finite"


KIND = Kind("records", table, cases, prepare, run)
