"""Questions about several videos, answered together.

Each video is read alone, as :class:`.session.Session` reads it: a prompt with a video fills the hardware by itself. A
decoding step does not, since it reads all weights for a single token. So the keys and values of all videos are joined,
one video after another, and one pass takes the newest token of every unfinished answer. A mask shows each answer its
own video and question, and every token has the position that it would have alone. So answers are those that each
question gets alone, but for rounding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ..errors import InputError
from ..models.base import VideoLLM
from ..models.prompt import Prompt
from ..tokens.video_tokens import VideoTokens
from .answer import Answer
from .decoding import Decoder
from .generation import CountCallback, Generation, finished_text, ignore_count, ignore_text, penalised, sampler
from .inside import require_fit
from .memory_advice import explaining
from .packing import PACK, Asked, PackedQuestions, decode_rows, packs
from .prefilling import Prefiller
from .session import Session, prefill, require_room

COLUMNS = 16384
"""Prompt tokens of all videos in one pass, unless a single one has more: each answer's attention runs over all."""


@dataclass(frozen=True)
class AskedVideo:
    """A video, and what is asked about it.

    Args:
        tokens: of the encoder or of any stage.
        questions: at least one.
    """

    tokens: VideoTokens
    questions: Sequence[str]


@dataclass(frozen=True)
class _Read:
    """A video and its questions in the LLM.

    Args:
        place: of the video among those asked about.
        cache: its keys and values, and the questions'.
        asked: the questions.
        repeatable: (m,) long each, the token ids that a repetition penalty counts.
        prompt_tokens: of each prompt.
        seconds: from the tokens to the first logits.
    """

    place: int
    cache: DynamicCache
    asked: Asked
    repeatable: tuple[Tensor, ...]
    prompt_tokens: tuple[int, ...]
    seconds: float


class TogetherAnswerer:
    """Answers questions about several videos in the same passes. For one thread; threads may share the model.

    Videos are answered one after another where passes cannot be shared: by flash or linear attention, by a sliding
    window, and where a stage acts inside the LLM.

    Args:
        model: encoded the videos, and answers.
    """

    def __init__(self, model: VideoLLM) -> None:
        self._model = model
        # On a CPU the step of fixed shapes runs as it is: it copies no cache to add a token to it.
        self._decoder = Decoder(model, "graph" if model.device.type == "cpu" else None)
        self._prefiller = Prefiller(model)

    @torch.no_grad()
    def answer(
        self,
        videos: Sequence[AskedVideo],
        generation: Generation | None = None,
        *,
        system: str = "",
        on_token: CountCallback = ignore_count,
    ) -> list[list[Answer] | InputError]:
        """Answer questions, each as if it were the only one.

        Args:
            videos: with their questions.
            generation: how answers are generated; greedy, 64 tokens at most, if None.
            system: the system prompt; the model's own if empty.
            on_token: see :data:`~.generation.CountCallback`.

        Returns:
            For each video its answers, or why there are none. ``decode_s`` is an answer's share of the time that all
            were decoded in.
        """
        generation = generation or Generation()
        results: list[list[Answer] | InputError] = [InputError("not answered")] * len(videos)
        waiting: list[_Read] = []
        for place, video in enumerate(videos):
            try:
                read = self._read(place, video, generation, system, on_token)
                if read is None:
                    results[place] = self._alone(video, generation, system, on_token)
                    continue
            except InputError as error:
                results[place] = error
                continue
            if waiting and sum(map(_columns, waiting)) + _columns(read) > COLUMNS:
                self._decode(waiting, videos, generation, system, on_token, results)
                waiting = []
            waiting.append(read)
        if waiting:
            self._decode(waiting, videos, generation, system, on_token, results)
        return results

    def _read(
        self, place: int, video: AskedVideo, generation: Generation, system: str, on_token: CountCallback
    ) -> _Read | None:
        """Read a video and its questions; None where they are to be answered by themselves."""
        model, tokens = self._model, video.tokens
        if require_fit(model, tokens) or not model.takes_masks:
            return None
        tokens.require_finite()
        prompts = [model.prompt(each, tokens, system=system) for each in video.questions]
        if len(list(packs([prompt.after for prompt in prompts], PACK))) != 1 or not _share(prompts):
            return None
        with explaining(model, tokens):
            start = time.perf_counter()
            prefix = model.prefix(tokens, prompts[0])
            lengths = tuple(len(prefix.inputs) + len(prompt.after) for prompt in prompts)
            require_room(model, tokens, prefix, prompts, generation.max_new_tokens)
            cache = model.new_cache()
            prefill(self._prefiller, prefix.inputs, cache, on_token, leave_last=len(prompts) == 1)
            on_token(0)
            repeatable = tuple(model.repeatable(tokens, prompt) for prompt in prompts)
            packed = PackedQuestions(
                model,
                cache,
                prefix,
                [prompt.after for prompt in prompts],
                repeatable,
                generation,
                0,
                ignore_text,
                ignore_count,
                self._decoder,
                self._prefiller,
            )
            asked = packed.read()
            return _Read(place, cache, asked, repeatable, lengths, time.perf_counter() - start)

    def _alone(self, video: AskedVideo, generation: Generation, system: str, on_token: CountCallback) -> list[Answer]:
        decoder = Decoder(self._model)
        session = Session(self._model, video.tokens, system=system, decoder=decoder, prefiller=self._prefiller)
        return session.answer(list(video.questions), generation, on_token=on_token)

    def _decode(
        self,
        reads: Sequence[_Read],
        videos: Sequence[AskedVideo],
        generation: Generation,
        system: str,
        on_token: CountCallback,
        results: list[list[Answer] | InputError],
    ) -> None:
        """Put the answers of videos that were read into their places; one after another if memory runs out."""
        try:
            with explaining(self._model, videos[reads[0].place].tokens):
                answers = self._decoded(reads, videos, generation, on_token)
        except InputError:
            self._decoder.forget()
            for read in reads:
                try:
                    results[read.place] = self._alone(videos[read.place], generation, system, on_token)
                except InputError as error:
                    results[read.place] = error
            return
        for read, each in zip(reads, answers, strict=True):
            results[read.place] = each

    def _decoded(
        self,
        reads: Sequence[_Read],
        videos: Sequence[AskedVideo],
        generation: Generation,
        on_token: CountCallback,
    ) -> list[list[Answer]]:
        model, start = self._model, time.perf_counter()
        asked, cache = _joined(reads, model)
        rows = len(asked.positions)
        choose = sampler(generation, rows, model.device)
        repeatable = [ids for read in reads for ids in read.repeatable]
        choose = penalised(choose, generation.penalty(model), repeatable)
        ids: list[list[int]] = [[] for _ in range(rows)]

        def record(numbers: Sequence[int], tokens: Sequence[int]) -> None:
            for number, token in zip(numbers, tokens, strict=True):
                ids[number].append(token)
            on_token(len(ids[numbers[0]]))

        decode_rows(model, cache, asked, choose, generation, self._decoder, record)
        self._decoder.rest()
        share = (time.perf_counter() - start) / rows
        every = iter(ids)
        return [
            [
                Answer.about(
                    model,
                    videos[read.place].tokens,
                    question,
                    finished_text(model, own := next(every)).strip(),
                    prompt_tokens=prompt_tokens,
                    new_tokens=len(own),
                    prefill_s=read.seconds,
                    decode_s=share,
                    peak_memory_bytes=0,
                    ids=tuple(own),
                )
                for question, prompt_tokens in zip(videos[read.place].questions, read.prompt_tokens, strict=True)
            ]
            for read in reads
        ]


def _columns(read: _Read) -> int:
    return read.asked.visible.shape[1]


def _share(prompts: Sequence[Prompt]) -> bool:
    """Whether all prompts are the same up to the end of the video."""
    first = prompts[0].before
    return all(len(each.before) == len(first) and all(map(torch.equal, each.before, first)) for each in prompts)


def _joined(reads: Sequence[_Read], model: VideoLLM) -> tuple[Asked, DynamicCache]:
    """All questions together, with the keys and values of one video after another."""
    if len(reads) == 1:
        return reads[0].asked, reads[0].cache
    cache = model.new_cache()
    for number in range(len(reads[0].cache.layers)):
        layers: list[Any] = [read.cache.layers[number] for read in reads]
        keys, values = (torch.cat([getattr(each, name) for each in layers], 2) for name in ("keys", "values"))
        cache.update(keys, values, number)
    asked = [read.asked for read in reads]
    return Asked(
        torch.cat([each.logits for each in asked]),
        torch.block_diag(*(each.visible for each in asked)).bool(),
        torch.cat([each.positions for each in asked]),
    ), cache
