"""Shapes without the video: the embedded model, trained on it, is no better than a guess."""

from __future__ import annotations

import math

import pytest

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.evaluation.shapes_set import FAMILIES, shapes_set

CLIPS = 150
SIGMAS = 3.5


@pytest.fixture(scope="module")
def right(model) -> dict[str, list[bool]]:
    """Without a video the same words get the same answer: each is asked once."""
    asked = shapes_set("test", CLIPS)
    texts = list(dict.fromkeys(each.text for each in asked.questions))
    said = dict(zip(texts, Session(model, None).ask(texts, Generation(asked.max_new_tokens)).texts, strict=True))
    scored: dict[str, list[bool]] = {family: [] for family in FAMILIES}
    for question in asked.questions:
        scored[question.family].append(bool(asked.score(question, said[question.text])))
    return scored


@pytest.mark.parametrize("family", FAMILIES)
def test_words_alone_do_not_answer(right, family):
    chance, count = FAMILIES[family].chance, len(right[family])
    assert count > 40
    assert sum(right[family]) / count <= chance + SIGMAS * math.sqrt(chance * (1 - chance) / count)
