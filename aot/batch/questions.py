"""What is asked about each video: questions with the columns of its row in them, in a preset's words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..answering.presets import NEED_QUESTION, OWN, apply_preset
from ..errors import InputError
from .sources import Clip

_FIELD = re.compile(r"\{\{|\}\}|\{([^{}\n]*)\}")


@dataclass(frozen=True)
class Asking:
    """A question about one video.

    Args:
        clip: the video.
        preset: in whose words; see :data:`~..answering.presets.WORDINGS`.
        question: the question alone, perhaps empty.
    """

    clip: Clip
    preset: str
    question: str

    @property
    def key(self) -> tuple[str, str, str]:
        """Tells its row from all others."""
        return self.clip.id, self.preset, self.question

    @property
    def alone(self) -> str:
        """What a stage that asks chooses tokens by: the question, or the preset's words where there is none."""
        return self.question.strip() or self.prompt(())

    def prompt(self, times: Sequence[float]) -> str:
        """All that the model is asked.

        Args:
            times: seconds of the video's frames.
        """
        return apply_preset(self.preset, self.question, times)


def ask_each(
    clips: Sequence[Clip], questions: Sequence[str], presets: Sequence[str] = (), column: str = "question"
) -> list[list[Asking]]:
    """What is asked about each video, videos that stand in several rows once.

    Args:
        clips: at least one.
        questions: templates: ``{column}`` stands for a value of the video's row, ``{{`` for a brace. If empty, the
            column of questions, or, with presets that are questions by themselves, their own words.
        presets: each question is asked in the words of each of them; if empty, in its own.
        column: name of the column of questions.

    Returns:
        For each video, in the order of their first rows, its questions, each once.

    Raises:
        InputError: no question, a column that a row does not have, or what a preset refuses.
    """
    names = presets or (OWN,)
    templates = list(questions)
    if not templates and column in clips[0].columns:
        templates = [f"{{{column}}}"]
    if not templates and not set(names) & set(NEED_QUESTION):
        templates = [""]
    if not templates:
        raise InputError("There is no question; write one, choose a --preset, or give a list with questions.")
    of_place: dict[str, dict[tuple[str, str, str], Asking]] = {}
    for clip in clips:
        asked = of_place.setdefault(clip.place, {})
        for template in templates:
            question = fill(template, clip.columns, clip.id)
            for name in names:
                asking = Asking(clip, name, question)
                _check(asking)
                asked.setdefault(asking.key, asking)
    return [list(asked.values()) for asked in of_place.values()]


def fill(template: str, columns: Mapping[str, str], of: str) -> str:
    """A template with the values of a row.

    Args:
        template: see :func:`ask_each`. Values are put in as they are: a brace in them means nothing.
        columns: values by name.
        of: whose row it is, for the error.

    Raises:
        InputError: there is no such column.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] not in columns:
            raise InputError(
                f"A question has {match[0]}, and the row of {of} has no such column, but {', '.join(columns)}; write "
                "{{ for a brace."
            )
        return columns[match[1]]

    return _FIELD.sub(value, template)


def _check(asking: Asking) -> None:
    try:
        asking.prompt(())
    except InputError as error:
        raise InputError(f"{asking.clip.id}: {error}") from error
