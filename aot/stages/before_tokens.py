"""Stages that act before there are tokens: on frames, before pixels are made of them, or inside the vision tower.

Called on frames, such a stage returns frames: some of them, or the same ones that carry it to the encoder. So it stands
in chains and on links like any other.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..errors import InputError
from ..tokens.frame_merge import FrameMerge
from ..tokens.layout import Layout
from ..video.choice import AllFrames, Choice, Chosen
from ..video.frame_source import FrameFacts, FrameSource
from .base import Method, Place, WithBudget
from .options import KEEP_TOKENS, RETENTION, Setting

LayoutOf = Callable[[FrameFacts], Layout]
"""Takes frames, and returns the layout that a model's tokens of them have."""


@dataclass(frozen=True)
class BeforeTokens(Method):
    """Base of all stages that act before there are tokens: they take frames, and what they do travels with those."""

    @property
    def needs_question(self) -> bool:
        """False: the question travels with tokens, and there are none yet."""
        return False

    def __call__(self, frames: FrameSource, layout: LayoutOf | None = None) -> FrameSource:
        """Choose among frames, or say what the encoder is to do with them.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them, for budgets in tokens; None where no model is known.

        Raises:
            InputError: the frames or the settings do not allow it.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class FrameStage(BeforeTokens):
    """Base of all stages that act on frames before pixels are made of them: times and records itself when called.

    A method is a subclass in a file of its own that defines :meth:`choose`. Frames of a file are decoded after it, and
    only those that it chose.
    """

    acts = Place.FRAMES

    def __call__(self, frames: FrameSource, layout: LayoutOf | None = None) -> FrameSource:
        """Choose among frames, or how large the encoder makes them.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them, for budgets in tokens; None where no model is known.

        Raises:
            InputError: the frames or the settings do not allow it.
        """
        start = time.perf_counter()
        chosen = self.choose(frames, layout)
        choice = Choice.of(chosen)
        milliseconds = 1e3 * (time.perf_counter() - start)
        line = Chosen(self.name, self.settings(), chosen.count, choice.shrink, milliseconds)
        return chosen.with_choice(choice.then(line))

    def choose(self, frames: FrameSource, layout: LayoutOf | None) -> FrameSource:
        """The frames that are left.

        Args:
            frames: decoded, or a file still to be decoded; ``frames.pick`` leaves some of them.
            layout: see a call's.
        """
        raise NotImplementedError


WHOLE_TOKENS = dataclasses.replace(
    KEEP_TOKENS,
    help="Tokens of the whole video to keep, met by as many whole frames as fit; a model has to be known. 0 goes by "
    "the retention.",
)
"""The number of tokens of a stage that leaves whole frames out."""


@dataclass(frozen=True)
class FrameChooser(WithBudget, FrameStage):
    """A stage that leaves whole frames out. Its budget is met by whole frames, and the rest of it is left over.

    Args:
        frames: to keep; 0 goes by the budget.
        retention: share of the video's tokens to keep.
        keep_tokens: tokens of the whole video to keep; 0 goes by the retention.
    """

    fixes_budget = ("frames",)

    frames: int = Setting(0, "Frames to keep. 0 goes by the retention.", low=0, high=100_000).field()
    retention: float = RETENTION.field(help="Share of the video's tokens to keep, met by as many whole frames as fit.")
    keep_tokens: int = WHOLE_TOKENS.field()

    def number(self, frames: FrameSource, layout: LayoutOf | None) -> int:
        """How many frames are left.

        Args:
            frames: to choose among.
            layout: of the model that will encode them; None where no model is known.

        Raises:
            InputError: no frame fits into the budget, there are fewer, or tokens are to be counted without a model.
        """
        total = frames.count
        if self.frames:
            if self.frames > total:
                raise InputError(f"{self.title}: {self.frames} frames of {total} cannot be kept; give at most {total}.")
            return self.frames
        if layout is None:
            if self.keep_tokens:
                raise InputError(
                    f"{self.title}: keep_tokens counts a model's tokens, and none is known; connect vllm, or give "
                    "frames or a retention."
                )
            number = math.floor(self.retention * total + _ROUNDING)
        else:
            every = layout(frames)
            budget = self.keep_tokens or round(self.retention * every.frames * every.language_cells)
            together = -(-total // every.frames)
            number = min(total, budget // every.language_cells * together)
            while number > 0 and _tokens(frames, number, layout) > budget:  # fewer frames may be larger ones
                number -= together
        if number < 1:
            raise InputError(
                f"{self.title}: {self.keep_tokens or f'retention {self.retention:g}'} of a video of {total} frames is "
                f"less than one of them; give retention {math.ceil(1e4 / total) / 1e4:g} or more, or more frames."
            )
        return number


_ROUNDING = 1e-6
"""Of a frame: 0.29 of 100 frames are 29, though the product is a little less."""


def _tokens(frames: FrameSource, number: int, layout: LayoutOf) -> int:
    """Tokens that a model makes of the first ``number`` frames."""
    fewer = dataclasses.replace(AllFrames.of(frames), count=number, choice=frames.choice)
    made = layout(fewer)
    return made.frames * made.language_cells


@dataclass(frozen=True)
class TowerStage(BeforeTokens):
    """Base of the stages that merge whole frames inside the vision tower.

    Called with frames, it travels with them, and acts when they are encoded: so its node has frames on both sides. A
    method is a subclass in a file of its own that defines :meth:`blocks` and :meth:`merge`.
    """

    acts = Place.TOWER

    def __call__(self, frames: FrameSource, layout: LayoutOf | None = None) -> FrameSource:
        """The frames, with this stage after those that travel with them already.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: not needed; stages that choose frames count a model's tokens by it.
        """
        return frames.with_step(self)

    def blocks(self, used: int) -> Sequence[int]:
        """Indices of the tower's blocks after which frames are merged, rising.

        Args:
            used: blocks whose output reaches the LLM.
        """
        raise NotImplementedError

    def merge(self, states: Tensor) -> FrameMerge:
        """How to merge the frames that have come so far.

        Args:
            states: (T, P, D) floating, what a block gives of their patches.
        """
        raise NotImplementedError

    def notes(self, states: Tensor) -> Mapping[str, Tensor]:
        """What stages after the tower are to know of the frames left, (T', ...) by the names of the tokens' extras.

        Args:
            states: (T', P, D) floating, what the last of the blocks gives, merged.
        """
        return {}
