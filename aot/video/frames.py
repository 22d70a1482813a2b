"""Frames of a video: which ones are chosen, their pixels and their times in seconds.

`load_video` decodes the chosen frames of a file at once. `open_video` returns a `VideoSource`, which decodes them part
by part in the memory of one part. `Frames` can be read in parts too, so that code for one works on the other.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ..errors import InputError
from .choice import Choice
from .decoding import decode
from .frame_source import FrameSource, Step
from .index import Index, read_index

if TYPE_CHECKING:
    from typing_extensions import Self

BACKENDS = ("auto", "decord", "pyav")
MODES = ("uniform", "fps", "every")
LARGEST_SIDE = 16384
"""Pixels."""

_TIME_SLACK = 1e-6
"""Seconds by which a time may differ from a frame's: containers round times, and 3 * 0.04 is not 0.12."""

_THUMBNAILS = 4
"""Frames decoded at one time where only thumbnails are kept."""

_DECODER_FRAMES = 32
"""The most YUV 4:2:0 frames of the filmed size in a decoder at once: 16 references, and as many in its threads."""


@dataclass(frozen=True, eq=False)
class Clock:
    """How a whole video counts its time, of which frames were chosen: models are told of it in these figures.

    Args:
        frames: of the whole video.
        fps: frames a second, on average.
        numbers: (T,) int64, of the chosen frames among those, from 0.
        window: frames that they were chosen among; None for all of them.
    """

    frames: int
    fps: float
    numbers: Tensor
    window: int | None = None

    @property
    def duration(self) -> float:
        """Seconds of the whole video."""
        return self.frames / self.fps

    @property
    def times(self) -> list[float]:
        """(T,) seconds, as if all frames were equally far apart."""
        return [number / self.fps for number in self.numbers.tolist()]

    @property
    def sampled_fps(self) -> float:
        """Chosen frames a second of the window."""
        return len(self.numbers) / (self.window or self.frames) * self.fps

    def pick(self, chosen: Tensor, first: int, stop: int) -> Clock:
        """The clock of some of the chosen frames.

        Args:
            chosen: (K,) int64, indices of them.
            first: index of the first that could be chosen.
            stop: index after the last.
        """
        window = self.window
        if stop - first < len(self.numbers):
            window = int(self.numbers[stop - 1] - self.numbers[first]) + 1
        return replace(self, numbers=self.numbers[chosen], window=window)


class _Carrying:
    """Frames that carry what stages before the encoder chose, and what is to happen to them inside the tower."""

    choice: Choice | None
    more: Callable[[int], FrameSource] | None
    steps: tuple[Step, ...]

    def with_choice(self, choice: Choice) -> Self:
        """These frames, with what was chosen.

        Args:
            choice: of these frames.
        """
        return replace(cast(Any, self), choice=choice)

    def with_step(self, step: Step) -> Self:
        """These frames, to which something more is to happen inside the tower; others of the video are to have it too.

        Args:
            step: a stage of the tower.
        """
        more = self.more
        carried = None if more is None else lambda count: more(count).with_step(step)
        return replace(cast(Any, self), more=carried, steps=(*self.steps, step))


@dataclass(frozen=True, eq=False, repr=False)
class Frames(_Carrying):
    """Decoded frames, on the CPU.

    Args:
        pixels: (T, H, W, 3) uint8, RGB, contiguous.
        timestamps: (T,) float64, seconds from the start of the video, strictly increasing.
        source: the file's name, without its folder.
        file_s: seconds from the file to these frames; None if they are of no file, or nobody measured.
        clock: of the whole video; None if it is not known.
        choice: what stages before the encoder chose; None where none has.
        more: takes a number of frames, and returns that many of the same part of the video, evenly spread; None where
            there are no others.
        steps: what is to happen to the frames inside the vision tower, in order.

    Raises:
        InputError: the tensors are not as stated.
    """

    pixels: Tensor
    timestamps: Tensor
    source: str
    file_s: float | None = None
    clock: Clock | None = None
    choice: Choice | None = None
    more: Callable[[int], FrameSource] | None = None
    steps: tuple[Step, ...] = ()

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
        """These frames in parts, in order. The parts are views, not copies.

        Args:
            size: frames in a part; the last part may be shorter.

        Raises:
            InputError: the size is below 1.
        """
        _check_part(size)
        rows = zip(self.pixels.split(size), self.timestamps.split(size), strict=True)
        return (Frames(pixels, times, self.source, steps=self.steps) for pixels, times in rows)

    def pick(self, chosen: Tensor) -> Frames:
        """Some of these frames, which know what they were chosen of.

        Args:
            chosen: (K,) int64, their indices, increasing.
        """
        return replace(
            self,
            pixels=self.pixels[chosen],
            timestamps=self.timestamps[chosen],
            clock=self.clock.pick(chosen, 0, self.count) if self.clock else None,
            choice=Choice.of(self).pick(chosen),
        )

    def thumbnails(self, side: int) -> Tensor:
        """Every frame in few pixels, in order.

        Args:
            side: of a thumbnail, in pixels.

        Returns:
            (T, side, side, 3) float32, levels 0 to 255.
        """
        small = [adaptive_avg_pool2d(picture.permute(2, 0, 1).float(), side) for picture in self.pixels]
        return torch.stack(small).permute(0, 2, 3, 1)

    def to_images(self) -> Tensor:
        """The frames as ComfyUI's IMAGE: (T, H, W, 3) float32, 0 to 1."""
        return self.pixels.to(torch.float32).div_(255)

    @classmethod
    def from_images(
        cls, images: Tensor, fps: float | None = None, source: str = "images", timestamps: Tensor | None = None
    ) -> Frames:
        """Frames from ComfyUI's IMAGE. Values are rounded to 256 levels; values outside 0 to 1 are clipped.

        With ``fps`` they are taken for a whole video; with ``timestamps`` it is not known what they are part of.

        Args:
            images: (T, H, W, 3 or 4) floating, 0 to 1. A fourth channel (alpha) is dropped.
            fps: frames a second, the first frame at 0 s; needed without ``timestamps``.
            source: name of the frames, for messages.
            timestamps: (T,) floating, in seconds; goes before ``fps``.

        Raises:
            InputError: the images are of another shape or dtype, or have no times.
        """
        if not images.is_floating_point() or images.ndim != 4 or images.shape[-1] not in (3, 4):
            raise InputError(
                f"images must be float (T, H, W, 3 or 4) with values in 0..1, "
                f"not {images.dtype} {tuple(images.shape)}: use Frames itself for uint8 frames"
            )
        clock = None
        if timestamps is None:
            if fps is None or not (math.isfinite(fps) and fps > 0):
                raise InputError(
                    f"images have no times of their own and fps is {fps}: "
                    "give fps above 0, or one timestamp for each image"
                )
            clock = Clock(len(images), fps, torch.arange(len(images)))
            timestamps = torch.arange(len(images), dtype=torch.float64) / fps
        pixels = torch.empty((*images.shape[:3], 3), dtype=torch.uint8)
        for target, image in zip(pixels, images, strict=True):  # one by one: no second float copy of the video
            target.copy_(image[..., :3].mul(255).round_().clamp_(0, 255))
        return cls(pixels, timestamps.to("cpu", torch.float64, copy=True), source, clock=clock)


MakersChoice = Callable[[int, float, float], "Sequence[int] | None"]
"""Takes a video's frames, frames a second and seconds, and returns the indices that a model's makers take; or None."""


@dataclass(frozen=True)
class Sampling:
    """Which frames to take from a window of a video.

    The modes are:

    - "uniform": `frames` of them, at `np.linspace(first, last, frames, dtype=int)`, as LLaVA's evaluation does.
    - "fps": the nearest frame to each of start, start + 1/fps, start + 2/fps, ..., none twice.
    - "every": the first and every `every`-th after it.

    A setting of another mode is checked but has no effect.

    Args:
        mode: "uniform", "fps" or "every".
        frames: number of frames of "uniform".
        fps: frames a second of "fps".
        every: step of "every".
        start: of the window, in seconds; included.
        end: of the window, in seconds; included. None means the last frame.
        cap: the most frames, or None. "fps" and "every" then spread `cap` frames uniformly over their choice.
        makers: of a model, :meth:`VideoLLM.sampling`; goes before the mode where it chooses. None for the mode.
        fewer: whether "uniform" takes all frames of a window that has fewer, rather than refusing it.

    Raises:
        InputError: a setting is out of range.
    """

    mode: str = "uniform"
    frames: int = 32
    fps: float = 1.0
    every: int = 1
    start: float = 0.0
    end: float | None = None
    cap: int | None = None
    makers: MakersChoice | None = None
    fewer: bool = False

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

    def indices(self, timestamps: Tensor, source: str = "the video", fps: float | None = None) -> Tensor:
        """Indices of the chosen frames: (K,) int64, strictly increasing.

        Args:
            timestamps: (T,) float64, in seconds, strictly increasing.
            source: name of the video, for messages.
            fps: frames a second of the video, for the model's makers; None takes that of the times.

        Raises:
            InputError: the window has no frame, or fewer than "uniform" takes.
        """
        times = timestamps.numpy()
        first, stop = self.window(timestamps, source)
        available = stop - first
        made = self._makers_own(times[first:stop], fps)
        if made is not None:
            chosen = first + made
        elif self.mode == "uniform":
            count = self.frames if self.cap is None else min(self.frames, self.cap)
            count = min(count, available) if self.fewer else count
            if count > available:
                last = times[stop - 1]
                raise InputError(
                    f"{count} frames asked of {source}, which has {available} from "
                    f"{times[first]:.2f} to {last:.2f} s: ask for at most {available}, "
                    "allow fewer, widen the range, or take a longer video"
                )
            chosen = np.linspace(first, stop - 1, count, dtype=int)
        elif self.mode == "every":
            chosen = np.arange(first, stop, self.every)
        else:
            chosen = first + self._nearest(times[first:stop])
        if self.cap is not None and len(chosen) > self.cap:
            chosen = chosen[np.linspace(0, len(chosen) - 1, self.cap, dtype=int)]
        return torch.from_numpy(chosen.astype(np.int64))

    def window(self, timestamps: Tensor, source: str = "the video") -> tuple[int, int]:
        """Indices of the first frame that may be chosen, and of the one after the last.

        Args:
            timestamps: (T,) float64, in seconds, strictly increasing.
            source: name of the video, for messages.

        Raises:
            InputError: the window has no frame.
        """
        times = timestamps.numpy()
        first = int(np.searchsorted(times, self.start - _TIME_SLACK))
        stop = len(times) if self.end is None else int(np.searchsorted(times, self.end + _TIME_SLACK, "right"))
        if first == len(times):
            raise InputError(
                f"start is {self.start:g} s, but the last frame of {source} is at {times[-1]:.2f} s: start earlier"
            )
        if stop <= first:
            raise InputError(f"{source} has no frame from {self.start:g} to {self.end:g} s: widen the range")
        return first, stop

    def _makers_own(self, times: np.ndarray, fps: float | None) -> np.ndarray | None:
        """What the model's makers take of a window, none twice; None where they have no say."""
        if self.makers is None:
            return None
        rate = fps or (float(len(times) - 1) / float(times[-1] - times[0]) if len(times) > 1 else 1.0)
        chosen = self.makers(len(times), rate, len(times) / rate)
        return None if chosen is None else np.unique(chosen)

    def _nearest(self, times: np.ndarray) -> np.ndarray:
        # A frame is the nearest one until half-way to the next frame. It is taken if the number of ticks of the
        # fps clock grows within that time. So each frame is taken once, and a huge fps needs no list of ticks.
        reach = np.append((times[:-1] + times[1:]) / 2, times[-1])
        ticks = np.floor((reach - self.start + _TIME_SLACK) * self.fps)
        return np.flatnonzero(np.diff(ticks, prepend=-1.0) > 0)


@dataclass(frozen=True, eq=False)
class VideoSource(_Carrying):
    """The chosen frames of a file, not yet decoded. `open_video` makes it, `parts` decodes it.

    Args:
        index: of the file.
        chosen: (T,) int64, indices of the frames, strictly increasing.
        height: to decode to, in pixels.
        width: to decode to, in pixels.
        backend: see :func:`open_video`.
        free_bytes: see :func:`open_video`.
        file_s: seconds that reading the index took.
        window: frames that they were chosen among; None for all of the file's.
        choice: what stages before the encoder chose; None where none has.
        more: see :class:`Frames`.
        steps: what is to happen to the frames inside the vision tower, in order.
    """

    index: Index
    chosen: Tensor
    height: int
    width: int
    backend: str
    free_bytes: int | None
    file_s: float = 0.0
    window: int | None = None
    choice: Choice | None = None
    more: Callable[[int], FrameSource] | None = None
    steps: tuple[Step, ...] = ()

    @property
    def count(self) -> int:
        """T, the number of frames."""
        return len(self.chosen)

    @property
    def timestamps(self) -> Tensor:
        """(T,) float64, seconds from the start of the video, strictly increasing."""
        return self.index.timestamps[self.chosen]

    @property
    def source(self) -> str:
        """The file's name, without its folder."""
        return self.index.name

    @property
    def clock(self) -> Clock:
        """How the file counts its time."""
        return Clock(self.index.count, self.index.fps, self.chosen, self.window)

    def pick(self, chosen: Tensor) -> VideoSource:
        """Some of these frames, which know what they were chosen of; only they are decoded.

        Args:
            chosen: (K,) int64, their indices, increasing.
        """
        return replace(self, chosen=self.chosen[chosen], choice=Choice.of(self).pick(chosen))

    def thumbnails(self, side: int) -> Tensor:
        """Every frame in few pixels, in order: a pass through the file that keeps nothing else.

        Args:
            side: of a thumbnail, in pixels.

        Returns:
            (T, side, side, 3) float32, levels 0 to 255.

        Raises:
            InputError: a frame is damaged, or does not fit in memory.
        """
        return torch.cat([part.thumbnails(side) for part in self.parts(_THUMBNAILS)])

    def parts(self, size: int) -> Generator[Frames, None, None]:
        """Decode the frames in parts, in order, in one pass through the file. Every call starts a new pass.

        The generator keeps only the part that it decodes. If the caller keeps none either, the memory is that of one
        part and of the decoder; decord may queue many more frames, PyAV does not. Closing the generator closes the
        file.

        Args:
            size: frames in a part; the last part may be shorter.

        Raises:
            InputError: at once if the size is below 1 or a part does not fit in memory; at its part if a frame is
                damaged.
        """
        _check_part(size)
        self._check_memory(min(size, self.count))
        return self._decoded(size)

    def _decoded(self, size: int) -> Generator[Frames, None, None]:
        pixels = decode(self.index, self.chosen.tolist(), self.height, self.width, self.backend, size)
        with closing(pixels):
            for times in self.timestamps.split(size):
                yield Frames(next(pixels), times, self.source, steps=self.steps)

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
    backend: str = "auto",
    free_bytes: int | None = None,
) -> VideoSource:
    """Choose frames of a video file, to decode them part by part.

    Args:
        path: of the file.
        sampling: which frames; None takes 32 uniformly.
        size: None for the filmed size; an int for the shorter side in pixels, with the same proportions; or exactly
            (height, width). It may enlarge.
        backend: "pyav" or "auto", PyAV, which reads every file and needs the memory of a part; or "decord", which reads
            plain mp4 files of 8 bits at their filmed size only, may queue many frames, and gives the same pictures.
        free_bytes: memory that may be used; None takes what the machine has available when `parts` is called.

    Raises:
        InputError: the file is no readable video, or the sampling or the size does not suit it.
    """
    _check_backend(backend)
    start = time.perf_counter()
    sampling = Sampling() if sampling is None else sampling
    index = read_index(path)
    if index.cut_short and (sampling.end is None or sampling.end > index.duration):
        promised = f"with {index.duration:.2f} of its {index.promised:.2f} s" if index.promised else "in a frame"
        raise InputError(
            f"{index.name} is cut short, {promised}: "
            f"copy or download it again, or set end to {index.duration:.2f} s or less"
        )
    chosen = sampling.indices(index.timestamps, index.name, index.fps)
    first, stop = sampling.window(index.timestamps, index.name)
    height, width = _target_size(index, size)

    def more(count: int) -> VideoSource:
        others = Sampling(frames=count, start=sampling.start, end=sampling.end)
        return open_video(path, others, size, backend, free_bytes)

    seconds = time.perf_counter() - start
    return VideoSource(index, chosen, height, width, backend, free_bytes, seconds, stop - first, more=more)


def load_video(
    path: str | os.PathLike[str],
    sampling: Sampling | None = None,
    size: int | tuple[int, int] | None = None,
    backend: str = "auto",
    free_bytes: int | None = None,
) -> Frames:
    """Decode the chosen frames of a video file into memory.

    Args:
        path: of the file.
        sampling: which frames; None takes 32 uniformly.
        size: see :func:`open_video`.
        backend: see :func:`open_video`.
        free_bytes: see :func:`open_video`.

    Raises:
        InputError: as :func:`open_video`, and if frames are damaged or do not fit in memory.
    """
    return decoded(open_video(path, sampling, size, backend, free_bytes))


def decoded(frames: FrameSource) -> Frames:
    """Frames in memory, with all that is known of them: those given, or those of a file, decoded now.

    Args:
        frames: in memory, or in a file.

    Raises:
        InputError: a frame of the file is damaged, or they do not fit in memory.
    """
    if isinstance(frames, Frames):
        return frames
    start = time.perf_counter()
    (whole,) = frames.parts(frames.count)
    seconds = time.perf_counter() - start + (frames.file_s or 0.0)
    return replace(whole, file_s=seconds, clock=frames.clock, choice=frames.choice, more=frames.more)


def resample(frames: Frames, sampling: Sampling) -> Frames:
    """Choose among frames in memory as `load_video` chooses among those of a file.

    Args:
        frames: all frames.
        sampling: which of them.

    Raises:
        InputError: the window has no frame, or fewer than "uniform" takes.
    """
    clock = frames.clock
    chosen = sampling.indices(frames.timestamps, frames.source, clock.fps if clock else None)
    return replace(
        frames,
        pixels=frames.pixels[chosen],
        timestamps=frames.timestamps[chosen],
        clock=clock.pick(chosen, *sampling.window(frames.timestamps, frames.source)) if clock else None,
        more=None,
    )


def resize(frames: Frames, size: int, free_bytes: int | None = None) -> Frames:
    """Scale frames in memory.

    Args:
        frames: in memory.
        size: of the shorter side in pixels; the proportions stay. It may enlarge.
        free_bytes: memory that may be used; None takes what the machine has available.

    Raises:
        InputError: the size is out of range, or the scaled frames do not fit in memory.
    """
    height, width = _target_size(frames, size)
    need, free = estimate_bytes(frames.count, height, width), _free(free_bytes)
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


def _target_size(filmed: Index | Frames, size: int | tuple[int, int] | None) -> tuple[int, int]:
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


def _free(free_bytes: int | None) -> int:
    return psutil.virtual_memory().available if free_bytes is None else free_bytes
