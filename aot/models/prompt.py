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
class Reading:
    """Tokens as the LLM reads them.

    Args:
        embeddings: (n, D).
        positions: (A, n) long, rotary positions; A is 1, or 3 where time, height and width have their own.
        visual: (n,) bool: which of them are visual.
        levels: (v, D) each, added to the v visual tokens' hidden states behind the LLM's first layers.
    """

    embeddings: Tensor
    positions: Tensor
    visual: Tensor
    levels: tuple[Tensor, ...] = ()

    def __len__(self) -> int:
        """n."""
        return len(self.embeddings)

    def part(self, first: int, last: int) -> Reading:
        """Tokens ``first`` up to ``last``."""
        seen, within = (int(self.visual[:end].sum()) for end in (first, last))
        return Reading(
            self.embeddings[first:last],
            self.positions[:, first:last],
            self.visual[first:last],
            tuple(level[seen:within] for level in self.levels),
        )

    def then(self, other: Reading) -> Reading:
        """These tokens and ``other``'s behind them; only these may have levels."""
        return Reading(
            torch.cat((self.embeddings, other.embeddings)),
            torch.cat((self.positions, other.positions), 1),
            torch.cat((self.visual, other.visual)),
            self.levels,
        )


@dataclass(frozen=True)
class Prefix:
    """A prompt up to the end of its video.

    Args:
        reading: its tokens.
        text: position of the first token behind it.
        answer: no answer's first token stands before this position.
    """

    reading: Reading
    text: int
    answer: int

    def begins(self, asked: int) -> int:
        """Position of an answer's first token, behind ``asked`` tokens of question."""
        return max(self.answer, self.text + asked)
