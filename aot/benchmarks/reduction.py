"""Time and memory of a reduction, compared with the two matrix products that no reduction can avoid."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from ..stages.chain import Chain
from ..stages.replayed import WARM_UP
from ..tokens.matmul import is_native
from ..tokens.question import ASSISTANT, CLIP
from ..tokens.video_tokens import Layout, Question, VideoTokens
from .measuring import extra_bytes, medians

GRID = (27, 27)
ANCHORS = 126
WORDS = 12
"""Of the question."""


def random_tokens(
    frames: int,
    dim: int,
    *,
    grid: tuple[int, int] = GRID,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoTokens:
    """Tokens of normal features and uniform importance, and a question of normal words; always the same.

    Args:
        frames: T.
        dim: D, the width of a token.
        grid: rows and columns of a frame.
        device: where to put them.
        dtype: of the features.
    """
    generator = torch.Generator().manual_seed(0)
    cells = grid[0] * grid[1]
    features = torch.empty(frames, cells, dim, dtype=dtype, device=device)
    for frame in features:
        frame.copy_(torch.randn(cells, dim, generator=generator))
    shallow, deep = torch.rand(2, frames, cells, generator=generator).to(device)
    times = torch.arange(frames, dtype=torch.float64)
    words = torch.randn(WORDS, dim, generator=generator).to(device, dtype)
    places, of_frames = torch.rand(frames, cells, generator=generator), torch.rand(frames, generator=generator)
    question = Question("?", words, {CLIP: places.to(device)}, {ASSISTANT: of_frames.to(device)})
    tokens = VideoTokens.encoded(features, Layout(frames, grid), shallow, deep, times)
    return dataclasses.replace(tokens, question=question)


def bench_reduce(
    pipeline: Chain,
    frames: int,
    dim: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> dict[str, Any]:
    """Time a pipeline on random tokens of 27 x 27 cells, in turn with the limit.

    The limit is ``torch.bmm`` of 126 anchors with all tokens, and of a (126 x 729) W with the features. On a machine
    without units for half precision, where these products are many times slower than in float32, it is float32's.

    Args:
        pipeline: the stages.
        frames: T.
        dim: D, the width of a token.
        device: where the pipeline runs.
        dtype: of the features.
        repeats: measured rounds; medians are reported.

    Returns:
        ``reduce_s``, ``limit_s``, ``ratio`` (their medians' quotient), ``extra_bytes`` (the most memory the
        pipeline takes on top of its input, its result included), ``feature_bytes`` (the input's),
        ``memory_ratio`` (their quotient), ``tokens_kept``, ``tokens_full``.
    """
    tokens = random_tokens(frames, dim, device=device, dtype=dtype)
    features = tokens.features.reshape(frames, -1, dim)
    weights = torch.rand(frames, ANCHORS, features.shape[1], device=device, dtype=dtype)
    factors = [each if is_native(each) else each.float() for each in (weights, features)]

    def limit() -> None:
        torch.bmm(factors[1][:, :ANCHORS], factors[1].mT)
        torch.bmm(*factors)

    def reduce() -> VideoTokens:
        return pipeline(dataclasses.replace(tokens))  # a new object, without cached results

    pipeline(random_tokens(frames, 64, device=device, dtype=dtype))  # one-time setup is not measured
    for _ in range(WARM_UP + 1 if pipeline.graph else 0):
        reduce()
    extra = extra_bytes(reduce, device)
    seconds = medians({"reduce": reduce, "limit": limit}, features, repeats)
    reduced = reduce()
    size = features.numel() * features.element_size()
    return {
        "stages": pipeline.name,
        "frames": frames,
        "dim": dim,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "reduce_s": seconds["reduce"],
        "limit_s": seconds["limit"],
        "ratio": seconds["reduce"] / seconds["limit"],
        "extra_bytes": extra,
        "feature_bytes": size,
        "memory_ratio": extra / size,
        "tokens_full": reduced.tokens_full,
        "tokens_kept": reduced.tokens_kept,
    }
