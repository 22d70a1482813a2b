"""Locks on a file's or folder's name, so that one process at a time works on it. A lock ends with its process.

A lock is a hidden empty file beside what it is about, locked by the system, which frees it however the process ends. It
is removed with the lock; one that a killed process left behind is taken by the next. Threads of a process exclude each
other as processes do. Where the file system knows no locks, everybody has one.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK, WORK = ".aot.lock", ".aot.work"
"""End the names of locks' files, which begin with a dot and the name that is locked: to write it, and to do the work
that it is the result of."""

_PAUSE = 0.05
"""Seconds between two tries."""

_FLAGS = os.O_RDONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
"""A lock's file is no link: in a folder that others write in too, it could lead anywhere."""

_WITHOUT = -1
"""In place of a descriptor, where the file system knows no locks."""


@contextmanager
def tried(path: Path, kind: str = LOCK, *, sure: bool = False) -> Iterator[bool]:
    """Take the lock on a name if nobody has it.

    Args:
        path: what is locked; it need not exist, its folder must.
        kind: LOCK or WORK.
        sure: without locks of the file system, nobody has one instead of everybody.

    Yields:
        Whether this block has the lock.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    file = path.with_name(f".{path.name}{kind}")
    descriptor = _taken(file)
    if descriptor == _WITHOUT:
        yield not sure
        return
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            _free(file, descriptor)


@contextmanager
def lock(path: Path, kind: str = LOCK, *, wait: float, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Wait for the lock on a name, and have it in this block.

    Args:
        path: what is locked; it need not exist, its folder must.
        kind: LOCK or WORK.
        wait: seconds after which the other process is told.
        on_wait: called meanwhile, many times a second; may raise to stop.

    Raises:
        InputError: another process has it all the while.
        OSError: the folder does not exist or cannot be written.
    """
    end = time.monotonic() + wait
    while True:
        with tried(path, kind) as ours:
            if ours:
                yield
                return
        if time.monotonic() > end:
            raise InputError(f"Another process is at work on {path}; wait until it is done, or give another place.")
        on_wait()
        time.sleep(_PAUSE)


def _taken(file: Path) -> int | None:
    """The descriptor of a lock's file, locked; None if another has it."""
    while True:
        descriptor = os.open(file, _FLAGS, 0o666)
        try:
            ours = _try(descriptor)
            if ours is None:
                file.unlink(missing_ok=True)
            # Whoever had the lock may have removed the file since it was opened: then it is nobody's name.
            is_there = ours and _same(file, descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        if is_there:
            return descriptor
        os.close(descriptor)
        if not ours:
            return _WITHOUT if ours is None else None


def _same(file: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(descriptor))
    except FileNotFoundError:
        return False


if sys.platform == "win32":

    def _try(descriptor: int) -> bool | None:
        """Whether the descriptor is locked now; None where there are no locks."""
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

    def _free(file: Path, descriptor: int) -> None:
        os.close(descriptor)  # An open file is not removed there.
        with suppress(OSError):
            file.unlink()

else:

    def _try(descriptor: int) -> bool | None:
        """Whether the descriptor is locked now; None where there are no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def _free(file: Path, descriptor: int) -> None:
        with suppress(OSError):
            file.unlink()
        os.close(descriptor)
