"""The prefill estimate is the papers'."""

import math

import pytest
from transformers import Qwen2Config

from comfyui_aot.aot.models.llm_cost import QWEN2_7B, LanguageShape


@pytest.mark.parametrize(("tokens", "printed"), [(6272, 40.8), (627, 3.4)])
def test_prefill_flops_of_llava_onevision_are_those_the_paper_prints(tokens, printed):
    assert round(QWEN2_7B.prefill_flops(tokens) / 1e12, 1) == printed


def test_prefill_flops_of_all_tokens_are_40_7_tera_before_rounding():
    assert math.floor(QWEN2_7B.prefill_flops(6272) / 1e11) / 10 == 40.7


def test_no_tokens_cost_nothing():
    assert QWEN2_7B.prefill_flops(0) == 0


def test_kv_cache_counts_keys_and_values_of_every_layer():
    shape = LanguageShape(layers=2, hidden=8, mlp=16, kv_heads=3, head_dim=4, context=100)
    assert shape.kv_cache_bytes(10, 2) == 2 * 2 * 3 * 4 * 10 * 2


def test_kv_cache_counts_only_layers_that_have_keys_of_their_own():
    shape = LanguageShape(layers=8, hidden=8, mlp=16, kv_heads=3, head_dim=4, context=100, caching=2)
    assert shape.kv_cache_bytes(10, 2) == 2 * 2 * 3 * 4 * 10 * 2


@pytest.mark.parametrize(
    ("settings", "mlp", "caching"),
    [
        ({}, 22016, 4),
        ({"layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"]}, 22016, 1),
        ({"num_kv_shared_layers": 2}, 22016, 2),
        ({"num_experts_per_tok": 8, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 256}, 4352, 4),
        ({"num_experts_per_tok": 8, "moe_intermediate_size": 512, "n_shared_experts": 1}, 4608, 4),
    ],
)
def test_sizes_are_those_of_the_layers_and_experts_that_work(settings, mlp, caching):
    config = Qwen2Config(num_hidden_layers=4)
    for name, value in settings.items():
        setattr(config, name, value)
    shape = LanguageShape.of(config)
    assert (shape.mlp, shape.cached_layers, shape.layers) == (mlp, caching, 4)
