"""The most important tokens and nothing else: the plainest use of attention, as a control."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Part, Reduction, Stage, option, share_kept, tokens_kept
from ...toolkit.frame_tokens import Held

SPANS = ("frame", "video")


@dataclass(frozen=True)
class TopImportance(Stage):
    """Keep the tokens that receive most attention, drop all others."""

    name = "top"
    title = "Top Importance"
    node_id = "AOTTopImportance"
    source = "a control"

    retention: float = share_kept(0.25)
    keep_tokens: int = tokens_kept()
    span: str = option(
        "frame",
        "Where tokens are compared: the best of every frame, the same number of each; or the best of the whole video, "
        "which may leave frames empty.",
        choices=SPANS,
    )

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time, unless the whole video is ranked."""
        return (1,) * layout.frames if self.span == "frame" else None

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept tokens in the order they were given."""
        held = Held.of(tokens)
        if self.span == "frame":
            return held.selection(held.best(held.spread(tokens.importance), held.shares(self, part)))
        order = held.spread(tokens.importance, -torch.inf).flatten().sort(descending=True, stable=True).indices
        chosen = torch.zeros_like(order, dtype=torch.bool)
        chosen[order[: held.total(self, part)]] = True
        return held.selection(chosen.reshape(held.token.shape))
