"""A video file for benchmarks that begin with one."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ..files import whole_file

RATE = 25
"""Frames a second."""

_PREFERRED, _ALWAYS_THERE = "libx264", "mpeg4"


def write_clip(path: Path, frames: int, height: int, width: int) -> None:
    """Write a video of drifting colours.

    Args:
        path: of the file.
        frames: in it, 25 a second.
        height: in pixels, even.
        width: in pixels, even.

    Raises:
        InputError: it cannot be written.
    """
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    colours = np.arange(3)
    waves = 6 * (x[..., None] / width * (1 + colours) + y[..., None] / height)
    sines, cosines = 127.5 * np.sin(waves), 127.5 * np.cos(waves)
    codec = _PREFERRED if _PREFERRED in av.codecs_available else _ALWAYS_THERE
    with whole_file(path) as part, av.open(str(part), "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = Fraction(1, RATE)
        for i in range(frames):
            drift = (0.05 * i * (colours + 1)).astype(np.float32)
            picture = 127.5 + sines * np.cos(drift) + cosines * np.sin(drift)
            image = av.VideoFrame.from_ndarray(picture.clip(0, 255).astype(np.uint8), "rgb24")
            image.pts = i
            container.mux(stream.encode(image))
        container.mux(stream.encode())
