"""How an answer is generated: the settings, the choice of each next token, and the text that the tokens make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.generation.logits_process import TemperatureLogitsWarper, TopPLogitsWarper

from ..errors import InputError
from ..models.base import VideoLLM

TextCallback = Callable[[int, str], None]
"""Called with a question's number and its answer so far, whenever that has grown."""

CountCallback = Callable[[int], None]
"""Called with the number of tokens of the longest answer so far, and with 0 between the chunks of a prefill. It may
raise to stop the generation."""

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Generation:
    """How an answer is generated.

    Args:
        max_new_tokens: the longest answer, in tokens; 1 or more.
        temperature: 0 is greedy; above 0 samples.
        top_p: share of the probability mass to sample from, above 0 and at most 1.
        seed: of the sampling, 0 or more.

    Raises:
        InputError: a value outside these bounds.
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


def ignore_text(question: int, text: str) -> None:
    """The text callback that does nothing."""


def ignore_count(count: int) -> None:
    """The count callback that does nothing."""


def sampler(generation: Generation, questions: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """A function that picks the next token of each unfinished answer.

    Each question has a generator of its own with the same seed, so that an answer does not depend on the others.

    Args:
        generation: greedy, or temperature, top-p and seed.
        questions: the number of questions.
        device: of the logits.

    Returns:
        From (n, vocabulary) logits and the (n,) long numbers of their questions to (n,) long token ids.
    """
    if generation.temperature == 0:
        return lambda logits, numbers: logits.argmax(-1)
    generators = [torch.Generator(device).manual_seed(generation.seed) for _ in range(questions)]
    warpers = [TemperatureLogitsWarper(generation.temperature), TopPLogitsWarper(generation.top_p)]

    def sample(logits: Tensor, numbers: Tensor) -> Tensor:
        for warper in warpers:
            logits = warper(None, logits)
        rows = zip(logits.softmax(-1), numbers.tolist(), strict=True)
        return torch.cat([torch.multinomial(row, 1, generator=generators[number]) for row, number in rows])

    return sample


def finished_text(model: VideoLLM, ids: Sequence[int]) -> str:
    """The text of token ids, up to the last token that completes a character.

    Args:
        model: decodes them.
        ids: (n,) of an answer, perhaps unfinished.
    """
    texts = (model.decode(list(ids[:end])) for end in range(len(ids), 0, -1))
    return next((text for text in texts if not text.endswith(_UNFINISHED)), "")


def end_ids(model: VideoLLM) -> list[int]:
    """The token ids that end an answer."""
    ends = model.hf_model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list) else [] if ends is None else [ends]
