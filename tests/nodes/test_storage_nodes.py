"""Save Tokens and Load Tokens: what is written is read, names stay in ComfyUI's folders, nothing is overwritten."""

import os
import shutil

import pytest
import torch

from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.nodes.comfy import directories, unused_output
from comfyui_aot.nodes.storage import NOTHING, AOTLoadTokens, AOTSaveTokens, saved_tokens


@pytest.fixture
def base(tmp_path):
    """ComfyUI's folders, empty."""
    with directories(tmp_path):
        yield tmp_path


def test_tokens_come_back_as_they_were_saved(base, encoded):
    reduced = parse("visionzip:retention=0.2")(encoded)
    _, name = AOTSaveTokens.execute(reduced, "clips/bunny").args
    assert name == "clips/bunny_00001_.aot.safetensors [output]"
    (tokens,) = AOTLoadTokens.execute(NOTHING, name).args
    assert torch.equal(tokens.features, reduced.features)
    assert torch.equal(tokens.map.row_mass(), reduced.map.row_mass())
    assert [record.name for record in tokens.history] == ["encode", "visionzip"]


def test_what_the_encoder_saw_beside_is_saved_with_its_tokens(base, encoded):
    _, name = AOTSaveTokens.execute(encoded, "whole").args
    (tokens,) = AOTLoadTokens.execute(name).args
    assert set(tokens.extras) == set(encoded.extras) == {"last", "keys", "pixels"}
    assert all(torch.equal(extra, encoded.extras[key]) for key, extra in tokens.extras.items())


def test_a_second_file_takes_the_next_number_and_the_newest_is_listed_first(base, encoded):
    names = [AOTSaveTokens.execute(encoded, "aot_tokens/video").args[1] for _ in range(2)]
    assert names == [f"aot_tokens/video_0000{number}_.aot.safetensors [output]" for number in (1, 2)]
    (base / "input").mkdir()
    shared = shutil.copy(
        base / "output" / names[0].removesuffix(" [output]"), base / "input" / "shared.aot.safetensors"
    )
    os.utime(shared, (1, 1))
    assert saved_tokens() == [*reversed(names), "shared.aot.safetensors"]


@pytest.mark.parametrize("prefix", ["../out", "/tmp/x", "C:\\x", "", "a/../../b"])
def test_a_prefix_outside_the_output_folder_is_refused(base, prefix):
    with pytest.raises(InputError, match="relative name in the output folder"), unused_output(prefix, ".png"):
        pass


def test_a_missing_file_is_said_before_the_run_and_a_linked_name_is_not_looked_for(base):
    assert "no file 'gone.aot.safetensors'" in AOTLoadTokens.validate_inputs("gone.aot.safetensors")
    assert AOTLoadTokens.validate_inputs(NOTHING, None) is True
    assert AOTLoadTokens.fingerprint_inputs(NOTHING, None) == (0, 0)


def test_a_file_written_anew_is_read_anew(base, encoded):
    _, name = AOTSaveTokens.execute(encoded, "video").args
    before = AOTLoadTokens.fingerprint_inputs(name)
    path = base / "output" / name.removesuffix(" [output]")
    path.write_bytes(path.read_bytes() + b" ")
    assert AOTLoadTokens.fingerprint_inputs(name) != before
