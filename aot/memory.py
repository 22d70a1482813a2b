"""How much memory there is, and how much a piece of work takes at its peak."""

from __future__ import annotations

import threading
from types import TracebackType

import psutil
import torch

SAMPLE_SECONDS = 0.005


class PeakMemory:
    """Context manager that measures the most memory in use while a block of work runs, in bytes.

    On CUDA it is what PyTorch has allocated there, models included. On the CPU it is the whole process' resident
    set, sampled every few milliseconds; memory that earlier work took and the allocator keeps is part of it.
    """

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self.bytes = 0
        self._done = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return self
        self._thread = threading.Thread(target=self._watch, args=(psutil.Process(),), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            self.bytes = torch.cuda.max_memory_allocated(self.device)
            return
        self._done.set()
        self._thread.join()

    def _watch(self, process: psutil.Process) -> None:
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(SAMPLE_SECONDS):
                return
