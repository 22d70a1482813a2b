"""GLM-4.1V and GLM-4.6V through the stock transformers classes.

As with Qwen's models, frames come in pairs, and each pair's tokens stay together: its time is after it in the prompt,
in whole seconds for GLM-4.1V. It is the time of the pair's first frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..tokens.video_tokens import Layout, VideoTokens
from ..video.frame_source import FrameFacts
from .file_time import TIMES, encoder_settings
from .frame_choice import NO_SETTINGS, positive
from .importance import depths
from .prompt import Inputs
from .qwen import QwenVL
from .qwen3_vl import fit_video
from .stock import stock_class

_START, _SLOT, _END = "<|begin_of_image|>", "<|image|>", "<|end_of_image|>"

FPS, LONGEST = 2.0, 300.0
"""GLM-4.1V: frames a second that are taken of a video up to so many seconds, where the settings do not say."""

RATES = ((30.0, 3.0), (300.0, 1.0), (2400.0, 0.5))
"""GLM-4.6V: pairs a second that are taken of a video up to so many seconds; of a longer one as of the last."""

MOST_FRAMES = 640
"""Of GLM-4.6V."""


class Glm41V(QwenVL):
    """A loaded GLM-4.1V."""

    family = "glm4v"
    stock = stock_class("Glm4vForConditionalGeneration", since="4.53")
    placeholder = "<|video|>"
    slot = _SLOT
    frames_apart = True
    any_size = through_utils = False
    least_pixels, most_pixels = 112 * 112, 28 * 28 * 2 * 30000

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """The frame at every half second or the next after it; of more than five minutes 600 moments from end to end.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        rate, longest = positive(settings, "fps", FPS), positive(settings, "max_duration", LONGEST)
        if duration <= longest:
            return [min(frames - 1, math.ceil(each * fps / rate)) for each in range(max(1, int(duration * rate)))]
        count = int(longest * rate)
        if count >= frames:
            return range(frames)
        return [min(frames - 1, math.ceil(time * fps)) for time in np.linspace(0, duration, count)]

    def processor_size(self, frames: int, size: tuple[int, int]) -> tuple[int, int]:
        """The video's pixels are within the processor's limits.

        Args:
            frames: their number.
            size: (h, w) of the file's, in pixels.
        """
        pair = self._vision.temporal_patch_size
        return fit_video(max(frames, pair), *size, pair, self.factor, self._least, self._most)

    def timestamps(self, frames: FrameFacts) -> Tensor:
        """The time of every pair's first frame, (pairs,) float64, in seconds."""
        return frames.timestamps[:: self._vision.temporal_patch_size]

    def importance_layers(self) -> tuple[int, int, int]:
        """AOT's depths; every block attends over the full frame."""
        return depths(self._vision.depth)

    def tower_grids(self, layout: Layout) -> Tensor:
        """(pairs, 3) long: every pair is an image of its own."""
        _, rows, columns = self.grids(layout)[0].tolist()
        return torch.tensor([[1, rows, columns]]).expand(layout.frames, -1)

    @property
    def visual_id(self) -> int:
        """The token id in the place of a visual token: that of images, for videos too."""
        return self.hf_model.config.image_token_id

    def video_text(self, tokens: VideoTokens | None) -> str:
        """Each pair, then its time."""
        if tokens is None:
            return f"{_START}{_SLOT}{_END}"
        times = encoder_settings(tokens).get(TIMES, ())[:: self._vision.temporal_patch_size]
        if len(times) != tokens.layout.frames:
            times = tokens.timestamps.tolist()
        return "".join(f"{_START}{_SLOT}{_END}{self.time_text(time)}" for time in times)

    def time_text(self, seconds: float) -> str:
        """A pair's time in the prompt.

        Args:
            seconds: from the beginning of the video.
        """
        return f"{int(seconds)}"

    def _position_ids(self, inputs: Inputs, before: int) -> Tensor:
        """(3, 1, n): time, height and width."""
        return inputs.position_ids[:, None]


class Glm46V(Glm41V):
    """A loaded GLM-4.6V, dense or of experts."""

    family = "glm46v"
    stock = stock_class("Glm46VForConditionalGeneration", since="5.0")

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """Six frames a second of up to 30 seconds, two of up to five minutes, else one; 640 at most.

        They are the first at or after each tick of that rate. Where these are too few they are spread anew between the
        first and the last of them, and where too many over the whole video.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        length = min(duration, RATES[-1][0])
        pair = int(positive(settings, "temporal_patch_size", 2))
        rate = next(rate for longest, rate in RATES if length <= longest)
        count = max(1, min(int(length * rate * pair), MOST_FRAMES))
        ticks = ticked(frames, fps, 1 / (pair * rate), int(duration)) if frames >= count else []
        if len(ticks) == count:
            return ticks
        first, last = (ticks[0], ticks[-1]) if 0 < len(ticks) < count else (0, frames - 1)
        return np.linspace(first, last, count, dtype=int).tolist()

    def time_text(self, seconds: float) -> str:
        """A pair's time in the prompt.

        Args:
            seconds: from the beginning of the video.
        """
        return f"{seconds:.1f} seconds"


def ticked(frames: int, fps: float, step: float, end: float) -> list[int]:
    """The first frame at or after each tick, each for one tick.

    Args:
        frames: of the video.
        fps: frames a second.
        step: from a tick to the next, in seconds; they are added up, as the makers do.
        end: seconds from which on nothing ticks.
    """
    tick, taken = 0.0, []
    for frame in range(frames):
        if frame * (1 / fps) < tick:
            continue
        taken.append(frame)
        tick += step
        if tick >= end:
            break
    return taken
