"""Questions that go through the LLM together: packed into one sequence after the video, each blind to the others."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from ..models.base import VideoLLM
from ..models.prompt import Prefix
from .generation import CountCallback, Generation, TextCallback, end_ids, finished_text, ignore_text, sampler

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
        generation: how answers are generated.
        number: of the first of these questions, for the text callback.
        on_text: see :data:`~.generation.TextCallback`.
        on_token: see :data:`~.generation.CountCallback`.
    """

    def __init__(
        self,
        model: VideoLLM,
        cache: DynamicCache,
        prefix: Prefix,
        questions: Sequence[Tensor],
        generation: Generation,
        number: int,
        on_text: TextCallback,
        on_token: CountCallback,
    ) -> None:
        self._model, self._cache, self._prefix, self._questions = model, cache, prefix, questions
        self._generation, self._number, self._on_text, self._on_token = generation, number, on_text, on_token
        self._sample = sampler(generation, len(questions), model.device)
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
        model, prefix, device = self._model, self._prefix, self._model.device
        video = len(prefix.inputs)
        lengths = torch.tensor([len(question) for question in self._questions], device=device)
        ends = torch.tensor(end_ids(model), dtype=torch.long, device=device)
        begins = torch.tensor([prefix.answer_position(len(question)) for question in self._questions], device=device)
        unfinished = torch.arange(len(self._questions), device=device)
        rows = unfinished.repeat_interleave(lengths)
        first = prefix.next_position
        positions = torch.cat([torch.arange(first, first + len(question)) for question in self._questions])
        inputs = model.text_inputs(torch.cat(list(self._questions)), positions)
        cached = self._cache.get_seq_length()
        if cached < video:
            inputs = prefix.inputs.part(cached, video).then(inputs)
        last = lengths.cumsum(0) - 1 + (len(inputs) - len(rows))
        owners = torch.full((video,), _VIDEO, device=device)
        first_logits = torch.empty(0)
        for count in range(self._generation.max_new_tokens):
            owners = torch.cat((owners, rows))
            logits = model.forward(inputs, self._cache, mask=self._mask(owners, len(rows)), keep=last).float()
            chosen = self._sample(logits, unfinished)
            if count == 0:
                first_logits = logits.cpu()
            self._record(unfinished.tolist(), chosen.tolist())
            goes_on = ~torch.isin(chosen, ends)
            if not bool(goes_on.any()):
                break
            unfinished, chosen = unfinished[goes_on], chosen[goes_on]
            rows = unfinished
            inputs = model.text_inputs(chosen, begins[unfinished] + count)
            last = torch.arange(len(unfinished), device=device)
        return self._ids, first_logits

    def _mask(self, owners: Tensor, rows: int) -> Tensor | None:
        """None for a single question: it sees all that comes before it."""
        return None if len(self._questions) == 1 else _block_mask(owners, rows, self._model.dtype)

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
    scores = torch.zeros(visible.shape, dtype=dtype, device=owners.device)
    return scores.masked_fill(~visible, torch.finfo(dtype).min)[None, None]
