"""Frames to the pixel values that a vision tower takes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..video.frames import Frames

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize(frames: Frames, size: tuple[int, int]) -> Tensor:
    """Resize frames as the stock video processors do on a CPU: bicubic with antialiasing, rounded to whole levels.

    Args:
        frames: (T, H, W, 3) uint8.
        size: (h, w), in pixels.

    Returns:
        (T, 3, h, w) uint8.
    """
    pixels = frames.pixels.permute(0, 3, 1, 2)
    if pixels.shape[2:] == size:
        return pixels
    return functional.interpolate(pixels, size=size, mode="bicubic", antialias=True)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """``(pixels / 255 - mean) / std``, for each colour.

    Args:
        pixels: (T, 3, h, w), levels 0 to 255.
        mean: of red, green and blue, in 0 to 1.
        std: of red, green and blue, in 0 to 1.

    Returns:
        Pixel values, (T, 3, h, w) float32.
    """
    return (pixels.float() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
