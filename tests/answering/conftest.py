"""A small model of every family whose LLM can be replayed from a graph, here and on a GPU, and a reduced video for it.

What others answer is in tests/models.
"""

from __future__ import annotations

import pytest
import torch

from comfyui_aot.aot.models import load
from comfyui_aot.aot.stages.chain import parse
from comfyui_aot.tests.support.small_models import BUILDERS, saved_or_skipped
from comfyui_aot.tests.support.stock_inputs import random_frames

READ_AS_THEY_ARE = {"qwen3_5", "qwen3_5_moe", "minicpmv4_6", "gemma4", "molmo2"}
"""Families whose LLM takes no mask of ours, or whose tokens see ahead: nothing of theirs is padded or replayed."""

PADDED = [family for family in BUILDERS if family not in READ_AS_THEY_ARE]


@pytest.fixture(scope="module", params=[(family, device) for family in PADDED for device in ("cpu", "cuda")], ids=str)
def small(request, tmp_path_factory, embedded_folder):
    """Every family in float32, which never ends an answer by itself."""
    family, device = request.param
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no GPU to capture a graph on")
    folder = saved_or_skipped(family, tmp_path_factory.mktemp("models"), embedded_folder)
    model = load(folder, dtype="float32", device=device)
    model.hf_model.generation_config.eos_token_id = None
    assert model.decoding == ("auto" if device == "cuda" else "eager")
    return model


@pytest.fixture(scope="module")
def reduced(small):
    return parse("aot:retention=0.3,clip_length=2")(small.encode(random_frames()))
