"""The protocol of a video question set: questions about clips, the clips' frames, and a score for each answer."""

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
        clip: the clip it is about; questions about the same clip share one encoding.
        family: the group whose accuracy is reported together.
        text: the question to the model, with answer instructions and options.
        answer: the truth in the set's own form; "" if the set publishes none.
        bare: the question alone, for stages that ask; "" if it is all of the text.
    """

    id: str
    clip: str
    family: str
    text: str
    answer: str
    bare: str = ""

    @property
    def asked(self) -> str:
        """The question alone, without instructions and options."""
        return self.bare or self.text


class QuestionSet(Protocol):
    """A set of questions and their clips."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The set's name in tables and file names."""

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, object]:
        """All that determines its clips and questions, JSON-ready. Sets with equal identities are the same set."""

    @property
    @abstractmethod
    def footage(self) -> Mapping[str, object]:
        """All that determines the frames of a clip, besides its name, JSON-ready. Equal footage shares encodings."""

    @property
    @abstractmethod
    def questions(self) -> Sequence[Question]:
        """In the set's order."""

    @property
    @abstractmethod
    def max_new_tokens(self) -> int:
        """The longest answer to generate, in LLM tokens."""

    @abstractmethod
    def frames(self, clip: str, count: int) -> FrameSource:
        """``count`` frames of a clip, evenly spread over it."""

    @abstractmethod
    def score(self, question: Question, answer: str) -> float | None:
        """1 for a right answer, 0 for a wrong one, between them for a partly right one; None without a truth."""
