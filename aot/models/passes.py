"""Passes of a vision tower: how many frames go into one, and their pixel values, made while a tower elsewhere works."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..memory import free_bytes
from ..video.frame_source import FrameSource
from ..video.frames import Frames
from ..video.prefetch import ahead
from .progress import Progress

FRAMES_AT_ONCE = 4
"""Frames decoded at one time, and in one pass of a tower on a CPU: few enough to be interrupted soon, enough to use all
cores."""

MOST_AT_ONCE = 64
PATCHES_AT_ONCE = 50_000
"""In a pass on CUDA at most: more are no faster a frame, and a pass cannot be interrupted."""

CAUTION = 2
"""How much more memory than counted an estimate allows for."""

LONGEST_PASS = 1.0
"""Seconds; a pass that takes longer is followed by smaller ones."""


@dataclass(frozen=True)
class Pixels:
    """Pixel values, and what they took.

    Args:
        values: (T, 3, h, w) float32.
        seconds: to resize and normalise them.
    """

    values: Tensor
    seconds: float


def frames_a_pass(config: Any, size: tuple[int, int], width: int, dtype: torch.dtype, device: torch.device) -> int:
    """How many frames a tower takes at once: a power of two on CUDA, as memory allows; elsewhere FRAMES_AT_ONCE.

    Args:
        config: of the tower.
        size: (h, w) of a frame, in pixels.
        width: of the LLM.
        dtype: of the tower.
        device: of the tower.
    """
    if device.type != "cuda":
        return FRAMES_AT_ONCE
    in_memory = fitting(free_bytes(device) // 2, frame_bytes(config, size, width, dtype))
    return min(in_memory, fitting(PATCHES_AT_ONCE, _patches(config, size)))


def fitting(room: int, each: int) -> int:
    """The largest power of two, from FRAMES_AT_ONCE to MOST_AT_ONCE, of frames that fit.

    Args:
        room: for all of them, in bytes or patches.
        each: what a frame takes of it.
    """
    count = MOST_AT_ONCE
    while count > FRAMES_AT_ONCE and count * each > room:
        count //= 2
    return count


def whole_parts(count: int) -> int:
    """The largest multiple of FRAMES_AT_ONCE that is not above ``count``, and at least one."""
    return max(FRAMES_AT_ONCE, count - count % FRAMES_AT_ONCE)


def frame_bytes(config: Any, size: tuple[int, int], width: int, dtype: torch.dtype) -> int:
    """A cautious estimate of the memory that a frame takes in a pass: all hidden states, and a block's work.

    Args:
        config: of the tower.
        size: (h, w) of the frame, in pixels.
        width: of the LLM.
        dtype: of the tower.
    """
    hidden = config.hidden_size
    blocks = getattr(config, "num_hidden_layers", None) or config.depth
    mlp = getattr(config, "intermediate_size", 4 * hidden)
    values = _patches(config, size) * ((blocks + 10) * hidden + 3 * mlp + 4 * width)
    pixels = 3 * math.prod(size) * torch.float32.itemsize
    return CAUTION * (values * dtype.itemsize + pixels)


def _patches(config: Any, size: tuple[int, int]) -> int:
    patch = config.patch_size
    height, width = patch if isinstance(patch, (list, tuple)) else (patch, patch)
    return (size[0] // height) * (size[1] // width)


def passes(
    frames: FrameSource,
    prepare: Callable[[Frames], Tensor],
    device: torch.device,
    frames_at_once: int,
    on_progress: Progress,
) -> Generator[Pixels, None, None]:
    """Pixel values pass by pass, in order.

    For a tower on another device than the CPU, the next pass's are made meanwhile, in a thread: decoded and, on CUDA,
    uploaded and resized. A tower on the CPU would only have to share its cores.

    Args:
        frames: decoded, or a file still to be decoded.
        prepare: frames to pixel values on the device of the tower.
        device: of the tower.
        frames_at_once: in a pass, a multiple of FRAMES_AT_ONCE; the last may have fewer.
        on_progress: called with (frames of earlier passes, all frames), as frames come.
    """
    most = frames_at_once // FRAMES_AT_ONCE
    stream = _stream_on(device) if device.type == "cuda" else None
    parts = _prepared(frames, prepare, stream)
    if device.type != "cpu" and frames.count > FRAMES_AT_ONCE:
        parts = ahead(parts, most)
    done = 0
    waiting: list[Pixels] = []
    with closing(parts):
        for part in parts:
            on_progress(done, frames.count)
            if stream is not None:
                part.values.record_stream(torch.cuda.current_stream(device))
            waiting.append(part)
            if len(waiting) == most:
                done += sum(len(each.values) for each in waiting)
                yield _joined(waiting)
                waiting = []
        if waiting:
            yield _joined(waiting)


@lru_cache(maxsize=8)
def _stream_on(device: torch.device) -> torch.cuda.Stream:
    """The stream for all pixels of a device: PyTorch keeps the freed memory of every stream for that stream only."""
    return torch.cuda.Stream(device)


def _prepared(
    frames: FrameSource, prepare: Callable[[Frames], Tensor], stream: torch.cuda.Stream | None
) -> Generator[Pixels, None, None]:
    for part in frames.parts(FRAMES_AT_ONCE):
        # No variable: it would keep these pixel values in memory beside the next ones.
        yield _timed(part, prepare, stream)


def _timed(part: Frames, prepare: Callable[[Frames], Tensor], stream: torch.cuda.Stream | None) -> Pixels:
    """Pixel values made on a stream of their own, so that they need not wait for a tower at work, and complete."""
    start = time.perf_counter()
    with torch.no_grad(), nullcontext() if stream is None else torch.cuda.stream(stream):
        values = prepare(part)
    if stream is not None:
        stream.synchronize()
    return Pixels(values, time.perf_counter() - start)


def _joined(parts: list[Pixels]) -> Pixels:
    if len(parts) == 1:
        return parts[0]
    return Pixels(torch.cat([part.values for part in parts]), sum(part.seconds for part in parts))
