"""A stand-in for CUDA's graphs: while one is captured, the work is noted and does not run; a replay runs it."""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch


class GraphStandIn:
    """Does on the CPU what CUDA does with a graph of a class's ``_run``.

    ``captures`` and ``replays`` count. What is to go wrong can be set: ``breaks``, a capture fails; ``distorts``, a
    replay gives other ``_logits``; ``waits``, the work waits for the host.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
        self.captures, self.replays, self.breaks, self.distorts, self.waits = 0, 0, False, False, False
        self.stream = SimpleNamespace(device=torch.device("cpu"), wait_stream=lambda other: None)
        self._run = kind._run
        self._mode = self._captured = None
        self._is_capturing = False
        monkeypatch.setattr(kind, "_run", lambda made: self._work(made))
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", lambda graph, stream, capture_error_mode: graph)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self.stream)
        monkeypatch.setattr(torch.cuda, "get_sync_debug_mode", lambda: self._mode)
        monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", lambda mode: setattr(self, "_mode", mode))

    def __enter__(self) -> None:
        self._is_capturing = True

    def __exit__(self, *error: object) -> None:
        self._is_capturing = False

    def _work(self, made: Any) -> None:
        if not self._is_capturing:
            self._run(made)
            if self.waits and self._mode == "warn":
                warnings.warn("called a synchronizing CUDA operation", stacklevel=2)
        elif self.waits:
            raise AssertionError("captured, though it waits")
        elif self.breaks:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        else:
            self.captures, self._captured = self.captures + 1, made

    def replay(self) -> None:
        """Run what was captured."""
        self.replays += 1
        self._run(self._captured)
        if self.distorts:
            self._captured._logits.neg_()
