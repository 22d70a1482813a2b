"""Random tokens: what any choice has to be better than."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....devices import to_device, widest
from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Budgeted, Part, Reduction
from ...options import KEEP_TOKENS, RETENTION, Setting
from ...toolkit.frame_tokens import FrameTokens


@dataclass(frozen=True)
class RandomTokens(Budgeted):
    """Keep random tokens of each frame, drop all others; the same seed keeps the same ones."""

    name = "random"
    title = "Random Tokens"
    node_id = "AOTRandomTokens"
    source = "a control"

    retention: float = RETENTION.field()
    keep_tokens: int = KEEP_TOKENS.field()
    random_seed: int = Setting(0, "Which random tokens: another number, another choice.", low=0, high=2**32 - 1).field()

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time: what is drawn depends on the seed and the frame only."""
        return (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept tokens in the order they were given."""
        by_frame = FrameTokens.of(tokens)
        frames, most = by_frame.token.shape
        drawn = [np.random.default_rng((self.random_seed, part.first + frame)).random(most) for frame in range(frames)]
        counts = by_frame.shares(self, part)
        device = by_frame.token.device
        scores = to_device(torch.from_numpy(np.stack(drawn)).to(widest(device)), device)
        return by_frame.selection(by_frame.top_k(scores, counts), sum(counts))
