"""Qwen2.5-VL through the stock transformers class.

Most of its tower's blocks attend within windows. Importance is taken from those that attend over the full frame. Pairs
of frames are as many positions apart as their seconds say.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from ..tokens.video_tokens import Layout, VideoTokens
from .file_time import SAMPLED_FPS, encoder_settings
from .importance import depths
from .inside import Blocks
from .qwen2_vl import Qwen2VL


class Qwen2_5VL(Qwen2VL):
    """A loaded Qwen2.5-VL."""

    family = "qwen2_5_vl"
    stock = Qwen2_5_VLForConditionalGeneration

    def importance_layers(self) -> tuple[int, int, int]:
        """The blocks with attention over the full frame that are nearest to AOT's depths."""
        full = self._vision.fullatt_block_indexes
        shallow, deep, last = (min(full, key=lambda each: (abs(each - at), each)) for at in depths(self._vision.depth))
        return shallow, deep, last

    @property
    def blocks(self) -> Blocks:
        """The tower's blocks; windows are put in order after the merger."""
        merger = self.hf_model.model.visual.merger
        return replace(super().blocks, over_frames=self._vision.fullatt_block_indexes, filled=(merger,))

    def _in_order(self, values: Tensor, layout: Layout) -> Tensor:
        return values[window_order(layout, self._vision.window_size // self.factor).argsort().to(values.device)]

    def time_step(self, tokens: VideoTokens) -> float:
        """The seconds of a pair, two over the frames that were taken of a second; else those measured between pairs.

        Args:
            tokens: of the video.
        """
        fps, times = encoder_settings(tokens).get(SAMPLED_FPS), tokens.timestamps
        if fps is not None:
            seconds = self._vision.temporal_patch_size / fps
        else:
            seconds = float(times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else 1.0
        return seconds * self._vision.tokens_per_second


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
