"""A small model of every family, here and on a GPU, and a reduced video for it."""

from __future__ import annotations

import pytest
import torch

from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.small_models import BUILDERS, save
from comfyui_aot.tests.support.stock_inputs import random_frames


@pytest.fixture(scope="module", params=[(family, device) for family in BUILDERS for device in ("cpu", "cuda")], ids=str)
def small(request, tmp_path_factory, embedded_folder):
    """Every family in float32, which never ends an answer by itself."""
    family, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU to capture a graph on")
    folder = tmp_path_factory.mktemp("models") / "small"
    save(folder, family, embedded_folder)
    model = load(folder, dtype="float32", device=device)
    model.hf_model.generation_config.eos_token_id = None
    assert model.decoding == ("auto" if device == "cuda" else "eager")
    return model


@pytest.fixture(scope="module")
def reduced(small):
    return parse("aot:retention=0.3,clip_length=2")(small.encode(random_frames()))
