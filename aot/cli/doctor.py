"""``aot doctor``: what works here and what does not, on a page."""

from __future__ import annotations

import argparse

from .command import Result


def add(parser: argparse.ArgumentParser) -> None:
    """Add nothing: there is nothing to choose."""


def run(options: argparse.Namespace) -> Result:
    """Print the page; exit code 1 where the pack's main job would fail."""
    from .examination import as_dict, examine

    found = examine()
    width = max(len(name) for section in found.facts.values() for name in section)
    for section, facts in found.facts.items():
        print(section)
        for name, text in facts.items():
            print(f"  {name:{width}}  {text}")
    print("works here")
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        mark = "yes" if check.works else "NO " if check.needed else "no "
        print(f"  {mark}  {check.name:{width}}  {check.text}")
    works = "All that the main job needs works; what is marked no is optional."
    print(works if found.healthy else "What is marked NO has to be mended first.")
    return as_dict(found), 0 if found.healthy else 1
