"""Whether a file lacks its end: what its header promises, and marks that a whole file has at its end."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

CUT_SHORT = 0.95
"""A file shorter than this share of the duration in its header is cut short; above it, the header is rounded."""

_COUNTED = ("avi", "ivf")
"""Formats whose header counts the frames. FFmpeg takes an AVI's duration from its index, which a cut file lacks."""

_OF_TRACK = ("mov,", "mxf")
"""Formats whose header has a duration for the track. Elsewhere FFmpeg takes it from what is there."""

_OF_FILE = ("matroska,", "flv")
"""Formats whose header has a duration for the file."""

_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def promised_seconds(container: Any, track: Any) -> float:
    """The duration in the header, in seconds; 0 if there is none.

    Args:
        container: of PyAV.
        track: its video track.
    """
    import av

    if container.format.name in _COUNTED and track.average_rate:
        return float(track.frames / track.average_rate)
    if container.format.name.startswith(_OF_TRACK):
        return float((track.duration or 0) * track.time_base)
    if container.format.name.startswith(_OF_FILE):
        return (container.duration or 0) / av.time_base
    return 0.0


def is_partial(file: Path, container_format: str) -> bool:
    """Whether the end of a file shows that more belonged to it.

    Args:
        file: absolute.
        container_format: FFmpeg's name of the format.
    """
    size = file.stat().st_size
    with file.open("rb") as content:
        if container_format == "mpegts":
            return size % _packet_size(content.read(5 * 208)) != 0
        if container_format == "gif":
            content.seek(max(0, size - 1024))
            return not content.read().rstrip(b"\0").endswith(b";")
        if container_format == "asf":
            return size < _asf_size(content.read(65536))
    return False


def _packet_size(start: bytes) -> int:
    """Bytes of a packet of a transport stream: it begins with a sync byte, after four of time in a disc's file."""
    sizes = {188: 0, 192: 4, 204: 0}
    matching = (size for size, first in sizes.items() if start[first::size][:5].strip(b"G") == b"")
    return next(matching, 1)


def _asf_size(start: bytes) -> int:
    """Bytes that the header of an ASF file says it has; 0 if it does not say."""
    at = start.find(_ASF_PROPERTIES)
    return struct.unpack_from("<Q", start, at + 40)[0] if 0 <= at <= len(start) - 48 else 0
