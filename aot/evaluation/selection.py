"""A part of a question set, with an equal share for every family."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..video.frame_source import FrameSource
from .questions import Question, QuestionSet


@dataclass(frozen=True)
class Selection:
    """``limit`` questions of a set, in its order.

    The families share the limit evenly; a family with fewer questions leaves the rest to the others. A family's
    questions are spread evenly over it. The same limit gives the same selection.

    Args:
        full: the set to choose from.
        limit: the most questions.
    """

    full: QuestionSet
    limit: int

    @property
    def name(self) -> str:
        """The full set's."""
        return self.full.name

    @property
    def identity(self) -> Mapping[str, object]:
        """The full set's, and the limit."""
        return {**self.full.identity, "limit": self.limit}

    @property
    def footage(self) -> Mapping[str, object]:
        """The full set's."""
        return self.full.footage

    @property
    def max_new_tokens(self) -> int:
        """The full set's."""
        return self.full.max_new_tokens

    @property
    def questions(self) -> Sequence[Question]:
        """Those that were selected."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        families: dict[str, list[int]] = {}
        for i, question in enumerate(self.full.questions):
            families.setdefault(question.family, []).append(i)
        chosen, left = [], self.limit
        smallest_first = sorted(families.values(), key=len)
        for done, members in enumerate(smallest_first):
            share = min(len(members), left // (len(families) - done))
            chosen += [members[i * len(members) // share] for i in range(share)]
            left -= share
        return tuple(self.full.questions[i] for i in sorted(chosen))

    def frames(self, clip: str, count: int) -> FrameSource:
        """The full set's."""
        return self.full.frames(clip, count)

    def score(self, question: Question, answer: str) -> float | None:
        """The full set's."""
        return self.full.score(question, answer)
