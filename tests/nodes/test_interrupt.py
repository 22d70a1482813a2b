"""A run that the user interrupts stops within moments in every node that works long, whatever it is just doing.

The stand-in never interrupts, so ComfyUI's exception is put in its place. The bounds are for a busy machine: without
a look inside, a pass of four frames or a chunk of a prompt takes longer there.
"""

import threading
import time

import pytest
import torch

from comfyui_aot.aot.evaluation.drawn_clip import load_drawn_clip
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.nodes.answering import AOTAnswer
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories, model_management
from comfyui_aot.nodes.comparing import AOTSweep
from comfyui_aot.nodes.models import AOTEncodeVideo, AOTLoadVLLM
from comfyui_aot.nodes.pictures import AOTStageInspector
from comfyui_aot.nodes.stages import NODES as STAGES
from comfyui_aot.tests.support.stages import video

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported"),
]

WITHIN = 10.0
"""Seconds."""

ASKED = {"question": "Which way does the yellow circle move?", "max_new_tokens": 32}


class Interrupted(BaseException):
    """What ComfyUI raises."""


@pytest.fixture
def interrupts(monkeypatch):
    """Interrupts a node's run after its first look and then some seconds; returns how long it takes to stop."""
    asked, looks = threading.Event(), []

    def look():
        looks.append(time.perf_counter())
        if asked.is_set():
            raise Interrupted

    monkeypatch.setattr(model_management, "throw_exception_if_processing_interrupted", staticmethod(look))

    def stop(kind, after, **inputs):
        ended = []

        def run():
            try:
                with torch.inference_mode():
                    kind.PREPARE_CLASS_CLONE({}).execute(**inputs)
                ended.append("done")
            except Interrupted:
                ended.append("interrupted")

        asked.clear()
        looks.clear()
        thread = threading.Thread(target=run)
        thread.start()
        while not looks and thread.is_alive():
            time.sleep(0.01)
        time.sleep(after)
        start = time.perf_counter()
        asked.set()
        thread.join(120)
        asked.clear()
        seconds = time.perf_counter() - start
        print(f"{kind.__name__} stopped after {seconds:.2f} s")
        return ended, seconds

    return stop


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, embedded_folder):
    with directories(tmp_path_factory.mktemp("base")):
        (vllm,) = AOTLoadVLLM.execute(model="embedded", dtype="auto", device="cpu", attention="eager").args
    return vllm


@pytest.fixture(scope="module")
def tokens():
    """As many as 40 frames give the embedded model, of noise: what they show does not matter here."""
    return video(40, (27, 27), 576)


def stops(result):
    ended, seconds = result
    assert ended == ["interrupted"]
    assert seconds < WITHIN


def test_loading_a_model_stops(interrupts, embedded_folder, tmp_path):
    settings = {"model": "embedded", "dtype": "bfloat16", "device": "cpu", "attention": "eager"}
    with directories(tmp_path):
        stops(interrupts(AOTLoadVLLM, 0.05, **settings))


def test_encoding_stops(loaded, interrupts):
    stops(interrupts(AOTEncodeVideo, 1.0, vllm=loaded, frames=load_drawn_clip(Sampling(frames=64))))


def test_reading_a_long_video_stops(loaded, tokens, interrupts):
    stops(interrupts(AOTAnswer, 1.0, vllm=loaded, tokens=tokens, **ASKED, temperature=0.0, top_p=1.0, seed=0))


def test_a_sweep_stops(loaded, tokens, interrupts, tmp_path):
    with directories(tmp_path):
        swept = {"stages": "aot", "retentions": "0.5", "filename_prefix": "x"}
        stops(interrupts(AOTSweep, 1.0, vllm=loaded, tokens=tokens, **ASKED, **swept))


@pytest.mark.parametrize("name", ["AOTAnchorTransport", "AOTFastVID", "AOTInterFrame"])
def test_a_stage_on_many_frames_stops(name, tokens, interrupts):
    kind = next(each for each in STAGES if each.__name__ == name)
    stops(interrupts(kind, 0.01, tokens=tokens))


def test_measuring_stages_stops(tokens, interrupts):
    stops(interrupts(AOTStageInspector, 0.05, tokens=tokens))
