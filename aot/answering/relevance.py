"""Whether a model's words and its visual tokens share directions: a figure beside every question that stages ask by."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..models.base import VideoLLM
from ..tokens.matmul import working_dtype
from ..tokens.video_tokens import VideoTokens

UNRELATED = ("What is the person in the kitchen cooking for dinner?", "Which team scores the first goal?")
"""Questions that are hardly ever about the video; the second stands in where the first is asked."""


@torch.no_grad()
def likeness(tokens: VideoTokens, words: Tensor) -> Tensor:
    """(K,) the cosine of every token with the mean direction of some words.

    Args:
        tokens: of any stage.
        words: (L, D) floating.
    """
    dtype = working_dtype(tokens.features.dtype)
    question = normalize(words.to(tokens.features.device, dtype), dim=-1).mean(0)
    return normalize(tokens.features.to(dtype), dim=-1) @ question


def agreement_with_unrelated(model: VideoLLM, tokens: VideoTokens) -> float:
    """How alike the tokens' question and an unrelated one rank the tokens: the correlation of their likenesses.

    Near 1 the words do not tell the questions apart, so that what is chosen by them is not chosen by the question.

    Args:
        model: that encoded the tokens.
        tokens: with a question.

    Raises:
        ValueError: they come without one.
    """
    if tokens.question is None:
        raise ValueError("tokens without a question")
    other = next(each for each in UNRELATED if each != tokens.question.text)
    unrelated = model.about(tokens, other).question
    both = [likeness(tokens, each.words) for each in (tokens.question, unrelated) if each is not None]
    return float(torch.corrcoef(torch.stack(both).double().cpu())[0, 1].nan_to_num())


def in_words(agreement: float) -> str:
    """What a correlation says, in a line.

    Args:
        agreement: as :func:`agreement_with_unrelated` gives it.
    """
    return f"ranking by its words and by unrelated ones correlates at {agreement:.2f}"
