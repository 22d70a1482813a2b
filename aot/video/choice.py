"""What stages before the encoder chose of a video: which of its frames, and how large the encoder sees them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from .frame_source import FrameFacts, FrameSource
    from .frames import Clock


@dataclass(frozen=True, eq=False)
class AllFrames:
    """The frames that there were before any was left out, without their pixels.

    Args:
        count: of frames.
        height: in pixels.
        width: in pixels.
        timestamps: (T,) float64, in seconds.
        source: the file's name.
        clock: of the whole video; None if it is not known.
        file_s: as that of the frames.
        choice: None, as nothing was chosen.
    """

    count: int
    height: int
    width: int
    timestamps: Tensor
    source: str
    clock: Clock | None = None
    file_s: float | None = None
    choice: Choice | None = None

    @classmethod
    def of(cls, frames: FrameFacts) -> AllFrames:
        """What is kept of frames that some are chosen of.

        Args:
            frames: decoded, or a file still to be decoded.
        """
        sizes = frames.count, frames.height, frames.width
        return cls(*sizes, frames.timestamps, frames.source, frames.clock, frames.file_s)


@dataclass(frozen=True)
class Shrink:
    """How much smaller the encoder makes frames than it would.

    Args:
        retention: share of the language grid's tokens to leave; counts where there is no number of tokens.
        tokens: of all frames together; 0 goes by the retention.
        frames: that those tokens are for.
    """

    retention: float
    tokens: int
    frames: int


@dataclass(frozen=True)
class Chosen:
    """A line of the history: a stage that chose frames, or made them smaller.

    Args:
        name: the stage's.
        settings: by name.
        frames: that it left.
        shrink: what it, or one before it, makes of their size; None for nothing.
        milliseconds: how long it took.
    """

    name: str
    settings: Mapping[str, Any]
    frames: int
    shrink: Shrink | None
    milliseconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))


@dataclass(frozen=True, eq=False)
class Choice:
    """What was chosen of a video's frames so far.

    Args:
        given: the frames before the first stage.
        index: (K,) int64, of the chosen ones among those, increasing.
        shrink: how much smaller they become; None for nothing.
        scores: (K,) float64, what a stage or a file says a frame is worth; None where nothing does.
        history: a line a stage.
    """

    given: AllFrames
    index: Tensor
    shrink: Shrink | None = None
    scores: Tensor | None = None
    history: tuple[Chosen, ...] = ()

    @classmethod
    def of(cls, frames: FrameFacts) -> Choice:
        """What was chosen of some frames: all of them, unless a stage has chosen.

        Args:
            frames: decoded, or a file still to be decoded.
        """
        return frames.choice or cls(AllFrames.of(frames), torch.arange(frames.count))

    def pick(self, chosen: Tensor) -> Choice:
        """With fewer frames.

        Args:
            chosen: (K,) int64, indices of the frames that were left so far, increasing.
        """
        scores = None if self.scores is None else self.scores[chosen]
        return replace(self, index=self.index[chosen], scores=scores)

    def then(self, chosen: Chosen) -> Choice:
        """With a line more in its history.

        Args:
            chosen: what a stage did.
        """
        return replace(self, history=(*self.history, chosen))


def with_scores(frames: FrameSource, scores: Tensor) -> FrameSource:
    """Frames of which it is known what each is worth, for a stage that chooses by it.

    Args:
        frames: decoded, or a file still to be decoded.
        scores: (T,) floating, one for each of them.

    Raises:
        InputError: there are more or fewer scores, or some that are not finite.
    """
    values = scores.detach().to("cpu", torch.float64)
    if values.shape != (frames.count,) or not bool(torch.isfinite(values).all()):
        raise InputError(
            f"Scores of shape {tuple(values.shape)} do not fit {frames.count} frames; give a finite number for each."
        )
    return frames.with_choice(replace(Choice.of(frames), scores=values))
