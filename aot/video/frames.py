"""A video file, or frames already in memory, becomes `Frames`: the chosen frames and the seconds they show.

A file is decoded whole by `load_video`, or part by part through the `VideoSource` that `open_video` gives, in the
memory of one part. `Frames` come in parts too, so that what works on one works on the other.
"""

from __future__ import annotations

import math
import os
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import psutil
import torch
from torch import Tensor

from ..errors import InputError
from .decoding import Index, decode, read_index

BACKENDS = ("auto", "decord", "pyav")
MODES = ("uniform", "fps", "every")
LARGEST_SIDE = 16384
"""Pixels."""

_TIME_SLACK = 1e-6
"""Seconds by which a time may miss a frame's: containers round times, and 3 * 0.04 is not 0.12."""

_DECODER_FRAMES = 32
"""Filmed-size YUV 4:2:0 frames a decoder may hold at once: 16 references, and as many in its threads."""


@dataclass(frozen=True, eq=False, repr=False)
class Frames:
    """Decoded frames. Everything is on the CPU.

    pixels: uint8 (T, H, W, 3), RGB, contiguous. timestamps: float64 (T,), seconds from the start of the video,
    strictly increasing. source: the file's name, without its folder. Raises InputError where these do not hold.
    """

    pixels: Tensor
    timestamps: Tensor
    source: str

    def __post_init__(self) -> None:
        shape, times = tuple(self.pixels.shape), self.timestamps
        if self.pixels.dtype != torch.uint8 or len(shape) != 4 or shape[-1] != 3:
            raise InputError(
                f"frames must be uint8 (T, H, W, 3), not {self.pixels.dtype} {shape}: "
                "use Frames.from_images for float images"
            )
        if 0 in shape:
            raise InputError(f"there are no frames in a tensor of shape {shape}: give at least one")
        if not self.pixels.is_contiguous():
            raise InputError("frames must be contiguous: call .contiguous() on the tensor")
        if times.dtype != torch.float64 or times.shape != shape[:1]:
            raise InputError(
                f"{shape[0]} frames need timestamps float64 ({shape[0]},), "
                f"not {times.dtype} {tuple(times.shape)}: give one time in seconds for each frame"
            )
        if not bool(torch.isfinite(times).all()) or bool((times.diff() <= 0).any()):
            raise InputError("timestamps must be finite and strictly increasing: sort the frames by time")

    def __repr__(self) -> str:
        first, last = float(self.timestamps[0]), float(self.timestamps[-1])
        return f"Frames({self.count} of {self.width}x{self.height} from {self.source!r}, {first:.2f} to {last:.2f} s)"

    @property
    def count(self) -> int:
        """T, the number of frames."""
        return self.pixels.shape[0]

    @property
    def height(self) -> int:
        """H, in pixels."""
        return self.pixels.shape[1]

    @property
    def width(self) -> int:
        """W, in pixels."""
        return self.pixels.shape[2]

    def parts(self, size: int) -> Generator[Frames, None, None]:
        """These frames in order, `size` at a time, the last part shorter; views, not copies. Raises InputError."""
        _check_part(size)
        rows = zip(self.pixels.split(size), self.timestamps.split(size), strict=True)
        return (Frames(pixels, times, self.source) for pixels, times in rows)

    def to_images(self) -> Tensor:
        """Float32 (T, H, W, 3) in 0..1, as ComfyUI's IMAGE."""
        return self.pixels.to(torch.float32).div_(255)

    @classmethod
    def from_images(
        cls, images: Tensor, fps: float | None = None, source: str = "images", timestamps: Tensor | None = None
    ) -> Frames:
        """Frames from ComfyUI's IMAGE: float (T, H, W, 3 or 4) in 0..1; a fourth channel (alpha) is dropped.

        Give either fps (the first frame is at 0 s) or timestamps, (T,) in seconds. Values are rounded to the
        nearest of 256 levels, those outside 0..1 clipped; `images` is not modified. Raises InputError.
        """
        if not images.is_floating_point() or images.ndim != 4 or images.shape[-1] not in (3, 4):
            raise InputError(
                f"images must be float (T, H, W, 3 or 4) with values in 0..1, "
                f"not {images.dtype} {tuple(images.shape)}: use Frames itself for uint8 frames"
            )
        if timestamps is None:
            if fps is None or not (math.isfinite(fps) and fps > 0):
                raise InputError(
                    f"images have no times of their own and fps is {fps}: "
                    "give fps above 0, or one timestamp for each image"
                )
            timestamps = torch.arange(images.shape[0], dtype=torch.float64) / fps
        pixels = torch.empty((*images.shape[:3], 3), dtype=torch.uint8)
        for target, image in zip(pixels, images, strict=True):  # one at a time: no second float copy of a video
            target.copy_(image[..., :3].mul(255).round_().clamp_(0, 255))
        return cls(pixels, timestamps.to("cpu", torch.float64, copy=True), source)


@dataclass(frozen=True)
class Sampling:
    """Which frames to take from those at `start` to `end` seconds, both included (`end` None: to the last).

    - "uniform": `frames` of them, at `np.linspace(first, last, frames, dtype=int)`, as LLaVA's evaluation does.
    - "fps": the nearest frame to each of start, start + 1/fps, start + 2/fps, ..., none twice.
    - "every": the first and every `every`-th after it.

    At most `cap` frames: "uniform" asks for no more, "fps" and "every" spread `cap` uniformly over those found.
    A setting of another mode is checked but has no effect. Raises InputError.
    """

    mode: str = "uniform"
    frames: int = 32
    fps: float = 1.0
    every: int = 1
    start: float = 0.0
    end: float | None = None
    cap: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"no sampling mode {self.mode!r}: use one of {', '.join(MODES)}")
        for name, value in (("frames", self.frames), ("every", self.every), ("cap", self.cap)):
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}: it must be at least 1")
        if not (math.isfinite(self.fps) and self.fps > 0):
            raise InputError(f"fps is {self.fps}: it must be above 0, for example 1 for one frame a second")
        if not (math.isfinite(self.start) and self.start >= 0):
            raise InputError(f"start is {self.start} s: it must be 0 (the beginning) or later")
        if self.end is not None and not self.end > self.start:
            raise InputError(
                f"end is {self.end} s, not after start at {self.start} s: "
                "give a later end, or none to read to the last frame"
            )

    def indices(self, timestamps: Tensor, source: str = "the video") -> Tensor:
        """Indices of the chosen frames, int64 (K,), strictly increasing.

        timestamps: float64 (T,), seconds, strictly increasing; source names the video in errors.
        Raises InputError where the window holds no frame, or fewer than "uniform" asks for.
        """
        times = timestamps.numpy()
        first = int(np.searchsorted(times, self.start - _TIME_SLACK))
        stop = len(times) if self.end is None else int(np.searchsorted(times, self.end + _TIME_SLACK, "right"))
        if first == len(times):
            raise InputError(
                f"start is {self.start:g} s, but the last frame of {source} is at {times[-1]:.2f} s: start earlier"
            )
        available = stop - first
        if available < 1:
            raise InputError(f"{source} has no frame from {self.start:g} to {self.end:g} s: widen the range")
        if self.mode == "uniform":
            count = self.frames if self.cap is None else min(self.frames, self.cap)
            if count > available:
                last = times[stop - 1]
                raise InputError(
                    f"{count} frames asked of {source}, which has {available} from "
                    f"{times[first]:.2f} to {last:.2f} s: ask for at most {available}, "
                    "widen the range, or take a longer video"
                )
            chosen = np.linspace(first, stop - 1, count, dtype=int)
        elif self.mode == "every":
            chosen = np.arange(first, stop, self.every)
        else:
            chosen = first + self._nearest(times[first:stop])
        if self.cap is not None and len(chosen) > self.cap:
            chosen = chosen[np.linspace(0, len(chosen) - 1, self.cap, dtype=int)]
        return torch.from_numpy(chosen.astype(np.int64))

    def _nearest(self, times: np.ndarray) -> np.ndarray:
        # A frame is nearest to every moment up to half-way to the next frame. It is taken where the count of
        # ticks of the fps clock up to there grows: each frame once, and no list of ticks for a huge fps.
        reach = np.append((times[:-1] + times[1:]) / 2, times[-1])
        ticks = np.floor((reach - self.start + _TIME_SLACK) * self.fps)
        return np.flatnonzero(np.diff(ticks, prepend=-1.0) > 0)


@dataclass(frozen=True, eq=False)
class VideoSource:
    """The frames chosen from a file, not yet decoded: `open_video` makes one, `parts` decodes it.

    index: the file's. chosen: int64 (T,), the chosen frames as indices into it, strictly increasing. height and
    width: pixels to decode to. backend, free_bytes: as `open_video` takes them.
    """

    index: Index
    chosen: Tensor
    height: int
    width: int
    backend: str
    free_bytes: int | None

    @property
    def count(self) -> int:
        """T, the number of frames."""
        return len(self.chosen)

    @property
    def timestamps(self) -> Tensor:
        """Float64 (T,), seconds from the start of the video, strictly increasing."""
        return self.index.timestamps[self.chosen]

    @property
    def source(self) -> str:
        """The file's name, without its folder."""
        return self.index.name

    def parts(self, size: int) -> Generator[Frames, None, None]:
        """The frames in order, `size` at a time, the last part shorter, each decoded when it is asked for.

        One pass through the file, which every call starts anew. Only the part being decoded is held here: let go of
        the one before, and the memory needed is that of one part and the decoder (decord may queue many frames more;
        backend "pyav" does not). Closing the generator closes the file. Raises InputError at once for a size below 1
        or parts that would not fit in memory, and at the part they are in for frames that are damaged.
        """
        _check_part(size)
        self._check_memory(min(size, self.count))
        return self._decoded(size)

    def _decoded(self, size: int) -> Generator[Frames, None, None]:
        pixels = decode(self.index, self.chosen.tolist(), self.height, self.width, self.backend, size)
        with closing(pixels):
            for times in self.timestamps.split(size):
                yield Frames(next(pixels), times, self.source)

    def _check_memory(self, frames: int) -> None:
        free = _free(self.free_bytes)
        decoder = _DECODER_FRAMES * self.index.height * self.index.width * 3 // 2
        need = estimate_bytes(frames, self.height, self.width) + decoder
        if need > free:
            fit = max(0, free - decoder) // estimate_bytes(1, self.height, self.width)
            fewer = f"at most {fit} frames" if fit else "fewer frames"
            at_once = "" if frames == self.count else " at a time"
            raise InputError(
                f"{frames} frames of {self.width}x{self.height} from {self.source} need {need / 1e6:.0f} MB and "
                f"{free / 1e6:.0f} MB are free: take {fewer}{at_once}, a smaller size, or close other programs"
            )


def open_video(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    size: int | tuple[int, int] | None = None,
    backend: str = "pyav",
    free_bytes: int | None = None,
) -> VideoSource:
    """The frames that `sampling` (by default 32 uniformly) chooses, at `size`, to be decoded part by part.

    size: None as filmed; an int, the length of the shorter side in pixels, keeping the proportions; or (height,
    width) exactly. Either may enlarge. backend: "pyav", whose memory is that of a part; "decord", which queues frames
    as it likes; "auto" (decord, PyAV where decord is unfit). Frames of the filmed size are the same from each.
    free_bytes: memory that may be used; by default what the machine has available when `parts` is called.

    Raises InputError, one line with the remedy, for a path that is no readable video, and a sampling or size that
    does not fit it.
    """
    _check_backend(backend)
    sampling = Sampling() if sampling is None else sampling
    index = read_index(path)
    if index.cut_short and (sampling.end is None or sampling.end > index.duration):
        raise InputError(
            f"{index.name} is cut short, with {index.duration:.2f} of its {index.promised:.2f} s: "
            f"copy or download it again, or set end to {index.duration:.2f} s or less"
        )
    chosen = sampling.indices(index.timestamps, index.name)
    return VideoSource(index, chosen, *_target_size(index, size), backend, free_bytes)


def load_video(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    size: int | tuple[int, int] | None = None,
    backend: str = "auto",
    free_bytes: int | None = None,
) -> Frames:
    """Decode the frames that `sampling` chooses, and no others, into memory at once: `open_video` says how.

    Raises InputError as `open_video` does, and for frames that are damaged or would not fit in memory.
    """
    video = open_video(path, sampling, size, backend, free_bytes)
    (frames,) = video.parts(video.count)
    return frames


def resample(frames: Frames, sampling: Sampling) -> Frames:
    """The choice `load_video` would make, from frames already in memory. Raises InputError as it does."""
    chosen = sampling.indices(frames.timestamps, frames.source)
    return Frames(frames.pixels[chosen], frames.timestamps[chosen], frames.source)


def estimate_bytes(frames: int, height: int, width: int) -> int:
    """Bytes of `frames` decoded RGB frames. Decoding needs up to 32 YUV frames of the filmed size beside it."""
    return frames * height * width * 3


def require_components_fit(dimensions: tuple[int, int], duration: float, free_bytes: int | None = None) -> None:
    """Refuse, before ComfyUI decodes a whole VIDEO, one that would not fit in memory even at 24 frames a second.

    dimensions: (width, height), as `VideoInput.get_dimensions` gives them; duration in seconds. ComfyUI decodes to
    float32 frames and then stacks them, which holds each twice. Raises InputError.
    """
    width, height = dimensions
    need = 2 * 4 * estimate_bytes(math.ceil(24 * duration), height, width)
    free = _free(free_bytes)
    if need > free:
        raise InputError(
            f"decoding all {duration:.0f} s of this {width}x{height} VIDEO needs at least "
            f"{need / 1e6:.0f} MB and {free / 1e6:.0f} MB are free: trim it, make it smaller, or use "
            "Load Video (AOT), which decodes only the frames chosen"
        )


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}: use one of {', '.join(BACKENDS)}")


def _check_part(size: int) -> None:
    if size < 1:
        raise InputError(f"parts of {size} frames: a part must have at least 1")


def _target_size(index: Index, size: int | tuple[int, int] | None) -> tuple[int, int]:
    if size is None:
        return index.height, index.width
    if isinstance(size, int):
        scale = size / min(index.height, index.width)
        height, width = round(index.height * scale), round(index.width * scale)
    else:
        height, width = size
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        raise InputError(
            f"size {size} makes frames of {width}x{height} pixels: each side must be from 1 to "
            f"{LARGEST_SIDE}, for example 384 for the shorter side"
        )
    return height, width


def _free(free_bytes: int | None) -> int:
    return psutil.virtual_memory().available if free_bytes is None else free_bytes
