"""Attention received, as a Triton kernel in two passes: no scores in memory, whatever the attention's own kernel.

The first pass takes the logarithm of each query's softmax denominator, the second sums each key's share of the
softmax. Both compute the scores block by block, in float32; logarithms and exponentials are to base 2, as on GPUs.
"""

from __future__ import annotations

import math

import torch
import triton  # pyright: ignore[reportMissingImports] - torch's CUDA builds bring it
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

_LOG2_E: tl.constexpr = tl.constexpr(math.log2(math.e))


def column_sums(query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Sum over queries, mean over heads, of ``softmax(q k' scaling + mask)``, computed in float32.

    A query whose keys are all masked adds nothing.

    Args:
        query: (B, heads, S, d) float32, float16 or bfloat16.
        key: (B, heads, S, d), the same dtype.
        scaling: of the scores.
        mask: broadcastable to (B, heads, S, S), added to the scores; boolean masks keep True.

    Returns:
        (B, S) float32.
    """
    batch, heads, length, width = query.shape
    logarithms = torch.empty(batch, heads, length, dtype=torch.float32, device=query.device)
    sums = torch.empty_like(logarithms)
    added, mask_strides = query, (0, 0, 0, 0)
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros(mask.shape, device=mask.device).masked_fill_(~mask, -torch.inf)
        added = mask.expand(batch, heads, length, length)
        mask_strides = added.stride()
    # float32 takes twice the memory, and its products in full precision more registers.
    block, stages = (32, 2) if query.dtype == torch.float32 else (64, 3)
    grid = (triton.cdiv(length, block), heads, batch)
    scores = (query, *query.stride(), key, *key.stride(), added, *mask_strides, scaling * _LOG2_E.value, length)
    settings = {
        "WIDTH": width,
        "CHANNELS": max(16, triton.next_power_of_2(width)),
        "BLOCK": block,
        "MASKED": mask is not None,
        "num_stages": stages,
    }
    with torch.cuda.device_of(query):
        _logarithms[grid](*scores, logarithms, **settings)  # pyright: ignore[reportIndexIssue] - the decorator's type
        _sums[grid](*scores, logarithms, sums, **settings)  # pyright: ignore[reportIndexIssue]
    return sums.mean(1)


@triton.jit
def _rows(
    base, first, length, row_stride, channel_stride, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr
):
    """(BLOCK, CHANNELS): queries or keys of one head from ``first`` on, zeros past their ends."""
    row = (first + tl.arange(0, BLOCK))[:, None]
    channel = tl.arange(0, CHANNELS)[None, :]
    inside = (row < length) & (channel < WIDTH)
    return tl.load(base + row * row_stride + channel * channel_stride, mask=inside, other=0.0)


@triton.jit
def _scores(queries, keys, query, key, scaling, mask, query_stride, key_stride, length, MASKED: tl.constexpr):
    """(BLOCK, BLOCK) float32 to base 2, queries by keys, the mask added; minus infinity for keys past the end."""
    scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scaling
    query, key = query[:, None], key[None, :]
    if MASKED:
        added = tl.load(
            mask + query * query_stride + key * key_stride, mask=(query < length) & (key < length), other=0.0
        )
        scores += added.to(tl.float32) * _LOG2_E
    return tl.where(key < length, scores, float("-inf"))


@triton.jit(do_not_specialize=["length"])
def _logarithms(
    queries, q_batch, q_head, q_row, q_channel, keys, k_batch, k_head, k_row, k_channel,
    mask, m_batch, m_head, m_query, m_key, scaling, length, logarithms,
    WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """log2 of the softmax denominators of a block of queries; plus infinity for a query that may see nothing."""
    first, head, batch = tl.program_id(0) * BLOCK, tl.program_id(1), tl.program_id(2).to(tl.int64)
    queries += batch * q_batch + head * q_head
    keys += batch * k_batch + head * k_head
    mask += batch * m_batch + head * m_head
    logarithms += (batch * tl.num_programs(1) + head) * length
    query = first + tl.arange(0, BLOCK)
    here = _rows(queries, first, length, q_row, q_channel, WIDTH, CHANNELS, BLOCK)
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, length, BLOCK):
        key = start + tl.arange(0, BLOCK)
        there = _rows(keys, start, length, k_row, k_channel, WIDTH, CHANNELS, BLOCK)
        scores = _scores(here, there, query, key, scaling, mask, m_query, m_key, length, MASKED)
        larger = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(larger == float("-inf"), 0.0, larger)
        total = total * tl.exp2(largest - shift) + tl.sum(tl.exp2(scores - shift[:, None]), 1)
        largest = larger
    tl.store(logarithms + query, tl.where(total > 0, largest + tl.log2(total), float("inf")), mask=query < length)


@triton.jit(do_not_specialize=["length"])
def _sums(
    queries, q_batch, q_head, q_row, q_channel, keys, k_batch, k_head, k_row, k_channel,
    mask, m_batch, m_head, m_query, m_key, scaling, length, logarithms, sums,
    WIDTH: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """The softmax's column sums of a block of keys. Its scores are rounded as those of the first pass are."""
    first, head, batch = tl.program_id(0) * BLOCK, tl.program_id(1), tl.program_id(2).to(tl.int64)
    queries += batch * q_batch + head * q_head
    keys += batch * k_batch + head * k_head
    mask += batch * m_batch + head * m_head
    logarithms += (batch * tl.num_programs(1) + head) * length
    sums += (batch * tl.num_programs(1) + head) * length
    key = first + tl.arange(0, BLOCK)
    here = _rows(keys, first, length, k_row, k_channel, WIDTH, CHANNELS, BLOCK)
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for start in range(0, length, BLOCK):
        query = start + tl.arange(0, BLOCK)
        there = _rows(queries, start, length, q_row, q_channel, WIDTH, CHANNELS, BLOCK)
        scores = _scores(there, here, query, key, scaling, mask, m_query, m_key, length, MASKED)
        logarithm = tl.load(logarithms + query, mask=query < length, other=float("inf"))
        total += tl.exp2(scores - logarithm[:, None])
    tl.store(sums + key, tl.sum(total, 0), mask=key < length)
