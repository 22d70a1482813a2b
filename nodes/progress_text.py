"""What a running node says: what is being done, and how long it still takes, from what this run has measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from .comfy import send_text

LEAST_LEFT = 5.0
"""Seconds; a shorter rest is not said."""

KEPT = 0.05
"""Seconds; a piece that took less was kept from an earlier run."""

LEAST_APART = 0.3
"""Seconds between two texts; those that come sooner are left out."""


class Said:
    """Puts lines on a node while it runs.

    Args:
        hidden: the node's hidden values, with its id; None, outside a run, says nothing.
        clock: seconds.
    """

    def __init__(self, hidden: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self._node_id, self._clock = getattr(hidden, "unique_id", None), clock
        self._start, self._last = clock(), float("-inf")

    def say(self, text: str, *, now: bool = False) -> None:
        """Replace the line on the node.

        Args:
            text: to show.
            now: even where the last line is only just there.
        """
        if now or self._clock() - self._last >= LEAST_APART:
            self._last = self._clock()
            send_text(self._node_id, text)

    def step(self, what: str, done: float, total: float, *, now: bool = False) -> None:
        """Say what is being done, with the time left once some of it is done.

        Args:
            what: is being done.
            done: work done, in any unit; its time is counted from the last call with none.
            total: all work, in the same unit.
            now: see :meth:`say`.
        """
        if done <= 0:
            self._start = self._clock()
        self.say(f"{what}{time_left(self._clock() - self._start, done, total)}", now=now)


def time_left(seconds: float, done: float, total: float) -> str:
    """ ", about 2 min left", from the time that a part of the work took; "" if nothing is known or it is short.

    Args:
        seconds: that the part took.
        done: the part, in any unit.
        total: all work, in the same unit.
    """
    if done <= 0:
        return ""
    left = seconds * (total - done) / done
    if left < LEAST_LEFT:
        return ""
    if left < 55:
        return f", about {5 * round(left / 5)} s left"
    minutes = round(left / 60)
    return f", about {minutes} min left" if minutes < 90 else f", about {round(left / 3600)} h left"


class Rest:
    """How long several pieces of work still take; those that an earlier run has kept take no time and do not count.

    Args:
        work: of each piece, in any unit.
        clock: seconds.
    """

    def __init__(self, work: Sequence[float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._work, self._clock = tuple(work), clock
        self._seconds = self._done = 0.0
        self._number, self._since = 0, clock()

    def begin(self, number: int) -> str:
        """What :func:`time_left` says as a piece begins, and those before it are done.

        Args:
            number: of the piece, from 0.
        """
        took = self._clock() - self._since
        if took >= KEPT:
            self._seconds += took
            self._done += sum(self._work[self._number : number])
        self._number, self._since = number, self._clock()
        return time_left(self._seconds, self._done, self._done + sum(self._work[number:]))
