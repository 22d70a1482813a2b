"""Frames to the pixel values that a vision tower takes."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..tokens.layout import Layout

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def upload(pixels: Tensor, device: torch.device) -> Tensor:
    """Pixels on a CUDA device, copied from pinned memory without waiting; as they are for any other device.

    Args:
        pixels: any shape, uint8, on the CPU.
        device: of the vision tower.
    """
    return pixels.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else pixels


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames as the stock video processors do on the same device: bicubic with antialiasing, in whole levels.

    Args:
        pixels: (T, H, W, 3) uint8.
        size: (h, w), in pixels.

    Returns:
        (T, 3, h, w), levels 0 to 255: uint8 on a CPU, float32 elsewhere if their size changes.
    """
    pixels = pixels.permute(0, 3, 1, 2)
    if pixels.shape[2:] == size:
        return pixels
    return _bicubic(pixels, size) if pixels.device.type == "cpu" else resize_in_float(pixels, size)


def resize_in_float(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize where there is no resizing of uint8, which rounds between width and height too: a value in seven differs.

    Args:
        pixels: (T, 3, H, W) uint8.
        size: (h, w), in pixels.

    Returns:
        (T, 3, h, w) float32, whole levels 0 to 255.
    """
    return _bicubic(pixels.float(), size).round_().clamp_(0, 255)


def resize_with_pil(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize frames by PIL's bicubic, a thread a frame: one level off torch's in a few values of a thousand.

    Args:
        pixels: (T, H, W, 3) uint8, on the CPU.
        size: (h, w), in pixels.

    Returns:
        (T, 3, h, w) uint8.
    """
    height, width = size

    def resized(picture: Tensor) -> Tensor:
        image = Image.fromarray(picture.numpy()).resize((width, height), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image))

    with ThreadPoolExecutor(min(len(pixels), torch.get_num_threads())) as threads:
        return torch.stack(list(threads.map(resized, pixels))).permute(0, 3, 1, 2)


def _bicubic(pixels: Tensor, size: tuple[int, int]) -> Tensor:
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
    centre, spread = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (mean, std))
    return (pixels.float() / 255 - centre) / spread


def rows_of_patches(pixel_values: Tensor, patch: int) -> Tensor:
    """Cut frames into patches, row by row; of each its rows of pixels, the colours of a pixel together.

    Args:
        pixel_values: (T, 3, h, w) float32.
        patch: side of a patch, in pixels; both sides of a frame are multiples of it.

    Returns:
        (T, patches, values) float32.
    """
    count, channels, height, width = pixel_values.shape
    split = pixel_values.reshape(count, channels, height // patch, patch, width // patch, patch)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(count, -1, patch * patch * channels)


def pixel_change(
    pixels: Tensor, layout: Layout, before: Tensor | None = None, *, std: Sequence[float] = (1.0, 1.0, 1.0)
) -> Tensor:
    """How much the pixels of every cell differ from those of the frame before.

    Where the encoder takes several pictures as a frame, a frame's last one is compared with the first one of the frame
    before: so DTD's authors compare the pairs of Qwen2.5-VL.

    Args:
        pixels: (P, 3, h, w) floating, the pictures of T frames, as many of each; the last frame may lack some. Levels
            from 0 to 1, or those normalised.
        layout: of the T frames.
        before: (3, h, w), the first picture of the frame before these; None where there is none.
        std: of the colours, by which the levels were divided.

    Returns:
        (T, N), mean absolute difference; 0 for a frame with none before it.
    """
    together = -(-len(pixels) // layout.frames)
    first = pixels[::together]
    last = first if together == 1 else torch.cat((pixels[together - 1 :: together], pixels[-1:]))[: layout.frames]
    change = torch.cat((last[:1] - (last[:1] if before is None else before), last[1:] - first[:-1])).abs_()
    change *= change.new_tensor(std)[:, None, None]
    return functional.adaptive_avg_pool2d(change.mean(1), layout.grid).flatten(1)
