"""What a model writes to itself is kept apart from its answer."""

import pytest

from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.answering.thoughts import apart
from comfyui_aot.aot.models import load
from comfyui_aot.nodes.answering import figures
from comfyui_aot.tests.support.stock_inputs import random_frames


@pytest.mark.parametrize(
    ("text", "opened", "thoughts", "answer"),
    [
        ("A fox.", False, "", "A fox."),
        ("<think>\nIt is red.\n</think>\n\nA fox.", False, "It is red.", "A fox."),
        ("It is red.\n</think>\n\nA fox.", True, "It is red.", "A fox."),
        ("It is red.</think>A fox.", False, "It is red.", "A fox."),
        ("<think>It is", False, "It is", ""),
        ("It is", True, "It is", ""),
        ("<think>red</think><answer>A fox.</answer>", False, "red", "A fox."),
        ("<think></think>A fox.", False, "", "A fox."),
        ("", False, "", ""),
        ("Is a <think> tag meant?", False, "", "Is a <think> tag meant?"),
    ],
)
def test_thoughts_are_apart(text, opened, thoughts, answer):
    assert apart(text, opened) == (thoughts, answer)


@pytest.mark.model
def test_a_template_that_ends_inside_thoughts_is_known(embedded_folder, monkeypatch):
    model = load(embedded_folder)
    tokens = model.encode(random_frames(2, 60, 80))
    figures = {"prompt_tokens": 1, "new_tokens": 3, "prefill_s": 0.1, "decode_s": 0.1, "peak_memory_bytes": 0}
    assert not model.opens_thoughts
    assert Answer.about(model, tokens, "What is it?", "A fox.", **figures).text == "A fox."
    monkeypatch.setattr(model._tokenizer, "chat_template", model._tokenizer.chat_template + "<think>\n")
    assert model.opens_thoughts
    said = Answer.about(model, tokens, "What is it?", "Red.</think> A fox.", **figures)
    assert (said.thoughts, said.text) == ("Red.", "A fox.")
    assert said.to_dict()["thoughts"] == "Red."
    assert said.conversation[-1].answer == "A fox."
    (answer,) = Session(model, tokens).answer(["What is it?"], Generation(2))
    assert answer.text == "" and answer.thoughts and answer.shown.startswith("(only thoughts in 2 tokens")


@pytest.mark.model
def test_the_node_ends_its_figures_with_them(embedded_folder):
    model = load(embedded_folder)
    tokens = model.encode(random_frames(2, 60, 80))
    costs = {"prompt_tokens": 1, "new_tokens": 3, "prefill_s": 0.1, "decode_s": 0.1, "peak_memory_bytes": 0}
    thinking, plain = (
        Answer.about(model, tokens, "What is it?", text, **costs) for text in ("<think>Red.</think> A fox.", "A fox.")
    )
    assert figures(thinking).splitlines()[-1] == "thoughts: Red."
    assert "thoughts" not in figures(plain)
