"""What a model writes to itself before it answers, kept apart from the answer."""

from __future__ import annotations

from ..models.prompt import OPENS

CLOSES = "</think>"
_AROUND = ("<answer>", "</answer>")
"""Marks that GLM's models put around an answer that follows thoughts."""


def apart(text: str, opened: bool = False) -> tuple[str, str]:
    """Thoughts, and the answer that follows them.

    Args:
        text: as the model wrote it, perhaps unfinished.
        opened: whether the prompt ended inside the thoughts.

    Returns:
        The thoughts, "" without any; the answer, "" where only thoughts were written.
    """
    begins = text.lstrip().startswith(OPENS)
    if not (begins or opened or CLOSES in text):
        return "", text
    thoughts, _, answer = text.partition(CLOSES)
    for mark in _AROUND:
        answer = answer.replace(mark, "")
    return thoughts.replace(OPENS, "", 1).strip(), answer.strip()


def growing(text: str, opened: bool = False) -> tuple[str, str]:
    """Thoughts and answer of a text that is still being written: a beginning of a mark at its end is left out.

    Args:
        text: as far as the model wrote it.
        opened: whether the prompt ended inside the thoughts.
    """
    marks = (OPENS, CLOSES, *_AROUND)
    begun = (mark[:length] for mark in marks for length in range(len(mark) - 1, 0, -1) if text.endswith(mark[:length]))
    return apart(text.removesuffix(next(begun, "")), opened)
