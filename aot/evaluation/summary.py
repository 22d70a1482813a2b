"""The summary of an evaluation: accuracies, their differences, and the cost of each variant."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from ..comparison.groups import accuracy, hard_and_easy
from ..comparison.variants import CONTROLS
from ..errors import InputError
from ..stages.chain import FULL
from .questions import Question
from .records import Record
from .runner import by_clip
from .statistics import Estimate, percentiles, resampled_means, sign_test, wilson

RELEASED = "paper"
"""Beginning of the names of presets with AOT's released settings."""


@dataclass(frozen=True)
class Difference:
    """A variant's accuracy less another's, on the same questions.

    Args:
        against: the other's name.
        accuracy: the difference, with its interval from resampled clips.
        better: number of questions on which it scores higher.
        worse: number of questions on which it scores lower.
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
        name: of the variant.
        chain: its stages, the same at every retention.
        accuracy: mean score of all questions with a truth, its interval from resampled clips; None without any.
        family_mean: mean of the families' accuracies, its interval likewise.
        families: accuracy of every family, with Wilson's interval.
        differences: from full tokens, and from AOT as released if that was run.
        agreement: share of all questions with the same answer as full tokens give, word for word.
        tokens: kept tokens, mean over clips.
        retention: their share of the language grid, mean over clips.
        encode_s: seconds of the vision encoder, mean over clips.
        reduce_s: seconds of the stages, mean over clips.
        prefill_s: seconds of prefilling the video, mean over clips.
        questions_s: seconds of all questions and answers, mean over clips.
        prefill_speedup: full tokens' prefill seconds over this variant's.
        speedup: full tokens' seconds of encode, reduce and prefill together over this variant's.
        readings: how often an LLM read a clip, mean over clips.
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
    speedup: float
    readings: float = 1.0


@dataclass(frozen=True)
class Groups:
    """A variant's accuracy where its controls fail and where they do not, as VTC-Bench groups questions by one control.

    Args:
        name: of the variant.
        controls: names of the controls, fewer and smaller frames at the same retention, as far as they were run.
        hard: accuracy on questions that full tokens get right and no control does; None where there are none.
        hard_questions: how many those are.
        easy: accuracy on questions that full tokens and a control get right; None where there are none.
        easy_questions: how many those are.
    """

    name: str
    controls: tuple[str, ...]
    hard: Estimate | None
    hard_questions: int
    easy: Estimate | None
    easy_questions: int


@dataclass(frozen=True)
class Summary:
    """All variants, full tokens first.

    Args:
        clips: number of clips.
        questions: number of questions.
        asked: number of questions with a truth in each family.
        majority: accuracy in each family of always giving its most frequent answer.
        majority_overall: the same over all questions; None if no question has a truth.
        references: names of the variants that the others are compared with.
        rows: the variants.
        unreadable: why a clip could not be read, by its name; its questions are not among those counted.
        groups: of every variant beside fewer or smaller frames at the same retention.
    """

    clips: int
    questions: int
    asked: Mapping[str, int]
    majority: Mapping[str, float]
    majority_overall: float | None
    references: tuple[str, ...]
    rows: tuple[Row, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[Groups, ...] = ()


def summarise(
    questions: Sequence[Question],
    records: Iterable[Record],
    *,
    first: Sequence[str] = (),
    against: str | None = None,
    unreadable: Mapping[str, str] = MappingProxyType({}),
) -> Summary:
    """Summarise every variant that has answered all questions.

    Args:
        questions: of the set.
        records: of all variants.
        first: names of variants to list before the others, in this order, but after full tokens.
        against: name of the variant that each is compared with, besides full tokens; None takes the first variant
            with AOT's released settings, if there is one.
        unreadable: why a clip could not be read, by its name; its questions are left out.

    Raises:
        InputError: full tokens, or the variant to compare with, lack answers, or no clip could be read.
    """
    asked = by_clip(questions)
    lost = {clip: reason for clip, reason in unreadable.items() if clip in asked}
    questions = [question for question in questions if question.clip not in lost]
    if not questions:
        raise InputError(f"None of the {len(lost)} clips could be read; the first: {next(iter(lost.values()))}")
    clips = by_clip(questions)
    complete = _complete(records, clips)
    names = sorted(complete, key=lambda name: _place(name, (FULL, *first)))
    released = next((name for name in names if name.startswith(RELEASED)), None)
    for name in filter(None, (FULL, against)):
        if name not in complete:
            raise InputError(f"No variant {name!r} has answered all questions; there are {', '.join(names) or 'none'}.")
    scores = np.array([_scores(complete[name], questions) for name in names])
    answers = {name: [complete[name][question.clip].said[question.id] for question in questions] for name in names}
    references = tuple(dict.fromkeys((FULL, against or released or FULL)))
    judged = _judge(names, scores, questions, references)
    costs = {name: _costs(complete[name].values()) for name in names}
    rows = tuple(
        Row(
            name=name,
            chain=next(iter(complete[name].values())).chain,
            agreement=_mean(mine == full for mine, full in zip(answers[name], answers[FULL], strict=True)),
            prefill_speedup=costs[FULL]["prefill_s"] / costs[name]["prefill_s"],
            speedup=_road(costs[FULL]) / _road(costs[name]),
            **judgement,
            **costs[name],
        )
        for name, judgement in zip(names, judged, strict=True)
    )
    truths = [question for question, known in zip(questions, _known(scores), strict=True) if known]
    truth_counts = dict(Counter(question.family for question in truths))
    majority = {family: _most_frequent(truths, family) / count for family, count in truth_counts.items()}
    overall = sum(majority[family] * count for family, count in truth_counts.items()) / len(truths) if truths else None
    groups = _groups(rows, scores)
    return Summary(len(clips), len(questions), truth_counts, majority, overall, references, rows, lost, groups)


def _groups(rows: Sequence[Row], scores: np.ndarray) -> tuple[Groups, ...]:
    """The groups of every variant that has a control at the same retention beside it.

    Args:
        rows: of the variants, full tokens first.
        scores: (variants, questions), NaN where no truth is known.
    """
    right = scores[:, _known(scores)] == 1
    answered = np.ones(right.shape[1], bool)
    number = {row.name: i for i, row in enumerate(rows)}
    found = []
    for i, row in enumerate(rows):
        retention = row.name.removeprefix(row.chain)
        controls = tuple(name for name in (f"{each}{retention}" for each in CONTROLS) if name in number)
        if row.chain in CONTROLS or not retention or not controls or not len(answered):
            continue
        control = right[[number[name] for name in controls]].any(0)
        both = hard_and_easy(right[number[FULL]], control, answered)
        shares = [wilson(accuracy(group, right[i], answered), len(group)) if len(group) else None for group in both]
        found.append(Groups(row.name, controls, shares[0], len(both[0]), shares[1], len(both[1])))
    return tuple(found)


def _complete(records: Iterable[Record], clips: Mapping[str, Sequence[Question]]) -> dict[str, dict[str, Record]]:
    """The records of every variant that has answered about all clips, by clip."""
    variants: dict[str, dict[str, Record]] = {}
    for record in records:
        if all(question.id in record.said and question.id in record.scores for question in clips.get(record.clip, ())):
            variants.setdefault(record.variant, {})[record.clip] = record
    return {name: by for name, by in variants.items() if clips.keys() <= by.keys()}


def _place(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)


def _scores(records: Mapping[str, Record], questions: Sequence[Question]) -> list[float]:
    """The score of each question; NaN for a question without a truth."""
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
    scored = [questions[i] for i in known.tolist()]
    families, family = _numbered([question.family for question in scored])
    clips, clip = _numbered([question.clip for question in scored])
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
    """The interval of the draws, or Wilson's over clips if all clips score alike, so that the draws do not vary."""
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
        **{name: _mean(getattr(record, name) for record in records) for name in (*seconds, "readings")},
    }


def _road(costs: Mapping[str, float]) -> float:
    """Seconds from the frames to the end of prefill."""
    return costs["encode_s"] + costs["reduce_s"] + costs["prefill_s"]


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
