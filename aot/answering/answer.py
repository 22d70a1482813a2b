"""An answer about a video, and what it cost."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..models.base import VideoLLM
from ..models.file_time import file_seconds
from ..models.prompt import Turn
from ..tokens.video_tokens import ENCODE, VideoTokens
from .thoughts import apart


@dataclass(frozen=True)
class Answer:
    """An answer and what it cost.

    Args:
        question: as it was put.
        text: of the answer.
        model: the name of the video LLM.
        stages: names of the reduction stages, in order.
        tokens_full: tokens of the language grid, newlines not counted.
        tokens_kept: those that are left of them.
        retention: ``tokens_kept / tokens_full``.
        prompt_tokens: LLM tokens read, text and newlines included.
        new_tokens: LLM tokens written.
        encode_s: seconds of the vision encoder.
        reduce_s: seconds of the reduction stages.
        prefill_s: time to first token, seconds, counted from the reduced tokens; what was read before is not read
            again.
        decode_s: seconds from the first token to the last.
        prefill_flops: estimated operations of prefilling the kept visual tokens.
        kv_cache_bytes: keys and values of prompt and answer, bytes.
        peak_memory_bytes: most memory in use during prefill and decode, bytes, the model included (on the CPU, of the
            whole process); 0 if a server answered.
        turns: earlier questions about the same video, and their answers.
        ids: (new_tokens,) token ids, the one that ends the answer included; empty if a server answered. Not part of
            equality or JSON.
        first: (vocabulary,) float32 on the CPU, log-probabilities of the answer's first token; None if a server
            answered. Not part of equality or JSON.
        file_s: seconds from the video's file to its frames; None if they are of no file, or nobody measured.
        was_read: whether the LLM had read the video before, for an earlier question; ``prefill_s`` is then the
            question's alone.
        thoughts: what the model wrote to itself before the answer; "" without any.
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
    file_s: float | None = None
    was_read: bool = False
    thoughts: str = ""

    @classmethod
    def about(
        cls,
        model: VideoLLM,
        tokens: VideoTokens,
        question: str,
        text: str,
        *,
        prompt_tokens: int,
        new_tokens: int,
        **more: Any,
    ) -> Answer:
        """An answer with the figures that follow from its model and its video tokens.

        Args:
            model: the video LLM.
            tokens: the video tokens it read.
            question: as it was put.
            text: that the model wrote; its thoughts are kept apart from the answer.
            prompt_tokens: LLM tokens read.
            new_tokens: LLM tokens written.
            more: the remaining fields: times, memory, turns, and ids and first if they are known.
        """
        thoughts, text = apart(text, model.opens_thoughts)
        return cls(
            question=question,
            text=text,
            model=model.name,
            stages=tuple(record.name for record in tokens.history if record.name != ENCODE),
            tokens_full=tokens.tokens_full,
            tokens_kept=tokens.tokens_kept,
            retention=tokens.retention,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            encode_s=encode_seconds(tokens),
            reduce_s=reduce_seconds(tokens),
            prefill_flops=model.language.prefill_flops(tokens.tokens_kept),
            kv_cache_bytes=model.language.kv_cache_bytes(prompt_tokens + new_tokens, model.dtype.itemsize),
            file_s=file_seconds(tokens),
            thoughts=thoughts,
            **more,
        )

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The earlier turns, and this question with its answer."""
        return (*self.turns, Turn(self.question, self.text))

    @property
    def shown(self) -> str:
        """The answer, or in brackets why there is none."""
        if self.text:
            return self.text
        return f"(only thoughts in {self.new_tokens} tokens; allow more)" if self.thoughts else "(empty answer)"

    @property
    def first_token_s(self) -> float:
        """Seconds from the file to the first token; from the frames where the file's part is not known."""
        return (self.file_s or 0.0) + self.encode_s + self.reduce_s + self.prefill_s

    @property
    def road(self) -> str:
        """The way to the first token in words: seconds in all, and of every part."""
        begin, file = ("frames", "") if self.file_s is None else ("file", f"file {self.file_s:.2f}, ")
        prefill = "prefill of the question alone" if self.was_read else "prefill"
        return (
            f"{begin} to first token {self.first_token_s:.2f} s ({file}encode {self.encode_s:.2f}, "
            f"reduce {self.reduce_s:.3f}, {prefill} {self.prefill_s:.2f})"
        )

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types; the text under ``answer``."""
        values = dataclasses.asdict(dataclasses.replace(self, first=None))
        named = {"question": values.pop("question"), "answer": values.pop("text"), **values}
        known = {name: value for name, value in named.items() if name not in ("ids", "first", "thoughts")}
        return {**known, "first_token_s": self.first_token_s, "thoughts": self.thoughts}


def encode_seconds(tokens: VideoTokens) -> float:
    """Seconds the vision encoder took."""
    return sum(record.milliseconds for record in tokens.history if record.name == ENCODE) / 1e3


def reduce_seconds(tokens: VideoTokens) -> float:
    """Seconds the reduction stages took."""
    return sum(record.milliseconds for record in tokens.history if record.name != ENCODE) / 1e3
