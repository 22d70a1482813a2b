"""``aot doctor``: what works here and what does not, on a page."""

from __future__ import annotations

import argparse

from .command import Result


def add(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""


def run(options: argparse.Namespace) -> Result:
    """Print the page; exit code 1 where the pack's main job would fail."""
    from .examination import as_dict, examine

    examination = examine()
    width = max(len(name) for section in examination.facts.values() for name in section)
    for section, facts in examination.facts.items():
        print(section)
        for name, text in facts.items():
            print(f"  {name:{width}}  {text}")
    print("works here")
    width = max(len(check.name) for check in examination.checks)
    for check in examination.checks:
        mark = "yes" if check.works else "NO " if check.needed else "no "
        print(f"  {mark}  {check.name:{width}}  {check.text}")
    works = "All that the main job needs works; what is marked no is optional."
    print(works if examination.healthy else "What is marked NO has to be mended first.")
    return as_dict(examination), 0 if examination.healthy else 1
