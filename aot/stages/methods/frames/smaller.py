"""Smaller frames: fewer tokens a frame, and every method that costs more has to be better than that."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ....errors import InputError
from ....video.choice import Choice, Shrink
from ....video.frame_source import FrameSource
from ...base import WithBudget
from ...before_tokens import FrameStage, LayoutOf
from ...options import KEEP_TOKENS, RETENTION


@dataclass(frozen=True)
class SmallerFrames(WithBudget, FrameStage):
    """Make every frame smaller, so that it has fewer tokens.

    A tower that takes frames of any size is given smaller ones, which saves its time too. Of a tower that sees squares
    of one size, tokens are pooled to a smaller grid.
    """

    name = "smaller"
    title = "Smaller Frames"
    node_id = "AOTSmallerFrames"
    source = "a control"

    retention: float = RETENTION.field(
        help="Share of the video's tokens to keep, met by the largest grid of about the same aspect that fits."
    )
    keep_tokens: int = KEEP_TOKENS.field(
        help="Tokens of the whole video to keep, met by the largest grid of about the same aspect that fits. 0 goes by "
        "the retention."
    )

    def choose(self, frames: FrameSource, layout: LayoutOf | None) -> FrameSource:
        """The same frames, to be made smaller when they are encoded.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them; None where no model is known.
        """
        choice = Choice.of(frames)
        if choice.shrink:
            raise InputError(f"{self.title}: these frames are made smaller already; do it once, by the product.")
        if not self.has_budget:
            raise InputError(f"{self.title}: neither a retention nor a number of tokens is given; give one.")
        smaller = frames.with_choice(replace(choice, shrink=Shrink(self.retention, self.keep_tokens, frames.count)))
        if layout is not None:
            layout(smaller)  # refuses a budget that no grid meets before anything is decoded
        return smaller
