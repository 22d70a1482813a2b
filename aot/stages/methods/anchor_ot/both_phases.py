"""AOT whole: phase I, then phase II, sharing one budget that is met to the token."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Part, Stage, option
from ...budget import wanted
from .inter import InterFrame, frame_means, share_keyframes
from .intra import IntraFrame
from .settings import ClipStage, shared

BOTH = ("scaling", "eps", "max_iterations", "solver", "aggregation", "metric", "marginals", "tolerance")
"""Settings handed on to both phases."""

TEMPORAL = (
    "retention",
    "keep_tokens",
    "keyframe_share",
    "clip_length",
    "clips",
    "cut_times",
    "ranking",
    "order",
    "repeat",
)
"""Settings handed on to phase II."""


@dataclass(frozen=True)
class AnchorOT(ClipStage):
    """Both phases of AOT at one retention: keyframes take a share of the budget, distinct tokens the rest."""

    name = "aot"
    title = "Anchor OT"
    node_id = "AOTAnchorTransport"
    source = "AOT, CVPR 2026, both phases"

    retention: float = option(
        0.25, "Share of the video's language grid to keep, met to the token.", low=0, high=1, step=0.01
    )
    keyframe_share: float = shared("keyframe_share")
    clip_length: int = shared("clip_length")
    keep_tokens: int = shared("keep_tokens")
    clips: str = shared("clips")
    cut_times: str = shared("cut_times")
    scaling: float = shared("scaling")
    eps: float = shared("eps")
    solver: str = shared("solver", default="early")
    aggregation: str = shared("aggregation")
    ranking: str = shared("ranking")
    order: str = shared("order")
    repeat: bool = shared("repeat")
    cut_similarity: float = shared("cut_similarity")
    cut_lowest: int = shared("cut_lowest")
    metric: str = shared("metric")
    marginals: str = shared("marginals")
    max_iterations: int = shared("max_iterations", advanced=True)
    tolerance: float = shared("tolerance")

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Run both phases; each leaves its own record in the history."""
        lengths = self.cut(tokens.timestamps) or self.cut_by_content(frame_means(tokens.to_language_grid()))
        for stage in self._phases(tokens.layout, tokens.timestamps, lengths):
            tokens = stage(tokens)
        return tokens

    def steps(self, layout: Layout, timestamps: Tensor) -> tuple[Stage, ...]:
        """Both phases, where the clips can be told beforehand."""
        lengths = self.cut(timestamps)
        return (self,) if lengths is None else self._phases(layout, timestamps, lengths)

    def _phases(self, layout: Layout, timestamps: Tensor, lengths: tuple[int, ...]) -> tuple[Stage, ...]:
        settings = self.settings()
        both = {name: settings[name] for name in BOTH}
        temporal = {name: settings[name] for name in TEMPORAL}
        if self.clips == "dynamic":
            starts = [sum(lengths[:i]) for i in range(1, len(lengths))]
            temporal |= {"clips": "times", "cut_times": " ".join(repr(float(timestamps[start])) for start in starts)}
        anchors = self.tokens_per_frame(layout, lengths)
        return IntraFrame(keep_tokens=anchors * layout.frames, **both), InterFrame(**both, **temporal)

    def tokens_per_frame(self, layout: Layout, lengths: tuple[int, ...]) -> int:
        """What phase I keeps of every frame so that phase II can meet the budget.

        Args:
            lengths: frames of each clip.

        Raises:
            InputError: the budget is under a token a clip or above what there is.
        """
        full = layout.frames * layout.language_cells
        total = wanted(self.title, self.retention, self.keep_tokens, layout, len(lengths), full)
        copies = [2 if self.repeat and length > 1 else 1 for length in lengths]
        others = layout.frames - len(lengths)
        room = [number * layout.language_cells for number in copies]
        quota = share_keyframes(total, self.keyframe_share, room, others * layout.language_cells)
        keyframe = max(math.ceil(tokens / number) for tokens, number in zip(quota, copies, strict=True))
        return max(keyframe, math.ceil((total - sum(quota)) / max(1, others)))
