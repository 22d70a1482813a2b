"""The prefill estimate is the papers'."""

import pytest

from comfyui_aot.aot.cost import QWEN2_7B, LanguageShape


@pytest.mark.parametrize(("tokens", "tera"), [(6272, 40.7), (627, 3.4)])
def test_prefill_flops_are_those_of_the_papers(tokens, tera):
    assert QWEN2_7B.prefill_flops(tokens) / 1e12 == pytest.approx(tera, abs=0.05)


def test_no_tokens_cost_nothing():
    assert QWEN2_7B.prefill_flops(0) == 0


def test_kv_cache_counts_keys_and_values_of_every_layer():
    shape = LanguageShape(layers=2, hidden=8, mlp=16, kv_heads=3, head_dim=4, context=100)
    assert shape.kv_cache_bytes(10, 2) == 2 * 2 * 3 * 4 * 10 * 2
