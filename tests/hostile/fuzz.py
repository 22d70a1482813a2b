"""``python -m comfyui_aot.tests.hostile.fuzz``: cases of every kind at length, and what became of them.

Prints for each kind how many cases were tried, refused with one line, accepted, and bad: those that ended in a
traceback, took too long or too much memory, or gave what is not finite. Exit code 1 where there are any.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings

from comfyui_aot.tests.hostile.every_kind import KINDS
from comfyui_aot.tests.hostile.pool import ACCEPTED, BAD, REFUSED, Worker
from comfyui_aot.tests.hostile.values import Kind

ROUND = 250
"""Cases that Hypothesis makes in one go."""
TOLD = 20
"""Of the bad cases of a kind, how many are told; their causes are counted all the same."""


class Tally(NamedTuple):
    """What became of a kind's cases.

    Args:
        counts: of the cases, by how they ended.
        bad: cases that ended badly, as text, and how.
    """

    counts: Counter[str]
    bad: list[tuple[str, str]]


def fuzz(
    kind: Kind,
    scratch: Path,
    is_enough: Callable[[int], bool],
    first: int = 0,
    few: int | None = None,
    jobs: int = 1,
) -> Tally:
    """Run a kind's table, and then rounds of cases.

    Args:
        kind: of the cases.
        scratch: a folder for files.
        is_enough: takes the cases made by Hypothesis so far; whether to stop.
        first: seed of the first round; the others count on from it.
        few: the most cases of the table, evenly spread, and of a round; None takes all, and ``ROUND``.
        jobs: how many cases run at a time.
    """
    whole = scratch / "whole"
    whole.mkdir()
    kind.prepare(whole)
    table = kind.table if few is None else kind.table[:: math.ceil(len(kind.table) / few)]
    count = math.ceil((few or ROUND) / jobs)

    def share(job: int) -> Tally:
        counts: Counter[str] = Counter()
        bad: list[tuple[str, str]] = []
        worker = Worker(kind, whole, scratch)

        def run(case: Any) -> None:
            outcome, message = worker.run(case)
            counts[outcome] += 1
            if outcome == BAD:
                bad.append((repr(case)[:2000], message))

        with suppress(KeyboardInterrupt):  # what was tried until then is told
            for case in table[job::jobs]:
                run(case)
            done, number = 0, first + job
            while not is_enough(done * jobs):
                _round(kind, number, count, run)
                done, number = done + count, number + jobs
        worker.close()
        return Tally(counts, bad)

    return share(0) if jobs == 1 else _together(share, jobs)


def _together(share: Callable[[int], Tally], jobs: int) -> Tally:
    """The tally of all jobs, each in a process of its own."""
    fork = multiprocessing.get_context("fork")
    pipes = [fork.Pipe(duplex=False) for _ in range(jobs)]
    processes = [
        fork.Process(target=lambda job=job, end=end: end.send(share(job))) for job, (_, end) in enumerate(pipes)
    ]
    for process, (_, end) in zip(processes, pipes, strict=True):
        process.start()
        end.close()
    with suppress(KeyboardInterrupt):  # the jobs are interrupted too
        for ours, _ in pipes:
            ours.poll(None)
    tallies = [ours.recv() for ours, _ in pipes]
    for process in processes:
        process.join()
    return Tally(sum((each.counts for each in tallies), Counter()), [case for each in tallies for case in each.bad])


def _round(kind: Kind, number: int, count: int, run: Callable[[Any], None]) -> None:
    @seed(number)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(kind.cases)
    def each(case: Any) -> None:
        run(case)

    each()


def causes(bad: Iterable[tuple[str, str]]) -> list[tuple[str, int]]:
    """The last lines of what was said, with how often each was."""
    lines = ((message.strip().splitlines() or [""])[-1][:160] for _, message in bad)
    return Counter(lines).most_common()


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"of {', '.join(KINDS)}; all if left out")
    parser.add_argument("--minutes", type=float, help="in all, the same for every kind")
    parser.add_argument("--cases", type=int, default=10_000, help="of each kind, where no minutes are given")
    parser.add_argument("--few", type=int, help="run at most so many of a kind's table, and as many made by Hypothesis")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="cases at a time; one for each processor")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the tallies as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tallies = {}
    chosen = options.kinds or list(KINDS)
    for name in chosen:
        until = time.monotonic() + 60 * (options.minutes or 0) / len(chosen)

        def is_enough(done: int, until: float = until) -> bool:
            if options.minutes is not None:
                return time.monotonic() >= until
            return done >= (options.few or options.cases)

        with tempfile.TemporaryDirectory() as scratch:
            tally = fuzz(KINDS[name], Path(scratch), is_enough, options.seed, options.few, options.jobs)
        tallies[name] = tally
        if options.json:
            continue
        print(f"{name}: {_counted(tally)}", flush=True)
        for line, count in causes(tally.bad):
            print(f"    {count} x {line}")
        for case, message in tally.bad[:TOLD]:
            print(f"    {case}\n        " + "\n        ".join(message.strip().splitlines()[-12:]), flush=True)
    if options.json:
        print(json.dumps({name: {**tally.counts, "cases": tally.bad} for name, tally in tallies.items()}))
    return int(any(tally.bad for tally in tallies.values()))


def _counted(tally: Tally) -> str:
    tried = sum(tally.counts.values())
    return f"{tried} tried, " + ", ".join(f"{tally.counts[each]} {each}" for each in (REFUSED, ACCEPTED, BAD))


if __name__ == "__main__":
    sys.exit(main())
