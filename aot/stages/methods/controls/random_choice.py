"""Random tokens: what any choice has to be better than."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ....tokens.video_tokens import Layout, VideoTokens
from ...base import Part, Reduction, Stage, option, share_kept, tokens_kept
from ...toolkit.frame_tokens import Held


@dataclass(frozen=True)
class RandomTokens(Stage):
    """Keep random tokens of each frame, drop all others; the same seed keeps the same ones."""

    name = "random"
    title = "Random Tokens"
    node_id = "AOTRandomTokens"
    source = "a control"

    retention: float = share_kept(0.25)
    keep_tokens: int = tokens_kept()
    random_seed: int = option(0, "Which random tokens: another number, another choice.", low=0, high=2**32 - 1)

    def runs(self, layout: Layout, timestamps: Tensor) -> tuple[int, ...] | None:
        """A frame at a time: what is drawn depends on the seed and the frame only."""
        return (1,) * layout.frames

    def build(self, tokens: VideoTokens, part: Part) -> Reduction:
        """The kept tokens in the order they were given."""
        held = Held.of(tokens)
        frames, most = held.token.shape
        drawn = [np.random.default_rng((self.random_seed, part.first + frame)).random(most) for frame in range(frames)]
        return held.selection(held.best(torch.from_numpy(np.stack(drawn)), held.shares(self, part)))
