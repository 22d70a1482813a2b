"""AOT whole: phase I, then phase II, sharing one budget that is met to the token."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..budget import tokens_for
from ..clips import fixed_clips
from ..errors import InputError
from ..tokens import Layout, VideoTokens
from .anchors import IntraFrame
from .base import Stage, option
from .keyframes import InterFrame


@dataclass(frozen=True)
class AnchorTransport(Stage):
    """Both phases of AOT at one retention: keyframes take a share of the budget, distinct tokens the rest."""

    name = "aot"
    title = "Anchor OT"
    source = "AOT, CVPR 2026, both phases"

    retention: float = option(
        0.25, "Share of the video's language grid to keep, met to the token.", low=0, high=1, step=0.01
    )
    keyframe_share: float = option(
        0.7,
        "Share of the budget that keyframe tokens take, as they were and updated; distinct tokens take the rest. "
        "As released with 126 anchors and keep ratio 0.3 it comes to about 0.7.",
        low=0.05,
        high=1,
        step=0.05,
    )
    clip_length: int = option(
        4, "Frames in a clip; its first is the keyframe. The paper uses 4 for 32 frames, 8 for 64.", low=1, high=4096
    )

    def __call__(self, tokens: VideoTokens) -> VideoTokens:
        """Run both phases; each leaves its own record in the history."""
        anchors = self.tokens_per_frame(tokens.layout)
        intra = IntraFrame(retention=anchors / tokens.layout.language_cells)
        return InterFrame(clip_length=self.clip_length, retention=self.retention)(intra(tokens))

    def tokens_per_frame(self, layout: Layout) -> int:
        """What phase I keeps of every frame so that phase II can meet the budget.

        Raises:
            InputError: the budget is under what the clips' keyframes need at one token each.
        """
        total = tokens_for(self.retention, layout.frames, layout.language_cells)
        clips = fixed_clips(layout.frames, self.clip_length)
        emitted = sum(2 if length > 1 else 1 for length in clips)
        candidates = layout.frames - len(clips)
        most = min(layout.language_cells, total // emitted)
        if most < 1:
            least = emitted / (layout.frames * layout.language_cells)
            raise InputError(
                f"{self.title}: retention {self.retention:g} is {total} tokens, and {len(clips)} clips need at least "
                f"{emitted}; give {least:.2g} or more, or longer clips."
            )
        wanted = int(self.keyframe_share * total / emitted)
        enough = math.ceil(total / (emitted + candidates))
        return min(most, max(1, wanted, enough))
