"""The prefill estimate is the papers'."""

import math

import pytest

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
