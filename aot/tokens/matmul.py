"""Matrix products of half-precision tokens, computed in float32 where the machine has no units for them.

A CPU without bfloat16 instructions multiplies bfloat16 matrices many times slower than float32 ones. There, as
many problems as fit in a small buffer are widened at a time, which is faster and loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BUFFER_BYTES = 16 * 2**20
"""Memory that widened tokens may take at one time."""

_HALF = (torch.bfloat16, torch.float16)


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that is computed in: float32 for half precision, otherwise ``dtype``."""
    return torch.float32 if dtype in _HALF else dtype


def scores(x: Tensor, y: Tensor) -> Tensor:
    """(B, M, D) and (B, N, D) to the inner products (B, M, N), in the working dtype."""
    if x.dtype not in _HALF:
        return torch.bmm(x, y.mT)
    if is_native(x):
        return torch.bmm(x, y.mT).float()
    out = torch.empty(*x.shape[:2], y.shape[1], device=x.device)
    for part, wide in _widened(x):
        torch.bmm(wide, y[part].float().mT, out=out[part])
    return out


def mix(weights: Tensor, x: Tensor) -> Tensor:
    """``weights @ x``: (B or 1, R, C) weights and (B, C, D) tokens to (B, R, D), in the tokens' dtype."""
    if is_native(x):
        return torch.bmm(weights.to(x).expand(len(x), -1, -1), x)
    out = x.new_empty(x.shape[0], weights.shape[1], x.shape[2])
    for part, wide in _widened(x):
        out[part] = torch.matmul((weights if len(weights) == 1 else weights[part]).float(), wide)
    return out


def lengths(x: Tensor) -> Tensor:
    """(K, D) to the Euclidean lengths (K,), in the working dtype; not finite where an entry is not."""
    if x.dtype not in _HALF:
        return torch.linalg.vector_norm(x, dim=-1)
    return torch.cat([torch.linalg.vector_norm(wide, dim=-1) for _, wide in _widened(x)])


def is_native(x: Tensor) -> bool:
    """Whether tokens of this dtype are multiplied as they are: half precision only where there are units for it."""
    if x.dtype not in _HALF:
        return True
    return x.dtype == torch.bfloat16 and (x.is_cuda or torch.cpu._is_avx512_bf16_supported())


def _widened(x: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """The rows of x in float32, as many at a time as one small buffer holds, and their slice of x."""
    size = max(1, BUFFER_BYTES // (4 * max(1, x[:1].numel())))
    buffer = torch.empty(min(size, len(x)), *x.shape[1:], device=x.device)
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        rows = x[part]
        yield part, buffer[: len(rows)].copy_(rows)
