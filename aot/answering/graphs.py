"""What CUDA graphs of decoding and of prefill have in common: what they hold, and when one may be trusted."""

from __future__ import annotations

import torch
from torch import Tensor

from ..models.base import VideoLLM


def addresses(model: VideoLLM) -> tuple[int, ...]:
    """Where the model's weights are; other numbers after ComfyUI has moved or patched them."""
    tensors = (*model.hf_model.parameters(), *model.hf_model.buffers())
    return tuple(each.data_ptr() for each in tensors)


def alike(logits: Tensor, expected: Tensor) -> bool:
    """Whether logits are the same but for rounding.

    Args:
        logits: (n, vocabulary) floating.
        expected: (n, vocabulary) floating.
    """
    return torch.allclose(logits, expected, rtol=0, atol=0.02 * float(expected.abs().max()))
