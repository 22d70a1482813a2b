"""A case that hangs, dies or eats memory is known as such, and the next one has a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import strategies as st

pytest.importorskip("resource", reason="limits of memory need a Unix")
from comfyui_aot.aot.errors import InputError
from comfyui_aot.tests.hostile.fuzz import fuzz
from comfyui_aot.tests.hostile.pool import ACCEPTED, BAD, LONGEST, MEMORY, REFUSED, Worker
from comfyui_aot.tests.hostile.values import Kind


def _behave(case: str, whole: Path, folder: Path) -> None:
    match case:
        case "waits":
            time.sleep(60)
        case "works":
            while True:
                pass
        case "has to queue":
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            busy = "import time\nwhile time.process_time() < 5: pass"
            others = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(3)]
            begun, worked = time.monotonic(), time.process_time()
            while time.monotonic() - begun < 3.5 or time.process_time() - worked < 0.5:
                pass
            for other in others:
                other.kill()
                other.wait()
        case "dies":
            os.abort()
        case "eats":
            bytearray(MEMORY + 2**28)
        case "raises":
            raise KeyError(case)
        case "refuses":
            raise InputError("Not this; give another.")
        case "says too much":
            error = InputError("no")
            error.args = ("x" * (LONGEST + 1),)
            raise error
        case "acts on the terminal":
            error = InputError("no")
            error.args = ("\x1b[2J",)
            raise error


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    worker = Worker(Kind("any", (), st.none(), None, _behave), Path(), tmp_path_factory.mktemp("scratch"), seconds=2)
    yield worker
    worker.close()


@pytest.mark.parametrize(
    ("case", "outcome", "said"),
    [
        ("ends", ACCEPTED, ""),
        ("refuses", REFUSED, "Not this; give another."),
        ("raises", BAD, "KeyError: 'raises'"),
        ("waits", BAD, "no end after 2 s"),
        ("works", BAD, "no end after 2 s"),
        ("has to queue", ACCEPTED, ""),
        ("dies", BAD, "the process died: exit code -6"),
        ("eats", BAD, "MemoryError"),
        ("says too much", BAD, "a message of 2001 characters"),
        ("acts on the terminal", BAD, "a message with control characters"),
    ],
)
def test_every_end_is_known(worker, case, outcome, said):
    result = worker.run(case)
    assert result[0] == outcome and said in result[1]
    assert worker.run("ends") == (ACCEPTED, "")


@pytest.mark.parametrize("jobs", [1, 3])
def test_a_table_is_run_once_however_many_jobs_there_are(tmp_path, jobs):
    table = ("ends", "refuses", "raises", "ends", "ends", "refuses", "raises")
    kind = Kind("any", table, st.integers().map(lambda number: "ends"), lambda whole: None, _behave)
    tally = fuzz(kind, tmp_path, lambda done: done >= 6, few=7, jobs=jobs)
    assert (tally.counts[REFUSED], tally.counts[BAD]) == (2, 2)
    assert 3 + 6 <= tally.counts[ACCEPTED] <= 3 + 9
    assert [case for case, _ in tally.bad] == ["'raises'"] * 2
