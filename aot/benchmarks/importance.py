"""The cost of capturing importance in an encoder: its time over plain attention's, and its extra memory."""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..errors import InputError
from ..models import EMBEDDED, load
from ..models.importance import ATTENTION, attention_received, capture, depths
from ..models.passes import FRAMES_AT_ONCE, frames_a_pass
from .measuring import extra_bytes, medians

SIGLIP = "siglip"
TOWERS = (EMBEDDED, SIGLIP)

MEMORY_FRAMES = 32
MEMORY_TOKENS = 729
MEMORY_LAYERS = (2, 8)


def siglip_so400m() -> SiglipVisionModel:
    """An encoder of SigLIP so400m/14-384's shape with random weights, always the same."""
    config = SiglipVisionConfig(
        hidden_size=1152,
        intermediate_size=4304,
        num_hidden_layers=27,
        num_attention_heads=16,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SiglipVisionModel(config)


@torch.no_grad()
def bench_importance(
    tower: str = EMBEDDED,
    frames: int = FRAMES_AT_ONCE,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> dict[str, Any]:
    """Time an encoder with importance captured at two layers, in turn with the same encoder under plain "sdpa".

    Frames of random pixels pass as many at a time as when a video is encoded. Memory is that of one attention
    over 32 frames of 729 tokens at once, for the encoder's heads and width.

    Args:
        tower: "embedded", the embedded model's; or "siglip", so400m/14-384's shape with random weights.
        frames: number of frames to encode.
        device: where the encoder runs.
        dtype: of its weights and pixels.
        repeats: measured rounds; medians are reported.

    Returns:
        ``plain_s``, ``captured_s`` (medians), ``ratio`` (their quotient), ``extra_bytes`` (the most memory that summing
        one layer's attention takes beyond its queries and keys), ``extra_bytes_by_layers`` (for 2 and 8 attentions in a
        row, the peak with the first and last captured minus the peak without; it may be negative).

    Raises:
        InputError: no such tower, or no frames.
    """
    if tower not in TOWERS:
        raise InputError(f"tower is {tower!r}; give one of {', '.join(TOWERS)}.")
    if frames < 1:
        raise InputError(f"frames is {frames}; give at least 1.")
    encoder = load(EMBEDDED).hf_model.model.vision_tower if tower == EMBEDDED else siglip_so400m()
    encoder = encoder.eval().to(device, dtype)  # pyright: ignore[reportArgumentType] - its decorator hides self
    side = cast(int, encoder.config.image_size)
    pixel_values = torch.randn(frames, 3, side, side, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    layers = depths(encoder.config.num_hidden_layers - 1)
    memory = _memory(encoder)  # first, because freed memory of earlier work would hide it
    seconds = medians(
        {
            "plain": partial(_encode, encoder, pixel_values, "sdpa", ()),
            "captured": partial(_encode, encoder, pixel_values, ATTENTION, layers),
        },
        pixel_values,
        repeats,
    )
    return {
        "tower": tower,
        "frames": frames,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "layers": list(layers),
        "plain_s": seconds["plain"],
        "captured_s": seconds["captured"],
        "ratio": seconds["captured"] / seconds["plain"],
        **memory,
    }


def _encode(encoder: PreTrainedModel, pixel_values: Tensor, attention: str, layers: tuple[int, ...]) -> None:
    encoder.set_attn_implementation(attention)
    height, width = pixel_values.shape[2:]
    at_once = frames_a_pass(encoder.config, (height, width), encoder.config.hidden_size, encoder.dtype, encoder.device)
    for part in pixel_values.split(at_once):
        with capture(*layers):
            encoder(part, output_hidden_states=True)


def _memory(encoder: PreTrainedModel) -> dict[str, Any]:
    device, heads = encoder.device, encoder.config.num_attention_heads
    shape = (MEMORY_FRAMES, heads, MEMORY_TOKENS, encoder.config.hidden_size // heads)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(shape, generator=generator).to(device, encoder.dtype) for _ in range(2))
    scaling = shape[-1] ** -0.5

    def peak(attention: str, layers: int) -> int:
        work = partial(_attend, query, key, scaling, attention, layers)
        return extra_bytes(work, device)

    one = extra_bytes(lambda: attention_received(query, key, scaling), device)
    growth = {layers: peak(ATTENTION, layers) - peak("sdpa", layers) for layers in MEMORY_LAYERS}
    return {"extra_bytes": one, "extra_bytes_by_layers": growth}


def _attend(query: Tensor, key: Tensor, scaling: float, attention: str, layers: int) -> None:
    attend = ALL_ATTENTION_FUNCTIONS[attention]
    with capture(0, layers - 1):
        for _ in range(layers):
            attend(nn.Module(), query, key, key, None, scaling=scaling, is_causal=False)
