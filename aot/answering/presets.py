"""Ready-made wordings of what people ask of a video."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from ..errors import InputError, require_whole

OWN = "own words"
"""The preset that leaves a question as it is."""

LETTER = "Answer with the option's letter from the given choices directly."

PRESETS = MappingProxyType(
    {
        OWN: "{question}",
        "describe": "Describe this video in detail: who or what is in it, what happens, and where. {question}",
        "summarise": "Summarise this video in two sentences. {question}",
        "one word": "{question}\nAnswer with a single word or phrase.",
        "multiple choice": "{question}\n" + LETTER,
        "timestamps": "List what happens in this video in order, a line each, with the second it begins and the second "
        "it ends, as '0.0 - 2.5: ...'. The frames shown are at {times} seconds. {question}",
    }
)
"""By name; ``{question}`` is the user's text, ``{times}`` the seconds of the frames."""

WORDINGS = MappingProxyType(
    {
        **PRESETS,
        "caption": "Write a caption for this video in one paragraph, as plain statements: the subject, how it looks, "
        "what it does, the place, the light, and how the camera moves. Do not begin with 'The video'. {question}",
        "tags": "List tags for this video, most important first: subjects, actions, place, style. Write them in lower "
        "case, separated by commas, and nothing else. {question}",
    }
)
"""The presets, and those for many videos: a caption to train on, and tags to search by."""

NEED_QUESTION = (OWN, "one word", "multiple choice")


def apply_preset(preset: str, question: str, times: Sequence[float]) -> str:
    """A question in a preset's words.

    Args:
        preset: a name in :data:`WORDINGS`.
        question: may be empty if the preset is a question by itself.
        times: seconds of the video's frames.

    Raises:
        InputError: no such preset, a preset that needs a question without one, a question with half a character, or a
            multiple choice without choices.
    """
    if preset not in WORDINGS:
        raise InputError(f"preset is {preset!r}; give one of {', '.join(WORDINGS)}.")
    if preset in NEED_QUESTION and not question.strip():
        raise InputError("The question is empty; write what you want to know about the video.")
    require_whole(question, "The question")
    if preset == "multiple choice" and len(question.strip().splitlines()) < 3:
        raise InputError(
            "A multiple choice needs its choices: write the question, then each choice on a line of its own, "
            "'A. ...' and so on."
        )
    moments = ", ".join(f"{time:.1f}" for time in times)
    return WORDINGS[preset].format(times=moments, question=question.strip()).strip()


def split(question: str, a_line_each: bool) -> list[str]:
    """The questions in a text.

    Args:
        question: as a user writes it.
        a_line_each: whether every line that is not empty is a question of its own.
    """
    if not a_line_each:
        return [question]
    return [line.strip() for line in question.splitlines() if line.strip()] or [question]
