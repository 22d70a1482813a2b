"""How near an answer about reduced tokens is to the answer about all tokens. No right answer is needed.

Two answers alone show whether they are the same, how many tokens they share from the first on, and how different the
distributions of their first tokens were. With the model, one more pass reads the full answer after the reduced video,
and shows how likely every one of its tokens still is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.prompt import Turn
from .answer import Answer
from .session import Session

AT_ONCE = 128
"""Tokens of an answer whose distributions over the vocabulary are on the model's device at once."""


@dataclass(frozen=True)
class Fidelity:
    """One answer against the full answer, the one about all tokens.

    Args:
        same: whether their texts are the same.
        alike: tokens from the first on that are the same, over the tokens of the longer answer, 0 to 1; None if a
            server answered.
        kl_first: KL(full || reduced) of the distributions of the first token, nats; None if a server answered.
        kl: mean of KL(full || reduced) over the tokens of the full answer, each after those before it, nats. This and
            the following are None without a pass of the model.
        log_probability: of the full answer, its end included if it has one, nats.
        per_token: ``log_probability`` over the number of tokens, nats.
        top1: share of the tokens for which both distributions have the same maximum, 0 to 1.
    """

    same: bool
    alike: float | None = None
    kl_first: float | None = None
    kl: float | None = None
    log_probability: float | None = None
    per_token: float | None = None
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, under names that are clear beside other figures."""
        return {
            "same_as_full": self.same,
            "alike": self.alike,
            "kl_first_token": self.kl_first,
            "kl": self.kl,
            "full_answer_log_probability": self.log_probability,
            "full_answer_log_probability_per_token": self.per_token,
            "top1_agreement": self.top1,
        }


@dataclass(frozen=True, eq=False)
class Reference:
    """The full answer's distributions.

    Args:
        ids: (n,) the answer's token ids.
        log_probabilities: (n, vocabulary) float32 on the CPU, of every token after those before it.
    """

    ids: tuple[int, ...]
    log_probabilities: Tensor


def from_answers(full: Answer, reduced: Answer) -> Fidelity:
    """What two answers to one question show by themselves.

    Args:
        full: about all tokens.
        reduced: about fewer.
    """
    same = reduced.text == full.text
    if not full.ids or not reduced.ids:
        return Fidelity(same)
    longest = max(len(full.ids), len(reduced.ids))
    pairs = enumerate(zip(full.ids, reduced.ids, strict=False))
    shared = next((i for i, (a, b) in pairs if a != b), min(len(full.ids), len(reduced.ids)))
    kl_first = None
    if full.first is not None and reduced.first is not None and full.first.shape == reduced.first.shape:
        kl_first = divergence(full.first, reduced.first).item()
    return Fidelity(same, shared / longest, kl_first)


def divergence(full: Tensor, reduced: Tensor) -> Tensor:
    """KL(full || reduced) = sum_v exp(full_v) (full_v - reduced_v), in nats.

    Args:
        full: (..., vocabulary) log-probabilities.
        reduced: likewise.

    Returns:
        (...), 0 or more.
    """
    terms = full.exp() * (full - reduced)
    # A token that both find impossible adds nothing, though the difference of its logarithms is no number.
    return terms.nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).clamp(min=0)


@torch.no_grad()
def reference(session: Session, full: Answer) -> Reference:
    """How likely every token of the full answer was.

    Args:
        session: of all tokens; the video is not read again if the answer came from it.
        full: the answer about them.
    """
    rows = [part.cpu() for part in forced(session, full.question, full.ids, full.turns)]
    return Reference(full.ids, torch.cat(rows))


def of_itself(full: Answer, known: Reference) -> Fidelity:
    """The full answer against itself: no divergence, and how likely it was.

    Args:
        full: the answer about all tokens.
        known: its distributions.
    """
    total = _log_probability(known.log_probabilities, full.ids)
    return Fidelity(True, 1.0, 0.0, 0.0, total, total / len(known.ids), 1.0)


@torch.no_grad()
def fidelity(session: Session, full: Answer, known: Reference, reduced: Answer) -> Fidelity:
    """An answer about reduced tokens against the full answer, in one pass over the full answer.

    Args:
        session: of the reduced tokens; the video is not read again if the answer came from it.
        full: the answer about all tokens.
        known: its distributions, from the same model.
        reduced: the answer about reduced tokens.
    """
    kl = total = 0.0
    same = start = 0
    for part in forced(session, full.question, known.ids, full.turns):
        end = start + len(part)
        of_full = known.log_probabilities[start:end].to(part.device)
        kl += divergence(of_full, part).sum().item()
        same += int((of_full.argmax(-1) == part.argmax(-1)).sum())
        total += _log_probability(part, known.ids[start:end])
        start = end
    count = len(known.ids)
    return dataclasses.replace(
        from_answers(full, reduced), kl=kl / count, log_probability=total, per_token=total / count, top1=same / count
    )


def forced(session: Session, question: str, ids: Sequence[int], turns: Sequence[Turn] = ()) -> Iterator[Tensor]:
    """Log-probabilities of every token of an answer, each after those before it (teacher forcing).

    Args:
        session: of the video's tokens.
        question: about the video.
        ids: (n,) the answer's token ids, at least one.
        turns: earlier questions and their answers.

    Yields:
        (m, vocabulary) float32 on the model's device, at most :data:`AT_ONCE` tokens at a time.
    """
    model = session.model
    with session.opened(question, turns=turns) as opened:
        begin = opened.prefix.answer_position(len(opened.question))
        answer = torch.tensor(ids[:-1], dtype=torch.long)
        inputs = model.text_inputs(answer, torch.arange(begin, begin + len(answer)))
        # The last token of the question predicts the first one of the answer.
        yield opened.read_question().float().log_softmax(-1)
        at_once = session.tokens_at_once or AT_ONCE
        for start in range(0, len(inputs), at_once):
            part = inputs.part(start, min(start + at_once, len(inputs)))
            yield model.forward(part, opened.cache, keep=slice(None)).float().log_softmax(-1)


def _log_probability(log_probabilities: Tensor, ids: Sequence[int]) -> float:
    """The log-probability of (n,) token ids, from (n, vocabulary)."""
    chosen = torch.tensor(ids, dtype=torch.long, device=log_probabilities.device)
    return log_probabilities.gather(1, chosen[:, None]).sum().item()
