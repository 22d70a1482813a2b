"""How long a reduction takes, beside the two matrix products that no reduction can avoid."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from .pipeline import Pipeline
from .stages.base import synchronise
from .tokens import Layout, VideoTokens

GRID = (27, 27)
ANCHORS = 126


def bench_reduce(
    pipeline: Pipeline,
    frames: int,
    dim: int,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    repeats: int = 5,
) -> dict[str, Any]:
    """Time a pipeline on random tokens of 27 x 27 cells, in turn with the limit, medians of ``repeats``.

    The limit is ``torch.bmm`` of 126 anchors with all tokens, and of a (126 x 729) W with the features.

    Returns:
        ``reduce_s``, ``limit_s``, ``ratio`` (their medians' quotient), ``tokens_kept``, ``tokens_full``.
    """
    generator = torch.Generator().manual_seed(0)
    cells = GRID[0] * GRID[1]
    features = torch.randn(frames, cells, dim, generator=generator).to(device, dtype)
    shallow, deep = torch.rand(2, frames, cells, generator=generator)
    times = torch.arange(frames, dtype=torch.float64)
    tokens = VideoTokens.encoded(features, Layout(frames, GRID), shallow, deep, times)
    weights = torch.rand(frames, ANCHORS, cells, generator=generator).to(device, dtype)

    def limit() -> None:
        torch.bmm(features[:, :ANCHORS], features.mT)
        torch.bmm(weights, features)

    reduced = pipeline(tokens)
    limit()
    pairs = [(_time(lambda: pipeline(tokens), features), _time(limit, features)) for _ in range(repeats)]
    reduce_s, limit_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {
        "stages": pipeline.name,
        "frames": frames,
        "dim": dim,
        "dtype": str(dtype).removeprefix("torch."),
        "device": str(device),
        "reduce_s": reduce_s,
        "limit_s": limit_s,
        "ratio": reduce_s / limit_s,
        "tokens_full": reduced.tokens_full,
        "tokens_kept": reduced.tokens_kept,
    }


def _time(work: Callable[[], object], features: torch.Tensor) -> float:
    synchronise(features)
    start = time.perf_counter()
    work()
    synchronise(features)
    return time.perf_counter() - start
