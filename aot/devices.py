"""What devices can do, and waiting for their work."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch
    from torch import Tensor


WITHOUT_FLOAT64 = ("mps",)
"""Types of devices that have no float64: Apple's."""


def check_device(device: str) -> None:
    """Refuse a device that PyTorch cannot use here.

    Args:
        device: as PyTorch names it: cpu, cuda, cuda:1, mps.

    Raises:
        InputError: the device is not available.
    """
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"Device {device!r} is not available here; leave --device out, or give cpu.") from error


def widest(device: torch.device) -> torch.dtype:
    """The dtype in which decisions are taken on a device: float64, or float32 where there is none."""
    import torch

    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def widened(tensor: Tensor) -> Tensor:
    """The tensor in the widest dtype of its device."""
    return tensor.to(widest(tensor.device))


def to_device(values: Tensor | npt.NDArray[Any] | Sequence[Any], device: torch.device) -> Tensor:
    """Values of the host on a device, which the host does not wait for.

    Args:
        values: a tensor, an array, or numbers.
        device: where they are wanted.
    """
    import torch

    # Apple's copies read the memory later, when it may have changed.
    return torch.as_tensor(values).to(device, non_blocking=device.type != "mps")


@lru_cache(maxsize=64)
def counts_on(counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Counts on a device, (n,) long. Shared: not to be changed.

    Args:
        counts: n of them.
        device: where they are wanted.
    """
    return to_device(counts, device)


def synchronise(tensor: Tensor) -> None:
    """Wait until the work queued on the tensor's device is done, so that a clock measures all of it."""
    if tensor.is_cuda:
        import torch

        torch.cuda.synchronize(tensor.device)


def waits(work: Callable[[], object]) -> bool:
    """Do a piece of work, and say whether the host waited for a CUDA device in it, as far as PyTorch sees.

    Args:
        work: what to do. While it is done, no thread's warnings are shown.
    """
    import torch

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        before = torch.cuda.get_sync_debug_mode()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode(before)
    return any("called a synchronizing" in str(each.message) for each in warned)


def warm_up(run: Callable[[], object], stream: torch.cuda.Stream, *, watched: bool = False) -> bool:
    """Run what will be captured, on the stream that it is captured on: libraries set themselves up.

    Args:
        run: launches kernels on the current stream.
        stream: of the capture.
        watched: whether to look if the host waits, which must not be captured: it would break PyTorch's allocator.

    Returns:
        Whether the host waited; False if not watched.
    """
    import torch

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


def capture(run: Callable[[], object], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """A graph of all that ``run`` launches; nothing of it runs yet.

    Args:
        run: launches kernels on the current stream, from tensors and to tensors that stay in their place.
        stream: where :func:`warm_up` ran it.

    Raises:
        RuntimeError: it cannot be captured.
    """
    import torch

    graph = torch.cuda.CUDAGraph()
    # The outer block restores the current stream where a failed capture does not.
    with torch.cuda.stream(stream), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        run()
    return graph


@dataclass(frozen=True, eq=False)
class Elapsed:
    """Milliseconds between two marks in the work of a device, found out when they are read; equal to that number.

    Args:
        start: the first mark, from :func:`mark`.
        end: the second one.
    """

    start: float | torch.cuda.Event
    end: float | torch.cuda.Event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Elapsed, float, int)) and float(self) == float(other)

    def __hash__(self) -> int:
        return hash(float(self))

    def __float__(self) -> float:
        if isinstance(self.start, (float, int)) and isinstance(self.end, (float, int)):
            return (self.end - self.start) * 1e3
        assert not isinstance(self.start, (float, int)) and not isinstance(self.end, (float, int))
        self.end.synchronize()
        return self.start.elapsed_time(self.end)


def mark(tensor: Tensor) -> float | torch.cuda.Event:
    """A mark after the work queued on the tensor's device so far, for :class:`Elapsed`; nothing waits for it.

    Args:
        tensor: on that device.
    """
    if not tensor.is_cuda:
        return time.perf_counter()
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(tensor.device))
    return event
