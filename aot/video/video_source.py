"""The frames of a file, decoded part by part in the memory of one part, or all at once."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import InputError
from .choice import Choice
from .decoding import decode
from .frame_source import FrameSource, Step
from .frames import Carrying, Clock, Frames, check_part
from .index import Index, read_index
from .sampling import Sampling
from .sizes import estimate_bytes, free_memory, target_size

BACKENDS = ("auto", "decord", "pyav")

_THUMBNAILS = 4
"""Frames decoded at one time where only thumbnails are kept."""

_DECODER_FRAMES = 32
"""The most YUV 4:2:0 frames of the filmed size in a decoder at once: 16 references, and as many in its threads."""


@dataclass(frozen=True, eq=False)
class VideoSource(Carrying):
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
        check_part(size)
        self._check_memory(min(size, self.count))
        return self._decoded(size)

    def _decoded(self, size: int) -> Generator[Frames, None, None]:
        pixels = decode(self.index, self.chosen.tolist(), self.height, self.width, self.backend, size)
        with closing(pixels):
            for times in self.timestamps.split(size):
                yield Frames(next(pixels), times, self.source, steps=self.steps)

    def _check_memory(self, frames: int) -> None:
        free = free_memory(self.free_bytes)
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
    height, width = target_size(index, size)

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


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        raise InputError(f"no backend {backend!r}: use one of {', '.join(BACKENDS)}")
