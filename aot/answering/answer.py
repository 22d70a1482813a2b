"""Asking a video LLM about reduced tokens: prefill, decode, and what each of them cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..memory import PeakMemory
from ..models.base import VideoLLM
from ..models.prompt import Turn
from ..tokens.video_tokens import ENCODE, VideoTokens
from .memory_advice import explaining
from .session import Generation, Session, ignore_count, ignore_text

__all__ = ["ENCODE", "Answer", "Generation", "answer", "answers", "encode_seconds", "reduce_seconds"]


@dataclass(frozen=True)
class Answer:
    """An answer and what it took.

    Args:
        question, text, model: what was asked, what was said, by whom.
        turns: what was asked and answered before it.
        stages: names of the reduction stages, in order.
        tokens_full, tokens_kept, retention: of the language grid, newlines not counted.
        prompt_tokens, new_tokens: LLM tokens read, text and newlines included, and written.
        encode_s, reduce_s: seconds of the vision encoder and of the reduction stages.
        prefill_s: time to first token, seconds, from the tokens being ready; what was read before is not read again.
        decode_s: seconds from the first token to the last.
        prefill_flops: estimated operations of prefilling the kept visual tokens.
        kv_cache_bytes: keys and values of prompt and answer.
        peak_memory_bytes: most memory in use during prefill and decode, the model included (on the CPU, of the
            whole process).
        ids: the tokens written, the one that ends the answer included; none where a server answered.
        first: (vocabulary,) float32 on the CPU, log-probabilities of the answer's first token; None likewise. Neither
            is part of what makes two answers equal, nor of their JSON.
    """

    question: str
    text: str
    model: str
    stages: tuple[str, ...]
    tokens_full: int
    tokens_kept: int
    retention: float
    prompt_tokens: int
    new_tokens: int
    encode_s: float
    reduce_s: float
    prefill_s: float
    decode_s: float
    prefill_flops: float
    kv_cache_bytes: int
    peak_memory_bytes: int
    turns: tuple[Turn, ...] = ()
    ids: tuple[int, ...] = field(default=(), compare=False, repr=False)
    first: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """All that was asked and answered, this answer included."""
        return (*self.turns, Turn(self.question, self.text))

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types; the text under ``answer``."""
        values = dataclasses.asdict(dataclasses.replace(self, first=None))
        told = {"question": values.pop("question"), "answer": values.pop("text"), **values}
        return {name: value for name, value in told.items() if name not in ("ids", "first")}


def answer(
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    generation: Generation | None = None,
    *,
    on_text: Callable[[str], None] = lambda text: None,
    on_token: Callable[[int], None] = ignore_count,
) -> Answer:
    """Answer ``question`` about a video.

    Args:
        model: the model; the one that encoded the tokens, or one of the same width.
        tokens: any stage's, or the encoder's own.
        on_text: called with the text so far whenever it has grown.
        on_token: called with the number of tokens so far, with 0 before the first; raising stops the generation.

    Raises:
        InputError: an empty question, tokens of another width, NaN features, or a prompt longer than the
            model's context.
    """
    watch = {"on_text": lambda _question, text: on_text(text), "on_token": on_token}
    (said,) = answers(model, tokens, Session(model, tokens), [question], generation, **watch)
    return said


def answers(
    model: VideoLLM,
    tokens: VideoTokens,
    session: Session,
    questions: Sequence[str],
    generation: Generation | None = None,
    *,
    turns: Sequence[Turn] = (),
    on_text: Callable[[int, str], None] = ignore_text,
    on_token: Callable[[int], None] = ignore_count,
) -> list[Answer]:
    """Answer several questions about one video together; the figures of time and memory are those of them all.

    Args:
        session: of these tokens; the video is read in it the first time only.
        turns, on_text, on_token: as :meth:`~.session.Session.ask` takes them.

    Raises:
        InputError: as the session's, and where memory runs out.
    """
    with PeakMemory(model.device) as memory, explaining(model, tokens):
        replies = session.ask(questions, generation, turns=turns, on_text=on_text, on_token=on_token)
    bytes_each = model.dtype.itemsize
    return [
        Answer(
            question=question,
            text=text,
            model=model.name,
            stages=tuple(record.name for record in tokens.history if record.name != ENCODE),
            tokens_full=tokens.tokens_full,
            tokens_kept=tokens.tokens_kept,
            retention=tokens.retention,
            prompt_tokens=read,
            new_tokens=len(ids),
            encode_s=encode_seconds(tokens),
            reduce_s=reduce_seconds(tokens),
            prefill_s=replies.prefill_s + replies.first_s,
            decode_s=replies.rest_s,
            prefill_flops=model.language.prefill_flops(tokens.tokens_kept),
            kv_cache_bytes=model.language.kv_cache_bytes(read + len(ids), bytes_each),
            peak_memory_bytes=memory.bytes,
            turns=tuple(turns),
            ids=ids,
            first=first,
        )
        for question, text, read, ids, first in zip(
            questions, replies.texts, replies.read, replies.ids, replies.first_logits.log_softmax(-1), strict=True
        )
    ]


def encode_seconds(tokens: VideoTokens) -> float:
    """Seconds the vision encoder took."""
    return sum(record.milliseconds for record in tokens.history if record.name == ENCODE) / 1e3


def reduce_seconds(tokens: VideoTokens) -> float:
    """Seconds the reduction stages took."""
    return sum(record.milliseconds for record in tokens.history if record.name != ENCODE) / 1e3
