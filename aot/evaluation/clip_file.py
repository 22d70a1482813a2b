"""A clip as a video file, for players and for ComfyUI's input folder."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from ..files import make_folder, whole_file
from ..video.frames import Frames

_PREFERRED, _ALWAYS_THERE = "libx264", "mpeg4"


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
    codec = _PREFERRED if _PREFERRED in av.codecs_available else _ALWAYS_THERE
    with whole_file(path) as part, av.open(str(part), "w", format="mp4") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.width, frames.height, "yuv420p"
        stream.bit_rate = 4_000_000
        for picture in frames.pixels.numpy():
            file.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        file.mux(stream.encode())
