"""An answer about a video, and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..errors import InputError
from ..models.base import VideoLLM
from ..models.file_time import file_seconds
from ..models.prompt import Turn
from ..tokens.layer_step import LayerStep
from ..tokens.video_tokens import ENCODE, VideoTokens
from .inside import Seen, seen_by
from .layer_steps import layer_steps
from .reduced_for import reduced_for
from .thoughts import apart

_LATER = ("thoughts", "layer_tokens", "readings", "reduced_for")
"""Fields that came later than the rest, and are printed after it."""


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
        retention: ``tokens_kept / tokens_full``; where stages act inside the LLM, the mean of that over its layers.
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
        layer_tokens: video tokens that each layer of the LLM saw, newlines not counted; empty where all saw the same.
        readings: how often the LLM read the video for this question and those asked with it.
        seen: what was cut inside the LLM, for :meth:`tokens_at`. Not part of equality or JSON.
        reduced_for: the question that stages chose the tokens for; None where none asked.
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
    layer_tokens: tuple[int, ...] = ()
    readings: int = 1
    seen: tuple[Seen, ...] = field(default=(), compare=False, repr=False)
    reduced_for: str | None = None

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
        seen: tuple[Seen, ...] = (),
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
            seen: what was cut inside the LLM, in order of layers.
            more: the remaining fields: times, memory, turns, and ids and first if they are known.
        """
        thoughts, text = apart(text, model.opens_thoughts)
        language = model.language
        layers = by_layer(seen, language.layers, tokens.tokens_kept, prompt_tokens)
        kept, rows = ([layer[i] for layer in layers] for i in (0, 1))
        return cls(
            question=question,
            text=text,
            model=model.name,
            stages=tuple(record.name for record in tokens.history if record.name != ENCODE),
            tokens_full=tokens.tokens_full,
            tokens_kept=tokens.tokens_kept,
            retention=sum(kept) / len(kept) / tokens.tokens_full,
            prompt_tokens=prompt_tokens,
            new_tokens=new_tokens,
            encode_s=encode_seconds(tokens),
            reduce_s=reduce_seconds(tokens),
            prefill_flops=sum(map(language.prefill_flops, kept)) / len(kept),
            kv_cache_bytes=language.kv_cache_bytes(sum(rows) + new_tokens * len(rows), model.dtype.itemsize)
            // len(rows),
            file_s=file_seconds(tokens),
            thoughts=thoughts,
            layer_tokens=tuple(kept) if seen else (),
            seen=seen,
            reduced_for=reduced_for(tokens),
            **more,
        )

    def tokens_at(self, tokens: VideoTokens, layer: int) -> VideoTokens:
        """What a layer of the LLM saw of the video, as tokens for pictures.

        Args:
            tokens: that the question was asked about.
            layer: of the LLM, from 0.

        Raises:
            InputError: the LLM has no such layer, or the tokens are others.
        """
        layers = len(self.layer_tokens)
        if not layers:
            return tokens
        if not 0 <= layer < layers:
            raise InputError(f"Layer {layer} of an LLM with layers 0 to {layers - 1}; give one of those.")
        self._require_about(tokens)
        return seen_by(tokens, self.seen, layer)

    def steps(self, tokens: VideoTokens) -> tuple[LayerStep, ...]:
        """What the layers of the LLM saw of the video, in order: a step for every layer before which it became less.

        Args:
            tokens: that the question was asked about.

        Returns:
            None of them where every layer saw all tokens.

        Raises:
            InputError: the tokens are others.
        """
        if self.seen:
            self._require_about(tokens)
        return layer_steps(tokens, self.seen)

    def _require_about(self, tokens: VideoTokens) -> None:
        if tokens.tokens_kept != self.tokens_kept:
            raise InputError(
                f"The answer is about {self.tokens_kept} tokens and {tokens.tokens_kept} were given; give the tokens "
                "that were asked about."
            )

    @property
    def size(self) -> str:
        """Tokens and retention in words, and whether they are means over layers."""
        if not self.layer_tokens:
            return f"{self.tokens_kept} of {self.tokens_full} tokens ({self.retention:.1%})"
        return (
            f"{self.tokens_kept} of {self.tokens_full} tokens, {self.layer_tokens[-1]} in the LLM's last layer "
            f"({self.retention:.1%} on average over its {len(self.layer_tokens)} layers)"
        )

    @property
    def conversation(self) -> tuple[Turn, ...]:
        """The earlier turns, and this question with its answer."""
        return (*self.turns, Turn(self.question, self.text))

    @property
    def of_another_question(self) -> bool:
        """Whether the tokens were chosen for a question that is no part of the one answered."""
        return any(line.strip() not in self.question for line in (self.reduced_for or "").splitlines())

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
        values = dataclasses.asdict(dataclasses.replace(self, first=None, seen=()))
        named = {"question": values.pop("question"), "answer": values.pop("text"), **values}
        last = {name: values[name] for name in _LATER} | {"layer_tokens": list(self.layer_tokens)}
        known = {name: value for name, value in named.items() if name not in ("ids", "first", "seen", *_LATER)}
        return {**known, "first_token_s": self.first_token_s, **last}


def by_layer(seen: Sequence[Seen], layers: int, tokens: int, rows: int) -> list[tuple[int, int]]:
    """Of every layer, the video's tokens and all rows of the prompt.

    Args:
        seen: what was cut, in order of layers.
        layers: of the LLM.
        tokens: of the video before the first cut.
        rows: of the prompt before it.
    """
    found = []
    for layer in range(layers):
        tokens, rows = next(((each.tokens, each.rows) for each in seen[::-1] if each.layer == layer), (tokens, rows))
        found.append((tokens, rows))
    return found


def encode_seconds(tokens: VideoTokens) -> float:
    """Seconds the vision encoder took."""
    return sum(record.milliseconds for record in tokens.history if record.name == ENCODE) / 1e3


def reduce_seconds(tokens: VideoTokens) -> float:
    """Seconds the reduction stages took."""
    return sum(record.milliseconds for record in tokens.history if record.name != ENCODE) / 1e3
