"""Timing pieces of work in turn, so that a noisy machine treats them alike, and measuring their extra memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from ..devices import synchronise
from ..memory import PeakMemory, give_back, in_use


def medians(
    works: Mapping[str, Callable[[], object]],
    like: torch.Tensor,
    repeats: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each piece of work. All run in turn, after one unmeasured round.

    Args:
        works: the pieces, by name.
        like: a tensor on the device that does the work.
        repeats: measured rounds.
        clock: gives seconds; ``time.process_time`` counts those of the processor for this process alone.
    """
    for work in works.values():
        work()
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            seconds[name].append(_time(work, like, clock))
    return {name: statistics.median(each) for name, each in seconds.items()}


def extra_bytes(work: Callable[[], object], device: torch.device | str) -> int:
    """The most memory in use while ``work`` runs minus that in use before, in bytes; its result counts too."""
    give_back()
    before = in_use(device)
    with PeakMemory(device) as memory:
        work()
    return max(0, memory.bytes - before)


def _time(work: Callable[[], object], like: torch.Tensor, clock: Callable[[], float]) -> float:
    synchronise(like)
    start = clock()
    work()
    synchronise(like)
    return clock() - start
