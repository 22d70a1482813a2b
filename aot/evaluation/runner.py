"""Asking a question set of a model with all tokens and with reduced ones, clip by clip.

Each clip is encoded once. Every variant reduces that encoding, and all the clip's questions are answered together;
what was said is on disk before the next variant begins, and is not asked again by a later run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..answering.answer import encode_seconds, reduce_seconds
from ..answering.session import answer_all
from ..comparison.compare import at_each
from ..errors import InputError
from ..models.base import VideoLLM
from ..models.fingerprint import digest
from ..stages.chain import FULL, Chain, parse
from ..tokens.video_tokens import VideoTokens
from .encodings import Encodings
from .questions import Question, QuestionSet
from .records import Record, Records

BLIND = "blind"
"""The variant that leaves the video out: what can be answered from the words alone."""


@dataclass(frozen=True)
class Variant:
    """One way of showing a video to the LLM.

    Args:
        name: unique in a run.
        chain: its stages as they were asked for, the same at every retention.
        pipeline: what reduces the tokens; None where the LLM is shown none.
    """

    name: str
    chain: str
    pipeline: Chain | None


def variants(chains: Sequence[str], retentions: Sequence[float]) -> list[Variant]:
    """Full tokens first, then every chain at every retention, each once.

    Args:
        chains: as :func:`~..pipeline.parse` reads them, or "blind".
        retentions: for the chains that do not settle what they keep.

    Raises:
        InputError: an unknown stage or setting, or a chain whose last stage has no retention.
    """
    made = {FULL: Variant(FULL, FULL, parse(FULL))}
    for chain in chains:
        if chain == BLIND:
            made.setdefault(BLIND, Variant(BLIND, BLIND, None))
            continue
        for pipeline in at_each(chain, retentions):
            made.setdefault(pipeline.name, Variant(pipeline.name, chain, pipeline))
    return list(made.values())


def settings(model: VideoLLM, questions: QuestionSet, frames: int, weights: str) -> dict[str, Any]:
    """All that must be the same for two results to stand in one table, JSON-ready.

    Args:
        weights: the model's :func:`~.encodings.fingerprint`.
    """
    asked = [[item.id, item.clip, item.family, item.text, item.answer] for item in questions.questions]
    return {
        "set": dict(questions.identity),
        "questions_digest": digest(asked),
        "max_new_tokens": questions.max_new_tokens,
        "frames": frames,
        "model": model.name,
        "model_digest": weights,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device.type,
    }


def by_clip(questions: Sequence[Question]) -> dict[str, list[Question]]:
    """The questions of every clip, clips in the order of their first questions."""
    clips: dict[str, list[Question]] = {}
    for question in questions:
        clips.setdefault(question.clip, []).append(question)
    return clips


def evaluate(
    model: VideoLLM,
    questions: QuestionSet,
    chosen: Sequence[Variant],
    records: Records,
    encodings: Encodings,
    *,
    on_record: Callable[[str], None] = lambda variant: None,
) -> None:
    """Answer whatever ``records`` does not hold yet.

    One unmeasured answer is generated first, so that no variant pays for waking the machine up.

    Args:
        on_record: called with the variant's name whenever a record is there.

    Raises:
        InputError: a clip cannot be read or encoded, a stage refuses it, or it is longer than the model's context;
            the line names the clip. What was answered before stays.
    """
    clips = by_clip(questions.questions)
    missing = {
        clip: [variant for variant in chosen if (clip, variant.name) not in records]
        for clip in clips
        if any((clip, variant.name) not in records for variant in chosen)
    }
    if not missing:
        return
    encodings.require_room(tuple(missing))
    answer_all(model, None, [questions.questions[0].text], 1)
    for clip, left in missing.items():
        try:
            tokens = encodings.of(clip)
            for variant in left:
                records.add(ask(model, questions, clips[clip], variant, tokens))
                on_record(variant.name)
        except InputError as error:
            raise InputError(f"Clip {clip}: {error}") from error


def ask(
    model: VideoLLM, questions: QuestionSet, asked: Sequence[Question], variant: Variant, tokens: VideoTokens
) -> Record:
    """What a variant says to questions about one clip, from the encoder's own tokens."""
    shown = None if variant.pipeline is None else variant.pipeline(tokens)
    replies = answer_all(model, shown, [question.text for question in asked], questions.max_new_tokens)
    said: Mapping[str, str] = {question.id: text for question, text in zip(asked, replies.texts, strict=True)}
    return Record(
        clip=asked[0].clip,
        variant=variant.name,
        chain=variant.chain,
        tokens_full=tokens.tokens_full,
        tokens_kept=0 if shown is None else shown.tokens_kept,
        encode_s=0.0 if shown is None else encode_seconds(shown),
        reduce_s=0.0 if shown is None else reduce_seconds(shown),
        prefill_s=replies.prefill_s,
        questions_s=replies.questions_s,
        said=said,
        scores={question.id: questions.score(question, said[question.id]) for question in asked},
    )
