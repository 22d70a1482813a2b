"""What a shared workflow needs: printed before it runs, and refused with the list of what is missing."""

import json

import pytest

from comfyui_aot.aot.cli.run import run_file
from comfyui_aot.aot.errors import InputError
from comfyui_aot.nodes import NODES
from comfyui_aot.nodes.comfy import directories
from comfyui_aot.nodes.permissions import permitted
from comfyui_aot.nodes.workflow.graph import to_graph
from comfyui_aot.nodes.workflow.requirements import needs, require
from comfyui_aot.nodes.workflow.runner import registry


def graph(**nodes):
    return to_graph(nodes, registry(NODES))


def loader(clip):
    return {"class_type": "AOTLoadVideo", "inputs": {"video": clip}}


def model(name, **more):
    return {"class_type": "AOTLoadVLLM", "inputs": {"model": name, **more}}


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders with one clip."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "here.mp4").write_bytes(b"-")
    with directories(tmp_path):
        yield tmp_path


def test_clips_and_models_are_listed_once_each(base):
    listed = needs(graph(a=loader("here.mp4"), b=loader("here.mp4"), c=model("embedded")))
    assert [(need.kind, need.name, need.lacking) for need in listed] == [
        ("clip", "here.mp4", ""),
        ("model", "embedded", ""),
    ]


def test_the_drawn_clip_is_no_need(base):
    assert needs(graph(a=loader("drawn clip"))) == []


def test_every_missing_thing_is_named_at_once(base):
    shared = {
        "nodes": [
            {"id": 1, "type": "AOTLoadVideo", "widgets_values": ["gone.mp4"]},
            {"id": 2, "type": "VHS_LoadVideo", "properties": {"cnr_id": "comfyui-videohelpersuite"}},
            {"id": 3, "type": "AOTLoadVLLM", "widgets_values": ["llava-hf/llava-onevision-qwen2-7b-ov-hf"]},
        ]
    }
    with pytest.raises(InputError) as error:
        require(to_graph(shared, registry(NODES)), "shared.json")
    said = str(error.value)
    assert said.startswith("shared.json needs what is not here: pack comfyui-videohelpersuite (for VHS_LoadVideo: run")
    assert "clip gone.mp4 (" in said
    assert "model llava-hf/llava-onevision-qwen2-7b-ov-hf (" in said
    assert "\n" not in said


def test_a_model_that_the_node_will_fetch_is_not_missing(base):
    name = "llava-hf/llava-onevision-qwen2-7b-ov-hf"
    assert needs(graph(a=model(name)))[0].lacking
    assert [(need.kind, bool(need.lacking)) for need in needs(graph(a=model(name, download=True)))] == [
        ("model", False),
        ("download", True),
    ]
    with permitted(downloads=True):
        assert not any(need.lacking for need in needs(graph(a=model(name, download=True))))


def test_tokens_whose_name_is_linked_are_not_looked_for(base):
    loads = {"class_type": "AOTLoadTokens", "inputs": {"file": "old.aot.safetensors"}}
    assert needs(graph(a=loads))[0].lacking
    linked = {**loads, "inputs": {**loads["inputs"], "saved": ["b", 1]}}
    assert not needs(graph(a=linked))[0].lacking


def test_nothing_runs_and_nothing_is_written_where_something_is_missing(base, capsys):
    workflow = base / "shared.json"
    workflow.write_text(json.dumps({"1": loader("gone.mp4")}))
    with pytest.raises(InputError, match=r"clip gone\.mp4"):
        run_file(workflow, [], base)
    assert capsys.readouterr().out == ""
    assert not (base / "temp").exists()


def test_what_is_needed_is_printed_before_the_run(base, capsys):
    workflow = base / "shared.json"
    shows = {"class_type": "AOTLoadVideo", "inputs": {"video": "here.mp4"}}
    workflow.write_text(json.dumps({"1": shows}))
    with pytest.raises(InputError):
        run_file(workflow, [], base)
    assert capsys.readouterr().out.startswith("needs clip here.mp4")


def test_a_name_set_on_the_command_line_is_looked_for_where_all_are(base):
    workflow = base / "shared.json"
    workflow.write_text(json.dumps({"1": loader("here.mp4")}))
    with pytest.raises(InputError, match=r"clip gone\.mp4 \(There is no file 'gone\.mp4' in the input folder"):
        run_file(workflow, ["AOTLoadVideo.video=gone.mp4"], base)


def test_the_drawn_clip_runs_from_a_file_in_an_empty_folder(tmp_path):
    workflow = tmp_path / "drawn.json"
    images = {"class_type": "AOTFramesToImages", "inputs": {"frames": ["1", 0]}}
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}}
    inputs = {"video": "drawn clip", "sampling": "uniform", "frames": 2, "fps": 1.0, "every": 1, "start": 0.0}
    loads = {"class_type": "AOTLoadVideo", "inputs": {**inputs, "end": 0.0, "size": 64}}
    workflow.write_text(json.dumps({"1": loads, "2": images, "3": preview}))
    report = run_file(workflow, [], tmp_path)
    assert report["needs"] == []
    assert report["nodes"][0]["text"] == ["drawn clip: 2 frames of 64x64, 0.00 to 7.96 s, 0 MiB"]
