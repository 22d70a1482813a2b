"""What a video question set is: questions about clips, their frames, and how an answer is scored."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..video.frame_source import FrameSource


@dataclass(frozen=True)
class Question:
    """One question about one clip.

    Args:
        id: unique in its set.
        clip: the clip it is about; questions with the same clip are asked of one encoding.
        family: the group whose accuracy is reported together.
        text: what the model is asked, answer instructions and options included.
        answer: the truth in the set's own form; empty where the set publishes none.
    """

    id: str
    clip: str
    family: str
    text: str
    answer: str


class QuestionSet(Protocol):
    """A set of questions whose clips can be shown."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What the set is called, in tables and file names."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """All that decides its clips and questions, JSON-ready: two sets with equal identities are the same set."""

    @property
    @abstractmethod
    def footage(self) -> Mapping[str, object]:
        """All that decides what a clip of a given name shows, JSON-ready; its encodings are good for any such set."""

    @property
    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """In the set's order."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """The longest answer worth generating, in LLM tokens."""

    @abstractmethod
    def frames(self, clip: str, count: int) -> FrameSource:
        """``count`` frames of a clip, evenly spread over it."""

    @abstractmethod
    def score(self, question: Question, said: str) -> float | None:
        """1 for a right answer, 0 for a wrong one, in between where the set grants parts; None without a truth."""
