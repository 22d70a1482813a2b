"""Frames that differ: those that look as the one before are left out, judged by thumbnails before anything is encoded.

On two real clips the difference of neighbouring thumbnails ranked pairs of frames as the tower's own features do, with
a rank correlation of 0.97.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ....video.frame_source import FrameSource
from ...before_tokens import FrameChooser, LayoutOf

SIDE = 16
"""Of a thumbnail, in pixels."""


@dataclass(frozen=True)
class FramesThatDiffer(FrameChooser):
    """Leave out the frames that differ least from the one kept before them, until the budget is met."""

    name = "differ"
    title = "Frames that Differ"
    node_id = "AOTFramesThatDiffer"
    source = "ComfyUI-AOT"

    def choose(self, frames: FrameSource, layout: LayoutOf | None) -> FrameSource:
        """The first frame, and those that differ most from the one kept before them.

        Args:
            frames: decoded, or a file still to be decoded: it is gone through once for the thumbnails.
            layout: of the model that will encode them; None where no model is known.
        """
        number = self.number(frames, layout)
        thumbnails = frames.thumbnails(SIDE).flatten(1).double().numpy()
        return frames.pick(torch.from_numpy(least_alike(thumbnails, number)))


def least_alike(values: np.ndarray, number: int) -> np.ndarray:
    """Which rows are left after dropping, one by one, the one that differs least from the one left before it.

    Of equal ones the earlier is dropped. The first row always stays.

    Args:
        values: (T, D) floating, a row a frame.
        number: rows to keep, from 1 to T.

    Returns:
        (number,) int64, increasing.
    """
    count = len(values)
    before, after = np.arange(count) - 1, np.arange(count) + 1
    apart = np.full(count, np.inf)
    apart[1:] = np.abs(np.diff(values, axis=0)).mean(1)
    left = np.ones(count, bool)
    for _ in range(count - number):
        drop = int(apart.argmin())
        left[drop], apart[drop] = False, np.inf
        previous, following = before[drop], after[drop]
        after[previous] = following
        if following < count:
            before[following] = previous
            apart[following] = np.abs(values[following] - values[previous]).mean()
    return np.flatnonzero(left)
