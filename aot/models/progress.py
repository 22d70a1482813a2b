"""The callback through which long work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with (done, total) as long work goes on. May raise to stop it."""


def ignore_progress(done: int, total: int) -> None:
    """Do nothing: the default callback."""
