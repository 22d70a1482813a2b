"""A video in an LLM's key-value cache, and the questions about it.

Up to the end of the video all questions share one prompt, so that part is prefilled once and kept as keys and values.
Questions of one call go through the LLM packed (:mod:`.packing`): one after another in a single pass, where a block
mask shows each the video and itself, and positions continue from the video. So every question is read as if it were
the only one. Decoding goes on like that, with the newest token of every unfinished answer in one pass, or on CUDA by
replaying a graph of one step on a copy of the cache (:mod:`.decoding`); short prompts are read by graphs there, too
(:mod:`.prefilling`). Afterwards the cache is cut back to the video, so that the next question finds it as the first one
did.

A stage that acts inside the LLM chooses by the last token of a prompt, so every question has a choice of its own: such
a video is read anew with each question, and questions are answered one after another (:mod:`.inside`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from ..devices import synchronise
from ..errors import InputError
from ..memory import PeakMemory
from ..models.base import VideoLLM
from ..models.prompt import Inputs, Prefix, Prompt, Turn
from ..stages.carried import keeps_positions
from ..tokens.video_tokens import VideoTokens
from .answer import Answer
from .decoding import Decoder
from .generation import CountCallback, Generation, TextCallback, finished_text, ignore_count, ignore_text
from .inside import InsideLLM, Seen, acting, require_fit
from .memory_advice import CHUNK, explaining
from .packing import PACK, PackedQuestions, packs
from .prefilling import Prefiller
from .rewinding import Rewinder


@dataclass(frozen=True)
class Replies:
    """The answers to several questions about one video.

    Args:
        texts: one a question.
        ids: token ids of each, the one that ends it included.
        prompt_tokens: tokens of each prompt, the video's included.
        first_logits: (questions, vocabulary) float32 on the CPU, of every answer's first token.
        prefill_s: seconds until the video was read; 0 if it had been before.
        first_s: seconds from there to the first token of the first answer.
        rest_s: seconds from there to the end of the last answer.
        seen: for each question, what the LLM's layers saw of the video.
        readings: how often the video was read.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    prompt_tokens: tuple[int, ...]
    first_logits: Tensor
    prefill_s: float
    first_s: float
    rest_s: float
    seen: tuple[tuple[Seen, ...], ...] = ()
    readings: int = 1

    @property
    def questions_s(self) -> float:
        """Seconds from the end of reading the video to the end of the last answer."""
        return self.first_s + self.rest_s


@dataclass(frozen=True)
class Opened:
    """A prompt up to the end of its video, and the question after it.

    Args:
        model: whose LLM reads.
        prefix: the prompt up to the end of the video.
        question: (n,) long, the token ids that follow it.
        cache: of keys and values; it holds the video, unless that is read with the question.
        inside: the stages that act inside the LLM; None where there are none.
    """

    model: VideoLLM
    prefix: Prefix
    question: Tensor
    cache: DynamicCache
    inside: InsideLLM | None = None

    def read_question(self) -> Tensor:
        """Read the rest of the prompt: (1, vocabulary) in the model's dtype, the logits after its last token."""
        first = self.prefix.next_position
        inputs = self.model.text_inputs(self.question, torch.arange(first, first + len(self.question)))
        cached, video = self.cache.get_seq_length(), len(self.prefix.inputs)
        if cached < video:
            inputs = self.prefix.inputs.part(cached, video).then(inputs)
        if self.inside is not None:
            return self.inside.read(inputs, self.cache)
        return self.model.forward(inputs, self.cache, keep=slice(-1, None))


class Session:
    """Questions about one video. The model must not run anything else while it answers.

    Threads take turns, those that share a decoder too: each gets the answer that it would get alone.

    Questions share a pass only if the LLM's attention takes a mask of ours: sdpa and eager do; flash attention does
    not, and answers them one after another.

    Args:
        model: whose LLM answers.
        tokens: of the encoder or of any stage; None leaves the video out, so that the LLM answers blind.
        system: the system prompt; the model's own if empty.
        decoder: decodes the answers; None makes one, whose graph serves this session only.
        prefiller: reads the prompts; None makes one, as for the decoder.

    Raises:
        InputError: NaN features, or an LLM that a stage inside it does not fit.
    """

    def __init__(
        self,
        model: VideoLLM,
        tokens: VideoTokens | None,
        *,
        system: str = "",
        decoder: Decoder | None = None,
        prefiller: Prefiller | None = None,
    ) -> None:
        if tokens is not None:
            tokens.require_finite()
        self.model, self.tokens, self.system = model, tokens, system
        self._inner = require_fit(model, tokens) if tokens is not None else ()
        self._decoder, self._prefiller = decoder or Decoder(model), prefiller or Prefiller(model)
        self._before: tuple[Tensor, ...] | None = None
        self._prefix: Prefix | None = None
        self._cache = model.new_cache()
        self._end: Rewinder | None = None
        self._is_busy = False

    @cached_property
    def reads_anew(self) -> bool:
        """Whether the video is read again with every question."""
        layers = self.model.language.layers
        return any(stage.cuts(1, layers) for stage in self._inner)

    @cached_property
    def tokens_at_once(self) -> int | None:
        """Tokens of an answer that can be read in one pass; None for any number."""
        layers = self.model.language.layers
        return 1 if any(stage.reads_from(layers) is not None for stage in self._inner) else None

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are in the cache now."""
        return self._cache.get_seq_length()

    def is_about(self, tokens: VideoTokens | None, system: str) -> bool:
        """Whether this is the session of these very tokens under this system prompt."""
        return self.tokens is tokens and self.system == system

    def answer(
        self,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        turns: Sequence[Turn] = (),
        on_text: TextCallback = ignore_text,
        on_token: CountCallback = ignore_count,
    ) -> list[Answer]:
        """:meth:`ask` with what each answer cost; times and memory are those of all answers together.

        Args:
            questions: at least one.
            generation: how answers are generated; greedy, 64 tokens at most, if None.
            turns: earlier questions and their answers, the same for all questions.
            on_text: see :data:`~.generation.TextCallback`.
            on_token: see :data:`~.generation.CountCallback`.

        Raises:
            InputError: as :meth:`ask`, and if memory runs out.
            ValueError: a session without a video.
        """
        if self.tokens is None:
            raise ValueError("an answer has the figures of a video, and this session has none; use ask")
        with PeakMemory(self.model.device) as memory, explaining(self.model, self.tokens):
            replies = self.ask(questions, generation, turns=turns, on_text=on_text, on_token=on_token)
        return [
            Answer.about(
                self.model,
                self.tokens,
                question,
                text,
                prompt_tokens=prompt_tokens,
                new_tokens=len(ids),
                prefill_s=replies.prefill_s + replies.first_s,
                decode_s=replies.rest_s,
                peak_memory_bytes=memory.bytes,
                turns=tuple(turns),
                was_read=replies.prefill_s == 0.0,
                ids=ids,
                first=first,
                seen=seen,
                readings=replies.readings,
            )
            for question, text, prompt_tokens, ids, first, seen in zip(
                questions,
                replies.texts,
                replies.prompt_tokens,
                replies.ids,
                replies.first_logits.log_softmax(-1),
                replies.seen,
                strict=True,
            )
        ]

    @torch.no_grad()
    def ask(
        self,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        turns: Sequence[Turn] = (),
        on_text: TextCallback = ignore_text,
        on_token: CountCallback = ignore_count,
    ) -> Replies:
        """Answer questions, each as if it were the only one; sampling starts from the same seed for each.

        Args:
            questions: at least one.
            generation: how answers are generated; greedy, 64 tokens at most, if None.
            turns: earlier questions and their answers, the same for all questions.
            on_text: see :data:`~.generation.TextCallback`.
            on_token: see :data:`~.generation.CountCallback`.

        Raises:
            InputError: no question or an empty one, tokens of another width, a prompt longer than the model's context,
                or a question from within a callback of this session.
        """
        with self._taking_turns():
            return self._ask(questions, generation or Generation(), turns, on_text, on_token)

    def _ask(
        self,
        questions: Sequence[str],
        generation: Generation,
        turns: Sequence[Turn],
        on_text: TextCallback,
        on_token: CountCallback,
    ) -> Replies:
        if not questions:
            raise InputError("0 questions; give at least 1.")
        prompts = [self.model.prompt(each, self.tokens, system=self.system, turns=turns) for each in questions]
        start = time.perf_counter()
        prefix = self._begin(prompts)
        prompt_tokens = [len(prefix.inputs) + len(prompt.after) for prompt in prompts]
        require_room(self.model, self.tokens, prefix, prompts, generation.max_new_tokens)
        on_token(0)
        share = self.model.takes_masks and not self._inner
        passes = list(packs([prompt.after for prompt in prompts], PACK if share else 1))
        # The end of the video is not passed where it could not be brought back.
        is_alone = len(passes[0]) == 1 and self.model.rewinds
        try:
            is_new = self.cached_tokens < len(prefix.inputs)
            if is_new and not self.reads_anew:
                # A single question is read in the same pass as the last chunk of its video.
                self._read(prefix, on_token, leave_last=is_alone)
            read_at = time.perf_counter()
            first_at = 0.0
            ids: list[list[int]] = []
            logits: list[Tensor] = []
            seen: list[tuple[Seen, ...]] = []
            for pack in passes:
                asked = prompts[len(ids) : len(ids) + len(pack)]
                with self._acting(prefix, on_token) as inside:
                    packed = PackedQuestions(
                        self.model,
                        self._cache,
                        prefix,
                        pack,
                        [self.model.repeatable(self.tokens, prompt) for prompt in asked],
                        generation,
                        len(ids),
                        on_text,
                        on_token,
                        Decoder(self.model, "eager") if inside else self._decoder,
                        inside or self._prefiller,
                    )
                    pack_ids, first = packed.answers()
                    seen += [tuple(inside.seen) if inside else ()] * len(pack)
                first_at = first_at or packed.first_at
                ids += pack_ids
                logits.append(first)
                self._cut_back(prefix)
        except BaseException:
            self._cut_back(prefix)
            self._decoder.forget()
            raise
        self._decoder.rest()
        done = time.perf_counter()
        if is_new and is_alone:
            read_at = first_at
        return Replies(
            texts=tuple(finished_text(self.model, each).strip() for each in ids),
            ids=tuple(map(tuple, ids)),
            prompt_tokens=tuple(prompt_tokens),
            first_logits=torch.cat(logits),
            prefill_s=read_at - start if is_new else 0.0,
            first_s=first_at - (read_at if is_new else start),
            rest_s=done - first_at,
            seen=tuple(seen),
            readings=len(passes) if self.reads_anew else int(is_new),
        )

    @contextmanager
    def opened(self, question: str, *, turns: Sequence[Turn] = ()) -> Iterator[Opened]:
        """The video in the cache, for a caller who runs the LLM after it.

        The cache holds the video when the block begins, unless it is read with the question, and is cut back to it when
        the block ends.

        Args:
            question: about the video.
            turns: earlier questions and their answers.
        """
        with self._taking_turns():
            prompt = self.model.prompt(question, self.tokens, system=self.system, turns=turns)
            prefix = self._begin([prompt])
            try:
                if self.cached_tokens < len(prefix.inputs) and not self.reads_anew:
                    self._read(prefix)
                with self._acting(prefix) as inside:
                    yield Opened(self.model, prefix, prompt.after, self._cache, inside)
            finally:
                self._cut_back(prefix)

    @contextmanager
    def _acting(self, prefix: Prefix, on_token: CountCallback = ignore_count) -> Iterator[InsideLLM | None]:
        """A block in which the stages act that act inside the LLM; None where there are none."""
        if self.tokens is None or not self._inner:
            yield None
            return
        with acting(self.model, self._inner, self.tokens, prefix.inputs.visual, on_token) as inside:
            yield inside

    @contextmanager
    def _taking_turns(self) -> Iterator[None]:
        """Wait while another thread has the cache, or the decoder; refuse the thread that has it already."""
        with self._decoder.turn:
            if self._is_busy:
                raise InputError("This session is at work on a question; ask the next one once that has its answer.")
            self._is_busy = True
            try:
                yield
            finally:
                self._is_busy = False

    def _begin(self, prompts: Sequence[Prompt]) -> Prefix:
        """The prompt up to the end of the video, which all questions of a session share."""
        self._before = self._before if self._before is not None else prompts[0].before
        if any(not _equal(prompt.before, self._before) for prompt in prompts):
            raise ValueError(f"{self.model.name} puts words of the question before the video: questions share none")
        if self._prefix is None:
            self._prefix = self.model.prefix(self.tokens, prompts[0])
        return self._prefix

    def _read(self, prefix: Prefix, on_token: CountCallback = ignore_count, *, leave_last: bool = False) -> None:
        """Prefill the part of the prefix that the cache does not hold."""
        prefill(self._prefiller, prefix.inputs, self._cache, on_token, leave_last=leave_last)
        if not self.model.rewinds:
            self._end = Rewinder(self._cache)

    def _cut_back(self, prefix: Prefix) -> None:
        """Drop what the cache holds beyond the video; all of it where a pass ended between layers.

        Where the video is read with the question, nothing is kept: the next question chooses anew.
        """
        if self.reads_anew:
            self._cache = self.model.new_cache()
            return
        if not self.model.rewinds:
            if self._end is None:
                self._cache = self.model.new_cache()
            else:
                self._end.rewind(self._cache)
            return
        lengths = [self._cache.get_seq_length(layer) for layer in range(len(self._cache.layers))]
        if len(set(lengths)) > 1 or 0 < len(lengths) < self.model.language.cached_layers:
            self._cache = self.model.new_cache()
        beyond = self.cached_tokens - len(prefix.inputs)
        if beyond > 0:
            self._cache.crop(-beyond)


def prefill(
    prefiller: Prefiller,
    inputs: Inputs,
    cache: DynamicCache,
    on_token: CountCallback = ignore_count,
    *,
    leave_last: bool = False,
) -> None:
    """Read the part of ``inputs`` that the cache does not hold, a chunk at a time.

    Args:
        prefiller: reads.
        inputs: a prompt from its beginning.
        cache: of keys and values; grows.
        on_token: called with 0 after every chunk; may raise to stop.
        leave_last: leave the last chunk to the caller.
    """
    chunk = len(inputs) if prefiller.reads_whole else CHUNK
    ends = [*range(cache.get_seq_length() + chunk, len(inputs), chunk), len(inputs)]
    for end in ends[: -1 if leave_last else None]:
        prefiller.read(inputs.part(cache.get_seq_length(), end), cache)
        on_token(0)
    synchronise(inputs.inputs_embeds)


def require_context(model: VideoLLM, tokens: VideoTokens | None, prompt_tokens: int, new_tokens: int) -> None:
    """Refuse a prompt and an answer that are longer together than the model's context.

    Args:
        model: whose LLM reads.
        tokens: the video's in that prompt; None if there is none.
        prompt_tokens: tokens of the prompt, the video's included.
        new_tokens: of the longest answer.

    Raises:
        InputError: they are longer; the line says how many tokens or frames fit.
    """
    context = model.language.context
    if prompt_tokens + new_tokens <= context:
        return
    if tokens is None:
        raise InputError(
            f"{prompt_tokens} tokens of question and {new_tokens} of answer are above the {context} that {model.name} "
            "reads; ask a shorter question, or for a shorter answer."
        )
    frames = tokens.frames_shown
    text = prompt_tokens + new_tokens - tokens.tokens_kept
    fits = max(0, context - text)
    raise InputError(
        f"{tokens.tokens_kept} video tokens of {frames} frames and {text} of text are above the {context} that "
        f"{model.name} reads; keep at most {fits} (retention {fits / tokens.tokens_full:.3f}), or encode at most "
        f"{fits * frames // tokens.tokens_kept} frames."
    )


def require_room(
    model: VideoLLM, tokens: VideoTokens | None, prefix: Prefix, prompts: Sequence[Prompt], new_tokens: int
) -> None:
    """Refuse prompts and answers that are longer together than the model's context, as tokens or as kept positions.

    Args:
        model: whose LLM reads.
        tokens: the video's; None if there is none.
        prefix: of the prompts.
        prompts: about the video.
        new_tokens: of the longest answer.

    Raises:
        InputError: they are longer; the line says what fits.
    """
    longest, context = max(len(each.after) for each in prompts), model.language.context
    require_context(model, tokens, len(prefix.inputs) + longest, new_tokens)
    last = prefix.next_position + longest + new_tokens
    if tokens is not None and keeps_positions(tokens) and last > context:
        raise InputError(
            f"At their positions among all {tokens.tokens_full} tokens of {tokens.frames_shown} frames the prompt and "
            f"the answer end at position {last}, above the {context} that {model.name} reads; encode fewer frames, or "
            "leave Keep Positions out."
        )


def _equal(before: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(before) == len(others) and all(map(torch.equal, before, others))
