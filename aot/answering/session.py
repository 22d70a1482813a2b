"""A video in an LLM's key-value cache, asked as often as wanted.

Up to the end of the video all questions share one prompt, so that much is prefilled once and kept as keys and values.
Questions asked together go through the LLM packed, one after another in a single pass: under a block mask each sees
the video and itself, and its positions continue from the video, so every question is read as if it were the only one.
Decoding goes on like that, with the newest token of every unfinished answer in one pass. Afterwards the cache is cut
back to the video, so the next question finds it as the first one did.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from ..devices import synchronise
from ..errors import InputError
from ..models.base import VideoLLM
from ..models.prompt import Inputs, Prefix, Prompt, Turn
from ..tokens.video_tokens import VideoTokens

PACK = 1024
"""Question tokens that go through the LLM in one pass: enough to fill it, few enough for a small mask."""

CHUNK = 2048
"""Tokens of a video's prompt that go through the LLM between two chances to stop."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"

_VIDEO = -1
"""What owns the keys that every question sees; a question's own keys are owned by its number."""


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
class Replies:
    """What was said to several questions about one video.

    Args:
        texts: one a question.
        ids: the tokens written for each, the one that ends it included.
        read: tokens of each prompt, the video's included.
        first_logits: (questions, vocabulary) float32 on the CPU, of every answer's first token.
        prefill_s: seconds, from the tokens being ready, until the video is read; 0 where it had been before.
        first_s: seconds from there to the first token of the first answer.
        rest_s: seconds from there to the end of the last answer.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    read: tuple[int, ...]
    first_logits: Tensor
    prefill_s: float
    first_s: float
    rest_s: float

    @property
    def questions_s(self) -> float:
        """Seconds from the video being read to the end of the last answer."""
        return self.first_s + self.rest_s


def ignore_text(question: int, text: str) -> None:
    """The callback of whoever does not read along."""


def ignore_count(count: int) -> None:
    """The callback of whoever does not count along."""


class Session:
    """A video that is asked about. The model must not run anything else while a question is answered.

    Questions asked together share a pass only where the LLM's attention takes a mask of our own: sdpa and eager do,
    flash attention does not, and answers them one after another.

    Args:
        tokens: any stage's, or the encoder's own; None leaves the video out, so that the LLM answers blind.
        system: the system prompt; the model's own where empty.

    Raises:
        InputError: tokens of another width, or NaN features.
    """

    def __init__(self, model: VideoLLM, tokens: VideoTokens | None, *, system: str = "") -> None:
        if tokens is not None:
            tokens.require_finite()
        self._model, self._tokens, self._system = model, tokens, system
        self._before: tuple[Tensor, ...] | None = None
        self._prefix: Prefix | None = None
        self._cache = DynamicCache()

    @property
    def held(self) -> int:
        """Tokens whose keys and values are held now."""
        return self._cache.get_seq_length()

    @torch.no_grad()
    def ask(
        self,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        turns: Sequence[Turn] = (),
        on_text: Callable[[int, str], None] = ignore_text,
        on_token: Callable[[int], None] = ignore_count,
    ) -> Replies:
        """Answer ``questions``, each as if it were asked alone; sampling starts from the same seed for each.

        Args:
            questions: at least one.
            turns: what was asked and answered before, the same for all questions.
            on_text: called with a question's number and its answer so far whenever that has grown.
            on_token: called with the number of tokens written so far to the longest answer, with 0 between the chunks
                of a prefill; raising stops.

        Raises:
            InputError: no or an empty question, or a prompt longer than the model's context.
        """
        generation = generation or Generation()
        if not questions:
            raise InputError("0 questions; give at least 1.")
        prompts = [self._model.prompt(each, self._tokens, system=self._system, turns=turns) for each in questions]
        start = time.perf_counter()
        prefix = self._begin(prompts)
        read = [len(prefix.inputs) + len(prompt.after) for prompt in prompts]
        require_context(self._model, self._tokens, max(read), generation.max_new_tokens)
        on_token(0)
        packs = list(_packs([prompt.after for prompt in prompts], PACK if self._model.takes_masks else 1))
        alone = len(packs[0]) == 1
        try:
            fresh = self.held < len(prefix.inputs)
            if fresh:
                # A single question is read in the same pass as what is left of its video.
                read_in_chunks(self._model, prefix.inputs, self._cache, on_token, leave=alone)
            read_at = time.perf_counter()
            first_at = 0.0
            written: list[list[int]] = []
            logits: list[Tensor] = []
            for pack in packs:
                run = _Run(self._model, self._cache, prefix, pack, generation, len(written), on_text, on_token)
                ids, first = run.answers()
                first_at = first_at or run.first_at
                written += ids
                logits.append(first)
                self._cut(prefix)
        except BaseException:
            self._cut(prefix)
            raise
        done = time.perf_counter()
        if fresh and alone:
            read_at = first_at
        return Replies(
            texts=tuple(finished_text(self._model, ids).strip() for ids in written),
            ids=tuple(map(tuple, written)),
            read=tuple(read),
            first_logits=torch.cat(logits),
            prefill_s=read_at - start if fresh else 0.0,
            first_s=first_at - (read_at if fresh else start),
            rest_s=done - first_at,
        )

    @contextmanager
    def opened(self, question: str, *, turns: Sequence[Turn] = ()) -> Iterator[tuple[Prefix, Tensor, DynamicCache]]:
        """For whoever reads on behind the video: the prompt up to its end, the (n,) ids that follow, and the cache.

        The cache holds the video when the block begins, and is cut back to it when the block ends.
        """
        prompt = self._model.prompt(question, self._tokens, system=self._system, turns=turns)
        prefix = self._begin([prompt])
        try:
            if self.held < len(prefix.inputs):
                read_in_chunks(self._model, prefix.inputs, self._cache)
            yield prefix, prompt.after, self._cache
        finally:
            self._cut(prefix)

    def _begin(self, prompts: Sequence[Prompt]) -> Prefix:
        """The prompt up to the end of the video, which all questions of a session share."""
        self._before = self._before if self._before is not None else prompts[0].before
        if any(not _equal(prompt.before, self._before) for prompt in prompts):
            raise ValueError(
                f"{self._model.name} is told of the question before the video, so questions cannot share a video"
            )
        if self._prefix is None:
            self._prefix = self._model.prefix(self._tokens, prompts[0])
        return self._prefix

    def _cut(self, prefix: Prefix) -> None:
        """Back to the video, or to what has been read of it."""
        beyond = self.held - len(prefix.inputs)
        if beyond > 0:
            self._cache.crop(-beyond)


def read_in_chunks(
    model: VideoLLM,
    inputs: Inputs,
    cache: DynamicCache,
    on_token: Callable[[int], None] = ignore_count,
    *,
    leave: bool = False,
) -> None:
    """Prefill what the cache does not hold of ``inputs`` yet, a chunk at a time; ``leave`` leaves the last one out."""
    ends = [*range(cache.get_seq_length() + CHUNK, len(inputs), CHUNK), len(inputs)]
    for end in ends[: -1 if leave else None]:
        model.forward(inputs.part(cache.get_seq_length(), end), cache)
        on_token(0)
    synchronise(inputs.inputs_embeds)


def answer_all(model: VideoLLM, tokens: VideoTokens | None, questions: Sequence[str], max_new_tokens: int) -> Replies:
    """Answer ``questions`` about one video together, greedily: a :class:`Session` that ends with its answers.

    Args:
        tokens: any stage's, or the encoder's own; None leaves the video out, so that the LLM answers blind.
        questions: at least one.
        max_new_tokens: of each answer, at least 1.

    Raises:
        InputError: as a session's.
    """
    return Session(model, tokens).ask(questions, Generation(max_new_tokens))


class _Run:
    """Answers to a pack of questions, (n,) ids each, that all follow what is in ``cache``, which grows.

    Where the cache does not hold the whole prefix, the pack is a single question and reads what is missing first.
    """

    def __init__(
        self,
        model: VideoLLM,
        cache: DynamicCache,
        prefix: Prefix,
        questions: Sequence[Tensor],
        generation: Generation,
        number: int,
        on_text: Callable[[int, str], None],
        on_token: Callable[[int], None],
    ) -> None:
        self._model, self._cache, self._prefix, self._questions = model, cache, prefix, questions
        self._generation, self._number, self._on_text, self._on_token = generation, number, on_text, on_token
        self._sample = _sampler(generation, len(questions), model.device)
        self._texts = [""] * len(questions)
        self._written: list[list[int]] = [[] for _ in questions]
        self.first_at = 0.0

    def answers(self) -> tuple[list[list[int]], Tensor]:
        """The ids of every answer, its end included, and the logits of their first tokens, (questions, V) float32."""
        model, prefix, device = self._model, self._prefix, self._model.device
        video = len(prefix.inputs)
        lengths = torch.tensor([len(question) for question in self._questions], device=device)
        ends = torch.tensor(end_ids(model), dtype=torch.long, device=device)
        begins = torch.tensor([prefix.answer_position(len(question)) for question in self._questions], device=device)
        going = torch.arange(len(self._questions), device=device)
        rows = going.repeat_interleave(lengths)
        places = torch.cat(
            [torch.arange(prefix.next_position, prefix.next_position + len(question)) for question in self._questions]
        )
        inputs = model.text_inputs(torch.cat(list(self._questions)), places)
        held = self._cache.get_seq_length()
        if held < video:
            inputs = prefix.inputs.part(held, video).then(inputs)
        asked = lengths.cumsum(0) - 1 + (len(inputs) - len(rows))
        owners = torch.full((video,), _VIDEO, device=device)
        first_logits = torch.empty(0)
        for count in range(self._generation.max_new_tokens):
            owners = torch.cat((owners, rows))
            logits = model.forward(inputs, self._cache, mask=self._mask(owners, len(rows)), keep=asked).float()
            chosen = self._sample(logits, going)
            if count == 0:
                first_logits = logits.cpu()
            self._note(going.tolist(), chosen.tolist())
            unended = ~torch.isin(chosen, ends)
            if not bool(unended.any()):
                break
            going, chosen = going[unended], chosen[unended]
            rows = going
            inputs = model.text_inputs(chosen, begins[going] + count)
            asked = torch.arange(len(going), device=device)
        return self._written, first_logits

    def _mask(self, owners: Tensor, rows: int) -> Tensor | None:
        """None where a question is alone: what it sees is all that stands before it."""
        return None if len(self._questions) == 1 else _block_mask(owners, rows, self._model.dtype)

    def _note(self, questions: Sequence[int], tokens: Sequence[int]) -> None:
        self.first_at = self.first_at or time.perf_counter()
        for question, token in zip(questions, tokens, strict=True):
            self._written[question].append(token)
            if self._on_text is not ignore_text:
                text = finished_text(self._model, self._written[question])
                if text != self._texts[question]:
                    self._texts[question] = text
                    self._on_text(self._number + question, text)
        self._on_token(len(self._written[questions[0]]))


def _sampler(generation: Generation, questions: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Picks the next token of each question still going, from (n, vocabulary) logits and their (n,) numbers."""
    if generation.temperature == 0:
        return lambda logits, going: logits.argmax(-1)
    generators = [torch.Generator(device).manual_seed(generation.seed) for _ in range(questions)]
    warp = [TemperatureLogitsWarper(generation.temperature), TopPLogitsWarper(generation.top_p)]

    def sample(logits: Tensor, going: Tensor) -> Tensor:
        for each in warp:
            logits = each(None, logits)
        rows = zip(logits.softmax(-1), going.tolist(), strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=generators[question]) for row, question in rows])

    return sample


def finished_text(model: VideoLLM, ids: Sequence[int]) -> str:
    """What the ids say, up to the last of them that ends a character."""
    texts = (model.decode(list(ids[:end])) for end in range(len(ids), 0, -1))
    return next((text for text in texts if not text.endswith(UNFINISHED)), "")


def end_ids(model: VideoLLM) -> list[int]:
    """The token ids that end an answer."""
    ends = model.hf_model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]


def require_context(model: VideoLLM, tokens: VideoTokens | None, read: int, new: int) -> None:
    """Refuse a prompt of ``read`` tokens and an answer of ``new`` that are longer than the model's context.

    Args:
        tokens: the video's in that prompt, None where there is none.
    """
    context = model.language.context
    if read + new <= context:
        return
    if tokens is None:
        raise InputError(
            f"{read} tokens of question and {new} of answer are above the {context} that {model.name} reads; "
            "ask a shorter question, or for a shorter answer."
        )
    frames = tokens.frames_shown
    text = read + new - tokens.tokens_kept
    fits = max(0, context - text)
    raise InputError(
        f"{tokens.tokens_kept} video tokens of {frames} frames and {text} of text are above the {context} that "
        f"{model.name} reads; keep at most {fits} (retention {fits / tokens.tokens_full:.3f}), or encode at most "
        f"{fits * frames // tokens.tokens_kept} frames."
    )


def _equal(before: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(before) == len(others) and all(map(torch.equal, before, others))


def _packs(questions: Sequence[Tensor], at_most: int) -> Iterator[list[Tensor]]:
    """The questions, each (n,) long, in their order, in packs of ``at_most`` tokens or one question."""
    pack: list[Tensor] = []
    for question in questions:
        if pack and sum(map(len, pack)) + len(question) > at_most:
            yield pack
            pack = []
        pack.append(question)
    yield pack


def _block_mask(owners: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """What the last ``rows`` of a sequence see of it: the video, and what is their own question's up to themselves.

    Args:
        owners: (columns,) long, the question of every token, or the video.

    Returns:
        (1, 1, rows, columns) of ``dtype``, to be added to the attention scores.
    """
    columns = torch.arange(len(owners), device=owners.device)
    owner, place = owners[-rows:, None], columns[-rows:, None]
    seen = ((owners == _VIDEO) | (owners == owner)) & (columns <= place)
    scores = torch.zeros(seen.shape, dtype=dtype, device=owners.device)
    return scores.masked_fill(~seen, torch.finfo(dtype).min)[None, None]
