"""Asking a video LLM about reduced tokens: prefill, decode, and what each of them cost."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig
from transformers.generation.streamers import BaseStreamer

from .errors import InputError
from .memory import PeakMemory
from .models.base import VideoLLM
from .tokens import VideoTokens

ENCODE = "encode"
"""The name under which an encoder stands in a video's history; all the others are stages."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Generation:
    """How the answer is generated.

    Args:
        max_new_tokens: at most this many.
        temperature: 0 is greedy; above 0 samples.
        top_p: nucleus of the probability mass to sample from, above 0, at most 1.
        seed: of the sampling.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.seed < 0:
            raise InputError(
                f"Generation with {self.max_new_tokens} new tokens, temperature {self.temperature:g}, top-p "
                f"{self.top_p:g}, seed {self.seed}; tokens start at 1, temperature and seed at 0, top-p is above 0 "
                "and at most 1."
            )


@dataclass(frozen=True)
class Answer:
    """An answer and what it took.

    Args:
        question, text, model: what was asked, what was said, by whom.
        stages: names of the reduction stages, in order.
        tokens_full, tokens_kept, retention: of the language grid, newlines not counted.
        prompt_tokens, new_tokens: LLM tokens read, text and newlines included, and written.
        encode_s, reduce_s: seconds of the vision encoder and of the reduction stages.
        prefill_s: time to first token, seconds, from the tokens being ready.
        decode_s: seconds from the first token to the last.
        prefill_flops: estimated operations of prefilling the kept visual tokens.
        kv_cache_bytes: keys and values of prompt and answer.
        peak_memory_bytes: most memory in use during prefill and decode, the model included (on the CPU, of the
            whole process).
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

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON-ready types; the text under ``answer``."""
        values = dataclasses.asdict(self)
        return {"question": values.pop("question"), "answer": values.pop("text"), **values}


@torch.no_grad()
def answer(
    vllm: VideoLLM,
    tokens: VideoTokens,
    question: str,
    generation: Generation | None = None,
    *,
    on_text: Callable[[str], None] = lambda text: None,
    on_token: Callable[[int], None] = lambda count: None,
) -> Answer:
    """Answer ``question`` about a video.

    Args:
        vllm: the model; the one that encoded the tokens, or one of the same width.
        tokens: any stage's, or the encoder's own.
        on_text: called with the text so far whenever it has grown.
        on_token: called with the number of tokens so far, before each of them; raising stops the generation.

    Raises:
        InputError: an empty question, tokens of another width, NaN features, or a prompt longer than the
            model's context.
    """
    generation = generation or Generation()
    tokens.require_finite()
    watcher = _Watcher(vllm, on_text, on_token)
    with PeakMemory(vllm.device) as memory:
        watcher.begin()
        embeddings = vllm.embeddings(tokens, question)
        require_context(vllm, tokens, embeddings.shape[1], generation.max_new_tokens)
        on_token(0)
        with torch.random.fork_rng():
            torch.manual_seed(generation.seed)
            vllm.model.generate(
                inputs_embeds=embeddings,
                attention_mask=torch.ones(embeddings.shape[:2], dtype=torch.long, device=embeddings.device),
                generation_config=_settings(vllm, generation),
                streamer=watcher,
            )
    read = embeddings.shape[1]
    size = embeddings.element_size()
    return Answer(
        question=question,
        text=watcher.text.strip(),
        model=vllm.name,
        stages=tuple(record.name for record in tokens.history if record.name != ENCODE),
        tokens_full=tokens.tokens_full,
        tokens_kept=tokens.tokens_kept,
        retention=tokens.retention,
        prompt_tokens=read,
        new_tokens=len(watcher.ids),
        encode_s=encode_seconds(tokens),
        reduce_s=reduce_seconds(tokens),
        prefill_s=watcher.first - watcher.start,
        decode_s=watcher.last - watcher.first,
        prefill_flops=vllm.language.prefill_flops(tokens.tokens_kept),
        kv_cache_bytes=vllm.language.kv_cache_bytes(read + len(watcher.ids), size),
        peak_memory_bytes=memory.bytes,
    )


def finished_text(vllm: VideoLLM, ids: Sequence[int]) -> str:
    """What the ids say, up to the last of them that ends a character."""
    texts = (vllm.decode(list(ids[:end])) for end in range(len(ids), 0, -1))
    return next((text for text in texts if not text.endswith(UNFINISHED)), "")


def end_ids(vllm: VideoLLM) -> list[int]:
    """The token ids that end an answer."""
    ends = vllm.model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def require_context(vllm: VideoLLM, tokens: VideoTokens | None, read: int, new: int) -> None:
    """Refuse a prompt of ``read`` tokens and an answer of ``new`` that are longer than the model's context.

    Args:
        tokens: the video's in that prompt, None where there is none.
    """
    context = vllm.language.context
    if read + new <= context:
        return
    if tokens is None:
        raise InputError(
            f"{read} tokens of question and {new} of answer are above the {context} that {vllm.name} reads; "
            "ask a shorter question, or for a shorter answer."
        )
    frames = tokens.layout.frames
    text = read + new - tokens.tokens_kept
    fits = max(0, context - text)
    raise InputError(
        f"{tokens.tokens_kept} video tokens of {frames} frames and {text} of text are above the {context} that "
        f"{vllm.name} reads; keep at most {fits} (retention {fits / tokens.tokens_full:.3f}), or encode at most "
        f"{fits * frames // tokens.tokens_kept} frames."
    )


def encode_seconds(tokens: VideoTokens) -> float:
    """Seconds the vision encoder took."""
    return sum(record.milliseconds for record in tokens.history if record.name == ENCODE) / 1e3


def reduce_seconds(tokens: VideoTokens) -> float:
    """Seconds the reduction stages took."""
    return sum(record.milliseconds for record in tokens.history if record.name != ENCODE) / 1e3


class _Watcher(BaseStreamer):
    """Receives each token as ``generate`` makes it: clocks it, decodes it, and may stop there."""

    def __init__(self, vllm: VideoLLM, on_text: Callable[[str], None], on_token: Callable[[int], None]) -> None:
        self._vllm, self._on_text, self._on_token = vllm, on_text, on_token
        self._prompt_seen = False
        self.ids: list[int] = []
        self.text = ""
        self.start = self.first = self.last = 0.0

    def begin(self) -> None:
        self.start = time.perf_counter()

    def put(self, value: Tensor) -> None:
        """``generate`` hands over the prompt first, then one token at a time."""
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self.ids.extend(value.flatten().tolist())
        self.last = time.perf_counter()
        self.first = self.first or self.last
        text = finished_text(self._vllm, self.ids)
        if text != self.text:
            self.text = text
            self._on_text(text)
        self._on_token(len(self.ids))

    def end(self) -> None:
        """Nothing is held back."""


def _settings(vllm: VideoLLM, generation: Generation) -> GenerationConfig:
    """The model's own special tokens with our sampling: nothing else of its defaults applies."""
    own = vllm.model.generation_config
    sampling = generation.temperature > 0
    pad = own.pad_token_id
    if pad is None:
        pad = next(iter(end_ids(vllm)), None)
    return GenerationConfig(
        max_new_tokens=generation.max_new_tokens,
        do_sample=sampling,
        **({"temperature": generation.temperature, "top_p": generation.top_p, "top_k": 0} if sampling else {}),
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=pad,
        use_cache=True,
    )
