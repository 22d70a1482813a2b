"""Video files made on the spot with PyAV."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path, pictures: np.ndarray, codec: str = "libx264", milliseconds: Sequence[int] | None = None
) -> Path:
    """A video of uint8 pictures (frames, height, width, 3), at 10 fps where no times are given."""
    times = [100 * i for i in range(len(pictures))] if milliseconds is None else milliseconds
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for picture, pts in zip(pictures, times, strict=True):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = pts, Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def write_clip(path: Path, frames: int = 10, codec: str = "libx264", milliseconds: Sequence[int] | None = None) -> Path:
    """A 96x64 video: frame i is grey of brightness 20 + 8 * i with a white left half; by default at 10 fps."""
    count = frames if milliseconds is None else len(milliseconds)
    brightness = (20 + 8 * np.arange(count)).astype(np.uint8)
    pictures = np.broadcast_to(brightness[:, None, None, None], (count, 64, 96, 3)).copy()
    pictures[:, :, :48] = 255
    return write_video(path, pictures, codec, milliseconds)


def write_at_25(path: Path, codec: str, pixels: str = "yuv420p") -> Path:
    """20 frames of 96x64 at 25 fps, which broadcasting's formats want: frame i is grey of brightness 20 + 8 * i."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = 64, 96, pixels
        for i in range(20):
            frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), 20 + 8 * i, np.uint8), "rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame.reformat(format=pixels)))
        container.mux(stream.encode())
    return path


def write_audio(path: Path) -> Path:
    """A second of silence, and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(16):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
