"""Ask About: the question is on the tokens after it, streamed or not, and the node says what it is worth."""

import re

import pytest
import torch

from comfyui_aot.aot.answering.relevance import agreement_with_unrelated
from comfyui_aot.aot.errors import InputError
from comfyui_aot.nodes import relevance
from comfyui_aot.nodes.asking import AOTAskAbout
from comfyui_aot.nodes.comfy import HAS_COMFYUI
from comfyui_aot.nodes.models import AOTEncodeVideo, AOTLoadVLLM, ready
from comfyui_aot.nodes.relevance import AOTLoadRelevanceModel
from comfyui_aot.nodes.stages import NODES as STAGES
from comfyui_aot.tests.support.clips import saved

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")

QUESTION = "Which shape moves to the left?"


@pytest.fixture(scope="module")
def loaded(embedded_folder):
    return AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="sdpa").args[0]


def node(name):
    return next(each for each in STAGES if each.__name__ == name)


def test_the_tokens_stay_and_have_the_words(loaded, encoded):
    output = AOTAskAbout.execute(vllm=loaded, tokens=encoded, question=f"  {QUESTION}\n")
    (asked,) = output.args
    assert asked.features is encoded.features
    assert asked.question.text == QUESTION
    ids = loaded.model._tokenizer(QUESTION, add_special_tokens=False)["input_ids"]
    assert torch.equal(asked.question.words, loaded.model.embed(torch.tensor(ids)))
    assert re.fullmatch(r"\d+ words; .* correlates at -?\d\.\d\d", output.ui["text"][0])


def test_streamed_tokens_take_it_along(loaded, frames):
    eager, promised = (
        AOTEncodeVideo.execute(vllm=loaded, frames=frames, streaming=streaming).args[0] for streaming in (False, True)
    )
    both = [AOTAskAbout.execute(vllm=loaded, tokens=each, question=QUESTION).args[0] for each in (eager, promised)]
    reduced = [ready(node("AOTDART").execute(tokens=each, retention=0.2).args[0]) for each in both]
    assert torch.equal(reduced[0].place, reduced[1].place)
    assert reduced[1].question.text == QUESTION


def test_without_it_a_stage_that_asks_says_what_to_do(loaded, encoded):
    with pytest.raises(InputError, match="put Ask About before it"):
        node("AOTDART").execute(tokens=encoded)


@pytest.mark.parametrize("empty", ["", "  \n"])
def test_an_empty_question_is_refused(loaded, encoded, empty):
    with pytest.raises(InputError, match="question is empty"):
        AOTAskAbout.execute(vllm=loaded, tokens=encoded, question=empty)


def test_a_question_ranks_as_itself(loaded, encoded):
    unrelated = "What is the person in the kitchen cooking for dinner?"
    model = loaded.model
    assert -1 <= agreement_with_unrelated(model, model.about(encoded, unrelated)) < 0.999


@pytest.fixture
def clips(tmp_path, embedded_folder, monkeypatch):
    """The model folder of a ComfyUI with a small CLIP, and something else beside it."""
    home = tmp_path / "VLLM"
    saved(home / "makers" / "tiny-clip", "clip", embedded_folder)
    (home / "other").mkdir()
    (home / "other" / "config.json").write_text('{"model_type": "clip_vision_model"}')
    monkeypatch.setattr(relevance, "model_folders", lambda: [("VLLM", home)])
    return home


def test_a_relevance_model_looks_at_the_frames_for_cdpruner_as_released(clips, loaded, encoded, frames):
    (combo,) = AOTLoadRelevanceModel.GET_SCHEMA().inputs
    assert combo.options == ["makers/tiny-clip"]
    output = AOTLoadRelevanceModel.execute(model="makers/tiny-clip")
    assert "4 x 4 places of 28 x 28 pixels, as released" in output.ui["text"][0]
    linked = {"relevance_model": output.args[0], "frames": frames}
    asked = AOTAskAbout.execute(vllm=loaded, tokens=encoded, question=QUESTION, **linked)
    assert re.search(r"\nrelevance model: \d+\.\d\d s", asked.ui["text"][0])
    assert asked.args[0].question.places["clip"].shape == (encoded.layout.frames, encoded.layout.cells)
    reduced = node("AOTCDPruner").execute(tokens=asked.args[0], relevance="clip", retention=0.1).args[0]
    assert reduced.tokens_kept == round(0.1 * encoded.tokens_full)
    without = AOTAskAbout.execute(vllm=loaded, tokens=encoded, question=QUESTION).args[0]
    with pytest.raises(InputError, match="link a relevance model and the frames to Ask About"):
        node("AOTCDPruner").execute(tokens=without, relevance="clip", retention=0.1)


def test_a_relevance_model_that_is_not_there_or_has_no_frames_is_one_line(clips, loaded, encoded, frames):
    for name in ("../secret", "other", relevance.NOTHING):
        with pytest.raises(InputError, match=r"There is no relevance model .* There: makers/tiny-clip\."):
            AOTLoadRelevanceModel.execute(model=name)
        assert "There is no relevance model" in AOTLoadRelevanceModel.validate_inputs(name)
    assert AOTLoadRelevanceModel.validate_inputs("makers/tiny-clip") is True
    model = AOTLoadRelevanceModel.execute(model="makers/tiny-clip").args[0]
    with pytest.raises(InputError, match="link those that went into Encode Video"):
        AOTAskAbout.execute(vllm=loaded, tokens=encoded, question=QUESTION, relevance_model=model)
    promised = AOTEncodeVideo.execute(vllm=loaded, frames=frames, streaming=True).args[0]
    with pytest.raises(InputError, match="switch streaming off"):
        AOTAskAbout.execute(vllm=loaded, tokens=promised, question=QUESTION, relevance_model=model, frames=frames)
