"""LLaVA-Video from lmms-lab's checkpoint, through the stock LLaVA-OneVision class.

It differs from LLaVA-OneVision in three things: frames are pooled by averaging to 13 x 13, every grid row ends with a
newline, and the prompt gives the video's length and its frames' times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..tokens.video_tokens import VideoTokens
from .file_time import told_times
from .frame_choice import NO_SETTINGS
from .lmms_lab import LlavaOnevisionOriginal, is_lmms_lab

FRAMES = 64
"""Frames that the model card takes of a video."""


class LlavaVideo(LlavaOnevisionOriginal):
    """A loaded LLaVA-Video."""

    family = "llava_video (lmms-lab)"
    pooling = "average"
    newline = "grid"

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """A checkpoint of LLaVA's own code, with a newline after each grid row."""
        return is_lmms_lab(config) and config.get("mm_newline_position") == "grid"

    @classmethod
    def sampling(
        cls, frames: int, fps: float, duration: float, settings: Mapping[str, Any] = NO_SETTINGS
    ) -> Sequence[int]:
        """Evenly spread from the first frame to the last.

        Args:
            frames: of the video.
            fps: frames a second.
            duration: in seconds.
            settings: of the folder's video processor.
        """
        return np.linspace(0, frames - 1, FRAMES, dtype=int).tolist()

    def video_question(self, tokens: VideoTokens | None, question: str) -> str:
        """The time instruction it was trained with, in the words of its model card, then the question."""
        if tokens is None:
            return question
        duration, times = told_times(tokens)
        moments = ",".join(f"{time:.2f}s" for time in times)
        return (
            f"The video lasts for {duration:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
            f"These frames are located at {moments}.Please answer the following questions related to this video.\n"
            f"{question}"
        )
