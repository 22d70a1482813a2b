"""Merging by cosine: what AOT's transport is compared with.

The paper's ablation puts plain merging in the place of optimal transport: a token goes whole to the token kept that
it is most like, and a kept token is the mean of what has come to it.

Source: AOT (CVPR 2026), the ablation without transport.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Reduction
from ...options import KEEP_TOKENS, RETENTION
from ...toolkit.frame_tokens import FrameTokens


@dataclass(frozen=True)
class CosineMerge(Budgeted):
    """Keep the most important tokens of each frame; merge every other token into the one of highest cosine."""

    name = "cosine"
    title = "Cosine Merge"
    node_id = "AOTCosineMerge"
    source = "a control; AOT, CVPR 2026, compares with merging by cosine"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time."""
        return (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept tokens in the order they were given, each with those that joined it."""
        by_frame = FrameTokens.of(tokens)
        counts = by_frame.shares(self, part)
        return by_frame.merged(by_frame.top_k(by_frame.spread(tokens.importance), counts), counts)
