"""Opening a video file: the formats that are read, and the track that a player shows."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..names import require_name

FORMATS = (
    "aac,aiff,apng,asf,av1,avi,bmp_pipe,dv,flac,flv,gif,gxf,h263,h264,hevc,ivf,jpeg_pipe,m4v,matroska,mjpeg,mov,mp3,"
    "mpeg,mpegts,mpegvideo,mxf,nut,obu,ogg,png_pipe,rm,tiff_pipe,vc1,vvc,wav,webp_pipe,wtv,yuv4mpegpipe"
)
"""FFmpeg's names of the formats that are read. Each holds its own frames: no playlist, no pattern of names, no script
is among them, so that no file opens another. Those of sound are there so that they can be told from damaged video."""

PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

_REORDER_BY_RULE = frozenset({"mpeg1video", "mpeg2video"})
"""Codecs of which FFmpeg can work out the times that an MPEG stream leaves out."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def require_file(path: str | os.PathLike[str]) -> Path:
    """The absolute path of a file that has content.

    Args:
        path: of the file.

    Raises:
        InputError: it is a URL, a folder, a pipe or a device, empty, or not there, or no file can have its name.
    """
    name = require_name(os.fspath(path), "The video")
    if _URL.match(name):
        raise InputError(f"{name} is a URL: download the video, and give the path of the file")
    file = Path(name).absolute()
    try:
        status = file.stat()
    except OSError:
        raise InputError(f"there is no file {file.name}: check its name and folder") from None
    if stat.S_ISDIR(status.st_mode):
        pictures = sum(each.suffix.lower() in PICTURES for each in file.iterdir())
        images = f" of {pictures} pictures: make a video file of them" if pictures else ": name a video file in it"
        raise InputError(f"{file.name} is a folder{images}")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{file.name} is a pipe or a device, which cannot be read twice: write it to a file first")
    if status.st_size == 0:
        raise InputError(f"{file.name} is empty (0 bytes): copy or download it again")
    return file


def open_container(file: Path) -> Any:
    """Open a file with PyAV. Nothing else is opened, whatever the file says.

    Presentation times that a file does not have stay unknown: FFmpeg would invent them in the order of decoding, which
    is wrong where frames are reordered.

    Args:
        file: absolute.

    Returns:
        An av.container.InputContainer.

    Raises:
        av.error.FFmpegError: the file is in no format that is read.
    """
    container = _open(file, "-genpts")
    if has_worked_out_times(container):
        container.close()
        return _open(file, "+genpts")
    return container


def has_worked_out_times(container: Any) -> bool:
    """Whether the times of a file's frames are worked out by FFmpeg, from the file's start on. It cannot be sought in.

    Args:
        container: an av.container.InputContainer.
    """
    if container.format.name not in ("mpeg", "mpegvideo"):
        return False
    track = video_track(container)
    return track is not None and track.codec_context is not None and track.codec_context.name in _REORDER_BY_RULE


@contextmanager
def open_track(file: Path, threads: str) -> Generator[tuple[Any, Any], None, None]:
    """A file and its video track, for decoding.

    Args:
        file: absolute, with a video track.
        threads: PyAV's thread type.

    Yields:
        An av.container.InputContainer, and an av.video.stream.VideoStream.
    """
    with open_container(file) as container:
        track: Any = video_track(container)
        track.thread_type = threads
        yield container, track


def _open(file: Path, flags: str) -> Any:
    import av

    # If streams got the options too, PyAV before 17.1 would crash on a file without a header, whose streams are found
    # later.
    options = {"protocol_whitelist": "file", "format_whitelist": FORMATS, "fflags": flags}
    return av.open(str(file), metadata_errors="replace", container_options=options)


def video_track(container: Any) -> Any | None:
    """The video track that a player shows, or None.

    A cover or a preview is not a video. A track of many frames goes before a still picture, the default track before
    others, and a large picture before a small one.

    Args:
        container: an av.container.InputContainer.

    Returns:
        An av.video.stream.VideoStream.
    """
    return max(container.streams.video, key=_rank, default=None)


def _rank(track: Any) -> tuple[bool, ...] | tuple[int, ...]:
    from av.stream import Disposition

    if track.codec_context is None:
        return (False,)  # a codec that FFmpeg does not know
    disposition = track.disposition
    still = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
    area = (track.width or 0) * (track.height or 0)
    return True, not disposition & still, track.frames != 1, bool(disposition & Disposition.default), area, -track.index
