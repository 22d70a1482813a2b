"""Qwen3-VL through the stock transformers class.

Its prompt gives each pair's time in front of it, so frames stay apart, and each may keep any number of tokens. The
image features of three further depths of the tower are added in the LLM's first layers; W reduces them with the tokens.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from transformers import Qwen3VLForConditionalGeneration

from ..tokens.video_tokens import VideoTokens
from .file_time import TIMES, encoder_settings
from .importance import depths
from .prompt import Inputs
from .qwen import QwenVL, pair_means

_START, _END = "<|vision_start|>", "<|vision_end|>"


class Qwen3VL(QwenVL):
    """A loaded Qwen3-VL."""

    family = "qwen3_vl"
    stock = Qwen3VLForConditionalGeneration
    frames_apart = True
    mean = std = (0.5, 0.5, 0.5)
    least_pixels, most_pixels = 128 * 32 * 32, 32 * 32 * 768

    def processor_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The video's pixels are within the processor's limits.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        pair = self._vision.temporal_patch_size
        return fit_video(max(frames, pair), *size, pair, self.factor, self._least, self._most)

    def importance_layers(self) -> tuple[int, int, int]:
        """AOT's depths; every block attends over the full frame."""
        return depths(self._vision.depth)

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each pair's time by the file's own clock, then the pair."""
        if tokens is None:
            return f"{_START}{self.placeholder}{_END}"
        counted = encoder_settings(tokens).get(TIMES, ())
        times = pair_means(torch.tensor(counted, dtype=torch.float64), self._vision.temporal_patch_size)
        if len(times) != tokens.layout.frames:
            times = tokens.timestamps
        times = times.tolist()
        return "".join(f"<{time:.1f} seconds>{_START}{self.placeholder}{_END}" for time in times)

    def _around_video(self, text: str, video: str) -> str:
        return text.replace(f"{_START}{self.placeholder}{_END}", video)

    def _extras(self, inputs: Inputs) -> dict[str, Any]:
        if not inputs.levels or not len(inputs.levels[0]):
            return {}
        return {"visual_pos_masks": inputs.visual[None], "deepstack_visual_embeds": list(inputs.levels)}


def fit_video(frames: int, height: int, width: int, pair: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """The size that a video's frames are resized to; their aspect is kept as nearly as the multiples allow.

    Args:
        frames: their number.
        height: of a frame, in pixels.
        width: of a frame, in pixels.
        pair: frames in a temporal patch.
        factor: both sides are multiples of it, in pixels.
        least: the fewest pixels of all frames together.
        most: the most pixels of all frames together.

    Returns:
        (h, w), in pixels.

    Source: Qwen3-VL's published resizing.
    """
    if min(height, width) < factor:
        scale = max(factor / height, factor / width)
        height, width = int(height * scale), int(width * scale)
    sides = height, width
    near = [round(side / factor) * factor for side in sides]
    pixels = round(frames / pair) * pair * math.prod(near)
    if pixels > most:
        shrink = math.sqrt(frames * height * width / most)
        near = [max(factor, math.floor(side / shrink / factor) * factor) for side in sides]
    elif pixels < least:
        grow = math.sqrt(least / (frames * height * width))
        near = [math.ceil(side * grow / factor) * factor for side in sides]
    return near[0], near[1]
