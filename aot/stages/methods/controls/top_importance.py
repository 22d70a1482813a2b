"""The most important tokens and nothing else: the plainest use of attention, as a control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Reduction
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.frame_tokens import FrameTokens
from ...toolkit.ranking import top_k_mask


@dataclass(frozen=True)
class TopImportance(Budgeted):
    """Keep the tokens that receive most attention, drop all others."""

    name = "top"
    title = "Top Importance"
    node_id = "AOTTopImportance"
    source = "a control"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    span: str = Setting(
        "frame",
        "Where tokens are compared: the best of every frame, the same number of each; or the best of the whole video, "
        "which may leave frames empty.",
        choices=("frame", "video"),
    ).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time, unless the whole video is ranked."""
        return (1,) * layout.frames if self.span == "frame" else None

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept tokens in the order they were given."""
        by_frame = FrameTokens.of(tokens)
        if self.span == "frame":
            counts = by_frame.shares(self, part)
            return by_frame.selection(by_frame.top_k(by_frame.spread(tokens.importance), counts), sum(counts))
        scores = by_frame.spread(tokens.importance, -torch.inf)
        total = by_frame.total(self, part)
        chosen = top_k_mask(scores.flatten()[None], total)
        return by_frame.selection(chosen.reshape(by_frame.token.shape), total)
