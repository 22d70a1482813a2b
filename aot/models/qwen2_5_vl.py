"""Qwen2.5-VL through the stock transformers class.

Most of its tower's blocks attend within windows. Importance is taken from those that attend over the full frame.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from ..tokens.video_tokens import Layout, VideoTokens
from ..video.frame_source import FrameSource
from .importance import depths
from .qwen import QwenVL


class Qwen2_5VL(QwenVL):
    """A loaded Qwen2.5-VL."""

    family = "qwen2_5_vl"
    stock = Qwen2_5_VLForConditionalGeneration
    least_pixels, most_pixels = 128 * 28 * 28, 28 * 28 * 768

    def frame_size(self, frames: FrameSource) -> tuple[int, int]:
        """A whole number of tokens a side; each frame's pixels are within the processor's bounds."""
        return fit(frames.height, frames.width, self.factor, self._least, self._most)

    def importance_layers(self) -> tuple[int, int, int]:
        """The blocks with attention over the full frame that are nearest to AOT's depths."""
        full = self._vision.fullatt_block_indexes
        shallow, deep, last = (min(full, key=lambda each: (abs(each - at), each)) for at in depths(self._vision.depth))
        return shallow, deep, last

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        return values[window_order(layout, self._vision.window_size // self.factor).argsort().to(values.device)]

    def _spacing(self, tokens: VideoTokens) -> dict[str, Any]:
        times = tokens.timestamps
        seconds = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
        return {"second_per_grid_ts": torch.tensor([seconds])}


def fit(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The size that a frame is resized to; its aspect is kept as nearly as the multiples allow.

    Args:
        height: of the frame, in pixels.
        width: of the frame, in pixels.
        factor: both sides are multiples of it, in pixels.
        least: the fewest pixels in all.
        most: the most pixels in all.

    Returns:
        (h, w), in pixels.

    Source: Qwen2-VL's published resizing.
    """
    sides = height, width
    near = [round(side / factor) * factor for side in sides]
    if math.prod(near) > most:
        shrink = math.sqrt(height * width / most)
        near = [max(factor, math.floor(side / shrink / factor) * factor) for side in sides]
    elif math.prod(near) < least:
        grow = math.sqrt(least / (height * width))
        near = [math.ceil(side * grow / factor) * factor for side in sides]
    return near[0], near[1]


def window_order(layout: Layout, side: int) -> Tensor:
    """The tower's order of tokens: window after window, each of ``side`` x ``side`` tokens.

    Args:
        layout: T frames of N tokens.
        side: of a window, in tokens.

    Returns:
        (T N,) long, indices of tokens sorted by frame, row and column.
    """
    height, width = layout.grid
    frame, y, x = torch.meshgrid(torch.arange(layout.frames), torch.arange(height), torch.arange(width), indexing="ij")
    across = -(-width // side)
    window = (frame * -(-height // side) + y // side) * across + x // side
    return window.flatten().argsort(stable=True)
