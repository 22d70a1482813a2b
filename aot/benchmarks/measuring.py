"""Timing pieces of work in turn, so that a noisy machine treats them alike, and the memory they take on top."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from ..devices import synchronise
from ..memory import PeakMemory, give_back, in_use


def medians(works: Mapping[str, Callable[[], object]], like: torch.Tensor, repeats: int) -> dict[str, float]:
    """Median seconds of each piece of work, all of them run in turn ``repeats`` times after one unmeasured round.

    Args:
        like: a tensor on the device that does the work.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(_time(work, like))
    return {name: statistics.median(each) for name, each in seconds.items()}


def extra_bytes(work: Callable[[], object], device: torch.device | str) -> int:
    """The most memory in use while ``work`` runs, above what was in use before: its result is part of it."""
    give_back()
    before = in_use(device)
    with PeakMemory(device) as memory:
        work()
    return max(0, memory.bytes - before)


def _time(work: Callable[[], object], like: torch.Tensor) -> float:
    synchronise(like)
    start = time.perf_counter()
    work()
    synchronise(like)
    return time.perf_counter() - start
