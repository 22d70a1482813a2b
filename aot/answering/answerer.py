"""Who answers questions about a video: the LLM of the model itself, or a server (:mod:`.vllm_server`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from ..models.base import VideoLLM
from ..models.prompt import Turn
from ..tokens.video_tokens import VideoTokens
from .answer import Answer
from .decoding import Decoder
from .generation import CountCallback, Generation, TextCallback, ignore_count, ignore_text
from .inside import require_fit
from .prefilling import Prefiller
from .session import Session


class Answerer(Protocol):
    """Answers questions about reduced tokens, and says what each answer cost."""

    @property
    def model(self) -> VideoLLM:
        """The model that encoded the video."""
        ...

    def require(self, tokens: VideoTokens) -> None:
        """Refuse tokens with a stage that cannot act inside this LLM.

        Args:
            tokens: of any stage.

        Raises:
            InputError: there is one.
        """
        ...

    def answer(
        self,
        tokens: VideoTokens,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        system: str = "",
        turns: Sequence[Turn] = (),
        on_text: TextCallback = ignore_text,
        on_token: CountCallback = ignore_count,
    ) -> list[Answer]:
        """Answer several questions about one video, each as if it were the only one.

        Args:
            tokens: of the encoder or of any stage.
            questions: at least one.
            generation: how answers are generated; greedy, 64 tokens at most, if None.
            system: the system prompt; the model's own if empty.
            turns: earlier questions and their answers, the same for all questions.
            on_text: see :data:`~.generation.TextCallback`.
            on_token: see :data:`~.generation.CountCallback`.

        Returns:
            One answer a question; times and memory are those of all of them together.

        Raises:
            InputError: an empty question, tokens of another width, NaN features, a prompt longer than the model's
                context, or too little memory.
        """
        ...


class LocalAnswerer:
    """Answers with the LLM of the model itself.

    The last video that was read stays in the LLM's key-value cache, so that the next question about it is prefilled
    alone.

    Args:
        model: encodes and answers.
        keep_bytes: a cache of more bytes than this is dropped after answering, and so is the decoder's; the prefiller
            keeps no more; None keeps any.
    """

    def __init__(self, model: VideoLLM, *, keep_bytes: int | None = None) -> None:
        self._model, self._keep_bytes = model, keep_bytes
        self._decoder = Decoder(model, keep_bytes=keep_bytes)
        self._prefiller = Prefiller(model, keep_bytes=keep_bytes)
        self._last: Session | None = None

    @property
    def model(self) -> VideoLLM:
        """The model that encodes and answers."""
        return self._model

    @property
    def decoder(self) -> Decoder:
        """Decodes the answers of all sessions, so that they share its graph."""
        return self._decoder

    @property
    def prefiller(self) -> Prefiller:
        """Reads the prompts of all sessions, so that they share its graphs."""
        return self._prefiller

    @property
    def last(self) -> Session | None:
        """The session whose video is in the cache; None if there is none."""
        return self._last

    def session(self, tokens: VideoTokens, system: str = "") -> Session:
        """The session of these tokens: the last one if it was about the same tokens, a new one otherwise.

        Args:
            tokens: of the encoder or of any stage.
            system: the system prompt; the model's own if empty.

        Raises:
            InputError: NaN features.
        """
        if self._last is not None and self._last.is_about(tokens, system):
            return self._last
        self._last = None
        session = Session(self._model, tokens, system=system, decoder=self._decoder, prefiller=self._prefiller)
        size = self._model.language.kv_cache_bytes(tokens.tokens_kept, self._model.dtype.itemsize)
        if self._keep_bytes is None or size <= self._keep_bytes:
            self._last = session
        return session

    def require(self, tokens: VideoTokens) -> None:
        """Refuse tokens with a stage that cannot act inside this LLM; see :meth:`Answerer.require`."""
        require_fit(self._model, tokens)

    def forget(self) -> None:
        """Free the keys and values of the last video, and what decoder and prefiller keep."""
        self._last = None
        self._decoder.forget()
        self._prefiller.forget()

    def answer(
        self,
        tokens: VideoTokens,
        questions: Sequence[str],
        generation: Generation | None = None,
        *,
        system: str = "",
        turns: Sequence[Turn] = (),
        on_text: TextCallback = ignore_text,
        on_token: CountCallback = ignore_count,
    ) -> list[Answer]:
        """Answer several questions about one video; see :meth:`Answerer.answer`."""
        session = self.session(tokens, system)
        return session.answer(questions, generation, turns=turns, on_text=on_text, on_token=on_token)


def ask(
    model: VideoLLM,
    tokens: VideoTokens,
    question: str,
    generation: Generation | None = None,
    *,
    on_text: Callable[[str], None] = lambda text: None,
    on_token: CountCallback = ignore_count,
) -> Answer:
    """Ask one question about a video.

    Args:
        model: the one that encoded the tokens, or one of the same width.
        tokens: of the encoder or of any stage.
        question: about the video.
        generation: how the answer is generated; greedy, 64 tokens at most, if None.
        on_text: called with the text so far, whenever it has grown.
        on_token: see :data:`~.generation.CountCallback`.

    Raises:
        InputError: as :meth:`Answerer.answer`.
    """
    answerer = LocalAnswerer(model)
    (answer,) = answerer.answer(
        tokens, [question], generation, on_text=lambda number, text: on_text(text), on_token=on_token
    )
    return answer
