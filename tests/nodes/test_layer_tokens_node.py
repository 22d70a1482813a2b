"""What a layer of the LLM saw, as a node."""

from __future__ import annotations

import pytest

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.pictures import token_map
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.nodes.answering import figures
from comfyui_aot.nodes.inside import AOTLayerTokens
from comfyui_aot.nodes.stages import NODES


@pytest.fixture(scope="module")
def tokens(encoded):
    return parse("uniform:retention=0.1+fastv:layer=2,keep=0.25")(encoded)


@pytest.fixture(scope="module")
def answer(model, tokens):
    (answer,) = Session(model, tokens).answer(["What is there?"], Generation(2))
    return answer


def test_it_gives_what_the_layer_saw(tokens, answer, frames):
    (first,) = AOTLayerTokens.execute(tokens, answer, 1).args
    output = AOTLayerTokens.execute(tokens, answer, -1)
    (last,) = output.args
    assert first.tokens_kept == tokens.tokens_kept
    assert last.tokens_kept == round(tokens.tokens_kept * 0.25) == answer.layer_tokens[-1]
    assert output.ui["text"] == (f"{last.tokens_kept} of the {tokens.tokens_kept} tokens that the LLM was given",)
    assert token_map(last, frames).shape[-1] == 3


def test_positions_that_are_kept_leave_every_layer_as_it_is(model, encoded):
    tokens = parse("uniform:retention=0.1+positions")(encoded)
    (answer,) = Session(model, tokens).answer(["What is there?"], Generation(2))
    assert "no stage acted inside the LLM" in AOTLayerTokens.execute(tokens, answer, -1).ui["text"][0]


def test_the_node_that_keeps_positions_says_among_how_many(encoded):
    (node,) = [each for each in NODES if each.__name__ == "AOTKeepPositions"]
    reduced = parse("uniform:retention=0.1")(encoded)
    output = node.execute(tokens=reduced)
    (text,) = output.ui["text"]
    assert text == f"{reduced.tokens_kept} tokens, read at their positions among all {reduced.tokens_full}"
    assert output.args[0].features is reduced.features


def test_an_answer_without_stages_inside_leaves_tokens_as_they_are(model, encoded):
    tokens = parse("uniform:retention=0.1")(encoded)
    (answer,) = Session(model, tokens).answer(["What is there?"], Generation(2))
    output = AOTLayerTokens.execute(tokens, answer, -1)
    assert output.args[0] is tokens and "no stage acted inside the LLM" in output.ui["text"][0]


def test_another_answer_is_one_line(tokens, answer, encoded):
    with pytest.raises(InputError, match="give the tokens that were asked about"):
        AOTLayerTokens.execute(parse("uniform:retention=0.2+fastv")(encoded), answer, 1)


def test_figures_say_that_they_are_means(answer):
    (line, *_) = figures(answer).splitlines()
    assert f"{answer.layer_tokens[-1]} in the LLM's last layer" in line
    assert f"on average over its {len(answer.layer_tokens)} layers" in line
