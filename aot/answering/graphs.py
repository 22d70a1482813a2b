"""What CUDA graphs of decoding and of prefill have in common: how one is captured, and when it may be replayed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..devices import waits
from ..models.base import VideoLLM


def warm_up(run: Callable[[], None], stream: torch.cuda.Stream, *, watched: bool = False) -> bool:
    """Run what will be captured, on the stream that it is captured on: libraries set themselves up.

    Args:
        run: launches kernels on the current stream.
        stream: of the capture.
        watched: whether to look if the host waits, which must not be captured: it would break PyTorch's allocator.

    Returns:
        Whether the host waited; False if not watched.
    """
    current = torch.cuda.current_stream(stream.device)
    stream.wait_stream(current)
    waited = False
    with torch.cuda.stream(stream):
        if watched:
            waited = waits(run)
        else:
            run()
    current.wait_stream(stream)
    return waited


def capture(run: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A graph of all that ``run`` launches; nothing of it runs yet.

    Args:
        run: launches kernels on the current stream, from tensors and to tensors that stay in their place.
        stream: where :func:`warm_up` ran it.

    Raises:
        RuntimeError: it cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    # The outer block restores the current stream where a failed capture does not.
    with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        run()
    return graph


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
