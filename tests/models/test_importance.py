"""Attention received equals the column sums of the full attention matrices, and costs the encoder nothing else."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from comfyui_aot.aot.benchmarks.importance import bench_importance
from comfyui_aot.aot.errors import InputError
from comfyui_aot.aot.models.importance import ATTENTION, attention_received, capture, depths

SIZES = {"hidden_size": 48, "num_hidden_layers": 6, "num_attention_heads": 4, "image_size": 56, "patch_size": 14}


def towers():
    return {
        "siglip": SiglipVisionModel(SiglipVisionConfig(intermediate_size=96, vision_use_head=False, **SIZES)),
        "dinov2": Dinov2Model(Dinov2Config(mlp_ratio=2, **SIZES)),
    }


@pytest.fixture(params=["siglip", "dinov2"])
def tower(request):
    torch.manual_seed(0)
    return towers()[request.param].eval()


@pytest.fixture
def pixels():
    return torch.randn(3, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_captured_importance_is_the_column_sums_of_eager_attention(tower, pixels):
    tower.set_attn_implementation("eager")
    attentions = tower(pixels, output_attentions=True).attentions
    tower.set_attn_implementation(ATTENTION)
    with capture(1, 4) as received:
        tower(pixels)
    assert set(received.sums) == {1, 4}
    for layer, sums in received.sums.items():
        torch.testing.assert_close(sums, attentions[layer].sum(2).mean(1), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_capturing_does_not_change_what_the_encoder_says(tower, pixels, dtype):
    captured, plain = plain_and_captured(tower.to(dtype), pixels.to(dtype))
    assert torch.equal(captured, plain)


def plain_and_captured(tower, pixels):
    tower.set_attn_implementation("sdpa")
    plain = tower(pixels).last_hidden_state
    tower.set_attn_implementation(ATTENTION)
    with capture(0, 5):
        return tower(pixels).last_hidden_state, plain


@pytest.mark.parametrize(
    "setting", [{"dropout": 0.5}, {"attention_mask": torch.arange(10)[:, None] >= torch.arange(10)}]
)
def test_masks_and_dropout_act_on_the_output_as_in_plain_attention(setting):
    query, key, value = random_heads(3, 2, 4, 10, 8)
    outputs = []
    for attention in ("sdpa", ATTENTION):
        torch.manual_seed(5)
        settings = {"attention_mask": None, "is_causal": False} | setting
        with capture(0) as received:
            outputs.append(ALL_ATTENTION_FUNCTIONS[attention](torch.nn.Module(), query, key, value, **settings)[0])
    assert torch.equal(*outputs)
    expected = attention_received(query, key, 8**-0.5, setting.get("attention_mask"))
    assert torch.equal(received.sums[0], expected)


@torch.no_grad()
def test_nothing_is_captured_outside_the_block(tower, pixels):
    tower.set_attn_implementation(ATTENTION)
    with capture(1) as received:
        tower(pixels)
    before = received.sums[1].clone()
    tower(pixels * 2)
    assert torch.equal(received.sums[1], before)
    assert received.layers_called == 6


def random_heads(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def exact(query, key, scaling, mask=0.0):
    return ((query.double() @ key.double().mT) * scaling + mask).softmax(-1)


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 200_000, 10**9])
def test_chunks_of_queries_and_frames_change_nothing(chunk_bytes):
    query, key = random_heads(2, 3, 4, 50, 8)
    sums = exact(query, key, 0.3).sum(2).mean(1).float()
    torch.testing.assert_close(attention_received(query, key, 0.3, chunk_bytes=chunk_bytes), sums)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "length", "width"), [(1, 1, 4), (3, 197, 64), (16, 729, 72)])
def test_sums_are_within_a_hundred_thousandth_of_float64_in_any_precision(dtype, heads, length, width):
    query, key = random_heads(2, 1, length, heads, width).to(dtype).transpose(2, 3)
    sums = exact(query, key, width**-0.5).sum(2).mean(1).float()
    torch.testing.assert_close(attention_received(query, key, width**-0.5), sums, atol=0, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_scores_beyond_half_precision_do_not_overflow(dtype):
    query, key = (random_heads(2, 1, 2, 30, 64) * 300).to(dtype)
    sums = exact(query, key, 1.0).sum(2).mean(1).float()
    torch.testing.assert_close(attention_received(query, key, 1.0), sums, atol=1e-4, rtol=0)


@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("shape", [(10, 10), (1, 1, 1, 10), (2, 1, 10, 10), (2, 4, 10, 10)])
def test_masks_are_respected(boolean, shape):
    query, key = random_heads(2, 2, 4, 10, 8)
    keep = (random_heads(*shape) > -0.5).index_fill(-1, torch.tensor([3]), True)
    added = torch.zeros(shape).masked_fill(~keep, -torch.inf)
    sums = exact(query, key, 1.0, added).sum(2).mean(1).float()
    mask = keep if boolean else added
    torch.testing.assert_close(attention_received(query, key, 1.0, mask, chunk_bytes=2_000), sums)


@pytest.mark.parametrize("boolean", [True, False])
def test_a_query_that_may_see_nothing_spends_nothing(boolean):
    query, key = random_heads(2, 2, 4, 10, 8)
    keep = torch.ones(10, 10, dtype=torch.bool)
    keep[4] = False
    mask = keep if boolean else torch.zeros(10, 10).masked_fill(~keep, -torch.inf)
    torch.testing.assert_close(attention_received(query, key, 1.0, mask).sum(1), torch.full((2,), 9.0))


def test_every_query_spends_one_unit_of_attention():
    query, key = torch.randn(2, 2, 4, 30, 8)
    torch.testing.assert_close(attention_received(query, key, 1.0).sum(1), torch.full((2,), 30.0))


@pytest.mark.parametrize(("blocks", "expected"), [(26, (5, 24, 25)), (9, (2, 7, 8)), (1, (0, 0, 0))])
def test_depths_are_siglips_and_scale_with_the_tower(blocks, expected):
    assert depths(blocks) == expected


@pytest.mark.parametrize("setting", [{"tower": "clip"}, {"frames": 0}])
def test_the_benchmark_refuses_what_it_cannot_measure(setting):
    with pytest.raises(InputError, match="give"):
        bench_importance(**setting)
