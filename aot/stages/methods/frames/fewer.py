"""Frames at even steps: the encoder sees fewer, and every method that costs more has to be better than that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ....video.frame_source import FrameSource
from ...before_tokens import FrameChooser, LayoutOf


@dataclass(frozen=True)
class FewerFrames(FrameChooser):
    """Keep frames at even steps over the video, both ends among them, and encode no others."""

    name = "fewer"
    title = "Fewer Frames"
    node_id = "AOTFewerFrames"
    source = "a control"

    def choose(self, frames: FrameSource, layout: LayoutOf | None) -> FrameSource:
        """The frames at ``np.linspace(0, T - 1, n, dtype=int)``; a single one from the middle.

        Args:
            frames: decoded, or a file still to be decoded.
            layout: of the model that will encode them; None where no model is known.
        """
        number = self.number(frames, layout)
        last = frames.count - 1
        chosen = np.linspace(0, last, number, dtype=np.int64) if number > 1 else np.array([last // 2])
        return frames.pick(torch.from_numpy(chosen))
