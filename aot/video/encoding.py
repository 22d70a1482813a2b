"""Writing an mp4 with PyAV: H.264 where it is there, BT.709, and metadata where ComfyUI's page looks for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType

import av
import numpy as np

from ..files import whole_file

CODECS = ("libx264", "libopenh264", "mpeg4")
"""Encoders, the first that PyAV was built with is used. Browsers play all but the last, which is always there."""

_BT709, _LIMITED = 1, 1
"""Numbers of ITU-T H.273 for matrix, primaries and transfer of high definition, and FFmpeg's for values 16 to 235."""

_BIT_RATE = 8_000_000
"""Bits a second of encoders that are not told a quality."""


def encode_mp4(
    pictures: Iterable[tuple[np.ndarray, int]],
    path: Path,
    rate: Fraction,
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Write pictures as an mp4, completely or not at all.

    The index is at the front of the file, so that it plays while it loads.

    Args:
        pictures: one or more, each ((H, W, 3) uint8 RGB, frames that it lasts); H and W even, the same for all.
        path: of the file, in a folder that exists.
        rate: frames a second.
        metadata: texts by name, for players and for ComfyUI, which reads "workflow" and "prompt".

    Raises:
        InputError: the file cannot be written.
    """
    codec = next(name for name in CODECS if name in av.codecs_available)
    options = {"movflags": "use_metadata_tags+faststart"}
    with whole_file(path) as part, av.open(str(part), "w", format="mp4", options=options) as file:
        file.metadata.update(metadata)
        stream = file.add_stream(codec, rate=rate, options={"crf": "18"} if codec == "libx264" else {})
        stream.pix_fmt, stream.bit_rate = "yuv420p", 0 if codec == "libx264" else _BIT_RATE
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        start = 0
        for pixels, lasts in pictures:
            if start == 0:
                stream.height, stream.width = pixels.shape[:2]
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            frame.time_base = 1 / rate
            for number in range(start, start + lasts):
                frame.pts = number
                file.mux(stream.encode(frame))
            start += lasts
        file.mux(stream.encode())
