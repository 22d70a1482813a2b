"""The ``aot`` command: the library without a graph, a workflow without ComfyUI, and the checks of both."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from types import MappingProxyType
from typing import Any, cast

from ..errors import InputError, readable
from ..files import NO_ROOM
from .command import Command, Parser, new_parser

COMMANDS = MappingProxyType(
    {
        "answer": ("answer", "answer a question about a video"),
        "batch": (
            "batch",
            "ask questions about many videos: captions beside the clips, answers as tables; stopped, the same command "
            "goes on where it was",
        ),
        "export": ("export", "write a video LLM's LLM as a model folder, for a vLLM server"),
        "run": ("run", "run a workflow file, UI or API format, without ComfyUI"),
        "compare": ("compare", "variants side by side, full tokens first"),
        "eval": (
            "evaluate",
            "ask a question set with all tokens and with reduced ones: accuracy, differences, time, as tables and "
            "figures; stopped, the same command goes on where it was",
        ),
        "quality": (
            "quality",
            "what stages keep of a video, or of a question set's clips in the mean: share of the cells that are in "
            "some token, share that the mass kept is spread over, effective rank of the tokens, error of rebuilding "
            "the grid from them, frames that a token speaks for",
        ),
        "shapes": (
            "shapes",
            "one clip of Shapes: its questions, the truth, and with --ask what the model says, full and reduced",
        ),
        "verify": ("verify", "run recorded cases of the released code through ours"),
        "bench": ("bench", "measure speed and memory"),
        "stages": ("stages", "the reduction stages, their settings and the presets"),
        "models": ("models", "the models that can be loaded"),
        "doctor": ("doctor", "what works here and what does not, and why: a page to put into a bug report"),
    }
)
"""By a command's name: its file in this folder, which is imported when the command is chosen, and its help."""


FAULT = 70
"""The exit code of a fault that is not the user's, as sysexits.h has it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the command's; None takes those of the process.

    Returns:
        The exit code. A user's mistake is one line on standard error and 2; any other fault is one line that says where
        the rest of it is, and 70.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name may hold what the terminal cannot show
    try:
        return _run(words)
    except Exception as error:
        name = next((word for word in words if word in COMMANDS), "")
        print(f"{' '.join(filter(None, ('aot', name)))}: {_fault(error)}", file=sys.stderr)
        return FAULT


def _run(words: Sequence[str]) -> int:
    """Run one command, and turn what users cause into a line."""
    parser, chosen, command = _parser(words)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        chosen.error(f"unrecognized arguments: {' '.join(unknown)}")
    if command is None:
        parser.print_help()
        return 0
    try:
        with _warnings_in_a_line(options.verb):
            result, code = command.run(options)
        if options.json:
            print(json.dumps(result))
        if sys.stdout is not None:
            sys.stdout.flush()
    except InputError as error:
        print(f"aot {options.verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"aot {options.verb}: stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # The reader (head, for instance) has enough.
        _drop_output()
        return 0
    except OSError as error:
        if error.errno not in NO_ROOM or error.filename is not None:
            raise
        _drop_output()
        print(f"aot {options.verb}: the output cannot be written ({error.strerror}); make room there.", file=sys.stderr)
        return 2
    return code


def _fault(error: Exception) -> str:
    """One line about a fault of the program, whose traceback is put into a file in the system's temporary folder."""
    kind = readable(f"{type(error).__name__}: {error}".rstrip(": "), 300)
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", prefix="aot-fault-", suffix=".txt", delete=False
        ) as file:
            file.write(text)
    except OSError:
        return f"a fault of aot itself ({kind}), and no file can be written to tell of it; the rest is:\n{text}"
    return f"a fault of aot itself ({kind}); the rest is in {file.name}: report it with that file and 'aot doctor'."


def _drop_output() -> None:
    """What is left of the output goes nowhere: to write it must not fail once more when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _warnings_in_a_line(verb: str) -> Iterator[None]:
    """Warnings meant for users, as one line on standard error, each once."""
    from ..stages.toolkit.language_grid import SubstituteWarning
    from ..transport.solvers import UnconvergedWarning

    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *rest: Any) -> None:
            if issubclass(category, (UnconvergedWarning, SubstituteWarning)):
                print(f"aot {verb}: {message}", file=sys.stderr)
            else:
                usual(message, category, *rest)

        warnings.showwarning = show
        yield


def _parser(
    arguments: Sequence[str],
) -> tuple[argparse.ArgumentParser, argparse.ArgumentParser, Command | None]:
    """The parser; that of the command that was chosen, with its options; and the command."""
    parser = Parser(prog="aot", description="Token reduction for video LLMs by optimal transport.")
    parser.add_argument("--version", nargs=0, action=_Version, help="show the version and exit")
    verbs = parser.add_subparsers(dest="verb", metavar="COMMAND")
    word = next((word for word in arguments if not word.startswith("-")), None)
    chosen: argparse.ArgumentParser = parser
    command = None
    for name, (module, about) in COMMANDS.items():
        added = new_parser(verbs, name, about)
        if name == word:
            chosen = added
            command = cast(Command, importlib.import_module(f".{module}", __package__))
            command.add(added)
    return parser, chosen, command


class _Version(argparse.Action):
    """Looks the version up only for this option, not at every start."""

    def __call__(self, parser: argparse.ArgumentParser, *values: Any) -> None:
        print(f"aot {metadata.version('comfyui-aot')}")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
