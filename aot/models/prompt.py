"""The prompt around a video: its messages, its token ids, and the embedded tokens of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, require_whole

OPENS = "<think>"
"""The mark in front of what a model writes to itself before it answers."""


@dataclass(frozen=True)
class Turn:
    """An earlier question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """Token ids around a video.

    Args:
        before: (n,) long each: the text before each group of visual tokens. A group is the video, or a frame.
        after: (n,) long: the text after the last group, that is the question and the beginning of an answer.
    """

    before: tuple[Tensor, ...]
    after: Tensor


@dataclass(frozen=True)
class Inputs:
    """Embedded tokens, ready for the LLM.

    Args:
        inputs_embeds: (n, D) floating.
        position_ids: (A, n) long, rotary positions. A is 1, or 3 for positions of time, height and width.
        visual: (n,) bool, whether a token is visual.
        levels: (v, D) each, added to the v visual tokens' hidden states after the LLM's first layers.
        ids: (n,) long, token ids, 0 for a visual token; None where nobody reads them.
    """

    inputs_embeds: Tensor
    position_ids: Tensor
    visual: Tensor
    levels: tuple[Tensor, ...] = ()
    ids: Tensor | None = None

    def __len__(self) -> int:
        """n, the number of tokens."""
        return len(self.inputs_embeds)

    def part(self, first: int, last: int) -> Inputs:
        """Tokens ``first`` to ``last``, without the last."""
        first_visual, last_visual = (int(self.visual[:end].sum()) for end in (first, last))
        return Inputs(
            self.inputs_embeds[first:last],
            self.position_ids[:, first:last],
            self.visual[first:last],
            tuple(level[first_visual:last_visual] for level in self.levels),
            None if self.ids is None else self.ids[first:last],
        )

    def then(self, other: Inputs) -> Inputs:
        """These tokens, followed by ``other``'s, which have no levels."""
        return Inputs(
            torch.cat((self.inputs_embeds, other.inputs_embeds)),
            torch.cat((self.position_ids, other.position_ids), 1),
            torch.cat((self.visual, other.visual)),
            self.levels,
            None if self.ids is None or other.ids is None else torch.cat((self.ids, other.ids)),
        )


@dataclass(frozen=True)
class Prefix:
    """A prompt up to the end of its video.

    Args:
        inputs: its tokens.
        next_position: rotary position of the first token after it.
        least_answer_position: no answer starts before this rotary position.
    """

    inputs: Inputs
    next_position: int
    least_answer_position: int

    def answer_position(self, question_tokens: int) -> int:
        """Rotary position of an answer's first token, after a question of ``question_tokens`` tokens."""
        return max(self.least_answer_position, self.next_position + question_tokens)


def require_question(question: str) -> None:
    """Refuse a question without a word, or with half a character.

    Raises:
        InputError: it is empty, or no tokenizer takes it.
    """
    if not question.strip():
        raise InputError("The question is empty; write what you want to know about the video.")
    require_whole(question, "The question")


def chat_messages(
    question: str, turns: Sequence[Turn], system: str, with_video: Callable[[str], str]
) -> list[tuple[str, str]]:
    """The messages of a chat about a video.

    Args:
        question: the last one, without an answer.
        turns: earlier questions and their answers.
        system: the system prompt; "" adds none.
        with_video: adds the facts about the video to the first question.

    Returns:
        (role, text) each, in order.

    Raises:
        InputError: a question is empty, or a text holds half a character.
    """
    questions = [turn.question for turn in turns] + [question]
    for each in questions:
        require_question(each)
    for what, texts in (("The system prompt", [system]), ("An answer", [turn.answer for turn in turns])):
        for each in texts:
            require_whole(each, what)
    questions[0] = with_video(questions[0])
    messages = [("system", system)] if system else []
    for each, turn in zip(questions, turns, strict=False):
        messages += [("user", each), ("assistant", turn.answer)]
    return [*messages, ("user", questions[-1])]


def insert_video(messages: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Messages, (role, text) each, in the structure that chat templates take, the video before the first question."""
    conversation = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in messages]
    first_question(conversation)["content"].insert(0, {"type": "video"})
    return conversation


def first_question(conversation: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The first message of the user."""
    return next(message for message in conversation if message["role"] == "user")


def require_one_place(text: str, placeholder: str, slot: str) -> None:
    """Refuse a rendered prompt that holds a second place for a video or for visual tokens.

    Args:
        text: the prompt.
        placeholder: marks the video.
        slot: marks a group of visual tokens.

    Raises:
        InputError: a question holds one of the two.
    """
    count = text.count(placeholder)
    if count != 1:
        raise InputError(
            f"The prompt holds {count} video placeholders where 1 is needed; leave {placeholder} out of the question."
        )
    if slot in text.replace(placeholder, ""):
        raise InputError(f"The question holds {slot}, which marks visual tokens; leave it out.")
