"""Videos of numbered frames: each shows its number as a barcode, so that a test can say which frame it got."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import av
import numpy as np
import torch

BITS = 10
HEIGHT, WIDTH = 64, 160
RATE = 25


def barcode(number: int) -> np.ndarray:
    """(64, 160, 3) uint8: a bright column for each bit that is set, the lowest on the left."""
    set_bits = [number >> bit & 1 for bit in range(BITS)]
    row = np.repeat(np.array(set_bits, np.uint8) * 235, WIDTH // BITS)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def number_of(picture: np.ndarray | torch.Tensor) -> int:
    """The number that a picture of any size shows."""
    picture = np.asarray(picture)
    height, column = picture.shape[0], picture.shape[1] / BITS
    middles = (
        picture[height // 4 : -height // 4, int(column * (bit + 0.3)) : int(column * (bit + 0.7))]
        for bit in range(BITS)
    )
    return sum(int(middle.mean() > 110) << bit for bit, middle in enumerate(middles))


def numbers_of(pictures: Iterable[Any]) -> list[int]:
    """The numbers that pictures show."""
    return [number_of(picture) for picture in pictures]


def write_numbered(
    path: Path,
    codec: str = "libx264",
    *,
    numbers: Iterable[int] = range(60),
    pixels: str = "yuv420p",
    container: str | None = None,
    reordered: int = 2,
    group: int = 12,
    start: int = 0,
    options: Mapping[str, str] = MappingProxyType({}),
    prepare: Callable[[Any], None] = lambda stream: None,
    draw: Callable[[int], np.ndarray] = barcode,
) -> Path:
    """A video of 25 frames a second.

    Args:
        path: of the file.
        codec: encodes.
        numbers: of the frames.
        pixels: FFmpeg's name of their format.
        container: FFmpeg's name of the file's format; None takes that of the path's ending.
        reordered: the most B-frames in a row.
        group: frames from one keyframe to the next.
        start: of the first frame, in frames.
        options: of the codec.
        prepare: changes the stream before the first frame.
        draw: makes the picture of a number, (64, 160, 3) uint8.
    """
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=RATE, options=dict(options))
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, pixels
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = group, reordered
        prepare(stream)
        for at, number in enumerate(numbers, start):
            frame = av.VideoFrame.from_ndarray(draw(number), "rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = at, Fraction(1, RATE)
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Give an mp4's only track the display matrix (a, b, c, d), for x' = a x + c y and y' = b x + d y."""
    a, b, c, d = (value << 16 for value in matrix)
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 4 + 20 + 16
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    return path
