"""What a reduction asks of its device, counted on the CPU: operations launched, and waits for their results."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ..stages.chain import Chain
from .reduction import random_tokens

WAITS = frozenset(
    {
        "_local_scalar_dense",
        "_unique",
        "_unique2",
        "bincount",
        "equal",
        "is_nonzero",
        "masked_select",
        "nonzero",
        "unique_consecutive",
        "unique_dim",
    }
)
"""Operations of aten whose result, or its shape, the host has to know before it goes on."""

_INDEXING = frozenset({"index", "index_put", "index_put_", "_index_put_impl_"})


class OperationCounter(TorchDispatchMode):
    """Counts aten's operations while it is entered.

    Attributes:
        operations: by name, every operation but views: each is a kernel launched on a GPU, or more.
        waits: by name, those of them for which the host waits: :data:`WAITS`, indexing by truth values, and repeating
            by counts without the length of the result.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if not func.is_view:
            self.operations[name] += 1
        if waits(name, args, kwargs):
            self.waits[name] += 1
        return func(*args, **kwargs)


def waits(name: str, args: Any, kwargs: Mapping[str, Any]) -> bool:
    """Whether the host has to wait for an operation.

    Args:
        name: of aten's operation, without namespace and overload.
        args: its arguments.
        kwargs: its named ones.
    """
    if name in _INDEXING:
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None
    return name in WAITS


def count_operations(chain: Chain, frames: int, dim: int = 64) -> OperationCounter:
    """Count the operations of one reduction of random tokens, 27 x 27 cells a frame, on the CPU.

    The first reduction, which sets caches up, is not counted.

    Args:
        chain: the stages.
        frames: T.
        dim: D, the width of a token; it changes no count.
    """
    chain(random_tokens(frames, dim))
    tokens = random_tokens(frames, dim)
    with OperationCounter() as counter:
        chain(tokens)
    return counter
