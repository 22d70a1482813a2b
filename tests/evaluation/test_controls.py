"""Stages that ask in an evaluation: a reading a question, and their controls beside them."""

from dataclasses import dataclass
from typing import ClassVar

import pytest

from comfyui_aot.aot.comparison.variants import Variant, expand, with_controls
from comfyui_aot.aot.evaluation.questions import Question
from comfyui_aot.aot.evaluation.runner import answer_clip
from comfyui_aot.aot.evaluation.shapes_set import shapes_set
from comfyui_aot.aot.stages.chain import Chain
from comfyui_aot.aot.stages.methods.controls.uniform import UniformGrid
from comfyui_aot.aot.tokens.video_tokens import VideoTokens


@pytest.fixture(scope="module")
def few():
    """Two clips with a question of every family."""
    return shapes_set("dev", clips=2, frames=4)


def of(questions, clip):
    return [question for question in questions.questions if question.clip == clip][:2]


@dataclass(frozen=True)
class Heard(UniformGrid):
    """A uniform grid that asks, and remembers what it was asked."""

    name = "heard"
    asks = True
    questions: ClassVar[list[str]] = []

    def __call__(self, tokens: VideoTokens, part=None) -> VideoTokens:
        self.questions.append(tokens.question.text)
        return super().__call__(tokens, part)


@pytest.fixture
def heard():
    Heard.questions.clear()
    return Chain([Heard(retention=0.1)])


def test_controls_stand_beside_those_that_ask_and_no_others():
    variants = expand(["dart", "vidcom2", "dytok:method=random"], [0.1])
    names = [each.name for each in with_controls(variants, wrong=True, none=True)]
    assert names == [
        "full",
        *("dart 0.1", "dart (another question) 0.1", "dart (no relevance) 0.1"),
        "vidcom2 0.1",
        "dytok:method=random 0.1",
        "dytok:method=random (another question) 0.1",
        "dytok:method=random (no relevance) 0.1",
    ]
    by_name = {each.name: each for each in with_controls(variants, wrong=True, none=True)}
    assert by_name["dart (another question) 0.1"].chain is by_name["dart 0.1"].chain
    assert not by_name["dart (no relevance) 0.1"].chain.needs_question
    assert with_controls(variants, wrong=False, none=False) == variants


def test_every_question_has_tokens_of_its_own_and_every_reading_counts(model, few, heard):
    first = few.questions[0].clip
    questions = of(few, first)
    tokens = model.encode(few.frames(first, 4))
    record = answer_clip(model, few, questions, Variant(heard), tokens)
    assert Heard.questions == [question.text for question in questions]
    assert record.readings == len(record.said) == 2
    plain = answer_clip(model, few, questions, Variant(Chain([UniformGrid(retention=0.1)])), tokens)
    assert plain.readings == 1
    assert plain.said == record.said


def test_the_wrong_questions_are_the_next_clips(model, few, heard):
    first, second = list(dict.fromkeys(question.clip for question in few.questions))
    tokens = model.encode(few.frames(first, 4))
    _, wrong = with_controls([Variant(heard)], wrong=True, none=False)
    record = answer_clip(model, few, of(few, first), wrong, tokens, elsewhere=of(few, second))
    assert Heard.questions == [question.text for question in of(few, second)]
    assert record.said.keys() == {question.id for question in of(few, first)}


def test_a_question_alone_is_what_stages_are_told():
    assert Question("1", "a", "all", "Why?\nA. yes", "A", "Why?").asked == "Why?"
    assert Question("1", "a", "all", "Why?", "yes").asked == "Why?"
