"""Frames of a clip as LLaVA's evaluation takes them: a fixed number, evenly over the part that a question is about."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import InputError, UnreadableVideo
from ...video.frame_source import FrameSource
from ...video.frames import Frames
from ...video.sampling import Sampling
from ...video.video_source import open_video

PICTURES_PER_SECOND = 3.0
"""Of a clip that is a folder of pictures: TVQA's rate, and so that of MVBench's episodic reasoning."""

PICTURES = (".jpg", ".jpeg", ".png")


def clip_frames(path: Path, count: int, start: float = 0.0, end: float | None = None) -> FrameSource:
    """`count` frames at `np.linspace(first, last, count, dtype=int)` of those from `start` to `end` seconds.

    A clip of fewer frames repeats each of them to make `count`, at evenly spread times.

    Args:
        path: a video file, or a folder of pictures at 3 a second, in the order of their names, the first at 0 s.
        count: number of frames, at least 1.
        start: of the part, in seconds.
        end: of the part, in seconds; None means the last frame.

    Raises:
        InputError: a count below 1.
        UnreadableVideo: no readable video or pictures, or none in that part of it.
    """
    every = Sampling(mode="every", frames=count, start=start, end=end)
    try:
        return _from_pictures(path, count, every) if path.is_dir() else _from_video(path, count, every)
    except InputError as error:
        raise UnreadableVideo(str(error)) from error


def _from_video(path: Path, count: int, every: Sampling) -> FrameSource:
    video = open_video(path, every)
    if video.count >= count:
        return dataclasses.replace(video, chosen=video.chosen[_spread(video.count, count)])
    (frames,) = video.parts(video.count)
    return _repeated(frames, count)


def _from_pictures(folder: Path, count: int, every: Sampling) -> Frames:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"{folder} holds no pictures ({', '.join(PICTURES)}); extract the set's frames into it.")
    times = torch.arange(len(files), dtype=torch.float64) / PICTURES_PER_SECOND
    chosen = every.indices(times, folder.name)
    chosen = chosen[_spread(len(chosen), min(count, len(chosen)))]
    pixels = torch.stack([_pixels(files[i]) for i in chosen.tolist()])
    frames = Frames(pixels, times[chosen], folder.name)
    return frames if frames.count == count else _repeated(frames, count)


def _pixels(file: Path) -> torch.Tensor:
    try:
        with Image.open(file) as picture:
            return torch.from_numpy(np.array(picture.convert("RGB")))
    except OSError as error:
        raise InputError(f"{file} is no readable picture ({error}); extract the set's frames again.") from error


def _spread(frames: int, count: int) -> torch.Tensor:
    return torch.from_numpy(np.linspace(0, frames - 1, count, dtype=int))


def _repeated(frames: Frames, count: int) -> Frames:
    """`count` frames out of fewer; a clip of one frame lasts for a second."""
    first, last = float(frames.timestamps[0]), float(frames.timestamps[-1])
    times = torch.linspace(first, last if frames.count > 1 else first + 1, count, dtype=torch.float64)
    return Frames(frames.pixels[_spread(frames.count, count)], times, frames.source)
