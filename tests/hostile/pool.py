"""Runs cases in a process of their own, with a limit of memory and of time, so that one that dies is known by name."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
import unicodedata
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from comfyui_aot.aot.errors import LONGEST, InputError
from comfyui_aot.tests.hostile.values import Kind

SECONDS = 20.0
"""That a case may work or wait."""
MEMORY = 2 * 2**30
"""Bytes of address space that a case may take beyond those of the process that runs it."""
CASES = 200
"""That a process runs before it makes room for a fresh one."""

ACCEPTED, REFUSED, BAD = "accepted", "refused", "bad"


class Worker:
    """A process that runs cases of a kind, one at a time; another takes its place when it dies.

    Args:
        kind: of the cases.
        whole: the folder that the kind has prepared.
        scratch: a folder for the cases' files.
        seconds: that a case may work or wait.
    """

    def __init__(self, kind: Kind, whole: Path, scratch: Path, seconds: float = SECONDS) -> None:
        self._kind, self._whole, self._scratch, self._seconds = kind, whole, scratch, seconds
        self._process: Any = None
        self._cases = 0

    def run(self, case: Any) -> tuple[str, str]:
        """How a case ends, and what was said."""
        if self._process is None or self._cases >= CASES:
            self.close()
            self._start()
        self._cases += 1
        try:
            self._pipe.send(case)
            if self._ends():
                return self._pipe.recv()
        except (EOFError, OSError):
            self._process.join(5)
            code = self._process.exitcode
            self._end()
            return BAD, f"the process died: exit code {code}"
        self._end()
        return BAD, f"no end after {self._seconds:g} s"

    def _ends(self) -> bool:
        """Whether the case comes to its end in time; while others have the processor its clock stands still."""
        if self._pipe.poll(1):
            return True
        begun, before = time.monotonic(), _queued(self._process.pid)
        while not self._pipe.poll(1):
            now = _queued(self._process.pid)
            queued = max((each - before.get(thread, 0.0) for thread, each in now.items()), default=0.0)
            if time.monotonic() - begun - queued >= self._seconds:
                return False
        return True

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._end()

    def _start(self) -> None:
        fork = multiprocessing.get_context("fork")
        self._pipe, theirs = fork.Pipe()
        gc.freeze()
        self._process = fork.Process(target=_serve, args=(self._kind, self._whole, self._scratch, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self._cases = 0

    def _end(self) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = None


def _queued(pid: int) -> dict[str, float]:
    """Seconds that each thread of a process has been ready to run and has not run."""
    queued = {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # it has ended since
            queued[thread.name] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return queued


def _serve(kind: Kind, whole: Path, scratch: Path, pipe: Connection) -> None:
    faulthandler.disable()
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process runs
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            case = pipe.recv()
        except EOFError:
            return
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            pipe.send(_outcome(kind, case, whole, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _outcome(kind: Kind, case: Any, whole: Path, folder: Path) -> tuple[str, str]:
    try:
        kind.run(case, whole, folder)
    except InputError as error:
        message = str(error)
        if len(message) > LONGEST:
            return BAD, f"a message of {len(message)} characters: {message[:200]}"
        if any(unicodedata.category(each) in ("Cc", "Cs") for each in message):
            return BAD, f"a message with control characters: {message[:200]!r}"
        return REFUSED, message
    except BaseException:
        return BAD, traceback.format_exc()
    return ACCEPTED, ""
