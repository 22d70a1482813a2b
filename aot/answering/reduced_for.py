"""Which question some tokens are chosen for, and tokens with the question where a chain asks for one."""

from __future__ import annotations

from ..models.base import VideoLLM
from ..stages import every_stage
from ..stages.chain import Chain
from ..stages.options import NO_RELEVANCE
from ..tokens.video_tokens import StageRecord, VideoTokens


def asked(model: VideoLLM, tokens: VideoTokens, chain: Chain, question: str) -> VideoTokens:
    """The tokens as a chain needs them: with the question where it asks, as they are where it does not.

    Tokens that have a question already keep it. The model is its own assistant where a stage needs one.

    Args:
        model: that encoded them.
        tokens: fresh from the encoder.
        chain: that will reduce them.
        question: the question alone, without instructions around it.
    """
    if not chain.needs_question or tokens.question is not None:
        return tokens
    return model.about(tokens, question, assistant=model if chain.needs_assistant else None)


def reduced(model: VideoLLM, tokens: VideoTokens, chain: Chain, question: str) -> VideoTokens:
    """What a chain leaves of tokens, chosen by the question where it asks.

    Args:
        model: that encoded them.
        tokens: fresh from the encoder.
        chain: of stages on tokens.
        question: the question alone, without instructions around it.

    Raises:
        InputError: the chain refuses these tokens.
    """
    return chain(asked(model, tokens, chain, question))


def reduced_for(tokens: VideoTokens) -> str | None:
    """The question that stages chose these tokens for; None where none asked.

    Args:
        tokens: of any stage.
    """
    if tokens.question is None or not any(map(_asked, tokens.history)):
        return None
    return tokens.question.text


def _asked(record: StageRecord) -> bool:
    kind = every_stage().get(record.name)
    return kind is not None and kind.asks and record.settings.get("relevance") != NO_RELEVANCE
