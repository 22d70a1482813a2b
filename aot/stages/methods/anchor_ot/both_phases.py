"""Both phases of AOT, one after the other, to one budget that is met to the token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Stage
from ...options import KEEP_TOKENS, RETENTION
from .inter import InterFrame, frame_means, keyframes_present, share_keyframes
from .intra import IntraFrame
from .settings import (
    AGGREGATION,
    CLIP_LENGTH,
    CLIPS,
    CUT_LOWEST,
    CUT_SIMILARITY,
    CUT_TIMES,
    EPS,
    EXPLAINED_BY,
    KEYFRAME_SHARE,
    MARGINALS,
    MAX_ITERATIONS,
    METRIC,
    ORDER,
    RANKING,
    REPEAT,
    SCALING,
    SOLVER,
    TOLERANCE,
    ClipStage,
)

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
    "explained_by",
)
"""Settings handed on to phase II."""


@dataclass(frozen=True)
class AnchorOT(ClipStage, Budgeted):
    """Both phases of AOT at one retention: keyframes take a share of the budget, distinct tokens the rest."""

    name = "aot"
    title = "Anchor OT"
    node_id = "AOTAnchorTransport"
    source = "AOT, CVPR 2026, both phases"

    retention: float = RETENTION.field()
    keyframe_share: float = KEYFRAME_SHARE.field()
    clip_length: int = CLIP_LENGTH.field()
    keep_tokens: int = KEEP_TOKENS.field(advanced=True)
    clips: str = CLIPS.field()
    cut_times: str = CUT_TIMES.field()
    scaling: float = SCALING.field()
    eps: float = EPS.field()
    solver: str = SOLVER.field(default="early")
    aggregation: str = AGGREGATION.field()
    ranking: str = RANKING.field()
    order: str = ORDER.field()
    repeat: bool = REPEAT.field()
    cut_similarity: float = CUT_SIMILARITY.field()
    cut_lowest: int = CUT_LOWEST.field()
    metric: str = METRIC.field()
    marginals: str = MARGINALS.field()
    max_iterations: int = MAX_ITERATIONS.field()
    tolerance: float = TOLERANCE.field()
    explained_by: str = EXPLAINED_BY.field()

    def __call__(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Run both phases; each leaves its own record in the history."""
        if tokens.frames_left is not None:
            return super().__call__(tokens, part)
        for stage in self._phases(tokens.layout, tokens.timestamps, self._lengths(tokens)):
            tokens = stage(tokens)
        return tokens

    def reduce(self, tokens: VideoTokens, part: Part | None = None) -> VideoTokens:
        """Run both phases without a record; with budgets of frames phase II meets them.

        Args:
            tokens: fresh from the encoder.
            part: of the whole video.
        """
        self.require_usable(tokens)
        budgets = None if part is None else part.budgets
        intra, inter = self._phases(tokens.layout, tokens.timestamps, self._lengths(tokens), budgets)
        return inter.reduce(intra.reduce(tokens), part)

    def frame_limits(self, layout: Layout, timestamps: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """A token of every clip's keyframe at least."""
        return keyframes_present(layout, self.cut(timestamps))

    def _lengths(self, tokens: VideoTokens) -> tuple[int, ...]:
        return self.cut(tokens.timestamps) or self.cut_by_content(frame_means(tokens.to_language_grid()))

    def steps(self, layout: Layout, timestamps: Tensor) -> tuple[Stage, ...]:
        """Both phases, where the clips are known before the frames are seen."""
        lengths = self.cut(timestamps)
        return (self,) if lengths is None else self._phases(layout, timestamps, lengths)

    def _phases(
        self, layout: Layout, timestamps: Tensor, lengths: tuple[int, ...], budgets: Sequence[int] | None = None
    ) -> tuple[Stage, ...]:
        settings = self.settings()
        both = {name: settings[name] for name in BOTH}
        temporal = {name: settings[name] for name in TEMPORAL}
        if self.clips == "dynamic":
            starts = [sum(lengths[:i]) for i in range(1, len(lengths))]
            temporal |= {"clips": "times", "cut_times": " ".join(repr(float(timestamps[start])) for start in starts)}
        anchors = self.tokens_per_frame(layout, lengths, budgets)
        return IntraFrame(keep_tokens=anchors * layout.frames, **both), InterFrame(**both, **temporal)

    def tokens_per_frame(self, layout: Layout, lengths: tuple[int, ...], budgets: Sequence[int] | None = None) -> int:
        """What phase I keeps of every frame so that phase II can meet the budget.

        Args:
            layout: of the video.
            lengths: frames of each clip.
            budgets: (T,) tokens of every frame, as a stage before says; None shares the budget out.

        Raises:
            InputError: the budget is under a token a clip or above what there is.
        """
        full = layout.frames * layout.language_cells
        total = self.budget_of(layout, len(lengths), full)
        copies = [2 if self.repeat and length > 1 else 1 for length in lengths]
        if budgets is not None:
            of_frame = [
                of_it for length, of_it in zip(lengths, copies, strict=True) for of_it in (of_it, *[1] * (length - 1))
            ]
            return max(-(-budget // of_it) for budget, of_it in zip(budgets, of_frame, strict=True))
        others = layout.frames - len(lengths)
        room = [number * layout.language_cells for number in copies]
        quota = share_keyframes(total, self.keyframe_share, room, others * layout.language_cells)
        keyframe = max(math.ceil(tokens / number) for tokens, number in zip(quota, copies, strict=True))
        return max(keyframe, math.ceil((total - sum(quota)) / max(1, others)))
