"""Stages measured all in turn by processor time, on the CPU: others who use the machine hardly change it.

Seconds of wall time double when a machine is shared, and not for all stages alike. The processor's time for this
process, over that of the first stage in the same rounds, stays nearly the same.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from ..answering.generation import Generation
from ..answering.session import Session
from ..models.base import VideoLLM
from ..stages.chain import Chain
from ..tokens.video_tokens import VideoTokens
from .answer import QUESTION
from .measuring import medians
from .reduction import random_tokens


def bench_reductions(
    chains: Sequence[Chain], frames: int, dim: int, *, dtype: torch.dtype = torch.float32, repeats: int = 5
) -> list[dict[str, Any]]:
    """Time the reductions of random tokens of 27 x 27 cells, all in turn.

    Args:
        chains: of stages on tokens; the first is what the others are set beside.
        frames: T.
        dim: D, the width of a token.
        dtype: of the features.
        repeats: measured rounds after one that is not; medians are reported.

    Returns:
        A row a chain: ``stages``, ``processor_s``, ``ratio`` (over the first row's), ``tokens_kept`` and
        ``tokens_full``.
    """
    tokens = random_tokens(frames, dim, dtype=dtype)
    works = {str(number): partial(_reduced, chain, tokens) for number, chain in enumerate(chains)}
    seconds = list(medians(works, tokens.features, repeats, clock=time.process_time).values())
    counts = [work() for work in works.values()]
    return [
        {
            "stages": chain.name,
            "processor_s": taken,
            "ratio": taken / seconds[0],
            "tokens_kept": reduced.tokens_kept,
            "tokens_full": reduced.tokens_full,
        }
        for chain, taken, reduced in zip(chains, seconds, counts, strict=True)
    ]


def _reduced(chain: Chain, tokens: VideoTokens) -> VideoTokens:
    return chain(dataclasses.replace(tokens))  # a new object, without cached results


@torch.no_grad()
def bench_inside(
    model: VideoLLM, tokens: VideoTokens, chains: Sequence[Chain], *, new_tokens: int = 16, repeats: int = 3
) -> list[dict[str, Any]]:
    """Time answers about a video with all its tokens and with each chain, all in turn.

    Answers go on after tokens that would end them, so that all are equally long. The model is not to be used
    afterwards.

    Args:
        model: answers, on the CPU.
        tokens: of the encoder, nothing reduced.
        chains: of stages inside the LLM, or that end in such.
        new_tokens: of an answer, 2 or more.
        repeats: measured rounds after one that is not; medians are reported.

    Returns:
        A row for all tokens, ``full``, and one a chain: ``stages``, ``tokens`` (that the LLM was given),
        ``retention`` (on average over its layers), ``prefill_s`` (processor time to the first token), ``token_s``
        (of a further one), and both over those of all tokens, ``prefill_ratio`` and ``token_ratio``.
    """
    model.hf_model.generation_config.eos_token_id = None
    given = {"full": tokens, **{chain.name: chain(tokens) for chain in chains}}
    taken: dict[str, list[tuple[float, float, float]]] = {name: [] for name in given}
    for _ in range(repeats + 1):
        for name, each in given.items():
            taken[name].append(_answered(model, each, new_tokens))
    rows = []
    for name, each in given.items():
        prefill, token, retention = (statistics.median(column) for column in zip(*taken[name][1:], strict=True))
        row = {"stages": name, "tokens": each.tokens_kept, "retention": retention}
        first = rows[0] if rows else {"prefill_s": prefill, "token_s": token}
        ratios = {"prefill_ratio": prefill / first["prefill_s"], "token_ratio": token / first["token_s"]}
        rows.append({**row, "prefill_s": prefill, "token_s": token, **ratios})
    return rows


def _answered(model: VideoLLM, tokens: VideoTokens, new_tokens: int) -> tuple[float, float, float]:
    """Processor seconds to the first token and of each further one; the retention on average over layers."""
    first: list[float] = []

    def on_token(count: int) -> None:
        if count == 1:
            first.append(time.process_time())

    start = time.process_time()
    session = Session(model, tokens)
    (answer,) = session.answer([QUESTION], Generation(max_new_tokens=new_tokens), on_token=on_token)
    end = time.process_time()
    return first[0] - start, (end - first[0]) / (new_tokens - 1), answer.retention
