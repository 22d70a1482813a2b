"""Questions that go through the LLM together: packed into one sequence after the video, each blind to the others.

Their answers are decoded together too, with the newest token of every unfinished one in a pass. :mod:`.together` does
that for questions about several videos.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.base import VideoLLM, added
from ..models.prompt import Prefix
from .decoding import Decoder, DecodingStep
from .generation import (
    Chooser,
    CountCallback,
    Generation,
    TextCallback,
    end_ids,
    finished_text,
    ignore_text,
    penalised,
    sampler,
)
from .prefilling import Reader

PACK = 1024
"""Question tokens that go through the LLM in one pass: enough to fill it, few enough for a small mask."""

_VIDEO = -1
"""The owner of the keys that every question sees. A question's own keys are owned by its number."""


@dataclass(frozen=True)
class Asked:
    """Questions that were read, ready for their answers.

    Args:
        logits: (questions, vocabulary) float32, of every answer's first token.
        visible: (questions, columns) bool, the tokens in the cache that each answer sees.
        positions: (questions,) long, rotary positions of the answers' first tokens.
    """

    logits: Tensor
    visible: Tensor
    positions: Tensor


def packs(questions: Sequence[Tensor], most: int) -> Iterator[list[Tensor]]:
    """The questions in order, in packs of at most ``most`` tokens, or of one question.

    Args:
        questions: (n,) long token ids each.
        most: tokens of a pack.
    """
    pack: list[Tensor] = []
    for question in questions:
        if pack and sum(map(len, pack)) + len(question) > most:
            yield pack
            pack = []
        pack.append(question)
    yield pack


class PackedQuestions:
    """One pack of questions about the video in ``cache``, and the decoding of their answers.

    If the cache does not hold the whole prefix yet, the pack is a single question, whose pass reads the rest of it.

    Args:
        model: whose LLM answers.
        cache: of keys and values; grows while answers are decoded.
        prefix: the prompt up to the end of the video.
        questions: (n,) long token ids each.
        repeatable: (m,) long token ids each, of the whole prompt, that a repetition penalty counts.
        generation: how answers are generated.
        number: of the first of these questions, for the text callback.
        on_text: see :data:`~.generation.TextCallback`.
        on_token: see :data:`~.generation.CountCallback`.
        decoder: chooses how the answers are decoded.
        prefiller: reads a single question, and the rest of the prefix with it.
    """

    def __init__(
        self,
        model: VideoLLM,
        cache: DynamicCache,
        prefix: Prefix,
        questions: Sequence[Tensor],
        repeatable: Sequence[Tensor],
        generation: Generation,
        number: int,
        on_text: TextCallback,
        on_token: CountCallback,
        decoder: Decoder,
        prefiller: Reader,
    ) -> None:
        self._model, self._cache, self._prefix, self._questions = model, cache, prefix, questions
        self._generation, self._number, self._on_text, self._on_token = generation, number, on_text, on_token
        self._decoder, self._prefiller = decoder, prefiller
        choose = sampler(generation, len(questions), model.device)
        self._choose = penalised(choose, generation.penalty(model), repeatable)
        self._texts = [""] * len(questions)
        self._ids: list[list[int]] = [[] for _ in questions]
        self.first_at = 0.0
        """When the first token came, by ``time.perf_counter``; 0 before."""

    def answers(self) -> tuple[list[list[int]], Tensor]:
        """Decode the answers.

        Returns:
            The token ids of every answer, its end included; the logits of their first tokens, (questions, vocabulary)
            float32 on the CPU.
        """
        asked = self.read()
        first_logits = asked.logits.cpu()
        decode_rows(self._model, self._cache, asked, self._choose, self._generation, self._decoder, self._record)
        return self._ids, first_logits

    def read(self) -> Asked:
        """Read the questions, and what the cache lacks of the prefix."""
        model, prefix, device = self._model, self._prefix, self._model.device
        video = len(prefix.inputs)
        lengths = torch.tensor([len(question) for question in self._questions], device=device)
        rows = torch.arange(len(self._questions), device=device).repeat_interleave(lengths)
        first = prefix.next_position
        positions = torch.cat([torch.arange(first, first + len(question)) for question in self._questions])
        inputs = model.text_inputs(torch.cat(list(self._questions)), positions)
        cached = self._cache.get_seq_length()
        if cached < video:
            inputs = prefix.inputs.part(cached, video).then(inputs)
        owners = torch.cat((torch.full((video,), _VIDEO, device=device), rows))
        if len(self._questions) == 1:
            logits = self._prefiller.read(inputs, self._cache).float()
        else:
            mask = _block_mask(owners, len(rows), model.dtype)
            logits = model.forward(inputs, self._cache, mask=mask, keep=lengths.cumsum(0) - 1).float()
        begins = [prefix.answer_position(len(question)) for question in self._questions]
        question = torch.arange(len(self._questions), device=device)[:, None]
        visible = (owners == _VIDEO) | (owners == question)
        return Asked(logits, visible, torch.tensor(begins, device=device))

    def _record(self, questions: Sequence[int], tokens: Sequence[int]) -> None:
        self.first_at = self.first_at or time.perf_counter()
        for question, token in zip(questions, tokens, strict=True):
            self._ids[question].append(token)
            if self._on_text is not ignore_text:
                text = finished_text(self._model, self._ids[question])
                if text != self._texts[question]:
                    self._texts[question] = text
                    self._on_text(self._number + question, text)
        self._on_token(len(self._ids[questions[0]]))


def decode_rows(
    model: VideoLLM,
    cache: DynamicCache,
    asked: Asked,
    choose: Chooser,
    generation: Generation,
    decoder: Decoder,
    record: Callable[[Sequence[int], Sequence[int]], None],
) -> None:
    """Decode the answers to questions that were read, with the newest token of every unfinished one in a pass.

    Args:
        model: whose LLM answers.
        cache: that the questions were read into; it may grow.
        asked: the questions.
        choose: picks the next tokens.
        generation: how long answers may become.
        decoder: chooses how they are decoded.
        record: called with the numbers of questions, and the next token of each one's answer.
    """
    ends, most = set(end_ids(model)), generation.max_new_tokens
    logits, numbers = asked.logits, list(range(len(asked.positions)))
    unfinished = torch.tensor(numbers, device=model.device)
    step: DecodingStep | _GrowingStep | None = None
    for count in range(1, most + 1):
        chosen = choose(logits, unfinished)
        tokens = chosen.tolist()
        record(numbers, tokens)
        goes_on = [i for i, token in enumerate(tokens) if token not in ends]
        if not goes_on or count == most:
            break
        if len(goes_on) < len(numbers):
            numbers = [numbers[i] for i in goes_on]
            unfinished, chosen = unfinished[goes_on], chosen[goes_on]
        step = step or first_step(model, cache, asked, decoder, most - 1)
        logits = step.next(unfinished, chosen)


def first_step(
    model: VideoLLM, cache: DynamicCache, asked: Asked, decoder: Decoder, tokens: int
) -> DecodingStep | _GrowingStep:
    """The step by which answers are decoded, ``tokens`` times at most.

    Args:
        model: whose LLM answers.
        cache: that the questions were read into; it may grow.
        asked: the questions.
        decoder: chooses how they are decoded.
        tokens: the most steps.
    """
    step = decoder.step(cache, asked.visible, asked.positions, tokens)
    return step or _GrowingStep(model, cache, asked.visible, asked.positions)


class _GrowingStep:
    """A decoding step that appends to the cache, for the unfinished answers only."""

    def __init__(self, model: VideoLLM, cache: DynamicCache, visible: Tensor, positions: Tensor) -> None:
        self._model, self._cache, self._visible, self._positions = model, cache, visible, positions
        self._is_packed = len(positions) > 1

    def next(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Logits of the next tokens, (n, vocabulary) float32, after the newest ``ids`` of the answers ``rows``."""
        inputs = self._model.text_inputs(ids, self._positions[rows])
        self._positions = self._positions + 1
        mask = None
        if self._is_packed:
            answers = torch.arange(len(self._positions), device=rows.device)[:, None]
            self._visible = torch.cat((self._visible, answers == rows), 1)
            mask = added(self._visible[rows], self._model.dtype)
        return self._model.forward(inputs, self._cache, mask=mask, keep=slice(None)).float()


def _block_mask(owners: Tensor, rows: int, dtype: torch.dtype) -> Tensor:
    """What the last ``rows`` tokens of a sequence see of it: the video, and their own question up to themselves.

    Args:
        owners: (columns,) long, the question of every token, or the video.
        rows: the tokens of this pass.
        dtype: of the attention scores.

    Returns:
        (1, 1, rows, columns) of ``dtype``, to be added to the attention scores.
    """
    columns = torch.arange(len(owners), device=owners.device)
    owner, row = owners[-rows:, None], columns[-rows:, None]
    visible = ((owners == _VIDEO) | (owners == owner)) & (columns <= row)
    return added(visible, dtype)
