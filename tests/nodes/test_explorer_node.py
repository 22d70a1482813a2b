"""The Transport Explorer as a node: its image, what it sends to the page, and the files it leaves."""

import json

import pytest
import torch

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
