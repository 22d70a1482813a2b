"""Questions that go through the LLM together: packed into one sequence after the video, each blind to the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.base import VideoLLM, added
from ..models.prompt import Prefix
from .decoding import Decoder, DecodingStep
from .generation import CountCallback, Generation, TextCallback, end_ids, finished_text, ignore_text, penalised, sampler
from .prefilling import Reader

PACK = 1024
"""Question tokens that go through the LLM in one pass: enough to fill it, few enough for a small mask."""

_VIDEO = -1
"""The owner of the keys that every question sees. A question's own keys are owned by its number."""


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
        device = self._model.device
        ends = set(end_ids(self._model))
        logits, owners = self._read()
        first_logits = logits.cpu()
        numbers = list(range(len(self._questions)))
        unfinished = torch.tensor(numbers, device=device)
        most = self._generation.max_new_tokens
        step: DecodingStep | _GrowingStep | None = None
        for count in range(1, most + 1):
            chosen = self._choose(logits, unfinished)
            tokens = chosen.tolist()
            self._record(numbers, tokens)
            goes_on = [i for i, token in enumerate(tokens) if token not in ends]
            if not goes_on or count == most:
                break
            if len(goes_on) < len(numbers):
                numbers = [numbers[i] for i in goes_on]
                unfinished, chosen = unfinished[goes_on], chosen[goes_on]
            step = step or self._step(owners, most - 1)
            logits = step.next(unfinished, chosen)
        return self._ids, first_logits

    def _read(self) -> tuple[Tensor, Tensor]:
        """The logits of the first tokens, (questions, vocabulary) float32, and the owners of the keys until then."""
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
            return self._prefiller.read(inputs, self._cache).float(), owners
        mask = _block_mask(owners, len(rows), model.dtype)
        return model.forward(inputs, self._cache, mask=mask, keep=lengths.cumsum(0) - 1).float(), owners

    def _step(self, owners: Tensor, tokens: int) -> DecodingStep | _GrowingStep:
        """The step by which these answers are decoded, ``tokens`` times at most."""
        device = self._model.device
        begins = [self._prefix.answer_position(len(question)) for question in self._questions]
        positions = torch.tensor(begins, device=device)
        question = torch.arange(len(self._questions), device=device)[:, None]
        visible = (owners == _VIDEO) | (owners == question)
        step = self._decoder.step(self._cache, visible, positions, tokens)
        return step or _GrowingStep(self._model, self._cache, owners, positions)

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


class _GrowingStep:
    """A decoding step that appends to the cache, for the unfinished answers only."""

    def __init__(self, model: VideoLLM, cache: DynamicCache, owners: Tensor, positions: Tensor) -> None:
        self._model, self._cache, self._owners, self._positions = model, cache, owners, positions
        self._is_packed = len(positions) > 1

    def next(self, rows: Tensor, ids: Tensor) -> Tensor:
        """Logits of the next tokens, (n, vocabulary) float32, after the newest ``ids`` of the answers ``rows``."""
        inputs = self._model.text_inputs(ids, self._positions[rows])
        self._positions = self._positions + 1
        mask = None
        if self._is_packed:
            self._owners = torch.cat((self._owners, rows))
            mask = _block_mask(self._owners, len(rows), self._model.dtype)
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
