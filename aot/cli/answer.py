"""``aot answer``: a question about a video from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..answering.presets import OWN, PRESETS, split, worded
from ..errors import InputError
from .command import Result
from .options import (
    CHAIN,
    check_before_work,
    encode,
    generation,
    stream,
    tell_of_shapes,
    video_options,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the video, the question, the stages and who answers."""
    video_options(parser)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument(
        "--retention",
        type=float,
        help="share of the language grid to keep, above 0, at most 1; set on the last stage of a chain",
    )
    budget.add_argument("--tokens", type=int, help="tokens of the whole video to keep; likewise")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="decode, encode and reduce run by run: the same tokens in little memory, for long videos",
    )
    parser.add_argument("--stages", help=f"{CHAIN}; 'aot' where only a retention is given")
    parser.add_argument("--system", default="", help="system prompt; the model's own where left out")
    parser.add_argument("--preset", default=OWN, help=f"words around the question: {', '.join(PRESETS)}")
    parser.add_argument("--a-line-each", action="store_true", help="every line of the question is one of its own")
    parser.add_argument("--server", metavar="URL", help="a vLLM server that answers in place of the local LLM")
    parser.add_argument("--server-model", default="", help="its name there; empty where it serves only one")
    parser.add_argument("--key-file", type=Path, help="a text file that holds the server's API key")


def run(options: argparse.Namespace) -> Result:
    """Print the answers, and what they took."""
    from ..stages.budget import require_tokens
    from ..stages.chain import FULL, is_fixed, parse

    settings = generation(options)
    ask = _asker(options)
    check_before_work(options, options.retention)
    budget = "--retention" if options.retention is not None else "--tokens" if options.tokens is not None else ""
    spec = options.stages or ("aot" if budget else FULL)
    pipeline = parse(spec)
    if budget and is_fixed(spec):
        raise InputError(f"{spec} settles what it keeps; leave out {budget}, or give stages without one.")
    if options.retention is not None:
        pipeline = pipeline.at_retention(options.retention)
    elif options.tokens is not None:
        require_tokens(options.tokens)
        pipeline = pipeline.at_tokens(options.tokens)
    if options.stream:
        model, source, reduced = stream(options, pipeline.stages)
    else:
        model, frames, tokens = encode(options, pipeline)
        source, reduced = frames.source, pipeline(tokens)
    questions = split(options.question, options.a_line_each)
    asked = [worded(options.preset, each, reduced.timestamps.tolist()) for each in questions]
    if len(asked) == 1:
        shown = _Shown(sys.stdout)
        (said,) = ask(model, reduced, asked, settings, on_text=lambda _, text: shown(text))
        print(shown.rest(said.text) or ("" if said.text else "(empty answer)"))
        all_said = [said]
    else:
        said, *_ = all_said = ask(model, reduced, asked, settings)
        for question, each in zip(questions, all_said, strict=True):
            print(f"{question} {each.text or '(empty answer)'}")
    tell_of_shapes(model.name)
    result = {"clip": source, "pipeline": pipeline.name, **said.to_dict()}
    if len(asked) > 1:
        result["answers"] = [each.to_dict() for each in all_said]
    print(
        f"{said.tokens_kept} of {said.tokens_full} tokens ({said.retention:.1%}); encode {said.encode_s:.2f} s, reduce "
        f"{said.reduce_s:.2f} s, first token {said.prefill_s:.2f} s, rest {said.decode_s:.2f} s",
        file=sys.stderr,
    )
    return result, 0


def _asker(options: argparse.Namespace) -> Callable[..., list[Any]]:
    """Who answers: the local LLM, or a server."""
    from ..answering.answer import answers
    from ..answering.session import Session
    from ..answering.vllm_server import Server, answers_from, read_key

    if not options.server:
        return lambda model, tokens, *asked, **watch: answers(
            model, tokens, Session(model, tokens, system=options.system), *asked, **watch
        )
    key = read_key(options.key_file) if options.key_file else ""
    server = Server(options.server, options.server_model, key)
    server.served()  # before a video is decoded and encoded for it
    return lambda *asked, **watch: answers_from(server, *asked, system=options.system, **watch)


class _Shown:
    """Prints text as it grows."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._shown = ""

    def __call__(self, text: str) -> None:
        text = text.lstrip()
        if text.startswith(self._shown):
            print(text[len(self._shown) :], end="", flush=True, file=self._file)
            self._shown = text

    def rest(self, text: str) -> str:
        """What of the final text has not been shown."""
        return text[len(self._shown) :] if text.startswith(self._shown.rstrip()) else ""
