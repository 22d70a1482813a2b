"""What an LLM is given to read: a prompt around a video, and the tokens of both in their places."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Turn:
    """A question that was asked before, and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Prompt:
    """Token ids around a video.

    Args:
        before: (n,) each: what stands before each group of visual tokens. A group is the whole video, or a frame.
        after: (n,) what follows the last group: the question, and how an answer begins.
    """

    before: tuple[Tensor, ...]
    after: Tensor


@dataclass(frozen=True)
class Inputs:
    """Tokens as the LLM reads them.

    Args:
        inputs_embeds: (n, D).
        position_ids: (A, n) long, rotary positions; A is 1, or 3 where time, height and width have their own.
        visual: (n,) bool: which of them are visual.
        levels: (v, D) each, added to the v visual tokens' hidden states behind the LLM's first layers.
    """

    inputs_embeds: Tensor
    position_ids: Tensor
    visual: Tensor
    levels: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        """n."""
        return len(self.inputs_embeds)

    def part(self, first: int, last: int) -> Inputs:
        """Tokens ``first`` up to ``last``."""
        seen, within = (int(self.visual[:end].sum()) for end in (first, last))
        return Inputs(
            self.inputs_embeds[first:last],
            self.position_ids[:, first:last],
            self.visual[first:last],
            tuple(level[seen:within] for level in self.levels),
        )

    def then(self, other: Inputs) -> Inputs:
        """These tokens and ``other``'s behind them; only these may have levels."""
        return Inputs(
            torch.cat((self.inputs_embeds, other.inputs_embeds)),
            torch.cat((self.position_ids, other.position_ids), 1),
            torch.cat((self.visual, other.visual)),
            self.levels,
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
        """Rotary position of an answer's first token, after that many tokens of question."""
        return max(self.least_answer_position, self.next_position + question_tokens)
