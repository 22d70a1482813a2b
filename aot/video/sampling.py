"""Which frames of a video are taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError

MODES = ("uniform", "fps", "every")

_TIME_SLACK = 1e-6
"""Seconds by which a time may differ from a frame's: containers round times, and 3 * 0.04 is not 0.12."""

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
