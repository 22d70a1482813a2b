"""``aot verify``: cases recorded from released code, run through ours."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from tqdm import tqdm

from .command import Result


def add(parser: argparse.ArgumentParser) -> None:
    """Add the folder of cases."""
    parser.add_argument("folder", type=Path, help="tests/recorded of the source, or your own in its format")


def run(options: argparse.Namespace) -> Result:
    """Run every case, print a line for each; exit code 1 where one is out of its tolerance."""
    from ..verification import verify

    results = []
    for result in tqdm(verify(options.folder), desc="verify", file=sys.stderr, leave=False, disable=None):
        results.append(result)
    for result in results:
        verdict = "ok" if result.passed else "FAILED"
        near = f", {result.near} within rounding" if result.near else ""
        print(
            f"{verdict:6} {result.case:34} {result.dtype:8} error {result.error:.1e} of {result.tolerance:.1e}, "
            f"{result.decisions} decisions differ{near}"
        )
    failed = sum(not result.passed for result in results)
    print(f"{len(results) - failed} of {len(results)} passed")
    cases = [dataclasses.asdict(result) | {"passed": result.passed} for result in results]
    summary = {
        "folder": options.folder.name,
        "cases": cases,
        "largest_error": max(result.error for result in results),
        "decisions": sum(result.decisions for result in results),
        "failed": failed,
    }
    return summary, 1 if failed else 0
