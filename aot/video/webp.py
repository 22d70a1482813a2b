"""Animated WebP, which FFmpeg does not read: Pillow does."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UnreadableVideo

_STILL = 100
"""Milliseconds that a frame lasts for which the file says 0, as in browsers."""


def is_webp(file: Path) -> bool:
    """Whether a file's content is WebP.

    Args:
        file: absolute.
    """
    try:
        with file.open("rb") as content:
            start = content.read(12)
    except OSError:
        return False  # which PyAV will say
    return start[:4] == b"RIFF" and start[8:] == b"WEBP"


def read_size(file: Path) -> tuple[int, int]:
    """Height and width of a file's pictures, in pixels.

    Args:
        file: absolute.

    Raises:
        UnreadableVideo: it is cut short or damaged.
    """
    with closing(_pictures(file)) as pictures:
        first = next(pictures)
        return first.height, first.width


def read_times(file: Path) -> tuple[list[float], float]:
    """When each frame of a file starts, and when the last ends, in seconds.

    Args:
        file: absolute.

    Raises:
        UnreadableVideo: it is cut short or damaged.
    """
    starts, milliseconds = [], 0
    for picture in _pictures(file):
        starts.append(milliseconds / 1000)
        milliseconds += picture.info.get("duration", 0) or _STILL
    return starts, milliseconds / 1000


def decode(file: Path) -> Generator[Any, None, None]:
    """Every frame in order.

    Args:
        file: absolute.

    Yields:
        An av.VideoFrame, rgb24.

    Raises:
        UnreadableVideo: it is cut short or damaged.
    """
    import av

    for picture in _pictures(file):
        yield av.VideoFrame.from_ndarray(np.asarray(picture.convert("RGB")), format="rgb24")


def _pictures(file: Path) -> Generator[Any, None, None]:
    from PIL import Image

    try:
        with Image.open(file, formats=("WEBP",)) as picture:
            for number in range(getattr(picture, "n_frames", 1)):
                picture.seek(number)
                picture.load()
                yield picture
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise UnreadableVideo(
            f"{file.name} cannot be read as WebP ({error}): it may be cut short or damaged; copy or download it again"
        ) from None
