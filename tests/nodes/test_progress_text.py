"""What a running node says: the time left comes from what was measured, and is left out where nothing is known."""

from types import SimpleNamespace

import pytest
import torch

from comfyui_aot.aot.evaluation.drawn_clip import load_drawn_clip
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.nodes import answering, progress_text
from comfyui_aot.nodes.answering import AOTAnswer
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories, io
from comfyui_aot.nodes.comparing import AOTSweep
from comfyui_aot.nodes.models import AOTEncodeVideo, AOTLoadVLLM
from comfyui_aot.nodes.progress_text import Rest, Said, time_left
from comfyui_aot.tests.support.stages import video


@pytest.mark.parametrize(
    ("seconds", "done", "total", "says"),
    [
        (10, 0, 16, ""),
        (1, 4, 16, ""),
        (10, 4, 16, ", about 30 s left"),
        (60, 4, 16, ", about 3 min left"),
        (3600, 1, 3, ", about 2 h left"),
        (10, 16, 16, ""),
    ],
)
def test_the_time_left_is_that_of_the_rest_at_the_pace_so_far(seconds, done, total, says):
    assert time_left(seconds, done, total) == says


@pytest.fixture
def said(monkeypatch):
    """Every text that is sent, with the id of its node."""
    sent = []
    for place in (progress_text, answering):
        monkeypatch.setattr(place, "send_text", lambda node, text: sent.append((node, text)))
    monkeypatch.setattr(progress_text, "LEAST_APART", 0.0)
    return sent


def test_texts_that_come_too_fast_are_left_out(monkeypatch):
    sent, now = [], [0.0]
    monkeypatch.setattr(progress_text, "send_text", lambda node, text: sent.append(text))
    line = Said(SimpleNamespace(unique_id="7"), lambda: now[0])
    for number in range(10):
        now[0] = number / 10
        line.say(str(number))
    line.say("last", now=True)
    assert sent == ["0", "3", "6", "9", "last"]


def test_what_was_kept_from_an_earlier_run_does_not_count():
    now = [0.0]
    rest = Rest([4, 4, 2, 2], lambda: now[0])
    assert rest.begin(0) == ""
    now[0] = 0.01  # the first piece was kept
    assert rest.begin(1) == ""
    now[0] = 20.01  # the second took 20 s for 4 of 8 that are not kept
    assert rest.begin(2) == ", about 20 s left"


@pytest.mark.model
@pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")
def test_each_long_node_says_what_it_does(tmp_path, embedded_folder, said):
    def executed(kind, **inputs):
        node = kind.PREPARE_CLASS_CLONE({io.Hidden.unique_id: kind.__name__})
        with torch.inference_mode():
            return node.execute(**inputs).args

    def lines(kind):
        return [text for node, text in said if node == kind.__name__]

    with directories(tmp_path):
        (vllm,) = executed(AOTLoadVLLM, model="embedded", dtype="auto", device="cpu", attention="eager")
        frames = load_drawn_clip(Sampling(frames=4))
        executed(AOTEncodeVideo, vllm=vllm, frames=frames)
        tokens = video(2, (9, 9), 576)
        question = {"question": "What colour is the square?", "max_new_tokens": 2}
        executed(AOTAnswer, vllm=vllm, tokens=tokens, **question, temperature=0.0, top_p=1.0, seed=0)
        swept = {"stages": "random", "retentions": "0.5, 0.25", "filename_prefix": "x"}
        executed(AOTSweep, vllm=vllm, tokens=tokens, **question, **swept)
    assert lines(AOTLoadVLLM)[0] == "loading embedded"
    assert lines(AOTEncodeVideo)[0] == "encoding, 0 of 4 frames done"
    assert lines(AOTEncodeVideo)[-1] == "encoding, 4 of 4 frames done"
    assert lines(AOTAnswer)[0] == f"reading {tokens.tokens_kept} video tokens"
    assert lines(AOTAnswer)[-1] != lines(AOTAnswer)[0]
    assert lines(AOTSweep)[0].startswith("3 answers")
    assert [text.partition(",")[0] for text in lines(AOTSweep)[1:]] == [
        "full: 1 of 3", "random 0.5: 2 of 3", "random 0.25: 3 of 3",
    ]  # fmt: skip
