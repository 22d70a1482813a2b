"""The memory that a piece of work takes at its peak, and the memory that is left."""

from __future__ import annotations

import ctypes
import sys
import threading
from pathlib import Path
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.005

_RESET = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def give_back() -> None:
    """Return freed memory to the system, where the C library can, so that memory in use is memory needed."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def in_use(device: torch.device | str) -> int:
    """Bytes in use now: PyTorch's allocations on a CUDA device, or this process' resident set on the CPU."""
    device = torch.device(device)
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else psutil.Process().memory_info().rss


def free_bytes(device: torch.device) -> int:
    """Bytes that PyTorch can still have on a CUDA device: those free on it, and those it holds but does not use."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + held


class PeakMemory:
    """Context manager that measures the most memory in use while a block of work runs, in bytes.

    On CUDA these are PyTorch's allocations, models included. On the CPU it is the process' resident set: Linux's own
    high-water mark, elsewhere sampled every few milliseconds. It includes freed memory that the allocator keeps.

    Args:
        device: that does the work.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.bytes = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        elif not _reset_high_water():
            self._thread = threading.Thread(target=self._watch, args=(psutil.Process(),), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            self.bytes = torch.cuda.max_memory_allocated(self.device)
        elif self._thread is None:
            self.bytes = _high_water()
        else:
            self._done.set()
            self._thread.join()

    def _watch(self, process: psutil.Process) -> None:
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(SAMPLE_SECONDS):
                return


def _reset_high_water() -> bool:
    """Reset Linux's high-water mark of this process; False if there is none."""
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _high_water() -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024
