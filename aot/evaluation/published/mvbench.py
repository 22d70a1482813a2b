"""MVBench: twenty tasks of two hundred questions about short clips.

It is published twice. The main branch has the source videos under video/, and start and end where a question is about
a part of one; the branch "video" has those parts cut out, beside json/, which is what lmms-eval reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from ..questions import Question
from .answers import mvbench_letter
from .base import Clip, Item, PublishedSet, letters, read_rows
from .files import Release, literal

LAYOUT = (
    "json/TASK.json and video/ (star/Charades_v1_480/ and so on, the zip files extracted in place) of the main branch, "
    "or json/TASK.json and star/Charades_segment/ and so on of the branch 'video'"
)


@dataclass(frozen=True)
class Source:
    """Where a task's videos lie: whole in the main branch, cut in the other; `bounded` where they differ."""

    whole: str
    cut: str
    bounded: bool = False


_STAR = Source("star/Charades_v1_480", "star/Charades_segment", bounded=True)
_CLEVRER = Source("clevrer/video_validation", "clevrer/video_validation")
_PERCEPTION = Source("perception/videos", "perception/videos")

TASKS: Mapping[str, Source] = MappingProxyType(
    {
        "action_sequence": _STAR,
        "action_prediction": _STAR,
        "action_antonym": Source("ssv2_video", "ssv2_video_mp4"),
        "fine_grained_action": Source("Moments_in_Time_Raw/videos", "Moments_in_Time_Raw/videos"),
        "unexpected_action": Source("FunQA_test/test", "FunQA_test/test"),
        "object_existence": _CLEVRER,
        "object_interaction": _STAR,
        "object_shuffle": _PERCEPTION,
        "moving_direction": _CLEVRER,
        "action_localization": Source("sta/sta_video", "sta/sta_video_segment", bounded=True),
        "scene_transition": Source("scene_qa/video", "scene_qa/video"),
        "action_count": _PERCEPTION,
        "moving_count": _CLEVRER,
        "moving_attribute": _CLEVRER,
        "state_change": _PERCEPTION,
        "fine_grained_pose": Source("nturgbd", "nturgbd_convert"),
        "character_order": _PERCEPTION,
        "egocentric_navigation": Source("vlnqa", "vlnqa"),
        "episodic_reasoning": Source("tvqa/frames_fps3_hq", "tvqa/video_fps3_hq_segment", bounded=True),
        "counterfactual_inference": _CLEVRER,
    }
)
"""In the order of MVBench's paper."""


def open_mvbench(folder: Path, split: str) -> PublishedSet:
    """MVBench, a family a task. Raises InputError where an annotation file is missing or does not fit."""
    release = Release("MVBench", folder, LAYOUT)
    whole = (folder / "video").is_dir()
    items = tuple(item for task in TASKS for item in _items(release, task, whole=whole))
    return PublishedSet("mvbench", release, split, items, mvbench_letter, guesses=False, max_new_tokens=16)


def prompt(row: Mapping[str, Any]) -> str:
    """What lmms-eval 0.7.3 asks for a row of MVBench."""
    options = "".join(f"({letter}) {text}\n" for letter, text in _lettered(row["candidates"]))
    return f"Question:{row['question']}\nOption:\n{options}Only give the best option.\n"


def _items(release: Release, task: str, *, whole: bool) -> Iterator[Item]:
    def item(i: int, row: Mapping[str, Any]) -> Item:
        name, clip = _clip(TASKS[task], row, whole=whole)
        candidates = row["candidates"]
        answer = letters(len(candidates))[candidates.index(row["answer"])]
        return Item(Question(f"{task}-{i}", name, task, prompt(row), answer, row["question"]), clip, tuple(candidates))

    annotations = f"json/{task}.json"
    return read_rows(release, annotations, release.json(annotations), item)


def _clip(source: Source, row: Mapping[str, Any], *, whole: bool) -> tuple[str, Clip]:
    """The clip of a row, and what to call it: its path and, as a media fragment, its part."""
    video = row["video"]
    folder = source.whole if whole else source.cut
    places = _places(folder, video, whole=whole)
    if not source.bounded or not (whole or "start" in row):
        return f"{folder}/{video}", Clip(places)
    start, end = row["start"], row["end"]
    if whole:
        clip = Clip(places, float(start), float(end))
    else:
        clip = Clip((*places, literal(f"{folder}/{_stem(video)}_{start}_{end}") + ".*"))
    return f"{folder}/{video}#t={start},{end}", clip


def _places(folder: str, video: str, *, whole: bool) -> tuple[str, ...]:
    """The video, or one of its name in another format; some of star's and clevrer's came later, in data0613/."""
    root = "video/" if whole else ""
    names = [literal(f"{root}{folder}/{video}"), literal(f"{root}{folder}/{_stem(video)}") + ".*"]
    if folder.startswith(("star/", "clevrer/")):
        names.append(literal(f"{root}data0613/{folder}/{video}"))
    return tuple(names)


def _stem(video: str) -> str:
    return str(PurePosixPath(video).with_suffix(""))


def _lettered(candidates: list[str]) -> Iterator[tuple[str, str]]:
    return zip(letters(len(candidates)), candidates, strict=True)
