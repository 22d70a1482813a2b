"""What the encoder's record keeps of a video's file: seconds from there to its frames, its length, and its own times.

An answer's cost begins with the file, and some models are told how long the video is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from ..tokens.video_tokens import ENCODE, VideoTokens
from ..video.frame_source import FrameSource
from ..video.frames import Frames

FILE_S = "file_s"
"""The name of those seconds among the settings of the encoder's record; absent where they are not known."""


DURATION, TIMES = "duration", "times"
"""The names of the video's length and of the frames' times by its own clock, in seconds; absent where not known."""

SAMPLED_FPS = "sampled_fps"
"""The name of the frames that were taken of a second; absent where that is not known."""


def clock_settings(frames: FrameSource) -> dict[str, Any]:
    """What the encoder's record keeps of a video's clock; empty where that is not known.

    Args:
        frames: that are encoded.
    """
    clock = frames.clock
    return {} if clock is None else {DURATION: clock.duration, TIMES: clock.times, SAMPLED_FPS: clock.sampled_fps}


def encoder_settings(tokens: VideoTokens) -> Mapping[str, Any]:
    """The settings in the encoder's record; empty where there is none.

    Args:
        tokens: of the encoder or of any stage.
    """
    return next((record.settings for record in tokens.history if record.name == ENCODE), {})


def told_times(tokens: VideoTokens) -> tuple[float, Sequence[float]]:
    """A video's length, and its frames' times, as its file counts them.

    Without a file, and without frames a second, the video ends with its last frame.

    Args:
        tokens: of the encoder or of any stage.

    Returns:
        Seconds; (T,) seconds.
    """
    settings = encoder_settings(tokens)
    times = settings.get(TIMES, ())
    if len(times) != tokens.layout.frames:
        times = tokens.timestamps.tolist()
    return settings.get(DURATION, times[-1]), times


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
    return encoder_settings(tokens).get(FILE_S)
