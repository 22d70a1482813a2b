"""``aot answer``: a question about a video from the command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..answering.presets import OWN, WORDINGS, apply_preset, split
from .command import Result
from .options import (
    budget_options,
    check_before_work,
    chosen_chain,
    generation,
    reduced,
    reinvest_option,
    relevance_model,
    relevance_option,
    tell_of_shapes,
    video_options,
)

if TYPE_CHECKING:
    from ..answering.answerer import Answerer
    from ..answering.vllm_server import Connection
    from ..models.base import VideoLLM


def add(parser: argparse.ArgumentParser) -> None:
    """Add the video, the question, the stages and who answers."""
    video_options(parser)
    budget_options(parser)
    parser.add_argument("--preset", default=OWN, help=f"words around the question: {', '.join(WORDINGS)}")
    parser.add_argument("--a-line-each", action="store_true", help="every line of the question is one of its own")
    parser.add_argument("--thoughts", action="store_true", help="print what the model writes to itself first, too")
    parser.add_argument("--server", metavar="URL", help="a vLLM server that answers in place of the local LLM")
    parser.add_argument("--server-model", default="", help="its name there; empty if it serves only one")
    parser.add_argument(
        "--key-file",
        type=Path,
        help="a text file of two lines: the server's address, and its API key, which goes there and nowhere else",
    )
    relevance_option(parser)
    reinvest_option(parser)


def run(options: argparse.Namespace) -> Result:
    """Print the answers, and what they cost."""
    from ..answering.thoughts import growing

    settings = generation(options)
    connection = _connection(options)
    check_before_work(options)
    pipeline = chosen_chain(options)
    questions = split(options.question, options.a_line_each)
    asks = pipeline.needs_question
    # What a stage keeps for one question is for that one: each has tokens of its own.
    asked_first = questions if asks else questions[:1]
    of_own = [each.strip() or apply_preset(options.preset, each, ()) for each in asked_first]
    relevance = relevance_model(options, [pipeline])
    model, source, every = reduced(options, pipeline, options.reinvest, of_own, relevance)
    prompts = [apply_preset(options.preset, each, every[0].timestamps.tolist()) for each in questions]
    answerer = _answerer(model, connection)
    if len(prompts) == 1:
        shown, opened = _GrowingText(sys.stdout), model.opens_thoughts
        (answer,) = answers = answerer.answer(
            every[0],
            prompts,
            settings,
            system=options.system,
            on_text=lambda _, text: shown(growing(text, opened)[1]),
        )
        print(shown.rest(answer.text or answer.shown))
    else:
        groups = zip(every, ([each] for each in prompts) if asks else [prompts], strict=True)
        answers = [
            each for tokens, group in groups for each in answerer.answer(tokens, group, settings, system=options.system)
        ]
        answer = answers[0]
        for question, each in zip(questions, answers, strict=True):
            print(f"{question} {each.shown}")
    if options.thoughts:
        for each in answers:
            print(f"Thoughts: {each.thoughts or '(none)'}")
    tell_of_shapes(model.name)
    result = {"clip": source, "pipeline": pipeline.name, **answer.to_dict()}
    if len(prompts) > 1:
        result["answers"] = [each.to_dict() for each in answers]
    for chosen_for in dict.fromkeys(each.reduced_for for each in answers if each.of_another_question):
        print(f"Tokens were reduced for another question: {chosen_for}", file=sys.stderr)
    alone = answers if asks else answers[:1]
    result["readings"] = sum(each.readings for each in alone) + len(of_own) * pipeline.needs_assistant
    if asks and result["readings"] > 1:
        with_assistant = ", every second time by the assistant" if pipeline.needs_assistant else ""
        print(
            f"Video read {result['readings']} times: it is reduced for each question{with_assistant}.", file=sys.stderr
        )
    print(
        f"{answer.size}; {answer.road}, rest {answer.decode_s:.2f} s",
        file=sys.stderr,
    )
    return result, 0


def _connection(options: argparse.Namespace) -> Connection | None:
    """The server that the options name, once it has answered; None without one."""
    if not options.server:
        return None
    from ..answering.server_address import read_key
    from ..answering.vllm_server import Connection

    key = read_key(options.key_file, options.server) if options.key_file else ""
    connection = Connection(options.server, options.server_model, key)
    connection.model_name()  # before a video is decoded and encoded for it
    return connection


def _answerer(model: VideoLLM, connection: Connection | None) -> Answerer:
    """Who answers: the server, or the model's own LLM."""
    if connection is None:
        from ..answering.answerer import LocalAnswerer

        return LocalAnswerer(model)
    from ..answering.vllm_server import VllmServer

    return VllmServer(connection, model)


class _GrowingText:
    """Prints text as it grows."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._printed = ""

    def __call__(self, text: str) -> None:
        text = text.lstrip()
        if text.startswith(self._printed):
            print(text[len(self._printed) :], end="", flush=True, file=self._file)
            self._printed = text

    def rest(self, text: str) -> str:
        """What is not printed yet of the final text; all of it, on a new line, where that turned out otherwise."""
        if text.startswith(self._printed.rstrip()):
            return text[len(self._printed) :]
        return f"\n{text}"
