"""A clip as a video file, for players and for ComfyUI's input folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from ..files import make_folder
from ..video.encoding import encode_mp4
from ..video.frames import Frames


def write_mp4(frames: Frames, path: Path) -> None:
    """Write ``frames`` as an mp4, completely or not at all. All frames last equally long.

    Args:
        frames: (T, H, W, 3) uint8, T at least 2, H and W even.
        path: of the file; its folder is made if need be.

    Raises:
        InputError: the file cannot be written.
    """
    make_folder(path.parent)
    step = float(frames.timestamps[-1] - frames.timestamps[0]) / (frames.count - 1)
    rate = (1 / Fraction(step)).limit_denominator(1000)
    encode_mp4(((picture, 1) for picture in frames.pixels.numpy()), path, rate)
