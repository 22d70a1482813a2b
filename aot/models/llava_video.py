"""LLaVA-Video from lmms-lab's checkpoint, through the stock LLaVA-OneVision class.

It differs from LLaVA-OneVision in three things: frames are pooled by averaging to 13 x 13, every grid row ends with a
newline, and the prompt gives the video's length and its frames' times.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..tokens.video_tokens import VideoTokens
from .lmms_lab import LlavaOnevisionOriginal, is_lmms_lab


class LlavaVideo(LlavaOnevisionOriginal):
    """A loaded LLaVA-Video."""

    family = "llava_video (lmms-lab)"
    pooling = "average"
    newline = "grid"

    @classmethod
    def matches(cls, config: Mapping[str, Any]) -> bool:
        """A checkpoint of LLaVA's own code, with a newline after each grid row."""
        return is_lmms_lab(config) and config.get("mm_newline_position") == "grid"

    def video_question(self, tokens: VideoTokens | None, question: str) -> str:
        """The time instruction it was trained with, in the words of its model card, then the question."""
        if tokens is None:
            return question
        times = tokens.timestamps.tolist()
        moments = ",".join(f"{time:.2f}s" for time in times)
        return (
            f"The video lasts for {times[-1]:.2f} seconds, and {len(times)} frames are uniformly sampled from it. "
            f"These frames are located at {moments}.Please answer the following questions related to this video.\n"
            f"{question}"
        )
