"""Attention received: how much each token is looked at, without keeping an attention matrix.

The importance of a token at a layer is the sum over queries, mean over heads, of the softmax attention that
falls on it. transformers' ``AttentionInterface`` hands every attention call to a function by name; ours runs
scaled-dot-product attention and, inside :func:`capture`, sums the attention received at the layers asked for, a
chunk of queries at a time, in float32 whatever the encoder's precision. What the encoder says stays the same bit
by bit, which is why the softmax is computed a second time at those layers.

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

CHUNK_BYTES = 4 * 2**20
"""The scores computed at one time take at most about this much memory, their softmax as much again.

Small enough to stay in a CPU's last-level cache between product, softmax and sum, large enough that the threads
seldom wait for each other.
"""

USED_BLOCKS = 26
SHALLOW_BLOCK = 5
"""AOT reads SigLIP so400m's block 5 of the 26 that reach the LLM; other depths read the same fraction."""


@dataclass
class Received:
    """Attention received at chosen layers of one encoder, gathered call by call.

    Args:
        layers: indices of the layers of one forward pass to capture.
        keys_of: the layer whose keys are kept too; None keeps none.
        parts: (B, S) float32 a call, by layer, filled as the pass goes on; an encoder that takes windows or frames
            one by one calls a layer's attention once for each.
        seen: how many layers' attention has been called.
        module: of the last call.
    """

    layers: tuple[int, ...]
    keys_of: int | None = None
    parts: dict[int, list[Tensor]] = field(default_factory=dict)
    key_parts: list[Tensor] = field(default_factory=list)
    seen: int = 0
    module: nn.Module | None = None

    @property
    def sums(self) -> dict[int, Tensor]:
        """(B, S) float32 per layer, the calls of a layer one behind another."""
        return {layer: torch.cat(parts, 1) for layer, parts in self.parts.items()}

    @property
    def keys(self) -> Tensor:
        """(B, S, d) keys of the layer they are kept of, mean over heads, the calls one behind another."""
        return torch.cat(self.key_parts, 1)


_ACTIVE: ContextVar[Received | None] = ContextVar("aot_received", default=None)


@contextmanager
def capture(*layers: int, keys_of: int | None = None) -> Iterator[Received]:
    """Gather the attention received at ``layers``, and one layer's keys, during one forward pass of an encoder.

    The encoder's attention implementation must be :data:`ATTENTION`. Layers are counted by the modules that call it,
    so the pass must run each block once, in order.
    """
    received = Received(layers, keys_of)
    token = _ACTIVE.set(received)
    try:
        yield received
    finally:
        _ACTIVE.reset(token)


def depths(used_blocks: int) -> tuple[int, int, int]:
    """Indices of the shallow, the deep and the last layer among the ``used_blocks`` that reach the LLM."""
    deep = max(0, used_blocks - 2)
    return min(deep, round(SHALLOW_BLOCK * used_blocks / USED_BLOCKS)), deep, used_blocks - 1


def attention_received(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None, chunk_bytes: int = CHUNK_BYTES
) -> Tensor:
    """Sum over queries, mean over heads, of ``softmax(q k' scaling + mask)``, computed in float32.

    A query that the mask lets see nothing spends no attention.

    Args:
        query, key: (B, heads, S, d), any floating dtype.
        mask: broadcastable to (B, heads, S, S), added to the scores; boolean masks keep True.
        chunk_bytes: memory for the scores of one chunk; one frame's heads for one query are the least it can be.

    Returns:
        (B, S) float32.
    """
    batch, heads, length, _ = query.shape
    received = torch.zeros(batch, length, dtype=torch.float32, device=query.device)
    query_bytes = heads * length * 4
    for frames in _slices(batch, chunk_bytes // (query_bytes * length)):
        keys = key[frames].float().flatten(0, 1).mT
        for queries in _slices(length, chunk_bytes // query_bytes):
            some = query[frames, :, queries].float().flatten(0, 1)
            scores = some.new_empty(*some.shape[:2], length).baddbmm_(some, keys, beta=0, alpha=scaling)
            seen = None if mask is None else mask.expand(batch, heads, length, length)[frames, :, queries]
            attention = _softmax(scores.unflatten(0, (-1, heads)), seen).flatten(1, 2)
            received[frames] += attention.new_full(attention.shape[1:2], 1 / heads) @ attention
    return received


def _slices(total: int, at_most: int) -> Iterator[slice]:
    step = max(1, at_most)
    return (slice(first, first + step) for first in range(0, total, step))


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores.softmax(-1)
    masked = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    blind = masked.amax(-1, keepdim=True) == -torch.inf
    return masked.softmax(-1).masked_fill(blind, 0.0)


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
        if module is not received.module:
            received.module = module
            received.seen += 1
        layer = received.seen - 1
        if layer in received.layers:
            scale = query.shape[-1] ** -0.5 if scaling is None else scaling
            received.parts.setdefault(layer, []).append(attention_received(query, key, scale, attention_mask))
        if layer == received.keys_of:
            received.key_parts.append(key.mean(1))
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
