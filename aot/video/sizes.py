"""Sizes of frames in pixels, and whether they fit in memory."""

from __future__ import annotations

import math
from dataclasses import replace

import psutil
import torch
from torch.nn.functional import interpolate

from ..errors import InputError
from .frames import Frames
from .index import Index

LARGEST_SIDE = 16384
"""Pixels."""


def resize(frames: Frames, size: int, free_bytes: int | None = None) -> Frames:
    """Scale frames in memory.

    Args:
        frames: in memory.
        size: of the shorter side in pixels; the proportions stay. It may enlarge.
        free_bytes: memory that may be used; None takes what the machine has available.

    Raises:
        InputError: the size is out of range, or the scaled frames do not fit in memory.
    """
    height, width = target_size(frames, size)
    need, free = estimate_bytes(frames.count, height, width), free_memory(free_bytes)
    if need > free:
        raise InputError(
            f"{frames.count} frames of {width}x{height} from {frames.source} need {need / 1e6:.0f} MB and "
            f"{free / 1e6:.0f} MB are free: take fewer frames, a smaller size, or close other programs"
        )
    pixels = torch.empty((frames.count, height, width, 3), dtype=torch.uint8)
    for target, picture in zip(pixels, frames.pixels, strict=True):  # one by one: floats of all would be four times it
        channels = picture.permute(2, 0, 1)[None].to(torch.float32)
        scaled = interpolate(channels, (height, width), mode="bicubic", align_corners=False, antialias=True)
        target.copy_(scaled[0].round_().clamp_(0, 255).permute(1, 2, 0))
    return replace(frames, pixels=pixels)


def estimate_bytes(frames: int, height: int, width: int) -> int:
    """Bytes of decoded RGB frames. Decoding needs up to 32 YUV frames of the filmed size in addition.

    Args:
        frames: number of frames.
        height: in pixels.
        width: in pixels.
    """
    return frames * height * width * 3


def require_components_fit(dimensions: tuple[int, int], duration: float, free_bytes: int | None = None) -> None:
    """Refuse a VIDEO that would not fit in memory even at 24 frames a second, before ComfyUI decodes all of it.

    ComfyUI decodes to float32 frames and then stacks them, so that each is in memory twice.

    Args:
        dimensions: (width, height) in pixels, as `VideoInput.get_dimensions` returns them.
        duration: in seconds.
        free_bytes: memory that may be used; None takes what the machine has available.

    Raises:
        InputError: the frames do not fit.
    """
    width, height = dimensions
    need = 2 * 4 * estimate_bytes(math.ceil(24 * duration), height, width)
    free = free_memory(free_bytes)
    if need > free:
        raise InputError(
            f"decoding all {duration:.0f} s of this {width}x{height} VIDEO needs at least "
            f"{need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free: trim it, make it smaller, or use "
            "Load Video (AOT), which decodes only the frames chosen"
        )


def target_size(filmed: Index | Frames, size: int | tuple[int, int] | None) -> tuple[int, int]:
    """Height and width in pixels that frames are scaled to.

    Args:
        filmed: what is scaled.
        size: None for its own; an int for the shorter side, the proportions stay; or (height, width).

    Raises:
        InputError: a side is out of range.
    """
    if size is None:
        return filmed.height, filmed.width
    if isinstance(size, int):
        scale = size / min(filmed.height, filmed.width)
        height, width = round(filmed.height * scale), round(filmed.width * scale)
    else:
        height, width = size
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise InputError(
            f"size {size} makes frames of {width}x{height} pixels: each side must be from 1 to "
            f"{LARGEST_SIDE}, for example 384 for the shorter side"
        )
    return height, width


def free_memory(free_bytes: int | None) -> int:
    """Bytes that may be used.

    Args:
        free_bytes: as told; None takes what the machine has available.
    """
    return psutil.virtual_memory().available if free_bytes is None else free_bytes
