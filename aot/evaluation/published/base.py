"""The common part of published sets: multiple choice, a clip for each question, and a letter in each answer."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from ...errors import InputError
from ...video.frame_source import FrameSource
from ..questions import Question
from .files import Release
from .frames import clip_frames

T = TypeVar("T")

Reader = Callable[[str, Sequence[str]], str]
"""Takes an answer and the options; returns the letter that the answer means, or "" for none."""


@dataclass(frozen=True)
class Clip:
    """The places of a clip's video, and the part that questions are about.

    Args:
        places: patterns for `Release.first`, best first.
        start: in seconds.
        end: in seconds; None means the video's end.
    """

    places: tuple[str, ...]
    start: float = 0.0
    end: float | None = None


@dataclass(frozen=True)
class Item:
    """A question, its clip, and its options in order.

    Raises:
        TypeError: one of its parts is no text.
    """

    question: Question
    clip: Clip
    options: tuple[str, ...]

    def __post_init__(self) -> None:
        asked = self.question
        for part in (asked.id, asked.clip, asked.family, asked.text, asked.answer, *self.options):
            if not isinstance(part, str):
                raise TypeError(f"{part!r} is no text")


@dataclass(frozen=True)
class PublishedSet:
    """A published set of multiple-choice questions (a `QuestionSet`).

    Args:
        name: as the command line calls it.
        release: the folder it lies in.
        split: which of its parts this is.
        items: its questions.
        read: how a letter is read off an answer.
        guesses: whether an answer without a letter counts as a guess, as the set's own evaluation has it, or is wrong.
        max_new_tokens: the longest answer, in LLM tokens.
    """

    name: str
    release: Release
    split: str
    items: tuple[Item, ...]
    read: Reader
    guesses: bool
    max_new_tokens: int

    @property
    def questions(self) -> tuple[Question, ...]:
        """In the set's order; answers are letters."""
        return self._questions

    @property
    def identity(self) -> Mapping[str, object]:
        """Name, split, how many questions, and a digest of them and of the parts of the videos they are about."""
        return self._identity

    @cached_property
    def _questions(self) -> tuple[Question, ...]:
        return tuple(item.question for item in self.items)

    @cached_property
    def _identity(self) -> Mapping[str, object]:
        content = [(dataclasses.asdict(item.question), item.clip.start, item.clip.end) for item in self.items]
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        return {"set": self.name, "split": self.split, "questions": len(self.items), "sha256": digest}

    @property
    def footage(self) -> Mapping[str, object]:
        """The set's name; a clip's name names its video and part."""
        return {"set": self.name}

    def frames(self, clip: str, count: int) -> FrameSource:
        """`count` frames of a clip, evenly over the part that its questions are about.

        Raises:
            InputError: the set has no such clip, or its video is missing or not readable.
        """
        place = self._clip(clip)
        return clip_frames(self.release.first(place.places), count, place.start, place.end)

    def require(self, clips: Iterable[str]) -> None:
        """Refuse, before a long run, clips whose videos are not there. Raises InputError for the first of them."""
        for clip in clips:
            self.release.first(self._clip(clip).places)

    def choice(self, question: Question, answer: str) -> str:
        """The letter that an answer chooses, or "" for none.

        A guess is drawn with the question's id as its seed, so it is the same for all answers without a letter.
        """
        options = self._options[question.id]
        letter = self.read(answer, options)
        if letter or not self.guesses:
            return letter
        return random.Random(question.id).choice(letters(len(options)))

    def score(self, question: Question, answer: str) -> float | None:
        """1 if the right letter is chosen, else 0; None if the set publishes no answer."""
        return float(self.choice(question, answer) == question.answer) if question.answer else None

    def _clip(self, clip: str) -> Clip:
        if clip not in self._clips:
            raise InputError(f"{self.release.title} has no clip {clip!r}; take one from its questions.")
        return self._clips[clip]

    @cached_property
    def _clips(self) -> dict[str, Clip]:
        return {item.question.clip: item.clip for item in self.items}

    @cached_property
    def _options(self) -> dict[str, tuple[str, ...]]:
        return {item.question.id: item.options for item in self.items}


def read_rows(
    release: Release, annotations: str, rows: Iterable[Any], read: Callable[[int, Mapping[str, Any]], T]
) -> Iterator[T]:
    """The results of `read` for each row.

    Args:
        release: the set.
        annotations: the rows' file, for the error.
        rows: of the file.
        read: takes a row's number and the row.

    Raises:
        InputError: a row lacks a field, or has a value that is not as published.
    """
    for i, row in enumerate(rows):
        try:
            yield read(i, row)
        except (LookupError, AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"{release.title}'s {annotations} has a question, number {i}, that is not as published "
                f"({type(error).__name__}: {error}); download it again."
            ) from error


def letters(count: int) -> str:
    """The letters of ``count`` options: "ABC" for 3."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[:count]
