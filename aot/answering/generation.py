"""How an answer is generated: the settings, the choice of each next token, and the text that the tokens make."""

from __future__ import annotations

import math
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
        repetition_penalty: above 1, tokens that the prompt or the answer has already are less likely; 1 leaves them as
            they are, and 0 takes the checkpoint's own, as its makers do.

    Raises:
        InputError: a value outside these bounds.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    repetition_penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or not 0 < self.top_p <= 1 or self.seed < 0:
            raise InputError(
                f"Generation with {self.max_new_tokens} new tokens, temperature {self.temperature:g}, top-p "
                f"{self.top_p:g}, seed {self.seed}; tokens start at 1, temperature and seed at 0, top-p is above 0 "
                "and at most 1."
            )
        if not 0 <= self.repetition_penalty < math.inf:
            raise InputError(
                f"The repetition penalty is {self.repetition_penalty:g}; give 0 for the model's own, 1 for none, or a "
                "number above 0, for example 1.05."
            )

    def penalty(self, model: VideoLLM) -> float:
        """The repetition penalty of a model's answers.

        Args:
            model: that answers.
        """
        return self.repetition_penalty or model.repetition_penalty


def ignore_text(question: int, text: str) -> None:
    """The text callback that does nothing."""


def ignore_count(count: int) -> None:
    """The count callback that does nothing."""


Chooser = Callable[[Tensor, Tensor], Tensor]
"""From (n, vocabulary) logits and the (n,) long numbers of their questions to (n,) long token ids."""


def penalised(chooser: Chooser, penalty: float, before: Sequence[Tensor]) -> Chooser:
    """A function that picks next tokens as ``chooser`` does, but from penalised logits.

    Args:
        chooser: picks them.
        penalty: on tokens that were there before: positive logits are divided by it, negative ones multiplied.
        before: (m,) long for each question, the ids in its prompt that count.
    """
    if penalty == 1:
        return chooser
    seen: Tensor | None = None

    def choose(logits: Tensor, numbers: Tensor) -> Tensor:
        nonlocal seen
        if seen is None:
            seen = torch.zeros(len(before), logits.shape[-1], dtype=torch.bool, device=logits.device)
            for row, ids in zip(seen, before, strict=True):
                row[ids[ids < len(row)].to(row.device)] = True
        chosen = chooser(
            torch.where(seen[numbers], torch.where(logits < 0, logits * penalty, logits / penalty), logits), numbers
        )
        seen[numbers, chosen] = True
        return chosen

    return choose


def sampler(generation: Generation, questions: int, device: torch.device) -> Chooser:
    """A function that picks the next token of each unfinished answer.

    Each question has a generator of its own with the same seed, so that an answer does not depend on the others.

    Args:
        generation: greedy, or temperature, top-p and seed.
        questions: the number of questions.
        device: of the logits.
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
