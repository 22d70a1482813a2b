"""A part of a question set: as many questions as there is time for, every family fairly among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..video.frame_source import FrameSource
from .questions import Question, QuestionSet


@dataclass(frozen=True)
class Selection:
    """``limit`` questions of a set, in its order.

    The families share the limit evenly, those that have less than their share giving the rest to the others; of each
    family the questions are evenly spread over it, so that its parts are represented. The same limit is the same
    selection.
    """

    whole: QuestionSet
    limit: int

    @property
    def name(self) -> str:
        """The whole set's."""
        return self.whole.name

    @property
    def identity(self) -> Mapping[str, object]:
        """The whole set's, and the limit."""
        return {**self.whole.identity, "limit": self.limit}

    @property
    def footage(self) -> Mapping[str, object]:
        """The whole set's."""
        return self.whole.footage

    @property
    def max_new_tokens(self) -> int:
        """The whole set's."""
        return self.whole.max_new_tokens

    @property
    def questions(self) -> Sequence[Question]:
        """Those that were selected."""
        return self._questions

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        families: dict[str, list[int]] = {}
        for i, question in enumerate(self.whole.questions):
            families.setdefault(question.family, []).append(i)
        chosen, left = [], self.limit
        smallest_first = sorted(families.values(), key=len)
        for done, members in enumerate(smallest_first):
            share = min(len(members), left // (len(families) - done))
            chosen += [members[i * len(members) // share] for i in range(share)]
            left -= share
        return tuple(self.whole.questions[i] for i in sorted(chosen))

    def frames(self, clip: str, count: int) -> FrameSource:
        """The whole set's."""
        return self.whole.frames(clip, count)

    def score(self, question: Question, said: str) -> float | None:
        """The whole set's."""
        return self.whole.score(question, said)
