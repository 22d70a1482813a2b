"""How much memory there is, and how much a piece of work takes at its peak."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.005


class PeakMemory:
    """Context manager that measures the extra memory a block of work takes at its peak, in bytes.

    On CUDA it is the allocator's own peak over what was allocated at entry. On the CPU it is the process'
    resident set, sampled every few milliseconds, over what it was at entry: an estimate.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.bytes = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        process = psutil.Process()
        self._start = process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, args=(process,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._start
            return
        self._done.set()
        self._thread.join()

    def _watch(self, process: psutil.Process) -> None:
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss - self._start)
            if self._done.wait(SAMPLE_SECONDS):
                return
