"""A check of a model: what loading it would give, without its weights."""

from __future__ import annotations

import json
import resource
import time

import pytest
import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from comfyui_aot.aot.cli.main import main
from comfyui_aot.aot.models import load
from comfyui_aot.aot.models.check import check
from comfyui_aot.aot.models.qwen import QwenVL
from comfyui_aot.aot.video.frames import Frames
from comfyui_aot.tests.support.small_models import BUILDERS, is_there, save
from comfyui_aot.tests.support.sparse import save_sparse

TEXT_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
}
TOWER_7B = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


@pytest.mark.parametrize("family", BUILDERS)
def test_a_check_says_what_the_loaded_model_does(family, tmp_path, embedded_folder):
    if not is_there(family):
        pytest.skip(f"this transformers has no {family}")
    folder = tmp_path / "model"
    save(folder, family, embedded_folder)
    found, model = check(folder), load(folder)
    clip = Frames(torch.zeros(16, 1080, 1920, 3, dtype=torch.uint8), torch.arange(16, dtype=torch.float64) / 2, "dark")
    assert found.family == model.family == family
    assert found.parameters == sum(each.numel() for each in model.hf_model.parameters())
    assert found.clip.size == model.frame_size(clip)
    tokens = model.layout(clip)
    assert found.clip.tokens_a_frame == tokens.frames * tokens.language_cells / 16
    one_token = 0.5 if isinstance(model, QwenVL) else 1.0
    assert found.tile.tokens_a_frame == (one_token if hasattr(model, "factor") else found.clip.tokens_a_frame)
    assert found.colours == (model._mean, model._std)
    assert set(found.memory) >= {"float32", "bfloat16", "float16"}
    assert ("4-bit" in found.memory) == ("lmms-lab" not in family)


def test_a_check_names_the_files_that_settings_are_from(tmp_path, embedded_folder):
    folder = tmp_path / "model"
    save(folder, "qwen2_5_vl", embedded_folder)
    settings = folder / "video_preprocessor_config.json"
    colours = {"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1]}
    settings.write_text(json.dumps(colours))
    found = check(folder)
    assert found.sources == {
        "mean and deviation": "video_preprocessor_config.json",
        "chat template": "chat_template.json",
        "tokenizer": "tokenizer.json",
    }
    assert found.colours[0] == (0.1, 0.2, 0.3)
    settings.unlink()
    (folder / "processor_config.json").write_text(json.dumps({"video_processor": {}}))
    template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
    (folder / "chat_template.jinja").write_text(template)
    found = check(folder)
    assert found.sources["mean and deviation"] == "the family's own: processor_config.json (video_processor) has none"
    assert found.sources["chat template"] == "chat_template.jinja"


def test_a_model_of_eight_thousand_million_numbers_is_checked_in_seconds_and_in_no_memory(tmp_path, embedded_folder):
    folder = tmp_path / "model"
    save(folder, "qwen2_5_vl", embedded_folder)
    config = Qwen2_5_VLConfig(text_config=TEXT_7B, vision_config=TOWER_7B, tie_word_embeddings=False)
    with torch.device("meta"):
        model = Qwen2_5_VLForConditionalGeneration(config)
    tensors = {name: ("BF16", tuple(each.shape)) for name, each in model.state_dict().items()}
    save_sparse(folder / "model.safetensors", tensors, {"format": "pt"})
    config.save_pretrained(folder)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = check(folder)
    assert time.perf_counter() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB
    assert found.parameters == 8_292_166_656
    assert round(found.memory["bfloat16"] / 2**30, 1) == 15.4


def test_the_command_prints_it_and_its_exit_code_says_whether_the_model_loads(capsys, tmp_path, embedded_folder):
    folder = tmp_path / "model"
    save(folder, "internvl", embedded_folder)
    assert main(["models", "--check", str(folder), "--json"]) == 0
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{folder} would be loaded, as internvl."
    assert any("frames of 112 x 112 pixels, 16 tokens a frame" in line for line in lines)
    said = json.loads(last)
    assert (said["loads"], said["family"], said["clip"]["size"]) == (True, "internvl", [112, 112])
    (folder / "tokenizer.json").unlink()
    assert main(["models", "--check", str(folder), "--json"]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{folder} would not be loaded: ")
    assert json.loads(last) == {"model": str(folder), "loads": False, "reason": first.partition(": ")[2]}
