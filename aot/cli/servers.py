"""The options of commands that may be answered by vLLM servers."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..answering.vllm_server import Connection


def server_options(parser: argparse.ArgumentParser) -> None:
    """Add the servers, the model's name there, and their keys."""
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="URL",
        help="a vLLM server that answers in place of the local LLM; given again for more, the least busy is asked",
    )
    parser.add_argument("--server-model", default="", help="its name there; empty if it serves only one")
    parser.add_argument(
        "--key-file",
        type=Path,
        action="append",
        default=[],
        help="a text file of two lines: the server's address, and its API key, which goes there and nowhere else; one "
        "for each server that needs it",
    )


def connections_of(options: argparse.Namespace) -> list[Connection]:
    """How to reach the servers that the options name; none without one. Nothing is sent yet.

    Args:
        options: of :func:`server_options`.

    Raises:
        InputError: what is no server's address, or a key of none of them.
    """
    if not options.server:
        return []
    from ..answering.server_address import origin
    from ..answering.vllm_server import Connection

    if len({origin(url) for url in options.server}) < len(options.server):
        raise InputError(f"--server {' '.join(options.server)} names one of them twice; give each once.")
    keys = _keys(options.key_file, options.server)
    return [Connection(url, options.server_model, keys.get(url, "")) for url in options.server]


def tell_of_lost(line: str) -> None:
    """Print a line about a server that is left out.

    Args:
        line: the whole of it.
    """
    print(line, file=sys.stderr, flush=True)


def _keys(files: Sequence[Path], urls: Sequence[str]) -> dict[str, str]:
    """By server the key that a file has for it; a file that has one for none of them is refused."""
    from ..answering.server_address import read_key

    keys: dict[str, str] = {}
    for file in files:
        refusals = []
        for url in urls:
            try:
                keys[url] = read_key(file, url)
            except InputError as error:
                refusals.append(error)
        if len(refusals) == len(urls):
            raise refusals[0]
    return keys
