"""The letter an answer means, by the rules of lmms-eval 0.7.3: each set has its own, and numbers depend on them.

Every rule takes an answer and the options, and returns an upper-case letter, or "" for an answer without one. Their
oddities (MVBench takes the article "a" for option A) are kept, for numbers that can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .base import letters

_ENDS = ",.!?;:'"
_PUNCTUATION = ';/[]"{}()=+\\_->@<`,?!'

_NOUNS = ("answer", "correct answer", "best answer", "correct option", "best option", "choice", "correct choice")
_ANNOUNCEMENTS = (
    *(f"{article}{noun} is" for noun in _NOUNS for article in ("the ", "")),
    *("i choose", "i select", "i pick", "my answer is", "my choice is"),
    # Korean "option", "the answer is" (twice), "answer:"; Chinese "the answer is" (twice), "choose"; Japanese.
    *("\uc635\uc158", "\uc815\ub2f5\uc740", "\ub2f5\uc740", "\ub2f5:"),
    *("\u7b54\u6848\u662f", "\u7b54\u6848\u4e3a", "\u9009", "\u7b54\u3048\u306f"),
)

_LEADS = (
    "The best answer is",
    "The correct answer is",
    "The answer is",
    "The answer",
    "The best option is",
    "The correct option is",
    "Best answer:",
    "Best option:",
)


def mvbench_letter(answer: str, options: Sequence[str]) -> str:
    """MVBench: "B. ..." is B; else the first single letter A to E, in either case, without punctuation."""
    answer = answer.strip()
    if labelled := re.match(r"([A-E])\.\s*.+$", answer, re.IGNORECASE):
        return labelled[1].upper()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    digits_grouped = re.search(r"\d,\d", answer) is not None
    bare = answer
    for mark in _PUNCTUATION:
        loose = f"{mark} " in answer or f" {mark}" in answer or digits_grouped
        bare = bare.replace(mark, "" if loose else " ")
    bare = re.sub(r"\.(?!\d)", "", bare, count=32)
    alone = re.search(r"\b[A-E]\b", bare, re.IGNORECASE)
    return alone[0].upper() if alone else ""


def videomme_letter(answer: str, options: Sequence[str]) -> str:
    """VideoMME: the most telling form that a letter of A to D has in the answer, and the last one in that form."""
    for places in _videomme_forms(_stripped(answer.strip(), _ENDS + '"').strip()):
        if places:
            return places[max(places)]
    return ""


def _videomme_forms(answer: str) -> Iterator[dict[int, str]]:
    """The letters in each form, by their position; the most telling form first."""
    choices = letters(4)
    yield {0: answer[0]} if answer[:1] in tuple(choices) and not answer[1:2].isalpha() else {}
    yield {0: answer[-1]} if answer[-1:] in tuple(choices) and not answer[-2:-1].isalpha() else {}
    padded = f" {answer} "
    lower = padded.lower()
    announced = [lower.find(phrase) + len(phrase) for phrase in _ANNOUNCEMENTS if phrase in lower]
    places = ((padded.find(letter, after), letter) for after in announced for letter in choices)
    yield {at: letter for at, letter in places if at >= 0}
    for form in ("({})", "{}.", "{}:", "{})", "{} ", "{}"):
        yield {padded.rfind(form.format(letter)): letter for letter in choices if form.format(letter) in padded}


def egoschema_letter(answer: str, options: Sequence[str]) -> str:
    """EgoSchema: of the letters as "(B)", "B " or "B.", the one whose last place comes first.

    Without any, and in more than five words, the same of the options themselves.
    """
    padded = f" {_stripped(answer, _ENDS)} "
    choices = letters(len(options))
    forms = [(form.format(letter), letter) for form in ("({})", "{} ", "{}.") for letter in choices]
    places = [(padded.rfind(form), letter) for form, letter in forms if form in padded]
    if not places and len(padded.split()) > 5:
        lower = padded.lower()
        texts = zip((option.strip().lower() for option in options), choices, strict=True)
        places = [(lower.rfind(text), letter) for text, letter in texts if text in lower]
    return min(places)[1] if places else ""


def longvideobench_letter(answer: str, options: Sequence[str]) -> str:
    """LongVideoBench: the first capital of A to E once what leads up to an answer is taken out."""
    answer = answer.strip()
    for lead in _LEADS:
        answer = answer.replace(lead, "")
    letter = re.search("[ABCDE]", answer)
    return letter[0] if letter else ""


def _stripped(answer: str, marks: str) -> str:
    """Each mark taken off both ends in turn: what one uncovers of an earlier one stays."""
    for mark in marks:
        answer = answer.strip(mark)
    return answer
