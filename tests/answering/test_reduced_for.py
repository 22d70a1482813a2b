"""What tokens are chosen for, and an answer that says where it is to something else."""

import dataclasses

import pytest

from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.answering.answerer import LocalAnswerer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.reduced_for import asked, reduced_for
from comfyui_aot.aot.comparison.compare import compare
from comfyui_aot.aot.comparison.variants import expand
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.nodes.answering import figures
from comfyui_aot.tests.support.stages import video

QUESTION = "Which way does the red circle move?"


def test_only_stages_that_asked_choose_for_a_question():
    tokens = video(extras=True)
    chains = ("cosine:retention=0.3", "dart:relevance=none,retention=0.3", "dart:retention=0.3")
    said = [reduced_for(parse(chain)(tokens)) for chain in chains]
    assert said == [None, None, "What is there?"]


def test_tokens_get_the_question_where_a_chain_asks_and_keep_their_own(model, encoded):
    for chain in ("full", "cosine", "dart:relevance=none"):
        assert asked(model, encoded, parse(chain), QUESTION) is encoded
    tokens = asked(model, encoded, parse("dart"), QUESTION)
    assert tokens.question.text == QUESTION
    assert asked(model, tokens, parse("semvid"), "Why?") is tokens


@pytest.fixture(scope="module")
def rows(model, encoded):
    variants = expand(["dart", "uniform"], [0.1])
    return list(compare(LocalAnswerer(model), encoded, QUESTION, variants, Generation(2)))


def test_a_comparison_asks_for_those_that_ask(rows):
    assert [row.answer.reduced_for for row in rows] == [None, QUESTION, None]
    assert [list(row.to_dict())[-1] for row in rows] == ["reduced_for"] * 3
    assert list(rows[1].answer.to_dict())[-1] == "reduced_for"


@pytest.mark.parametrize(
    ("question", "another"),
    [(QUESTION, False), (f"{QUESTION} Answer in one word.", False), ("What colour is it?", True)],
)
def test_an_answer_to_another_question_says_so(rows, question, another):
    answer = dataclasses.replace(rows[1].answer, question=question)
    assert isinstance(answer, Answer)
    assert answer.of_another_question is another
    assert (f"reduced for another question: {QUESTION}" in figures(answer)) is another
    assert not dataclasses.replace(rows[2].answer, question=question).of_another_question
