"""The time from a video's file to its frames, kept in the encoder's record: an answer's cost begins with the file."""

from __future__ import annotations

import dataclasses

from ..tokens.video_tokens import ENCODE, VideoTokens
from ..video.frame_source import FrameSource
from ..video.frames import Frames

FILE_S = "file_s"
"""The name of those seconds among the settings of the encoder's record; absent where they are not known."""


def with_file_seconds(tokens: VideoTokens, frames: FrameSource, seconds: float) -> VideoTokens:
    """Tokens whose encoder's record has the seconds from the file to the frames.

    Frames that were decoded before know them. Those of a file that was decoded on the way took what the encoder and
    the stages did not.

    Args:
        tokens: of all frames, encoded and perhaps reduced.
        frames: that were encoded.
        seconds: from the first part of the frames to the tokens.
    """
    file_s = frames.file_s
    if file_s is None:
        return tokens
    if not isinstance(frames, Frames):
        file_s += max(0.0, seconds - sum(record.milliseconds for record in tokens.history) / 1e3)
    history = (
        dataclasses.replace(record, settings={**record.settings, FILE_S: file_s}) if record.name == ENCODE else record
        for record in tokens.history
    )
    return dataclasses.replace(tokens, history=tuple(history))


def file_seconds(tokens: VideoTokens) -> float | None:
    """Seconds from the file to the frames; None if they are not known.

    Args:
        tokens: of the encoder or of any stage.
    """
    return next((record.settings.get(FILE_S) for record in tokens.history if record.name == ENCODE), None)
