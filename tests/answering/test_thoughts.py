"""What a model writes to itself is kept apart from its answer."""

import io
import json

import pytest
import torch
from transformers import AutoTokenizer

from comfyui_aot.aot.answering import packing
from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.answering.thoughts import apart, growing
from comfyui_aot.aot.cli.answer import _GrowingText
from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import load
from comfyui_aot.nodes import answering
from comfyui_aot.nodes.answering import figures
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.comfy import io as comfy_io
from comfyui_aot.nodes.models import AOTLoadVLLM
from comfyui_aot.tests.support.small_models import save
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


@pytest.mark.parametrize(
    ("text", "opened", "thoughts", "answer"),
    [
        ("<thi", False, "", ""),
        ("<think>It is", False, "It is", ""),
        ("It is red.</thi", True, "It is red.", ""),
        ("It is red.</think>\n\n<ans", True, "It is red.", ""),
        ("It is red.</think><answer>A fox.</", True, "It is red.", "A fox."),
        ("A fox.", False, "", "A fox."),
        ("1 < 2", False, "", "1 < 2"),
    ],
)
def test_no_beginning_of_a_mark_is_shown_of_a_text_on_its_way(text, opened, thoughts, answer):
    assert growing(text, opened) == (thoughts, answer)


WRITTEN = "It is red,\nand quick.</think>\n\n<answer>A fox jumps.</answer>"
THOUGHTS, ANSWER = "It is red,\nand quick.", "A fox jumps."


@pytest.fixture(scope="module", params=["opened by the prompt", "opened by the model"])
def thinking(request, tmp_path_factory, embedded_folder):
    """A folder of a small random model, and a text that it is to write."""
    folder = tmp_path_factory.mktemp("thinking") / "model"
    save(folder, "internvl", embedded_folder)
    if request.param == "opened by the model":
        return folder, f"<think>{WRITTEN}"
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    template += "{% if add_generation_prompt %}{{ '<think>\n' }}{% endif %}"
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    return folder, WRITTEN


@pytest.fixture
def scripted(thinking, monkeypatch):
    """Have the model choose the tokens of that text, a character each: marks and answer are split over many."""
    folder, text = thinking
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [each for character in text for each in tokenizer(character, add_special_tokens=False)["input_ids"]]
    ids.append(tokenizer.eos_token_id)
    assert len(ids) > len(ANSWER) + len(THOUGHTS)

    def sampler(generation, questions, device):
        counts = [0] * questions

        def choose(logits, numbers):
            chosen = []
            for number in numbers.tolist():
                chosen.append(ids[counts[number]])
                counts[number] += 1
            return torch.tensor(chosen, device=logits.device)

        return choose

    monkeypatch.setattr(packing, "sampler", sampler)
    return folder


def test_a_template_that_ends_inside_thoughts_is_known_and_rendered_once(thinking, monkeypatch):
    folder, text = thinking
    model = load(folder)
    renderings, rendered = [], model._rendered
    monkeypatch.setattr(model, "_rendered", lambda messages: renderings.append(1) or rendered(messages))
    tokens = model.encode(random_frames(2, 60, 80))
    costs = {"prompt_tokens": 1, "new_tokens": 3, "prefill_s": 0.1, "decode_s": 0.1, "peak_memory_bytes": 0}
    for _ in range(2):
        said = Answer.about(model, tokens, "What is it?", text, **costs)
        assert (said.thoughts, said.text) == (THOUGHTS, ANSWER)
    assert len(renderings) == 1
    assert model.opens_thoughts == (text == WRITTEN)
    assert said.to_dict()["thoughts"] == THOUGHTS
    assert said.conversation[-1].answer == ANSWER


@pytest.mark.parametrize("questions", [1, 2])
def test_a_model_that_thinks_answers_apart_from_its_thoughts(scripted, questions):
    model = load(scripted)
    seen = [[] for _ in range(questions)]
    asked = ["What is it?", "What does it do?"][:questions]
    answers = Session(model, model.encode(random_frames(2, 60, 80))).answer(
        asked, Generation(200), on_text=lambda number, text: seen[number].append(growing(text, model.opens_thoughts))
    )
    for answer, texts in zip(answers, seen, strict=True):
        assert (answer.thoughts, answer.text) == (THOUGHTS, ANSWER)
        shown = [text for _, text in texts]
        assert all(ANSWER.startswith(text) for text in shown)
        assert len(set(shown)) > 10
        assert all(THOUGHTS.startswith(thoughts) for thoughts, _ in texts)
        assert shown[-1] == ANSWER


def test_an_answer_that_ends_among_its_thoughts_says_so(scripted):
    model = load(scripted)
    (answer,) = Session(model, model.encode(random_frames(2, 60, 80))).answer(["What is it?"], Generation(12))
    assert (answer.text, bool(answer.thoughts)) == ("", True)
    assert answer.shown == "(only thoughts in 12 tokens; allow more)"


@pytest.mark.parametrize("told", [False, True])
def test_the_command_streams_the_answer_without_the_thoughts(scripted, capsys, bunny, told):
    arguments = ["answer", str(bunny), "What is it?", "--model", str(scripted), "--frames", "2"]
    assert main([*arguments, "--max-new-tokens", "200", *(["--thoughts"] if told else [])]) == 0
    assert capsys.readouterr().out == f"{ANSWER}\n" + (f"Thoughts: {THOUGHTS}\n" if told else "")


@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_the_node_streams_thoughts_by_that_name_and_then_the_answer(scripted, monkeypatch, tmp_path):
    sent = []
    monkeypatch.setattr(answering, "send_text", lambda node, text: sent.append(text))
    model = load(scripted)
    (tmp_path / "models" / "VLLM").mkdir(parents=True)
    (tmp_path / "models" / "VLLM" / "thinker").symlink_to(scripted)
    with directories(tmp_path):
        loaded = AOTLoadVLLM.execute(model="thinker", dtype="auto", device="cpu", attention="auto").args[0]
    settings = {"max_new_tokens": 200, "temperature": 0.0, "top_p": 1.0, "seed": 0}
    node = answering.AOTAnswer.PREPARE_CLASS_CLONE({comfy_io.Hidden.unique_id: "7"})
    output = node.execute(loaded, model.encode(random_frames(2, 60, 80)), "What is it?", **settings)
    assert output.args[0] == [ANSWER]
    assert output.ui["text"][0] == ANSWER
    assert "thinking: It is" in sent
    assert sent[-1] == ANSWER
    assert not any("<" in text for text in sent)


def test_an_answer_that_was_taken_for_thoughts_too_late_is_printed_whole():
    out = io.StringIO()
    shown = _GrowingText(out)
    shown("It is red.")
    assert shown.rest("A fox.") == "\nA fox."


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
