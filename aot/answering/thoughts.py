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
