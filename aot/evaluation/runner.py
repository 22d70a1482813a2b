"""A question set, answered with all tokens and with reduced ones, clip by clip.

Each clip is encoded once. Every variant reduces that encoding, but for those that choose frames, which have their own.
All questions about the clip are answered together. A variant's answers are on disk before the next variant begins, and
a later run does not ask for them again.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from ..answering.answer import by_layer, encode_seconds, reduce_seconds
from ..answering.decoding import Decoder
from ..answering.generation import Generation
from ..answering.prefilling import Prefiller
from ..answering.reduced_for import reduced
from ..answering.session import Replies, Session
from ..comparison.starts import Starts
from ..comparison.variants import Variant
from ..errors import InputError, UnreadableVideo
from ..models.base import VideoLLM
from ..models.fingerprint import digest
from ..tokens.video_tokens import VideoTokens
from .encodings import Encodings
from .questions import Question, QuestionSet
from .records import Record, Records


def settings(model: VideoLLM, questions: QuestionSet, frames: int, weights: str) -> dict[str, Any]:
    """All that two results must have in common to be in one table, JSON-ready.

    Args:
        model: encodes and answers.
        questions: the set.
        frames: of each clip.
        weights: the model's :func:`~..models.fingerprint.fingerprint`.
    """
    items = [[item.id, item.clip, item.family, item.text, item.answer] for item in questions.questions]
    return {
        "set": dict(questions.identity),
        "questions_digest": digest(items),
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
    variants: Sequence[Variant],
    records: Records,
    encodings: Encodings,
    *,
    on_record: Callable[[str], None] = lambda variant: None,
    on_unreadable: Callable[[str, str, int], None] = lambda clip, reason, variants: None,
) -> None:
    """Answer what ``records`` does not hold yet. A clip that cannot be read is recorded as such, and left out.

    One answer is generated before the first measurement, so that no variant pays for the first use of the hardware.

    Args:
        model: encodes and answers.
        questions: the set.
        variants: as :func:`~..comparison.variants.expand` gives them.
        records: where answers are kept.
        encodings: the clips' tokens.
        on_record: called with the variant's name after each record.
        on_unreadable: called with a clip's name, why it cannot be read, and how many variants would have been asked.

    Raises:
        InputError: a clip cannot be encoded, a stage refuses it, or it is longer than the model's context; the line
            names the clip. Earlier answers stay.
    """
    clips = by_clip(questions.questions)
    inputs = {variant.name: encodings.inputs_of(variant) for variant in variants}

    def unanswered(clip: str) -> list[Variant]:
        return [variant for variant in variants if (clip, variant.name, inputs[variant.name]) not in records]

    missing = {clip: left for clip in clips if clip not in records.unreadable and (left := unanswered(clip))}
    if not missing:
        return
    encodings.require_room(tuple(missing))
    ask = asker(model, questions, encodings)
    for clip, left in missing.items():
        try:
            for record in ask(clip, left):
                records.add(record)
                on_record(record.variant)
        except UnreadableVideo as error:
            records.leave_out(clip, str(error))
            on_unreadable(clip, str(error), len(left))


def asker(
    model: VideoLLM, questions: QuestionSet, encodings: Encodings
) -> Callable[[str, Sequence[Variant]], Iterator[Record]]:
    """What asks all questions about a clip, of some variants, one after another.

    One answer is generated here, before the first measurement.

    Args:
        model: encodes and answers.
        questions: the set.
        encodings: the clips' tokens.

    Returns:
        A function of a clip's name and the variants. It raises an UnreadableVideo for a clip that cannot be read, and
        an InputError, which names the clip, for one that cannot be encoded or answered.
    """
    clips = by_clip(questions.questions)
    decoder, prefiller = Decoder(model), Prefiller(model)
    Session(model, None).ask([questions.questions[0].text], Generation(1))
    after = dict(zip(clips, [*list(clips)[1:], next(iter(clips))], strict=True))

    def ask(clip: str, variants: Sequence[Variant]) -> Iterator[Record]:
        inputs = {variant.name: encodings.inputs_of(variant) for variant in variants}
        try:
            starts = encodings.starts(clip, variants)
            asking = model, questions, clips[clip], variants, starts, decoder, prefiller
            for record in answer_variants(*asking, elsewhere=clips[after[clip]]):
                yield replace(record, inputs=inputs[record.variant])
        except UnreadableVideo:
            raise
        except InputError as error:
            raise InputError(f"Clip {clip}: {error}") from error

    return ask


def answer_variants(
    model: VideoLLM,
    questions: QuestionSet,
    of_clip: Sequence[Question],
    variants: Sequence[Variant],
    starts: Starts,
    decoder: Decoder | None = None,
    prefiller: Prefiller | None = None,
    *,
    elsewhere: Sequence[Question] = (),
) -> Iterator[Record]:
    """The answers of several variants to the questions about one clip, one after another.

    A control at a retention at which it cannot begin has none: fewer frames where that is less than one, for instance.

    Args:
        model: answers.
        questions: the set, which scores the answers.
        of_clip: its questions about this clip, at least one.
        variants: in order.
        starts: the clip's, for these variants.
        decoder: of the model, whose graph serves all clips; None makes one.
        prefiller: of the model, as the decoder.
        elsewhere: questions about another clip, for variants that are asked about something else.

    Raises:
        InputError: another variant cannot begin, and none is asked; or its chain refuses the clip.
    """
    planned = []
    for variant, start in zip(variants, starts.plan(variants), strict=True):
        if not isinstance(start, InputError):
            planned.append(start)
        elif not variant.is_control or variant.retention is None:
            raise start
    for start in planned:
        variant = start.variant
        yield answer_clip(
            model,
            questions,
            of_clip,
            variant,
            starts.tokens(start),
            decoder,
            prefiller,
            tokens_full=starts.shared.tokens_full,
            elsewhere=elsewhere if variant.elsewhere else (),
            looked_at=starts.looked_at(start),
        )
        starts.done(start)


def answer_clip(
    model: VideoLLM,
    questions: QuestionSet,
    of_clip: Sequence[Question],
    variant: Variant,
    tokens: VideoTokens,
    decoder: Decoder | None = None,
    prefiller: Prefiller | None = None,
    *,
    tokens_full: int | None = None,
    elsewhere: Sequence[Question] = (),
    looked_at: Mapping[str, Any] = MappingProxyType({}),
) -> Record:
    """A variant's answers to the questions about one clip.

    Args:
        model: answers.
        questions: the set, which scores the answers.
        of_clip: its questions about this clip, at least one.
        variant: reduces the tokens, or leaves the video out.
        tokens: the clip's, fresh from the encoder; of the frames that the variant chooses.
        decoder: of the model, whose graph serves all clips; None makes one.
        prefiller: of the model, as the decoder.
        tokens_full: that the kept ones are a share of; None takes those of the tokens.
        elsewhere: questions about another clip, by which stages that ask choose in place of this one's; empty takes
            this one's.
        looked_at: see :meth:`~..comparison.starts.Starts.looked_at`.
    """
    chain = None if variant.chain is None else variant.chain.after_encoding
    asks = chain is not None and chain.needs_question
    groups = [[question] for question in of_clip] if asks else [list(of_clip)]
    answers: dict[str, str] = {}
    kept: list[VideoTokens] = []
    counts: list[float] = []
    readings = 0
    prefill_s = questions_s = 0.0
    for number, group in enumerate(groups):
        about = (elsewhere or of_clip)[number % len(elsewhere or of_clip)].asked
        shown = None if chain is None else reduced(model, tokens, chain, about, **looked_at)
        session = Session(model, shown, decoder=decoder, prefiller=prefiller)
        replies = session.ask([question.text for question in group], Generation(questions.max_new_tokens))
        answers |= {question.id: text for question, text in zip(group, replies.texts, strict=True)}
        if shown is not None:
            kept.append(shown)
            counts.append(_mean_tokens(model, shown, replies))
            readings += replies.readings + (chain is not None and chain.needs_assistant)
        prefill_s += replies.prefill_s
        questions_s += replies.questions_s
    return Record(
        clip=of_clip[0].clip,
        variant=variant.name,
        chain=variant.label,
        tokens_full=tokens_full or tokens.tokens_full,
        tokens_kept=0 if not counts else counts[0] if len(set(counts)) == 1 else statistics.fmean(counts),
        encode_s=encode_seconds(kept[0]) if kept else 0.0,
        reduce_s=sum(map(reduce_seconds, kept)),
        prefill_s=prefill_s,
        questions_s=questions_s,
        said=answers,
        scores={question.id: questions.score(question, answers[question.id]) for question in of_clip},
        readings=readings,
    )


def _mean_tokens(model: VideoLLM, tokens: VideoTokens, replies: Replies) -> float:
    """Tokens that the LLM saw: those it was given, or the mean over layers and questions where it saw fewer."""
    if not any(replies.seen):
        return tokens.tokens_kept
    layers = model.language.layers
    counts = [kept for seen in replies.seen for kept, _ in by_layer(seen, layers, tokens.tokens_kept, 0)]
    return sum(counts) / len(counts)
