"""The tokens that variants start from: one encoding for all that see the same frames in the same way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..answering.reduced_for import reduced
from ..errors import InputError
from ..models.base import VideoLLM
from ..models.encoder import steps_settings
from ..models.fingerprint import digest
from ..models.progress import Progress, ignore_progress
from ..stages.before_tokens import LayoutOf
from ..stages.chain import Chain
from ..tokens.video_tokens import VideoTokens
from ..video.frame_source import FrameSource
from .variants import Variant

if TYPE_CHECKING:
    from ..models.relevance_model import RelevanceModel


@dataclass(frozen=True)
class Start:
    """What a variant starts from.

    Args:
        variant: with a chain for tokens, and what was chosen of the frames as part of it.
        frames: to encode for it; None where the encoding that all share will do.
    """

    variant: Variant
    frames: FrameSource | None = None


class Starts:
    """The tokens that each of some variants starts from.

    Args:
        model: encodes.
        tokens: of the frames, fresh from the encoder, for all variants that choose none.
        frames: that were encoded; None where only their tokens are here.
        file_pixels: see :meth:`~..models.base.VideoLLM.frame_size`.
        more: takes a number, and returns that many frames of the same video; None asks the frames.
        on_progress: called with (done, total) frames of an encoding.
        relevance_model: for chains that need what a CLIP says of every place.
    """

    def __init__(
        self,
        model: VideoLLM,
        tokens: VideoTokens,
        frames: FrameSource | None = None,
        *,
        file_pixels: bool = False,
        more: Callable[[int], FrameSource] | None = None,
        on_progress: Progress = ignore_progress,
        relevance_model: RelevanceModel | None = None,
    ) -> None:
        self._model, self._tokens, self._frames = model, tokens, frames
        self._options: dict[str, Any] = {"file_pixels": file_pixels}
        self._on_progress, self._more, self._relevance_model = on_progress, more, relevance_model
        self._encoded: dict[str, VideoTokens] = {}
        self._left: list[str] = []

    @property
    def shared(self) -> VideoTokens:
        """The tokens of all variants that choose no frames."""
        return self._tokens

    def plan(self, variants: Sequence[Variant]) -> list[Start | InputError]:
        """Choose the frames of every variant; an encoding is kept for as long as a later variant needs it.

        Args:
            variants: in the order in which they will be asked for.

        Returns:
            A start for each, or why it cannot be.
        """
        starts: list[Start | InputError] = []
        for variant in variants:
            try:
                starts.append(self._start(variant))
            except InputError as error:
                starts.append(error)
        self._left = [start.variant.frames for start in starts if isinstance(start, Start)]
        return starts

    def _start(self, variant: Variant) -> Start:
        chain = variant.chain
        if chain is None or not (chain.before_tokens or variant.reinvest > 1):
            return Start(variant)
        if self._frames is None:
            what = chain.before_tokens[0].title if chain.before_tokens else "Reinvest"
            raise InputError(f"{what} acts before the video is encoded, and only its tokens are here; connect frames.")
        frames = self._frames
        if variant.reinvest > 1:
            chain = chain.reinvested(self._tokens.layout)
            frames = more_frames(frames, variant.reinvest, self._more)
        chosen = chain.on_frames(frames, partial(self._model.layout, **self._options))
        seen = {
            "index": chosen.choice.index.tolist() if chosen.choice else [],
            "shrink": dataclasses.asdict(chosen.choice.shrink) if chosen.choice and chosen.choice.shrink else None,
            "inside": steps_settings(chosen),
            "times": frames.timestamps.tolist(),
        }
        return Start(dataclasses.replace(variant, chain=chain, frames=digest(seen)), chosen)

    def tokens(self, start: Start) -> VideoTokens:
        """The tokens that a variant starts from, encoded now unless they are here.

        Args:
            start: of :meth:`plan`.
        """
        if start.frames is None:
            return self._tokens
        key = start.variant.frames
        if key not in self._encoded:
            self._encoded[key] = self._model.encode(start.frames, on_progress=self._on_progress, **self._options)
        return self._model.as_chosen(self._encoded[key], start.frames, **self._options)

    def reduced(self, start: Start, question: str = "") -> VideoTokens:
        """The tokens that a variant leaves, chosen for the question where its chain asks.

        Args:
            start: of :meth:`plan`.
            question: about the video; read only where the chain asks.

        Raises:
            InputError: the variant leaves the video out, or its chain refuses these tokens.
        """
        variant = start.variant
        if variant.chain is None:
            raise InputError(f"{variant.name} leaves the video out, so there is nothing to compare; leave it out here.")
        chain = variant.chain.after_encoding
        return reduced(self._model, self.tokens(start), chain, question, **self.looked_at(start))

    def looked_at(self, start: Start) -> dict[str, Any]:
        """The relevance model and the frames that it looks at for a variant, by the names of arguments.

        Args:
            start: of :meth:`plan`.
        """
        frames = self._frames if start.frames is None else start.frames
        return {"relevance_model": self._relevance_model, "frames": frames}

    def done(self, start: Start) -> None:
        """Forget an encoding that no later variant needs.

        Args:
            start: of :meth:`plan`, in its order.
        """
        key = start.variant.frames
        self._left.remove(key)
        if key not in self._left:
            self._encoded.pop(key, None)


def for_frames(chain: Chain, frames: FrameSource, layout: LayoutOf, reinvest: int = 1) -> tuple[Chain, FrameSource]:
    """A chain set for the frames that it will see, and those frames.

    Args:
        chain: of stages in all places.
        frames: of the video, as many as are sampled.
        layout: takes frames, and returns the layout that the model's tokens of them have.
        reinvest: times as many frames, cut down to the tokens that the chain would leave of the others.

    Raises:
        InputError: there are not so many frames, or a stage refuses them.
    """
    if reinvest > 1:
        chain = chain.reinvested(layout(frames))
        frames = more_frames(frames, reinvest)
    return chain, chain.on_frames(frames, layout)


def more_frames(frames: FrameSource, times: int, more: Callable[[int], FrameSource] | None = None) -> FrameSource:
    """So many times as many frames of the same part of the video.

    Args:
        frames: of a file, or drawn.
        times: 2 or more.
        more: takes a number, and returns that many; None asks the frames.

    Raises:
        InputError: there are no others, or not so many.
    """
    more = more or frames.more
    if more is None:
        raise InputError(
            f"Reinvest needs {times} times the {frames.count} frames, and these come without their file; load the "
            "video with Load Video (AOT)."
        )
    return more(times * frames.count)
