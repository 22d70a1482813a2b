"""How much faster prefill is with fewer tokens: measured, and by the count of operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
from transformers import DynamicCache, LlavaOnevisionConfig, SiglipVisionConfig

from ..answering.prefilling import Prefiller
from ..answering.session import prefill
from ..errors import InputError
from ..models.base import VideoLLM
from ..models.llava_onevision import LlavaOnevision
from ..models.llm_cost import QWEN2_7B, LanguageShape
from ..models.prompt import Inputs
from .measuring import extra_bytes, medians
from .random_models import language_config, made

SHAPES: Mapping[str, LanguageShape] = MappingProxyType(
    {
        "7b": QWEN2_7B,
        "small": LanguageShape(layers=6, hidden=896, mlp=4864, kv_heads=2, head_dim=64, context=32768),
    }
)
"""Qwen2-7B, the LLM of LLaVA-OneVision-7B and LLaVA-Video-7B; and the first quarter of Qwen2-0.5B, for a CPU."""

TOKENS = 6272
"""32 frames of LLaVA-OneVision's 14 x 14 language grid."""


def random_llm(shape: str, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> VideoLLM:
    """An LLM of a known shape with random weights, and a vision tower of one small layer.

    Args:
        shape: one of ``SHAPES``.
        device: where to put it.
        dtype: of its weights.
    """
    config = LlavaOnevisionConfig(
        text_config=language_config(SHAPES[shape], words=1024),
        vision_config=SiglipVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1, vision_use_head=False
        ),
    )
    return LlavaOnevision(made(config, device, dtype), None, shape)


def operations(language: LanguageShape, tokens: int) -> float:
    """Multiplications and additions of prefilling n ``tokens``: ``layers (2 n d (2 d + 2 k) + 2 n^2 d + 6 n d m)``.

    d is the width, k that of keys and values, m the MLP's. Attention is causal and the MLP gated; the heads of the
    queries add up to d.

    Args:
        language: the LLM's sizes.
        tokens: n.
    """
    n, d = tokens, language.hidden
    projections = 2 * n * d * (2 * d + 2 * language.kv_heads * language.head_dim)
    attention = 2 * n**2 * d
    return float(language.layers * (projections + attention + 6 * n * d * language.mlp))


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
    """Time the prefill of random visual tokens at several retentions, in turn.

    Args:
        shape: one of ``SHAPES``; weights and tokens are random.
        tokens: visual tokens at retention 1.
        retentions: shares of them, 0 to 1; speed-up is over the first.
        device: where the LLM runs.
        dtype: of weights and tokens.
        repeats: measured rounds; medians are reported.

    Returns:
        A row for each retention: ``tokens``, ``seconds`` (median), ``speedup``, ``ideal`` (the quotient of
        :func:`operations`), ``paper`` (the quotient of the estimate that token-reduction papers print),
        ``reached`` (speed-up over ideal), ``extra_bytes`` (the most memory beyond the weights, keys and values
        included).

    Raises:
        InputError: no such shape.
    """
    if shape not in SHAPES:
        raise InputError(f"shape is {shape!r}; give one of {', '.join(SHAPES)}.")
    model = random_llm(shape, device=device, dtype=dtype)
    counts = [round(retention * tokens) for retention in retentions]
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(max(counts), model.language.hidden, generator=generator).to(device, dtype)
    prefiller = Prefiller(model)
    works = {str(count): partial(_prefill, prefiller, visual[:count]) for count in counts}
    memory = {name: extra_bytes(work, device) for name, work in reversed(works.items())}
    seconds = medians(works, visual, repeats)
    rows = []
    for count in counts:
        speedup = seconds[str(counts[0])] / seconds[str(count)]
        ideal = operations(model.language, counts[0]) / operations(model.language, count)
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


def _prefill(prefiller: Prefiller, inputs_embeds: torch.Tensor) -> None:
    position_ids = torch.arange(len(inputs_embeds), device=inputs_embeds.device)[None]
    visual = torch.ones(len(inputs_embeds), dtype=torch.bool, device=inputs_embeds.device)
    prefill(prefiller, Inputs(inputs_embeds, position_ids, visual), DynamicCache())
