"""Cutting a video into clips: runs of frames that one keyframe speaks for."""

from __future__ import annotations

from .errors import InputError


def fixed_clips(frames: int, length: int) -> tuple[int, ...]:
    """Clip lengths of ``frames`` frames in clips of ``length``, the last one short where they do not divide.

    Raises:
        InputError: the length is below 1.
    """
    if length < 1:
        raise InputError(f"A clip of {length} frames is impossible; give a clip length of 1 or more.")
    whole, rest = divmod(frames, length)
    return (length,) * whole + ((rest,) if rest else ())
