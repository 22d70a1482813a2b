"""What the records of an evaluation say: accuracies, how they differ, and what each variant cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from ..stages.chain import FULL
from .questions import Question
from .records import Record
from .runner import by_clip
from .statistics import Estimate, percentiles, resampled_means, sign_test, wilson

RELEASED = "paper"
"""What the names of the presets with AOT's released settings begin with."""


@dataclass(frozen=True)
class Difference:
    """A variant's accuracy less another's, on the same questions.

    Args:
        against: the other's name.
        accuracy: the difference, with its interval from resampled clips.
        better, worse: questions on which it scores higher, and lower.
        p: of McNemar's exact test.
    """

    against: str
    accuracy: Estimate
    better: int
    worse: int
    p: float


@dataclass(frozen=True)
class Row:
    """One variant over all clips.

    Args:
        accuracy: mean score of all questions with a truth, its interval from resampled clips; None without any.
        family_mean: mean of the families' accuracies, likewise.
        families: accuracy of every family, with Wilson's interval.
        differences: against full tokens and against AOT as released, where that was run.
        agreement: share of all questions to which it says what full tokens say, word for word.
        tokens, retention: means over clips of the tokens kept, and of their share of the language grid.
        encode_s, reduce_s, prefill_s, questions_s: means over clips, in seconds.
        prefill_speedup: full tokens' prefill seconds over this variant's.
    """

    name: str
    chain: str
    accuracy: Estimate | None
    family_mean: Estimate | None
    families: Mapping[str, Estimate]
    differences: tuple[Difference, ...]
    agreement: float
    tokens: float
    retention: float
    encode_s: float
    reduce_s: float
    prefill_s: float
    questions_s: float
    prefill_speedup: float


@dataclass(frozen=True)
class Summary:
    """All variants, full tokens first.

    Args:
        clips, questions: how many there are.
        asked: questions with a truth in each family.
        majority: accuracy in each family of always giving its most frequent answer.
        majority_overall: the same over all questions; None where no question has a truth.
        references: the variants that the others are compared with.
    """

    clips: int
    questions: int
    asked: Mapping[str, int]
    majority: Mapping[str, float]
    majority_overall: float | None
    references: tuple[str, ...]
    rows: tuple[Row, ...]


def summarise(
    questions: Sequence[Question], records: Iterable[Record], *, first: Sequence[str] = (), against: str | None = None
) -> Summary:
    """Summarise every variant that has answered all questions.

    Args:
        first: variants to list before the others, in this order; full tokens are always the very first.
        against: what each variant is compared with besides full tokens; where left out, the first variant with
            AOT's released settings, if there is one.

    Raises:
        InputError: full tokens, or the variant to compare with, have not answered all questions.
    """
    clips = by_clip(questions)
    complete = _complete(records, clips)
    names = sorted(complete, key=lambda name: _place(name, (FULL, *first)))
    released = next((name for name in names if name.startswith(RELEASED)), None)
    for name in filter(None, (FULL, against)):
        if name not in complete:
            raise InputError(f"No variant {name!r} has answered all questions; there are {', '.join(names) or 'none'}.")
    scores = np.array([_scores(complete[name], questions) for name in names])
    said = {name: [complete[name][question.clip].said[question.id] for question in questions] for name in names}
    references = tuple(dict.fromkeys((FULL, against or released or FULL)))
    judged = _judge(names, scores, questions, references)
    full_prefill = _mean(record.prefill_s for record in complete[FULL].values())
    rows = tuple(
        Row(
            name=name,
            chain=next(iter(complete[name].values())).chain,
            agreement=_mean(mine == full for mine, full in zip(said[name], said[FULL], strict=True)),
            prefill_speedup=full_prefill / _mean(record.prefill_s for record in complete[name].values()),
            **judgement,
            **_costs(complete[name].values()),
        )
        for name, judgement in zip(names, judged, strict=True)
    )
    truths = [question for question, known in zip(questions, _known(scores), strict=True) if known]
    asked = dict(Counter(question.family for question in truths))
    majority = {family: _most_frequent(truths, family) / count for family, count in asked.items()}
    overall = sum(majority[family] * count for family, count in asked.items()) / len(truths) if truths else None
    return Summary(len(clips), len(questions), asked, majority, overall, references, rows)


def _complete(records: Iterable[Record], clips: Mapping[str, Sequence[Question]]) -> dict[str, dict[str, Record]]:
    """The records of every variant that has answered about all clips, by clip."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        found.setdefault(record.variant, {})[record.clip] = record
    return {name: by for name, by in found.items() if clips.keys() <= by.keys()}


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _scores(records: Mapping[str, Record], questions: Sequence[Question]) -> list[float]:
    """One score a question; NaN where there is no truth."""
    scores = (records[question.clip].scores[question.id] for question in questions)
    return [np.nan if score is None else score for score in scores]


def _known(scores: np.ndarray) -> np.ndarray:
    """(questions,) bool: those with a truth."""
    return np.all(np.isfinite(scores), axis=0)


def _judge(
    names: Sequence[str], scores: np.ndarray, questions: Sequence[Question], references: Sequence[str]
) -> list[dict[str, Any]]:
    """Accuracies and differences of every variant, from scores (variants, questions)."""
    known = np.flatnonzero(_known(scores))
    if not len(known):
        nothing = {"accuracy": None, "family_mean": None, "families": {}, "differences": ()}
        return [dict(nothing) for _ in names]
    scores = scores[:, known]
    asked = [questions[i] for i in known.tolist()]
    families, family = _numbered([question.family for question in asked])
    clips, clip = _numbered([question.clip for question in asked])
    member = np.stack([np.ones(len(known)), *(family == i for i in range(len(families)))], 1)
    in_clip = (clip == np.arange(len(clips))[:, None]).astype(float)
    counts = in_clip @ member
    sums = np.stack([in_clip @ (member * each[:, None]) for each in scores], 1)
    means = sums.sum(0) / counts.sum(0)
    draws = resampled_means(sums.reshape(len(clips), -1), np.tile(counts, (1, len(names))))
    draws = draws.reshape(-1, len(names), 1 + len(families))
    family_draws = np.nanmean(draws[:, :, 1:], 2)

    def judge(i: int) -> dict[str, Any]:
        return {
            "accuracy": _interval(means[i, 0], draws[:, i, 0], len(clips)),
            "family_mean": _interval(means[i, 1:].mean(), family_draws[:, i], len(clips)),
            "families": {
                name: wilson(float(share), int(count))
                for name, share, count in zip(families, means[i, 1:], counts.sum(0)[1:], strict=True)
            },
            "differences": tuple(compare(i, names.index(name)) for name in references if name != names[i]),
        }

    def compare(i: int, other: int) -> Difference:
        better, worse = int((scores[i] > scores[other]).sum()), int((scores[i] < scores[other]).sum())
        accuracy = percentiles(float(means[i, 0] - means[other, 0]), draws[:, i, 0] - draws[:, other, 0])
        return Difference(names[other], accuracy, better, worse, sign_test(better, worse))

    return [judge(i) for i in range(len(names))]


def _interval(value: float, draws: np.ndarray, clips: int) -> Estimate:
    """From the draws; Wilson's with each clip counted once where all clips score alike, of which draws know nothing."""
    return percentiles(float(value), draws) if np.ptp(draws) > 0 else wilson(float(value), clips)


def _numbered(values: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """The distinct values in the order in which they first come, and which of them each is."""
    distinct = list(dict.fromkeys(values))
    number = {value: i for i, value in enumerate(distinct)}
    return distinct, np.array([number[value] for value in values])


def _most_frequent(questions: Sequence[Question], family: str) -> int:
    return Counter(question.answer for question in questions if question.family == family).most_common(1)[0][1]


def _costs(records: Iterable[Record]) -> dict[str, Any]:
    records = list(records)
    seconds = ("encode_s", "reduce_s", "prefill_s", "questions_s")
    return {
        "tokens": _mean(record.tokens_kept for record in records),
        "retention": _mean(record.tokens_kept / record.tokens_full for record in records),
        **{name: _mean(getattr(record, name) for record in records) for name in seconds},
    }


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
