"""Attention received: how much each token is looked at, without keeping an attention matrix.

The importance of a token at a layer is the sum over queries, mean over heads, of the softmax attention that
falls on it. transformers' ``AttentionInterface`` hands every attention call to a function by name; ours runs
scaled-dot-product attention for all layers and, inside :func:`capture`, sums the attention received at the
layers asked for, a chunk of queries at a time.

Source: AOT (CVPR 2026), section 3.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "aot_received"
"""Name to give ``set_attn_implementation`` of the module whose attention is to be captured."""

CHUNK_BYTES = 16 * 2**20
"""The scores held at one time take at most about this much memory."""

USED_BLOCKS = 26
SHALLOW_BLOCK = 5
"""AOT reads SigLIP so400m's block 5 of the 26 that reach the LLM; other depths read the same fraction."""


@dataclass
class Received:
    """Attention received at chosen layers of one encoder, gathered call by call.

    Args:
        layers: indices of the attention calls of one forward pass to capture.
        sums: (B, S) float32 per layer, filled as the pass goes on.
    """

    layers: tuple[int, ...]
    sums: dict[int, Tensor] = field(default_factory=dict)
    calls: int = 0


_ACTIVE: ContextVar[Received | None] = ContextVar("aot_received", default=None)


@contextmanager
def capture(*layers: int) -> Iterator[Received]:
    """Gather the attention received at ``layers`` during one forward pass of an encoder.

    The encoder's attention implementation must be :data:`ATTENTION`. Layers are counted by attention calls,
    so the pass must run each block once, in order.
    """
    received = Received(layers)
    token = _ACTIVE.set(received)
    try:
        yield received
    finally:
        _ACTIVE.reset(token)


def depths(used_blocks: int) -> tuple[int, int]:
    """Indices of the shallow and the deep layer among the ``used_blocks`` that reach the LLM."""
    deep = max(0, used_blocks - 2)
    return min(deep, round(SHALLOW_BLOCK * used_blocks / USED_BLOCKS)), deep


def attention_received(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Sum over queries, mean over heads, of ``softmax(q k' scaling + mask)``.

    Args:
        query, key: (B, heads, S, d).
        mask: broadcastable to (B, heads, S, S), added to the scores; boolean masks keep True.

    Returns:
        (B, S) float32.
    """
    batch, heads, length, width = query.shape
    per_query = heads * length * 4
    frames = max(1, min(batch, chunk_bytes // (per_query * length)))
    queries = max(1, min(length, chunk_bytes // (per_query * frames)))
    out = torch.zeros(batch, length, dtype=torch.float32, device=query.device)
    for start in range(0, batch, frames):
        part = slice(start, start + frames)
        keys = key[part].reshape(-1, length, width).mT
        for first in range(0, length, queries):
            some = query[part, :, first : first + queries]
            scores = torch.bmm(some.reshape(-1, some.shape[2], width) * scaling, keys).float()
            scores = scores.reshape(*some.shape[:3], length)
            if mask is not None:
                scores = _masked(scores, mask, part, slice(first, first + queries))
            out[part] += scores.softmax(-1).sum((1, 2))
    return out / heads


def _masked(scores: Tensor, mask: Tensor, frames: slice, queries: slice) -> Tensor:
    mask = mask if mask.shape[0] == 1 else mask[frames]
    mask = mask if mask.shape[2] == 1 else mask[:, :, queries]
    return scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    received = _ACTIVE.get()
    if received is not None:
        if received.calls in received.layers:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            received.sums[received.calls] = attention_received(query, key, scale, attention_mask)
        received.calls += 1
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
