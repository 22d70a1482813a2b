"""Asking a video LLM many questions about one video at once, greedily.

Up to the end of the video all questions share one prompt, so that much is prefilled once and kept as keys and
values. The questions then go through the LLM packed, one after another in a single pass: under a block mask each
sees the video and itself, and its positions continue from the video, so every question is read as if it were the
only one. Decoding goes on like that, with the newest token of every unfinished answer in one pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from .answering import end_ids, finished_text, require_context
from .errors import InputError
from .models.base import VideoLLM
from .stages.base import synchronise
from .tokens import VideoTokens

PACK = 1024
"""Question tokens that go through the LLM in one pass: enough to fill it, few enough for a small mask."""

_VIDEO = -1
"""What owns the keys that every question sees; a question's own keys are owned by its number."""


@dataclass(frozen=True)
class Replies:
    """What was said to several questions about one video.

    Args:
        texts: one a question, what :func:`~.answering.answer` says greedily.
        first_logits: (questions, vocabulary) float32 on the CPU, of every answer's first token.
        prefill_s: seconds, from the tokens being ready, to prefill the prompt up to the end of the video.
        questions_s: seconds from there to the end of the last answer.
    """

    texts: tuple[str, ...]
    first_logits: Tensor
    prefill_s: float
    questions_s: float


@torch.no_grad()
def answer_all(vllm: VideoLLM, tokens: VideoTokens | None, questions: Sequence[str], max_new_tokens: int) -> Replies:
    """Answer ``questions`` about one video, greedily.

    The LLM's attention must take a mask of our own: sdpa and eager do, flash attention does not.

    Args:
        tokens: any stage's, or the encoder's own; None leaves the video out, so that the LLM answers blind.
        questions: at least one.
        max_new_tokens: of each answer, at least 1.

    Raises:
        InputError: an empty question, tokens of another width, NaN features, or a prompt longer than the
            model's context.
    """
    if not questions or max_new_tokens < 1:
        raise InputError(f"{len(questions)} questions and {max_new_tokens} new tokens; give at least 1 of each.")
    if tokens is not None:
        tokens.require_finite()
    prompts = [vllm.prompt(question) for question in questions]
    if any(not torch.equal(prompt.before, prompts[0].before) for prompt in prompts):
        raise ValueError(f"{vllm.name} is told of the question before the video, so questions cannot share a video")
    start = time.perf_counter()
    before = _before_the_question(vllm, tokens, prompts[0].before)
    require_context(vllm, tokens, len(before) + max(len(prompt.after) for prompt in prompts), max_new_tokens)
    cache = DynamicCache()
    if len(before):
        vllm.model(inputs_embeds=before[None], past_key_values=cache, use_cache=True, logits_to_keep=1)
    synchronise(before)
    prefilled = time.perf_counter()
    written: list[list[int]] = []
    first_logits = []
    for pack in _packs([prompt.after.to(vllm.device) for prompt in prompts]):
        ids, logits = _generate(vllm, cache, pack, max_new_tokens)
        written += ids
        first_logits.append(logits)
        cache.crop(len(before) - cache.get_seq_length())
    return Replies(
        texts=tuple(finished_text(vllm, ids).strip() for ids in written),
        first_logits=torch.cat(first_logits),
        prefill_s=prefilled - start,
        questions_s=time.perf_counter() - prefilled,
    )


def _before_the_question(vllm: VideoLLM, tokens: VideoTokens | None, ids: Tensor) -> Tensor:
    """(n, D): the prompt up to the end of the video."""
    text = vllm.model.get_input_embeddings()(ids.to(vllm.device))
    return text if tokens is None else torch.cat((text, vllm.visual_embeddings(tokens).to(text)))


def _packs(questions: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The questions, each (n,) long, in their order, in packs of at most :data:`PACK` tokens or one question."""
    pack: list[Tensor] = []
    for question in questions:
        if pack and sum(map(len, pack)) + len(question) > PACK:
            yield pack
            pack = []
        pack.append(question)
    yield pack


def _generate(
    vllm: VideoLLM, cache: DynamicCache, questions: Sequence[Tensor], max_new_tokens: int
) -> tuple[list[list[int]], Tensor]:
    """Greedy answers to questions, each (n,) long, that all follow what is in ``cache``, which grows.

    Returns:
        The ids of every answer, its end included, and the logits of their first tokens, (questions, vocabulary)
        float32 on the CPU.
    """
    device, embed = vllm.device, vllm.model.get_input_embeddings()
    video = cache.get_seq_length()
    lengths = torch.tensor([len(question) for question in questions], device=device)
    ends = torch.tensor(end_ids(vllm), dtype=torch.long, device=device)
    written: list[list[int]] = [[] for _ in questions]
    first_logits = torch.empty(0)

    unfinished = torch.arange(len(questions), device=device)
    ids, rows = torch.cat(list(questions)), unfinished.repeat_interleave(lengths)
    places = torch.cat([torch.arange(video, video + len(question), device=device) for question in questions])
    asked = lengths.cumsum(0) - 1
    owners = torch.full((video,), _VIDEO, device=device)
    for count in range(max_new_tokens):
        owners = torch.cat((owners, rows))
        logits = vllm.model(
            inputs_embeds=embed(ids)[None],
            attention_mask=_block_mask(owners, len(rows), vllm.dtype),
            position_ids=places[None],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=asked,
        ).logits[0]
        if count == 0:
            first_logits = logits.float().cpu()
        chosen = logits.argmax(-1)
        for question, token in zip(unfinished.tolist(), chosen.tolist(), strict=True):
            written[question].append(token)
        going = ~torch.isin(chosen, ends)
        if not bool(going.any()):
            break
        unfinished, ids = unfinished[going], chosen[going]
        rows, places = unfinished, video + lengths[unfinished] + count
        asked = torch.arange(len(unfinished), device=device)
    return written, first_logits


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
