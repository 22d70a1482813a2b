"""Token Map Video as a node: the file, its name, the VIDEO, and what is refused."""

import dataclasses
import json
from types import SimpleNamespace

import av
import pytest

from comfyui_aot.aot.answering.answer import Answer
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.methods.anchor_ot.both_phases import AnchorOT
from comfyui_aot.aot.streaming import Stream
from comfyui_aot.nodes import comfy
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories, io, workflow_metadata
from comfyui_aot.nodes.token_video import AOTTokenMapVideo
from comfyui_aot.nodes.video import AOTFramesFromVideo

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders, empty."""
    with directories(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def reduced(encoded):
    return AnchorOT(retention=0.2)(encoded)


@pytest.fixture(scope="module")
def answer(model, reduced):
    figures = {"prefill_s": 0.1, "decode_s": 0.1, "peak_memory_bytes": 0, "prompt_tokens": 9, "new_tokens": 1}
    return Answer.about(model, reduced, "What is it?", "a fox", **figures)


def test_it_saves_a_video_and_plays_it_on_the_node(base, reduced, frames, answer):
    output = AOTTokenMapVideo.execute(reduced, frames, answer, width=640, seconds=4.0)
    video, file = output.args
    assert file == "aot_videos/token_map_00001_.mp4"
    assert output.ui.as_dict() == {
        "images": [{"filename": "token_map_00001_.mp4", "subfolder": "aot_videos", "type": "output"}],
        "animated": (True,),
    }
    assert (base / "output" / file).is_file()
    assert video.get_dimensions()[0] == 640
    assert video.get_duration() == pytest.approx(4.0, abs=0.05)


def test_its_video_goes_into_nodes_that_take_one(base, reduced, frames):
    video, _ = AOTTokenMapVideo.execute(reduced, frames, width=320, seconds=1.0).args
    (taken,) = AOTFramesFromVideo.execute(video, "uniform", 4, 1.0, 1, 0.0, 0.0).args
    assert (taken.count, taken.width) == (4, 320)


def test_a_second_file_takes_the_next_number_and_one_without_a_folder_lies_at_the_top(base, reduced, frames):
    names = [AOTTokenMapVideo.execute(reduced, frames, filename_prefix="mine", width=320).args[1] for _ in range(2)]
    assert names == ["mine_00001_.mp4", "mine_00002_.mp4"]
    assert AOTTokenMapVideo.execute(reduced, frames, filename_prefix="mine", width=320).ui.values[0]["subfolder"] == ""


def test_two_variants_and_streamed_tokens_are_drawn(base, model, reduced, encoded, frames, answer):
    streamed = Stream(lambda: model, frames, [AnchorOT(retention=0.2, solver="early")])
    output = AOTTokenMapVideo.execute(encoded, frames, None, streamed, None, width=640)
    one = AOTTokenMapVideo.execute(reduced, frames, answer, width=640)
    assert output.args[0].get_dimensions()[1] < one.args[0].get_dimensions()[1]


def test_the_workflow_is_in_the_file_as_comfyuis_own_nodes_save_it(base, reduced, frames, monkeypatch):
    prompt, workflow = {"1": {"class_type": "AOTTokenMapVideo"}}, {"nodes": [], "extra": {"name": "f\u00fcr"}}
    hidden = {io.Hidden.prompt: prompt, io.Hidden.extra_pnginfo: {"workflow": workflow}}
    node = AOTTokenMapVideo.PREPARE_CLASS_CLONE(hidden)
    with av.open(str(base / "output" / node.execute(reduced, frames, width=320).args[1])) as file:
        assert json.loads(file.metadata["workflow"]) == workflow
        assert json.loads(file.metadata["prompt"]) == prompt
    monkeypatch.setattr(comfy, "args", SimpleNamespace(disable_metadata=True))
    with av.open(str(base / "output" / node.execute(reduced, frames, width=320).args[1])) as file:
        assert not {"workflow", "prompt"} & set(file.metadata)


def test_outside_a_run_there_is_no_workflow():
    assert workflow_metadata(None) == {}
    assert workflow_metadata(SimpleNamespace(prompt=None, extra_pnginfo=None)) == {}


def test_what_does_not_go_together_is_refused_in_a_line(base, reduced, encoded, frames, answer):
    other = dataclasses.replace(answer, tokens_kept=3)
    with pytest.raises(InputError, match=r"answer is about 3 of .* connect the answer about these tokens"):
        AOTTokenMapVideo.execute(reduced, frames, other)
    with pytest.raises(InputError, match="answer_b is about"):
        AOTTokenMapVideo.execute(reduced, frames, answer, encoded, answer)
    with pytest.raises(InputError, match="answer_b has no tokens; connect"):
        AOTTokenMapVideo.execute(reduced, frames, answer, None, answer)
    with pytest.raises(InputError, match="relative name in the output folder"):
        AOTTokenMapVideo.execute(reduced, frames, filename_prefix="../out")
    assert list(base.rglob("*.mp4")) == []


def test_a_folder_that_cannot_be_made_is_refused_in_a_line(base, reduced, frames):
    (base / "output").mkdir()
    (base / "output" / "aot_videos").write_text("")
    with pytest.raises(InputError, match="cannot be made"):
        AOTTokenMapVideo.execute(reduced, frames)
