"""``aot answer``: a question about a video from the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
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
from .servers import connections_of, server_options, tell_of_lost

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
    server_options(parser)
    relevance_option(parser)
    reinvest_option(parser)


def run(options: argparse.Namespace) -> Result:
    """Print the answers, and what they cost."""
    from ..answering.thoughts import growing

    settings = generation(options)
    connections = _connections(options)
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
    answerer = _answerer(model, connections)
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


def _connections(options: argparse.Namespace) -> list[Connection]:
    """The servers that the options name and that answer; none without one."""
    if not (connections := connections_of(options)):
        return []
    from ..answering.servers import those_alive

    return those_alive(connections, tell_of_lost)  # before a video is decoded and encoded for them


def _answerer(model: VideoLLM, connections: Sequence[Connection]) -> Answerer:
    """Who answers: a server, or the model's own LLM."""
    if not connections:
        from ..answering.answerer import LocalAnswerer

        return LocalAnswerer(model)
    from ..answering.servers import Servers

    return Servers(connections, model, tell_of_lost)


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
