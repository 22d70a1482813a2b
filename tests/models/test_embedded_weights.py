"""What training adds to the embedded model: kept small, and merged as LoRA is defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comfyui_aot.aot.models.embedded.weights import TRAINED, TrainedWeights, read


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def trained() -> TrainedWeights:
    lora = {"layers.0.mlp.up_proj": (draw(2, 5), draw(7, 2, seed=1))}
    return TrainedWeights({"linear_1.weight": draw(4, 3)}, lora, {"scores": {"colour": 0.5}})


def test_a_merged_weight_is_the_weight_plus_up_times_down(trained):
    language = {"layers.0.mlp.up_proj.weight": np.ones((7, 5), np.float32), "norm.weight": np.ones(5, np.float32)}
    merged = trained.merged(language)
    down, up = trained.lora["layers.0.mlp.up_proj"]
    assert np.allclose(merged["layers.0.mlp.up_proj.weight"], 1 + (up @ down).numpy(), atol=1e-6)
    assert merged["norm.weight"] is language["norm.weight"]
    assert (language["layers.0.mlp.up_proj.weight"] == 1).all()


def test_lora_for_a_layer_that_is_not_there_is_refused(trained):
    with pytest.raises(RuntimeError, match="up_proj"):
        trained.merged({"norm.weight": np.ones(5, np.float32)})


def test_what_is_saved_is_read_again_in_bfloat16s_precision(trained, tmp_path):
    trained.save(tmp_path / "trained.safetensors")
    found = read(tmp_path / "trained.safetensors")
    assert found.info == trained.info
    pairs = [(found.projector["linear_1.weight"], trained.projector["linear_1.weight"])]
    pairs += zip(found.lora["layers.0.mlp.up_proj"], trained.lora["layers.0.mlp.up_proj"], strict=True)
    for kept, given in pairs:
        assert torch.equal(kept, given.bfloat16().float())
    assert [path.name for path in tmp_path.iterdir()] == ["trained.safetensors"]


def test_the_package_carries_at_most_8_megabytes_of_it_with_its_settings_and_scores():
    assert TRAINED.stat().st_size <= 8_000_000
    info = read().info
    assert {"settings", "seconds", "device", "clips"} <= info.keys()
    assert info["scores"]["16 frames"]["all"] > info["scores"]["16 frames, majority"]["all"]
