"""What to do when memory runs out: how much of a video would fit, in numbers of this model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from ..errors import InputError
from ..models.base import VideoLLM
from ..tokens.video_tokens import VideoTokens

CHUNK = 2048
"""Tokens of a video's prompt that are prefilled at once: what bounds their activations, and lets a user stop."""

MARGIN = 0.9
"""Share of the free memory that is counted on."""


def bytes_to_read(model: VideoLLM, tokens: int) -> int:
    """Bytes that prefilling takes beside the weights: keys and values, and the activations of one chunk.

    Decoding by a graph copies keys and values. Decoding "auto" does so only where half of the free memory holds them.

    Args:
        model: whose LLM reads.
        tokens: of the prompt.
    """
    shape, each = model.language, model.dtype.itemsize
    chunk = tokens if model.sees_ahead else min(tokens, CHUNK)
    activations = chunk * (3 * shape.mlp + 6 * shape.hidden) * each
    copies = 2 if model.decoding == "graph" else 1
    return copies * shape.kv_cache_bytes(tokens, each) + activations


def tokens_that_fit(model: VideoLLM, free: int, at_most: int) -> int:
    """The most tokens that can be prefilled in ``free`` bytes.

    Args:
        model: whose LLM reads.
        free: bytes.
        at_most: no more tokens than this.
    """
    low, high = 0, at_most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if bytes_to_read(model, middle) <= free else (low, middle - 1)
    return low


def free_bytes(device: torch.device) -> int:
    """Bytes free on a device, PyTorch's unused ones included."""
    if device.type != "cuda":
        return psutil.virtual_memory().available
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory has run out, on any device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    # The CPU's words; those of Apple's devices, and of CUDA outside PyTorch's own pool.
    words = "can't allocate memory", "out of memory"
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


@contextmanager
def explaining(model: VideoLLM, tokens: VideoTokens) -> Iterator[None]:
    """Turn an out-of-memory error of a prefill into one line that says what would fit.

    Args:
        model: whose LLM reads.
        tokens: of the video.

    Raises:
        InputError: memory ran out.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        line = what_fits(model, tokens, int(MARGIN * free_bytes(model.device)))
        raise InputError(line) from error


def what_fits(model: VideoLLM, tokens: VideoTokens, free: int) -> str:
    """The line for a video that could not be read.

    Args:
        model: whose LLM reads.
        tokens: of the video.
        free: bytes free on the device.
    """
    kept, full, frames = tokens.tokens_kept, tokens.tokens_full, tokens.frames_shown
    need = bytes_to_read(model, kept)
    # It did not fit, whatever the estimate says.
    fits = min(tokens_that_fit(model, free, kept), kept // 2)
    if not fits:
        return (
            f"{model.device} has run out of memory: {free / 2**30:.1f} GiB are free beside {model.name}, too little "
            f"for any video; load it in a smaller dtype than {_name(model.dtype)} or with a quantization."
        )
    smaller = "" if model.dtype.itemsize < 4 else ", or load the model in bfloat16"
    return (
        f"{model.device} has run out of memory: {kept} tokens take about {need / 2**30:.1f} GiB beside {model.name} "
        f"and {free / 2**30:.1f} GiB are free; keep at most {fits} tokens (retention {fits / full:.3f}), or "
        f"{max(1, fits * frames // kept)} of the {frames} frames{smaller}."
    )


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
