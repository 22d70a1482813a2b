"""GLM-4.1V and GLM-4.6V through the stock transformers classes.

As with Qwen's models, frames come in pairs, and each pair's tokens stay together: its time is after it in the prompt,
in whole seconds for GLM-4.1V. It is the time of the pair's first frame.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..tokens.video_tokens import Layout, VideoTokens
from ..video.frame_source import FrameSource
from .importance import depths
from .prompt import Inputs
from .qwen import QwenVL
from .qwen3_vl import fit_video
from .stock import stock_class

_START, _SLOT, _END = "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"


class Glm41V(QwenVL):
    """A loaded GLM-4.1V."""

    family = "glm4v"
    stock = stock_class("Glm4vForConditionalGeneration", since="4.53")
    placeholder = "<|video|>"
    slot = _SLOT
    frames_apart = True
    any_size = through_utils = False
    least_pixels, most_pixels = 112 * 112, 28 * 28 * 2 * 30000

    def processor_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The video's pixels are within the processor's limits.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        pair = self._vision.temporal_patch_size
        return fit_video(max(frames, pair), *size, pair, self.factor, self._least, self._most)

    def timestamps(self, frames: FrameSource) -> Tensor:
        """The time of every pair's first frame, (pairs,) float64, in seconds."""
        return frames.timestamps[:: self._vision.temporal_patch_size]

    def importance_layers(self) -> tuple[int, int, int]:
        """AOT's depths; every block attends over the full frame."""
        return depths(self._vision.depth)

    def tower_grids(self, layout: Layout) -> Tensor:
        """(pairs, 3) long: every pair is an image of its own."""
        _, rows, columns = self.grids(layout)[0].tolist()
        return torch.tensor([[1, rows, columns]]).expand(layout.frames, -1)

    @property
    def visual_id(self) -> int:
        """The token id in the place of a visual token: that of images, for videos too."""
        return self.hf_model.config.image_token_id

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each pair, then its time."""
        if tokens is None:
            return f"{_START}{_SLOT}{_END}"
        return "".join(f"{_START}{_SLOT}{_END}{self.time_text(time)}" for time in tokens.timestamps.tolist())

    def time_text(self, seconds: float) -> str:
        """A pair's time in the prompt.

        Args:
            seconds: from the beginning of the video.
        """
        return f"{int(seconds)}"

    def _position_ids(self, inputs: Inputs, before: int) -> Tensor:
        """(3, 1, n): time, height and width."""
        return inputs.position_ids[:, None]


class Glm46V(Glm41V):
    """A loaded GLM-4.6V, dense or of experts."""

    family = "glm46v"
    stock = stock_class("Glm46VForConditionalGeneration", since="5.0")

    def time_text(self, seconds: float) -> str:
        """A pair's time in the prompt.

        Args:
            seconds: from the beginning of the video.
        """
        return f"{seconds:.1f} seconds"
