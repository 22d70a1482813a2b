"""What fewer tokens are worth in prefill: measured, beside what the count of operations promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    DynamicCache,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

from ..answering.session import prefill
from ..errors import InputError
from ..models.base import VideoLLM
from ..models.llava_onevision import LlavaOnevision
from ..models.llm_cost import LanguageShape
from ..models.prompt import Inputs
from .measuring import extra_bytes, medians

SHAPES: Mapping[str, dict[str, Any]] = MappingProxyType(
    {
        "7b": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "small": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 6,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    }
)
"""Qwen2-7B, the LLM of LLaVA-OneVision-7B and LLaVA-Video-7B; and a quarter of Qwen2-0.5B, for a CPU."""

TOKENS = 6272
"""Of 32 frames on LLaVA-OneVision's language grid."""


def random_llm(shape: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> VideoLLM:
    """An LLM of a known shape with random weights, and next to no vision tower."""
    config = LlavaOnevisionConfig(
        text_config=Qwen2Config(vocab_size=1024, max_position_embeddings=32768, **SHAPES[shape]),
        vision_config=SiglipVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vision_use_head=False
        ),
    )
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = LlavaOnevisionForConditionalGeneration(config)
        finally:
            torch.set_default_dtype(before)
    return LlavaOnevision(model.eval(), None, shape)


def operations(language: LanguageShape, heads: int, tokens: int) -> float:
    """Multiplications and additions of prefilling ``tokens``, causal attention and gated MLP counted as they are."""
    d, width = language.hidden, heads * language.head_dim
    projections = 2 * tokens * d * (2 * width + 2 * language.kv_heads * language.head_dim)
    attention = 2 * tokens**2 * width
    return float(language.layers * (projections + attention + 6 * tokens * d * language.mlp))


@torch.no_grad()
def bench_prefill(
    shape: str = "small",
    tokens: int = TOKENS,
    retentions: Sequence[float] = (1.0, 0.25, 0.1),
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 3,
) -> list[dict[str, Any]]:
    """Time the prefill of so many visual tokens and of the shares of them that a reduction leaves, in turn.

    Args:
        shape: "7b" or "small"; weights and tokens are random.
        retentions: the first is what the others' speed-up is measured against.

    Returns:
        A row a retention: ``tokens``, ``seconds`` (median), ``speedup``, ``ideal`` (by the operations of this very
        model), ``paper`` (by the estimate token-reduction papers print), ``reached`` (speed-up over ideal),
        ``extra_bytes`` (the most memory on top of the weights, keys and values included).

    Raises:
        InputError: no such shape.
    """
    if shape not in SHAPES:
        raise InputError(f"shape is {shape!r}; give one of {', '.join(SHAPES)}.")
    model = random_llm(shape, device=device, dtype=dtype)
    counts = [round(retention * tokens) for retention in retentions]
    generator = torch.Generator().manual_seed(0)
    shown = torch.randn(max(counts), model.language.hidden, generator=generator).to(device, dtype)
    works = {str(count): partial(_read, model, shown[:count]) for count in counts}
    memory = {name: extra_bytes(work, device) for name, work in reversed(works.items())}
    seconds = medians(works, shown, repeats)
    heads = SHAPES[shape]["num_attention_heads"]
    rows = []
    for count in counts:
        speedup = seconds[str(counts[0])] / seconds[str(count)]
        ideal = operations(model.language, heads, counts[0]) / operations(model.language, heads, count)
        rows.append(
            {
                "shape": shape,
                "device": str(device),
                "dtype": str(dtype).removeprefix("torch."),
                "tokens": count,
                "seconds": seconds[str(count)],
                "speedup": speedup,
                "ideal": ideal,
                "paper": model.language.prefill_flops(counts[0]) / model.language.prefill_flops(count),
                "reached": speedup / ideal,
                "extra_bytes": memory[str(count)],
            }
        )
    return rows


def _read(model: VideoLLM, shown: torch.Tensor) -> None:
    positions = torch.arange(len(shown), device=shown.device)[None]
    visual = torch.ones(len(shown), dtype=torch.bool, device=shown.device)
    prefill(model, Inputs(shown, positions, visual), DynamicCache())
