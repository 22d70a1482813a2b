"""Shapes without the video: the embedded model, trained on it, is no better than a guess."""

from __future__ import annotations

import math

import pytest

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.evaluation.runner import by_clip
from comfyui_aot.aot.evaluation.shapes_set import FAMILIES, shapes_set

CLIPS = 150
SIGMAS = 3.5


@pytest.fixture(scope="module")
def right(model) -> dict[str, list[bool]]:
    asked = shapes_set("test", CLIPS)
    scored: dict[str, list[bool]] = {family: [] for family in FAMILIES}
    for questions in by_clip(asked.questions).values():
        said = Session(model, None).ask([each.text for each in questions], Generation(asked.max_new_tokens)).texts
        for question, text in zip(questions, said, strict=True):
            scored[question.family].append(bool(asked.score(question, text)))
    return scored


@pytest.mark.parametrize("family", FAMILIES)
def test_words_alone_do_not_answer(right, family):
    chance, count = FAMILIES[family].chance, len(right[family])
    assert count > 40
    assert sum(right[family]) / count <= chance + SIGMAS * math.sqrt(chance * (1 - chance) / count)
