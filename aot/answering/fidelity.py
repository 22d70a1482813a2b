"""How near an answer about reduced tokens stays to the answer about all of them, without anybody knowing the truth.

Two answers alone tell whether they are the same, how far they go together, and how different the distributions were
that their first tokens were drawn from. With the model at hand, one more pass over the full answer, read behind the
reduced video, tells how likely every one of its tokens still is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..models.base import VideoLLM
from ..models.prompt import Turn
from .answer import Answer
from .session import Session

AT_ONCE = 128
"""Tokens of an answer whose distributions over the vocabulary are held at once on the model's device."""


@dataclass(frozen=True)
class Fidelity:
    """One answer against the full answer, the one about all tokens.

    Args:
        same: whether their texts are the same.
        alike: tokens from the first on that are the same, as a share of the longer answer; None where a server
            answered.
        kl_first: KL(full || reduced) of the distributions of the first token, nats; None likewise.
        kl: mean of KL(full || reduced) over the tokens of the full answer, each after those before it, nats. This and
            what follows is None where the model was not asked.
        log_probability: of the full answer, its end included where it has one, nats.
        per_token: the same over the number of its tokens.
        top1: share of its tokens at which both find the same token the likeliest.
    """

    same: bool
    alike: float | None = None
    kl_first: float | None = None
    kl: float | None = None
    log_probability: float | None = None
    per_token: float | None = None
    top1: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, each under a name that says what it is apart from the others."""
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
    """How likely the full answer was to whoever gave it.

    Args:
        ids: (n,) the answer's tokens.
        log_probabilities: (n, vocabulary) float32 on the CPU, of every token after those before it.
    """

    ids: tuple[int, ...]
    log_probabilities: Tensor


def judged(full: Answer, said: Answer) -> Fidelity:
    """What two answers to one question tell of each other by themselves."""
    if not full.ids or not said.ids:
        return Fidelity(same=said.text == full.text)
    together = next((i for i, (a, b) in enumerate(zip(full.ids, said.ids, strict=False)) if a != b), None)
    if together is None:
        together = min(len(full.ids), len(said.ids))
    kl_first = None
    if full.first is not None and said.first is not None and full.first.shape == said.first.shape:
        kl_first = divergence(full.first, said.first).item()
    return Fidelity(
        same=said.text == full.text,
        alike=together / max(len(full.ids), len(said.ids)),
        kl_first=kl_first,
    )


def divergence(full: Tensor, reduced: Tensor) -> Tensor:
    """KL(full || reduced) in nats, of log-probabilities, (..., vocabulary) each; (...), never below 0."""
    terms = full.exp() * (full - reduced)
    # A token that is impossible to both adds nothing, though its logarithms differ by no number.
    return terms.nan_to_num(nan=0.0, posinf=torch.inf).sum(-1).clamp(min=0)


@torch.no_grad()
def reference(model: VideoLLM, session: Session, full: Answer) -> Reference:
    """How likely every token of the full answer was.

    Args:
        session: of all the tokens; the video is not read again where the answer came from it.
    """
    rows = [part.cpu() for part in forced(model, session, full.question, full.ids, full.turns)]
    return Reference(full.ids, torch.cat(rows))


def of_itself(full: Answer, known: Reference) -> Fidelity:
    """The full answer against itself: no divergence, and how likely it was."""
    total = _of_answer(known.log_probabilities, known.ids)
    return Fidelity(True, 1.0, 0.0, 0.0, total, total / len(known.ids), 1.0)


@torch.no_grad()
def fidelity(model: VideoLLM, session: Session, full: Answer, known: Reference, said: Answer) -> Fidelity:
    """An answer about reduced tokens against the full answer, in one pass over the full answer.

    Args:
        session: of the reduced tokens; the video is not read again where the answer came from it.
        known: of the full answer, from the same model.
    """
    kl = total = 0.0
    same = start = 0
    for part in forced(model, session, full.question, known.ids, full.turns):
        end = start + len(part)
        before = known.log_probabilities[start:end].to(part.device)
        kl += divergence(before, part).sum().item()
        same += int((before.argmax(-1) == part.argmax(-1)).sum())
        total += _of_answer(part, known.ids[start:end])
        start = end
    count = len(known.ids)
    return dataclasses.replace(
        judged(full, said), kl=kl / count, log_probability=total, per_token=total / count, top1=same / count
    )


def forced(
    model: VideoLLM, session: Session, question: str, ids: Sequence[int], turns: Sequence[Turn] = ()
) -> Iterator[Tensor]:
    """Log-probabilities of every token of a given answer, each after those before it, whoever wrote them.

    Args:
        session: of the video's tokens.
        ids: (n,) at least one, the answer's.

    Yields:
        (m, vocabulary) float32 on the model's device, at most :data:`AT_ONCE` tokens at a time.
    """
    with session.opened(question, turns=turns) as (prefix, after, cache):
        asked = len(after)
        begins = prefix.answer_position(asked)
        answer = model.text_inputs(
            torch.tensor(ids[:-1], dtype=torch.long), torch.arange(begins, begins + len(ids) - 1)
        )
        inputs = model.text_inputs(after, torch.arange(prefix.next_position, prefix.next_position + asked)).then(answer)
        if asked > 1:
            model.forward(inputs.part(0, asked - 1), cache)
        # The last token of the question tells of the answer's first one.
        for start in range(asked - 1, len(inputs), AT_ONCE):
            part = inputs.part(start, min(start + AT_ONCE, len(inputs)))
            yield model.forward(part, cache, keep=slice(None)).float().log_softmax(-1)


def _of_answer(log_probabilities: Tensor, ids: Sequence[int]) -> float:
    """The log-probability of tokens, given (n, vocabulary) of them."""
    chosen = torch.tensor(ids, dtype=torch.long, device=log_probabilities.device)
    return log_probabilities.gather(1, chosen[:, None]).sum().item()
