"""Which question some tokens are chosen for, and tokens with the question where a chain asks for one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..files import read_digest
from ..models.base import VideoLLM
from ..models.fingerprint import digest
from ..stages import every_stage
from ..stages.chain import Chain
from ..stages.options import NO_RELEVANCE
from ..tokens.video_tokens import StageRecord, VideoTokens

if TYPE_CHECKING:
    from ..models.relevance_model import RelevanceModel
    from ..video.frame_source import FrameSource


def asked(
    model: VideoLLM,
    tokens: VideoTokens,
    chain: Chain,
    question: str,
    *,
    relevance_model: RelevanceModel | None = None,
    frames: FrameSource | None = None,
) -> VideoTokens:
    """The tokens as a chain needs them: with the question where it asks, as they are where it does not.

    Tokens that have a question already keep it. The model is its own assistant where a stage needs one.

    Args:
        model: that encoded them.
        tokens: fresh from the encoder.
        chain: that will reduce them.
        question: the question alone, without instructions around it.
        relevance_model: for chains that need one; those that do not leave it alone.
        frames: that the tokens are of, for it to look at.
    """
    if not chain.needs_question or tokens.question is not None:
        return tokens
    assistant = model if chain.needs_assistant else None
    if not chain.needs_relevance_model:
        relevance_model = frames = None
    return model.about(tokens, question, assistant=assistant, relevance_model=relevance_model, frames=frames)


def reduced(
    model: VideoLLM,
    tokens: VideoTokens,
    chain: Chain,
    question: str,
    *,
    relevance_model: RelevanceModel | None = None,
    frames: FrameSource | None = None,
) -> VideoTokens:
    """What a chain leaves of tokens, chosen by the question where it asks.

    Args:
        model: that encoded them.
        tokens: fresh from the encoder.
        chain: of stages on tokens.
        question: the question alone, without instructions around it.
        relevance_model: as for :func:`asked`.
        frames: as for :func:`asked`.

    Raises:
        InputError: the chain refuses these tokens.
    """
    return chain(asked(model, tokens, chain, question, relevance_model=relevance_model, frames=frames))


def read_beside(chain: Chain, relevance_model: RelevanceModel | None) -> str:
    """A digest of what a chain reads beside a video: files that it names, and the relevance model; "" for nothing.

    Args:
        chain: of any stages.
        relevance_model: for chains that need one.

    Raises:
        InputError: a file cannot be read.
    """
    read: list[object] = [read_digest(path) for path in chain.files]
    if chain.needs_relevance_model and relevance_model is not None:
        read.append(relevance_model.fingerprint)
    return digest(read) if read else ""


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
