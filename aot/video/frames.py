"""Frames of a video in memory: their pixels, their times in seconds, and what they were chosen of.

They can be read in parts, as those of a file can (:mod:`.video_source`), so that code for one works on the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from ..errors import InputError
from .choice import Choice
from .frame_source import FrameSource, Step
from .sampling import Sampling

if TYPE_CHECKING:
    from typing_extensions import Self


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


class Carrying:
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
class Frames(Carrying):
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
        check_part(size)
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


def check_part(size: int) -> None:
    """Refuse parts of no frames.

    Args:
        size: frames in a part.

    Raises:
        InputError: it is below 1.
    """
    if size < 1:
        raise InputError(f"parts of {size} frames: a part must have at least 1")
