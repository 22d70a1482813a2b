"""The Transport Explorer as a node: its image, what it sends to the page, and the files it leaves."""

import json

import pytest
import torch

from comfyui_aot.aot.answering.generation import Generation
from comfyui_aot.aot.answering.session import Session
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.aot.stages.methods.anchor_ot.both_phases import AnchorOT
from comfyui_aot.nodes.comfy import HAS_COMFYUI, directories
from comfyui_aot.nodes.explorer import AOTTransportExplorer

pytestmark = pytest.mark.skipif(HAS_COMFYUI, reason="the stand-in is not used where ComfyUI can be imported")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def output(base, encoded, frames):
    with directories(base):
        yield AOTTransportExplorer.execute(tokens=AnchorOT(retention=0.2)(encoded), frames=frames)


def test_its_image_is_also_its_preview(output):
    (image,) = output.args
    assert image.dtype == torch.float32
    assert image.shape[0] == 1
    assert image.shape[3] == 3
    assert len(output.ui["images"]) == 1


def test_it_sends_one_map_and_a_picture_of_every_frame(output, base, frames):
    (sent,) = output.ui["aot_transport"]
    assert json.loads(json.dumps(sent)) == sent
    assert sent["frames"] == len(output.ui["aot_frames"]) == frames.count
    for file in output.ui["aot_frames"]:
        assert (base / file["type"] / file["filename"]).stat().st_size > 1000


def test_a_second_run_leaves_the_first_ones_files(output, encoded, frames):
    again = AOTTransportExplorer.execute(tokens=encoded, frames=frames)
    names = [file["filename"] for run in (output, again) for file in run.ui["aot_frames"]]
    assert len(set(names)) == 2 * frames.count


def answer_to(model, tokens):
    (answer,) = Session(model, tokens).answer(["What is there?"], Generation(2))
    return answer


def test_with_an_answer_it_sends_what_every_layer_saw(base, model, encoded, frames):
    tokens = parse("uniform:retention=0.1+pyramiddrop")(encoded)
    answer = answer_to(model, tokens)
    with directories(base):
        output = AOTTransportExplorer.execute(tokens=tokens, frames=frames, answer=answer)
    (sent,) = output.ui["aot_layers"]
    assert json.loads(json.dumps(sent)) == sent
    assert sent["tokens"] == list(answer.layer_tokens) and sent["given"] == tokens.tokens_kept
    kept = [step["map"]["kept"] for step in sent["steps"]]
    assert kept == sorted(kept, reverse=True) and kept[-1] == answer.layer_tokens[-1]
    assert {name for step in sent["steps"] for name in step["stages"]} == {"PyramidDrop"}
    assert [step["layer"] for step in sent["steps"]] == sorted({each.layer for each in answer.seen})


def test_without_an_answer_it_says_how_to_get_at_the_layers(base, encoded, frames):
    with directories(base):
        output = AOTTransportExplorer.execute(tokens=parse("uniform:retention=0.1+fastv")(encoded), frames=frames)
    assert "FastV. Link Answer's answer" in output.ui["aot_layers"][0]["note"]


@pytest.mark.parametrize("chain", ["uniform:retention=0.1", "uniform:retention=0.1+positions"])
def test_where_no_stage_acts_inside_an_answer_changes_nothing(base, model, encoded, frames, chain):
    tokens = parse(chain)(encoded)
    with directories(base):
        output = AOTTransportExplorer.execute(tokens=tokens, frames=frames, answer=answer_to(model, tokens))
        without = AOTTransportExplorer.execute(tokens=tokens, frames=frames)
    assert "aot_layers" not in output.ui
    assert output.ui["aot_transport"] == without.ui["aot_transport"]


def test_an_answer_about_other_tokens_is_one_line(base, model, encoded, frames):
    answer = answer_to(model, parse("uniform:retention=0.2+fastv")(encoded))
    with directories(base), pytest.raises(InputError, match="give the tokens that were asked about"):
        AOTTransportExplorer.execute(tokens=parse("uniform:retention=0.1")(encoded), frames=frames, answer=answer)
