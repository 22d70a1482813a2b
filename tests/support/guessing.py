"""What can be guessed of a question from its words alone."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence


def answers_by_words(
    asked: Sequence[tuple[str, str, str]], family: str, pattern: Callable[[str, str], str]
) -> Mapping[str, Counter[str]]:
    """How often each answer is right, for what ``pattern(family, words)`` makes of the words of a family's questions.

    ``asked`` has a family, words and the answer of each question.
    """
    by_words: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, words, answer in asked:
        if name == family:
            by_words[pattern(family, words)][answer] += 1
    return by_words
