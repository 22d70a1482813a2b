"""Ask Video: the nodes it expands into, and its answer, which is theirs."""

import json
import os
import shutil
from types import SimpleNamespace

import pytest
import torch

from comfyui_aot.aot.cli.run import run_file
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.internvl import InternVL
from comfyui_aot.aot.video.sampling import Sampling
from comfyui_aot.aot.video.video_source import open_video
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.asking import AOTAskVideo
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.models import AOTLoadVLLM
from comfyui_aot.nodes.video import AOTFramesFromImages, AOTFramesFromVideo
from comfyui_aot.nodes.workflow import core
from comfyui_aot.nodes.workflow.graph import to_graph
from comfyui_aot.nodes.workflow.requirements import needs
from comfyui_aot.nodes.workflow.runner import check, registry, run
from comfyui_aot.tests.support.small_models import save

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")

CLASSES = registry((*NODES, *core.NODES))
ASK = {
    "video": "clip.mp4", "question": "What is it?", "retention": 0.25, "model": "embedded", "frames": 4,
    "max_new_tokens": 3,
}  # fmt: skip


@pytest.fixture
def base(tmp_path, bunny):
    """ComfyUI's folders with a clip in input."""
    (tmp_path / "input").mkdir()
    shutil.copy(bunny, tmp_path / "input" / "clip.mp4")
    with directories(tmp_path):
        yield tmp_path


def expanded(**changed):
    """The types of the nodes that Ask Video expands into, and their inputs by type."""
    graph = AOTAskVideo.PREPARE_CLASS_CLONE({}).execute(**{**ASK, **changed}).expand
    return {node["class_type"]: node["inputs"] for node in graph.values()}


def asked(**changed):
    """The result of Ask Video in a prompt of its own, with nodes that an input may link to."""
    prompt = {
        "1": {"class_type": "AOTAskVideo", "inputs": {**ASK, **changed}},
        "2": {"class_type": "AOTLoadVLLM",
              "inputs": {"model": "embedded", "dtype": "auto", "device": "cpu", "attention": "eager"}},
        "3": {"class_type": "AOTDrawnClip", "inputs": {"clip": 2000002, "family": "motion", "frames": 6}},
        "4": {"class_type": "AOTFramesToImages", "inputs": {"frames": ["3", 0]}},
    }  # fmt: skip
    return run(to_graph(prompt, CLASSES))["1"]


def by_the_five_nodes():
    prompt = {
        "1": {"class_type": "AOTLoadVideo",
              "inputs": {"video": "clip.mp4", "sampling": "uniform", "frames": 4, "fps": 1.0, "every": 1, "start": 0.0,
                         "end": 0.0, "size": 0}},
        "2": {"class_type": "AOTLoadVLLM",
              "inputs": {"model": "embedded", "dtype": "auto", "device": "auto", "attention": "auto"}},
        "3": {"class_type": "AOTEncodeVideo", "inputs": {"vllm": ["2", 0], "frames": ["1", 0]}},
        "4": {"class_type": "AOTAnchorTransport", "inputs": {"tokens": ["3", 0], "retention": 0.25}},
        "5": {"class_type": "AOTAnswer",
              "inputs": {"vllm": ["2", 0], "tokens": ["4", 0], "question": "What is it?", "max_new_tokens": 3,
                         "temperature": 0.0, "top_p": 1.0, "seed": 0}},
    }  # fmt: skip
    return run(to_graph(prompt, CLASSES))["5"]


def test_it_answers_what_the_five_nodes_answer_and_shows_it(base, miniature_embedded):
    result, (texts, _, _) = asked(), by_the_five_nodes().outputs
    (text,), (tokens,), (figures,), (answer,), (frames,) = result.outputs
    assert [text] == texts
    assert (tokens.tokens_kept, tokens.tokens_full, frames.count) == (196, 784, 4)
    assert list(result.ui["text"]) == [text, figures]
    assert answer.text == text
    assert figures.startswith("tokens: 196 of 784 (25.0%), reduction: intra + inter")


def test_at_a_retention_of_1_nothing_is_reduced():
    assert "AOTAnchorTransport" not in expanded(retention=1.0)
    assert expanded(retention=0.5)["AOTAnchorTransport"]["retention"] == 0.5


def test_another_question_or_retention_changes_no_input_of_loading_and_encoding():
    first, second = expanded(), expanded(question="Is it day?", retention=0.5)
    for kind in ("AOTLoadVideo", "AOTLoadVLLM"):
        assert first[kind] == second[kind]
    assert first["AOTAnswer"]["question"] != second["AOTAnswer"]["question"]


def test_a_linked_clip_images_or_model_takes_the_place_of_the_chosen_one():
    clip = expanded(clip=["9", 0])
    images = expanded(images=["9", 1], fps=5.0)
    model = expanded(vllm=["9", 2], model="gone")
    assert clip["AOTFramesFromVideo"]["video"] == ["9", 0]
    assert images["AOTFramesFromImages"] == {"images": ["9", 1], "fps": 5.0, "frames": 4}
    assert model["AOTAnswer"]["vllm"] == model["AOTEncodeVideo"]["vllm"] == ["9", 2]
    assert not {"AOTLoadVideo"} & {*clip, *images}
    assert "AOTLoadVLLM" not in model


def test_a_number_of_frames_asks_for_what_it_always_did():
    asked_for = {
        "video": "clip.mp4", "size": 0, "sampling": "uniform", "frames": 4, "fps": 1.0, "every": 1, "start": 0.0,
        "end": 0.0,
    }  # fmt: skip
    assert expanded()["AOTLoadVideo"] == asked_for
    assert [each.id for each in AOTAskVideo.GET_SCHEMA().inputs[-2:]] == ["sample_fps", "fewer"]


def test_fewer_frames_are_taken_where_that_is_allowed_or_no_number_was_asked_for():
    assert expanded(fewer=True)["AOTLoadVideo"] == {**expanded()["AOTLoadVideo"], "fewer": True}
    assert expanded(fewer=True, clip=["9", 0])["AOTFramesFromVideo"]["fewer"] is True
    assert "fewer" not in expanded(fewer=True, images=["9", 1])["AOTFramesFromImages"]
    assert expanded(frames=0)["AOTLoadVideo"]["fewer"] is True


def test_a_short_video_is_asked_about_with_all_its_frames_where_no_number_is_given(base, make_clip, miniature_embedded):
    shutil.copy(make_clip("short.mp4", frames=5), base / "input" / "short.mp4")
    assert asked(video="short.mp4", frames=0).outputs[4][0].count == 5
    assert asked(video="short.mp4", frames=9, fewer=True).outputs[4][0].count == 5
    with pytest.raises(Exception, match=r"9 frames asked of short.mp4, which has 5 .*allow fewer"):
        asked(video="short.mp4", frames=9)


def test_frames_of_its_own_rate_go_before_their_number():
    by_rate = expanded(sample_fps=2.0)["AOTLoadVideo"]
    assert (by_rate["sampling"], by_rate["fps"], by_rate["frames"]) == ("fps", 2.0, 4)
    by_rate = expanded(sample_fps=2.0, frames=0)["AOTLoadVideo"]
    assert (by_rate["sampling"], by_rate["frames"], "vllm" in by_rate) == ("fps", 4096, False)


def test_without_a_number_the_makers_choose_by_model_and_file(base, embedded_folder, miniature_embedded):
    save(base / "models" / "VLLM" / "intern", "internvl", embedded_folder)
    taken = {name: asked(model=name, frames=0).outputs[4][0].timestamps for name in ("intern", "embedded")}
    source = open_video(base / "input" / "clip.mp4", Sampling(makers=InternVL.sampling))
    assert taken["intern"].tolist() == source.timestamps.tolist()
    assert len(taken["embedded"]) == 16


@pytest.mark.parametrize("what", ["images", "clip"])
def test_the_makers_choose_among_images_and_of_a_clip_too(base, embedded_folder, what):
    save(base / "models" / "VLLM" / "intern", "internvl", embedded_folder)
    images = torch.rand(50, 20, 30, 3)
    vllm = AOTLoadVLLM.execute(model="intern", dtype="auto", device="cpu", attention="auto").args[0]
    if what == "images":
        (taken,) = AOTFramesFromImages.execute(images, 5.0, 16, vllm).args
    else:
        sampling = {"sampling": "uniform", "frames": 16, "fps": 1.0, "every": 1, "start": 0.0, "end": 0.0}
        (taken,) = AOTFramesFromVideo.execute(Video(images), **sampling, vllm=vllm).args
    assert taken.timestamps.tolist() == [each / 5 for each in InternVL.sampling(50, 5.0, 10.0)]
    assert {"vllm", what} <= set(expanded(**{what: ["9", 0]}, frames=0)[KINDS[what]].keys() | {what})


class Video:
    """As much of ComfyUI's VIDEO as is read."""

    def __init__(self, images):
        self._parts = SimpleNamespace(images=images, frame_rate=5)

    def get_dimensions(self):
        return 30, 20

    def get_duration(self):
        return 10.0

    def get_components(self):
        return self._parts


KINDS = {"images": "AOTFramesFromImages", "clip": "AOTFramesFromVideo"}


def test_images_and_a_model_over_links_are_asked_about(base, miniature_embedded):
    result = asked(video="gone.mp4", images=["4", 0], vllm=["2", 0], fps=2.0)
    (frames,) = result.outputs[4]
    assert frames.timestamps.tolist() == [0.0, 0.5, 1.5, 2.5]
    assert result.outputs[0][0]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"question": "  "}, "The question is empty"),
        ({"preset": "multiple choice"}, "needs its choices"),
        ({"clip": ["9", 0], "images": ["9", 0]}, "unlink one of them"),
        ({"model": "gone"}, "choose one of embedded"),
        ({"model": "Qwen/Qwen3-VL-2B-Instruct"}, "Qwen3-VL-2B-Instruct"),
    ],
)
def test_what_cannot_be_asked_is_one_line_before_anything_is_loaded(base, changed, message):
    with pytest.raises(InputError, match=message) as error:
        expanded(**changed)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named_before_the_run_and_only_where_it_is_read(base):
    assert "gone.mp4" in AOTAskVideo.validate_inputs(video="gone.mp4")
    assert AOTAskVideo.validate_inputs(video="gone.mp4", clip=["9", 0]) is True
    prompt = {"1": {"class_type": "AOTAskVideo", "inputs": {**ASK, "video": "gone.mp4"}}}
    assert len(check(to_graph(prompt, CLASSES))) == 1


def test_a_workflow_with_it_needs_its_video_and_its_model(base):
    graph = to_graph({"1": {"class_type": "AOTAskVideo", "inputs": {**ASK, "model": "gone"}}}, CLASSES)
    clip, model = needs(graph)
    assert (clip.kind, clip.name, clip.lacking) == ("clip", "clip.mp4", "")
    assert (model.kind, model.name) == ("model", "gone") and "choose one of" in model.lacking


def test_a_changed_file_changes_the_fingerprint(base):
    before = AOTAskVideo.fingerprint_inputs(**ASK)
    linked = AOTAskVideo.fingerprint_inputs(**ASK, clip=["9", 0])
    os.utime(base / "input" / "clip.mp4", (1, 1))
    assert AOTAskVideo.fingerprint_inputs(**ASK) != before
    assert AOTAskVideo.fingerprint_inputs(**ASK, clip=["9", 0]) == linked


def test_an_error_inside_bears_the_visible_nodes_name(base, miniature_embedded):
    with pytest.raises(InputError, match=r'^"Ask Video \(AOT\)" \(node 1\): ') as error:
        asked(start=1000.0)
    assert str(error.value).count("node 1") == 1


def test_a_workflow_file_is_run_and_its_answer_reported_once(base, miniature_embedded):
    (base / "ask.json").write_text(json.dumps({"1": {"class_type": "AOTAskVideo", "inputs": ASK}}))
    report = run_file(base / "ask.json", [], base)
    (node,), (answer,) = report["nodes"], report["answers"]
    assert node["text"][0] == answer["answer"]
