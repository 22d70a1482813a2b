"""Attention received equals the column sums of the full attention matrices, and costs the encoder nothing else."""

import pytest
import torch
from transformers import Dinov2Config, Dinov2Model, SiglipVisionConfig, SiglipVisionModel

from comfyui_aot.aot.importance import ATTENTION, attention_received, capture, depths

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
def test_capturing_does_not_change_what_the_encoder_says(tower, pixels):
    tower.set_attn_implementation("sdpa")
    plain = tower(pixels).last_hidden_state
    tower.set_attn_implementation(ATTENTION)
    with capture(0, 5):
        captured = tower(pixels).last_hidden_state
    assert torch.equal(captured, plain)


@torch.no_grad()
def test_nothing_is_captured_outside_the_block(tower, pixels):
    tower.set_attn_implementation(ATTENTION)
    with capture(1) as received:
        tower(pixels)
    before = received.sums[1].clone()
    tower(pixels * 2)
    assert torch.equal(received.sums[1], before)
    assert received.calls == 6


@pytest.mark.parametrize("chunk_bytes", [1, 5_000, 200_000, 10**9])
def test_chunks_of_queries_and_frames_change_nothing(chunk_bytes):
    generator = torch.Generator().manual_seed(2)
    query, key = torch.randn(2, 3, 4, 50, 8, generator=generator)
    whole = ((query @ key.mT) * 0.3).softmax(-1).sum(2).mean(1)
    torch.testing.assert_close(attention_received(query, key, 0.3, chunk_bytes=chunk_bytes), whole)


@pytest.mark.parametrize("boolean", [True, False])
def test_masks_are_respected(boolean):
    generator = torch.Generator().manual_seed(3)
    query, key = torch.randn(2, 2, 4, 10, 8, generator=generator)
    keep = torch.rand(2, 1, 10, 10, generator=generator) > 0.3
    mask = keep if boolean else torch.zeros(2, 1, 10, 10).masked_fill(~keep, -torch.inf)
    whole = (query @ key.mT).masked_fill(~keep, -torch.inf).softmax(-1).sum(2).mean(1)
    torch.testing.assert_close(attention_received(query, key, 1.0, mask, chunk_bytes=2_000), whole)


def test_every_query_spends_one_unit_of_attention():
    query, key = torch.randn(2, 2, 4, 30, 8)
    torch.testing.assert_close(attention_received(query, key, 1.0).sum(1), torch.full((2,), 30.0))


@pytest.mark.parametrize(("blocks", "expected"), [(26, (5, 24)), (9, (2, 7)), (1, (0, 0))])
def test_depths_are_siglips_and_scale_with_the_tower(blocks, expected):
    assert depths(blocks) == expected
