"""What a command is: a file of this folder with `add` and `run`, and a line in the table of `main`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Protocol

Result = tuple[dict[str, Any], int]
"""What ``--json`` prints, and the exit code."""


class Command(Protocol):
    """A command; the modules of this folder are some."""

    @staticmethod
    def add(parser: argparse.ArgumentParser) -> None:
        """Add the command's options to its parser."""
        ...

    @staticmethod
    def run(options: argparse.Namespace) -> Result:
        """Do the work and print it. Raises InputError for a user's mistake."""
        ...


class Parser(argparse.ArgumentParser):
    """A parser whose refusals are one line, as those of the commands are; those of its commands are of its kind."""

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and a line: what was wrong, and where to read what is allowed."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; '{self.prog} --help' says what it takes.\n")


def new_parser(
    verbs: Any, name: str, about: str, *, nested: bool = False, json_file: bool = False
) -> argparse.ArgumentParser:
    """The parser of a command: its help tells defaults, and ``--json`` is there.

    Args:
        verbs: what ``add_subparsers`` gave.
        name: the word that chooses the command.
        about: what the command does, for its help and for that of the commands together.
        nested: a command of a command: ``--json`` may stand before it as well.
        json_file: ``--json`` may name a file, which the command writes as well.
    """
    parser = verbs.add_parser(name, help=about, description=about, formatter_class=_Help)
    settings: dict[str, Any] = {"action": "store_true", "help": "print one JSON object as the last line"}
    if json_file:
        about_json = "print one JSON object as the last line; with FILE, keep it there too, written as it grows"
        settings = {"nargs": "?", "type": Path, "const": True, "metavar": "FILE", "help": about_json}
    parser.add_argument("--json", default=argparse.SUPPRESS if nested else False, **settings)
    return parser


@contextmanager
def goes_on_from(place: Path | str) -> Iterator[None]:
    """A block after whose interruption the user reads that nothing is lost.

    Args:
        place: where the results are.
    """
    try:
        yield
    except KeyboardInterrupt:
        print(f"What was answered is in {place}; the same command goes on from there.", file=sys.stderr)
        raise


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults that say something, as they would be typed."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, "") or action.default is False:
            return action.help
        if isinstance(action.default, (tuple, list)):
            join = "," if isinstance(action.default, tuple) else " "
            return f"{action.help} (default: {join.join(map(str, action.default))})"
        return super()._get_help_string(action)
