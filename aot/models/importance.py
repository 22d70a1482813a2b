"""Attention received: the importance of each token, computed without keeping an attention matrix.

The importance of token j at a layer with H heads is ``1/H sum_h sum_i softmax(q_hi k_hj' scaling)``: the attention that
it receives, summed over queries i and averaged over heads h. transformers' ``AttentionInterface`` calls an attention
function by its name. Ours runs scaled-dot-product attention and, inside :func:`capture`, sums the attention received at
the chosen layers, in float32 for any precision of the encoder: with a fused kernel on CUDA, else a chunk of queries at
a time. The softmax is computed a second time at those layers, so that the encoder's output stays the same bit by bit.

Source: AOT (CVPR 2026), section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ..memory import free_bytes
from ..tokens.layout import Layout

ATTENTION = "aot_received"
"""Name for ``set_attn_implementation`` of a module whose attention is to be captured."""

CHUNK_BYTES = 4 * 2**20
"""Memory of the scores computed at one time; their softmax takes as much again.

Small enough to stay in a CPU's last-level cache between product, softmax and sum, large enough that the threads
seldom wait for each other.
"""

CUDA_CHUNK_BYTES = 512 * 2**20
"""The same on CUDA, where larger chunks gain nothing more."""

USED_BLOCKS = 26
SHALLOW_BLOCK = 5
"""AOT takes SigLIP so400m's block 5 of the 26 that reach the LLM. Other towers use the same fraction."""


@dataclass
class Received:
    """Attention received at chosen layers of one encoder, collected call by call.

    Args:
        layers: indices of the layers of one forward pass to capture.
        keys_of: index of the layer whose keys are kept too; None keeps none.
        parts: by layer, (B, S) float32 for each call. An encoder that takes windows or frames one by one calls a
            layer's attention once for each.
        key_parts: (B, S, d) floating for each call, the keys' mean over heads.
        layers_called: the number of layers whose attention has been called.
        module: of the last call.
        outer: what an outer :func:`capture` collects of the same pass.
    """

    layers: tuple[int, ...]
    keys_of: int | None = None
    parts: dict[int, list[Tensor]] = field(default_factory=dict)
    key_parts: list[Tensor] = field(default_factory=list)
    layers_called: int = 0
    module: nn.Module | None = None
    outer: Received | None = None

    def called(self, module: nn.Module, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None) -> None:
        """Count a call of a layer's attention, and take what is wanted of it.

        Args:
            module: that calls.
            query: see :meth:`add`.
            key: see :meth:`add`.
            scaling: see :meth:`add`.
            mask: see :meth:`add`.
        """
        if module is not self.module:
            self.module = module
            self.layers_called += 1
        self.add(self.layers_called - 1, query, key, scaling, mask)
        if self.outer is not None:
            self.outer.called(module, query, key, scaling, mask)

    def add(self, layer: int, query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None) -> None:
        """Add what a call of a layer's attention tells, if it is one of the layers to capture.

        Args:
            layer: index of the layer.
            query: (B, heads, S, d) floating.
            key: (B, heads, S, d) floating.
            scaling: of the scores.
            mask: see :func:`attention_received`.
        """
        if layer in self.layers:
            self.parts.setdefault(layer, []).append(attention_received(query, key, scaling, mask))
        if layer == self.keys_of:
            self.key_parts.append(key.mean(1))

    @property
    def sums(self) -> dict[int, Tensor]:
        """By layer, (B, S) float32, the calls of a layer joined in order."""
        return {layer: torch.cat(parts, 1) for layer, parts in self.parts.items()}

    @property
    def keys(self) -> Tensor:
        """(B, S, d) floating, the keys of layer ``keys_of``, mean over heads, the calls joined in order."""
        return torch.cat(self.key_parts, 1)


_ACTIVE: ContextVar[Received | None] = ContextVar("aot_received", default=None)


@contextmanager
def capture(*layers: int, keys_of: int | None = None) -> Iterator[Received]:
    """Collect the attention received at some layers, and one layer's keys, during one forward pass of an encoder.

    The encoder's attention implementation must be :data:`ATTENTION`. Layers are counted by the modules that call it,
    so the pass must run each block once, in order. Inside another block of this kind, both collect.

    Args:
        *layers: indices of the layers.
        keys_of: index of the layer whose keys are kept too; None keeps none.
    """
    received = Received(layers, keys_of, outer=_ACTIVE.get())
    token = _ACTIVE.set(received)
    try:
        yield received
    finally:
        _ACTIVE.reset(token)


def used_blocks(hidden_layer: int, blocks: int) -> int:
    """How many blocks a tower runs for the hidden states that the LLM is given.

    Args:
        hidden_layer: index of those states among all hidden states, from the end where negative.
        blocks: of the tower.
    """
    return hidden_layer if hidden_layer >= 0 else blocks + 1 + hidden_layer


def depths(used_blocks: int) -> tuple[int, int, int]:
    """Indices of the shallow, the deep and the last layer among the ``used_blocks`` that reach the LLM."""
    deep = max(0, used_blocks - 2)
    return min(deep, round(SHALLOW_BLOCK * used_blocks / USED_BLOCKS)), deep, used_blocks - 1


def attention_received(
    query: Tensor, key: Tensor, scaling: float, mask: Tensor | None = None, chunk_bytes: int | None = None
) -> Tensor:
    """Sum over queries, mean over heads, of ``softmax(q k' scaling + mask)``, computed in float32.

    A query whose keys are all masked adds nothing.

    Args:
        query: (B, heads, S, d), any floating dtype.
        key: (B, heads, S, d), the same dtype.
        scaling: of the scores.
        mask: broadcastable to (B, heads, S, S), added to the scores; boolean masks keep True.
        chunk_bytes: memory for the scores of one chunk, in bytes; at least one frame's heads for one query. None takes
            the fused kernel where it runs, and else what suits the device.

    Returns:
        (B, S) float32.
    """
    batch, heads, length, width = query.shape
    if chunk_bytes is None:
        kernel = fused_kernel(query.device, query.dtype, width, mask is not None)
        if kernel is not None:
            return kernel(query, key, scaling, mask)
        chunk_bytes = _chunk_bytes(query.device)
    received = torch.zeros(batch, length, dtype=torch.float32, device=query.device)
    query_bytes = heads * length * 4
    for frames in _slices(batch, chunk_bytes // (query_bytes * length)):
        keys = key[frames].float().flatten(0, 1).mT
        for queries in _slices(length, chunk_bytes // query_bytes):
            chunk = query[frames, :, queries].float().flatten(0, 1)
            scores = chunk.new_empty(*chunk.shape[:2], length).baddbmm_(chunk, keys, beta=0, alpha=scaling)
            part = None if mask is None else mask.expand(batch, heads, length, length)[frames, :, queries]
            attention = _softmax(scores.unflatten(0, (-1, heads)), part).flatten(1, 2)
            received[frames] += attention.new_full(attention.shape[1:2], 1 / heads) @ attention
    return received


@cache
def fused_kernel(device: torch.device, dtype: torch.dtype, width: int, masked: bool) -> Callable[..., Tensor] | None:
    """The fused kernel, if it runs on a device and gives the sums that chunks give; None if not.

    Args:
        device: of queries and keys.
        dtype: of queries and keys.
        width: of a head.
        masked: whether there is a mask.

    Returns:
        A function of (query, key, scaling, mask), as :func:`attention_received` takes them.
    """
    if device.type != "cuda" or dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return None
    example = torch.randn(2, 2, 136, 2, width, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    query, key = example.transpose(2, 3)
    mask = torch.ones(136, 136, dtype=torch.bool, device=device).tril() if masked else None
    try:
        from .importance_kernel import column_sums

        sums = column_sums(query, key, width**-0.5, mask)
    except torch.cuda.OutOfMemoryError:
        raise
    except (
        Exception
    ):  # There is no Triton, or no compiler for it, or it does not know this GPU: each fails its own way.
        return None
    expected = attention_received(query, key, width**-0.5, mask, CHUNK_BYTES)
    return column_sums if torch.allclose(sums, expected, rtol=1e-2) else None


def _chunk_bytes(device: torch.device) -> int:
    if device.type != "cuda":
        return CHUNK_BYTES
    return max(CHUNK_BYTES, min(CUDA_CHUNK_BYTES, free_bytes(device) // 8))


def _slices(total: int, at_most: int) -> Iterator[slice]:
    step = max(1, at_most)
    return (slice(first, first + step) for first in range(0, total, step))


def _softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return scores.softmax(-1)
    masked = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
    all_masked = masked.amax(-1, keepdim=True) == -torch.inf
    return masked.softmax(-1).masked_fill(all_masked, 0.0)


def sums_by_token(values: Tensor, layout: Layout, side: int) -> Tensor:
    """Sums over the square of patches that becomes a token.

    Args:
        values: (T, patches) or (T, patches, d), or T and patches as one axis; patches row by row.
        layout: of T frames of N tokens.
        side: of a token, in patches.

    Returns:
        (T, N, d); d is 1 where ``values`` has no such axis.
    """
    height, width = layout.grid
    return values.reshape(layout.frames, height, side, width, side, -1).sum((2, 4)).flatten(1, 2)


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
        received.called(module, query, key, query.shape[-1] ** -0.5 if scaling is None else scaling, attention_mask)
    return ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, attention_mask, scaling=scaling, **kwargs)


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)
